"""Orders of every type over HTTP against the real engine: their ways, their ends, and what repeats do."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from tests.e2e.users import Json, NewUser, User


def test_an_orders_life(alice: User) -> None:
    """An order is placed, found by both ids and in the list, cancelled once, and found closed."""
    placed = alice.place(symbol="ETH/USDT", quantity="1", price="2000", client_order_id="life-1")["order"]
    assert placed["status"] == "open"
    assert alice.order(placed["id"]) == placed
    assert alice.call("GET", "/orders/by-client-id/life-1")["order"] == placed
    assert alice.call("GET", "/orders?symbol=ETH-USDT&status=open&limit=1")[0] == placed
    cancelled = alice.call("DELETE", f"/orders/{placed['id']}")["order"]
    assert (cancelled["status"], cancelled["status_reason"]) == ("cancelled", "USER")
    again = alice.call("DELETE", f"/orders/{placed['id']}", status=409)
    assert again["code"] == "ORDER_NOT_OPEN"
    assert (
        alice.call("PATCH", f"/orders/{placed['id']}", status=409, json={"quantity": "2"})["code"] == "ORDER_NOT_OPEN"
    )
    assert alice.order(placed["id"]) == cancelled
    assert alice.call("GET", "/orders?symbol=ETH-USDT&status=cancelled&side=buy&type=limit&limit=1")[0] == cancelled


def test_repeat_is_the_same_order(alice: User) -> None:
    """The same request again answers 200 with the same order; other content under the same id is refused."""
    order: dict[str, Any] = {"symbol": "ETH/USDT", "quantity": "1", "price": "2000.00", "client_order_id": "repeat-1"}
    held = alice.balances()["USDT"][2]
    first = alice.place(**order)["order"]
    second = alice.place(status=200, **(order | {"price": "2000"}))["order"]
    assert second == first
    for change in ({"price": "2000.01"}, {"quantity": "2"}, {"side": "sell"}, {"post_only": True}):
        error = alice.place(status=409, **(order | change))
        assert error["code"] == "CLIENT_ORDER_ID_REUSED"
    alice.call("DELETE", f"/orders/{first['id']}")
    assert alice.place(status=200, **order)["order"]["status"] == "cancelled"
    assert alice.balances()["USDT"][2] == held


def test_simultaneous_repeats_place_one_order(alice: User) -> None:
    """The same request on eight connections at once places one order: one 201, the others 200 or 201 never twice."""
    order = {"symbol": "ETH/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "1999"}
    answers: list[tuple[int, str]] = []

    def send() -> None:
        with httpx2.Client(base_url=alice.http.base_url, headers=alice.http.headers, timeout=20) as client:
            answer = client.post("/orders", json=order | {"client_order_id": "at-once"})
            answers.append((answer.status_code, answer.json()["data"]["order"]["id"]))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(status for status, _ in answers) == [200] * 7 + [201]
    assert len({order_id for _, order_id in answers}) == 1
    alice.call("DELETE", f"/orders/{answers[0][1]}")


def test_refused_order_uses_up_nothing(stranger: User) -> None:
    """Without money an order is refused, leaves no trace, and its client order id stays free."""
    order: dict[str, Any] = {"symbol": "ETH/USDT", "quantity": "1", "price": "2000", "client_order_id": "poor-1"}
    for _ in range(2):
        assert stranger.place(status=422, **order)["code"] == "INSUFFICIENT_BALANCE"
    assert stranger.call("GET", "/orders") == []
    assert stranger.call("GET", "/orders/by-client-id/poor-1", status=404)["code"] == "ORDER_NOT_FOUND"
    assert {row["total"].strip("0.") for row in stranger.call("GET", "/balances")} == {""}


def test_others_orders_do_not_exist(alice: User, stranger: User) -> None:
    """To anyone else an order answers 404, whatever is asked of it."""
    order = alice.place(symbol="ETH/USDT", quantity="1", price="2000", client_order_id="private-1")["order"]
    path = f"/orders/{order['id']}"
    for method, options in (("GET", {}), ("DELETE", {}), ("PATCH", {"json": {"quantity": "2"}})):
        assert stranger.call(method, path, status=404, **options)["code"] == "ORDER_NOT_FOUND"
    assert stranger.call("GET", "/orders/by-client-id/private-1", status=404)["code"] == "ORDER_NOT_FOUND"
    assert stranger.call("DELETE", "/orders") == {"cancelled": 0, "total": 0, "orders": []}
    assert stranger.call("GET", "/orders") == stranger.call("GET", "/trades?scope=mine") == []
    alice.call("DELETE", path)


def test_rejected_order_is_kept_and_its_repeat_says_the_same(alice: User, bob: User) -> None:
    """A post-only order that would match, and a FOK that cannot fill, are 422, stored as rejected, and stay so."""
    ask = bob.place(symbol="SOL/USDT", side="sell", quantity="1", price="150")["order"]
    for name, change, code in (
        ("post", {"post_only": True, "quantity": "1"}, "POST_ONLY_WOULD_MATCH"),
        ("fok", {"time_in_force": "fok", "quantity": "2"}, "FOK_NOT_FILLED"),
    ):
        order = {"symbol": "SOL/USDT", "price": "150", "client_order_id": f"rejected-{name}", **change}
        first = alice.place(status=422, **order)
        assert first["code"] == code
        stored = alice.order(first["details"]["order_id"])
        assert (stored["status"], stored["status_reason"]) == ("rejected", code)
        assert alice.place(status=422, **order) == first
    bob.call("DELETE", f"/orders/{ask['id']}")


def test_immediate_orders_leave_nothing(alice: User, bob: User) -> None:
    """IOC cancels its rest, or all of it when nothing fills; a market order in an empty book has no liquidity."""
    bob.place(symbol="SOL/USDT", side="sell", quantity="1", price="151")
    part = alice.place(symbol="SOL/USDT", quantity="3", price="151", time_in_force="ioc")["order"]
    assert (part["status"], part["status_reason"]) == ("cancelled", "IOC_REMAINDER")
    assert Decimal(part["filled_quantity"]) == 1
    none = alice.place(symbol="SOL/USDT", quantity="3", price="151", time_in_force="ioc")["order"]
    assert (none["status"], none["status_reason"]) == ("cancelled", "IOC_NOT_FILLED")
    empty = alice.place(symbol="SOL/USDT", type="market", quantity="3")["order"]
    assert (empty["status"], empty["status_reason"]) == ("cancelled", "NO_LIQUIDITY")
    assert alice.call("GET", "/orders?symbol=SOL-USDT&status=open&status=partially_filled") == []


def test_market_buy_by_quote_spends_no_more_than_its_budget(alice: User, bob: User) -> None:
    """A market buy of so much money, fees included, is filled and spends at most that."""
    bob.place(symbol="ADA/USDT", side="sell", quantity="1000", price="0.5")
    before = alice.balances()["USDT"][0]
    order = alice.place(symbol="ADA/USDT", type="market", quote_quantity="100")["order"]
    spent = before - alice.balances()["USDT"][0]
    assert order["status"] == "filled"
    assert order["quantity"] is None
    # 199.8 ADA cost 99.90 and 0.0999 fee; one lot more would not fit.
    assert (Decimal(order["filled_quantity"]), spent) == (Decimal("199.8"), Decimal("99.9999"))
    stored = alice.order(order["id"])
    assert (stored["filled_quantity"], stored["status"]) == (order["filled_quantity"], "filled")
    bob.call("DELETE", "/orders?symbol=ADA-USDT")


def test_stop_waits_triggers_and_trades(alice: User, bob: User) -> None:
    """A stop is pending until the last price reaches it, then trades as a market order within that command."""
    bob.place(symbol="XRP/USDT", side="sell", quantity="100", price="0.5000")
    alice.place(symbol="XRP/USDT", quantity="100", price="0.5000")
    stop = alice.place(symbol="XRP/USDT", type="stop", quantity="50", stop_price="0.5100")["order"]
    limit = alice.place(symbol="XRP/USDT", type="stop_limit", quantity="50", stop_price="0.5100", price="0.5150")[
        "order"
    ]
    assert stop["status"] == limit["status"] == "pending"
    bob.place(symbol="XRP/USDT", side="sell", quantity="120", price="0.5100")
    trigger = alice.place(symbol="XRP/USDT", quantity="10", price="0.5100")
    assert len(trigger["trades"]) == 1
    fired = alice.order(stop["id"])
    assert fired["status"] == "filled"
    assert fired["triggered_at"] is not None
    assert alice.order(limit["id"])["status"] == "filled"
    bob.call("DELETE", "/orders?symbol=XRP-USDT")
    alice.call("DELETE", "/orders?symbol=XRP-USDT")


def test_gtd_order_expires_by_itself(alice: User) -> None:
    """An order with an end ends then, with reason EXPIRED, gives its hold back, and its repeat is answered with it."""
    ends = datetime.now(UTC) + timedelta(seconds=1.2)
    held = alice.balances()["USDT"][2]
    wanted: Json = {"symbol": "LINK/USDT", "quantity": "1", "price": "10", "client_order_id": "gtd-1"}
    wanted |= {"time_in_force": "gtd", "expires_at": ends.isoformat()}
    order = alice.place(**wanted)["order"]
    assert order["expires_at"] is not None
    deadline = time.monotonic() + 20
    while (now := alice.order(order["id"]))["status"] == "open":
        assert time.monotonic() < deadline
    assert (now["status"], now["status_reason"]) == ("cancelled", "EXPIRED")
    assert alice.balances()["USDT"][2] == held
    assert alice.place(200, **wanted)["order"] == now
    late = alice.place(400, **wanted | {"client_order_id": "gtd-2"})
    assert (late["code"], late["details"]["field"]) == ("NUMBER_OUT_OF_RANGE", "expires_at")


@pytest.mark.parametrize(
    ("prevention", "taker_status", "maker_status"),
    [
        ("cancel_taker", "cancelled", "open"),
        ("cancel_maker", "open", "cancelled"),
        ("cancel_both", "cancelled", "cancelled"),
    ],
)
def test_nobody_trades_with_themselves(bob: User, prevention: str, taker_status: str, maker_status: str) -> None:
    """An order that would meet one's own ends one of them, or both, and never trades."""
    maker = bob.place(symbol="DOGE/USDT", side="sell", quantity="100", price="0.2")["order"]
    taken = bob.place(symbol="DOGE/USDT", quantity="100", price="0.2", self_trade_prevention=prevention)
    assert taken["trades"] == []
    assert taken["order"]["status"] == taker_status
    assert bob.order(maker["id"])["status"] == maker_status
    bob.call("DELETE", "/orders?symbol=DOGE-USDT")


def test_amend_changes_what_it_says(alice: User) -> None:
    """Quantity, price and hold follow an amend; what is refused changes nothing."""
    order = alice.place(symbol="LINK/USDT", quantity="10", price="10")["order"]
    held = alice.balances()["USDT"][2]
    less = alice.call("PATCH", f"/orders/{order['id']}", json={"quantity": "5"})["order"]
    assert (less["id"], Decimal(less["quantity"])) == (order["id"], Decimal(5))
    assert alice.balances()["USDT"][2] == held - Decimal("50.05")
    dearer = alice.call("PATCH", f"/orders/{order['id']}", json={"price": "10.5"})["order"]
    assert Decimal(dearer["price"]) == Decimal("10.5")
    poor = alice.call("PATCH", f"/orders/{order['id']}", status=422, json={"quantity": "99000", "price": "10000"})
    assert poor["code"] == "INSUFFICIENT_BALANCE"
    for body, code, field in (
        ({"stop_price": "11"}, "INVALID_COMBINATION", "stop_price"),
        ({"price": "0.9"}, "BELOW_MIN_NOTIONAL", "price"),
    ):
        wrong = alice.call("PATCH", f"/orders/{order['id']}", status=400, json=body)
        assert (wrong["code"], wrong["details"]["field"]) == (code, field)
    shown = alice.order(order["id"])
    assert Decimal(shown["price"]) == Decimal("10.5")
    alice.call("DELETE", f"/orders/{order['id']}")


def test_mass_cancel_ends_own_orders_of_one_symbol(new_user: NewUser, bob: User) -> None:
    """Cancelling by symbol ends that symbol's own orders; without a symbol, all of one's own, and nobody else's."""
    carol = new_user("carol", USDT="100000")
    ids = {
        symbol: [carol.place(symbol=symbol, quantity="10", price=price)["order"]["id"] for _ in range(3)]
        for symbol, price in (("LINK/USDT", "9"), ("LTC/USDT", "60"))
    }
    others = bob.place(symbol="LINK/USDT", quantity="10", price="9")["order"]
    assert carol.call("DELETE", "/orders?symbol=LINK-USDT") == {"cancelled": 3, "total": 3, "orders": ids["LINK/USDT"]}
    assert carol.call("DELETE", "/orders") == {"cancelled": 3, "total": 3, "orders": ids["LTC/USDT"]}
    assert carol.balances()["USDT"] == (Decimal(100000), Decimal(100000), Decimal(0))
    assert bob.order(others["id"])["status"] == "open"
    bob.call("DELETE", f"/orders/{others['id']}")


def test_pages_of_orders_are_complete(new_user: NewUser) -> None:
    """Following the cursor meets every order once, newest first, also while new ones come."""
    dave = new_user("dave", USDT="100000")
    ids = [dave.place(symbol="LINK/USDT", quantity="1", price="8")["order"]["id"] for _ in range(7)]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = dave.http.get("/orders", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        seen += [order["id"] for order in answer["data"]]
        cursor = answer["meta"]["next_cursor"]
        dave.place(symbol="LINK/USDT", quantity="1", price="8")
    assert seen == ids[::-1]
    start, end = dave.order(ids[2])["created_at"], dave.order(ids[5])["created_at"]
    between: list[dict[str, Any]] = dave.call("GET", f"/orders?start={start}&end={end}")
    assert {order["id"] for order in between} <= set(ids[2:5]) | {ids[5]}
    dave.call("DELETE", "/orders")


@pytest.mark.parametrize(
    "change",
    [
        {"quantity": "1"},
        {"quantity": "30"},
        {"quantity": "30", "time_in_force": "ioc"},
        {"quantity": "1", "time_in_force": "fok", "self_trade_prevention": "cancel_both"},
        {"quantity": "1", "price": "0.001", "post_only": True, "client_order_id": "seen-twice"},
        {"quantity": "1", "price": "0.001", "time_in_force": "gtd", "expires_at": "2100-01-01T00:00:00.5Z"},
        {"type": "market", "price": None, "quantity": "1"},
        {"type": "market", "price": None, "quantity": "100"},
        {"type": "market", "price": None, "quantity": None, "quote_quantity": "0.01"},
        {"type": "market", "price": None, "quantity": None, "quote_quantity": "0.0001"},
        {"type": "stop", "price": None, "stop_price": "0.01", "quantity": "1"},
        {"type": "stop", "price": None, "stop_price": "0.09", "quantity": "1"},
        {"type": "stop_limit", "stop_price": "0.01", "quantity": "30"},
        {"type": "stop_limit", "stop_price": "0.01", "quantity": "1", "time_in_force": "ioc"},
    ],
)
def test_answer_and_history_are_the_same(alice: User, bob: User, change: dict[str, Any]) -> None:
    """What a POST answers, made from events, is what a GET answers, made from PostgreSQL, field by field."""
    symbol = "ETH/BTC"
    bob.place(symbol=symbol, side="sell", quantity="10", price="0.05")
    alice.place(symbol=symbol, quantity="0.1", price="0.05")
    placed = alice.place(symbol=symbol, **({"price": "0.05"} | change))
    assert alice.order(placed["order"]["id"]) == placed["order"]
    fills = [trade | {"settlement_status": "settled"} for trade in placed["trades"]]
    mine = alice.call("GET", f"/trades?scope=mine&symbol={symbol}")
    assert [trade for trade in mine if trade["order_id"] == placed["order"]["id"]] == fills[::-1]
    if placed["order"]["status"] in {"open", "partially_filled", "pending"}:
        cancelled = alice.call("DELETE", f"/orders/{placed['order']['id']}")["order"]
        assert alice.order(cancelled["id"]) == cancelled
    bob.call("DELETE", "/orders?symbol=ETH-BTC")
    assert alice.call("GET", "/orders?symbol=ETH-BTC&status=open&status=partially_filled&status=pending") == []
