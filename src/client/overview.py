"""What administrators may see of a running engine: actors, health, figures, books, queues, stream clients."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from msgspec import Struct

from tradeengine.client.pages import Pages
from tradeengine.client.transport import Transport


class ActorRing(Struct, frozen=True, kw_only=True):
    """An actor at a ring. access: write, gate, follow. head: records written; lag: waiting for this actor, of gates."""

    name: str
    access: str
    capacity: int
    head: int
    lag: int | None


class ActorLatency(Struct, frozen=True, kw_only=True):
    """How long an actor took in the last minute, for what ``of`` says: command, settle, publish, request."""

    of: str
    count: int
    p50_ms: float
    p99_ms: float


class Actor(Struct, frozen=True, kw_only=True):
    """A process of the engine. Totals count from the engine's start; None: not measured."""

    name: str
    role: str
    pid: int
    state: str
    message: str
    restarts: int
    uptime_seconds: float
    heartbeat_age_seconds: float | None
    busy_seconds: float | None
    records_in: int
    records_out: int
    errors: int
    latency: ActorLatency | None
    rings: list[ActorRing]


class Component(Struct, frozen=True, kw_only=True):
    """A part of the engine. status: healthy, degraded, unhealthy."""

    status: str
    message: str
    latency_ms: float | None
    details: dict[str, Any]


class HealthDetails(Struct, frozen=True, kw_only=True):
    """How the engine is. status: unhealthy when orders are not accepted, degraded when any part is not healthy."""

    status: str
    version: str
    uptime_seconds: float
    components: dict[str, Component]


class Performance(Struct, frozen=True, kw_only=True):
    """How fast the engine worked in the window, and how much it has done since its start; by part."""

    window_seconds: float
    error_count: int
    matching_engine: dict[str, float]
    order_book: dict[str, float]
    settlement: dict[str, float]
    websocket: dict[str, float]
    http: dict[str, float]


class Metrics(Struct, frozen=True, kw_only=True):
    """Everything that actors count and measure, and every ring."""

    error_count: int
    actors: list[dict[str, Any]]
    rings: list[dict[str, Any]]


class BookStats(Struct, frozen=True, kw_only=True):
    """One symbol's book; None: a side is empty, nothing was traded, or nobody knows."""

    symbol: str
    shard: int
    status: str
    sequence: int
    orders: int | None
    bid_levels: int
    ask_levels: int
    best_bid: Decimal | None
    best_ask: Decimal | None
    spread: Decimal | None
    last_price: Decimal | None
    bid_depth: Decimal
    ask_depth: Decimal
    updated_at: datetime | None


class ShardQueue(Struct, frozen=True, kw_only=True):
    """What waits in one ring. shard: None for risk's own events."""

    shard: int | None
    ring: str
    capacity: int
    cursor: int
    head: int
    backlog: int
    backlog_seconds: float


class SettlementQueue(Struct, frozen=True, kw_only=True):
    """What has happened and is not in PostgreSQL yet."""

    state: str
    message: str
    queue_size: int
    queue_seconds: float
    queue_size_max: int
    pending_trades: int
    pending_fundings: int
    events_per_second: float
    errors: int
    shards: list[ShardQueue]


class StreamConnection(Struct, frozen=True, kw_only=True):
    """One stream client. user: None while it has not said who it is."""

    id: str
    front: int
    user: str | None
    address: str
    since: datetime
    encoding: str
    channels: list[str]
    channel_count: int
    queued_bytes: int
    messages: int


class OverviewCalls:
    """A part of ``Client``, for administrators. Nothing here changes anything."""

    _transport: Transport

    async def actors(self) -> list[Actor]:
        """Look at every process of the engine; rates come of two looks."""
        return await self._transport.call(list[Actor], "GET", "/admin/actors")

    async def health_details(self) -> HealthDetails:
        """Look at each part of the engine."""
        return await self._transport.call(HealthDetails, "GET", "/admin/health/detailed")

    async def performance(self) -> Performance:
        """Ask for rates, averages and percentiles of the last minute."""
        return await self._transport.call(Performance, "GET", "/admin/performance")

    async def stats(self) -> dict[str, Any]:
        """Ask what the engine has done since its start."""
        return await self._transport.call(dict[str, Any], "GET", "/admin/stats")

    async def metrics(self) -> Metrics:
        """Ask for everything that actors count and measure."""
        return await self._transport.call(Metrics, "GET", "/admin/metrics")

    async def settlement_queue(self) -> SettlementQueue:
        """Ask what settlement has yet to do."""
        return await self._transport.call(SettlementQueue, "GET", "/admin/settlement/queue")

    def book_stats(self, *, page_size: int = 500) -> Pages[BookStats]:
        """List the books, in the order in which their symbols were listed."""
        return self._transport.pages(list[BookStats], "/admin/orderbook/stats", {"limit": page_size})

    def stream_connections(self, *, page_size: int = 500) -> Pages[StreamConnection]:
        """List the stream clients of all fronts, newest first."""
        return self._transport.pages(list[StreamConnection], "/admin/websocket/connections", {"limit": page_size})
