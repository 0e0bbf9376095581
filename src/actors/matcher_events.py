"""The matcher's way out: events into the shard's ring, all of them, once, in order.

Rule 1: the only place where a matcher waits for others is here, when risk or settlement have not made room.
Rule 2: what a replay brings again is not published again: it must equal what the ring still holds, byte for byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tradeengine.ipc.ring import RingWriter


class ReplayDiffers(Exception):  # noqa: N818 - names the state in which the matcher stops
    """A replay gave other events than were published: journal, kernel or memory cannot be trusted."""


class EventOutlet:
    """Publishes events of one shard. ``wait`` is called while there is no room; it may raise to give up."""

    def __init__(self, writer: RingWriter, wait: Callable[[], None]) -> None:
        """Publish from the ring's head on."""
        self._writer = writer
        self._wait = wait

    @property
    def head(self) -> int:
        """Sequence of the next event to publish."""
        return self._writer.head

    def publish(self, events: NDArray[np.void]) -> None:
        """Publish ``events`` (event_dtype), in parts when there is no room for all at once."""
        assert len(events) == 0 or events["sequence"][0] == self._writer.head
        done = 0
        while done < len(events):
            count = min(self._writer.free(), len(events) - done)
            if count == 0:
                self._wait()
                continue
            self._writer.publish(events[done : done + count])
            done += count

    def republish(self, events: NDArray[np.void]) -> int:
        """Take ``events`` of a replay: compare those that were published before, publish the rest; returns how many.

        Raises ReplayDiffers.
        """
        if len(events) == 0:
            return 0
        published = min(max(0, self.head - int(events["sequence"][0])), len(events))
        self._compare(events[:published])
        self.publish(events[published:])
        return len(events) - published

    def _compare(self, events: NDArray[np.void]) -> None:
        ring = self._writer.ring
        events = events[events["sequence"] >= ring.oldest]
        if len(events) == 0:
            return
        held = ring.slots(int(events["sequence"][0]), len(events))
        same = (held.view("u1").reshape(len(held), -1) == events.view("u1").reshape(len(events), -1)).all(axis=1)
        if not same.all():
            sequence = int(events["sequence"][np.argmin(same)])
            raise ReplayDiffers(f"{ring.name}: the replayed event {sequence} is not the one that was published")
