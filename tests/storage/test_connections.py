"""What a start finds out about a database: its addresses, sessions and room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from tests.pgbouncer import needs_pgbouncer, running_pgbouncer

from tradeengine.settings import Settings
from tradeengine.settings_files import load_settings
from tradeengine.storage.connections import (
    UnfitDatabaseError,
    check_server_fits,
    complete_dsn,
    connections_needed,
)

MakeDatabase = Callable[[str], str]


def settings_with(dsn: str, session_dsn: str = "", **overrides: object) -> Settings:
    """Make settings that name a database."""
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    given = {"database.dsn": dsn, "database.session_dsn": session_dsn} | named
    return load_settings(overrides=given, environ={})


def test_addresses_are_completed_and_keep_what_they_say() -> None:
    """Every connection notices a dead server after three times keepalive_s, unless its address says otherwise."""
    database = settings_with("", database__keepalive_s=7).database
    completed = conninfo_to_dict(complete_dsn("postgresql://me@host/name?keepalives_idle=99", database))
    assert (completed["host"], completed["user"], completed["dbname"]) == ("host", "me", "name")
    assert completed["keepalives_idle"] == "99"
    assert completed["tcp_user_timeout"] == "21000"
    assert completed["connect_timeout"] == str(database.connect_timeout_s)


def test_all_connections_are_counted() -> None:
    """Each front counts with its pool, a wallet with its actor; through a pooler the fronts need none."""
    needed = connections_needed(settings_with("host=a", engine__fronts=8, database__pool_size=5))
    assert needed["8 fronts of 6 each"] == 48
    pooled = connections_needed(settings_with("host=a", "host=b", engine__fronts=8))
    assert not any("fronts" in who for who in pooled)
    with_wallet = connections_needed(settings_with("host=a", wallet__kind="http"))
    assert sum(with_wallet.values()) == sum(connections_needed(settings_with("host=a")).values()) + 2


def test_server_with_too_few_connections_is_refused(dsn: str) -> None:
    """A start says how many connections the engine needs and how many there are, and what to change."""
    assert check_server_fits(settings_with(dsn)) is None
    with pytest.raises(UnfitDatabaseError, match=r"needs up to 1\d\d connections \(.*32 fronts of 5 each.* allows 61"):
        check_server_fits(settings_with(dsn, engine__fronts=32))


def test_limits_of_database_and_role_count(dsn: str) -> None:
    """A database that allows fewer connections than the server is the one that counts."""
    name = conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 9")
    with pytest.raises(UnfitDatabaseError, match=r"allows 9 \(the limit of the database\)"):
        check_server_fits(settings_with(dsn))


def test_few_connections_left_are_told(dsn: str) -> None:
    """When others have most of the connections, the start is told how many are left."""
    with many_connections(dsn, 50):
        free = check_server_fits(settings_with(dsn))
    assert free is not None
    assert free <= 11


def test_two_databases_are_refused(make_database: MakeDatabase) -> None:
    """Two addresses that lead to different databases are noticed before anything is written."""
    with pytest.raises(UnfitDatabaseError, match="lead to different databases"):
        check_server_fits(settings_with(make_database("tradeengine"), make_database("tradeengine")))


@needs_pgbouncer
@pytest.mark.parametrize("size", [1, 5])
def test_pooler_without_sessions_is_refused(dsn: str, tmp_path: Path, size: int) -> None:
    """PgBouncer in transaction mode is refused where sessions are needed, whatever the size of its pool."""
    with running_pgbouncer(dsn, tmp_path, default_pool_size=str(size), query_wait_timeout="1") as pooler:
        with pytest.raises(UnfitDatabaseError, match=r"set database\.session_dsn"):
            check_server_fits(settings_with(pooler.dsn))
        with pytest.raises(UnfitDatabaseError, match=r"database\.session_dsn leads to a pooler"):
            check_server_fits(settings_with(dsn, pooler.dsn))
        assert check_server_fits(settings_with(pooler.dsn, dsn)) is None


@needs_pgbouncer
def test_pooler_with_sessions_is_taken(dsn: str, tmp_path: Path) -> None:
    """PgBouncer in session mode is like the server itself."""
    with running_pgbouncer(dsn, tmp_path, pool_mode="session") as pooler:
        assert check_server_fits(settings_with(pooler.dsn)) is None


@contextmanager
def many_connections(dsn: str, count: int) -> Iterator[None]:
    """Hold so many connections."""
    held = [psycopg.connect(dsn) for _ in range(count)]
    try:
        yield
    finally:
        for connection in held:
            connection.close()
