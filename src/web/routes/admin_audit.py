"""The audit log, for administrators: who did what, the newest first."""

from __future__ import annotations

import datetime as dt
from typing import Literal, cast

from quart import Blueprint, Response, request

from tradeengine.core.times import format_ms
from tradeengine.storage.audit import Row, list_rows
from tradeengine.web import schemas_audit as schemas
from tradeengine.web.access import Access
from tradeengine.web.envelope import success
from tradeengine.web.errors import invalid_field
from tradeengine.web.front import current_front
from tradeengine.web.openapi import describe
from tradeengine.web.paging import decode_cursor, encode_cursor
from tradeengine.web.times import parse_ns
from tradeengine.web.validation import read_query

blueprint = Blueprint("admin_audit", __name__)


@blueprint.get("/audit")
@describe(tags="administration", query=schemas.AuditQuery, answers={200: schemas.AuditAnswer}, access=Access.ADMIN)
async def list_audit() -> Response:
    """List what administrators did, and what they were refused, the newest first.

    Every call that is not a read is here, and what changes something on the command line, each with what was before and
    after. Rows are never changed or removed: each holds the hash of the one before it, and `tradeengine audit verify`
    finds any that is missing or was altered. While the database is away rows wait on the engine's disk.
    """
    query = read_query(request.args, schemas.AuditQuery)
    for name in ("actor", "action"):
        if "\0" in (getattr(query, name) or ""):
            raise invalid_field(name, f"{name} must be printable characters.")
    found = await current_front().database.run(
        list_rows,
        limit=query.limit + 1,
        before_id=decode_cursor(query.cursor) if query.cursor else None,
        actor=query.actor,
        action=query.action,
        start=_moment("start", query.start),
        end=_moment("end", query.end),
    )
    page = found[: query.limit]
    next_cursor = encode_cursor(page[-1].link.id) if len(found) > query.limit else None
    return success([view(row) for row in page], next_cursor=next_cursor)


def view(row: Row) -> schemas.AuditRow:
    """Show a row."""
    entry = row.entry
    return schemas.AuditRow(
        id=str(row.link.id),
        time=format_ms(entry.time_us // 1000),
        actor=entry.actor,
        role=entry.role,
        credential=entry.credential,
        two_factor=entry.two_factor,
        action=entry.action,
        target=entry.target,
        details=entry.details,
        before=entry.before,
        after=entry.after,
        reason=entry.reason,
        request_id=entry.request_id,
        address=entry.address,
        outcome=cast("Literal['ok', 'refused', 'failed', 'unknown']", entry.outcome),
        code=entry.code,
        previous_hash=row.previous_hash.hex(),
        hash=row.link.hash.hex(),
    )


def _moment(field: str, text: str | None) -> dt.datetime | None:
    """Read a time, to the microsecond, up to the next one: bounds between two of them mean the later."""
    if text is None:
        return None
    microseconds = -(-parse_ns(field, text) // 1000)
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=microseconds)
