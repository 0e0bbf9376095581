"""Whether whom a connection belongs to may still have it.

It is asked again and again, because what let a client in can end: a token's time, the key that it was signed with, the
account's standing.
It refuses to know connections.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from tradeengine.web.errors import ApiError
from tradeengine.web.streams.session import SUSPENDED, TOKEN_EXPIRED

if TYPE_CHECKING:
    from tradeengine.web.front import Front
    from tradeengine.web.streams.session import Caller


class Objection(NamedTuple):
    """Why a connection ends, as the close frame says it, and the code of the error that a request meanwhile gets."""

    close_code: int
    reason: str
    error_code: str = "UNAUTHORIZED"


def objection(front: Front, caller: Caller) -> Objection | None:
    """Say why a caller may not go on; None: they may."""
    if caller.expires_s <= time.time():
        return Objection(TOKEN_EXPIRED, "the token has expired")
    if not front.authenticator.knows(caller.identity):
        return Objection(TOKEN_EXPIRED, "the token's key counts no more")
    # Who cannot be asked about just now, because risk is being replaced, is asked about again in a moment.
    with suppress(ApiError):
        if front.in_force.is_suspended(caller.account_id):
            return Objection(SUSPENDED, "the account is suspended", "ACCOUNT_SUSPENDED")
    return None
