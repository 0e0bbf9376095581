"""PostgreSQL fails in every way that it has while traders trade: orders go on, and afterwards each is settled once.

Each fault lasts until so many orders were acknowledged while it was there; then it is taken away. What settlement says
of itself meanwhile is the reason that an operator reads.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any

import psycopg
import pytest
from tests.e2e.users import connect_database, make_user
from tests.engines import READY_TIMEOUT_S, Engine, running_engine, wait_database_restarted
from tests.faults.load import Trader
from tests.faults.test_halts import wait_settled
from tests.faults.test_kill_under_load import FUNDS, TRADERS, assert_nothing_lost, run_until
from tests.faults.test_standstill import state_of, wait_until

from tradeengine.storage.embedded import running_embedded

ACKNOWLEDGED_MEANWHILE = 40
ACKNOWLEDGED_AFTER = 20
LONG_S = 10.0

Fault = Callable[[Engine], AbstractContextManager[str]]
"""Holds while its block runs; gives a part of what settlement says of it meanwhile."""


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine whose database these tests break."""
    with running_engine(tmp_path_factory.mktemp("venue") / "data") as engine:
        yield engine


@contextmanager
def no_space_left(engine: Engine) -> Iterator[str]:
    """Let PostgreSQL find its disk full whenever a trade is written, with the error that it has for that."""
    with connect_database(engine) as connection:
        connection.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$"
        )
        connection.execute(
            "CREATE TRIGGER full_disk BEFORE INSERT ON orders FOR EACH STATEMENT EXECUTE FUNCTION full_disk()"
        )
        yield "No space left on device"
        connection.execute("DROP TRIGGER full_disk ON orders")
        connection.execute("DROP FUNCTION full_disk")


@contextmanager
def read_only(engine: Engine) -> Iterator[str]:
    """Let PostgreSQL take no more writes, as a standby does, or one that an operator has closed."""
    with connect_database(engine) as connection:
        connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        connection.execute("SELECT pg_reload_conf()")
        yield "read-only transaction"
        connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        connection.execute("SELECT pg_reload_conf()")


@contextmanager
def locked(engine: Engine) -> Iterator[str]:
    """Hold the locks that settlement needs, as an operator's forgotten session does."""
    with connect_database(engine) as connection, connection.transaction():
        connection.execute("LOCK TABLE balances, orders IN ACCESS EXCLUSIVE MODE")
        yield ""  # it waits, and that is no trouble yet


@contextmanager
def connections_used_up(engine: Engine) -> Iterator[str]:
    """Take every connection that the server allows, and end settlement's own."""
    with connect_database(engine) as connection, ExitStack() as stack:
        while True:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name LIKE 'tradeengine-%' AND pid <> pg_backend_pid()"
            )
            with suppress(psycopg.OperationalError):
                while True:
                    stack.enter_context(connect_database(engine))
            holders: Any = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tradeengine-settlement'"
            ).fetchone()
            if holders == (0,):
                break
        yield "too many clients"


@contextmanager
def connections_ended(engine: Engine) -> Iterator[str]:
    """End every connection of the engine again and again."""
    stop = threading.Event()

    def end() -> None:
        with connect_database(engine) as connection:
            while not stop.wait(0.05):
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tradeengine-%'"
                )

    thread = threading.Thread(target=end)
    thread.start()
    try:
        yield "terminating connection"
    finally:
        stop.set()
        thread.join()


FAULTS: list[Fault] = [no_space_left, read_only, locked, connections_used_up, connections_ended]


@pytest.mark.parametrize("fault", [no_space_left, read_only])
def test_orders_go_on_and_each_is_settled_once(venue: Engine, fault: Fault) -> None:
    """However PostgreSQL fails, orders are acknowledged meanwhile, and afterwards it has each of them once."""
    go_through(venue, fault, seconds=0.0)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_that_last(venue: Engine, fault: Fault) -> None:
    """The same for faults that last for ten seconds."""
    go_through(venue, fault, seconds=LONG_S)


def test_server_stopped_at_once_misses_nothing(venue: Engine) -> None:
    """PostgreSQL stopped ``immediate`` and started again under load, twice, has every order that was acknowledged."""

    def stop(_traders: list[Trader]) -> None:
        for _ in range(2):
            server = running_embedded(venue.data_dir)
            assert server is not None
            os.kill(server.pid, signal.SIGQUIT)
            wait_database_restarted(venue, server.pid)

    trade(venue, "immediate", stop)


def go_through(engine: Engine, fault: Fault, seconds: float) -> None:
    """Trade before, through and after a fault, and audit."""

    def hold(traders: list[Trader]) -> None:
        with fault(engine) as said:
            ends_s = time.monotonic() + seconds
            await_said(engine, said)
            wanted = acknowledged(traders) + ACKNOWLEDGED_MEANWHILE
            wait_until(lambda: acknowledged(traders) >= wanted)
            time.sleep(max(ends_s - time.monotonic(), 0))

    trade(engine, fault.__name__, hold)


def trade(engine: Engine, name: str, fault: Callable[[list[Trader]], None]) -> None:
    """Let traders trade before and after a fault; then every order is there once, and the ledger whole."""
    traders = [Trader(make_user(engine, f"{name}-{number}", FUNDS), seed=number) for number in range(TRADERS)]
    settlement = engine.actors()["settlement"]
    run_until(engine, traders, lambda: fault(traders), acknowledged_after=ACKNOWLEDGED_AFTER)
    assert engine.actors()["settlement"] == settlement, "trouble of the database is no reason to die"
    wait_settled(traders[0].user)
    assert_nothing_lost(engine, traders)


def acknowledged(traders: list[Trader]) -> int:
    """Count the orders that were acknowledged."""
    return sum(len(trader.acknowledged) for trader in traders)


def await_said(engine: Engine, said: str) -> None:
    """Wait until settlement says that of itself."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while said not in (message := state_of(engine, "settlement")["message"]):
        assert time.monotonic() < deadline_s, f"settlement says {message!r}, not {said!r}"
        time.sleep(0.02)
