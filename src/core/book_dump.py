"""A book as bytes, and back; and the hash of what it says.

Rule 1: only logical content is kept: counters, listed symbols, live orders in the order in which they stand. Slots,
free lists and tables are made anew, so two books that say the same give the same bytes, whatever their history and
their limits. Rule 2: a book is dumped between commands only. Rule 3: the format has a version; one from the future is
refused.

The bytes are int64 words: version, order count, symbol count, timer count; the counters; per symbol its id and words;
per order its words (without slot numbers) and expires_at: by symbol, then bids, asks, stop buys, stop sells, best level
first, in the order of the queue; per timer, by account, the account and when it runs out. Version 1 had no timers, and
no count of them.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tradeengine.core.book_kinds import (
    MARK_REGISTERED,
    MARK_WAITING,
    side_of,
    symbol_of,
)
from tradeengine.core.book_ladder import (
    enqueue,
    linked,
)
from tradeengine.core.book_orders import (
    register,
    take_slot,
)
from tradeengine.core.book_place import (
    no_room,
)
from tradeengine.core.book_state import (
    H_EVENT_SEQUENCE,
    H_LEVELS_MAX,
    H_ORDER_COUNT,
    H_ORDER_ID,
    H_PHASE,
    H_SYMBOLS_MAX,
    HIGH_32,
    K_NEXT,
    L_HEAD,
    LADDERS,
    LEVEL_SHIFT,
    LOW_32,
    O_ID,
    O_KINDS,
    O_PLACE,
    O_PRICE,
    O_STOP,
    O_TAIL,
    ORDER_SHIFT,
    ORDER_WORDS,
    PHASE_IDLE,
    S_LISTED,
    SYMBOL_WORDS,
    BookLimits,
    BookState,
    int64,
    kernel,
    make_book,
)
from tradeengine.core.book_timers import arm
from tradeengine.core.book_views import timers
from tradeengine.core.hashing import HASH_START, hash_bytes

FORMAT_VERSION: Final = 2
_COUNTERS: Final = slice(H_EVENT_SEQUENCE, H_ORDER_ID + 1)
_COUNTER_COUNT: Final = H_ORDER_ID + 1 - H_EVENT_SEQUENCE
_HEAD_WORDS: Final = 4
_DUMPED_WORDS: Final = ORDER_WORDS + 1
_TIMER_WORDS: Final = 2


class DumpError(ValueError):
    """Bytes that are no dump of this version, or hold more than the limits have room for."""


def dump(book: BookState) -> bytes:
    """Give the book as bytes. The book must not be in the middle of a command."""
    assert book.header[H_PHASE] == PHASE_IDLE
    symbols = book.symbols.reshape(-1, SYMBOL_WORDS)
    listed = np.flatnonzero(symbols[:, S_LISTED])
    orders = np.zeros(int(book.header[H_ORDER_COUNT]) * _DUMPED_WORDS, np.int64)
    written = int(_dump_orders(book, orders))
    assert written == len(orders)
    ends = timers(book)
    head = np.array([FORMAT_VERSION, book.header[H_ORDER_COUNT], len(listed), len(ends)], np.int64)
    rows = np.concatenate((listed[:, None].astype(np.int64), symbols[listed]), axis=1)
    return b"".join(part.tobytes() for part in (head, book.header[_COUNTERS], rows, orders, ends))


def load(limits: BookLimits, data: bytes) -> BookState:
    """Make a book that says what ``data`` says. Raises DumpError."""
    counters, rows, orders, ends = _parts(data)
    if len(orders) > limits.orders_max:
        raise DumpError(f"{len(orders)} orders do not fit orders_max {limits.orders_max}")
    if rows[:, 0].max(initial=0) >= limits.symbols_max:
        raise DumpError(f"symbol {rows[:, 0].max()} does not fit symbols_max {limits.symbols_max}")
    account_max = max(orders[:, O_PLACE].max(initial=0), ends[:, 0].max(initial=0))
    if account_max >= limits.accounts_max:
        raise DumpError(f"account {account_max} does not fit accounts_max {limits.accounts_max}")
    book = make_book(limits)
    book.header[_COUNTERS] = counters
    book.symbols.reshape(-1, SYMBOL_WORDS)[rows[:, 0]] = rows[:, 1:]
    if not _load_orders(book, orders.reshape(-1), np.argsort(orders[:, O_ID])):
        raise DumpError(f"its price levels do not fit levels_max {limits.levels_max}")
    _load_timers(book, ends.reshape(-1))
    return book


def _parts(data: bytes) -> list[NDArray[np.int64]]:
    """Split a dump: its counters, and the rows of symbols, orders and timers. Raises DumpError."""
    if len(data) % 8 or len(data) < (_HEAD_WORDS - 1 + _COUNTER_COUNT) * 8:
        raise DumpError("not a dump of a book: its length is wrong")
    words = np.frombuffer(data, np.int64)
    version = int(words[0])
    if version not in (1, FORMAT_VERSION):
        raise DumpError(f"a dump of version {version}; this program reads versions 1 and {FORMAT_VERSION}")
    head = _HEAD_WORDS - (version == 1)
    counts = [int(word) for word in words[1:head]]
    widths = (_COUNTER_COUNT, 1 + SYMBOL_WORDS, _DUMPED_WORDS, _TIMER_WORDS)
    order_count, symbol_count, timer_count = *counts, *[0] * (_HEAD_WORDS - head)
    heights = (1, symbol_count, order_count, timer_count)
    sizes = (width * height for width, height in zip(widths, heights, strict=True))
    bounds = list(accumulate(sizes, initial=head))
    if min(counts) < 0 or len(words) != bounds[-1]:
        raise DumpError("not a dump of a book: its length is wrong")
    parts = [words[start:end] for start, end in pairwise(bounds)]
    return [parts[0], *(part.reshape(-1, width).copy() for part, width in zip(parts[1:], widths[1:], strict=True))]


def state_hash(book: BookState) -> int:
    """Hash of the book's logical content: equal for equal books, whatever their history of slots."""
    return hash_bytes(HASH_START, dump(book))


def compile_kernels() -> None:
    """Compile (or load) this module's kernels for the types in which they are called."""
    limits = BookLimits(orders_max=4, symbols_max=1, levels_max=4, accounts_max=20, shard=0)
    state_hash(load(limits, dump(make_book(limits))))


@kernel
def _dump_orders(book: BookState, out: NDArray[np.int64]) -> int:
    """Write every live order in the order of the format. Return the count of words written."""
    w = 0
    for ladder in range(book.header[H_SYMBOLS_MAX] * LADDERS):
        base = ladder * book.header[H_LEVELS_MAX]
        for entry in range(base + book.ladder_counts[ladder] - 1, base - 1, -1):
            slot = book.levels[(int64(book.ladder_levels[entry]) << LEVEL_SHIFT) + L_HEAD]
            while slot != 0:
                o = slot << ORDER_SHIFT
                for i in range(ORDER_WORDS):
                    out[w + i] = book.orders[o + i]
                out[w + O_PLACE] &= LOW_32
                out[w + O_TAIL] &= HIGH_32
                expires = (book.orders[o + O_TAIL] & LOW_32) != 0
                out[w + ORDER_WORDS] = book.expires_at[slot] if expires else 0
                w += ORDER_WORDS + 1
                slot = linked(book, slot, K_NEXT)
    return w


@kernel
def _load_orders(book: BookState, orders: NDArray[np.int64], by_id: NDArray[np.int64]) -> bool:
    """Queue all orders as they stood, then register them by id. False when a ladder has no room."""
    for index in range(len(by_id)):
        w = index * (ORDER_WORDS + 1)
        slot = take_slot(book)
        o = slot << ORDER_SHIFT
        for i in range(ORDER_WORDS):
            book.orders[o + i] = orders[w + i]
        book.expires_at[slot] = orders[w + ORDER_WORDS]
        kinds = orders[w + O_KINDS]
        book.orders[o + O_KINDS] = kinds & ~MARK_REGISTERED
        ladder = symbol_of(kinds) * LADDERS + (side_of(kinds))
        price = orders[w + O_PRICE]
        if kinds & MARK_WAITING:
            ladder += 2
            price = orders[w + O_STOP]
        if no_room(book, ladder, price):
            return False
        enqueue(book, ladder, price, slot)
    for index in range(len(by_id)):
        register(book, by_id[index] + 1)  # slots were given from 1 on
    return True


@kernel
def _load_timers(book: BookState, ends: NDArray[np.int64]) -> None:
    for w in range(0, len(ends), _TIMER_WORDS):
        arm(book, ends[w], ends[w + 1])
