"""The embedded database as the supervisor keeps it: started, watched, and started again when it has died.

It is no child: it runs detached and may be the one that a killed engine left, so its end is seen on a descriptor of the
process, not by reaping. Whoever asks it reconnects by itself.

Rule 1: pauses between starts grow as an actor's do, but it is never given up: what keeps it from starting, a full disk
for one, passes without us, and until then orders are matched and journaled.
It refuses to know what is in the database.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
import structlog
import trio

from tradeengine.actors.deaths import Deaths
from tradeengine.actors.topology import DATABASE, Actor
from tradeengine.core.tables import ActorState
from tradeengine.storage.embedded import SETTINGS, EmbeddedError, start_embedded, stop_embedded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tradeengine.settings import Supervisor as Policy

logger = structlog.get_logger()


@dataclass
class EmbeddedServer:
    """PostgreSQL in the data directory. It is shown as an actor is; ``changed`` is called when its state changes."""

    data_dir: Path
    policy: Policy
    changed: Callable[[EmbeddedServer], None]
    actor: Actor = field(default_factory=lambda: Actor(DATABASE, "database"))
    state: ActorState = ActorState.STOPPED
    message: str = ""
    restart_count: int = 0
    started_ns: int = 0
    pid: int = 0
    connections_min: int = 0
    """So many connections it must allow at least."""
    recovered: dict[str, int] = field(default_factory=dict)
    """What it recovers it tells in its own log."""
    ready_s: float = 0.0
    _keeping: trio.CancelScope = field(default_factory=trio.CancelScope)
    _kept: trio.Lock = field(default_factory=trio.Lock)

    def start(self) -> str:
        """Start the server, or adopt the one that runs; returns the connection string. Raises EmbeddedError."""
        connections = max(self.connections_min, int(SETTINGS["max_connections"]))
        server = start_embedded(self.data_dir, {"max_connections": str(connections)})
        self.started_ns = time.time_ns()
        self.pid = server.pid
        return server.dsn

    async def keep(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the server anew whenever it has ended, until ``stop``. Call it after ``start``."""
        deaths = Deaths(self.policy)
        async with self._kept:
            with self._keeping:
                self._set(ActorState.READY)
                task_status.started()
                while True:
                    await _until_ended(self.pid)
                    self.pid = 0
                    await self._revive(deaths, "it ended without being asked to")

    async def _revive(self, deaths: Deaths, reason: str) -> None:
        while True:
            logger.error("database is away", reason=reason)
            deaths.add()
            self._set(ActorState.RESTARTING, reason)
            await trio.sleep(deaths.pause_s())
            self.restart_count += 1
            try:
                # Not to be left alone: a server that is starting cannot be stopped.
                await trio.to_thread.run_sync(self.start)
            except (EmbeddedError, OSError, psycopg.Error) as error:
                reason = " ".join(str(error).split())
            else:
                logger.info("database is back", pid=self.pid)
                self._set(ActorState.READY)
                return

    async def stop(self) -> None:
        """Stop keeping the server, and end it. Raises EmbeddedError."""
        self._keeping.cancel()
        async with self._kept:
            self._set(ActorState.STOPPING)
            await trio.to_thread.run_sync(stop_embedded, self.data_dir)

    def _set(self, state: ActorState, message: str = "") -> None:
        self.state = state
        self.message = message
        self.changed(self)


async def _until_ended(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
