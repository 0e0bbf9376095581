"""The engine under the harness: started, struck, started again, and watched until whoever died is back.

Rule 1: only processes of this engine are touched, by the process ids that its own supervisor tells.
Rule 2: whatever an engine shall never do (give up, refuse to start, not come back) is a finding, not an exception.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import trio
from tests.e2e.users import deposit_all
from tests.engines import SMALL, Engine, run_command, start_engine, wait_ready
from tests.faults.harness.faults import ENGINE, OPERATOR, OUTSIDE, ZYGOTE
from tests.faults.harness.outside import Outside
from tests.faults.harness.plan import Plan

from tradeengine.actors.children import BACKGROUND_ROLES
from tradeengine.ipc.client import ClientError, ask
from tradeengine.ipc.crashpoints import VARIABLE
from tradeengine.settings_files import load_settings
from tradeengine.storage.embedded import stop_embedded

Result = TypeVar("Result")

BACK_S_MAX: Final = 180.0
"""A busy machine takes long; how long it took is told beside what is wanted."""
LOOK_S: Final = 0.02
SLOW_LOOK_S: Final = 0.1
"""Of processes that only the operating system can tell of, which costs more."""
LOST: Final = frozenset({"failed", "blocked"})


@dataclass
class Findings:
    """What a round has seen: wrong things, how often each was killed, and how long each took to come back."""

    wrong: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    other: Counter[str] = field(default_factory=Counter)
    back_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


class Venue:
    """One engine on one directory and one port, through all its lives in a round."""

    def __init__(self, folder: Path, plan: Plan, findings: Findings) -> None:
        """Nothing is started yet."""
        self.data_dir = folder / "data"
        self.crash_file = folder / "crash"
        self.plan = plan
        self.findings = findings
        self.nursery: trio.Nursery
        self.said: list[str] = []
        """What engines that are no more wrote to standard error."""
        self.settings = load_settings(
            overrides={"engine.data_dir": str(self.data_dir), "engine.shards": plan.shape.shards},
            environ={**SMALL, **plan.settings},
        )
        self._port = _free_port()
        self.outside: Outside | None = None
        self._folder = folder
        self._engine: Engine | None = None
        self._strikes_at: dict[str, float] = {}
        self._asking = trio.Lock()
        self._asked_at_s = 0.0
        self._status: dict[str, dict[str, Any]] = {}

    @property
    def engine(self) -> Engine:
        """The present one."""
        assert self._engine is not None
        return self._engine

    @property
    def environment(self) -> dict[str, str]:
        """What the engine is started with, beside what it inherits."""
        outside = self.outside.environment if self.outside is not None else {}
        return {**SMALL, **self.plan.settings, **outside, VARIABLE: f"@{self.crash_file}"}

    @property
    def url(self) -> str:
        """The same in all its lives."""
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Start the engine and wait until it is ready. Raises AssertionError with what it said instead."""
        shape = self.plan.shape
        if shape.wallet and self.outside is None:
            self.outside = await run(lambda: Outside(self._folder, self.data_dir))
        arguments = ["--port", str(self._port), "--shards", str(shape.shards), "--fronts", str(shape.fronts)]
        self._engine = start_engine(self.data_dir, arguments, self.environment)
        await run(lambda: wait_ready(self.engine, BACK_S_MAX))

    async def stop(self) -> None:
        """Stop it in peace."""
        status = await run(self.engine.stop)
        if status != 0:
            self.findings.wrong.append(f"the engine ended with {status}")

    def abandon(self) -> None:
        """End whatever still runs of it."""
        if self._engine is not None and self._engine.process.poll() is None:
            self._engine.process.kill()
            self._engine.wait()
        stop_embedded(self.data_dir)
        if self.outside is not None:
            self.outside.close()

    def fund(self, user: str, funds: Mapping[str, str]) -> None:
        """Give a user money to trade with."""
        if self.outside is not None:
            self.outside.fund(user, funds)
        deposit_all(self.engine, user, funds)

    async def kill(self, names: Iterable[str]) -> None:
        """Kill processes by name at one moment, and watch in the background until they are back."""
        names = tuple(names)
        if OUTSIDE in names and self.outside is not None:
            await run(self.outside.restart)
            self.findings.kills[OUTSIDE] += 1
            names = tuple(name for name in names if name != OUTSIDE)
        if OPERATOR in names or ENGINE in names:
            await self._kill_whole(ENGINE if ENGINE in names else OPERATOR)
            return
        found = {name: await self.pid_of(name) for name in names}
        at_s = time.monotonic()
        for name, pid in found.items():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.findings.kills[name] += 1
                self.watch(name, pid, at_s)

    def watch(self, name: str, pid: int, at_s: float) -> None:
        """Measure in the background how long an actor takes to come back that died at a moment."""
        self._strikes_at[name] = at_s
        self.nursery.start_soon(self._watch, name, pid, at_s)

    async def _watch(self, name: str, pid: int, at_s: float) -> None:
        """Who dies again before is measured from then on, by another watch."""
        while self._strikes_at.get(name) == at_s:
            if await self._is_back(name, pid):
                self.findings.back_s[name].append(time.monotonic() - at_s)
                return
            if time.monotonic() - at_s > BACK_S_MAX:
                self.findings.wrong.append(f"{name} was killed and is not back: {await self.status()}")
                return
            await trio.sleep(SLOW_LOOK_S if name == ZYGOTE else LOOK_S)

    async def _is_back(self, name: str, pid: int) -> bool:
        if name == ZYGOTE:
            return await self.pid_of(ZYGOTE) not in {0, pid}
        actor = (await self.status()).get(name)
        return actor is not None and actor["pid"] not in {0, pid} and actor["state"] == "ready"

    async def _kill_whole(self, which: str) -> None:
        """Kill the supervisor, or everything, and start the engine again."""
        self._strikes_at.clear()
        pids = [self.engine.process.pid]
        if which == ENGINE:
            pids += [*(await run(self.engine.actors)).values(), await self.pid_of(ZYGOTE)]
        at_s = time.monotonic()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.findings.kills[which] += 1
        await run(self.engine.wait)
        self.said += self.engine.errors
        await self.start()
        self.findings.back_s[which].append(time.monotonic() - at_s)

    async def pid_of(self, name: str) -> int:
        """Find a process; 0 when there is none now."""
        deadline_s = time.monotonic() + BACK_S_MAX
        while time.monotonic() < deadline_s:
            if name == OPERATOR:
                return self.engine.process.pid
            if name == ZYGOTE:
                with suppress(KeyError):
                    return await run(self.engine.zygote)
            elif pid := (await self.status()).get(name, {}).get("pid"):
                return int(pid)
            await trio.sleep(LOOK_S)
        raise AssertionError(f"there is no {name}: {await self.status()}")

    async def status(self) -> dict[str, dict[str, Any]]:
        """Ask the supervisor how each actor is; nothing while there is none. Who asks at the same time shares it."""
        async with self._asking:
            if time.monotonic() - self._asked_at_s > LOOK_S:
                try:
                    actors = (await run(lambda: ask(self.data_dir, "status")))["actors"]
                except ClientError:
                    actors = []
                self._status = {actor["name"]: actor for actor in actors}
                self._asked_at_s = time.monotonic()
            return self._status

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the program beside the engine, with its settings."""
        shards = {"TRADEENGINE_ENGINE_SHARDS": str(self.plan.shape.shards)}
        return run_command(*words, "--data-dir", str(self.data_dir), **self.plan.settings, **shards)

    def lags(self) -> dict[str, int]:
        """Ask how many records each gating reader of each ring has before it, by ring and reader."""
        rings = ask(self.data_dir, "status")["rings"]
        return {f"{ring['name']}.{reader['name']}": reader["lag"] for ring in rings for reader in ring["readers"]}

    def last_words(self) -> list[str]:
        """Give what the last engine wrote to standard error."""
        return [] if self._engine is None else self._engine.errors

    async def wait_well(self, *, background: bool = True) -> None:
        """Wait until every actor is ready. Raises AssertionError when one has given up, or is not in time.

        background: those, too, for whom no start of an engine waits.
        """
        deadline_s = time.monotonic() + BACK_S_MAX
        while True:
            actors = await self.status()
            waited = [actor for actor in actors.values() if background or actor["role"] not in BACKGROUND_ROLES]
            if waited and all(actor["state"] == "ready" for actor in waited):
                return
            lost = {name: actor["message"] for name, actor in actors.items() if actor["state"] in LOST}
            assert "failed" not in {actor["state"] for actor in actors.values()}, lost
            assert time.monotonic() < deadline_s, f"not well: {actors}"
            await trio.sleep(LOOK_S)


async def run(work: Callable[[], Result]) -> Result:
    """Do something that blocks, beside everything else."""
    return await trio.to_thread.run_sync(work)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
