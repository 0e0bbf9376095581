"""Trades from elsewhere into a symbol's past: staged whole, then added in order of time, a batch a transaction.

Rule 1: an import is idempotent, also by halves and overlaps. A trade is its symbol, millisecond, price, quantity and
side; of those that are all the same the database has as many as the file that had most.
Rule 2: trades of one millisecond keep the order of the file; what another file adds to it comes after.
Rule 3: a trade and the candles that it is in are committed together (``candles.remake_candles``).
Rule 4: history ends where the engine's own trades begin: nothing later than the first of these is taken.
Staging is a temporary table: it costs no memory here, takes a file in any order, and is gone with the connection.
It refuses to know files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray

from tradeengine.storage.bulk import boolean, copy_in, int8
from tradeengine.storage.candles import IMPORTED_ID_SHIFT, MINUTE_MS, remake_candles

Connection = psycopg.Connection[Any]
Int64s = NDArray[np.int64]

BATCH_TRADES: Final = 50_000
TRADES_PER_MS_MAX: Final = 1 << IMPORTED_ID_SHIFT
_LOCK_CLASS: Final = 0x7452_6164
"""With a symbol's id the advisory lock of whoever imports into it."""


class ImportStopped(Exception):  # noqa: N818 - the state that it leads to
    """The import cannot go on; the message says why."""


class ImportRows(NamedTuple):
    """Trades as they go in, arrays of one length. ``line``: where each stood, for its order."""

    line: Int64s
    time_ms: Int64s
    price_ticks: Int64s
    quantity_lots: Int64s
    taker_buys: NDArray[np.bool_]


def history_end_ms(connection: Connection, symbol_id: int) -> int | None:
    """Last millisecond (since 1970) that an imported trade may have; None while the engine has traded nothing.

    It is that of the engine's first trade. Where that one's partition was dropped its candles tell of it: then it ends
    before their first minute, which could not be made anew.
    """
    row = connection.execute(_FIRST_OWN_MINUTE, {"symbol_id": symbol_id}).fetchone()
    if row is None:
        return None
    minute_ms: int = row[0] * MINUTE_MS
    row = connection.execute(_FIRST_OWN_TRADE, (symbol_id,)).fetchone()
    if row is not None and row[0] < minute_ms + MINUTE_MS:
        return int(row[0])
    return minute_ms - 1


@contextmanager
def open_import(connection: Connection, symbol_id: int) -> Iterator[TradeImport]:
    """Begin an import on a connection of its own in autocommit. Raises ImportStopped when another one runs."""
    lock = (_LOCK_CLASS, symbol_id)
    if connection.execute("SELECT pg_try_advisory_lock(%s, %s)", lock).fetchone() != (True,):
        raise ImportStopped("another import into this symbol runs: wait for its end")
    try:
        connection.execute(_MAKE_STAGE)
        yield TradeImport(connection, symbol_id)
    finally:
        # The server would do both a moment after the connection's end; who repeats the command is quicker.
        if not connection.broken:
            connection.execute("DROP TABLE IF EXISTS pg_temp.staged_trades")
            connection.execute("SELECT pg_advisory_unlock(%s, %s)", lock)


class TradeImport:
    """One import into one symbol. Stage everything, then add it."""

    def __init__(self, connection: Connection, symbol_id: int) -> None:
        self._connection = connection
        self._symbol_id = symbol_id

    def stage(self, rows: ImportRows) -> None:
        """Take rows in; nothing is visible yet."""
        columns = {name: int8(getattr(rows, name)) for name in ("line", "time_ms", "price_ticks", "quantity_lots")}
        copy_in(self._connection, "pg_temp.staged_trades", columns | {"taker_buys": boolean(rows.taker_buys)})

    def add(self, batch_trades: int = BATCH_TRADES) -> Iterator[tuple[int, int]]:
        """Add what is staged; gives after each transaction how many trades it looked at, and how many were new.

        Raises ImportStopped, psycopg.Error; the transactions before stay.
        """
        self._connection.execute("CREATE INDEX ON pg_temp.staged_trades (time_ms, line)")
        self._connection.execute("ANALYZE pg_temp.staged_trades")
        after_ms = -1
        while (upto_ms := self._end_of_batch(after_ms, batch_trades)) is not None:
            yield self._add_between(after_ms, upto_ms)
            after_ms = upto_ms

    def _end_of_batch(self, after_ms: int, batch_trades: int) -> int | None:
        """Find the last millisecond of the next so many rows; None when there is none. A batch has whole ones."""
        row = self._connection.execute(_END_OF_BATCH, {"after_ms": after_ms, "count": batch_trades}).fetchone()
        assert row is not None
        return None if row[0] is None else int(row[0])

    def _add_between(self, after_ms: int, upto_ms: int) -> tuple[int, int]:
        parameters = {"symbol_id": self._symbol_id, "after_ms": after_ms, "upto_ms": upto_ms}
        with self._connection.transaction():
            row = self._connection.execute(_ADD, parameters).fetchone()
            assert row is not None
            looked_at, added, place_max, minutes = row
            if place_max is not None and place_max >= TRADES_PER_MS_MAX:
                raise ImportStopped(f"more than {TRADES_PER_MS_MAX} trades of this symbol in one millisecond")
            if minutes:
                remake_candles(self._connection, self._symbol_id, minutes)
        return looked_at, added


_MAKE_STAGE: Final = """
CREATE TEMPORARY TABLE staged_trades (
    line bigint NOT NULL,
    time_ms bigint NOT NULL,
    price_ticks bigint NOT NULL,
    quantity_lots bigint NOT NULL,
    taker_buys boolean NOT NULL
)
"""

_END_OF_BATCH: Final = """
SELECT max(time_ms) FROM (
    SELECT time_ms FROM pg_temp.staged_trades WHERE time_ms > %(after_ms)s ORDER BY time_ms, line LIMIT %(count)s
) AS batch
"""

_ADD: Final = f"""
WITH part AS MATERIALIZED (
    SELECT *, row_number() OVER (PARTITION BY time_ms, price_ticks, quantity_lots, taker_buys ORDER BY line) AS nth
    FROM pg_temp.staged_trades WHERE time_ms > %(after_ms)s AND time_ms <= %(upto_ms)s
), known AS MATERIALIZED (
    SELECT moment.time_ms, i.id, i.price_ticks, i.quantity_lots, i.taker_side = 'buy' AS taker_buys
    FROM (SELECT DISTINCT time_ms FROM part) AS moment
    CROSS JOIN LATERAL (
        SELECT * FROM imported_trades
        WHERE symbol_id = %(symbol_id)s
            AND id >= moment.time_ms << {IMPORTED_ID_SHIFT} AND id < (moment.time_ms + 1) << {IMPORTED_ID_SHIFT}
    ) AS i
), counted AS (
    SELECT time_ms, price_ticks, quantity_lots, taker_buys, count(*) AS copies FROM known GROUP BY 1, 2, 3, 4
), places AS (
    SELECT time_ms, max(id - (time_ms << {IMPORTED_ID_SHIFT})) AS last_place FROM known GROUP BY 1
), fresh AS MATERIALIZED (
    SELECT part.*, coalesce(last_place, -1) + row_number() OVER (PARTITION BY time_ms ORDER BY line) AS place
    FROM part
    LEFT JOIN counted USING (time_ms, price_ticks, quantity_lots, taker_buys)
    LEFT JOIN places USING (time_ms)
    WHERE nth > coalesce(copies, 0)
), added AS (
    INSERT INTO imported_trades (symbol_id, id, price_ticks, quantity_lots, taker_side)
    SELECT %(symbol_id)s, (time_ms << {IMPORTED_ID_SHIFT}) + place, price_ticks, quantity_lots,
           CASE WHEN taker_buys THEN 'buy' ELSE 'sell' END::order_side
    FROM fresh WHERE place < {TRADES_PER_MS_MAX}
)
SELECT (SELECT count(*) FROM part), count(*), max(place),
       (SELECT array_agg(minute ORDER BY minute) FROM (SELECT DISTINCT time_ms / {MINUTE_MS} AS minute FROM fresh) AS m)
FROM fresh
"""  # noqa: S608 - made of our own names

_FIRST_OWN_TRADE: Final = """
SELECT floor(extract(epoch FROM executed_at) * 1000)::bigint FROM trades WHERE symbol_id = %s ORDER BY id LIMIT 1
"""

# Imported trades are all at or before the engine's first one: so in the minute of the last of them or in a later one.
_FIRST_OWN_MINUTE: Final = f"""
WITH last AS (
    SELECT coalesce(max(id) >> {IMPORTED_ID_SHIFT}, 0) / {MINUTE_MS} AS minute
    FROM imported_trades WHERE symbol_id = %(symbol_id)s
), counted AS (
    SELECT last.minute, count(id) AS trades FROM last LEFT JOIN imported_trades ON symbol_id = %(symbol_id)s
        AND id >= (last.minute * {MINUTE_MS}) << {IMPORTED_ID_SHIFT}
    GROUP BY 1
)
SELECT (extract(epoch FROM c.minute) / 60)::bigint
FROM counted, candles_1m AS c
WHERE c.symbol_id = %(symbol_id)s AND c.minute >= to_timestamp(counted.minute * 60)
    AND c.trade_count > CASE WHEN c.minute = to_timestamp(counted.minute * 60) THEN counted.trades ELSE 0 END
ORDER BY c.minute LIMIT 1
"""  # noqa: S608 - made of our own names
