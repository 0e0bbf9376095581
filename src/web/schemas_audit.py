"""What administrators are told of the audit log; the rules are those of ``schemas``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from tradeengine.web.fields import Id, Time
from tradeengine.web.schemas import LIMIT_DEFAULT, LIMIT_MAX, answer_of

_Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class AuditRow(Struct, frozen=True, kw_only=True):
    """One action, and how it ended."""

    id: Annotated[Id, Meta(description="Without gaps, from 1; nearly, but not always, in the order of time.")]
    time: Annotated[Time, Meta(description="When the action began.")]
    actor: Annotated[str, Meta(description="A user's name; cli:NAME for somebody on the machine's command line.")]
    role: str
    credential: Annotated[str, Meta(description="token, token:KEY of the issuer, key:ID of an API key, or shell.")]
    two_factor: bool
    action: Annotated[str, Meta(examples=["suspend_user"])]
    target: Annotated[str | None, Meta(description="Whom or what it was about.", examples=["alice", "BTC/USDT"])]
    details: Annotated[dict[str, Any] | None, Meta(description="What was asked for; dry_run: nothing was changed.")]
    before: Annotated[Any, Meta(description="What was before, where the action knows.")]
    after: Annotated[Any, Meta(description="What is since, where the action knows.")]
    reason: str | None
    request_id: str
    address: str
    outcome: Annotated[
        Literal["ok", "refused", "failed", "unknown"],
        Meta(description="unknown: its process was killed, or the engine did not answer in time; look at what is."),
    ]
    code: Annotated[str | None, Meta(description="The error's code; of what is unknown OUTCOME_UNKNOWN.")]
    previous_hash: _Hash
    hash: Annotated[_Hash, Meta(description="SHA-256 of all the rest; see docs/audit.md.")]


class AuditQuery(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Which rows."""

    actor: Annotated[str | None, Meta(description="Exactly this one.")] = None
    action: Annotated[str | None, Meta(description="Exactly this one.")] = None
    start: Annotated[Time | None, Meta(description="Inclusive.")] = None
    end: Annotated[Time | None, Meta(description="Exclusive.")] = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT
    cursor: Annotated[str | None, Meta(description="Opaque: meta.next_cursor of the answer before.")] = None


AuditAnswer = answer_of("AuditAnswer", list[AuditRow])
