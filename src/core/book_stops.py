"""Stops: which one fires next, and what it becomes.

Rule 1: stops fire on the last trade price, after the command that traded has finished: buys by ascending stop price,
else sells by descending, at one price by id; each runs to its end before the next is looked for.
Rule 2: no trade yet, no trigger. A symbol that is not open neither trades nor takes stops, so nothing can come due
while it stands still.
Rule 3: a fired stop is a market order, a fired stop-limit a limit order: collar and fill-or-kill are looked at now, and
end it with the reason that a new order would be rejected for.
"""

from __future__ import annotations

import numpy as np

from tradeengine.core.book_events import SIDE_SHIFT, TIME_IN_FORCE_SHIFT, TRIGGERED, TYPE_SHIFT, Call, put_order
from tradeengine.core.book_ladder import dequeue
from tradeengine.core.book_match import COLLAR, FOK_NOT_FILLED, STOP_LIMIT, match
from tradeengine.core.book_place import FOK, NONE, bound_of, out_of_collar
from tradeengine.core.book_reach import fills_whole
from tradeengine.core.book_state import (
    H_LEVELS_MAX,
    L_HEAD,
    LADDER_STOP_BUYS,
    LADDER_STOP_SELLS,
    LADDERS,
    LEVEL_SHIFT,
    MARK_WAITING,
    O_HOLD,
    O_KINDS,
    O_PRICE,
    ORDER_SHIFT,
    S_LAST,
    SYMBOL_WORDS,
    BookState,
    kernel,
)
from tradeengine.core.records import EventKind

KIND_TRIGGERED = int(EventKind.TRIGGERED)


@kernel
def fire_next(book: BookState, call: Call, n: int, symbol: int) -> int:
    """Fire the next stop in reach and let it run. The buffer has room for one event. Return the count of events."""
    slot = _next_stop(book, symbol)
    o = slot << ORDER_SHIFT
    dequeue(book, slot)
    kinds = (book.orders[o + O_KINDS] & ~MARK_WAITING) | TRIGGERED
    book.orders[o + O_KINDS] = kinds
    n = put_order(book, call, n, slot, KIND_TRIGGERED, NONE, book.orders[o + O_HOLD], 0, 0, 0)
    bound_key = bound_of(book, slot)
    ending = NONE
    if (kinds >> TYPE_SHIFT) & 0xFF == STOP_LIMIT:
        if out_of_collar(book, symbol, (kinds >> SIDE_SHIFT) & 1, book.orders[o + O_PRICE]):
            ending = COLLAR
        elif (kinds >> TIME_IN_FORCE_SHIFT) & 0xFF == FOK and not fills_whole(book, slot, bound_key):
            ending = FOK_NOT_FILLED
    return match(book, call, n, slot, bound_key, ending)


@kernel
def _next_stop(book: BookState, symbol: int) -> int:
    """Slot of the stop that fires first; ``stops_in_reach`` said that there is one."""
    last = book.symbols[symbol * SYMBOL_WORDS + S_LAST]
    ladder = symbol * LADDERS + LADDER_STOP_BUYS
    base = ladder * book.header[H_LEVELS_MAX]
    count = book.ladder_counts[ladder]
    if count == 0 or book.ladder_keys[base + count - 1] < -last:
        ladder = symbol * LADDERS + LADDER_STOP_SELLS
        base = ladder * book.header[H_LEVELS_MAX]
        count = book.ladder_counts[ladder]
    level = np.int64(book.ladder_levels[base + count - 1])
    return book.levels[(level << LEVEL_SHIFT) + L_HEAD]  # type: ignore[no-any-return]
