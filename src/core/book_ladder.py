"""Ladders and levels: where resting orders and waiting stops queue.

Rule 1: a level exists exactly while it has orders. Rule 2: a queue is in time priority; on a stop ladder it is in the
order of ids. Rule 3: a ladder's keys ascend, so that the best level is the last one and leaves without moving others.
It refuses to know why an order comes or goes.
"""

from __future__ import annotations

from tradeengine.core.book_state import (
    H_LEVEL_FREE,
    H_LEVEL_FRESH,
    H_LEVELS_MAX,
    K_NEXT,
    K_PREVIOUS,
    L_COUNT,
    L_HEAD,
    L_LADDER,
    L_LOTS,
    L_PRICE,
    L_TAIL,
    LADDER_ASKS,
    LADDER_SHIFT,
    LADDER_STOP_BUYS,
    LEVEL_SHIFT,
    LINK_SHIFT,
    LOW_32,
    O_ID,
    O_PLACE,
    O_REMAINING,
    ORDER_SHIFT,
    BookState,
    at,
    int64,
    kernel,
    leaf,
)


@leaf
def ladder_of(symbol: int, kind: int) -> int:
    """Ladder of a symbol; a side is the kind of the ladder on which it rests."""
    return at(symbol, LADDER_SHIFT) | kind


@leaf
def entry_of(base: int, position: int) -> int:
    """Entry at a position, from 0 for the worst level, of the ladder whose entries begin at ``base``."""
    return at(base + position, 0)


@leaf
def key_sign(ladder: int) -> int:
    """+1 where a greater price is better (bids, stop sells), else -1."""
    kind = ladder & 3
    return -1 if kind in (LADDER_ASKS, LADDER_STOP_BUYS) else 1


@leaf
def linked(book: BookState, slot: int, link: int) -> int:
    """Read a link as int64: compiled, arithmetic on a uint32 and a literal would be done in floats."""
    return int64(book.links[at(slot, LINK_SHIFT) + link])


@leaf
def enqueue(book: BookState, ladder: int, price_ticks: int, slot: int) -> None:
    """Put an order at the end of its price's queue, making the level if there is none. The ladder has room."""
    o = at(slot, ORDER_SHIFT)
    level = _level_at(book, ladder, price_ticks)
    le = at(level, LEVEL_SHIFT)
    tail = book.levels[le + L_TAIL]
    book.links[at(slot, LINK_SHIFT) + K_PREVIOUS] = tail
    book.links[at(slot, LINK_SHIFT) + K_NEXT] = 0
    if tail == 0:
        book.levels[le + L_HEAD] = slot
    else:
        book.links[at(tail, LINK_SHIFT) + K_NEXT] = slot
    book.levels[le + L_TAIL] = slot
    book.levels[le + L_COUNT] += 1
    book.levels[le + L_LOTS] += book.orders[o + O_REMAINING]
    book.orders[o + O_PLACE] = (book.orders[o + O_PLACE] & LOW_32) | level << 32


@kernel
def enqueue_by_id(book: BookState, ladder: int, price_ticks: int, slot: int) -> None:
    """Put a stop into its price's queue behind those with smaller ids. Nearly always that is the end."""
    enqueue(book, ladder, price_ticks, slot)
    order_id = book.orders[at(slot, ORDER_SHIFT) + O_ID]
    before = linked(book, slot, K_PREVIOUS)
    if before == 0 or book.orders[at(before, ORDER_SHIFT) + O_ID] < order_id:
        return
    level = book.orders[at(slot, ORDER_SHIFT) + O_PLACE] >> 32
    le = at(level, LEVEL_SHIFT)
    book.levels[le + L_TAIL] = before
    book.links[at(before, LINK_SHIFT) + K_NEXT] = 0
    after = before
    before = linked(book, after, K_PREVIOUS)
    while before != 0 and book.orders[at(before, ORDER_SHIFT) + O_ID] > order_id:
        after = before
        before = linked(book, after, K_PREVIOUS)
    book.links[at(slot, LINK_SHIFT) + K_PREVIOUS] = before
    book.links[at(slot, LINK_SHIFT) + K_NEXT] = after
    book.links[at(after, LINK_SHIFT) + K_PREVIOUS] = slot
    if before == 0:
        book.levels[le + L_HEAD] = slot
    else:
        book.links[at(before, LINK_SHIFT) + K_NEXT] = slot


@leaf
def dequeue(book: BookState, slot: int) -> None:
    """Take an order out of its level, and the level out of its ladder if that was the last one."""
    o = at(slot, ORDER_SHIFT)
    level = book.orders[o + O_PLACE] >> 32
    le = at(level, LEVEL_SHIFT)
    before = linked(book, slot, K_PREVIOUS)
    after = linked(book, slot, K_NEXT)
    if before == 0:
        book.levels[le + L_HEAD] = after
    else:
        book.links[at(before, LINK_SHIFT) + K_NEXT] = after
    if after == 0:
        book.levels[le + L_TAIL] = before
    else:
        book.links[at(after, LINK_SHIFT) + K_PREVIOUS] = before
    book.levels[le + L_LOTS] -= book.orders[o + O_REMAINING]
    count = book.levels[le + L_COUNT] - 1
    book.levels[le + L_COUNT] = count
    if count == 0:
        _remove_level(book, level)


@leaf
def has_level(book: BookState, ladder: int, price_ticks: int) -> bool:
    """Whether a price has a queue on this ladder."""
    key = key_sign(ladder) * price_ticks
    base = ladder * book.header[H_LEVELS_MAX]
    position = _first_not_below(book, base, book.ladder_counts[ladder], key)
    return position < book.ladder_counts[ladder] and book.ladder_keys[entry_of(base, position)] == key  # type: ignore[no-any-return]


@leaf
def free_level(book: BookState, level: int) -> None:
    """Give a level's record back."""
    book.levels[at(level, LEVEL_SHIFT) + L_PRICE] = book.header[H_LEVEL_FREE]
    book.header[H_LEVEL_FREE] = level


@leaf
def _level_at(book: BookState, ladder: int, price_ticks: int) -> int:
    key = key_sign(ladder) * price_ticks
    base = ladder * book.header[H_LEVELS_MAX]
    count = book.ladder_counts[ladder]
    position = _first_not_below(book, base, count, key)
    if position < count and book.ladder_keys[entry_of(base, position)] == key:
        return int64(book.ladder_levels[entry_of(base, position)])
    return _insert_level(book, ladder, price_ticks, base, count, position)


@leaf
def _first_not_below(book: BookState, base: int, count: int, key: int) -> int:
    """Position of the first key ≥ ``key``. The best level is tried first; then a bisection without branches."""
    if count == 0 or book.ladder_keys[entry_of(base, count - 1)] < key:
        return count
    low = 0
    size = count
    while size > 1:
        step = size >> 1
        low = low + step if book.ladder_keys[entry_of(base, low + step - 1)] < key else low
        size -= step
    return low


@leaf
def _insert_level(book: BookState, ladder: int, price_ticks: int, base: int, count: int, position: int) -> int:
    level = book.header[H_LEVEL_FREE]
    if level == 0:
        level = book.header[H_LEVEL_FRESH]
        book.header[H_LEVEL_FRESH] = level + 1
    else:
        book.header[H_LEVEL_FREE] = book.levels[at(level, LEVEL_SHIFT) + L_PRICE]
    entry = base + count
    while entry > base + position:
        book.ladder_keys[entry] = book.ladder_keys[entry - 1]
        book.ladder_levels[entry] = book.ladder_levels[entry - 1]
        entry -= 1
    book.ladder_keys[entry] = key_sign(ladder) * price_ticks
    book.ladder_levels[entry] = level
    book.ladder_counts[ladder] = count + 1
    le = at(level, LEVEL_SHIFT)
    book.levels[le + L_PRICE] = price_ticks
    book.levels[le + L_LOTS] = 0
    book.levels[le + L_HEAD] = 0
    book.levels[le + L_TAIL] = 0
    book.levels[le + L_COUNT] = 0
    book.levels[le + L_LADDER] = ladder
    return level  # type: ignore[no-any-return]


@kernel
def _remove_level(book: BookState, level: int) -> None:
    le = at(level, LEVEL_SHIFT)
    ladder = book.levels[le + L_LADDER]
    base = ladder * book.header[H_LEVELS_MAX]
    count = book.ladder_counts[ladder] - 1
    position = _first_not_below(book, base, count + 1, key_sign(ladder) * book.levels[le + L_PRICE])
    for entry in range(base + position, base + count):
        book.ladder_keys[entry] = book.ladder_keys[entry + 1]
        book.ladder_levels[entry] = book.ladder_levels[entry + 1]
    book.ladder_counts[ladder] = count
    free_level(book, level)
