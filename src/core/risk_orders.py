"""Risk's live orders: found by order id, inserted when forwarded, removed when they end.

Open addressing with linear probing over one array of 64-byte rows, so that one look-up touches one cache line; a
removal shifts later rows back, so that no tombstones pile up however long the engine runs.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tradeengine.core.risk_state import (
    ACCOUNT_BITS,
    HELD,
    ORDER_COUNT,
    ORDER_ENDED,
    ORDER_EXTRA,
    ORDER_HOLD,
    ORDER_ID,
    ORDER_SELL,
    ORDER_WHERE,
    ORDER_WORDS,
    PRICE_BITS,
    SYMBOL_BASE,
    SYMBOL_BITS,
    SYMBOL_QUOTE,
    SYMBOL_SHIFT,
    Int64Array,
    RiskState,
    leaf,
    mark_dirty,
)

_FACTOR: Final = np.uint64(0x9E37_79B9_7F4A_7C15)  # 2**64 divided by the golden ratio; unsigned, because it wraps
_HALF: Final = np.uint64(32)
_ACCOUNT_MASK: Final = (1 << ACCOUNT_BITS) - 1
_SYMBOL_MASK: Final = (1 << SYMBOL_BITS) - 1
_PRICE_MASK: Final = (1 << PRICE_BITS) - 1


@leaf
def find_order(orders: Int64Array, order_id: int) -> int:
    """Row of an order; -1 when it is not there."""
    mask = len(orders) - 1
    row = order_home(order_id, mask)
    while orders[row, ORDER_ID] != 0:
        if orders[row, ORDER_ID] == order_id:
            return row
        row = (row + 1) & mask
    return -1


@leaf
def insert_order(risk: RiskState, order_id: int) -> int:
    """Take a row for a new order; all its other words are 0. Its caller knows that there is room and no such order."""
    orders = risk.orders
    mask = len(orders) - 1
    row = order_home(order_id, mask)
    while orders[row, ORDER_ID] != 0:
        row = (row + 1) & mask
    orders[row, ORDER_ID] = order_id
    risk.scalars[ORDER_COUNT] += 1
    return row


@leaf
def remove_order(risk: RiskState, row: int) -> None:
    """Give back a row. Rows after it may move: no row number outlives this call."""
    orders = risk.orders
    mask = len(orders) - 1
    risk.scalars[ORDER_COUNT] -= 1
    hole = row
    row = (row + 1) & mask
    while orders[row, ORDER_ID] != 0:
        home = order_home(orders[row, ORDER_ID], mask)
        # The row may fill the hole only if the hole lies on its way from home.
        if (row - home) & mask >= (row - hole) & mask:
            for word in range(ORDER_WORDS):
                orders[hole, word] = orders[row, word]
            hole = row
        row = (row + 1) & mask
    for word in range(ORDER_WORDS):
        orders[hole, word] = 0


@leaf
def order_home(order_id: int, mask: int) -> int:
    """Where the search for an order begins."""
    return np.int64((np.uint64(order_id) * _FACTOR) >> _HALF) & mask  # type: ignore[return-value]


@leaf
def order_account(where: int) -> int:
    """Account of an order, from its ORDER_WHERE word."""
    return where & _ACCOUNT_MASK


@leaf
def order_symbol(where: int) -> int:
    """Symbol of an order, from its ORDER_WHERE word."""
    return where >> SYMBOL_SHIFT & _SYMBOL_MASK


@leaf
def order_where(account_id: int, symbol_id: int, flags: int) -> int:
    """Compose an ORDER_WHERE word from ids and ORDER_… bits."""
    return account_id | symbol_id << SYMBOL_SHIFT | flags


@leaf
def order_price(price: int) -> int:
    """Limit price in ticks, from an ORDER_PRICE word."""
    return price & _PRICE_MASK


@leaf
def order_fee_ppm(price: int) -> int:
    """Higher of the order's two frozen fee rates, from an ORDER_PRICE word."""
    return price >> PRICE_BITS


@leaf
def price_word(price_ticks: int, fee_ppm: int) -> int:
    """Compose an ORDER_PRICE word."""
    return price_ticks | fee_ppm << PRICE_BITS


@leaf
def set_hold(risk: RiskState, row: int, hold_units: int, extra_units: int) -> None:
    """Set what an order holds, and move its account's held balance by the difference."""
    order = risk.orders[row]
    change_units = hold_units + extra_units - order[ORDER_HOLD] - order[ORDER_EXTRA]
    order[ORDER_HOLD] = hold_units
    order[ORDER_EXTRA] = extra_units
    if change_units != 0:
        where = order[ORDER_WHERE]
        account_id = order_account(where)
        risk.balances[account_id, held_asset(risk, where), HELD] += change_units
        mark_dirty(risk, account_id)


@leaf
def held_asset(risk: RiskState, where: int) -> int:
    """Asset that an order holds: sells the base, buys the quote."""
    symbol = risk.symbols[order_symbol(where)]
    return symbol[SYMBOL_BASE] if where & ORDER_SELL else symbol[SYMBOL_QUOTE]  # type: ignore[no-any-return]


@leaf
def end_order(risk: RiskState, row: int) -> None:
    """End an order: it holds nothing any more and counts no more. Rows may move.

    It stays, marked, while amends that were forwarded before its end was known have something to give back.
    """
    order = risk.orders[row]
    where = order[ORDER_WHERE]
    if where & ORDER_ENDED == 0:
        risk.open_orders[order_account(where)] -= 1
    set_hold(risk, row, 0, order[ORDER_EXTRA])
    if order[ORDER_EXTRA] == 0:
        remove_order(risk, row)
    else:
        order[ORDER_WHERE] = where | ORDER_ENDED
