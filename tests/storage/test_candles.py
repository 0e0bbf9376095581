"""Candles: what plain Python makes of the same trades, in every time frame, across every edge and gap."""

from __future__ import annotations

import datetime as dt
import random
import re
from collections.abc import Iterator
from typing import Any, Self

import psycopg
import pytest
from psycopg import sql
from tests.storage.past import DAY_MS, HOUR_MS, MINUTE_MS, PRICE, Made, Past, candles_of, random_trades

from tradeengine.core.feed import TimeFrame
from tradeengine.core.symbols import SymbolSpec
from tradeengine.settings_files import package_folder
from tradeengine.storage.candles import Candle, list_candles

BEGIN_MS = int(dt.datetime(2025, 9, 28, tzinfo=dt.UTC).timestamp()) * 1000
MONTH_MS = int(dt.datetime(2025, 10, 1, tzinfo=dt.UTC).timestamp()) * 1000
EDGES_MS = (MONTH_MS, MONTH_MS + 15 * MINUTE_MS, MONTH_MS + HOUR_MS, MONTH_MS + 4 * HOUR_MS, MONTH_MS + DAY_MS)


@pytest.fixture
def past(dsn: str, symbol: SymbolSpec) -> Iterator[Past]:
    """Give the past of BTC/USDT, in which nothing happened yet."""
    opened = Past(dsn, symbol)
    yield opened
    opened.close()


@pytest.fixture
def ask(connection: psycopg.Connection) -> Any:
    """Ask for candles of the symbol in milliseconds since 1970."""

    def work(time_frame: TimeFrame, limit: int = 1000, **bounds: Any) -> list[Candle]:
        in_ns = {
            name.replace("_ms", "_ns"): value * 1_000_000 if name.endswith("_ms") else value
            for name, value in bounds.items()
        }
        return list_candles(connection, 0, time_frame, limit=limit, **in_ns)

    return work


@pytest.mark.parametrize("time_frame", TimeFrame)
def test_candles_are_those_of_the_trades(time_frame: TimeFrame, past: Past, ask: Any) -> None:
    """Random trades over a week and the end of a month, settled in pieces, give the candles of a plain loop."""
    trades = random_trades(int(time_frame), 150, BEGIN_MS, BEGIN_MS + 6 * DAY_MS, EDGES_MS)
    past.trade(trades, batch=37)
    length_ms = time_frame * MINUTE_MS
    expected = candles_of(trades, past.spec, length_ms)
    assert ask(time_frame) == expected
    draw = random.Random(time_frame)
    for _ in range(40):
        start_ms, end_ms = sorted(draw.randrange(BEGIN_MS - DAY_MS, BEGIN_MS + 7 * DAY_MS) for _ in range(2))
        limit = draw.choice((1, 2, 7, 50, 1000))
        inside = [candle for candle in expected if start_ms <= candle.time_ms < end_ms]
        assert ask(time_frame, limit, start_ms=start_ms, end_ms=end_ms) == inside[:limit]
        assert ask(time_frame, limit, start_ms=start_ms) == [c for c in expected if c.time_ms >= start_ms][:limit]
        assert ask(time_frame, limit, end_ms=end_ms) == [c for c in expected if c.time_ms < end_ms][-limit:]


def test_range_is_of_the_times_at_which_candles_begin(past: Past, ask: Any) -> None:
    """A start inside a candle leaves it out, an end inside leaves it whole; start is inclusive, end exclusive."""
    past.trade([Made(MONTH_MS + minute * MINUTE_MS, PRICE + minute, 1) for minute in range(15)])

    def found(**bounds: int) -> list[tuple[int, int]]:
        candles = ask(TimeFrame.M5, **bounds)
        return [((candle.time_ms - MONTH_MS) // MINUTE_MS, candle.trade_count) for candle in candles]

    assert found(start_ms=MONTH_MS) == [(0, 5), (5, 5), (10, 5)]
    assert found(start_ms=MONTH_MS + 1) == [(5, 5), (10, 5)]
    assert found(end_ms=MONTH_MS + 10 * MINUTE_MS) == [(0, 5), (5, 5)]
    assert found(end_ms=MONTH_MS + 10 * MINUTE_MS + 1) == [(0, 5), (5, 5), (10, 5)]
    assert found(start_ms=MONTH_MS + 5 * MINUTE_MS, end_ms=MONTH_MS + 6 * MINUTE_MS) == [(5, 5)]
    assert found(start_ms=MONTH_MS + HOUR_MS, end_ms=MONTH_MS) == []
    assert found(limit=2) == [(5, 5), (10, 5)]
    assert found(start_ms=MONTH_MS, limit=2) == [(0, 5), (5, 5)]


@pytest.mark.parametrize("time_frame", [TimeFrame.M15, TimeFrame.D1])
def test_newest_candles_are_found_behind_a_gap(time_frame: TimeFrame, past: Past, ask: Any) -> None:
    """Looking back passes over a year without a trade, and the oldest candle of the page is whole."""
    early = [Made(BEGIN_MS + number * 47 * MINUTE_MS, PRICE + number, 2) for number in range(70)]
    late = [Made(BEGIN_MS + 400 * DAY_MS, PRICE, 3), Made(BEGIN_MS + 401 * DAY_MS, PRICE, 4)]
    for piece in (early, late[:1], late[1:]):
        past.trade(piece)
    expected = candles_of(early + late, past.spec, time_frame * MINUTE_MS)
    for limit in range(1, 6):
        assert ask(time_frame, limit) == expected[-limit:]


def test_filled_candles_have_no_gaps(past: Past, ask: Any) -> None:
    """With fill each empty candle stands at the last close with nothing traded, the others are as without."""
    trades = random_trades(5, 30, BEGIN_MS, BEGIN_MS + 5 * HOUR_MS)
    past.trade(trades)
    now_ns = (BEGIN_MS + 6 * HOUR_MS + 1) * 1_000_000
    for time_frame in (TimeFrame.M5, TimeFrame.H1):
        length_ms = time_frame * MINUTE_MS
        traded = {candle.time_ms: candle for candle in candles_of(trades, past.spec, length_ms)}
        expected, close = [], 0
        for time_ms in range(min(traded), BEGIN_MS + 6 * HOUR_MS + 1, length_ms):
            candle = traded.get(time_ms) or Candle(time_ms, close, close, close, close, 0, 0, 0)
            close = candle.close_ticks
            expected.append(candle)
        assert len(expected) > len(traded) or time_frame == TimeFrame.H1
        assert ask(time_frame, fill=True, now_ns=now_ns) == expected
        assert ask(time_frame, 10, fill=True, now_ns=now_ns) == expected[-10:]
        for number in (0, 1, 5):
            start_ms = expected[number].time_ms
            assert ask(time_frame, 7, start_ms=start_ms, fill=True, now_ns=now_ns) == expected[number : number + 7]
            end_ms = expected[-1 - number].time_ms
            assert ask(time_frame, 7, end_ms=end_ms, fill=True, now_ns=now_ns) == expected[: -1 - number][-7:]


def test_nothing_is_filled_before_the_first_trade_nor_after_now(past: Past, ask: Any) -> None:
    """Filled candles begin with the first trade ever and end with the present one, whatever was asked for."""
    now_ns = (BEGIN_MS + 2 * HOUR_MS) * 1_000_000

    def hours(**bounds: int) -> list[int]:
        found = ask(TimeFrame.H1, fill=True, now_ns=now_ns, **bounds)
        return [(candle.time_ms - BEGIN_MS) // HOUR_MS for candle in found]

    assert hours() == hours(start_ms=BEGIN_MS - DAY_MS) == []
    past.trade([Made(BEGIN_MS + 5, PRICE, 1)])
    assert hours() == hours(start_ms=BEGIN_MS - DAY_MS) == [0, 1, 2]
    assert hours(start_ms=BEGIN_MS - DAY_MS, end_ms=BEGIN_MS + DAY_MS) == [0, 1, 2]
    assert hours(start_ms=BEGIN_MS + HOUR_MS, limit=1) == [1]
    assert hours(start_ms=BEGIN_MS + 3 * HOUR_MS) == []
    assert hours(end_ms=BEGIN_MS) == []


def test_present_candle_grows(past: Past, ask: Any) -> None:
    """The newest candle is there from its first trade on and takes in each one that is settled."""
    for number in range(3):
        past.trade([Made(MONTH_MS + number, PRICE + number, 10)])
        for time_frame in TimeFrame:
            (candle,) = ask(time_frame, 1)
            assert (candle.close_ticks, candle.volume_lots, candle.trade_count) == (
                PRICE + number,
                10 * number + 10,
                number + 1,
            )


def test_migration_makes_the_hours_of_the_minutes(past: Past, connection: psycopg.Connection) -> None:
    """A database whose minutes are older than its table of hours gets the hours that settlement would have made."""
    past.trade(random_trades(3, 100, BEGIN_MS, BEGIN_MS + 2 * DAY_MS), batch=31)
    query = "SELECT * FROM candles_1h ORDER BY hour"
    settled = connection.execute(query).fetchall()
    assert len(settled) > 30
    (path,) = package_folder("migrations").glob("*.market_history.sql")
    (statement,) = re.findall(r"INSERT INTO candles_1h.*?;", path.read_text(encoding="utf-8"), re.DOTALL)
    connection.execute("TRUNCATE candles_1h")
    connection.execute(statement.encode())
    assert connection.execute(query).fetchall() == settled


def test_question_reads_only_what_it_needs(past: Past, connection: psycopg.Connection) -> None:
    """Among months of minutes no question reads more rows than its candles have, nor a table from end to end."""
    for table, unit in (("candles_1m", "minute"), ("candles_1h", "hour")):
        connection.execute(
            f"INSERT INTO {table} SELECT symbol, '2025-01-01Z'::timestamptz + place * interval '1 {unit}', 1, 1, 1, 1, "
            "1, 1, 1 FROM generate_series(0, 3) AS symbol, generate_series(0, 20000) AS place"
        )
        connection.execute(f"VACUUM ANALYZE {table}")
    now_ns = (BEGIN_MS + DAY_MS) * 1_000_000
    for time_frame in TimeFrame:
        rows_max = 10 * max(int(time_frame) // (60 if time_frame >= TimeFrame.H1 else 1), 1)
        for options in ({}, {"start_ns": BEGIN_MS * 1_000_000}, {"fill": True}):
            asked: list[tuple[Any, Any]] = []
            connection.cursor_factory = _recorder(asked)
            list_candles(connection, 2, time_frame, limit=10, now_ns=now_ns, **options)
            connection.cursor_factory = psycopg.Cursor
            for query, parameters in asked:
                text = query.as_string(connection) if isinstance(query, sql.Composable) else str(query)
                if "FROM" not in text:
                    continue
                plan = "\n".join(line for (line,) in connection.execute("EXPLAIN ANALYZE " + text, parameters))
                assert "Seq Scan" not in plan, plan
                read = [float(rows) for rows in re.findall(r"actual time=\S+ rows=([\d.]+)", plan)]
                assert max(read) <= rows_max, plan


def _recorder(asked: list[tuple[Any, Any]]) -> type[psycopg.Cursor[Any]]:
    class Recorder(psycopg.Cursor[Any]):
        """Remembers what was asked."""

        def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
            asked.append((query, params))
            return super().execute(query, params, **options)

    return Recorder
