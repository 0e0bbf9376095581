"""A shard on a bench: real rings and tables, a journal in a folder, and order flow made from a seed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tradeengine.actors.matcher import MatcherDuty, snapshot_header
from tradeengine.actors.matcher_events import EventOutlet
from tradeengine.actors.matcher_recovery import Place, Recovered, recover
from tradeengine.actors.matcher_tables import MatcherTables
from tradeengine.actors.matching import KERNEL_VERSION
from tradeengine.actors.steady import SteadyClock
from tradeengine.core.book import BookLimits, dump
from tradeengine.core.ids import make_order_id
from tradeengine.core.records import (
    SYMBOL_ID_ALL,
    CommandKind,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
    command_dtype,
    event_dtype,
    symbol_command_dtype,
)
from tradeengine.core.tables import level_request_dtype, levels_dtype, touch_dtype
from tradeengine.ipc.metric_names import ROLE_METRICS
from tradeengine.ipc.metrics import MetricPage
from tradeengine.ipc.ring import ReaderSpec, Ring, RingReader, RingWriter
from tradeengine.ipc.seqlock import SeqlockTable
from tradeengine.storage.snapshots import write_snapshot

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARD = 2
SYMBOLS = 3
LIMITS = BookLimits(orders_max=4096, symbols_max=8, levels_max=512, accounts_max=64, shard=SHARD)
# Far from now, so that the wall clock expires nothing and every run is the same.
START_MS = 2_850_000_000_000
SEGMENT_BYTES = 64 << 10


def listings() -> NDArray[np.void]:
    """Give the commands that list the symbols, without collar."""
    commands = np.zeros(SYMBOLS, dtype=symbol_command_dtype)
    commands["kind"] = CommandKind.LIST_SYMBOL
    commands["timestamp_ns"] = START_MS * 10**6
    commands["symbol_id"] = np.arange(SYMBOLS)
    commands["tick_lot_units"] = 1
    commands["lot_units"] = 1
    commands["quantity_lots_min"] = 1
    commands["quantity_lots_max"] = 10**6
    commands["price_ticks_max"] = 10**6
    commands["base_asset_id"] = 1 + np.arange(SYMBOLS)
    commands["maker_fee_ppm"] = 500
    commands["taker_fee_ppm"] = 1000
    commands["trading_state"] = 1
    commands["shard"] = SHARD
    return commands.view(command_dtype)


def flow(seed: int, count: int) -> NDArray[np.void]:
    """Make order flow of every kind, timers too: ``count`` commands behind the listings."""
    random = np.random.default_rng(seed)
    commands = np.zeros(count, dtype=command_dtype)
    number = np.arange(count)
    roll = random.random(count)
    commands["kind"] = CommandKind.PLACE
    commands["timestamp_ns"] = (START_MS + number) * 10**6
    commands["account_id"] = random.integers(16, 40, count)
    commands["symbol_id"] = random.integers(0, SYMBOLS, count)
    commands["order_id"] = [make_order_id(START_MS + int(n), SHARD, 0, 0) for n in number]
    commands["side"] = random.integers(0, 2, count)
    commands["order_type"] = OrderType.LIMIT
    commands["time_in_force"] = TimeInForce.GTC
    commands["self_trade_prevention"] = SelfTradePrevention.CANCEL_TAKER
    commands["quantity_lots"] = random.integers(1, 50, count)
    offset = random.integers(-15, 40, count)
    commands["price_ticks"] = 1000 + np.where(commands["side"] == Side.BUY, -offset, offset)
    commands["client_order_id"] = [b"c%d" % n for n in number]
    commands["time_in_force"][roll < 0.1] = TimeInForce.IOC
    gtd = (roll >= 0.1) & (roll < 0.2)
    commands["time_in_force"][gtd] = TimeInForce.GTD
    commands["expires_at_ns"][gtd] = commands["timestamp_ns"][gtd] + random.integers(1, 60, gtd.sum()) * 500_000
    stops = (roll >= 0.2) & (roll < 0.25)
    commands["order_type"][stops] = OrderType.STOP
    commands["stop_price_ticks"][stops] = random.integers(980, 1020, stops.sum())
    commands["price_ticks"][stops] = 0
    timers = (roll >= 0.25) & (roll < 0.3)
    commands["kind"][timers] = CommandKind.CANCEL_ALL_AFTER
    commands["symbol_id"][timers] = SYMBOL_ID_ALL
    ends = commands["timestamp_ns"] + random.integers(1, 200, count) * 500_000
    commands["expires_at_ns"][timers] = np.where(random.random(count) < 0.2, 0, ends)[timers]
    commands["hold_units"] = np.where(commands["side"] == Side.BUY, 10**9, commands["quantity_lots"])
    cancels = (roll >= 0.7) & (number > 10)
    for index in np.flatnonzero(cancels):
        target = int(random.integers(0, index))
        commands[index] = commands[target]
        commands["kind"][index] = CommandKind.CANCEL
        commands["timestamp_ns"][index] = (START_MS + index) * 10**6
    return np.concatenate([listings(), commands])


@dataclass
class Bench:
    """The rings and tables of one shard, which live on when its matcher dies. ``settled``: where the ring opens."""

    directory: Path
    settled: int = 0
    first_ring_sequence: int = 0
    command_slots: int = 2048
    event_slots: int = 8192
    limits: BookLimits = LIMITS
    kernel_version: int = KERNEL_VERSION
    engine_mark: int = 0
    commands: Ring = field(init=False)
    events: Ring = field(init=False)
    risk: RingWriter = field(init=False)
    readers: list[RingReader] = field(init=False)
    metrics: MetricPage = field(init=False)

    def __post_init__(self) -> None:
        self.commands = Ring.create(
            "commands", command_dtype, self.command_slots, [ReaderSpec("matcher", True)], self.first_ring_sequence
        )
        specs = [ReaderSpec("risk", True), ReaderSpec("settlement", True)]
        self.events = Ring.create("events", event_dtype, self.event_slots, specs, self.settled)
        self.risk = self.commands.writer()
        self.readers = [self.events.reader(spec.name) for spec in specs]
        names = ROLE_METRICS["matcher"]
        self.metrics = MetricPage.create("matcher", "matcher", names.counters, names.gauges, names.histograms)
        self.touch = SeqlockTable.create("touch", touch_dtype, self.limits.symbols_max)
        self.levels = SeqlockTable.create("levels", levels_dtype(self.limits.levels_max), 1)
        self.requests = SeqlockTable.create("requests", level_request_dtype, 1)

    @property
    def place(self) -> Place:
        """Where journal and snapshots are."""
        return Place(
            self.directory / "journal",
            self.directory / "snapshots",
            SEGMENT_BYTES,
            self.limits,
            self.kernel_version,
            self.engine_mark,
        )

    def feed(self, commands: NDArray[np.void]) -> None:
        """Write commands as risk does, with their positions in the ring."""
        numbered = commands.copy()
        numbered["ring_sequence"] = np.arange(self.risk.head, self.risk.head + len(commands))
        self.risk.publish(numbered)

    def take(self) -> NDArray[np.void]:
        """Read all published events as risk does; settlement follows when asked to."""
        taken = [np.empty(0, dtype=event_dtype)]
        while self.readers[0].available():
            batch = self.readers[0].poll(4096)
            taken.append(batch.copy())
            self.readers[0].advance(len(batch))
        return np.concatenate(taken)

    def settle(self, sequence: int) -> None:
        """Say that PostgreSQL has all events before ``sequence``."""
        self.readers[1].seek(sequence)


@dataclass
class Shard:
    """A running matcher on a bench."""

    bench: Bench
    recovered: Recovered
    duty: MatcherDuty

    def run(self) -> None:
        """Do rounds until there is nothing to do."""
        while self.duty():
            pass

    def snapshot(self) -> None:
        """Write a snapshot of the book as it stands."""
        matching = self.recovered.matching
        header = snapshot_header(matching, self.bench.place, self.recovered.journal.next_ring_sequence)
        write_snapshot(self.bench.place.snapshot_dir, header, dump(matching.book))

    def die(self) -> None:
        """Leave everything as a killed process does: only its files' descriptors are closed."""
        self.recovered.journal.close()


def start(bench: Bench, *, batch_max: int = 64, **options: Any) -> Shard:
    """Recover the bench's shard and make it ready to go on."""
    outlet = EventOutlet(bench.events.writer(), options.pop("wait", None) or (lambda: make_room(bench)))
    commands = bench.commands.reader("matcher")
    settled = bench.events.statistics().readers[1].cursor
    recovered = recover(bench.place, settled, outlet, commands, lambda: None)
    tables = MatcherTables(recovered.matching.book, bench.touch, bench.levels, bench.requests)
    tables.write_all()
    # Commands here are of years to come: what is not asked for by one of them shall not happen by itself.
    options = {"clock": SteadyClock(time.time_ns, lambda: 0), **options}
    duty = MatcherDuty(
        commands, recovered.journal, recovered.matching, outlet, tables, bench.metrics, batch_max=batch_max, **options
    )
    return Shard(bench, recovered, duty)


def make_room(bench: Bench) -> None:
    """Let both gating readers catch up; time passes for nobody else."""
    for reader in bench.readers:
        reader.advance(reader.available())


def reference(directory: Path, commands: NDArray[np.void]) -> NDArray[np.void]:
    """Give the events of an uninterrupted run."""
    bench = Bench(directory / "reference")
    shard = start(bench)
    taken = run_all(shard, commands)
    shard.die()
    return taken


def run_all(shard: Shard, commands: NDArray[np.void], portion: int = 200) -> NDArray[np.void]:
    """Feed commands in portions and run after each; gives all their events."""
    taken = []
    for first in range(0, len(commands), portion):
        shard.bench.feed(commands[first : first + portion])
        shard.run()
        taken.append(shard.bench.take())
        shard.bench.settle(shard.bench.events.head)
    return np.concatenate(taken)


def now_ns() -> int:
    """UTC now."""
    return time.time_ns()
