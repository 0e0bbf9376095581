"""Retention: what is old goes, whole partitions at a time; what is still needed stays, and nobody waits long for it."""

from __future__ import annotations

import datetime as dt
import threading
from typing import Any

import psycopg
import pytest
from tests.storage.rows import insert_order, insert_trade

from tradeengine.core.ids import first_id_at
from tradeengine.storage.partitions import Partitions
from tradeengine.storage.retention import OldPartition, drop_partition, old_partitions

Connection = psycopg.Connection[Any]


def ms(year: int, month: int, day: int, hour: int = 0) -> int:
    """Milliseconds since 1970 of a moment in UTC."""
    return int(dt.datetime(year, month, day, hour, tzinfo=dt.UTC).timestamp()) * 1000


NOW_MS = ms(2026, 11, 24, 10)


@pytest.fixture
def partitions(connection: Connection) -> Partitions:
    """Give partitions of a year back from now."""
    made = Partitions(connection)
    made.make_ahead(ms(2025, 11, 1), months=12, days=10)
    made.make_ahead(ms(2026, 11, 20), months=1, days=5)
    return made


def retain(connection: Connection, now_ms: int = NOW_MS, *, orders_months: int = 0, trades_days: int = 0) -> list[str]:
    """Carry retention out; returns the names of what was dropped."""
    old = old_partitions(connection, now_ms, orders_months=orders_months, trades_days=trades_days)
    return [partition.name for partition in old if drop_partition(connection, partition)]


def names(connection: Connection, table: str) -> set[str]:
    """Names of a table's partitions."""
    query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass"
    return {name for (name,) in connection.execute(query, (table,))}


def test_by_default_everything_is_kept(connection: Connection, partitions: Partitions) -> None:
    """With 0 months and 0 days nothing is old, whatever its age."""
    insert_order(connection, ms(2025, 11, 5))
    assert retain(connection) == []


def test_old_months_of_orders_go_oldest_first(connection: Connection, partitions: Partitions) -> None:
    """So many whole months stay beside the present one; all before them go, with their rows."""
    for month in (5, 8, 9, 11):
        insert_order(connection, ms(2026, month, 20))
    dropped = retain(connection, orders_months=2)
    assert dropped[0] == "orders_2025_11"
    assert dropped[-1] == "orders_2026_08"
    assert len(dropped) == 10
    left = connection.execute("SELECT min(id), count(*) FROM orders").fetchone()
    assert left == (first_id_at(ms(2026, 9, 20)), 2)
    assert retain(connection, orders_months=2) == []


def test_old_days_of_trades_go(connection: Connection, partitions: Partitions) -> None:
    """A day of trades goes when its last moment is older than what is kept, and not a moment before."""
    for day in (20, 21, 22):
        insert_trade(connection, ms(2026, 11, day, 23))
    midnight = ms(2026, 11, 24)
    assert "trades_2026_11_21" not in retain(connection, midnight - 1, trades_days=2)
    assert retain(connection, midnight, trades_days=2) == ["trades_2026_11_21"]
    left = connection.execute("SELECT min(id), count(*) FROM trades").fetchone()
    assert left == (first_id_at(ms(2026, 11, 22, 23)), 1)


def test_live_order_keeps_its_month(connection: Connection, partitions: Partitions) -> None:
    """A month that holds one live order stays as a whole, between months that go; when that is closed it goes too."""
    live = insert_order(connection, ms(2026, 3, 5), live=True)
    insert_order(connection, ms(2026, 3, 6))
    insert_order(connection, NOW_MS)
    dropped = retain(connection, orders_months=2)
    assert {"orders_2026_02", "orders_2026_04"} <= set(dropped)
    assert "orders_2026_03" not in dropped
    assert connection.execute("SELECT count(*) FROM orders_2026_03").fetchone() == (2,)
    connection.execute("UPDATE orders SET closed_at = now() WHERE id = %s", (live,))
    assert retain(connection, orders_months=2) == ["orders_2026_03"]


def test_order_that_comes_to_life_meanwhile_keeps_its_month(dsn: str, connection: Connection) -> None:
    """An old live order that is written between the look and the drop is seen under the lock."""
    for month in (3, 11):
        Partitions(connection).cover("orders", first_id_at(ms(2026, month, 1)), first_id_at(ms(2026, month, 1)))
    insert_order(connection, NOW_MS)
    (old,) = old_partitions(connection, NOW_MS, orders_months=2, trades_days=0)

    class Late(psycopg.Connection[Any]):
        """A connection after whose first look another one writes an order."""

        written = False

        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            result = super().execute(query, *args, **kwargs)
            if not self.written and "EXISTS" in str(query):
                self.written = True
                insert_order(connection, ms(2026, 3, 5), live=True)
            return result

    with Late.connect(dsn, autocommit=True) as late:
        assert not drop_partition(late, old)
        assert late.written
    assert connection.execute("SELECT count(*) FROM orders_2026_03").fetchone() == (1,)


def test_client_ids_that_risk_knows_stay(connection: Connection, partitions: Partitions) -> None:
    """A clock that jumped a year ahead makes nothing forgotten that a repeat within 24 hours would need."""
    insert_order(connection, ms(2026, 10, 31, 12), client_order_id="a")
    insert_order(connection, ms(2026, 11, 1, 6), client_order_id="b")
    dropped = retain(connection, ms(2027, 11, 24), orders_months=1)
    assert "orders_2026_09" in dropped
    assert names(connection, "orders") == {"orders_2026_10", "orders_2026_11", "orders_2026_12"}
    # A day later the older of both is outside: nobody would know its id any more.
    insert_order(connection, ms(2026, 11, 2, 1))
    assert retain(connection, ms(2027, 11, 24), orders_months=1) == ["orders_2026_10"]


def test_ledger_and_candles_stay(connection: Connection, partitions: Partitions) -> None:
    """However little is kept of orders and trades, postings and candles are never touched."""
    old_ms = ms(2025, 11, 5)
    insert_order(connection, NOW_MS)
    insert_trade(connection, old_ms)
    connection.execute("INSERT INTO postings VALUES (%s, 1, 16, 0, 'T')", (first_id_at(old_ms),))
    connection.execute("INSERT INTO candles_1m VALUES (0, to_timestamp(%s), 1, 1, 1, 1, 1, 1, 1)", (old_ms / 1000,))
    before = names(connection, "postings")
    assert retain(connection, orders_months=1, trades_days=1)
    assert names(connection, "postings") == before
    assert connection.execute(
        "SELECT (SELECT count(*) FROM postings), (SELECT count(*) FROM candles_1m)"
    ).fetchone() == (
        1,
        1,
    )


def test_partition_with_other_bounds_is_left_alone(connection: Connection, partitions: Partitions) -> None:
    """What someone made by hand, with bounds that are none of ours, is nobody's to drop."""
    connection.execute("CREATE TABLE by_hand PARTITION OF trades FOR VALUES FROM (MINVALUE) TO (1)")
    retain(connection, trades_days=1)
    assert "by_hand" in names(connection, "trades")


def test_table_in_use_is_given_up_soon(dsn: str, connection: Connection, partitions: Partitions) -> None:
    """While a transaction reads the table the drop gives up, changes nothing, and lets later queries through."""
    old = OldPartition("trades", "trades_2026_11_20")
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT count(*) FROM trades")  # its locks last until the transaction ends
        with pytest.raises(psycopg.errors.LockNotAvailable):
            drop_partition(connection, old)
        insert_trade(connection, ms(2026, 11, 20))
    assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)
    assert drop_partition(connection, old)
    assert old.name not in names(connection, "trades")


def test_writers_do_not_queue_behind_a_drop_that_waits(
    dsn: str, connection: Connection, partitions: Partitions
) -> None:
    """While the table is read for long, and a drop is tried again and again, rows go in all the time."""
    finished = threading.Event()
    tries: list[str] = []

    def drop() -> None:
        with psycopg.connect(dsn, autocommit=True) as own:
            while not finished.is_set():
                try:
                    drop_partition(own, OldPartition("trades", "trades_2026_11_20"))
                except psycopg.errors.LockNotAvailable:
                    tries.append("in use")

    dropping = threading.Thread(target=drop)
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT count(*) FROM trades")
        dropping.start()
        connection.execute("SET lock_timeout = '5s'")
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'trades'::regclass"
        for hour in range(3):
            while connection.execute(waiting).fetchone() == (0,):
                assert dropping.is_alive()
            insert_trade(connection, ms(2026, 11, 21, hour))
        finished.set()
        dropping.join()
    assert len(tries) >= 3
