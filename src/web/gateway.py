"""The gateway: commands go out on this front's ring, the events that they caused come back to whoever waits.

Who sends a command says whom to call when its last event has come, or when too much time is over. The inbox has all
event rings read (``scan``); what carries this front's ring number is kept for whoever waits. Nothing is read while
nobody waits: the readers then jump to the heads before the next command goes out, so an idle front costs nothing
however busy the engine is.

Rule 1: whoever waits has a deadline, and there is room for a fixed number; the next one is refused before sending.
Of what is free a shard takes three quarters at most, so that one whose matcher is away leaves room for the others.
Rule 2: when events were overwritten before they were read, nobody guesses: all who wait are told that the outcome
is unknown.
It refuses to know what commands and events mean, and HTTP.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np
import trio
from quart import has_request_context

from tradeengine.core.records import EventFlag, byte, event_dtype
from tradeengine.ipc.crashpoints import crash_point
from tradeengine.ipc.metrics import MetricPage
from tradeengine.ipc.ring import Lapped, RingFull, RingWriter
from tradeengine.ipc.ring_reader import RingReader
from tradeengine.ipc.tracing import trace, traces
from tradeengine.web.admission import waiting as waiting_for_others
from tradeengine.web.envelope import request_id

Records: TypeAlias = np.ndarray[Any, np.dtype[np.void]]

IN_FLIGHT_MAX: Final = 1024
FREE_FACTOR: Final = 3
"""So many times what is free may wait for one shard."""
EVENTS_KEPT_MAX: Final = 16_384
"""Of one command; a command with more of them keeps the first so many, and each shard's last."""
POLL_COUNT: Final = 1024
_INGRESS_RING_BYTE: Final = byte(event_dtype, "ingress_ring")


class NoRoom(Exception):  # noqa: N818 - a refusal, not a fault
    """Nothing was sent: too many requests wait already, or the ring is full."""


class OutcomeUnknown(Exception):  # noqa: N818 - the API's word
    """The command was sent, and whether it was carried out cannot be told from here."""


@dataclass(slots=True)
class Waiting:
    """A command on its way. ``parts``: how many shards have yet to finish it; ``lost``: how it ends is not known."""

    shard: int
    parts: int
    done: Callable[[Waiting], None]
    sent_ns: int
    expires_s: float
    chunks: list[Records] = field(default_factory=list)
    count: int = 0
    lost: bool = False

    def events(self) -> Records:
        """Give the events of the command, in order. Raises OutcomeUnknown."""
        if self.lost:
            raise OutcomeUnknown
        return self.chunks[0] if len(self.chunks) == 1 else np.concatenate(self.chunks)


def is_cut(events: Records) -> bool:
    """Whether events of the command were left out: the last ones then come on top of as many as are kept."""
    return len(events) > EVENTS_KEPT_MAX


class Gateway:
    """One command ring out, all event rings back."""

    def __init__(
        self,
        ingress_ring: int,
        commands: RingWriter,
        events: Mapping[str, RingReader],
        refusals: str,
        wake: Callable[[], None],
        metrics: MetricPage,
        shard_of: Callable[[Records], int],
    ) -> None:
        """Join the ends.

        ingress_ring: the number that risk writes into events of this front's commands. events: a reader per event
        ring; ``refusals`` names the one on which risk answers for all shards at once. wake: called when somebody begins
        to wait, so that the inbox reads. shard_of: names the shard that answers a command; what several answer has a
        number of its own.
        """
        self._ingress_ring = ingress_ring
        self._commands = commands
        self._refusals = events[refusals]
        self._readers = tuple(events.values())
        self._wake = wake
        self._waiting: dict[int, Waiting] = {}
        self._shard_of = shard_of
        self._by_shard: Counter[int] = Counter()
        """How many wait, by who answers them."""
        self._metrics = metrics
        self._sent = metrics.counter("orders_sent")
        self._in, self._out = metrics.counter("records_in"), metrics.counter("records_out")
        self._unknown = metrics.counter("outcomes_unknown")
        self._lapped = metrics.counter("lapped")
        self._in_flight = metrics.gauge("in_flight")
        self._latency_us = metrics.histogram("command_latency_us")

    @property
    def waits(self) -> bool:
        """Whether anyone waits."""
        return bool(self._waiting)

    async def ask(self, command: Records, timeout_s: float, parts: int = 1) -> Records:
        """Send one command (shape (1,)) and return the events that it caused, in order.

        parts: how many shards answer it. Raises NoRoom (nothing was sent) and OutcomeUnknown.
        """
        return (await self.ask_whole(command, timeout_s, parts)).events()

    async def ask_whole(self, command: Records, timeout_s: float, parts: int = 1) -> Waiting:
        """Send one command as ``ask`` does, and return what came back, also when some of it did not. Raises NoRoom."""
        finished = trio.Event()
        waiting = self.send(command, lambda _: finished.set(), timeout_s, parts)
        try:
            # Also without anyone who reads the rings a question ends.
            with trio.move_on_after(timeout_s), waiting_for_others():
                await finished.wait()
        finally:
            self._give_up(int(command["ingress_sequence"][0]))
        return waiting

    async def ask_each(self, commands: Sequence[Records], timeout_s: float) -> list[Waiting | None]:
        """Send commands (each of shape (1,), for one shard), one behind the other, and wait until all have ended.

        None: for this one there was no room, and it was not sent. One that was lost says so by its ``events``.
        """
        if not commands:
            return []
        finished = trio.Event()
        left = len(commands)

        def done(_: Waiting | None) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                finished.set()

        asked: list[Waiting | None] = []
        try:
            for command in commands:
                try:
                    asked.append(self.send(command, done, timeout_s))
                except NoRoom:
                    asked.append(None)
                    done(None)
            with trio.move_on_after(timeout_s), waiting_for_others():
                await finished.wait()
        finally:
            # A command that was not sent has the number of the next one that is.
            for command, waiting in zip(commands, asked, strict=False):
                if waiting is not None:
                    self._give_up(int(command["ingress_sequence"][0]))
        return asked

    def send(self, command: Records, done: Callable[[Waiting], None], timeout_s: float, parts: int = 1) -> Waiting:
        """Send one command (shape (1,)); ``done`` is called once, later. Raises NoRoom: nothing was sent."""
        shard = self._shard_of(command)
        if self._by_shard[shard] >= FREE_FACTOR * (IN_FLIGHT_MAX - len(self._waiting)):
            raise NoRoom
        if not self._waiting:
            for reader in self._readers:
                reader.seek(reader.head)
        sequence = self._commands.head
        command["ingress_ring"] = self._ingress_ring
        command["ingress_sequence"] = sequence
        crash_point("front.before_send")
        try:
            self._commands.publish(command)
        except RingFull:
            raise NoRoom from None
        crash_point("front.after_send")
        self._metrics.add(self._sent)
        self._metrics.add(self._out)
        if traces():
            trace("sent by front", command, request_id=request_id() if has_request_context() else None)
        expires_s = time.monotonic() + timeout_s
        waiting = self._waiting[sequence] = Waiting(shard, parts, done, time.perf_counter_ns(), expires_s)
        self._by_shard[shard] += 1
        self._wake()
        return waiting

    def has_events(self) -> bool:
        """Whether a ring has something that was not read."""
        return any(reader.available() for reader in self._readers)

    def scan(self) -> int:
        """Read what is new on every ring, call who has waited for it; returns how many records were passed."""
        passed = 0
        for reader in self._readers:
            before = reader.cursor
            try:
                events = reader.poll_matching(_INGRESS_RING_BYTE, self._ingress_ring, POLL_COUNT)
            except Lapped:
                self._metrics.add(self._lapped)
                self._lose(list(self._waiting))
                return 1
            passed += reader.cursor - before
            if len(events):
                self._deliver(events, whole=reader is self._refusals)
        self._metrics.add(self._in, passed)
        return passed

    def is_taken(self, sequence: int) -> bool:
        """Whether risk has passed the command of that number in the ring."""
        return all(reader.cursor > sequence for reader in self._commands.ring.statistics().readers)

    def expire(self) -> None:
        """Tell those whose time is over that their outcome is unknown."""
        now_s = time.monotonic()
        self._lose([sequence for sequence, waiting in self._waiting.items() if waiting.expires_s <= now_s])

    def measure(self) -> None:
        """Show on the metric page how many wait."""
        self._metrics.set(self._in_flight, len(self._waiting))

    def _deliver(self, events: Records, *, whole: bool) -> None:
        """Hand each command's events to its request. ``whole``: the answer stands for every shard."""
        sequences = events["ingress_sequence"]
        bounds = (0, *(np.flatnonzero(np.diff(sequences)) + 1).tolist(), len(events))
        for start, end in pairwise(bounds):
            waiting = self._waiting.get(int(sequences[start]))
            if waiting is None:
                continue  # its request has given up, or a front before this one sent it
            group = events[start:end]
            _keep(waiting, group)
            finished = int(np.count_nonzero(group["flags"] & EventFlag.LAST_OF_COMMAND))
            if finished:
                waiting.parts = 0 if whole else waiting.parts - finished
                if waiting.parts <= 0:
                    self._forget(int(sequences[start]))
                    latency_us = (time.perf_counter_ns() - waiting.sent_ns) // 1000
                    self._metrics.record(self._latency_us, latency_us)
                    crash_point("front.before_answer")
                    waiting.done(waiting)

    def _give_up(self, sequence: int) -> None:
        """Wait no more for a command, should it still be on its way."""
        waiting = self._forget(sequence)
        if waiting is not None:
            waiting.lost = True
            self._metrics.add(self._unknown)

    def _lose(self, sequences: list[int]) -> None:
        for sequence in sequences:
            waiting = self._forget(sequence)
            assert waiting is not None
            waiting.lost = True
            self._metrics.add(self._unknown)
            waiting.done(waiting)

    def _forget(self, sequence: int) -> Waiting | None:
        """Take a command out of those that are waited for."""
        waiting = self._waiting.pop(sequence, None)
        if waiting is not None:
            self._by_shard[waiting.shard] -= 1
        return waiting


def _keep(waiting: Waiting, group: Records) -> None:
    """Copy a command's events; of an enormous one only the first many, and whatever ends it on a shard."""
    room = max(EVENTS_KEPT_MAX - waiting.count, 0)
    waiting.count += len(group)
    if len(group) <= room:
        waiting.chunks.append(group.copy())
        return
    kept, rest = group[:room], group[room:]
    for chunk in (kept, rest[rest["flags"] & EventFlag.LAST_OF_COMMAND != 0]):
        if len(chunk):
            waiting.chunks.append(chunk.copy())
