"""Own orders as their owner's stream tells them: each way that an order may go, held against HTTP and public trades."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.e2e.users import Json, User, make_user
from tests.e2e.watched import Watched, watching
from tests.engines import Engine
from tests.web.raw_websocket import RawSocket, connected

SYMBOL = "AVAX/USDT"
FUNDS = {"USDT": "1000000", "AVAX": "10000"}


@dataclass
class Story:
    """Two new users in an empty market, who both watch their orders, and somebody who watches the trades."""

    alice: Watched
    bob: Watched
    anyone: RawSocket

    def buy(self, quantity: str, price: str | None = None, **fields: Any) -> Json:
        """Let Alice buy; returns the order."""
        return place(self.alice, quantity, price, **fields)

    def sell(self, quantity: str, price: str | None = None, **fields: Any) -> Json:
        """Let Bob sell; returns the order."""
        return place(self.bob, quantity, price, side="sell", **fields)


def place(who: Watched, quantity: str | None, price: str | None, **fields: Any) -> Json:
    """Place an order: limit when it has a price, else market."""
    if "stop_price" in fields:
        fields["type"] = "stop_limit" if price else "stop"
    order = {"symbol": SYMBOL, "type": "limit" if price else "market", "quantity": quantity, "price": price} | fields
    placed: Json = who.user.place(**{name: value for name, value in order.items() if value is not None})["order"]
    return placed


@asynccontextmanager
async def story_in(venue: Engine) -> AsyncIterator[Story]:
    """Begin a story: the last trade was at 20. At its end no order is left."""
    users = [make_user(venue, "alice", FUNDS), make_user(venue, "bob", FUNDS)]
    lead_price_to_20(*users)
    async with (
        watching(venue, users[0]) as alice,
        watching(venue, users[1]) as bob,
        connected(venue.url, f"/ws/trades?symbols={SYMBOL}") as anyone,
    ):
        try:
            yield Story(alice, bob, anyone)
            await check_trades_are_public(alice, bob, anyone)
        finally:
            for user in users:
                user.call("DELETE", "/orders")
                user.http.close()


def lead_price_to_20(buyer: User, seller: User) -> None:
    """Let small trades lead the last price to 20, none of them out of the one's collar before."""
    trades = buyer.call("GET", f"/trades?symbol={SYMBOL}&limit=1")
    price = Decimal(trades[0]["price"]) if trades else Decimal(0)
    while price != 20:
        price = Decimal(20) if not price else max(min(Decimal(20), price * Decimal("1.08")), price * Decimal("0.92"))
        price = price.quantize(Decimal("0.001"))
        seller.place(symbol=SYMBOL, side="sell", quantity="1", price=f"{price}")
        buyer.place(symbol=SYMBOL, quantity="1", price=f"{price}")


async def check_trades_are_public(alice: Watched, bob: Watched, anyone: RawSocket) -> None:
    """Every trade was told to everyone, once, as its two parties were told it."""
    parties = [update for who in (alice, bob) for told in who.updates.values() for update in told if update["trade_id"]]
    trades: dict[str, Json] = {}
    for update in parties:
        if update["trade_id"] not in trades:
            trades[update["trade_id"]] = await anyone.next("trade_executed", trade_id=update["trade_id"])
        trade = trades[update["trade_id"]]
        assert (trade["sequence"], trade["timestamp"]) == (update["sequence"], update["timestamp"])
        assert (trade["price"], trade["quantity"]) == (update["last_price"], update["last_quantity"])
        assert (trade["taker_side"] == update["side"]) is (update["liquidity"] == "taker")
        assert trade["buyer_fee" if update["side"] == "buy" else "seller_fee"] == update["fee"]
    assert not {message.get("trade_id") for message in anyone.kept} & set(trades)


async def test_resting_order_is_accepted_and_cancelled(venue: Engine) -> None:
    """An order that rests is told as accepted and open, and its cancellation with the reason."""
    async with story_in(venue) as story:
        order = story.buy("2", "20", client_order_id="told-1")
        assert await story.alice.told(order["id"]) == [("accepted", "open", "0")]
        story.alice.user.call("DELETE", f"/orders/{order['id']}")
        assert (await story.alice.told(order["id"]))[1:] == [("cancelled", "cancelled", "0", "USER")]


async def test_fills_are_told_to_both_sides(venue: Engine) -> None:
    """Each fill is told to maker and taker, with price, quantity, fee and liquidity; the last one fills the order."""
    async with story_in(venue) as story:
        maker = story.sell("3", "20")
        takers = [story.buy("1", "20"), story.buy("5", "20.5")]
        assert await story.bob.told(maker["id"]) == [
            ("accepted", "open", "0"),
            ("traded", "partially_filled", "1", "maker"),
            ("traded", "filled", "3", "maker"),
        ]
        assert await story.alice.told(takers[0]["id"]) == [
            ("accepted", "open", "0"),
            ("traded", "filled", "1", "taker"),
        ]
        assert await story.alice.told(takers[1]["id"]) == [
            ("accepted", "open", "0"),
            ("traded", "partially_filled", "2", "taker"),
        ]
        fill = story.bob.updates[maker["id"]][1]
        assert (fill["last_price"], fill["last_quantity"], Decimal(fill["fee"])) == ("20.000", "1.00", Decimal("0.01"))
        assert Decimal(story.alice.updates[takers[0]["id"]][1]["fee"]) == Decimal("0.02")


@pytest.mark.parametrize(
    ("asks", "order", "expected"),
    [
        ([("1", "20")], {"quantity": "3", "price": "20", "time_in_force": "ioc"}, ["1", "IOC_REMAINDER"]),
        ([], {"quantity": "3", "price": "20", "time_in_force": "ioc"}, ["IOC_NOT_FILLED"]),
        ([("1", "20")], {"quantity": "3"}, ["1", "NO_LIQUIDITY"]),
        ([], {"quantity": "3"}, ["NO_LIQUIDITY"]),
        ([("1", "20"), ("1", "22.5")], {"quantity": "2"}, ["1", "COLLAR"]),
        ([("1", "20"), ("2", "21")], {"quantity": "3"}, ["1", "3"]),
        ([("5", "20")], {"quote_quantity": "50"}, ["2.49"]),
        ([("3", "20")], {"quantity": "3", "price": "20", "time_in_force": "fok"}, ["3"]),
    ],
)
async def test_immediate_order_is_told_to_its_end(
    venue: Engine, asks: list[tuple[str, str]], order: dict[str, str], expected: list[str]
) -> None:
    """An order that cannot rest is told as accepted, with its fills, and why the rest, if any, was cancelled."""
    async with story_in(venue) as story:
        for ask in asks:
            story.sell(*ask)
        placed = place(story.alice, **({"quantity": None, "price": None} | order))
        filled, told = "0", await story.alice.told(placed["id"])
        assert told.pop(0) == ("accepted", "open", "0")
        for word in expected:
            event = told.pop(0)
            if word.isupper():
                assert event == ("cancelled", "cancelled", filled, word)
            else:
                is_last = word == expected[-1]
                assert event == ("traded", "filled" if is_last else "partially_filled", word, "taker")
                filled = word
        assert told == []


async def test_stop_buy_ends_with_its_budget(venue: Engine) -> None:
    """A stop that has to buy dearer than it could know ends with what it holds, and is told so: BUDGET."""
    async with story_in(venue) as story:
        stop = story.buy("2", stop_price="20.5")
        story.sell("1", "22")
        story.sell("5", "24")
        story.buy("1", "22")
        filled = story.alice.user.order(stop["id"])["filled_quantity"]
        assert await story.alice.told(stop["id"]) == [
            ("accepted", "pending", "0"),
            ("triggered", "open", "0"),
            ("traded", "partially_filled", filled, "taker"),
            ("cancelled", "cancelled", filled, "BUDGET"),
        ]
        assert 0 < Decimal(filled) < 2


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"time_in_force": "fok", "quantity": "3"}, "FOK_NOT_FILLED"),
        ({"post_only": True, "quantity": "1"}, "POST_ONLY_WOULD_MATCH"),
        ({"price": "30", "quantity": "1"}, "PRICE_OUT_OF_COLLAR"),
    ],
)
async def test_refused_order_is_told_as_rejected(venue: Engine, fields: dict[str, Any], code: str) -> None:
    """An order that the matcher refuses is told once, as rejected, with the reason."""
    async with story_in(venue) as story:
        story.sell("1", "20")
        refused = story.alice.user.place(422, symbol=SYMBOL, **({"price": "20"} | fields))
        assert refused["code"] == code
        assert await story.alice.told(refused["details"]["order_id"]) == [("rejected", "rejected", "0", code)]


async def test_stop_is_pending_triggers_and_trades(venue: Engine) -> None:
    """A stop is told as pending, and with the command that sets it off as triggered and with its fills."""
    async with story_in(venue) as story:
        stop = story.buy("2", stop_price="21")
        assert await story.alice.told(stop["id"]) == [("accepted", "pending", "0")]
        story.sell("5", "21")
        trigger = story.buy("1", "21")
        assert (await story.alice.told(stop["id"]))[1:] == [
            ("triggered", "open", "0"),
            ("traded", "filled", "2", "taker"),
        ]
        assert (await story.alice.told(trigger["id"]))[-1] == ("traded", "filled", "1", "taker")


async def test_stop_limit_rests_after_its_trigger(venue: Engine) -> None:
    """A stop-limit order that fires is told as triggered and open, and then as the maker that it is."""
    async with story_in(venue) as story:
        stop = story.buy("2", "21.5", stop_price="21")
        story.sell("1", "21")
        story.buy("1", "21")
        assert await story.alice.told(stop["id"]) == [("accepted", "pending", "0"), ("triggered", "open", "0")]
        story.sell("2", "21.5")
        assert (await story.alice.told(stop["id"]))[2:] == [("traded", "filled", "2", "maker")]


async def test_stop_that_is_due_already_triggers_at_once(venue: Engine) -> None:
    """A stop behind the last price is told as accepted and triggered in one go; without buyers it ends."""
    async with story_in(venue) as story:
        stop = story.sell("1", stop_price="20.5")
        assert await story.bob.told(stop["id"]) == [
            ("accepted", "pending", "0"),
            ("triggered", "open", "0"),
            ("cancelled", "cancelled", "0", "NO_LIQUIDITY"),
        ]


async def test_cancelled_stop_is_told(venue: Engine) -> None:
    """A waiting stop that is amended and cancelled is told as both."""
    async with story_in(venue) as story:
        stop = story.buy("2", stop_price="21")
        story.alice.user.call("PATCH", f"/orders/{stop['id']}", json={"stop_price": "22"})
        story.alice.user.call("DELETE", f"/orders/{stop['id']}")
        assert await story.alice.told(stop["id"]) == [
            ("accepted", "pending", "0"),
            ("amended", "pending", "0"),
            ("cancelled", "cancelled", "0", "USER"),
        ]
        assert [update["stop_price"] for update in story.alice.updates[stop["id"]]] == ["21.000", "22.000", "22.000"]


async def test_amended_order_is_told_with_its_new_content(venue: Engine) -> None:
    """An amended order is told with its new quantity and price, partly filled or not; a refused amend is not told."""
    async with story_in(venue) as story:
        order = story.buy("4", "20")
        story.sell("1", "20")
        path = f"/orders/{order['id']}"
        story.alice.user.call("PATCH", path, json={"quantity": "3"})
        story.alice.user.call("PATCH", path, status=409, json={"quantity": "1"})
        story.alice.user.call("PATCH", path, json={"price": "20.1"})
        assert (await story.alice.told(order["id"]))[1:] == [
            ("traded", "partially_filled", "1", "maker"),
            ("amended", "partially_filled", "1"),
            ("amended", "partially_filled", "1"),
        ]
        updates = story.alice.updates[order["id"]]
        assert [(update["quantity"], update["remaining_quantity"], update["price"]) for update in updates[1:]] == [
            ("4.00", "3.00", "20.000"),
            ("3.00", "2.00", "20.000"),
            ("3.00", "2.00", "20.100"),
        ]


async def test_amended_price_that_trades_is_told_as_taker(venue: Engine) -> None:
    """An order that is amended into the other side is told as amended and then as taker."""
    async with story_in(venue) as story:
        order = story.buy("2", "20")
        story.sell("1", "20.5")
        story.alice.user.call("PATCH", f"/orders/{order['id']}", json={"price": "20.5"})
        assert (await story.alice.told(order["id"]))[1:] == [
            ("amended", "open", "0"),
            ("traded", "partially_filled", "1", "taker"),
        ]


async def test_order_with_an_end_expires(venue: Engine) -> None:
    """An order with an end is told as cancelled when that has come, with the reason EXPIRED."""
    async with story_in(venue) as story:
        ends = datetime.now(UTC) + timedelta(seconds=0.8)
        order = story.buy("1", "20", time_in_force="gtd", expires_at=ends.isoformat())
        update = await story.alice.until(order["id"], "cancelled")
        assert datetime.fromisoformat(update["timestamp"]) >= ends - timedelta(milliseconds=1)
        assert await story.alice.told(order["id"]) == [
            ("accepted", "open", "0"),
            ("cancelled", "cancelled", "0", "EXPIRED"),
        ]


@pytest.mark.parametrize(
    ("prevention", "takers", "makers"),
    [
        ("cancel_taker", [("cancelled", "cancelled", "0", "SELF_TRADE")], []),
        ("cancel_maker", [], [("cancelled", "cancelled", "0", "SELF_TRADE")]),
        (
            "cancel_both",
            [("cancelled", "cancelled", "0", "SELF_TRADE")],
            [("cancelled", "cancelled", "0", "SELF_TRADE")],
        ),
    ],
)
async def test_prevented_self_trade_is_told(
    venue: Engine, prevention: str, takers: list[tuple[str, ...]], makers: list[tuple[str, ...]]
) -> None:
    """What self-trade prevention ends is told as cancelled for that, maker, taker or both, and never a trade."""
    async with story_in(venue) as story:
        maker = story.sell("1", "20")
        taker = place(story.bob, "1", "20", side="buy", self_trade_prevention=prevention)
        assert await story.bob.told(maker["id"]) == [("accepted", "open", "0"), *makers]
        assert await story.bob.told(taker["id"]) == [("accepted", "open", "0"), *takers]


async def test_mass_cancel_tells_each_order(venue: Engine) -> None:
    """Cancelling all is told order by order, each once, and only to their owner."""
    async with story_in(venue) as story:
        ids = [story.buy("1", f"{price}")["id"] for price in range(15, 20)]
        others = story.sell("1", "30")["id"]
        assert story.alice.user.call("DELETE", "/orders")["cancelled"] == 5
        for order_id in ids:
            assert (await story.alice.told(order_id))[1:] == [("cancelled", "cancelled", "0", "CANCELLED_ALL")]
        assert set(story.alice.updates) == set(ids)
        assert await story.bob.told(others) == [("accepted", "open", "0")]


async def test_orders_of_before_are_known(venue: Engine) -> None:
    """Of orders from before the subscription, resting, partly filled or pending, what happens next is told whole."""
    alice, bob = make_user(venue, "alice", FUNDS), make_user(venue, "bob", FUNDS)
    lead_price_to_20(alice, bob)
    ask = bob.place(symbol=SYMBOL, side="sell", quantity="4", price="21", client_order_id="before-1")["order"]
    alice.place(symbol=SYMBOL, quantity="1", price="21")
    stop = bob.place(symbol=SYMBOL, side="sell", type="stop", quantity="1", stop_price="19")["order"]
    async with watching(venue, bob) as watched:
        alice.place(symbol=SYMBOL, quantity="1", price="21")
        first = await watched.socket.next("order_update")
        assert (first["order_id"], first["client_order_id"], first["event"]) == (ask["id"], "before-1", "traded")
        assert (first["quantity"], first["filled_quantity"], first["status"]) == ("4.00", "2.00", "partially_filled")
        bob.call("DELETE", f"/orders/{stop['id']}")
        second = await watched.socket.next("order_update")
        assert (second["order_id"], second["event"], second["stop_price"]) == (stop["id"], "cancelled", "19.000")
    for user in (alice, bob):
        user.call("DELETE", "/orders")
        user.http.close()
