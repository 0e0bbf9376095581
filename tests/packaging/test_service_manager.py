"""What systemd is told, by an engine that is started as systemd starts one: over a datagram socket in NOTIFY_SOCKET."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.engines import READY_TIMEOUT_S, running_engine


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """Listen as systemd does, under a name of the kernel's own."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0tradeengine-test-{os.getpid()}")
        listening.settimeout(READY_TIMEOUT_S)
        yield listening


def test_service_manager_knows_how_the_engine_is(manager: socket.socket, tmp_path: Path) -> None:
    """It hears that orders are accepted, that somebody looks after the actors, who is not well, and of the stop."""
    environment = {"NOTIFY_SOCKET": f"@tradeengine-test-{os.getpid()}", "WATCHDOG_USEC": "30000000"}
    # Else who died may be back before the supervisor looks again.
    environment["TRADEENGINE_SUPERVISOR_RESTART_BACKOFF_MS"] = "2000"
    lines: list[str] = []
    with running_engine(tmp_path / "data", [], environment) as engine:
        hear(manager, lines, lambda: {"READY=1", "STATUS=running"} <= set(lines))
        zygote = Path(f"/proc/{engine.zygote()}/environ").read_bytes()
        assert b"NOTIFY_SOCKET" not in zygote
        assert b"WATCHDOG_USEC" not in zygote
        lines.clear()
        engine.kill_actor("shadow")
        hear(manager, lines, lambda: "STATUS=running" in lines)
        assert next(line for line in lines if line != "WATCHDOG=1").startswith("STATUS=running; not well: shadow ")
        assert engine.stop(signal.SIGTERM) == 0
        hear(manager, lines, lambda: "STOPPING=1" in lines)
        assert lines[-1].startswith("STATUS=stopping")
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(4096)


@pytest.mark.long
def test_manager_that_does_not_listen_changes_nothing(tmp_path: Path) -> None:
    """An address where nobody is keeps no engine from starting and stopping."""
    with running_engine(tmp_path / "data", [], {"NOTIFY_SOCKET": str(tmp_path / "nobody")}) as engine:
        assert engine.stop(signal.SIGTERM) == 0


def hear(manager: socket.socket, lines: list[str], done: Callable[[], bool]) -> None:
    """Listen until that is done, and keep what is told, line by line."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while not done():
        assert time.monotonic() < deadline_s, lines
        lines += manager.recv(4096).decode().split("\n")
