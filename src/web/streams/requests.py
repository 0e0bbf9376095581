"""Requests on a connection: their fields, and how a frame becomes one.

A request is one object with ``op``, an ``id`` of the client's choice, and the fields of the op; those of orders are the
same as over HTTP. It refuses to know what requests do.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tradeengine.web.errors import ApiError, invalid_field
from tradeengine.web.jsonbody import printable, read_object
from tradeengine.web.paging import parse_id
from tradeengine.web.signed_requests import WINDOW_MS_DEFAULT

ID_CHARACTERS_MAX: Final = 64
RequestId = str | int | None


class Subscribe(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Begin to listen to channels."""

    channels: list[str]
    since: str | None = None
    batch: bool | None = None


class Unsubscribe(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Listen no more to channels."""

    channels: list[str]


class Authenticate(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Say who one is."""

    access_token: str


class AuthenticateByKey(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Say who one is by an API key. Signed is the same text as over HTTP, with ``AUTH`` and ``/ws/stream``."""

    api_key: str
    timestamp: int
    signature: str
    window: int = WINDOW_MS_DEFAULT


class Nothing(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """No field."""


class OrderNamed(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """An order to cancel."""

    order_id: str


def read_request(content: str | bytes, *, binary: bool) -> dict[str, Any]:
    """Read a request: one object, as JSON text, or as msgpack where that was agreed. Raises ApiError."""
    if isinstance(content, str):
        if binary:
            raise ApiError("INVALID_REQUEST", "This connection speaks msgpack in binary frames.", {"field": "body"})
        return read_object(content.encode("utf-8", "surrogatepass"))
    if not binary:
        raise ApiError("INVALID_REQUEST", "This connection speaks JSON in text frames.", {"field": "body"})
    try:
        value = msgspec.msgpack.decode(content)
    except (msgspec.DecodeError, RecursionError, ValueError, MemoryError, TypeError) as error:
        raise ApiError("INVALID_REQUEST", f"The frame is not msgpack: {error}.", {"field": "body"}) from None
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ApiError("INVALID_REQUEST", "The frame must hold a map with names as keys.", {"field": "body"})
    return value


def take_id(raw: dict[str, Any]) -> RequestId:
    """Take the id that the answer repeats. Raises ApiError."""
    request_id = raw.pop("id", None)
    if request_id is None or (isinstance(request_id, int) and not isinstance(request_id, bool)):
        if request_id is None or -(2**63) <= request_id < 2**63:
            return request_id
    elif isinstance(request_id, str) and len(request_id) <= ID_CHARACTERS_MAX:
        return printable(request_id)
    raise invalid_field(
        "id", f"id must be a string of at most {ID_CHARACTERS_MAX} characters, or a whole number of 64 bits."
    )


def take_order_id(raw: dict[str, Any]) -> int:
    """Take the order that is meant. Raises ApiError."""
    order_id = raw.pop("order_id", None)
    if not isinstance(order_id, str):
        raise invalid_field("order_id", "order_id is missing, or is not a string.")
    return parse_id(order_id, "ORDER_NOT_FOUND")
