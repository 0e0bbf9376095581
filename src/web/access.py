"""Who may call what: every route says so, and nobody gets to a handler who may not.

Rule 1: a route that does not say what it needs is not served: the application refuses to start.
Rule 2: it is decided before the handler runs; a handler asks only who it is that called.
Rule 3: a request is paid for first, by its address before anyone looks at a token, then by its user.
It refuses to know tokens and keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import structlog
import trio
from quart import current_app, g, request

from tradeengine.core.records import Reason
from tradeengine.web.admission import waiting
from tradeengine.web.errors import ApiError, reason_error
from tradeengine.web.signed_requests import KEY_HEADER

if TYPE_CHECKING:
    from quart import Quart

    from tradeengine.web.app import FrontApp
    from tradeengine.web.auth import Identity
    from tradeengine.web.front import Front

Handler = TypeVar("Handler", bound=Callable[..., Any])

WRONG_TOKEN_WEIGHT: Final = 10
"""What a wrong token costs its address on top, so that guessing ends soon."""
_ATTRIBUTE: Final = "tradeengine_access"
_LOOKUP_S: Final = 0.5

_log = structlog.get_logger()


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


@dataclass(frozen=True, slots=True)
class Terms:
    """What a route needs, what it weighs, and whether it is paid for out of the buckets for cancels."""

    access: Access
    weight: int = 1
    cancels: bool = False
    urgent: bool = False
    """It must work while the database is away, too, and takes risk away: who cannot be looked up is let pass."""


_UNKNOWN: Final = Terms(Access.PUBLIC)
"""Of what is no route."""


def allow(
    access: Access, *, weight: int = 1, cancels: bool = False, urgent: bool = False
) -> Callable[[Handler], Handler]:
    """Say what a handler needs. weight: 0 for what must be answered however much is asked."""

    def mark(handler: Handler) -> Handler:
        setattr(handler, _ATTRIBUTE, Terms(access, weight, cancels, urgent))
        return handler

    return mark


def terms_of(handler: Callable[..., Any]) -> Terms | None:
    """Say what a handler needs; None: it does not say."""
    return getattr(handler, _ATTRIBUTE, None)


def check_routes(app: Quart) -> None:
    """Refuse an application with a route that does not say what it needs. Raises AssertionError."""
    for endpoint, handler in app.view_functions.items():
        assert terms_of(handler) is not None, f"{endpoint} does not say who may call it"


async def check_access() -> None:
    """Let the present request pass, or not. Raises ApiError RATE_LIMITED, UNAUTHORIZED, FORBIDDEN and others."""
    front = cast("FrontApp", current_app).front
    limits = front.request_limits
    terms = terms_of(current_app.view_functions[request.endpoint]) if request.endpoint is not None else _UNKNOWN
    assert terms is not None
    g.caller = None
    if terms.weight:
        limits.charge_address(front.client_address(), terms.weight, cancels=terms.cancels)
    needed = terms.access
    if needed is Access.SCRAPE or request.method == "OPTIONS":
        return
    if needed is Access.PUBLIC and "Authorization" not in request.headers and KEY_HEADER not in request.headers:
        return
    try:
        g.caller = caller = await front.identify()
    except ApiError as error:
        if error.code == "UNAUTHORIZED":
            limits.charge_address(front.client_address(), WRONG_TOKEN_WEIGHT, cancels=False)
        raise
    refuse_unless(needed, caller)
    if terms.weight:
        limits.charge_user(caller.name, terms.weight, cancels=terms.cancels)
    if not (terms.cancels or needed is Access.PUBLIC):
        await refuse_suspended(caller, urgent=terms.urgent)


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
            if caller.role not in {"admin", "super_admin"} or caller.key_id is not None:
                raise _forbidden(needed, "This call is for administrators.")
        case Access.SUPER_ADMIN:
            if caller.role != "super_admin" or caller.key_id is not None:
                raise _forbidden(needed, "This call is for super administrators.")


async def refuse_suspended(caller: Identity, *, urgent: bool = False) -> None:
    """Let suspended users do nothing but cancel, whatever their credentials say. Raises ApiError ACCOUNT_SUSPENDED.

    urgent: who cannot be looked up, because the database does not answer at once, passes.
    """
    front = cast("FrontApp", current_app).front
    # Who had no account when nobody's settings were other than now is not suspended.
    latest = front.in_force.latest()
    if urgent:
        account_id = await _find_soon(front, caller.name, latest)
    else:
        account_id = await front.accounts.find(caller.name, latest)
    if account_id is not None and front.in_force.is_suspended(account_id):
        raise reason_error(Reason.ACCOUNT_SUSPENDED)


async def _find_soon(front: Front, name: str, latest: int) -> int | None:
    """Account id of a name, or None when the database does not say so at once. A query cannot be broken off."""
    found: list[int | None] = []
    asked = trio.Event()

    async def ask() -> None:
        try:
            found.append(await front.accounts.find(name, latest))
        except Exception:
            _log.warning("an urgent call's account cannot be looked up", user=name)
        finally:
            asked.set()

    trio.lowlevel.spawn_system_task(ask)
    with trio.move_on_after(_LOOKUP_S), waiting():
        await asked.wait()
    return found[0] if found else None


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
        identity = cast("FrontApp", current_app).front.authenticator.identify(())
    refuse_unless(needed, identity)
    return identity


def caller_if_named() -> Identity | None:
    """Name who called, where nobody needs to say."""
    return cast("Identity | None", g.caller)


def _forbidden(needed: Access, message: str) -> ApiError:
    return ApiError("FORBIDDEN", message, {"needed": needed.value})
