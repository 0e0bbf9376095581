"""Times that clients write: RFC 3339 with any offset and up to nanoseconds. How they are shown is ``core.times``.

It refuses to know clocks: callers say what time it is.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from tradeengine.web.errors import invalid_field

_RFC_3339: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?([Zz]|[+-]\d{2}:\d{2})", re.ASCII
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_MAX: Final = 2200
"""Nanoseconds since 1970 fit int64 until 2262."""


def parse_ns(field: str, text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time. Raises ApiError naming the field."""
    match = _RFC_3339.fullmatch(text)
    if match is None:
        raise invalid_field(field, f"{field} must be an RFC 3339 time such as 2026-11-24T10:30:45.234Z.")
    day, clock, fraction, offset = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{offset.upper().replace('Z', '+00:00')}")
        seconds = (moment - _EPOCH) // timedelta(seconds=1)
    except (ValueError, OverflowError):
        raise invalid_field(field, f"{field} names a day or hour that does not exist.") from None
    if not 1970 <= moment.year < _YEAR_MAX:
        raise invalid_field(
            field,
            f"{field} must be in the years 1970 to {_YEAR_MAX - 1}.",
            "NUMBER_OUT_OF_RANGE",
            maximum=_YEAR_MAX - 1,
        )
    return seconds * 1_000_000_000 + int((fraction or "").ljust(9, "0"))
