"""The publisher's end of the feed: messages are collected during a duty and published together.

A message that is longer than one record goes on in the records behind it, which are published with it.
It refuses to know what the messages say.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from tradeengine.core.feed import FEED_DATA_BYTES, FEED_HEAD_BYTES, FeedKind, feed_dtype

if TYPE_CHECKING:
    from tradeengine.ipc.ring import RingWriter

_HEAD: Final = struct.Struct("<qqqiiiihBB20x")
assert _HEAD.size == FEED_HEAD_BYTES
_HEAD_FIELDS: Final = tuple(name for name in feed_dtype.names or () if name != "data")
assert [feed_dtype.fields[name][1] for name in _HEAD_FIELDS] == [0, 8, 16, 24, 28, 32, 36, 40, 42, 43]  # type: ignore[index]


class FeedWriter:
    """Collects messages (``add``) and publishes them (``flush``)."""

    def __init__(self, ring: RingWriter) -> None:
        self._ring = ring
        self._batch_max = ring.ring.capacity // 4
        self._parts: list[bytes] = []
        self._count = 0

    def add(
        self,
        kind: FeedKind,
        text: bytes = b"",
        *,
        sequence: int,
        timestamp_ns: int,
        symbol_id: int = 0,
        account_id: int = 0,
        shard: int = 0,
        previous_sequence: int = 0,
        time_frame: int = 0,
    ) -> None:
        """Take a message; it is not on its way before ``flush``."""
        size = len(text)
        for start in range(0, size or 1, FEED_DATA_BYTES):
            part = text[start : start + FEED_DATA_BYTES]
            more = start + FEED_DATA_BYTES < size
            head = _HEAD.pack(
                sequence, previous_sequence, timestamp_ns, account_id, symbol_id, shard, size, time_frame, kind, more
            )
            self._parts.append(head + part.ljust(FEED_DATA_BYTES, b"\0"))
        self._count += 1

    def flush(self) -> int:
        """Publish what was collected, and return how many messages; readers may be lapped, so there is always room."""
        parts, self._parts = self._parts, []
        count, self._count = self._count, 0
        for start in range(0, len(parts), self._batch_max):
            content = bytearray().join(parts[start : start + self._batch_max])
            self._ring.publish(np.frombuffer(content, feed_dtype))
        return count
