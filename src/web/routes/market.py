"""Market data: what everyone may see, from the pages that matchers and the publisher keep, and trades from history."""

from __future__ import annotations

import time
from typing import Any, Literal

from quart import Blueprint, Response, request

from tradeengine.core.money import format_units
from tradeengine.core.records import TradingState
from tradeengine.core.symbols import SymbolSpec
from tradeengine.core.tables import NO_PRICE
from tradeengine.core.times import format_ms
from tradeengine.ipc.depth import read_depth
from tradeengine.ipc.seqlock import SeqlockBusy
from tradeengine.storage.queries import TradeRow
from tradeengine.web import schemas
from tradeengine.web.access import Access, caller_if_named, refuse_suspended, require
from tradeengine.web.caching import success_until
from tradeengine.web.envelope import success
from tradeengine.web.errors import ApiError, invalid_field, overloaded
from tradeengine.web.fences import refuse_if_fenced
from tradeengine.web.front import Front, current_front, read_page
from tradeengine.web.openapi import describe
from tradeengine.web.paging import decode_cursor, encode_cursor, parse_id
from tradeengine.web.times import parse_ns
from tradeengine.web.validation import read_query
from tradeengine.web.views import NS_PER_MS, own_trade_view, trade_view

blueprint = Blueprint("market", __name__)
_TAG = "market data"
_PPM_PLACES = 6


@blueprint.get("/symbols")
@describe(tags=_TAG, answers={200: schemas.SymbolsAnswer}, access=Access.PUBLIC)
async def list_symbols() -> Response:
    """List what may be traded, with ticks, lots, bounds, fees and state."""
    front = current_front()
    specs = sorted(front.pages.directory().symbols.values(), key=lambda spec: spec.symbol_id)
    return success([symbol_view(spec, _status(front, spec)) for spec in specs])


@blueprint.get("/time")
@describe(tags=_TAG, answers={200: schemas.ServerTimeAnswer}, access=Access.PUBLIC)
async def tell_time() -> Response:
    """Tell the server's clock."""
    now_ms = time.time_ns() // NS_PER_MS
    return success(schemas.ServerTime(time=format_ms(now_ms), unix_ms=now_ms))


@blueprint.get("/orderbook/<path:symbol>")
@describe(tags=_TAG, answers={200: schemas.OrderBookAnswer}, query=schemas.DepthQuery, access=Access.PUBLIC)
async def show_order_book(symbol: str) -> Response:
    """Show the best price levels of a book; its sequence is that of the symbol's event stream."""
    front = current_front()
    query = read_query(request.args, schemas.DepthQuery)
    spec = front.symbol(symbol)
    refuse_if_fenced(front, spec)
    try:
        sequence, timestamp_ns, bids, asks = read_depth(front.pages.depth, spec.symbol_id, query.depth)
    except SeqlockBusy:
        raise overloaded() from None
    return success(
        schemas.OrderBook(
            symbol=spec.name,
            sequence=sequence,
            bids=[(spec.format_price(price), spec.format_quantity(lots)) for price, lots in bids],
            asks=[(spec.format_price(price), spec.format_quantity(lots)) for price, lots in asks],
            timestamp=format_ms((timestamp_ns or time.time_ns()) // NS_PER_MS),
        )
    )


@blueprint.get("/markets/<path:symbol>/ticker")
@describe(tags=_TAG, answers={200: schemas.TickerAnswer}, access=Access.PUBLIC)
async def show_ticker(symbol: str) -> Response:
    """Show best bid and ask, the last trade, and the last 24 hours."""
    front = current_front()
    spec = front.symbol(symbol)
    refuse_if_fenced(front, spec)
    return success(_ticker_view(spec, read_page(front.pages.tickers, spec.symbol_id)))


@blueprint.get("/trades")
@describe(tags=_TAG, answers={200: schemas.TradesAnswer}, query=schemas.TradesQuery, access=Access.PUBLIC, weight=5)
async def list_trades() -> Response:
    """List trades of a symbol, newest first; with scope=mine (needs a token) own fills, of one symbol or all."""
    front = current_front()
    query = read_query(request.args, schemas.TradesQuery)
    if query.scope == "mine":
        return await _list_own_trades(front, query)
    if query.symbol is None:
        raise invalid_field("symbol", "symbol is missing; only scope=mine lists trades of all symbols.")
    spec = front.symbol(query.symbol)
    found = await front.history.public_trades(spec.symbol_id, **_range(query))
    page = found[: query.limit]
    return success([trade_view(trade, spec) for trade in page], next_cursor=_next_cursor(found, query.limit))


@blueprint.get("/trades/<trade_id>")
@describe(tags=_TAG, answers={200: schemas.TradeAnswer}, access=Access.PUBLIC)
async def show_trade(trade_id: str) -> Response:
    """Show one trade; its order ids only to its two parties and to admins."""
    front = current_front()
    identity = caller_if_named()
    trade = await front.history.trade(parse_id(trade_id, "NOT_FOUND"))
    if trade is None:
        raise ApiError("NOT_FOUND", "There is no trade with this id.")
    allowed = False
    if identity is not None:
        await refuse_suspended(identity)
        account_id = await front.account_id(identity.name)
        allowed = identity.is_admin or account_id in {trade.taker_account_id, trade.maker_account_id}
    shown = trade_view(trade, front.symbol_by_id(trade.symbol_id), with_orders=allowed)
    # It is settled: whatever happens later, it stays as it is.
    response = success_until(0, shown, personal=identity is not None)
    response.headers.add("Vary", "Authorization")
    return response


async def _list_own_trades(front: Front, query: schemas.TradesQuery) -> Response:
    identity = require(Access.READ)
    await refuse_suspended(identity)
    account_id = await front.account_id(identity.name)
    symbol_id = front.symbol(query.symbol).symbol_id if query.symbol else None
    found = await front.history.own_trades(account_id, symbol_id, **_range(query))
    unsettled = await front.history.settlement_statuses([trade.trade_id for trade in found])
    shown = []
    for trade in found[: query.limit]:
        order_id = trade.taker_order_id if trade.taker_account_id == account_id else trade.maker_order_id
        status = unsettled.get(trade.trade_id, "settled")
        shown.append(own_trade_view(trade, front.symbol_by_id(trade.symbol_id), order_id, status))
    return success(shown, next_cursor=_next_cursor(found, query.limit))


def _range(query: schemas.TradesQuery) -> dict[str, Any]:
    return {
        "start_ns": parse_ns("start", query.start) if query.start else None,
        "end_ns": parse_ns("end", query.end) if query.end else None,
        "before_id": decode_cursor(query.cursor) if query.cursor else None,
        "limit": query.limit + 1,
    }


def _next_cursor(found: list[TradeRow], limit: int) -> str | None:
    return encode_cursor(found[limit - 1].trade_id) if len(found) > limit else None


def _status(front: Front, spec: SymbolSpec) -> Literal["open", "cancel_only", "halted", "unlisted"]:
    if spec.shard in front.watch.fences.shards():
        return "halted"
    touch = read_page(front.pages.touch, spec.symbol_id)
    if not touch["listed"]:
        return "unlisted"
    names: dict[int, Literal["open", "cancel_only", "halted"]] = {
        TradingState.OPEN: "open",
        TradingState.CANCEL_ONLY: "cancel_only",
        TradingState.HALTED: "halted",
    }
    return names[int(touch["trading_state"])]


def symbol_view(spec: SymbolSpec, status: Literal["open", "cancel_only", "halted", "unlisted"]) -> schemas.Symbol:
    """Show a symbol with its bounds."""
    return schemas.Symbol(
        symbol=spec.name,
        base_asset=spec.base.name,
        quote_asset=spec.quote.name,
        base_places=spec.base.places,
        quote_places=spec.quote.places,
        tick=spec.tick,
        lot=spec.lot,
        price_max=spec.format_price(spec.price_ticks_max),
        quantity_min=spec.format_quantity(spec.quantity_lots_min),
        quantity_max=spec.format_quantity(spec.quantity_lots_max),
        min_notional=spec.quote.format(spec.notional_units_min),
        max_price_deviation=format_units(spec.collar_ppm, _PPM_PLACES) if spec.collar_ppm else None,
        maker_fee=format_units(spec.maker_fee_ppm, _PPM_PLACES),
        taker_fee=format_units(spec.taker_fee_ppm, _PPM_PLACES),
        status=status,
        shard=spec.shard,
    )


def _ticker_view(spec: SymbolSpec, row: Any) -> schemas.Ticker:
    last_ticks, open_ticks = int(row["last_price_ticks"]), int(row["open_ticks"])
    change_ticks = last_ticks - open_ticks if last_ticks != NO_PRICE and open_ticks != NO_PRICE else None
    return schemas.Ticker(
        symbol=spec.name,
        best_bid=_price(spec, row["best_bid_ticks"]),
        best_bid_quantity=_quantity(spec, row["best_bid_lots"]),
        best_ask=_price(spec, row["best_ask_ticks"]),
        best_ask_quantity=_quantity(spec, row["best_ask_lots"]),
        last=_price(spec, last_ticks),
        last_quantity=_quantity(spec, row["last_quantity_lots"]),
        open=_price(spec, open_ticks),
        high=_price(spec, row["high_ticks"]),
        low=_price(spec, row["low_ticks"]),
        volume=spec.format_quantity(row["volume_lots"]),
        quote_volume=spec.quote.format(int(row["quote_volume_units"])),
        change=None if change_ticks is None else spec.format_price(change_ticks),
        trades=int(row["trade_count"]),
        sequence=int(row["sequence"]),
        timestamp=format_ms((int(row["timestamp_ns"]) or time.time_ns()) // NS_PER_MS),
    )


def _price(spec: SymbolSpec, price_ticks: int) -> str | None:
    return spec.format_price(price_ticks) if price_ticks != NO_PRICE else None


def _quantity(spec: SymbolSpec, quantity_lots: int) -> str | None:
    return spec.format_quantity(quantity_lots) if quantity_lots else None
