"""What others may see of an order book, read between two calls of ``apply``. Nothing here changes it."""

from __future__ import annotations

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
    H_TIMESTAMP,
    INT64_MAX,
    L_LOTS,
    L_PRICE,
    LADDER_STOP_BUYS,
    LADDERS,
    LEVEL_SHIFT,
    PHASE_IDLE,
    S_LAST,
    S_LISTED,
    S_STATE,
    SYMBOL_WORDS,
    BookState,
)
from tradeengine.core.records import Side
from tradeengine.core.tables import touch_dtype


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
    """Earliest ``expires_at_ns`` of an open order; 2**63 - 1 when none expires."""
    if book.header[H_EXPIRY_COUNT] == 0:
        return INT64_MAX
    return int(book.expires_at[book.expiries[1]])


def order_count(book: BookState) -> int:
    """Open orders of all symbols, waiting stops included."""
    return int(book.header[H_ORDER_COUNT])


def touch(book: BookState, symbol_id: int) -> np.void:
    """Best bid and ask, last price and state of a symbol: one record of ``touch_dtype``."""
    row = np.zeros(1, touch_dtype)
    s = symbol_id * SYMBOL_WORDS
    for side, prefix in ((Side.BUY, "best_bid"), (Side.SELL, "best_ask")):
        best = levels(book, symbol_id, side, 1)
        if len(best):
            row[f"{prefix}_ticks"], row[f"{prefix}_lots"] = best[0]
    row["last_price_ticks"] = book.symbols[s + S_LAST]
    row["trading_state"] = book.symbols[s + S_STATE]
    row["sequence"] = book.header[H_EVENT_SEQUENCE] - 1
    row["listed"] = book.symbols[s + S_LISTED]
    row["shard"] = book.header[H_SHARD]
    return row[0]  # type: ignore[no-any-return]


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
