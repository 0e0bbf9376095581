"""Recovery: a matcher is killed with kill -9 and started again; how fast it replays, and how soon it is ready.

One matcher process as the supervisor starts it, with real rings; this program plays risk and settlement, which are up
to date when the kill comes. The flow: live orders first, then half new orders that rest, four tenths cancels, one
tenth that trade.

replay    no snapshot: every command from the journal, checked, matched, and its events compared with the ring.
snapshot  the book from a snapshot that covers all but the last commands.

*ready* is from the handoff to the matcher's word that it does its duty; *start* is from the start of its program, with
imports and loading of compiled code, which a supervisor sees too. The recovery itself is what the matcher measures.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from perf.engine import arguments_parser, machine, private_folder, say_machine
from perf.workloads import listing, make_mixed, to_commands

from tradeengine.actors.memory import Memory
from tradeengine.actors.topology import plan
from tradeengine.ipc.handoff import MESSAGE_BYTES_MAX, close_descriptors, send_handoff
from tradeengine.settings_files import load_settings

NAME = "matcher-0"
PORTION = 16_384
SNAPSHOT_TAIL = 50_000
READY_TIMEOUT_S = 120.0


@dataclass
class Start:
    """One start of the matcher after a kill."""

    start_s: float
    ready_s: float
    recovery_s: float
    commands: int

    @property
    def commands_per_s(self) -> float:
        """Commands replayed per second of the recovery."""
        return self.commands / self.recovery_s


class Around:
    """What is around the matcher: shared memory, and risk and settlement played by this process."""

    def __init__(self, directory: Path) -> None:
        settings = load_settings(overrides={"engine.data_dir": str(directory), "log.level": "error"}, environ={})
        self.memory = Memory(plan(settings), settings, {})
        bells = {bell.index: bell for bell in self.memory.bells.values()}
        self.risk = self.memory.rings["commands.0"].writer(bells)
        events = self.memory.rings["events.0"]
        self.readers = [events.reader("risk"), events.reader("settlement")]

    def run(self, commands: NDArray[np.void]) -> float:
        """Send commands as fast as the ring takes them and wait for the last one's events; returns seconds."""
        began_s = time.perf_counter()
        numbered = commands.copy()
        numbered["ring_sequence"] = np.arange(self.risk.head, self.risk.head + len(commands))
        sent = 0
        ring = self.memory.rings["commands.0"]
        while sent < len(numbered) or ring.statistics().readers[0].cursor < self.risk.head:
            count = min(self.risk.free(), len(numbered) - sent, PORTION)
            if count:
                self.risk.publish(numbered[sent : sent + count])
                sent += count
            self._drain()
        self._drain()
        return time.perf_counter() - began_s

    def _drain(self) -> None:
        for reader in self.readers:
            reader.advance(reader.available())


@contextmanager
def matcher(around: Around) -> Iterator[tuple[subprocess.Popen[bytes], Start]]:
    """Start the matcher's program, let it import, hand over, wait until it is ready; killed at the end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(READY_TIMEOUT_S)
    began_s = time.perf_counter()
    program = [sys.executable, "-m", "tradeengine.actors.run", NAME, str(theirs.fileno())]
    process = subprocess.Popen(program, pass_fds=[theirs.fileno()])
    theirs.close()
    try:
        handoff = around.memory.handoff(around.memory.topology.actor(NAME))
        send_handoff(ours, handoff)
        close_descriptors(handoff)
        word = ours.recv(MESSAGE_BYTES_MAX)
        ended_s = time.perf_counter()
        if b'"ready"' not in word:
            raise RuntimeError(f"the matcher is not ready: {word.decode()}")
        page = around.memory.metrics[NAME].snapshot()
        recovery_s = page.gauges["recovery_ms"] / 1000
        started_s = (time.time_ns() - page.started_ns) / 1e9 - (time.perf_counter() - ended_s)
        yield process, Start(ended_s - began_s, started_s, recovery_s, page.gauges["recovered_commands"])
    finally:
        process.kill()
        process.wait()
        ours.close()


def main() -> int:
    """Measure and print."""
    arguments = _arguments()
    say_machine(arguments.dir)
    print("topology   this program (risk, settlement) → command ring → matcher-0 (fdatasync per group of ≤ 4096) →")
    print("           event ring; nothing is pinned, the matcher sleeps on an eventfd")
    with private_folder(arguments.dir) as directory:
        figures = _measure(directory, arguments)
    print(json.dumps({"machine": machine(), **figures}))
    return 0


def _measure(directory: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    workload = make_mixed(arguments.commands, arguments.live, arguments.seed)
    commands = np.concatenate([listing(), to_commands(workload.rows)])
    around = Around(directory)
    with matcher(around) as _:
        seconds = around.run(commands[:-SNAPSHOT_TAIL])
    live = around.memory.metrics[NAME].snapshot().gauges["open_orders"]
    written = len(commands) - SNAPSHOT_TAIL
    print(f"journal    {written:,} commands written at {written / seconds:,.0f}/s; {live:,} live orders; kill -9")
    replays = [_restart(around) for _ in range(arguments.runs)]
    _say("replay", replays)
    with matcher(around) as (process, _):
        process.terminate()  # a stop in order leaves a snapshot
        process.wait()
    with matcher(around) as _:
        around.run(commands[-SNAPSHOT_TAIL:])
    snapshots = [_restart(around) for _ in range(arguments.runs)]
    _say("snapshot", snapshots)
    return {
        "live_orders": live,
        "replay_commands": replays[0].commands,
        "replay_commands_per_s": round(statistics.median(run.commands_per_s for run in replays)),
        "replay_ready_s": round(statistics.median(run.ready_s for run in replays), 3),
        "snapshot_ready_s": round(statistics.median(run.ready_s for run in snapshots), 3),
        "snapshot_start_s": round(statistics.median(run.start_s for run in snapshots), 3),
        "goal_replay_met": statistics.median(run.commands_per_s for run in replays) >= 1_000_000,
        "goal_ready_met": statistics.median(run.start_s for run in snapshots) <= 3.0,
    }


def _restart(around: Around) -> Start:
    with matcher(around) as (_, start):
        return start


def _say(name: str, runs: list[Start]) -> None:
    rates = sorted(run.commands_per_s for run in runs)
    ready = sorted(run.ready_s for run in runs)
    start = sorted(run.start_s for run in runs)
    print(
        f"{name:10} {runs[0].commands:,} commands, {len(runs)} kills; replayed/s min {rates[0]:,.0f}, median "
        f"{statistics.median(rates):,.0f}, max {rates[-1]:,.0f}; ready median {statistics.median(ready):.3f} s, max "
        f"{ready[-1]:.3f} s; from program start median {statistics.median(start):.3f} s, max {start[-1]:.3f} s"
    )


def _arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__)
    parser.add_argument("--commands", type=int, default=1_000_000, help="commands after the live orders are there")
    parser.add_argument("--live", type=int, default=110_000, help="orders placed first")
    parser.add_argument("--runs", type=int, default=5, help="kills of each kind")
    parser.add_argument("--seed", type=int, default=1, help="of the flow")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
