"""Risk's decision on orders that exist: cancel, cancel all, amend. Whose they are is known from the live orders."""

from __future__ import annotations

from typing import Final

from tradeengine.core.ids import SHARD_SHIFT, SHARDS_MAX
from tradeengine.core.records import (
    ACCOUNT_ID_FIRST_USER,
    ACCOUNT_ID_NONE,
    SYMBOL_ID_ALL,
    CommandFlag,
    Reason,
)
from tradeengine.core.risk_checks import check_notional, collar_price, cost_units
from tradeengine.core.risk_layout import (
    C_ACCOUNT,
    C_FLAGS,
    C_HOLD,
    C_KINDS,
    C_ORDER_ID,
    C_PRICE,
    C_QUANTITY,
    C_SIDE,
    C_STOP_PRICE,
    C_SYMBOL,
    LOW_32,
    get_byte,
    get_half,
)
from tradeengine.core.risk_limits import check_amended, take_two_factor
from tradeengine.core.risk_orders import find_order, order_account, order_fee_ppm, order_price, order_symbol, set_hold
from tradeengine.core.risk_outbox import (
    DONE,
    FOR_ADMINISTRATORS,
    FOR_CANCELS,
    FOR_ORDERS,
    Outbox,
    check_room,
    forward,
    forward_to_all,
)
from tradeengine.core.risk_place import available_units
from tradeengine.core.risk_state import (
    ORDER_ENDED,
    ORDER_EXTRA,
    ORDER_FILLED,
    ORDER_HOLD,
    ORDER_PRICE,
    ORDER_PRICED,
    ORDER_QUANTITY,
    ORDER_SELL,
    ORDER_STOP,
    ORDER_STOP_PRICE,
    ORDER_TRIGGERED,
    ORDER_WHERE,
    SYMBOL_BASE,
    SYMBOL_LOT_UNITS,
    SYMBOL_LOTS_MAX,
    SYMBOL_LOTS_MIN,
    SYMBOL_PRICE_TICKS_MAX,
    SYMBOL_QUOTE,
    SYMBOL_SHARD,
    Int64Array,
    RiskState,
    kernel,
    leaf,
)
from tradeengine.core.risk_symbols import is_listed
from tradeengine.core.risk_worth import amended_content, note_amend

_BY_ADMINISTRATOR: Final = int(CommandFlag.BY_ADMINISTRATOR)
_INVALID_REQUEST: Final = int(Reason.INVALID_REQUEST)
_INVALID_COMBINATION: Final = int(Reason.INVALID_COMBINATION)
_OUT_OF_RANGE: Final = int(Reason.NUMBER_OUT_OF_RANGE)
_SYMBOL_NOT_FOUND: Final = int(Reason.SYMBOL_NOT_FOUND)
_ORDER_NOT_FOUND: Final = int(Reason.ORDER_NOT_FOUND)
_NOT_ABOVE_FILLED: Final = int(Reason.QUANTITY_NOT_ABOVE_FILLED)
_INSUFFICIENT: Final = int(Reason.INSUFFICIENT_BALANCE)
_BESIDE_SYMBOL: Final = LOW_32 if C_SYMBOL[1] else ~LOW_32
"""The other half of the symbol's word: a mask that fits a signed word, compiled and not."""


@leaf
def cancel(risk: RiskState, outbox: Outbox, command: Int64Array) -> int:
    """Answer a CANCEL: forwarded to the order's shard, or a Reason."""
    row = _own_order(risk, command)
    if row < 0:
        return _ORDER_NOT_FOUND
    shard = _name_symbol(risk, command, row)
    reason = check_room(outbox, shard, FOR_CANCELS)
    if reason:
        return reason
    command[C_HOLD] = 0  # the matcher's refusal gives back what a command brought along
    forward(outbox, command, shard)
    return DONE


@kernel
def cancel_all(risk: RiskState, outbox: Outbox, command: Int64Array, admin: bool, taken: int) -> int:
    """Answer a CANCEL_ALL: forwarded to the symbol's shard, or to all, or a Reason.

    For everyone's orders (account 0) and with ``BY_ADMINISTRATOR`` it must come from a ring of administrators.
    """
    by_administrator = get_byte(command[C_KINDS], C_FLAGS) & _BY_ADMINISTRATOR
    if by_administrator and not admin:
        return _INVALID_REQUEST
    purpose = FOR_ADMINISTRATORS if by_administrator else FOR_CANCELS
    account_id = get_half(command[C_ACCOUNT[0]], C_ACCOUNT)
    if account_id == ACCOUNT_ID_NONE:
        if not admin:
            return _INVALID_REQUEST
    elif not ACCOUNT_ID_FIRST_USER <= account_id < len(risk.open_orders):
        return _INVALID_REQUEST
    symbol_id = get_half(command[C_SYMBOL[0]], C_SYMBOL)
    if symbol_id == SYMBOL_ID_ALL:
        return forward_to_all(risk, outbox, command, purpose, taken)
    if not is_listed(risk, symbol_id):
        return _SYMBOL_NOT_FOUND
    shard = risk.symbols[symbol_id, SYMBOL_SHARD]
    reason = check_room(outbox, shard, purpose)
    if reason:
        return reason
    forward(outbox, command, shard)
    return DONE


@kernel
def amend(risk: RiskState, outbox: Outbox, command: Int64Array) -> int:
    """Answer an AMEND: forwarded with what was taken in addition for it in ``hold_units``, or a Reason.

    The matcher computes the need anew and gives back what is too much, all of it when it refuses.
    """
    two_factor = take_two_factor(command)
    row = _own_order(risk, command)
    if row < 0 or risk.orders[row, ORDER_WHERE] & (ORDER_PRICED | ORDER_STOP) == 0:
        return _ORDER_NOT_FOUND  # a market order is over before anyone can amend it
    shard = _name_symbol(risk, command, row)
    reason = check_room(outbox, shard, FOR_ORDERS)
    if reason:
        return reason
    reason = _check_amend(risk, command, row)
    if reason:
        return reason
    quantity_lots, price_ticks = amended_content(risk, risk.orders[row], command)
    reason = check_amended(risk, command, row, quantity_lots, price_ticks, two_factor)
    if reason:
        return reason
    extra_units = _size_extra(risk, command, row)
    if extra_units < 0:
        return _INSUFFICIENT
    command[C_HOLD] = extra_units
    set_hold(risk, row, risk.orders[row, ORDER_HOLD], risk.orders[row, ORDER_EXTRA] + extra_units)
    note_amend(risk, row, quantity_lots, price_ticks)
    forward(outbox, command, shard)
    return DONE


@leaf
def _own_order(risk: RiskState, command: Int64Array) -> int:
    """Row of the order that a command names, if it is live and its account's; else -1."""
    row = find_order(risk.orders, command[C_ORDER_ID]) if command[C_ORDER_ID] > 0 else -1
    if row < 0:
        return -1
    where = risk.orders[row, ORDER_WHERE]
    if where & ORDER_ENDED or order_account(where) != get_half(command[C_ACCOUNT[0]], C_ACCOUNT):
        return -1
    return row


@leaf
def _name_symbol(risk: RiskState, command: Int64Array, row: int) -> int:
    """Write the order's symbol and side into the command; give its shard."""
    where = risk.orders[row, ORDER_WHERE]
    command[C_SYMBOL[0]] &= _BESIDE_SYMBOL
    command[C_SYMBOL[0]] |= order_symbol(where) << C_SYMBOL[1]
    command[C_KINDS] &= ~(0xFF << C_SIDE[1])
    command[C_KINDS] |= (1 if where & ORDER_SELL else 0) << C_SIDE[1]
    return risk.orders[row, 0] >> SHARD_SHIFT & (SHARDS_MAX - 1)  # type: ignore[no-any-return]


@kernel
def _check_amend(risk: RiskState, command: Int64Array, row: int) -> int:
    order = risk.orders[row]
    where = order[ORDER_WHERE]
    symbol = risk.symbols[order_symbol(where)]
    quantity, price, stop = command[C_QUANTITY], command[C_PRICE], command[C_STOP_PRICE]
    if quantity == 0 and price == 0 and stop == 0:
        return _INVALID_REQUEST
    if price != 0 and not where & ORDER_PRICED:
        return _INVALID_COMBINATION
    if stop != 0 and (not where & ORDER_STOP or where & ORDER_TRIGGERED):
        return _INVALID_COMBINATION
    quantity = quantity if quantity != 0 else order[ORDER_QUANTITY]
    price = price if price != 0 else order_price(order[ORDER_PRICE])
    stop = stop if stop != 0 else order[ORDER_STOP_PRICE]
    price_max = symbol[SYMBOL_PRICE_TICKS_MAX]
    if not symbol[SYMBOL_LOTS_MIN] <= quantity <= symbol[SYMBOL_LOTS_MAX]:
        return _OUT_OF_RANGE
    if not 0 <= price <= price_max or not 0 <= stop <= price_max:
        return _OUT_OF_RANGE
    if quantity <= order[ORDER_FILLED]:
        return _NOT_ABOVE_FILLED
    return check_notional(symbol, price if where & ORDER_PRICED else stop, quantity)


@kernel
def _size_extra(risk: RiskState, command: Int64Array, row: int) -> int:
    """Say what a checked amend needs in addition; -1 when the account has less.

    Fills that are on their way are paid at the present price, so the higher of both prices is asked for when there is
    enough, and the matcher gives back the difference. Earlier amends on their way may still be refused: they count as
    paid only when there is not enough otherwise.
    """
    order = risk.orders[row]
    where = order[ORDER_WHERE]
    symbol = risk.symbols[order_symbol(where)]
    account_id = order_account(where)
    quantity_lots = command[C_QUANTITY] if command[C_QUANTITY] != 0 else order[ORDER_QUANTITY]
    rest_lots = quantity_lots - order[ORDER_FILLED]
    if where & ORDER_SELL:
        available = available_units(risk, account_id, symbol[SYMBOL_BASE])
        need_units = rest_lots * symbol[SYMBOL_LOT_UNITS]
        most_units = need_units
    else:
        available = available_units(risk, account_id, symbol[SYMBOL_QUOTE])
        ppm = order_fee_ppm(order[ORDER_PRICE])
        if where & ORDER_PRICED:
            present = order_price(order[ORDER_PRICE])
            price = command[C_PRICE] if command[C_PRICE] != 0 else present
            need_units = cost_units(symbol, price, rest_lots, ppm)
            dearest = max(price, min(present, symbol[SYMBOL_PRICE_TICKS_MAX]))
            most_units = cost_units(symbol, dearest, rest_lots, ppm)
        else:
            stop = command[C_STOP_PRICE] if command[C_STOP_PRICE] != 0 else order[ORDER_STOP_PRICE]
            need_units = cost_units(symbol, stop, rest_lots, ppm)
            most_units = cost_units(symbol, collar_price(symbol, stop), rest_lots, ppm)
    if need_units - order[ORDER_HOLD] - order[ORDER_EXTRA] > available:
        return -1
    return min(available, max(most_units - order[ORDER_HOLD], 0))  # type: ignore[no-any-return]
