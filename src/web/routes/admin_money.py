"""Deposits and withdrawals, by administrators: idempotent by their reference, answered when they are in the ledger.

A request is written down first and then waited for; when that takes too long the answer is 202, and the same request
again, or a look at the reference, tells what became of it. A dry run foresees that (``foreseen``) and writes nothing.
"""

from __future__ import annotations

from typing import Final

import structlog
import trio
from quart import Blueprint, Response, request

from tradeengine.core.money import NumberError
from tradeengine.core.records import Reason
from tradeengine.core.symbols import AssetSpec
from tradeengine.core.times import format_ms
from tradeengine.storage.directory import account_names
from tradeengine.storage.funding import (
    REFERENCE_LENGTH_MAX,
    Funding,
    FundingKind,
    FundingStatus,
    ReferenceReusedError,
    find_funding,
    list_fundings,
    request_funding,
)
from tradeengine.web import schemas_admin as schemas
from tradeengine.web.access import Access, caller
from tradeengine.web.admission import Pauses
from tradeengine.web.audit import audited
from tradeengine.web.dry_run import is_dry_run
from tradeengine.web.envelope import success
from tradeengine.web.errors import ApiError, invalid_field, reason_error
from tradeengine.web.foreseen import foresee_funding
from tradeengine.web.front import Front, current_front, read_json, read_page
from tradeengine.web.openapi import describe
from tradeengine.web.paging import decode_cursor, encode_cursor
from tradeengine.web.routes.admin_users import any_account, checked_name, known_account
from tradeengine.web.schemas_trading import DryRun
from tradeengine.web.validation import read_query

blueprint = Blueprint("admin_money", __name__)
_TAG = "administration"
_PAUSE_S: Final = 0.005
_PAUSE_S_MAX: Final = 0.1

_log = structlog.get_logger()


@blueprint.post("/deposits")
@describe(
    tags=_TAG,
    body=schemas.MoveMoney,
    query=DryRun,
    answers={200: schemas.FundingAnswer, 202: schemas.FundingAnswer},
    access=Access.ADMIN,
    weight=5,
)
async def deposit() -> Response:
    """Credit a user. 200: it is in the ledger and can be traded with. 202: it is asked for and will be settled.

    A repeat with the same reference and content is answered with the first one; with other content it is
    REFERENCE_REUSED. A user who has never been seen gets an account.

    A dry run is answered as it would be now, by 200 or the refusal, and writes nothing down; transaction_id is null
    unless the reference was settled before. pending there: the wallet outside, which is not asked, has a say in it.
    """
    return await _move(FundingKind.DEPOSIT)


@blueprint.post("/withdrawals")
@describe(
    tags=_TAG,
    body=schemas.MoveMoney,
    query=DryRun,
    answers={200: schemas.FundingAnswer, 202: schemas.FundingAnswer},
    access=Access.ADMIN,
    weight=5,
)
async def withdraw() -> Response:
    """Take from what a user has free. 200: it is in the ledger. 202: it is asked for, and will be settled or refused.

    INSUFFICIENT_BALANCE (422) when it is more than what is not held by open orders; nothing was taken then, and the
    reference stands for this refusal. A repeat with the same reference and content is answered as the first one was.

    A dry run is answered as it would be now, by 200 or the refusal, and writes nothing down: the reference stays free.
    transaction_id is null unless the reference was settled before. pending there: a wallet outside, which is not asked,
    has a say in it.
    """
    return await _move(FundingKind.WITHDRAWAL)


@blueprint.get("/deposits/<path:reference>")
@describe(tags=_TAG, answers={200: schemas.FundingAnswer}, access=Access.ADMIN)
async def show_deposit(reference: str) -> Response:
    """Look at one deposit."""
    return await _show(FundingKind.DEPOSIT, reference)


@blueprint.get("/withdrawals/<path:reference>")
@describe(tags=_TAG, answers={200: schemas.FundingAnswer}, access=Access.ADMIN)
async def show_withdrawal(reference: str) -> Response:
    """Look at one withdrawal."""
    return await _show(FundingKind.WITHDRAWAL, reference)


@blueprint.get("/deposits")
@describe(tags=_TAG, query=schemas.FundingsQuery, answers={200: schemas.FundingsAnswer}, access=Access.ADMIN)
async def list_deposits() -> Response:
    """List deposits, newest first."""
    return await _list(FundingKind.DEPOSIT)


@blueprint.get("/withdrawals")
@describe(tags=_TAG, query=schemas.FundingsQuery, answers={200: schemas.FundingsAnswer}, access=Access.ADMIN)
async def list_withdrawals() -> Response:
    """List withdrawals, newest first."""
    return await _list(FundingKind.WITHDRAWAL)


async def _move(kind: FundingKind) -> Response:
    front = current_front()
    wanted = await read_json(schemas.MoveMoney)
    audited(target=wanted.user)
    asset = _asset(front, wanted.asset)
    amount_units = _units(asset, wanted.amount)
    if is_dry_run():
        return await _foresee(front, kind, wanted, asset, amount_units)
    if kind is FundingKind.DEPOSIT:
        account_id = await any_account(front, wanted.user)
    else:
        account_id = await _payer(front, wanted, asset, amount_units)
    try:
        asked = await front.database.run(
            request_funding,
            kind,
            reference=wanted.reference,
            account_id=account_id,
            asset_id=asset.asset_id,
            amount_units=amount_units,
        )
    except ReferenceReusedError:
        raise _reused(kind, wanted.reference) from None
    before = _view(asked, wanted.user, asset)
    audited(before=before, after=before)
    _log.info(
        "funding asked for",
        kind=str(kind),
        reference=wanted.reference,
        user=wanted.user,
        asset=asset.name,
        amount=wanted.amount,
        by=caller().name,
    )
    outcome = await _wait(front, asked)
    view = _view(outcome, wanted.user, asset)
    audited(after=view)
    if outcome.status is FundingStatus.REFUSED:
        raise _refusal(outcome, asset)
    return success(view, 202 if outcome.status is FundingStatus.PENDING else 200)


async def _foresee(
    front: Front, kind: FundingKind, wanted: schemas.MoveMoney, asset: AssetSpec, amount_units: int
) -> Response:
    """Answer a dry run. Raises ApiError where the deed would."""
    account_id: int | None
    if kind is FundingKind.DEPOSIT:
        account_id = await front.accounts.foresee(checked_name(wanted.user))
    else:
        account_id = await _payer(front, wanted, asset, amount_units)
    try:
        outcome = await foresee_funding(
            front,
            kind,
            reference=wanted.reference,
            account_id=account_id,
            asset_id=asset.asset_id,
            amount_units=amount_units,
        )
    except ReferenceReusedError:
        raise _reused(kind, wanted.reference) from None
    if outcome.status is FundingStatus.REFUSED:
        raise _refusal(outcome, asset)
    return success(_view(outcome, wanted.user, asset))


async def _payer(front: Front, wanted: schemas.MoveMoney, asset: AssetSpec, amount_units: int) -> int:
    """Account id of whom is taken from, if that can be; risk decides. Raises ApiError."""
    account_id = await known_account(front, wanted.user)
    if front.settings.wallet.kind == "http":
        await _refuse_unconfirmed(front, wanted, account_id, asset, amount_units)
    return account_id


async def _refuse_unconfirmed(
    front: Front, wanted: schemas.MoveMoney, account_id: int, asset: AssetSpec, amount_units: int
) -> None:
    """Refuse at once what is only there when the wallet has confirmed trades; a repeat has its answer already.

    Where this look is too early, the withdrawal waits for the trades. Raises ApiError INSUFFICIENT_BALANCE.
    """
    if await front.database.run(find_funding, FundingKind.WITHDRAWAL, wanted.reference) is not None:
        return
    unconfirmed = await front.history.unconfirmed_credits(account_id, asset.asset_id)
    await front.history.wait_folded()
    total, held = (int(units) for units in read_page(front.pages.balances, account_id)["units"][asset.asset_id])
    available = total - held
    if available - unconfirmed < amount_units <= available:
        raise ApiError(
            "INSUFFICIENT_BALANCE",
            "Part of this is from trades that the wallet has not confirmed: it can be traded, not taken out yet.",
            {
                "asset": asset.name,
                "amount": asset.format(amount_units),
                "available": asset.format(available),
                "unconfirmed": asset.format(unconfirmed),
            },
        )


async def _wait(front: Front, asked: Funding) -> Funding:
    """Wait until a request is settled or refused; give it as it is when that takes too long. Raises ApiError."""
    found, pauses = asked, Pauses(_PAUSE_S, _PAUSE_S_MAX)
    with trio.move_on_after(front.settings.http.barrier_timeout_ms / 1000):
        while found.status is FundingStatus.PENDING:
            await pauses.take()
            looked = await front.database.run(find_funding, asked.kind, asked.reference)
            assert looked is not None
            found = looked
    return found


def _reused(kind: FundingKind, reference: str) -> ApiError:
    return ApiError(
        "REFERENCE_REUSED",
        f"This reference names another {kind} already; choose a new one.",
        {"field": "reference", "reference": reference},
    )


def _refusal(refused: Funding, asset: AssetSpec) -> ApiError:
    reason = Reason[refused.status_reason or Reason.INVALID_REQUEST.name]
    details = {"reference": refused.reference, "asset": asset.name, "amount": asset.format(refused.amount_units)}
    error = reason_error(reason, details)
    if refused.wallet_error is not None:
        error.message = f"The wallet did not reserve this deposit: {refused.wallet_error}"
    elif reason is Reason.INSUFFICIENT_BALANCE:
        error.message = "The user's available balance does not cover this withdrawal; nothing was taken."
    elif reason is Reason.NUMBER_OUT_OF_RANGE:
        error.message = f"With this deposit there would be more {asset.name} than the engine can count."
    return error


async def _show(kind: FundingKind, reference: str) -> Response:
    front = current_front()
    found = None
    # References that came another way may have any characters, but for the one that PostgreSQL has no text with.
    if 1 <= len(reference) <= REFERENCE_LENGTH_MAX and "\0" not in reference:
        found = await front.database.run(find_funding, kind, reference)
    if found is None:
        raise ApiError("NOT_FOUND", f"There is no {kind} with this reference.", {"field": "reference"})
    return success((await _views(front, [found]))[0])


async def _list(kind: FundingKind) -> Response:
    front = current_front()
    query = read_query(request.args, schemas.FundingsQuery)
    found = await front.database.run(
        list_fundings,
        kind,
        account_id=await known_account(front, query.user) if query.user else None,
        status=FundingStatus(query.status) if query.status else None,
        before_id=decode_cursor(query.cursor) if query.cursor else None,
        limit=query.limit + 1,
    )
    page = found[: query.limit]
    next_cursor = encode_cursor(page[-1].id) if len(found) > query.limit else None
    return success(await _views(front, page), next_cursor=next_cursor)


async def _views(front: Front, fundings: list[Funding]) -> list[schemas.Funding]:
    names = await front.database.run(account_names, list({funding.account_id for funding in fundings}))
    assets = front.pages.directory().assets
    return [_view(funding, names[funding.account_id], assets[funding.asset_id]) for funding in fundings]


def _view(funding: Funding, user: str, asset: AssetSpec) -> schemas.Funding:
    return schemas.Funding(
        reference=funding.reference,
        kind=funding.kind.value,
        user=user,
        asset=asset.name,
        amount=asset.format(funding.amount_units),
        status=funding.status.value,
        status_reason=funding.status_reason,
        transaction_id=str(funding.transaction_id) if funding.transaction_id else None,
        requested_at=format_ms(int(funding.requested_at.timestamp() * 1000)),
        closed_at=format_ms(int(funding.closed_at.timestamp() * 1000)) if funding.closed_at else None,
    )


def _asset(front: Front, name: str) -> AssetSpec:
    assets = front.pages.directory().asset_by_name
    asset = assets.get(name.upper())
    if asset is None:
        raise invalid_field("asset", "There is no such asset; see /api/v1/balances.", allowed=sorted(assets))
    return asset


def _units(asset: AssetSpec, text: str) -> int:
    try:
        units = asset.parse(text)
    except NumberError as error:
        raise invalid_field("amount", f"amount {error.message}.", error.fault.value, places=asset.places) from None
    if units == 0:
        raise invalid_field("amount", "amount must be more than 0.", "NUMBER_OUT_OF_RANGE", minimum="0")
    return units
