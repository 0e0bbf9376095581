"""What risk's restart reads out of rings, one piece at a time."""

from __future__ import annotations

import numpy as np

from tradeengine.actors.risk_restart import last_answered
from tradeengine.core.records import event_dtype
from tradeengine.ipc.ring import ReaderSpec, Ring


def test_last_answer_before_the_cursor_of_a_full_ring_is_not_asked_for() -> None:
    """With an event ring full to its last slot the event before the cursor is gone; risk comes back all the same."""
    ring = Ring.create("events.0", event_dtype, 4, [ReaderSpec("risk", gating=True)])
    writer, reader = ring.writer(), ring.reader("risk")
    events = np.zeros(4, event_dtype)
    assert last_answered(reader) == -1
    events["ring_sequence"] = (7, 7, 8, 9)
    writer.publish(events)
    reader.advance(3)
    assert last_answered(reader) == 8
    writer.publish(events[:3])
    assert writer.free() == 0
    assert last_answered(reader) == -1
