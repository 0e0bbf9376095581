"""What a matcher shows beside its events: best prices of each symbol, and on request a symbol's whole book.

Rule 1: rows are written once their commands are durable, and right before the events that they include are published:
who knows of an event finds it in the rows. They name the last of these events.
Rule 2: a restarted matcher rewrites all its rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tradeengine.actors.matcher_survey import survey_events
from tradeengine.core.book import levels, next_event_sequence, touches
from tradeengine.core.records import Side

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tradeengine.core.book import BookState
    from tradeengine.ipc.seqlock import SeqlockTable


class MatcherTables:
    """The rows that one shard's matcher writes."""

    def __init__(self, book: BookState, touches: SeqlockTable, answers: SeqlockTable, requests: SeqlockTable) -> None:
        """Write ``book``'s symbols into ``touches``, and into ``answers`` what ``requests`` asks for."""
        self._book = book
        self._touches = touches
        self._answers = answers
        self._requests = requests
        self._request_version = 0
        self._is_changed = np.zeros(touches.rows, dtype=np.bool_)

    def mark(self, events: NDArray[np.void], rejections: NDArray[np.int64]) -> int:
        """Note which symbols these events may have changed; returns how many of them are trades.

        rejections: ``survey_events`` counts rejected orders there.
        """
        return survey_events(events, self._is_changed, rejections)

    def write_changed(self) -> None:
        """Write the rows of the symbols that were marked since the last time."""
        symbol_ids = np.flatnonzero(self._is_changed)
        if len(symbol_ids) == 0:
            return
        self._is_changed[symbol_ids] = False
        rows = touches(self._book, symbol_ids)
        # Another shard's symbol can be named by a refusal: its row is another matcher's.
        own = rows["listed"] == 1
        if own.all():
            self._touches.write_rows(symbol_ids, rows)
        elif own.any():
            self._touches.write_rows(symbol_ids[own], rows[own])

    def write_all(self) -> None:
        """Write the rows of all symbols that the book lists."""
        self._is_changed[:] = True
        self.write_changed()

    def answer(self) -> bool:
        """Copy the book that was asked for since the last time, if any; returns whether there was one."""
        version = self._requests.version(0)
        if version == self._request_version or version % 2 == 1:
            return False
        request = self._requests.read(0)
        self._request_version = version
        if int(request["number"]) == 0:
            return False
        self._copy_levels(int(request["number"]), int(request["symbol_id"]))
        return True

    def _copy_levels(self, number: int, symbol_id: int) -> None:
        is_known = 0 <= symbol_id < len(self._is_changed)
        empty = np.empty((0, 2), dtype=np.int64)
        bids = levels(self._book, symbol_id, Side.BUY) if is_known else empty
        asks = levels(self._book, symbol_id, Side.SELL) if is_known else empty
        with self._answers.writing(0) as answer:
            answer["number"] = number
            answer["symbol_id"] = symbol_id
            answer["sequence"] = next_event_sequence(self._book) - 1
            answer["bid_count"] = len(bids)
            answer["ask_count"] = len(asks)
            answer["bids"][: len(bids)] = bids
            answer["asks"][: len(asks)] = asks
