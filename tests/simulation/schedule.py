"""A schedule: what happens in which order, made from a seed; how it is run, and how it is made shorter when it fails.

A schedule is a list of steps, and each step has its own seed for whatever is decided within it. So steps can be left
out and the others stay what they were. When all steps are done everything recovers, everything that was asked is
answered, and the audit looks.
"""

from __future__ import annotations

import copy
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from tests.simulation.actors import Failed
from tests.simulation.clients import ACCOUNTS
from tests.simulation.engine import Counts, Engine, MachineDied, symbols

from tradeengine.core.records import command_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.simulation.database import Rows

STEPS: Final = 80
ROUNDS_MAX: Final = 150
"""Rounds of all actors within which everything must have arrived at the end."""
ROUND_NS: Final = 1_100_000_000
"""Longer than settlement waits before it looks for what nobody announced."""
WEIGHTS: Final = {
    "ask": 30,
    "repeat": 4,
    "administer": 2,
    "risk": 16,
    "matcher-0": 10,
    "matcher-1": 10,
    "settlement": 12,
    "publisher": 5,
    "shadow": 4,
    "time": 3,
    "fund": 3,
    "settings": 1,
    "database": 2,
    "disk": 2,
    "stop": 1,
    "machine": 1,
}
NS_PER_MS: Final = 10**6
HOUR_NS: Final = 3600 * 10**9


@dataclass(frozen=True)
class Step:
    """One step: what, and the seed of all that is decided within it."""

    kind: str
    seed: int


@dataclass(frozen=True)
class Result:
    """How a run ended. ``failure``: which promise was broken, empty: none."""

    seed: int
    failure: str
    counts: Counts


def steps_of(seed: int) -> list[Step]:
    """Make the steps of a seed."""
    random = Random(seed)
    kinds = random.choices(list(WEIGHTS), list(WEIGHTS.values()), k=random.choice((STEPS // 4, STEPS, STEPS)))
    return [Step(kind, random.getrandbits(32)) for kind in kinds]


def run(
    seed: int,
    keep: Sequence[int] | None = None,
    tell: Callable[[str], None] | None = None,
    root: Path | None = None,
) -> Result:
    """Run the schedule of a seed, or only those of its steps that are to be kept."""
    steps, root = steps_of(seed), root or _root()
    if not _stored:
        _stored.append(_list_and_fund(root.with_suffix(".begin")))
    engine = Engine(root, tell, Random(~seed))
    try:
        failure = _fails(engine, [steps[at] for at in (range(len(steps)) if keep is None else keep)])
        return Result(seed, failure, engine.counts)
    finally:
        engine.close()


def shorten(seed: int, failure: str, runs_max: int = 400) -> list[int]:
    """Leave out steps as long as the same promise is broken; give the places of those that are needed."""
    keep = list(range(len(steps_of(seed))))
    size = len(keep) // 2
    while size and runs_max > 0:
        for start in range(0, len(keep), size):
            fewer = keep[:start] + keep[start + size :]
            runs_max -= 1
            if _same(run(seed, fewer).failure, failure):
                keep = fewer
                break
        else:
            size //= 2
    return keep


def _same(one: str, other: str) -> bool:
    """Whether two failures are about the same, whatever the numbers are."""
    return bool(one) and [c for c in one if not c.isdigit()][:40] == [c for c in other if not c.isdigit()][:40]


def _fails(engine: Engine, steps: Sequence[Step]) -> str:
    try:
        _begin(engine)
        for number, step in enumerate(steps):
            engine.counts.steps += 1
            engine.say(f"--- {number} {step.kind}")
            _take(engine, step)
        _end(engine)
    except Failed as failed:
        cause = failed.__cause__
        return str(failed) + (f" (at {_place_of(cause)})" if cause is not None else "")
    return ""


def _begin(engine: Engine) -> None:
    """Start all actors on what was stored when the symbols were listed and everyone had got money."""
    (stored,) = _stored
    engine.database.rows = copy.deepcopy(stored.rows)
    for path, content in stored.files.items():
        engine.disk.store(engine.disk.root / path, content)
    for shard, seen in stored.seen.items():
        engine.audit.seen[shard] = bytearray(seen)
    engine.open_memory()
    engine.clients.open_rings()
    random = Random(0)
    for name in ("matcher-0", "matcher-1", "risk", "settlement", "publisher", "shadow"):
        engine.run(name, random)


@dataclass(frozen=True)
class Stored:
    """What every schedule begins with."""

    rows: Rows
    files: dict[Path, bytes]
    seen: dict[int, bytes]


_stored: list[Stored] = []


def _list_and_fund(root: Path) -> Stored:
    """List the symbols and give everyone money, in an engine of its own."""
    engine = Engine(root)
    for account_id in ACCOUNTS:
        for asset_id in range(engine.sizes.assets_max):
            engine.database.request_funding(account_id, asset_id, 150_000 if asset_id == 0 else 2_000)
    for symbol in symbols(engine.shards):
        engine.clients.send(symbol[None].view(command_dtype), engine.sizes.OPERATOR)
    for _ in range(6):
        engine.clock.pass_by(ROUND_NS)
        for name in ("matcher-0", "matcher-1", "risk", "settlement"):
            engine.run(name, Random(0))
    rows = engine.database.rows
    assert all(row["status"] == "settled" for row in rows.fundings.values())
    assert all(row["listed"] for row in rows.symbols.values())
    seen = {shard: bytes(events) for shard, events in engine.audit.seen.items()}
    files = {path.relative_to(root): path.read_bytes() for path in root.rglob("*.journal")}
    engine.close()
    return Stored(rows, files, seen)


def _take(engine: Engine, step: Step) -> None:
    random = Random(step.seed)
    engine.clock.pass_by(random.choice((1_000, 100_000, 5 * NS_PER_MS)))
    try:
        if step.kind in engine.actors:
            _work(engine, step.kind, random)
        else:
            _ACTIONS[step.kind](engine, random)
    except MachineDied:
        engine.die(random, loses=True)


def _work(engine: Engine, name: str, random: Random) -> None:
    chance = random.random()
    at = min(random.randint(1, 7), random.randint(1, 7))
    dies_at = at if chance < 0.12 else 0
    engine.run(
        name,
        random,
        dies_at=dies_at,
        dies_after=0.12 <= chance < 0.14,
        others_work=random.choice((0.0, 0.0, 0.25)),
        machine_dies_at=at if 0.14 <= chance < 0.2 else 0,
    )


def _let_time_pass(engine: Engine, random: Random) -> None:
    engine.clock.pass_by(random.choice((NS_PER_MS, 1_000 * NS_PER_MS, 400_000 * NS_PER_MS)))
    if random.random() < 0.2:
        engine.clock.now_ns += random.choice((-HOUR_NS, HOUR_NS))


def _fund(engine: Engine, random: Random) -> None:
    asset_id = random.randrange(engine.sizes.assets_max)
    amount_units = random.choice((1, -1)) * random.randint(1, 60_000 if asset_id == 0 else 1_500)
    engine.database.request_funding(random.choice(ACCOUNTS), asset_id, amount_units)


def _set_account(engine: Engine, random: Random) -> None:
    suspended = random.random() < 0.2
    engine.database.set_account(
        random.choice(ACCOUNTS), suspended=suspended, open_orders_max=random.choice((-1, -1, 3, 20))
    )


def _disturb_database(engine: Engine, random: Random) -> None:
    engine.counts.database_faults += 1
    if random.random() < 0.3:
        engine.database.away = not engine.database.away
    else:
        engine.database.breaks = random.randint(1, 9)


def _disturb_disk(engine: Engine, random: Random) -> None:
    engine.counts.disk_faults += 1
    engine.disk.fails = random.choice(("write", "sync", "short", "kill", "space"))
    engine.disk.cut_at = random.getrandbits(16)


def _stop_matcher(engine: Engine, random: Random) -> None:
    engine.run(random.choice(engine.matchers).name, random, stops=True, dies_at=random.choice((0, 0, 3)))


def _end_machine(engine: Engine, random: Random) -> None:
    engine.die(random, loses=random.random() < 0.7)


_ACTIONS: Final[dict[str, Callable[[Engine, Random], None]]] = {
    "ask": lambda engine, random: engine.clients.ask(random),
    "repeat": lambda engine, random: engine.clients.repeat(random),
    "administer": lambda engine, random: engine.clients.ask_as_administrator(random),
    "time": _let_time_pass,
    "fund": _fund,
    "settings": _set_account,
    "database": _disturb_database,
    "disk": _disturb_disk,
    "stop": _stop_matcher,
    "machine": _end_machine,
}


def _end(engine: Engine) -> None:
    """Let everything arrive, and look at it."""
    engine.database.away, engine.database.breaks, engine.disk.fails = False, 0, ""
    random = Random(0)
    before: tuple[int, ...] = ()
    for _ in range(ROUNDS_MAX):
        engine.clock.pass_by(ROUND_NS)
        for name in ("matcher-0", "matcher-1", "risk", "settlement", "risk", "settlement"):
            engine.run(name, random)
        done = engine.run("publisher", random) + engine.clients.repeat_unknown()
        now = _positions(engine)
        if now == before and not done and engine.has_arrived():
            break
        before = now
    else:
        raise Failed(f"after {ROUNDS_MAX} rounds of all actors not everything has arrived")
    for _ in range(2):
        engine.run("shadow", random)
    engine.audit.finish()


def _positions(engine: Engine) -> tuple[int, ...]:
    """Give every head and cursor: when none of them moves any more, everything has arrived."""
    rings = (*engine.ingress, *engine.commands, *engine.events, engine.own_events)
    return tuple(
        position for ring in rings for position in (ring.head, *(reader.cursor for reader in ring.statistics().readers))
    )


def _place_of(error: BaseException) -> str:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return f"{Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}" if last is not None else "?"


def _root() -> Path:
    """Where the disk's folder is: in memory, where there is such a place."""
    memory = Path("/dev/shm")
    return Path(memory if memory.is_dir() else tempfile.gettempdir()) / f"tradeengine-simulation-{os.getpid()}"
