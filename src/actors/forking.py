"""Where actors come from: the supervisor's side of the zygote, which forks them.

The supervisor is not the actors' parent. It knows each by a descriptor of the process, to see its end and to signal it
without ever meaning another process that got the same number.

Rule 1: a zygote that dies, or hangs, is started again; actors do not notice. How those ended that end meanwhile nobody
knows.
Rule 2: an order that a dying zygote may have carried out is not repeated: it fails, and whoever ordered closes the
actor's line, which ends a process that nobody knows, and orders anew with another line.
It refuses to know what actors do.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import structlog
import trio

from tradeengine.actors.deaths import Deaths
from tradeengine.actors.zygote import ORDER_BYTES_MAX, Order, Report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    from tradeengine.actors.topology import Actor
    from tradeengine.settings import Supervisor as Policy

    Launch: TypeAlias = Callable[[Actor, socket.socket, bool], Awaitable["Process"]]
    """Starts an actor's process with its line; True: its crash points are disarmed. Raises LaunchError."""

ZYGOTE_PROGRAM: Final = (sys.executable, "-m", "tradeengine.actors.zygote")
STATUS_TIMEOUT_S: Final = 1.0
"""How long a process that has ended waits for the zygote to say how."""
ORDER_TIMEOUT_S: Final = 60.0
"""A zygote that owes an order and has used no processor for so long hangs, and is killed."""
ORDER_WORK_S_MAX: Final = 60.0
"""So does one that has used so much of it. On a machine with far too much to do its imports may take minutes, and who
kills it for that will find the next one no sooner done."""
ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
"""No actor computes in parallel, and idle threads of numerical libraries cost time at every start."""

logger = structlog.get_logger()


class LaunchError(Exception):
    """It is not known whether the process was started."""


class Process(Protocol):
    """A started process, as ``trio.Process`` is one."""

    @property
    def pid(self) -> int:
        """Process id."""

    def terminate(self) -> None:
        """Send SIGTERM unless it has ended."""

    def kill(self) -> None:
        """Send SIGKILL unless it has ended."""

    async def wait(self) -> int | None:
        """Wait until it is reaped; gives its exit status, negative: the signal that ended it, None: unknown."""


@dataclass
class Forked:
    """A process that the zygote has forked; ``fd`` is its descriptor until it has ended."""

    pid: int
    fd: int
    status: int | None = None
    reported: trio.Event = field(default_factory=trio.Event)
    """It is known how it ended, or that this will never be known."""

    def terminate(self) -> None:
        """Send SIGTERM unless it has ended."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL unless it has ended."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.fd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.fd, number)

    async def wait(self) -> int | None:
        """Wait until it has ended; gives its exit status, None: nobody can tell."""
        if self.fd >= 0:
            await trio.lowlevel.wait_readable(self.fd)
            fd, self.fd = self.fd, -1
            os.close(fd)
        with trio.move_on_after(STATUS_TIMEOUT_S):
            await self.reported.wait()
        return self.status


class Forker:
    """Keeps a zygote and orders processes from it.

    ``inherited_fds``: what every actor shall have open. ``profiles``: where ``policy.profile``, an actor, is profiled.
    """

    def __init__(self, policy: Policy, inherited_fds: tuple[int, ...], profiles: Path) -> None:
        self._inherited_fds = inherited_fds
        self._profiled = policy.profile
        self._profiles = profiles
        self._deaths = Deaths(policy)
        self._numbers = count(1)
        self._line: socket.socket | None = None
        self._zygote: trio.Process | None = None
        self._changed = trio.Event()
        """Something was reported, or there is another zygote, or none."""
        self._ordered: set[int] = set()
        self._forked: dict[int, Forked] = {}

    async def keep(self) -> None:
        """Have a zygote until cancelled."""
        while True:
            try:
                pid = await self._live()
                logger.error("zygote died", dead_pid=pid)
            except OSError as error:
                logger.warning("zygote not started", error=str(error))
            self._deaths.add()
            await trio.sleep(self._deaths.pause_s())

    async def launch(self, actor: Actor, line: socket.socket, disarm: bool) -> Forked:
        """Start an actor. Raises LaunchError when the zygote died meanwhile."""
        while self._line is None:
            await self._changed.wait()
        number = next(self._numbers)
        profiles = str(self._profiles) if actor.name == self._profiled else ""
        order = msgspec.json.encode(Order(number, actor.name, actor.role, disarm, profiles))
        assert len(order) <= ORDER_BYTES_MAX
        self._ordered.add(number)
        with suppress(OSError):
            # A zygote that is gone is noticed by whoever listens to it.
            socket.send_fds(self._line, [order], [line.fileno()])
        if self._zygote is not None:
            await self._kill_if_hanging(self._zygote, number)
        return await self._carried_out(number)

    async def _kill_if_hanging(self, zygote: trio.Process, number: int) -> None:
        """Wait until an order is carried out or lost; kill the zygote that has it when it does nothing about it."""
        began_s = worked_s = _processor_s(zygote.pid)
        while True:
            with trio.move_on_after(ORDER_TIMEOUT_S):
                while number in self._ordered:
                    await self._changed.wait()
                return
            before_s, worked_s = worked_s, _processor_s(zygote.pid)
            if worked_s == before_s or worked_s - began_s > ORDER_WORK_S_MAX:
                logger.error("zygote hangs and is killed", hanging_pid=zygote.pid)
                zygote.kill()
                return

    async def _carried_out(self, number: int) -> Forked:
        """Wait for the process of an order. Raises LaunchError."""
        while number not in self._forked:
            if number not in self._ordered:
                raise LaunchError("the zygote died, or its answer was lost")
            await self._changed.wait()
        return self._forked[number]

    async def _live(self) -> int:
        """Run one zygote to its end; returns its process id."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            process = await trio.lowlevel.open_process(
                [*ZYGOTE_PROGRAM, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                # Standard output is the supervisor's alone: scripts read the line that begins with `ready` from it.
                stdout=2,
                pass_fds=(theirs.fileno(), *self._inherited_fds),
                env={**os.environ, **ENVIRONMENT},
                # A group of its own, so that Ctrl-C in a terminal reaches the supervisor only.
                process_group=0,
            )
            theirs.close()
            try:
                self._line, self._zygote = ours, process
                self._wake()
                await self._listen(ours)
            finally:
                self._lose()
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
        return process.pid

    async def _listen(self, line: socket.socket) -> None:
        """Hear reports until the zygote closes the line."""
        while True:
            await trio.lowlevel.wait_readable(line)
            try:
                message, fds, _, _ = socket.recv_fds(line, ORDER_BYTES_MAX, 1, socket.MSG_DONTWAIT)
            except OSError:
                return
            if not message:
                return
            report = msgspec.json.decode(message, type=Report)
            if fds:
                self._ordered.remove(report.number)
                self._forked[report.number] = Forked(report.pid, fds[0])
            elif report.status is None:
                # We have no room for the descriptor: it counts as not started, and ends when its line is closed.
                self._ordered.discard(report.number)
            elif (forked := self._forked.pop(report.number, None)) is not None:
                forked.status = report.status
                forked.reported.set()
            self._wake()

    def _lose(self) -> None:
        self._line = self._zygote = None
        self._ordered.clear()
        for forked in self._forked.values():
            forked.reported.set()
        self._forked.clear()
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()


def _processor_s(pid: int) -> float:
    """Seconds of processor that a process has used; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
