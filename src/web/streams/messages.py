"""What a connection is told about itself: answers to its requests, balances, and what resuming brings.

What happens in the market and to orders is in ``core.messages``, made by the publisher.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, json

from tradeengine.web.schemas import Balance, Order, Trade


class Ack(Struct, frozen=True, kw_only=True, tag_field="type", tag="ack"):
    """A request was carried out."""

    id: str | int | None
    data: Any


class Failure(Struct, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """A request was not carried out; ``id`` is null when none could be read."""

    id: str | int | None
    code: str
    message: str
    details: dict[str, Any]


class Balances(Struct, frozen=True, kw_only=True, tag_field="type", tag="balances"):
    """Balances: all of them in a snapshot, else those that changed."""

    snapshot: bool
    balances: list[Balance]
    timestamp: str


class OrderSnapshot(Struct, frozen=True, kw_only=True, tag_field="type", tag="order_snapshot"):
    """An order that changed while its owner was away, as it is now, and its fills since."""

    order: Order
    trades: list[Trade]
    cursor: str


class Resumed(Struct, frozen=True, kw_only=True, tag_field="type", tag="resumed"):
    """Everything since the cursor was told; updates follow."""

    orders: int
    cursor: str


class Resync(Struct, frozen=True, kw_only=True, tag_field="type", tag="resync"):
    """Forget what you knew: these are all open orders and all balances.

    With very many open orders it has the first of them; the others follow as ``order_snapshot``, and then ``resumed``.
    """

    reason: str
    orders: list[Order]
    balances: list[Balance]
    cursor: str
    timestamp: str


class TradesGap(Struct, frozen=True, kw_only=True, tag_field="type", tag="trades_gap"):
    """Trades of the symbol before ``sequence`` may be missing; history has them."""

    symbol: str
    sequence: int
    timestamp: str


class ServerShutdown(Struct, frozen=True, kw_only=True, tag_field="type", tag="server_shutdown"):
    """The server stops; connect again after a moment."""

    in_seconds: float


encode = json.Encoder().encode
