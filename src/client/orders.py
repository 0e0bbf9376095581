"""Own open orders, kept in step with the channel ``orders``.

Rule 1: it knows no socket, as ``LocalBook``: messages in, orders out.
Rule 2: it begins empty, so subscribe first and then list the open orders with ``Client.orders``, or begin with
``adopt`` of such a list.
It refuses to know closed orders.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from msgspec import Struct

from tradeengine.client.messages import Message, OrderSnapshot, OrderUpdate, Resync
from tradeengine.client.models import Order

OPEN = frozenset({"pending", "open", "partially_filled"})


class OpenOrder(Struct, frozen=True, kw_only=True):
    """What is known of an open order, as of ``sequence``."""

    id: str
    client_order_id: str | None
    symbol: str
    side: str | None
    type: str | None
    status: str
    price: Decimal | None
    stop_price: Decimal | None
    quantity: Decimal | None
    filled_quantity: Decimal
    remaining_quantity: Decimal
    sequence: int


class LocalOrders:
    """Own open orders, by id."""

    def __init__(self) -> None:
        self.open: dict[str, OpenOrder] = {}

    def adopt(self, orders: Iterable[Order]) -> None:
        """Take in orders as the HTTP calls show them."""
        for order in orders:
            self._note(_from_order(order))

    def apply(self, message: Message) -> None:
        """Take a message in; those that are not about own orders change nothing."""
        if isinstance(message, Resync):
            self.open.clear()
            self.adopt(message.orders)
        elif isinstance(message, OrderSnapshot):
            self._note(_from_order(message.order))
        elif isinstance(message, OrderUpdate):
            self._note(_from_update(message))

    def _note(self, order: OpenOrder) -> None:
        known = self.open.get(order.id)
        # A list that was asked for may be older than what the stream has said meanwhile.
        if known is not None and known.sequence > order.sequence:
            return
        if order.status in OPEN:
            self.open[order.id] = order
        else:
            self.open.pop(order.id, None)


def _from_order(order: Order) -> OpenOrder:
    return OpenOrder(**{name: getattr(order, name) for name in OpenOrder.__struct_fields__})


def _from_update(update: OrderUpdate) -> OpenOrder:
    return OpenOrder(
        id=update.order_id,
        client_order_id=update.client_order_id,
        symbol=update.symbol,
        side=update.side,
        type=update.order_type,
        status=update.status,
        price=update.price,
        stop_price=update.stop_price,
        quantity=update.quantity,
        filled_quantity=update.filled_quantity,
        remaining_quantity=update.remaining_quantity,
        sequence=update.sequence,
    )
