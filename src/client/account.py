"""The calls about what an account pays and has been credited and debited."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

from msgspec import Struct

from tradeengine.client.fields import Time
from tradeengine.client.pages import Pages
from tradeengine.client.transport import Transport

EntryKind: TypeAlias = Literal["trade", "deposit", "withdrawal"]


class Fees(Struct, frozen=True, kw_only=True):
    """What the caller pays in a symbol, as fractions: 0.001 is 0.1 %."""

    symbol: str
    maker_fee: Decimal
    taker_fee: Decimal


class LedgerEntry(Struct, frozen=True, kw_only=True):
    """A line of a statement: what came in, or below 0 what went out, and the asset's balance after it."""

    time: datetime
    kind: str
    asset: str
    amount: Decimal
    balance: Decimal
    transaction_id: str
    trade_id: str | None = None
    order_id: str | None = None
    reference: str | None = None


class AccountCalls:
    """A part of ``Client``."""

    _transport: Transport

    async def fees(self) -> list[Fees]:
        """List what the caller pays in each symbol."""
        return await self._transport.call(list[Fees], "GET", "/fees")

    def ledger(
        self,
        *,
        asset: str | None = None,
        kind: EntryKind | None = None,
        start: Time | None = None,
        end: Time | None = None,
        page_size: int = 500,
    ) -> Pages[LedgerEntry]:
        """Read the account's statement, newest first."""
        query = {"asset": asset, "kind": kind, "start": start, "end": end, "limit": page_size}
        return self._transport.pages(list[LedgerEntry], "/ledger", query)
