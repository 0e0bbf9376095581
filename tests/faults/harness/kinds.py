"""The faults of processes: killed, killed at named points, stopped, several at once, full rings, a second engine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from tests.e2e.users import ACCOUNTS_MAX, connect_database
from tests.engines import PROGRAM
from tests.faults.harness.faults import ENGINE, OPERATOR, OUTSIDE, ZYGOTE, Shape, Strike, register
from tests.faults.harness.intents import SYMBOLS
from tests.faults.harness.venue import run
from tests.faults.storm import Storm

from tradeengine.actors.matcher import settled_sequence
from tradeengine.ipc.client import ClientError, LocalClient, open_client
from tradeengine.storage.directory import resolve_account

if TYPE_CHECKING:
    from tests.faults.harness.venue import Venue

    from tradeengine.ipc.ring import Ring
    from tradeengine.ipc.wiring import Wiring

STORM_USERS: Final = ("storm-0", "storm-1", "storm-2")
HIT_S_MAX: Final = 3.0
"""So long somebody may take to come to a point; some are rare."""
BLOW_S_MAX: Final = 20.0
REFUSALS: Final = ("is in use by the engine", "another engine uses this database")
POINTS: Final = {
    "matcher": (
        *("before_journal_write", "after_journal_write", "after_journal_sync", "after_tables", "after_publish"),
        *("after_cursor", "before_roll", "after_roll", "before_recovery", "after_recovery"),
    ),
    "journal": ("after_successor", "after_seal", "before_rewrite"),
    "risk": (
        *("after_fold", "after_fold_cursor", "before_publish", "after_forward", "after_events", "after_cursor"),
        *("before_recovery", "after_recovery"),
    ),
    "settlement": (
        *("before_commit", "after_commit", "before_advance", "after_advance", "before_feed", "after_feed"),
        "after_connect",
    ),
    "publisher": ("after_follow", "before_publish", "after_publish"),
    "front": (
        *("before_send", "after_send", "before_answer", "before_audit_begin", "after_audit_begin", "before_audit_end"),
        "before_anchor",
    ),
    "shadow": ("before_snapshot", "after_snapshot", "before_prune"),
    "snapshot": ("before_rename",),
    "wallet": ("after_progress", "before_marking"),
    "zygote": ("after_fork",),
}
"""Named points by who passes them."""
RECOVERY: Final = {
    "matcher": "matcher-0",
    "journal": "matcher-0",
    "risk": "risk",
    "settlement": "settlement",
    "zygote": "keeper",
}
"""Whose points of recovery are passed only after a death, and by whom."""
IN_RECOVERY: Final = frozenset({"before_recovery", "after_recovery", "before_rewrite", "after_connect", "after_fork"})


class Kill:
    """SIGKILL of one process, of the supervisor, or of all."""

    def draw(self, chance: random.Random, shape: Shape) -> Strike:
        """Draw whom."""
        outside = (OUTSIDE,) if shape.wallet else ()
        return Strike("kill", (chance.choice((*shape.actors * 4, *(ZYGOTE,) * 3, *outside * 2, OPERATOR, ENGINE)),))

    async def strike(self, venue: Venue, strike: Strike) -> None:
        """Kill."""
        await venue.kill(strike.targets)


class KillTogether:
    """SIGKILL of several at one moment."""

    def draw(self, chance: random.Random, shape: Shape) -> Strike:
        """Draw whom."""
        names = (*shape.actors, ZYGOTE)
        return Strike("together", tuple(chance.sample(names, chance.randint(2, 4))))

    async def strike(self, venue: Venue, strike: Strike) -> None:
        """Kill them."""
        await venue.kill(strike.targets)


class Crash:
    """Whoever first passes a named point dies there."""

    def draw(self, chance: random.Random, shape: Shape) -> Strike:
        """Draw a point; who must recover to pass it is killed first."""
        role = chance.choice([role for role in POINTS if shape.wallet or role != "wallet"])
        name = chance.choice(POINTS[role])
        return Strike("crash", (RECOVERY[role],) if name in IN_RECOVERY else (), point=f"{role}.{name}")

    async def strike(self, venue: Venue, strike: Strike) -> None:
        """Name the point and wait until somebody died there, or nobody came."""
        before = {actor["pid"]: name for name, actor in (await venue.status()).items()}
        making = venue.crash_file.with_suffix(".new")
        making.write_text(strike.point, encoding="ascii")
        making.rename(venue.crash_file)
        await venue.kill(strike.targets)
        deadline_s = time.monotonic() + HIT_S_MAX
        while venue.crash_file.exists() and time.monotonic() < deadline_s:  # noqa: ASYNC110 - another process removes it
            await trio.sleep(0.02)
        with suppress(FileNotFoundError):
            venue.crash_file.unlink()
        for hit in venue.crash_file.parent.glob(f"{venue.crash_file.name}.[0-9]*"):
            pid = int(hit.suffix[1:])
            hit.unlink()
            name = before.get(pid) or next(iter(strike.targets), strike.point.partition(".")[0])
            venue.findings.points[strike.point] += 1
            venue.findings.kills[name] += 1
            if name in venue.plan.shape.actors:
                venue.watch(name, pid, time.monotonic())


@dataclass(frozen=True)
class Stop:
    """SIGSTOP for a while. Who is stopped for longer than the supervisor bears is killed and replaced by it."""

    seconds_max: float

    def draw(self, chance: random.Random, shape: Shape) -> Strike:
        """Draw whom and for how long: seldom long."""
        seconds = round(min(chance.paretovariate(1.0), self.seconds_max), 1)
        return Strike("stop", (chance.choice((*shape.actors, OPERATOR)),), seconds=seconds)

    async def strike(self, venue: Venue, strike: Strike) -> None:
        """Stop, wait, go on."""
        (name,) = strike.targets
        pid = await venue.pid_of(name)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            venue.findings.stops[name] += 1
            try:
                await trio.sleep(strike.seconds)
            finally:
                os.kill(pid, signal.SIGCONT)


class FullRings:
    """Settlement stands still while a storm blows, until risk finds the backlog too long; then somebody dies, too."""

    def draw(self, chance: random.Random, shape: Shape) -> Strike:
        """Draw who dies, for how long the rings stay full, and the storm's seed."""
        seconds, seed = round(chance.uniform(0.5, 3.0), 1), chance.randrange(10**6)
        dying = chance.choice(((), *((name,) for name in shape.actors)))
        return Strike("rings", dying, seconds=seconds, point=str(seed))

    async def strike(self, venue: Venue, strike: Strike) -> None:
        """Stop settlement, fill the rings, wait, and let it go on until all is settled."""
        await venue.wait_well()
        pid = await venue.pid_of("settlement")
        os.kill(pid, signal.SIGSTOP)
        try:
            with suppress(ClientError):
                await run(lambda: _fill(venue, int(strike.point)))
                venue.findings.other["rings filled"] += 1
            await venue.kill(strike.targets)
            await trio.sleep(strike.seconds)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _fill(venue: Venue, seed: int) -> None:
    """Let a storm blow until so many events wait for settlement that risk refuses orders."""
    backlog_max = int(venue.plan.settings["TRADEENGINE_SETTLEMENT_BACKLOG_EVENTS_MAX"])

    def is_full(wiring: Wiring) -> bool:
        heads = enumerate(ring.head for ring in _event_rings(wiring))
        return sum(head - settled_sequence(wiring, shard) for shard, head in heads) >= backlog_max

    _blow(venue, seed, is_full)


class Lap:
    """Whoever reads events without holding anybody back stands still while a storm blows, until it is lapped."""

    def draw(self, chance: random.Random, shape: Shape) -> Strike:
        """Draw whom, and the storm's seed."""
        names = [name for name in shape.actors if name.startswith(("publisher", "front"))]
        return Strike("laps", (chance.choice(names),), point=str(chance.randrange(10**6)))

    async def strike(self, venue: Venue, strike: Strike) -> None:
        """Stop it, and let it go on when the events that it has not read are gone."""
        await venue.wait_well()
        pid = await venue.pid_of(strike.targets[0])
        os.kill(pid, signal.SIGSTOP)
        try:
            with suppress(ClientError):
                await run(lambda: _blow_round(venue, int(strike.point)))
                venue.findings.other["laps"] += 1
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _blow_round(venue: Venue, seed: int) -> None:
    """Let a storm blow until a shard's ring was written anew from end to end."""
    ends: list[int] = []

    def is_round(wiring: Wiring) -> bool:
        rings = _event_rings(wiring)
        ends[:] = ends or [ring.head + ring.capacity for ring in rings]
        return any(ring.head > end for ring, end in zip(rings, ends, strict=True))

    _blow(venue, seed, is_round)


def _blow(venue: Venue, seed: int, is_enough: Callable[[Wiring], bool]) -> None:
    """Send orders of accounts that nobody else uses, until it is enough, or long enough. Raises ClientError."""
    with connect_database(venue.engine) as connection:
        accounts = [resolve_account(connection, name, accounts_max=ACCOUNTS_MAX) for name in STORM_USERS]
    with open_client(venue.data_dir) as wiring:
        deadline_s = time.monotonic() + BLOW_S_MAX
        storm = Storm(venue.engine, LocalClient(wiring), accounts, seed)
        storm.run_until(lambda: is_enough(wiring) or time.monotonic() > deadline_s, *SYMBOLS)


def _event_rings(wiring: Wiring) -> list[Ring]:
    return [wiring.ring(f"events.{shard}") for shard in range(wiring.shard_count)]


class SecondEngine:
    """Another engine on the same directory, or on the same database: it must refuse, and the first one not notice."""

    def draw(self, chance: random.Random, _shape: Shape) -> Strike:
        """Draw which of the two is shared."""
        return Strike("second", point=chance.choice(("directory", "database")))

    async def strike(self, venue: Venue, strike: Strike) -> None:
        """Start it, and see it refuse."""
        await venue.wait_well()
        other = venue.data_dir.parent / "second"
        arguments = {
            "directory": ["--data-dir", str(venue.data_dir)],
            "database": ["--data-dir", str(other), "--dsn", venue.engine.dsn],
        }[strike.point]
        result = await run(lambda: _start_second(arguments, venue.environment, venue.data_dir.parent))
        venue.findings.other[f"second engine on the same {strike.point}"] += 1
        if (
            result.returncode == 0
            or "Traceback" in result.stderr
            or not any(words in result.stderr for words in REFUSALS)
        ):
            words = f"{result.returncode}: {result.stderr or result.stdout}"
            venue.findings.wrong.append(f"a second engine on the same {strike.point} ended with {words}")


def _start_second(arguments: list[str], environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, "up", "--port", "0", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env={**os.environ, **environment},
        check=False,
    )


def struck_names() -> set[str]:
    """Give the names of all processes and points that can be struck."""
    actors = Shape(shards=2, fronts=2, wallet=True).actors
    points = {f"{role}.{name}" for role, names in POINTS.items() for name in names}
    return {*actors, ZYGOTE, OPERATOR, ENGINE, OUTSIDE, *points}


register("kill", 10, Kill())
register("together", 2, KillTogether())
register("crash", 6, Crash())
register("stop", 2, Stop(seconds_max=60.0))
register("rings", 0.3, FullRings())
register("laps", 0.3, Lap())
register("second", 0.3, SecondEngine())
