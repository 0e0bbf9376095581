"""Whether whom a connection belongs to may still have it.

It is asked again and again, because what let a client in can end: a token's time, the key that it was signed with, the
account's standing.
It refuses to know connections.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from tradeengine.web.errors import ApiError
from tradeengine.web.streams.session import SUSPENDED, TOKEN_EXPIRED

if TYPE_CHECKING:
    from tradeengine.web.front import Front
    from tradeengine.web.streams.session import Caller


LOOK_INTERVAL_S: Final = 0.05
LOOK_AGAIN_S: Final = 1.0


class Objection(NamedTuple):
    """Why a connection ends, as the close frame says it, and the code of the error that a request meanwhile gets."""

    close_code: int
    reason: str
    error_code: str = "UNAUTHORIZED"


async def follow(front: Front) -> None:
    """End sessions as soon as a change of some account's settings gives reason to, for as long as the front runs."""
    seen, looked_s = 0, -math.inf
    while True:
        await trio.sleep(LOOK_INTERVAL_S)
        # Who has not been among the sessions yet when a change came is looked at a moment later.
        with suppress(ApiError):
            latest = front.in_force.latest()
            if latest != seen or trio.current_time() - looked_s > LOOK_AGAIN_S:
                await _look(front)
                seen, looked_s = latest, trio.current_time()


async def _look(front: Front) -> None:
    """Look at everyone who is connected, and end whom there is something against. Raises ApiError."""
    for session in tuple(front.hub.sessions):
        if session.caller is not None:
            await front.api_keys.renew(session.caller.identity)
            reason = objection(front, session.caller)
            if reason is not None:
                session.end(reason.close_code, reason.reason)


def objection(front: Front, caller: Caller) -> Objection | None:
    """Say why a caller may not go on; None: they may."""
    if caller.expires_s <= time.time():
        return Objection(TOKEN_EXPIRED, "the token has expired")
    if not front.authenticator.knows(caller.identity):
        return Objection(TOKEN_EXPIRED, "the token's key counts no more")
    if not front.api_keys.knows(caller.identity):
        return Objection(TOKEN_EXPIRED, "the API key was revoked")
    # Who cannot be asked about just now, because risk is being replaced, is asked about again in a moment.
    with suppress(ApiError):
        if front.in_force.is_suspended(caller.account_id):
            return Objection(SUSPENDED, "the account is suspended", "ACCOUNT_SUSPENDED")
    return None
