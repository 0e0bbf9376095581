"""How a session comes to belong to someone: by a token or by an API key, in the handshake or by a message.

Rule 1: a session belongs to one user for good; whoever else signs in on it is refused.
Rule 2: a wrong token or signature costs its address extra.
It refuses to know what the user then does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tradeengine.web.access import WRONG_TOKEN_WEIGHT
from tradeengine.web.errors import ApiError, invalid_field
from tradeengine.web.signed_requests import STREAM_METHOD, STREAM_TARGET, SignedRequest, make_signed_request
from tradeengine.web.streams.requests import Authenticate, AuthenticateByKey
from tradeengine.web.streams.session import Caller
from tradeengine.web.validation import read_body

if TYPE_CHECKING:
    from tradeengine.web.auth import Identity
    from tradeengine.web.front import Front
    from tradeengine.web.streams.hub import Hub
    from tradeengine.web.streams.session import Session


class SigningIn:
    """Lets users into sessions."""

    def __init__(self, front: Front, hub: Hub) -> None:
        self._front = front
        self._hub = hub

    async def by_token(self, session: Session, token: str) -> None:
        """Take note of who the session belongs to. Raises ApiError."""
        with self._wrong_ones_cost(session):
            identity, expires_s = self._front.authenticator.identify_token(token)
        await self._belong(session, identity, expires_s, "access_token")

    async def by_key(self, session: Session, signed: SignedRequest) -> None:
        """Take note of who signed for the session. Raises ApiError."""
        with self._wrong_ones_cost(session):
            identity = await self._front.api_keys.identify(signed, session.address)
        await self._belong(session, identity, math.inf, "api_key")

    async def by_message(self, session: Session, raw: dict[str, Any]) -> None:
        """Take note of whom a message names, by either way. Raises ApiError."""
        if "api_key" not in raw:
            await self.by_token(session, read_body(raw, Authenticate).access_token)
            return
        wanted = read_body(raw, AuthenticateByKey)
        with self._wrong_ones_cost(session):
            signed = make_signed_request(
                wanted.api_key,
                str(wanted.timestamp),
                str(wanted.window),
                wanted.signature,
                signed_content=(STREAM_METHOD, STREAM_TARGET, b""),
                window_ms_max=self._front.settings.keys.window_ms_max,
            )
        await self.by_key(session, signed)

    @contextmanager
    def _wrong_ones_cost(self, session: Session) -> Iterator[None]:
        try:
            yield
        except ApiError as error:
            if error.code == "UNAUTHORIZED":
                self._front.request_limits.charge_address(session.address, WRONG_TOKEN_WEIGHT, cancels=False)
            raise

    async def _belong(self, session: Session, identity: Identity, expires_s: float, field: str) -> None:
        """Have the session belong to someone; field: what they said it by."""
        known = session.caller
        if known is not None and known.identity.name != identity.name:
            raise invalid_field(field, "This connection belongs to another user; open a new one.")
        account_id = await self._front.account_id(identity.name)
        if known is None:
            self._hub.admit_user(identity.name)
        caller = Caller(identity, account_id, expires_s)
        check_standing(self._hub, caller)
        session.caller = caller


def check_standing(hub: Hub, caller: Caller) -> None:
    """See that whom a connection belongs to may have it. Raises ApiError."""
    objection = hub.object_to(caller)
    if objection is not None:
        raise ApiError(objection.error_code, f"This connection cannot go on: {objection.reason}.")
