"""What administrators see of the running engine; the rules are those of ``schemas``.

What is not money is a JSON number here. Totals count from the engine's start, over restarts of single actors.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

from tradeengine.web.fields import Id, PriceText, QuantityText, SymbolName, Time
from tradeengine.web.schemas import LIMIT_DEFAULT, LIMIT_MAX, answer_of

ActorStateName: TypeAlias = Literal[
    "stopped", "starting", "ready", "stalled", "restarting", "blocked", "failed", "stopping"
]


class ActorRing(Struct, frozen=True, kw_only=True):
    """An actor at a ring."""

    name: str
    access: Annotated[
        Literal["write", "gate", "follow"],
        Meta(description="gate: it must not miss anything and holds the writer back; follow: it may be overtaken."),
    ]
    capacity: Annotated[int, Meta(description="Records that the ring holds.")]
    head: Annotated[int, Meta(description="Records written since the engine's start.")]
    lag: Annotated[int | None, Meta(description="gate: records written and not yet passed by this actor; else null.")]


class ActorLatency(Struct, frozen=True, kw_only=True):
    """How long one actor took for what it does, in the last minute; percentiles are at most one sixteenth too high."""

    of: Annotated[
        str,
        Meta(
            description="What was measured. command: from risk's time stamp to its published events; settle: to their "
            "commit; publish: from an event to the page that shows it; request: from its arrival to its answer."
        ),
    ]
    count: int
    p50_ms: float
    p99_ms: float


class Actor(Struct, frozen=True, kw_only=True):
    """A process of the engine. ``operator`` is the supervisor, ``database`` the embedded PostgreSQL."""

    name: str
    role: str
    pid: Annotated[int, Meta(description="0: there is no process now.")]
    state: ActorStateName
    message: Annotated[str, Meta(description="Why it is blocked, failed or being started again.")]
    restarts: int
    uptime_seconds: Annotated[float, Meta(description="Of the present process.")]
    heartbeat_age_seconds: Annotated[float | None, Meta(description="null: it has none, or does not run.")]
    busy_seconds: Annotated[
        float | None, Meta(description="Time that it worked, in all: its growth per second is its utilisation.")
    ]
    records_in: Annotated[int, Meta(description="Records that it has taken from rings, or dealt with.")]
    records_out: Annotated[int, Meta(description="Records that it has written into its rings.")]
    errors: int
    latency: Annotated[ActorLatency | None, Meta(description="null: it does nothing of the kind, or did not lately.")]
    rings: list[ActorRing]


ActorsAnswer = answer_of("ActorsAnswer", list[Actor])


P50: TypeAlias = Annotated[float, Meta(description="Half of them took at most so long.")]
P99: TypeAlias = Annotated[float, Meta(description="99 % of them took at most so long.")]
P999: TypeAlias = Annotated[float, Meta(description="99.9 % of them took at most so long.")]
Average: TypeAlias = Annotated[float, Meta(description="In the window, in milliseconds; 0: there was none.")]


class MatchingPerformance(Struct, frozen=True, kw_only=True):
    """Matching, all shards together. Latency: from risk's time stamp on a command to its published events."""

    orders_placed: Annotated[int, Meta(description="Since the start: that reached a book, rejected ones included.")]
    trades_executed: Annotated[int, Meta(description="Since the start.")]
    throughput_per_sec: Annotated[float, Meta(description="Commands per second, in the window.")]
    avg_latency_ms: Average
    p50_ms: P50
    p99_ms: P99
    p999_ms: P999


class BookPerformance(Struct, frozen=True, kw_only=True):
    """The books. Latency: from a book's last event to the page that shows it."""

    active_orders: Annotated[int, Meta(description="Live orders, stops that wait included.")]
    total_symbols: int
    open_symbols: Annotated[int, Meta(description="Of these, the ones that trade.")]
    avg_publish_ms: Average
    p50_ms: P50
    p99_ms: P99
    p999_ms: P999


class SettlementPerformance(Struct, frozen=True, kw_only=True):
    """Settlement. Latency: from risk's time stamp on a command to the commit of its events."""

    queue_size: Annotated[int, Meta(description="Events that are published and not committed yet.")]
    pending_trades: Annotated[int, Meta(description="Of these, trades.")]
    success_rate: Annotated[
        float, Meta(description="Share of transactions that were committed at once, in the window; 1: there was none.")
    ]
    avg_settlement_ms: Average
    p50_ms: P50
    p99_ms: P99
    p999_ms: P999


class WebSocketPerformance(Struct, frozen=True, kw_only=True):
    """Streams of all fronts. Latency: from risk's time stamp on a command to its message being on its way."""

    total_connections: int
    messages_per_second: Annotated[float, Meta(description="Counted once for each client that gets it; in the window.")]
    avg_latency_ms: Average
    p50_ms: P50
    p99_ms: P99
    p999_ms: P999


class HttpPerformance(Struct, frozen=True, kw_only=True):
    """Requests at all fronts. Latency: from a request's arrival to its answer."""

    requests_per_second: float
    avg_latency_ms: Average
    p50_ms: P50
    p99_ms: P99
    p999_ms: P999


class Performance(Struct, frozen=True, kw_only=True):
    """How fast the engine works, and how much it has done."""

    window_seconds: Annotated[
        float, Meta(description="Averages, rates and percentiles are of so long before the answer, about a minute.")
    ]
    error_count: Annotated[int, Meta(description="Failures of all actors since the start.")]
    matching_engine: MatchingPerformance
    order_book: BookPerformance
    settlement: SettlementPerformance
    websocket: WebSocketPerformance
    http: HttpPerformance


class Stats(Struct, frozen=True, kw_only=True):
    """What the engine has done since its start, and what there is now."""

    version: str
    started_at: Time
    uptime_seconds: float
    shards: int
    fronts: int
    error_count: Annotated[int, Meta(description="Failures of all actors since the start.")]
    restarts: Annotated[int, Meta(description="How often an actor was started again.")]
    commands: Annotated[int, Meta(description="Taken by risk: orders, cancels, amends, deposits, settings.")]
    commands_refused: int
    orders_placed: Annotated[int, Meta(description="That reached a book, rejected ones included.")]
    orders_active: int
    trades_executed: int
    events_settled: int
    trades_settled: int
    fundings_settled: Annotated[int, Meta(description="Deposits and withdrawals brought to their end.")]
    symbols: int
    assets: int
    requests: Annotated[int, Meta(description="HTTP requests answered.")]
    requests_failed: Annotated[int, Meta(description="Of these, with a status of 500 or more.")]
    requests_limited: Annotated[int, Meta(description="Of these, with 429.")]
    connections: Annotated[int, Meta(description="Open now, streams included.")]
    stream_clients: int
    stream_messages: int
    journal_bytes: Annotated[int, Meta(description="Appended to the journals.")]
    memory_bytes: Annotated[int, Meta(description="Rings and tables in shared memory.")]


class Distribution(Struct, frozen=True, kw_only=True):
    """What was measured, in the unit that the name ends in."""

    count: int
    mean: float
    p50: int
    p99: int
    p999: int
    max: int


class ActorMetrics(Struct, frozen=True, kw_only=True):
    """One actor's metric page since the engine's start. Names end in their units, before their labels."""

    actor: str
    role: str
    counters: dict[str, int]
    gauges: dict[str, int]
    histograms: dict[str, Distribution]


class RingMetrics(Struct, frozen=True, kw_only=True):
    """A ring: its writer, and how far behind each reader is that holds the writer back."""

    name: str
    writer: str
    capacity: int
    head: Annotated[int, Meta(description="Records written since the engine's start.")]
    lags: Annotated[dict[str, int], Meta(description="Records not yet passed, by reader.")]


class Metrics(Struct, frozen=True, kw_only=True):
    """Everything that actors count and measure; the same as ``/metrics``, as JSON."""

    error_count: Annotated[int, Meta(description="Failures of all actors since the start.")]
    actors: list[ActorMetrics]
    rings: list[RingMetrics]


class BookStats(Struct, frozen=True, kw_only=True):
    """One symbol's book. Levels and depth count the first thousand levels of a side."""

    symbol: SymbolName
    shard: int
    status: Annotated[Literal["open", "halted", "cancel_only", "unlisted"], Meta(description="Its trading state.")]
    sequence: Annotated[int, Meta(description="Of the last event that the book includes.")]
    orders: Annotated[
        int | None, Meta(description="Live orders, as PostgreSQL has them; null: it does not answer in time.")
    ]
    bid_levels: int
    ask_levels: int
    best_bid: PriceText | None
    best_ask: PriceText | None
    spread: Annotated[PriceText | None, Meta(description="null: a side is empty.")]
    last_price: PriceText | None
    bid_depth: Annotated[QuantityText, Meta(description="Base asset wanted, all levels together.")]
    ask_depth: Annotated[QuantityText, Meta(description="Base asset offered, all levels together.")]
    updated_at: Annotated[Time | None, Meta(description="When the book last changed; null: nobody has shown it yet.")]


class ShardQueue(Struct, frozen=True, kw_only=True):
    """What waits in one ring."""

    shard: Annotated[int | None, Meta(description="null: risk's own events: deposits, withdrawals, settings.")]
    ring: str
    capacity: int
    cursor: Annotated[int, Meta(description="Sequence of the next event to commit.")]
    head: Annotated[int, Meta(description="Sequence of the next event to happen.")]
    backlog: Annotated[int, Meta(description="Events between the two.")]
    backlog_seconds: Annotated[float, Meta(description="How long the oldest of them waits; 0: none does.")]


class SettlementQueue(Struct, frozen=True, kw_only=True):
    """What has happened and is not in PostgreSQL yet."""

    state: Annotated[str, Meta(description="Of the actor, as in /admin/actors.")]
    message: Annotated[str, Meta(description="What settlement does or what keeps it from it.")]
    queue_size: int
    queue_seconds: Annotated[float, Meta(description="How long the oldest event waits; 0: none does.")]
    queue_size_max: Annotated[int, Meta(description="With so many events waiting new orders are refused.")]
    pending_trades: int
    pending_fundings: Annotated[int, Meta(description="Deposits and withdrawals without an outcome yet.")]
    events_per_second: Annotated[float, Meta(description="Committed, in the last minute.")]
    errors: Annotated[int, Meta(description="Transactions or connections that failed since the start.")]
    shards: list[ShardQueue]


class StreamConnection(Struct, frozen=True, kw_only=True):
    """One stream client, as of the last seconds."""

    id: Id
    front: int
    user: Annotated[str | None, Meta(description="null: it has not said who it is.")]
    address: str
    since: Time
    encoding: Literal["json", "msgpack"]
    channels: Annotated[list[str], Meta(description="As many names as fit 256 bytes.")]
    channel_count: int
    queued_bytes: Annotated[int, Meta(description="What it has not taken yet.")]
    messages: Annotated[int, Meta(description="Sent to it.")]


class Component(Struct, frozen=True, kw_only=True):
    """A part of the engine."""

    status: Annotated[
        Literal["healthy", "degraded", "unhealthy"],
        Meta(description="degraded: it works, and something is wrong; unhealthy: it does not do its duty."),
    ]
    message: str
    latency_ms: Annotated[
        float | None,
        Meta(
            description="Database, wallet_service, disk: how long the look at it took. Others: their own average of "
            "the last minute. null: nothing was measured."
        ),
    ]
    details: dict[str, Any]


class HealthDetails(Struct, frozen=True, kw_only=True):
    """How the engine is, part by part."""

    status: Annotated[
        Literal["healthy", "degraded", "unhealthy"],
        Meta(description="unhealthy: orders are not accepted; degraded: they are, and some part is not healthy."),
    ]
    version: str
    uptime_seconds: float
    components: dict[str, Component]


class ListQuery(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A page of a list."""

    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT
    cursor: Annotated[str | None, Meta(description="Opaque: meta.next_cursor of the answer before.")] = None


PerformanceAnswer = answer_of("PerformanceAnswer", Performance)
StatsAnswer = answer_of("StatsAnswer", Stats)
MetricsAnswer = answer_of("MetricsAnswer", Metrics)
BookStatsAnswer = answer_of("BookStatsAnswer", list[BookStats])
SettlementQueueAnswer = answer_of("SettlementQueueAnswer", SettlementQueue)
StreamConnectionsAnswer = answer_of("StreamConnectionsAnswer", list[StreamConnection])
HealthDetailsAnswer = answer_of("HealthDetailsAnswer", HealthDetails)
