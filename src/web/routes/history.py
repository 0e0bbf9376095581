"""Market data of the past: candles, the last 24 hours, and every trade, imported ones included."""

from __future__ import annotations

from typing import Final

from quart import Blueprint, Response, request

from tradeengine.core.feed import TIME_FRAME_NAMES
from tradeengine.core.money import divide_half_even, format_units
from tradeengine.core.symbols import SymbolSpec
from tradeengine.core.times import format_ms
from tradeengine.storage.candles import MINUTE_MS, Candle
from tradeengine.storage.past_trades import is_imported
from tradeengine.storage.queries import TradeRow
from tradeengine.storage.statistics import Day
from tradeengine.web import schemas
from tradeengine.web.access import Access
from tradeengine.web.caching import success_until
from tradeengine.web.envelope import success
from tradeengine.web.front import current_front
from tradeengine.web.openapi import describe
from tradeengine.web.paging import decode_cursor, encode_cursor
from tradeengine.web.times import parse_ns
from tradeengine.web.validation import read_query
from tradeengine.web.views import NS_PER_MS, trade_view

blueprint = Blueprint("history", __name__)
_TAG: Final = "market data"
_TIME_FRAMES: Final = {name: time_frame for time_frame, name in TIME_FRAME_NAMES.items()}
_PERCENT_PLACES: Final = 4


@blueprint.get("/candles/<path:symbol>")
@describe(tags=_TAG, answers={200: schemas.CandlesAnswer}, query=schemas.CandlesQuery, access=Access.PUBLIC, weight=5)
async def list_candles(symbol: str) -> Response:
    """List candles, oldest first, in UTC, the present one included.

    A candle belongs to a range when its `time`, at which it begins, is at or after `start` and before `end`; it is
    always whole. With `start` the first `limit` candles from there on, without it the newest ones before `end`. Candles
    without trades are left out; with `fill=true` they are there, at the last close before them, from the first trade
    ever to now. A range that is over has an `ETag`, and `If-None-Match` is answered 304.
    """
    front = current_front()
    query = read_query(request.args, schemas.CandlesQuery)
    spec = front.symbol(symbol)
    start_ns, end_ns = _range(query.start, query.end)
    time_frame = _TIME_FRAMES[query.tf]
    found = await front.history.candles(
        spec.symbol_id, time_frame, limit=query.limit, start_ns=start_ns, end_ns=end_ns, fill=query.fill
    )
    length_ms = time_frame * MINUTE_MS
    last_ms = None
    if end_ns is not None:
        last_ms = -(-end_ns // (length_ms * NS_PER_MS)) * length_ms
    elif start_ns is not None and len(found) == query.limit:
        last_ms = found[-1].time_ms + length_ms
    return success_until(last_ms, [_candle_view(candle, spec) for candle in found])


@blueprint.get("/historical/trades/<path:symbol>")
@describe(
    tags=_TAG, answers={200: schemas.PastTradesAnswer}, query=schemas.PastTradesQuery, access=Access.PUBLIC, weight=5
)
async def list_past_trades(symbol: str) -> Response:
    """List a symbol's trades, oldest first, imported ones included.

    A page that can no longer change has an `ETag`, and `If-None-Match` is answered 304.
    """
    front = current_front()
    query = read_query(request.args, schemas.PastTradesQuery)
    spec = front.symbol(symbol)
    start_ns, end_ns = _range(query.start, query.end)
    after_id = decode_cursor(query.cursor) if query.cursor is not None else None
    found = await front.history.past_trades(
        spec.symbol_id, limit=query.limit + 1, start_ns=start_ns, end_ns=end_ns, after_id=after_id
    )
    page = found[: query.limit]
    has_more = len(found) > query.limit
    last_ms = -(-end_ns // NS_PER_MS) if end_ns is not None else None
    if has_more:
        last_ms = found[-1].timestamp_ms
    next_cursor = encode_cursor(page[-1].trade_id) if has_more else None
    return success_until(last_ms, [_trade_view(trade, spec) for trade in page], next_cursor=next_cursor)


@blueprint.get("/statistics/24h/<path:symbol>")
@describe(tags=_TAG, answers={200: schemas.DayStatisticsAnswer}, access=Access.PUBLIC, weight=5)
async def show_day(symbol: str) -> Response:
    """Show what was traded in the 24 hours before now, exact to the trade at both ends."""
    front = current_front()
    spec = front.symbol(symbol)
    return success(_day_view(await front.history.day(spec.symbol_id), spec))


def _range(start: str | None, end: str | None) -> tuple[int | None, int | None]:
    return (
        parse_ns("start", start) if start is not None else None,
        parse_ns("end", end) if end is not None else None,
    )


def _candle_view(candle: Candle, spec: SymbolSpec) -> schemas.Candle:
    return schemas.Candle(
        time=format_ms(candle.time_ms),
        open=spec.format_price(candle.open_ticks),
        high=spec.format_price(candle.high_ticks),
        low=spec.format_price(candle.low_ticks),
        close=spec.format_price(candle.close_ticks),
        volume=spec.format_quantity(candle.volume_lots),
        quote_volume=spec.quote.format(candle.notional_units),
        trades=candle.trade_count,
    )


def _trade_view(trade: TradeRow, spec: SymbolSpec) -> schemas.PastTrade:
    imported = is_imported(trade.trade_id)
    shown = trade_view(trade, spec)
    return schemas.PastTrade(
        id=shown.id,
        symbol=shown.symbol,
        price=shown.price,
        quantity=shown.quantity,
        taker_side=shown.taker_side,
        buyer_fee=None if imported else shown.buyer_fee,
        seller_fee=None if imported else shown.seller_fee,
        sequence=None if imported else shown.sequence,
        timestamp=shown.timestamp,
        imported=imported,
    )


def _day_view(day: Day, spec: SymbolSpec) -> schemas.DayStatistics:
    sums = day.sums
    change = change_percent = average = None
    if sums.open_ticks is not None and sums.last_ticks is not None:
        change_ticks = sums.last_ticks - sums.open_ticks
        change = spec.format_price(change_ticks)
        hundredths = divide_half_even(abs(change_ticks) * 100 * 10**_PERCENT_PLACES, sums.open_ticks)
        change_percent = format_units(hundredths if change_ticks > 0 else -hundredths, _PERCENT_PLACES)
        average = spec.average_price(sums.notional_units, sums.volume_lots)
    return schemas.DayStatistics(
        symbol=spec.name,
        from_=format_ms(day.since_ms),
        to=format_ms(day.until_ms),
        open=_price(spec, sums.open_ticks),
        high=_price(spec, sums.high_ticks),
        low=_price(spec, sums.low_ticks),
        last=_price(spec, sums.last_ticks),
        volume=spec.format_quantity(sums.volume_lots),
        quote_volume=spec.quote.format(sums.notional_units),
        trades=sums.trade_count,
        change=change,
        change_percent=change_percent,
        weighted_average_price=average,
    )


def _price(spec: SymbolSpec, price_ticks: int | None) -> str | None:
    return None if price_ticks is None else spec.format_price(price_ticks)
