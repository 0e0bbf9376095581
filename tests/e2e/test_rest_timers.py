"""The dead-man's switch against real engines: it fires, is renewed, disarmed, and outlives whatever is killed."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from tests.e2e.users import Json, NewUser, User, make_user, sign_in
from tests.e2e.watched import token_of, watching
from tests.engines import Engine, running_engine, wait_restarted
from tests.web.raw_websocket import connected

PATH = "/orders/cancel-all-after"
PATIENCE_S = 20.0
ORDER: Json = {"symbol": "SOL/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "9"}


def arm(user: User, timeout_ms: int) -> Json:
    """Set a user's timer."""
    timer: Json = user.call("POST", PATH, json={"timeout_ms": timeout_ms})
    assert timer["timeout_ms"] == timeout_ms
    return timer


def wait_ended(user: User, *orders: Json) -> list[Json]:
    """Wait until orders are not open any more; gives them."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        found = [user.order(order["id"]) for order in orders]
        if not {"open", "pending"} & {order["status"] for order in found}:
            return found
        assert time.monotonic() < deadline_s, found


def reasons(orders: list[Json]) -> set[tuple[str, str]]:
    """How orders ended."""
    return {(order["status"], order["status_reason"]) for order in orders}


def test_orders_end_when_their_client_vanishes(engine: Engine, new_user: NewUser, bob: User) -> None:
    """A client sets a timer and vanishes: its orders and stops end, in all symbols, and nobody else's."""
    gone = new_user("gone", USDT="100000", LTC="10")
    before = gone.balances()
    orders = [
        gone.place(symbol="LINK/USDT", quantity="1", price="9")["order"],
        gone.place(symbol="LTC/USDT", side="sell", quantity="1", price="90")["order"],
        gone.place(symbol="LTC/USDT", side="sell", type="stop", quantity="1", stop_price="50")["order"],
    ]
    others = bob.place(symbol="LINK/USDT", quantity="1", price="9")["order"]
    timer = arm(gone, 1000)
    gone.http.close()
    heir = sign_in(engine, gone.name)
    ended = wait_ended(heir, *orders)
    assert reasons(ended) == {("cancelled", "CANCEL_ALL_AFTER")}
    for order in ended:
        late = datetime.fromisoformat(order["closed_at"]) - datetime.fromisoformat(timer["triggers_at"])
        assert timedelta(0) <= late
    assert heir.balances() == before
    assert bob.order(others["id"])["status"] == "open"
    later = heir.place(symbol="LINK/USDT", quantity="1", price="9")["order"]
    assert heir.call("DELETE", "/orders") == {"cancelled": 1, "total": 1, "orders": [later["id"]]}
    bob.call("DELETE", f"/orders/{others['id']}")
    heir.http.close()


def test_renewed_timer_does_not_fire(new_user: NewUser) -> None:
    """As long as the client renews its timer its orders live, well beyond each single end; then they end."""
    user = new_user("renewing", USDT="1000")
    order = user.place(symbol="LINK/USDT", quantity="1", price="9")["order"]
    first = datetime.fromisoformat(arm(user, 1000)["triggers_at"])
    while (last := datetime.fromisoformat(arm(user, 1000)["triggers_at"])) < first + timedelta(seconds=1.5):
        pass
    assert user.order(order["id"])["status"] == "open"
    (ended,) = wait_ended(user, order)
    assert ended["status_reason"] == "CANCEL_ALL_AFTER"
    assert datetime.fromisoformat(ended["closed_at"]) >= last


def test_disarmed_timer_does_not_fire(new_user: NewUser) -> None:
    """A timer of 0 takes it away: an order that ends later by itself is the only one to end."""
    user = new_user("disarming", USDT="1000")
    stays = user.place(symbol="LINK/USDT", quantity="1", price="9")["order"]
    assert arm(user, 1000)["triggers_at"] is not None
    assert arm(user, 0)["triggers_at"] is None
    assert arm(user, 0)["triggers_at"] is None
    ends = (datetime.now(UTC) + timedelta(seconds=1.5)).isoformat()
    gtd: Json = {"time_in_force": "gtd", "expires_at": ends}
    marker = user.place(symbol="LINK/USDT", quantity="1", price="9", **gtd)["order"]
    assert reasons(wait_ended(user, marker)) == {("cancelled", "EXPIRED")}
    assert user.order(stays["id"])["status"] == "open"
    user.call("DELETE", "/orders")


def test_timer_is_the_accounts_own(new_user: NewUser) -> None:
    """Two users with timers of different length: the shorter one ends only its own orders."""
    short, long = new_user("short", USDT="1000"), new_user("long", USDT="1000")
    orders = [user.place(symbol="LINK/USDT", quantity="1", price="9")["order"] for user in (short, long)]
    arm(long, 60_000)
    arm(short, 1000)
    wait_ended(short, orders[0])
    assert long.order(orders[1]["id"])["status"] == "open"
    arm(long, 0)
    long.call("DELETE", "/orders")


@pytest.mark.parametrize("timeout_ms", [1, 999, 86_400_001, -1, -1000])
def test_durations_out_of_bounds_are_refused(alice: User, timeout_ms: int) -> None:
    """Anything but 0 and a second to a day is refused, with the bounds."""
    error = alice.call("POST", PATH, 400, json={"timeout_ms": timeout_ms})
    assert error["code"] == "NUMBER_OUT_OF_RANGE"
    assert error["details"] == {"field": "timeout_ms", "minimum": 1000, "maximum": 86_400_000}


@pytest.mark.parametrize("body", [{}, {"timeout_ms": "1000"}, {"timeout_ms": 1.5}, {"timeout_ms": True}, {"after": 5}])
def test_wrong_bodies_are_refused_by_field(alice: User, body: Json) -> None:
    """What is no whole number of milliseconds is refused by the field's name."""
    error = alice.call("POST", PATH, 400, json=body)
    assert (error["code"], error["details"]["field"]) == ("INVALID_REQUEST", next(iter(body), "timeout_ms"))


def test_bounds_are_accepted(new_user: NewUser) -> None:
    """A second and a day are durations."""
    user = new_user("bounds")
    for timeout_ms in (1000, 86_400_000):
        triggers_at = datetime.fromisoformat(arm(user, timeout_ms)["triggers_at"])
        left = (triggers_at - datetime.now(UTC)) / timedelta(milliseconds=1)
        assert timeout_ms - PATIENCE_S * 1000 < left <= timeout_ms
    arm(user, 0)


def on_two_shards(user: User, price: str) -> list[Json]:
    """Place an order on each of two shards."""
    symbols: list[Json] = user.call("GET", "/symbols")
    by_shard = {symbol["shard"]: symbol["symbol"] for symbol in symbols if symbol["symbol"] in {"BTC/USDT", "ETH/USDT"}}
    assert set(by_shard) == {0, 1}
    return [user.place(symbol=symbol, quantity="1", price=price)["order"] for symbol in by_shard.values()]


def signed_in(engine: Engine, name: str, stack: ExitStack) -> User:
    """Connect as a user that exists, until the stack unwinds."""
    user = sign_in(engine, name)
    stack.callback(user.http.close)
    return user


def sell_into(user: User, orders: list[Json]) -> None:
    """Sell at the price of orders that should be gone; nothing may trade."""
    for order in orders:
        sold = user.place(symbol=order["symbol"], side="sell", quantity="1", price=order["price"], time_in_force="ioc")
        assert sold["order"]["status_reason"] == "IOC_NOT_FILLED"


def check_fired(user: User, orders: list[Json], timer: Json) -> None:
    """See that a timer ended these orders, not before its time."""
    ended = wait_ended(user, *orders)
    assert reasons(ended) == {("cancelled", "CANCEL_ALL_AFTER")}
    assert all(order["closed_at"] >= timer["triggers_at"] for order in ended)
    assert user.balances()["USDT"] == (Decimal(10_000), Decimal(10_000), Decimal(0))


@pytest.mark.long
def test_timer_outlives_matchers_and_the_whole_engine(data_dir: Path) -> None:
    """On two shards a timer fires though matchers are killed, the engine is stopped in order, or killed, meanwhile.

    If it ran out while the engine was down, its orders are cancelled before anyone can trade with them.
    """
    options = ["--shards", "2"]
    with running_engine(data_dir, options) as engine, ExitStack() as stack:
        users = [make_user(engine, prefix, {"USDT": "10000"}) for prefix in ("matchers", "stopped", "killed")]
        seller = make_user(engine, "seller", {"BTC": "10", "ETH": "10"})
        for user in (*users, seller):
            stack.callback(user.http.close)
        orders = [on_two_shards(user, price) for user, price in zip(users, ("1000", "900", "800"), strict=True)]
        timer = arm(users[0], 2000)
        for shard in (0, 1):
            pid = engine.actors()[f"matcher-{shard}"]
            engine.kill_actor(f"matcher-{shard}")
            wait_restarted(engine, f"matcher-{shard}", pid)
        check_fired(users[0], orders[0], timer)
        timer = arm(users[1], 1000)
        assert engine.stop() == 0
    names = [user.name for user in (*users, seller)]
    with running_engine(data_dir, options) as engine, ExitStack() as stack:
        _, stopped, killed, seller = (signed_in(engine, name, stack) for name in names)
        sell_into(seller, orders[1])
        check_fired(stopped, orders[1], timer)
        assert {killed.order(order["id"])["status"] for order in orders[2]} == {"open"}
        timer = arm(killed, 1000)
        engine.process.kill()
        engine.wait()
    with running_engine(data_dir, options) as engine, ExitStack() as stack:
        _, stopped, killed, seller = (signed_in(engine, name, stack) for name in names)
        sell_into(seller, orders[2])
        check_fired(killed, orders[2], timer)


async def test_stream_sets_timers_and_tells_how_they_end(venue: Engine) -> None:
    """Over a stream a timer is set as over HTTP; when the connection is gone, another one is told of the cancels."""
    user = make_user(venue, "streaming", {"USDT": "1000"})
    async with watching(venue, user) as watched:
        async with connected(venue.url, token=token_of(user)) as socket:
            placed = (await socket.ask("place", **ORDER))["order"]
            timer = await socket.ask("cancel_all_after", timeout_ms=1000)
            assert set(timer) == {"timeout_ms", "triggers_at"}
            wrong = await socket.refusal("cancel_all_after", timeout_ms=5)
            assert (wrong["code"], wrong["details"]["field"]) == ("NUMBER_OUT_OF_RANGE", "timeout_ms")
        update = await watched.until(placed["id"], "cancelled")
        assert update["reason"] == "CANCEL_ALL_AFTER"
        assert update["timestamp"] >= timer["triggers_at"]
        assert (await watched.socket.ask("cancel_all_after", timeout_ms=0)) == {"timeout_ms": 0, "triggers_at": None}
    user.http.close()


async def test_timer_needs_a_token(venue: Engine) -> None:
    """Nobody without a token sets a timer, over HTTP or a stream."""
    with venue.client() as client:
        assert client.post(PATH, json={"timeout_ms": 1000}).status_code == 401
    async with connected(venue.url) as socket:
        assert (await socket.refusal("cancel_all_after", timeout_ms=1000))["code"] == "UNAUTHORIZED"
