"""Orders over HTTP, against an engine whose answers each test writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.web.bench import ACCOUNT_ID, Bench, Records, bearer, make_event, make_order_event, refuse

from tradeengine.core.ids import first_id_at
from tradeengine.core.records import (
    SYMBOL_ID_ALL,
    CommandFlag,
    CommandKind,
    EventFlag,
    EventKind,
    LimitKind,
    OrderType,
    Reason,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
from tradeengine.storage.queries import OrderRow

ORDER_ID = first_id_at(1_780_000_000_000) | 7
LIMIT = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.5", "price": "50000.00"}
Published = list[tuple[str, Records]]


async def post(bench: Bench, order: dict[str, Any], path: str = "/api/v1/orders") -> tuple[int, dict[str, Any]]:
    """Send an order as alice; returns status and body."""
    answer = await bench.client.post(path, json=order, headers=bearer())
    return answer.status_code, await answer.get_json()


def accept(bench: Bench) -> Any:
    """Make an engine that accepts every order."""
    ring = bench.memory.rings["events.0"]
    return lambda command: [("events.0", make_order_event(command, EventKind.ACCEPTED, ring, ORDER_ID))]


def refuse_all(bench: Bench, reason: Reason) -> Any:
    """Make a risk that refuses every command."""
    ring = bench.memory.rings["refusals"]
    limit = LimitKind.OPEN_ORDERS if reason in {Reason.LIMIT_EXCEEDED, Reason.TWO_FACTOR_REQUIRED} else 0
    return lambda command: [
        ("refusals", make_event(command, EventKind.REFUSED, ring, reason=reason, price_ticks=limit))
    ]


def content(**changes: Any) -> OrderRow:
    """Make an order as history has it."""
    plain: dict[str, Any] = {
        "order_id": ORDER_ID,
        "account_id": ACCOUNT_ID,
        "symbol_id": 0,
        "client_order_id": "a-1",
        "side": Side.BUY,
        "order_type": OrderType.LIMIT,
        "time_in_force": TimeInForce.GTC,
        "self_trade_prevention": SelfTradePrevention.CANCEL_TAKER,
        "post_only": False,
        "by_quote": False,
        "price_ticks": 5_000_000,
        "stop_price_ticks": 0,
        "quantity_lots": 5_000,
        "filled_lots": 0,
        "remaining_lots": 5_000,
        "filled_notional_units": 0,
        "fee_total_units": 0,
        "hold_units": 0,
        "status": "open",
        "reason": Reason.NONE,
        "sequence": 9,
        "updated_ms": 1_780_000_000_000,
        "expires_ms": 0,
        "triggered_ms": 0,
        "closed_ms": 0,
    }
    return OrderRow(**(plain | changes))


async def test_placed_order_is_answered_from_its_events(bench: Bench) -> None:
    """A limit order that rests is answered 201 with every field as the events say."""
    async with bench.engine(accept(bench)):
        status, body = await post(bench, LIMIT | {"client_order_id": "a-1", "side": "BUY", "type": "Limit"})
    assert status == 201
    order = body["data"]["order"]
    assert order["id"] == str(ORDER_ID)
    assert order["client_order_id"] == "a-1"
    assert order["status"] == "open"
    assert order["quantity"] == "0.5000"
    assert order["remaining_quantity"] == "0.5000"
    assert order["price"] == "50000.00"
    assert order["average_price"] is None
    assert order["created_at"] == "2026-05-28T20:26:40.000Z"
    assert body["data"]["trades"] == []
    (command,) = bench.commands
    assert command["kind"] == CommandKind.PLACE
    assert command["account_id"] == ACCOUNT_ID
    assert command["price_ticks"] == 5_000_000
    assert command["quantity_lots"] == 5_000
    assert command["deadline_ms"] == bench.front.settings.http.command_timeout_ms


async def test_taker_sees_its_fills(bench: Bench) -> None:
    """A taker's answer has its trades with its own fee, side and liquidity, and the average price of both."""

    def trade(command: np.void) -> Published:
        ring = bench.memory.rings["events.0"]
        accepted = make_order_event(command, EventKind.ACCEPTED, ring, ORDER_ID, flags=0)
        fills = [
            make_event(
                command,
                EventKind.TRADED,
                ring,
                order_id=ORDER_ID,
                trade_id=ORDER_ID + 100 + number,
                maker_order_id=ORDER_ID - 1 - number,
                maker_account_id=ACCOUNT_ID + 1,
                side=Side.BUY,
                price_ticks=5_000_000 - number * 100,
                quantity_lots=2_500,
                remaining_lots=2_500 - number * 2_500,
                notional_units=12_500_000_000,
                fee_units=12_500_000,
                maker_fee_units=6_250_000,
                filled_notional_units=12_500_000_000 * (number + 1) - 250_000 * number,
                fee_total_units=12_500_000 * (number + 1),
                flags=EventFlag.LAST_OF_COMMAND if number else 0,
            )
            for number in range(2)
        ]
        return [("events.0", np.concatenate([accepted, *fills]))]

    async with bench.engine(trade):
        status, body = await post(bench, LIMIT)
    assert status == 201
    order, trades = body["data"]["order"], body["data"]["trades"]
    assert order["status"] == "filled"
    assert order["filled_quantity"] == "0.5000"
    assert order["remaining_quantity"] == "0.0000"
    assert order["average_price"] == "49999.500000"
    assert order["fee_paid"] == "25.000000"
    assert order["closed_at"] is not None
    assert [fill["price"] for fill in trades] == ["50000.00", "49999.00"]
    assert {fill["order_id"] for fill in trades} == {str(ORDER_ID)}
    assert [(fill["side"], fill["liquidity"], fill["fee"]) for fill in trades] == [("buy", "taker", "12.500000")] * 2
    assert trades[0]["seller_fee"] == "6.250000"
    assert trades[0]["settlement_status"] == "pending"


async def test_trades_of_stops_that_an_order_triggers_are_not_its_own(bench: Bench) -> None:
    """Events of others' orders within one's command are neither in one's order nor among one's trades."""

    def trigger(command: np.void) -> Published:
        ring = bench.memory.rings["events.0"]
        other = {"order_id": ORDER_ID - 5, "account_id": ACCOUNT_ID + 1}
        events = [
            make_order_event(command, EventKind.ACCEPTED, ring, ORDER_ID, flags=0),
            make_event(command, EventKind.TRADED, ring, **other, maker_order_id=ORDER_ID - 6, flags=0, quantity_lots=9),
            make_event(command, EventKind.CANCELLED, ring, **other, order_type=OrderType.STOP, reason=Reason.COLLAR),
        ]
        return [("events.0", np.concatenate(events))]

    async with bench.engine(trigger):
        status, body = await post(bench, LIMIT)
    assert status == 201
    assert body["data"]["order"]["status"] == "open"
    assert body["data"]["trades"] == []


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        (Reason.INSUFFICIENT_BALANCE, 422, "INSUFFICIENT_BALANCE"),
        (Reason.CLIENT_ORDER_ID_REUSED, 409, "CLIENT_ORDER_ID_REUSED"),
        (Reason.ENGINE_OVERLOADED, 503, "ENGINE_OVERLOADED"),
        (Reason.SETTLEMENT_BACKLOG, 503, "SETTLEMENT_BACKLOG"),
        (Reason.DEADLINE_PASSED, 503, "ENGINE_OVERLOADED"),
        (Reason.LIMIT_EXCEEDED, 422, "LIMIT_EXCEEDED"),
        (Reason.BELOW_MIN_NOTIONAL, 400, "BELOW_MIN_NOTIONAL"),
    ],
)
async def test_refusal_by_risk_has_its_code(bench: Bench, reason: Reason, status: int, code: str) -> None:
    """What risk refuses is answered with the reason's code and status; 503 says when to come back."""
    async with bench.engine(refuse_all(bench, reason)):
        answer = await bench.client.post("/api/v1/orders", json=LIMIT, headers=bearer())
    body = await answer.get_json()
    assert (answer.status_code, body["error"]["code"]) == (status, code)
    assert body["success"] is False
    assert ("Retry-After" in answer.headers) == (status == 503)


@pytest.mark.parametrize(
    ("kind", "used", "details"),
    [
        (LimitKind.OPEN_ORDERS, 20, {"limit": "max_open_orders", "maximum": 25_000_000, "used": 20}),
        (LimitKind.ORDER_NOTIONAL, -1, {"limit": "max_order_size", "asset": "USDT", "maximum": "25.000000"}),
        (
            LimitKind.DAY_NOTIONAL,
            24_000_000,
            {"limit": "max_daily_volume", "asset": "USDT", "maximum": "25.000000", "used": "24.000000"},
        ),
        (LimitKind.TWO_FACTOR, -1, {"limit": "requires_2fa_above", "asset": "USDT", "maximum": "25.000000"}),
    ],
)
async def test_limit_that_refused_is_named(bench: Bench, kind: LimitKind, used: int, details: dict[str, Any]) -> None:
    """Who is over a limit is told which, how much it is, and how much of it is used where that is known."""
    ring = bench.memory.rings["refusals"]
    fields = {"price_ticks": kind, "quantity_lots": used, "notional_units": 25_000_000}

    def refuse_for_limit(command: np.void) -> Published:
        return [("refusals", make_event(command, EventKind.REFUSED, ring, reason=Reason.LIMIT_EXCEEDED, **fields))]

    async with bench.engine(refuse_for_limit):
        _, body = await post(bench, LIMIT | {"client_order_id": "a-1"})
    assert body["error"]["details"] == details | {"client_order_id": "a-1", "reason": "LIMIT_EXCEEDED"}


async def test_every_reason_has_an_answer_that_is_not_our_fault(bench: Bench) -> None:
    """Each reason for which a command can be refused is answered by a code of its own, never by INTERNAL."""
    for reason in Reason:
        if reason < Reason.FOK_NOT_FILLED or reason == Reason.SYMBOL_EXISTS:
            continue  # why orders end; and what only an operator's command is told
        async with make_running(bench, reason):
            status, body = await post(bench, LIMIT)
        assert status < 500 or status == 503, reason
        assert body["error"]["code"] != "INTERNAL"


def make_running(bench: Bench, reason: Reason) -> Any:
    """Run an engine that refuses for ``reason``."""
    return bench.engine(refuse_all(bench, reason))


@pytest.mark.parametrize("reason", [Reason.POST_ONLY_WOULD_MATCH, Reason.FOK_NOT_FILLED, Reason.PRICE_OUT_OF_COLLAR])
async def test_rejection_by_matcher_is_422_and_its_repeat_too(bench: Bench, reason: Reason) -> None:
    """An order that the matcher rejected is answered 422 with its id, and so is the repeat of its request."""
    ring, refusals = bench.memory.rings["events.0"], bench.memory.rings["refusals"]
    bench.history.contents[ORDER_ID] = content(status="rejected", reason=reason)

    def reject_then_repeat(command: np.void) -> Published:
        if len(bench.commands) == 1:
            return [("events.0", make_order_event(command, EventKind.REJECTED, ring, ORDER_ID, reason=reason))]
        return [("refusals", make_event(command, EventKind.REPEATED, refusals, order_id=ORDER_ID))]

    async with bench.engine(reject_then_repeat):
        first = await post(bench, LIMIT | {"client_order_id": "a-1"})
        again = await post(bench, LIMIT | {"client_order_id": "a-1"})
    assert first[0] == again[0] == 422
    assert first[1]["error"] == again[1]["error"]
    assert first[1]["error"]["code"] == reason.name
    assert first[1]["error"]["details"]["order_id"] == str(ORDER_ID)


async def test_repeat_answers_the_original_order(bench: Bench) -> None:
    """A repeated request is answered 200 with the order as it is now."""
    bench.history.contents[ORDER_ID] = content(status="cancelled", reason=Reason.USER, closed_ms=1_780_000_000_500)

    def repeat(command: np.void) -> Published:
        ring = bench.memory.rings["refusals"]
        return [("refusals", make_event(command, EventKind.REPEATED, ring, order_id=ORDER_ID))]

    async with bench.engine(repeat):
        status, body = await post(bench, LIMIT | {"client_order_id": "a-1"})
    assert status == 200
    assert body["data"]["order"]["status"] == "cancelled"
    assert body["data"]["order"]["status_reason"] == "USER"


@pytest.mark.parametrize("expires_at", ["2020-01-01T00:00:00Z", "1970-01-01T00:00:00Z"])
async def test_repeat_of_an_order_that_has_expired_is_answered(bench: Bench, expires_at: str) -> None:
    """An end that has passed is refused by name for a new order, and is no reason not to answer a repeat."""
    order = LIMIT | {"client_order_id": "a-1", "time_in_force": "gtd", "expires_at": expires_at}
    bench.history.contents[ORDER_ID] = content(status="cancelled", reason=Reason.EXPIRED, closed_ms=1_780_000_000_500)

    def repeat(command: np.void) -> Published:
        ring = bench.memory.rings["refusals"]
        return [("refusals", make_event(command, EventKind.REPEATED, ring, order_id=ORDER_ID))]

    async with bench.engine(repeat):
        status, body = await post(bench, order)
    assert (status, body["data"]["order"]["status_reason"]) == (200, "EXPIRED")
    checked = await post(bench, order, "/api/v1/orders/test")
    async with bench.engine(refuse_all(bench, Reason.NUMBER_OUT_OF_RANGE)):
        placed = await post(bench, order)
    for status, body in (checked, placed):
        assert (status, body["error"]["code"]) == (400, "NUMBER_OUT_OF_RANGE")
        assert body["error"]["details"] == {"field": "expires_at"}


async def test_unanswered_order_tells_how_to_ask_again(bench: Bench) -> None:
    """When no event comes in time the answer is 504 with the client order id that the command carried."""
    async with bench.engine(lambda _command: []):
        status, body = await post(bench, LIMIT)
    assert status == 504
    assert body["error"]["code"] == "OUTCOME_UNKNOWN"
    sent = bytes(bench.commands[0]["client_order_id"]).decode()
    assert body["error"]["details"]["client_order_id"] == sent
    assert "client_order_id" in body["error"]["message"]
    assert 0 < len(sent) <= 36


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"type": "market", "price": "1"}, "INVALID_COMBINATION", "price"),
        ({"type": "limit", "price": None}, "INVALID_COMBINATION", "price"),
        ({"stop_price": "50000"}, "INVALID_COMBINATION", "stop_price"),
        ({"type": "stop", "price": None}, "INVALID_COMBINATION", "stop_price"),
        ({"type": "stop_limit"}, "INVALID_COMBINATION", "stop_price"),
        ({"type": "market", "price": None, "time_in_force": "gtc"}, "INVALID_COMBINATION", "time_in_force"),
        ({"type": "market", "price": None, "post_only": True}, "INVALID_COMBINATION", "post_only"),
        ({"time_in_force": "ioc", "post_only": True}, "INVALID_COMBINATION", "post_only"),
        (
            {"type": "stop", "price": None, "stop_price": "1", "time_in_force": "ioc"},
            "INVALID_COMBINATION",
            "time_in_force",
        ),
        ({"time_in_force": "gtd"}, "INVALID_COMBINATION", "expires_at"),
        ({"expires_at": "2030-01-01T00:00:00Z"}, "INVALID_COMBINATION", "expires_at"),
        ({"time_in_force": "gtd", "expires_at": "tomorrow"}, "INVALID_REQUEST", "expires_at"),
        ({"time_in_force": "gtd", "expires_at": "2030-02-30T00:00:00Z"}, "INVALID_REQUEST", "expires_at"),
        ({"quantity": None}, "INVALID_REQUEST", "quantity"),
        ({"quote_quantity": "100"}, "INVALID_COMBINATION", "quote_quantity"),
        ({"type": "market", "price": None, "quote_quantity": "100"}, "INVALID_COMBINATION", "quote_quantity"),
        ({"price": "50000.001"}, "PRICE_NOT_ON_TICK", "price"),
        ({"quantity": "0.00005"}, "QUANTITY_NOT_ON_LOT", "quantity"),
        ({"price": "0"}, "NUMBER_OUT_OF_RANGE", "price"),
        ({"price": "-1"}, "NUMBER_OUT_OF_RANGE", "price"),
        ({"price": "1000000.01"}, "NUMBER_OUT_OF_RANGE", "price"),
        ({"price": "1" + "0" * 30}, "NUMBER_OUT_OF_RANGE", "price"),
        ({"price": "5e4"}, "INVALID_REQUEST", "price"),
        ({"price": "NaN"}, "INVALID_REQUEST", "price"),
        ({"price": "+50000"}, "INVALID_REQUEST", "price"),
        ({"price": " 50000"}, "INVALID_REQUEST", "price"),
        ({"price": "٥٠"}, "INVALID_REQUEST", "price"),
        ({"price": ""}, "INVALID_REQUEST", "price"),
        ({"price": 50000}, "INVALID_REQUEST", "price"),
        ({"price": 50000.5}, "INVALID_REQUEST", "price"),
        ({"quantity": "0"}, "NUMBER_OUT_OF_RANGE", "quantity"),
        ({"quantity": "1000.0001"}, "NUMBER_OUT_OF_RANGE", "quantity"),
        ({"quantity": True}, "INVALID_REQUEST", "quantity"),
        ({"quantity": "0.0001", "price": "49999.99"}, "BELOW_MIN_NOTIONAL", "quantity"),
        ({"side": "hold"}, "INVALID_REQUEST", "side"),
        ({"side": 1}, "INVALID_REQUEST", "side"),
        ({"symbol": "BTC/EUR"}, "SYMBOL_NOT_FOUND", "symbol"),
        ({"client_order_id": ""}, "INVALID_REQUEST", "client_order_id"),
        ({"client_order_id": "x" * 37}, "INVALID_REQUEST", "client_order_id"),
        ({"client_order_id": "a b"}, "INVALID_REQUEST", "client_order_id"),
        ({"client_order_id": "a\n"}, "INVALID_REQUEST", "client_order_id"),
        ({"self_trade_prevention": "none"}, "INVALID_REQUEST", "self_trade_prevention"),
        ({"post_only": "true"}, "INVALID_REQUEST", "post_only"),
        ({"leverage": "10"}, "INVALID_REQUEST", "leverage"),
    ],
)
async def test_wrong_order_is_refused_by_field(
    shared_bench: Bench, changes: dict[str, Any], code: str, field: str
) -> None:
    """What an order may not be is refused with code and field, before anything is sent."""
    for path in ("/api/v1/orders", "/api/v1/orders/test"):
        status, body = await post(shared_bench, LIMIT | changes, path)
        assert (body["error"]["code"], body["error"]["details"]["field"]) == (code, field)
        assert status == (404 if code == "SYMBOL_NOT_FOUND" else 400)
    assert shared_bench.memory.rings["ingress.front-0"].head == 0


BY_AMOUNT = {"type": "market", "price": None, "quantity": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (BY_AMOUNT | {"quote_quantity": "4.99"}, "quote_quantity must be at least 5.000000 USDT."),
        (BY_AMOUNT | {"quote_quantity": "0.0000001"}, "quote_quantity must have at most 6 decimal places."),
        (BY_AMOUNT | {"side": "buy"}, "A market buy needs quantity or quote_quantity."),
        (BY_AMOUNT | {"side": "sell"}, "quantity is missing."),
        ({"quantity": None}, "quantity is missing."),
        ({"quantity": "0.0001", "price": "49999.99"}, "price times quantity must be at least 5.000000 USDT."),
        (
            {"type": "stop", "price": None, "stop_price": "100", "quantity": "0.0001"},
            "stop_price times quantity must be at least 5.000000 USDT.",
        ),
        ({"quantity": "1" * 65}, "quantity must have at most 64 characters."),
    ],
)
async def test_refusal_speaks_of_what_was_sent(shared_bench: Bench, changes: dict[str, Any], message: str) -> None:
    """The message of a refusal is one sentence about the fields that the order has, or should have."""
    _, body = await post(shared_bench, LIMIT | changes, "/api/v1/orders/test")
    assert body["error"]["message"] == message


@pytest.mark.parametrize(
    "changes",
    [
        {"time_in_force": "GTD", "expires_at": "2100-01-01T00:00:00+02:00"},
        {"time_in_force": "fok"},
        {"post_only": True},
        {"price": "1000000"},
        {"price": "50000.000000"},
        {"type": "stop", "price": None, "stop_price": "50000"},
        {"type": "stop_limit", "stop_price": "50000", "time_in_force": "ioc"},
        {"type": "market", "price": None},
        {"type": "market", "price": None, "time_in_force": "fok"},
        {"type": "market", "price": None, "quantity": None, "quote_quantity": "5"},
        {"symbol": "btc-usdt"},
    ],
)
async def test_right_order_passes_the_test_call(bench: Bench, changes: dict[str, Any]) -> None:
    """``/orders/test`` takes what ``/orders`` would send, and sends nothing."""
    status, body = await post(bench, LIMIT | changes, "/api/v1/orders/test")
    assert (status, body["data"]["valid"]) == (200, True)
    assert bench.memory.rings["ingress.front-0"].head == 0


async def test_budget_travels_as_hold(bench: Bench) -> None:
    """A market buy by quote amount sends its budget as the hold, and no quantity."""
    async with bench.engine(accept(bench)):
        await post(bench, {"symbol": "BTC/USDT", "side": "buy", "type": "market", "quote_quantity": "100.5"})
    (command,) = bench.commands
    assert command["flags"] == CommandFlag.BY_QUOTE
    assert (command["hold_units"], command["quantity_lots"]) == (100_500_000, 0)


async def test_cancelled_order_is_answered_from_its_event(bench: Bench) -> None:
    """A cancel answers with the whole order, which its event carries."""

    def cancel(command: np.void) -> Published:
        placed = command.copy()
        placed["order_type"], placed["time_in_force"], placed["self_trade_prevention"] = 1, 1, 1
        placed["price_ticks"], placed["quantity_lots"] = 5_000_000, 5_000
        ring = bench.memory.rings["events.0"]
        changes = {"remaining_lots": 2_000, "filled_notional_units": 15_000_000_000, "reason": Reason.USER}
        return [("events.0", make_order_event(placed, EventKind.CANCELLED, ring, ORDER_ID, **changes))]

    async with bench.engine(cancel):
        answer = await bench.client.delete(f"/api/v1/orders/{ORDER_ID}", headers=bearer())
    order = (await answer.get_json())["data"]["order"]
    assert answer.status_code == 200
    assert (order["status"], order["status_reason"]) == ("cancelled", "USER")
    assert (order["filled_quantity"], order["remaining_quantity"]) == ("0.3000", "0.2000")
    assert order["average_price"] == "50000.000000"
    assert bench.commands[0]["kind"] == CommandKind.CANCEL
    assert bench.commands[0]["order_id"] == ORDER_ID


async def test_cancel_of_a_closed_order_is_a_conflict(bench: Bench) -> None:
    """What the engine does not know any more but history has is 409 with its status; what neither has is 404."""
    bench.history.contents[ORDER_ID] = content(status="filled")
    async with bench.engine(refuse_all(bench, Reason.ORDER_NOT_FOUND)):
        closed = await bench.client.delete(f"/api/v1/orders/{ORDER_ID}", headers=bearer())
        unknown = await bench.client.delete(f"/api/v1/orders/{ORDER_ID + 1}", headers=bearer())
    assert closed.status_code == 409
    error = (await closed.get_json())["error"]
    assert (error["code"], error["details"]["status"]) == ("ORDER_NOT_OPEN", "filled")
    assert unknown.status_code == 404
    assert (await unknown.get_json())["error"]["code"] == "ORDER_NOT_FOUND"


@pytest.mark.parametrize("order_id", ["abc", "0", "-1", "9" * 19, "9" * 40, "1.0", "%20", "１２"])
async def test_impossible_id_names_nothing(shared_bench: Bench, order_id: str) -> None:
    """An id that no order can have is 404 for every call on it, and nothing is sent."""
    for method in ("get", "delete", "patch"):
        answer = await getattr(shared_bench.client, method)(f"/api/v1/orders/{order_id}", headers=bearer())
        assert answer.status_code == 404
        assert (await answer.get_json())["error"]["code"] == "ORDER_NOT_FOUND"


@pytest.mark.parametrize("client_order_id", ["%00", "a%00", "a%0A", "a" * 37, "%20", "caf%C3%A9", "a%2Fb"])
async def test_impossible_client_order_id_names_nothing(shared_bench: Bench, client_order_id: str) -> None:
    """A client order id that no order can have is 404, and the database is not asked for it."""
    answer = await shared_bench.client.get(f"/api/v1/orders/by-client-id/{client_order_id}", headers=bearer())
    assert answer.status_code == 404
    assert (await answer.get_json())["error"]["code"] in {"ORDER_NOT_FOUND", "NOT_FOUND"}


async def test_amend_sends_what_changes(bench: Bench) -> None:
    """An amend sends the new values, zero for what stays, and answers with the amended order."""
    bench.history.contents[ORDER_ID] = content()

    def amend(command: np.void) -> Published:
        placed = command.copy()
        placed["order_type"], placed["time_in_force"], placed["self_trade_prevention"] = 1, 1, 1
        placed["price_ticks"] = 5_000_000
        ring = bench.memory.rings["events.0"]
        return [("events.0", make_order_event(placed, EventKind.AMENDED, ring, ORDER_ID))]

    async with bench.engine(amend):
        answer = await bench.client.patch(f"/api/v1/orders/{ORDER_ID}", json={"quantity": "0.25"}, headers=bearer())
    assert answer.status_code == 200
    assert (await answer.get_json())["data"]["order"]["quantity"] == "0.2500"
    (command,) = bench.commands
    assert command["kind"] == CommandKind.AMEND
    assert (command["quantity_lots"], command["price_ticks"], command["stop_price_ticks"]) == (2_500, 0, 0)


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "INVALID_REQUEST", "quantity"),
        ({"side": "sell"}, "INVALID_REQUEST", "side"),
        ({"price": "0.001"}, "PRICE_NOT_ON_TICK", "price"),
        ({"quantity": "0"}, "NUMBER_OUT_OF_RANGE", "quantity"),
    ],
)
async def test_wrong_amend_is_refused_by_field(
    shared_bench: Bench, body: dict[str, Any], code: str, field: str
) -> None:
    """An amend that says nothing, or something wrong, is refused with code and field, and nothing is sent."""
    shared_bench.history.contents[ORDER_ID] = content()
    answer = await shared_bench.client.patch(f"/api/v1/orders/{ORDER_ID}", json=body, headers=bearer())
    error = (await answer.get_json())["error"]
    assert (answer.status_code, error["code"], error["details"]["field"]) == (400, code, field)
    assert shared_bench.memory.rings["ingress.front-0"].head == 0


async def test_amend_below_filled_is_a_conflict(bench: Bench) -> None:
    """The matcher's refusal of a quantity that is filled already is 409."""
    bench.history.contents[ORDER_ID] = content(filled_lots=3_000)

    def refuse_amend(command: np.void) -> Published:
        return [("events.0", refuse(command, bench.memory.rings["events.0"], Reason.QUANTITY_NOT_ABOVE_FILLED))]

    async with bench.engine(refuse_amend):
        answer = await bench.client.patch(f"/api/v1/orders/{ORDER_ID}", json={"quantity": "0.3"}, headers=bearer())
    assert answer.status_code == 409
    assert (await answer.get_json())["error"]["code"] == "QUANTITY_NOT_ABOVE_FILLED"


@pytest.mark.parametrize(
    ("body", "reason", "details"),
    [
        ({"stop_price": "50000"}, Reason.INVALID_COMBINATION, {"field": "stop_price"}),
        ({"price": "50000", "quantity": "1"}, Reason.INVALID_COMBINATION, {"field": "price"}),
        ({"price": "1"}, Reason.BELOW_MIN_NOTIONAL, {"field": "price", "minimum": "5.000000"}),
        ({"quantity": "0.0001"}, Reason.BELOW_MIN_NOTIONAL, {"field": "quantity", "minimum": "5.000000"}),
        ({"quantity": "0.3"}, Reason.QUANTITY_NOT_ABOVE_FILLED, {"field": "quantity"}),
    ],
)
async def test_refused_amend_names_the_field(
    bench: Bench, body: dict[str, str], reason: Reason, details: dict[str, str]
) -> None:
    """What only the engine can refuse, because it knows the order, is answered with field and bound all the same."""
    bench.history.contents[ORDER_ID] = content()
    async with make_running(bench, reason):
        answer = await bench.client.patch(f"/api/v1/orders/{ORDER_ID}", json=body, headers=bearer())
    error = (await answer.get_json())["error"]
    assert error["code"] == reason.name
    assert error["details"].items() >= {"order_id": str(ORDER_ID), **details}.items()


async def test_minimum_is_told_where_only_the_engine_knows_the_price(bench: Bench) -> None:
    """A market order that is too small at the present price is refused with the bound that it broke."""
    async with make_running(bench, Reason.BELOW_MIN_NOTIONAL):
        _, body = await post(bench, {"symbol": "BTC/USDT", "side": "buy", "type": "market", "quantity": "0.0001"})
    assert body["error"]["details"].items() >= {"field": "quantity", "minimum": "5.000000"}.items()
    assert "5.000000 USDT" in body["error"]["message"]


async def test_mass_cancel_counts_and_names_what_it_ended(bench: Bench) -> None:
    """Cancelling all answers with the number and the ids of the orders that it ended."""

    def cancel_all(command: np.void) -> Published:
        ring = bench.memory.rings["events.0"]
        events = [
            make_event(command, EventKind.CANCELLED, ring, order_id=ORDER_ID + number, flags=0) for number in range(2)
        ]
        events.append(make_event(command, EventKind.CANCELLED_ALL, ring, quantity_lots=2))
        return [("events.0", np.concatenate(events))]

    async with bench.engine(cancel_all):
        one = await bench.client.delete("/api/v1/orders?symbol=BTC-USDT", headers=bearer())
        every = await bench.client.delete("/api/v1/orders", headers=bearer())
    wanted = {"cancelled": 2, "total": 2, "orders": [str(ORDER_ID), str(ORDER_ID + 1)]}
    assert (await one.get_json())["data"] == (await every.get_json())["data"] == wanted
    assert [command["symbol_id"] for command in bench.commands] == [0, SYMBOL_ID_ALL]


async def test_refused_mass_cancel_is_told(bench: Bench) -> None:
    """A mass cancel that risk does not take is refused with its reason, and says nothing of orders."""
    async with bench.engine(refuse_all(bench, Reason.SETTLEMENT_BACKLOG)):
        for query in ("", "?symbol=BTC-USDT"):
            answer = await bench.client.delete(f"/api/v1/orders{query}", headers=bearer())
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            assert (await answer.get_json())["error"]["code"] == "SETTLEMENT_BACKLOG"


@pytest.mark.parametrize("query", ["symbol=", "symbol", "symbol=&symbol=", "symbol=BTC-USDT&symbol="])
async def test_mass_cancel_of_an_empty_symbol_cancels_nothing(shared_bench: Bench, query: str) -> None:
    """A symbol that was left empty is refused: it does not mean every symbol."""
    async with shared_bench.engine(accept(shared_bench)):
        answer = await shared_bench.client.delete(f"/api/v1/orders?{query}", headers=bearer())
    assert answer.status_code == 400
    assert (await answer.get_json())["error"]["details"]["field"] == "symbol"
    assert shared_bench.commands == []


async def test_order_list_pages_through_all(bench: Bench) -> None:
    """Following next_cursor shows every order once, newest first, and ends with null."""
    bench.history.contents = {ORDER_ID + n: content(order_id=ORDER_ID + n) for n in range(5)}
    seen: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        query = f"limit=2&cursor={cursor}" if cursor else "limit=2"
        answer = await (await bench.client.get(f"/api/v1/orders?{query}", headers=bearer())).get_json()
        seen += [int(order["id"]) for order in answer["data"]]
        cursor = answer["meta"]["next_cursor"]
    assert seen == [ORDER_ID + n for n in (4, 3, 2, 1, 0)]


async def test_order_filters_reach_history(bench: Bench) -> None:
    """Filters are read in any case, statuses repeat, and times become nanoseconds."""
    query = "symbol=btc-usdt&status=OPEN&status=filled&side=Sell&type=limit&start=2026-01-01T00:00:00.5Z"
    answer = await bench.client.get(f"/api/v1/orders?{query}", headers=bearer())
    assert answer.status_code == 200
    assert bench.history.asked["statuses"] == ["open", "filled"]
    assert bench.history.asked["side"] == "sell"
    assert bench.history.asked["symbol_id"] == 0
    assert bench.history.asked["start_ns"] == 1_767_225_600_500_000_000


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("limit=0", "NUMBER_OUT_OF_RANGE", "limit"),
        ("limit=1001", "NUMBER_OUT_OF_RANGE", "limit"),
        ("limit=ten", "NUMBER_OUT_OF_RANGE", "limit"),
        ("limit=1&limit=2", "INVALID_REQUEST", "limit"),
        ("cursor=!!", "INVALID_REQUEST", "cursor"),
        ("cursor=AAAA", "INVALID_REQUEST", "cursor"),
        ("status=gone", "INVALID_REQUEST", "status"),
        ("side=both", "INVALID_REQUEST", "side"),
        ("start=yesterday", "INVALID_REQUEST", "start"),
        ("colour=red", "INVALID_REQUEST", "colour"),
        ("colour=", "INVALID_REQUEST", "colour"),
        ("symbol=", "INVALID_REQUEST", "symbol"),
        ("symbol", "INVALID_REQUEST", "symbol"),
        ("status=open&status=", "INVALID_REQUEST", "status"),
        ("start=", "INVALID_REQUEST", "start"),
        ("end=", "INVALID_REQUEST", "end"),
        ("limit=", "INVALID_REQUEST", "limit"),
        ("cursor=", "INVALID_REQUEST", "cursor"),
        ("symbol=NO-SUCH", "SYMBOL_NOT_FOUND", "symbol"),
    ],
)
async def test_wrong_filter_is_refused_by_name(shared_bench: Bench, query: str, code: str, field: str) -> None:
    """A query parameter that is wrong or unknown is refused by name."""
    answer = await shared_bench.client.get(f"/api/v1/orders?{query}", headers=bearer())
    error = (await answer.get_json())["error"]
    assert (error["code"], error["details"]["field"]) == (code, field)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", "/time"),
        ("get", "/symbols"),
        ("get", "/balances"),
        ("get", "/markets/BTC-USDT/ticker"),
        ("get", "/statistics/24h/BTC-USDT"),
        ("get", "/trades/1"),
        ("get", f"/orders/{ORDER_ID}"),
        ("get", "/orders/by-client-id/a-1"),
        ("delete", f"/orders/{ORDER_ID}"),
        ("patch", f"/orders/{ORDER_ID}"),
        ("post", "/orders"),
        ("post", "/orders/test"),
    ],
)
async def test_call_without_parameters_refuses_them_by_name(shared_bench: Bench, method: str, path: str) -> None:
    """A parameter where none is read is refused, not passed over: it was meant to do something."""
    answer = await getattr(shared_bench.client, method)(f"/api/v1{path}?symbol=BTC-USDT", headers=bearer())
    error = (await answer.get_json())["error"]
    assert (answer.status_code, error["details"]["field"]) == (400, "symbol")
    assert shared_bench.memory.rings["ingress.front-0"].head == 0


async def test_order_is_found_by_either_id(bench: Bench) -> None:
    """An own order answers under its id and its client order id; anything else is 404."""
    bench.history.contents[ORDER_ID] = content()
    for path in (str(ORDER_ID), "by-client-id/a-1"):
        answer = await bench.client.get(f"/api/v1/orders/{path}", headers=bearer())
        assert (await answer.get_json())["data"]["order"]["id"] == str(ORDER_ID)
    for path in (str(ORDER_ID + 1), "by-client-id/b"):
        answer = await bench.client.get(f"/api/v1/orders/{path}", headers=bearer())
        assert answer.status_code == 404


async def test_cancelled_stop_limit_still_says_when_it_fired(bench: Bench) -> None:
    """The event of a cancel knows that a stop had fired but not when; history adds it."""
    bench.history.contents[ORDER_ID] = content(triggered_ms=1_780_000_000_250)

    def cancel(command: np.void) -> Published:
        placed = command.copy()
        placed["order_type"], placed["time_in_force"], placed["self_trade_prevention"] = OrderType.STOP_LIMIT, 1, 1
        ring = bench.memory.rings["events.0"]
        flags = EventFlag.LAST_OF_COMMAND | EventFlag.TRIGGERED
        return [("events.0", make_order_event(placed, EventKind.CANCELLED, ring, ORDER_ID, flags=flags))]

    async with bench.engine(cancel):
        answer = await bench.client.delete(f"/api/v1/orders/{ORDER_ID}", headers=bearer())
    assert (await answer.get_json())["data"]["order"]["triggered_at"] == "2026-05-28T20:26:40.250Z"


async def test_no_room_is_a_clear_refusal(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A front with no room for another waiting request refuses at once, says when to come back, and sends nothing."""
    monkeypatch.setattr("tradeengine.web.gateway.IN_FLIGHT_MAX", 0)
    answer = await bench.client.post("/api/v1/orders", json=LIMIT, headers=bearer())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert (await answer.get_json())["error"]["code"] == "ENGINE_OVERLOADED"
    assert bench.memory.rings["ingress.front-0"].head == 0
