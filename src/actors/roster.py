"""The roster: how each process is doing, for fronts as a table and for the owner as an answer on the control socket.

Rule 1: it shows what the supervisor knows and what lies in shared memory, and asks no actor anything.
It refuses to know why an actor is as it is.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tradeengine.core.tables import ACTOR_MESSAGE_BYTES_MAX, ActorState, actor_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tradeengine.actors.memory import Memory
    from tradeengine.actors.topology import Actor
    from tradeengine.ipc.ring import RingStatistics


class Process(Protocol):
    """What is told of a process that the supervisor keeps."""

    actor: Actor
    state: ActorState
    message: str
    restart_count: int
    started_ns: int
    recovered: dict[str, int]
    ready_s: float

    @property
    def pid(self) -> int:
        """Process id, 0 when there is no process."""


@dataclass
class Roster:
    """All processes of one engine; ``show`` writes a process's row of the table ``actors``."""

    processes: Sequence[Process]
    memory: Memory
    started_s: float = field(default_factory=time.monotonic)
    heartbeats: dict[str, Heartbeat] = field(default_factory=dict)
    clients: dict[str, int] = field(default_factory=dict)
    """Local clients that joined by the control socket: process ids by the place that they have."""

    def __post_init__(self) -> None:
        self._places = {process.actor.name: place for place, process in enumerate(self.processes)}
        self.heartbeats = {name: Heartbeat() for name in self._places}
        for process in self.processes:
            self.show(process)

    def heartbeat_age_s(self, process: Process) -> float:
        """Tell how long a heartbeat has stood still; 0 for the database, which has none."""
        name = process.actor.name
        page = self.memory.metrics.get(name)
        return self.heartbeats[name].age_s(process.pid, page.heartbeat_ns) if page is not None else 0.0

    def show(self, process: Process) -> None:
        """Write a process's row."""
        record = np.zeros(1, actor_dtype)
        record["name"] = process.actor.name.encode()
        record["message"] = process.message.encode()[:ACTOR_MESSAGE_BYTES_MAX]
        record["pid"] = process.pid
        record["state"] = process.state
        record["restart_count"] = process.restart_count
        record["started_ns"] = process.started_ns
        record["heartbeat_age_ms"] = int(self.heartbeat_age_s(process) * 1000)
        self.memory.tables["actors"].write_rows((self._places[process.actor.name],), record)

    def status(self) -> dict[str, Any]:
        """Give actors, local clients and rings as plain values, for an answer on the control socket."""
        return {
            "pid": os.getpid(),
            "uptime_s": time.monotonic() - self.started_s,
            "memory_bytes": self.memory.bytes_total(),
            "actors": [self._status_of(process) for process in self.processes],
            "client_places": len(self.memory.topology.clients),
            "clients": [
                {"name": name, "pid": pid, "command": _command_of(pid)} for name, pid in sorted(self.clients.items())
            ],
            "rings": [
                _ring_status(ring, self.memory.rings[ring.name].first_sequence)
                for ring in self.memory.ring_statistics()
            ],
        }

    def _status_of(self, process: Process) -> dict[str, Any]:
        runs = process.pid != 0
        beats = process.actor.name in self.memory.metrics
        return {
            "name": process.actor.name,
            "role": process.actor.role,
            "pid": process.pid,
            "state": ActorState(process.state).name.lower(),
            "restart_count": process.restart_count,
            "uptime_s": (time.time_ns() - process.started_ns) / 1e9 if runs else 0.0,
            "heartbeat_age_s": (self.heartbeat_age_s(process) if runs else 0.0) if beats else None,
            "message": process.message,
            "ready_s": process.ready_s,
            "recovered": process.recovered,
        }


@dataclass
class Heartbeat:
    """How long a heartbeat has stood still, by our own clock: the page's jumps when a machine was asleep."""

    seen: tuple[int, int] = (0, 0)
    since_s: float = field(default_factory=time.monotonic)

    def age_s(self, pid: int, heartbeat_ns: int) -> float:
        """Look at it; a new process begins anew."""
        if self.seen != (pid, heartbeat_ns):
            self.seen = (pid, heartbeat_ns)
            self.since_s = time.monotonic()
        return time.monotonic() - self.since_s


def _command_of(pid: int) -> list[str]:
    """Words with which a process was started; none when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _ring_status(ring: RingStatistics, first_sequence: int) -> dict[str, Any]:
    """Describe a ring. Only gating readers: the others read what they cannot write, so nobody sees how far they are."""
    return {
        "name": ring.name,
        "slots": ring.capacity,
        "head": ring.head,
        "written": ring.head - first_sequence,
        "readers": [{"name": reader.name, "lag": reader.lag} for reader in ring.readers if reader.gating],
    }
