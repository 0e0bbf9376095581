"""The feed: in which records the publisher hands encoded messages to the fronts, and what fronts want from it.

A message is JSON text, made once, and travels in one record or in several that follow each other. Who it is for
stands in the head, so that a front need not read the text.

Rule 1: a layout is described once, here, as ``core.records`` does it for commands and events.
Rule 2: ``previous_sequence`` chains the changes of one book, and only these: a front that finds the chain broken
starts over from the depth page.
It refuses to know what the text says, clients, and how many fronts there are.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

import numpy as np

FEED_RECORD_BYTES: Final = 1024
FEED_HEAD_BYTES: Final = 64
FEED_DATA_BYTES: Final = FEED_RECORD_BYTES - FEED_HEAD_BYTES
MINUTE_MS: Final = 60_000


class TimeFrame(IntEnum):
    """Length of a candle, in minutes; all of them divide the UTC day."""

    M1 = 1
    M5 = 5
    M15 = 15
    H1 = 60
    H4 = 240
    D1 = 1440


TIME_FRAME_NAMES: Final = {
    TimeFrame.M1: "1m",
    TimeFrame.M5: "5m",
    TimeFrame.M15: "15m",
    TimeFrame.H1: "1h",
    TimeFrame.H4: "4h",
    TimeFrame.D1: "1d",
}


class FeedKind(IntEnum):
    """What a message is."""

    TRADE = 1
    BOOK = 2
    """A change from ``previous_sequence`` to ``sequence``; -1: of a book that nobody could follow until then."""
    TICKER = 3
    CANDLE = 4
    """``time_frame`` says which."""
    STATUS = 5
    ORDER = 6
    """For ``account_id`` alone."""
    GAP = 7
    """Events of ``shard`` before ``sequence`` were missed: whoever counts on having seen all starts over. No text."""
    CHANNELS_SERVED = 8
    """Channels that front ``account_id`` wanted in its request ``sequence`` are served from here on. No text."""
    ORDERS_SERVED = 9
    """So are the orders of the accounts that it wanted. The text is the cursor of this place."""


class Interest(IntFlag):
    """What a front wants of a symbol; candles of the time frame at place n of ``TimeFrame`` are bit 4 + n."""

    TRADES = 1
    BOOK = 2
    TICKER = 4
    STATUS = 8


CANDLE_INTERESTS: Final = {frame: 1 << (4 + place) for place, frame in enumerate(TimeFrame)}

feed_dtype: Final = np.dtype(
    {
        "names": [
            "sequence",
            "previous_sequence",
            "timestamp_ns",
            "account_id",
            "symbol_id",
            "shard",
            "byte_count",
            "time_frame",
            "kind",
            "more",
            "data",
        ],
        # byte_count: of the whole message; more: whether the next record goes on with it
        "formats": ["<i8", "<i8", "<i8", "<i4", "<i4", "<i4", "<i4", "<i2", "u1", "u1", f"V{FEED_DATA_BYTES}"],
        "offsets": [0, 8, 16, 24, 28, 32, 36, 40, 42, 43, FEED_HEAD_BYTES],
        "itemsize": FEED_RECORD_BYTES,
    }
)


def demand_dtype(accounts_max: int, symbols_max: int) -> np.dtype[np.void]:
    """Lay out what one front wants: ``number`` counts its requests, ``accounts`` is 1 for orders of that account.

    By symbol id: ``channels``, ``Interest`` bits, and ``asked``, the latest request in which somebody began to listen,
    or had missed messages, and needs to be told how things are.
    """
    return np.dtype(
        [
            ("number", "<i8"),
            ("channels", "<i8", (symbols_max,)),
            ("asked", "<i8", (symbols_max,)),
            ("accounts", "u1", (-(-accounts_max // 8) * 8,)),
        ]
    )


assert feed_dtype.itemsize % 64 == 0
