"""The front's end of the feed: records become messages again, each with its head.

It refuses to know subscribers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from tradeengine.core.feed import FEED_DATA_BYTES, FEED_HEAD_BYTES, FEED_RECORD_BYTES, FeedKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tradeengine.ipc.ring_reader import RingReader

SCAN_COUNT_MAX: Final = 128
"""Records that are passed on before the clients' connections are looked at again."""
_IS_CAUSED: Final = np.zeros(256, np.bool_)
_IS_CAUSED[[FeedKind.TRADE, FeedKind.BOOK, FeedKind.ORDER, FeedKind.STATUS]] = True
_HEAD_FIELDS: Final = (
    "kind",
    "symbol_id",
    "time_frame",
    "account_id",
    "shard",
    "sequence",
    "previous_sequence",
    "byte_count",
    "more",
)


class FeedMessage(NamedTuple):
    """A message and whom it is for; see ``core.feed``."""

    kind: int
    symbol_id: int
    time_frame: int
    account_id: int
    shard: int
    sequence: int
    previous_sequence: int
    text: bytes


class FeedReader:
    """Reads the feed."""

    def __init__(self, reader: RingReader) -> None:
        self._reader = reader
        self._parts: list[bytes] = []
        """Of a message whose last record is not there yet."""
        self.timestamps_ns: NDArray[np.int64] = np.empty(0, np.int64)
        """When what was read last was caused, of messages that a command causes: books, trades, orders, states."""

    def begin(self) -> None:
        """Go on with what comes from now on."""
        self._reader.seek(self._reader.head)
        self._parts.clear()

    def available(self) -> bool:
        """Whether there is anything to read."""
        return self._reader.available() > 0

    def read(self) -> list[FeedMessage]:
        """Give the next messages. Raises Lapped, and goes on behind what was lost."""
        parts = self._parts
        try:
            records = self._reader.poll(SCAN_COUNT_MAX)
        except BaseException:
            parts.clear()
            raise
        count = len(records)
        data = records.tobytes()
        self.timestamps_ns = records["timestamp_ns"][_IS_CAUSED[records["kind"]]]
        messages = []
        columns = [records[name].tolist() for name in _HEAD_FIELDS]
        for place, (*head, byte_count, more) in enumerate(zip(*columns, strict=True)):
            start = place * FEED_RECORD_BYTES + FEED_HEAD_BYTES
            end = (place + 1) * FEED_RECORD_BYTES
            # After a lap it may be the end of a message whose beginning is gone.
            if not parts and not more and byte_count <= FEED_DATA_BYTES:
                messages.append(FeedMessage._make((*head, data[start : start + byte_count])))
                continue
            parts.append(data[start:end])
            if not more:
                text = b"".join(parts)[:byte_count]
                parts.clear()
                if len(text) == byte_count:
                    messages.append(FeedMessage._make((*head, text)))
        self._reader.advance(count)
        return messages
