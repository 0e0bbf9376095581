"""Stored depth: what a book looked like at a moment of the past, as the keeper stored it."""

from __future__ import annotations

from quart import Blueprint, Response, request

from tradeengine.core.symbols import SymbolSpec
from tradeengine.core.times import format_ms
from tradeengine.storage.depth_snapshots import StoredDepth
from tradeengine.web import schemas
from tradeengine.web.access import Access
from tradeengine.web.caching import success_until
from tradeengine.web.errors import ApiError
from tradeengine.web.front import current_front
from tradeengine.web.openapi import describe
from tradeengine.web.times import parse_ns
from tradeengine.web.validation import read_query
from tradeengine.web.views import NS_PER_MS

blueprint = Blueprint("snapshots", __name__)


@blueprint.get("/snapshots/<path:symbol>")
@describe(
    tags="market data", answers={200: schemas.DepthSnapshotAnswer}, query=schemas.SnapshotQuery, access=Access.PUBLIC
)
async def show_snapshot(symbol: str) -> Response:
    """Show the stored depth of a book at or just before a time.

    Books are stored at intervals (once a minute, unless configured otherwise) and only when they have changed, so the
    answer holds from its `time` until the next one. 404 when nothing was stored that early. The answer for a time that
    is over has an `ETag`, and `If-None-Match` is answered 304.
    """
    front = current_front()
    query = read_query(request.args, schemas.SnapshotQuery)
    spec = front.symbol(symbol)
    at_ns = parse_ns("time", query.time) if query.time is not None else None
    stored = await front.history.stored_depth(spec.symbol_id, at_ns)
    if stored is None:
        when = f"at or before {query.time}" if query.time is not None else "yet"
        raise ApiError(
            "NOT_FOUND", f"No depth of {spec.name} was stored {when}.", {"field": "time", "symbol": spec.name}
        )
    # What was looked at by then is stored by now, unless the keeper is late; then the tag is another soon after.
    return success_until(-(-at_ns // NS_PER_MS) if at_ns is not None else None, _view(stored, spec))


def _view(stored: StoredDepth, spec: SymbolSpec) -> schemas.DepthSnapshot:
    return schemas.DepthSnapshot(
        symbol=spec.name,
        time=format_ms(stored.taken_ms),
        sequence=stored.sequence,
        bids=[(spec.format_price(price), spec.format_quantity(lots)) for price, lots in stored.bids],
        asks=[(spec.format_price(price), spec.format_quantity(lots)) for price, lots in stored.asks],
    )
