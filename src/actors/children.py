"""A child: one actor through all its processes, started, listened to, reaped and started again.

Rule 1: a replacement starts only after the old process has been reaped, so that a ring never has two producers.
Rule 2: what an actor says about itself comes over its line, one message per packet: ready, blocked, failed.
Rule 3: whoever dies too often is given up and shown as failed; the others go on.
It refuses to know what actors do.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
import trio

from tradeengine.actors.deaths import Deaths
from tradeengine.actors.forking import LaunchError
from tradeengine.core.tables import ActorState
from tradeengine.ipc.handoff import MESSAGE_BYTES_MAX, close_descriptors, send_handoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from tradeengine.actors.forking import Launch, Process
    from tradeengine.actors.topology import Actor
    from tradeengine.ipc.handoff import Handoff
    from tradeengine.settings import Supervisor as Policy

KILL_AFTER_S: Final = 5.0
"""Between SIGTERM and SIGKILL."""
BACKGROUND_ROLES: Final = {"shadow": 10, "keeper": 10, "wallet": 0}
"""Roles for which no start waits; with how much nicer they are, so that they take no core from the others."""
LAST_WORDS_TIMEOUT_S: Final = 0.5

logger = structlog.get_logger()


class _Word(msgspec.Struct):
    """What an actor says over its line."""

    state: str
    message: str = ""
    recovered: dict[str, int] = {}


@dataclass
class Child:
    """One actor. ``state`` and ``message`` are the newest known; ``changed`` is called when they change."""

    actor: Actor
    policy: Policy
    launch: Launch
    changed: Callable[[Child], None]
    state: ActorState = ActorState.STOPPED
    message: str = ""
    restart_count: int = 0
    started_ns: int = 0
    process: Process | None = None
    recovered: dict[str, int] = field(default_factory=dict)
    """What its process found when it began: sequences and counts by name."""
    ready_s: float = 0.0
    """How long its process took until it was ready; 0: it was not."""
    was_ready: bool = False
    failed_at_start: bool = False
    """It told of a failure before it was ever ready: starting it again would not help."""
    ended: trio.Event = field(default_factory=trio.Event)
    """Its last process was reaped."""
    _stop_asked: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self._deaths = Deaths(self.policy)

    @property
    def pid(self) -> int:
        """Process id, 0 when there is no process."""
        return self.process.pid if self.process is not None else 0

    async def keep(self, make_handoff: Callable[[], Handoff], handoff_possible: trio.Event) -> None:
        """Run the actor's processes, one after the other, until it is stopped or given up.

        make_handoff: called for each process, once ``handoff_possible`` is set.
        """
        try:
            while not self._stop_asked.is_set():
                pid, status = await self._live(make_handoff, handoff_possible)
                if not self._stop_asked.is_set() and not await self._pause_after(pid, status):
                    return
            self._set(ActorState.STOPPED)
        finally:
            self.ended.set()

    async def _live(self, make_handoff: Callable[[], Handoff], handoff_possible: trio.Event) -> tuple[int, int | None]:
        """Run one process from start to reaping; returns its id, 0: there was none, and its exit status."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self.message = f"no line for it: {error.strerror}"
            return 0, None
        silent = trio.Event()
        with ours, theirs:
            try:
                # A crash point is for the first process: a test wants to see the second one recover.
                self.process = process = await self.launch(self.actor, theirs, self.started_ns != 0)
            except LaunchError as error:
                self.message = str(error)
                return 0, None
            theirs.close()
            self._put_aside(process.pid)
            try:
                self.started_ns = time.time_ns()
                self.recovered, self.ready_s = {}, 0.0
                self._set(ActorState.STARTING)
                if self._stop_asked.is_set():
                    process.terminate()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._hand_over, ours, make_handoff, handoff_possible)
                    nursery.start_soon(self._listen, ours, silent)
                    await process.wait()
                    # What it said last may still be in the line.
                    with trio.move_on_after(LAST_WORDS_TIMEOUT_S):
                        await silent.wait()
                    nursery.cancel_scope.cancel()
            finally:
                self.process = None
                process.kill()
                with trio.CancelScope(shield=True):
                    status = await process.wait()
        return process.pid, status

    def _put_aside(self, pid: int) -> None:
        """Let a process in the background go behind the others."""
        if self.actor.role in BACKGROUND_ROLES:
            # Who ended already needs no place.
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, pid, BACKGROUND_ROLES[self.actor.role])

    async def _hand_over(
        self, line: socket.socket, make_handoff: Callable[[], Handoff], handoff_possible: trio.Event
    ) -> None:
        await handoff_possible.wait()
        try:
            handoff = make_handoff()
        except OSError as error:
            # No descriptors left, which may pass: the actor ends without a handoff, and the next one may get it.
            self.message = f"nothing to hand over: {error.strerror}"
            self.kill()
            return
        # A process that died meanwhile has closed the line; its exit status says more than this error.
        with suppress(OSError):
            send_handoff(line, handoff)
        close_descriptors(handoff)

    async def _listen(self, line: socket.socket, silent: trio.Event) -> None:
        """Hear what the actor says until it closes the line."""
        packet = b" "
        while packet:
            await trio.lowlevel.wait_readable(line)
            try:
                # The socket itself blocks, so that a handoff is sent whole.
                packet = line.recv(MESSAGE_BYTES_MAX, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError:
                break
            if packet:
                self._hear(msgspec.json.decode(packet, type=_Word))
        silent.set()

    def _hear(self, word: _Word) -> None:
        if word.state == "ready":
            if self.recovered != word.recovered or not self.ready_s:
                self.recovered, self.ready_s = word.recovered, (time.time_ns() - self.started_ns) / 1e9
            if self.restart_count and self.state is not ActorState.READY:
                logger.info(
                    "actor is back",
                    name=self.actor.name,
                    new_pid=self.pid,
                    restart_count=self.restart_count,
                    recovered=self.recovery() or None,
                )
            self.was_ready = True
            self._set(ActorState.READY)
        elif word.state == "blocked":
            logger.error("actor is blocked", name=self.actor.name, reason=word.message)
            self._set(ActorState.BLOCKED, word.message)
        elif word.state == "failed":
            self.failed_at_start = not self.was_ready
            self._set(self.state, word.message)

    async def _pause_after(self, pid: int, status: int | None) -> bool:
        """Wait before the next process; returns whether there shall be one. pid: of the process that died."""
        death_count = self._deaths.add()
        death = _death(status)
        # Beside it stands the supervisor's own ``pid``, as in all its lines.
        logger.error("actor died", name=self.actor.name, dead_pid=pid, death=death, reason=self.message or None)
        why = f"{death}, {self.message}" if self.message else death
        if death_count > self.policy.restart_count_max:
            self._set(ActorState.FAILED, f"died {death_count} times, last: {why}")
            return False
        self._set(ActorState.RESTARTING, why)
        with trio.move_on_after(self._deaths.pause_s()):
            await self._stop_asked.wait()
        self.restart_count += 1
        return True

    async def stop(self, timeout_s: float = KILL_AFTER_S) -> None:
        """End the actor: ask, then kill after ``timeout_s``; returns when it is reaped."""
        self._stop_asked.set()
        if self.process is not None:
            self._set(ActorState.STOPPING)
            self.process.terminate()
        with trio.move_on_after(timeout_s):
            await self.ended.wait()
        if self.process is not None:
            logger.warning("actor did not end in time and is killed", name=self.actor.name)
            self.process.kill()
        await self.ended.wait()

    def kill(self) -> None:
        """End the present process at once; another one follows unless the actor is stopping."""
        if self.process is not None:
            self.process.kill()

    def recovery(self) -> str:
        """Say what the process found when it began, and how long that took; empty before it is ready."""
        found = ", ".join(f"{name} {value}" for name, value in self.recovered.items())
        return f"{self.ready_s:.3f} s{': ' if found else ''}{found}" if self.ready_s else ""

    def stalled(self, *, late: bool) -> None:
        """Note that the heartbeat is late, or in time again."""
        if late and self.state is ActorState.READY:
            logger.warning("actor is stalled", name=self.actor.name)
            self._set(ActorState.STALLED)
        elif not late and self.state is ActorState.STALLED:
            self._set(ActorState.READY)

    def _set(self, state: ActorState, message: str = "") -> None:
        self.state = state
        self.message = message
        self.changed(self)


def _death(status: int | None) -> str:
    """Say how a process ended: ``SIGKILL`` for -9."""
    if status is None:
        return "exit status unknown"
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
