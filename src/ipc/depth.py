"""The depth table as its readers see it: the first levels of one book, copied whole.

It refuses to know decimals and names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tradeengine.ipc.seqlock import SeqlockTable


class Depth(NamedTuple):
    """First levels, best first, ``[price_ticks, lots]``; ``timestamp_ns`` is 0 before the publisher shows the book."""

    sequence: int
    timestamp_ns: int
    bids: list[list[int]]
    asks: list[list[int]]


def read_depth(table: SeqlockTable, symbol_id: int, levels: int) -> Depth:
    """Copy at most so many levels of each side of a symbol's row. Raises SeqlockBusy."""

    def copy(row: Any) -> Depth:
        bids = row["bids"][: min(int(row["bid_count"]), levels)].tolist()
        asks = row["asks"][: min(int(row["ask_count"]), levels)].tolist()
        return Depth(int(row["sequence"]), int(row["timestamp_ns"]), bids, asks)

    return table.read_with(symbol_id, copy)
