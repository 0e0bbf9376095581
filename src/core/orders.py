"""States of an order as the API names them. It refuses to know events and rows."""

from __future__ import annotations

from tradeengine.core.records import OrderType


def status_of(*, order_type: int, triggered: bool, filled_lots: int) -> str:
    """Name the status of an order that lives."""
    if order_type in {OrderType.STOP, OrderType.STOP_LIMIT} and not triggered:
        return "pending"
    return "partially_filled" if filled_lots else "open"
