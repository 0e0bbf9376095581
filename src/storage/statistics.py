"""The last 24 hours of a symbol, to the trade at both ends.

Whole minutes come from the candles; of the oldest minute, through which the window's edge goes, the trades themselves
are counted. Both from one snapshot, and the window ends when that was taken, so everything in it is inside the window.
It refuses to know decimals.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.rows import args_row

from tradeengine.storage.candles import AGGREGATE_TRADES, MINUTE_MS, SELECT_TRADES_BETWEEN

Connection = psycopg.Connection[Any]

DAY_MS: Final = 86_400_000


class Sums(NamedTuple):
    """What some trades of a symbol add up to; prices are None when there is none."""

    open_ticks: int | None = None
    high_ticks: int | None = None
    low_ticks: int | None = None
    last_ticks: int | None = None
    volume_lots: int = 0
    notional_units: int = 0
    trade_count: int = 0


@dataclass(frozen=True, slots=True)
class Day:
    """A symbol's trades with ``since_ms`` < time ≤ ``until_ms``; milliseconds since 1970."""

    since_ms: int
    until_ms: int
    sums: Sums


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


def read_day(connection: Connection, symbol_id: int, clock_ms: Callable[[], int] = _clock_ms) -> Day:
    """Add up the 24 hours before now. clock_ms: tells now, in milliseconds since 1970."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        # The first question takes the snapshot: what it shows was made before now.
        connection.execute("SELECT")
        until_ms = clock_ms()
        since_ms = until_ms - DAY_MS
        whole_ms = (since_ms // MINUTE_MS + 1) * MINUTE_MS
        parameters = {"symbol_id": symbol_id, "first_ms": since_ms + 1, "whole_ms": whole_ms}
        with connection.cursor(row_factory=args_row(Sums)) as cursor:
            edge = cursor.execute(_SELECT_EDGE, parameters).fetchone()
            rest = cursor.execute(_SELECT_MINUTES, parameters).fetchone()
    assert edge is not None
    assert rest is not None
    return Day(since_ms, until_ms, _join(edge, rest))


def _join(earlier: Sums, later: Sums) -> Sums:
    if not earlier.trade_count or not later.trade_count:
        return earlier if earlier.trade_count else later
    assert earlier.high_ticks is not None
    assert earlier.low_ticks is not None
    assert later.high_ticks is not None
    assert later.low_ticks is not None
    return Sums(
        open_ticks=earlier.open_ticks,
        high_ticks=max(earlier.high_ticks, later.high_ticks),
        low_ticks=min(earlier.low_ticks, later.low_ticks),
        last_ticks=later.last_ticks,
        volume_lots=earlier.volume_lots + later.volume_lots,
        notional_units=earlier.notional_units + later.notional_units,
        trade_count=earlier.trade_count + later.trade_count,
    )


_NAMES: Final = """
open_ticks, high_ticks, low_ticks, close_ticks, coalesce(volume_lots, 0), coalesce(notional_units, 0), trade_count
"""

_SELECT_EDGE: Final = f"""
SELECT {_NAMES} FROM (
    SELECT {AGGREGATE_TRADES} FROM (
        {
    SELECT_TRADES_BETWEEN.format(
        symbol_id="%(symbol_id)s", first_ms="%(first_ms)s::bigint", end_ms="%(whole_ms)s::bigint"
    )
}
    ) AS trade
) AS sums
"""  # noqa: S608 - made of our own names

_SELECT_MINUTES: Final = f"""
SELECT {_NAMES} FROM (
    SELECT (array_agg(open_ticks ORDER BY minute))[1] AS open_ticks, max(high_ticks) AS high_ticks,
           min(low_ticks) AS low_ticks, (array_agg(close_ticks ORDER BY minute DESC))[1] AS close_ticks,
           sum(volume_lots)::bigint AS volume_lots, sum(notional_units)::bigint AS notional_units,
           coalesce(sum(trade_count), 0)::bigint AS trade_count
    FROM candles_1m
    WHERE symbol_id = %(symbol_id)s AND minute >= to_timestamp(%(whole_ms)s::bigint / 1000)
) AS sums
"""  # noqa: S608 - made of our own names
