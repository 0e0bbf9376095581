"""The front over two shards and two fronts, and while what is behind it stands still."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from tests.e2e.users import NewUser, User, connect_database, users_for_a_test
from tests.engines import Engine, is_alive, running_engine

IMPATIENT = {"TRADEENGINE_HTTP_COMMAND_TIMEOUT_MS": "2000", "TRADEENGINE_HTTP_BARRIER_TIMEOUT_MS": "1000"}
"""Longer than a busy machine keeps an actor from running: what nobody has stopped is never late."""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Give an engine of two shards and two fronts that waits for nobody long."""
    folder = tmp_path_factory.mktemp("wide")
    with running_engine(folder, ["--shards", "2", "--fronts", "2"], IMPATIENT) as running:
        yield running


@pytest.fixture
def rich(wide: Engine) -> Iterator[NewUser]:
    """Give a maker of users of the wide engine."""
    yield from users_for_a_test(wide)


def fresh(user: User) -> httpx2.Client:
    """Open another connection for a user; the kernel gives it to either front."""
    return httpx2.Client(base_url=user.http.base_url, headers=user.http.headers, timeout=20, trust_env=False)


def test_symbols_are_spread_over_the_shards(wide: Engine, rich: NewUser) -> None:
    """Two shards carry the symbols, and the first two pairs lie on different ones."""
    shards = {row["symbol"]: row["shard"] for row in rich("reader").call("GET", "/symbols")}
    assert set(shards.values()) == {0, 1}
    assert shards["BTC/USDT"] != shards["ETH/USDT"]
    assert {"front-0", "front-1"} <= set(wide.actors())


def test_mass_cancel_reaches_every_shard(rich: NewUser) -> None:
    """Cancelling everything ends one's orders on both shards in one call, and frees both holds."""
    user = rich("spread", USDT="100000")
    ids = [
        user.place(symbol=symbol, quantity="1", price="100")["order"]["id"]
        for symbol in ("BTC/USDT", "ETH/USDT", "BTC/USDT")
    ]
    assert user.balances()["USDT"][2] == Decimal("300.3")
    done = user.call("DELETE", "/orders")
    assert (done["cancelled"], sorted(done["orders"])) == (3, sorted(ids))
    assert user.balances()["USDT"][2] == 0
    assert {order["status"] for order in user.call("GET", "/orders")} == {"cancelled"}


def test_repeat_through_another_front_is_the_same_order(rich: NewUser) -> None:
    """However often and on whatever connection a request is repeated, it is one order."""
    user = rich("repeater", USDT="100000")
    order = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "100"}
    statuses, ids = [], set()
    for _ in range(12):
        with fresh(user) as client:
            answer = client.post("/orders", json=order | {"client_order_id": "again"})
        statuses.append(answer.status_code)
        ids.add(answer.json()["data"]["order"]["id"])
    assert statuses == [201] + [200] * 11
    assert len(ids) == 1
    user.call("DELETE", "/orders")


def test_orders_pass_while_settlement_stands_still(wide: Engine, rich: NewUser) -> None:
    """Without settlement orders are accepted and balances told; history says that it is behind, and then has all."""
    user = rich("patient", USDT="100000")
    with wide.standing_still("settlement"):
        order = user.place(symbol="BTC/USDT", quantity="1", price="100")["order"]
        assert user.balances()["USDT"][2] == Decimal("100.1")
        error = user.call("GET", f"/orders/{order['id']}", status=503)
        assert (error["code"], error["details"]["events"] > 0) == ("SETTLEMENT_BACKLOG", True)
    assert user.order(order["id"]) == order
    user.call("DELETE", "/orders")


def test_unknown_outcome_is_settled_by_repeating(wide: Engine, rich: NewUser) -> None:
    """While risk stands still the outcome is unknown; the same request afterwards gives exactly one order."""
    user = rich("persistent", USDT="100000")
    order: dict[str, Any] = {"symbol": "ETH/USDT", "quantity": "1", "price": "100"}
    with wide.standing_still("risk"):
        error = user.place(status=504, **order)
        assert error["code"] == "OUTCOME_UNKNOWN"
    made = error["details"]["client_order_id"]
    answer = user.http.post("/orders", json={"side": "buy", "type": "limit", **order, "client_order_id": made})
    assert answer.status_code in {200, 201}
    (listed,) = user.call("GET", "/orders")
    assert listed == answer.json()["data"]["order"]
    assert user.balances()["USDT"][2] == Decimal("100.1")
    user.call("DELETE", "/orders")


def test_command_beyond_its_deadline_is_not_carried_out(wide: Engine, rich: NewUser) -> None:
    """What risk sees too late is dropped: after the pause there is no order and no hold."""
    user = rich("late", USDT="100000")
    with wide.standing_still("risk"):
        assert user.place(status=504, symbol="ETH/USDT", quantity="1", price="100")["code"] == "OUTCOME_UNKNOWN"
    assert user.call("GET", "/orders") == []
    assert user.balances()["USDT"][2] == 0


def test_lost_database_connections_cost_nothing(wide: Engine, rich: NewUser) -> None:
    """When PostgreSQL has dropped every connection of the fronts, the next question still gets its answer."""
    user = rich("reconnecting", USDT="100000")
    order = user.place(symbol="BTC/USDT", quantity="1", price="100")["order"]
    for _ in range(4):
        with fresh(user) as client:
            assert client.get("/orders").status_code == 200
    with connect_database(wide) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tradeengine-front-%'"
        )
    for _ in range(4):
        with fresh(user) as client:
            assert client.get(f"/orders/{order['id']}").json()["data"]["order"] == order
    user.call("DELETE", "/orders")


def test_dead_front_is_replaced_and_the_other_serves(wide: Engine, rich: NewUser) -> None:
    """A front that is killed takes only its own connections with it: new ones are answered all the time."""
    user = rich("surviving", USDT="100000")
    killed = wide.actors()["front-0"]
    os.kill(killed, signal.SIGKILL)
    while is_alive(killed):
        pass
    placed = 0
    while "front-0" not in wide.actors() or placed < 20:
        with fresh(user) as client:
            answer = client.post(
                "/orders", json={"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "10"}
            )
        assert answer.status_code == 201, answer.text
        placed += 1
    assert user.call("DELETE", "/orders")["cancelled"] == placed
