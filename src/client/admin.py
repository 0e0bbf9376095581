"""The calls of administrators: limits, suspensions, deposits, withdrawals, reconciliation. They need that role."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, TypedDict, TypeVar, Unpack

from msgspec import Struct

from tradeengine.client.fields import Number, in_path, tried_dry, written
from tradeengine.client.pages import Pages
from tradeengine.client.transport import Transport

T = TypeVar("T")


class UserLimits(Struct, frozen=True, kw_only=True):
    """What a user may do; None: no limit. Sizes and volumes are in the quote asset of an order."""

    user: str
    max_order_size: Decimal | None
    max_daily_volume: Decimal | None
    requires_2fa_above: Decimal | None
    max_open_orders: int | None
    suspended: bool
    updated_at: datetime | None


class UserLimitsChange(TypedDict, total=False):
    """What to change; what is left out stays, None takes a limit away."""

    max_order_size: Number | None
    max_daily_volume: Number | None
    requires_2fa_above: Number | None
    max_open_orders: int | None


class SymbolLimits(Struct, frozen=True, kw_only=True):
    """The bounds of a symbol's orders, in its base asset; the collar is a fraction, None: there is none."""

    symbol: str
    min_order_size: Decimal
    max_order_size: Decimal
    max_price_deviation: Decimal | None


class SymbolLimitsChange(TypedDict, total=False):
    """What to change; what is left out stays."""

    min_order_size: Number
    max_order_size: Number
    max_price_deviation: Number | None


class Standing(Struct, frozen=True, kw_only=True):
    """Whether a user may do anything but cancel."""

    user: str
    suspended: bool
    reason: str | None
    changed_by: str | None
    updated_at: datetime | None


class Funding(Struct, frozen=True, kw_only=True):
    """A deposit or withdrawal. status: pending, settled, refused."""

    reference: str
    kind: str
    user: str
    asset: str
    amount: Decimal
    status: str
    status_reason: str | None
    transaction_id: str | None
    requested_at: datetime
    closed_at: datetime | None


class Difference(Struct, frozen=True, kw_only=True):
    """What one place says and another does not; what does not apply is None."""

    kind: str
    message: str
    account: str | None
    asset: str | None
    symbol: str | None
    order_id: str | None
    transaction_id: str | None
    field: str | None
    expected: str | None
    found: str | None


class Reconciliation(Struct, frozen=True, kw_only=True):
    """What was compared at one moment, and what differs: ``differences`` are the first thousand."""

    id: str
    requested_at: datetime
    finished_at: datetime
    checked: dict[str, Any]
    difference_count: int
    differences: list[Difference]


class AuditRow(Struct, frozen=True, kw_only=True):
    """What somebody did, and how it ended: ok, refused, failed or unknown."""

    id: str
    time: datetime
    actor: str
    role: str
    credential: str
    two_factor: bool
    action: str
    target: str | None
    details: dict[str, Any] | None
    before: Any
    after: Any
    reason: str | None
    request_id: str
    address: str
    outcome: str
    code: str | None
    previous_hash: str
    hash: str


class AdminCalls:
    """A part of ``Client``. Each call may be repeated; ``dry_run`` says what it would do, and does nothing."""

    _transport: Transport

    async def user_limits(self, user: str) -> UserLimits:
        """Look at a user's limits."""
        return await self._transport.call(UserLimits, "GET", f"/admin/limits/user/{in_path(user)}")

    async def change_user_limits(
        self, user: str, *, dry_run: bool = False, **change: Unpack[UserLimitsChange]
    ) -> UserLimits:
        """Change a user's limits; they count on every front when this returns."""
        return await self._post(UserLimits, f"/admin/limits/user/{in_path(user)}", change, dry_run=dry_run)

    async def symbol_limits(self, symbol: str) -> SymbolLimits:
        """Look at the bounds of a symbol's orders."""
        return await self._transport.call(SymbolLimits, "GET", f"/admin/limits/symbol/{in_path(symbol)}")

    async def change_symbol_limits(
        self, symbol: str, *, dry_run: bool = False, **change: Unpack[SymbolLimitsChange]
    ) -> SymbolLimits:
        """Change the bounds of a symbol's orders; they count on every front when this returns."""
        return await self._post(SymbolLimits, f"/admin/limits/symbol/{in_path(symbol)}", change, dry_run=dry_run)

    async def suspend(self, user: str, reason: str, *, dry_run: bool = False) -> Standing:
        """Let a user do nothing but cancel, from now on."""
        return await self._post(Standing, f"/admin/users/{in_path(user)}/suspend", {"reason": reason}, dry_run=dry_run)

    async def resume(self, user: str, reason: str, *, dry_run: bool = False) -> Standing:
        """Let a suspended user go on."""
        return await self._post(Standing, f"/admin/users/{in_path(user)}/resume", {"reason": reason}, dry_run=dry_run)

    async def deposit(self, user: str, asset: str, amount: Number, reference: str, *, dry_run: bool = False) -> Funding:
        """Credit a user; once for each reference, however often it is asked for."""
        body = {"user": user, "asset": asset, "amount": amount, "reference": reference}
        return await self._post(Funding, "/admin/deposits", body, dry_run=dry_run)

    async def withdraw(
        self, user: str, asset: str, amount: Number, reference: str, *, dry_run: bool = False
    ) -> Funding:
        """Take from what a user has free; once for each reference. ``INSUFFICIENT_BALANCE``: nothing was taken."""
        body = {"user": user, "asset": asset, "amount": amount, "reference": reference}
        return await self._post(Funding, "/admin/withdrawals", body, dry_run=dry_run)

    async def deposit_of(self, reference: str) -> Funding:
        """Look at a deposit."""
        return await self._transport.call(Funding, "GET", f"/admin/deposits/{in_path(reference)}")

    async def withdrawal_of(self, reference: str) -> Funding:
        """Look at a withdrawal."""
        return await self._transport.call(Funding, "GET", f"/admin/withdrawals/{in_path(reference)}")

    def deposits(self, *, user: str | None = None, status: str | None = None, page_size: int = 500) -> Pages[Funding]:
        """List deposits, newest first."""
        query = {"user": user, "status": status, "limit": page_size}
        return self._transport.pages(list[Funding], "/admin/deposits", query)

    def withdrawals(
        self, *, user: str | None = None, status: str | None = None, page_size: int = 500
    ) -> Pages[Funding]:
        """List withdrawals, newest first."""
        query = {"user": user, "status": status, "limit": page_size}
        return self._transport.pages(list[Funding], "/admin/withdrawals", query)

    def audit(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        page_size: int = 500,
    ) -> Pages[AuditRow]:
        """List what administrators did, newest first."""
        query = {"actor": actor, "action": action, "start": start, "end": end, "limit": page_size}
        return self._transport.pages(list[AuditRow], "/admin/audit", query)

    async def reconcile(self) -> Reconciliation:
        """Compare ledger, balances, holds and live orders wherever they are kept; trading goes on meanwhile.

        An engine with a long ledger takes longer than a client waits by default: give it more ``attempt_timeout_s``.
        """
        return await self._transport.call(Reconciliation, "GET", "/admin/reconciliation")

    async def _post(self, kind: type[T], path: str, body: Mapping[str, Any], *, dry_run: bool) -> T:
        values = {name: _value(name, body[name]) for name in body}
        return await self._transport.call(kind, "POST", path, query=tried_dry(dry_run), body=values)


def _value(name: str, value: Any) -> Any:
    """Write a value; None is one here, and a count stays a number."""
    return value if value is None or name == "max_open_orders" else written({name: value})[name]
