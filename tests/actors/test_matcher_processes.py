"""The matcher as the process that the supervisor starts: killed at every step, stopped in order, and refused."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from tests.actors.matcher_bench import LIMITS, SEGMENT_BYTES, SHARD, flow, reference

from tradeengine.actors.memory import Memory
from tradeengine.actors.topology import plan
from tradeengine.core.records import event_dtype
from tradeengine.ipc.crashpoints import VARIABLE
from tradeengine.ipc.handoff import MESSAGE_BYTES_MAX, close_descriptors, send_handoff
from tradeengine.settings import Settings
from tradeengine.settings_files import load_settings
from tradeengine.storage.journal_read import journal_end, list_segments
from tradeengine.storage.snapshots import list_snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

NAME = f"matcher-{SHARD}"
GROUP_MAX = 16
TIMEOUT_S = 60
# Each point with the pass at which to die, and how many commands are fed meanwhile: rolls need a full segment.
DEATHS = (
    ("matcher.before_journal_write:2", 100),
    ("matcher.after_journal_write:3", 100),
    ("matcher.after_journal_sync:1", 100),
    ("matcher.after_publish:4", 100),
    ("matcher.after_tables:2", 100),
    ("matcher.after_cursor:3", 100),
    ("matcher.before_roll:1", 600),
    ("journal.after_successor:1", 600),
    ("journal.after_seal:1", 600),
    ("matcher.after_roll:1", 600),
)
COUNT = 3400


@dataclass
class Matcher:
    """A matcher process that has imported its code and waits for its handoff."""

    process: subprocess.Popen[bytes]
    line: socket.socket

    def begin(self, memory: Memory) -> dict[str, Any]:
        """Hand over the rings; returns the first word that it says, once it is ready or cannot go on."""
        handoff = memory.handoff(memory.topology.actor(NAME))
        send_handoff(self.line, handoff)
        close_descriptors(handoff)
        word = self.line.recv(MESSAGE_BYTES_MAX)
        assert word, f"the matcher ended with {self.process.wait(TIMEOUT_S)}"
        return msgspec.json.decode(word, type=dict[str, Any])


@contextmanager
def matchers(*crash_points: str) -> Iterator[list[Matcher]]:
    """Start a matcher process for each crash point ("": none), all at once; those left at the end are killed."""
    started = []
    for crash_point in crash_points:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(TIMEOUT_S)
        environment = os.environ | ({VARIABLE: crash_point} if crash_point else {})
        command = [sys.executable, "-m", "tradeengine.actors.run", NAME, str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        theirs.close()
        started.append(Matcher(process, ours))
    try:
        yield started
    finally:
        for matcher in started:
            matcher.process.kill()
            matcher.process.wait()
            matcher.line.close()


class Engine:
    """What is around the matcher: shared memory, and risk and settlement played by the test."""

    def __init__(self, settings: Settings, settled: int = 0, first_ring_sequence: int = 0) -> None:
        first = {f"events.{SHARD}": settled, f"commands.{SHARD}": first_ring_sequence}
        self.memory = Memory(plan(settings), settings, first)
        bells = {bell.index: bell for bell in self.memory.bells.values()}
        self.risk = self.memory.rings[f"commands.{SHARD}"].writer(bells)
        events = self.memory.rings[f"events.{SHARD}"]
        self.readers = [events.reader("risk"), events.reader("settlement")]

    def feed(self, commands: NDArray[np.void]) -> None:
        """Write commands as risk does."""
        numbered = commands.copy()
        numbered["ring_sequence"] = np.arange(self.risk.head, self.risk.head + len(commands))
        self.risk.publish(numbered)

    def take(self) -> NDArray[np.void]:
        """Read what is published now, and settle all but the last hundred events."""
        risk, settlement = self.readers
        taken = [np.empty(0, dtype=event_dtype)]
        while risk.available():
            batch = risk.poll(4096)
            taken.append(batch.copy())
            risk.advance(len(batch))
        settlement.seek(max(settlement.cursor, risk.cursor - 100))
        return np.concatenate(taken)

    def take_until(self, count: int) -> NDArray[np.void]:
        """Read until ``count`` events have come, sleeping on risk's doorbell meanwhile."""
        taken = []
        left = count
        bell = self.memory.bells["risk"]
        while left > 0:
            assert bell.wait(TIMEOUT_S, lambda: self.readers[0].available() > 0)
            taken.append(self.take())
            left -= len(taken[-1])
        return np.concatenate([np.empty(0, dtype=event_dtype), *taken])


def settings_for(directory: Path) -> Settings:
    """Give settings that fit the bench's order flow."""
    return load_settings(
        overrides={
            "engine.data_dir": str(directory),
            "engine.shards": SHARD + 1,
            "limits.orders_max": LIMITS.orders_max,
            "limits.symbols_max": LIMITS.symbols_max,
            "limits.levels_max": LIMITS.levels_max,
            "limits.accounts_max": LIMITS.accounts_max,
            "limits.clients_max": 0,
            "rings.ingress_slots": 64,
            "rings.commands_slots": 4096,
            "rings.reserve_slots": 64,
            "rings.events_slots": 16384,
            "rings.risk_events_slots": 64,
            "settlement.backlog_events_max": 4096,
            "journal.group_commands_max": GROUP_MAX,
            "journal.segment_bytes": SEGMENT_BYTES,
            "log.level": "error",
        },
        environ={},
    )


@pytest.fixture(scope="module")
def commands() -> NDArray[np.void]:
    """Order flow of all kinds."""
    return flow(23, COUNT)


@pytest.fixture(scope="module")
def expected(commands: NDArray[np.void], tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.void]:
    """Events of an uninterrupted run over it."""
    return reference(tmp_path_factory.mktemp("reference"), commands)


def test_killed_at_every_step(tmp_path: Path, commands: NDArray[np.void], expected: NDArray[np.void]) -> None:
    """A matcher killed between any two of its steps, ten times over, publishes what an uninterrupted one does."""
    engine = Engine(settings_for(tmp_path))
    taken = []
    fed = 0
    with matchers(*(point for point, _ in DEATHS), "") as started:
        for matcher, (_, count) in zip(started, DEATHS, strict=False):
            assert matcher.begin(engine.memory)["state"] == "ready"
            engine.feed(commands[fed : fed + count])
            fed += count
            assert matcher.process.wait(TIMEOUT_S) == -signal.SIGKILL
            taken.append(engine.take())
        assert started[-1].begin(engine.memory)["state"] == "ready"
        engine.feed(commands[fed:])
        taken.append(engine.take_until(len(expected) - sum(map(len, taken))))
    assert np.concatenate(taken).tobytes() == expected.tobytes()


def test_stopped_in_order_leaves_a_snapshot(
    tmp_path: Path, commands: NDArray[np.void], expected: NDArray[np.void]
) -> None:
    """SIGTERM ends a matcher with status 0 and a snapshot of its end, from which a new engine goes on."""
    settings = settings_for(tmp_path)
    engine = Engine(settings)
    half = len(commands) // 2
    with matchers("", "") as (first, second):
        assert first.begin(engine.memory)["state"] == "ready"
        engine.feed(commands[:half])
        first.process.terminate()
        assert first.process.wait(TIMEOUT_S) == 0
        taken = engine.take()
        assert len(list_snapshots(settings.snapshot_dir(SHARD))) == 1
        end = journal_end(settings.journal_dir(SHARD))
        engine = Engine(settings, len(taken), end.next_ring_sequence)
        assert second.begin(engine.memory)["state"] == "ready"
        engine.feed(commands[end.next_ring_sequence :])
        rest = engine.take_until(len(expected) - len(taken))
    assert np.concatenate([taken, rest]).tobytes() == expected.tobytes()


def test_damaged_journal_is_told_and_waits(tmp_path: Path, commands: NDArray[np.void]) -> None:
    """A matcher whose journal is damaged says so to the supervisor, file and remedy named, and ends when asked."""
    settings = settings_for(tmp_path)
    engine = Engine(settings)
    with matchers("matcher.after_roll:1", "") as (first, second):
        assert first.begin(engine.memory)["state"] == "ready"
        engine.feed(commands[:600])
        assert first.process.wait(TIMEOUT_S) == -signal.SIGKILL
        path = list_segments(settings.journal_dir(SHARD))[0].path
        content = bytearray(path.read_bytes())
        content[5000] ^= 16
        path.write_bytes(content)
        word = second.begin(engine.memory)
        assert word["state"] == "blocked"
        assert str(path) in word["message"]
        assert "Remedy: restore the file" in word["message"]
        assert second.process.poll() is None
        second.process.terminate()
        assert second.process.wait(TIMEOUT_S) == 0
