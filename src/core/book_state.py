"""What an order book is made of: limits, memory, and the words in it.

The memory of a book is a handful of flat arrays, sized once from ``BookLimits`` and never grown. Entry 0 of every
pool means "none", so that fresh memory (zeros, which the operating system gives lazily) is an empty book.

- ``header``: counters of the book and where it stopped when the event buffer was full (``H_…``).
- ``symbols``: 16 words each (``S_…``), zero until listed.
- ``orders``: 16 words each (``O_…``): the first cache line is what matching reads, the second what only events tell.
- ``links``: 4 × uint32 per order: the queue of its level, the list of its account. Apart from the orders, because
  unlinking touches neighbours, and sixteen bytes of four orders share a cache line.
- ``levels``: 8 words each (``L_…``): a price with a queue of orders in time priority.
- ``ladder_keys``, ``ladder_levels``: per symbol four ladders (bids, asks, stop buys, stop sells), each a sorted array
  of keys with the best at the end, so that work near the touch moves almost nothing. A key is ± the price, greater is
  better: bids and stop sells +, asks and stop buys -.
- ``id_index``: order id → slot, open addressing. ``accounts``: head and tail of each account's list of open orders.
- ``expiries``: a heap of slots by (expires_at, order id); ``expires_at`` beside it per slot.
- ``timers``: 4 words each (``T_…``): a heap of accounts by (end, account), and each account's end and place in it.

It refuses to know what the words are for: rules live in the other ``book_…`` files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

_Function = TypeVar("_Function", bound=Callable[..., Any])

# numba's own hints for ``njit`` lack the options used here.
_njit: Final[Any] = numba.njit


def kernel(function: _Function) -> _Function:
    """Compile with an on-disk cache; divisions do not check for zero, because none can be."""
    return cast("_Function", _njit(cache=True, error_model="numpy", _nrt=False)(function))


def leaf(function: _Function) -> _Function:
    """Compile into its callers: a call that passes the book's arrays costs more than most leaves."""
    return cast("_Function", _njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)(function))


@leaf
def int64(value: Any) -> int:
    """Widen to int64: compiled, arithmetic on an unsigned word and a literal would be done in floats."""
    return np.int64(value)  # type: ignore[return-value]


@leaf
def at(index: int, shift: int) -> int:
    """Word at which record ``index`` of ``1 << shift`` words begins.

    Masked, so that the compiler sees that it is not negative: it would else ask at every access whether to count from
    the array's end, as Python does. That was a fifth of all instructions.
    """
    return (index & LOW_32) << shift


INT64_MAX: Final = 2**63 - 1
LOW_32: Final = 0xFFFF_FFFF
HIGH_32: Final = ~0xFFFF_FFFF

# Header words.
H_EVENT_SEQUENCE: Final = 0  # of the next event
H_COMMAND_SEQUENCE: Final = 1  # of the next command
H_RING_SEQUENCE: Final = 2  # of the last command that came from the ring; -1: none
H_TIMESTAMP: Final = 3  # of the last command
H_TRADE_ID: Final = 4  # the last one given
H_ORDER_ID: Final = 5  # the last one seen
H_ORDER_COUNT: Final = 6
H_EXPIRY_COUNT: Final = 7
H_DUMPED: Final = 8  # header words below this one are logical content
H_ORDER_FREE: Final = 8  # head of the list of used and freed slots
H_ORDER_FRESH: Final = 9  # the first slot never used
H_LEVEL_FREE: Final = 10
H_LEVEL_FRESH: Final = 11
H_PHASE: Final = 12
H_TAKER: Final = 13
H_BOUND: Final = 14
H_ENDING: Final = 15
H_CURSOR: Final = 16
H_DONE: Final = 17  # how many orders this mass command has ended, or symbols it has touched
H_ORDERS_MAX: Final = 18
H_LEVELS_MAX: Final = 19
H_SYMBOLS_MAX: Final = 20
H_ACCOUNTS_MAX: Final = 21
H_SHARD: Final = 22
H_INDEX_MASK: Final = 23
H_TIMER_COUNT: Final = 24
HEADER_WORDS: Final = 32

# Where a command stands when the event buffer is full.
PHASE_IDLE: Final = 0
PHASE_MATCH: Final = 1
PHASE_STOPS: Final = 2
PHASE_CANCEL_ALL: Final = 3
PHASE_EXPIRE: Final = 4
PHASE_STATES: Final = 5

# Symbol words.
S_LISTED: Final = 0
S_STATE: Final = 1
S_TICK_LOT: Final = 2
S_LOT: Final = 3
S_QUANTITY_MIN: Final = 4
S_QUANTITY_MAX: Final = 5
S_NOTIONAL_MIN: Final = 6
S_PRICE_MAX: Final = 7
S_ASSETS: Final = 8  # base | quote << 32
S_FEES: Final = 9  # maker | taker << 32, in ppm
S_COLLAR: Final = 10
S_LAST: Final = 11  # last trade price; 0: none yet
SYMBOL_WORDS: Final = 16
SYMBOL_SHIFT: Final = 4
assert 1 << SYMBOL_SHIFT == SYMBOL_WORDS

# Order words: hot line, then cold line.
O_ID: Final = 0
O_REMAINING: Final = 1
O_HOLD: Final = 2
O_NOTIONAL: Final = 3  # over all fills
O_FEE: Final = 4  # over all fills
O_FEES: Final = 5  # credit | maker ppm << 20 | taker ppm << 40; credit: millionths charged beyond the exact fee
O_PLACE: Final = 6  # account | level << 32
O_KINDS: Final = 7  # bits 0-7 own marks, then as in an event: flags << 8, side << 32 …; symbol << 16
O_PRICE: Final = 8
O_STOP: Final = 9
O_QUANTITY: Final = 10  # total; by quote: what is filled
O_CLIENT: Final = 11  # four words of the client order id
O_TAIL: Final = 15  # position in the expiry heap | first four bytes of the client order id << 32
ORDER_WORDS: Final = 16
ORDER_SHIFT: Final = 4
assert 1 << ORDER_SHIFT == ORDER_WORDS

FEE_BITS: Final = 20
FEE_MASK: Final = (1 << FEE_BITS) - 1
assert FEE_MASK > 1_000_000

# Link words.
LINK_SHIFT: Final = 2
K_PREVIOUS: Final = 0
K_NEXT: Final = 1
K_ACCOUNT_PREVIOUS: Final = 2
K_ACCOUNT_NEXT: Final = 3

# Level words.
L_PRICE: Final = 0
L_LOTS: Final = 1
L_HEAD: Final = 2
L_TAIL: Final = 3
L_COUNT: Final = 4
L_LADDER: Final = 5
LEVEL_SHIFT: Final = 3

# Timer words: the first by position in the heap (from 1 on), the others by account.
T_ACCOUNT: Final = 0
T_END: Final = 1
T_PLACE: Final = 2  # position in the heap; 0: not armed
TIMER_SHIFT: Final = 2

# Ladders of a symbol.
LADDER_BIDS: Final = 0
LADDER_ASKS: Final = 1
LADDER_STOP_BUYS: Final = 2
LADDER_STOP_SELLS: Final = 3
LADDERS: Final = 4
LADDER_SHIFT: Final = 2
assert 1 << LADDER_SHIFT == LADDERS

SYMBOLS_LIMIT: Final = 1 << 16
ORDERS_LIMIT: Final = 1 << 24
LADDER_ENTRIES_LIMIT: Final = 1 << 32
"""What ``at`` can tell apart."""


@dataclass(frozen=True, slots=True)
class BookLimits:
    """What a book has room for; running out is answered by ``BOOK_FULL``.

    orders_max: open orders of all symbols. levels_max: price levels per symbol and ladder. accounts_max: account ids
    are below it. Memory is taken from the system only as it is used.
    """

    orders_max: int
    symbols_max: int
    levels_max: int
    accounts_max: int
    shard: int

    def __post_init__(self) -> None:
        assert 1 <= self.orders_max <= ORDERS_LIMIT
        assert 1 <= self.symbols_max <= SYMBOLS_LIMIT
        assert self.levels_max >= 1
        assert self.symbols_max * LADDERS * self.levels_max <= LADDER_ENTRIES_LIMIT
        assert 1 <= self.accounts_max < 2**31
        assert 0 <= self.shard < 64


class BookState(NamedTuple):
    """The memory of one shard's books; the module text says what each array is."""

    header: NDArray[np.int64]
    symbols: NDArray[np.int64]
    orders: NDArray[np.int64]
    links: NDArray[np.uint32]
    levels: NDArray[np.int64]
    ladder_keys: NDArray[np.int64]
    ladder_levels: NDArray[np.uint32]
    ladder_counts: NDArray[np.int64]
    id_index: NDArray[np.int64]
    accounts: NDArray[np.uint32]
    expiries: NDArray[np.uint32]
    expires_at: NDArray[np.int64]
    timers: NDArray[np.int64]


def make_book(limits: BookLimits) -> BookState:
    """Make an empty book: no symbol listed, event and command sequences at 0."""
    slots = limits.orders_max + 1
    index_size = 1 << (2 * limits.orders_max - 1).bit_length()
    ladder_entries = limits.symbols_max * LADDERS * limits.levels_max
    book = BookState(
        header=np.zeros(HEADER_WORDS, np.int64),
        symbols=np.zeros(limits.symbols_max * SYMBOL_WORDS, np.int64),
        orders=_aligned_zeros(slots * ORDER_WORDS),
        links=np.zeros(slots * 4, np.uint32),
        levels=_aligned_zeros(slots << LEVEL_SHIFT),
        ladder_keys=np.zeros(ladder_entries, np.int64),
        ladder_levels=np.zeros(ladder_entries, np.uint32),
        ladder_counts=np.zeros(limits.symbols_max * LADDERS, np.int64),
        id_index=_aligned_zeros(index_size),
        accounts=np.zeros(limits.accounts_max * 2, np.uint32),
        expiries=np.zeros(slots, np.uint32),
        expires_at=np.zeros(slots, np.int64),
        timers=_aligned_zeros((limits.accounts_max + 1) << TIMER_SHIFT),
    )
    header = book.header
    header[H_RING_SEQUENCE] = -1
    header[H_ORDER_FRESH] = 1
    header[H_LEVEL_FRESH] = 1
    header[H_ORDERS_MAX] = limits.orders_max
    header[H_LEVELS_MAX] = limits.levels_max
    header[H_SYMBOLS_MAX] = limits.symbols_max
    header[H_ACCOUNTS_MAX] = limits.accounts_max
    header[H_SHARD] = limits.shard
    header[H_INDEX_MASK] = index_size - 1
    return book


def _aligned_zeros(words: int) -> NDArray[np.int64]:
    """Zeroed int64 words that begin on a cache line, so that a record of a line's size never straddles two."""
    memory = np.zeros(words + 7, np.int64)
    skip = (-memory.ctypes.data // 8) % 8
    return memory[skip : skip + words]
