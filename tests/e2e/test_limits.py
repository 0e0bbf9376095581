"""Stories of trading limits: at each bound, on two fronts and two shards, with and without a second factor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from tests.e2e.bank import ask_everyone, at_once, fresh
from tests.e2e.users import Json, User, make_user, user_for_a_test
from tests.e2e.watched import token_of
from tests.engines import Engine
from tests.web.raw_websocket import connected

from tradeengine.actors.data_dir import read_secret
from tradeengine.web.auth import issue_token

FUNDS = {"USDT": "100000", "LTC": "1000", "LINK": "1000"}
LTC, LINK = "LTC/USDT", "LINK/USDT"
ORDER: Json = {"symbol": LTC, "side": "buy", "type": "limit", "quantity": "1", "price": "100"}
UNIT = Decimal("0.00000001")


@pytest.fixture
def alice(bank: Engine) -> Iterator[User]:
    """Give a new user with money; what they leave in the books goes with them."""
    yield from user_for_a_test(bank, "alice", FUNDS)


@pytest.fixture
def strong(bank: Engine, alice: User) -> Iterator[User]:
    """Give Alice again, signed in with a second factor."""
    token = issue_token(read_secret(bank.data_dir).encode(), alice.name, "user", 3600, two_factor=True)
    with httpx2.Client(
        base_url=f"{bank.url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=20, trust_env=False
    ) as client:
        yield User(alice.name, client)


@pytest.fixture(scope="module")
def maker(bank: Engine) -> Iterator[User]:
    """Give somebody who quotes 99 to 101 in both symbols."""
    user = make_user(bank, "maker", {"USDT": "1000000", "LTC": "10000", "LINK": "10000"})
    for symbol in (LTC, LINK):
        user.place(symbol=symbol, side="buy", quantity="100", price="99")
        user.place(symbol=symbol, side="sell", quantity="100", price="101")
    yield user
    user.call("DELETE", "/orders")
    user.http.close()


def limit(root: User, user: User, **limits: Any) -> None:
    """Set limits of a user; those that are not named are none."""
    names = ("max_order_size", "max_daily_volume", "requires_2fa_above", "max_open_orders")
    root.call("POST", f"/admin/limits/user/{user.name}", json=dict.fromkeys(names) | limits)


def placing(user: User, **order: Any) -> Callable[[], int]:
    """Make something that places an order over a connection of its own, to whichever front; gives the status."""

    def place() -> int:
        with fresh(user) as client:
            return client.post("/orders", json=ORDER | order).status_code

    return place


NOTIONALS = pytest.mark.parametrize(
    ("order", "notional"),
    [
        ({"price": "100"}, "100"),
        ({"side": "sell", "price": "102"}, "102"),
        ({"type": "market", "price": None}, "101"),
        ({"type": "market", "price": None, "side": "sell"}, "99"),
        ({"type": "market", "price": None, "quantity": None, "quote_quantity": "50"}, "50"),
        ({"type": "stop", "price": None, "stop_price": "105"}, "105"),
        ({"type": "stop_limit", "side": "sell", "stop_price": "95", "price": "94.5"}, "94.5"),
    ],
    ids=["buy", "sell", "market buy", "market sell", "by quote", "stop", "stop limit"],
)


@NOTIONALS
@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("max_order_size", 422, "LIMIT_EXCEEDED"),
        ("max_daily_volume", 422, "LIMIT_EXCEEDED"),
        ("requires_2fa_above", 403, "TWO_FACTOR_REQUIRED"),
    ],
)
@pytest.mark.usefixtures("maker")
def test_bounds(root: User, alice: User, order: Json, notional: str, name: str, status: int, code: str) -> None:
    """A limit a unit below what an order comes to refuses it, with name and numbers; one at or above that does not."""
    order = {field: value for field, value in (ORDER | order).items() if value is not None}
    bound = Decimal(notional)
    limit(root, alice, **{name: str(bound - UNIT)})
    error = alice.call("POST", "/orders", status, json=order)
    assert error["code"] == code
    used = Decimal(0) if name == "max_daily_volume" else bound
    told = error["details"]
    assert (told["limit"], told["asset"], Decimal(told["maximum"]), Decimal(told["used"])) == (
        name,
        "USDT",
        bound - UNIT,
        used,
    )
    limit(root, alice, **{name: str(bound)})
    alice.place(**order)
    alice.call("DELETE", "/orders")
    if name != "max_daily_volume":
        limit(root, alice, **{name: str(bound + UNIT)})
        alice.place(**order)


def test_second_factor_opens_what_a_token_alone_does_not(root: User, alice: User, strong: User) -> None:
    """Above the bound a token with a second factor places and amends; a repeat without one is answered all the same."""
    limit(root, alice, requires_2fa_above="99.99")
    named = {"client_order_id": f"{alice.name}.1"}
    assert alice.place(403, **ORDER | named)["code"] == "TWO_FACTOR_REQUIRED"
    order_id = strong.place(**ORDER | named)["order"]["id"]
    assert alice.place(200, **ORDER | named)["order"]["id"] == order_id
    path = f"/orders/{order_id}"
    error = alice.call("PATCH", path, 403, json={"quantity": "2"})
    assert (error["code"], error["details"]["limit"]) == ("TWO_FACTOR_REQUIRED", "requires_2fa_above")
    strong.call("PATCH", path, json={"quantity": "2"})
    assert Decimal(strong.order(order_id)["quantity"]) == 2
    alice.call("PATCH", path, json={"quantity": "1.5"})
    assert Decimal(alice.order(order_id)["quantity"]) == Decimal("1.5")


def test_orders_of_a_batch_are_held_to_the_limits_one_by_one(root: User, alice: User, strong: User) -> None:
    """An order of a batch that a limit refuses leaves the others alone; the batch's sender is who has the factor."""
    limit(root, alice, max_order_size="200", requires_2fa_above="100")
    orders = [ORDER, ORDER | {"quantity": "1.5"}, ORDER | {"quantity": "3"}]
    codes = ["", "TWO_FACTOR_REQUIRED", "LIMIT_EXCEEDED"]
    for user, expected in ((alice, codes), (strong, ["", "", "LIMIT_EXCEEDED"])):
        items = user.call("POST", "/orders/batch", json=orders)
        assert ["" if item["success"] else item["error"]["code"] for item in items] == expected


async def test_stream_refuses_in_the_words_of_http(root: User, alice: User, bank: Engine) -> None:
    """An order over a stream is refused with the code and the details that HTTP gives."""
    limit(root, alice, max_order_size="99")
    refused = alice.place(422, **ORDER)
    async with connected(bank.url, token=token_of(alice)) as socket:
        error = await socket.refusal("place", **ORDER)
    for told in (refused, error):
        told["details"].pop("client_order_id")
    assert (error["code"], error["details"]) == (refused["code"], refused["details"])


def test_volume_is_one_sum_over_shards_and_fronts(root: User, alice: User, maker: User) -> None:
    """What is traded and what rests in two symbols on two shards adds up, as every front says; cancels take it off."""
    limit(root, alice, max_daily_volume="500")
    alice.place(symbol=LTC, quantity="1", price="101")
    alice.place(symbol=LINK, side="sell", type="market", quantity="1")
    resting = alice.place(symbol=LINK, quantity="2", price="90")["order"]
    details = alice.place(422, **ORDER | {"quantity": "1.2", "price": "100.01"})["details"]
    assert (details["limit"], Decimal(details["used"])) == ("max_daily_volume", Decimal(101 + 99 + 180))
    refused = ask_everyone(alice, "POST", "/orders", json=ORDER | {"quantity": "1.2", "price": "100.01"})
    assert set(refused) == {(422, "LIMIT_EXCEEDED")}
    alice.place(**ORDER | {"quantity": "1.2", "price": "100"})
    alice.call("DELETE", f"/orders/{resting['id']}")
    alice.place(**ORDER | {"quantity": "1.8", "price": "100"})
    assert alice.place(422, **ORDER | {"quantity": "0.1", "price": "90"})["details"]["limit"] == "max_daily_volume"


def test_last_unit_of_volume_goes_to_one_order(root: User, alice: User) -> None:
    """Of orders sent at once over both fronts to both shards exactly as many are taken as the volume has room for."""
    for number in range(6):
        limit(root, alice, max_daily_volume=("100", "299.99")[number % 2])
        works = [placing(alice, symbol=symbol) for symbol in (LTC, LINK) * 3]
        assert sorted(at_once(*works)) == [201] * (1, 2)[number % 2] + [422] * (5, 4)[number % 2]
        alice.call("DELETE", "/orders")


def test_last_unit_of_balance_goes_to_one_order(alice: User) -> None:
    """Of orders for everything that there is, sent at once over both fronts to both shards, exactly one is taken."""
    for _ in range(6):
        works = [placing(alice, symbol=symbol, quantity="999", price="100") for symbol in (LTC, LINK) * 3]
        assert sorted(at_once(*works)) == [201] + [422] * 5
        _, _, held = alice.balances()["USDT"]
        assert held == Decimal("99999.9")
        alice.call("DELETE", "/orders")


def test_last_place_for_an_open_order(root: User, alice: User) -> None:
    """Of orders at once for the last place there is, one is taken; the others are told how many there may be."""
    limit(root, alice, max_open_orders=3)
    for symbol in (LTC, LINK):
        alice.place(**ORDER | {"symbol": symbol, "price": "90"})
    works = [placing(alice, symbol=symbol, price="90") for symbol in (LTC, LINK) * 3]
    assert sorted(at_once(*works)) == [201] + [422] * 5
    details = alice.place(422, **ORDER)["details"]
    assert (details["limit"], details["maximum"], details["used"]) == ("max_open_orders", 3, 3)
    alice.call("DELETE", "/orders")
    alice.place(**ORDER)


def test_amend_is_held_to_the_limits_where_it_grows(root: User, alice: User) -> None:
    """An amend past a limit is refused and changes nothing; to the limit, or downwards, it goes through."""
    order_id = alice.place(**ORDER)["order"]["id"]
    path = f"/orders/{order_id}"
    limit(root, alice, max_order_size="150", max_daily_volume="140")
    error = alice.call("PATCH", path, 422, json={"quantity": "1.6"})
    assert error["details"].items() >= {"limit": "max_order_size", "order_id": order_id}.items()
    assert alice.call("PATCH", path, 422, json={"quantity": "1.45"})["details"]["limit"] == "max_daily_volume"
    assert Decimal(alice.order(order_id)["quantity"]) == 1
    alice.call("PATCH", path, json={"quantity": "1.4"})
    limit(root, alice, max_order_size="1", max_daily_volume="1")
    alice.call("PATCH", path, json={"price": "99.5"})
    assert alice.call("PATCH", path, 422, json={"price": "99.6"})["code"] == "LIMIT_EXCEEDED"
