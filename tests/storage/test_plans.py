"""What the database does for each statement: on a million rows no hot one reads a large table or sorts a large set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

import psycopg
import pytest
from tests.storage.full_database import DAY_MS, Full, fill, rows_of
from tests.storage.hot_statements import HOT, ONLY_RARE, RARE, SMALL_TABLE_ROWS, Hot
from tests.storage.plans import ExplainingConnection, Plan, sites

from tradeengine.core.ids import first_id_at
from tradeengine.storage import queries
from tradeengine.storage.embedded import Embedded

SERVERS: Final = {
    "embedded": "",
    # What a server takes when nobody has told it about its disk, and the program's own does not.
    "as it is installed": "-c random_page_cost=4 -c effective_cache_size=4GB -c jit=on",
}
"""Settings that planners decide by: hot statements go by index on either server."""


@dataclasses.dataclass(frozen=True, slots=True)
class Looked:
    """A full database on which every hot statement was sent, with the plans of each group."""

    dsn: str
    full: Full
    plans: dict[str, list[Plan]]


@pytest.fixture(scope="module")
def template(postgres: Embedded) -> Iterator[Full]:
    """Make a full database to copy from."""
    with psycopg.connect(postgres.dsn_of("postgres"), autocommit=True) as server:
        server.execute("CREATE DATABASE full_of_rows TEMPLATE tradeengine STRATEGY wal_log")
        with psycopg.connect(postgres.dsn_of("full_of_rows"), autocommit=True) as connection:
            made = fill(connection)
        yield made
        server.execute("DROP DATABASE full_of_rows WITH (FORCE)")


@pytest.fixture(scope="module", params=SERVERS)
def looked(request: pytest.FixtureRequest, postgres: Embedded, template: Full) -> Iterator[Looked]:
    """Send every hot statement, to a database of its own."""
    name = f"full_{list(SERVERS).index(request.param)}"
    with psycopg.connect(postgres.dsn_of("postgres"), autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name} TEMPLATE full_of_rows STRATEGY file_copy")
        dsn, found = postgres.dsn_of(name), {}
        for group, hot in HOT.items():
            with ExplainingConnection.connect(dsn, autocommit=True, options=SERVERS[request.param]) as connection:
                hot.call(connection, template)
                found[group] = connection.plans
        yield Looked(dsn, template, found)
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def problems(plan: Plan, rows: dict[str, int], hot: Hot) -> list[str]:
    """Say what a hot statement must not do and did."""
    found = [
        f"reads all of {scan.table}"
        for scan in plan.scans
        if scan.kind == "Seq Scan" and rows.get(scan.table, 0) > SMALL_TABLE_ROWS
    ]
    read = sum(scan.rows for scan in plan.scans)
    if read > hot.rows:
        found.append(f"reads {read:.0f} rows")
    if plan.sorted_rows > hot.sorted_rows:
        found.append(f"sorts {plan.sorted_rows:.0f} rows")
    for table in ("orders", "postings", "trades"):
        count = len(plan.partitions_of(table))
        if count > hot.partitions:
            found.append(f"looks into {count} partitions of {table}")
    return [f"{plan.function}, line {plan.line}: {problem}" for problem in found]


@pytest.mark.parametrize("name", HOT)
def test_hot_statements_go_by_index(name: str, looked: Looked) -> None:
    """No hot statement reads a large table as a whole, sorts a large set, or looks into partitions for nothing."""
    with psycopg.connect(looked.dsn) as connection:
        rows = rows_of(connection)
    assert sum(rows[table] for table in ("orders", "trades", "postings", "candles_1m")) > 900_000
    hot = {function for hot in HOT.values() for function in hot.functions}
    looked_at = [plan for plan in looked.plans[name] if plan.function in hot]
    assert [problem for plan in looked_at for problem in problems(plan, rows, HOT[name])] == []


def test_every_statement_is_hot_or_rare(looked: Looked) -> None:
    """Each statement of the storage is sent and looked at here, or stands in the list of the rare ones with its why."""
    hot = {function for hot in HOT.values() for function in hot.functions}
    assert hot & RARE.keys() == set()
    assert {site.function for site in sites()} == hot | RARE.keys()
    sent = {(plan.function, plan.line) for group in looked.plans.values() for plan in group}
    missed = [
        site
        for site in sites()
        if site.function in hot
        and not any((site.function, line) in sent for line in range(site.first_line, site.last_line + 1))
    ]
    assert missed == []


def test_every_index_is_looked_into(looked: Looked) -> None:
    """Each index is a constraint's, serves a hot statement, or is listed with what it is for: none is superfluous."""
    used = {scan.index for group in looked.plans.values() for plan in group for scan in plan.scans}
    query = """
        SELECT root.relname, bool_or(i.indisunique), array_agg(c.relname) FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indexrelid
        JOIN pg_class AS root ON root.oid = coalesce(pg_partition_root(c.oid), c.oid)
        WHERE c.relnamespace = 'public'::regnamespace AND root.relname !~ 'yoyo' GROUP BY 1"""
    with psycopg.connect(looked.dsn) as connection:
        indexes = connection.execute(query).fetchall()
    idle = {name for name, unique, parts in indexes if not unique and not used & {name, *parts}}
    assert idle == ONLY_RARE.keys()


def test_missing_index_is_noticed(looked: Looked) -> None:
    """Without its index a statement is told here: these checks can fail."""
    far_id = first_id_at(looked.full.now_ms - 4 * DAY_MS)
    with ExplainingConnection.connect(looked.dsn, autocommit=True) as connection:
        with connection.transaction(force_rollback=True):
            psycopg.Cursor(connection).execute("DROP INDEX trades_taker_order")
            queries.list_trades_of_order(connection, far_id)
        rows = rows_of(connection)
    told = [problem for plan in connection.plans for problem in problems(plan, rows, HOT["the trades of an order"])]
    assert any("reads all of trades_2" in problem for problem in told)
