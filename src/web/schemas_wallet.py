"""What administrators ask about dead letters of a wallet service outside; the rules are those of ``schemas``."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from tradeengine.web.fields import Id, Time
from tradeengine.web.schemas import LIMIT_DEFAULT, LIMIT_MAX, answer_of
from tradeengine.web.schemas_admin import ReasonText


class LetterLeg(Struct, frozen=True, kw_only=True):
    """One side of what was asked of the wallet."""

    user: Annotated[str, Meta(description="*exchange* receives fees; *outside* is the other side of money in and out.")]
    asset: str
    amount: Annotated[str, Meta(description="A decimal: what the user gets, or below 0 what the user gives.")]


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A transfer, deposit or withdrawal that the wallet will not do."""

    id: Annotated[Id, Meta(description="Of a transfer: the trade's.")]
    kind: Literal["transfer", "deposit", "withdrawal"]
    reference: Annotated[str | None, Meta(description="Of a deposit or withdrawal.")]
    error: Annotated[str, Meta(description="What the wallet said last, for people.")]
    tries: int
    progress: Annotated[str | None, Meta(description="Kept by the wallet's client of a transfer leg by leg.")]
    created_at: Time
    legs: list[LetterLeg]


class Discard(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Why a dead letter is given up."""

    reason: ReasonText


class DeadLettersQuery(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A page of dead letters."""

    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT
    cursor: Annotated[str | None, Meta(description="Opaque: meta.next_cursor of the answer before.")] = None


DeadLetterAnswer = answer_of("DeadLetterAnswer", DeadLetter)
DeadLettersAnswer = answer_of("DeadLettersAnswer", list[DeadLetter])
