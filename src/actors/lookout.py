"""The lookout: what the supervisor sees of the machine: processes, the disk of the journals, the clock.

It looks at ``/proc``, at the file system and at what the kernel thinks of its clock, and puts it on the supervisor's
metric page; the actors have no part in it.

Rule 1: what cannot be seen stays as it was: a process may end between two looks.
It refuses to know what follows from it.
"""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tradeengine.actors.topology import DATABASE, OPERATOR
from tradeengine.ipc.metric_names import process_cpu, process_resident

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tradeengine.actors.roster import Process
    from tradeengine.ipc.metrics import MetricPage
    from tradeengine.settings import Settings

LOOK_INTERVAL_S: Final = 1.0
CLOCK_STEP_NS_MIN: Final = 50_000_000
"""A clock that is set differs by at least so much from one that runs on: slewing moves it by less than 1 ms a second,
and between the readings of one look the supervisor may lose its processor for a moment."""
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICK_US: Final = 10**6 // os.sysconf("SC_CLK_TCK")
_STATUS_NANOSECONDS: Final = 0x2000
_STATUS_UNSYNCHRONISED: Final = 0x0040


class Lookout:
    """Looks once a second at most, and shows it."""

    def __init__(self, page: MetricPage, settings: Settings, processes: Sequence[Process]) -> None:
        """page: the supervisor's own, which has places for itself and for all ``processes``."""
        self._page = page
        self._processes = processes
        self._directory = settings.data_dir
        self.next_look_s = 0.0
        roles = {process.actor.name: process.actor.role for process in processes} | {OPERATOR: OPERATOR}
        self._cpu = {name: page.counter(process_cpu(name, role)) for name, role in roles.items()}
        self._resident = {name: page.gauge(process_resident(name, role)) for name, role in roles.items()}
        self._seen: dict[str, tuple[int, int]] = {}
        self._steps = page.counter("clock_steps")
        self._lead_ns = clock_lead_ns()
        page.set(page.gauge("disk_low_water_bytes"), settings.journal.free_disk_bytes_min)

    def look(self) -> None:
        """Look at everything, unless that was done a moment ago."""
        now_s = time.monotonic()
        if now_s < self.next_look_s:
            return
        self.next_look_s = now_s + LOOK_INTERVAL_S
        pids = {process.actor.name: process.pid for process in self._processes} | {OPERATOR: os.getpid()}
        for name, pid in pids.items():
            if pid:
                with suppress(OSError):
                    self._look_at_process(name, pid)
        with suppress(OSError):
            self._look_at_disk()
        self._look_at_clock()

    def _look_at_process(self, name: str, pid: int) -> None:
        # PostgreSQL's work is done by its children; those that have ended are in its own account.
        pids = [pid, *_children_of(pid)] if name == DATABASE else [pid]
        cpu_us, resident_bytes = map(sum, zip(*(_usage(each, reaped=name == DATABASE) for each in pids), strict=True))
        seen_pid, seen_us = self._seen.get(name, (0, 0))
        new_us = cpu_us - seen_us if seen_pid == pid else cpu_us
        if new_us >= 0:  # a child that ends is in nobody's account for a moment
            self._page.add(self._cpu[name], new_us)
            self._seen[name] = (pid, cpu_us)
        self._page.set(self._resident[name], resident_bytes)

    def _look_at_disk(self) -> None:
        disk, page = os.statvfs(self._directory), self._page
        page.set(page.gauge("disk_free_bytes"), disk.f_bavail * disk.f_frsize)
        page.set(page.gauge("disk_size_bytes"), disk.f_blocks * disk.f_frsize)

    def _look_at_clock(self) -> None:
        page, lead_ns = self._page, clock_lead_ns()
        step_ns, self._lead_ns = lead_ns - self._lead_ns, lead_ns
        if abs(step_ns) >= CLOCK_STEP_NS_MIN:
            page.add(self._steps)
            page.set(page.gauge("clock_step_ns"), step_ns)
        clock = _kernel_clock()
        if clock is not None:
            page.set(page.gauge("clock_offset_ns"), clock.offset * (1 if clock.status & _STATUS_NANOSECONDS else 1000))
            page.set(page.gauge("clock_error_max_ns"), clock.maxerror * 1000)
            page.set(page.gauge("clock_synchronised"), int(not clock.status & _STATUS_UNSYNCHRONISED))


def _usage(pid: int, *, reaped: bool) -> tuple[int, int]:
    """Give a process's processor time in microseconds and its memory in bytes. reaped: with children that ended.

    Raises OSError when there is no such process.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = sum(map(int, fields[11 : 15 if reaped else 13]))
    return ticks * _TICK_US, int(fields[21]) * _PAGE_BYTES


def _children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def clock_lead_ns() -> int:
    """Tell by how much the clock of days is ahead of the one that only runs on: it changes when the first is set."""
    before_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    wall_ns = time.time_ns()
    return wall_ns - (before_ns + time.clock_gettime_ns(time.CLOCK_MONOTONIC)) // 2


class _Timex(ctypes.Structure):
    """``struct timex`` of Linux: adjtimex(2)."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time_s", ctypes.c_long),
        ("time_us", ctypes.c_long),
        ("rest", ctypes.c_byte * 256),
    )


def _kernel_clock() -> _Timex | None:
    """Ask the kernel about its clock, and change nothing; None where that is forbidden."""
    clock = _Timex()
    return clock if _libc.adjtimex(ctypes.byref(clock)) >= 0 else None


_libc: Final = ctypes.CDLL(None, use_errno=True)
