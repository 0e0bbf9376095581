"""The order book: commands in, events out. One call takes a batch of each.

Rule 1: every change to resting orders happens here and in the files this one names. Rule 2: it knows no clock, no ring,
no file and no user; the same commands give the same events, byte for byte, however they are cut into batches and
however small the event buffer is. Rule 3: everything configurable (fees, collars, limits, states, new symbols) reaches
it as commands. Rule 4: running out of a limit is answered (BOOK_FULL), never overrun.

``book_state`` has the memory, ``book_place``, ``book_amend``, ``book_cancel``, ``book_timers``, ``book_symbols`` the
commands, ``book_match`` and ``book_stops`` what follows from them, ``book_events`` the output, ``book_views`` what
others may see, ``book_dump`` how a book is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tradeengine.core.book_amend import (
    amend,
)
from tradeengine.core.book_cancel import (
    cancel,
    cancel_more,
    expire_more,
    start_cancel_all,
    start_expire,
)
from tradeengine.core.book_dump import (
    compile_kernels as compile_dump_kernels,
)
from tradeengine.core.book_dump import (
    dump,
    load,
    state_hash,
)
from tradeengine.core.book_events import (
    C_HOLD,
    C_KINDS,
    C_RING_SEQUENCE,
    C_TIMESTAMP,
    COMMAND_SHIFT,
    E_KINDS,
    EVENT_SHIFT,
    Call,
    put_refusal,
)
from tradeengine.core.book_kinds import (
    COMMAND_AMEND,
    COMMAND_CANCEL,
    COMMAND_CANCEL_ALL,
    COMMAND_CANCEL_ALL_AFTER,
    COMMAND_EXPIRE,
    COMMAND_LIST_SYMBOL,
    COMMAND_PLACE,
    COMMAND_SET_PARAMETERS,
    COMMAND_SET_TRADING_STATE,
    EVENT_REFUSED,
    FLAG_LAST_OF_COMMAND,
    INVALID_REQUEST,
)
from tradeengine.core.book_match import (
    match,
)
from tradeengine.core.book_place import (
    place,
)
from tradeengine.core.book_prefetch import look_ahead
from tradeengine.core.book_state import (
    H_BOUND,
    H_COMMAND_SEQUENCE,
    H_CURSOR,
    H_ENDING,
    H_EVENT_SEQUENCE,
    H_PHASE,
    H_RING_SEQUENCE,
    H_TAKER,
    H_TIMESTAMP,
    PHASE_CANCEL_ALL,
    PHASE_EXPIRE,
    PHASE_IDLE,
    PHASE_MATCH,
    PHASE_STOPS,
    BookLimits,
    BookState,
    at,
    kernel,
    make_book,
)
from tradeengine.core.book_stops import (
    fire_next,
)
from tradeengine.core.book_symbols import (
    list_symbol,
    set_more_states,
    set_parameters,
    start_set_state,
)
from tradeengine.core.book_timers import (
    set_timer,
)
from tradeengine.core.book_views import compile_kernels as compile_view_kernels
from tradeengine.core.book_views import (
    in_command,
    last_ring_sequence,
    last_timestamp_ns,
    levels,
    next_command_sequence,
    next_event_sequence,
    next_expiry_ns,
    order_count,
    stops,
    timers,
    touch,
    touches,
)
from tradeengine.core.records import command_dtype, event_dtype

__all__ = [
    "BookLimits",
    "BookState",
    "apply",
    "compile_kernels",
    "dump",
    "in_command",
    "last_ring_sequence",
    "last_timestamp_ns",
    "levels",
    "load",
    "make_book",
    "next_command_sequence",
    "next_event_sequence",
    "next_expiry_ns",
    "order_count",
    "state_hash",
    "stops",
    "timers",
    "touch",
    "touches",
]


def apply(
    book: BookState,
    commands: NDArray[np.void],
    first_command_sequence: int,
    start: int,
    events: NDArray[np.void],
) -> tuple[int, int]:
    """Carry out ``commands[start:]`` until all are done or the event buffer is full.

    commands: shape (n,), ``command_dtype``, contiguous; read only. first_command_sequence: of ``commands[0]``.
    events: shape (m,), ``event_dtype``, contiguous, m ≥ 1; written from its beginning.
    Returns (next_index, event_count). While next_index < n, take the events away and call again with the same commands
    and start=next_index: it may be in the middle of that command (``in_command``).
    """
    assert commands.dtype == command_dtype
    assert events.dtype == event_dtype
    assert len(events) >= 1
    words = commands.view(np.int64)
    words.flags.writeable = False  # one kind of array, whether the ring is mapped writable or not
    index, count = _apply(book, words, first_command_sequence, start, len(commands), events.view(np.int64), len(events))
    return int(index), int(count)


def compile_kernels() -> None:
    """Compile (or load) every kernel of the book for the types in which it is called."""
    book = make_book(BookLimits(orders_max=4, symbols_max=1, levels_max=4, accounts_max=20, shard=0))
    apply(book, np.zeros(1, command_dtype), 0, 0, np.zeros(1, event_dtype))
    compile_dump_kernels()
    compile_view_kernels()


@kernel
def _apply(
    book: BookState,
    commands: NDArray[np.int64],
    first_command_sequence: int,
    start: int,
    end: int,
    events: NDArray[np.int64],
    capacity: int,
) -> tuple[int, int]:
    header = book.header
    first_event_sequence = header[H_EVENT_SEQUENCE]
    n = 0
    i = start
    while i < end:
        look_ahead(book, commands, i, end)
        c = at(i, COMMAND_SHIFT)
        kind = commands[c + C_KINDS] & 0xFF
        # An EXPIRE is the matcher's own and never was in the command ring.
        ring_sequence = header[H_RING_SEQUENCE] if kind == COMMAND_EXPIRE else commands[c + C_RING_SEQUENCE]
        call = Call(commands, events, capacity, first_event_sequence, c, first_command_sequence + i, ring_sequence)
        if header[H_PHASE] == PHASE_IDLE:
            if n == capacity:
                break
            header[H_RING_SEQUENCE] = ring_sequence
            header[H_TIMESTAMP] = commands[c + C_TIMESTAMP]
            if kind == COMMAND_PLACE:
                n = place(book, call, n)
            elif kind == COMMAND_CANCEL:
                n = cancel(book, call, n)
            else:
                n = _seldom(book, call, n, kind)
        if header[H_PHASE] != PHASE_IDLE:
            n = _go_on(book, call, n)
            if header[H_PHASE] != PHASE_IDLE:
                break
        # The buffer is given away only when one more event is to come, so a command's last one is still in it.
        events[at(n - 1, EVENT_SHIFT) + E_KINDS] |= FLAG_LAST_OF_COMMAND
        i += 1
        header[H_COMMAND_SEQUENCE] = first_command_sequence + i
    header[H_EVENT_SEQUENCE] = first_event_sequence + n
    return i, n


@kernel
def _seldom(book: BookState, call: Call, n: int, kind: int) -> int:
    """Begin a command that is not PLACE or CANCEL. Return the count of events."""
    if kind == COMMAND_AMEND:
        return amend(book, call, n)
    if kind == COMMAND_CANCEL_ALL:
        return start_cancel_all(book, call, n)
    if kind == COMMAND_EXPIRE:
        start_expire(book)
        return n
    if kind == COMMAND_CANCEL_ALL_AFTER:
        return set_timer(book, call, n)
    if kind == COMMAND_LIST_SYMBOL:
        return list_symbol(book, call, n)
    if kind == COMMAND_SET_PARAMETERS:
        return set_parameters(book, call, n)
    if kind == COMMAND_SET_TRADING_STATE:
        return start_set_state(book, call, n)
    return put_refusal(call, n, EVENT_REFUSED, INVALID_REQUEST, call.commands[call.command + C_HOLD])


@kernel
def _go_on(book: BookState, call: Call, n: int) -> int:
    """Bring the present command to its end, or as far as the buffer has room. Return the count of events."""
    header = book.header
    while header[H_PHASE] != PHASE_IDLE and n < call.capacity:
        phase = header[H_PHASE]
        if phase == PHASE_MATCH:
            n = match(book, call, n, header[H_TAKER], header[H_BOUND], header[H_ENDING])
        elif phase == PHASE_STOPS:
            n = fire_next(book, call, n, header[H_CURSOR])
        elif phase == PHASE_CANCEL_ALL:
            n = cancel_more(book, call, n)
        elif phase == PHASE_EXPIRE:
            n = expire_more(book, call, n)
        else:
            n = set_more_states(book, call, n)
    return n
