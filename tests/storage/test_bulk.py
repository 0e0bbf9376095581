"""Numpy arrays in PostgreSQL's binary formats, there and back."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest

from tradeengine.storage.bulk import (
    Array,
    Column,
    boolean,
    char,
    copy_in,
    copy_out,
    int2,
    int4,
    int8,
    register_arrays,
    text,
    timestamp,
)

COUNT = 1000
FIELDS = {"a": "i8", "b": "i4", "c": "i2", "d": "u1", "f": "S36"}


@pytest.fixture
def table(connection: psycopg.Connection) -> psycopg.Connection:
    """Connect to a table with a column of each type."""
    connection.execute(
        'CREATE TABLE t (n serial, a bigint, b integer, c smallint, d boolean, e "char", f text, g timestamptz)'
    )
    return connection


def _columns(random: np.random.Generator) -> dict[str, Column]:
    letters = np.frombuffer(b"abcXYZ0189_.:-", np.uint8)
    words = np.array([random.choice(letters, random.integers(0, 37)).tobytes() for _ in range(COUNT)], "S36")
    return {
        "a": int8(random.integers(-(2**63), 2**63 - 1, COUNT), random.random(COUNT) < 0.2),
        "b": int4(random.integers(-(2**31), 2**31 - 1, COUNT)),
        "c": int2(random.integers(-(2**15), 2**15 - 1, COUNT)),
        "d": boolean(random.integers(0, 2, COUNT)),
        "e": char(random.integers(65, 91, COUNT)),
        "f": text(words, random.random(COUNT) < 0.2),
        "g": timestamp(random.integers(0, 4 * 10**18, COUNT), random.random(COUNT) < 0.2),
    }


def test_rows_arrive_as_they_were(table: psycopg.Connection) -> None:
    """Values of every type, NULLs and texts of every length come back from PostgreSQL as they went in."""
    columns = _columns(np.random.default_rng(1))
    assert copy_in(table, "t", columns) == COUNT
    query = "SELECT a, b, c, d, e, f, (extract(epoch FROM g) * 1000000)::bigint FROM t ORDER BY n"
    for place, row in enumerate(table.execute(query)):
        for (name, column), value in zip(columns.items(), row, strict=True):
            if column.null is not None and column.null[place]:
                assert value is None
            elif name == "f":
                assert value == column.values[place].decode()
            elif name == "e":
                assert value == chr(column.values[place])
            else:
                assert value == column.values[place] + (946_684_800_000_000 if name == "g" else 0)


def test_arrays_unnest_to_the_same_rows(table: psycopg.Connection) -> None:
    """As parameters the same columns are the same rows, in their order."""
    columns = _columns(np.random.default_rng(2))
    copy_in(table, "t", columns)
    register_arrays(table)
    arrays = [Array.of(columns[name]) for name in "abcdfg"]
    assert table.execute("SELECT * FROM unnest(%b, %b, %b, %b, %b, %b)", arrays).fetchall() == (
        table.execute("SELECT a, b, c, d, f, g FROM t ORDER BY n").fetchall()
    )


def test_rows_come_out_decoded(table: psycopg.Connection) -> None:
    """What COPY brings out is one structured array, texts without their padding."""
    columns = _columns(np.random.default_rng(3))
    copy_in(table, "t", columns)
    rows = copy_out(table, "SELECT coalesce(a, 0), b, c, d, rpad(coalesce(f, ''), 36) FROM t ORDER BY n", FIELDS)
    assert columns["a"].null is not None
    assert columns["f"].null is not None
    assert np.array_equal(rows["a"], np.where(columns["a"].null, 0, columns["a"].values))
    for name in "bcd":
        assert np.array_equal(rows[name], columns[name].values)
    assert np.array_equal(rows["f"], np.where(columns["f"].null, b"", columns["f"].values))


def test_nothing_is_nothing(table: psycopg.Connection) -> None:
    """Empty columns write no rows, read as no rows and unnest to none."""
    empty = np.empty(0, np.int64)
    assert copy_in(table, "t", {"a": int8(empty)}) == 0
    assert len(copy_out(table, "SELECT a, b, c, d, f FROM t", FIELDS)) == 0
    register_arrays(table)
    assert table.execute("SELECT * FROM unnest(%b)", [Array.of(int8(empty))]).fetchall() == []


def test_null_is_not_read_as_something(table: psycopg.Connection) -> None:
    """A NULL or a text of another width is named, not decoded shifted."""
    table.execute("INSERT INTO t (a, b) VALUES (1, 2), (NULL, 3)")
    with pytest.raises(ValueError, match="layout"):
        copy_out(table, "SELECT a, b FROM t", {"a": "i8", "b": "i4"})
    table.execute("DELETE FROM t WHERE a IS NULL")
    with pytest.raises(ValueError, match="column a"):
        copy_out(table, "SELECT b, a FROM t", {"a": "i8", "b": "i4"})


def test_many_rows_come_out_in_order(connection: psycopg.Connection) -> None:
    """However many rows arrive at once, and however long the server takes between them, all come, in order."""
    query = "SELECT n::bigint, CASE WHEN n % 20000 = 0 THEN length(pg_sleep(0.01)::text) ELSE -1 END FROM {} AS n"
    rows = copy_out(connection, query.format("generate_series(1, 100000)"), {"n": "i8", "slept": "i4"})
    assert np.array_equal(rows["n"], np.arange(1, 100_001))
    assert np.array_equal(np.flatnonzero(rows["slept"] == 0) % 20_000, np.full(5, 19_999))


def test_rows_that_break_off_raise_why(connection: psycopg.Connection) -> None:
    """An error of the server in the midst of rows is raised as what it is, and the connection goes on."""
    query = "SELECT (1 / (70000 - n))::bigint FROM generate_series(1, 100000) AS n"
    with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():
        copy_out(connection, query, {"a": "i8"})
    assert len(copy_out(connection, "SELECT 1::bigint", {"a": "i8"})) == 1
    connection.execute("SET statement_timeout = '100ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        copy_out(connection, "SELECT n::bigint FROM generate_series(1, 100000000) AS n", {"a": "i8"})
    assert len(copy_out(connection, "SELECT 1::bigint", {"a": "i8"})) == 1
