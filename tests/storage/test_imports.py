"""Imports: every trade once, however often and in whatever pieces it comes, and candles of everything there is."""

from __future__ import annotations

import datetime as dt
import random
import threading
from collections.abc import Callable, Iterator

import numpy as np
import psycopg
import pytest
from tests.storage.past import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    PRICE,
    Made,
    Past,
    candles_of,
    random_trades,
    rows_of,
)

from tradeengine.core.feed import TimeFrame
from tradeengine.core.records import Side
from tradeengine.core.symbols import SymbolSpec
from tradeengine.storage import settle
from tradeengine.storage.candles import list_candles
from tradeengine.storage.imports import TRADES_PER_MS_MAX, ImportStopped, history_end_ms, open_import
from tradeengine.storage.past_trades import list_past_trades

BEGIN_MS = int(dt.datetime(2025, 10, 1, 12, tzinfo=dt.UTC).timestamp()) * 1000


@pytest.fixture
def past(dsn: str, symbol: SymbolSpec) -> Iterator[Past]:
    """Give the past of BTC/USDT, in which nothing happened yet."""
    opened = Past(dsn, symbol)
    yield opened
    opened.close()


def stored(connection: psycopg.Connection) -> list[Made]:
    """All trades there are, in their order."""
    rows = list_past_trades(connection, 0, limit=100_000)
    return [Made(row.timestamp_ms, row.price_ticks, row.quantity_lots, Side(row.taker_side)) for row in rows]


def check_candles(connection: psycopg.Connection, past: Past) -> None:
    """Check that minutes and hours are those of the trades that are stored."""
    trades = stored(connection)
    for time_frame in (TimeFrame.M1, TimeFrame.H1, TimeFrame.D1):
        expected = candles_of(trades, past.spec, time_frame * MINUTE_MS)
        assert list_candles(connection, 0, time_frame, limit=100_000) == expected


@pytest.mark.parametrize("batch", [1, 7, 50_000])
def test_imported_trades_make_the_candles(batch: int, past: Past, connection: psycopg.Connection) -> None:
    """Trades of any order of lines are stored in order of time, and their candles are those of a plain loop."""
    trades = random_trades(batch, 120, BEGIN_MS - 3 * HOUR_MS, BEGIN_MS)
    shuffled = trades.copy()
    random.Random(1).shuffle(shuffled)
    assert past.bring(shuffled, batch) == len(trades)
    assert stored(connection) == sorted(shuffled, key=lambda trade: trade.time_ms)
    check_candles(connection, past)


def test_trades_of_a_millisecond_keep_their_order(past: Past, connection: psycopg.Connection) -> None:
    """What happened in one millisecond stays in the order of the lines; what another file adds comes after it."""
    first = [Made(BEGIN_MS, PRICE + step, 1) for step in (5, 1, 9, 1)]
    past.bring(first, batch=2)
    assert stored(connection) == first
    more = [Made(BEGIN_MS, PRICE + step, 1) for step in (7, 9, 3, 1)]
    assert past.bring(more) == 2
    assert stored(connection) == [*first, more[0], more[2]]
    check_candles(connection, past)


@pytest.mark.parametrize("batch", [1, 3, 50_000])
def test_same_trades_are_added_once(batch: int, past: Past, connection: psycopg.Connection) -> None:
    """Again, by halves, or overlapping: of equal trades there are as many as the file that had most of them."""
    moments = [BEGIN_MS + number // 3 for number in range(12)]
    trades = [Made(moment, PRICE, 1, Side.BUY) for moment in moments]
    assert past.bring(trades[:5], batch) == 5
    assert past.bring(trades[2:], batch) == 7
    assert past.bring(trades, batch) == 0
    assert stored(connection) == trades
    # A fourth equal one in the last millisecond, and the same but for one thing each.
    other = [
        trades[-1]._replace(price_ticks=PRICE + 1),
        trades[-1]._replace(quantity_lots=2),
        trades[-1]._replace(taker_side=Side.SELL),
        trades[-1]._replace(time_ms=moments[-1] + 1),
    ]
    assert past.bring([*trades, trades[-1], *other], batch) == 5
    assert past.bring([*trades, trades[-1], *other], batch) == 0
    check_candles(connection, past)


def test_files_that_overlap_give_what_one_would(past: Past, connection: psycopg.Connection) -> None:
    """Random pieces of a history, each brought in order but overlapping, add up to the history."""
    trades = random_trades(4, 200, BEGIN_MS, BEGIN_MS + 40)
    draw = random.Random(4)
    cuts = sorted(draw.sample(range(1, len(trades)), 7))
    pieces = [trades[max(start - 20, 0) : end + 20] for start, end in zip([0, *cuts], [*cuts, 200], strict=True)]
    draw.shuffle(pieces)
    added = sum(past.bring(piece, 11) for piece in pieces)
    # A piece may begin among equal trades: then it has fewer of them, never more.
    assert added == len(trades)
    assert sorted(stored(connection)) == sorted(trades)
    check_candles(connection, past)


def test_history_ends_with_the_first_own_trade(past: Past, connection: psycopg.Connection) -> None:
    """The bound is the engine's first trade, however much was imported before it, also in its own minute."""
    assert history_end_ms(connection, 0) is None
    past.bring([Made(BEGIN_MS - DAY_MS, PRICE, 1)])
    assert history_end_ms(connection, 0) is None
    past.trade([Made(BEGIN_MS + 500, PRICE, 1), Made(BEGIN_MS + HOUR_MS, PRICE, 1)])
    assert history_end_ms(connection, 0) == BEGIN_MS + 500
    past.bring([Made(BEGIN_MS + 100, PRICE, 1), Made(BEGIN_MS + 500, PRICE, 1)])
    assert history_end_ms(connection, 0) == BEGIN_MS + 500


def test_history_ends_before_own_trades_that_were_dropped(past: Past, connection: psycopg.Connection) -> None:
    """Where the first own trades were dropped their candles stay as they are: the bound is before their minute."""
    past.trade([Made(BEGIN_MS + 500, PRICE, 3), Made(BEGIN_MS + 2 * DAY_MS, PRICE, 1)])
    connection.execute("DROP TABLE trades_2025_10_01")
    assert history_end_ms(connection, 0) == BEGIN_MS - 1
    past.bring([Made(BEGIN_MS - 1, PRICE + 1, 1)])
    assert history_end_ms(connection, 0) == BEGIN_MS - 1
    minutes = list_candles(connection, 0, TimeFrame.M1, limit=10)
    assert [candle.trade_count for candle in minutes] == [1, 1, 1]
    hours = list_candles(connection, 0, TimeFrame.H1, limit=10)
    assert [candle.volume_lots for candle in hours] == [1, 3, 1]


def test_candles_of_a_minute_are_of_both_kinds(past: Past, connection: psycopg.Connection) -> None:
    """Imported and own trades of one minute, however they arrive: it opens with the first, closes with the last."""
    own = [Made(BEGIN_MS + 40_000 + number, PRICE + number, 2) for number in range(5)]
    past.bring([Made(BEGIN_MS + 10_000, PRICE - 50, 1)])
    past.trade(own[:3])
    check_candles(connection, past)
    past.bring([Made(BEGIN_MS + 5_000, PRICE + 70, 1), Made(BEGIN_MS + 20_000, PRICE - 70, 1)])
    check_candles(connection, past)
    past.trade(own[3:])
    check_candles(connection, past)
    (candle,) = list_candles(connection, 0, TimeFrame.M1, limit=10)
    assert (candle.open_ticks, candle.close_ticks, candle.trade_count) == (PRICE + 70, PRICE + 4, 8)


def test_import_waits_for_settlement_of_its_minute(
    past: Past, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trade that is being settled into the minute is counted once: the import waits for its commit."""
    reached, go = threading.Event(), threading.Event()

    def hold(point: str) -> None:
        if point == "settlement.before_commit":
            reached.set()
            assert go.wait(60)

    monkeypatch.setattr(settle, "crash_point", hold)
    events = past.events_of([Made(BEGIN_MS + 30_000, PRICE, 2)])
    settling = threading.Thread(target=lambda: past.settler.settle({0: events}))
    settling.start()
    assert reached.wait(60)
    importing = threading.Thread(target=lambda: past.bring([Made(BEGIN_MS + 10_000, PRICE + 5, 3)]))
    importing.start()
    wait_blocked(connection)
    go.set()
    settling.join(60)
    importing.join(60)
    assert len(stored(connection)) == 2
    check_candles(connection, past)


def test_settlement_waits_for_an_import_of_its_minute(past: Past, connection: psycopg.Connection) -> None:
    """A trade that is settled while the minute is made anew is added to what was made."""
    past.trade([Made(BEGIN_MS + 30_000, PRICE, 2)])
    settling = threading.Thread(target=lambda: past.trade([Made(BEGIN_MS + 31_000, PRICE + 9, 4)]))
    with psycopg.connect(past.dsn, autocommit=True) as other, open_import(other, 0) as importing, other.transaction():
        importing.stage(rows_of([Made(BEGIN_MS + 10_000, PRICE + 5, 3)]))
        assert list(importing.add()) == [(1, 1)]
        settling.start()
        wait_blocked(connection)
    settling.join(60)
    assert len(stored(connection)) == 3
    check_candles(connection, past)


def test_imports_beside_settlement_lose_nothing(past: Past, connection: psycopg.Connection) -> None:
    """Many small transactions of both into the same minutes end with the candles of all trades."""
    own = random_trades(8, 150, BEGIN_MS + 60, BEGIN_MS + 3 * MINUTE_MS)
    brought = random_trades(9, 150, BEGIN_MS - MINUTE_MS, BEGIN_MS + 60)
    settling = threading.Thread(target=lambda: past.trade(own, batch=3))
    settling.start()
    for start in range(0, len(brought), 10):
        past.bring(brought[start : start + 10], batch=2)
    settling.join(60)
    assert stored(connection) == brought + own
    check_candles(connection, past)


def test_second_import_of_a_symbol_is_refused(past: Past, dsn: str) -> None:
    """Two imports into one symbol at a time would not see each other's trades."""
    with psycopg.connect(dsn, autocommit=True) as first, psycopg.connect(dsn, autocommit=True) as second:
        with (
            open_import(first, 0),
            open_import(second, 1),
            pytest.raises(ImportStopped, match="another import"),
            open_import(second, 0),
        ):
            pass
        with open_import(second, 0):
            pass


def test_crowded_millisecond_is_refused(past: Past, connection: psycopg.Connection, dsn: str) -> None:
    """More trades in a millisecond than have ids are refused as a whole, and the milliseconds before stay."""
    count = TRADES_PER_MS_MAX + 1
    crowd = rows_of([Made(BEGIN_MS, PRICE, 1)])
    crowd = crowd._replace(
        line=np.arange(count),
        time_ms=np.full(count, BEGIN_MS),
        price_ticks=np.full(count, PRICE),
        quantity_lots=np.arange(count) + 1,
        taker_buys=np.ones(count, np.bool_),
    )
    with psycopg.connect(dsn, autocommit=True) as other, open_import(other, 0) as importing:
        importing.stage(rows_of([Made(BEGIN_MS - 5, PRICE, 1)]))
        importing.stage(crowd)
        with pytest.raises(ImportStopped, match="one millisecond"):
            list(importing.add(batch_trades=1))
    assert stored(connection) == [Made(BEGIN_MS - 5, PRICE, 1)]
    check_candles(connection, past)


def wait_blocked(connection: psycopg.Connection) -> None:
    """Wait until somebody in this database waits for a lock."""
    blocked = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
        "AND cardinality(pg_blocking_pids(pid)) > 0"
    )
    wait_for(lambda: connection.execute(blocked).fetchone() != (0,))


def wait_for(condition: Callable[[], bool]) -> None:
    """Ask again and again; the test's own timeout ends it."""
    while not condition():
        pass
