"""The HTTP calls: a method for each, typed, repeated when that is safe, and answered or failed by a deadline.

Rule 1: every order goes out with a client order id, so that a lost answer is asked for again and nothing is placed
twice. What may be repeated and what not is in ``repeating``.
Rule 2: an answer is a struct of ``models``; a refusal is an ``ApiError``; silence is a ``NoAnswer``.
It refuses to know what is on the streams.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias, Unpack

import msgspec

from tradeengine.client.account import AccountCalls
from tradeengine.client.admin import AdminCalls
from tradeengine.client.admin_trading import AdminTradingCalls
from tradeengine.client.api_keys import ApiKeyCalls
from tradeengine.client.batches import BatchCalls
from tradeengine.client.credentials import Key, Token, one_of
from tradeengine.client.errors import ApiError, NoAnswer
from tradeengine.client.fields import NewOrder, OrderChange, Time, in_path, order_fields, written
from tradeengine.client.models import (
    Balance,
    CancelledOrders,
    Candle,
    CheckedOrder,
    DayStatistics,
    DepthSnapshot,
    Health,
    Order,
    OrderAndTrades,
    OrderBook,
    OrderOnly,
    Readiness,
    ServerTime,
    Symbol,
    Ticker,
    Trade,
)
from tradeengine.client.overview import OverviewCalls
from tradeengine.client.pages import Pages
from tradeengine.client.repeating import repeat
from tradeengine.client.transport import Transport

PAGE_SIZE: Final = 500
TimeFrame: TypeAlias = Literal["1m", "5m", "15m", "1h", "4h", "1d"]


class Client(AccountCalls, AdminCalls, AdminTradingCalls, ApiKeyCalls, BatchCalls, OverviewCalls):
    """The engine's HTTP calls; an asynchronous context manager.

    base_url: ``http://127.0.0.1:8000``. token or key: for everything that is not public; a key signs each request.
    timeout_s: for a call with all its repeats. attempt_timeout_s: after how long an attempt counts as lost.
    Every call raises ``ApiError`` for a refusal and ``NoAnswer`` when none came in time.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: Token | None = None,
        key: Key | None = None,
        timeout_s: float = 15.0,
        attempt_timeout_s: float = 5.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._transport = Transport(base_url, one_of(token, key), timeout_s, attempt_timeout_s, ssl_context)

    async def __aenter__(self) -> Self:
        await self._transport.http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.http.__aexit__(kind, error, trace)

    async def place(self, **order: Unpack[NewOrder]) -> OrderAndTrades:
        """Place an order; a repeat of one that exists gives that one.

        ``NoAnswer`` and ``OUTCOME_UNKNOWN`` name the client order id in their details: nobody knows yet whether it
        was placed; placing it again under that id tells.
        """
        fields = order_fields(order)
        try:
            return await self._transport.call(OrderAndTrades, "POST", "/orders", body=fields)
        except NoAnswer as error:
            error.details["client_order_id"] = fields["client_order_id"]
            raise

    async def test_order(self, **order: Unpack[NewOrder]) -> CheckedOrder:
        """Check an order without placing it: form, symbol, bounds; not the balance and not the book."""
        return await self._transport.call(CheckedOrder, "POST", "/orders/test", body=order_fields(order))

    async def order(self, order_id: str) -> Order:
        """Look at an own order."""
        return (await self._transport.call(OrderOnly, "GET", f"/orders/{in_path(order_id)}")).order

    async def order_by_client_id(self, client_order_id: str) -> Order:
        """Look at an own order by the id that its placer gave it."""
        return (await self._transport.call(OrderOnly, "GET", f"/orders/by-client-id/{in_path(client_order_id)}")).order

    def orders(
        self,
        *,
        symbol: str | None = None,
        status: Sequence[str] = (),
        side: str | None = None,
        type: str | None = None,  # noqa: A002 - the API's word
        start: Time | None = None,
        end: Time | None = None,
        page_size: int = PAGE_SIZE,
    ) -> Pages[Order]:
        """List own orders, newest first. status: any of these; none: all."""
        query = {"symbol": symbol, "side": side, "type": type, "start": start, "end": end, "limit": page_size}
        return self._transport.pages(list[Order], "/orders", {**query, "status": list(status) or None})

    async def amend(self, order_id: str, **change: Unpack[OrderChange]) -> OrderAndTrades:
        """Change an open order; it keeps its id. Less quantity alone keeps its place in the queue.

        Not repeated when its outcome is unknown, because a second amend may cost the place in the queue: look at the
        order after ``NoAnswer`` or ``OUTCOME_UNKNOWN``.
        """
        path = f"/orders/{in_path(order_id)}"
        return await self._transport.call(OrderAndTrades, "PATCH", path, body=written(change), is_repeatable=False)

    async def cancel(self, order_id: str) -> OrderAndTrades:
        """Cancel an open order. ``ORDER_NOT_OPEN`` when it had ended already; its status is in the details."""
        asked = 0

        async def ask() -> OrderAndTrades:
            nonlocal asked
            asked += 1
            return await self._transport.ask(OrderAndTrades, "DELETE", f"/orders/{in_path(order_id)}")

        try:
            return await repeat(ask, is_repeatable=True, timeout_s=self._transport.timeout_s)
        except ApiError as error:
            # The answer to an earlier attempt was lost: what was wanted is so.
            if asked == 1 or error.code != "ORDER_NOT_OPEN" or error.details.get("status") != "cancelled":
                raise
        return OrderAndTrades(await self.order(order_id), [])

    async def cancel_all(self, symbol: str | None = None) -> CancelledOrders:
        """Cancel all own open orders, of one symbol or of all. After a lost answer the count is of the last attempt."""
        return await self._transport.call(CancelledOrders, "DELETE", "/orders", query={"symbol": symbol})

    async def balances(self) -> list[Balance]:
        """List own balances, one per asset."""
        return await self._transport.call(list[Balance], "GET", "/balances")

    def own_trades(
        self,
        *,
        symbol: str | None = None,
        start: Time | None = None,
        end: Time | None = None,
        page_size: int = PAGE_SIZE,
    ) -> Pages[Trade]:
        """List own trades, newest first, with order id, side, fee and liquidity."""
        query = {"scope": "mine", "symbol": symbol, "start": start, "end": end, "limit": page_size}
        return self._transport.pages(list[Trade], "/trades", query)

    def trades(
        self, symbol: str, *, start: Time | None = None, end: Time | None = None, page_size: int = PAGE_SIZE
    ) -> Pages[Trade]:
        """List trades of a symbol, newest first."""
        query = {"symbol": symbol, "start": start, "end": end, "limit": page_size}
        return self._transport.pages(list[Trade], "/trades", query)

    async def trade(self, trade_id: str) -> Trade:
        """Look at one trade; its order ids are for its two parties."""
        return await self._transport.call(Trade, "GET", f"/trades/{in_path(trade_id)}")

    async def symbols(self) -> list[Symbol]:
        """List what may be traded, with ticks, lots, bounds, fees and status."""
        return await self._transport.call(list[Symbol], "GET", "/symbols")

    async def time(self) -> ServerTime:
        """Ask for the engine's clock."""
        return await self._transport.call(ServerTime, "GET", "/time")

    async def order_book(self, symbol: str, depth: int = 50) -> OrderBook:
        """Look at a book's best levels; up to 1000 of each side."""
        return await self._transport.call(OrderBook, "GET", f"/orderbook/{in_path(symbol)}", query={"depth": depth})

    async def ticker(self, symbol: str) -> Ticker:
        """Look at the touch, the last trade and the last 24 hours."""
        return await self._transport.call(Ticker, "GET", f"/markets/{in_path(symbol)}/ticker")

    async def candles(
        self,
        symbol: str,
        time_frame: TimeFrame,
        *,
        start: Time | None = None,
        end: Time | None = None,
        count_max: int = 1000,
        fill: bool = False,
    ) -> list[Candle]:
        """List candles, oldest first, the present one included.

        With ``start`` the first ones that begin at or after it, without it the newest ones before ``end``; up to 1000.
        fill: also those without trades, at the last price before them.
        """
        query = {"tf": time_frame, "start": start, "end": end, "limit": count_max, "fill": "true" if fill else None}
        return await self._transport.call(list[Candle], "GET", f"/candles/{in_path(symbol)}", query=query)

    def historical_trades(
        self, symbol: str, *, start: Time | None = None, end: Time | None = None, page_size: int = PAGE_SIZE
    ) -> Pages[Trade]:
        """List trades of a symbol, oldest first, imported ones included."""
        query = {"start": start, "end": end, "limit": page_size}
        return self._transport.pages(list[Trade], f"/historical/trades/{in_path(symbol)}", query)

    async def day_statistics(self, symbol: str) -> DayStatistics:
        """Look at the last 24 hours, exact to the last trade."""
        return await self._transport.call(DayStatistics, "GET", f"/statistics/24h/{in_path(symbol)}")

    async def depth_snapshot(self, symbol: str, at: Time | None = None) -> DepthSnapshot:
        """Look at the depth stored at or just before a time; without one, at the latest. ``NOT_FOUND``: none is."""
        query = {"time": at}
        return await self._transport.call(DepthSnapshot, "GET", f"/snapshots/{in_path(symbol)}", query=query)

    async def health(self) -> Health:
        """Ask whether the engine's front answers."""
        return await self._transport.call(Health, "GET", "/health", root="")

    async def ready(self) -> Readiness:
        """Ask whether orders are accepted; an engine that is not ready is an answer, not an error."""
        try:
            return await self._transport.call(Readiness, "GET", "/ready", root="")
        except ApiError as error:
            if error.code != "NOT_READY":
                raise
            return msgspec.convert(error.details, Readiness)
