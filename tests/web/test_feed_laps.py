"""A front that is lapped on the feed: what it reads on from there are whole messages, wherever it begins."""

from __future__ import annotations

import random

import pytest

from tradeengine.actors.publishing.feed_writer import FeedWriter
from tradeengine.core.feed import FEED_DATA_BYTES, FeedKind, feed_dtype
from tradeengine.ipc.ring import Lapped, ReaderSpec, Ring
from tradeengine.web.streams.feed_reader import FeedReader

CAPACITY = 16


@pytest.mark.parametrize("seed", range(60))
def test_lapped_reader_gives_whole_messages_only(seed: int) -> None:
    """After a lap no message is given whose beginning is gone, and every one after it is, byte for byte."""
    numbers = random.Random(seed)
    ring = Ring.create("feed", feed_dtype, CAPACITY, [ReaderSpec("front-0", gating=False)])
    writer, reader = FeedWriter(ring.writer()), FeedReader(ring.reader("front-0"))
    texts: list[bytes] = []
    starts: list[int] = []
    while ring.head <= CAPACITY + numbers.randrange(CAPACITY):
        starts.append(ring.head)
        texts.append(numbers.randbytes(numbers.randrange(4 * FEED_DATA_BYTES)))
        writer.add(FeedKind.BOOK, texts[-1], sequence=len(texts), timestamp_ns=0)
        writer.flush()
    with pytest.raises(Lapped) as lapped:
        reader.read()
    whole = [number for number, start in enumerate(starts) if start >= lapped.value.resume_at]
    found = [(message.sequence - 1, message.text) for message in reader.read()]
    assert found == [(number, texts[number]) for number in whole]


def test_reader_that_begins_in_the_middle_waits_for_a_beginning() -> None:
    """Who begins to read between two parts of a message, or finds the next part late, is given whole messages."""
    ring = Ring.create("feed", feed_dtype, CAPACITY, [ReaderSpec("front-0", gating=False)])
    feed, reader = ring.writer(), FeedReader(ring.reader("front-0"))
    source = Ring.create("source", feed_dtype, CAPACITY, [ReaderSpec("front-0", gating=False)])
    writer = FeedWriter(source.writer())
    texts = [random.Random(number).randbytes(2 * FEED_DATA_BYTES + 5) for number in range(2)]
    for text in texts:
        writer.add(FeedKind.ORDER, text, sequence=1, timestamp_ns=0)
    writer.flush()
    parts = source.slots(0, 6)
    feed.publish(parts[:2])
    reader.begin()
    assert reader.read() == []
    feed.publish(parts[2:3])
    assert reader.read() == []
    for part in range(3, 5):
        feed.publish(parts[part : part + 1])
        assert reader.read() == []
    feed.publish(parts[5:])
    assert [message.text for message in reader.read()] == texts[1:]
