"""Symbols as administrators see them, and listing one while the engine runs."""

from __future__ import annotations

import re
from typing import Any, Final

import psycopg
import structlog
import trio
from quart import Blueprint, Response

from tradeengine.core.money import NumberError, parse_decimal
from tradeengine.core.records import CommandKind, EventKind, Reason, TradingState, command_dtype
from tradeengine.core.symbols import ListingError, SymbolSpec
from tradeengine.core.times import format_ms
from tradeengine.ipc.seqlock import SeqlockBusy
from tradeengine.storage.directory import DirectoryFullError, SymbolRow, remove_pending_symbol
from tradeengine.storage.listing import ExistsOtherwiseError, OffStepError, Room, Wanted, request_listing
from tradeengine.storage.live_counts import count_live_orders
from tradeengine.web import commanding
from tradeengine.web import schemas_trading as schemas
from tradeengine.web.access import Access, caller
from tradeengine.web.admission import pause
from tradeengine.web.audit import audited
from tradeengine.web.commanding import refuse_if_absent
from tradeengine.web.dry_run import is_dry_run
from tradeengine.web.envelope import success
from tradeengine.web.errors import ApiError, invalid_field
from tradeengine.web.front import Front, current_front, read_json
from tradeengine.web.openapi import describe
from tradeengine.web.routes.market import symbol_view
from tradeengine.web.trading_states import trading_of

blueprint = Blueprint("admin_listing", __name__)
_TAG: Final = "administration"
_NS_PER_MS: Final = 1_000_000
_PAGE_PAUSE_S: Final = 0.01
_PAGE_TIMEOUT_S: Final = 5.0
_NAME: Final = re.compile(r"([A-Z0-9]{1,16})/([A-Z0-9]{1,16})")
_DECIMALS: Final = (
    "tick",
    "lot",
    "price_max",
    "quantity_min",
    "quantity_max",
    "min_notional",
    "maker_fee",
    "taker_fee",
)
_API_FIELDS: Final = {"quote": "symbol", "name": "symbol"}

_log = structlog.get_logger()


@blueprint.get("/symbols")
@describe(tags=_TAG, answers={200: schemas.SymbolStatusesAnswer}, access=Access.ADMIN, weight=2)
async def list_symbol_statuses() -> Response:
    """List all symbols with their states, since when and why, their best prices, and how many orders are open."""
    front = current_front()
    specs = sorted(front.pages.directory().symbols.values(), key=lambda spec: spec.symbol_id)
    counts = await _open_orders(front, [spec.symbol_id for spec in specs])
    return success([_status_view(front, spec, counts) for spec in specs])


@blueprint.post("/symbols")
@describe(
    tags=_TAG,
    body=schemas.ListSymbol,
    query=schemas.DryRun,
    answers={201: schemas.ListedAnswer, 200: schemas.ListedAnswer},
    access=Access.SUPER_ADMIN,
    weight=10,
)
async def list_symbol() -> Response:
    """List a symbol: it can be traded on every front when this is answered, and after every restart.

    Assets that do not exist yet are made, with base_places and quote_places. 201: it is listed now; 200: it was listed
    just so before, or it is a dry run. SYMBOL_EXISTS, ASSET_EXISTS (409): it is there with other terms, which
    details.fields names. LIMIT_EXCEEDED (422): the engine was started with room for no more. After a failure repeat the
    same: what is begun is brought to its end, at the latest by the next start.
    """
    front = current_front()
    dry_run = is_dry_run()
    wanted = _wanted(await read_json(schemas.ListSymbol))
    row, created = await _request(front, wanted, dry_run=dry_run)
    created = created or not row.listed
    if not dry_run:
        await _bring_in(front, row)
        _log.info("symbol listed", symbol=row.spec.name, shard=row.spec.shard, by=caller().name)
    elif created:
        refuse_if_absent(front, row.spec)
    shown = symbol_view(row.spec, _status(front, row, dry_run=dry_run))
    audited(target=row.spec.name, after=shown)
    listed = schemas.Listed(symbol=shown, created=created, dry_run=dry_run)
    return success(listed, 201 if created and not dry_run else 200)


async def _request(front: Front, wanted: Wanted, *, dry_run: bool) -> tuple[SymbolRow, bool]:
    """Write the rows that are missing. Raises ApiError."""
    limits = front.settings.limits
    room = Room(front.shard_count, limits.assets_max, limits.symbols_max, limits.orders_max)
    try:
        return await front.database.run(request_listing, wanted, room, dry_run=dry_run)
    except ExistsOtherwiseError as error:
        code = "SYMBOL_EXISTS" if error.field == "symbol" else "ASSET_EXISTS"
        raise ApiError(code, str(error), {"field": error.field, "fields": list(error.fields)}) from None
    except ListingError as error:
        raise _misfit(error, wanted) from None
    except DirectoryFullError as error:
        name, maximum = ("symbols_max", limits.symbols_max)
        if "assets_max" in str(error):
            name, maximum = ("assets_max", limits.assets_max)
        details = {"field": "symbol", "limit": f"limits.{name}", "maximum": maximum}
        raise ApiError("LIMIT_EXCEEDED", f"There is no room for it: {error}.", details) from None


async def _bring_in(front: Front, row: SymbolRow) -> None:
    """Have the matcher list a symbol that is not listed yet, and return when everybody knows it. Raises ApiError."""
    spec = row.spec
    if trading_of(front.pages, spec.symbol_id) is None:
        command = spec.to_command(CommandKind.LIST_SYMBOL, row.trading_state).view(command_dtype)
        try:
            events = await commanding.carry_out(front, command, spec)
        except ApiError as error:
            # Somebody else, who asked for the same, was sooner.
            if error.details.get("reason") != Reason.SYMBOL_EXISTS.name:
                if error.status < 500:
                    await front.database.run(remove_pending_symbol, spec.symbol_id)
                raise
        else:
            assert events[0]["kind"] == EventKind.SYMBOL_LISTED
    await front.history.wait_settled()
    with trio.move_on_after(_PAGE_TIMEOUT_S):
        while not _is_known(front, spec):
            await pause(_PAGE_PAUSE_S)
        return
    message = f"{spec.name} is listed, and its name is not known everywhere yet; it will be. Look again in a moment."
    raise ApiError("NOT_READY", message, {"symbol": spec.name})


def _is_known(front: Front, spec: SymbolSpec) -> bool:
    known = spec.symbol_id in front.pages.directory().symbols
    return known and trading_of(front.pages, spec.symbol_id) is not None


def _wanted(body: schemas.ListSymbol) -> Wanted:
    """Read what is to be listed. Raises ApiError."""
    found = _NAME.fullmatch(body.symbol.upper().replace("-", "/", 1))
    if found is None:
        message = "symbol must be BASE/QUOTE, each 1 to 16 of A-Z and 0-9."
        raise invalid_field("symbol", message, allowed="BASE/QUOTE, each 1 to 16 of A-Z and 0-9")
    decimals: dict[str, str] = {name: getattr(body, name) for name in _DECIMALS}
    decimals["max_price_deviation"] = body.max_price_deviation or "0"
    for name, text in decimals.items():
        try:
            parse_decimal(text)
        except NumberError as error:
            raise invalid_field(name, f"{name} {error.message}.", error.fault.value) from None
    return Wanted(
        base=found[1],
        quote=found[2],
        base_places=body.base_places,
        quote_places=body.quote_places,
        decimals=decimals,
        shard=body.shard,
        state=TradingState[body.status.upper()],
    )


def _misfit(error: ListingError, wanted: Wanted) -> ApiError:
    """Say in the API's words why a symbol cannot be so."""
    field = _API_FIELDS.get(error.field, error.field)
    if field == "places":
        field = "base_places" if wanted.base_places is not None else "quote_places"
    code = "NUMBER_OUT_OF_RANGE"
    if isinstance(error, OffStepError):
        code = "PRICE_NOT_ON_TICK" if field == "price_max" else "QUANTITY_NOT_ON_LOT"
    elif field == "symbol" or "needed" in error.message:
        code = "INVALID_REQUEST"
    return invalid_field(field, f"{field} {error.message}.", code)


async def _open_orders(front: Front, symbol_ids: list[int]) -> dict[int, int] | None:
    """Count open orders by symbol; None: the database does not answer in time."""
    try:
        return await front.database.run(count_live_orders, symbol_ids)
    except (ApiError, psycopg.errors.QueryCanceled):
        return None


def _status(front: Front, row: SymbolRow, *, dry_run: bool) -> Any:
    trading = trading_of(front.pages, row.spec.symbol_id)
    if trading is None and not dry_run:
        return "unlisted"
    return (trading.state if trading else row.trading_state).name.lower()


def _status_view(front: Front, spec: SymbolSpec, counts: dict[int, int] | None) -> schemas.SymbolStatus:
    trading = trading_of(front.pages, spec.symbol_id)
    try:
        touch = front.pages.touch.read(spec.symbol_id) if trading else None
    except SeqlockBusy:
        touch = None
    known = trading is not None and trading.timestamp_ns > 0

    def price(name: str) -> str | None:
        ticks = int(touch[name]) if touch is not None else 0
        return spec.format_price(ticks) if ticks else None

    status: Any = trading.state.name.lower() if trading else "unlisted"
    return schemas.SymbolStatus(
        symbol=spec.name,
        shard=spec.shard,
        status=status,
        reason=trading.reason if trading else None,
        changed_at=format_ms(trading.timestamp_ns // _NS_PER_MS) if trading and known else None,
        sequence=trading.sequence if trading and known else None,
        best_bid=price("best_bid_ticks"),
        best_ask=price("best_ask_ticks"),
        last_price=price("last_price_ticks"),
        open_orders=None if counts is None else counts.get(spec.symbol_id, 0),
    )
