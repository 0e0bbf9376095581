"""Times as text: RFC 3339, UTC, with milliseconds. It refuses to know clocks: callers say what time it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS: Final = 86_400_000


def format_ms(timestamp_ms: int) -> str:
    """``2026-11-24T10:30:45.234Z`` of milliseconds since 1970."""
    day, rest = divmod(int(timestamp_ms), _DAY_MS)
    seconds, milliseconds = divmod(rest, 1000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{_day_name(day)}T{hour:02d}:{minute:02d}:{second:02d}.{milliseconds:03d}Z"


@lru_cache(maxsize=1024)
def _day_name(day: int) -> str:
    """``2026-11-24`` of a number of days since 1970."""
    return f"{_EPOCH + timedelta(days=day):%Y-%m-%d}"
