"""Who may call what: every route says so, and nobody gets to a handler who may not.

Rule 1: a route that does not say what it needs is not served: the application refuses to start.
Rule 2: it is decided before the handler runs; a handler asks only who it is that called.
It refuses to know tokens and keys.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from quart import current_app, g, request

from tradeengine.web.errors import ApiError

if TYPE_CHECKING:
    from quart import Quart

    from tradeengine.web.app import FrontApp
    from tradeengine.web.auth import Identity

Handler = TypeVar("Handler", bound=Callable[..., Any])

_ATTRIBUTE: Final = "tradeengine_access"


class Access(Enum):
    """What a route needs."""

    PUBLIC = "public"
    """Nothing; credentials that come along must be right all the same."""
    READ = "read"
    """A user, or a key of theirs with the permission ``read``."""
    TRADE = "trade"
    """A user, or a key of theirs with the permission ``trade``."""
    USER = "user"
    """A user's own token: no key may do this."""
    ADMIN = "admin"
    SUPER_ADMIN = "super_admin"
    SCRAPE = "scrape"
    """The token for metrics, where one is configured; the handler looks at it."""


def allow(access: Access) -> Callable[[Handler], Handler]:
    """Say what a handler needs."""

    def mark(handler: Handler) -> Handler:
        setattr(handler, _ATTRIBUTE, access)
        return handler

    return mark


def access_of(handler: Callable[..., Any]) -> Access | None:
    """Say what a handler needs; None: it does not say."""
    return getattr(handler, _ATTRIBUTE, None)


def check_routes(app: Quart) -> None:
    """Refuse an application with a route that does not say what it needs. Raises AssertionError."""
    for endpoint, handler in app.view_functions.items():
        assert access_of(handler) is not None, f"{endpoint} does not say who may call it"


async def check_access() -> None:
    """Let the present request pass, or not. Raises ApiError UNAUTHORIZED, FORBIDDEN."""
    if request.endpoint is None or request.method == "OPTIONS":
        return
    needed = access_of(current_app.view_functions[request.endpoint])
    assert needed is not None
    g.caller = None
    if needed is Access.SCRAPE:
        return
    if needed is Access.PUBLIC and "Authorization" not in request.headers:
        return
    front = cast("FrontApp", current_app).front
    g.caller = caller = front.identify()
    refuse_unless(needed, caller)


def refuse_unless(needed: Access, caller: Identity) -> None:
    """Raise ApiError FORBIDDEN when a caller lacks what is needed."""
    match needed:
        case Access.PUBLIC | Access.SCRAPE:
            return
        case Access.READ | Access.TRADE:
            if needed.value not in caller.permissions:
                raise _forbidden(needed, f"This key lacks the permission {needed.value}.")
        case Access.USER:
            if caller.key_id is not None:
                raise _forbidden(needed, "This call needs a token of your own; keys may not make it.")
        case Access.ADMIN:
            if caller.role not in {"admin", "super_admin"}:
                raise _forbidden(needed, "This call is for administrators.")
        case Access.SUPER_ADMIN:
            if caller.role != "super_admin":
                raise _forbidden(needed, "This call is for super administrators.")


def caller() -> Identity:
    """Name who called; for handlers of routes that need somebody."""
    identity = g.caller
    assert identity is not None
    return cast("Identity", identity)


def require(needed: Access) -> Identity:
    """Name who called, where only some uses of a public route need somebody.

    Raises ApiError UNAUTHORIZED, FORBIDDEN.
    """
    identity = caller_if_named()
    if identity is None:
        identity = cast("FrontApp", current_app).front.identify()
    refuse_unless(needed, identity)
    return identity


def caller_if_named() -> Identity | None:
    """Name who called, where nobody needs to say."""
    return cast("Identity | None", g.caller)


def _forbidden(needed: Access, message: str) -> ApiError:
    return ApiError("FORBIDDEN", message, {"needed": needed.value})
