"""Live orders against their own trades, and how differences of orders are told.

A live order's row must be the sum of its trades; what is filled and what remains must be its quantity; and its status
must be what follows from these.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tradeengine.core.differences import Difference, Differences, Int64s, Unit
from tradeengine.core.records import OrderType, Side
from tradeengine.storage.settle_fold import OPEN, PARTIALLY_FILLED, PENDING

FILLED: Final = ("filled_lots", "filled_notional_units", "fee_units")
"""Fields of an order that are sums over its trades."""

_STOPS: Final = (int(OrderType.STOP), int(OrderType.STOP_LIMIT))
_UNITS: Final = {
    "price_ticks": Unit.PRICE,
    "stop_price_ticks": Unit.PRICE,
    "quantity_lots": Unit.QUANTITY,
    "filled_lots": Unit.QUANTITY,
    "remaining_lots": Unit.QUANTITY,
    "filled_notional_units": Unit.QUOTE,
    "fee_units": Unit.QUOTE,
}


def add_fills(filled: dict[str, Int64s], live_ids: Int64s, trades: NDArray[np.void]) -> None:
    """Add up what trades filled of live orders, whose ids ascend. filled: an array for each name in ``FILLED``.

    trades: with the fields of an event.
    """
    if not len(live_ids):
        return
    for order_field, fee_field in (("order_id", "fee_units"), ("maker_order_id", "maker_fee_units")):
        place = np.minimum(np.searchsorted(live_ids, trades[order_field]), len(live_ids) - 1)
        is_live = live_ids[place] == trades[order_field]
        for name, source in zip(FILLED, ("quantity_lots", "notional_units", fee_field), strict=True):
            np.add.at(filled[name], place[is_live], trades[source][is_live])


def compare_live(
    orders: NDArray[np.void], filled: dict[str, Int64s], trades_since: int, differences: Differences
) -> None:
    """Compare live orders with what their trades filled. trades_since: older trades may be gone, with their orders."""
    asked = orders["order_id"] >= trades_since
    for name, expected in filled.items():
        message = "The order's row is not the sum of its trades."
        _note(differences, "order_fills", message, orders, asked & (orders[name] != expected), name, expected)
    rest = orders["quantity_lots"] - orders["filled_lots"]
    message = "What is filled and what remains of the order are not its quantity."
    # By quote an order has no quantity before it is filled.
    wrong = (orders["by_quote"] == 0) & (orders["remaining_lots"] != rest)
    _note(differences, "order_fills", message, orders, wrong, "remaining_lots", rest)
    waits = np.isin(orders["order_type"], _STOPS) & (orders["triggered"] == 0)
    status = np.select([waits, orders["filled_lots"] > 0], [PENDING, PARTIALLY_FILLED], OPEN)
    message = "The order is live, but its status is not what follows from its fills."
    _note(differences, "order_status", message, orders, orders["status"] != status, "status", status)


def order_difference(
    kind: str, message: str, order: np.void, name: str | None = None, expected: Any = None, found: Any = None
) -> Difference:
    """Make the difference of an order (any record with order, account and symbol ids, and side) in one field."""
    unit = _UNITS.get(name or "", Unit.NUMBER)
    if name == "hold_units":
        unit = Unit.BASE if order["side"] == Side.SELL else Unit.QUOTE
    return Difference(
        kind=kind,
        message=message,
        expected=None if expected is None else int(expected),
        found=None if found is None else int(found),
        unit=unit,
        field=name,
        order_id=int(order["order_id"]),
        account_id=int(order["account_id"]),
        symbol_id=int(order["symbol_id"]),
    )


def _note(
    differences: Differences,
    kind: str,
    message: str,
    orders: NDArray[np.void],
    is_wrong: NDArray[np.bool_],
    name: str,
    expected: Int64s,
) -> None:
    wrong = np.flatnonzero(is_wrong)
    differences.add_each(
        len(wrong),
        lambda index: order_difference(
            kind, message, orders[wrong[index]], name, expected[wrong[index]], orders[name][wrong[index]]
        ),
    )
