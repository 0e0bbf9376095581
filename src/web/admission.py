"""Admission: how much a front works on at a time, and who is refused when more is asked of it.

A front is one thread. What it works on takes turns, so a request that is let in makes all others slower, and when more
comes than can be answered everyone waits ever longer for answers that come too late. So what is too much is refused at
once, before anything of it is read but its head, and by an answer that costs a tenth of the real one.

Counted is what is *in work*: a request that waits for the engine, for the database or for its client takes no room. So
a matcher that is dead and a database that is away do not make a front seem full.

Rule 1: a burst passes, a queue does not. As many as there is room for are let in at a moment; but where more than a
quarter of the room has been taken for a while without a break, more comes than can be answered: then only a sixteenth
is given, so that those who are let in are answered soon, until hardly anybody has to be refused any more.
Rule 2: nobody takes it all. An address is let in while it has less in work than three times what is free. So one that
floods alone leaves a quarter free, and whoever asks little finds room.
Rule 3: cancels, and what operators ask, have room of their own.
It refuses to know what requests want: which kind they are is told from the method and the path alone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum, auto
from typing import Final

QUEUE_DIVISOR: Final = 4
"""More than this part of the room in work, for ``QUEUE_S`` without a break, is a queue."""
QUEUED_DIVISOR: Final = 16
"""What is given of the room while there is a queue."""
QUEUE_S: Final = 0.1
CALM_S: Final = 1.0
"""A queue is over when in so long ..."""
CALM_SHARE: Final = 0.1
"""... no more than this share had to be refused."""
FREE_FACTOR: Final = 3
ROOM_MIN: Final = 16
_PREFIX: Final = b"/api/v1/"
_URGENT: Final = (b"/api/v1/admin/", b"/admin", b"/health", b"/ready", b"/metrics")


class Kind(Enum):
    """Requests that share a room."""

    USUAL = auto()
    CANCEL = auto()
    URGENT = auto()


def kind_of(method: str, path: bytes) -> Kind:
    """Tell a request's kind; ``path`` as it was sent, without the query."""
    if path.startswith(_URGENT):
        return Kind.URGENT
    leaves = method == "DELETE" and path.startswith(b"/api/v1/orders")
    return Kind.CANCEL if leaves or path == b"/api/v1/orders/cancel-all-after" else Kind.USUAL


class Room:
    """Room for one kind of requests."""

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Have room for ``size`` requests at a moment, at least 16."""
        assert size >= ROOM_MIN
        self.taken = 0
        self._size = size
        self._clock = clock
        self._of_address: Counter[str] = Counter()
        self._above_since_s: float | None = None
        """Since when more than a quarter has been taken, without a break."""
        self._window_s: float | None = None
        """When the present look at a queue began; None: there is no queue."""
        self._asked = self._refused = 0

    @property
    def is_queue(self) -> bool:
        """Whether more comes than can be answered."""
        self._look(self._clock())
        return self._window_s is not None

    def let_in(self, address: str) -> bool:
        """Give room to a request, or refuse it."""
        limit = self._size // QUEUED_DIVISOR if self.is_queue else self._size
        allowed = self._of_address[address] < FREE_FACTOR * (limit - self.taken)
        self._asked += 1
        if allowed:
            self.take(address)
        else:
            self._refused += 1
            if not self._of_address[address]:
                del self._of_address[address]
        return allowed

    def take(self, address: str) -> None:
        """Take room, whether there is any or not: for what was let in before and has waited."""
        self.taken += 1
        self._of_address[address] += 1
        if self.taken > self._size // QUEUE_DIVISOR and self._above_since_s is None:
            self._above_since_s = self._clock()

    def leave(self, address: str) -> None:
        """Give room back."""
        self.taken -= 1
        self._of_address[address] -= 1
        if not self._of_address[address]:
            del self._of_address[address]
        if self.taken <= self._size // QUEUE_DIVISOR:
            self._above_since_s = None

    def _look(self, now_s: float) -> None:
        """See whether a queue has begun, or is over."""
        if self._window_s is None:
            if self._above_since_s is not None and now_s - self._above_since_s >= QUEUE_S:
                self._window_s, self._asked, self._refused = now_s, 0, 0
        elif now_s - self._window_s >= CALM_S:
            is_over = self._refused <= self._asked * CALM_SHARE
            self._window_s, self._asked, self._refused = None if is_over else now_s, 0, 0


class Place:
    """A request's place: in work, waiting for others, or given back."""

    def __init__(self, room: Room, address: str) -> None:
        self._room: Room | None = room
        self._address = address

    def give_back(self) -> None:
        """Be done, once and for all."""
        if self._room is not None:
            self._room.leave(self._address)
            self._room = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Take no room meanwhile."""
        room = self._room
        if room is None:
            yield
            return
        room.leave(self._address)
        self._room = None
        try:
            yield
        finally:
            room.take(self._address)
            self._room = room


class Admission:
    """All rooms of a front."""

    def __init__(
        self, size: int, note_refusal: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Have room for ``size`` requests of each kind. note_refusal: called for each that is refused."""
        self.rooms = {kind: Room(size, clock) for kind in Kind}
        self._note_refusal = note_refusal

    @property
    def in_work(self) -> int:
        """Requests in work, of all kinds."""
        return sum(room.taken for room in self.rooms.values())

    @property
    def queues(self) -> frozenset[str]:
        """Kinds of which more comes than can be answered, by name."""
        return frozenset(kind.name.lower() for kind, room in self.rooms.items() if room.is_queue)

    def ask(self, method: str, path: bytes, address: str) -> Place | None:
        """Let a request in; None: it is refused."""
        room = self.rooms[kind_of(method, path)]
        if room.let_in(address):
            return Place(room, address)
        self._note_refusal()
        return None


_present: ContextVar[Place | None] = ContextVar("place", default=None)


@contextmanager
def working_at(place: Place | None) -> Iterator[None]:
    """Have everything inside, in this task, be the work of one request; at its end the place is given back."""
    token = _present.set(place)
    try:
        yield
    finally:
        _present.reset(token)
        if place is not None:
            place.give_back()


@contextmanager
def waiting() -> Iterator[None]:
    """Wait for somebody else: the present request, if there is one, takes no room meanwhile."""
    place = _present.get()
    if place is None:
        yield
        return
    with place.waiting():
        yield
