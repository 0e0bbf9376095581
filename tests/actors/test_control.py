"""The control socket: who may join, what a local client gets, and when its place is free again."""

from __future__ import annotations

import os
import resource
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import structlog
import trio
import trio.testing
from tests.ipc.processes import child, kill_self

from tradeengine.actors import control
from tradeengine.actors.control import RequestError, serve_control
from tradeengine.actors.memory import Memory
from tradeengine.actors.topology import RISK, plan
from tradeengine.core.records import CommandKind, EventFlag, EventKind, command_dtype, event_dtype
from tradeengine.ipc.client import CONTROL_NAME, ClientError, LocalClient, ask, open_client
from tradeengine.ipc.ring import Ring
from tradeengine.ipc.ring_reader import RingReader
from tradeengine.ipc.wiring import Wiring
from tradeengine.settings_files import load_settings

WAIT_S = 30.0


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    """Make the memory of a small engine with two places for clients."""
    overrides = {
        "engine.data_dir": str(tmp_path),
        "engine.shards": 1,
        "engine.fronts": 1,
        "limits.clients_max": 2,
        "limits.accounts_max": 1000,
        "limits.orders_max": 1000,
    }
    settings = load_settings(overrides=overrides, environ={})
    return Memory(plan(settings), settings, {})


@asynccontextmanager
async def serving(memory: Memory, **handlers: Callable[[dict[str, Any]], Any]) -> AsyncIterator[Path]:
    """Run the control socket; gives the data directory."""
    data_dir = memory.settings.data_dir
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, data_dir, memory, memory.topology.clients, handlers)
        yield data_dir
        nursery.cancel_scope.cancel()


async def run(function: Callable[[], Any]) -> Any:
    """Run a client's blocking code while the server runs here."""
    with trio.fail_after(WAIT_S):
        return await trio.to_thread.run_sync(function)


async def test_client_gets_a_ring_and_events(memory: Memory) -> None:
    """A client's commands reach risk with its number and their sequences, and it sees the events that answer them."""
    async with serving(memory) as data_dir:
        await run(lambda: _trade(memory, data_dir))


def _trade(memory: Memory, data_dir: Path) -> None:
    risk = Wiring(memory.handoff(memory.topology.actor(RISK)))
    answers = risk.ring_writer("refusals")
    with open_client(data_dir) as wiring:
        client = LocalClient(wiring)
        assert client.ingress_number == risk.ingress_rings.index(f"ingress.{wiring.name}")
        assert client.submit(_commands(3)) == 0
        assert client.submit(_commands(2)) == 3
        taken = risk.ring_reader(f"ingress.{wiring.name}").poll()
        assert taken["ingress_sequence"].tolist() == [0, 1, 2, 3, 4]
        assert set(taken["ingress_ring"].tolist()) == {client.ingress_number}
        assert (taken["timestamp_ns"] > 0).all()
        assert client.poll() == {}
        answers.publish(_events([99, client.ingress_number, 99, client.ingress_number], [0, 0, 0, 4]))
        assert client.wait(WAIT_S)
        assert client.poll()["refusals"]["ingress_sequence"].tolist() == [0, 4]
        assert not client.wait(0.0)
        assert client.directory().symbols == {}


async def test_client_cannot_write_what_it_only_reads(memory: Memory) -> None:
    """Event rings and tables come as descriptors that cannot be mapped for writing."""
    async with serving(memory) as data_dir:
        await run(lambda: _try_to_write(data_dir))


def _try_to_write(data_dir: Path) -> None:
    with open_client(data_dir) as wiring:
        for name in wiring.ring_names:
            if name in wiring.answer_rings:
                with pytest.raises(PermissionError):
                    Ring.attach(os.dup(wiring.ring(name).fd), event_dtype, writable=True)
        assert not wiring.table("touch").writable
        assert wiring.settings.auth.secret == ""


async def test_shortage_of_descriptors_ends_nothing(memory: Memory) -> None:
    """A connection that cannot be accepted for want of a descriptor is logged, and taken once there is one again."""
    async with serving(memory, echo=lambda request: request["word"]) as data_dir:
        directory_fd = os.open(data_dir, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line, structlog.testing.capture_logs() as logs:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            lowest_free = os.dup(0)
            os.close(lowest_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            try:
                line.connect(f"/proc/self/fd/{directory_fd}/{CONTROL_NAME}")
                with trio.fail_after(WAIT_S):
                    while not logs:
                        await trio.lowlevel.checkpoint()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                os.close(directory_fd)
            assert logs[0]["event"] == "control connection not accepted"
            assert await run(lambda: ask(data_dir, "echo", word="here")) == "here"


async def test_places_are_bounded_and_come_back(memory: Memory) -> None:
    """When all places are taken the next client is told so; a place that was left is given out again."""
    async with serving(memory) as data_dir:
        await run(lambda: _fill_places(data_dir))


def _fill_places(data_dir: Path) -> None:
    with open_client(data_dir) as first:
        with open_client(data_dir) as second:
            assert {first.name, second.name} == {"client-0", "client-1"}
            with pytest.raises(ClientError, match="clients_max"), open_client(data_dir):
                pass
        with _open_soon(data_dir) as third:
            assert third.name == "client-1"


async def test_who_has_a_place_is_known(memory: Memory) -> None:
    """While a client has a place its process is told by the kernel's word, and nobody's when it has left."""
    taken: dict[str, int] = {}
    async with trio.open_nursery() as nursery:
        data_dir = memory.settings.data_dir
        await nursery.start(serve_control, data_dir, memory, memory.topology.clients, {}, taken)

        def look() -> dict[str, int]:
            with open_client(data_dir):
                return dict(taken)

        assert await run(look) == {"client-0": os.getpid()}
        with trio.fail_after(WAIT_S):
            while taken:
                await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()


async def test_place_is_free_only_when_risk_has_taken_all(memory: Memory) -> None:
    """The place of a killed client stays taken until risk has read its last command; its answers are not the next's."""
    risk = Wiring(memory.handoff(memory.topology.actor(RISK)))
    first, second = (risk.ring_reader(f"ingress.client-{number}") for number in range(2))
    async with serving(memory) as data_dir:
        await run(lambda: _die(data_dir))
        await run(lambda: _see_both_taken(data_dir))
        assert len(first.poll()) == 4
        first.advance(3)
        await run(lambda: _see_both_taken(data_dir))
        first.advance(1)
        await run(lambda: _succeed(risk, first, data_dir))
    assert second.available() == 0


def _die(data_dir: Path) -> None:
    with child(submit_and_die, str(data_dir)) as client:
        client.join()
        assert client.exitcode == -9


def submit_and_die(data_dir: str) -> None:
    """Be a client that is killed with commands on their way."""
    with open_client(Path(data_dir)) as wiring:
        LocalClient(wiring).submit(_commands(4))
        kill_self()


def _see_both_taken(data_dir: Path) -> None:
    with open_client(data_dir) as other:
        assert other.name == "client-1"
        with pytest.raises(ClientError, match="clients_max"), open_client(data_dir):
            pass
    with _open_soon(data_dir) as again:
        assert again.name == "client-1"
    # Leave it as it was found.
    with _open_soon(data_dir):
        pass


def _succeed(risk: Wiring, ingress: RingReader, data_dir: Path) -> None:
    with _open_soon(data_dir) as one, _open_soon(data_dir) as other:
        wiring = one if one.name == "client-0" else other
        client = LocalClient(wiring)
        risk.ring_writer("refusals").publish(_events([client.ingress_number] * 2, [3, 4]))
        assert client.submit(_commands(1)) == 4
        assert ingress.poll()["ingress_sequence"].tolist() == [4]
        assert client.poll()["refusals"]["ingress_sequence"].tolist() == [4]
        ingress.advance(1)


async def test_client_learns_that_the_engine_is_gone(memory: Memory) -> None:
    """When the engine ends, a client that waits wakes up and is told to stop."""
    attached = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def be_a_client() -> None:
        with open_client(memory.settings.data_dir) as wiring:
            token.run_sync_soon(attached.set)
            while not wiring.stopping():
                assert not LocalClient(wiring).wait(WAIT_S)

    async with trio.open_nursery() as nursery, serving(memory):
        nursery.start_soon(run, be_a_client)
        await attached.wait()


async def test_requests_are_answered_by_handlers(memory: Memory) -> None:
    """A request is answered with what its handler gives, or with the handler's reason; unknown ones name the known."""

    def fail(arguments: dict[str, Any]) -> Any:
        raise RequestError("no such symbol")

    async with serving(memory, double=lambda arguments: {"number": 2 * arguments["number"]}, fail=fail) as data_dir:
        assert await run(lambda: ask(data_dir, "double", number=21)) == {"number": 42}
        with pytest.raises(ClientError, match="no such symbol"):
            await run(lambda: ask(data_dir, "fail"))
        with pytest.raises(ClientError, match="must be attach, observe, double, fail"):
            await run(lambda: ask(data_dir, "triple"))


_NESTED = b'{"op": "ping", "arguments": {"a": ' + b"[" * 20_000 + b"]" * 20_000 + b"}}"


@pytest.mark.parametrize("packet", [b"{", b"[]", b"\xff", b'{"op": 1}', b'{"op": "\xff"}', _NESTED], ids=range(6))
async def test_malformed_request_is_refused(memory: Memory, packet: bytes) -> None:
    """What is no request is answered with a reason, and the server goes on."""
    async with serving(memory, ping=lambda _: "pong") as data_dir:
        answer = await run(lambda: _send(data_dir, packet))
        assert "malformed" in msgspec.json.decode(answer)["error"]
        assert await run(lambda: ask(data_dir, "ping")) == "pong"


async def test_silent_and_hasty_connections_harm_nobody(memory: Memory) -> None:
    """Connections that say nothing, or go away at once, do not keep others waiting."""
    async with serving(memory, ping=lambda _: "pong") as data_dir:
        with _connected(data_dir), _connected(data_dir):
            for _ in range(20):
                with _connected(data_dir) as hasty:
                    hasty.send(msgspec.json.encode({"op": "attach"}))
            assert await run(lambda: ask(data_dir, "ping")) == "pong"
        await run(lambda: _fill_places_soon(data_dir))


async def test_silent_connection_is_closed(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connects and asks for nothing has the connection closed when the time for a request is over."""
    monkeypatch.setattr(control, "REQUEST_TIMEOUT_S", 0.05)
    async with serving(memory) as data_dir:
        with _connected(data_dir) as silent:
            assert await run(lambda: silent.recv(1)) == b""


def _fill_places_soon(data_dir: Path) -> None:
    with _open_soon(data_dir), _open_soon(data_dir):
        pass


async def test_other_users_are_turned_away(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is its owner's alone, and who connects as another user is turned away by the kernel's word."""
    async with serving(memory, ping=lambda _: "pong") as data_dir:
        assert stat.S_IMODE((data_dir / CONTROL_NAME).stat().st_mode) == 0o600
        monkeypatch.setattr(control, "peer_uid", lambda _: os.getuid() + 1)
        with pytest.raises(ClientError, match="refused the connection"):
            await run(lambda: ask(data_dir, "ping"))


async def test_long_path_and_left_over_socket(memory: Memory, tmp_path: Path) -> None:
    """A data directory with a long path works, and a socket that a killed engine left is replaced."""
    data_dir = tmp_path / ("long" * 40)
    data_dir.mkdir()
    (data_dir / CONTROL_NAME).touch()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, data_dir, memory, (), {"ping": lambda _: "pong"})
        assert await run(lambda: ask(data_dir, "ping")) == "pong"
        nursery.cancel_scope.cancel()
    assert not (data_dir / CONTROL_NAME).exists()


def test_no_engine_is_a_clear_error(tmp_path: Path) -> None:
    """Without an engine, running or ever started, a client is told how to start one."""
    with pytest.raises(ClientError, match="tradeengine up"):
        ask(tmp_path, "ping")
    with pytest.raises(ClientError, match="tradeengine up"):
        ask(tmp_path / "missing", "ping")


@contextmanager
def _open_soon(data_dir: Path) -> Iterator[Wiring]:
    """Join as soon as a place is free: who left it is noticed a moment later."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            with open_client(data_dir) as wiring:
                yield wiring
                return
        except ClientError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextmanager
def _connected(data_dir: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.settimeout(WAIT_S)
        line.connect(str(data_dir / CONTROL_NAME))
        yield line


def _send(data_dir: Path, packet: bytes) -> bytes:
    with _connected(data_dir) as line:
        line.send(packet)
        return line.recv(4096)


def _commands(count: int) -> np.ndarray[Any, Any]:
    commands = np.zeros(count, command_dtype)
    commands["kind"] = CommandKind.CANCEL_ALL
    return commands


def _events(ingress_rings: list[int], ingress_sequences: list[int]) -> np.ndarray[Any, Any]:
    events = np.zeros(len(ingress_rings), event_dtype)
    events["kind"], events["flags"] = EventKind.REFUSED, EventFlag.LAST_OF_COMMAND
    events["ingress_ring"], events["ingress_sequence"] = ingress_rings, ingress_sequences
    return events
