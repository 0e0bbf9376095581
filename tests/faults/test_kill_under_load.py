"""Each process that an order passes is killed while traders trade; nobody loses an order or a unit of money."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from tests.e2e.users import connect_database, make_user, sign_in
from tests.engines import Engine, running_engine, wait_database_restarted, wait_restarted
from tests.faults.load import SYMBOL, Trader, audit

from tradeengine.storage.embedded import running_embedded

FUNDS = {"USDT": "1000000", "SOL": "10000"}
TRADERS = 3
ACKNOWLEDGED_BEFORE = 40
ACKNOWLEDGED_AFTER = 40
WAIT_S = 30.0


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine whose actors may be killed."""
    with running_engine(tmp_path_factory.mktemp("victim") / "data") as engine:
        yield engine


@pytest.mark.parametrize(
    "name", ["matcher-0", "risk", *(pytest.param(name, marks=pytest.mark.long) for name in ("settlement", "publisher"))]
)
def test_killed_actor_loses_nothing_that_was_acknowledged(victim: Engine, name: str) -> None:
    """An actor killed under load leaves every acknowledged order in place, once, and the ledger whole."""
    traders = [Trader(make_user(victim, f"{name}-{number}", FUNDS), seed=number) for number in range(TRADERS)]
    trade_around(victim, traders, name)
    assert_nothing_lost(victim, traders)


def test_killed_database_is_started_again_and_misses_nothing(victim: Engine) -> None:
    """PostgreSQL killed under load is started again; orders go on meanwhile, and history has them all afterwards."""
    traders = [Trader(make_user(victim, f"database-{number}", FUNDS), seed=number) for number in range(TRADERS)]
    server = running_embedded(victim.data_dir)
    assert server is not None
    run_until(victim, traders, lambda: os.kill(server.pid, signal.SIGKILL), acknowledged_after=ACKNOWLEDGED_AFTER)
    wait_database_restarted(victim, server.pid)
    assert_nothing_lost(victim, traders)


def test_deposit_waits_for_a_database_that_is_started_again(victim: Engine) -> None:
    """A deposit that is asked for while the database is away is made once it is back."""
    server = running_embedded(victim.data_dir)
    assert server is not None
    os.kill(server.pid, signal.SIGKILL)
    victim.deposit("saver", "USDT", "12.5")
    wait_database_restarted(victim, server.pid)
    saver = sign_in(victim, "saver")
    assert saver.balances()["USDT"][0] == Decimal("12.5")
    saver.http.close()


@pytest.mark.long
def test_whole_engine_killed_comes_back_with_orders_book_and_balances(tmp_path: Path) -> None:
    """An engine killed with all its actors under load is back with every acknowledged order and the same book."""
    with running_engine(tmp_path / "data") as engine:
        trader = Trader(make_user(engine, "whole", FUNDS), seed=7)
        run_until(engine, [trader], lambda: kill_everything(engine))
        trader.user.http.close()
    with running_engine(tmp_path / "data") as engine:
        trader.user = sign_in(engine, trader.user.name)
        trader.settle_unknown()
        assert_balances_agree(engine, trader)
        with connect_database(engine) as connection:
            audit(connection, [trader])
            resting = resting_lots(connection)
        book = trader.user.call("GET", f"/orderbook/{SYMBOL.replace('/', '-')}?depth=1000")
        shown = sum(Decimal(lots) for side in ("bids", "asks") for _, lots in book[side])
        assert shown * 1000 == resting
        trader.user.http.close()


def kill_everything(engine: Engine) -> None:
    """Kill all actors and the supervisor, as a power cut would, and wait for its end."""
    for pid in (*engine.actors().values(), engine.process.pid):
        os.kill(pid, signal.SIGKILL)
    engine.wait()


def trade_around(engine: Engine, traders: list[Trader], name: str) -> None:
    """Let traders trade, kill an actor in the middle, and go on until it is back and they trade again."""

    def kill() -> None:
        pid = engine.actors()[name]
        engine.kill_actor(name)
        wait_restarted(engine, name, pid)

    run_until(engine, traders, kill, acknowledged_after=ACKNOWLEDGED_AFTER)


def run_until(engine: Engine, traders: list[Trader], fault: Callable[[], None], *, acknowledged_after: int = 0) -> None:
    """Let traders trade until enough is acknowledged, cause the fault, and wait for as much again."""
    stop, progress = threading.Event(), threading.Semaphore(0)
    threads = [threading.Thread(target=trader.run, args=(stop, progress)) for trader in traders]
    for thread in threads:
        thread.start()
    try:
        await_progress(engine, progress, ACKNOWLEDGED_BEFORE)
        fault()
        await_progress(engine, progress, acknowledged_after)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def await_progress(engine: Engine, progress: threading.Semaphore, count: int) -> None:
    """Wait until so many more orders were acknowledged."""
    for _ in range(count):
        assert progress.acquire(timeout=WAIT_S), f"trading stands still; the engine said:\n{''.join(engine.errors)}"


def assert_nothing_lost(engine: Engine, traders: list[Trader]) -> None:
    """Every order is there as it was answered, none was refused, the ledger is whole; with that traders are done."""
    for trader in traders:
        trader.settle_unknown()
        assert trader.refused == []
        assert_balances_agree(engine, trader)
    with connect_database(engine) as connection:
        audit(connection, traders)
    for trader in traders:
        trader.user.http.close()


def assert_balances_agree(engine: Engine, trader: Trader) -> None:
    """Compare what risk shows of a trader's money with the ledger and the live orders."""
    query = """
        SELECT s.name, total_units, coalesce((
            SELECT sum(o.hold_units) FROM orders o JOIN symbols y ON y.id = o.symbol_id
            WHERE o.account_id = b.account_id AND o.closed_at IS NULL
              AND b.asset_id = CASE o.side WHEN 'buy' THEN y.quote_asset_id ELSE y.base_asset_id END), 0), s.places
        FROM balances b JOIN accounts a ON a.id = b.account_id JOIN assets s ON s.id = b.asset_id WHERE a.name = %s"""
    # The list of orders waits until all that has happened is settled, so the database is asked after it.
    trader.user.call("GET", "/orders")
    shown = trader.user.balances()
    with connect_database(engine) as connection:
        for asset, total, held, places in connection.execute(query, (trader.user.name,)).fetchall():
            unit = Decimal(10) ** -places
            assert (shown[asset][0], shown[asset][2]) == (total * unit, held * unit), asset


def resting_lots(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    """Sum of what live orders of the symbol have left."""
    query = """SELECT coalesce(sum(remaining_lots), 0)::bigint FROM orders o JOIN symbols s ON s.id = o.symbol_id
               WHERE s.name = %s AND o.closed_at IS NULL"""
    row = connection.execute(query, (SYMBOL,)).fetchone()
    assert row is not None
    assert isinstance(row[0], int)
    return row[0]
