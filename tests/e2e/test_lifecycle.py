"""Starting, stopping and losing a whole engine: real processes, real PostgreSQL, HTTP from outside."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.engines import Engine, is_alive, run_command, running_engine, start_engine, wait_ready, wait_restarted

import tradeengine

BID = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.5", "price": "40000.00"}
ROLES = ("front-0", "publisher", "shadow", "keeper", "settlement", "matcher-0", "risk")


def place(engine: Engine, user: str, **order: str) -> dict[str, Any]:
    """Place an order and give the answer's data."""
    with engine.client(user) as client:
        answer = client.post("/orders", json=order)
    assert answer.status_code == 201, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def what_users_see(engine: Engine, *users: str) -> dict[str, Any]:
    """Give the book and the ticker, and each user's balances and orders."""
    seen: dict[str, Any] = {}
    with engine.client() as client:
        book = client.get("/orderbook/BTC-USDT").json()["data"]
        seen["book"] = (book["bids"], book["asks"])
        ticker = client.get("/markets/BTC-USDT/ticker").json()["data"]
        seen["ticker"] = {name: value for name, value in ticker.items() if name not in {"timestamp", "sequence"}}
    for user in users:
        with engine.client(user) as client:
            seen[user] = {
                path: client.get(path).json()["data"] for path in ("/balances", "/orders", "/trades?scope=mine")
            }
    return seen


def test_stop_and_start_keep_everything(data_dir: Path) -> None:
    """After a stop in order and a new start, all that is shown is what it was, from the first look on."""
    with running_engine(data_dir) as engine:
        for user, asset, amount in (("ann", "USDT", "100000"), ("bob", "BTC", "3")):
            engine.deposit(user, asset, amount)
        place(engine, "ann", **BID)
        place(engine, "bob", **(BID | {"side": "sell", "quantity": "0.2"}))
        place(engine, "bob", **(BID | {"side": "sell", "price": "41000.00"}))
        before = what_users_see(engine, "ann", "bob")
        assert before["book"] == ([["40000.00", "0.30000"]], [["41000.00", "0.50000"]])
        assert before["ticker"]["last_quantity"] == "0.20000"
        assert len(before["ann"]["/trades?scope=mine"]) == 1
        children = engine.actors()
        assert set(children) == set(ROLES)
        assert engine.stop(signal.SIGINT) == 0
        assert list(iter(engine.printed.get, None)) == ["stopped\n"]
        assert not [name for name, pid in children.items() if is_alive(pid)]
    with running_engine(data_dir) as engine:
        assert what_users_see(engine, "ann", "bob") == before
        place(engine, "bob", **(BID | {"side": "sell", "quantity": "0.3"}))
        assert engine.stop(signal.SIGTERM) == 0


@pytest.mark.long
def test_killed_supervisor_takes_its_actors_along(data_dir: Path) -> None:
    """When the supervisor is killed the actors exit by themselves; the next start finds every acknowledged order."""
    with running_engine(data_dir) as engine:
        engine.deposit("ann", "USDT", "100000")
        order = place(engine, "ann", **BID)["order"]
        children = engine.actors()
        engine.process.kill()
        engine.wait()
    with running_engine(data_dir) as engine:
        assert not [name for name, pid in children.items() if is_alive(pid)]
        with engine.client("ann") as client:
            found = client.get(f"/orders/{order['id']}").json()["data"]["order"]
            assert found == order
            assert client.delete(f"/orders/{order['id']}").status_code == 200


@pytest.mark.long
def test_killed_actors_are_replaced(data_dir: Path) -> None:
    """Whichever actor is killed, another process takes its place, and orders placed before and after are all there.

    This goes on after the zygote that forks them was killed, too, which none of them notices.
    """
    with running_engine(data_dir) as engine:
        engine.deposit("ann", "USDT", "1000000")
        orders = [place(engine, "ann", **BID)["order"]["id"]]
        actors = engine.actors()
        for name in (*ROLES, "zygote", ROLES[0]):
            if name == "zygote":
                os.kill(engine.zygote(), signal.SIGKILL)
                orders.append(place(engine, "ann", **BID)["order"]["id"])
                assert engine.actors() == actors
                continue
            first = engine.actors()[name]
            engine.kill_actor(name)
            wait_restarted(engine, name, first)
            actors = engine.actors()
            orders.append(place(engine, "ann", **BID)["order"]["id"])
        with engine.client("ann") as client:
            listed = client.get("/orders?status=open").json()["data"]
        assert [order["id"] for order in listed] == orders[::-1]


def test_second_engine_on_a_data_directory_is_refused(engine: Engine) -> None:
    """A second engine on the same directory is refused in one line; the first goes on."""
    result = run_command("up", "--port", "0", "--data-dir", str(engine.data_dir))
    assert result.returncode == 1
    assert result.stderr.strip().count("\n") == 0, result.stderr
    assert f"process id {engine.process.pid}" in result.stderr
    with engine.client() as client:
        assert client.get("/symbols").status_code == 200


def test_second_engine_on_a_database_is_refused(engine: Engine, data_dir: Path) -> None:
    """An engine with a directory of its own is refused a database that another engine uses."""
    result = run_command("up", "--port", "0", "--data-dir", str(data_dir), "--dsn", engine.dsn)
    assert result.returncode == 1
    assert "another engine" in result.stderr
    with engine.client() as client:
        assert client.get("/symbols").status_code == 200


def test_port_in_use_is_refused(data_dir: Path) -> None:
    """A port that someone listens on is refused by number, before anything else is started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run_command("up", "--port", str(port), "--data-dir", str(data_dir))
    assert result.returncode == 1
    assert f"127.0.0.1:{port}: Address already in use" in result.stderr
    assert not (data_dir / "postgres").exists()


@pytest.mark.long
def test_stop_during_the_start_is_clean(data_dir: Path) -> None:
    """An engine that is asked to stop while it starts stops, and the next start is a good one."""
    engine = start_engine(data_dir, lent=False)
    engine.wait_for_file(data_dir / "postgres" / "postmaster.pid")
    children = engine.actors()
    assert engine.stop() == 0
    assert not [name for name, pid in children.items() if is_alive(pid)]
    assert not (data_dir / "postgres" / "postmaster.pid").exists()
    again = start_engine(data_dir)
    wait_ready(again)
    assert again.stop() == 0


@pytest.mark.long
def test_closed_terminal_stops_the_engine(data_dir: Path) -> None:
    """When the terminal is closed the engine stops in order, as it does at Ctrl-C."""
    with running_engine(data_dir) as engine:
        assert engine.stop(signal.SIGHUP) == 0
        assert "Traceback" not in "".join(engine.errors)


def test_nothing_is_compiled_while_the_engine_runs(engine: Engine) -> None:
    """Installing compiled every kernel: no machine code is younger than the engine that uses it."""
    engine.deposit("compiled", "USDT", "100000")
    place(engine, "compiled", **BID)
    started_s = (engine.data_dir / "engine.lock").stat().st_mtime
    package = Path(tradeengine.__file__).resolve().parent
    assert list(package.rglob("*.nbi"))
    assert not [path for path in package.rglob("*.nb?") if path.stat().st_mtime > started_s]
