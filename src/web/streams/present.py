"""How things are now, as messages: what a channel begins with, and what is told where messages were lost.

It is read from the shared tables. None instead of a message: it cannot be read now, because its writer is in the middle
of it, or died there and is not back yet.
It refuses to know who is told.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tradeengine.core.feed import FeedKind
from tradeengine.core.messages import OrderbookSnapshot, TradingStatus
from tradeengine.core.messages import encode as encode_told
from tradeengine.core.times import format_ms
from tradeengine.ipc.seqlock import SeqlockBusy
from tradeengine.web.streams.messages import TradesGap, encode
from tradeengine.web.streams.wire import Message
from tradeengine.web.trading_states import read_trading

if TYPE_CHECKING:
    from collections.abc import Callable

    from tradeengine.core.symbols import SymbolSpec
    from tradeengine.web.front import Pages

NS_PER_MS: Final = 10**6


class Told(NamedTuple):
    """A message, and the last event that it includes."""

    sequence: int
    message: Message


class Present:
    """Reads the tables of what may be told at any time."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._readers: dict[int, Callable[[SymbolSpec], Told]] = {
            FeedKind.BOOK: self._book,
            FeedKind.STATUS: self._status,
            FeedKind.TRADE: self._trades_gap,
        }

    def knows(self, kind: int) -> bool:
        """Whether a kind of channel is told of here."""
        return kind in self._readers

    def read(self, kind: int, symbol_id: int) -> Told | None:
        """Give the whole book, the trading state, or, of trades, that some may be missing."""
        try:
            return self._readers[kind](self._pages.directory().symbols[symbol_id])
        except SeqlockBusy:
            return None

    def _book(self, spec: SymbolSpec) -> Told:
        sequence, timestamp_ns, bids, asks = self._pages.depth.read_with(spec.symbol_id, _copy_levels)
        snapshot = OrderbookSnapshot(
            symbol=spec.name,
            bids=[(spec.format_price(price), spec.format_quantity(lots)) for price, lots in bids],
            asks=[(spec.format_price(price), spec.format_quantity(lots)) for price, lots in asks],
            sequence=sequence,
            timestamp=format_ms((timestamp_ns or time.time_ns()) // NS_PER_MS),
        )
        return Told(sequence, Message(encode_told(snapshot)))

    def _status(self, spec: SymbolSpec) -> Told:
        included = int(self._pages.touch.read(spec.symbol_id)["sequence"])
        trading = read_trading(self._pages, spec.symbol_id)
        # Of a state that the publisher has not shown yet neither the event nor the reason is known.
        sequence = trading.sequence if trading and trading.sequence >= 0 else included
        status = TradingStatus(
            symbol=spec.name,
            status=trading.state.name.lower() if trading else "unlisted",
            reason=trading.reason if trading else None,
            sequence=sequence,
            timestamp=_now(),
        )
        return Told(sequence, Message(encode_told(status)))

    def _trades_gap(self, spec: SymbolSpec) -> Told:
        sequence = int(self._pages.touch.read(spec.symbol_id)["sequence"])
        return Told(sequence, Message(encode(TradesGap(symbol=spec.name, sequence=sequence, timestamp=_now()))))


def _now() -> str:
    return format_ms(time.time_ns() // NS_PER_MS)


def _copy_levels(row: Any) -> tuple[int, int, list[list[int]], list[list[int]]]:
    bids, asks = row["bids"][: int(row["bid_count"])].tolist(), row["asks"][: int(row["ask_count"])].tolist()
    return int(row["sequence"]), int(row["timestamp_ns"]), bids, asks
