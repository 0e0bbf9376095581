"""Admission: whose turn it is at a front, and who is refused because more is asked than it can answer.

A front is one thread. Whatever it has begun makes everything else slower, and when more comes than can be answered
everyone waits ever longer for answers that come too late. So only a few requests are in *work* at a time; the others
wait for their turn in lanes, one for each address, and the lanes take turns. What is too much for its lane is refused
at once, by an answer that costs a part of the real one. A request that waits for the engine, for the database or for
its client is not in work: a matcher that is dead and a database that is away do not make a front seem full.

Rule 1: a burst passes, a queue does not. A lane may grow until three quarters of what is free of the room is in it. But
where its requests have waited too long for a while without a break, more comes than can be answered: it is *crowded*,
and keeps a few only, which are answered soon, until hardly anything of it has to be refused any more.
Rule 2: whoever asks little waits for one turn of each other address, and not for what these have in their lanes.
Rule 3: cancels, and what operators ask, have rooms of their own.
Rule 4: nobody waits for a turn longer than ``PATIENCE_S``: should those in work stand still, others go on beside them.
It refuses to know what requests want: which kind they are is told from the method and the path alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum, auto
from typing import Final

import trio

WORKING_MAX: Final = 4
"""In work at a time, of each kind: the next one begins while another's answer goes out."""
WAIT_S_MAX: Final = 0.05
"""A turn that is waited for longer is late ..."""
LATE_S: Final = 0.1
"""... and a lane is crowded when all its turns have been late for so long."""
CROWDED_COUNT: Final = 3
"""What a crowded lane keeps."""
CALM_S: Final = 1.0
"""A lane is crowded no more when in so long ..."""
CALM_SHARE: Final = 0.1
"""... no more than this share of it had to be refused."""
FREE_FACTOR: Final = 3
PATIENCE_S: Final = 0.5
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


class Crowded(Exception):  # noqa: N818 - a refusal, not a fault
    """More is asked than can be answered."""


class _Turn:
    """A turn that is waited for."""

    __slots__ = ("event", "has_come", "since_s")

    def __init__(self, since_s: float) -> None:
        self.event = trio.Event()
        self.has_come = False
        self.since_s = since_s


class _Lane:
    """What one address waits for."""

    __slots__ = ("_asked", "_late_since_s", "_refused", "_window_s", "coming", "turns")

    def __init__(self) -> None:
        self.turns: deque[_Turn] = deque()
        self.coming = 0
        """Let in, but not waiting yet: they come within a turn of the event loop."""
        self._late_since_s: float | None = None
        self._window_s: float | None = None
        """When the present look at a crowded lane began; None: it is not crowded."""
        self._asked = self._refused = 0

    @property
    def count(self) -> int:
        """How much of the room is taken."""
        return len(self.turns) + self.coming

    @property
    def is_crowded(self) -> bool:
        """Whether more comes than can be answered."""
        return self._window_s is not None

    def note_wait(self, wait_s: float, now_s: float) -> None:
        """Note how long a turn was waited for."""
        if wait_s <= WAIT_S_MAX:
            self._late_since_s = None
        elif self._late_since_s is None:
            self._late_since_s = now_s
        elif self._window_s is None and now_s - self._late_since_s >= LATE_S:
            self._window_s, self._asked, self._refused = now_s, 0, 0

    def note_asked(self, now_s: float, *, refused: bool) -> None:
        """Note what became of a request."""
        if self._window_s is None:
            return
        self._asked += 1
        self._refused += refused
        if now_s - self._window_s >= CALM_S:
            is_over = self._refused <= self._asked * CALM_SHARE
            self._window_s, self._asked, self._refused = None if is_over else now_s, 0, 0
            self._late_since_s = None


class Room:
    """Room for one kind of requests."""

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Have room for ``size`` requests that wait for their turn."""
        self.working = 0
        self.waiting = 0
        """Those who wait, and those who come."""
        self._size = size
        self._clock = clock
        self._lanes: dict[str, _Lane] = {}
        """By address, in the order of their next turns. One in which nothing is, and that is not crowded, goes."""

    @property
    def crowded(self) -> int:
        """How many addresses ask more than can be answered."""
        return sum(lane.is_crowded for lane in self._lanes.values())

    def refuses(self, address: str) -> bool:
        """Refuse a request, if there is no room for it; if there is, it is not let in yet."""
        lane = self._lanes.get(address)
        count, is_crowded = (lane.count, lane.is_crowded) if lane is not None else (0, False)
        limit = CROWDED_COUNT if is_crowded else FREE_FACTOR * (self._size - self.waiting)
        if count < limit and self.waiting < self._size:
            return False
        if lane is not None:
            lane.note_asked(self._clock(), refused=True)
        return True

    def let_in(self, address: str) -> bool:
        """Let a request come, or refuse it."""
        if self.refuses(address):
            return False
        lane = self._lanes.get(address)
        if lane is None:
            self._sweep()
            lane = self._lanes[address] = _Lane()
        lane.note_asked(self._clock(), refused=False)
        lane.coming += 1
        self.waiting += 1
        return True

    def stay_away(self, address: str) -> None:
        """Have a request that was let in not come, or not now."""
        self._lanes[address].coming -= 1
        self.waiting -= 1
        self._tidy(address)

    async def enter(self, address: str) -> None:
        """Wait for the turn of a request that was let in; it is in work then, until ``leave``."""
        if self.working < WORKING_MAX and not any(lane.turns for lane in self._lanes.values()):
            self.stay_away(address)
            self.working += 1
            return
        lane = self._lanes[address]
        turn = _Turn(self._clock())
        lane.coming -= 1
        lane.turns.append(turn)
        try:
            with trio.move_on_after(PATIENCE_S):
                await turn.event.wait()
        except trio.Cancelled:
            if turn.has_come:
                self.leave()
            else:
                self._end(address, lane, turn)
            raise
        if not turn.has_come:
            self._end(address, lane, turn)
            self.working += 1

    def come_back(self) -> None:
        """Be in work again at once, after waiting for others: who is nearly done makes room soonest."""
        self.working += 1

    def leave(self) -> None:
        """Be no more in work; whose turn it is begins."""
        self.working -= 1
        while self.working < WORKING_MAX and (address := self._next()) is not None:
            lane = self._lanes.pop(address)
            self._lanes[address] = lane  # its next turn is after all others'
            turn = lane.turns[0]
            turn.has_come = True
            self._end(address, lane, turn)
            self.working += 1
            turn.event.set()

    def _next(self) -> str | None:
        return next((address for address, lane in self._lanes.items() if lane.turns), None)

    def _end(self, address: str, lane: _Lane, turn: _Turn) -> None:
        """Take a turn out of its lane."""
        now_s = self._clock()
        lane.turns.remove(turn)
        lane.note_wait(now_s - turn.since_s, now_s)
        self.waiting -= 1
        self._tidy(address)

    def _tidy(self, address: str) -> None:
        lane = self._lanes[address]
        if not lane.count and not lane.is_crowded:
            del self._lanes[address]

    def _sweep(self) -> None:
        """Forget lanes that were crowded and have been silent since."""
        now_s = self._clock()
        for address, lane in list(self._lanes.items()):
            if lane.is_crowded and not lane.count:
                lane.note_asked(now_s, refused=False)
                self._tidy(address)


class Place:
    """A request on its way through a room: let in, waiting for its turn, in work, waiting for others, done."""

    def __init__(self, room: Room, address: str, note_refusal: Callable[[], None]) -> None:
        self.is_whole = False
        """Whether all of the request has come."""
        self.body: bytes | None = None
        """What came with the head, where that was all of the body."""
        self._room = room
        self._address = address
        self._note_refusal = note_refusal
        self._is_coming = True
        self._is_working = False

    async def enter(self) -> None:
        """Wait for the turn. Raises Crowded: a request that took its time to come may find no room any more."""
        if not self._is_coming and not self._room.let_in(self._address):
            self._note_refusal()
            raise Crowded
        self._is_coming = False
        await self._room.enter(self._address)
        self._is_working = True

    def stay_away(self) -> None:
        """Take no room until ``enter``: not all of the request has come."""
        if self._is_coming:
            self._is_coming = False
            self._room.stay_away(self._address)

    def give_back(self) -> None:
        """Be done, once and for all."""
        self.stay_away()
        if self._is_working:
            self._is_working = False
            self._room.leave()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Be out of work meanwhile."""
        if not self._is_working:
            yield
            return
        self._is_working = False
        self._room.leave()
        try:
            yield
        finally:
            self._room.come_back()
            self._is_working = True


class Admission:
    """All rooms of a front."""

    def __init__(
        self, size: int, note_refusal: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Have ``size`` requests of each kind wait at most. note_refusal: called for each that is refused."""
        self.rooms = {kind: Room(size, clock) for kind in Kind}
        self.note_refusal = note_refusal

    @property
    def count(self) -> int:
        """Requests that are in work or wait for their turn, of all kinds."""
        return sum(room.working + room.waiting for room in self.rooms.values())

    @property
    def crowded(self) -> int:
        """How many addresses ask more than can be answered."""
        return sum(room.crowded for room in self.rooms.values())

    @property
    def is_quiet(self) -> bool:
        """Whether nobody waits for a turn: then nobody is refused."""
        return not any(room.waiting for room in self.rooms.values())

    def ask(self, method: str, path: bytes, address: str) -> Place | None:
        """Let a request in; None: it is refused."""
        room = self.rooms[kind_of(method, path)]
        if room.let_in(address):
            return Place(room, address, self.note_refusal)
        self.note_refusal()
        return None

    def refuses(self, method: str, path: bytes, address: str) -> bool:
        """Refuse a request, if there is no room for it; else it may ask."""
        is_refused = self.rooms[kind_of(method, path)].refuses(address)
        if is_refused:
            self.note_refusal()
        return is_refused


_present: ContextVar[Place | None] = ContextVar("place", default=None)


@contextmanager
def working_at(place: Place) -> Iterator[None]:
    """Have everything inside, in this task, be the work of one request; at its end the place is given back."""
    token = _present.set(place)
    try:
        yield
    finally:
        _present.reset(token)
        place.give_back()


async def pause(seconds: float) -> None:
    """Sleep, to look again later; the present request is not in work meanwhile."""
    with waiting():
        await trio.sleep(seconds)


class Pauses:
    """Pauses between looks, each twice as long as the one before, in seconds from ``shortest_s`` to ``longest_s``."""

    def __init__(self, shortest_s: float, longest_s: float) -> None:
        self._next_s = shortest_s
        self._longest_s = longest_s

    async def take(self) -> None:
        """Take the next one; the present request is not in work meanwhile."""
        await pause(self._next_s)
        self._next_s = min(self._next_s * 2, self._longest_s)


@contextmanager
def waiting() -> Iterator[None]:
    """Wait for somebody else: the present request, if there is one, is not in work meanwhile."""
    place = _present.get()
    if place is None:
        yield
        return
    with place.waiting():
        yield
