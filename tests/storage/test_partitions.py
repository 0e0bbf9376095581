"""Partitions: there before they are needed, on bounds that ids fall into, without locking readers out."""

from __future__ import annotations

import datetime as dt

import psycopg
import pytest

from tradeengine.core.ids import first_id_at
from tradeengine.storage.partitions import Partitions


def _ms(year: int, month: int, day: int, hour: int = 0) -> int:
    return int(dt.datetime(year, month, day, hour, tzinfo=dt.UTC).timestamp()) * 1000


def test_made_ahead(connection: psycopg.Connection) -> None:
    """Months of orders and postings and days of trades are made from the present one on, and only once."""
    partitions = Partitions(connection)
    made = partitions.make_ahead(_ms(2026, 12, 31, 23), months=2, days=2)
    assert [name for name in made if name.startswith("trades")] == [
        "trades_2026_12_31",
        "trades_2027_01_01",
        "trades_2027_01_02",
    ]
    for table in ("orders", "postings"):
        assert {f"{table}_2026_12", f"{table}_2027_01", f"{table}_2027_02"} <= set(made)
    assert partitions.make_ahead(_ms(2026, 12, 31, 23), months=2, days=2) == []
    assert Partitions(connection).make_ahead(_ms(2026, 12, 31, 23), months=2, days=2) == []


def test_each_id_finds_its_day(connection: psycopg.Connection) -> None:
    """The first and the last id of a day lie in its partition, the next one in the next."""
    partitions = Partitions(connection)
    start, end = first_id_at(_ms(2026, 3, 1)), first_id_at(_ms(2026, 3, 2))
    partitions.cover("trades", start, end)
    for trade_id, expected in (
        (start, "trades_2026_03_01"),
        (end - 1, "trades_2026_03_01"),
        (end, "trades_2026_03_02"),
    ):
        row = connection.execute(
            "INSERT INTO trades VALUES (%s, 1, 1, 1, 0, 0, 1, 2, 0, now(), 16, 17, 0, 'buy') "
            "RETURNING tableoid::regclass::text",
            (trade_id,),
        ).fetchone()
        assert row == (expected,)


def test_partition_has_the_tables_indexes(connection: psycopg.Connection) -> None:
    """A partition that was made beside its table has every index of it, attached and not doubled."""
    Partitions(connection).cover("orders", first_id_at(_ms(2026, 3, 1)), first_id_at(_ms(2026, 3, 1)))
    count = "SELECT count(*) FROM pg_index WHERE indrelid = %s::regclass"
    parent = connection.execute(count, ("orders",)).fetchone()
    assert connection.execute(count, ("orders_2026_03",)).fetchone() == parent


def test_readers_are_not_locked_out(dsn: str, connection: psycopg.Connection) -> None:
    """A partition is made while a long query reads the table and without holding up the next reader."""
    partitions = Partitions(connection)
    partitions.cover("trades", first_id_at(_ms(2026, 3, 1)), first_id_at(_ms(2026, 3, 1)))
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT count(*) FROM trades")  # its locks last until the transaction ends
        connection.execute("SET lock_timeout = '10s'")
        assert partitions.cover("trades", first_id_at(_ms(2026, 3, 2)), first_id_at(_ms(2026, 3, 2))) != []


def test_two_at_once(dsn: str, connection: psycopg.Connection) -> None:
    """Who knows of no partition that another has made meanwhile finds it and goes on."""
    with psycopg.connect(dsn, autocommit=True) as other:
        early = Partitions(other)
        Partitions(connection).make_ahead(_ms(2026, 3, 1), months=1, days=1)
        assert "trades_2026_03_01" in early.make_ahead(_ms(2026, 3, 1), months=1, days=1)


@pytest.mark.parametrize(("month", "end"), [(_ms(2028, 2, 29), _ms(2028, 3, 1)), (_ms(2026, 12, 5), _ms(2027, 1, 1))])
def test_months_have_their_own_length(connection: psycopg.Connection, month: int, end: int) -> None:
    """A month ends where the next begins, in leap years and at the year's end."""
    (name,) = Partitions(connection).cover("orders", first_id_at(month), first_id_at(month))
    row = connection.execute(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = %s::regclass", (name,)
    ).fetchone()
    assert row is not None
    assert row[0].endswith(f"TO ('{first_id_at(end)}')")
