"""Answers that are not in the events of a command: of orders on their way, of lost outcomes, of enormous commands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import trio.testing
from tests.web.bench import Bench, Records, bearer, make_event, make_order_event
from tests.web.test_market import make_trade
from tests.web.test_orders import LIMIT, ORDER_ID, Published, content, post

from tradeengine.core.records import EventFlag, EventKind, OrderType, Side, TimeInForce, command_dtype
from tradeengine.storage.queries import OrderRow
from tradeengine.web import gateway, schemas, trading
from tradeengine.web.errors import ApiError

TRADES = 9
KEPT = 4
"""Of an enormous command."""
LATER = 50
"""Number of a trade that another command made."""


@pytest.fixture
def enormous(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Give a front that keeps few events of a command, and a history in which everything is settled."""
    monkeypatch.setattr(gateway, "EVENTS_KEPT_MAX", KEPT)
    bench.history.contents[ORDER_ID] = content(
        order_type=OrderType.MARKET,
        time_in_force=TimeInForce.IOC,
        by_quote=True,
        price_ticks=0,
        quantity_lots=0,
        filled_lots=TRADES * 100,
        remaining_lots=0,
        filled_notional_units=TRADES * 500_000_000,
        status="filled",
        closed_ms=1_780_000_000_000,
    )
    bench.history.fills = [
        replace(make_trade(ORDER_ID + 1 + number), taker_order_id=ORDER_ID, sequence=101 + number)
        for number in (*range(TRADES), LATER)
    ]
    return bench


def take_many(bench: Bench) -> Any:
    """Make an engine in which an order takes many others, and sets off a stop at the end."""
    ring = bench.memory.rings["events.0"]

    def answer(command: np.void) -> Published:
        events = [make_order_event(command, EventKind.ACCEPTED, ring, ORDER_ID, flags=0, sequence=100)]
        events += [trade(command, number) for number in range(TRADES)]
        events.append(make_event(command, EventKind.TRADED, ring, order_id=7, sequence=101 + TRADES))
        events[-1]["flags"] = EventFlag.LAST_OF_COMMAND
        return [("events.0", np.concatenate(events))]

    def trade(command: np.void, number: int) -> Records:
        fields: dict[str, Any] = {"order_id": ORDER_ID, "trade_id": ORDER_ID + 1 + number, "maker_order_id": 9}
        fields |= {"side": Side.BUY, "price_ticks": 5_000_000, "quantity_lots": 100, "remaining_lots": 0}
        fields |= {"hold_units": 1, "flags": EventFlag.BY_QUOTE, "sequence": 101 + number}
        return make_event(command, EventKind.TRADED, ring, **fields)

    return answer


async def fail(*_: Any, **__: Any) -> Any:
    """Answer as history does while settlement is behind."""
    raise ApiError("SETTLEMENT_BACKLOG", "History is behind what was published; try again.")


async def test_totals_of_an_enormous_order_are_whole(enormous: Bench) -> None:
    """An order with more events than are kept has its totals from history, and says how many trades there are."""
    order = {"symbol": "BTC/USDT", "side": "buy", "type": "market", "quote_quantity": "4500"}
    async with enormous.engine(take_many(enormous)):
        status, body = await post(enormous, order)
    assert status == 201
    shown = body["data"]["order"]
    assert (shown["status"], shown["filled_quantity"], shown["average_price"]) == ("filled", "0.0900", "50000.000000")
    assert [trade["id"] for trade in body["data"]["trades"]] == [str(ORDER_ID + 1 + n) for n in range(KEPT - 1)]
    assert body["data"]["trades_total"] == TRADES


@pytest.mark.parametrize("question", ["order", "count_trades_of_order"])
async def test_enormous_order_whose_totals_are_not_to_be_had_is_unknown(
    enormous: Bench, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    """When history does not answer for an order that was placed, the answer does not read as if it were not."""
    monkeypatch.setattr(enormous.history, question, fail)
    async with enormous.engine(take_many(enormous)):
        status, body = await post(enormous, LIMIT | {"client_order_id": "big"})
    assert (status, body["error"]["code"]) == (504, "OUTCOME_UNKNOWN")
    assert body["error"]["details"] == {"client_order_id": "big"}


def amend_into_many(bench: Bench) -> Any:
    """Make an engine in which an order that rests is amended, and takes many others at its new price."""
    ring = bench.memory.rings["events.0"]
    take = take_many(bench)

    def answer(command: np.void) -> Published:
        ((_, events),) = take(command)
        events[0]["kind"], events[0]["order_type"], events[0]["price_ticks"] = EventKind.AMENDED, 1, 5_000_000
        return [(ring.name, events)]

    return answer


async def test_totals_of_an_enormous_amend_are_whole(enormous: Bench) -> None:
    """An amend with more events than are kept is answered from history too; the trades counted are its own."""
    async with enormous.engine(amend_into_many(enormous)):
        answer = await enormous.client.patch(f"/api/v1/orders/{ORDER_ID}", json={"price": "50001"}, headers=bearer())
        body = await answer.get_json()
    assert answer.status_code == 200
    assert (body["data"]["order"]["status"], body["data"]["order"]["filled_quantity"]) == ("filled", "0.0900")
    assert [trade["id"] for trade in body["data"]["trades"]] == [str(ORDER_ID + 1 + n) for n in range(KEPT - 1)]
    assert body["data"]["trades_total"] == TRADES


@pytest.mark.parametrize("question", ["order", "count_trades_of_order"])
async def test_enormous_amend_whose_totals_are_not_to_be_had_is_unknown(
    enormous: Bench, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    """When history does not answer for an amend that was carried out, the answer names the order and no cause."""
    engine = amend_into_many(enormous)

    def answer(command: np.void) -> Published:
        # The front looks the order up before it sends the amend, too; that look is answered.
        monkeypatch.setattr(enormous.history, question, fail)
        return engine(command)  # type: ignore[no-any-return]

    async with enormous.engine(answer):
        answered = await enormous.client.patch(f"/api/v1/orders/{ORDER_ID}", json={"price": "50001"}, headers=bearer())
        error = (await answered.get_json())["error"]
    assert (answered.status_code, error["code"]) == (504, "OUTCOME_UNKNOWN")
    assert error["details"] == {"order_id": str(ORDER_ID)}


async def test_enormous_mass_cancel_counts_what_it_does_not_list(
    enormous: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many orders end and on however many shards, they are counted; a bounded number is named."""
    monkeypatch.setattr(enormous.front, "shard_count", 2)
    monkeypatch.setattr(schemas, "LISTED_MAX", 3)
    ring = enormous.memory.rings["events.0"]

    def cancel_all(command: np.void) -> Published:
        events = []
        for _ in range(2):
            events += [make_event(command, EventKind.CANCELLED, ring, order_id=n, flags=0) for n in range(6)]
            events.append(make_event(command, EventKind.CANCELLED_ALL, ring, quantity_lots=6))
        return [("events.0", np.concatenate(events))]

    async with enormous.engine(cancel_all):
        answer = await enormous.client.delete("/api/v1/orders", headers=bearer())
    assert (await answer.get_json())["data"] == {"cancelled": 12, "total": 12, "orders": ["0", "1", "2"]}


async def test_repeat_lists_a_bounded_number_of_trades(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trades of a repeated order are counted where they are too many to list."""
    monkeypatch.setattr(schemas, "LISTED_MAX", 3)
    bench.history.contents[ORDER_ID] = content(status="filled")
    bench.history.fills = [replace(make_trade(n), taker_order_id=ORDER_ID) for n in range(5)]
    ring = bench.memory.rings["refusals"]

    def repeat(command: np.void) -> Published:
        return [("refusals", make_event(command, EventKind.REPEATED, ring, order_id=ORDER_ID))]

    async with bench.engine(repeat):
        status, body = await post(bench, LIMIT | {"client_order_id": "a-1"})
    assert (status, len(body["data"]["trades"]), body["data"]["trades_total"]) == (200, 3, 5)


@pytest.mark.parametrize("question", ["order", "trades_of_order", "settlement_statuses"])
async def test_repeat_that_cannot_be_looked_up_is_unknown(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    """While history does not answer, a repeat of an order that is live is not refused as if nothing had been placed."""
    bench.history.contents[ORDER_ID] = content()
    monkeypatch.setattr(bench.history, question, fail)
    ring = bench.memory.rings["refusals"]

    def repeat(command: np.void) -> Published:
        return [("refusals", make_event(command, EventKind.REPEATED, ring, order_id=ORDER_ID))]

    async with bench.engine(repeat):
        status, body = await post(bench, LIMIT | {"client_order_id": "a-1"})
    assert (status, body["error"]["code"]) == (504, "OUTCOME_UNKNOWN")
    assert body["error"]["details"] == {"client_order_id": "a-1"}


async def test_repeat_waits_for_an_original_that_is_on_its_way(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """An order that risk knows and history does not yet is waited for; one that never comes is unknown, not 404."""
    del autojump_clock
    looks = 0

    async def look(_account_id: int, _order_id: int) -> OrderRow | None:
        nonlocal looks
        looks += 1
        return content() if looks == 4 else None

    monkeypatch.setattr(bench.history, "order", look)
    events = make_event(np.zeros(1, command_dtype)[0], EventKind.REPEATED, bench.memory.rings["refusals"])
    command = np.zeros(1, command_dtype)
    command["client_order_id"] = "a-1"
    outcome = await trading.read_back(bench.front, command, events)
    assert (looks, outcome.created, outcome.data.order.id) == (4, False, str(ORDER_ID))
    with pytest.raises(ApiError) as refusal:
        await trading.read_back(bench.front, command, events)
    assert (refusal.value.code, refusal.value.details) == ("OUTCOME_UNKNOWN", {"client_order_id": "a-1"})


async def test_unanswered_cancels_advise_what_can_be_done(bench: Bench) -> None:
    """When no event comes for a cancel the advice is about what was sent, which had no client order id."""
    async with bench.engine(lambda _command: []):
        for path in ("", f"/{ORDER_ID}"):
            answer = await bench.client.delete(f"/api/v1/orders{path}", headers=bearer())
            error = (await answer.get_json())["error"]
            assert (answer.status_code, error["code"]) == (504, "OUTCOME_UNKNOWN")
            assert "client_order_id" not in error["message"]
