"""What administrators ask about symbols and others' orders, and are answered; the rules are those of ``schemas``."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta, Struct

from tradeengine.core.trading import REASON_BYTES_MAX
from tradeengine.web.fields import AmountText, FractionText, Id, PriceText, QuantityText, SymbolName, Time
from tradeengine.web.schemas import LISTED_MAX, Symbol, answer_of
from tradeengine.web.schemas_admin import ReasonText

StateName: TypeAlias = Literal["open", "cancel_only", "halted"]
_DRY: Final = "true: say what would be done or refused, and do nothing."
ToldReason: TypeAlias = Annotated[
    str | None,
    Meta(description=f"Why; of a long reason as much as {REASON_BYTES_MAX} bytes hold. null: nobody said why."),
]


class DryRun(Struct, forbid_unknown_fields=True, frozen=True):
    """Whether to do it."""

    dry_run: Annotated[bool, Meta(description=_DRY)] = False


class Why(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Why it is done. Whoever listens to a symbol's status is told."""

    reason: ReasonText


class StateChange(Struct, frozen=True, kw_only=True):
    """A symbol whose trading state was set."""

    symbol: SymbolName
    status: StateName
    previous_status: StateName
    sequence: Annotated[
        int | None,
        Meta(description="Of the event that set it: none of its trades comes after. null: a dry run."),
    ]
    reason: ToldReason
    dry_run: bool


class StateChanges(Struct, frozen=True, kw_only=True):
    """Symbols whose trading state was set, those included that were in it."""

    count: Annotated[int, Meta(description="Of those that were not in this state before.")]
    symbols: list[StateChange]
    dry_run: bool


class AdminCancelled(Struct, frozen=True, kw_only=True):
    """What a mass cancel of an administrator ended; in a dry run: would end."""

    cancelled: Annotated[int, Meta(description="Orders ended by this call, listed or not; in a dry run 0.")]
    total: Annotated[int, Meta(description="Open orders that it met.")]
    orders: Annotated[list[Id], Meta(description=f"Which; no more than {LISTED_MAX} of them.")]
    dry_run: bool


class SymbolStatus(Struct, frozen=True, kw_only=True):
    """A symbol as administrators see it."""

    symbol: SymbolName
    shard: int
    status: Literal["open", "cancel_only", "halted", "unlisted"]
    reason: ToldReason
    changed_at: Annotated[Time | None, Meta(description="When it came into this state. null: it is not known.")]
    sequence: Annotated[int | None, Meta(description="Of the event that set its state. null: it is not known.")]
    best_bid: PriceText | None
    best_ask: PriceText | None
    last_price: PriceText | None
    open_orders: Annotated[
        int | None, Meta(description="Stops included, as far as they are settled. null: the database does not answer.")
    ]


class ListSymbol(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A symbol to list. Numbers are decimal strings."""

    symbol: SymbolName
    tick: Annotated[PriceText, Meta(description="Step of prices.")]
    lot: Annotated[QuantityText, Meta(description="Step of quantities.")]
    price_max: Annotated[PriceText, Meta(description="A multiple of the tick.")]
    quantity_min: Annotated[QuantityText, Meta(description="A multiple of the lot.")]
    quantity_max: Annotated[QuantityText, Meta(description="A multiple of the lot.")]
    min_notional: AmountText
    maker_fee: Annotated[FractionText, Meta(description="As a fraction: 0.001 is 0.1 %.")]
    taker_fee: FractionText
    max_price_deviation: Annotated[
        FractionText | None, Meta(description="The collar: more than 0, at most 10; null: none.")
    ] = None
    base_places: Annotated[
        int | None, Meta(description="Decimal places of the base asset. Needed only if it is new.")
    ] = None
    quote_places: Annotated[
        int | None, Meta(description="Decimal places of the quote asset. Needed only if it is new.")
    ] = None
    shard: Annotated[int | None, Meta(description="Which matcher; null: the one with the fewest symbols.")] = None
    status: Annotated[StateName, Meta(description="In which it begins.")] = "open"


class Listed(Struct, frozen=True, kw_only=True):
    """A symbol that is listed now."""

    symbol: Symbol
    created: Annotated[bool, Meta(description="false: it was listed just so before.")]
    dry_run: bool


StateChangeAnswer = answer_of("StateChangeAnswer", StateChange)
StateChangesAnswer = answer_of("StateChangesAnswer", StateChanges)
AdminCancelledAnswer = answer_of("AdminCancelledAnswer", AdminCancelled)
SymbolStatusesAnswer = answer_of("SymbolStatusesAnswer", list[SymbolStatus])
ListedAnswer = answer_of("ListedAnswer", Listed)
