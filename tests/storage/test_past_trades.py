"""Past trades, page by page: oldest first, imported ones before the engine's own, none skipped and none twice."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import psycopg
import pytest
from tests.storage.past import DAY_MS, HOUR_MS, PRICE, Made, Past, random_trades

from tradeengine.core.records import Side
from tradeengine.core.symbols import SymbolSpec
from tradeengine.storage.past_trades import is_imported, list_past_trades
from tradeengine.storage.queries import TradeRow

BEGIN_MS = int(dt.datetime(2025, 6, 1, tzinfo=dt.UTC).timestamp()) * 1000
LONG_AGO_MS = int(dt.datetime(2012, 6, 21, tzinfo=dt.UTC).timestamp()) * 1000


@pytest.fixture
def past(dsn: str, symbol: SymbolSpec) -> Iterator[Past]:
    """Give the past of BTC/USDT, in which nothing happened yet."""
    opened = Past(dsn, symbol)
    yield opened
    opened.close()


def made(rows: list[TradeRow]) -> list[Made]:
    """Make of rows what a test made."""
    return [Made(row.timestamp_ms, row.price_ticks, row.quantity_lots, Side(row.taker_side)) for row in rows]


@pytest.mark.parametrize("limit", [1, 4, 7, 1000])
def test_pages_have_no_holes(limit: int, past: Past, connection: psycopg.Connection) -> None:
    """Page after page gives every trade once and in order, across years, while more are made."""
    brought = random_trades(1, 9, LONG_AGO_MS, LONG_AGO_MS + 1000) + random_trades(2, 9, BEGIN_MS - DAY_MS, BEGIN_MS)
    own = random_trades(3, 9, BEGIN_MS, BEGIN_MS + HOUR_MS) + [Made(BEGIN_MS + 90 * DAY_MS, PRICE, 1)] * 3
    past.bring(brought)
    past.trade(own)
    expected = brought + own
    found: list[TradeRow] = []
    after_id = None
    while page := list_past_trades(connection, 0, limit=limit, after_id=after_id):
        assert len(page) <= limit
        found += page
        after_id = page[-1].trade_id
        if len(expected) < 35:
            expected.append(Made(BEGIN_MS + 91 * DAY_MS + len(expected), PRICE + 1, 2))
            past.trade(expected[-1:])
    assert made(found) == expected
    ids = [row.trade_id for row in found]
    assert ids == sorted(set(ids))
    assert [is_imported(trade_id) for trade_id in ids] == [True] * len(brought) + [False] * (len(ids) - len(brought))


def test_range_counts_its_start_and_not_its_end(past: Past, connection: psycopg.Connection) -> None:
    """Trades of both kinds are found from start, inclusive, to end, exclusive."""
    brought = [Made(BEGIN_MS - distance, PRICE, 1) for distance in (2, 1)]
    own = [Made(BEGIN_MS + distance, PRICE, 1) for distance in (0, 1, 2, 40 * DAY_MS)]
    past.bring(brought)
    past.trade(own)
    trades = brought + own
    for start in range(len(trades)):
        for end in range(len(trades)):
            bounds = {"start_ns": trades[start].time_ms * 1_000_000, "end_ns": trades[end].time_ms * 1_000_000}
            assert made(list_past_trades(connection, 0, limit=10, **bounds)) == trades[start:end]
    late_ns = (trades[1].time_ms * 1_000_000) + 1
    assert made(list_past_trades(connection, 0, limit=10, start_ns=late_ns)) == trades[2:]
    assert made(list_past_trades(connection, 0, limit=10, end_ns=late_ns)) == trades[:2]


def test_imported_trade_has_its_notional_and_nobodys_orders(past: Past, connection: psycopg.Connection) -> None:
    """An imported trade is told in the words of any trade; what it cannot have is 0."""
    past.bring([Made(LONG_AGO_MS, PRICE, 7, Side.SELL)])
    (row,) = list_past_trades(connection, 0, limit=10)
    assert row.notional_units == past.spec.notional_units(PRICE, 7)
    assert (row.taker_fee_units, row.maker_fee_units, row.taker_order_id, row.maker_order_id, row.sequence) == (0,) * 5
    assert connection.execute("SELECT count(*) FROM trades").fetchone() == (0,)
