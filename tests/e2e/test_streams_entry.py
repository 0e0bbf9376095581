"""Orders placed, amended and cancelled over a stream: the same answers, refusals and promises as over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.users import Json, User, user_for_a_test
from tests.e2e.watched import token_of
from tests.engines import Engine
from tests.web.raw_websocket import TEXT, RawSocket, connected, frame

SYMBOL = "SOL/USDT"
FUNDS = {"USDT": "1000000", "SOL": "10000"}
ORDER: Json = {"symbol": SYMBOL, "side": "buy", "type": "limit", "quantity": "1", "price": "100"}
ONLY_HERE = frozenset({"order_id", "client_order_id"})
"""What is another one at each attempt."""


@pytest.fixture
def alice(venue: Engine) -> Iterator[User]:
    """Give a new rich user, whose orders are cancelled at the end."""
    yield from user_for_a_test(venue, "alice", FUNDS)


@pytest.fixture
def bob(venue: Engine) -> Iterator[User]:
    """Give another."""
    yield from user_for_a_test(venue, "bob", FUNDS)


def as_sent(error: Json) -> tuple[str, str, Json]:
    """Give what a refusal says, less what is another at each attempt."""
    details = {name: value for name, value in error["details"].items() if name not in ONLY_HERE}
    return error["code"], error["message"], details


async def check_answer(user: User, data: Json) -> Json:
    """Compare an answer with what HTTP shows; returns the order."""
    order: Json = data["order"]
    assert user.order(order["id"]) == order
    mine: list[Json] = user.call("GET", f"/trades?scope=mine&symbol={SYMBOL}&limit=1000")
    settled = {trade["id"]: trade for trade in mine if trade["order_id"] == order["id"]}
    for trade in data["trades"]:
        assert trade | {"settlement_status": "settled"} == settled[trade["id"]]
    return order


@pytest.mark.parametrize(
    ("change", "status", "trade_count"),
    [
        ({}, "open", 0),
        ({"price": "101", "quantity": "3"}, "partially_filled", 2),
        ({"price": "101", "quantity": "3", "time_in_force": "ioc"}, "cancelled", 2),
        ({"type": "market", "price": None}, "filled", 1),
        ({"type": "market", "price": None, "quantity": None, "quote_quantity": "150"}, "filled", 2),
        ({"type": "STOP", "price": None, "stop_price": "105"}, "pending", 0),
        ({"side": "Sell", "price": "109.00", "post_only": True, "symbol": "sol-usdt"}, "open", 0),
    ],
)
async def test_placed_order_is_answered_as_http_shows_it(
    venue: Engine, alice: User, bob: User, change: Json, status: str, trade_count: int
) -> None:
    """The answer to an order has the order and its trades as HTTP shows them, field by field."""
    for price in ("100.5", "101"):
        bob.place(symbol=SYMBOL, side="sell", quantity="1", price=price)
    async with connected(venue.url, token=token_of(alice)) as socket:
        data = await socket.ask("place", **(ORDER | change))
        order = await check_answer(alice, data)
        assert (order["status"], len(data["trades"])) == (status, trade_count)


async def test_amend_and_cancel_are_answered_as_http_shows_them(venue: Engine, alice: User, bob: User) -> None:
    """An order is amended, fills, and is cancelled over the stream; each answer is what HTTP shows."""
    async with connected(venue.url, token=token_of(alice)) as socket:
        placed = (await socket.ask("place", **ORDER, client_order_id="life-1"))["order"]
        amended = await check_answer(alice, await socket.ask("amend", order_id=placed["id"], quantity="3"))
        assert (amended["quantity"], amended["client_order_id"]) == ("3.000", "life-1")
        bob.place(symbol=SYMBOL, side="sell", quantity="1", price="100.2")
        crossed = await socket.ask("amend", order_id=placed["id"], price="100.2")
        assert len(crossed["trades"]) == 1
        await check_answer(alice, crossed)
        cancelled = await check_answer(alice, await socket.ask("cancel", order_id=placed["id"]))
        assert (cancelled["status"], cancelled["filled_quantity"]) == ("cancelled", "1.000")


async def test_orders_of_other_ways_can_be_changed_here(venue: Engine, alice: User) -> None:
    """An order that was placed over HTTP, or on another connection, is amended and cancelled here, and back."""
    async with (
        connected(venue.url, token=token_of(alice)) as one,
        connected(venue.url, token=token_of(alice), msgpack=True) as other,
    ):
        order_id = alice.place(**ORDER)["order"]["id"]
        assert (await one.ask("amend", order_id=order_id, price="99"))["order"]["price"] == "99.00"
        assert (await other.ask("amend", order_id=order_id, price="98"))["order"]["price"] == "98.00"
        alice.call("PATCH", f"/orders/{order_id}", json={"price": "97"})
        assert (await one.ask("cancel", order_id=order_id))["order"]["price"] == "97.00"


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"price": "100.001"}, "PRICE_NOT_ON_TICK", "price"),
        ({"quantity": "0.0001"}, "QUANTITY_NOT_ON_LOT", "quantity"),
        ({"quantity": "0.001"}, "BELOW_MIN_NOTIONAL", "quantity"),
        ({"quantity": "99999999999"}, "NUMBER_OUT_OF_RANGE", "quantity"),
        ({"quantity": 1}, "INVALID_REQUEST", "quantity"),
        ({"quantity": "1e1"}, "INVALID_REQUEST", "quantity"),
        ({"quantity": None}, "INVALID_REQUEST", "quantity"),
        ({"side": "up"}, "INVALID_REQUEST", "side"),
        ({"type": ["limit"]}, "INVALID_REQUEST", "type"),
        ({"symbol": "NO/SUCH"}, "SYMBOL_NOT_FOUND", "symbol"),
        ({"client_order_id": "a b"}, "INVALID_REQUEST", "client_order_id"),
        ({"post_only": "yes"}, "INVALID_REQUEST", "post_only"),
        ({"color": "red"}, "INVALID_REQUEST", "color"),
        ({"time_in_force": "ioc", "post_only": True}, "INVALID_COMBINATION", "post_only"),
        ({"type": "market"}, "INVALID_COMBINATION", "price"),
        ({"time_in_force": "gtd"}, "INVALID_COMBINATION", "expires_at"),
        ({"time_in_force": "gtd", "expires_at": "soon"}, "INVALID_REQUEST", "expires_at"),
        ({"quantity": "90000"}, "INSUFFICIENT_BALANCE", None),
        ({"quantity": "2", "time_in_force": "fok"}, "FOK_NOT_FILLED", None),
        ({"price": "101", "post_only": True}, "POST_ONLY_WOULD_MATCH", None),
    ],
)
async def test_order_is_refused_as_over_http(
    venue: Engine, alice: User, bob: User, change: Json, code: str, field: str | None
) -> None:
    """What HTTP refuses is refused here with the same code, sentence, field and bounds, and leaves as little behind."""
    bob.place(symbol=SYMBOL, side="sell", quantity="1", price="100")
    order = ORDER | change
    refused = alice.http.post("/orders", json=order).json()["error"]
    async with connected(venue.url, token=token_of(alice)) as socket:
        error = await socket.refusal("place", **order)
    assert as_sent(error) == as_sent(refused)
    assert (error["code"], error["details"].get("field")) == (code, field)
    kept = [order["status"] for order in alice.call("GET", "/orders")]
    assert kept == (["rejected"] * 2 if "order_id" in error["details"] else [])


@pytest.mark.parametrize(
    ("op", "order", "fields", "code"),
    [
        ("cancel", "ended", {}, "ORDER_NOT_OPEN"),
        ("cancel", "others", {}, "ORDER_NOT_FOUND"),
        ("cancel", "1", {}, "ORDER_NOT_FOUND"),
        ("cancel", "abc", {}, "ORDER_NOT_FOUND"),
        ("amend", "ended", {"quantity": "2"}, "ORDER_NOT_OPEN"),
        ("amend", "others", {"quantity": "2"}, "ORDER_NOT_FOUND"),
        ("amend", "open", {"quantity": "1"}, "QUANTITY_NOT_ABOVE_FILLED"),
        ("amend", "open", {"price": "0.001"}, "PRICE_NOT_ON_TICK"),
        ("amend", "open", {"price": "0.01"}, "BELOW_MIN_NOTIONAL"),
        ("amend", "open", {"stop_price": "90"}, "INVALID_COMBINATION"),
        ("amend", "open", {"quantity": "90000"}, "INSUFFICIENT_BALANCE"),
        ("amend", "open", {"color": "red"}, "INVALID_REQUEST"),
        ("amend", "open", {}, "INVALID_REQUEST"),
    ],
)
async def test_change_is_refused_as_over_http(
    venue: Engine, alice: User, bob: User, op: str, order: str, fields: Json, code: str
) -> None:
    """A change that HTTP refuses is refused here in the same words, and the order stays what it was."""
    ids = {
        "open": alice.place(**(ORDER | {"quantity": "5"}))["order"]["id"],
        "others": bob.place(**ORDER)["order"]["id"],
        "ended": alice.place(**ORDER, time_in_force="ioc")["order"]["id"],
    }
    bob.place(symbol=SYMBOL, side="sell", quantity="1", price="100")
    order_id = ids.get(order, order)
    before = [alice.order(ids[name]) for name in ("open", "ended")]
    method, path = ("DELETE" if op == "cancel" else "PATCH"), f"/orders/{order_id}"
    options: dict[str, Any] = {} if op == "cancel" else {"json": fields}
    refused = alice.http.request(method, path, **options).json()["error"]
    async with connected(venue.url, token=token_of(alice)) as socket:
        error = await socket.refusal(op, order_id=order_id, **fields)
    assert as_sent(error) == as_sent(refused)
    assert error["code"] == code
    assert [alice.order(ids[name]) for name in ("open", "ended")] == before


async def test_repeat_is_the_same_order(venue: Engine, alice: User) -> None:
    """The same order again, here or over HTTP, is the same order; other content under its id is refused."""
    order = ORDER | {"client_order_id": "repeat-1"}
    rejected = ORDER | {"client_order_id": "repeat-2", "time_in_force": "fok"}
    async with connected(venue.url, token=token_of(alice)) as socket:
        first = await socket.ask("place", **order)
        assert await socket.ask("place", **(order | {"price": "100.00"})) == first
        assert alice.place(status=200, **order) == first
        assert (await socket.refusal("place", **(order | {"quantity": "2"})))["code"] == "CLIENT_ORDER_ID_REUSED"
        refusals = [await socket.refusal("place", **rejected) for _ in range(2)]
        assert refusals[0]["details"] == refusals[1]["details"]
        await socket.ask("cancel", order_id=first["order"]["id"])
        assert (await socket.ask("place", **order))["order"]["status"] == "cancelled"
    assert len(alice.call("GET", "/orders")) == 2


async def test_simultaneous_repeats_place_one_order(venue: Engine, alice: User) -> None:
    """The same order many times in one write is one order, and every answer shows it."""
    async with connected(venue.url, token=token_of(alice)) as socket:
        requests = [{"op": "place", "id": number, **ORDER, "client_order_id": "at-once"} for number in range(8)]
        await socket.stream.send_all(b"".join(frame(json.dumps(request).encode()) for request in requests))
        answers = [await socket.answer(number) for number in range(8)]
    assert len({answer["data"]["order"]["id"] for answer in answers}) == 1
    assert len(alice.call("GET", "/orders")) == 1


async def test_commands_are_carried_out_in_the_order_in_which_they_came(venue: Engine, alice: User) -> None:
    """What is sent without waiting is carried out in that order: changes of an order, and orders after each other."""
    async with connected(venue.url, token=token_of(alice)) as socket:
        order_id = (await socket.ask("place", **ORDER))["order"]["id"]
        changes: list[Json] = [{"op": "amend", "quantity": f"{number}"} for number in range(2, 40)]
        steps = [*changes, {"op": "cancel"}, {"op": "amend", "quantity": "1"}]
        sent = [
            frame(json.dumps(step | {"id": f"step-{number}", "order_id": order_id}).encode())
            for number, step in enumerate(steps)
        ]
        await socket.stream.send_all(b"".join(sent))
        answers = [await socket.answer(f"step-{number}") for number in range(len(steps))]
        quantities = [answer["data"]["order"]["quantity"] for answer in answers[:-1]]
        assert quantities == [f"{number}.000" for number in range(2, 40)] + ["39.000"]
        assert answers[-1]["code"] == "ORDER_NOT_OPEN"
        numbers = [await socket.request("place", **ORDER) for _ in range(30)]
        ids = [int((await socket.answer(number))["data"]["order"]["id"]) for number in numbers]
        assert ids == sorted(ids)


async def test_many_orders_are_on_their_way_at_once(venue: Engine, alice: User) -> None:
    """Of a thousand orders in one write each is answered as its own, placed or refused for load; none is lost."""
    async with connected(venue.url, token=token_of(alice)) as socket:
        requests = [
            ORDER | {"op": "place", "id": number, "client_order_id": f"many-{number}"} for number in range(1000)
        ]
        await socket.stream.send_all(b"".join(frame(json.dumps(request).encode()) for request in requests))
        placed = set()
        for number in range(1000):
            answer = await socket.answer(number)
            if answer["type"] == "ack":
                assert answer["data"]["order"]["client_order_id"] == f"many-{number}"
                placed.add(answer["data"]["order"]["id"])
            else:
                assert answer["code"] == "ENGINE_OVERLOADED"
    # What waits unread when the last 16 KiB are read is not refused any more.
    assert len(placed) >= 64
    cancelled = alice.call("DELETE", "/orders")
    assert (cancelled["total"], set(cancelled["orders"])) == (len(placed), placed)


@pytest.mark.parametrize("request_id", [0, -1, 2**53, 2**63 - 1, "", "order-1", "é" * 64, None])
async def test_id_comes_back_as_it_was(venue: Engine, alice: User, request_id: Any) -> None:
    """The id of a request comes back in its answer, be it a number, a text or none, carried out or refused."""
    async with connected(venue.url, token=token_of(alice)) as socket:
        for request in ({"op": "ping"}, {"op": "place", **ORDER}, {"op": "place"}, {"op": "fly"}):
            await socket.send(request | ({} if request_id is None else {"id": request_id}))
            answer = await socket.answer(request_id)
            assert (answer["id"], type(answer["id"])) == (request_id, type(request_id))


@pytest.mark.parametrize("request_id", [1.5, True, [1], {"a": 1}, "x" * 65, 2**63])
async def test_odd_id_is_refused(venue: Engine, alice: User, request_id: Any) -> None:
    """An id of another kind is refused by name, with null as id, and nothing is carried out."""
    async with connected(venue.url, token=token_of(alice)) as socket:
        await socket.send({"op": "place", "id": request_id, **ORDER})
        answer = await socket.answer(None)
        assert (answer["code"], answer["details"]["field"]) == ("INVALID_REQUEST", "id")
    assert alice.call("GET", "/orders") == []


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({}, "op"),
        ({"op": None}, "op"),
        ({"op": 7}, "op"),
        ({"op": "PLACE"}, "op"),
        ({"op": "buy"}, "op"),
        ({"op": ["ping"]}, "op"),
        ({"op": "ping", "time": 1}, "time"),
        ({"op": "cancel"}, "order_id"),
        ({"op": "cancel", "order_id": 5}, "order_id"),
        ({"op": "cancel", "order_id": "5", "symbol": SYMBOL}, "symbol"),
        ({"op": "amend", "quantity": "1"}, "order_id"),
        ({"op": "amend", "order_id": None, "quantity": "1"}, "order_id"),
        ({"op": "subscribe"}, "channels"),
        ({"op": "subscribe", "channels": "orders"}, "channels"),
        ({"op": "subscribe", "channels": [1]}, "channels"),
        ({"op": "subscribe", "channels": []}, "channels"),
        ({"op": "subscribe", "channels": ["trades:SOL/USDT"], "since": "1.2"}, "since"),
        ({"op": "subscribe", "channels": ["orders"], "since": "yesterday"}, "since"),
        ({"op": "subscribe", "channels": ["orders"], "batch": 1}, "batch"),
        ({"op": "unsubscribe", "channels": ["nothing"]}, "channels"),
        ({"op": "auth"}, "access_token"),
        ({"op": "auth", "access_token": 1}, "access_token"),
    ],
)
async def test_wrong_request_is_refused_by_field(venue: Engine, alice: User, request_: Json, field: str) -> None:
    """A request that is wrong is refused with the name of the field, and the connection goes on."""
    async with connected(venue.url, token=token_of(alice)) as socket:
        await socket.send(request_ | {"id": 1})
        answer = await socket.answer(1)
        assert (answer["type"], answer["code"], answer["details"]["field"]) == ("error", "INVALID_REQUEST", field)
        await socket.ask("ping")


@pytest.mark.parametrize("path", ["/ws/stream", "/ws/orders", "/ws/trades", "/ws/markets/SOL-USDT"])
async def test_orders_need_a_token(venue: Engine, path: str) -> None:
    """Without a token nothing is placed, changed or cancelled; paths with a purpose of their own take no orders."""
    requests: list[Json] = [
        {"op": "place", **ORDER},
        {"op": "amend", "order_id": "1", "quantity": "1"},
        {"op": "cancel", "order_id": "1"},
    ]
    async with connected(venue.url, path) as socket:
        for request in requests:
            error = await socket.refusal(**request)
            assert error["code"] == ("UNAUTHORIZED" if path == "/ws/stream" else "INVALID_REQUEST")


async def test_answers_do_not_wait_for_each_other(venue: Engine, alice: User) -> None:
    """A ping behind many orders is answered, and so is what is wrong among them; each answer names its request."""
    async with connected(venue.url, token=token_of(alice)) as socket:
        numbers = [await socket.request("place", **ORDER) for _ in range(50)]
        wrong = await socket.request("place", **(ORDER | {"price": "0"}))
        pinged = await socket.request("ping")
        assert (await socket.answer(wrong))["code"] == "NUMBER_OUT_OF_RANGE"
        assert (await socket.answer(pinged))["type"] == "ack"
        assert all([(await socket.answer(number))["type"] == "ack" for number in numbers])


async def test_connection_that_breaks_loses_no_order(venue: Engine, alice: User) -> None:
    """Orders whose connection breaks before they are answered are placed or not, and repeating them settles which."""
    requests = [ORDER | {"op": "place", "id": number, "client_order_id": f"gone-{number}"} for number in range(50)]
    async with connected(venue.url, token=token_of(alice)) as socket:
        await socket.stream.send_all(b"".join(frame(json.dumps(request).encode(), TEXT) for request in requests))
        await socket.answer(0)
    async with connected(venue.url, token=token_of(alice)) as again:
        ids = {await _id_of(again, request) for request in requests}
    assert {order["id"] for order in alice.call("GET", "/orders?limit=1000")} == ids
    assert len(ids) == len(requests)


async def _id_of(socket: RawSocket, request: Json) -> str:
    await socket.send(request)
    order_id: str = (await socket.answer(request["id"]))["data"]["order"]["id"]
    return order_id
