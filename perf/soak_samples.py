"""What the soak looks at: each process by its id, the disk, the database, and the engine's own metrics.

Memory is parted by whose it is: *own* is anonymous, *shared* is rings, tables and files, counted in every process that
has touched them. PostgreSQL's processes are one actor; their number changes, so of their memory only the own is added.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from perf.engine import Engine

from tradeengine.ipc.client import ask

DATABASE: Final = "database"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
WATCHED: Final = {
    "errors logged": 'tradeengine_actor_log_lines_total{…level="error"}',
    "restarts": "tradeengine_actor_restarts_total",
    "outcomes unknown": "tradeengine_front_outcomes_unknown_total",
    "faults in handlers": 'tradeengine_http_requests_total{…code="500"}',
    "settlement errors": "tradeengine_settlement_errors_total",
    "keeper errors": "tradeengine_keeper_errors_total",
    "replays that differ": "tradeengine_shadow_mismatches_total",
    "differences": "tradeengine_keeper_differences",
    "audit broken": "tradeengine_keeper_audit_broken",
    "pool failures": "tradeengine_front_pool_failures_total",
    "refused by the server": "tradeengine_front_connections_refused_total",
    "rate limited": "tradeengine_front_rate_limited_total",
    "fronts lapped": "tradeengine_front_lapped_total",
    "streams lapped": "tradeengine_front_stream_lapped_total",
    "publisher lapped": "tradeengine_publisher_lapped_total",
}
"""Metrics of which each must be 0; an actor's samples are added up."""


@dataclass(frozen=True)
class Process:
    """One look at an actor: KiB, seconds of the processor, and counts. ``tasks``: of a trio program, else 0."""

    pid: int
    own_kib: int
    shared_kib: int
    processor_s: float
    threads: int
    descriptors: int
    tasks: int

    @property
    def resident_kib(self) -> int:
        """All that is resident."""
        return self.own_kib + self.shared_kib


@dataclass(frozen=True)
class Sample:
    """One look at everything. disk: bytes by folder. shared_bytes: rings, tables and pages."""

    at_s: float
    processes: dict[str, Process]
    disk: dict[str, int]
    database_bytes: int
    metrics: dict[str, float]
    shared_bytes: int


class Sampler:
    """Looks at an engine."""

    def __init__(self, engine: Engine, connection: psycopg.Connection[Any]) -> None:
        self._engine = engine
        self._connection = connection

    def look(self) -> Sample:
        """Look at everything once."""
        status = ask(self._engine.data_dir, "status")
        metrics = self._engine.metrics()
        pids = {"supervisor": status["pid"]} | {
            actor["name"]: actor["pid"] for actor in status["actors"] if actor["pid"]
        }
        processes = {}
        for name, pid in pids.items():
            processes[name] = _look_at_tree(pid) if name == DATABASE else look_at(pid, _tasks(metrics, name))
        row = self._connection.execute("SELECT pg_database_size(current_database())").fetchone()
        assert row is not None
        return Sample(
            time.monotonic(),
            processes,
            {name: _folder_bytes(self._engine.data_dir / name) for name in ("journal", "snapshots", "audit")},
            row[0],
            watched(metrics),
            status["memory_bytes"],
        )


def _look_at_tree(pid: int) -> Process:
    """Look at a server and those who serve single connections. ``threads``: how many processes these are."""
    looks = [look_at(each, 0) for each in (pid, *_children(pid))]
    return Process(
        pid,
        sum(look.own_kib for look in looks),
        max(look.shared_kib for look in looks),
        sum(look.processor_s for look in looks),
        len(looks),
        sum(look.descriptors for look in looks),
        0,
    )


def look_at(pid: int, tasks: int) -> Process:
    """Read what the kernel says of a process; zeros when it has just gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - a hundred thousand times a day
        return Process(
            pid,
            int(fields["RssAnon"][0]),
            int(fields["RssShmem"][0]) + int(fields["RssFile"][0]),
            (int(times[11]) + int(times[12])) / _TICKS_PER_S,
            int(fields["Threads"][0]),
            descriptors,
            tasks,
        )
    except (OSError, KeyError):
        return Process(pid, 0, 0, 0.0, 0, 0, 0)


def watched(metrics: dict[str, float]) -> dict[str, float]:
    """Add up the metrics that must be 0, by what they mean."""
    found = {}
    for meaning, wanted in WATCHED.items():
        name, _, label = wanted.partition("{…")
        found[meaning] = sum(
            value
            for key, value in metrics.items()
            if key.partition("{")[0] == name and (not label or label.rstrip("}") in key)
        )
    return found


def _tasks(metrics: dict[str, float], actor: str) -> int:
    shown = "operator" if actor == "supervisor" else actor
    head = f'tradeengine_actor_tasks{{actor="{shown}",'
    return int(next((value for key, value in metrics.items() if key.startswith(head)), 0))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _folder_bytes(folder: Path) -> int:
    """Add up what the files of a folder take on the disk; one that has just gone takes nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except OSError:
            continue
    return total
