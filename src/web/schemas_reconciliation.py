"""What a reconciliation says; the rules are those of ``schemas``."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from tradeengine.web.fields import Id, Time
from tradeengine.web.schemas import answer_of


class Checked(Struct, frozen=True, kw_only=True):
    """How much was compared."""

    accounts: Annotated[int, Meta(description="Accounts with a balance, the engine's own included.")]
    balances: Annotated[int, Meta(description="Compared with the sums of their postings, and with risk.")]
    postings: int
    transactions: Annotated[int, Meta(description="Each must sum to zero per asset.")]
    trades: Annotated[int, Meta(description="Each must have exactly its postings.")]
    fundings: Annotated[int, Meta(description="Settled deposits and withdrawals; each must have exactly its postings.")]
    orders: Annotated[int, Meta(description="Live orders in the database.")]
    risk_orders: Annotated[int, Meta(description="Live orders in risk, those on their way to a matcher included.")]
    book_orders: Annotated[int, Meta(description="Live orders in the matchers.")]
    holds: Annotated[int, Meta(description="Live orders that hold something.")]
    wallet_balances: Annotated[int | None, Meta(description="null: the money is kept in the engine's own ledger.")]
    census_us: Annotated[int, Meta(description="Microseconds for which risk or a matcher stood still for this.")]
    cursors: Annotated[
        dict[str, dict[str, int]],
        Meta(description="Per shard the next event of the database, of risk and of the matcher; under risk its own."),
    ]


class Difference(Struct, frozen=True, kw_only=True):
    """What one place says and another does not. What does not apply is null."""

    kind: Annotated[str, Meta(description="Stable.")]
    message: str
    account: Annotated[str | None, Meta(description="The user's name.")]
    asset: str | None
    symbol: str | None
    order_id: Id | None
    transaction_id: Annotated[Id | None, Meta(description="Of a trade, its id.")]
    field: Annotated[str | None, Meta(description="What of the order differs.")]
    expected: Annotated[str | None, Meta(description="What follows from the database's own records.")]
    found: Annotated[str | None, Meta(description="What is there instead.")]


class Reconciliation(Struct, frozen=True, kw_only=True):
    """What was compared at one consistent cut, and what differs."""

    id: Id
    requested_at: Time
    finished_at: Time
    checked: Checked
    difference_count: Annotated[int, Meta(description="Of all; the first thousand are listed.")]
    differences: list[Difference]


ReconciliationAnswer = answer_of("ReconciliationAnswer", Reconciliation)
