"""The supervisor with whole engines: actors that hang, die for good, or cannot start."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from tests.engines import READY_TIMEOUT_S, Engine, database_away, run_command, running_engine, wait_restarted

from tradeengine.actors.errors import StartError
from tradeengine.actors.supervisor import Running, make_supervisor
from tradeengine.core.tables import ActorState
from tradeengine.ipc.client import ask
from tradeengine.settings_files import load_settings
from tradeengine.storage.journal_format import GROUP_HEADER_BYTES, SEGMENT_HEADER_BYTES

HEARTBEAT = 'tradeengine_actor_heartbeat_timestamp_seconds{actor="operator",role="operator"}'
BID = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.5", "price": "40000.00"}


def actor_status(engine: Engine, name: str) -> dict[str, Any]:
    """Ask the control socket how an actor is."""
    actors: list[dict[str, Any]] = ask(engine.data_dir, "status")["actors"]
    return next(actor for actor in actors if actor["name"] == name)


def wait_state(engine: Engine, name: str, state: str) -> dict[str, Any]:
    """Wait until an actor is in a state, and give its status."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while (status := actor_status(engine, name))["state"] != state:
        assert time.monotonic() < deadline_s, f"{name} is {status}"
        time.sleep(0.02)
    return status


def read_metrics(engine: Engine) -> dict[str, float]:
    """Read all metrics; names are as the text writes them, labels included."""
    lines = httpx2.get(f"{engine.url}/metrics", timeout=20).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def place(engine: Engine) -> str:
    """Place an order of the first demo trader and give its id."""
    with engine.client("demo-1") as client:
        answer = client.post("/orders", json=BID)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["data"]["order"]["id"])


@pytest.mark.long
def test_hanging_actor_is_replaced(data_dir: Path) -> None:
    """An actor that stands still is shown as stalled, then killed and replaced."""
    environment = {"TRADEENGINE_SUPERVISOR_HEARTBEAT_TIMEOUT_S": "2"}
    with running_engine(data_dir, environment=environment) as engine:
        first = engine.actors()["publisher"]
        os.kill(first, signal.SIGSTOP)
        wait_state(engine, "publisher", "stalled")
        wait_restarted(engine, "publisher", first)
        assert wait_state(engine, "publisher", "ready")["restart_count"] == 1
        metrics = read_metrics(engine)
        assert metrics['tradeengine_actor_restarts_total{actor="publisher",role="publisher"}'] == 1
        assert metrics['tradeengine_actor_state{actor="publisher",role="publisher"}'] == ActorState.READY


def test_supervisor_is_measured_too(engine: Engine) -> None:
    """The metrics of the operator, as the supervisor is called there, are its heartbeat, its memory, its symbols."""
    before = read_metrics(engine)
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while (after := read_metrics(engine))[HEARTBEAT] == before[HEARTBEAT]:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    memory_bytes = ask(engine.data_dir, "status")["memory_bytes"]
    assert after['tradeengine_operator_memory_bytes{actor="operator"}'] == memory_bytes
    with engine.client() as client:
        listed = client.get("/symbols").json()["data"]
    assert after['tradeengine_operator_symbols_listed{actor="operator"}'] == len(listed)


@pytest.mark.long
def test_actor_given_up_stops_no_other(data_dir: Path) -> None:
    """An actor that died too often stays down and says why; orders are accepted all the same."""
    environment = {"TRADEENGINE_SUPERVISOR_RESTART_COUNT_MAX": "0"}
    with running_engine(data_dir, environment=environment) as engine:
        engine.kill_actor("publisher")
        status = wait_state(engine, "publisher", "failed")
        assert status["pid"] == 0
        assert "SIGKILL" in status["message"]
        place(engine)
        with engine.client() as client:
            ready = client.get(f"{engine.url}/ready").json()["data"]
        assert ready["status"] == "degraded"
        assert any("publisher" in part for part in ready["degraded"])


@pytest.mark.long
def test_publisher_is_ready_while_the_database_is_away(data_dir: Path) -> None:
    """A publisher that starts while no database answers does not wait for the past of its tickers: books are shown."""
    with running_engine(data_dir) as engine:
        place(engine)
        with database_away(engine):
            wait_state(engine, "database", "restarting")
            first = engine.actors()["publisher"]
            engine.kill_actor("publisher")
            deadline_s = time.monotonic() + READY_TIMEOUT_S
            while (status := actor_status(engine, "publisher"))["pid"] in {0, first} or status["state"] != "ready":
                assert time.monotonic() < deadline_s, status
                time.sleep(0.02)
            with engine.client() as client:
                assert client.get("/orderbook/BTC-USDT").json()["data"]["bids"] == [["40000.00", "0.50000"]]


async def test_start_fails_with_a_publisher_and_not_with_a_keeper() -> None:
    """An actor that cannot start keeps the engine from starting, unless it is the keeper."""

    async def attend(_: Running) -> None:
        await trio.sleep_forever()

    settings = load_settings(environ={})
    supervisor = make_supervisor(settings, socket.socket(), 0, attend)
    supervisor.listener.close()
    for child in supervisor.children.values():
        child.was_ready = child.actor.role != "keeper"
    keeper, publisher = supervisor.children["keeper"], supervisor.children["publisher"]
    keeper.failed_at_start = True
    await supervisor._until_ready({"publisher"})
    publisher.was_ready, publisher.failed_at_start = False, True
    with pytest.raises(StartError, match="publisher cannot start"):
        await supervisor._until_ready({"publisher"})


@pytest.mark.long
def test_damaged_journal_refuses_the_start(data_dir: Path) -> None:
    """An engine whose journal is damaged in the middle does not start, and names the file in one line."""
    with running_engine(data_dir) as engine:
        for _ in range(3):
            place(engine)
    (segment,) = (data_dir / "journal" / "shard-0").glob("*.journal")
    content = bytearray(segment.read_bytes())
    shutil.rmtree(data_dir / "snapshots")
    # Inside the first group: whole ones follow, so this is no torn end.
    content[SEGMENT_HEADER_BYTES + GROUP_HEADER_BYTES + 20] ^= 1
    segment.write_bytes(content)
    result = run_command("up", "--port", "0", "--data-dir", str(data_dir))
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("tradeengine: ")
    assert str(segment) in last
