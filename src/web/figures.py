"""Figures: what actors counted and measured, as what administrators are shown.

It refuses to know where the pages come from and how answers travel.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from tradeengine import __version__
from tradeengine.core.times import format_ms
from tradeengine.ipc import backlog
from tradeengine.web import schemas_overview as schemas

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tradeengine.ipc.metrics import Histogram, MetricSnapshot
    from tradeengine.ipc.overview import ActorView, Overview
    from tradeengine.ipc.ring import RingStatistics
    from tradeengine.ipc.window import Interval, Look
    from tradeengine.settings import Settings

HISTOGRAMS: Final = frozenset(
    {
        "command_latency_us",
        "publish_latency_us",
        "settle_latency_us",
        "stream_latency_us",
        "request_latency_us",
        "sync_latency_us",
    }
)
"""Those of which the window keeps copies."""
_DUTIES: Final = {
    "front": "request",
    "matcher": "command",
    "settlement": "settle",
    "publisher": "publish",
    "wallet": "request",
}
"""Of what an actor's latency is shown, by role."""
_OPERATOR: Final = "operator"


class Latency(NamedTuple):
    """A distribution in milliseconds; zeros when nothing was measured."""

    mean_ms: float
    p50_ms: float
    p99_ms: float
    p999_ms: float


def latency_of(histogram: Histogram) -> Latency:
    """Summarise a histogram of microseconds."""
    percentiles = (histogram.percentile(percent) / 1000 for percent in (50, 99, 99.9))
    return Latency(round(histogram.mean / 1000, 6), *percentiles)


def actor_latency(interval: Interval, actor: ActorView) -> schemas.ActorLatency | None:
    """Show how long one actor took; None: nothing was measured."""
    duty = _DUTIES.get(actor.role)
    if duty is None or actor.name not in interval.later.pages:
        return None
    histogram = interval.histogram_of(actor.name, f"{duty}_latency_us")
    if not histogram.count:
        return None
    latency = latency_of(histogram)
    return schemas.ActorLatency(of=duty, count=histogram.count, p50_ms=latency.p50_ms, p99_ms=latency.p99_ms)


def error_count(actors: Iterable[ActorView]) -> int:
    """Count the failures of all actors."""
    return sum(actor.error_count for actor in actors)


def performance(
    interval: Interval, overview: Overview, *, symbol_count: int, open_symbol_count: int, pending_trades: int
) -> schemas.Performance:
    """Show how fast the engine worked in an interval, and how much it has done."""
    matching = latency_of(interval.histogram("matcher", "command_latency_us"))
    publishing = latency_of(interval.histogram("publisher", "publish_latency_us"))
    settling = latency_of(interval.histogram("settlement", "settle_latency_us"))
    streaming = latency_of(interval.histogram("front", "stream_latency_us"))
    answering = latency_of(interval.histogram("front", "request_latency_us"))
    now = interval.later
    return schemas.Performance(
        window_seconds=round(interval.seconds, 3),
        error_count=error_count(overview.actors()),
        matching_engine=schemas.MatchingPerformance(
            orders_placed=now.total("matcher", "orders_placed"),
            trades_executed=now.total("matcher", "trades"),
            throughput_per_sec=round(interval.rate("matcher", "commands"), 3),
            avg_latency_ms=matching.mean_ms,
            p50_ms=matching.p50_ms,
            p99_ms=matching.p99_ms,
            p999_ms=matching.p999_ms,
        ),
        order_book=schemas.BookPerformance(
            active_orders=now.gauge("matcher", "open_orders"),
            total_symbols=symbol_count,
            open_symbols=open_symbol_count,
            avg_publish_ms=publishing.mean_ms,
            p50_ms=publishing.p50_ms,
            p99_ms=publishing.p99_ms,
            p999_ms=publishing.p999_ms,
        ),
        settlement=schemas.SettlementPerformance(
            queue_size=sum(waiting.records for waiting in backlog.backlogs(overview.rings.values())),
            pending_trades=pending_trades,
            success_rate=_success_rate(interval),
            avg_settlement_ms=settling.mean_ms,
            p50_ms=settling.p50_ms,
            p99_ms=settling.p99_ms,
            p999_ms=settling.p999_ms,
        ),
        websocket=schemas.WebSocketPerformance(
            total_connections=now.gauge("front", "stream_clients"),
            messages_per_second=round(interval.rate("front", "stream_messages"), 3),
            avg_latency_ms=streaming.mean_ms,
            p50_ms=streaming.p50_ms,
            p99_ms=streaming.p99_ms,
            p999_ms=streaming.p999_ms,
        ),
        http=schemas.HttpPerformance(
            requests_per_second=round(interval.rate("front", "requests"), 3),
            avg_latency_ms=answering.mean_ms,
            p50_ms=answering.p50_ms,
            p99_ms=answering.p99_ms,
            p999_ms=answering.p999_ms,
        ),
    )


def stats(
    now: Look, actors: list[ActorView], settings: Settings, *, symbol_count: int, asset_count: int
) -> schemas.Stats:
    """Show what the engine has done since its start."""
    started_ns = now.pages[_OPERATOR].started_ns
    return schemas.Stats(
        version=__version__,
        started_at=format_ms(started_ns // 1_000_000),
        uptime_seconds=round(uptime_s(now), 3),
        shards=settings.engine.shards,
        fronts=settings.engine.fronts,
        error_count=error_count(actors),
        restarts=sum(actor.restart_count for actor in actors),
        commands=now.total("risk", "commands"),
        commands_refused=sum(
            count for name, count in now.pages["risk"].counters.items() if name.startswith("refus") and "=" in name
        ),
        orders_placed=now.total("matcher", "orders_placed"),
        orders_active=now.gauge("matcher", "open_orders"),
        trades_executed=now.total("matcher", "trades"),
        events_settled=now.total("settlement", "events"),
        trades_settled=now.total("settlement", "trades"),
        fundings_settled=now.total("settlement", "fundings"),
        symbols=symbol_count,
        assets=asset_count,
        requests=now.total("front", "requests"),
        requests_failed=now.total("front", "errors"),
        requests_limited=now.total("front", "rate_limited"),
        connections=now.gauge("front", "connections"),
        stream_clients=now.gauge("front", "stream_clients"),
        stream_messages=now.total("front", "stream_messages"),
        journal_bytes=now.total("matcher", "journal_bytes"),
        memory_bytes=now.gauge(_OPERATOR, "memory_bytes"),
    )


def uptime_s(now: Look) -> float:
    """Tell since when the engine's supervisor runs, in seconds."""
    return max(time.time_ns() - now.pages[_OPERATOR].started_ns, 0) / 1e9


def actor_metrics(page: MetricSnapshot) -> schemas.ActorMetrics:
    """Show one page."""
    return schemas.ActorMetrics(
        actor=page.name,
        role=page.role,
        counters=page.counters,
        gauges=page.gauges,
        histograms={name: _distribution(histogram) for name, histogram in page.histograms.items()},
    )


def ring_metrics(ring: RingStatistics, writer: str, first_sequence: int) -> schemas.RingMetrics:
    """Show one ring. first_sequence: where it opened."""
    lags = {reader.name: reader.lag for reader in ring.readers if reader.gating}
    return schemas.RingMetrics(
        name=ring.name, writer=writer, capacity=ring.capacity, head=ring.head - first_sequence, lags=lags
    )


def settlement_queue(
    interval: Interval, actor: ActorView, overview: Overview, queue_size_max: int, pending_trades: int
) -> schemas.SettlementQueue:
    """Show what waits for settlement. actor: settlement."""
    waiting = backlog.backlogs(overview.rings.values())
    page = interval.later.pages[actor.name]
    return schemas.SettlementQueue(
        state=actor.state.name.lower(),
        message=actor.message or page.state,
        queue_size=sum(ring.records for ring in waiting),
        queue_seconds=round(max((ring.oldest_s for ring in waiting), default=0.0), 3),
        queue_size_max=queue_size_max,
        pending_trades=pending_trades,
        pending_fundings=page.gauges["pending_fundings"],
        events_per_second=round(interval.rate("settlement", "events"), 3),
        errors=page.counters["errors"],
        shards=[
            schemas.ShardQueue(
                shard=_shard_of(ring.ring),
                ring=ring.ring,
                capacity=ring.capacity,
                cursor=ring.cursor,
                head=ring.head,
                backlog=ring.records,
                backlog_seconds=round(ring.oldest_s, 3),
            )
            for ring in waiting
        ],
    )


def _success_rate(interval: Interval) -> float:
    committed, failed = (interval.count("settlement", name) for name in ("transactions", "errors"))
    return round(committed / (committed + failed), 6) if committed + failed else 1.0


def _shard_of(ring: str) -> int | None:
    shard = ring.partition(".")[2]
    return int(shard) if shard.isdecimal() else None


def _distribution(histogram: Histogram) -> schemas.Distribution:
    return schemas.Distribution(
        count=histogram.count,
        mean=round(histogram.mean, 3),
        p50=histogram.percentile(50),
        p99=histogram.percentile(99),
        p999=histogram.percentile(99.9),
        max=histogram.max,
    )
