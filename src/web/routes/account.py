"""What a caller owns, pays, and has been credited and debited."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from quart import Blueprint, Response, request

from tradeengine.core.money import PPM_PLACES, format_units
from tradeengine.web import schemas, schemas_account
from tradeengine.web.access import Access, caller
from tradeengine.web.envelope import REQUEST_ID_HEADER, request_id, success
from tradeengine.web.errors import invalid_field
from tradeengine.web.front import Front, current_front, read_page
from tradeengine.web.openapi import describe
from tradeengine.web.statements import CSV_TYPE, decode_place, encode_place, entry_of, write_csv
from tradeengine.web.times import parse_ns
from tradeengine.web.validation import read_query
from tradeengine.web.views import balance_views

blueprint = Blueprint("account", __name__)
_TAG: Final = "account"
_JSON_TYPE: Final = "application/json"


@blueprint.get("/balances")
@describe(tags=_TAG, answers={200: schemas.BalancesAnswer}, access=Access.READ)
async def list_balances() -> Response:
    """List own balances, one per asset: everything that was answered before this call is in them."""
    front = current_front()
    account_id = await front.account_id(caller().name)
    await front.history.wait_folded()
    units = read_page(front.pages.balances, account_id)["units"]
    return success(balance_views(units, front.pages.directory().assets.values()))


@blueprint.get("/fees")
@describe(tags=_TAG, answers={200: schemas_account.FeesAnswer}, access=Access.READ)
async def list_fees() -> Response:
    """List what the caller pays in each symbol: of an order, the rate when it was placed counts."""
    specs = sorted(current_front().pages.directory().symbols.values(), key=lambda spec: spec.symbol_id)
    return success(
        [
            schemas_account.Fees(
                symbol=spec.name,
                maker_fee=format_units(spec.maker_fee_ppm, PPM_PLACES),
                taker_fee=format_units(spec.taker_fee_ppm, PPM_PLACES),
            )
            for spec in specs
        ]
    )


@blueprint.get("/ledger")
@describe(
    tags=_TAG,
    answers={200: schemas_account.LedgerAnswer},
    query=schemas_account.LedgerQuery,
    access=Access.READ,
    weight=5,
)
async def show_ledger() -> Response:
    """Show the account's statement, newest first: everything that came in or went out, and the balance after it.

    With `Accept: text/csv` the same as CSV, a column for each field; the address of the next page is then in the header
    `Link`. With a filter that little passes a page may have fewer entries than `limit`, or none, and be followed by
    others: it ends where there is no next page.
    """
    front = current_front()
    query = read_query(request.args, schemas_account.LedgerQuery)
    account_id = await front.account_id(caller().name)
    rows, below = await front.history.statement(
        account_id,
        asset_id=_asset_id(front, query.asset) if query.asset is not None else None,
        kind=query.kind,
        start_ns=parse_ns("start", query.start) if query.start else None,
        end_ns=parse_ns("end", query.end) if query.end else None,
        below=decode_place(query.cursor) if query.cursor else None,
        limit=query.limit,
    )
    assets = front.pages.directory().assets
    entries = [entry_of(row, assets) for row in rows]
    next_cursor = encode_place(below) if below is not None else None
    wants_csv = request.accept_mimetypes.best_match([_JSON_TYPE, CSV_TYPE]) == CSV_TYPE
    response = _as_csv(entries, next_cursor) if wants_csv else success(entries, next_cursor=next_cursor)
    response.headers.add("Vary", "Accept")
    return response


def _as_csv(entries: list[schemas_account.LedgerEntry], next_cursor: str | None) -> Response:
    response = Response(write_csv(entries), content_type=f"{CSV_TYPE}; charset=utf-8; header=present")
    response.headers[REQUEST_ID_HEADER] = request_id()
    if next_cursor is not None:
        parameters = {name: value for name, value in request.args.items() if name != "cursor"}
        address = f"{request.path}?{urlencode(parameters | {'cursor': next_cursor})}"
        response.headers["Link"] = f'<{address}>; rel="next"'
    return response


def _asset_id(front: Front, name: str) -> int:
    assets = front.pages.directory().asset_by_name
    asset = assets.get(name.upper())
    if asset is None:
        raise invalid_field("asset", "There is no such asset; see /api/v1/balances.", allowed=sorted(assets))
    return asset.asset_id
