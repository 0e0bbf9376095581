"""The lookout: processes, the disk and the clock, as the supervisor sees them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tradeengine.actors import lookout
from tradeengine.actors.lookout import Lookout
from tradeengine.actors.topology import DATABASE, Actor
from tradeengine.core.tables import ActorState
from tradeengine.ipc.metric_names import operator_metrics, process_cpu, process_resident
from tradeengine.ipc.metrics import MetricPage
from tradeengine.settings_files import load_settings

SPIN = "import time\nwhile time.process_time() < 0.2: pass\nprint('spun', flush=True)\ninput()"
PARENT = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {SPIN!r}])"


@dataclass
class Watched:
    """A process that is watched, as far as the lookout knows."""

    actor: Actor
    pid: int = 0
    state: ActorState = ActorState.READY
    message: str = ""
    restart_count: int = 0
    started_ns: int = 0
    recovered: dict[str, int] = field(default_factory=dict)
    ready_s: float = 0.0


@dataclass
class Bench:
    """A lookout and its page."""

    directory: Path
    watched: list[Watched]
    page: MetricPage = field(init=False)
    lookout: Lookout = field(init=False)

    def __post_init__(self) -> None:
        names = [(each.actor.name, each.actor.role) for each in self.watched] + [("operator", "operator")]
        self.page = MetricPage.create("operator", "operator", *operator_metrics(names))
        settings = load_settings(None, {"engine.data_dir": str(self.directory)})
        self.lookout = Lookout(self.page, settings, self.watched)

    def look(self) -> None:
        """Look at once, though that was done a moment ago."""
        self.lookout.next_look_s = 0.0
        self.lookout.look()

    def cpu_us(self, name: str, role: str) -> int:
        """Processor time that is told of a process."""
        return self.page.snapshot().counters[process_cpu(name, role)]


@contextmanager
def spinning(program: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program that uses 0.2 s of processor time, says so, and waits."""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "spun\n"
        yield process
        process.communicate("\n")


def test_processor_time_goes_on_after_a_restart(tmp_path: Path) -> None:
    """An actor's processor time is that of all its processes; its memory is that of the present one."""
    risk = Watched(Actor("risk", "risk"))
    bench = Bench(tmp_path, [risk])
    with spinning(SPIN) as process:
        risk.pid = process.pid
        bench.look()
        first_us = bench.cpu_us("risk", "risk")
        assert first_us >= 190_000
        assert bench.page.snapshot().gauges[process_resident("risk", "risk")] > 1 << 20
        bench.look()
        assert bench.cpu_us("risk", "risk") - first_us < 100_000
    bench.look()  # it is gone, and the supervisor does not know yet
    ended_us = bench.cpu_us("risk", "risk")
    with spinning(SPIN) as process:
        risk.pid = process.pid
        bench.look()
        assert bench.cpu_us("risk", "risk") - ended_us >= 190_000
    assert bench.cpu_us("operator", "operator") > 0


def test_children_work_for_the_database(tmp_path: Path) -> None:
    """The database's processor time is that of its children too, of those that have ended as well."""
    database = Watched(Actor(DATABASE, "database"))
    bench = Bench(tmp_path, [database])
    with spinning(PARENT) as process:
        database.pid = process.pid
        bench.look()
        assert bench.cpu_us(DATABASE, "database") >= 190_000


def test_disk_is_that_of_the_data_directory(tmp_path: Path) -> None:
    """Free and whole disk are the file system's; the low-water mark is the setting."""
    bench = Bench(tmp_path, [])
    bench.look()
    disk, gauges = os.statvfs(tmp_path), bench.page.snapshot().gauges
    assert gauges["disk_size_bytes"] == disk.f_blocks * disk.f_frsize
    assert 0 < gauges["disk_free_bytes"] <= gauges["disk_size_bytes"]
    assert gauges["disk_low_water_bytes"] == load_settings().journal.free_disk_bytes_min


def test_jump_of_the_clock_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that was set counts as a step, by how much is told, and a clock that runs on is none."""
    lead_ns = lookout.clock_lead_ns()
    monkeypatch.setattr(lookout, "clock_lead_ns", lambda: lead_ns)
    bench = Bench(tmp_path, [])
    bench.look()
    lead_ns += 1_000_000  # slewed
    bench.look()
    assert bench.page.snapshot().counters["clock_steps"] == 0
    lead_ns -= 3_600_000_000_000
    for _ in range(2):
        bench.look()
        assert bench.page.snapshot().counters["clock_steps"] == 1
        assert bench.page.snapshot().gauges["clock_step_ns"] == -3_600_000_000_000


def test_kernel_is_asked_about_its_clock(tmp_path: Path) -> None:
    """What the kernel says of its clock is told, and asking changes nothing."""
    bench = Bench(tmp_path, [])
    bench.look()
    gauges = bench.page.snapshot().gauges
    assert gauges["clock_synchronised"] in {0, 1}
    assert gauges["clock_error_max_ns"] > 0
    assert abs(gauges["clock_offset_ns"]) < 10**9
