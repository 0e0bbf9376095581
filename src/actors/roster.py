"""The roster: how every actor is doing, for the fronts as a table and for the owner as an answer on the control socket.

Rule 1: it shows what the supervisor knows and what lies in shared memory, and asks no actor anything.
It refuses to know why an actor is as it is.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tradeengine.core.tables import ACTOR_MESSAGE_BYTES_MAX, ActorState, actor_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tradeengine.actors.children import Child
    from tradeengine.actors.memory import Memory
    from tradeengine.ipc.ring import RingStatistics


@dataclass
class Roster:
    """All children of one engine; ``show`` writes a child's row of the table ``actors``."""

    children: Mapping[str, Child]
    memory: Memory
    started_s: float = field(default_factory=time.monotonic)
    heartbeats: dict[str, Heartbeat] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._places = {name: place for place, name in enumerate(self.children)}
        self.heartbeats = {name: Heartbeat() for name in self.children}
        for child in self.children.values():
            self.show(child)

    def heartbeat_age_s(self, child: Child) -> float:
        """Tell how long a child's heartbeat has stood still."""
        name = child.actor.name
        return self.heartbeats[name].age_s(child.pid, self.memory.metrics[name].heartbeat_ns)

    def show(self, child: Child) -> None:
        """Write a child's row."""
        record = np.zeros(1, actor_dtype)
        record["name"] = child.actor.name.encode()
        record["message"] = child.message.encode()[:ACTOR_MESSAGE_BYTES_MAX]
        record["pid"] = child.pid
        record["state"] = child.state
        record["restart_count"] = child.restart_count
        record["started_ns"] = child.started_ns
        record["heartbeat_age_ms"] = int(self.heartbeat_age_s(child) * 1000)
        self.memory.tables["actors"].write_rows((self._places[child.actor.name],), record)

    def status(self) -> dict[str, Any]:
        """Give actors and rings as plain values, for an answer on the control socket."""
        return {
            "pid": os.getpid(),
            "uptime_s": time.monotonic() - self.started_s,
            "memory_bytes": self.memory.bytes_total(),
            "actors": [self._actor_status(child) for child in self.children.values()],
            "rings": [
                _ring_status(ring, self.memory.rings[ring.name].first_sequence)
                for ring in self.memory.ring_statistics()
            ],
        }

    def _actor_status(self, child: Child) -> dict[str, Any]:
        runs = child.pid != 0
        return {
            "name": child.actor.name,
            "role": child.actor.role,
            "pid": child.pid,
            "state": ActorState(child.state).name.lower(),
            "restart_count": child.restart_count,
            "uptime_s": (time.time_ns() - child.started_ns) / 1e9 if runs else 0.0,
            "heartbeat_age_s": self.heartbeat_age_s(child) if runs else 0.0,
            "message": child.message,
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


def _ring_status(ring: RingStatistics, first_sequence: int) -> dict[str, Any]:
    """Describe a ring. Only gating readers: the others read what they cannot write, so nobody sees how far they are."""
    return {
        "name": ring.name,
        "slots": ring.capacity,
        "head": ring.head,
        "written": ring.head - first_sequence,
        "readers": [{"name": reader.name, "lag": reader.lag} for reader in ring.readers if reader.gating],
    }
