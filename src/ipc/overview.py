"""The overview: how an engine is, by what lies in its shared memory: who runs, who is joined to which ring, what waits.

Fronts show it to administrators, ``tradeengine top`` to who sits at the machine.

Rule 1: it only looks: no actor is asked anything, and none is held up.
Rule 2: totals only, since the engine's start; rates are for who looks twice.
It refuses to know how it is shown.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tradeengine.core.tables import ActorState
from tradeengine.ipc.seqlock import SeqlockBusy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tradeengine.ipc.handoff import Access
    from tradeengine.ipc.metrics import MetricPage
    from tradeengine.ipc.ring import Ring, RingStatistics
    from tradeengine.ipc.seqlock import SeqlockTable

OPERATOR: Final = "operator"
DATABASE: Final = "database"
"""The embedded database is in the table of actors, and has no metric page."""
_ERROR_LINES: Final = 'log_lines{level="error"}'


@dataclass(frozen=True, slots=True)
class RingEnd:
    """An actor at a ring. ``written``: records since the engine's start; sequences themselves may begin anywhere.

    lag: records that it has yet to pass, where it holds the writer back; else None.
    """

    name: str
    access: Access
    capacity: int
    written: int
    lag: int | None


@dataclass(frozen=True, slots=True)
class ActorView:
    """One actor. Totals are of all its processes since the engine's start; None: not measured for this one."""

    name: str
    role: str
    pid: int
    state: ActorState
    message: str
    restart_count: int
    uptime_s: float
    heartbeat_age_s: float | None
    busy_us: int | None
    records_in: int
    records_out: int
    error_count: int
    rings: tuple[RingEnd, ...]


class Overview:
    """Looks at one engine."""

    def __init__(
        self,
        actors: SeqlockTable,
        pages: Mapping[str, MetricPage],
        rings: Mapping[str, Ring],
        writers: Mapping[str, str],
    ) -> None:
        """actors: the table of that name. pages: by actor. rings: by name. writers: whose each ring is."""
        self.pages = pages
        self.rings = rings
        self.writers = writers
        self._actors = actors
        self.first_sequences = {name: ring.first_sequence for name, ring in rings.items()}

    def actors(self) -> list[ActorView]:
        """Look at every actor, the supervisor (``operator``) and the embedded database."""
        joined = self._joined()
        found = [self._read(row, joined) for row in range(self._actors.rows)]
        return [*(actor for actor in found if actor is not None), self._operator(joined)]

    def ring_statistics(self) -> dict[str, RingStatistics]:
        """Look at the cursors of every ring."""
        return {name: ring.statistics() for name, ring in self.rings.items()}

    def _read(self, row: int, joined: Mapping[str, _Joined]) -> ActorView | None:
        try:
            record = self._actors.read(row)
        except SeqlockBusy:
            return _unreadable(row)
        name = bytes(record["name"]).decode()
        if not name:
            return None
        pid = int(record["pid"])
        page = self.pages.get(name)
        return self._view(
            name,
            joined,
            pid=pid,
            state=ActorState(int(record["state"])),
            message=bytes(record["message"]).decode(errors="replace"),
            restart_count=int(record["restart_count"]),
            uptime_s=_since_s(int(record["started_ns"])) if pid else 0.0,
            heartbeat_age_s=int(record["heartbeat_age_ms"]) / 1000 if pid and page is not None else None,
        )

    def _operator(self, joined: Mapping[str, _Joined]) -> ActorView:
        """Show the supervisor: actors end with it, so it runs."""
        page = self.pages[OPERATOR].snapshot()
        return self._view(
            OPERATOR,
            joined,
            pid=page.pid,
            state=ActorState.READY,
            message="",
            restart_count=0,
            uptime_s=_since_s(page.started_ns) if page.started_ns else 0.0,
            heartbeat_age_s=_since_s(page.heartbeat_ns) if page.heartbeat_ns else None,
        )

    def _view(
        self,
        name: str,
        joined: Mapping[str, _Joined],
        *,
        pid: int,
        state: ActorState,
        message: str,
        restart_count: int,
        uptime_s: float,
        heartbeat_age_s: float | None,
    ) -> ActorView:
        page = self.pages.get(name)
        counters = page.snapshot().counters if page is not None else {}
        at_rings = joined.get(name, _NOT_JOINED)
        return ActorView(
            name=name,
            role=DATABASE if page is None else page.names.role,
            pid=pid,
            state=state,
            message=message,
            restart_count=restart_count,
            uptime_s=uptime_s,
            heartbeat_age_s=heartbeat_age_s,
            busy_us=counters.get("busy_us"),
            # Who only follows, or writes no ring, counts for itself.
            records_in=counters.get("records_in", 0) if at_rings.taken is None else at_rings.taken,
            records_out=counters.get("records_out", 0) if at_rings.written is None else at_rings.written,
            # What is logged as an error is mostly counted as one, too.
            error_count=max(counters.get("errors", 0), counters.get(_ERROR_LINES, 0)),
            rings=at_rings.ends,
        )

    def _joined(self) -> dict[str, _Joined]:
        """See who is joined to which ring, and how much has passed there."""
        ends: dict[str, list[RingEnd]] = {}
        taken: dict[str, int] = {}
        written: dict[str, int] = {}
        for name, ring in self.ring_statistics().items():
            first, writer = self.first_sequences[name], self.writers[name]
            ends.setdefault(writer, []).append(RingEnd(name, "write", ring.capacity, ring.head - first, None))
            written[writer] = written.get(writer, 0) + ring.head - first
            for reader in ring.readers:
                access: Access = "gate" if reader.gating else "follow"
                lag = reader.lag if reader.gating else None
                ends.setdefault(reader.name, []).append(RingEnd(name, access, ring.capacity, ring.head - first, lag))
                if reader.gating:
                    taken[reader.name] = taken.get(reader.name, 0) + reader.cursor - first
        return {
            actor: _Joined(tuple(of_actor), taken.get(actor), written.get(actor)) for actor, of_actor in ends.items()
        }


@dataclass(frozen=True, slots=True)
class _Joined:
    """An actor at its rings.

    taken: records that it passed where it holds the writer back. written: into its own rings. None: there are none.
    """

    ends: tuple[RingEnd, ...]
    taken: int | None
    written: int | None


_NOT_JOINED: Final = _Joined((), None, None)


def _unreadable(row: int) -> ActorView:
    """Stand in for a row that its writer left half written, or writes without pause."""
    return ActorView(
        name=f"row {row}",
        role="unknown",
        pid=0,
        state=ActorState.STALLED,
        message="its row cannot be read",
        restart_count=0,
        uptime_s=0.0,
        heartbeat_age_s=None,
        busy_us=None,
        records_in=0,
        records_out=0,
        error_count=0,
        rings=(),
    )


def _since_s(moment_ns: int) -> float:
    """Seconds since a moment, never negative: a clock may have been set back."""
    return max(time.time_ns() - moment_ns, 0) / 1e9
