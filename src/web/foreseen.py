"""Deposits and withdrawals foreseen: what would become of one if it were asked for now. Nothing is written down.

Rule 1: what risk and the directory would decide is decided here by the same numbers, as they stand; what comes between
a look and the deed may change it.
Rule 2: nobody asks the wallet outside: what it has a say in is pending.
It refuses to know how it is answered.
"""

from __future__ import annotations

import datetime as dt

from tradeengine.core.money import UNITS_MAX
from tradeengine.core.records import ACCOUNT_ID_OUTSIDE, Reason
from tradeengine.storage.funding import Funding, FundingKind, FundingStatus, ReferenceReusedError, find_funding
from tradeengine.web.front import Front, read_page

NOBODY = 0
"""Stands for the account of a user who would get one."""


async def foresee_funding(
    front: Front, kind: FundingKind, *, reference: str, account_id: int | None, asset_id: int, amount_units: int
) -> Funding:
    """Give the request that this reference names, or as it would be: settled, refused, or pending at a wallet outside.

    account_id: None for a user who has none yet. amount_units: 1 … ``UNITS_MAX``.
    Raises ReferenceReusedError when the earlier one differs, ApiError.
    """
    earlier = await front.database.run(find_funding, kind, reference)
    if earlier is not None:
        if (earlier.account_id, earlier.asset_id, earlier.amount_units) != (account_id, asset_id, amount_units):
            raise ReferenceReusedError(f"reference {reference!r} names another {kind} already")
        return earlier
    reason = await _refusal(front, kind, account_id, asset_id, amount_units)
    allowed = FundingStatus.PENDING if front.settings.wallet.kind == "http" else FundingStatus.SETTLED
    return Funding(
        id=0,
        number=0,
        kind=kind,
        reference=reference,
        account_id=account_id or NOBODY,
        asset_id=asset_id,
        amount_units=amount_units,
        status=FundingStatus.REFUSED if reason else allowed,
        status_reason=reason.name if reason else None,
        transaction_id=None,
        requested_at=dt.datetime.now(dt.UTC),
        closed_at=None,
        wallet_error=None,
    )


async def _refusal(
    front: Front, kind: FundingKind, account_id: int | None, asset_id: int, amount_units: int
) -> Reason | None:
    """Say why risk would refuse, if it would. Raises ApiError."""
    await front.history.wait_folded()
    if kind is FundingKind.DEPOSIT:
        # The outside's balance is minus what is inside.
        total, _ = _units(front, ACCOUNT_ID_OUTSIDE, asset_id)
        return Reason.NUMBER_OUT_OF_RANGE if amount_units > UNITS_MAX + total else None
    assert account_id is not None
    total, held = _units(front, account_id, asset_id)
    return Reason.INSUFFICIENT_BALANCE if amount_units > total - held else None


def _units(front: Front, account_id: int, asset_id: int) -> tuple[int, int]:
    """Total and held."""
    total, held = read_page(front.pages.balances, account_id)["units"][asset_id]
    return int(total), int(held)
