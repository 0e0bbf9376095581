"""The zygote: a real one, asked for actors that have nothing to work with, and killed."""

from __future__ import annotations

import itertools
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from tests.engines import is_alive

from tradeengine.actors import forking
from tradeengine.actors.forking import Forked, Forker, LaunchError
from tradeengine.actors.topology import Actor
from tradeengine.ipc.handoff import EXIT_ORPHANED
from tradeengine.settings_files import load_settings

RISK = Actor("risk", "risk")
PATIENCE_S = 60


@asynccontextmanager
async def forker(*inherited_fds: int) -> AsyncIterator[Forker]:
    """Keep a zygote while the block runs."""
    policy = load_settings(overrides={"supervisor.restart_backoff_ms": 1}, environ={}).supervisor
    kept = Forker(policy, inherited_fds, Path("unused"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.keep)
        with trio.fail_after(PATIENCE_S):
            yield kept
        nursery.cancel_scope.cancel()


@contextmanager
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Make both ends of an actor's line."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def parent_of(pid: int) -> int:
    """Process id of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


@pytest.fixture
def zygote_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for its word on how an actor ended however long it imports what other roles need."""
    monkeypatch.setattr(forking, "STATUS_TIMEOUT_S", PATIENCE_S)


@pytest.mark.usefixtures("zygote_may_take_long")
async def test_actor_is_a_fork_with_its_own_name_and_group() -> None:
    """An actor runs in a group of its own, under its name, with nothing open of the zygote's or of others' lines."""
    async with forker() as kept:
        with line() as (ours, theirs), line() as (other, others):
            first = await kept.launch(RISK, others, False)
            second = await kept.launch(Actor("matcher-0", "matcher", 0), theirs, False)
            others.close()
            theirs.close()
            await until_named(second.pid, "matcher-0")
            assert os.getpgid(second.pid) == second.pid
            assert parent_of(first.pid) == parent_of(second.pid) != os.getpid()
            # Were the other's line open in it, the first would not hear that we are gone.
            other.close()
            assert await first.wait() == EXIT_ORPHANED
            assert is_alive(second.pid)
            ours.close()
            assert await second.wait() == EXIT_ORPHANED


@pytest.mark.usefixtures("zygote_may_take_long")
async def test_end_by_a_signal_is_told() -> None:
    """Whoever is killed is reaped before its end is told, with the signal that it was."""
    async with forker() as kept:
        with line() as (_, theirs):
            process = await kept.launch(RISK, theirs, False)
            process.kill()
            assert await process.wait() == -signal.SIGKILL
            assert not is_alive(process.pid)
            # It means nobody any more.
            process.terminate()


async def test_inherited_descriptors_are_open_in_actors(tmp_path: Path) -> None:
    """What every actor shall have open is open in it: the lock of the data directory outlives the supervisor."""
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        async with forker(held) as kept:
            with line() as (_, theirs):
                process = await kept.launch(RISK, theirs, False)
                theirs_too = await trio.Path(f"/proc/{process.pid}/fd/{held}").stat()
                assert os.path.samestat(theirs_too, os.fstat(held))
                process.kill()
                await process.wait()
    finally:
        os.close(held)


@pytest.mark.usefixtures("zygote_may_take_long")
async def test_actors_outlive_a_zygote() -> None:
    """A killed zygote is replaced; actors of the old one go on, and can be signalled and waited for."""
    async with forker() as kept:
        with line() as (_, theirs), line() as (_, others):
            process = await kept.launch(RISK, theirs, False)
            zygote = parent_of(process.pid)
            os.kill(zygote, signal.SIGKILL)
            second = await launched(kept, others)
            assert parent_of(second.pid) != zygote
            assert is_alive(process.pid)
            process.kill()
            assert await process.wait() is None
            second.kill()
            assert await second.wait() == -signal.SIGKILL


async def test_order_that_a_dying_zygote_had_is_not_repeated() -> None:
    """Whether a zygote carried out its last order is unknown: the order fails, and is for its giver to repeat."""
    async with zygote_that_hangs() as (kept, zygote, theirs), trio.open_nursery() as nursery:

        async def order() -> None:
            with pytest.raises(LaunchError):
                await kept.launch(RISK, theirs, False)

        nursery.start_soon(order)
        await trio.testing.wait_all_tasks_blocked()
        os.kill(zygote, signal.SIGKILL)


@pytest.mark.long
async def test_zygote_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zygote that carries no order out is killed: nobody who has died would come back otherwise."""
    async with zygote_that_hangs() as (kept, zygote, theirs):
        with monkeypatch.context() as hasty:
            hasty.setattr(forking, "ORDER_TIMEOUT_S", 0.1)
            with pytest.raises(LaunchError):
                await kept.launch(RISK, theirs, False)
        second = await launched(kept, theirs)
        assert parent_of(second.pid) != zygote
        await end(second)


async def test_zygote_that_is_slow_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zygote that works, however long it takes, is not killed: on a busy machine the next one would take as long."""
    async with zygote_that_hangs() as (kept, zygote, theirs):
        looks = itertools.count()

        def working(_pid: int) -> float:
            """Give what a process has used that works all the time; the fourth look lets it go on."""
            look = next(looks)
            if look == 3:
                os.kill(zygote, signal.SIGCONT)
            return look * 0.01

        monkeypatch.setattr(forking, "ORDER_TIMEOUT_S", 0.1)
        monkeypatch.setattr(forking, "_processor_s", working)
        second = await kept.launch(RISK, theirs, False)
        assert parent_of(second.pid) == zygote
        await end(second)


@pytest.mark.long
async def test_zygote_that_works_for_ever_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zygote that works and works and carries no order out is killed in the end."""
    async with zygote_that_hangs() as (kept, zygote, theirs):
        worked_s = itertools.count(0, 10)
        with monkeypatch.context() as hasty:
            hasty.setattr(forking, "ORDER_TIMEOUT_S", 0.01)
            hasty.setattr(forking, "_processor_s", lambda _: float(next(worked_s)))
            with pytest.raises(LaunchError):
                await kept.launch(RISK, theirs, False)
        second = await launched(kept, theirs)
        assert parent_of(second.pid) != zygote
        await end(second)


@asynccontextmanager
async def zygote_that_hangs() -> AsyncIterator[tuple[Forker, int, socket.socket]]:
    """Stop a zygote once it has made an actor; gives its keeper, its process, and a line for the next actor."""
    async with forker() as kept:
        with line() as (_, theirs), line() as (_, others):
            first = await kept.launch(RISK, theirs, False)
            zygote = parent_of(first.pid)
            os.kill(zygote, signal.SIGSTOP)
            yield kept, zygote, others
            await end(first)


async def end(forked: Forked) -> None:
    """Kill an actor, and wait for its end."""
    forked.kill()
    await forked.wait()


async def launched(kept: Forker, theirs: socket.socket) -> Forked:
    """Order until a zygote lives long enough."""
    while True:
        try:
            return await kept.launch(RISK, theirs, False)
        except LaunchError:
            continue


async def until_named(pid: int, name: str) -> None:
    """Wait until a process that was forked a moment ago has its name."""
    while f"tradeengine {name}" != (await trio.Path(f"/proc/{pid}/cmdline").read_text()).rstrip("\0 "):
        await trio.lowlevel.checkpoint()
