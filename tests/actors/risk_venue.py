"""Risk between real rings, a real database and real books, all in one process, each moved by hand.

Risk is killed by an exception at one of its crash points: what it had published by then stays in the rings, everything
else is gone with it, as when a process dies.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from tradeengine.actors import risk as risk_actor
from tradeengine.actors.risk_gates import Gates
from tradeengine.actors.risk_restart import restart
from tradeengine.actors.risk_rings import RiskRings, rights_of
from tradeengine.core import book as kernel
from tradeengine.core.records import CommandKind, EventKind, command_dtype, event_dtype
from tradeengine.core.risk import RiskLimits, RiskState, make_outbox, make_risk
from tradeengine.core.risk_state import MISMATCH_COUNT, OPEN
from tradeengine.core.risk_worth import traded_units
from tradeengine.core.symbols import SymbolSpec
from tradeengine.core.tables import accounts_dtype, balances_dtype, touch_dtype
from tradeengine.ipc.metric_names import ROLE_METRICS
from tradeengine.ipc.metrics import MetricPage
from tradeengine.ipc.ring import ReaderSpec, Ring
from tradeengine.ipc.seqlock import SeqlockTable
from tradeengine.storage.account_settings import change as change_settings
from tradeengine.storage.account_settings import pending_settings
from tradeengine.storage.directory import add_asset, add_symbol, resolve_account
from tradeengine.storage.funding import FundingKind, pending_commands, request_funding
from tradeengine.storage.recovery import load_risk_recovery
from tradeengine.storage.settle import RISK_SHARD, Settler

Records = np.ndarray[Any, np.dtype[np.void]]

SHARDS = 2
SLOTS = 1024
ACCOUNTS_MAX, ASSETS_MAX, SYMBOLS_MAX = 32, 4, 4
INGRESS = ("ingress.front-0", "ingress.settlement", "ingress.operator", "ingress.admin-0")
FRONT, SETTLEMENT, OPERATOR, ADMIN = range(4)
QUOTE, FIRST_BASE = 0, 1


class Killed(BaseException):
    """Risk died at a crash point."""


class RiskVenue:
    """Two shards, a symbol on each. ``alice`` and ``bob`` have accounts."""

    def __init__(self, dsn: str) -> None:
        """Open the database and everything else, and list the symbols."""
        self.dsn = dsn
        self.connection = psycopg.connect(dsn, autocommit=True)
        quote = add_asset(self.connection, "QQQ", 2, assets_max=ASSETS_MAX)
        self.specs = [self._add_symbol(quote, shard) for shard in range(SHARDS)]
        self.alice = resolve_account(self.connection, "alice", accounts_max=ACCOUNTS_MAX)
        self.bob = resolve_account(self.connection, "bob", accounts_max=ACCOUNTS_MAX)
        self.settler = Settler(psycopg.connect(dsn), SHARDS)
        limits = [kernel.BookLimits(256, SYMBOLS_MAX, 64, ACCOUNTS_MAX, shard) for shard in range(SHARDS)]
        self.books = [kernel.make_book(limit) for limit in limits]
        self.published: list[list[Records]] = [[] for _ in range(SHARDS)]
        self.all_answers: list[Records] = []
        self.all_commands: list[Records] = []
        self._references = 0
        self.crash_at = ""
        self.open_rings()
        self.start()
        self.ask(
            np.concatenate([spec.to_command(CommandKind.LIST_SYMBOL).view(command_dtype) for spec in self.specs]),
            OPERATOR,
        )
        self.arrive()

    def _add_symbol(self, quote: Any, shard: int) -> SymbolSpec:
        base = add_asset(self.connection, f"B{shard}", 2, assets_max=ASSETS_MAX)
        spec = SymbolSpec(shard, base, quote, 3, 10, 10_000, 1, 100_000, 10, 500, 1000, 100_000, shard)
        return add_symbol(self.connection, spec, symbols_max=SYMBOLS_MAX).spec

    def open_rings(self) -> None:
        """Make all rings anew, as the supervisor does: at the settled cursors, behind the journals."""
        gate = [ReaderSpec("risk", gating=True), ReaderSpec("settlement", gating=True)]
        now_ns = time.time_ns()
        self.ingress = [Ring.create(name, command_dtype, 256, gate[:1], now_ns) for name in INGRESS]
        self.ingress_writers = [ring.writer() for ring in self.ingress]
        matcher = [ReaderSpec("matcher", gating=True)]
        self.commands = [
            Ring.create(f"commands.{shard}", command_dtype, SLOTS, matcher, kernel.last_ring_sequence(book) + 1)
            for shard, book in enumerate(self.books)
        ]
        self.command_readers = [ring.reader("matcher") for ring in self.commands]
        cursors = self.settler.cursors
        self.events = [
            Ring.create(f"events.{shard}", event_dtype, SLOTS, gate, cursors[shard]) for shard in range(SHARDS)
        ]
        self.event_writers = [ring.writer() for ring in self.events]
        self.own_events = Ring.create("events.risk", event_dtype, SLOTS, gate[1:], cursors[RISK_SHARD])
        self.refusals = Ring.create("refusals", event_dtype, SLOTS, [])
        rings = {RISK_SHARD: self.own_events} | dict(enumerate(self.events))
        self.settlement_readers = {shard: ring.reader("settlement") for shard, ring in rings.items()}
        self.balances = SeqlockTable.create("balances", balances_dtype(ASSETS_MAX), ACCOUNTS_MAX)
        self.accounts = SeqlockTable.create("accounts", accounts_dtype, ACCOUNTS_MAX)
        self.touch = SeqlockTable.create("touch", touch_dtype, SYMBOLS_MAX)
        self.fed_number = self.fed_version = 0
        # What the journals hold beyond the settled cursors comes out again.
        for shard, published in enumerate(self.published):
            events = np.concatenate([*published, np.zeros(0, event_dtype)])
            self.event_writers[shard].publish(events[events["sequence"] >= cursors[shard]].copy())

    def restart_engine(self) -> None:
        """Lose all memory: what was never journaled is gone."""
        self.open_rings()
        self.start()

    def start(self, salvaged: Sequence[Records] = ()) -> None:
        """Start risk, as a new process would. salvaged: what the journals of shards that are given up hold."""
        self.risk: RiskState = make_risk(RiskLimits(ACCOUNTS_MAX, ASSETS_MAX, SYMBOLS_MAX, 500, 1000, 400, SHARDS))
        rings = RiskRings(
            ingress=tuple(ring.reader("risk") for ring in self.ingress),
            rights=tuple(rights_of(name) for name in INGRESS),
            commands=tuple(ring.writer() for ring in self.commands),
            events=tuple(ring.reader("risk") for ring in self.events),
            own_events=self.own_events.writer(),
            refusals=self.refusals.writer(),
            administrators=frozenset({ADMIN}),
        )
        taken = restart(self.risk, rings, lambda: load_risk_recovery(self.dsn, 1000), lambda: True, lambda _: salvaged)
        outbox = make_outbox(SHARDS, SYMBOLS_MAX, rings.batch_count_max)
        role = ROLE_METRICS["risk"]
        page = MetricPage.create("metrics", "risk", role.counters, role.gauges, role.histograms)
        tables = risk_actor.RiskTables(self.risk, self.balances, self.accounts, self.touch)
        tables.repair()
        gates = Gates(self.events, outbox, SLOTS, Path("/"), 0, self.commands)
        self.duty = risk_actor.RiskDuty(self.risk, rings, outbox, tables, gates, page, taken, reserve=16)

    def crash_point(self, name: str) -> None:
        """Stand in for the real one: die where the test says."""
        if name == self.crash_at:
            raise Killed(name)

    def ask(self, commands: Records, ring: int = FRONT) -> int:
        """Write commands into an ingress ring; gives the sequence of the first."""
        sequence = self.ingress_writers[ring].head
        stamped = commands.copy()
        stamped["timestamp_ns"] = time.time_ns()
        self.ingress_writers[ring].publish(stamped)
        return sequence

    def decide(self) -> bool:
        """Let risk go round; False when it was killed on the way, and it is started anew."""
        own_rings = (self.own_events, self.refusals)
        answers, heads = [ring.head for ring in own_rings], [ring.head for ring in self.commands]
        alive = True
        try:
            self.duty()
        except Killed:
            alive, self.crash_at = False, ""
        published = [ring.slots(head, ring.head - head) for ring, head in zip(own_rings, answers, strict=True)]
        self.all_answers.append(np.concatenate(published))
        for ring, head in zip(self.commands, heads, strict=True):
            self.all_commands.append(ring.slots(head, ring.head - head))
        if not alive:
            self.start()
        assert self.risk.scalars[MISMATCH_COUNT] == 0
        return alive

    def match(self, shard: int, count: int = SLOTS, *, advance: bool = True) -> None:
        """Let a matcher work on its next commands; without ``advance`` it dies before it passes them."""
        reader = self.command_readers[shard]
        book, buffer = self.books[shard], np.zeros(4096, event_dtype)
        for command in reader.poll(count).copy():
            if command["ring_sequence"] > kernel.last_ring_sequence(book):
                index, written = kernel.apply(book, np.array([command]), kernel.next_command_sequence(book), 0, buffer)
                assert index == 1
                self.published[shard].append(buffer[:written].copy())
                self.event_writers[shard].publish(buffer[:written].copy())
            if advance:
                reader.advance(1)
        self.touch.write(shard, kernel.touch(book, shard))

    def settle(self, count: int = SLOTS) -> None:
        """Let settlement commit the next events of every ring, risk's first."""
        for shard in (RISK_SHARD, *range(SHARDS)):
            events = self.settlement_readers[shard].poll(count)
            if len(events):
                self.settler.settle({shard: events.copy()})
                self.settlement_readers[shard].advance(len(events))

    def request(self, account_id: int, asset_id: int, amount_units: int) -> None:
        """Ask for a deposit, or a withdrawal (below 0)."""
        self._references += 1
        kind = FundingKind.DEPOSIT if amount_units > 0 else FundingKind.WITHDRAWAL
        request_funding(
            self.connection,
            kind,
            reference=str(self._references),
            account_id=account_id,
            asset_id=asset_id,
            amount_units=abs(amount_units),
        )

    def set_account(self, account_id: int, **settings: Any) -> None:
        """Change some settings of an account."""
        change_settings(self.connection, account_id, **settings)

    def feed(self) -> None:
        """Let settlement feed risk with what is pending, and with settings that have changed."""
        settings = pending_settings(self.connection, self.fed_version, 100)
        if len(settings):
            self.ask(settings.view(command_dtype), SETTLEMENT)
            self.fed_version = int(settings["version"][-1])
        commands = pending_commands(self.connection, self.fed_number, 100)
        if len(commands):
            self.ask(commands.view(command_dtype), SETTLEMENT)
            self.fed_number = int(commands["funding_number"][-1])

    def arrive(self) -> None:
        """Let everything arrive that is on its way, and be settled."""
        self.feed()
        for _ in range(2):
            self.decide()
            for shard in range(SHARDS):
                self.match(shard)
        self.decide()
        self.settle()
        self.settle()

    def total(self, account_id: int, asset_id: int) -> int:
        """Balance as risk has it."""
        return int(self.risk.balances[account_id, asset_id, 0])

    def held(self, account_id: int, asset_id: int) -> int:
        """Tell what orders hold, as risk has it."""
        return int(self.risk.balances[account_id, asset_id, 1])

    def assert_whole(self) -> None:
        """Everything has arrived: risk, its table, the books and the database say the same."""
        stored = self.connection.execute("SELECT account_id, asset_id, total_units FROM balances").fetchall()
        expected = np.zeros((ACCOUNTS_MAX, ASSETS_MAX), np.int64)
        for account_id, asset_id, total_units in stored:
            expected[account_id, asset_id] = total_units
        assert np.array_equal(self.risk.balances[:, :, 0], expected)
        held = np.zeros((ACCOUNTS_MAX, ASSETS_MAX), np.int64)
        live = self.connection.execute(
            "SELECT account_id, symbol_id, side::text, hold_units FROM orders WHERE closed_at IS NULL"
        )
        for account_id, symbol_id, side, hold_units in live:
            held[account_id, QUOTE if side == "buy" else FIRST_BASE + symbol_id] += hold_units
        assert np.array_equal(self.risk.balances[:, :, 1], held)
        self._assert_volumes()
        self._assert_settings()
        users = self.risk.balances[3:]
        assert (users[:, :, 1] >= 0).all()
        assert (users[:, :, 0] >= users[:, :, 1]).all()
        rows = self.balances.read_rows(range(ACCOUNTS_MAX))["units"]
        assert np.array_equal(rows[3:], users)
        assert sum(kernel.order_count(book) for book in self.books) == int(self.risk.open_orders.sum())

    def _assert_settings(self) -> None:
        """Each row of the table of accounts shows what PostgreSQL has."""
        rows = self.accounts.read_rows(range(ACCOUNTS_MAX))
        stored = self.connection.execute(
            "SELECT account_id, version, suspended::int, keys_version FROM account_settings"
        )
        expected = np.zeros((ACCOUNTS_MAX, 3), np.int64)
        for account_id, *settings in stored:
            expected[account_id] = settings
        expected[0, 0] = expected[:, 0].max()
        assert np.array_equal(np.stack([rows[name] for name in ("version", "flags", "keys_version")], axis=1), expected)

    def _assert_volumes(self) -> None:
        """Risk's sums of what accounts could trade and have traded are those of the orders and trades on record."""
        could, traded = np.zeros(ACCOUNTS_MAX, np.int64), np.zeros(ACCOUNTS_MAX, np.int64)
        live = self.connection.execute(
            "SELECT account_id, symbol_id, remaining_lots * greatest(price_ticks, stop_price_ticks) FROM orders "
            "WHERE closed_at IS NULL"
        )
        for account_id, symbol_id, lots_ticks in live:
            could[account_id] += int(lots_ticks) * self.specs[symbol_id].tick_lot_units
        assert np.array_equal(self.risk.worth[QUOTE, :, OPEN], could)
        newest = self.connection.execute("SELECT max(executed_at) FROM trades").fetchone()
        if newest is None or newest[0] is None:
            return
        day = int(newest[0].timestamp()) // 86_400
        trades = self.connection.execute(
            "SELECT taker_account_id, maker_account_id, notional_units FROM trades "
            "WHERE executed_at >= to_timestamp(%s::bigint * 86400)",
            (day,),
        )
        for taker_id, maker_id, notional_units in trades:
            traded[[taker_id, maker_id]] += notional_units
        known = [traded_units(self.risk, account_id, QUOTE, day) for account_id in range(ACCOUNTS_MAX)]
        assert np.array_equal(known, traded)
        assert not self.risk.worth[FIRST_BASE:].any()

    def assert_each_once(self) -> None:
        """Each command of an ingress ring was forwarded or answered once, and no order id was given twice."""
        commands, answers = np.concatenate(self.all_commands), np.concatenate(self.all_answers)
        fan_out = (commands["kind"] == CommandKind.CANCEL_ALL) & (commands["symbol_id"] == -1)
        names = [
            (int(r["ingress_ring"]), int(r["ingress_sequence"]))
            for r in (*commands[~fan_out], *answers[answers["kind"] != EventKind.FUNDING_REFUSED])
        ]
        assert len(set(names)) == len(names)
        order_ids = commands["order_id"][commands["kind"] == CommandKind.PLACE]
        assert len(np.unique(order_ids)) == len(order_ids)

    def close(self) -> None:
        """Close the connections."""
        self.settler.close()
        self.connection.close()
