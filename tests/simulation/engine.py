"""The simulated engine: memory, disk and database around the actors, and who works when.

An actor works when a schedule says so. In the middle of its round, at each crash point and wherever it waits, it may
die, others may work before it goes on, or the whole machine may die: the frame of its round says, from its own seed.

Rule 1: nothing here decides what an actor does. Rule 2: everything comes from seeds: the same seed gives the same run.
Rule 3: who works in the middle of another's round ends its own round first, or dies.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import psycopg
import structlog
from tests.simulation import database as simulated_database
from tests.simulation.actors import Actor, Failed, Killed, Matcher, Publisher, Risk, Settlement, Shadow
from tests.simulation.audit import Audit
from tests.simulation.clients import Clients
from tests.simulation.database import Database
from tests.simulation.machine import Clock, Disk, Memory

from tradeengine.actors import matcher, preparing, risk, risk_gates, settlement, settlement_feed, shadow
from tradeengine.actors.matcher_recovery import Place
from tradeengine.actors.matching import KERNEL_VERSION
from tradeengine.core.book import BookLimits
from tradeengine.core.records import CommandKind, TradingState, command_dtype, event_dtype, symbol_command_dtype
from tradeengine.core.risk import RiskLimits
from tradeengine.core.tables import accounts_dtype, balances_dtype, level_request_dtype, levels_dtype, touch_dtype
from tradeengine.ipc import metrics, ring, seqlock
from tradeengine.ipc.atomics import store_word
from tradeengine.ipc.layout import layout_checksum
from tradeengine.ipc.metric_names import ROLE_METRICS
from tradeengine.ipc.metrics import MetricPage
from tradeengine.ipc.ring import ReaderSpec, Ring, RingWriter
from tradeengine.ipc.seqlock import SeqlockTable
from tradeengine.ipc.wiring import REFUSALS
from tradeengine.storage import journal, settle, snapshots
from tradeengine.storage.journal_format import JournalFailed
from tradeengine.storage.settle import RISK_SHARD

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

WITH_CRASH_POINTS: Final = (matcher, risk, settlement, settlement_feed, settle, journal)
WITH_CLOCK: Final = (matcher, risk_gates, settlement, settlement_feed, journal, shadow, preparing)
WITH_LOGS: Final = (matcher, preparing, risk, settlement, shadow)
WITH_FILES: Final = (journal, snapshots)
WITH_MEMORY: Final = (ring, seqlock, metrics)
DEPTH_MAX: Final = 3
"""Rounds that may stand one in the middle of another."""


class Sizes:
    """What the simulated engine has room for: little, so that limits are met."""

    INGRESS: Final = ("ingress.front-0", "ingress.front-1", "ingress.settlement", "ingress.operator", "ingress.admin-0")
    FRONTS: Final = (0, 1)
    SETTLEMENT: Final = 2
    OPERATOR: Final = 3
    ADMIN: Final = 4
    shards = 2
    accounts_max, assets_max, symbols_max = 20, 3, 2
    orders_max = 40
    levels_max = 12
    ingress_slots, command_slots, event_slots, answer_slots = 16, 16, 64, 64
    reserve_slots = 3
    backlog_max = 40
    batch_max = 6
    settle_max = 40
    segment_bytes = 4096 + 2560
    risk = RiskLimits(
        accounts_max=accounts_max,
        assets_max=assets_max,
        symbols_max=symbols_max,
        orders_max=orders_max * shards,
        client_ids_max=400,
        open_orders_max=30,
        shards=shards,
        amends_max=command_slots * shards,
    )

    def __init__(self, random: Random | None = None) -> None:
        """Take the usual ones, or some of them otherwise, as a seed says."""
        if random is None:
            return
        self.command_slots = random.choice((8, 16, 16))
        self.event_slots = random.choice((16, 64, 64))
        self.answer_slots = random.choice((8, 64))
        self.backlog_max = random.choice((10, 40))
        self.batch_max = random.choice((1, 3, 6))
        self.settle_max = random.choice((5, 40))
        self.segment_bytes = 4096 + random.choice((640, 2560, 8192))


class MachineDied(BaseException):
    """The whole machine died, in the middle of whatever was going on."""


@dataclass
class Frame:
    """One round of an actor: what happens to it on the way."""

    actor: str
    random: Random
    dies_at: int = 0
    """The so manieth point at which it dies; 0: none."""
    dies_after: bool = False
    others_work: float = 0.0
    """How probably others work at a point."""
    machine_dies_at: int = 0
    """The same, with the whole machine."""
    points: int = 0


@dataclass
class Counts:
    """What happened in a run, or in many."""

    schedules: int = 0
    steps: int = 0
    rounds: int = 0
    deaths: int = 0
    machine_deaths: int = 0
    engine_deaths: int = 0
    commands: int = 0
    events: int = 0
    trades: int = 0
    database_faults: int = 0
    disk_faults: int = 0

    def add(self, other: Counts) -> None:
        """Add another's counts."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class Engine:
    """Everything. ``tell`` hears what happens, word by word."""

    shards = Sizes.shards

    def __init__(self, root: Path, tell: Callable[[str], None] | None = None, random: Random | None = None) -> None:
        """Begin with nothing. random: decides on the sizes."""
        self.tell = tell
        self.sizes = Sizes(random)
        self.counts = Counts(schedules=1)
        self.clock = Clock(lambda: self.pause("sleep"))
        self.disk = Disk(root, _kill)
        self._places = [self._place(shard) for shard in range(self.shards)]
        for shard in range(self.shards):
            self.disk.make_folder(self.place(shard).journal_dir)
            self.disk.make_folder(self.place(shard).snapshot_dir)
        self.database = Database(symbols(self.shards), self.shards)
        self.audit = Audit(self)
        self.matchers = [Matcher(self, shard) for shard in range(self.shards)]
        self.risk = Risk(self, "risk")
        self.publisher = Publisher(self, "publisher")
        actors: list[Actor] = [self.risk, *self.matchers, Settlement(self, "settlement"), self.publisher]
        self.actors = {actor.name: actor for actor in [*actors, Shadow(self, "shadow")]}
        self.stack: list[Frame] = []
        self._restore: list[tuple[Any, str, Any]] = []
        self.install()
        self.open_memory()
        self.clients = Clients(self)

    def place(self, shard: int) -> Place:
        """Where a shard's files are."""
        return self._places[shard]

    def _place(self, shard: int) -> Place:
        limits = BookLimits(
            self.sizes.orders_max, self.sizes.symbols_max, self.sizes.levels_max, self.sizes.accounts_max, shard
        )
        folder = self.disk.root / str(shard)
        return Place(folder / "journal", folder / "snapshots", self.sizes.segment_bytes, limits, KERNEL_VERSION)

    def open_memory(self) -> None:
        """Make rings and tables as the supervisor does at a start: at the settled cursors, behind the journals."""
        sizes = self.sizes
        settings = SimpleNamespace(
            engine=SimpleNamespace(shards=self.shards),
            data_dir=self.disk.root,
            journal_dir=lambda shard: self.place(shard).journal_dir,
        )
        first = preparing._first_sequences(cast("Any", settings), dict(self.database.rows.cursors), sizes.INGRESS)
        gate = [ReaderSpec("risk", gating=True), ReaderSpec("settlement", gating=True)]
        follow = [ReaderSpec("publisher", gating=False)]

        def make(name: str, dtype: Any, slots: int, readers: list[ReaderSpec]) -> Ring:
            return Ring.create(name, dtype, slots, readers, first.get(name, 0))

        self.ingress = [make(name, command_dtype, sizes.ingress_slots, gate[:1]) for name in sizes.INGRESS]
        shards, behind = range(self.shards), [ReaderSpec("matcher", gating=True)]
        self.commands = [make(f"commands.{shard}", command_dtype, sizes.command_slots, behind) for shard in shards]
        self.events = [make(f"events.{shard}", event_dtype, sizes.event_slots, gate + follow) for shard in shards]
        self.own_events = make("events.risk", event_dtype, sizes.answer_slots, gate[1:])
        self.refusals = make(REFUSALS, event_dtype, sizes.answer_slots, [])
        self.balances = SeqlockTable.create("balances", balances_dtype(sizes.assets_max), sizes.accounts_max)
        self.accounts = SeqlockTable.create("accounts", accounts_dtype, sizes.accounts_max)
        self.touch = AuditedTable.create("touch", touch_dtype, sizes.symbols_max)
        self.touch.audit = self.audit
        self.levels = [SeqlockTable.create(f"levels.{s}", levels_dtype(sizes.levels_max), 1) for s in shards]
        self.requests = [SeqlockTable.create(f"level_requests.{s}", level_request_dtype, 1) for s in shards]
        self.audit.begin_memory({RISK_SHARD: first["events.risk"]} | {s: first[f"events.{s}"] for s in shards})

    def writer(self, of: Ring) -> RingWriter:
        """Give a ring's writer, whose publications the audit sees."""
        made = AuditedWriter(of, {})
        made.audit, made.pause = self.audit, self.pause
        return made

    def page(self, role: str) -> MetricPage:
        """Give a metric page, which nobody looks at."""
        if role not in _pages:
            names = ROLE_METRICS[role]
            _pages[role] = MetricPage.create(role, role, names.counters, names.gauges, names.histograms)
        return _pages[role]

    def run(self, name: str, random: Random, *, stops: bool = False, **terms: Any) -> int:
        """Let an actor work, or start when it is dead; give how much it did.

        stops: a matcher ends in order. terms: of its frame.
        """
        actor, frame = self.actors[name], Frame(name, random, **terms)
        self.stack.append(frame)
        self.counts.rounds += 1
        done = 1
        self.say(f"{name} {'works' if actor.is_alive else 'starts'}")
        try:
            if actor.is_alive and stops:
                actor.stop()
            elif actor.is_alive:
                done = actor.work()
            else:
                actor.start()
                actor.is_alive = True
            if frame.dies_after:
                self._bury(actor, "after its round")
        except Killed as death:
            self._bury(actor, str(death))
        except psycopg.OperationalError as error:
            self.say(f"{name}: {error}")
            if not actor.is_alive:
                actor.die()
        except (JournalFailed, OSError) as failure:
            self._bury(actor, str(failure))
        except Exception as error:
            raise Failed(f"{name}: {type(error).__name__}: {error}") from error
        finally:
            self.stack.pop()
        return done

    def is_at_work(self, name: str) -> bool:
        """Whether an actor stands in the middle of a round."""
        return any(frame.actor == name for frame in self.stack)

    def pause(self, point: str, *, must: bool = False) -> None:
        """Pass a point in the middle of a round: to die there, or let others work. must: others have to work."""
        if not self.stack:
            return
        frame = self.stack[-1]
        frame.points += 1
        if frame.points == frame.dies_at:
            raise Killed(point)
        if frame.points == frame.machine_dies_at:
            self.say(f"the machine dies at {point}")
            raise MachineDied(point)
        if must and len(self.stack) >= DEPTH_MAX + 1:
            raise Killed(f"{point}: too many stand in the middle of a round")
        if must or (frame.random.random() < frame.others_work and len(self.stack) < DEPTH_MAX):
            idle = [name for name in self.actors if not self.is_at_work(name)]
            name = frame.random.choice(idle)
            self.say(f"  at {point}:")
            self.run(name, Random(frame.random.getrandbits(32)), others_work=frame.others_work)

    def die(self, random: Random, *, loses: bool) -> None:
        """Let all processes die, and start anew. loses: the machine dies with them, and what was not synced is lost."""
        for actor in self.actors.values():
            actor.die()
        if loses:
            self.counts.machine_deaths += 1
            self.disk.crash(random)
        else:
            self.counts.engine_deaths += 1
        self.say("the machine starts anew" if loses else "the engine starts anew")
        self.open_memory()
        self.clients.open_rings()

    def has_arrived(self) -> bool:
        """Whether nothing is on its way any more: no record, no deposit, no setting, and nobody is dead."""
        rings = (*self.ingress, *self.commands, *self.events, self.own_events)
        readers = (reader for each in rings for reader in each.statistics().readers if reader.gating)
        rows = self.database.rows
        return (
            all(actor.is_alive for actor in self.actors.values() if actor.name != "shadow")
            and not any(reader.lag for reader in readers)
            and all(row["status"] != "pending" for row in rows.fundings.values())
            and int(self.accounts.read(0)["version"]) == rows.settings_version
        )

    def say(self, text: str) -> None:
        """Tell what happens, when somebody listens."""
        if self.tell is not None:
            self.tell("  " * max(0, len(self.stack) - 1) + text)

    def _bury(self, actor: Actor, where: str) -> None:
        self.say(f"{actor.name} dies: {where}")
        self.counts.deaths += 1
        actor.die()

    def install(self) -> None:
        """Put the simulated machine in the place of the real one, for all modules that are simulated."""

        def put(module: Any, name: str, value: Any) -> None:
            self._restore.append((module, name, getattr(module, name)))
            setattr(module, name, value)

        for module in WITH_CRASH_POINTS:
            put(module, "crash_point", self.pause)
        for module in WITH_CLOCK:
            put(module, "time", self.clock)
        for module in WITH_LOGS:
            put(module, "logger", _silence)
        for module in WITH_FILES:
            put(module, "FileOperations", lambda: self.disk)
        for module in WITH_MEMORY:
            put(module, "Segment", Memory)
        for module in (ring, seqlock):
            put(module, "layout_checksum", _layout_checksum)
        for name in ("pending_commands", "pending_settings", "count_pending"):
            put(settlement_feed, name, getattr(simulated_database, name))

    def close(self) -> None:
        """Give the real machine back."""
        for actor in self.actors.values():
            actor.die()
        self.disk.close()
        for module, name, value in reversed(self._restore):
            setattr(module, name, value)
        # Everything here knows everything else: taken apart, its memory is given back at once.
        for part in (*self.actors.values(), self.audit, self.clients, self):
            vars(part).clear()


class AuditedWriter(RingWriter):
    """A writer whose publications the audit sees, at the moment at which everybody may."""

    audit: Audit
    pause: Callable[[str], None]

    def publish(self, records: Any) -> None:
        """Publish, and be looked at; who dies on the way leaves slots that are claimed and written, and not shown."""
        try:
            self.pause(f"{self.ring.name}.publish")
        except BaseException:
            if len(records) <= self.free():
                store_word(self.ring.claim_address, self.head + len(records))
                whole = self.ring.view(self.head, len(records))
                whole[:] = records[: len(whole)]
            raise
        super().publish(records)
        self.audit.look_at_published(self.ring.name, records)


class AuditedTable(SeqlockTable):
    """A table into which nothing may come that is not durable."""

    audit: Audit

    def write_rows(self, indices: Any, records: Any) -> None:
        """Be looked at, and write."""
        super().write_rows(indices, records)
        for shard in set(records["shard"].tolist()):
            self.audit.look_at_durable(shard, "the touch table")


def _kill() -> None:
    raise Killed("in a write")


_pages: dict[str, MetricPage] = {}
_layout_checksum = cache(layout_checksum)
_silence = structlog.wrap_logger(
    None, processors=[], wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
)


def symbols(shards: int) -> NDArray[np.void]:
    """One symbol for each shard, of its own base asset against asset 0."""
    made = np.zeros(shards, symbol_command_dtype)
    made["kind"] = CommandKind.LIST_SYMBOL
    made["symbol_id"] = made["shard"] = np.arange(shards)
    made["base_asset_id"] = 1 + np.arange(shards)
    made["tick_lot_units"], made["lot_units"] = 7, 10
    made["quantity_lots_min"], made["quantity_lots_max"] = 1, 500
    made["price_ticks_max"], made["notional_units_min"] = 10_000, 100
    made["maker_fee_ppm"], made["taker_fee_ppm"], made["collar_ppm"] = 500, 1000, 100_000
    made["trading_state"] = TradingState.OPEN
    made["quote_places"] = 2
    return made
