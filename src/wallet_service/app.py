"""The wallet service's calls: one entry in the books for each, under the caller's id.

Rule 1: a first request is answered 201, a repeat 200 with the same data; the same id with another content 409.
Rule 2: transfers, debits and credits move reserved money; reservations and releases move a user's money between the
two parts; deposits come from outside.
Rule 3: every call but ``/health`` needs the secret that the engine and the service share.
It refuses to know SQL and trades.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Sequence
from typing import Any, Final, cast
from urllib.parse import unquote

import msgspec
from quart import Blueprint, Response, current_app, request
from quart_trio import QuartTrio

from tradeengine.core.times import format_ms
from tradeengine.wallet_service import schemas
from tradeengine.wallet_service.store import (
    NOBODY,
    Entry,
    Kind,
    Line,
    Made,
    Outcome,
    UserBalance,
    check,
    find_entry,
    list_balances,
)
from tradeengine.wallet_service.writer import Writer
from tradeengine.web import faults
from tradeengine.web.connection import FrontRequest, HttpConnection
from tradeengine.web.database import Database
from tradeengine.web.envelope import success
from tradeengine.web.errors import ApiError, invalid_field
from tradeengine.web.jsonbody import read_object
from tradeengine.web.validation import read_body, read_query

BODY_BYTES_MAX: Final = 65_536
IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
_MS: Final = 1000

blueprint = Blueprint("wallet", __name__)


class WalletApp(QuartTrio):
    """The service's application."""

    database: Database
    writer: Writer
    secret: str
    asgi_http_class = HttpConnection
    request_class = FrontRequest


def create_app(database: Database, writer: Writer, secret: str) -> WalletApp:
    """Join the calls to the books."""
    app = WalletApp("tradeengine-wallet", static_folder=None)
    app.database, app.writer, app.secret = database, writer, secret
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES_MAX
    app.url_map.merge_slashes = False
    app.register_blueprint(blueprint)
    faults.attach(app)
    app.before_request(_check_secret)
    return app


@blueprint.get("/health")
async def show_health() -> Response:
    """Say that requests are taken: the database answers."""
    await _app().database.run(check)
    return success({"status": "healthy"})


@blueprint.post("/v1/transfers")
async def make_transfer() -> Response:
    """Debit and credit reserved money, all legs or none."""
    asked = read_body(_body(), schemas.TransferRequest)
    legs = [msgspec.structs.replace(leg, amount=schemas.canonical_amount(leg.amount)) for leg in asked.legs]
    schemas.check_balanced(legs)
    lines = [_line(leg.user, leg.asset, "reserved", leg.amount, leg.direction == "credit") for leg in legs]
    return await _make(Kind.TRANSFER, asked.id, {"legs": legs}, lines)


@blueprint.post("/v1/debits")
async def make_debit() -> Response:
    """Debit reserved money; the other side stays in the clearing account until someone is credited."""
    return await _move(Kind.DEBIT, "reserved", "clearing")


@blueprint.post("/v1/credits")
async def make_credit() -> Response:
    """Credit reserved money from the clearing account."""
    return await _move(Kind.CREDIT, "clearing", "reserved")


@blueprint.post("/v1/reservations")
async def make_reservation() -> Response:
    """Reserve available money for trading."""
    return await _move(Kind.RESERVATION, "available", "reserved")


@blueprint.post("/v1/releases")
async def make_release() -> Response:
    """Give reserved money back to the user."""
    return await _move(Kind.RELEASE, "reserved", "available")


@blueprint.post("/v1/deposits")
async def make_deposit() -> Response:
    """Take in money that arrived from outside."""
    return await _move(Kind.DEPOSIT, "outside", "available")


@blueprint.get("/v1/transfers/<id_>")
async def show_transfer(id_: str) -> Response:
    """Show a transfer that was made."""
    stored = await _app().database.run(find_entry, Kind.TRANSFER, id_)
    if stored is None:
        raise ApiError("NOT_FOUND", "There is no such transfer.", {"field": "id"})
    return success(_entry_data(Kind.TRANSFER, id_, stored.content, Made(Outcome.MADE, stored.number, stored.made_at)))


@blueprint.get("/v1/balances")
async def show_balances() -> Response:
    """List what users have, in order of user and asset."""
    query = read_query(request.args, schemas.BalancesQuery)
    after = ("", "") if query.cursor is None else _read_cursor(query.cursor)
    rows = await _app().database.run(lambda *given: list(list_balances(*given)), query.user, after, query.limit + 1)
    page = rows[: query.limit]
    next_cursor = _make_cursor(page[-1]) if len(rows) > query.limit else None
    return success([_balance_data(row) for row in page], next_cursor=next_cursor)


async def _move(kind: Kind, source: str, target: str) -> Response:
    """Move one user's amount from a part to another."""
    asked = read_body(_body(), schemas.SingleRequest)
    amount = schemas.canonical_amount(asked.amount)
    lines = [
        _line(_owner(source, asked.user), asked.asset, source, amount, False),
        _line(_owner(target, asked.user), asked.asset, target, amount, True),
    ]
    return await _make(kind, asked.id, {"user": asked.user, "asset": asked.asset, "amount": amount}, lines)


async def _make(kind: Kind, id_: str, content: dict[str, Any], lines: Sequence[Line]) -> Response:
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is not None and unquote(key) != id_:
        raise invalid_field(IDEMPOTENCY_HEADER, f"{IDEMPOTENCY_HEADER} must be the id of the body, or left out.")
    text = msgspec.json.encode(content).decode()
    made = await _app().writer.make(Entry(kind, id_, text, tuple(lines)))
    if made.outcome is Outcome.REUSED:
        raise ApiError("REFERENCE_REUSED", f"The id {id_} names another {kind} already.", {"field": "id"})
    if made.outcome is Outcome.INSUFFICIENT:
        raise ApiError("INSUFFICIENT_BALANCE", "The user has not got so much; nothing was done.")
    if made.outcome is Outcome.TOO_LARGE:
        raise invalid_field("amount", "The user would have more than the books can hold.", "NUMBER_OUT_OF_RANGE")
    return success(_entry_data(kind, id_, text, made), 201 if made.outcome is Outcome.MADE else 200)


def _line(user: str, asset: str, part: str, amount: str, plus: bool) -> Line:
    return Line(user, asset, part, amount if plus else f"-{amount}")


def _owner(part: str, user: str) -> str:
    return user if part in {"available", "reserved"} else NOBODY


def _entry_data(kind: Kind, id_: str, content: str, made: Made) -> dict[str, Any]:
    assert made.made_at is not None
    made_at = format_ms(int(made.made_at.timestamp() * _MS))
    return {"id": id_, "kind": kind.value, "number": made.number, "made_at": made_at, **json.loads(content)}


def _balance_data(row: UserBalance) -> dict[str, str]:
    return {"user": row.user_name, "asset": row.asset, "available": row.available, "reserved": row.reserved}


def _make_cursor(last: UserBalance) -> str:
    return base64.urlsafe_b64encode(f"{last.user_name}\n{last.asset}".encode()).decode()


def _read_cursor(cursor: str) -> tuple[str, str]:
    try:
        user, _, asset = (
            base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True).decode().partition("\n")
        )
    except ValueError:
        raise invalid_field("cursor", "cursor must be the meta.next_cursor of the answer before.") from None
    return user.replace("\0", ""), asset.replace("\0", "")


async def _check_secret() -> None:
    """Refuse whoever does not know the secret. Raises ApiError UNAUTHORIZED."""
    if request.path == "/health":
        return
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), _app().secret.encode()):
        raise ApiError("UNAUTHORIZED", "This call needs the wallet's secret.", headers={"WWW-Authenticate": "Bearer"})


def _body() -> dict[str, Any]:
    return read_object(cast(FrontRequest, request).whole_body())


def _app() -> WalletApp:
    return cast(WalletApp, current_app)
