"""The supervisor: owns the data directory, the listening socket, the database and the memory, and keeps the actors.

A start, in an order that is ready soonest: the lock, the port (both refuse at once), then at the same time the actors'
programs, which import their code, the database, and the import of our own heavier parts. When it is known where
everything stands, memory is made and handed over; the actors recover; pending symbols are listed; then it is ready.

A stop: the fronts end first, so that nothing new comes in, and the keeper, so that settlement has the database to
itself; what is on its way is matched and settled; then the others end, and the embedded database last. A second request
to stop skips the waiting.

Rule 1: an actor that dies is started again, and everyone's bell rings. The others do not stop for it.
Rule 2: nothing that must survive is in this process: if it is killed, the actors exit, and the next start recovers.
It refuses to know orders.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import resource
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
import structlog
import trio

from tradeengine.actors.children import BACKGROUND_ROLES, KILL_AFTER_S, Child
from tradeengine.actors.data_dir import (
    MASTER_NAME,
    close_to_others,
    ensure_secret,
    open_data_dir,
    refuse_half_restored,
)
from tradeengine.actors.errors import StartError
from tradeengine.actors.forking import Forker
from tradeengine.actors.outside import check_outside
from tradeengine.actors.profiling import FOLDER
from tradeengine.actors.service_manager import ServiceManager
from tradeengine.actors.topology import OPERATOR, Topology, plan
from tradeengine.core.tables import ActorState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from collections.abc import Set as AbstractSet

    from tradeengine.actors.embedded_server import EmbeddedServer
    from tradeengine.actors.lookout import Lookout
    from tradeengine.actors.memory import Memory
    from tradeengine.actors.operator import Operator
    from tradeengine.actors.roster import Roster
    from tradeengine.ipc.handoff import Handoff
    from tradeengine.ipc.metrics import MetricPage
    from tradeengine.settings import Settings

    Attend: TypeAlias = Callable[["Running"], Awaitable[None]]

WATCH_INTERVAL_S: Final = 0.25
DRAIN_INTERVAL_S: Final = 0.01
KILL_AFTER_LATE_FACTOR: Final = 3
"""A heartbeat so many times later than allowed: the actor hangs, and is killed."""

LOST: Final = frozenset({ActorState.BLOCKED, ActorState.FAILED})
"""States that no actor leaves by itself, but for those who wait for a database or a wallet."""

logger = structlog.get_logger()


@dataclass(frozen=True)
class Running:
    """What a started engine tells who started it."""

    host: str
    port: int
    dsn: str
    start_s: float


def run_engine(settings: Settings, attend: Attend) -> None:
    """Run an engine until SIGINT or SIGTERM.

    attend: runs once orders are accepted, and is cancelled when the stop begins, which waits for its end.
    Raises StartError, DataDirError, SettingsError when the engine cannot start.
    """
    check_outside(settings)
    _raise_descriptor_limit()
    with open_data_dir(settings.data_dir) as lock_fd, open_listener(settings) as listener:
        refuse_half_restored(settings.data_dir)
        close_to_others(settings.data_dir)
        supervisor = make_supervisor(_with_secrets(settings), listener, lock_fd, attend)
        trio.run(supervisor.run)


def make_supervisor(settings: Settings, listener: socket.socket, lock_fd: int, attend: Attend) -> Supervisor:
    """Make a supervisor with a child for each actor of the topology. Raises StartError."""
    topology = plan(settings)
    profiled, names = settings.supervisor.profile, [actor.name for actor in topology.actors]
    if profiled and profiled not in names:
        raise StartError(f"setting supervisor.profile = {profiled!r} is no actor of this engine: {', '.join(names)}")
    forker = Forker(settings.supervisor, (lock_fd,), settings.data_dir / FOLDER)
    supervisor = Supervisor(settings, topology, listener, attend, forker, ServiceManager(os.environ), {})
    for actor in topology.actors:
        supervisor.children[actor.name] = Child(actor, settings.supervisor, forker.launch, supervisor.child_changed)
    return supervisor


@contextmanager
def open_listener(settings: Settings) -> Iterator[socket.socket]:
    """Bind the listening socket that all fronts share. Raises StartError."""
    host, port = settings.http.host, settings.http.port
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=settings.http.backlog)
    except socket.gaierror as error:
        raise StartError(f"setting http.host = {host!r} is not an address of this machine: {error.strerror}") from None
    except OSError as error:
        problem = os.strerror(error.errno or 0)
        choice = "an address of this machine with --host" if error.errno == errno.EADDRNOTAVAIL else "another --port"
        raise StartError(f"cannot listen on {host}:{port}: {problem}; choose {choice}") from None
    with listener:
        yield listener


@dataclass
class Supervisor:
    """One engine from start to stop."""

    settings: Settings
    topology: Topology
    listener: socket.socket
    attend: Attend
    forker: Forker
    manager: ServiceManager
    children: dict[str, Child]
    started_s: float = field(default_factory=time.monotonic)
    memory: Memory | None = None
    roster: Roster | None = None
    operator: Operator | None = None
    lookout: Lookout | None = None
    database: EmbeddedServer | None = None
    """The embedded one; None when another is set."""
    failure: StartError | None = None
    _handoff_possible: trio.Event = field(default_factory=trio.Event)
    _stop_asked: trio.Event = field(default_factory=trio.Event)
    _news: trio.Event = field(default_factory=trio.Event)
    _serving: trio.CancelScope = field(default_factory=trio.CancelScope)
    _interruptible: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self) -> None:
        """Start, work until asked to stop, stop. Raises what kept the engine from starting."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._obey_signals)
            nursery.start_soon(self.forker.keep)
            for child in self.children.values():
                nursery.start_soon(child.keep, partial(self._handoff, child), self._handoff_possible)
            try:
                await self._start_and_work(nursery)
            except StartError as error:
                # Kept and raised below: out of the nursery it would come as a group.
                self.failure = error
            finally:
                with trio.CancelScope(shield=True):
                    await self._end()
            nursery.cancel_scope.cancel()
        if self.failure is not None:
            raise self.failure

    async def _start_and_work(self, nursery: trio.Nursery) -> None:
        with self._interruptible:
            running = await self._start()
        if self._stop_asked.is_set():
            return
        if self.database is not None:
            await nursery.start(self.database.keep)
        nursery.start_soon(self._watch)
        await nursery.start(self._serve)
        self.manager.ready()
        async with trio.open_nursery() as attendance:
            attendance.start_soon(self.attend, running)
            await self._stop_asked.wait()
            attendance.cancel_scope.cancel()
        self._interruptible = trio.CancelScope()
        with self._interruptible:
            await self._drain()

    async def _start(self) -> Running:
        """Bring everything up. Raises StartError."""
        dsn = await trio.to_thread.run_sync(self._open_database)
        self.settings = with_database(self.settings, dsn)
        dsn = self.settings.database.direct_dsn
        # Here and not above: by now another thread has imported them, while the database started.
        from tradeengine.actors.demo_accounts import fund_demo_accounts
        from tradeengine.actors.lookout import Lookout
        from tradeengine.actors.memory import Memory
        from tradeengine.actors.operator import Operator
        from tradeengine.actors.preparing import prepare
        from tradeengine.actors.roster import Roster

        prepared = await trio.to_thread.run_sync(prepare, self.settings, dsn, self.topology.ingress_rings)
        self.memory = Memory(self.topology, self.settings, prepared.first_sequences)
        self.operator = Operator(self.memory.operator_wiring(), prepared.directory, dsn)
        database = [self.database] if self.database is not None else []
        self.roster = Roster((*self.children.values(), *database), self.memory, self.started_s)
        self.lookout = Lookout(self._measure_self(self.memory.metrics[OPERATOR]), self.settings, self.roster.processes)
        self._handoff_possible.set()
        await self._until_ready({"risk", "matcher", "settlement"})
        await self.operator.list_pending({child.actor.index for child in self._fenced()})
        await trio.to_thread.run_sync(fund_demo_accounts, self.settings, dsn)
        await self._until_ready({child.actor.role for child in self.children.values()} - BACKGROUND_ROLES.keys())
        logger.info("recovered", **{child.actor.name: child.recovery() or None for child in self.children.values()})
        host, port = self.listener.getsockname()[:2]
        return Running(host, port, dsn, time.monotonic() - self.started_s)

    @staticmethod
    def _measure_self(page: MetricPage) -> MetricPage:
        """Count on the supervisor's own page, as every actor does, how busy it is and what it logs."""
        from tradeengine.ipc.meters import LineCounter, LoopMeter

        logging.getLogger().addHandler(LineCounter(page))
        trio.lowlevel.add_instrument(LoopMeter(page))
        return page

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        """Keep the directory page and answer the control socket, until the stop begins."""
        from tradeengine.actors.control import serve_control

        memory, roster, operator = self.memory, self.roster, self.operator
        assert memory is not None
        assert roster is not None
        assert operator is not None
        handlers = {"status": lambda _arguments: roster.status()}
        with self._serving:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(operator.keep_directory)
                await nursery.start(
                    serve_control, self.settings.data_dir, memory, self.topology.clients, handlers, roster.clients
                )
                task_status.started()

    async def _until_ready(self, roles: AbstractSet[str]) -> None:
        """Wait until every actor of these roles is ready, or fenced. Raises StartError when one says that it cannot."""
        while True:
            news = self._news
            self._refuse_hopeless()
            waited_for = [child for child in self.children.values() if child.actor.role in roles]
            fenced = {child.actor.name for child in self._fenced()}
            if all(child.was_ready or child.actor.name in fenced for child in waited_for):
                return
            await news.wait()

    def _refuse_hopeless(self) -> None:
        """Raise StartError when an actor cannot start without which the engine is none."""
        hopeless = [
            child
            for child in self.children.values()
            if not child.was_ready and (child.failed_at_start or child.state in LOST)
        ]
        matchers = [child.actor.name for child in self.children.values() if child.actor.role == "matcher"]
        # Without a keeper everything works for weeks, and without a wallet orders are matched.
        spared = {"keeper", "wallet"}
        if not {child.actor.name for child in hopeless} >= set(matchers):
            # The other shards trade. A matcher that failed is tried again, up to the bound; then it is fenced, too.
            spared.add("matcher")
        for child in hopeless:
            if child.actor.role not in spared:
                raise StartError(f"{child.actor.name} cannot start: {child.message}")

    def _fenced(self) -> list[Child]:
        """Give the matchers that are given up until somebody has mended what is wrong."""
        return [child for child in self.children.values() if child.actor.role == "matcher" and child.state in LOST]

    async def _obey_signals(self, task_status: trio.TaskStatus[None]) -> None:
        """Stop at the first SIGINT or SIGTERM; interrupt the start at once, and at a second one the stop too."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started()
            async for _ in signals:
                self._stop_asked.set()
                self._interruptible.cancel()

    async def _drain(self) -> None:
        """End fronts, keeper and wallet, then wait until all that is on its way is matched and settled."""
        self.manager.stopping()
        self._serving.cancel()
        await self._stop_children({"front", "keeper", "wallet"}, self.settings.http.stop_timeout_s + KILL_AFTER_S)
        with trio.move_on_after(self.settings.supervisor.stop_timeout_s) as waiting:
            # Cursors are words in memory that other processes move: there is no event to wait for.
            while not self._drained() and not self._drain_is_hopeless():  # noqa: ASYNC110
                await trio.sleep(DRAIN_INTERVAL_S)
        if waiting.cancelled_caught:
            logger.warning("stopped with commands or events on their way; the next start takes them up")

    def _drained(self) -> bool:
        """Whether no gating reader has anything before it; looked at in the order in which records travel."""
        assert self.memory is not None
        fenced = {child.actor.name for child in self._fenced()}
        return all(
            reader.lag == 0
            for ring in self.memory.ring_statistics()
            for reader in ring.readers
            if reader.gating and reader.name not in fenced
        )

    def _drain_is_hopeless(self) -> bool:
        return any(
            child.actor.role in {"risk", "settlement"} and child.state in LOST for child in self.children.values()
        )

    async def _end(self) -> None:
        """End whatever still runs, the embedded database last."""
        await self._stop_children({child.actor.role for child in self.children.values()}, KILL_AFTER_S)
        if self.database is not None:
            from tradeengine.storage.embedded import EmbeddedError

            with suppress(EmbeddedError):
                await self.database.stop()

    async def _stop_children(self, roles: set[str], timeout_s: float) -> None:
        async with trio.open_nursery() as nursery:
            for child in self.children.values():
                if child.actor.role in roles:
                    nursery.start_soon(child.stop, timeout_s)

    async def _watch(self) -> None:
        """Look at the heartbeats: mark who is late, end who hangs."""
        assert self.roster is not None
        assert self.operator is not None
        assert self.lookout is not None
        late_s = self.settings.supervisor.heartbeat_timeout_s
        while True:
            self.operator.beat(self.roster.memory.bytes_total())
            self.lookout.look()
            for name, child in self.children.items():
                age_s = self.roster.heartbeat_age_s(child)
                child.stalled(late=age_s > late_s)
                if age_s > late_s * KILL_AFTER_LATE_FACTOR and child.state is ActorState.STALLED:
                    logger.error("actor hangs and is killed", name=name, silent_s=round(age_s))
                    child.kill()
                self.roster.show(child)
            if not self._stop_asked.is_set():
                self.manager.alive(self.children.values())
            await trio.sleep(WATCH_INTERVAL_S)

    def _open_database(self) -> str:
        """Start the embedded database unless another is set, and import meanwhile what is needed next; returns the DSN.

        Raises StartError.
        """
        importing = threading.Thread(target=_import_parts)
        importing.start()
        settings = self.settings
        try:
            if settings.database.dsn:
                return settings.database.dsn
            from tradeengine.actors.embedded_server import EmbeddedServer
            from tradeengine.storage.connections import CONNECTIONS_SPARE, connections_needed
            from tradeengine.storage.embedded import EmbeddedError, is_made

            if not is_made(settings.data_dir):
                # Before one is made: what is restored later wants its place empty.
                from tradeengine.actors.preparing import refuse_lost_database

                refuse_lost_database(settings)
            self.database = EmbeddedServer(
                settings.data_dir,
                settings.supervisor,
                self.child_changed,
                connections_min=sum(connections_needed(settings).values()) + CONNECTIONS_SPARE,
            )
            try:
                return self.database.start()
            except EmbeddedError as error:
                raise StartError(str(error)) from None
        finally:
            importing.join()

    def _handoff(self, child: Child) -> Handoff:
        assert self.memory is not None
        return self.memory.handoff(child.actor, self.listener)

    def child_changed(self, child: Child | EmbeddedServer) -> None:
        """Show a child's new state; wake everyone when one died."""
        news, self._news = self._news, trio.Event()
        news.set()
        if self.roster is not None:
            self.roster.show(child)
            if child.state in {ActorState.RESTARTING, ActorState.FAILED}:
                self.roster.memory.ring_all_bells()


def _import_parts() -> None:
    for name in ("preparing", "operator", "memory", "roster", "control"):
        importlib.import_module(f"tradeengine.actors.{name}")


def with_database(settings: Settings, dsn: str) -> Settings:
    """Give settings that name the database in use, whichever it is, by addresses that are complete."""
    from tradeengine.storage.connections import complete_dsn

    database = settings.database
    addresses = {"dsn": dsn, "session_dsn": database.session_dsn or dsn}
    completed = {name: complete_dsn(address, database) for name, address in addresses.items()}
    return msgspec.structs.replace(settings, database=msgspec.structs.replace(database, **completed))


def _with_secrets(settings: Settings) -> Settings:
    secret = settings.auth.secret or ensure_secret(settings.data_dir)
    master = settings.keys.master or ensure_secret(settings.data_dir, MASTER_NAME)
    replace = msgspec.structs.replace
    settings = replace(settings, auth=replace(settings.auth, secret=secret), keys=replace(settings.keys, master=master))
    wallet = settings.wallet
    if wallet.kind == "http" and not wallet.secret:
        settings.wallet_dir.mkdir(mode=0o700, exist_ok=True)
        settings = replace(settings, wallet=replace(wallet, secret=ensure_secret(settings.wallet_dir)))
    return settings


def _raise_descriptor_limit() -> None:
    """Allow as many descriptors as the system lets us: every actor holds one per ring, table and doorbell."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
