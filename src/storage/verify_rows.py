"""Rows of a table beside the rows that follow from a journal: read in order of ids, and compared column by column.

Ids of one shard ascend in the order of its events, so both sides are walked in step: a range of ids out of the table,
what the replay gave in that range, and on. Memory holds a range, never a table, and what stands between two rows is
found as surely as what is missing.

Rule 1: what is expected is made by settlement's own columns (``settle_sql``); every column is compared.
Rule 2: times are as PostgreSQL keeps them, microseconds since 2000; NULL is 0, or an empty text.
Rule 3: rows of a partition that retention has dropped are not asked for, and that is said.
It refuses to know journals.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from tradeengine.core.differences import Difference, Differences, Int64s, pair_up
from tradeengine.core.ids import SHARD_SHIFT, SHARDS_MAX
from tradeengine.storage.bulk import POSTGRES_ORIGIN_US, Column, copy_out
from tradeengine.storage.partitions import kept_ranges

Connection = psycopg.Connection[Any]
Rows = NDArray[np.void]

ID_MAX: Final = (1 << 63) - 1
_TIME: Final = "time"
_BYTES: Final = "bytes"
_ORIGIN: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Layout:
    """A table's columns in the form in which they are compared: ``kinds`` by column.

    ``i8``, ``i4``, ``u1`` as in ``copy_out``; ``time``; a number: a text of at most so many characters; ``bytes36``.
    """

    table: str
    kinds: Mapping[str, str]

    @property
    def dtype(self) -> np.dtype[np.void]:
        """Of rows; integers are 8 bytes wide."""
        return np.dtype([(name, _plain_type(kind)) for name, kind in self.kinds.items()])

    def rows(self, columns: Mapping[str, Column]) -> Rows:
        """Make rows of what settlement would write, in order of their ids."""
        assert set(columns) == set(self.kinds)
        rows = np.zeros(len(columns["id"].values), self.dtype)
        for name, column in columns.items():
            values = column.values
            if column.null is not None:
                values = np.where(column.null, np.zeros((), values.dtype), values)
            rows[name] = values
        return rows[np.argsort(rows["id"], kind="stable")]


class TableReader:
    """Reads one shard's rows of a table, range after range, each id once."""

    def __init__(self, connection: Connection, layout: Layout, shard: int, after_id: int, *, keeps_all: bool) -> None:
        """Begin after an id. keeps_all: retention drops nothing, so every row must be there."""
        self._connection = connection
        self._layout = layout
        self._shard = shard
        self._ranges = None if keeps_all else kept_ranges(connection, layout.table)
        self.after_id = after_id

    def read_to(self, last_id: int) -> Rows:
        """Read on up to an id, in order of ids."""
        where = f"id > {self.after_id} AND id <= {last_id} AND (id >> {SHARD_SHIFT} & {SHARDS_MAX - 1}) = {self._shard}"
        self.after_id = max(self.after_id, last_id)
        return self._read(where)

    def read_these(self, ids: Int64s) -> Rows:
        """Read the rows with these ids, as far as there are any."""
        parts = [self._read(f"id = ANY ('{{{','.join(map(str, part))}}}')") for part in _parts(ids.tolist())]
        return np.concatenate([np.zeros(0, self._layout.dtype), *parts])

    def is_kept(self, ids: Int64s) -> NDArray[np.bool_]:
        """Whether rows with these ids must be there."""
        if self._ranges is None:
            return np.ones(len(ids), np.bool_)
        kept = np.zeros(len(ids), np.bool_)
        for first, end in self._ranges:
            kept |= (ids >= first) & (ids < end)
        return kept

    def _read(self, where: str) -> Rows:
        layout = self._layout
        fields = {name: _wire_type(kind) for name, kind in layout.kinds.items()}
        columns = ", ".join(_expression(name, kind) for name, kind in layout.kinds.items())
        # A range of ids is a range of pages; a plan for the whole table would read all of it each time.
        with self._connection.transaction():
            for way in ("seqscan", "bitmapscan"):
                self._connection.execute(f"SET LOCAL enable_{way} = off")
            query = f"SELECT {columns} FROM {layout.table} WHERE {where}"  # noqa: S608 - our own names, and numbers
            found = copy_out(self._connection, query, fields)
            for way in ("seqscan", "bitmapscan"):
                self._connection.execute(f"SET LOCAL enable_{way} = on")
        rows = np.zeros(len(found), layout.dtype)
        for name in layout.kinds:
            rows[name] = found[name]
        return rows[np.argsort(rows["id"], kind="stable")]


class TableCheck:
    """Holds one shard's rows of a table against what is expected of them.

    ``count``: rows compared; ``gone``: those whose partition was dropped.
    """

    layout: Layout

    def __init__(
        self, connection: Connection, shard: int, after_id: int, differences: Differences, *, keeps_all: bool
    ) -> None:
        """Begin after an id. keeps_all: nothing is ever dropped."""
        self._reader = TableReader(connection, self.layout, shard, after_id, keeps_all=keeps_all)
        self._shard = shard
        self._differences = differences
        self.count = 0
        self.gone = 0

    def _compare_rows(self, expected: Rows, found: Rows) -> None:
        """Compare pairs of rows, column by column."""
        for name in self.layout.kinds:
            wrong = np.flatnonzero(expected[name] != found[name])
            self._differences.add_each(
                len(wrong), partial(self._difference_between, expected[wrong], name, found[wrong])
            )
        self.count += len(expected)

    def _note_missing(self, rows: Rows) -> None:
        """Note rows that follow from the journal and are not there, unless they were dropped."""
        must = self._reader.is_kept(rows["id"])
        self._note(rows[must], "missing", "The journal gives this row, the table does not have it.")
        self.gone += int((~must).sum())

    def _note_unknown(self, rows: Rows) -> None:
        """Note rows that are there and follow from nothing in the journal."""
        self._note(rows, "unknown", "The table has this row, nothing in the journal gives it.")

    def _note(self, rows: Rows, what: str, message: str) -> None:
        kind = f"{self.layout.table[:-1]}_{what}"
        self._differences.add_each(
            len(rows), lambda index: _difference(self.layout, kind, message, self._shard, rows[index])
        )

    def _difference_between(self, expected: Rows, name: str, found: Rows, index: int) -> Difference:
        kind, message = f"{self.layout.table[:-1]}_differs", "The row is not what follows from the journal."
        return _difference(self.layout, kind, message, self._shard, expected[index], name, found[index])


def note_other_shards(connection: Connection, layout: Layout, shards: list[int], differences: Differences) -> None:
    """Note rows whose ids are of shards that there never were."""
    known = ", ".join(map(str, [-1, *shards]))
    shard = f"(id >> {SHARD_SHIFT} & {SHARDS_MAX - 1})"
    query = f"SELECT id, {shard}::integer FROM {layout.table} WHERE {shard} NOT IN ({known})"  # noqa: S608 - numbers
    found = copy_out(connection, query, {"id": "i8", "shard": "i4"})
    differences.add_each(
        len(found),
        lambda index: Difference(
            kind=f"{layout.table[:-1]}_unknown",
            message="The table has this row, there is no such shard.",
            table=layout.table,
            shard=int(found["shard"][index]),
            transaction_id=int(found["id"][index]),
        ),
    )


def pair_rows(expected: Rows, found: Rows) -> tuple[Int64s, Int64s, Int64s, Int64s]:
    """Match rows by id: places in both of what both have, what only is expected, what only was found."""
    if len(expected) == len(found) and np.array_equal(expected["id"], found["id"]):
        every = np.arange(len(expected))
        return every, every, np.empty(0, np.int64), np.empty(0, np.int64)
    return pair_up(expected["id"], found["id"])


def _difference(
    layout: Layout, kind: str, message: str, shard: int, row: np.void, name: str | None = None, found: Any = None
) -> Difference:
    is_trade = layout.table == "trades"
    return Difference(
        kind=kind,
        message=message,
        expected=None if name is None else _shown(layout.kinds[name], row[name]),
        found=None if name is None else _shown(layout.kinds[name], found[name]),
        field=name,
        table=layout.table,
        shard=shard,
        sequence=int(row["sequence"]),
        symbol_id=int(row["symbol_id"]),
        account_id=None if is_trade else int(row["account_id"]),
        order_id=None if is_trade else int(row["id"]),
        transaction_id=int(row["id"]) if is_trade else None,
    )


def _shown(kind: str, value: Any) -> int | str:
    """Give a value as people find it in the table."""
    if kind == _TIME:
        return shown_time(int(value))
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else int(value)


def shown_time(time_us: int) -> str:
    """Write a time in microseconds since 2000; 0 is none."""
    if time_us == 0:
        return "none"
    try:
        moment = _ORIGIN + dt.timedelta(microseconds=time_us + POSTGRES_ORIGIN_US)
    except OverflowError:
        return str(time_us)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _plain_type(kind: str) -> str:
    if kind.isdigit():
        return f"S{kind}"
    return f"S{kind.removeprefix(_BYTES)}" if kind.startswith(_BYTES) else "<i8"


def _wire_type(kind: str) -> str:
    return "i8" if kind == _TIME else kind if kind in {"i8", "i4", "i2", "u1"} else _plain_type(kind)


def _expression(name: str, kind: str) -> str:
    """Make a column one of fixed width without NULL, whatever somebody wrote into it."""
    if kind == _TIME:
        return f"coalesce({name}, '2000-01-01 00:00:00+00')"
    if kind.isdigit():
        return f"rpad(coalesce({name}::text, ''), {kind})"
    if kind.startswith(_BYTES):
        size = int(kind.removeprefix(_BYTES))
        padding = "00" * size
        return f"substr(convert_to(coalesce({name}, ''), 'UTF8') || '\\x{padding}'::bytea, 1, {size})"
    return name


def _parts(ids: list[int], size: int = 10_000) -> list[list[int]]:
    return [ids[start : start + size] for start in range(0, len(ids), size)]
