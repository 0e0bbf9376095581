"""What administrators ask about users, limits and money, and are answered; the rules are those of ``schemas``."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from tradeengine.storage.funding import REFERENCE_LENGTH_MAX
from tradeengine.web.auth import SUBJECT_PATTERN
from tradeengine.web.fields import AmountText, FractionText, Id, QuantityText, SymbolName, Time
from tradeengine.web.schemas import LIMIT_DEFAULT, LIMIT_MAX, answer_of

REASON_CHARACTERS_MAX: Final = 200
REFERENCE_PATTERN: Final = rf"^[A-Za-z0-9][A-Za-z0-9_.:@-]{{0,{REFERENCE_LENGTH_MAX - 1}}}\Z"
OPEN_ORDERS_MAX: Final = 1_000_000_000
_NAME: Final = "1 to 64 of A-Z a-z 0-9 _ . : @ -"
_REFERENCE: Final = f"1 to {REFERENCE_LENGTH_MAX} of A-Z a-z 0-9 _ . : @ - beginning with a letter or digit"

UserName: TypeAlias = Annotated[
    str,
    Meta(
        description=f"A user's name, the sub of their tokens: {_NAME}",
        pattern="^" + SUBJECT_PATTERN.pattern,
        extra={"allowed": _NAME},
        examples=["alice"],
    ),
]
Reference: TypeAlias = Annotated[
    str,
    Meta(
        description=f"The caller's own name for a deposit or withdrawal: {_REFERENCE}",
        pattern=REFERENCE_PATTERN,
        extra={"allowed": _REFERENCE},
        examples=["wire-2026-11-24.17"],
    ),
]
AssetName: TypeAlias = Annotated[
    str,
    Meta(
        description="An asset's name.",
        pattern=r"^[A-Za-z0-9]{1,16}\Z",
        examples=["USDT"],
        extra={"allowed": "1 to 16 of A-Z 0-9"},
    ),
]
ReasonText: TypeAlias = Annotated[
    str,
    Meta(
        description="Why, for people: printable characters.",
        examples=["asked for by the user"],
        extra_json_schema={"minLength": 1, "maxLength": REASON_CHARACTERS_MAX},
    ),
]
_OPEN_ORDERS: Final = Meta(ge=0, le=OPEN_ORDERS_MAX)
_SIZE: Final = "The most that one order may be worth, in its quote asset; null: no limit."
_VOLUME: Final = (
    "The most that may be traded in a UTC day, by quote asset: own fills, what open orders could still trade, and the "
    "new order; null: no limit."
)
_TWO_FACTOR: Final = (
    "An order worth more than this, in its quote asset, needs a token from a sign-in with a second factor; null: none "
    "does."
)
_COUNT: Final = "Open orders at a time; null: as many as limits.open_orders_max."


class UserLimits(Struct, frozen=True, kw_only=True):
    """What a user may do."""

    user: UserName
    max_order_size: Annotated[AmountText | None, Meta(description=_SIZE)]
    max_daily_volume: Annotated[AmountText | None, Meta(description=_VOLUME)]
    requires_2fa_above: Annotated[AmountText | None, Meta(description=_TWO_FACTOR)]
    max_open_orders: Annotated[int | None, Meta(description=_COUNT)]
    suspended: bool
    updated_at: Annotated[Time | None, Meta(description="null: never changed.")]


class ChangeUserLimits(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What to change of a user's limits; at least one field. What is left out stays."""

    max_order_size: Annotated[AmountText | UnsetType | None, Meta(description=_SIZE)] = UNSET
    max_daily_volume: Annotated[AmountText | UnsetType | None, Meta(description=_VOLUME)] = UNSET
    requires_2fa_above: Annotated[AmountText | UnsetType | None, Meta(description=_TWO_FACTOR)] = UNSET
    max_open_orders: Annotated[Annotated[int, _OPEN_ORDERS] | UnsetType | None, Meta(description=_COUNT)] = UNSET


class SymbolLimits(Struct, frozen=True, kw_only=True):
    """The bounds of a symbol's orders."""

    symbol: SymbolName
    min_order_size: Annotated[QuantityText, Meta(description="In the base asset.")]
    max_order_size: Annotated[QuantityText, Meta(description="In the base asset.")]
    max_price_deviation: Annotated[FractionText | None, Meta(description="The collar as a fraction; null: none.")]


class ChangeSymbolLimits(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What to change of a symbol's bounds; at least one field. What is left out stays."""

    min_order_size: Annotated[QuantityText | UnsetType, Meta(description="A multiple of the lot.")] = UNSET
    max_order_size: Annotated[QuantityText | UnsetType, Meta(description="A multiple of the lot.")] = UNSET
    max_price_deviation: Annotated[
        FractionText | UnsetType | None, Meta(description="More than 0, at most 10; null: no collar.")
    ] = UNSET


class Suspend(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Why a user is suspended, or may go on."""

    reason: ReasonText


class Standing(Struct, frozen=True, kw_only=True):
    """Whether a user may do anything but cancel."""

    user: UserName
    suspended: bool
    reason: str | None
    changed_by: Annotated[str | None, Meta(description="The administrator who said so.")]
    updated_at: Time | None


class MoveMoney(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Money to credit to a user, or to take from one."""

    user: UserName
    asset: AssetName
    amount: AmountText
    reference: Reference


class Funding(Struct, frozen=True, kw_only=True):
    """A deposit or withdrawal."""

    reference: str
    kind: Literal["deposit", "withdrawal"]
    user: UserName
    asset: str
    amount: AmountText
    status: Annotated[
        Literal["pending", "settled", "refused"],
        Meta(description="pending: it will be settled or refused without anyone asking again."),
    ]
    status_reason: Annotated[str | None, Meta(description="Why it was refused, an error code; null: it was not.")]
    transaction_id: Annotated[Id | None, Meta(description="Of the postings; null: there are none.")]
    requested_at: Time
    closed_at: Time | None


UserLimitsAnswer = answer_of("UserLimitsAnswer", UserLimits)
SymbolLimitsAnswer = answer_of("SymbolLimitsAnswer", SymbolLimits)
StandingAnswer = answer_of("StandingAnswer", Standing)
FundingAnswer = answer_of("FundingAnswer", Funding)
FundingsAnswer = answer_of("FundingsAnswer", list[Funding])


class FundingsQuery(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Filters of deposits and withdrawals."""

    user: UserName | None = None
    status: Literal["pending", "settled", "refused"] | None = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT
    cursor: Annotated[str | None, Meta(description="Opaque: meta.next_cursor of the answer before.")] = None
