"""Whether new orders, cancels, and halts may go to each shard now: unsettled events and free disk decide.

Past a threshold of events that settlement has not committed, new orders are refused; cancels pass until only a last
part of the event ring is left, so that what has been let in before always finds room; halts and whatever else
administrators ask for pass until half of that is left. Commands on their way count as the event that each will give at
least: otherwise a queue of them could fill the ring, and whatever came next would stand behind it. Below a low-water
mark of free disk new orders are refused too, and cancels are not.
A shard that is fenced gets nothing that is for it alone, but from administrators: what they ask for waits for it.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from tradeengine.core.records import Reason
from tradeengine.core.risk import FOR_ADMINISTRATORS, FOR_CANCELS, FOR_ORDERS, Outbox
from tradeengine.ipc.atomics import load_word

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tradeengine.ipc.ring import Ring

_DISK_INTERVAL_S: Final = 1.0
_BACKLOG: Final = int(Reason.SETTLEMENT_BACKLOG)
_OVERLOADED: Final = int(Reason.ENGINE_OVERLOADED)
_FENCED: Final = int(Reason.SHARD_FENCED)


class Gates:
    """Looks, and writes the outbox's gates."""

    def __init__(
        self,
        event_rings: Sequence[Ring],
        outbox: Outbox,
        backlog_max: int,
        directory: Path,
        free_bytes_min: int,
        command_rings: Sequence[Ring],
        fenced: Callable[[], frozenset[int]] = frozenset,
    ) -> None:
        """event_rings, command_rings: by shard. backlog_max: unsettled events of a shard. fenced: says which shards."""
        self._outbox = outbox
        self._rings = tuple(event_rings)  # kept, because what follows are addresses in their memory
        self._command_rings = tuple(command_rings)
        self._cursors = [(ring.head_address, _cursor_address(ring, "settlement")) for ring in self._rings]
        self._queues = [(ring.head_address, ring.cursor_address(0)) for ring in self._command_rings]
        self._limits = [
            (ring.capacity * 3 // 4, ring.capacity * 7 // 8, ring.capacity * 15 // 16) for ring in self._rings
        ]
        self._backlog_max = backlog_max
        self._directory = directory
        self._free_bytes_min = free_bytes_min
        self._looked_s = -_DISK_INTERVAL_S
        self._disk_low = False
        self._fenced = fenced

    def look(self) -> None:
        """Set every gate anew."""
        self._look_at_disk()
        gates = self._outbox.gates
        for shard, (head, settled) in enumerate(self._cursors):
            backlog = load_word(head) - load_word(settled)
            queue_head, queue_cursor = self._queues[shard]
            filled = backlog + load_word(queue_head) - load_word(queue_cursor)
            orders_max, cancels_max, administrators_max = self._limits[shard]
            closed = _OVERLOADED if self._disk_low else 0
            too_many = backlog > self._backlog_max or filled > orders_max
            gates[shard, FOR_ORDERS] = _BACKLOG if too_many else closed
            gates[shard, FOR_CANCELS] = _BACKLOG if filled > cancels_max else 0
            gates[shard, FOR_ADMINISTRATORS] = _BACKLOG if filled > administrators_max else 0
        for shard in self._fenced():
            gates[shard, FOR_ORDERS] = gates[shard, FOR_CANCELS] = _FENCED
            # What is for all shards passes over this one when its ring is full; its gate holds up nobody else.
            gates[shard, FOR_ADMINISTRATORS] = 0

    @property
    def accepting(self) -> bool:
        """Whether every shard that is not fenced takes new orders, and there is one."""
        gates = self._outbox.gates[:, FOR_ORDERS]
        return not gates[gates != _FENCED].any() and bool((gates != _FENCED).any())

    def _look_at_disk(self) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_s < _DISK_INTERVAL_S:
            return
        self._looked_s = now_s
        disk = os.statvfs(self._directory)
        self._disk_low = disk.f_bavail * disk.f_frsize < self._free_bytes_min


def _cursor_address(ring: Ring, name: str) -> int:
    (index,) = (index for index, reader in enumerate(ring.readers) if reader.name == name)
    return ring.cursor_address(index)
