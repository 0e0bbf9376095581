"""Candles of every time frame from the minutes and hours that are stored, and how these are made anew.

Settlement adds each trade to its minute and its hour in the trade's own transaction. Longer candles are made of them
when they are asked for: up to 15 minutes of minutes, the others of hours.

Rule 1: a question reads only what it needs, along the key (symbol, time): ``limit`` × rows per candle at most. Looking
back it counts rows and not time, so a gap of a year costs nothing.
Rule 2: a candle belongs to a range by the time at which it begins: ``start`` ≤ time < ``end``; it is always whole.
Rule 3: imported trades come before the engine's own, and their ids are smaller: order by id is the order of trades.
Rule 4: who makes a candle anew first locks its row. Settlement adds to that row afterwards, or was committed before:
each trade is counted once. Minutes before hours, earlier before later: nobody waits in a circle.
It refuses to know decimals and who asks.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import args_row

from tradeengine.core.feed import TimeFrame
from tradeengine.core.ids import EPOCH_2024_MS, TIMESTAMP_SHIFT

Connection = psycopg.Connection[Any]

IMPORTED_ID_SHIFT: Final = 16
"""An imported trade's id is its millisecond since 1970, shifted, plus its place in that millisecond."""
IMPORTED_ID_END: Final = 1 << 57
"""Ids from here on are the engine's own: its clock passed them in 2025. Imported ones stay below until 2039."""
MINUTE_MS: Final = 60_000

ID_SLACK_MS: Final = 1000
"""An id's time is ahead of its trade's own by a millisecond for every 65,536 trades that were made in one."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Candle(NamedTuple):
    """What was traded from ``time_ms`` (since 1970) on, for the length of its time frame."""

    time_ms: int
    open_ticks: int
    high_ticks: int
    low_ticks: int
    close_ticks: int
    volume_lots: int
    notional_units: int
    trade_count: int


def list_candles(
    connection: Connection,
    symbol_id: int,
    time_frame: TimeFrame,
    *,
    limit: int,
    start_ns: int | None = None,
    end_ns: int | None = None,
    fill: bool = False,
    now_ns: int | None = None,
) -> list[Candle]:
    """List candles, oldest first, the present one included: with a start the first ``limit`` from it, else the newest.

    start_ns (inclusive) and end_ns (exclusive) bound the time at which a candle begins. fill: candles without trades
    are there too, at the last close before them, but none before the first trade ever nor in the future. now_ns: what
    time it is, the clock's unless given; only filling asks.
    """
    source = _Source(connection, symbol_id, time_frame)
    start_ms = None if start_ns is None else _ceil(start_ns, source.length_ms)
    end_ms = None if end_ns is None else _ceil(end_ns, source.length_ms)
    if not fill:
        return source.oldest(start_ms, end_ms, limit) if start_ns is not None else source.newest(end_ms, limit)
    moment_ns = time.time_ns() if now_ns is None else now_ns
    next_ms = (moment_ns // 1_000_000 // source.length_ms + 1) * source.length_ms
    end_ms = next_ms if end_ms is None else min(end_ms, next_ms)
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return source.filled(start_ms, end_ms, limit)


def remake_candles(connection: Connection, symbol_id: int, minutes: Sequence[int]) -> None:
    """Make the candles of these minutes (since 1970, ascending), and of their hours, from all trades in them.

    Inside a transaction, READ COMMITTED: each statement must see what was committed when it got the locks.
    """
    hours = sorted({minute // 60 for minute in minutes})
    for lock, remake, units in ((_LOCK_MINUTES, _REMAKE_MINUTES, minutes), (_LOCK_HOURS, _REMAKE_HOURS, hours)):
        parameters = {"symbol_id": symbol_id, "units": list(units)}
        connection.execute(lock, parameters)
        connection.execute(remake, parameters)


class _Source:
    """The table that a time frame's candles are made of, for one symbol."""

    def __init__(self, connection: Connection, symbol_id: int, time_frame: TimeFrame) -> None:
        self._connection = connection
        self._symbol_id = symbol_id
        self.length_ms = int(time_frame) * MINUTE_MS
        by_hours = time_frame >= TimeFrame.H1
        self._names = {"table": sql.Identifier("candles_1h" if by_hours else "candles_1m")}
        self._names["time"] = sql.Identifier("hour" if by_hours else "minute")
        self._rows_per_candle = int(time_frame) // (60 if by_hours else 1)

    def oldest(self, start_ms: int | None, end_ms: int | None, limit: int) -> list[Candle]:
        """List the first candles of a range."""
        return self._candles("ASC", start_ms, end_ms, limit)

    def newest(self, end_ms: int | None, limit: int) -> list[Candle]:
        """List the last candles before an end, oldest first."""
        return self._candles("DESC", None, end_ms, limit)[::-1]

    def filled(self, start_ms: int | None, end_ms: int, limit: int) -> list[Candle]:
        """List candles without gaps."""
        first_ms = end_ms - limit * self.length_ms if start_ms is None else start_ms
        before = self.newest(first_ms, 1)
        if not before:
            ever = self.oldest(first_ms, end_ms, 1)
            if not ever:
                return []
            first_ms = ever[0].time_ms
        last_ms = min(end_ms, first_ms + limit * self.length_ms)
        traded = {candle.time_ms: candle for candle in self.oldest(first_ms, last_ms, limit)}
        close_ticks = before[0].close_ticks if before else 0
        candles = []
        for time_ms in range(first_ms, last_ms, self.length_ms):
            candle = traded.get(time_ms) or Candle(time_ms, *(close_ticks,) * 4, 0, 0, 0)
            close_ticks = candle.close_ticks
            candles.append(candle)
        return candles

    def _candles(self, order: str, start_ms: int | None, end_ms: int | None, limit: int) -> list[Candle]:
        # So many rows hold at least ``limit`` whole candles: the one that the limit may cut is beyond them.
        parameters = {
            "symbol_id": self._symbol_id,
            "start": "-infinity" if start_ms is None else _EPOCH + dt.timedelta(milliseconds=start_ms),
            "end": "infinity" if end_ms is None else _EPOCH + dt.timedelta(milliseconds=end_ms),
            "length": dt.timedelta(milliseconds=self.length_ms),
            "epoch": _EPOCH,
            "rows": limit * self._rows_per_candle,
            "limit": limit,
        }
        select = _SELECT_CANDLES if self._rows_per_candle > 1 else _SELECT_ROWS
        query = sql.SQL(select).format(order=sql.SQL(order), **self._names)
        with self._connection.cursor(row_factory=args_row(Candle), binary=True) as cursor:
            return cursor.execute(query, parameters).fetchall()


def _ceil(moment_ns: int, length_ms: int) -> int:
    """Milliseconds since 1970 at which the first candle at or after a moment begins."""
    return -(-moment_ns // (length_ms * 1_000_000)) * length_ms


_ROWS: Final = """
    SELECT * FROM {table}
    WHERE symbol_id = %(symbol_id)s AND {time} >= %(start)s::timestamptz AND {time} < %(end)s::timestamptz
    ORDER BY {time} {order} LIMIT %(rows)s
"""

_SELECT_ROWS: Final = f"""
SELECT (extract(epoch FROM {{time}}) * 1000)::bigint, open_ticks, high_ticks, low_ticks, close_ticks, volume_lots,
       notional_units, trade_count
FROM ({_ROWS}) AS rows ORDER BY {{time}} {{order}}
"""  # noqa: S608 - made of our own names

# Open and close by the key afterwards: ordered aggregates would sort all rows.
_SELECT_CANDLES: Final = f"""
SELECT (extract(epoch FROM begins) * 1000)::bigint, first.open_ticks, high, low, last.close_ticks, volume, notional,
       trades
FROM (
    SELECT date_bin(%(length)s, {{time}}, %(epoch)s) AS begins, min({{time}}) AS first_time, max({{time}}) AS last_time,
           max(high_ticks) AS high, min(low_ticks) AS low, sum(volume_lots)::bigint AS volume,
           sum(notional_units)::bigint AS notional, sum(trade_count)::bigint AS trades
    FROM ({_ROWS}) AS rows GROUP BY begins ORDER BY begins {{order}} LIMIT %(limit)s
) AS candle
JOIN {{table}} AS first ON first.symbol_id = %(symbol_id)s AND first.{{time}} = first_time
JOIN {{table}} AS last ON last.symbol_id = %(symbol_id)s AND last.{{time}} = last_time
ORDER BY begins {{order}}
"""  # noqa: S608 - made of our own names

SELECT_TRADES_BETWEEN: Final = f"""
SELECT id, price_ticks, quantity_lots,
       price_ticks * quantity_lots * (SELECT tick_lot_units FROM symbols WHERE id = {{symbol_id}}) AS notional_units
FROM imported_trades
WHERE symbol_id = {{symbol_id}}
    AND id >= ({{first_ms}}) << {IMPORTED_ID_SHIFT} AND id < ({{end_ms}}) << {IMPORTED_ID_SHIFT}
UNION ALL
SELECT id, price_ticks, quantity_lots, notional_units
FROM trades
WHERE symbol_id = {{symbol_id}} AND id >= greatest({{first_ms}} - {EPOCH_2024_MS}, 0) << {TIMESTAMP_SHIFT}
    AND id < greatest({{end_ms}} - {EPOCH_2024_MS} + {ID_SLACK_MS}, 0) << {TIMESTAMP_SHIFT}
    AND executed_at >= to_timestamp(({{first_ms}}) / 1000.0) AND executed_at < to_timestamp(({{end_ms}}) / 1000.0)
"""  # noqa: S608 - made of our own names
"""Trades of a symbol, imported and own, from ``first_ms`` to before ``end_ms``: expressions, bigint, since 1970."""

AGGREGATE_TRADES: Final = """
(min(ARRAY[id, price_ticks]))[2] AS open_ticks, max(price_ticks) AS high_ticks, min(price_ticks) AS low_ticks,
(max(ARRAY[id, price_ticks]))[2] AS close_ticks, sum(quantity_lots)::bigint AS volume_lots,
sum(notional_units)::bigint AS notional_units, count(*) AS trade_count
"""

_LOCK: Final = """
INSERT INTO {table} AS c SELECT %(symbol_id)s, to_timestamp(unit * {seconds}), 0, 0, 0, 0, 0, 0, 0
FROM unnest(%(units)s::bigint[]) AS unit ORDER BY unit
ON CONFLICT (symbol_id, {time}) DO UPDATE SET trade_count = c.trade_count
"""
_LOCK_MINUTES: Final = _LOCK.format(table="candles_1m", time="minute", seconds=60)
_LOCK_HOURS: Final = _LOCK.format(table="candles_1h", time="hour", seconds=3600)

_REMAKE: Final = """
UPDATE {table} AS c SET
    open_ticks = made.open_ticks, high_ticks = made.high_ticks, low_ticks = made.low_ticks,
    close_ticks = made.close_ticks, volume_lots = made.volume_lots, notional_units = made.notional_units,
    trade_count = made.trade_count
FROM unnest(%(units)s::bigint[]) AS unit CROSS JOIN LATERAL (SELECT {aggregates} FROM ({source}) AS part) AS made
WHERE c.symbol_id = %(symbol_id)s AND c.{time} = to_timestamp(unit * {seconds})
"""
_REMAKE_MINUTES: Final = _REMAKE.format(
    table="candles_1m",
    time="minute",
    seconds=60,
    aggregates=AGGREGATE_TRADES,
    source=SELECT_TRADES_BETWEEN.format(
        symbol_id="%(symbol_id)s", first_ms="unit * 60000", end_ms="unit * 60000 + 60000"
    ),
)
_REMAKE_HOURS: Final = _REMAKE.format(
    table="candles_1h",
    time="hour",
    seconds=3600,
    aggregates="""(array_agg(open_ticks ORDER BY minute))[1] AS open_ticks, max(high_ticks) AS high_ticks,
        min(low_ticks) AS low_ticks, (array_agg(close_ticks ORDER BY minute DESC))[1] AS close_ticks,
        sum(volume_lots)::bigint AS volume_lots, sum(notional_units)::bigint AS notional_units,
        sum(trade_count)::bigint AS trade_count""",
    source="""SELECT * FROM candles_1m WHERE symbol_id = %(symbol_id)s
        AND minute >= to_timestamp(unit * 3600) AND minute < to_timestamp(unit * 3600 + 3600)""",
)
