"""Rings within one process: order, room, wrap, and what readers are told."""

import os

import numpy as np
import pytest

from tradeengine.core.records import EventKind, byte, command_dtype, event_dtype
from tradeengine.ipc.ring import Lapped, ReaderSpec, Ring, RingDamaged, RingError, RingFull, RingReader, RingWatch

GATING = ReaderSpec("risk", gating=True)
LAPPABLE = ReaderSpec("front", gating=False)


def make_ring(*readers: ReaderSpec, capacity: int = 8, first_sequence: int = 0) -> Ring:
    """Make a ring of events."""
    return Ring.create("events", event_dtype, capacity, readers, first_sequence)


def events(first: int, count: int) -> np.ndarray:
    """Make events that carry their sequences."""
    records = np.zeros(count, event_dtype)
    records["sequence"] = np.arange(first, first + count)
    return records


def read_all(reader: RingReader) -> list[int]:
    """Poll and advance until nothing is left."""
    sequences: list[int] = []
    while len(records := reader.poll()):
        sequences += records["sequence"].tolist()
        reader.advance(len(records))
    return sequences


@pytest.mark.parametrize("batch", [1, 3, 7, 8])
@pytest.mark.parametrize("first_sequence", [0, 5, 1 << 40])
def test_every_reader_sees_every_record_in_order(batch: int, first_sequence: int) -> None:
    """Whatever the batch, the wrap and the first sequence, each reader sees each record once, in order."""
    ring = make_ring(GATING, LAPPABLE, first_sequence=first_sequence)
    writer, gating, lappable = ring.writer(), ring.reader("risk"), ring.reader("front")
    for first in range(first_sequence, first_sequence + 10 * batch, batch):
        writer.publish(events(first, batch))
        assert read_all(gating) == read_all(lappable) == list(range(first, first + batch))
    assert gating.cursor == lappable.cursor == writer.head == ring.head == first_sequence + 10 * batch


def test_full_ring_holds_the_writer() -> None:
    """A full ring holds the writer until the slowest gating reader advances; the others do not count."""
    ring = make_ring(GATING, ReaderSpec("settlement", gating=True), LAPPABLE)
    writer, slow, fast = ring.writer(), ring.reader("settlement"), ring.reader("risk")
    writer.publish(events(0, 8))
    fast.advance(8)
    with pytest.raises(RingFull):
        writer.publish(events(8, 1))
    slow.advance(2)
    assert writer.free() == 2
    with pytest.raises(RingFull, match="3 records, room for 2"):
        writer.publish(events(8, 3))
    writer.publish(events(8, 2))
    assert read_all(slow) == [2, 3, 4, 5, 6, 7, 8, 9]


def test_refused_batch_leaves_no_trace() -> None:
    """A batch that does not fit, even one larger than the ring, changes neither head nor claim nor records."""
    ring = make_ring(GATING)
    writer = ring.writer()
    writer.publish(events(0, 5))
    for count in (4, 8, 9, 1000):
        with pytest.raises(RingFull):
            writer.publish(events(5, count))
    assert (ring.head, ring.claim) == (5, 5)
    assert ring.slots(0, 5)["sequence"].tolist() == [0, 1, 2, 3, 4]


def test_batch_larger_than_the_ring_is_refused_without_gating_readers() -> None:
    """Without a gating reader everything has room, but no batch laps itself."""
    writer = make_ring(LAPPABLE).writer()
    with pytest.raises(RingFull):
        writer.publish(events(0, 9))
    writer.publish(events(0, 8))
    assert writer.free() == 8


def test_empty_batch_is_nothing() -> None:
    """Publishing no records does nothing, even when the ring is full."""
    ring = make_ring(GATING)
    writer = ring.writer()
    writer.publish(events(0, 8))
    writer.publish(events(8, 0))
    assert (ring.head, ring.claim) == (8, 8)


def test_read_only_records_are_published() -> None:
    """Records in read-only memory are published like others."""
    ring = make_ring(GATING)
    ring.writer().publish(np.frombuffer(events(0, 2).tobytes(), event_dtype))
    assert read_all(ring.reader("risk")) == [0, 1]


def test_gating_reader_sees_records_in_place() -> None:
    """A gating reader gets the ring's own memory, up to its end, and the rest with the next poll."""
    ring = make_ring(GATING)
    writer, reader = ring.writer(), ring.reader("risk")
    writer.publish(events(0, 6))
    reader.advance(6)
    writer.publish(events(6, 5))
    first = reader.poll()
    assert first["sequence"].tolist() == [6, 7]
    assert np.shares_memory(first, ring.view(6, 2))
    assert reader.poll(1)["sequence"].tolist() == [6]
    reader.advance(2)
    assert reader.poll()["sequence"].tolist() == [8, 9, 10]


def test_gating_reader_may_take_a_copy() -> None:
    """A copy spans the wrap and does not change with the ring: for a ring whose writer is not trusted."""
    ring = make_ring(GATING)
    writer, reader = ring.writer(), ring.reader("risk")
    writer.publish(events(0, 6))
    reader.advance(6)
    writer.publish(events(6, 5))
    copies = reader.poll_copy()
    ring.view(6, 2)["sequence"] = -1
    assert copies["sequence"].tolist() == [6, 7, 8, 9, 10]


def test_lapped_reader_is_told() -> None:
    """A reader that was overtaken learns which records it lost and goes on, half a ring behind the head."""
    ring = make_ring(LAPPABLE)
    writer, reader = ring.writer(), ring.reader("front")
    for first in range(0, 20, 4):
        writer.publish(events(first, 4))
    assert reader.available() == 20
    with pytest.raises(Lapped) as lapped:
        reader.poll()
    assert (lapped.value.first_lost, lapped.value.resume_at) == (0, 16)
    assert read_all(reader) == [16, 17, 18, 19]


def test_reader_exactly_one_lap_behind_is_not_lapped() -> None:
    """A reader that lags by the whole capacity still gets everything; one record more and it is lapped."""
    ring = make_ring(LAPPABLE)
    writer, reader = ring.writer(), ring.reader("front")
    writer.publish(events(0, 8))
    assert reader.poll()["sequence"].tolist() == list(range(8))
    writer.publish(events(8, 1))
    with pytest.raises(Lapped):
        reader.poll()


def test_claim_alone_laps_a_reader() -> None:
    """Slots that the producer has begun to overwrite are lost for readers, though the head has not moved."""
    ring = make_ring(LAPPABLE)
    writer, reader = ring.writer(), ring.reader("front")
    writer.publish(events(0, 8))
    _claim(ring, 10)
    assert ring.oldest == 2
    with pytest.raises(Lapped) as lapped:
        reader.poll()
    assert lapped.value.first_lost == 0
    with pytest.raises(Lapped):
        ring.slots(1, 4)
    assert ring.slots(2, 6)["sequence"].tolist() == [2, 3, 4, 5, 6, 7]


def test_next_writer_goes_on_behind_a_dead_claim() -> None:
    """A claim that a dead writer left is overwritten by the next one, with the same sequences; nobody reads a hole."""
    ring = make_ring(GATING, LAPPABLE)
    ring.writer().publish(events(0, 8))
    gating, lappable = ring.reader("risk"), ring.reader("front")
    gating.advance(8)
    lappable.advance(5)
    _claim(ring, 12)
    ring.view(0, 4)["sequence"] = -1
    writer = ring.writer()
    assert (writer.head, writer.free()) == (8, 8)
    writer.publish(events(8, 1))
    assert (ring.head, ring.claim, ring.oldest) == (9, 12, 4)
    assert read_all(lappable) == [5, 6, 7, 8]
    writer.publish(events(9, 5))
    assert (ring.head, ring.claim, ring.oldest) == (14, 14, 6)
    assert read_all(gating) == [8, 9, 10, 11, 12, 13]


def test_filter_copies_only_matches() -> None:
    """A filter on one byte gives the matching records in order and passes over all others."""
    ring = make_ring(LAPPABLE, capacity=1024)
    writer, reader = ring.writer(), ring.reader("front")
    records = events(0, 1000)
    records["ingress_ring"] = records["sequence"] % 7
    writer.publish(records)
    mine = reader.poll_matching(byte(event_dtype, "ingress_ring"), 3)
    assert mine["sequence"].tolist() == list(range(3, 1000, 7))
    assert reader.available() == 0
    assert len(reader.poll_matching(byte(event_dtype, "ingress_ring"), 3)) == 0


def test_filter_stops_at_its_limit() -> None:
    """A filter with a limit stops behind its last match and goes on there; limit 0 does not move."""
    ring = make_ring(LAPPABLE, capacity=256)
    writer, reader = ring.writer(), ring.reader("front")
    records = events(0, 200)
    records["kind"][[5, 90, 91, 150]] = EventKind.TRADED
    writer.publish(records)
    offset = byte(event_dtype, "kind")
    assert len(reader.poll_matching(offset, EventKind.TRADED, 0)) == 0
    assert reader.cursor == 0
    assert reader.poll_matching(offset, EventKind.TRADED, 2)["sequence"].tolist() == [5, 90]
    assert reader.cursor == 91
    assert reader.poll_matching(offset, EventKind.TRADED, 9)["sequence"].tolist() == [91, 150]
    assert reader.cursor == 200


def test_lapped_filter_is_told() -> None:
    """A filtering reader that was overtaken is told so, as any other."""
    ring = make_ring(LAPPABLE)
    writer, reader = ring.writer(), ring.reader("front")
    for first in range(0, 16, 4):
        writer.publish(events(first, 4))
    with pytest.raises(Lapped) as lapped:
        reader.poll_matching(0, 0)
    assert (lapped.value.first_lost, reader.cursor) == (0, 12)
    assert reader.poll_matching(0, 14)["sequence"].tolist() == [14]


def test_reader_goes_on_where_it_stood() -> None:
    """A reader that comes back starts at the cursor that it announced, and may seek from there."""
    ring = make_ring(GATING)
    ring.writer().publish(events(0, 8))
    ring.reader("risk").advance(5)
    reader = ring.reader("risk")
    assert read_all(reader) == [5, 6, 7]
    reader.seek(3)
    assert read_all(reader) == [3, 4, 5, 6, 7]


def test_writer_goes_on_where_the_last_one_ended() -> None:
    """The next producer publishes at the head that the last one left."""
    ring = make_ring(GATING, first_sequence=100)
    ring.writer().publish(events(100, 3))
    ring.writer().publish(events(103, 2))
    assert read_all(ring.reader("risk")) == [100, 101, 102, 103, 104]


def test_look_back_gives_what_the_ring_holds() -> None:
    """Published records can be copied again until they are overwritten; before the first sequence there are none."""
    ring = make_ring(GATING, first_sequence=100)
    writer, reader = ring.writer(), ring.reader("risk")
    writer.publish(events(100, 5))
    reader.advance(5)
    assert ring.slots(101, 4)["sequence"].tolist() == [101, 102, 103, 104]
    assert len(ring.slots(105, 0)) == 0
    with pytest.raises(Lapped) as lapped:
        ring.slots(99, 2)
    assert lapped.value.resume_at == ring.oldest == 100
    writer.publish(events(105, 6))
    with pytest.raises(Lapped):
        ring.slots(102, 1)
    assert ring.slots(103, 8)["sequence"].tolist() == list(range(103, 111))


def test_read_only_ring_serves_a_reader_that_may_be_lapped() -> None:
    """Who has the ring read-only sees everything and leaves no trace in it; it can neither write nor hold it."""
    ring = make_ring(GATING, LAPPABLE)
    mine = Ring.attach(ring.segment.read_only_descriptor(), event_dtype, writable=False)
    reader = mine.reader("front")
    ring.writer().publish(events(0, 3))
    assert read_all(reader) == [0, 1, 2]
    assert ring.statistics().readers[1].cursor == 0
    with pytest.raises(AssertionError):
        mine.writer()
    with pytest.raises(AssertionError):
        mine.reader("risk")


def test_foreign_writer_moves_no_cursor() -> None:
    """A reader keeps its own cursor, and a head that no honest producer writes is named, not followed."""
    ring = make_ring(GATING)
    theirs = Ring.attach(os.dup(ring.fd), event_dtype, writable=True)
    reader = ring.reader("risk")
    theirs.writer().publish(events(0, 4))
    theirs.reader("risk").seek(3)
    assert (reader.cursor, reader.available()) == (0, 4)
    for head in (-1, 9, 1 << 62):
        theirs.segment.array("<i8", theirs.head_address - theirs.segment.address(0), 1)[0] = head
        with pytest.raises(RingDamaged):
            reader.poll()
        with pytest.raises(RingDamaged):
            theirs.writer()


def test_statistics_name_every_reader() -> None:
    """Statistics give head, claim and every reader's lag."""
    ring = make_ring(GATING, LAPPABLE, first_sequence=10)
    ring.writer().publish(events(10, 4))
    ring.reader("risk").advance(3)
    statistics = ring.statistics()
    assert (statistics.name, statistics.capacity, statistics.record_bytes) == ("events", 8, 256)
    assert (statistics.head, statistics.claim) == (14, 14)
    assert [(reader.name, reader.gating, reader.cursor, reader.lag) for reader in statistics.readers] == [
        ("risk", True, 13, 1),
        ("front", False, 10, 4),
    ]


def test_watch_sees_any_of_its_readers() -> None:
    """A watch is true as long as one of its readers has something to see."""
    first, second = make_ring(GATING), make_ring(GATING, first_sequence=7)
    readers = [first.reader("risk"), second.reader("risk")]
    watch = RingWatch(readers)
    assert not watch()
    second.writer().publish(events(7, 1))
    assert watch()
    readers[1].advance(1)
    assert not watch()
    assert not RingWatch([])()


def test_other_layout_is_refused() -> None:
    """A ring is attached with the layout it was made with, or not at all."""
    ring = make_ring(GATING)
    other = np.dtype({"names": ["a"], "formats": ["<i8"], "offsets": [0], "itemsize": event_dtype.itemsize})
    for dtype in (command_dtype, other):
        with pytest.raises(RingError, match="other records"):
            Ring.attach(os.dup(ring.fd), dtype, writable=True)
    with pytest.raises(RingError, match="no reader 'nobody'"):
        ring.reader("nobody")


def _claim(ring: Ring, sequence: int) -> None:
    ring.segment.array("<i8", ring.claim_address - ring.segment.address(0), 1)[0] = sequence
