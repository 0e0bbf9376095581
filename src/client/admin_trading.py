"""The calls of administrators about symbols and other people's orders: halt, resume, cancel, list."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, NotRequired, TypedDict, TypeVar, Unpack

from msgspec import Struct

from tradeengine.client.fields import Number, in_path, tried_dry, written
from tradeengine.client.models import Symbol
from tradeengine.client.transport import Transport

T = TypeVar("T")


class StateChange(Struct, frozen=True, kw_only=True):
    """A symbol whose trading state was set, or in a dry run would be. No trade of it comes after ``sequence``."""

    symbol: str
    status: str
    previous_status: str
    sequence: int | None
    reason: str | None
    dry_run: bool


class StateChanges(Struct, frozen=True, kw_only=True):
    """All symbols that a call was about; ``count``: those that were not in that state before."""

    count: int
    symbols: list[StateChange]
    dry_run: bool


class AdminCancelled(Struct, frozen=True, kw_only=True):
    """What a mass cancel ended, or in a dry run would end: ``total`` orders, of which the first 10,000 are listed."""

    cancelled: int
    total: int
    orders: list[str]
    dry_run: bool


class SymbolStatus(Struct, frozen=True, kw_only=True):
    """A symbol as administrators see it; None: there is none, or it is not known."""

    symbol: str
    shard: int
    status: str
    reason: str | None
    changed_at: datetime | None
    sequence: int | None
    best_bid: Decimal | None
    best_ask: Decimal | None
    last_price: Decimal | None
    open_orders: int | None


class Listed(Struct, frozen=True, kw_only=True):
    """A symbol that is listed; ``created``: by this call."""

    symbol: Symbol
    created: bool
    dry_run: bool


class Listing(TypedDict):
    """The terms of a new symbol. Places are needed of new assets; without a shard the emptiest one is taken."""

    tick: Number
    lot: Number
    price_max: Number
    quantity_min: Number
    quantity_max: Number
    min_notional: Number
    maker_fee: Number
    taker_fee: Number
    max_price_deviation: NotRequired[Number]
    base_places: NotRequired[int]
    quote_places: NotRequired[int]
    shard: NotRequired[int]
    status: NotRequired[str]


class AdminTradingCalls:
    """A part of ``Client``. Each call may be repeated; ``dry_run`` says what it would do, and does nothing."""

    _transport: Transport

    async def symbol_statuses(self) -> list[SymbolStatus]:
        """List all symbols with their states, since when and why."""
        return await self._transport.call(list[SymbolStatus], "GET", "/admin/symbols")

    async def halt(self, symbol: str, reason: str, *, dry_run: bool = False) -> StateChange:
        """Halt a symbol; cancels still work."""
        return await self._act(StateChange, f"/admin/trading/halt/{in_path(symbol)}", reason, dry_run=dry_run)

    async def cancel_only(self, symbol: str, reason: str, *, dry_run: bool = False) -> StateChange:
        """Let a symbol take cancels only."""
        return await self._act(StateChange, f"/admin/trading/cancel-only/{in_path(symbol)}", reason, dry_run=dry_run)

    async def resume_trading(self, symbol: str, reason: str, *, dry_run: bool = False) -> StateChange:
        """Open a symbol again."""
        return await self._act(StateChange, f"/admin/trading/resume/{in_path(symbol)}", reason, dry_run=dry_run)

    async def halt_all(self, reason: str, *, dry_run: bool = False) -> StateChanges:
        """Halt every symbol; those that are halted keep their reason."""
        return await self._act(StateChanges, "/admin/trading/halt-all", reason, dry_run=dry_run)

    async def resume_all(self, reason: str, *, dry_run: bool = False) -> StateChanges:
        """Undo ``halt_all``: each symbol that it halted becomes what it was."""
        return await self._act(StateChanges, "/admin/trading/resume-all", reason, dry_run=dry_run)

    async def cancel_all_of(self, user: str, reason: str, *, dry_run: bool = False) -> AdminCancelled:
        """Cancel all open orders of a user."""
        return await self._act(AdminCancelled, f"/admin/orders/cancel-all/{in_path(user)}", reason, dry_run=dry_run)

    async def cancel_symbol(self, symbol: str, reason: str, *, dry_run: bool = False) -> AdminCancelled:
        """Cancel everyone's open orders in a symbol."""
        path = f"/admin/orders/cancel-symbol/{in_path(symbol)}"
        return await self._act(AdminCancelled, path, reason, dry_run=dry_run)

    async def list_symbol(self, symbol: str, *, dry_run: bool = False, **terms: Unpack[Listing]) -> Listed:
        """List a symbol: it trades on every front when this returns. For super administrators."""
        kept = {"base_places", "quote_places", "shard", "status"}
        body: dict[str, Any] = {
            name: value if name in kept else written({name: value})[name] for name, value in terms.items()
        }
        body["symbol"] = symbol
        return await self._transport.call(Listed, "POST", "/admin/symbols", query=tried_dry(dry_run), body=body)

    async def _act(self, kind: type[T], path: str, reason: str, *, dry_run: bool) -> T:
        return await self._transport.call(kind, "POST", path, query=tried_dry(dry_run), body={"reason": reason})
