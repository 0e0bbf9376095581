"""What HTTP and the streams' handshake share: refusals in the engine's envelope."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tradeengine.client.errors import ApiError
from tradeengine.client.models import RefusedAnswer


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
