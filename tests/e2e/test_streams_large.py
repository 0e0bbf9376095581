"""Beginnings that are larger than what may wait for a client come piece by piece, and nobody is closed for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import trio
from tests.e2e.users import Json, User, user_for_a_test
from tests.engines import Engine, running_engine

from tradeengine.actors.data_dir import read_secret
from tradeengine.client import LocalOrders, Stream
from tradeengine.client.messages import OrderbookSnapshot, Resumed, Resync
from tradeengine.web.auth import issue_token

ORDERS = 700
TOO_OLD = "1.0"
ORDER: Json = {"symbol": "LTC/USDT", "side": "buy", "type": "limit", "quantity": "1"}
TIGHT = {
    "TRADEENGINE_STREAMS_MERGE_BYTES": "4096",
    "TRADEENGINE_STREAMS_QUEUE_BYTES_MAX": "16384",
    "TRADEENGINE_LIMITS_OPEN_ORDERS_MAX": "2000",
}


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine that lets little wait."""
    with running_engine(tmp_path_factory.mktemp("large"), environment=TIGHT) as running:
        yield running


@pytest.fixture
def alice(venue: Engine) -> Iterator[User]:
    """Give a user with money."""
    yield from user_for_a_test(venue, "alice", {"USDT": "1000000"})


async def place_many(stream: Stream) -> None:
    """Place the orders, each at a price of its own."""
    async with trio.open_nursery() as nursery:
        for number in range(ORDERS):
            price = f"{10 + number // 100}.{number % 100:02}"
            nursery.start_soon(lambda price=price: stream.place(**ORDER, price=price))  # type: ignore[misc]
            if number % 50 == 49:
                await stream.ping()


@pytest.mark.long
async def test_all_open_orders_come_though_they_are_more_than_may_wait(venue: Engine, alice: User) -> None:
    """With hundreds of open orders a resync has the first of them, the others follow, and then it is complete."""
    access = issue_token(read_secret(venue.data_dir).encode(), alice.name, "user", 3600)
    async with Stream(venue.url, token=access) as stream:
        await place_many(stream)
        await stream.subscribe("orders", since=TOO_OLD)
        orders, resyncs = LocalOrders(), []
        with trio.fail_after(60):
            async for message in stream:
                orders.apply(message)
                if isinstance(message, Resync):
                    resyncs.append(message)
                if isinstance(message, Resumed):
                    break
        assert len(resyncs) == 1
        assert len(resyncs[0].orders) < ORDERS
        listed: dict[str, Any] = {order["id"]: order for order in alice.call("GET", "/orders?limit=1000&status=open")}
        assert orders.open.keys() == listed.keys()
        assert len(listed) == ORDERS
        assert {order["price"] for order in listed.values()} == {str(order.price) for order in orders.open.values()}


async def test_books_come_though_they_are_more_than_may_wait(venue: Engine, alice: User) -> None:
    """Subscribing to many books at once gives each of them, however small what may wait is."""
    access = issue_token(read_secret(venue.data_dir).encode(), alice.name, "user", 3600)
    async with Stream(venue.url, token=access) as stream:
        await place_many(stream)
        symbols = {symbol["symbol"] for symbol in alice.call("GET", "/symbols")}
        await stream.subscribe(*(f"book:{symbol}" for symbol in symbols))
        books = {}
        with trio.fail_after(60):
            async for message in stream:
                if isinstance(message, OrderbookSnapshot):
                    books[message.symbol] = message
                if books.keys() == symbols:
                    break
        assert len(books["LTC/USDT"].bids) == ORDERS
