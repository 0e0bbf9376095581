"""Reconciliation, by administrators: asked for by a row, done by the keeper, waited for here."""

from __future__ import annotations

import datetime as dt
from typing import Final

import msgspec
import structlog
import trio
from quart import Blueprint, Response

from tradeengine.core.times import format_ms
from tradeengine.storage.reconciliations import Reconciliation, find_reconciliation, request_reconciliation
from tradeengine.web import schemas_reconciliation as schemas
from tradeengine.web.access import Access, caller
from tradeengine.web.admission import pause
from tradeengine.web.envelope import success
from tradeengine.web.errors import ApiError
from tradeengine.web.front import Front, current_front
from tradeengine.web.openapi import describe

blueprint = Blueprint("admin_reconciliation", __name__)
_PAUSE_S: Final = 0.05

_log = structlog.get_logger()


@blueprint.get("/reconciliation")
@describe(tags="administration", answers={200: schemas.ReconciliationAnswer}, access=Access.ADMIN, weight=100)
async def reconcile() -> Response:
    """Compare ledger, balances, holds and live orders wherever they are kept, now, and name every difference.

    Trading goes on meanwhile: what is compared is of one consistent moment after the request. It takes seconds where
    the ledger is long; requests that come while one is being answered share the next comparison.
    RECONCILIATION_UNAVAILABLE (503): nothing could be compared, and why.
    """
    front = current_front()
    number = await front.database.run(request_reconciliation, caller().name)
    _log.info("reconciliation asked for", number=number, by=caller().name)
    found = await _wait(front, number)
    if found is None:
        waited_s = front.settings.keeper.reconcile_timeout_s
        raise _unavailable(number, f"the keeper has not answered within {waited_s:g} s")
    if found.error is not None:
        raise _unavailable(number, found.error)
    return success(_view(found))


async def _wait(front: Front, number: int) -> Reconciliation | None:
    """Wait until it is finished; None: that takes too long."""
    with trio.move_on_after(front.settings.keeper.reconcile_timeout_s):
        while True:
            found = await front.database.run(find_reconciliation, number)
            if found is not None and found.finished_at is not None:
                return found
            await pause(_PAUSE_S)
    return None


def _unavailable(number: int, reason: str) -> ApiError:
    return ApiError("RECONCILIATION_UNAVAILABLE", f"Nothing could be compared: {reason}.", {"id": str(number)})


def _view(found: Reconciliation) -> schemas.Reconciliation:
    assert found.finished_at is not None
    return schemas.Reconciliation(
        id=str(found.number),
        requested_at=_time(found.requested_at),
        finished_at=_time(found.finished_at),
        checked=msgspec.convert({"wallet_balances": None, **(found.checked or {})}, schemas.Checked),
        difference_count=found.difference_count or 0,
        differences=msgspec.convert(found.differences, list[schemas.Difference]),
    )


def _time(moment: dt.datetime) -> str:
    return format_ms(int(moment.timestamp() * 1000))
