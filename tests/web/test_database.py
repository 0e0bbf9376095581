"""The front's connections to PostgreSQL: kept, replaced when they die, and bounded."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from tests.engines import standing_still
from tests.pgbouncer import needs_pgbouncer, running_pgbouncer

from tradeengine.web.database import Database
from tradeengine.web.errors import ApiError
from tradeengine.web.history import Accounts

Connection = psycopg.Connection[Any]


def open_database(dsn: str, size: int = 2, statement_timeout_ms: int = 5000, **options: Any) -> Database:
    """Open a front's database."""
    return Database(dsn, size=size, statement_timeout_ms=statement_timeout_ms, connect_timeout_s=5, **options)


def backend_pid(connection: Connection) -> int:
    """Name the server process behind a connection."""
    return connection.info.backend_pid


def one(connection: Connection) -> int:
    """Ask something, so that the connection is used."""
    row = connection.execute("SELECT 1").fetchone()
    assert row is not None
    return int(row[0])


async def test_connection_is_kept(dsn: str) -> None:
    """One question after the other uses one connection."""
    database = open_database(dsn)
    pids = {await database.run(backend_pid) for _ in range(5)}
    assert len(pids) == 1
    database.close()


async def test_dead_connection_is_replaced_unseen(dsn: str) -> None:
    """A connection that the server has dropped is replaced, and the question is answered all the same."""
    database = open_database(dsn)
    pid = await database.run(backend_pid)
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    assert await database.run(one) == 1
    assert await database.run(backend_pid) != pid
    database.close()


async def test_server_that_is_not_there_is_said_so() -> None:
    """Without a server the answer is DATABASE_UNAVAILABLE, not a fault of ours."""
    database = open_database("host=127.0.0.1 port=1 dbname=none")
    with pytest.raises(ApiError) as refusal:
        await database.run(one)
    assert (refusal.value.code, refusal.value.status) == ("DATABASE_UNAVAILABLE", 503)
    assert refusal.value.headers["Retry-After"]


async def test_long_question_is_cancelled_and_not_asked_twice(dsn: str) -> None:
    """A question beyond the time allowed ends as DATABASE_UNAVAILABLE, and is not tried again."""
    database = open_database(dsn, statement_timeout_ms=50)
    asked = 0

    def sleep(connection: Connection) -> None:
        nonlocal asked
        asked += 1
        connection.execute("SELECT pg_sleep(30)")

    with pytest.raises(ApiError) as refusal:
        await database.run(sleep)
    assert refusal.value.code == "DATABASE_UNAVAILABLE"
    assert asked == 1
    assert await database.run(one) == 1
    database.close()


async def test_questions_at_once_are_bounded(dsn: str) -> None:
    """However many ask at once, only so many connections are open."""
    database = open_database(dsn, size=2)
    running = most = 0
    lock = threading.Lock()

    def slow(connection: Connection) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        connection.execute("SELECT pg_sleep(0.02)")
        with lock:
            running -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(database.run, slow)
    assert most == 2
    database.close()


async def test_new_name_gets_an_account_and_keeps_it(dsn: str) -> None:
    """Two fronts that meet a new name at once agree on its account; names beyond the limit are refused."""
    first, second = (Accounts(open_database(dsn), accounts_max=17) for _ in range(2))
    ids: list[int] = []

    async def resolve(accounts: Accounts) -> None:
        ids.append(await accounts.id_of("alice"))

    async with trio.open_nursery() as nursery:
        for accounts in (first, second, first, second):
            nursery.start_soon(resolve, accounts)
    assert set(ids) == {16}
    with pytest.raises(ApiError) as refusal:
        await first.id_of("bob")
    assert refusal.value.code == "LIMIT_EXCEEDED"
    assert await first.id_of("alice") == 16
    for accounts in (first, second):
        accounts._database.close()


async def test_name_of_who_gets_the_fees_is_nobody_elses(dsn: str) -> None:
    """With a wallet outside, whoever signs in under the name of its exchange user gets no account."""
    accounts = Accounts(open_database(dsn), 100, "exchange")
    with pytest.raises(ApiError) as refusal:
        await accounts.id_of("exchange")
    assert refusal.value.code == "FORBIDDEN"
    assert await accounts.find("exchange") is None
    assert await accounts.id_of("exchanges") == 16
    accounts._database.close()


async def test_old_connection_is_replaced(dsn: str) -> None:
    """An idle connection that has reached its age is closed, and the next question opens another one."""
    database = open_database(dsn, lifetime_s=0.001)
    first = await database.run(backend_pid)
    await trio.sleep(0.002)
    assert await database.run(backend_pid) != first
    database.close()


async def test_who_waits_for_a_lock_waits_so_long(dsn: str) -> None:
    """A question that waits for a lock beyond the time allowed is refused, not tried again, and holds nothing."""
    database = open_database(dsn, lock_timeout_ms=50)
    asked = 0

    def change(connection: Connection) -> None:
        nonlocal asked
        asked += 1
        connection.execute("UPDATE counters SET value = value")

    with psycopg.connect(dsn) as other:
        other.execute("LOCK TABLE counters")
        with pytest.raises(ApiError) as refusal:
            await database.run(change)
    assert (refusal.value.code, asked) == ("DATABASE_UNAVAILABLE", 1)
    await database.run(change)
    database.close()


async def test_transaction_that_stands_still_is_ended(dsn: str) -> None:
    """A front that stands still in a transaction loses it, and the locks that others wait for."""
    database = open_database(dsn, idle_in_transaction_timeout_ms=100)

    def stand_still(connection: Connection) -> None:
        with connection.transaction(), psycopg.connect(dsn, autocommit=True) as other:
            connection.execute("LOCK TABLE counters")
            other.execute("UPDATE counters SET value = value")
            connection.execute("SELECT 1")

    with pytest.raises(ApiError) as refusal:
        await database.run(stand_still)
    assert refusal.value.code == "DATABASE_UNAVAILABLE"
    database.close()


async def test_server_that_hangs_is_given_up(dsn: str) -> None:
    """A server that says nothing, not even that it was too long, is given up by our own clock and not asked twice."""
    database = open_database(dsn, size=1, statement_timeout_ms=100)
    pid = await database.run(backend_pid)
    asked = 0

    def ask(connection: Connection) -> int:
        nonlocal asked
        asked += 1
        return one(connection)

    with standing_still(pid), pytest.raises(ApiError) as refusal:
        await database.run(ask)
    assert (refusal.value.code, asked) == ("DATABASE_UNAVAILABLE", 1)
    assert await database.run(one) == 1
    database.close()


@needs_pgbouncer
async def test_pooled_connection_leaves_nothing_behind(dsn: str, tmp_path: Path) -> None:
    """Through PgBouncer a question that comes often is no prepared statement, and one that is too long is cancelled."""
    with running_pgbouncer(dsn, tmp_path) as pooler:
        database = open_database(pooler.dsn, statement_timeout_ms=300, is_pooled=True)
        for _ in range(12):
            assert await database.run(one) == 1
        with pytest.raises(ApiError):
            await database.run(lambda connection: connection.execute("SELECT pg_sleep(30)"))
        with psycopg.connect(dsn, autocommit=True) as direct:
            sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)' AND state = 'active'"
            began_s = time.monotonic()
            # The pooler passes the cancellation on after it has answered.
            while direct.execute(sleeping).fetchone() != (0,):
                assert time.monotonic() < began_s + 20
        settings = await database.run(lambda c: c.execute("SHOW statement_timeout").fetchone())
        assert settings == ("5s",), "what config/pgbouncer sets"
        database.close()
