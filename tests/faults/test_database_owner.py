"""A second engine on the same directory or database: while the first one lives, is being killed, and has just died."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from tests.engines import Engine, run_command, running_engine, start_engine, wait_ready
from tests.faults.load import LEDGER_CLAIMS
from tests.faults.test_kill_under_load import kill_everything

ORDER = {"symbol": "SOL/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "90.00"}


def outcome(engine: Engine) -> bool:
    """Wait whether an engine is ready; one that is not has ended with 1, and said why in one line."""
    try:
        wait_ready(engine)
    except AssertionError:
        said = [line for line in engine.errors if line.startswith("tradeengine:")]
        assert engine.process.wait(30) == 1, "".join(engine.errors)
        assert len(said) == 1, "".join(engine.errors)
        return False
    return True


@pytest.mark.long
@pytest.mark.parametrize("shared", ["directory", "database"])
def test_of_two_engines_started_at_once_one_runs(
    make_database: Callable[[str], str], tmp_path: Path, shared: str
) -> None:
    """Of two engines that start at the same moment on one directory, or on one database, one is refused by name."""
    environment = {"TRADEENGINE_DATABASE_DSN": make_database("template1")}
    directories = [tmp_path / "one", tmp_path / ("one" if shared == "directory" else "other")]
    engines = [start_engine(directory, environment=environment) for directory in directories]
    ran = [False, False]

    def watch(place: int) -> None:
        ran[place] = outcome(engines[place])

    threads = [threading.Thread(target=watch, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for engine in engines:
        if engine.process.poll() is None:
            engine.stop()
    assert sorted(ran) == [False, True], ["".join(engine.errors) for engine in engines]
    refused = "".join(engines[ran.index(False)].errors)
    assert ("is in use by the engine" if shared == "directory" else "another engine") in refused


@pytest.mark.long
@pytest.mark.timeout(300)
def test_start_beside_an_engine_that_is_being_killed(tmp_path: Path) -> None:
    """An engine that is started while another on its directory dies takes over whole, or is refused; never both run."""
    directory = tmp_path / "data"
    engine = start_engine(directory)
    assert outcome(engine)
    for placed in range(1, 4):
        engine.deposit("ann", "USDT", "1000")
        with engine.client("ann") as client:
            assert client.post("/orders", json=ORDER).status_code == 201
        killer = threading.Thread(target=kill_everything, args=(engine,))
        killer.start()
        following = start_engine(directory)
        ran = outcome(following)
        killer.join()
        if not ran:
            following = start_engine(directory)
            assert outcome(following), f"{''.join(following.errors)}"
        with following.client("ann") as client:
            orders = client.get("/orders?status=open").json()["data"]
        assert len(orders) == placed
        engine = following
    assert engine.command("reconcile").returncode == 0
    engine.stop()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_database_of_an_engine_that_died_is_nobody_elses(make_database: Callable[[str], str], tmp_path: Path) -> None:
    """With an empty directory no engine takes over a database whose journals are elsewhere; with its own one does."""
    dsn = make_database("template1")
    environment = {"TRADEENGINE_DATABASE_DSN": dsn}
    with running_engine(tmp_path / "one", environment=environment) as engine:
        pid = engine.actors()["settlement"]
        deposit(engine, "ann", environment)
        os.kill(pid, signal.SIGSTOP)
        with engine.client("ann") as client:
            assert client.post("/orders", json=ORDER).status_code == 201
        kill_everything(engine)
    other = start_engine(tmp_path / "other", environment=environment)
    assert not outcome(other), "".join(other.lines)
    with running_engine(tmp_path / "one", environment=environment) as engine, engine.client("ann") as client:
        assert len(client.get("/orders?status=open").json()["data"]) == 1
    with psycopg.connect(dsn) as connection:
        for claim, query in LEDGER_CLAIMS.items():
            assert connection.execute(query).fetchall() == [], claim


def deposit(engine: Engine, user: str, environment: dict[str, str]) -> None:
    """Credit a user of an engine whose database is named by the environment."""
    done = run_command("deposit", user, "USDT", "1000", "--data-dir", str(engine.data_dir), **environment)
    assert done.returncode == 0, done.stderr
