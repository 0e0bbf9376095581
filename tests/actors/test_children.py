"""Children: real processes that behave and misbehave, under the supervisor's rules."""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import msgspec
import pytest
import structlog
import trio
from tests.engines import is_alive

from tradeengine.actors.children import Child
from tradeengine.actors.memory import Memory
from tradeengine.actors.topology import Actor, Topology, plan
from tradeengine.core.tables import ActorState
from tradeengine.ipc.handoff import EXIT_ORPHANED, Handoff, send_handoff
from tradeengine.settings import Settings
from tradeengine.settings_files import load_settings

# The beginning of a program that is started as an actor is: it takes its handoff and can speak.
BEGIN = """
import socket, sys, time, os, signal
from tradeengine.ipc.handoff import receive_handoff, tell
line = socket.socket(fileno=int(sys.argv[2]))
handoff = receive_handoff(line)
"""
OBEDIENT = BEGIN + "tell(line, 'ready')\nwhile line.recv(16): pass\n"
OWN_WIRING = (
    BEGIN
    + """
from tradeengine.ipc.wiring import Wiring
wiring = Wiring(handoff, line)
wiring.obey_supervisor()
wiring.ready()
while True: time.sleep(60)
"""
)


@pytest.fixture(scope="module")
def settings() -> Settings:
    """Small rings, short pauses."""
    return load_settings(
        overrides={
            "limits.accounts_max": 64,
            "limits.symbols_max": 4,
            "rings.events_slots": 1024,
            "rings.commands_slots": 1024,
            "rings.reserve_slots": 16,
            "rings.risk_events_slots": 1024,
            "settlement.backlog_events_max": 512,
            "supervisor.restart_backoff_ms": 1,
            "supervisor.restart_count_max": 3,
        },
        environ={},
    )


@pytest.fixture(scope="module")
def topology(settings: Settings) -> Topology:
    """Join up the smallest engine."""
    return plan(settings)


@pytest.fixture(scope="module")
def memory(topology: Topology, settings: Settings) -> Iterator[Memory]:
    """Make the memory that the handoffs name."""
    with closing(Memory(topology, settings, {})) as memory:
        yield memory


class Watched:
    """A child whose states can be waited for."""

    def __init__(self, memory: Memory, settings: Settings, program: str) -> None:
        self.seen: list[ActorState] = []
        self._news = trio.Event()
        self.memory = memory
        actor = memory.topology.actor("publisher")
        self.program = program
        self.child = Child(actor, settings.supervisor, self._launch, self._changed)

    async def _launch(self, actor: Actor, line: socket.socket, _disarm: bool) -> trio.Process:
        """Start a program instead of an actor."""
        command = [sys.executable, "-c", self.program, actor.name, str(line.fileno())]
        return await trio.lowlevel.open_process(command, pass_fds=(line.fileno(),))

    def _changed(self, child: Child) -> None:
        self.seen.append(child.state)
        self._news.set()
        self._news = trio.Event()

    async def until(self, state: ActorState, times: int = 1) -> None:
        """Wait until a state was seen so often."""
        with trio.fail_after(20):
            while self.seen.count(state) < times:
                await self._news.wait()


@asynccontextmanager
async def kept(memory: Memory, settings: Settings, program: str) -> AsyncIterator[Watched]:
    """Keep a child while the block runs."""
    watched = Watched(memory, settings, program)
    possible = trio.Event()
    possible.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.child.keep, lambda: memory.handoff(watched.child.actor), possible)
        yield watched
        await watched.child.stop(0.5)


async def test_child_is_ready_when_it_says_so(memory: Memory, settings: Settings) -> None:
    """A child is starting until it says that it is ready, and stopped once it was asked to end."""
    async with kept(memory, settings, OBEDIENT) as watched:
        await watched.until(ActorState.READY)
        pid = watched.child.pid
        assert is_alive(pid)
    assert watched.seen == [ActorState.STARTING, ActorState.READY, ActorState.STOPPING, ActorState.STOPPED]
    assert not is_alive(pid)


async def test_killed_child_is_started_again(memory: Memory, settings: Settings) -> None:
    """A killed child is replaced by another process, after the old one was reaped; the restart is counted."""
    async with kept(memory, settings, OBEDIENT) as watched:
        await watched.until(ActorState.READY)
        first = watched.child.pid
        watched.child.kill()
        await watched.until(ActorState.READY, 2)
        assert watched.child.pid not in {0, first}
        assert not is_alive(first)
        assert watched.child.restart_count == 1


async def test_shortage_of_descriptors_is_survived(memory: Memory, settings: Settings) -> None:
    """With no descriptors left for a handoff the child ends, none of them leaks, and the next process gets its own."""
    watched = Watched(memory, settings, OBEDIENT)
    possible = trio.Event()
    possible.set()
    used: list[set[str]] = []

    def hand_over() -> Handoff:
        if used:
            return memory.handoff(watched.child.actor)
        used.append(descriptors())
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 2, hard))
        try:
            return memory.handoff(watched.child.actor)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            used.append(descriptors())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.child.keep, hand_over, possible)
        await watched.until(ActorState.READY)
        assert watched.child.restart_count == 1
        assert used[1] <= used[0]
        await watched.child.stop(0.5)


def descriptors() -> set[str]:
    """Name what is open here and in use: what tests before this one left to the collector is closed first."""
    gc.collect()
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


async def test_death_and_return_are_logged(memory: Memory, settings: Settings) -> None:
    """The log names who died, as which process and of what, and as which process it is back; nothing empty."""
    with structlog.testing.capture_logs() as logs:
        async with kept(memory, settings, OBEDIENT) as watched:
            await watched.until(ActorState.READY)
            first = watched.child.pid
            watched.child.kill()
            await watched.until(ActorState.READY, 2)
            second = watched.child.pid
    died, back = (line for line in logs if line["event"] in {"actor died", "actor is back"})
    assert died == {
        "event": "actor died",
        "log_level": "error",
        "name": "publisher",
        "dead_pid": first,
        "death": "SIGKILL",
        "reason": None,
    }
    assert (back["name"], back["new_pid"], back["restart_count"]) == ("publisher", second, 1)


async def test_death_is_shown_with_its_reason(memory: Memory, settings: Settings) -> None:
    """Between two processes the child is restarting, and says by what it died."""
    slow = msgspec.structs.replace(settings.supervisor, restart_backoff_ms=60_000, restart_backoff_ms_max=60_000)
    async with kept(memory, msgspec.structs.replace(settings, supervisor=slow), OBEDIENT) as watched:
        await watched.until(ActorState.READY)
        watched.child.kill()
        await watched.until(ActorState.RESTARTING)
        assert watched.child.message == "SIGKILL"


async def test_child_that_dies_too_often_is_given_up(memory: Memory, settings: Settings) -> None:
    """After more deaths than allowed nothing is started any more, and the state says why."""
    program = BEGIN + "tell(line, 'ready'); tell(line, 'failed', 'no such luck'); sys.exit(3)"
    async with kept(memory, settings, program) as watched:
        await watched.until(ActorState.FAILED)
        assert watched.seen.count(ActorState.STARTING) == settings.supervisor.restart_count_max + 1
        assert watched.child.message == "died 4 times, last: exit status 3, no such luck"
        assert watched.child.pid == 0


async def test_failure_before_ready_is_told(memory: Memory, settings: Settings) -> None:
    """A child that fails before it was ever ready is known to have failed at the start, with its own words."""
    async with kept(memory, settings, BEGIN + "tell(line, 'failed', 'journal damaged')") as watched:
        await watched.until(ActorState.RESTARTING)
        assert watched.child.failed_at_start
        assert "journal damaged" in watched.child.message


async def test_child_that_does_not_end_is_killed(memory: Memory, settings: Settings) -> None:
    """A child that ignores the request to end is killed when its time is over."""
    deaf = BEGIN + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntell(line, 'ready')\nwhile True: time.sleep(60)"
    async with kept(memory, settings, deaf) as watched:
        await watched.until(ActorState.READY)
        pid = watched.child.pid
        await watched.child.stop(0.05)
        assert not is_alive(pid)


async def test_child_that_died_before_its_handoff_is_started_again(memory: Memory, settings: Settings) -> None:
    """A child that dies while the memory does not exist yet is reaped and replaced."""
    watched = Watched(memory, settings, "import sys; sys.exit(1)")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.child.keep, lambda: memory.handoff(watched.child.actor), trio.Event())
        await watched.until(ActorState.STARTING, 2)
        await watched.child.stop(0.5)


async def test_cancelled_keeper_leaves_no_process(memory: Memory, settings: Settings) -> None:
    """When the supervisor fails, the processes that it kept are killed and reaped."""
    pid = 0
    with suppress(trio.Cancelled):
        async with trio.open_nursery() as nursery:
            watched = Watched(memory, settings, OBEDIENT)
            possible = trio.Event()
            possible.set()
            nursery.start_soon(watched.child.keep, lambda: memory.handoff(watched.child.actor), possible)
            await watched.until(ActorState.READY)
            pid = watched.child.pid
            nursery.cancel_scope.cancel()
    assert pid
    assert not is_alive(pid)


@pytest.mark.parametrize("unread", [False, True], ids=["all_read", "unread"])
async def test_actor_ends_with_its_supervisor(memory: Memory, unread: bool) -> None:
    """An actor exits when its supervisor is gone, also when that one died before it read what the actor told it."""
    actor = memory.topology.actor("publisher")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(theirs):
        command = [sys.executable, "-c", OWN_WIRING, actor.name, str(theirs.fileno())]
        process = await trio.lowlevel.open_process(command, pass_fds=(theirs.fileno(),))
    with closing(ours), trio.fail_after(20):
        send_handoff(ours, memory.handoff(actor))
        await trio.lowlevel.wait_readable(ours)
        if not unread:
            assert ours.recv(1024)
    try:
        with trio.fail_after(20):
            assert await process.wait() == EXIT_ORPHANED
    finally:
        process.kill()
