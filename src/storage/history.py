"""What the publisher reads when it starts: a shard's stored minutes and last trades, and the first event they lack.

All come from one snapshot, so a trade is either in a minute or at or after the cursor: never both, never neither.
It refuses to know what they are for.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import psycopg

Connection = psycopg.Connection[Any]
Minute = tuple[int, int, int, int, int, int, int, int]
"""Minute since the epoch, open, high, low, close (ticks), volume (lots), notional (quote units), number of trades."""


@dataclass(frozen=True, slots=True)
class StoredMinutes:
    """Minutes in which a shard's symbols traded, ascending, by symbol id; ``next_sequence``: the first event after.

    last_trades: price (ticks) and quantity (lots) of the last trade that is kept, however old, by symbol id.
    """

    next_sequence: int
    minutes: dict[int, list[Minute]]
    last_trades: dict[int, tuple[int, int]]


def read_minutes(connection: Connection, shard: int, since_minute: int) -> StoredMinutes:
    """Read a shard's minutes after ``since_minute`` (since the epoch), last trades and settlement cursor, at once."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor = connection.execute("SELECT sequence FROM settlement_cursors WHERE shard = %s", (shard,)).fetchone()
        rows = connection.execute(_SELECT_MINUTES, {"shard": shard, "since": since_minute}).fetchall()
        lasts = connection.execute(_SELECT_LAST_TRADES, (shard,)).fetchall()
    minutes = {symbol_id: [row[1:] for row in group] for symbol_id, group in groupby(rows, itemgetter(0))}
    last_trades = {symbol_id: (price_ticks, quantity_lots) for symbol_id, price_ticks, quantity_lots in lasts}
    return StoredMinutes(0 if cursor is None else cursor[0], minutes, last_trades)


# Symbol by symbol: OFFSET 0 keeps the planner from reading the candles of all symbols and all time.
_SELECT_MINUTES: Final = """
SELECT symbol_id, (extract(epoch FROM minute) / 60)::bigint, open_ticks, high_ticks, low_ticks, close_ticks,
       volume_lots, notional_units, trade_count
FROM symbols CROSS JOIN LATERAL (
    SELECT * FROM candles_1m WHERE symbol_id = symbols.id AND minute > to_timestamp(%(since)s * 60::bigint) OFFSET 0
) AS minutes
WHERE symbols.shard = %(shard)s
ORDER BY symbol_id, minute
"""

_SELECT_LAST_TRADES: Final = """
SELECT symbols.id, last.price_ticks, last.quantity_lots
FROM symbols CROSS JOIN LATERAL (
    SELECT price_ticks, quantity_lots FROM trades WHERE trades.symbol_id = symbols.id ORDER BY id DESC LIMIT 1
) AS last
WHERE symbols.shard = %s
"""
