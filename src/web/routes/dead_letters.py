"""Dead letters of a wallet service outside, for administrators: look, retry, discard.

Rule 1: who decided is in the log, and who discarded, and why, beside what differs from then on.
It refuses to know why the wallet will not.
"""

from __future__ import annotations

import structlog
from quart import Blueprint, Response, request

from tradeengine.core.money import format_units
from tradeengine.core.times import format_ms
from tradeengine.storage.dead_letters import (
    DeadLetter,
    NoSuchLetterError,
    discard_letter,
    find_letter,
    list_letters,
    retry_letter,
)
from tradeengine.web import schemas_wallet as schemas
from tradeengine.web.access import Access, caller
from tradeengine.web.audit import audited
from tradeengine.web.dry_run import is_dry_run
from tradeengine.web.envelope import success
from tradeengine.web.errors import ApiError
from tradeengine.web.front import current_front, read_json
from tradeengine.web.openapi import describe
from tradeengine.web.paging import decode_cursor, encode_cursor, parse_id
from tradeengine.web.reasons import checked_reason
from tradeengine.web.schemas_trading import DryRun
from tradeengine.web.validation import read_query

blueprint = Blueprint("dead_letters", __name__)
_TAG = "administration"

_log = structlog.get_logger()


@blueprint.get("/dead-letters")
@describe(tags=_TAG, query=schemas.DeadLettersQuery, answers={200: schemas.DeadLettersAnswer}, access=Access.ADMIN)
async def list_dead_letters() -> Response:
    """List what the wallet will not do: transfers of trades, the newest first, then deposits and withdrawals.

    Without a wallet service there are none.
    """
    query = read_query(request.args, schemas.DeadLettersQuery)
    before_id = decode_cursor(query.cursor) if query.cursor else None
    found = await current_front().database.run(list_letters, limit=query.limit + 1, before_id=before_id)
    page = found[: query.limit]
    next_cursor = encode_cursor(page[-1].id) if len(found) > query.limit else None
    return success([_view(letter) for letter in page], next_cursor=next_cursor)


@blueprint.get("/dead-letters/<letter_id>")
@describe(tags=_TAG, answers={200: schemas.DeadLetterAnswer}, access=Access.ADMIN)
async def show_dead_letter(letter_id: str) -> Response:
    """Look at one, with all its legs. NOT_FOUND when it is retried or discarded already."""
    try:
        letter = await current_front().database.run(find_letter, parse_id(letter_id, "NOT_FOUND"))
    except NoSuchLetterError as error:
        raise _not_found(error) from None
    return success(_view(letter))


@blueprint.post("/dead-letters/<letter_id>/retry")
@describe(tags=_TAG, query=DryRun, answers={200: schemas.DeadLetterAnswer}, access=Access.ADMIN, weight=5)
async def retry_dead_letter(letter_id: str) -> Response:
    """Let the wallet be asked again, as if it had never failed; answered with the letter as it was.

    NOT_FOUND when it is retried or discarded already. In a dry run it stays dead.
    """
    number, database = parse_id(letter_id, "NOT_FOUND"), current_front().database
    try:
        if is_dry_run():
            return success(_view(await database.run(find_letter, number)))
        letter = await database.run(retry_letter, number)
    except NoSuchLetterError as error:
        raise _not_found(error) from None
    _log.info("dead letter retried", id=letter.id, kind=letter.kind.value, by=caller().name)
    view = _view(letter)
    audited(before=view, after={"state": "retried"})
    return success(view)


@blueprint.post("/dead-letters/<letter_id>/discard")
@describe(
    tags=_TAG,
    body=schemas.Discard,
    query=DryRun,
    answers={200: schemas.DeadLetterAnswer},
    access=Access.ADMIN,
    weight=5,
)
async def discard_dead_letter(letter_id: str) -> Response:
    """Give it up for good; answered with the letter as it was.

    The fill and the ledger stay as they are. By how much the wallet differs from the ledger from now on is written down
    with the reason, so that reconciliation counts it as explained.
    """
    reason = checked_reason((await read_json(schemas.Discard)).reason)
    number, database = parse_id(letter_id, "NOT_FOUND"), current_front().database
    try:
        if is_dry_run():
            return success(_view(await database.run(find_letter, number)))
        letter = await database.run(discard_letter, number, reason=reason, by=caller().name)
    except NoSuchLetterError as error:
        raise _not_found(error) from None
    _log.info("dead letter discarded", id=letter.id, kind=letter.kind.value, by=caller().name, reason=reason)
    view = _view(letter)
    audited(before=view, after={"state": "discarded"})
    return success(view)


def _not_found(error: NoSuchLetterError) -> ApiError:
    return ApiError("NOT_FOUND", f"{str(error).capitalize()}; see /api/v1/admin/dead-letters.", {"field": "id"})


def _view(letter: DeadLetter) -> schemas.DeadLetter:
    return schemas.DeadLetter(
        id=str(letter.id),
        kind=letter.kind.value,
        reference=letter.reference,
        error=letter.error,
        tries=letter.tries,
        progress=letter.progress or None,
        created_at=format_ms(int(letter.created_at.timestamp() * 1000)),
        legs=[
            schemas.LetterLeg(user=leg.user, asset=leg.asset, amount=format_units(leg.amount_units, leg.places))
            for leg in letter.legs
        ],
    )
