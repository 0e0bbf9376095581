"""Risk's decision on what is no trading: symbols, trading states, deposits and withdrawals."""

from __future__ import annotations

from typing import Final

from tradeengine.core.money import UNITS_MAX
from tradeengine.core.records import (
    ACCOUNT_ID_EXCHANGE,
    ACCOUNT_ID_FIRST_USER,
    ACCOUNT_ID_OUTSIDE,
    SYMBOL_ID_ALL,
    CommandKind,
    Reason,
    TradingState,
)
from tradeengine.core.risk_checks import check_symbol
from tradeengine.core.risk_layout import (
    C_ACCOUNT,
    C_KIND,
    C_KINDS,
    C_STATE,
    C_SYMBOL,
    F_AMOUNT,
    F_ASSET,
    F_NUMBER,
    Y_BASE,
    Y_LOT_UNITS,
    Y_QUOTE,
    Y_SHARD,
    Y_TICK_LOT_UNITS,
    get_byte,
    get_half,
)
from tradeengine.core.risk_outbox import (
    DONE,
    FOR_ADMINISTRATORS,
    FUNDED,
    FUNDING_REFUSED,
    Outbox,
    check_room,
    forward,
    forward_to_all,
)
from tradeengine.core.risk_place import available_units
from tradeengine.core.risk_state import (
    FUNDING_NUMBER,
    FUNDING_SKIPPED_COUNT,
    SHARD_COUNT,
    SYMBOL_BASE,
    SYMBOL_LOT_UNITS,
    SYMBOL_QUOTE,
    SYMBOL_SHARD,
    SYMBOL_TICK_LOT_UNITS,
    TOTAL,
    Int64Array,
    RiskState,
    kernel,
    mark_dirty,
)
from tradeengine.core.risk_symbols import is_listed, set_symbol

_LIST_SYMBOL: Final = int(CommandKind.LIST_SYMBOL)
_STATE_MAX: Final = int(max(TradingState))
_INVALID_REQUEST: Final = int(Reason.INVALID_REQUEST)
_OUT_OF_RANGE: Final = int(Reason.NUMBER_OUT_OF_RANGE)
_SYMBOL_NOT_FOUND: Final = int(Reason.SYMBOL_NOT_FOUND)
_SYMBOL_EXISTS: Final = int(Reason.SYMBOL_EXISTS)
_INSUFFICIENT: Final = int(Reason.INSUFFICIENT_BALANCE)


@kernel
def change_symbol(risk: RiskState, outbox: Outbox, command: Int64Array) -> int:
    """Answer a LIST_SYMBOL or SET_PARAMETERS: forwarded to the symbol's shard and taken over, or a Reason."""
    symbol_id = get_half(command[C_SYMBOL[0]], C_SYMBOL)
    state = get_byte(command[C_KINDS], C_STATE)
    listing = get_byte(command[C_KINDS], C_KIND) == _LIST_SYMBOL
    if not 0 <= symbol_id < len(risk.symbols) or (listing and not 1 <= state <= _STATE_MAX):
        return _INVALID_REQUEST
    if listing == is_listed(risk, symbol_id):
        return _SYMBOL_EXISTS if listing else _SYMBOL_NOT_FOUND
    reason = check_symbol(command, risk.balances.shape[1])
    if reason:
        return reason
    shard = get_half(command[Y_SHARD[0]], Y_SHARD)
    if listing and not 0 <= shard < risk.scalars[SHARD_COUNT]:
        return _INVALID_REQUEST
    if not listing and not _keeps_units(risk.symbols[symbol_id], command):
        return _INVALID_REQUEST
    reason = check_room(outbox, shard, FOR_ADMINISTRATORS)
    if reason:
        return reason
    forward(outbox, command, shard)
    set_symbol(risk, command)
    return DONE


@kernel
def set_trading_state(risk: RiskState, outbox: Outbox, command: Int64Array, taken: int) -> int:
    """Answer a SET_TRADING_STATE: forwarded to the symbol's shard, or to all, or a Reason."""
    if not 1 <= get_byte(command[C_KINDS], C_STATE) <= _STATE_MAX:
        return _INVALID_REQUEST
    symbol_id = get_half(command[C_SYMBOL[0]], C_SYMBOL)
    if symbol_id == SYMBOL_ID_ALL:
        return forward_to_all(risk, outbox, command, FOR_ADMINISTRATORS, taken)
    if not is_listed(risk, symbol_id):
        return _SYMBOL_NOT_FOUND
    shard = risk.symbols[symbol_id, SYMBOL_SHARD]
    reason = check_room(outbox, shard, FOR_ADMINISTRATORS)
    if reason:
        return reason
    forward(outbox, command, shard)
    return DONE


@kernel
def fund(risk: RiskState, command: Int64Array) -> int:
    """Answer a FUND: FUNDED, FUNDING_REFUSED less the reason, or DONE for a number that was applied before.

    Numbers are gapless. One that skips others is refused as a request and uses up no number: whoever sends them has
    lost its place.
    """
    number = command[F_NUMBER]
    if number <= risk.scalars[FUNDING_NUMBER]:
        risk.scalars[FUNDING_SKIPPED_COUNT] += 1
        return DONE
    if number != risk.scalars[FUNDING_NUMBER] + 1:
        return _INVALID_REQUEST
    risk.scalars[FUNDING_NUMBER] = number
    account_id = get_half(command[C_ACCOUNT[0]], C_ACCOUNT)
    asset_id = get_half(command[F_ASSET[0]], F_ASSET)
    amount_units = command[F_AMOUNT]
    is_account = ACCOUNT_ID_FIRST_USER <= account_id < len(risk.open_orders) or account_id == ACCOUNT_ID_EXCHANGE
    if not is_account or not 0 <= asset_id < risk.balances.shape[1] or amount_units == 0:
        return FUNDING_REFUSED - _INVALID_REQUEST
    if not -UNITS_MAX <= amount_units <= UNITS_MAX:
        return FUNDING_REFUSED - _OUT_OF_RANGE
    # The outside's balance is minus what is inside: this keeps the supply, hence every sum of balances, in range.
    if amount_units > UNITS_MAX + risk.balances[ACCOUNT_ID_OUTSIDE, asset_id, TOTAL]:
        return FUNDING_REFUSED - _OUT_OF_RANGE
    if -amount_units > available_units(risk, account_id, asset_id):
        return FUNDING_REFUSED - _INSUFFICIENT
    apply_funding(risk, account_id, asset_id, amount_units)
    return FUNDED


@kernel
def apply_funding(risk: RiskState, account_id: int, asset_id: int, amount_units: int) -> None:
    """Credit a deposit, or debit a withdrawal (below 0), against the outside."""
    risk.balances[account_id, asset_id, TOTAL] += amount_units
    risk.balances[ACCOUNT_ID_OUTSIDE, asset_id, TOTAL] -= amount_units
    mark_dirty(risk, account_id)
    mark_dirty(risk, ACCOUNT_ID_OUTSIDE)


@kernel
def _keeps_units(symbol: Int64Array, command: Int64Array) -> bool:
    """Whether new parameters leave alone what every number on record depends on."""
    if get_half(command[Y_SHARD[0]], Y_SHARD) != symbol[SYMBOL_SHARD]:
        return False
    if get_half(command[Y_BASE[0]], Y_BASE) != symbol[SYMBOL_BASE]:
        return False
    if get_half(command[Y_QUOTE[0]], Y_QUOTE) != symbol[SYMBOL_QUOTE]:
        return False
    if command[Y_TICK_LOT_UNITS] != symbol[SYMBOL_TICK_LOT_UNITS]:
        return False
    return command[Y_LOT_UNITS] == symbol[SYMBOL_LOT_UNITS]  # type: ignore[no-any-return]
