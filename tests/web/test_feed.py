"""Claims about the feed: what the publisher says is what a front reads, whole and in order, whatever its size."""

from __future__ import annotations

from random import Random

import pytest

from tradeengine.actors.publishing.feed_writer import FeedWriter
from tradeengine.core.feed import FEED_DATA_BYTES, FeedKind, feed_dtype
from tradeengine.ipc.ring import Lapped, ReaderSpec, Ring
from tradeengine.web.streams.feed_reader import SCAN_COUNT_MAX, FeedMessage, FeedReader

EDGES = (0, 1, FEED_DATA_BYTES - 1, FEED_DATA_BYTES, FEED_DATA_BYTES + 1, 3 * FEED_DATA_BYTES, 50 * FEED_DATA_BYTES)


def make_ends(capacity: int = 1024) -> tuple[FeedWriter, FeedReader]:
    """Make a feed."""
    ring = Ring.create("feed", feed_dtype, capacity, [ReaderSpec("front-0", gating=False)])
    return FeedWriter(ring.writer()), FeedReader(ring.reader("front-0"))


def make_message(numbers: Random) -> FeedMessage:
    """Make a message with any head and text."""
    size = numbers.choice([*EDGES, numbers.randrange(5000)])
    return FeedMessage(
        kind=int(numbers.choice(list(FeedKind))),
        symbol_id=numbers.randrange(1000),
        time_frame=numbers.choice([0, 1, 1440]),
        account_id=numbers.randrange(2**31),
        shard=numbers.randrange(64),
        sequence=numbers.randrange(2**62),
        previous_sequence=numbers.choice([-1, numbers.randrange(2**62)]),
        text=numbers.randbytes(size),
    )


def say(writer: FeedWriter, message: FeedMessage) -> None:
    """Have a message published with the next flush."""
    writer.add(
        FeedKind(message.kind),
        message.text,
        sequence=message.sequence,
        timestamp_ns=1,
        symbol_id=message.symbol_id,
        account_id=message.account_id,
        shard=message.shard,
        previous_sequence=message.previous_sequence,
        time_frame=message.time_frame,
    )


@pytest.mark.parametrize("seed", range(10))
def test_messages_come_out_as_they_went_in(seed: int) -> None:
    """Heads and texts of any size arrive as they were said, in whatever portions they are published and read."""
    numbers = Random(seed)
    writer, reader = make_ends()
    said: list[FeedMessage] = []
    heard: list[FeedMessage] = []
    for _ in range(150):
        fresh = [make_message(numbers) for _ in range(numbers.choice([1, 1, 3]))]
        for message in fresh:
            say(writer, message)
        assert writer.flush() == len(fresh)
        said += fresh
        while reader.available() and numbers.random() < 0.9:
            heard += reader.read()
        while len(said) - len(heard) > 10:
            heard += reader.read()
    while reader.available():
        heard += reader.read()
    assert heard == said


def test_long_message_is_read_over_several_looks() -> None:
    """A message of more records than one look takes is given once, when its last record has been read."""
    writer, reader = make_ends()
    text = Random(1).randbytes((2 * SCAN_COUNT_MAX + 5) * FEED_DATA_BYTES)
    writer.add(FeedKind.BOOK, text, sequence=1, timestamp_ns=0)
    writer.add(FeedKind.BOOK, b"next", sequence=2, timestamp_ns=0)
    writer.flush()
    looks = [[message.text for message in reader.read()] for _ in range(3)]
    assert looks == [[], [], [text, b"next"]]


def test_nothing_is_said_before_it_is_flushed() -> None:
    """What is added is not on its way yet; nothing to flush is no message."""
    writer, reader = make_ends()
    writer.add(FeedKind.GAP, sequence=1, timestamp_ns=0)
    assert not reader.available()
    assert (writer.flush(), writer.flush()) == (1, 0)
    assert [message.text for message in reader.read()] == [b""]


def test_more_than_the_ring_holds_is_a_lap_and_the_rest_is_whole() -> None:
    """When more is published at once than the ring holds, the reader is told, and then reads whole messages."""
    writer, reader = make_ends(capacity=64)
    texts = [Random(number).randbytes(1500) for number in range(100)]
    for number, text in enumerate(texts):
        writer.add(FeedKind.TRADE, text, sequence=number, timestamp_ns=0)
    writer.flush()
    with pytest.raises(Lapped):
        reader.read()
    heard = []
    while reader.available():
        heard += reader.read()
    assert [message.text for message in heard] == texts[-len(heard) :]
    assert len(heard) >= 16
