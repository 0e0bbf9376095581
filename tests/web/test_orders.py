"""Orders over HTTP, against an engine whose answers each test writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.web.conftest import ACCOUNT_ID, Bench, Records, bearer, make_event, make_order_event, refuse
from tradeengine.core.ids import first_id_at
from tradeengine.core.records import CommandKind, EventFlag, EventKind, OrderType, Reason, Side

ORDER_ID = first_id_at(1_780_000_000_000) | 7
LIMIT = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.5", "price": "50000.00"}


async def test_placed_order_is_answered_from_its_events(bench: Bench) -> None:
    """A limit order that rests is answered 201 with every field as the events say."""

    def accept(command: np.void) -> list[tuple[str, Records]]:
        return [("events.0", make_order_event(command, EventKind.ACCEPTED, bench.memory.rings["events.0"], ORDER_ID))]

    async with bench.engine(accept):
        answer = await bench.client.post("/api/v1/orders", json=LIMIT | {"client_order_id": "a-1"}, headers=bearer())
    body = await answer.get_json()
    assert answer.status_code == 201
    order = body["data"]["order"]
    assert order["id"] == str(ORDER_ID)
    assert order["client_order_id"] == "a-1"
    assert order["status"] == "open"
    assert order["quantity"] == "0.5000"
    assert order["price"] == "50000.00"
    assert body["data"]["trades"] == []
    (command,) = bench.commands
    assert command["kind"] == CommandKind.PLACE
    assert command["account_id"] == ACCOUNT_ID
    assert command["price_ticks"] == 5_000_000
    assert command["quantity_lots"] == 5_000
