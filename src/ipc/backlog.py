"""The backlog: what has happened and is not in PostgreSQL yet, by ring.

It is read off settlement's cursors, so it is right while settlement is dead, too.
It refuses to know why it waits.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from tradeengine.core.records import EventKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tradeengine.ipc.ring import Ring

SETTLEMENT: Final = "settlement"
_SCAN_COUNT: Final = 16_384


@dataclass(frozen=True, slots=True)
class RingBacklog:
    """What waits in one event ring. ``cursor``: settlement's; ``oldest_s``: how long the oldest waits, 0: none."""

    ring: str
    capacity: int
    cursor: int
    head: int
    oldest_s: float

    @property
    def records(self) -> int:
        """How many events wait."""
        return max(self.head - self.cursor, 0)


def backlogs(rings: Iterable[Ring]) -> list[RingBacklog]:
    """Look at every ring that settlement reads."""
    return [_backlog(ring) for ring in rings if any(reader.name == SETTLEMENT for reader in ring.readers)]


def pending_trades(rings: Iterable[Ring]) -> int:
    """Count the trades that wait. It reads what waits: milliseconds where that is hundreds of thousands of events."""
    return sum(_pending_trades(ring) for ring in rings if any(reader.name == SETTLEMENT for reader in ring.readers))


def _backlog(ring: Ring) -> RingBacklog:
    cursor, head = _place(ring)
    oldest_s = 0.0
    if cursor < head:
        # Settlement may pass it meanwhile, and then it may be overwritten: by one that is younger.
        happened_ns = int(ring.view(cursor, 1)["timestamp_ns"][0])
        oldest_s = max(time.time_ns() - happened_ns, 0) / 1e9
    return RingBacklog(ring.name, ring.capacity, cursor, head, oldest_s)


def _pending_trades(ring: Ring) -> int:
    cursor, head = _place(ring)
    count = 0
    while cursor < head:
        waiting = ring.view(cursor, min(head - cursor, _SCAN_COUNT))
        count += int(np.count_nonzero(waiting["kind"] == EventKind.TRADED))
        cursor += len(waiting)
    return count


def _place(ring: Ring) -> tuple[int, int]:
    statistics = ring.statistics()
    cursor = next(reader.cursor for reader in statistics.readers if reader.name == SETTLEMENT)
    return min(cursor, statistics.head), statistics.head
