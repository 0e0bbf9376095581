"""What answers about fees and statements look like; the rules are those of ``schemas``."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from tradeengine.web.fields import AmountText, ChangeText, FractionText, Id, SymbolName, Time
from tradeengine.web.schemas import LIMIT_DEFAULT, LIMIT_MAX, answer_of


class Fees(Struct, frozen=True, kw_only=True):
    """What the caller pays in a symbol, in its quote asset."""

    symbol: SymbolName
    maker_fee: Annotated[FractionText, Meta(description="As a fraction: 0.001 is 0.1 %.")]
    taker_fee: FractionText


class LedgerEntry(Struct, frozen=True, kw_only=True):
    """A line of a statement. Its fields are the columns of the CSV form."""

    time: Time
    kind: Literal["trade", "deposit", "withdrawal"]
    asset: str
    amount: Annotated[ChangeText, Meta(description="What came in, or with a minus sign what went out, fees included.")]
    balance: Annotated[AmountText, Meta(description="Of the asset, after it; in order of time never below 0.")]
    transaction_id: Annotated[Id, Meta(description="Of the ledger; entries of one trade share it.")]
    trade_id: Annotated[Id | None, Meta(description="Of trades.")]
    order_id: Annotated[
        Id | None, Meta(description="Of trades: the caller's own order; null where it is kept no more.")
    ]
    reference: Annotated[str | None, Meta(description="Of deposits and withdrawals.")]


FeesAnswer = answer_of("FeesAnswer", list[Fees])
LedgerAnswer = answer_of("LedgerAnswer", list[LedgerEntry])


class LedgerQuery(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Filters of ``GET /ledger``."""

    asset: str | None = None
    kind: Literal["trade", "deposit", "withdrawal"] | None = None
    start: Annotated[Time | None, Meta(description="Inclusive.")] = None
    end: Annotated[Time | None, Meta(description="Exclusive.")] = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT
    cursor: Annotated[str | None, Meta(description="Opaque: meta.next_cursor of the answer before.")] = None
