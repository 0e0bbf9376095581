"""What others may see of an order book, read between two calls of ``apply``. Nothing here changes it."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tradeengine.core.book_state import (
    H_COMMAND_SEQUENCE,
    H_EVENT_SEQUENCE,
    H_EXPIRY_COUNT,
    H_LEVELS_MAX,
    H_ORDER_COUNT,
    H_PHASE,
    H_RING_SEQUENCE,
    H_SHARD,
    H_TIMER_COUNT,
    H_TIMESTAMP,
    INT64_MAX,
    L_LOTS,
    L_PRICE,
    LADDER_ASKS,
    LADDER_BIDS,
    LADDER_STOP_BUYS,
    LADDERS,
    LEVEL_SHIFT,
    PHASE_IDLE,
    S_LAST,
    S_LISTED,
    S_STATE,
    SYMBOL_WORDS,
    T_ACCOUNT,
    T_END,
    T_PLACE,
    TIMER_SHIFT,
    BookLimits,
    BookState,
    kernel,
    make_book,
)
from tradeengine.core.records import Side, word
from tradeengine.core.tables import touch_dtype

_TOUCH_WORDS: Final = touch_dtype.itemsize // 8
_TOUCH_BEST: Final = word(touch_dtype, "best_bid_ticks")
_TOUCH_LAST: Final = word(touch_dtype, "last_price_ticks")
_TOUCH_STATE: Final = word(touch_dtype, "trading_state")
_TOUCH_SEQUENCE: Final = word(touch_dtype, "sequence")
_TOUCH_LISTED: Final = word(touch_dtype, "listed")
_TOUCH_SHARD: Final = word(touch_dtype, "shard")
# By side, price and lots: the two rows of best prices lie one behind the other.
assert word(touch_dtype, "best_bid_lots") == _TOUCH_BEST + 1
assert word(touch_dtype, "best_ask_ticks") == _TOUCH_BEST + 2
assert word(touch_dtype, "best_ask_lots") == _TOUCH_BEST + 3
assert (int(Side.BUY), int(Side.SELL)) == (LADDER_BIDS, LADDER_ASKS) == (0, 1)


def in_command(book: BookState) -> bool:
    """Whether the last call stopped in the middle of a command, for want of room for its events."""
    return bool(book.header[H_PHASE] != PHASE_IDLE)


def next_event_sequence(book: BookState) -> int:
    """Sequence of the event that comes next."""
    return int(book.header[H_EVENT_SEQUENCE])


def next_command_sequence(book: BookState) -> int:
    """Sequence of the command that comes next; while ``in_command``, of the present one."""
    return int(book.header[H_COMMAND_SEQUENCE])


def last_ring_sequence(book: BookState) -> int:
    """Position in the command ring of the last command that came from there; -1: none yet."""
    return int(book.header[H_RING_SEQUENCE])


def last_timestamp_ns(book: BookState) -> int:
    """Time of the last command; 0: none yet."""
    return int(book.header[H_TIMESTAMP])


def next_expiry_ns(book: BookState) -> int:
    """When the first timer or the time of an open order runs out; 2**63 - 1 when none does."""
    order_ns = timer_ns = INT64_MAX
    if book.header[H_EXPIRY_COUNT]:
        order_ns = int(book.expires_at[book.expiries[1]])
    if book.header[H_TIMER_COUNT]:
        first = int(book.timers[(1 << TIMER_SHIFT) + T_ACCOUNT])
        timer_ns = int(book.timers[(first << TIMER_SHIFT) + T_END])
    return min(order_ns, timer_ns)


def timers(book: BookState) -> NDArray[np.int64]:
    """List the armed timers by account: shape (n, 2), account id and when it runs out."""
    rows = book.timers.reshape(-1, 1 << TIMER_SHIFT)
    accounts = np.flatnonzero(rows[:, T_PLACE])
    return np.stack((accounts, rows[accounts, T_END]), axis=1)


def order_count(book: BookState) -> int:
    """Open orders of all symbols, waiting stops included."""
    return int(book.header[H_ORDER_COUNT])


def touch(book: BookState, symbol_id: int) -> np.void:
    """Best bid and ask, last price and state of a symbol: one record of ``touch_dtype``."""
    return touches(book, np.array([symbol_id], np.int64))[0]  # type: ignore[no-any-return]


def touches(book: BookState, symbol_ids: NDArray[np.int64]) -> NDArray[np.void]:
    """Best prices, last price and state of several symbols (each below symbols_max): ``touch_dtype``, shape (n,).

    Compiled, because a matcher asks after every batch.
    """
    rows = np.zeros(len(symbol_ids), touch_dtype)
    _fill_touches(book, symbol_ids, rows.view(np.int64))
    return rows


def levels(book: BookState, symbol_id: int, side: int, levels_max: int | None = None) -> NDArray[np.int64]:
    """Price levels of a side, best first: shape (n, 2), price_ticks and lots. levels_max: at most so many."""
    ladder = symbol_id * LADDERS + int(side)
    words = _ladder_levels(book, ladder)[:levels_max] << LEVEL_SHIFT
    return np.stack((book.levels[words + L_PRICE], book.levels[words + L_LOTS]), axis=1)


def stops(book: BookState, symbol_id: int) -> NDArray[np.int64]:
    """List the levels of waiting stops, in the order in which they fire: shape (n, 3), side, stop price, lots."""
    parts = []
    for side in (Side.BUY, Side.SELL):
        words = _ladder_levels(book, symbol_id * LADDERS + LADDER_STOP_BUYS + side) << LEVEL_SHIFT
        sides = np.full(len(words), int(side), np.int64)
        parts.append(np.stack((sides, book.levels[words + L_PRICE], book.levels[words + L_LOTS]), axis=1))
    return np.concatenate(parts)


def _ladder_levels(book: BookState, ladder: int) -> NDArray[np.int64]:
    """Level numbers of a ladder, best first."""
    base = ladder * int(book.header[H_LEVELS_MAX])
    count = int(book.ladder_counts[ladder])
    return book.ladder_levels[base : base + count][::-1].astype(np.int64)


def compile_kernels() -> None:
    """Compile (or load) this module's kernels for the types in which they are called."""
    touch(make_book(BookLimits(orders_max=4, symbols_max=1, levels_max=4, accounts_max=20, shard=0)), 0)


@kernel
def _fill_touches(book: BookState, symbol_ids: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
    header = book.header
    for i in range(len(symbol_ids)):
        row = i * _TOUCH_WORDS
        for side in range(2):
            ladder = symbol_ids[i] * LADDERS + side
            count = book.ladder_counts[ladder]
            if count > 0:
                le = np.int64(book.ladder_levels[ladder * header[H_LEVELS_MAX] + count - 1]) << LEVEL_SHIFT
                rows[row + _TOUCH_BEST + 2 * side] = book.levels[le + L_PRICE]
                rows[row + _TOUCH_BEST + 2 * side + 1] = book.levels[le + L_LOTS]
        s = symbol_ids[i] * SYMBOL_WORDS
        rows[row + _TOUCH_LAST] = book.symbols[s + S_LAST]
        rows[row + _TOUCH_STATE] = book.symbols[s + S_STATE]
        rows[row + _TOUCH_SEQUENCE] = header[H_EVENT_SEQUENCE] - 1
        rows[row + _TOUCH_LISTED] = book.symbols[s + S_LISTED]
        rows[row + _TOUCH_SHARD] = header[H_SHARD]
