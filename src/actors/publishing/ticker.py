"""The last 24 hours of each symbol in minute buckets, folded from trades.

Rule 1: a bucket is a UTC minute. The window is the present minute and the 1,439 before it, so it slides minute by
minute and never shows more than 24 hours. Rule 2: memory is fixed: one slot per symbol and minute of the window, which
the minute that comes 24 hours later takes over.
It refuses to know where trades and candles come from, and which time it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tradeengine.core.records import EventKind
from tradeengine.core.tables import ticker_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

MINUTE_NS: Final = 60 * 10**9
WINDOW_MINUTES: Final = 24 * 60

bucket_dtype: Final = np.dtype(
    [
        ("minute", "<i8"),  # since the epoch; 0: never used
        ("open_ticks", "<i8"),
        ("high_ticks", "<i8"),
        ("low_ticks", "<i8"),
        ("close_ticks", "<i8"),
        ("volume_lots", "<i8"),
        ("quote_volume_units", "<i8"),
        ("trade_count", "<i8"),
    ]
)


class Tickers:
    """Minute buckets and last trades of ``symbols_max`` symbols."""

    def __init__(self, symbols_max: int) -> None:
        self._buckets = np.zeros((symbols_max, WINDOW_MINUTES), bucket_dtype)
        self._last = np.zeros((symbols_max, 2), np.int64)
        self.touched: dict[int, set[int]] = {}
        """Minutes in which trades came in, by symbol id, since the caller emptied it."""

    def clear(self, symbol_ids: NDArray[np.int64]) -> None:
        """Forget symbols, before their history is loaded anew."""
        self._buckets[symbol_ids] = 0
        self._last[symbol_ids] = 0

    def load(self, symbol_id: int, buckets: NDArray[np.void]) -> None:
        """Take stored minutes, 1-D ``bucket_dtype``, ascending; of more than a window only the last ones stay."""
        self._buckets[symbol_id, buckets["minute"] % WINDOW_MINUTES] = buckets
        if len(buckets):
            self._last[symbol_id, 0] = buckets["close_ticks"][-1]

    def set_last(self, symbol_id: int, price_ticks: int, quantity_lots: int) -> None:
        """Set the last trade: minutes lack its quantity, and it may be older than all of them."""
        self._last[symbol_id] = price_ticks, quantity_lots

    def fold(self, events: NDArray[np.void]) -> None:
        """Add the trades among a shard's events, 1-D ``event_dtype`` in order."""
        trades = events.take(np.flatnonzero(events["kind"] == EventKind.TRADED))
        if not len(trades):
            return
        minutes = trades["timestamp_ns"] // MINUTE_NS
        order = np.lexsort((minutes, trades["symbol_id"]))  # stable: within a minute they stay in order
        trades, minutes = trades.take(order), minutes[order]
        firsts = np.flatnonzero(np.diff(trades["symbol_id"], prepend=-1) | np.diff(minutes, prepend=-1))
        sums = {
            "high_ticks": np.maximum.reduceat(trades["price_ticks"], firsts),
            "low_ticks": np.minimum.reduceat(trades["price_ticks"], firsts),
            "volume_lots": np.add.reduceat(trades["quantity_lots"], firsts),
            "quote_volume_units": np.add.reduceat(trades["notional_units"], firsts),
        }
        lasts = np.append(firsts[1:], len(trades)) - 1
        parts = np.zeros(len(firsts), bucket_dtype)
        parts["minute"] = minutes[firsts]
        parts["open_ticks"] = trades["price_ticks"][firsts]
        parts["close_ticks"] = trades["price_ticks"][lasts]
        parts["trade_count"] = lasts - firsts + 1
        for field, values in sums.items():
            parts[field] = values
        symbol_ids = trades["symbol_id"][firsts]
        for symbol_id, part in zip(symbol_ids.tolist(), parts, strict=True):
            self._merge(symbol_id, part)
        self._last[symbol_ids, 0] = parts["close_ticks"]  # of a symbol's several minutes the last one stays
        self._last[symbol_ids, 1] = trades["quantity_lots"][lasts]

    def candle(self, symbol_id: int, first_minute: int, minutes: int) -> NDArray[np.void] | None:
        """One ``bucket_dtype`` record, shape (), of so many minutes, or None without a trade in them.

        first_minute: since the epoch; the minutes must not reach back further than the window.
        """
        buckets = self._buckets[symbol_id]
        buckets = buckets[(buckets["minute"] >= first_minute) & (buckets["minute"] < first_minute + minutes)]
        if not len(buckets):
            return None
        candle = np.zeros((), bucket_dtype)
        candle["minute"] = first_minute
        candle["open_ticks"] = buckets["open_ticks"][np.argmin(buckets["minute"])]
        candle["close_ticks"] = buckets["close_ticks"][np.argmax(buckets["minute"])]
        _sum_up(candle, buckets)
        return candle

    def row(self, symbol_id: int, now_ns: int) -> NDArray[np.void]:
        """One ``ticker_dtype`` record, shape (), of the 24 hours before ``now_ns``; best bid and ask are left 0."""
        row = np.zeros((), ticker_dtype)
        row["timestamp_ns"] = now_ns
        row["last_price_ticks"], row["last_quantity_lots"] = self._last[symbol_id]
        buckets = self._buckets[symbol_id]
        buckets = buckets[buckets["minute"] > now_ns // MINUTE_NS - WINDOW_MINUTES]
        if len(buckets):
            row["open_ticks"] = buckets["open_ticks"][np.argmin(buckets["minute"])]
            _sum_up(row, buckets)
        return row

    def _merge(self, symbol_id: int, part: np.void) -> None:
        self.touched.setdefault(symbol_id, set()).add(int(part["minute"]))
        slot = self._buckets[symbol_id, part["minute"] % WINDOW_MINUTES : part["minute"] % WINDOW_MINUTES + 1]
        if slot["minute"][0] != part["minute"]:
            slot[0] = part
            return
        slot["high_ticks"] = np.maximum(slot["high_ticks"], part["high_ticks"])
        slot["low_ticks"] = np.minimum(slot["low_ticks"], part["low_ticks"])
        slot["close_ticks"] = part["close_ticks"]
        for field in ("volume_lots", "quote_volume_units", "trade_count"):
            slot[field] += part[field]


def _sum_up(row: NDArray[np.void], buckets: NDArray[np.void]) -> None:
    row["high_ticks"] = buckets["high_ticks"].max()
    row["low_ticks"] = buckets["low_ticks"].min()
    for field in ("volume_lots", "quote_volume_units", "trade_count"):
        row[field] = buckets[field].sum()
