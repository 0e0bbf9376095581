"""Batches and timers over HTTP, against an engine whose answers each test writes: what is sent, and what is unknown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import trio
from tests.web.bench import ACCOUNT_ID, Bench, Records, make_event, make_order_event
from tests.web.test_orders import LIMIT, ORDER_ID, accept, post, refuse_all

from tradeengine.core.records import SYMBOL_ID_ALL, CommandKind, EventKind, Reason
from tradeengine.web.front import Front
from tradeengine.web.schemas_orders import BATCH_MAX

BATCH = "/api/v1/orders/batch"
TIMER = "/api/v1/orders/cancel-all-after"
Published = list[tuple[str, Records]]


def small(number: int) -> dict[str, Any]:
    """Make an order in few bytes, named by a number."""
    return LIMIT | {"client_order_id": f"n-{number}"}


async def test_batch_goes_out_before_anything_is_answered(bench: Bench) -> None:
    """An engine that answers only once it has all of a batch is enough: nothing waits for anything but the end."""
    ring = bench.memory.rings["events.0"]
    held: list[np.void] = []

    def answer_when_complete(command: np.void) -> Published:
        held.append(command)
        if len(held) < 10:
            return []
        events = [make_order_event(c, EventKind.ACCEPTED, ring, ORDER_ID + n) for n, c in enumerate(held)]
        return [("events.0", np.concatenate(events[::-1]))]

    async with bench.engine(answer_when_complete):
        status, body = await post(bench, {"orders": [small(n) for n in range(10)]}, BATCH)
    assert status == 200
    assert [int(item["data"]["order"]["id"]) - ORDER_ID for item in body["data"]] == list(range(10))
    assert [command["client_order_id"] for command in bench.commands] == [b"n-%d" % n for n in range(10)]


async def test_orders_without_room_are_refused_and_the_others_are_placed(bench: Bench) -> None:
    """Of twenty orders for a ring of sixteen the last four are refused, and nothing of them is sent, then or later."""
    async with bench.engine(accept(bench)):
        _, body = await post(bench, {"orders": [small(n) for n in range(20)]}, BATCH)
        status, _ = await post(bench, small(99))
    assert [item["success"] for item in body["data"]] == [True] * 16 + [False] * 4
    assert {item["error"]["code"] for item in body["data"][16:]} == {"ENGINE_OVERLOADED"}
    assert status == 201
    assert len(bench.commands) == 17


async def test_lost_answer_is_its_orders_alone(bench: Bench) -> None:
    """An order whose answer does not come is unknown, by its client order id; the others of the batch have theirs."""
    accepts = accept(bench)
    async with bench.engine(lambda command: [] if command["client_order_id"] == b"n-1" else accepts(command)):
        _, body = await post(bench, {"orders": [small(n) for n in range(3)]}, BATCH)
    assert [item["success"] for item in body["data"]] == [True, False, True]
    error = body["data"][1]["error"]
    assert (error["code"], error["details"]) == ("OUTCOME_UNKNOWN", {"client_order_id": "n-1"})
    assert not bench.front.gateway.waits


async def test_refusal_is_its_orders_alone(bench: Bench) -> None:
    """An order of a batch that risk or the matcher refuses has its own reason; the others of the batch are placed."""
    accepts, refuses = accept(bench), refuse_all(bench, Reason.INSUFFICIENT_BALANCE)
    ring = bench.memory.rings["events.0"]

    def answer(command: np.void) -> Published:
        if command["client_order_id"] == b"n-1":
            return refuses(command)  # type: ignore[no-any-return]
        if command["client_order_id"] == b"n-2":
            reason = Reason.PRICE_OUT_OF_COLLAR
            return [("events.0", make_order_event(command, EventKind.REJECTED, ring, ORDER_ID + 2, reason=reason))]
        return accepts(command)  # type: ignore[no-any-return]

    async with bench.engine(answer):
        status, body = await post(bench, {"orders": [small(n) for n in range(4)]}, BATCH)
    assert (status, [item["success"] for item in body["data"]]) == (200, [True, False, False, True])
    refused, ended = (item["error"] for item in body["data"][1:3])
    assert (refused["code"], refused["details"]["client_order_id"]) == ("INSUFFICIENT_BALANCE", "n-1")
    assert (ended["code"], ended["details"]["order_id"]) == ("PRICE_OUT_OF_COLLAR", str(ORDER_ID + 2))


async def test_batch_of_wrong_orders_sends_nothing(bench: Bench) -> None:
    """A batch in which nothing is right asks nobody."""
    async with bench.engine(accept(bench)):
        status, body = await post(bench, {"orders": [{}, LIMIT | {"price": "0"}]}, BATCH)
    assert status == 200
    assert [item["error"]["details"]["field"] for item in body["data"]] == ["symbol", "price"]
    assert bench.commands == []


async def test_caller_who_goes_away_leaves_nobody_waiting(bench: Bench) -> None:
    """When a request is given up, the front waits for none of its orders any more."""
    async with bench.engine(lambda _: []):
        with trio.move_on_after(0.05):
            await post(bench, {"orders": [small(n) for n in range(3)]}, BATCH)
        assert not bench.front.gateway.waits


async def test_stopping_front_takes_no_batch(bench: Bench) -> None:
    """A front that stops refuses a batch as a whole, and a timer, with nothing sent."""
    bench.front.hub.stopping = True
    for path, body in ((BATCH, {"orders": [LIMIT]}), (TIMER, {"timeout_ms": 5000})):
        status, answer = await post(bench, body, path)
        assert (status, answer["error"]["code"]) == (503, "SHUTTING_DOWN")


async def test_batch_is_paid_for_by_its_orders(bench: Bench, monkeypatch: Any) -> None:
    """A batch weighs what its orders would one by one, for the address and for the user."""
    paid: list[tuple[str, int]] = []
    limits = bench.front.request_limits
    monkeypatch.setattr(limits, "charge_user", lambda name, weight, **_: paid.append((name, weight)))
    monkeypatch.setattr(limits, "charge_address", lambda _, weight, **__: paid.append(("address", weight)))
    async with bench.engine(accept(bench)):
        await post(bench, {"orders": [small(n) for n in range(7)]}, BATCH)
    assert sum(weight for name, weight in paid if name == "alice") == 7
    assert sum(weight for name, weight in paid if name == "address") == 7


def set_timer(bench: Bench, *ends_ns: int) -> Any:
    """Make an engine whose shards set a timer to these ends."""
    ring = bench.memory.rings["events.0"]
    return lambda command: [
        ("events.0", make_event(command, EventKind.TIMER_SET, ring, expires_at_ns=ends)) for ends in ends_ns
    ]


def on_shards(front: Front, count: int) -> None:
    """Let a front believe that there are so many shards."""
    front.shard_count = count


async def test_timer_is_sent_as_a_duration_for_all_symbols(bench: Bench) -> None:
    """Milliseconds become nanoseconds; the engine's time comes back, the earliest of the shards'."""
    on_shards(bench.front, 2)
    ends_ns = int(datetime(2026, 11, 24, 10, 30, 45, tzinfo=UTC).timestamp()) * 10**9
    async with bench.engine(set_timer(bench, ends_ns + 10**9, ends_ns)):
        status, body = await post(bench, {"timeout_ms": 5000}, TIMER)
    assert (status, body["data"]) == (200, {"timeout_ms": 5000, "triggers_at": "2026-11-24T10:30:45.000Z"})
    (command,) = bench.commands
    wanted = {"kind": CommandKind.CANCEL_ALL_AFTER, "account_id": ACCOUNT_ID, "symbol_id": SYMBOL_ID_ALL}
    assert {name: command[name] for name in wanted} == wanted
    assert command["expires_at_ns"] == 5_000_000_000


async def test_timer_that_one_shard_does_not_confirm_is_unknown(bench: Bench) -> None:
    """Before every shard has it, the timer is not said to be set."""
    on_shards(bench.front, 2)
    async with bench.engine(set_timer(bench, 10**18)):
        status, body = await post(bench, {"timeout_ms": 5000}, TIMER)
    assert (status, body["error"]["code"]) == (504, "OUTCOME_UNKNOWN")


async def test_refused_timer_is_told(bench: Bench) -> None:
    """Risk's refusal ends it for all shards."""
    on_shards(bench.front, 2)
    async with bench.engine(refuse_all(bench, Reason.ENGINE_OVERLOADED)):
        status, body = await post(bench, {"timeout_ms": 0}, TIMER)
    assert (status, body["error"]["code"]) == (503, "ENGINE_OVERLOADED")


async def test_batch_is_a_list_of_objects(bench: Bench) -> None:
    """A bare list is a batch too; what is no list, an empty or too long one is refused whole, a stray item alone."""
    async with bench.engine(accept(bench)):
        shapes: list[Any] = [[], {"orders": []}, "orders", 7, [7] * (BATCH_MAX + 1)]
        for wrong in shapes:
            status, body = await post(bench, wrong, BATCH)
            assert (status, body["error"]["details"]["field"]) == (400, "orders")
        bare: Any = [small(0), 7, small(1)]
        status, body = await post(bench, bare, BATCH)
    assert status == 200
    assert [item["success"] for item in body["data"]] == [True, False, True]
    assert body["data"][1]["error"]["details"] == {"field": "orders"}
    assert [command["client_order_id"] for command in bench.commands] == [b"n-0", b"n-1"]
