"""Rings between real processes: nothing torn, nothing lost unsaid, and a killed producer costs nothing."""

import random
import time

import numpy as np
import pytest
from tests.ipc.processes import Fd, Given, child, finish, kill_self

from tradeengine.ipc.atomics import store_word
from tradeengine.ipc.doorbell import Doorbell, create_page
from tradeengine.ipc.ring import Lapped, ReaderSpec, Ring, RingFull, RingReader, RingWatch
from tradeengine.ipc.segment import Segment

# Every word of a record follows from its sequence, so that a half-overwritten record is seen.
words_dtype = np.dtype([("words", "<i8", (32,))])
FACTORS = np.arange(1, 33, dtype=np.int64)
READERS = (ReaderSpec("gating", gating=True, doorbell_index=0), ReaderSpec("lappable", gating=False))
END = 1 << 40
"""Closes a stream."""


def words(first: int, count: int) -> np.ndarray:
    """Make records from sequences."""
    records = np.empty(count, words_dtype)
    records["words"] = np.arange(first, first + count)[:, None] * FACTORS
    return records


def check(records: np.ndarray, first: int) -> None:
    """Check that these are whole records, in order."""
    assert np.array_equal(records["words"], np.arange(first, first + len(records))[:, None] * FACTORS)


def test_gating_reader_gets_everything_from_a_fast_producer() -> None:
    """A gating reader holds a faster producer and gets every record, whole and in order."""
    ring = Ring.create("stream", words_dtype, 64, READERS[:1])
    reader, count = ring.reader("gating"), 30_000
    with child(produce, Fd(ring.fd), count) as producer:
        while reader.cursor < count:
            records = reader.poll()
            check(records, reader.cursor)
            reader.advance(len(records))
        finish(producer)
    assert reader.available() == 0


def test_lapped_reader_never_gets_a_torn_record() -> None:
    """A reader that a producer overtakes all the time gets whole records, and each gap is announced."""
    ring = Ring.create("flood", words_dtype, 64, READERS[1:])
    reader, count, seen = ring.reader("lappable"), 400_000, 0
    gaps: list[tuple[int, int]] = []
    with child(produce, Fd(ring.fd), count) as producer:
        _wait_until_lapped(reader)
        while reader.cursor < count:
            try:
                records = reader.poll()
            except Lapped as lapped:
                gaps.append((lapped.first_lost, lapped.resume_at))
                continue
            check(records, reader.cursor)
            reader.advance(len(records))
            seen += len(records)
        finish(producer)
    assert gaps
    assert seen + sum(resume_at - first_lost for first_lost, resume_at in gaps) == count


def test_lapped_filter_never_gives_a_torn_record() -> None:
    """A filtering reader that is overtaken all the time gives whole matching records only."""
    ring = Ring.create("flood", words_dtype, 256, READERS[1:])
    reader, count, lapped_count, seen = ring.reader("lappable"), 400_000, 0, 0
    with child(produce, Fd(ring.fd), count) as producer:
        _wait_until_lapped(reader)
        while reader.cursor < count:
            try:
                records = reader.poll_matching(byte_offset=0, byte_value=77)
            except Lapped:
                lapped_count += 1
                continue
            sequences = records["words"][:, 0]
            assert (sequences % 256 == 77).all()
            assert np.array_equal(records["words"], sequences[:, None] * FACTORS)
            seen += len(records)
        finish(producer)
    assert lapped_count > 0
    assert seen > 0


def test_killed_producer_leaves_a_ring_that_goes_on() -> None:
    """Producers killed at random moments, one after another: readers see every sequence once, whole."""
    moments = random.Random(1)
    ring = Ring.create("relay", words_dtype, 1024, READERS)
    gating, lappable = ring.reader("gating"), ring.reader("lappable")
    for _ in range(40):
        start, end = ring.head, time.monotonic() + moments.uniform(0, 0.02)
        with child(produce, Fd(ring.fd), END, 300) as producer:
            while ring.head == start or time.monotonic() < end:
                _follow(gating)
            producer.kill()
            producer.join()
        assert 0 <= ring.claim - ring.head <= 300
        while gating.available():
            _follow(gating)
        for first in range(ring.oldest, ring.head, 100):
            check(ring.slots(first, min(100, ring.head - first)), first)
        lappable.seek(ring.oldest)
        _follow(lappable)


@pytest.mark.parametrize("written", [0, 1, 5])
def test_producer_killed_in_the_middle_of_a_batch(written: int) -> None:
    """A producer that dies between claim and publish publishes nothing, and its half-written slots are not read."""
    ring = Ring.create("half", words_dtype, 16, READERS)
    gating, lappable = ring.reader("gating"), ring.reader("lappable")
    ring.writer().publish(words(0, 16))
    _follow(gating)
    with child(die_in_the_middle, Fd(ring.fd), 16, 6, written) as producer:
        producer.join()
        assert producer.exitcode == -9
    assert (ring.head, ring.claim) == (16, 22)
    assert gating.available() == 0
    with pytest.raises(Lapped):
        lappable.poll()
    with pytest.raises(Lapped):
        ring.slots(5, 1)
    check(ring.slots(6, 10), 6)
    with child(produce, Fd(ring.fd), 20, 4) as successor:
        finish(successor)
    assert (ring.head, ring.claim) == (20, 22)
    check(gating.poll(), 16)
    check(ring.slots(6, 14), 6)


def test_publication_wakes_a_sleeping_reader() -> None:
    """A reader that sleeps on its doorbell gets all of a stream that comes in single records."""
    page = create_page("bells", 1)
    bell = Doorbell.create(page, 0)
    ring = Ring.create("wakes", words_dtype, 8, READERS[:1])
    reader, count = ring.reader("gating"), 3000
    watch = RingWatch([reader])
    with child(produce, Fd(ring.fd), count, 1, Fd(page.fd), Fd(bell.fd)) as producer:
        while reader.cursor < count:
            bell.wait(30, watch)
            _follow(reader)
        finish(producer)


def produce(
    ring_fd: Given, end: int, batch: int = 16, page_fd: Given | None = None, bell_fd: Given | None = None
) -> None:
    """Publish batches from the head on, up to ``end``, as fast as the gating readers allow."""
    ring = Ring.attach(ring_fd(), words_dtype, writable=True)
    bells = {}
    if page_fd and bell_fd:
        bells[0] = Doorbell.attach(Segment.attach(page_fd(), writable=True), 0, bell_fd())
    writer = ring.writer(bells)
    while writer.head < end:
        records = words(writer.head, min(batch, end - writer.head))
        while True:
            try:
                writer.publish(records)
                break
            except RingFull:
                time.sleep(0)


def die_in_the_middle(ring_fd: Given, first: int, count: int, written: int) -> None:
    """Do what publishing does, up to the copy's middle: claim, write some records and half of the next, die."""
    ring = Ring.attach(ring_fd(), words_dtype, writable=True)
    store_word(ring.claim_address, first + count)
    ring.view(first, written)[:] = words(first, written)
    ring.view(first + written, 1)["words"][:, :16] = -1
    kill_self()


def _wait_until_lapped(reader: RingReader) -> None:
    while reader.available() <= reader.ring.capacity:
        pass


def _follow(reader: RingReader) -> None:
    records = reader.poll()
    check(records, reader.cursor)
    reader.advance(len(records))
