"""A book's census: its live orders copied into a page, in no order."""

from __future__ import annotations

import numpy as np

from tradeengine.core.book_kinds import FLAG_TRIGGERED, GTD, side_of, symbol_of, time_in_force_of, type_of
from tradeengine.core.book_state import (
    LOW_32,
    O_FEE,
    O_HOLD,
    O_ID,
    O_KINDS,
    O_NOTIONAL,
    O_PLACE,
    O_PRICE,
    O_QUANTITY,
    O_REMAINING,
    O_STOP,
    ORDER_SHIFT,
    BookLimits,
    BookState,
    at,
    kernel,
    make_book,
)
from tradeengine.core.census import BOOK_ORDER_WORDS, NO_ROOM, book_order_dtype
from tradeengine.core.records import word
from tradeengine.core.risk_state import Int64Array

_ID = word(book_order_dtype, "order_id")
_ACCOUNT = word(book_order_dtype, "account_id")
_SYMBOL = word(book_order_dtype, "symbol_id")
_SIDE = word(book_order_dtype, "side")
_TYPE = word(book_order_dtype, "order_type")
_TRIGGERED = word(book_order_dtype, "triggered")
_PRICE = word(book_order_dtype, "price_ticks")
_STOP = word(book_order_dtype, "stop_price_ticks")
_QUANTITY = word(book_order_dtype, "quantity_lots")
_REMAINING = word(book_order_dtype, "remaining_lots")
_HOLD = word(book_order_dtype, "hold_units")
_NOTIONAL = word(book_order_dtype, "filled_notional_units")
_FEE = word(book_order_dtype, "fee_units")
_EXPIRES = word(book_order_dtype, "expires_at_ns")


@kernel
def copy_book_orders(book: BookState, rows: Int64Array) -> int:
    """Copy every live order into ``rows``, int64[n, 14] as in ``book_order_dtype``; give how many, or NO_ROOM.

    Between two commands, when every live order is in the index by id: that is what is gone through, because the pool
    does not say which of its slots are in use.
    """
    count = 0
    for position in range(len(book.id_index)):
        slot = book.id_index[position] & LOW_32
        if slot == 0:
            continue
        if count == len(rows):
            return NO_ROOM
        row = rows[count]
        o = at(slot, ORDER_SHIFT)
        kinds = book.orders[o + O_KINDS]
        row[_ID] = book.orders[o + O_ID]
        row[_ACCOUNT] = book.orders[o + O_PLACE] & LOW_32
        row[_SYMBOL] = symbol_of(kinds)
        row[_SIDE] = side_of(kinds)
        row[_TYPE] = type_of(kinds)
        row[_TRIGGERED] = 1 if kinds & FLAG_TRIGGERED else 0
        row[_PRICE] = book.orders[o + O_PRICE]
        row[_STOP] = book.orders[o + O_STOP]
        row[_QUANTITY] = book.orders[o + O_QUANTITY]
        row[_REMAINING] = book.orders[o + O_REMAINING]
        row[_HOLD] = book.orders[o + O_HOLD]
        row[_NOTIONAL] = book.orders[o + O_NOTIONAL]
        row[_FEE] = book.orders[o + O_FEE]
        row[_EXPIRES] = book.expires_at[slot] if time_in_force_of(kinds) == GTD else 0
        count += 1
    return count


def compile_kernels() -> None:
    """Compile (or load) this module's kernels for the types in which they are called."""
    book = make_book(BookLimits(orders_max=4, symbols_max=1, levels_max=4, accounts_max=20, shard=0))
    copy_book_orders(book, np.zeros((1, BOOK_ORDER_WORDS), np.int64))
