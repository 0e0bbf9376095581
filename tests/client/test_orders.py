"""Own open orders as the stream tells them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
from tests.client.scripted import TIME, order, order_update, trade

from tradeengine.client import LocalOrders
from tradeengine.client.codec import Codec
from tradeengine.client.models import Order


def told(orders: LocalOrders, *messages: dict[str, Any]) -> dict[str, tuple[str, Decimal]]:
    """Tell messages; returns status and rest of each open order."""
    codec = Codec(is_binary=False)
    for message in messages:
        (read,) = codec.read(codec.encode(message))
        orders.apply(read)
    return {order_id: (known.status, known.remaining_quantity) for order_id, known in orders.open.items()}


def test_orders_come_and_go() -> None:
    """An order is known from its acceptance to its end, with what is left of it; other messages change nothing."""
    orders = LocalOrders()
    assert told(orders, order_update("c1"), trade(1)) == {"7": ("open", Decimal(1))}
    partly = order_update("c2", status="partially_filled", remaining_quantity="0.40", sequence=7)
    assert told(orders, partly, order_update("c3", "8")) == {
        "7": ("partially_filled", Decimal("0.40")),
        "8": ("open", Decimal(1)),
    }
    assert told(orders, order_update("c4", status="filled", sequence=9)) == {"8": ("open", Decimal(1))}
    assert told(orders, order_update("c5", "9", status="rejected")) == {"8": ("open", Decimal(1))}


def test_resuming_and_resync_replace_what_was_known() -> None:
    """A snapshot of an order replaces it; a resync replaces everything."""
    orders = LocalOrders()
    told(orders, order_update("c1"), order_update("c1", "8"))
    closed = {"type": "order_snapshot", "order": order(status="cancelled", sequence=9), "trades": [], "cursor": "c2"}
    assert told(orders, closed) == {"8": ("open", Decimal(1))}
    resync = {"type": "resync", "reason": "too old", "orders": [order("9", status="pending")], "balances": []}
    assert told(orders, {**resync, "cursor": "c3", "timestamp": TIME}) == {"9": ("pending", Decimal(1))}


def test_older_list_does_not_undo_news() -> None:
    """An order in a list that is older than what the stream has said stays as the stream said."""
    orders = LocalOrders()
    told(orders, order_update("c1", status="partially_filled", remaining_quantity="0.40", sequence=7))
    orders.adopt([msgspec.convert(order(sequence=6), Order)])
    assert told(orders) == {"7": ("partially_filled", Decimal("0.40"))}
