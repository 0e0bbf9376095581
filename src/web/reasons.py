"""Why an administrator does something: asked for wherever it matters, and shown to whoever looks later."""

from __future__ import annotations

from tradeengine.web.errors import invalid_field
from tradeengine.web.schemas_admin import REASON_CHARACTERS_MAX


def checked_reason(reason: str) -> str:
    """Give a reason that people can read. Raises ApiError INVALID_REQUEST."""
    if not 1 <= len(reason) <= REASON_CHARACTERS_MAX or not reason.isprintable():
        maximum = REASON_CHARACTERS_MAX
        raise invalid_field("reason", f"reason must be 1 to {maximum} printable characters.", maximum=maximum)
    return reason
