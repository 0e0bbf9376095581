"""Ids and cursors as they come from outside.

A cursor is the last id of a page, dressed so that nobody builds on what is in it.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from tradeengine.web.errors import STATUS_OF_CODE, ApiError, invalid_field
from tradeengine.web.fields import CLIENT_ORDER_ID_PATTERN

_ID_MAX: Final = 2**63 - 1
_ID_DIGITS_MAX: Final = 19


def parse_id(text: str, code: str) -> int:
    """Read an id of a path. Raises ApiError ``code`` for what cannot be one: it names nothing."""
    assert STATUS_OF_CODE[code] == 404
    if text.isascii() and text.isdecimal() and len(text) <= _ID_DIGITS_MAX and 0 < int(text) <= _ID_MAX:
        return int(text)
    raise ApiError(code, "There is nothing with this id; ids are strings of digits.", {"field": "id"})


def parse_client_order_id(text: str) -> str:
    """Read a client order id of a path. Raises ApiError ORDER_NOT_FOUND for what cannot be one: it names nothing."""
    if re.match(CLIENT_ORDER_ID_PATTERN, text):
        return text
    raise ApiError(
        "ORDER_NOT_FOUND",
        "There is no such order: a client_order_id is 1 to 36 of A-Z a-z 0-9 _ . : -",
        {"field": "client_order_id"},
    )


def encode_cursor(last_id: int) -> str:
    """Make the cursor that goes on after ``last_id``."""
    return base64.urlsafe_b64encode(last_id.to_bytes(8, "big")).decode().rstrip("=")


def decode_cursor(cursor: str) -> int:
    """Read a cursor. Raises ApiError for what ``encode_cursor`` never made."""
    try:
        raw = base64.b64decode(cursor.encode("ascii") + b"=", altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        raw = b""
    if len(raw) != 8 or not 0 < int.from_bytes(raw, "big") <= _ID_MAX:
        raise invalid_field("cursor", "cursor must be the meta.next_cursor of the answer before.")
    return int.from_bytes(raw, "big")
