"""The gateway: commands go out on this front's ring, the events that they caused come back to whoever waits.

A request writes one command and waits; one task reads all event rings, keeps what carries this front's ring number,
and wakes the request when the last event of its command has come. Nothing is read while nobody waits: the readers
then jump to the heads before the next command goes out, so an idle front costs nothing however busy the engine is.

Rule 1: whoever waits has a deadline, and there is room for a fixed number; the next one is refused before sending.
Rule 2: when events were overwritten before they were read, nobody guesses: all who wait are told that the outcome
is unknown.
It refuses to know what commands and events mean, and HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np
import trio

from tradeengine.core.records import EventFlag, byte, event_dtype
from tradeengine.ipc.doorbell import Doorbell
from tradeengine.ipc.metrics import MetricPage
from tradeengine.ipc.ring import Lapped, RingFull, RingWriter
from tradeengine.ipc.ring_reader import RingReader

Records: TypeAlias = np.ndarray[Any, np.dtype[np.void]]

IN_FLIGHT_MAX: Final = 1024
EVENTS_KEPT_MAX: Final = 16_384
"""Of one command; a command with more of them keeps the first so many and the last."""
POLL_COUNT: Final = 1024
WAIT_S_MAX: Final = 0.1
_INGRESS_RING_BYTE: Final = byte(event_dtype, "ingress_ring")


class NoRoom(Exception):  # noqa: N818 - a refusal, not a fault
    """Nothing was sent: too many requests wait already, or the ring is full."""


class OutcomeUnknown(Exception):  # noqa: N818 - the API's word
    """The command was sent, and whether it was carried out cannot be told from here."""


@dataclass(slots=True)
class _Waiting:
    """A request that waits. ``parts``: how many shards have yet to finish its command."""

    parts: int
    done: trio.Event = field(default_factory=trio.Event)
    chunks: list[Records] = field(default_factory=list)
    count: int = 0
    lost: bool = False


class Gateway:
    """One command ring out, all event rings back."""

    def __init__(
        self,
        ingress_ring: int,
        commands: RingWriter,
        events: Mapping[str, RingReader],
        refusals: str,
        doorbell: Doorbell,
        metrics: MetricPage,
    ) -> None:
        """Join the ends.

        ingress_ring: the number that risk writes into events of this front's commands. events: a reader per event
        ring; ``refusals`` names the one on which risk answers for all shards at once.
        """
        self._ingress_ring = ingress_ring
        self._commands = commands
        self._refusals = events[refusals]
        self._readers = tuple(events.values())
        self._doorbell = doorbell
        self._waiting: dict[int, _Waiting] = {}
        self._work = trio.Event()
        self._metrics = metrics
        self._sent = metrics.counter("orders_sent")
        self._unknown = metrics.counter("outcomes_unknown")
        self._lapped = metrics.counter("lapped")
        self._in_flight = metrics.gauge("in_flight")
        self._latency_us = metrics.histogram("command_latency_us")

    async def ask(self, command: Records, timeout_s: float, parts: int = 1) -> Records:
        """Send one command (shape (1,)) and return the events that it caused, in order.

        parts: how many shards answer it. Raises NoRoom (nothing was sent) and OutcomeUnknown.
        """
        started_ns = time.perf_counter_ns()
        sequence, waiting = self._send(command, parts)
        try:
            with trio.move_on_after(timeout_s):
                await waiting.done.wait()
        finally:
            del self._waiting[sequence]
        if waiting.lost or not waiting.done.is_set():
            self._metrics.add(self._unknown)
            raise OutcomeUnknown
        self._metrics.record(self._latency_us, (time.perf_counter_ns() - started_ns) // 1000)
        return waiting.chunks[0] if len(waiting.chunks) == 1 else np.concatenate(waiting.chunks)

    async def run(self) -> None:
        """Bring events to those who wait, until cancelled."""
        while True:
            await self._work.wait()
            while self._waiting:
                if self._scan() == 0:
                    await self._doorbell.wait_trio(WAIT_S_MAX, self._has_events)
                else:
                    await trio.lowlevel.checkpoint()
            self._work = trio.Event()

    def measure(self) -> None:
        """Show on the metric page how many wait."""
        self._metrics.set(self._in_flight, len(self._waiting))

    def _send(self, command: Records, parts: int) -> tuple[int, _Waiting]:
        if len(self._waiting) >= IN_FLIGHT_MAX:
            raise NoRoom
        if not self._waiting:
            for reader in self._readers:
                reader.seek(reader.head)
        sequence = self._commands.head
        command["ingress_ring"] = self._ingress_ring
        command["ingress_sequence"] = sequence
        try:
            self._commands.publish(command)
        except RingFull:
            raise NoRoom from None
        self._metrics.add(self._sent)
        waiting = self._waiting[sequence] = _Waiting(parts)
        self._work.set()
        return sequence, waiting

    def _has_events(self) -> bool:
        return any(reader.available() for reader in self._readers)

    def _scan(self) -> int:
        """Read what is new on every ring; returns how many records were passed."""
        passed = 0
        for reader in self._readers:
            before = reader.cursor
            try:
                events = reader.poll_matching(_INGRESS_RING_BYTE, self._ingress_ring, POLL_COUNT)
            except Lapped:
                self._metrics.add(self._lapped)
                self._lose_all()
                return 1
            passed += reader.cursor - before
            if len(events):
                self._deliver(events, whole=reader is self._refusals)
        return passed

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
                    waiting.done.set()

    def _lose_all(self) -> None:
        for waiting in self._waiting.values():
            waiting.lost = True
            waiting.done.set()


def _keep(waiting: _Waiting, group: Records) -> None:
    """Copy a command's events; of an enormous one only the first many and whatever comes last."""
    room = EVENTS_KEPT_MAX - waiting.count
    waiting.count += len(group)
    if len(group) <= room:
        waiting.chunks.append(group.copy())
        return
    if room < 0:
        waiting.chunks.pop()  # the last of the piece before
    else:
        waiting.chunks.append(group[:room].copy())
    waiting.chunks.append(group[-1:].copy())
