"""What administrators see of the running engine: its actors, its books, its queues, its clients.

Rule 1: whichever front is asked answers for the whole engine.
Rule 2: what is shown lies in shared memory or in PostgreSQL: no matcher is asked anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import psycopg
import trio
from quart import Blueprint, Response, request

from tradeengine.core.times import format_ms
from tradeengine.ipc.backlog import pending_trades
from tradeengine.ipc.seqlock import SeqlockBusy
from tradeengine.storage.live_counts import count_live_orders
from tradeengine.web import books, figures
from tradeengine.web import schemas_overview as schemas
from tradeengine.web.access import Access
from tradeengine.web.envelope import success
from tradeengine.web.errors import ApiError, overloaded
from tradeengine.web.front import Front, current_front
from tradeengine.web.openapi import describe
from tradeengine.web.paging import decode_cursor, encode_cursor
from tradeengine.web.streams.roll import read_roll
from tradeengine.web.validation import read_query

if TYPE_CHECKING:
    from tradeengine.ipc.overview import ActorView
    from tradeengine.ipc.window import Interval

blueprint = Blueprint("admin_overview", __name__)
_TAG = "operations"
_NS_PER_MS: Final = 1_000_000


@blueprint.get("/actors")
@describe(tags=_TAG, answers={200: schemas.ActorsAnswer}, access=Access.ADMIN)
async def show_actors() -> Response:
    """Show every process of the engine: how it is, what went through it, and the rings that it is joined to.

    Totals count from the engine's start; rates come of two answers.
    """
    front = current_front()
    interval = front.window.interval()
    return success([_actor_view(actor, interval) for actor in front.overview.actors()])


@blueprint.get("/health/detailed")
@describe(tags=_TAG, answers={200: schemas.HealthDetailsAnswer}, access=Access.ADMIN, weight=5)
async def show_health_details() -> Response:
    """Show how each part of the engine is. The answer comes within a second, also when what is looked at hangs."""
    return success(await current_front().health.look())


@blueprint.get("/metrics")
@describe(tags=_TAG, answers={200: schemas.MetricsAnswer}, access=Access.ADMIN, weight=5)
async def show_all_metrics() -> Response:
    """Show everything that actors count and measure, and every ring: what ``/metrics`` has, as JSON.

    Percentiles are of all values since the engine's start, at most one sixteenth too high.
    """
    overview = current_front().overview
    rings = overview.ring_statistics().values()
    return success(
        schemas.Metrics(
            error_count=figures.error_count(overview.actors()),
            actors=[figures.actor_metrics(page.snapshot()) for page in overview.pages.values()],
            rings=[
                figures.ring_metrics(ring, overview.writers[ring.name], overview.first_sequences[ring.name])
                for ring in rings
            ],
        )
    )


@blueprint.get("/stats")
@describe(tags=_TAG, answers={200: schemas.StatsAnswer}, access=Access.ADMIN)
async def show_stats() -> Response:
    """Show what the engine has done since its start, and what there is now."""
    front = current_front()
    directory = front.pages.directory()
    now = front.window.interval().later
    return success(
        figures.stats(
            now,
            front.overview.actors(),
            front.settings,
            symbol_count=len(directory.symbols),
            asset_count=len(directory.assets),
        )
    )


@blueprint.get("/performance")
@describe(tags=_TAG, answers={200: schemas.PerformanceAnswer}, access=Access.ADMIN)
async def show_performance() -> Response:
    """Show how fast the engine works: rates, averages and percentiles of the last minute.

    Just after a start the window is as long as the front has run. Percentiles are at most one sixteenth too high.
    """
    front = current_front()
    try:
        open_symbol_count = books.open_symbols(front.pages)
    except SeqlockBusy:
        raise overloaded() from None
    return success(
        figures.performance(
            front.window.interval(),
            front.overview,
            symbol_count=len(front.pages.directory().symbols),
            open_symbol_count=open_symbol_count,
            pending_trades=await _pending_trades(front),
        )
    )


@blueprint.get("/orderbook/stats")
@describe(tags=_TAG, answers={200: schemas.BookStatsAnswer}, query=schemas.ListQuery, access=Access.ADMIN, weight=5)
async def list_book_stats() -> Response:
    """List the books, in the order in which their symbols were listed: orders, levels, best prices, spread, depth."""
    front = current_front()
    query = read_query(request.args, schemas.ListQuery)
    after_id = decode_cursor(query.cursor) if query.cursor else 0
    # A cursor is one more than the last symbol's id, because the first id is 0.
    rest = sorted((id_, spec) for id_, spec in front.pages.directory().symbols.items() if id_ >= after_id)
    page = rest[: query.limit]
    orders = await _live_orders(front, [id_ for id_, _ in page])
    try:
        shown = [
            books.book_stats(front.pages, spec, None if orders is None else orders.get(id_, 0)) for id_, spec in page
        ]
    except SeqlockBusy:
        raise overloaded() from None
    return success(shown, next_cursor=encode_cursor(page[-1][0] + 1) if len(rest) > len(page) else None)


@blueprint.get("/settlement/queue")
@describe(tags=_TAG, answers={200: schemas.SettlementQueueAnswer}, access=Access.ADMIN)
async def show_settlement_queue() -> Response:
    """Show what has happened and is not in PostgreSQL yet, shard by shard, and what settlement says of itself."""
    front = current_front()
    actor = next(actor for actor in front.overview.actors() if actor.role == "settlement")
    queue = figures.settlement_queue(
        front.window.interval(),
        actor,
        front.overview,
        front.settings.settlement.backlog_events_max,
        await _pending_trades(front),
    )
    return success(queue)


@blueprint.get("/websocket/connections")
@describe(
    tags=_TAG, answers={200: schemas.StreamConnectionsAnswer}, query=schemas.ListQuery, access=Access.ADMIN, weight=5
)
async def list_connections() -> Response:
    """List the stream clients of all fronts, newest first, as they were a second ago; a few with very many clients."""
    front = current_front()
    query = read_query(request.args, schemas.ListQuery)
    before_id = decode_cursor(query.cursor) if query.cursor else None
    pids = {actor.name: actor.pid for actor in front.overview.actors()}
    by_front = [pids.get(f"front-{number}", 0) for number in range(len(front.rolls))]
    try:
        found = await trio.to_thread.run_sync(read_roll, front.rolls, by_front)
    except SeqlockBusy:
        raise overloaded() from None
    shown = [_connection_view(number, row) for number, row in found]
    rest = [view for view in shown if before_id is None or int(view.id) < before_id]
    page = rest[: query.limit]
    return success(page, next_cursor=encode_cursor(int(page[-1].id)) if len(rest) > len(page) else None)


async def _pending_trades(front: Front) -> int:
    """Count them in a thread: where much waits it takes milliseconds."""
    return await trio.to_thread.run_sync(pending_trades, front.overview.rings.values())


async def _live_orders(front: Front, symbol_ids: list[int]) -> dict[int, int] | None:
    """Ask PostgreSQL; None: it does not answer, or not in time."""
    try:
        return await front.database.run(count_live_orders, symbol_ids)
    except (ApiError, psycopg.errors.QueryCanceled):
        return None


def _connection_view(front: int, row: np.void) -> schemas.StreamConnection:
    channels = bytes(row["channels"]).decode()
    return schemas.StreamConnection(
        # Of two fronts' clients that came in the same microsecond each has an id of its own.
        id=str(int(row["connection_id"]) * 32 + front),
        front=front,
        user=bytes(row["user"]).decode() or None,
        address=bytes(row["address"]).decode(errors="replace"),
        since=format_ms(int(row["since_ns"]) // _NS_PER_MS),
        encoding="msgpack" if row["binary"] else "json",
        channels=channels.split(" ") if channels else [],
        channel_count=int(row["channel_count"]),
        queued_bytes=int(row["queued_bytes"]),
        messages=int(row["message_count"]),
    )


def _actor_view(actor: ActorView, interval: Interval) -> schemas.Actor:
    return schemas.Actor(
        name=actor.name,
        role=actor.role,
        pid=actor.pid,
        state=actor.state.name.lower(),  # type: ignore[arg-type]  # the names are the enumeration's
        message=actor.message,
        restarts=actor.restart_count,
        uptime_seconds=round(actor.uptime_s, 3),
        heartbeat_age_seconds=actor.heartbeat_age_s,
        busy_seconds=None if actor.busy_us is None else actor.busy_us / 1e6,
        records_in=actor.records_in,
        records_out=actor.records_out,
        errors=actor.error_count,
        latency=figures.actor_latency(interval, actor),
        rings=[
            schemas.ActorRing(
                name=ring.name, access=ring.access, capacity=ring.capacity, head=ring.written, lag=ring.lag
            )
            for ring in actor.rings
        ],
    )
