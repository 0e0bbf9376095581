"""A front on real rings and tables, in this process; the engine behind it is scripted by each test."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import trio
from quart_trio.testing import TrioClient
from tests.web.fake_database import FakeDatabase

from tradeengine.actors.memory import Memory
from tradeengine.actors.publishing.trading_states import TradingStates
from tradeengine.actors.topology import plan
from tradeengine.core.feed import TimeFrame
from tradeengine.core.records import EventFlag, EventKind, Reason, TradingState, event_dtype
from tradeengine.core.symbols import AssetSpec, SymbolSpec
from tradeengine.core.tables import ActorState, touch_dtype
from tradeengine.core.trading import Trading
from tradeengine.ipc.directory import write_directory
from tradeengine.ipc.handoff import close_descriptors
from tradeengine.ipc.ring import Ring
from tradeengine.ipc.wiring import Wiring
from tradeengine.settings import Settings
from tradeengine.settings_files import load_settings
from tradeengine.storage.api_keys import find_key
from tradeengine.storage.candles import Candle
from tradeengine.storage.depth_snapshots import StoredDepth
from tradeengine.storage.queries import OrderRow, TradeRow
from tradeengine.storage.statement import Place, StatementRow
from tradeengine.storage.statistics import DAY_MS, Day, Sums
from tradeengine.web.api_keys import ApiKeys
from tradeengine.web.app import FrontApp, create_app
from tradeengine.web.audit_trail import AuditTrail
from tradeengine.web.auth import issue_token
from tradeengine.web.errors import ApiError
from tradeengine.web.front import Front
from tradeengine.web.serve import assemble

SECRET = "a secret of the tests that is long enough to sign with"
ACCOUNT_ID = 16
Records = np.ndarray[Any, np.dtype[np.void]]

BTC, USDT = AssetSpec(0, "BTC", 8), AssetSpec(1, "USDT", 6)
BTC_USDT = SymbolSpec.from_decimals(
    symbol_id=0,
    base=BTC,
    quote=USDT,
    tick="0.01",
    lot="0.0001",
    price_max="1000000.00",
    quantity_min="0.0001",
    quantity_max="1000",
    min_notional="5",
    max_price_deviation="0.10",
    maker_fee="0.0005",
    taker_fee="0.001",
    shard=0,
)


SMALL = {
    "limits.accounts_max": 64,
    "limits.assets_max": 4,
    "limits.symbols_max": 4,
    "limits.levels_max": 64,
    "limits.clients_max": 0,
    "rings.ingress_slots": 16,
    "rings.commands_slots": 64,
    "rings.reserve_slots": 8,
    "rings.events_slots": 64,
    "rings.risk_events_slots": 64,
    "settlement.backlog_events_max": 32,
}
"""Settings of an engine that takes little memory."""


def small_settings() -> Settings:
    """Make a small engine's settings, with short waits."""
    return load_settings(
        overrides={
            **SMALL,
            "http.command_timeout_ms": 200,
            "http.barrier_timeout_ms": 200,
            "http.body_bytes_max": 4096,
            "auth.secret": SECRET,
            "keys.master": SECRET,
            "keys.signatures_max": 4096,
        },
        environ={},
    )


@dataclass
class FakeHistory:
    """History in memory, for a front without PostgreSQL."""

    contents: dict[int, OrderRow] = field(default_factory=dict)
    fills: list[TradeRow] = field(default_factory=list)
    depths: list[StoredDepth] = field(default_factory=list)
    bars: list[Candle] = field(default_factory=list)
    entries: list[StatementRow] = field(default_factory=list)
    last_day: Day = field(default_factory=lambda: Day(0, DAY_MS, Sums()))
    failure: ApiError | None = None
    asked: dict[str, Any] = field(default_factory=dict)

    async def wait_folded(self) -> None:
        """Nothing to wait for."""
        await trio.lowlevel.checkpoint()

    async def order(self, _account_id: int, order_id: int) -> OrderRow | None:
        """Look at one order."""
        if self.failure is not None:
            raise self.failure
        return self.contents.get(order_id)

    async def orders(self, _account_id: int, **filters: Any) -> list[OrderRow]:
        """List orders, newest first."""
        self.asked = filters
        before_id = filters["before_id"] or 2**63 - 1
        found = [content for order_id, content in sorted(self.contents.items(), reverse=True) if order_id < before_id]
        return found[: filters["limit"]]

    async def order_by_client_id(self, _account_id: int, client_order_id: str) -> OrderRow | None:
        """Look at one order."""
        assert "\0" not in client_order_id, "PostgreSQL has no such text"
        return next((c for c in self.contents.values() if c.client_order_id == client_order_id), None)

    async def trades_of_order(self, order_id: int, limit: int) -> list[TradeRow]:
        """List fills."""
        return [trade for trade in self.fills if order_id in {trade.taker_order_id, trade.maker_order_id}][:limit]

    async def count_trades_of_order(
        self, order_id: int, first_sequence: int = 0, last_sequence: int = 2**63 - 1
    ) -> int:
        """Count fills."""
        fills = await self.trades_of_order(order_id, len(self.fills))
        return sum(first_sequence <= trade.sequence <= last_sequence for trade in fills)

    async def public_trades(self, _symbol_id: int, **filters: Any) -> list[TradeRow]:
        """List trades."""
        self.asked = filters
        return self.fills[: filters["limit"]]

    async def past_trades(self, _symbol_id: int, **filters: Any) -> list[TradeRow]:
        """List trades, oldest first."""
        self.asked = filters
        return [trade for trade in self.fills if trade.trade_id > (filters["after_id"] or 0)][: filters["limit"]]

    async def candles(self, _symbol_id: int, time_frame: TimeFrame, **filters: Any) -> list[Candle]:
        """List candles."""
        self.asked = {"time_frame": time_frame, **filters}
        return self.bars[: filters["limit"]]

    async def day(self, _symbol_id: int) -> Day:
        """Add up a day."""
        return self.last_day

    async def own_trades(self, account_id: int, _symbol_id: int | None, **_filters: Any) -> list[TradeRow]:
        """List trades."""
        return [t for t in self.fills if account_id in {t.taker_account_id, t.maker_account_id}]

    async def wait_settled(self) -> None:
        """Nothing to wait for."""
        await trio.lowlevel.checkpoint()

    async def statement(self, _account_id: int, **filters: Any) -> tuple[list[StatementRow], Place | None]:
        """Give the entries there are, and, with the place asked for, an end."""
        self.asked = filters
        return self.entries, None if filters["below"] else Place(1 << 40, 1, went_out=True)

    async def settlement_statuses(self, _trade_ids: Sequence[int]) -> dict[int, str]:
        """All are settled."""
        return {}

    async def stored_depth(self, symbol_id: int, at_ns: int | None) -> StoredDepth | None:
        """Look for the newest stored depth, the oldest first in ``depths``."""
        found = [
            depth
            for depth in self.depths
            if depth.symbol_id == symbol_id and (at_ns is None or depth.taken_ms * 1_000_000 <= at_ns)
        ]
        return found[-1] if found else None

    async def trade(self, trade_id: int) -> TradeRow | None:
        """Look at one trade."""
        return next((trade for trade in self.fills if trade.trade_id == trade_id), None)


class FakeAccounts:
    """Two accounts."""

    async def id_of(self, name: str) -> int:
        """Look up a name."""
        return {"alice": ACCOUNT_ID, "bob": ACCOUNT_ID + 1}[name]

    async def find(self, name: str, _as_of: int | None = None) -> int | None:
        """Look up a name that may not exist."""
        return {"alice": ACCOUNT_ID, "bob": ACCOUNT_ID + 1}.get(name)


@dataclass
class Bench:
    """A front, what it is joined to, and the commands that it sent."""

    memory: Memory
    front: Front
    app: FrontApp
    history: FakeHistory
    database: FakeDatabase
    commands: list[np.void] = field(default_factory=list)

    @property
    def client(self) -> TrioClient:
        """A client without a token."""
        return self.app.test_client()  # type: ignore[return-value]

    def show_state(self, state: TradingState, reason: str = "", sequence: int = 0) -> None:
        """Write what matcher and publisher show of BTC/USDT's trading state."""
        touch = np.zeros(1, touch_dtype)[0]
        touch["sequence"], touch["trading_state"], touch["listed"] = sequence, state, 1
        self.memory.tables["touch"].write(0, touch)
        trading = Trading(state, sequence, 10**18, reason or None, None)
        TradingStates(self.memory.tables["trading_states"]).put(0, trading)

    @asynccontextmanager
    async def engine(self, answer: Callable[[np.void], list[tuple[str, Records]]]) -> AsyncIterator[None]:
        """Run the front's gateway, and an engine that publishes what ``answer`` says to each command."""
        writers = {name: self.memory.rings[name].writer(_bells(self.memory)) for name in ("events.0", "refusals")}
        rings = [self.memory.rings[name].reader("risk") for name in ("ingress.admin-0", "ingress.front-0")]
        bell = self.memory.bells["risk"]

        async def serve() -> None:
            while True:
                await bell.wait_trio(1.0, lambda: any(ingress.available() > 0 for ingress in rings))
                for ingress in rings:
                    for command in ingress.poll_copy().copy():
                        self.commands.append(command)
                        for ring, events in answer(command):
                            writers[ring].publish(events)
                        ingress.advance(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.front.run)
            nursery.start_soon(serve)
            yield
            nursery.cancel_scope.cancel()


def make_bench() -> Bench:
    """Make a front on real rings with one symbol, BTC/USDT, and an engine that is all ready."""
    settings = small_settings()
    memory = Memory(plan(settings), settings, {})
    handoff = memory.handoff(memory.topology.actor("front-0"))
    front = assemble(Wiring(handoff))
    history, database = FakeHistory(), FakeDatabase()
    front.history = history  # type: ignore[assignment]
    front.accounts = FakeAccounts()  # type: ignore[assignment]
    front.database = database  # type: ignore[assignment]
    folder = TemporaryDirectory()
    front.audit = AuditTrail(Path(folder.name), "front-0", front.database, front.audit.redaction, front.metrics)
    front.api_keys = ApiKeys(
        front.api_keys.vault,
        front.api_keys.guard,
        lambda key_id: database.run(find_key, key_id),
        front.in_force.keys_version,
    )
    write_directory(memory.tables["directory"], 1, [BTC, USDT], [BTC_USDT])
    memory.tables["accounts"].write(0, (0, 0, 0))
    for row, actor in enumerate(memory.topology.actors):
        memory.tables["actors"].write(row, (actor.name.encode(), b"", 1, ActorState.READY, 0, 0, 0))
    bench = Bench(memory, front, create_app(front), history, database)
    # A front's process would end with them; here the next hundred benches come.
    weakref.finalize(bench, close_descriptors, handoff)
    weakref.finalize(bench, folder.cleanup)
    return bench


def bearer(name: str = "alice", role: str = "user") -> dict[str, str]:
    """Make a header with a good token."""
    return {"Authorization": f"Bearer {issue_token(SECRET.encode(), name, role, 3600)}"}


def make_event(command: np.void, kind: EventKind, ring: Ring, **fields: Any) -> Records:
    """Make one event of a command, for the head of a ring, the last of its command unless told otherwise."""
    events = np.zeros(1, event_dtype)
    event = events[0]
    event["sequence"] = ring.head
    event["ingress_ring"] = command["ingress_ring"]
    event["ingress_sequence"] = command["ingress_sequence"]
    event["timestamp_ns"] = command["timestamp_ns"]
    event["account_id"] = command["account_id"]
    event["symbol_id"] = command["symbol_id"]
    event["kind"] = kind
    event["flags"] = EventFlag.LAST_OF_COMMAND
    for name, value in fields.items():
        event[name] = value
    return events


def make_order_event(command: np.void, kind: EventKind, ring: Ring, order_id: int, **fields: Any) -> Records:
    """Make an event that carries the whole order of a PLACE command."""
    same = ("client_order_id", "side", "order_type", "time_in_force", "self_trade_prevention")
    numbers = ("price_ticks", "stop_price_ticks", "quantity_lots", "expires_at_ns")
    content = {name: command[name] for name in (*same, *numbers)}
    content |= {"order_id": order_id, "remaining_lots": command["quantity_lots"]}
    return make_event(command, kind, ring, **(content | fields))


def refuse(command: np.void, ring: Ring, reason: Reason) -> Records:
    """Make what risk publishes for a command that it does not take."""
    return make_event(command, EventKind.REFUSED, ring, reason=reason)


def _bells(memory: Memory) -> dict[int, Any]:
    places = memory.topology.doorbells
    return {places[name]: bell for name, bell in memory.bells.items()}
