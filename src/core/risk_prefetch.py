"""Asking for memory before it is needed: what the commands and events of a batch will touch.

Accounts, orders and client order ids lie anywhere in memory that is far larger than a cache, and each was waited for
in turn. A batch tells which come next. Rule: nothing here decides anything; a wrong guess costs a cache line.
"""

from __future__ import annotations

from typing import Final

from tradeengine.core.book_prefetch import prefetch
from tradeengine.core.records import CommandKind, EventKind, Side
from tradeengine.core.risk_clients import hash_client_id, is_named
from tradeengine.core.risk_layout import (
    C_ACCOUNT,
    C_CLIENT_ID,
    C_KIND,
    C_KINDS,
    C_ORDER_ID,
    C_SIDE,
    C_SYMBOL,
    E_ACCOUNT,
    E_KIND,
    E_KINDS,
    E_MAKER_ACCOUNT,
    E_MAKER_ORDER_ID,
    E_ORDER_ID,
    E_SYMBOL,
    get_byte,
    get_half,
)
from tradeengine.core.risk_orders import order_home
from tradeengine.core.risk_state import (
    ORDER_WORDS,
    SYMBOL_BASE,
    SYMBOL_QUOTE,
    WORTH_WORDS,
    Int64Array,
    RiskState,
    leaf,
)

AHEAD: Final = 4
"""Commands or events ahead at which their memory is asked for."""
_PLACE: Final = int(CommandKind.PLACE)
_CANCEL: Final = int(CommandKind.CANCEL)
_AMEND: Final = int(CommandKind.AMEND)
_TRADED: Final = int(EventKind.TRADED)
_SELL: Final = int(Side.SELL)


@leaf
def look_ahead_at_command(risk: RiskState, commands: Int64Array, row: int) -> None:
    """Ask for what command ``row`` will touch, if there is one."""
    if row >= len(commands):
        return
    command = commands[row]
    kind = get_byte(command[C_KINDS], C_KIND)
    if kind == _PLACE:
        account_id = get_half(command[C_ACCOUNT[0]], C_ACCOUNT)
        symbol_id = get_half(command[C_SYMBOL[0]], C_SYMBOL)
        if 0 <= account_id < len(risk.open_orders) and 0 <= symbol_id < len(risk.symbols):
            symbol = risk.symbols[symbol_id]
            is_sell = get_byte(command[C_KINDS], C_SIDE) == _SELL
            _ask_for_balance(risk, account_id, symbol[SYMBOL_BASE] if is_sell else symbol[SYMBOL_QUOTE])
            _ask_for_worth(risk, account_id, symbol[SYMBOL_QUOTE])
            if is_named(command, C_CLIENT_ID):
                hashed, _ = hash_client_id(account_id, command, C_CLIENT_ID)
                prefetch(risk.client_index, hashed & (len(risk.client_index) - 1))
    elif kind in (_CANCEL, _AMEND):
        _ask_for_order(risk, command[C_ORDER_ID])


@leaf
def look_ahead_at_order_id(risk: RiskState, order_id: int) -> None:
    """Ask for the row of an order that may come soon: within a batch a shard's order ids mostly follow each other."""
    _ask_for_order(risk, order_id + AHEAD)


@leaf
def look_ahead_at_event(risk: RiskState, events: Int64Array, row: int) -> None:
    """Ask for what event ``row`` will touch, if there is one."""
    if row >= len(events):
        return
    event = events[row]
    _ask_for_order(risk, event[E_ORDER_ID])
    if get_byte(event[E_KINDS], E_KIND) == _TRADED:
        _ask_for_order(risk, event[E_MAKER_ORDER_ID])
        quote = risk.symbols[get_half(event[E_SYMBOL[0]], E_SYMBOL), SYMBOL_QUOTE]
        for account_id in (
            get_half(event[E_ACCOUNT[0]], E_ACCOUNT),
            get_half(event[E_MAKER_ACCOUNT[0]], E_MAKER_ACCOUNT),
        ):
            _ask_for_balance(risk, account_id, quote)
            _ask_for_worth(risk, account_id, quote)


@leaf
def _ask_for_balance(risk: RiskState, account_id: int, asset_id: int) -> None:
    prefetch(risk.balances, (account_id * risk.balances.shape[1] + asset_id) * 2)


@leaf
def _ask_for_worth(risk: RiskState, account_id: int, asset_id: int) -> None:
    prefetch(risk.worth, (asset_id * risk.worth.shape[1] + account_id) * WORTH_WORDS)


@leaf
def _ask_for_order(risk: RiskState, order_id: int) -> None:
    prefetch(risk.orders, order_home(order_id, len(risk.orders) - 1) * ORDER_WORDS)
