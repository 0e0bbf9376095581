"""The last 24 hours: what the trades inside the window add up to, to the millisecond at its edge."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from functools import partial

import psycopg
import pytest
from tests.storage.past import DAY_MS, HOUR_MS, MINUTE_MS, PRICE, Made, Past, random_trades

from tradeengine.core.symbols import SymbolSpec
from tradeengine.storage.statistics import Day, Sums, read_day

NOON_MS = int(dt.datetime(2026, 10, 1, 12, tzinfo=dt.UTC).timestamp()) * 1000


@pytest.fixture
def past(dsn: str, symbol: SymbolSpec) -> Iterator[Past]:
    """Give the past of BTC/USDT, in which nothing happened yet."""
    opened = Past(dsn, symbol)
    yield opened
    opened.close()


def sums_of(trades: Sequence[Made], spec: SymbolSpec) -> Sums:
    """Add up trades one by one."""
    if not trades:
        return Sums()
    prices = [trade.price_ticks for trade in trades]
    return Sums(
        prices[0],
        max(prices),
        min(prices),
        prices[-1],
        sum(trade.quantity_lots for trade in trades),
        sum(spec.notional_units(trade.price_ticks, trade.quantity_lots) for trade in trades),
        len(trades),
    )


@pytest.mark.parametrize("inside_minute_ms", [0, 1, 30_000, MINUTE_MS - 1])
def test_edge_is_exact_to_the_millisecond(inside_minute_ms: int, past: Past, connection: psycopg.Connection) -> None:
    """A trade of 24 hours ago is out, one a millisecond younger is in, wherever in its minute the edge lies."""
    edge_ms = NOON_MS + inside_minute_ms
    distances = (-2, -1, 0, 1, 2, 90_000, DAY_MS - 1)
    trades = [Made(edge_ms + distance, PRICE + number, 1) for number, distance in enumerate(distances)]
    past.trade(trades)
    for later_ms in (-1, 0, 1):
        day = read_day(connection, 0, partial(int, edge_ms + DAY_MS + later_ms))
        inside = [trade for trade in trades if trade.time_ms > edge_ms + later_ms]
        assert day == Day(edge_ms + later_ms, edge_ms + DAY_MS + later_ms, sums_of(inside, past.spec))


def test_window_moves_over_imported_and_own_trades(past: Past, connection: psycopg.Connection) -> None:
    """At whatever moment it is asked, with trades of both kinds in the edge's minute too, it is a plain sum."""
    brought = random_trades(1, 120, NOON_MS - 2 * HOUR_MS, NOON_MS)
    own = random_trades(2, 120, NOON_MS, NOON_MS + 3 * HOUR_MS)
    past.bring(brought)
    past.trade(own, batch=29)
    trades = brought + own
    middle_ms = NOON_MS + DAY_MS
    for now_ms in (*range(middle_ms - 3 * HOUR_MS, middle_ms + 4 * HOUR_MS, 1_234_567), middle_ms - 1, middle_ms):
        if now_ms >= trades[-1].time_ms:
            inside = [trade for trade in trades if now_ms - DAY_MS < trade.time_ms <= now_ms]
            assert read_day(connection, 0, partial(int, now_ms)).sums == sums_of(inside, past.spec)


def test_day_without_trades_has_no_prices(past: Past, connection: psycopg.Connection) -> None:
    """Nothing traded, or nothing for more than a day: sums are 0 and there are no prices."""
    assert read_day(connection, 0).sums == Sums()
    past.trade([Made(NOON_MS, PRICE, 1)])
    assert read_day(connection, 0, lambda: NOON_MS + DAY_MS).sums == Sums()
    assert read_day(connection, 0, lambda: NOON_MS + DAY_MS - 1).sums.trade_count == 1


def test_clock_is_asked_after_the_snapshot(past: Past, connection: psycopg.Connection) -> None:
    """What is settled while the clock is read is not in the answer: nothing in it is later than its end."""

    def clock_ms() -> int:
        past.trade([Made(NOON_MS + 5, PRICE, 1)])
        return NOON_MS

    assert read_day(connection, 0, clock_ms).sums == Sums()
    assert read_day(connection, 0, lambda: NOON_MS + 5).sums.trade_count == 1
