"""Views for operators: they say what is true, fail nowhere, and are read by who may read them and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from tests.storage.past import PRICE, Made, Past

from tradeengine.core.records import Side
from tradeengine.core.symbols import SymbolSpec
from tradeengine.storage.depth_snapshots import StoredDepth, store_depth
from tradeengine.storage.funding import FundingKind, request_funding
from tradeengine.storage.migrate import migrate, roll_back
from tradeengine.storage.settle import Settler

Connection = psycopg.Connection[Any]
MakeDatabase = Callable[[str], str]

VIEWS = {
    "bloat",
    "connections",
    "depth",
    "index_use",
    "locks",
    "settlement",
    "slow_statements",
    "table_sizes",
    "volume",
    "waiting",
    "waits",
}


@pytest.fixture
def past(dsn: str, symbol: SymbolSpec) -> Iterator[Past]:
    """Give BTC/USDT with a past to be made."""
    made = Past(dsn, symbol)
    yield made
    made.close()


def read(connection: Connection, view: str) -> list[dict[str, Any]]:
    """Read a view."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(f"SELECT * FROM operators.{view}").fetchall()


def test_there_is_a_test_for_each(connection: Connection) -> None:
    """The list above is the schema's, and each can be read in an empty database."""
    found = connection.execute("SELECT viewname FROM pg_views WHERE schemaname = 'operators'").fetchall()
    assert {name for (name,) in found} == VIEWS
    for view in VIEWS:
        read(connection, view)


def test_depth_is_the_newest_book_in_decimals(connection: Connection, symbol: SymbolSpec) -> None:
    """Of each symbol the newest stored book is shown, best levels first, as prices and quantities."""
    rows = [
        StoredDepth(symbol.symbol_id, 1_000, 1, [[1, 1]], []),
        StoredDepth(symbol.symbol_id, 2_000, 7, [[5_000_000, 250_000], [4_999_900, 1]], [[5_000_100, 3]]),
    ]
    store_depth(connection, rows)
    found = [(row["side"], row["level"], row["price"], row["quantity"]) for row in read(connection, "depth")]
    assert sorted(found) == [
        ("ask", 1, Decimal("50001.00"), Decimal("0.00003")),
        ("bid", 1, Decimal("50000.00"), Decimal("2.5")),
        ("bid", 2, Decimal("49999.00"), Decimal("0.00001")),
    ]
    assert {row["symbol"] for row in read(connection, "depth")} == {"BTC/USDT"}


def test_volume_is_that_of_the_last_day(past: Past, connection: Connection) -> None:
    """Volumes, lowest, highest and last price are those of the trades of the last 24 hours."""
    now_ms = time.time_ns() // 1_000_000
    past.trade(
        [
            Made(now_ms - 26 * 3_600_000, PRICE - 1000, 5),
            Made(now_ms - 7_200_000, PRICE + 100, 1000),
            Made(now_ms - 120_000, PRICE, 3000, Side.SELL),
        ]
    )
    (row,) = read(connection, "volume")
    assert (row["symbol"], row["trades"], row["base"], row["quote"]) == ("BTC/USDT", 2, "BTC", "USDT")
    assert row["base_volume"] == Decimal("0.04")
    assert row["quote_volume"] == Decimal("0.01") * 50_001 + Decimal("0.03") * 50_000
    assert (row["low"], row["high"], row["last_price"]) == (50_000, 50_001, 50_000)
    shard = next(row for row in read(connection, "settlement") if row["shard"] == 0)
    assert shard["next_sequence"] == past.settler.cursors[0]
    assert 100 < shard["seconds_since"] < 100_000


def test_what_waits_is_counted(connection: Connection, symbol: SymbolSpec) -> None:
    """A deposit that nobody has decided is told with its age."""
    connection.execute("INSERT INTO accounts (id, name) VALUES (16, 'alice')")
    request_funding(connection, FundingKind.DEPOSIT, reference="one", account_id=16, asset_id=0, amount_units=5)
    waiting = {row["what"]: row for row in read(connection, "waiting")}
    assert waiting["deposits and withdrawals"]["count"] == 1
    assert waiting["deposits and withdrawals"]["oldest_s"] >= 0
    assert waiting["transfers to the wallet"]["count"] == 0


def test_sizes_and_bloat_add_partitions_up(past: Past, connection: Connection) -> None:
    """Partitions are told as their table; a table without half of its rows is told as bloated."""
    past.trade([Made(1_790_000_000_000 + 1000 * n, PRICE, 1) for n in range(3)])
    connection.execute("INSERT INTO accounts (id, name) SELECT n, 'user-' || n FROM generate_series(20, 30000) AS n")
    connection.execute("DELETE FROM accounts WHERE id % 2 = 1 AND id > 20")
    connection.execute("VACUUM (ANALYZE)")
    sizes = {row["table_name"]: row for row in read(connection, "table_sizes")}
    assert sizes["trades"]["rows_estimate"] == 3
    assert sizes["orders"]["index_bytes"] > 0
    assert not any(name.startswith("trades_") for name in sizes)
    bloat = {row["table_name"]: row["bloat_percent"] for row in read(connection, "bloat")}
    assert 40 < bloat["accounts"] < 60
    used = {row["index_name"]: row for row in read(connection, "index_use")}
    assert used["trades_symbol"]["parts"] == sizes["trades"]["parts"]
    assert used["accounts_pkey"]["is_unique"]


def test_who_waits_for_whom(dsn: str, connection: Connection, symbol: SymbolSpec) -> None:
    """Who is blocked is told with who blocks, and the engine's own lock by its name."""
    settler = Settler(psycopg.connect(dsn, application_name="tradeengine-settlement"), 1)
    with (
        psycopg.connect(dsn, application_name="first") as first,
        psycopg.connect(dsn, application_name="second", autocommit=True) as second,
    ):
        first.execute("LOCK TABLE counters")
        second.pgconn.send_query(b"SELECT * FROM counters")
        deadline_s = time.monotonic() + 30
        while not (waits := [row for row in read(connection, "waits") if row["application"] == "second"]):
            assert time.monotonic() < deadline_s
        assert waits[0]["blocked_by"] == [first.info.backend_pid]
        locks = read(connection, "locks")
        assert {row["application"] for row in locks if row["advisory"] == "engine"} == {"tradeengine-settlement"}
        assert [row["application"] for row in locks if not row["granted"]] == ["second"]
        connected = {row["application"]: row for row in read(connection, "connections")}
        assert connected["first"]["in_transaction"] == 1
        first.rollback()
        while second.pgconn.get_result() is not None:
            pass
    settler.close()


def test_slow_statements_where_they_are_counted(connection: Connection) -> None:
    """Without pg_stat_statements there are no rows; with it those of this database, whatever its schema."""
    assert read(connection, "slow_statements") == []
    # The tests' server has no such extension: a table with its columns and its name in the catalogue stand for it.
    connection.execute("CREATE SCHEMA extensions")
    connection.execute("""
        CREATE TABLE extensions.pg_stat_statements (dbid oid, query text, calls bigint, total_exec_time float8,
            mean_exec_time float8, max_exec_time float8, rows bigint, shared_blks_hit bigint,
            shared_blks_read bigint)""")
    connection.execute("SET allow_system_table_mods = on")
    connection.execute("""
        INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
        VALUES (99999, 'pg_stat_statements', 10, 'extensions'::regnamespace, true, '1.12')""")
    connection.execute("""
        INSERT INTO extensions.pg_stat_statements
        SELECT d.oid, d.datname, 4, 10.04, 2.5104, 8, 40, 99, 1 FROM pg_database AS d""")
    (row,) = read(connection, "slow_statements")
    assert (row["query"], row["calls"], row["total_ms"]) == (connection.info.dbname, 4, Decimal("10.0"))
    assert (row["mean_ms"], row["hit_percent"]) == (Decimal("2.510"), Decimal("99.0"))
    # Who may not look into the extension's schema is told so, and gets no error.
    told: list[str | None] = []
    connection.add_notice_handler(lambda notice: told.append(notice.message_primary))
    connection.execute("SET ROLE tradeengine_reader")
    assert read(connection, "slow_statements") == []
    assert told == [
        "permission denied for schema extensions: who looks needs USAGE of the schema of pg_stat_statements"
    ]


def test_reader_reads_the_views_and_nothing_else(connection: Connection) -> None:
    """Who has the role tradeengine_reader reads every view, and no table."""
    connection.execute("SET ROLE tradeengine_reader")
    for view in VIEWS:
        read(connection, view)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM public.balances")


def test_owner_who_may_make_no_roles(postgres: Any, make_database: MakeDatabase) -> None:
    """A database whose owner is nobody special gets the views all the same; a rollback takes the schema away."""
    dsn = make_database("template1")
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(postgres.dsn, autocommit=True) as server:
        server.execute("CREATE ROLE plain LOGIN")
        try:
            server.execute(f"ALTER DATABASE {name} OWNER TO plain")
            own = make_conninfo(dsn, user="plain")
            migrate(own)
            with psycopg.connect(own, autocommit=True) as connection:
                for view in VIEWS:
                    read(connection, view)
            roll_back(own)
            with psycopg.connect(own) as connection:
                assert connection.execute("SELECT to_regnamespace('operators')").fetchone() == (None,)
        finally:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("DROP OWNED BY plain CASCADE")
            server.execute(f"ALTER DATABASE {name} OWNER TO postgres")
            server.execute("DROP ROLE plain")
