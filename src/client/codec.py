"""Frames: JSON text or msgpack in, messages out, and operations the other way.

Rule 1: a frame holds one message or a list of them; both are read wherever they come.
Rule 2: a message of a type that this client does not know is handed on as ``UnknownMessage``, never an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw

from tradeengine.client.messages import Known, Message, UnknownMessage

T = TypeVar("T")

MSGPACK: Final = "tradeengine.msgpack"
"""The subprotocol of binary frames."""


class Codec:
    """Reads and writes the frames of one connection; JSON text, or msgpack where ``is_binary``."""

    def __init__(self, *, is_binary: bool) -> None:
        self.is_binary = is_binary
        library: Any = msgspec.msgpack if is_binary else msgspec.json
        self.encode: Callable[[Any], bytes] = library.Encoder().encode
        self._decoder = library.Decoder(Known | list[Known])
        self._plain = library.Decoder()
        self._decode: Callable[..., Any] = library.decode

    def read(self, frame: bytes) -> list[Message]:
        """Read a frame: one message, or a list of them. Raises ValueError for what is neither."""
        try:
            found = self._decoder.decode(frame)
        except msgspec.ValidationError:
            found = self._read_odd(frame)
        return found if isinstance(found, list) else [found]

    def read_data(self, raw: Raw, kind: type[T]) -> T:
        """Read the data of an answer."""
        found: T = self._decode(raw, type=kind)
        return found

    def _read_odd(self, frame: bytes) -> list[Message]:
        """Read a frame with something new in it, message by message."""
        found = self._plain.decode(frame)
        return [self._read_one(item) for item in (found if isinstance(found, list) else [found])]

    def _read_one(self, item: Any) -> Message:
        if not isinstance(item, dict):
            raise msgspec.ValidationError("a message is an object")
        if item.get("type") in _KNOWN_TYPES:
            known: Message = self._decoder.decode(self.encode(item))
            return known
        return UnknownMessage(content=item)


_KNOWN_TYPES: Final = frozenset(kind.__struct_config__.tag for kind in Known.__args__)
