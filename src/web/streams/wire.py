"""Messages as bytes on the wire: each is encoded once per encoding, however many clients get it.

A message is made as JSON text. For a client that asked for msgpack it is turned into that when the first such client
gets it. Frames of a server are not masked, so the same frame goes to everyone.
It refuses to know clients and what messages say.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXT: Final = 0x81
BINARY: Final = 0x82
BATCH_MESSAGES_MAX: Final = 1000
"""In one frame."""


class Message:
    """One message for any number of clients."""

    __slots__ = ("_binary_frame", "_msgpack", "_text_frame", "json")

    def __init__(self, json: bytes) -> None:
        self.json = json
        self._text_frame: bytes | None = None
        self._msgpack: bytes | None = None
        self._binary_frame: bytes | None = None

    @property
    def text_frame(self) -> bytes:
        """A text frame with the JSON."""
        if self._text_frame is None:
            self._text_frame = frame(TEXT, self.json)
        return self._text_frame

    @property
    def msgpack(self) -> bytes:
        """The same as msgpack."""
        if self._msgpack is None:
            self._msgpack = msgspec.msgpack.encode(msgspec.json.decode(self.json))
        return self._msgpack

    @property
    def binary_frame(self) -> bytes:
        """A binary frame with the msgpack."""
        if self._binary_frame is None:
            self._binary_frame = frame(BINARY, self.msgpack)
        return self._binary_frame


def frame(opcode: int, payload: bytes) -> bytes:
    """Make an unmasked frame that holds a whole message."""
    size = len(payload)
    if size < 126:
        return bytes((opcode, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", opcode, 126, size) + payload
    return struct.pack("!BBQ", opcode, 127, size) + payload


def pack(messages: Sequence[Message], *, binary: bool, batch: bool) -> bytes:
    """Put messages into frames: one each, or, for a client that asked for it, lists of them."""
    if not batch:
        return b"".join([message.binary_frame if binary else message.text_frame for message in messages])
    frames = []
    for start in range(0, len(messages), BATCH_MESSAGES_MAX):
        part = messages[start : start + BATCH_MESSAGES_MAX]
        if binary:
            frames.append(frame(BINARY, _array_head(len(part)) + b"".join([message.msgpack for message in part])))
        else:
            frames.append(frame(TEXT, b"[" + b",".join([message.json for message in part]) + b"]"))
    return b"".join(frames)


def _array_head(count: int) -> bytes:
    """Begin a msgpack array."""
    return bytes((0x90 | count,)) if count < 16 else struct.pack("!BH", 0xDC, count)
