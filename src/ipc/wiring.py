"""Wiring: what an actor is joined to, as the actor sees it, and the loop in which a plain actor does its duty.

An actor gets its handoff (``ipc.handoff``): its name, the settings, and descriptors. Here they become rings, tables,
doorbells and metric pages, each when it is first asked for.

Rule 1: an actor touches what its handoff names and nothing else.
Rule 2: when the other end of the socket pair closes, the supervisor is gone; the actor exits at once, as if killed.
That is safe, because what must survive is durable before anyone sees it.
Rule 3: SIGTERM asks for an end: ``stopping()`` turns true and the doorbell rings, nothing is interrupted.
It refuses to know what an actor's duty is, and who else exists beyond the names it was given.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from tradeengine.core.feed import feed_dtype
from tradeengine.core.records import command_dtype, event_dtype
from tradeengine.core.tables import table_dtype
from tradeengine.ipc.doorbell import Doorbell
from tradeengine.ipc.handoff import EXIT_ORPHANED, Handoff, Layout, tell
from tradeengine.ipc.meters import measured
from tradeengine.ipc.metrics import MetricPage
from tradeengine.ipc.ring import Ring, RingWriter
from tradeengine.ipc.ring_reader import RingReader
from tradeengine.ipc.segment import Segment
from tradeengine.ipc.seqlock import SeqlockTable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


LAYOUTS: Final[dict[Layout, np.dtype[np.void]]] = {"command": command_dtype, "event": event_dtype, "feed": feed_dtype}
"""What a ring's records are."""
REFUSALS: Final = "refusals"
"""The ring on which risk answers, for all shards at once, what it passes on to none."""


class Wiring:
    """An actor's rings, tables, doorbells and metric pages by name, and its line to the supervisor."""

    def __init__(self, handoff: Handoff, parent: socket.socket | None = None) -> None:
        """Take over the handoff and its descriptors. parent: the line to the supervisor; clients have none here."""
        self.name = handoff.name
        self.role = handoff.role
        self.index = handoff.index
        self.settings = handoff.settings
        self.ingress_rings = handoff.ingress_rings
        self._handoff = handoff
        self._parent = parent
        self._stop = threading.Event()
        self._rings: dict[str, Ring] = {}
        self._tables: dict[str, SeqlockTable] = {}

    @property
    def shard(self) -> int:
        """The shard of a matcher."""
        assert self.role == "matcher"
        return self.index

    @property
    def shard_count(self) -> int:
        """How many matchers there are."""
        return self.settings.engine.shards

    @property
    def ingress_name(self) -> str:
        """The ingress ring that this actor writes; a front has another for administrators."""
        (name,) = (ring for ring in self._handoff.rings if ring == f"ingress.{self.name}")
        return name

    @property
    def ingress_number(self) -> int:
        """What ``ingress_ring`` is in this actor's commands."""
        return self.ingress_rings.index(self.ingress_name)

    @property
    def admin_ring_name(self) -> str:
        """The ingress ring of a front for what administrators ask for."""
        assert self.role == "front"
        return f"ingress.admin-{self.index}"

    @property
    def ring_names(self) -> tuple[str, ...]:
        """Rings that this actor is joined to."""
        return tuple(self._handoff.rings)

    @property
    def answer_rings(self) -> tuple[str, ...]:
        """Rings on which commands are answered: the events of every shard, and refusals."""
        return (*(f"events.{shard}" for shard in range(self.shard_count)), REFUSALS)

    @property
    def ring_writers(self) -> dict[str, str]:
        """Who writes each of these rings."""
        return {name: terms.writer for name, terms in self._handoff.rings.items()}

    def ring(self, name: str) -> Ring:
        """Give a ring by name. Raises KeyError for one that is not this actor's business."""
        if name not in self._rings:
            terms = self._handoff.rings[name]
            fd = self._handoff.fds[f"ring:{name}"]
            self._rings[name] = Ring.attach(fd, LAYOUTS[terms.layout], writable=terms.access != "follow")
        return self._rings[name]

    def ring_writer(self, name: str) -> RingWriter:
        """Give the producer's end of a ring; it rings the doorbells of the ring's readers. Ask once."""
        assert self._handoff.rings[name].access == "write"
        return self.ring(name).writer(self._doorbells)

    def ring_reader(self, name: str) -> RingReader:
        """Give this actor's reading end of a ring, at the cursor where it stood. Ask once."""
        assert self._handoff.rings[name].access != "write"
        return self.ring(name).reader(self.name)

    def table(self, name: str) -> SeqlockTable:
        """Give a table by name. Raises KeyError for one that is not this actor's business."""
        if name not in self._tables:
            limits = self.settings.limits
            dtype = table_dtype(
                name,
                assets_max=limits.assets_max,
                levels_max=limits.levels_max,
                accounts_max=limits.accounts_max,
                symbols_max=limits.symbols_max,
                orders_max=limits.orders_max,
                shards=self.shard_count,
            )
            fd = self._handoff.fds[f"table:{name}"]
            self._tables[name] = SeqlockTable.attach(fd, dtype, writable=self._handoff.tables[name].writable)
        return self._tables[name]

    def board(self, name: str) -> Segment:
        """Map a board by name. Raises KeyError for one that is not this actor's business. Ask once."""
        return Segment.attach(self._handoff.fds[f"board:{name}"], writable=True)

    @cached_property
    def doorbell(self) -> Doorbell:
        """This actor's own bell."""
        return self._doorbells[self._handoff.doorbells[self.name]]

    def wake(self, name: str) -> None:
        """Ring another's bell, after something was stored for it in a table: no ring shows that."""
        self._doorbells[self._handoff.doorbells[name]].ring()

    @cached_property
    def metrics(self) -> MetricPage:
        """This actor's own metric page; ``ipc.metric_names`` says what is on it."""
        page = MetricPage.attach(self._handoff.fds[f"metrics:{self.name}"], writable=True)
        page.started()
        return page

    @cached_property
    def metric_pages(self) -> dict[str, MetricPage]:
        """Every actor's metric page that was handed over, by actor: what ``/metrics`` shows."""
        fds = {key.removeprefix("metrics:"): fd for key, fd in self._handoff.fds.items() if key.startswith("metrics:")}
        return {name: MetricPage.attach(fd, writable=False) for name, fd in fds.items() if name != self.name}

    @property
    def listening_fd(self) -> int:
        """The listening socket of a front."""
        return self._handoff.fds["listen"]

    @cached_property
    def _doorbells(self) -> dict[int, Doorbell]:
        page = Segment.attach(self._handoff.fds["bells"], writable=True)
        return {
            place: Doorbell.attach(page, place, self._handoff.fds[f"bell:{name}"])
            for name, place in self._handoff.doorbells.items()
        }

    def stopping(self) -> bool:
        """Whether the supervisor asked for an end."""
        return self._stop.is_set()

    def ready(self, recovered: Mapping[str, int] | None = None) -> None:
        """Tell the supervisor that recovery is done and the duty begins. recovered: sequences and counts by name."""
        self._tell("ready", recovered=recovered)

    def blocked(self, message: str) -> None:
        """Tell the supervisor why this actor cannot go on by itself; the next ``ready()`` takes it back."""
        self._tell("blocked", message)

    def stop(self) -> None:
        """Ask for an end, as SIGTERM does."""
        self._stop.set()
        self.doorbell.alarm()

    def obey_supervisor(self) -> None:
        """Listen to SIGTERM and to the line to the supervisor, from now on. Call once, in the main thread.

        SIGINT is left to the supervisor: a terminal sends it to every process at once.
        """
        assert self._parent is not None
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda _number, _frame: self.stop())
        threading.Thread(target=_exit_with_parent, args=(self._parent,), name="parent", daemon=True).start()

    def _tell(self, state: str, message: str = "", recovered: Mapping[str, int] | None = None) -> None:
        if self._parent is not None:
            tell(self._parent, state, message, recovered)


def run_duty(wiring: Wiring, duty: Callable[[], int]) -> None:
    """Do a plain actor's duty until the supervisor asks for an end.

    duty: polls, decides, publishes, advances; returns how much it did. It runs again at once after it did something;
    after 0 the actor sleeps on its doorbell, at most ``wait.timeout_ms``.
    """
    timeout_s = wiring.settings.wait.timeout_ms / 1000
    spin_us = wiring.settings.wait.spin_us
    doorbell, metrics = wiring.doorbell, wiring.metrics
    work = measured(metrics, duty)

    def did_something() -> bool:
        return wiring.stopping() or work() != 0

    while not wiring.stopping():
        metrics.heartbeat()
        # The bell asks three times: at once, with the bell armed so that no ring is missed, and after the sleep.
        doorbell.wait(timeout_s, did_something, spin_us)


def _exit_with_parent(line: socket.socket) -> None:
    """Wait for the end of the supervisor and end with it; nothing ever arrives on the line after the handoff."""
    # A supervisor that dies before it read all that this actor told it ends the line with ECONNRESET.
    with suppress(OSError):
        while line.recv(16):
            pass
    os._exit(EXIT_ORPHANED)
