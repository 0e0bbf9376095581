"""Retention: partitions that nobody needs any more, dropped without holding up who writes.

Rule 1: only whole partitions, by their bounds, and only of orders and trades. Postings are the ledger, candles are few.
Rule 2: whatever its age, an order that lives is needed; and so is one whose client order id risk would still know: it
reads those back from here when it starts. A partition that holds either stays as a whole.
Rule 3: a writer waits a moment at most. Dropping gives up when someone uses the table, and the caller tries again. It
is one statement, so that a caller who dies or hangs on the way holds no lock.
It refuses to know clocks and when it is called.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql

from tradeengine.core.ids import first_id_at, timestamp_ms_of
from tradeengine.storage.recovery import CLIENT_ID_LIFETIME_MS, last_order_id

Connection = psycopg.Connection[Any]

LOCK_TIMEOUT_MS: Final = 200
"""Queries that come while a drop waits for its lock wait behind it: at most so long."""

_DAY_MS: Final = 86_400_000
_BOUND: Final = re.compile(r"FOR VALUES FROM \('\d+'\) TO \('(\d+)'\)")


@dataclass(frozen=True, slots=True)
class OldPartition:
    """A partition of which everything is older than what is kept."""

    table: str
    name: str


def old_partitions(connection: Connection, now_ms: int, *, orders_months: int, trades_days: int) -> list[OldPartition]:
    """List what retention would drop, oldest first; 0 months or days: everything is kept.

    now_ms: since 1970, UTC. orders_months, trades_days: whole ones that are kept beside the present one.
    """
    old = []
    if orders_months:
        end_id = first_id_at(_months_before(now_ms, orders_months))
        old += _partitions_below(connection, "orders", min(end_id, _first_known_id(connection, now_ms)))
    if trades_days:
        old += _partitions_below(connection, "trades", first_id_at(now_ms - trades_days * _DAY_MS))
    return old


def drop_partition(connection: Connection, old: OldPartition) -> bool:
    """Drop a partition; returns False when it stays because it holds an order that lives.

    connection: in autocommit. Raises psycopg.errors.LockNotAvailable when its table is in use for too long.
    """
    names = {"table": sql.Identifier(old.table), "name": sql.Identifier(old.name)}
    lives = sql.SQL(_LIVES if old.table == "orders" else "false").format(**names)
    with connection.transaction():
        connection.execute(_BY_INDEX)
        # A look that locks nobody out: a partition that stays today stays for many days.
        if connection.execute(sql.SQL("SELECT {}").format(lives)).fetchone() == (True,):
            return False
    timeout = sql.Literal(f"{LOCK_TIMEOUT_MS}ms")
    connection.execute(sql.SQL(_DROP).format(timeout=timeout, by_index=sql.SQL(_BY_INDEX), lives=lives, **names))
    return connection.execute("SELECT to_regclass(%s)", (old.name,)).fetchone() == (None,)


def _partitions_below(connection: Connection, table: str, end_id: int) -> list[OldPartition]:
    """List a table's partitions whose every id is below ``end_id``, oldest first."""
    found = []
    for name, bound in connection.execute(_PARTITIONS, (table,)).fetchall():
        match = _BOUND.fullmatch(bound)
        # A partition with other bounds was made by hand, and whoever made it knows what for.
        if match is not None and int(match.group(1)) <= end_id:
            found.append((int(match.group(1)), OldPartition(table, name)))
    return [partition for _, partition in sorted(found, key=lambda pair: pair[0])]


def _first_known_id(connection: Connection, now_ms: int) -> int:
    """First id whose client order id may be known. Counted from the last order where the clock is far ahead of it."""
    newest_id = last_order_id(connection)
    newest_ms = min(now_ms, timestamp_ms_of(newest_id)) if newest_id else now_ms
    return first_id_at(newest_ms - CLIENT_ID_LIFETIME_MS)


def _months_before(now_ms: int, months: int) -> int:
    """Start of the month so many before the present one, in milliseconds since 1970."""
    now = dt.datetime.fromtimestamp(now_ms / 1000, dt.UTC)
    year, month = divmod(now.year * 12 + now.month - 1 - months, 12)
    return int(dt.datetime(year, month + 1, 1, tzinfo=dt.UTC).timestamp()) * 1000


_PARTITIONS: Final = """
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid)
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = %s::regclass
"""

# The index of live orders answers at once; reading a month of closed ones would take minutes, under the lock.
_BY_INDEX: Final = "SET LOCAL enable_seqscan = off"

_LIVES: Final = "EXISTS (SELECT FROM {name} WHERE closed_at IS NULL)"

# The table before its partition, as every query takes its locks. Asked again under the lock: settlement may just have
# caught up with an order of that time.
_DROP: Final = """
DO $$ BEGIN
    SET LOCAL lock_timeout = {timeout};
    {by_index};
    LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE;
    IF NOT {lives} THEN
        DROP TABLE {name};
    END IF;
END $$
"""
