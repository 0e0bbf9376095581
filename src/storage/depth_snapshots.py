"""Stored depth: what a symbol's book looked like at moments of the past.

A row is the first levels of a book and holds from its time until the next row of the symbol: a book that did not change
is not stored again. So the newest row at or before a time is the answer for that time.

Rule 1: one writer, the keeper. Rule 2: what is forgotten is what no question about a kept time needs: of the rows that
are too old the newest stays, because it tells how the first kept moment looked.
It refuses to know where books come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg

Connection = psycopg.Connection[Any]
Levels = list[list[int]]
"""``[price_ticks, quantity_lots]`` of each level, best first."""

DELETE_BATCH: Final = 5000
"""Rows that one transaction removes at most: no long transaction, however much was kept before."""


@dataclass(frozen=True, slots=True)
class StoredDepth:
    """A book's first levels; ``taken_ms`` since 1970; ``sequence`` of the shard's last event in it."""

    symbol_id: int
    taken_ms: int
    sequence: int
    bids: Levels
    asks: Levels


def find_depth(connection: Connection, symbol_id: int, at_ns: int | None = None) -> StoredDepth | None:
    """Find a symbol's newest row at or before a time (nanoseconds since 1970); without one, the newest of all."""
    parameters = (symbol_id, None if at_ns is None else at_ns // 1000)
    row = connection.execute(_FIND, parameters).fetchone()
    return None if row is None else StoredDepth(*row)


def stored_sequences(connection: Connection) -> dict[int, int | None]:
    """Give each listed symbol's id with the sequence of its newest row; None when it has none."""
    return dict(connection.execute(_STORED_SEQUENCES).fetchall())


def store_depth(connection: Connection, rows: Sequence[StoredDepth]) -> None:
    """Store rows, all or none."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(_STORE, [(row.symbol_id, row.taken_ms, row.sequence, row.bids, row.asks) for row in rows])


def forget_depth(connection: Connection, before_ms: int) -> int:
    """Remove what no question about ``before_ms`` (since 1970) or later needs; returns how many rows that were."""
    symbol_ids = [symbol_id for (symbol_id,) in connection.execute("SELECT id FROM symbols ORDER BY id").fetchall()]
    removed = 0
    for symbol_id in symbol_ids:
        while count := connection.execute(_FORGET, {"symbol_id": symbol_id, "before_ms": before_ms}).rowcount:
            removed += count
    return removed


# Times travel as whole numbers and become exact sums: no float in between.
_FIND: Final = """
SELECT symbol_id, floor(extract(epoch FROM taken_at) * 1000)::bigint, sequence, bids, asks
FROM depth_snapshots
WHERE symbol_id = %s AND taken_at <= coalesce('epoch'::timestamptz + %s * '1 microsecond'::interval, 'infinity')
ORDER BY taken_at DESC LIMIT 1
"""

_STORED_SEQUENCES: Final = """
SELECT id, (
    SELECT sequence FROM depth_snapshots WHERE symbol_id = symbols.id ORDER BY taken_at DESC LIMIT 1
)
FROM symbols WHERE status = 'listed' ORDER BY id
"""

# The clock may have been set back to a moment that has a row: the later look counts.
_STORE: Final = """
INSERT INTO depth_snapshots (symbol_id, taken_at, sequence, bids, asks)
VALUES (%s, 'epoch'::timestamptz + %s * '1 millisecond'::interval, %s, %s::bigint[], %s::bigint[])
ON CONFLICT (symbol_id, taken_at) DO UPDATE SET
    sequence = excluded.sequence, bids = excluded.bids, asks = excluded.asks
"""

_FORGET: Final = f"""
DELETE FROM depth_snapshots WHERE symbol_id = %(symbol_id)s AND taken_at IN (
    SELECT taken_at FROM depth_snapshots
    WHERE symbol_id = %(symbol_id)s AND taken_at < (
        SELECT max(taken_at) FROM depth_snapshots
        WHERE symbol_id = %(symbol_id)s
            AND taken_at <= 'epoch'::timestamptz + %(before_ms)s * '1 millisecond'::interval
    )
    ORDER BY taken_at LIMIT {DELETE_BATCH}
)
"""  # noqa: S608 - made of our own numbers
