"""Stories of users' limits over HTTP: at each bound, just below and above it, on every front and over both shards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from tests.e2e.bank import admin_of, ask_everyone, fresh
from tests.e2e.users import Json, User, make_user
from tests.engines import Engine

from tradeengine.actors.data_dir import read_secret
from tradeengine.web.auth import issue_token

FUNDS = {"USDT": "1000000", "BTC": "100", "ETH": "1000"}
ORDER: Json = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "100"}
"""Worth 100 USDT."""
EXCEEDED = (422, "LIMIT_EXCEEDED")
TAKEN = (201, "")


@pytest.fixture(scope="module")
def root(bank: Engine) -> Iterator[User]:
    """Give an administrator."""
    admin = admin_of(bank)
    yield admin
    admin.http.close()


@pytest.fixture
def alice(bank: Engine) -> Iterator[User]:
    """Give a new rich user."""
    user = make_user(bank, "limited", FUNDS)
    yield user
    user.call("DELETE", "/orders")
    user.http.close()


def limit(root: User, user: User, **limits: Any) -> None:
    """Set limits of a user."""
    root.call("POST", f"/admin/limits/user/{user.name}", json=limits)


def test_size_of_an_order(root: User, alice: User) -> None:
    """An order worth as much as the limit is taken, one worth a unit more refused, on every front, of either side."""
    limit(root, alice, max_order_size="100")
    assert set(ask_everyone(alice, "POST", "/orders", json=ORDER)) == {TAKEN}
    alice.call("DELETE", "/orders")
    for side in ("buy", "sell"):
        over = ORDER | {"side": side, "price": "100.01"}
        assert set(ask_everyone(alice, "POST", "/orders", json=over)) == {EXCEEDED}
        assert set(ask_everyone(alice, "POST", "/orders", json=over | {"price": "99.99"})) == {TAKEN}
        alice.call("DELETE", "/orders")
    error = alice.place(422, **(ORDER | {"quantity": "1.00001"}))
    assert error["details"].items() >= {"limit": "max_order_size", "maximum": "100.00000000"}.items()
    limit(root, alice, max_order_size=None)
    alice.place(**(ORDER | {"quantity": "50"}))


def test_amend_is_held_to_the_size(root: User, alice: User) -> None:
    """An order may be amended up to the limit and not beyond it; refused, it stays as it was."""
    limit(root, alice, max_order_size="100")
    order = alice.place(**(ORDER | {"quantity": "0.5"}))["order"]
    error = alice.call("PATCH", f"/orders/{order['id']}", 422, json={"quantity": "1.00001"})
    assert error["code"] == "LIMIT_EXCEEDED"
    assert alice.order(order["id"]) == order
    assert alice.call("PATCH", f"/orders/{order['id']}", json={"quantity": "1"})["order"]["quantity"] == "1.00000"


def test_second_factor_above_a_size(root: User, bank: Engine, alice: User) -> None:
    """Up to the bound any token will do; above it only one from a sign-in with a second factor."""
    limit(root, alice, requires_2fa_above="100")
    over = ORDER | {"price": "100.01"}
    assert alice.place(**ORDER)["order"]["status"] == "open"
    assert set(ask_everyone(alice, "POST", "/orders", json=over)) == {(403, "TWO_FACTOR_REQUIRED")}
    secret = read_secret(bank.data_dir).encode()
    with httpx2.Client(base_url=alice.http.base_url, timeout=20, trust_env=False) as client:
        client.headers["Authorization"] = f"Bearer {issue_token(secret, alice.name, 'user', 60, two_factor=True)}"
        assert client.post("/orders", json=over).status_code == 201


def test_open_orders(root: User, alice: User) -> None:
    """As many orders may be open as the limit says, over all symbols; one that ends makes room for another."""
    limit(root, alice, max_open_orders=3)
    symbols = ("BTC/USDT", "ETH/USDT", "BTC/USDT")
    ids = [alice.place(**(ORDER | {"symbol": symbol}))["order"]["id"] for symbol in symbols]
    for symbol in ("BTC/USDT", "ETH/USDT"):
        assert set(ask_everyone(alice, "POST", "/orders", json=ORDER | {"symbol": symbol})) == {EXCEEDED}
    alice.call("DELETE", f"/orders/{ids[0]}")
    alice.place(**ORDER)
    assert alice.place(422, **ORDER)["details"]["limit"] == "max_open_orders"
    limit(root, alice, max_open_orders=0)
    alice.call("DELETE", "/orders")
    assert alice.place(422, **ORDER)["code"] == "LIMIT_EXCEEDED"


def test_volume_of_the_day(root: User, bank: Engine, alice: User) -> None:
    """Fills count for the day, open orders as long as they could trade; the last unit is allowed and no more."""
    bob = make_user(bank, "other", FUNDS)
    limit(root, alice, max_daily_volume="300")
    bob.place(symbol="ETH/USDT", side="sell", quantity="1", price="100")
    assert alice.place(**(ORDER | {"symbol": "ETH/USDT"}))["order"]["status"] == "filled"
    resting = alice.place(**ORDER)["order"]
    assert alice.place(422, **(ORDER | {"price": "100.01"}))["details"]["limit"] == "max_daily_volume"
    last = alice.place(**ORDER)["order"]
    small = ORDER | {"quantity": "0.1", "price": "50"}
    assert set(ask_everyone(alice, "POST", "/orders", json=small)) == {EXCEEDED}
    alice.call("DELETE", f"/orders/{resting['id']}")
    assert alice.place(**small)["order"]["status"] == "open"
    alice.call("DELETE", f"/orders/{last['id']}")
    limit(root, alice, max_daily_volume="99.99")
    alice.call("DELETE", "/orders")
    assert alice.place(422, **small)["code"] == "LIMIT_EXCEEDED"
    bob.http.close()


def test_last_unit_of_volume_goes_to_one(root: User, alice: User) -> None:
    """Orders on two shards through two fronts, all at once, for the last of a day's volume: exactly one is taken."""
    for used in range(1, 5):
        limit(root, alice, max_daily_volume=str(Decimal(100) * used))
        statuses: list[int] = []

        def place(symbol: str, statuses: list[int] = statuses) -> None:
            with fresh(alice) as client:
                statuses.append(client.post("/orders", json=ORDER | {"symbol": symbol}).status_code)

        threads = [threading.Thread(target=place, args=(symbol,)) for symbol in ("BTC/USDT", "ETH/USDT") * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [201] + [422] * 7
