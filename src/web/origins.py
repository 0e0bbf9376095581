"""Pages of other origins: which of them may read an answer, as its headers say to their browser.

It refuses to know requests and responses.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

EXPOSED_HEADERS: Final = ("X-Request-ID", "Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")


def origin_headers(origin: str | None, allowed: Collection[str]) -> dict[str, str]:
    """Give the headers of an answer to a page of ``origin``.

    allowed: origins that may read, or ``*``; without any there are no headers.
    """
    if not allowed:
        return {}
    if origin is None or (origin not in allowed and "*" not in allowed):
        return {"Vary": "Origin"}
    return {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": ", ".join(EXPOSED_HEADERS),
    }
