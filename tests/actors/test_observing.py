"""Observers: local programs that look at everything and touch nothing."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from tradeengine.actors.control import OBSERVERS_MAX, serve_control
from tradeengine.actors.memory import Memory
from tradeengine.actors.topology import plan
from tradeengine.core.records import event_dtype
from tradeengine.core.tables import ActorState, actor_dtype
from tradeengine.ipc.client import ClientError, open_client, open_observer
from tradeengine.ipc.overview import Overview
from tradeengine.ipc.ring import Ring
from tradeengine.ipc.seqlock import SeqlockTable
from tradeengine.ipc.wiring import Wiring
from tradeengine.settings_files import load_settings

WAIT_S = 30.0


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    """Make the memory of a small engine with one place for clients."""
    overrides = {
        "engine.data_dir": str(tmp_path),
        "engine.shards": 2,
        "engine.fronts": 2,
        "limits.clients_max": 1,
        "limits.accounts_max": 1000,
        "limits.orders_max": 1000,
        "auth.secret": "s" * 40,
        "keys.master": "s" * 40,
    }
    settings = load_settings(overrides=overrides, environ={})
    return Memory(plan(settings), settings, {"events.0": 4711})


@asynccontextmanager
async def serving(memory: Memory) -> AsyncIterator[Path]:
    """Run the control socket; gives the data directory."""
    data_dir = memory.settings.data_dir
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, data_dir, memory, memory.topology.clients, {})
        yield data_dir
        nursery.cancel_scope.cancel()


async def run(function: Callable[[], Any]) -> Any:
    """Run an observer's blocking code while the server runs here."""
    with trio.fail_after(WAIT_S):
        return await trio.to_thread.run_sync(function)


def overview_of(wiring: Wiring) -> Overview:
    """Make an overview of what an observer got."""
    rings = {name: wiring.ring(name) for name in wiring.ring_names}
    return Overview(wiring.table("actors"), wiring.metric_pages, rings, wiring.ring_writers)


async def test_observer_sees_everything(memory: Memory) -> None:
    """An observer sees every ring with its writer and readers, every actor's counts and state, and what changes."""
    async with serving(memory) as data_dir:
        await run(lambda: _look(memory, data_dir))


def _look(memory: Memory, data_dir: Path) -> None:
    row = np.zeros(1, actor_dtype)
    row["name"], row["state"], row["pid"] = b"matcher-0", ActorState.BLOCKED, 7
    memory.tables["actors"].write_rows((0,), row)
    with open_observer(data_dir) as (wiring, _):
        assert {*wiring.ring_names} == {ring.name for ring in memory.topology.rings}
        assert wiring.ring_writers == {ring.name: ring.writer for ring in memory.topology.rings}
        overview = overview_of(wiring)
        memory.rings["events.0"].writer().publish(np.zeros(3, event_dtype))
        memory.rings["events.0"].reader("risk").advance(1)
        page = memory.metrics["matcher-0"]
        page.add(page.counter("busy_us"), 5)
        (matcher,) = (actor for actor in overview.actors() if actor.name == "matcher-0")
        assert (matcher.state, matcher.pid, matcher.busy_us) == (ActorState.BLOCKED, 7, 5)
        assert (matcher.records_out, matcher.role) == (3, "matcher")
        lags = {reader.name: reader.lag for reader in overview.ring_statistics()["events.0"].readers if reader.gating}
        assert lags == {"risk": 2, "settlement": 3}


async def test_observer_can_write_nothing(memory: Memory) -> None:
    """Whatever an observer was given cannot be mapped for writing; it rings nobody's bell and knows no secret."""
    async with serving(memory) as data_dir:
        await run(lambda: _try_to_write(data_dir))


def _try_to_write(data_dir: Path) -> None:
    with open_observer(data_dir) as (wiring, _):
        for name in wiring.ring_names:
            ring = wiring.ring(name)
            with pytest.raises(PermissionError):
                Ring.attach(os.dup(ring.fd), ring.dtype, writable=True)
        for name in ("actors", "directory", "touch", "tickers"):
            table = wiring.table(name)
            with pytest.raises(PermissionError):
                SeqlockTable.attach(os.dup(table.fd), table.dtype, writable=True)
        for page in wiring.metric_pages.values():
            with pytest.raises(TypeError):
                page.heartbeat()
        with pytest.raises(KeyError):
            wiring.wake("risk")
        assert (wiring.settings.auth.secret, wiring.settings.keys.master) == ("", "")


async def test_observer_takes_no_place(memory: Memory) -> None:
    """With the only place for clients taken observers still come, and a client finds its place beside observers."""
    async with serving(memory) as data_dir:
        await run(lambda: _beside_a_client(data_dir))


def _beside_a_client(data_dir: Path) -> None:
    with open_observer(data_dir), open_client(data_dir) as client, open_observer(data_dir) as (wiring, _):
        assert client.name == "client-0"
        assert wiring.ring_writers["ingress.client-0"] == "client-0"


async def test_observers_are_bounded(memory: Memory) -> None:
    """One more than there may be is told so; when one goes, another comes."""
    async with serving(memory) as data_dir:
        await run(lambda: _too_many(data_dir))


def _too_many(data_dir: Path) -> None:
    with ExitStack() as stack:
        for _ in range(OBSERVERS_MAX - 1):
            stack.enter_context(open_observer(data_dir))
        with open_observer(data_dir), pytest.raises(ClientError, match="look at this engine already"):
            stack.enter_context(open_observer(data_dir))
        _open_soon(data_dir)


def _open_soon(data_dir: Path) -> None:
    """Observe once the server has noticed that another has gone."""
    while True:
        try:
            with open_observer(data_dir):
                return
        except ClientError:
            continue


async def test_observer_hears_of_the_end(memory: Memory) -> None:
    """When the engine ends, the observer's line becomes readable; what it has mapped stays valid."""
    ended = trio.Event()

    def watch(data_dir: Path) -> None:
        with open_observer(data_dir) as (wiring, line):
            trio.from_thread.run_sync(ended.set)
            assert select.select([line], [], [], WAIT_S)[0] == [line]
            assert line.recv(16) == b""
            assert wiring.ring("events.0").head == 4711

    async with trio.open_nursery() as nursery, serving(memory) as data_dir:
        nursery.start_soon(run, lambda: watch(data_dir))
        await ended.wait()


async def test_dead_observer_is_forgotten(memory: Memory) -> None:
    """An observer that is gone in the middle of its handoff costs nobody anything: the next one is served."""
    async with serving(memory) as data_dir:
        await run(lambda: _leave_early(data_dir))


def _leave_early(data_dir: Path) -> None:
    for _ in range(OBSERVERS_MAX * 2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
            line.connect(str(data_dir / "control.sock"))
            line.send(b'{"op": "observe", "arguments": {}}')
    _open_soon(data_dir)
