"""What administrators decide about symbols: how small and large an order may be, and how far a price may go.

A symbol's parameters are journaled by its matcher, and the row in PostgreSQL follows the matcher's event. A change is
made of what PostgreSQL has, and changes of one symbol wait for each other, so none undoes a part of another.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import structlog
import trio
from msgspec import UNSET
from quart import Blueprint, Response

from tradeengine.core.money import PPM_PLACES, NumberError, format_units, parse_units
from tradeengine.core.records import CommandKind, command_dtype
from tradeengine.core.symbols import COLLAR_PPM_MAX, ListingError, SymbolSpec
from tradeengine.storage.directory import change_symbol
from tradeengine.web import commanding
from tradeengine.web import schemas_admin as schemas
from tradeengine.web.access import Access, caller
from tradeengine.web.admission import pause
from tradeengine.web.audit import audited
from tradeengine.web.dry_run import is_dry_run
from tradeengine.web.envelope import success
from tradeengine.web.errors import ApiError, invalid_field
from tradeengine.web.front import Front, current_front, read_json
from tradeengine.web.openapi import describe
from tradeengine.web.schemas_trading import DryRun

blueprint = Blueprint("admin_symbols", __name__)
_TAG = "administration"
_PAGE_PAUSE_S: Final = 0.02
_PAGE_TIMEOUT_S: Final = 5.0
_FIELDS: Final = {
    "quantity_min": "min_order_size",
    "quantity_max": "max_order_size",
    "max_price_deviation": "max_price_deviation",
}
"""What the API calls the parameters of a symbol."""

_log = structlog.get_logger()


@blueprint.get("/limits/symbol/<path:symbol>")
@describe(tags=_TAG, answers={200: schemas.SymbolLimitsAnswer}, access=Access.ADMIN)
async def show_symbol_limits(symbol: str) -> Response:
    """Show the bounds of a symbol's orders."""
    return success(_limits_view(current_front().symbol(symbol)))


@blueprint.post("/limits/symbol/<path:symbol>")
@describe(
    tags=_TAG,
    body=schemas.ChangeSymbolLimits,
    query=DryRun,
    answers={200: schemas.SymbolLimitsAnswer},
    access=Access.ADMIN,
    weight=5,
)
async def change_symbol_limits(symbol: str) -> Response:
    """Change the bounds of a symbol's orders; what is left out stays.

    They count from the answer on for orders that come then; open orders stay as they are. The change is in the journal
    of the symbol's matcher and survives restarts.
    """
    front = current_front()
    spec = front.symbol(symbol)
    wanted = await read_json(schemas.ChangeSymbolLimits)
    if all(getattr(wanted, name) is UNSET for name in wanted.__struct_fields__):
        raise ApiError("INVALID_REQUEST", f"Give at least one of {', '.join(wanted.__struct_fields__)}.")
    changes = _changes(wanted, spec)
    audited(target=spec.name, before=_limits_view(spec))

    def change(present: SymbolSpec) -> SymbolSpec:
        nonlocal spec
        spec = present
        changed = replace(present, **changes)
        changed.require_level_sum(front.settings.limits.orders_max)
        return changed

    def carry_out(changed: SymbolSpec) -> None:
        """Wait for the engine in the thread of the query, which keeps other changes waiting."""
        trio.from_thread.run(_set_parameters, front, changed)

    try:
        if is_dry_run():
            return success(_limits_view(change(spec)))
        changed = await front.database.run(change_symbol, spec.symbol_id, change, carry_out)
    except ListingError as error:
        raise _misfit(error) from None
    _log.info("symbol changed", symbol=spec.name, by=caller().name, **changes)
    after = _limits_view(changed)
    audited(before=_limits_view(spec), after=after)
    return success(after)


async def _set_parameters(front: Front, spec: SymbolSpec) -> None:
    """Have the matcher take parameters over; return when PostgreSQL and the directory have them. Raises ApiError."""
    await commanding.carry_out(front, spec.to_command(CommandKind.SET_PARAMETERS).view(command_dtype), spec)
    await front.history.wait_settled()
    # The page follows the database in a moment; should it not, the engine has the parameters all the same.
    with trio.move_on_after(_PAGE_TIMEOUT_S):
        while front.symbol_by_id(spec.symbol_id) != spec:
            await pause(_PAGE_PAUSE_S)


def _changes(wanted: schemas.ChangeSymbolLimits, spec: SymbolSpec) -> dict[str, Any]:
    """Turn decimals into what a symbol is made of. Raises ApiError."""
    changes: dict[str, int] = {}
    if wanted.min_order_size is not UNSET:
        changes["quantity_lots_min"] = _lots("min_order_size", wanted.min_order_size, spec)
    if wanted.max_order_size is not UNSET:
        changes["quantity_lots_max"] = _lots("max_order_size", wanted.max_order_size, spec)
    if wanted.max_price_deviation is not UNSET:
        changes["collar_ppm"] = _collar_ppm(wanted.max_price_deviation)
    return changes


def _misfit(error: ListingError) -> ApiError:
    """Say in the API's words why a symbol cannot be so."""
    message = error.message
    for inside, outside in _FIELDS.items():
        message = message.replace(inside, outside)
    field = _FIELDS[error.field]
    return invalid_field(field, f"{field} does not fit: {message}.", "NUMBER_OUT_OF_RANGE")


def _lots(field: str, text: str, spec: SymbolSpec) -> int:
    try:
        units = spec.base.parse(text)
    except NumberError as error:
        raise invalid_field(field, f"{field} {error.message}.", error.fault.value) from None
    lots, rest = divmod(units, spec.lot_units)
    if rest:
        raise invalid_field(field, f"{field} must be a multiple of {spec.lot}.", "QUANTITY_NOT_ON_LOT", lot=spec.lot)
    return lots


def _collar_ppm(text: str | None) -> int:
    if text is None:
        return 0
    field, maximum = "max_price_deviation", format_units(COLLAR_PPM_MAX, PPM_PLACES)
    try:
        ppm = parse_units(text, PPM_PLACES)
    except NumberError as error:
        raise invalid_field(field, f"{field} {error.message}.", error.fault.value) from None
    if not 0 < ppm <= COLLAR_PPM_MAX:
        message = f"{field} must be more than 0 and at most {maximum}, or null: no collar."
        raise invalid_field(field, message, "NUMBER_OUT_OF_RANGE", maximum=maximum)
    return ppm


def _limits_view(spec: SymbolSpec) -> schemas.SymbolLimits:
    return schemas.SymbolLimits(
        symbol=spec.name,
        min_order_size=spec.format_quantity(spec.quantity_lots_min),
        max_order_size=spec.format_quantity(spec.quantity_lots_max),
        max_price_deviation=format_units(spec.collar_ppm, PPM_PLACES) if spec.collar_ppm else None,
    )
