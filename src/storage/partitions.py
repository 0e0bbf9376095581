"""Partitions, made before they are needed: orders and postings by month, trades by day.

Rule 1: a bound is an id. Ids embed the millisecond in which they were made, so a day is a range of ids.
Rule 2: readers are not disturbed: a partition is made beside its table and then attached, which locks out no query.
Rule 3: what settlement is about to write is always covered, whatever the clock says: it asks before each transaction.
It refuses to know what is in the tables.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Final

import psycopg
from psycopg import sql

from tradeengine.core.ids import first_id_at, timestamp_ms_of

PARTITION_LOCK_KEY: Final = 0x7452_6164_6500_0002
_BOUNDS: Final = re.compile(r"FOR VALUES FROM \('(\d+)'\) TO \('(\d+)'\)")


class Period(Enum):
    """What one partition covers."""

    DAY = "day"
    MONTH = "month"


PARTITIONED: Final = {"orders": Period.MONTH, "postings": Period.MONTH, "trades": Period.DAY}

_OPTIONS: Final = {
    # An order is updated while it lives: room on its page keeps the new version there and the indexes as they are.
    "orders": "fillfactor = 85, autovacuum_vacuum_scale_factor = 0.1",
    "postings": "fillfactor = 100",
    "trades": "fillfactor = 100",
}


class Partitions:
    """The partitions that exist, on one connection in autocommit; a row is written only where one is."""

    def __init__(self, connection: psycopg.Connection[Any], note: Callable[[str], None] = lambda _: None) -> None:
        """Read which partitions exist. note: told the name of each one that is made."""
        self._connection = connection
        self._note = note
        self._names: set[str] = set()
        self.refresh()

    def refresh(self) -> None:
        """Read which partitions exist."""
        query = (
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = ANY (ARRAY['orders', 'postings', 'trades']::regclass[])"
        )
        self._names = {name for (name,) in self._connection.execute(query)}

    def make_ahead(self, now_ms: int, *, months: int, days: int) -> list[str]:
        """Make what the coming months and days need, the present ones included; return the names that are new.

        now_ms: milliseconds since 1970, UTC.
        """
        now = _utc(now_ms)
        spans = {Period.MONTH: dt.timedelta(days=31 * months), Period.DAY: dt.timedelta(days=days)}
        made = []
        for table, period in PARTITIONED.items():
            made += self._make(table, now, now + spans[period])
        return made

    def cover(self, table: str, first_id: int, last_id: int) -> list[str]:
        """Make what ids from ``first_id`` to ``last_id`` need; return the names that are new. Cheap when none is."""
        return self._make(table, _utc(timestamp_ms_of(first_id)), _utc(timestamp_ms_of(last_id)))

    def _make(self, table: str, first: dt.datetime, last: dt.datetime) -> list[str]:
        made = []
        for name, start, end in _periods(table, first, last):
            if name not in self._names:
                self._attach(table, name, start, end)
                self._names.add(name)
                made.append(name)
                self._note(name)
        return made

    def _attach(self, table: str, name: str, start: dt.datetime, end: dt.datetime) -> None:
        with self._connection.transaction():
            self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (PARTITION_LOCK_KEY,))
            # Someone else may have made it since we looked.
            if self._connection.execute("SELECT to_regclass(%s)", (name,)).fetchone() != (None,):
                return
            names = {"table": sql.Identifier(table), "name": sql.Identifier(name)}
            options = sql.SQL(_OPTIONS[table])
            create = sql.SQL("CREATE TABLE {name} (LIKE {table} INCLUDING ALL) WITH ({options})")
            self._connection.execute(create.format(options=options, **names))
            attach = sql.SQL("ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({first}) TO ({end})")
            bounds = {"first": sql.Literal(_first_id(start)), "end": sql.Literal(_first_id(end))}
            self._connection.execute(attach.format(**names, **bounds))


def kept_ranges(connection: psycopg.Connection[Any], table: str) -> list[tuple[int, int]]:
    """Give the ranges of ids (first, end) that have a partition."""
    query = (
        "SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = %s::regclass"
    )
    bounds = [_BOUNDS.fullmatch(text) for (text,) in connection.execute(query, (table,)).fetchall()]
    return sorted((int(bound.group(1)), int(bound.group(2))) for bound in bounds if bound is not None)


def _periods(table: str, first: dt.datetime, last: dt.datetime) -> Iterator[tuple[str, dt.datetime, dt.datetime]]:
    """Name, start and end of each partition from the one that holds ``first`` to the one that holds ``last``."""
    period = PARTITIONED[table]
    start = first.replace(hour=0, minute=0, second=0, microsecond=0)
    if period is Period.MONTH:
        start = start.replace(day=1)
    while start <= last:
        if period is Period.MONTH:
            end = (start + dt.timedelta(days=31)).replace(day=1)
            yield f"{table}_{start:%Y_%m}", start, end
        else:
            end = start + dt.timedelta(days=1)
            yield f"{table}_{start:%Y_%m_%d}", start, end
        start = end


def _first_id(moment: dt.datetime) -> int:
    return first_id_at(int(moment.timestamp()) * 1000)


def _utc(timestamp_ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(timestamp_ms / 1000, dt.UTC)
