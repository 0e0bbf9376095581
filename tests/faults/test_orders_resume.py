"""Own orders, resumed: whatever breaks and whoever restarts, a client ends with the states that GET /orders gives.

Each fill is told once, unless a resync said to forget. The client checks every message against what it knew before.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import numpy as np
import pytest
import trio
from tests.e2e.users import ACCOUNTS_MAX, User, connect_database, make_user, sign_in, user_for_a_test
from tests.engines import Engine, database_away, running_engine, wait_database_restarted, wait_restarted
from tests.faults.own_orders import OPEN, OwnOrders, OwnStream, agree, all_orders, following_orders
from tests.faults.test_kill_under_load import kill_everything
from websockets.trio.client import connect

from tradeengine.core.messages import parse_resume_cursor, resume_cursor
from tradeengine.core.records import CommandKind, OrderType, SelfTradePrevention, Side, TimeInForce, command_dtype
from tradeengine.ipc.client import LocalClient, open_client
from tradeengine.storage.directory import resolve_account
from tradeengine.storage.embedded import running_embedded

SYMBOL, OTHER = "SOL/USDT", "XRP/USDT"
"""On two shards."""
FUNDS = {"USDT": "10000000", "SOL": "100000", "XRP": "100000"}
SETTINGS = {
    "TRADEENGINE_ENGINE_SHARDS": "2",
    # The publisher is behind settlement most of the time: what history tells, it has yet to tell.
    "TRADEENGINE_PUBLISHER_DEPTH_INTERVAL_MS": "50",
    "TRADEENGINE_SUPERVISOR_RESTART_COUNT_MAX": "100",
    "TRADEENGINE_SUPERVISOR_RESTART_BACKOFF_MS_MAX": "200",
    "TRADEENGINE_HTTP_BARRIER_TIMEOUT_MS": "3000",
}
RESUMES = 12
CHANGES_MAX = 1000
"""More are not told one by one."""
WAIT_S = 30.0


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine whose actors may be harmed."""
    with running_engine(tmp_path_factory.mktemp("resumed"), environment=SETTINGS) as engine:
        yield engine


@pytest.fixture
def alice(venue: Engine) -> Iterator[User]:
    """Give the user whose orders are followed; at the end nothing of hers rests."""
    yield from user_for_a_test(venue, "alice", FUNDS)


@pytest.fixture
def bob(venue: Engine) -> Iterator[User]:
    """Give a user to trade with; at the end nothing of his rests."""
    yield from user_for_a_test(venue, "bob", FUNDS)


def trade_story(alice: User, bob: User, *, expiring: bool = False) -> None:
    """Let Alice have orders that go every way there is; some stay open."""
    place(alice, "buy", "20", "1.00", symbol=OTHER)
    place(bob, "sell", "10", "1.00", symbol=OTHER)
    # As maker: partly filled and cancelled; changed and filled.
    first = place(alice, "buy", "1", "100.00")
    place(bob, "sell", "0.25", "100.00")
    alice.call("DELETE", f"/orders/{first}")
    second = place(alice, "buy", "2", "99.50")
    place(bob, "sell", "0.5", "99.50")
    alice.call("PATCH", f"/orders/{second}", json={"quantity": "1.5"})
    alice.call("PATCH", f"/orders/{second}", json={"price": "99.40"})
    place(bob, "sell", "1", "99.40")
    # As taker: filled; the rest cancelled; nothing filled; a market order that empties the book.
    place(bob, "sell", "3", "101.00")
    for quantity in ("1", "5", "1"):
        place(alice, "buy", quantity, "101.00", time_in_force="ioc")
    place(bob, "buy", "2", "98.00")
    place(alice, "sell", "3", None)
    # A stop that waits; one that fires, takes what is there, and rests until it is cancelled.
    waiting = place(alice, "sell", "1", None, stop_price="96.00")
    alice.call("PATCH", f"/orders/{waiting}", json={"stop_price": "95.00"})
    firing = place(alice, "buy", "0.5", "100.50", stop_price="99.00")
    place(bob, "sell", "0.5", "99.00")
    place(alice, "buy", "0.25", "99.00", time_in_force="ioc")
    assert alice.order(firing)["status"] == "partially_filled"
    alice.call("DELETE", f"/orders/{firing}")
    # Rejected.
    place(bob, "sell", "1", "102.00")
    order = {"symbol": SYMBOL, "price": "102.00"}
    alice.place(422, quantity="1", post_only=True, **order)
    alice.place(422, quantity="50", time_in_force="fok", **order)
    bob.call("DELETE", "/orders")
    # Stays open.
    place(alice, "buy", "1", "90.50")
    if expiring:
        soon = (datetime.now(UTC) + timedelta(seconds=0.6)).isoformat(timespec="milliseconds")
        late = place(alice, "buy", "1", "90.00", time_in_force="gtd", expires_at=soon)
        wait_until(lambda: alice.order(late)["status"] == "cancelled")


def place(user: User, side: str, quantity: str, price: str | None, **fields: Any) -> str:
    """Place an order: limit with a price, else market, and a stop with a stop price; returns its id."""
    kind = {(True, True): "stop_limit", (True, False): "limit", (False, True): "stop", (False, False): "market"}
    order = {"symbol": SYMBOL, "side": side, "quantity": quantity, "price": price, **fields}
    order["type"] = kind[price is not None, "stop_price" in fields]
    placed = user.place(**{name: value for name, value in order.items() if value is not None})
    return str(placed["order"]["id"])


def wait_until(condition: Callable[[], bool]) -> None:
    """Look again and again until it is so."""
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


async def in_thread(work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Do something in a thread, while clients go on."""
    return await trio.to_thread.run_sync(partial(work, *arguments, **options))


async def test_connected_client_knows_its_orders(alice: User, bob: User) -> None:
    """A client that stays connected needs neither resume nor resync to end with what is listed, each fill once."""
    async with following_orders(alice) as stream:
        await in_thread(trade_story, alice, bob)
        await agree(stream, alice)
    assert (stream.model.resumes, stream.model.resyncs) == (0, [])
    assert len(stream.model.fills) >= 6


async def test_resume_tells_what_was_missed(alice: User, bob: User) -> None:
    """What was placed, filled, cancelled, amended, triggered and expired while a client was away, it is told: once."""
    async with following_orders(alice) as stream:
        await in_thread(trade_story, alice, bob)
        await agree(stream, alice)
    await in_thread(trade_story, alice, bob, expiring=True)
    async with following_orders(alice, stream.model) as stream:
        await agree(stream, alice)
        await in_thread(trade_story, alice, bob)
        await agree(stream, alice)
    assert (stream.model.resumes, stream.model.resyncs) == (1, [])


@pytest.mark.long
async def test_every_cursor_is_a_place_to_resume_from(alice: User, bob: User) -> None:
    """A client that left at any message, and knows what it knew then, ends with what is listed, each fill once."""
    left: list[OwnOrders] = []
    async with following_orders(alice) as stream:
        take = stream.model.take

        def take_and_keep(message: Any) -> None:
            left.append(copy.deepcopy(stream.model))
            take(message)

        stream.model.take = take_and_keep  # type: ignore[method-assign]
        left.append(copy.deepcopy(stream.model))
        await in_thread(trade_story, alice, bob)
        await agree(stream, alice)
    assert len(left) > 20
    for model in left[::3]:
        vars(model).pop("take", None)
        async with following_orders(alice, model) as resumed:
            await agree(resumed, alice)
        assert (model.resumes, model.resyncs) == (1, [])


@pytest.mark.parametrize(
    "name",
    [
        "matcher-0",
        "risk",
        "front-0",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("settlement", "publisher")),
    ],
)
async def test_actor_that_dies_leaves_no_gap(venue: Engine, alice: User, bob: User, name: str) -> None:
    """An actor killed while orders come in: the client is told all, by itself; only a dead publisher means a resync."""
    async with following_orders(alice) as stream:
        await in_thread(trade_story, alice, bob)
        await in_thread(kill_under_orders, venue, alice, bob, name)
        await in_thread(trade_story, alice, bob)
        if name == "publisher":
            await stream.wait(lambda model: bool(model.resyncs))
        await agree(stream, alice)
    resyncs = stream.model.resyncs
    if name == "publisher":
        assert set(resyncs) == {"updates were lost on the server's side"}
    else:
        assert resyncs == []
    assert stream.connections == (2 if name == "front-0" else 1)


def kill_under_orders(venue: Engine, alice: User, bob: User, name: str) -> None:
    """Kill an actor while Alice and Bob trade, and wait until it is back and they have traded on."""
    with trading(alice, bob, name):
        pid = venue.actors()[name]
        venue.kill_actor(name)
        wait_restarted(venue, name, pid)


@contextmanager
def trading(alice: User, bob: User, run: str) -> Iterator[None]:
    """Let Alice and Bob trade on both shards while the block runs. run: makes client order ids differ.

    At the end nothing rests: whose order had no partner, because its front died, would trade in the next story.
    """
    stop = threading.Event()

    def trade() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for user, side, symbol, quantity, price in (
                (alice, "buy", SYMBOL, "0.5", "100.00"),
                (bob, "sell", OTHER, "10", "1.00"),
                (bob, "sell", SYMBOL, "0.5", "100.00"),
                (alice, "buy", OTHER, "20", "1.00"),
            ):
                order = {"symbol": symbol, "side": side, "type": "limit", "quantity": quantity, "price": price}
                order["client_order_id"] = f"{run}-{number}-{symbol[:3]}"
                # Nobody waits for what had no answer, or was refused: the stream tells what became of it.
                try:
                    user.http.post("/orders", json=order, timeout=2)
                except httpx2.TransportError:
                    time.sleep(0.02)

    thread = threading.Thread(target=trade)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for user in (alice, bob):
            user.call("DELETE", "/orders")


@pytest.mark.long
async def test_resume_in_the_midst_of_trading(alice: User, bob: User) -> None:
    """A client that resumes while its orders trade is told of each fill once, by history or by the feed."""
    async with following_orders(alice) as stream:
        await in_thread(trade_story, alice, bob)
        await agree(stream, alice)
    with trading(alice, bob, "midst"):
        for resumes in range(RESUMES):
            async with following_orders(alice, stream.model) as stream:
                fill_count = len(stream.model.fills)
                await stream.wait(partial(has_more_fills, fill_count))
            assert stream.model.resumes == resumes + 1
    async with following_orders(alice, stream.model) as stream:
        await agree(stream, alice)
    assert stream.model.resyncs == []


def has_more_fills(fill_count: int, model: OwnOrders) -> bool:
    """Whether a client was told of some more fills."""
    return len(model.fills) > fill_count + 2


@pytest.mark.long
async def test_whole_engine_is_resumed_across(tmp_path: Path) -> None:
    """A client resumes by its cursor across a killed engine and a stopped one, as across a lost connection."""
    with running_engine(tmp_path / "data", environment=SETTINGS) as engine:
        alice, bob = (make_user(engine, name, FUNDS) for name in ("alice", "bob"))
        async with following_orders(alice) as stream:
            await in_thread(trade_story, alice, bob)
            await agree(stream, alice)
        await in_thread(trade_story, alice, bob)
        await in_thread(kill_everything, engine)
    for _ in range(2):
        with running_engine(tmp_path / "data", environment=SETTINGS) as engine:
            alice, bob = (sign_in_again(engine, user) for user in (alice, bob))
            async with following_orders(alice, stream.model) as stream:
                await agree(stream, alice)
                await in_thread(trade_story, alice, bob)
                await agree(stream, alice)
            await in_thread(trade_story, alice, bob)
    assert (stream.model.resumes, stream.model.resyncs) == (2, [])
    for user in (alice, bob):
        user.http.close()


def sign_in_again(engine: Engine, user: User) -> User:
    """Sign a user in at an engine that was started anew."""
    user.http.close()
    return sign_in(engine, user.name)


CURSORS: dict[str, Callable[[int, tuple[int, ...]], tuple[int, tuple[int, ...]]]] = {
    "two hours old": lambda now_ms, positions: (now_ms - 2 * 3600 * 1000, positions),
    "of an engine with more events": lambda now_ms, positions: (now_ms, (positions[0] + 10**6, *positions[1:])),
    "of an engine with more shards": lambda now_ms, positions: (now_ms, (*positions, 5)),
    "of tomorrow": lambda now_ms, positions: (now_ms + 24 * 3600 * 1000, positions),
}


@pytest.mark.parametrize("which", CURSORS)
async def test_cursor_that_leads_nowhere_means_resync(alice: User, bob: User, which: str) -> None:
    """A cursor that is too old, or of no place in this engine's events, is answered with a resync."""
    await in_thread(trade_story, alice, bob)
    async with following_orders(alice) as stream:
        model = stream.model
    now_ms, positions = parse_resume_cursor(model.cursor or "")
    model.cursor = resume_cursor(*CURSORS[which](now_ms, positions))
    async with following_orders(alice, model) as stream:
        await agree(stream, alice)
    assert len(model.resyncs) == 1
    assert model.orders


async def test_what_is_no_cursor_is_refused(venue: Engine, alice: User) -> None:
    """A cursor that cannot be read is refused by its field, and nothing is subscribed to."""
    url = f"{venue.url.replace('http', 'ws', 1)}/ws/stream"
    async with connect(url, additional_headers={"Authorization": alice.http.headers["Authorization"]}) as socket:
        for since in ("", "x", "1", "-1.2", "1." + "f" * 17, "1.2.\u0663", "1.2" * 1000):
            request = {"op": "subscribe", "id": 1, "channels": ["orders"], "since": since}
            await socket.send(msgspec.json.encode(request), text=True)
            answer = msgspec.json.decode(await socket.recv())
            assert (answer["type"], answer["code"], answer["details"]["field"]) == ("error", "INVALID_REQUEST", "since")


@pytest.mark.parametrize("count", [CHANGES_MAX, CHANGES_MAX + 1])
async def test_too_many_changes_mean_resync(venue: Engine, alice: User, bob: User, count: int) -> None:
    """A thousand orders that changed are told one by one; one more, and the client is given all open ones instead."""
    async with following_orders(alice) as stream:
        await in_thread(trade_story, alice, bob)
        await agree(stream, alice)
    model = stream.model
    await in_thread(place_many, venue, alice, count)
    async with following_orders(alice, model) as stream:
        await agree(stream, alice)
    assert (model.resumes, len(model.resyncs)) == ((1, 0) if count <= CHANGES_MAX else (0, 1))
    assert sum(order["status"] in OPEN for order in model.orders.values()) >= count
    await in_thread(alice.call, "DELETE", "/orders")


def place_many(venue: Engine, user: User, count: int) -> None:
    """Place so many orders of a user by a local client, and wait until all are listed."""
    before = len(all_orders(user))
    with open_client(venue.data_dir) as wiring:
        client = LocalClient(wiring)
        spec = client.directory().symbol_by_name[SYMBOL]
        commands = np.zeros(count, command_dtype)
        commands["kind"] = CommandKind.PLACE
        commands["account_id"] = account_id(venue, user)
        commands["symbol_id"] = spec.symbol_id
        commands["side"] = Side.BUY
        commands["order_type"] = OrderType.LIMIT
        commands["time_in_force"] = TimeInForce.GTC
        commands["self_trade_prevention"] = SelfTradePrevention.CANCEL_TAKER
        commands["price_ticks"] = spec.parse_price("50.00")
        commands["quantity_lots"] = spec.parse_quantity("0.2")
        client.submit(commands)
    wait_until(lambda: len(all_orders(user)) == before + count)


def account_id(venue: Engine, user: User) -> int:
    """Look a user's account up."""
    with connect_database(venue) as connection:
        return resolve_account(connection, user.name, accounts_max=ACCOUNTS_MAX)


async def test_own_orders_while_the_database_is_away(venue: Engine, alice: User, bob: User) -> None:
    """Without PostgreSQL a connected client is told of its orders; one that resumes is acknowledged, and told later."""
    async with following_orders(alice) as stream:
        await in_thread(trade_story, alice, bob)
        await agree(stream, alice)
        left = copy.deepcopy(stream.model)
        server = running_embedded(venue.data_dir)
        assert server is not None
        async with trio.open_nursery() as nursery:
            resumed = OwnStream(alice, left)
            with database_away(venue):
                placed = await in_thread(place, alice, "buy", "1", "99.00")
                await in_thread(place, bob, "sell", "0.5", "99.00")
                await stream.wait(lambda model: model.orders.get(placed, {}).get("status") == "partially_filled")
                nursery.start_soon(resumed.run)
                await resumed.answered.wait()
                await in_thread(place, bob, "sell", "0.5", "99.00")
                await stream.wait(lambda model: model.orders[placed]["status"] == "filled")
            await in_thread(wait_database_restarted, venue, server.pid)
            await agree(stream, alice)
            await agree(resumed, alice)
            nursery.cancel_scope.cancel()
    assert (stream.model.resumes, stream.model.resyncs) == (0, [])
    assert (left.resumes, left.resyncs, resumed.refusals) == (1, [], [])
