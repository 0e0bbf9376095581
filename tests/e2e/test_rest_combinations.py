"""The order API's table cell by cell, and what orders of each cell do: against the real engine, over HTTP."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from tests.e2e.users import Json, NewUser, User, make_user, sign_in
from tests.engines import Engine, running_engine

TYPES = ("limit", "market", "stop", "stop_limit")
TIMES = ("gtc", "gtd", "ioc", "fok")
LATER = "2099-01-01T00:00:00Z"
ENDS = {
    **{("limit", time): "open" for time in ("gtc", "gtd")},
    ("limit", "ioc"): "IOC_NOT_FILLED",
    ("limit", "fok"): "FOK_NOT_FILLED",
    ("market", "ioc"): "NO_LIQUIDITY",
    ("market", "fok"): "FOK_NOT_FILLED",
    **{("stop", time): "pending" for time in ("gtc", "gtd")},
    **{("stop_limit", time): "pending" for time in TIMES},
}
"""What becomes of an order in an empty book, by its cell; what is not here is refused."""
POST_ONLY = {("limit", "gtc"), ("limit", "gtd")}


def worded(order_type: str, time_in_force: str, side: str, **changes: object) -> Json:
    """Word an order of a cell, with all that goes with it."""
    order: Json = {"symbol": "AVAX/USDT", "side": side, "type": order_type, "quantity": "2"}
    order["time_in_force"] = time_in_force
    if order_type in {"limit", "stop_limit"}:
        order["price"] = "7"
    if order_type in {"stop", "stop_limit"}:
        order["stop_price"] = "7"
    if time_in_force == "gtd":
        order["expires_at"] = LATER
    return order | changes


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine of two shards in which no symbol has a last price that would narrow what may be asked."""
    with running_engine(tmp_path_factory.mktemp("combinations"), ["--shards", "2"]) as running:
        yield running


@pytest.fixture(scope="module")
def trader(engine: Engine) -> Iterator[User]:
    """Give a user who is alone in a symbol."""
    user = make_user(engine, "trader", {"USDT": "100000", "AVAX": "1000"})
    yield user
    user.http.close()


@pytest.mark.parametrize("side", ["buy", "sell"])
@pytest.mark.parametrize(("order_type", "time_in_force"), list(itertools.product(TYPES, TIMES)))
def test_each_cell_of_the_table(trader: User, order_type: str, time_in_force: str, side: str) -> None:
    """A cell's order does what the table says, or is refused as a combination; a test of it says the same."""
    cell = order_type, time_in_force
    order = worded(order_type, time_in_force, side)
    answer = trader.http.post("/orders", json=order).json()
    checked = trader.http.post("/orders/test", json=order).json()
    if cell not in ENDS:
        for said in (answer, checked):
            assert (said["error"]["code"], said["error"]["details"]["field"]) == (
                "INVALID_COMBINATION",
                "time_in_force",
            )
        return
    assert checked["success"]
    if answer["success"]:
        placed = answer["data"]["order"]
        assert (placed["status_reason"] or placed["status"]) == ENDS[cell]
    else:
        assert answer["error"]["code"] == ENDS[cell] == "FOK_NOT_FILLED"
    trader.call("DELETE", "/orders?symbol=AVAX-USDT")


@pytest.mark.parametrize(("order_type", "time_in_force"), sorted(ENDS))
def test_post_only_goes_with_orders_that_rest(trader: User, order_type: str, time_in_force: str) -> None:
    """Only limit orders that may rest are post-only; everywhere else it is refused by name."""
    order = worded(order_type, time_in_force, "buy", post_only=True)
    if (order_type, time_in_force) in POST_ONLY:
        placed = trader.call("POST", "/orders", 201, json=order)["order"]
        assert (placed["status"], placed["post_only"]) == ("open", True)
        trader.call("DELETE", f"/orders/{placed['id']}")
    else:
        error = trader.call("POST", "/orders", 400, json=order)
        assert (error["code"], error["details"]["field"]) == ("INVALID_COMBINATION", "post_only")


def test_market_order_is_immediate_without_saying_so(trader: User) -> None:
    """A market order's time in force is ioc where none is given, and only that or fok."""
    order = {name: value for name, value in worded("market", "ioc", "buy").items() if name != "time_in_force"}
    assert trader.call("POST", "/orders", 201, json=order)["order"]["time_in_force"] == "ioc"


@pytest.mark.parametrize(("side", "symbol"), [("buy", "LTC/USDT"), ("sell", "XRP/USDT")])
def test_stop_limits_that_do_not_rest_end_at_their_trigger(new_user: NewUser, side: str, symbol: str) -> None:
    """A stop_limit with ioc or fok waits as any stop; triggered, what cannot trade at once ends."""
    user, other = (new_user(name, USDT="1000", LTC="100", XRP="100") for name in ("stops", "maker"))
    opposite = "sell" if side == "buy" else "buy"
    terms: Json = {"symbol": symbol, "side": side, "type": "stop_limit", "quantity": "3"}
    terms |= {"price": "10", "stop_price": "10"}
    waiting = {time: user.place(**terms | {"time_in_force": time})["order"] for time in ("ioc", "fok")}
    assert {order["status"] for order in waiting.values()} == {"pending"}
    other.place(symbol=symbol, side=opposite, quantity="2", price="10")
    trigger = user.place(symbol=symbol, side=side, quantity="1", price="10")
    assert len(trigger["trades"]) == 1
    ended = {time: user.order(order["id"]) for time, order in waiting.items()}
    assert ended["ioc"]["status_reason"] == "IOC_REMAINDER"
    assert Decimal(ended["ioc"]["filled_quantity"]) == 1
    assert ended["fok"]["status_reason"] == "FOK_NOT_FILLED"
    assert Decimal(ended["fok"]["filled_quantity"]) == 0
    assert None not in {order["triggered_at"] for order in ended.values()}
    for each in (user, other):
        each.call("DELETE", "/orders")


def test_fok_by_amount_spends_all_or_nothing(new_user: NewUser) -> None:
    """A market buy by amount with fok fills when the book has that much, and else trades nothing."""
    seller, buyer = new_user("seller", LTC="10"), new_user("buyer", USDT="1000")
    seller.place(symbol="LTC/USDT", side="sell", quantity="5", price="10")
    order: Json = {"symbol": "LTC/USDT", "type": "market", "time_in_force": "fok"}
    assert buyer.place(422, **order, quote_quantity="60")["code"] == "FOK_NOT_FILLED"
    assert buyer.balances()["USDT"] == (Decimal(1000), Decimal(1000), Decimal(0))
    filled = buyer.place(**order, quote_quantity="40")["order"]
    assert filled["status"] == "filled"
    spent = Decimal(1000) - buyer.balances()["USDT"][0]
    assert Decimal("39.8") < spent <= 40
    seller.call("DELETE", "/orders")


def fills_of(user: User, order: Json) -> Decimal:
    """How much of an order is filled."""
    return Decimal(user.order(order["id"])["filled_quantity"])


@pytest.mark.parametrize(
    ("change", "keeps"),
    [
        ({"quantity": "3"}, True),
        ({"quantity": "6"}, False),
        ({"price": "5.9"}, False),
        ({"quantity": "3", "price": "6.1"}, False),
    ],
)
def test_amend_and_the_place_in_the_queue(new_user: NewUser, change: Json, keeps: bool) -> None:
    """Less quantity alone keeps its place before an order that came later; every other change goes behind it."""
    first, second, taker = (new_user(name, USDT="1000", LINK="100") for name in ("first", "second", "taker"))
    back_price = {"price": "6"} if "price" in change else {}
    early = first.place(symbol="LINK/USDT", quantity="5", price="6")["order"]
    late = second.place(symbol="LINK/USDT", quantity="5", price="6")["order"]
    first.call("PATCH", f"/orders/{early['id']}", json=change)
    if back_price:
        first.call("PATCH", f"/orders/{early['id']}", json=back_price)
    taker.place(symbol="LINK/USDT", side="sell", quantity="2", price="6")
    got = (fills_of(first, early), fills_of(second, late))
    assert got == ((Decimal(2), Decimal(0)) if keeps else (Decimal(0), Decimal(2)))
    for user in (first, second):
        user.call("DELETE", "/orders")


def test_amend_keeps_what_is_filled(new_user: NewUser) -> None:
    """The new quantity is the total: what is filled counts, at or below it is a conflict, and nothing changes then."""
    maker, taker = new_user("maker", USDT="1000"), new_user("taker", LINK="100")
    order = maker.place(symbol="LINK/USDT", quantity="5", price="6")["order"]
    taker.place(symbol="LINK/USDT", side="sell", quantity="2", price="6")
    before = maker.order(order["id"])
    for quantity in ("1", "2"):
        refused = maker.call("PATCH", f"/orders/{order['id']}", 409, json={"quantity": quantity})
        assert refused["code"] == "QUANTITY_NOT_ABOVE_FILLED"
    assert maker.order(order["id"]) == before
    amended = maker.call("PATCH", f"/orders/{order['id']}", json={"quantity": "3"})["order"]
    assert [Decimal(amended[name]) for name in ("quantity", "filled_quantity", "remaining_quantity")] == [3, 2, 1]
    maker.call("DELETE", "/orders")


def test_stop_price_of_a_waiting_stop_is_amended(new_user: NewUser) -> None:
    """A stop moves to its new stop price, triggers there, and takes no stop price any more once it has."""
    user, other = (new_user(name, USDT="1000", DOGE="100") for name in ("stops", "other"))
    stop = user.place(symbol="DOGE/USDT", type="stop_limit", quantity="2", stop_price="9", price="6")["order"]
    moved = user.call("PATCH", f"/orders/{stop['id']}", json={"stop_price": "5"})["order"]
    assert (moved["id"], Decimal(moved["stop_price"]), moved["status"]) == (stop["id"], Decimal(5), "pending")
    other.place(symbol="DOGE/USDT", side="sell", quantity="1", price="5.5")
    user.place(symbol="DOGE/USDT", quantity="1", price="5.5")
    assert user.order(stop["id"])["status"] == "open"
    late = user.call("PATCH", f"/orders/{stop['id']}", 400, json={"stop_price": "6"})
    assert (late["code"], late["details"]["field"]) == ("INVALID_COMBINATION", "stop_price")
    for each in (user, other):
        each.call("DELETE", "/orders")


@pytest.mark.parametrize(
    ("prevention", "filled", "reason"),
    [("cancel_taker", 1, "SELF_TRADE"), ("cancel_maker", 3, None), ("cancel_both", 1, "SELF_TRADE")],
)
def test_prevention_between_others_orders(new_user: NewUser, prevention: str, filled: int, reason: str | None) -> None:
    """A taker meets a stranger's order, its own, and a stranger's: the mode says who ends, and whether it goes on."""
    stranger, user = (new_user(name, USDT="1000", SOL="100") for name in ("stranger", "user"))
    stranger.place(symbol="SOL/USDT", side="sell", quantity="1", price="8")
    own = user.place(symbol="SOL/USDT", side="sell", quantity="1", price="8")["order"]
    stranger.place(symbol="SOL/USDT", side="sell", quantity="2", price="8")
    terms: Json = {"self_trade_prevention": prevention, "time_in_force": "ioc"}
    taken = user.place(symbol="SOL/USDT", quantity="3", price="8", **terms)["order"]
    assert (Decimal(taken["filled_quantity"]), taken["status_reason"]) == (Decimal(filled), reason)
    kept = user.order(own["id"])
    assert kept["status"] == ("open" if prevention == "cancel_taker" else "cancelled")
    assert kept["status_reason"] == (None if prevention == "cancel_taker" else "SELF_TRADE")
    for each in (stranger, user):
        each.call("DELETE", "/orders")


@pytest.mark.long
def test_orders_with_an_end_outlive_a_restart_and_end(data_dir: Path) -> None:
    """Two orders with an end: one's comes while the engine is down, and it is gone before it can trade; one's later."""
    with running_engine(data_dir) as engine:
        buyer = make_user(engine, "buyer", {"USDT": "1000"})
        seller = make_user(engine, "seller", {"AVAX": "100"})
        ends = [datetime.now(UTC) + timedelta(seconds=seconds) for seconds in (2, 3600)]
        gtd: Json = {"symbol": "AVAX/USDT", "quantity": "10", "time_in_force": "gtd"}
        orders = [buyer.place(**gtd, price="7", expires_at=end.isoformat())["order"] for end in ends]
        names = buyer.name, seller.name
        for user in (buyer, seller):
            user.http.close()
        assert {order["status"] for order in orders} == {"open"}
    while datetime.now(UTC) < ends[0]:
        pass
    with running_engine(data_dir) as engine:
        buyer, seller = (sign_in(engine, name) for name in names)
        sold = seller.place(symbol="AVAX/USDT", side="sell", quantity="15", price="7", time_in_force="ioc")
        assert [Decimal(trade["quantity"]) for trade in sold["trades"]] == [Decimal(10)]
        expired, filled = (buyer.order(order["id"]) for order in orders)
        assert (expired["status"], expired["status_reason"]) == ("cancelled", "EXPIRED")
        assert datetime.fromisoformat(expired["closed_at"]) >= ends[0].replace(microsecond=0)
        assert filled["status"] == "filled"
        assert buyer.balances()["USDT"][2] == 0
        for user in (buyer, seller):
            user.http.close()


def test_mass_cancel_of_more_orders_than_one_page(new_user: NewUser) -> None:
    """A mass cancel ends everything in one call, over symbols and shards, stops too, and tells how many and which."""
    user = new_user("many", USDT="100000", SOL="1000")
    ids = []
    for _ in range(2):
        orders = [worded("limit", "gtc", "buy", symbol=symbol) for symbol in ("SOL/USDT", "LINK/USDT")] * 25
        items = user.call("POST", "/orders/batch", json={"orders": [order | {"price": "4"} for order in orders]})
        ids += [item["data"]["order"]["id"] for item in items]
    stop = worded("stop", "gtc", "sell", symbol="SOL/USDT", stop_price="1", quantity="10")
    ids.append(user.call("POST", "/orders", 201, json=stop)["order"]["id"])
    assert user.call("DELETE", "/orders") == {"cancelled": 101, "total": 101, "orders": sorted(ids, key=int)}
    assert user.call("DELETE", "/orders") == {"cancelled": 0, "total": 0, "orders": []}
    assert user.balances()["USDT"][2] == 0
