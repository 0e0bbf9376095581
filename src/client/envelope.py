"""What HTTP and the streams' handshake share: the token in a header, and refusals in the engine's envelope."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import msgspec

from tradeengine.client.errors import ApiError
from tradeengine.client.models import RefusedAnswer

Token: TypeAlias = str | Callable[[], str]
"""An access token, or a function that gives one that is valid now."""


def authorization(token: Token | None) -> dict[str, str]:
    """Make the header that says who asks."""
    if token is None:
        return {}
    return {"Authorization": f"Bearer {token if isinstance(token, str) else token()}"}


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """Read a refusal; what is not the engine's, as a proxy's page, gets the code ``HTTP_…``."""
    # A date, which no part of the engine sends, counts as nothing.
    retry_after = headers.get("Retry-After", "")
    retry_after_s = float(retry_after) if retry_after.isdecimal() else None
    try:
        refused = msgspec.json.decode(body, type=RefusedAnswer)
    except ValueError:
        said = body[:200].decode("utf-8", "replace")
        message = f"this is no answer of the engine; it begins with {said!r}"
        return ApiError(f"HTTP_{status}", message, status=status, retry_after_s=retry_after_s)
    return ApiError(
        refused.error.code,
        refused.error.message,
        refused.error.details,
        status,
        request_id=refused.meta.request_id if refused.meta else None,
        retry_after_s=retry_after_s,
    )
