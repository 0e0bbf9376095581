"""What goes into requests: the fields of an order, numbers and times as the API writes them, client order ids.

Rule 1: a float is refused here already. ``0.1 + 0.2`` is not a price, and the engine would only say so later.
It refuses to know which fields go together: the engine knows that, and says it by field.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, Required, TypeAlias, TypedDict
from urllib.parse import quote

Number: TypeAlias = Decimal | int | str
"""A decimal number: ``Decimal("0.25")``, ``3`` or ``"0.25"``."""
Time: TypeAlias = datetime | str
"""An aware ``datetime``, or RFC 3339 text."""


class NewOrder(TypedDict, total=False):
    """An order to place. Without ``client_order_id`` the client makes one, so that repeating it is safe."""

    symbol: Required[str]
    side: Required[Literal["buy", "sell"]]
    type: Required[Literal["limit", "market", "stop", "stop_limit"]]
    quantity: Number
    quote_quantity: Number
    price: Number
    stop_price: Number
    time_in_force: Literal["gtc", "ioc", "fok", "gtd"]
    expires_at: Time
    post_only: bool
    client_order_id: str
    self_trade_prevention: Literal["cancel_taker", "cancel_maker", "cancel_both"]


class OrderChange(TypedDict, total=False):
    """What to change of an open order; ``quantity`` is the new total, what is filled included."""

    quantity: Number
    price: Number
    stop_price: Number


_TEXT_MAX: Final = 64
"""Characters of a number that the engine reads."""


def order_fields(order: NewOrder) -> dict[str, Any]:
    """Write an order as the API wants it, with a client order id.

    Raises TypeError for floats and naive times, ValueError for what is no number.
    """
    return {"client_order_id": make_client_order_id(), **written(order)}


def written(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Write fields as the API wants them; those that are None are left out."""
    return {name: _text(name, value) for name, value in fields.items() if value is not None}


def make_client_order_id() -> str:
    """Make an id that no other order has: 34 characters."""
    return f"c-{secrets.token_hex(16)}"


def in_path(name: str) -> str:
    """Write a symbol or an id as one segment of a path."""
    return quote(name.replace("/", "-"), safe="")


def tried_dry(dry_run: bool) -> dict[str, str] | None:
    """Write into a call's query that nothing shall be done."""
    return {"dry_run": "true"} if dry_run else None


def _text(name: str, value: Any) -> Any:
    if isinstance(value, float):
        raise TypeError(f'{name} is a float, which loses digits; pass a Decimal, an int, or text such as "0.25"')
    if isinstance(value, Decimal):
        return _decimal_text(name, value)
    if isinstance(value, datetime):
        return _time_text(name, value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


def _decimal_text(name: str, value: Decimal) -> str:
    # A huge exponent is refused before it becomes a huge text.
    if not value.is_finite() or abs(value.adjusted()) > _TEXT_MAX:
        raise ValueError(f"{name} is {value}, which is no number that the engine could take")
    return format(value, "f")


def _time_text(name: str, value: datetime) -> str:
    if value.tzinfo is None:
        raise TypeError(f"{name} is a time without a zone; pass an aware datetime, such as datetime.now(UTC)")
    return value.isoformat()
