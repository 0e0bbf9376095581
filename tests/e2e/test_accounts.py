"""Stories of limits and suspensions: an administrator's word counts on every front once it is answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from tests.e2e.bank import ask_everyone, fresh
from tests.e2e.users import Json, User, connect_database, make_user
from tests.e2e.watched import token_of
from tests.engines import Engine
from tests.web.raw_websocket import WAIT_S, Refused, connect, connected

FUNDS = {"USDT": "100000", "BTC": "10", "ETH": "10"}
ORDER: Json = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "100"}
NO_LIMITS = {
    "max_order_size": None,
    "max_daily_volume": None,
    "requires_2fa_above": None,
    "max_open_orders": None,
    "suspended": False,
}
SUSPENDED = (403, "ACCOUNT_SUSPENDED")


@pytest.fixture
def alice(bank: Engine) -> Iterator[User]:
    """Give a new user with money."""
    user = make_user(bank, "alice", FUNDS)
    yield user
    user.http.close()


def test_limits_are_changed_one_by_one(root: User, alice: User) -> None:
    """What a change names is changed, the rest stays, null takes a limit away; whoever looks sees it as it is."""
    path = f"/admin/limits/user/{alice.name}"
    assert root.call("GET", path) == NO_LIMITS | {"user": alice.name, "updated_at": None}
    first = root.call("POST", path, json={"max_order_size": "2500.500", "max_open_orders": 7})
    assert (first["max_order_size"], first["max_open_orders"], first["max_daily_volume"]) == ("2500.5", 7, None)
    second = root.call("POST", path, json={"max_daily_volume": "1000000", "max_open_orders": None})
    expected = {"max_order_size": "2500.5", "max_daily_volume": "1000000", "max_open_orders": None}
    assert second.items() >= expected.items()
    assert root.call("GET", path) == second
    root.call("POST", path, json=dict.fromkeys(expected))
    assert root.call("GET", path).items() >= NO_LIMITS.items()


def test_user_who_was_never_seen(root: User, bank: Engine) -> None:
    """Limits can be set for a user before their first request; to ask about one whom nobody has named is 404."""
    name = "unseen-by-anyone"
    assert root.call("GET", f"/admin/limits/user/{name}", 404)["code"] == "NOT_FOUND"
    root.call("POST", f"/admin/limits/user/{name}", json={"max_open_orders": 0})
    assert root.call("GET", f"/admin/limits/user/{name}")["max_open_orders"] == 0
    for wrong in ("*exchange*", "a b", "x" * 65, "%00"):
        assert root.call("GET", f"/admin/limits/user/{wrong}", 404)["code"] == "NOT_FOUND"
        error = root.call("POST", f"/admin/limits/user/{wrong}", 400, json={"max_open_orders": 0})
        assert error["details"]["field"] == "user"


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "INVALID_REQUEST", None),
        ({"max_order_size": 5}, "INVALID_REQUEST", "max_order_size"),
        ({"max_order_size": "-1"}, "NUMBER_OUT_OF_RANGE", "max_order_size"),
        ({"max_order_size": "1e3"}, "INVALID_REQUEST", "max_order_size"),
        ({"max_daily_volume": "0." + "0" * 18 + "1"}, "NUMBER_OUT_OF_RANGE", "max_daily_volume"),
        ({"max_daily_volume": "3" * 19}, "NUMBER_OUT_OF_RANGE", "max_daily_volume"),
        ({"requires_2fa_above": "1" * 65}, "INVALID_REQUEST", "requires_2fa_above"),
        ({"max_open_orders": -1}, "NUMBER_OUT_OF_RANGE", "max_open_orders"),
        ({"max_open_orders": 1.5}, "NUMBER_OUT_OF_RANGE", "max_open_orders"),
        ({"max_open_orders": "5"}, "NUMBER_OUT_OF_RANGE", "max_open_orders"),
        ({"suspended": True}, "INVALID_REQUEST", "suspended"),
    ],
)
def test_wrong_limit_is_refused_by_field(root: User, alice: User, body: Json, code: str, field: str | None) -> None:
    """A limit that cannot be is refused with its name, and changes nothing."""
    path = f"/admin/limits/user/{alice.name}"
    error = root.call("POST", path, 400, json=body)
    assert (error["code"], error["details"].get("field")) == (code, field)
    assert root.call("GET", path).items() >= NO_LIMITS.items()


def test_two_changes_at_once_undo_nothing_of_each_other(root: User, alice: User) -> None:
    """Two administrators who change different limits of one user at the same time both have their way."""
    path = f"/admin/limits/user/{alice.name}"

    def change(name: str) -> None:
        with fresh(root) as client:
            for number in range(20):
                assert client.post(path, json={name: str(number)}).status_code == 200

    threads = [threading.Thread(target=change, args=(name,)) for name in ("max_order_size", "max_daily_volume")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    limits = root.call("GET", path)
    assert (limits["max_order_size"], limits["max_daily_volume"]) == ("19", "19")


def test_symbol_limits_count_at_once_on_every_front(root: User, alice: User) -> None:
    """New bounds of a symbol hold for the next order on any front: at them it is taken, beyond them refused."""
    path = "/admin/limits/symbol/ETH-USDT"
    before = root.call("GET", path)
    order = ORDER | {"symbol": "ETH/USDT"}
    try:
        changed = root.call("POST", path, json={"min_order_size": "0.5", "max_order_size": "2"})
        assert [name for name in before if before[name] != changed[name]] == ["min_order_size", "max_order_size"]
        assert root.call("GET", path.replace("ETH-", "eth%2F")) == changed
        for quantity, fits in (("0.5", True), ("0.4999", False), ("2", True), ("2.0001", False)):
            answers = ask_everyone(alice, "POST", "/orders", json=order | {"quantity": quantity})
            assert set(answers) == ({(201, "")} if fits else {(400, "NUMBER_OUT_OF_RANGE")}), quantity
        root.call("POST", path, json={"max_order_size": before["max_order_size"]})
        assert set(ask_everyone(alice, "POST", "/orders", json=order | {"quantity": "2.0001"})) == {(201, "")}
    finally:
        alice.call("DELETE", "/orders")
        root.call("POST", path, json={name: value for name, value in before.items() if name != "symbol"})
    assert root.call("GET", path) == before


def test_collar_is_changed_and_taken_away(root: User, bank: Engine, alice: User) -> None:
    """The collar that the matcher goes by is the one that was answered last; null is none; PostgreSQL has it, too."""
    path = "/admin/limits/symbol/SOL-USDT"
    before = root.call("GET", path)
    bob = make_user(bank, "bob", {"SOL": "10"})
    bob.place(symbol="SOL/USDT", side="sell", quantity="1", price="100")
    alice.place(symbol="SOL/USDT", side="buy", quantity="1", price="100")
    far = {"symbol": "SOL/USDT", "side": "buy", "quantity": "0.1", "price": "150"}
    try:
        for deviation, status in (("0.49", 422), ("0.5", 201), ("0.10", 422), (None, 201)):
            assert root.call("POST", path, json={"max_price_deviation": deviation})["symbol"] == "SOL/USDT"
            assert alice.place(status, **far).get("code", "") == ("" if status == 201 else "PRICE_OUT_OF_COLLAR")
        with connect_database(bank) as connection:
            assert connection.execute("SELECT collar_ppm FROM symbols WHERE name = 'SOL/USDT'").fetchone() == (0,)
        symbols = {row["symbol"]: row["max_price_deviation"] for row in alice.call("GET", "/symbols")}
        assert symbols["SOL/USDT"] is None
    finally:
        alice.call("DELETE", "/orders")
        root.call("POST", path, json={"max_price_deviation": before["max_price_deviation"]})
        bob.http.close()


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "INVALID_REQUEST", None),
        ({"min_order_size": None}, "INVALID_REQUEST", "min_order_size"),
        ({"min_order_size": "0"}, "NUMBER_OUT_OF_RANGE", "min_order_size"),
        ({"min_order_size": "0.000015"}, "QUANTITY_NOT_ON_LOT", "min_order_size"),
        ({"min_order_size": "5", "max_order_size": "4"}, "NUMBER_OUT_OF_RANGE", "max_order_size"),
        ({"max_order_size": "9" * 18}, "NUMBER_OUT_OF_RANGE", "max_order_size"),
        ({"max_price_deviation": "0"}, "NUMBER_OUT_OF_RANGE", "max_price_deviation"),
        ({"max_price_deviation": "10.000001"}, "NUMBER_OUT_OF_RANGE", "max_price_deviation"),
        ({"max_price_deviation": "0.0000001"}, "INVALID_REQUEST", "max_price_deviation"),
        ({"taker_fee": "0"}, "INVALID_REQUEST", "taker_fee"),
    ],
)
def test_wrong_symbol_limit_is_refused_by_field(root: User, body: Json, code: str, field: str | None) -> None:
    """A bound that cannot be, or would let numbers overflow, is refused with its name, and changes nothing."""
    path = "/admin/limits/symbol/BTC-USDT"
    before = root.call("GET", path)
    error = root.call("POST", path, 400, json=body)
    assert (error["code"], error["details"].get("field")) == (code, field)
    assert root.call("GET", path) == before
    assert root.call("POST", "/admin/limits/symbol/NO-SUCH", 404, json=body)["code"] == "SYMBOL_NOT_FOUND"


def test_suspended_user_may_only_cancel(root: User, alice: User) -> None:
    """From the answer on every front refuses everything of a suspended user but cancels; resumed, everything works."""
    order = alice.place(**ORDER)["order"]
    other = alice.place(**ORDER)["order"]
    told = root.call("POST", f"/admin/users/{alice.name}/suspend", json={"reason": "under <b>review</b>"})
    assert (told["suspended"], told["reason"], told["changed_by"]) == (True, "under <b>review</b>", "root")
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/orders", {"json": ORDER}),
        ("POST", "/orders/test", {"json": ORDER}),
        ("PATCH", f"/orders/{order['id']}", {"json": {"quantity": "0.5"}}),
        ("GET", "/orders", {}),
        ("GET", f"/orders/{order['id']}", {}),
        ("GET", "/balances", {}),
        ("GET", "/ledger", {}),
        ("GET", "/fees", {}),
        ("GET", "/trades?scope=mine", {}),
        ("GET", "/api-keys", {}),
        ("POST", "/api-keys", {"json": {"name": "x", "permissions": ["read"]}}),
    ]
    for method, path, options in calls:
        assert set(ask_everyone(alice, method, path, **options)) == {SUSPENDED}, path
    assert root.call("GET", f"/admin/limits/user/{alice.name}")["suspended"] is True
    assert alice.call("DELETE", f"/orders/{order['id']}")["order"]["status"] == "cancelled"
    assert alice.call("DELETE", "/orders")["orders"] == [other["id"]]
    assert alice.http.get("/symbols").status_code == 200
    root.call("POST", f"/admin/users/{alice.name}/resume", json={"reason": "reviewed"})
    assert set(ask_everyone(alice, "GET", "/balances")) == {(200, "")}
    alice.place(**ORDER)
    alice.call("DELETE", "/orders")


def test_orders_of_a_suspended_user_still_trade(root: User, bank: Engine, alice: User) -> None:
    """A suspension ends no order: what rests in the book can be hit until somebody cancels it."""
    symbol = "AVAX/USDT"
    order = alice.place(symbol=symbol, quantity="1", price="10")["order"]
    root.call("POST", f"/admin/users/{alice.name}/suspend", json={"reason": "x"})
    bob = make_user(bank, "bob", {"AVAX": "5"})
    assert len(bob.place(symbol=symbol, side="sell", quantity="1", price="10")["trades"]) == 1
    bob.http.close()
    root.call("POST", f"/admin/users/{alice.name}/resume", json={"reason": "x"})
    assert alice.order(order["id"])["status"] == "filled"


async def test_streams_of_a_suspended_user_end(root: User, bank: Engine, alice: User) -> None:
    """Connections of the user end with 4003 on every front, their requests are refused, and no new one is let in."""
    sockets = [await connect(bank.url, token=token_of(alice)) for _ in range(8)]
    for socket in sockets:
        await socket.ask("subscribe", channels=["orders", "balances"])
    async with connected(bank.url) as anyone:
        await anyone.ask("subscribe", channels=["book:BTC/USDT"])
        path = f"/admin/users/{alice.name}/suspend"
        await trio.to_thread.run_sync(lambda: root.call("POST", path, json={"reason": "x"}))
        # One asks before anybody has looked: it is refused all the same, and nothing is placed.
        await sockets[0].request("place", **ORDER)
        with trio.fail_after(WAIT_S):
            assert [await socket.close_code() for socket in sockets] == [4003] * len(sockets)
        assert [message["code"] for message in sockets[0].kept if message["type"] == "error"] in (
            [],
            ["ACCOUNT_SUSPENDED"],
        )
        for path in ("/ws/stream", "/ws/orders"):
            with pytest.raises(Refused) as refused:
                await connect(bank.url, path, token=token_of(alice))
            assert (refused.value.status, refused.value.code) == SUSPENDED
        error = await anyone.refusal("auth", access_token=token_of(alice))
        assert error["code"] == "ACCOUNT_SUSPENDED"
        assert (await anyone.ask("ping"))["time"]
    for socket in sockets:
        await socket.stream.aclose()
    await trio.to_thread.run_sync(lambda: root.call("POST", f"/admin/users/{alice.name}/resume", json={"reason": "x"}))
    assert await trio.to_thread.run_sync(lambda: alice.call("GET", "/orders")) == []


@pytest.mark.parametrize("reason", ["", "x" * 201, "two\nlines", "null\x00", 5, None])
def test_reason_is_words(root: User, alice: User, reason: Any) -> None:
    """A suspension without a reason that people can read is refused, and nobody is suspended."""
    error = root.call("POST", f"/admin/users/{alice.name}/suspend", 400, json={"reason": reason})
    assert error["details"]["field"] == "reason"
    alice.call("GET", "/balances")


def test_administrators_do_not_suspend_themselves(root: User) -> None:
    """An administrator who would lock themselves out is told so."""
    error = root.call("POST", f"/admin/users/{root.name}/suspend", 400, json={"reason": "x"})
    assert error["details"]["field"] == "user"
    root.call("GET", "/admin/deposits")


def test_suspended_administrator_administrates_no_more(root: User, bank: Engine) -> None:
    """A suspension goes for whoever it names: an administrator's token is of no more use than anyone's."""
    other = User("other-root", bank.client("other-root", "super_admin"))
    other.call("GET", "/admin/deposits")
    root.call("POST", "/admin/users/other-root/suspend", json={"reason": "left us"})
    assert set(ask_everyone(other, "GET", "/admin/deposits")) == {SUSPENDED}
    assert other.call("POST", "/admin/users/other-root/resume", 403, json={"reason": "x"})["code"] == SUSPENDED[1]
    other.http.close()


def test_fees_are_those_of_the_symbols(alice: User) -> None:
    """A caller's fees are told for each symbol, and are what an order is charged."""
    fees = {row["symbol"]: (row["maker_fee"], row["taker_fee"]) for row in alice.call("GET", "/fees")}
    symbols = {row["symbol"]: (row["maker_fee"], row["taker_fee"]) for row in alice.call("GET", "/symbols")}
    assert fees == symbols
    assert fees["BTC/USDT"] == ("0.000500", "0.001000")
