"""Claims about bytes on the wire: other people's parsers read from our frames exactly what was put into them."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import msgpack
import pytest
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, TextMessage

from tradeengine.web.streams.wire import BATCH_MESSAGES_MAX, Message, pack

SIZES = (0, 1, 100, 125, 126, 127, 1000, 65_535, 65_536, 65_537, 200_000)


def read(frames: bytes, piece_bytes: int = 1 << 20) -> list[Any]:
    """Read frames as a client does: the content of each, JSON or msgpack."""
    client = Connection(ConnectionType.CLIENT)
    contents, parts = [], []
    for start in range(0, len(frames), piece_bytes):
        client.receive_data(frames[start : start + piece_bytes])
        for event in client.events():
            assert isinstance(event, TextMessage | BytesMessage)
            parts.append(event.data)
            if event.message_finished:
                whole = parts[0][:0].join(parts)  # type: ignore[arg-type]
                contents.append(json.loads(whole) if isinstance(whole, str) else msgpack.unpackb(whole))
                parts = []
    assert not parts
    return contents


def make_messages(seed: int, count: int) -> list[Message]:
    """Make messages of all kinds of content."""
    numbers = Random(seed)
    contents: list[Any] = [
        {
            "type": "test",
            "text": numbers.choice(["", "é", "日本", "\u0000", '"', "x" * 300]),
            "number": numbers.choice([0, -1, 2**31, 2**53, 2**63 - 1]),
            "list": [["1.00", "2"]] * numbers.randint(0, 40),
            "null": None,
            "flag": numbers.random() < 0.5,
            "object": {"a": {"b": []}},
        }
        for _ in range(count)
    ]
    return [Message(json.dumps(content, ensure_ascii=False).encode()) for content in contents]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("binary", [False, True])
def test_message_of_any_size_is_read_as_it_was(size: int, binary: bool) -> None:
    """A message of any size, around every boundary of a frame's head, comes out whole, also in small pieces."""
    content = {"fill": "x" * size}
    frames = pack([Message(json.dumps(content).encode())], binary=binary, batch=False)
    assert read(frames) == read(frames, piece_bytes=997) == [content]


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, BATCH_MESSAGES_MAX, BATCH_MESSAGES_MAX + 1, 2500])
@pytest.mark.parametrize("binary", [False, True])
def test_lists_hold_every_message_in_order(count: int, binary: bool) -> None:
    """In batches every frame is a list, none longer than allowed, and together they hold all messages, in order."""
    messages = make_messages(count, count)
    lists = read(pack(messages, binary=binary, batch=True))
    assert all(isinstance(one, list) and 0 < len(one) <= BATCH_MESSAGES_MAX for one in lists)
    assert len(lists) == -(-count // BATCH_MESSAGES_MAX)
    assert [content for one in lists for content in one] == [json.loads(message.json) for message in messages]


def test_every_encoding_has_the_same_content() -> None:
    """JSON and msgpack, alone and in lists, say the same."""
    messages = make_messages(7, 50)
    contents = [json.loads(message.json) for message in messages]
    for binary in (False, True):
        assert read(pack(messages, binary=binary, batch=False)) == contents
        assert read(pack(messages, binary=binary, batch=True)) == [contents]


def test_nothing_is_no_frame() -> None:
    """Nothing to say makes no bytes."""
    for binary in (False, True):
        for batch in (False, True):
            assert pack([], binary=binary, batch=batch) == b""


def test_frame_is_made_once_for_everyone() -> None:
    """However many clients get a message, each of its encodings is made once."""
    (message,) = make_messages(1, 1)
    assert message.text_frame is message.text_frame
    assert message.binary_frame is message.binary_frame
    assert message.msgpack is message.msgpack
