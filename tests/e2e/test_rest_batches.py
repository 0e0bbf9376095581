"""Batches of orders over HTTP against the real engine: each order by itself, all of them at once."""

from __future__ import annotations

import json
import threading
from decimal import Decimal
from typing import Any

import pytest
from tests.e2e.users import Json, NewUser, User

LIMIT: Json = {"symbol": "LINK/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "19"}


def batch(user: User, orders: list[Any]) -> list[Json]:
    """Place a batch; what became of each."""
    items: list[Json] = user.call("POST", "/orders/batch", json={"orders": orders})
    assert len(items) == len(orders)
    for item in items:
        assert set(item) == {"success", "data" if item["success"] else "error"}
    return items


def codes(items: list[Json]) -> list[str]:
    """Tell what became of each: its status, or why not."""
    return [item["data"]["order"]["status"] if item["success"] else item["error"]["code"] for item in items]


def test_each_order_of_a_batch_stands_for_itself(new_user: NewUser, bob: User) -> None:
    """Wrong, refused and good orders in one batch: each gets its own answer, in order, and the good ones are placed."""
    erin = new_user("erin", USDT="1000")
    ask = bob.place(symbol="LINK/USDT", side="sell", quantity="1", price="20")["order"]
    good = LIMIT | {"client_order_id": "good"}
    wrong: list[tuple[Any, str]] = [
        (good, "open"),
        (LIMIT | {"price": "19.00001"}, "PRICE_NOT_ON_TICK"),
        (LIMIT | {"symbol": "NONE/USDT"}, "SYMBOL_NOT_FOUND"),
        ("an order", "INVALID_REQUEST"),
        (None, "INVALID_REQUEST"),
        (LIMIT | {"price": 9}, "INVALID_REQUEST"),
        (LIMIT | {"colour": "red"}, "INVALID_REQUEST"),
        (LIMIT | {"type": "market"}, "INVALID_COMBINATION"),
        (LIMIT | {"quantity": "500"}, "INSUFFICIENT_BALANCE"),
        (LIMIT | {"price": "20", "post_only": True}, "POST_ONLY_WOULD_MATCH"),
        (LIMIT | {"price": "20", "quantity": "2", "time_in_force": "fok"}, "FOK_NOT_FILLED"),
        (good, "open"),
        (good | {"price": "8.5"}, "CLIENT_ORDER_ID_REUSED"),
        (LIMIT | {"price": "20"}, "filled"),
    ]
    items = batch(erin, [order for order, _ in wrong])
    assert codes(items) == [expected for _, expected in wrong]
    assert items[11]["data"]["order"] == items[0]["data"]["order"] == erin.order(items[0]["data"]["order"]["id"])
    assert items[1]["error"]["details"]["field"] == "price"
    assert items[6]["error"]["details"]["field"] == "colour"
    assert [trade["price"] for trade in items[-1]["data"]["trades"]] == [bob.order(ask["id"])["price"]]
    stored = {order["id"]: order["status"] for order in erin.call("GET", "/orders")}
    assert sorted(stored.values()) == ["filled", "open", "rejected", "rejected"]
    erin.call("DELETE", "/orders")


def test_batch_answers_what_each_would_alone(new_user: NewUser) -> None:
    """A refusal in a batch has the code, message and details that the same order has by itself."""
    frank = new_user("frank", USDT="10")
    orders = [LIMIT | {"price": "19.00001"}, LIMIT | {"quantity": "500", "client_order_id": "x"}, {"side": "buy"}]
    for order, item in zip(orders, batch(frank, orders), strict=True):
        answer = frank.http.post("/orders", json=order).json()["error"]
        assert item["error"] == answer


def test_hundred_against_hundred(new_user: NewUser) -> None:
    """A hundred sells in one batch and a hundred buys in another all trade, in the order of the lists."""
    seller, buyer = new_user("seller", AVAX="100"), new_user("buyer", USDT="100000")
    sells = [
        {"symbol": "AVAX/USDT", "side": "sell", "type": "limit", "quantity": "1", "price": f"{33 + n / 100:.2f}"}
        for n in range(100)
    ]
    placed = batch(seller, sells)
    assert set(codes(placed)) == {"open"}
    bought = batch(buyer, [order | {"side": "buy", "price": "34", "time_in_force": "ioc"} for order in sells])
    assert set(codes(bought)) == {"filled"}
    prices = [Decimal(trade["price"]) for item in bought for trade in item["data"]["trades"]]
    assert prices == [Decimal(order["price"]) for order in sells]
    ids = [int(item["data"]["order"]["id"]) for item in bought]
    assert ids == sorted(ids)
    assert (seller.balances()["AVAX"][0], buyer.balances()["AVAX"][0]) == (Decimal(0), Decimal(100))


def test_repeated_batch_places_nothing_twice(new_user: NewUser) -> None:
    """The same batch again, with one order more, answers the same orders and places only the new one."""
    grace = new_user("grace", USDT="100000")
    orders = [LIMIT | {"client_order_id": f"b-{n}"} for n in range(20)]
    first = batch(grace, orders)
    held = grace.balances()["USDT"][2]
    second = batch(grace, [*orders, LIMIT | {"client_order_id": "b-new"}])
    assert second[:-1] == first
    assert grace.balances()["USDT"][2] == held * 21 / 20
    assert len(grace.call("GET", "/orders")) == 21
    grace.call("DELETE", "/orders")


def test_same_batch_twice_at_once(new_user: NewUser) -> None:
    """Two connections send the same batch at the same time: each order exists once, and both are told the same ids."""
    heidi = new_user("heidi", USDT="100000")
    orders = [LIMIT | {"client_order_id": f"t-{n}"} for n in range(50)]
    answers: list[list[str]] = []

    def send() -> None:
        answers.append([item["data"]["order"]["id"] for item in batch(heidi, orders)])

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers[0] == answers[1]
    assert len(heidi.call("GET", "/orders?limit=100")) == 50
    heidi.call("DELETE", "/orders")


def test_batch_spends_a_balance_only_once(new_user: NewUser) -> None:
    """Ten orders that each want a third of the balance: three are placed, the others are refused."""
    ivan = new_user("ivan", LINK="9")
    order = {"symbol": "LINK/USDT", "side": "sell", "type": "limit", "quantity": "3", "price": "22"}
    assert codes(batch(ivan, [order] * 10)) == ["open"] * 3 + ["INSUFFICIENT_BALANCE"] * 7
    assert ivan.balances()["LINK"] == (Decimal(9), Decimal(0), Decimal(9))
    ivan.call("DELETE", "/orders")


def test_two_orders_at_once_for_the_last_unit(new_user: NewUser) -> None:
    """Two symbols, two connections, money for one order: exactly one of the two is placed, whichever came first."""
    judy = new_user("judy", USDT="100.1")
    orders = [LIMIT | {"quantity": "10", "price": "10"}, LIMIT | {"symbol": "LTC/USDT", "quantity": "2", "price": "50"}]
    for _ in range(10):
        answers: list[int] = []

        def send(order: Json, answers: list[int] = answers) -> None:
            answers.append(judy.http.post("/orders", json=order).status_code)

        threads = [threading.Thread(target=send, args=(order,)) for order in orders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [201, 422]
        assert judy.call("DELETE", "/orders")["cancelled"] == 1


def test_list_alone_is_a_batch_too(new_user: NewUser) -> None:
    """A body that is the list itself is taken as the object around it would be."""
    kim = new_user("kim", USDT="100")
    items = kim.call("POST", "/orders/batch", json=[LIMIT])
    assert codes(items) == ["open"]
    kim.call("DELETE", "/orders")


@pytest.mark.parametrize(
    "body", [{"orders": []}, [], {"orders": [LIMIT] * 101}, {"orders": LIMIT}, {}, "text", 5, None, {"orders": None}]
)
def test_what_is_no_batch_is_refused_whole(alice: User, body: Any) -> None:
    """An empty list, more than a hundred, or no list at all: 400, and nothing is placed."""
    headers = {"Content-Type": "application/json"}
    error = alice.call("POST", "/orders/batch", 400, content=json.dumps(body), headers=headers)
    assert (error["code"], error["details"]["field"]) == ("INVALID_REQUEST", "orders")


def test_unknown_fields_of_a_batch_are_refused_by_name(alice: User) -> None:
    """A misspelt option is not passed over."""
    error = alice.call("POST", "/orders/batch", 400, json={"orders": [LIMIT], "atomic": True})
    assert error["details"]["field"] == "atomic"
