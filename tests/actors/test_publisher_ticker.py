"""Claims about tickers: 24 hours in minute buckets, from trades and from stored minutes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tradeengine.actors.publishing.ticker import MINUTE_NS, WINDOW_MINUTES, Tickers, bucket_dtype
from tradeengine.core.records import EventKind, event_dtype

Records = np.ndarray[Any, np.dtype[np.void]]
START_NS = 29_000_000 * MINUTE_NS


def trades(*rows: tuple[int, int, int, int]) -> Records:
    """Make TRADED events of (symbol_id, timestamp_ns, price_ticks, quantity_lots); notional is price × quantity × 2."""
    events = np.zeros(len(rows), event_dtype)
    events["kind"] = EventKind.TRADED
    for event, (symbol_id, timestamp_ns, price_ticks, quantity_lots) in zip(events, rows, strict=True):
        event["symbol_id"] = symbol_id
        event["timestamp_ns"] = timestamp_ns
        event["price_ticks"] = price_ticks
        event["quantity_lots"] = quantity_lots
        event["notional_units"] = price_ticks * quantity_lots * 2
    return events


def shown(tickers: Tickers, symbol_id: int, now_ns: int) -> dict[str, int]:
    """Return what a ticker says of trades."""
    row = tickers.row(symbol_id, now_ns)
    names = ("open", "high", "low", "last_price")
    values = {name: int(row[f"{name}_ticks"]) for name in names}
    return values | {
        name: int(row[name]) for name in ("last_quantity_lots", "volume_lots", "quote_volume_units", "trade_count")
    }


def test_trades_of_several_minutes_add_up() -> None:
    """Open is the first trade's price, last the last one's; high, low and volumes span all minutes."""
    tickers = Tickers(4)
    tickers.fold(
        trades((1, START_NS, 100, 1), (1, START_NS + 5, 90, 2), (2, START_NS, 7, 7), (1, START_NS + MINUTE_NS, 120, 3))
    )
    assert shown(tickers, 1, START_NS + MINUTE_NS) == {
        "open": 100,
        "high": 120,
        "low": 90,
        "last_price": 120,
        "last_quantity_lots": 3,
        "volume_lots": 6,
        "quote_volume_units": 2 * (100 + 180 + 360),
        "trade_count": 3,
    }


def test_symbol_without_trades_is_all_zero() -> None:
    """A symbol that never traded has no prices and no volume."""
    assert set(shown(Tickers(1), 0, START_NS).values()) == {0}


def test_minute_leaves_the_window_after_24_hours() -> None:
    """A trade counts for 1,440 minutes from its own minute on; the last price stays."""
    tickers = Tickers(1)
    tickers.fold(trades((0, START_NS, 100, 1)))
    last_minute_ns = START_NS + (WINDOW_MINUTES - 1) * MINUTE_NS
    assert shown(tickers, 0, last_minute_ns)["volume_lots"] == 1
    after = shown(tickers, 0, last_minute_ns + MINUTE_NS)
    assert (after["volume_lots"], after["open"], after["last_price"]) == (0, 0, 100)


def test_minute_takes_over_the_slot_of_a_day_before() -> None:
    """A trade 24 hours later replaces its minute's bucket and adds nothing to the old one."""
    tickers = Tickers(1)
    tickers.fold(trades((0, START_NS, 100, 1)))
    later_ns = START_NS + WINDOW_MINUTES * MINUTE_NS
    tickers.fold(trades((0, later_ns, 200, 5)))
    assert shown(tickers, 0, later_ns)["volume_lots"] == 5
    assert shown(tickers, 0, later_ns)["low"] == 200


def test_stored_minutes_and_trades_after_them_meet_in_one_bucket() -> None:
    """Trades of a minute that was stored in part add to what was stored."""
    tickers = Tickers(1)
    minute = START_NS // MINUTE_NS
    tickers.load(0, np.array([(minute - 1, 5, 6, 4, 6, 10, 50, 2), (minute, 6, 9, 6, 8, 3, 24, 1)], bucket_dtype))
    assert shown(tickers, 0, START_NS)["last_price"] == 8
    tickers.fold(trades((0, START_NS + 1, 3, 2)))
    assert shown(tickers, 0, START_NS) == {
        "open": 5,
        "high": 9,
        "low": 3,
        "last_price": 3,
        "last_quantity_lots": 2,
        "volume_lots": 15,
        "quote_volume_units": 86,
        "trade_count": 4,
    }


@pytest.mark.parametrize("seed", range(3))
def test_any_cut_of_the_trades_gives_the_same_ticker(seed: int) -> None:
    """However trades are cut into batches, the ticker is that of all of them within the window."""
    rng = random.Random(seed)
    now_ns, rows = START_NS, []
    for _ in range(500):
        now_ns += rng.choice([0, 1, 10**9, MINUTE_NS, 90 * MINUTE_NS])
        rows.append((rng.randrange(2), now_ns, rng.randint(50, 150), rng.randint(1, 9)))
    tickers = Tickers(2)
    start = 0
    while start < len(rows):
        end = start + rng.randint(1, 40)
        tickers.fold(trades(*rows[start:end]))
        start = end
    for symbol_id in range(2):
        inside = [
            row for row in rows if row[0] == symbol_id and row[1] // MINUTE_NS > now_ns // MINUTE_NS - WINDOW_MINUTES
        ]
        prices = [row[2] for row in inside]
        result = shown(tickers, symbol_id, now_ns)
        assert (result["open"], result["high"], result["low"]) == (prices[0], max(prices), min(prices))
        assert result["volume_lots"] == sum(row[3] for row in inside)
        assert result["quote_volume_units"] == sum(row[2] * row[3] * 2 for row in inside)
        assert result["trade_count"] == len(inside)
