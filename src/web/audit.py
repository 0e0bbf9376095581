"""Who did what: every administrators' call that is not a read is written down, refused ones too.

Rule 1: that a call begins is on the disk before its handler runs, and how it ended before it is answered. So nothing
happens unrecorded, whoever is killed in between, and whether the database is there or not.
Rule 2: a handler adds what it knows by ``audited``: what was before and after, and whom it was about.
Rule 3: secrets never get in. Of a body only the fields that the call has are kept, and what looks like a token or is
one of the engine's secrets is blotted out, wherever it stands.
Not written down are reads, calls of nobody known (401), those beyond the limits on requests (429), and what somebody
tries far too often (``web.tries``).
It refuses to know what calls do.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from msgspec import UNSET
from quart import Response, current_app, g, request
from werkzeug.exceptions import HTTPException

from tradeengine.storage.audit import Entry, storable, storable_text
from tradeengine.web.access import Access, terms_of
from tradeengine.web.auth import Identity
from tradeengine.web.connection import FrontRequest
from tradeengine.web.envelope import request_id
from tradeengine.web.errors import ApiError
from tradeengine.web.jsonbody import read_object
from tradeengine.web.openapi import body_of
from tradeengine.web.redaction import Redaction

if TYPE_CHECKING:
    from tradeengine.web.app import FrontApp
    from tradeengine.web.front import Front

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_UNRECORDED: Final = frozenset({401, 429})


@dataclass(slots=True)
class _Action:
    """What is known of the present call so far."""

    begun: Entry
    known: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def audited(
    *, before: Any = UNSET, after: Any = UNSET, target: str | None = None, reason: str | None = None, **details: Any
) -> None:
    """Add what a handler knows to the record of the present call; may be called again, what is later counts.

    before, after: a struct of ``schemas``, or what JSON has. target: whom or what it was about, where the path does not
    say so. details: more fields beside those of the body. Does nothing in a call that is not recorded.
    """
    action = cast("_Action | None", g.get("audit"))
    if action is None:
        return
    told = {"before": before, "after": after, "target": target or UNSET, "reason": reason or UNSET}
    action.known |= {name: value for name, value in told.items() if value is not UNSET}
    action.details |= details


async def begin() -> None:
    """Write down that the present call begins, if it is to be recorded. Raises ApiError AUDIT_UNAVAILABLE."""
    if not _is_recorded():
        return
    front = _front()
    entry = _entry(front, g.caller)
    await front.audit.begin(entry)
    g.audit = _Action(entry)


async def end(response: Response) -> Response:
    """Write down how the present call ended."""
    if not _is_recorded():
        return response
    front = _front()
    action = cast("_Action | None", g.get("audit"))
    if action is None:
        # It never got to its handler: nothing was done, and one record says all.
        caller = cast("Identity | None", g.get("caller"))
        if caller is None or response.status_code in _UNRECORDED or not front.tries.allows(caller.name):
            return response
        action = _Action(_entry(front, caller))
    await front.audit.end(_ended(action, response, front.audit.redaction))
    return response


def _is_recorded() -> bool:
    if request.method in _READS or request.endpoint is None:
        return False
    terms = terms_of(current_app.view_functions[request.endpoint])
    return terms is not None and terms.access in {Access.ADMIN, Access.SUPER_ADMIN}


def _entry(front: Front, caller: Identity) -> Entry:
    """Say who wants what."""
    assert request.endpoint is not None
    redacted = front.audit.redaction
    details = _details()
    reason = details.pop("reason", None)
    target = "/".join(_part(name, str(part)) for name, part in (request.view_args or {}).items())
    return Entry(
        action_id=uuid.uuid4().hex,
        time_us=time.time_ns() // 1000,
        actor=caller.name,
        role=caller.role,
        credential=storable_text(redacted.text(_credential(caller))),
        two_factor=caller.two_factor,
        action=request.endpoint.rpartition(".")[2],
        target=storable_text(redacted.text(target)) or None,
        details=storable(redacted.value(details)) or None,
        reason=storable_text(redacted.text(reason)) if isinstance(reason, str) else None,
        request_id=redacted.text(request_id()),
        address=storable_text(front.client_address()),
    )


def _ended(action: _Action, response: Response, redacted: Redaction) -> Entry:
    changes: dict[str, Any] = {
        name: storable(redacted.value(_plain(value)))
        for name, value in action.known.items()
        if name in {"before", "after"}
    }
    changes |= {
        name: storable_text(redacted.text(action.known[name])) for name in ("target", "reason") if name in action.known
    }
    if action.details:
        changes["details"] = storable((action.begun.details or {}) | redacted.value(_plain(action.details)))
    code = g.get("error_code") if response.status_code >= 400 else None
    return msgspec.structs.replace(action.begun, outcome=_outcome(response.status_code), code=code, **changes)


def _outcome(status: int) -> str:
    if status < 400:
        return "ok"
    if status < 500:
        return "refused"
    return "unknown" if status == 504 else "failed"


def _details() -> dict[str, Any]:
    """Give the body's fields that the call has, as they came; of a body that is not JSON, nothing."""
    assert request.endpoint is not None
    details: dict[str, Any] = {}
    kind = body_of(current_app.view_functions[request.endpoint])
    if kind is not None:
        try:
            body = read_object(cast(FrontRequest, request).whole_body())
        except (ApiError, HTTPException):
            body = {}  # what is wrong with it the handler will say
        details = {name: body[name] for name in kind.__struct_encode_fields__ if name in body}
    dry_run = request.args.get("dry_run")
    if dry_run is not None:
        details["dry_run"] = dry_run.lower() == "true"
    return details


def _part(name: str, text: str) -> str:
    """Write a part of a path; a symbol as it is called, in whatever form it came."""
    return text.upper().replace("-", "/", 1) if name == "symbol" else text


def _credential(caller: Identity) -> str:
    if caller.key_id is not None:
        return f"key:{caller.key_id}"
    key = caller.token_key
    return f"token:{key.key_id}" if key is not None and key.key_id else "token"


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, str_keys=True)


def _front() -> Front:
    return cast("FrontApp", current_app).front
