"""Candles as they grow: which ones to tell, now and when their time is over.

Rule 1: a candle is told when trades came into it, and once more, closed, when it is over and was told before. Trades
that come in late make it told again. Rule 2: without its past a candle is not known and not told.
It refuses to know clocks and how candles are told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from tradeengine.actors.publishing.ticker import MINUTE_NS
from tradeengine.core.feed import CANDLE_INTERESTS, TimeFrame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tradeengine.actors.publishing.ticker import Tickers

_FIRST_INTEREST: Final = min(CANDLE_INTERESTS.values())
GRACE_NS: Final = 10**9
"""A trade may come in so much later than the time that it carries."""


class ToldCandle(NamedTuple):
    """A candle to tell; ``bucket`` is a ``bucket_dtype`` record."""

    symbol_id: int
    frame: TimeFrame
    bucket: Any
    closed: bool


class LiveCandles:
    """Candles of all symbols, read from the minutes of ``tickers``."""

    def __init__(self, tickers: Tickers) -> None:
        self._tickers = tickers
        self._open: set[tuple[int, TimeFrame, int]] = set()
        """Candles that were told and not closed yet: symbol, time frame, first minute. For a moment two of a kind."""
        self._unknown: set[int] = set()
        """Symbols that somebody wanted while their past was not known."""

    def current(self, symbol_id: int, frame: TimeFrame, now_ns: int) -> ToldCandle | None:
        """Give the present candle, for someone who wants it from now on."""
        first_minute = _first_minute(now_ns // MINUTE_NS, frame)
        return self._tell(symbol_id, frame, first_minute, now_ns)

    def due(self, wanted: NDArray[np.int64], knows_past: Callable[[int], bool], now_ns: int) -> Iterator[ToldCandle]:
        """Tell what is due: candles that trades came into since the last call, and those whose time is over.

        wanted: ``Interest`` bits by symbol id. knows_past: whether the minutes of a symbol are whole.
        """
        touched = {symbol_id: minutes for symbol_id, minutes in self._tickers.touched.items() if knows_past(symbol_id)}
        self._tickers.touched.clear()
        for symbol_id in np.flatnonzero(wanted >= _FIRST_INTEREST).tolist():
            if not knows_past(symbol_id):
                self._unknown.add(symbol_id)
            elif symbol_id in self._unknown:
                self._unknown.discard(symbol_id)
                touched.setdefault(symbol_id, set()).add(now_ns // MINUTE_NS)
        for symbol_id, minutes in touched.items():
            for frame, interest in CANDLE_INTERESTS.items():
                if wanted[symbol_id] & interest:
                    for first_minute in sorted({_first_minute(minute, frame) for minute in minutes}):
                        told = self._tell(symbol_id, frame, first_minute, now_ns)
                        if told is not None:
                            yield told
        for symbol_id, frame, first_minute in sorted(self._open):
            if not wanted[symbol_id] & CANDLE_INTERESTS[frame]:
                self._open.discard((symbol_id, frame, first_minute))
            elif _is_over(first_minute, frame, now_ns):
                told = self._tell(symbol_id, frame, first_minute, now_ns)
                if told is not None:
                    yield told

    def _tell(self, symbol_id: int, frame: TimeFrame, first_minute: int, now_ns: int) -> ToldCandle | None:
        bucket = self._tickers.candle(symbol_id, first_minute, int(frame))
        closed = _is_over(first_minute, frame, now_ns)
        if closed:
            self._open.discard((symbol_id, frame, first_minute))
        elif bucket is not None:
            self._open.add((symbol_id, frame, first_minute))
        return None if bucket is None else ToldCandle(symbol_id, frame, bucket, closed)


def _first_minute(minute: int, frame: TimeFrame) -> int:
    return minute // frame * frame


def _is_over(first_minute: int, frame: TimeFrame, now_ns: int) -> bool:
    return (first_minute + frame) * MINUTE_NS + GRACE_NS <= now_ns
