"""Stops: which one fires next, and what it becomes.

Rule 1: stops fire on the last trade price, after the command that traded has finished: buys by ascending stop price,
else sells by descending, at one price by id; each runs to its end before the next is looked for.
Rule 2: no trade yet, no trigger. A symbol that is not open neither trades nor takes stops, so nothing can come due
while it stands still.
Rule 3: a fired stop is a market order, a fired stop-limit a limit order: collar and fill-or-kill are looked at now, and
end it with the reason that a new order would be rejected for.
"""

from __future__ import annotations

from tradeengine.core.book_events import (
    Call,
    put_order,
)
from tradeengine.core.book_kinds import (
    COLLAR,
    EVENT_TRIGGERED,
    FLAG_TRIGGERED,
    FOK,
    FOK_NOT_FILLED,
    MARK_WAITING,
    NONE,
    STOP_LIMIT,
    side_of,
    time_in_force_of,
    type_of,
)
from tradeengine.core.book_ladder import (
    dequeue,
    entry_of,
    ladder_of,
)
from tradeengine.core.book_match import (
    match,
)
from tradeengine.core.book_place import (
    bound_of,
    out_of_collar,
)
from tradeengine.core.book_reach import (
    fills_whole,
)
from tradeengine.core.book_state import (
    H_LEVELS_MAX,
    L_HEAD,
    LADDER_STOP_BUYS,
    LADDER_STOP_SELLS,
    LEVEL_SHIFT,
    O_HOLD,
    O_KINDS,
    O_PRICE,
    ORDER_SHIFT,
    S_LAST,
    SYMBOL_SHIFT,
    BookState,
    at,
    int64,
    kernel,
)


@kernel
def fire_next(book: BookState, call: Call, n: int, symbol: int) -> int:
    """Fire the next stop in reach and let it run. The buffer has room for one event. Return the count of events."""
    slot = _next_stop(book, symbol)
    o = at(slot, ORDER_SHIFT)
    dequeue(book, slot)
    kinds = (book.orders[o + O_KINDS] & ~MARK_WAITING) | FLAG_TRIGGERED
    book.orders[o + O_KINDS] = kinds
    n = put_order(book, call, n, slot, EVENT_TRIGGERED, NONE, book.orders[o + O_HOLD], 0, 0, 0)
    bound_key = bound_of(book, slot)
    ending = NONE
    if type_of(kinds) == STOP_LIMIT:
        if out_of_collar(book, symbol, side_of(kinds), book.orders[o + O_PRICE]):
            ending = COLLAR
        elif time_in_force_of(kinds) == FOK and not fills_whole(book, slot, bound_key):
            ending = FOK_NOT_FILLED
    return match(book, call, n, slot, bound_key, ending)


@kernel
def _next_stop(book: BookState, symbol: int) -> int:
    """Slot of the stop that fires first; ``stops_in_reach`` said that there is one."""
    last = book.symbols[at(symbol, SYMBOL_SHIFT) + S_LAST]
    ladder = ladder_of(symbol, LADDER_STOP_BUYS)
    base = ladder * book.header[H_LEVELS_MAX]
    count = book.ladder_counts[ladder]
    if count == 0 or book.ladder_keys[entry_of(base, count - 1)] < -last:
        ladder = ladder_of(symbol, LADDER_STOP_SELLS)
        base = ladder * book.header[H_LEVELS_MAX]
        count = book.ladder_counts[ladder]
    level = int64(book.ladder_levels[entry_of(base, count - 1)])
    return book.levels[at(level, LEVEL_SHIFT) + L_HEAD]  # type: ignore[no-any-return]
