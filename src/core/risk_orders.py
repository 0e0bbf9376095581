"""Risk's live orders: found by order id, inserted when forwarded, removed when they end.

Open addressing with linear probing over one array of 64-byte rows, so that one look-up touches one cache line; a
removal shifts later rows back, so that no tombstones pile up however long the engine runs. The same serves every table
whose rows begin with an order id.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tradeengine.core.risk_state import (
    ACCOUNT_BITS,
    HELD,
    OPEN,
    ORDER_AS_HELD,
    ORDER_COUNT,
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
    """Row of an order, or of another table's row that begins with its id; -1 when it is not there."""
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
    risk.scalars[ORDER_COUNT] += 1
    return insert_row(risk.orders, order_id)


@leaf
def remove_order(risk: RiskState, row: int) -> None:
    """Give back a row. Rows after it may move: no row number outlives this call."""
    risk.scalars[ORDER_COUNT] -= 1
    remove_row(risk.orders, row, ORDER_WORDS)


@leaf
def insert_row(rows: Int64Array, order_id: int) -> int:
    """Take a row of a table; all its other words are 0."""
    mask = len(rows) - 1
    row = order_home(order_id, mask)
    while rows[row, ORDER_ID] != 0:
        row = (row + 1) & mask
    rows[row, ORDER_ID] = order_id
    return row


@leaf
def remove_row(rows: Int64Array, row: int, words: int) -> None:
    """Give back a row of a table of so many words. Rows after it may move."""
    mask = len(rows) - 1
    hole = row
    row = (row + 1) & mask
    while rows[row, ORDER_ID] != 0:
        home = order_home(rows[row, ORDER_ID], mask)
        # The row may fill the hole only if the hole lies on its way from home.
        if (row - home) & mask >= (row - hole) & mask:
            for word in range(words):
                rows[hole, word] = rows[row, word]
            hole = row
        row = (row + 1) & mask
    for word in range(words):
        rows[hole, word] = 0


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
        asset_id = held_asset(risk, where)
        risk.balances[account_id, asset_id, HELD] += change_units
        if where & ORDER_AS_HELD:
            risk.worth[asset_id, account_id, OPEN] += change_units
        mark_dirty(risk, account_id)


@leaf
def held_asset(risk: RiskState, where: int) -> int:
    """Asset that an order holds: sells the base, buys the quote."""
    symbol = risk.symbols[order_symbol(where)]
    return symbol[SYMBOL_BASE] if where & ORDER_SELL else symbol[SYMBOL_QUOTE]  # type: ignore[no-any-return]
