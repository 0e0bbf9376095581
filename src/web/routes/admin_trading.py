"""Trading states, and mass cancels of other people's orders: what an administrator reaches for when something is wrong.

They act in the matcher, on a way of their own that no flood of orders fills and that needs no database; so they work
while others are refused. ``commanding`` says how a command can end.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog
import trio
from quart import Blueprint, Response

from tradeengine.core.records import ACCOUNT_ID_NONE, CommandFlag, EventKind, TradingState
from tradeengine.core.symbols import SymbolSpec
from tradeengine.core.trading import cut
from tradeengine.storage.queries import live_order_ids
from tradeengine.web import commanding, placing
from tradeengine.web import schemas_trading as schemas
from tradeengine.web.access import Access, caller
from tradeengine.web.audit import audited
from tradeengine.web.commanding import Changed, refuse_if_absent, set_state
from tradeengine.web.dry_run import is_dry_run
from tradeengine.web.envelope import success
from tradeengine.web.errors import ApiError
from tradeengine.web.front import Front, current_front, read_json
from tradeengine.web.openapi import describe
from tradeengine.web.reasons import checked_reason
from tradeengine.web.routes.admin_users import known_account
from tradeengine.web.schemas import LISTED_MAX
from tradeengine.web.trading_states import trading_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tradeengine.core.trading import Trading

blueprint = Blueprint("admin_trading", __name__)
_TAG: Final = "administration"
_RESUMED_AT_ONCE: Final = 32
_decides = partial(describe, tags=_TAG, body=schemas.Why, query=schemas.DryRun, access=Access.ADMIN)
"""All calls here: an administrator says why, and may try it dry."""

_log = structlog.get_logger()


@blueprint.post("/trading/halt/<path:symbol>")
@_decides(answers={200: schemas.StateChangeAnswer}, urgent=True)
async def halt_symbol(symbol: str) -> Response:
    """Halt a symbol: no new orders, no amends, no matching, no triggers; cancels, expiry and mass cancels work.

    No trade of it has a later sequence than the answer's. It stays halted through restarts, until it is resumed. A halt
    of what is halted is answered 200, and its reason is told from then on. It needs no database. NOT_READY (503): the
    symbol's matcher is not there; it is halted when it is back, before anything else.
    """
    return await _set(symbol, TradingState.HALTED)


@blueprint.post("/trading/cancel-only/<path:symbol>")
@_decides(answers={200: schemas.StateChangeAnswer}, urgent=True)
async def set_cancel_only(symbol: str) -> Response:
    """Let a symbol take cancels only: the same as a halt, shown as a state of its own."""
    return await _set(symbol, TradingState.CANCEL_ONLY)


@blueprint.post("/trading/resume/<path:symbol>")
@_decides(answers={200: schemas.StateChangeAnswer})
async def resume_symbol(symbol: str) -> Response:
    """Open a symbol again, halted or taking cancels only. Orders that rest in the book have kept their places."""
    return await _set(symbol, TradingState.OPEN)


@blueprint.post("/trading/halt-all")
@_decides(answers={200: schemas.StateChangesAnswer}, urgent=True)
async def halt_all() -> Response:
    """Halt every symbol. One that is halted already keeps its reason, and is not resumed by resume-all.

    NOT_READY (503): some matcher is not there; its symbols are in details.pending, and are halted when it is back.
    """
    front = current_front()
    reason, dry_run = await _asked()
    specs = _listed(front)
    if dry_run:
        refuse_if_absent(front, None)
        changes = [_would_be(front, spec, TradingState.HALTED, reason, for_all=True) for spec in specs]
    else:
        changed = await set_state(front, None, TradingState.HALTED, reason)
        # One that was listed this moment may have no name here yet.
        known = front.pages.directory().symbols
        changes = [_shown(front, change) for change in changed if change.symbol_id in known]
    return _all_answer(changes, dry_run=dry_run)


@blueprint.post("/trading/resume-all")
@_decides(answers={200: schemas.StateChangesAnswer})
async def resume_all() -> Response:
    """Undo halt-all: each symbol that it halted becomes what it was before, open or cancel-only.

    Symbols that were halted by a call of their own, before or after, stay halted. NOT_READY (503): it is not known yet
    which call halted those in details.symbols, because the publisher is away or behind; nothing was done.
    """
    front = current_front()
    reason, dry_run = await _asked()
    halted = {
        spec: trading
        for spec in _listed(front)
        if (trading := trading_of(front.pages, spec.symbol_id)) is not None and trading.state is TradingState.HALTED
    }
    _refuse_if_unknown(halted)
    before = {spec: trading.before_all for spec, trading in halted.items() if trading.before_all is not None}
    changes: list[schemas.StateChange] = []
    if dry_run:
        changes = [_would_be(front, spec, state, reason) for spec, state in before.items()]
    else:
        changes = await _set_each(front, before, reason)
    return _all_answer(changes, dry_run=dry_run)


@blueprint.post("/orders/cancel-all/<user>")
@_decides(answers={200: schemas.AdminCancelledAnswer}, urgent=True)
async def cancel_all_of_user(user: str) -> Response:
    """Cancel all open orders and waiting stops of a user, in all symbols, whatever their states.

    They end with the reason ADMINISTRATOR. The user may place new ones, unless suspended.
    """
    return await _cancel(await known_account(current_front(), user), None)


@blueprint.post("/orders/cancel-symbol/<path:symbol>")
@_decides(answers={200: schemas.AdminCancelledAnswer}, urgent=True)
async def cancel_all_of_symbol(symbol: str) -> Response:
    """Cancel everyone's open orders and waiting stops in a symbol, whatever its state, which stays as it is.

    They end with the reason ADMINISTRATOR. Halt the symbol first if nobody shall place new ones.
    """
    front = current_front()
    return await _cancel(ACCOUNT_ID_NONE, front.symbol(symbol))


async def _set(symbol: str, state: TradingState) -> Response:
    front = current_front()
    spec = front.symbol(symbol)
    reason, dry_run = await _asked()
    if dry_run:
        refuse_if_absent(front, spec)
        change = _would_be(front, spec, state, reason)
    else:
        (changed,) = await set_state(front, spec, state, reason)
        change = _shown(front, changed)
    audited(before={"status": change.previous_status}, after={"status": change.status, "sequence": change.sequence})
    return success(change)


async def _set_each(front: Front, states: dict[SymbolSpec, TradingState], reason: str) -> list[schemas.StateChange]:
    """Set symbols' states, each by a command of its own. Raises the first ApiError, when all have ended."""
    changes: list[schemas.StateChange] = []
    errors: list[ApiError] = []
    limiter = trio.CapacityLimiter(_RESUMED_AT_ONCE)

    async def set_one(spec: SymbolSpec, state: TradingState) -> None:
        async with limiter:
            try:
                changes.extend(_shown(front, change) for change in await set_state(front, spec, state, reason))
            except ApiError as error:
                errors.append(error)

    async with trio.open_nursery() as nursery:
        for spec, state in states.items():
            nursery.start_soon(set_one, spec, state)
    if errors:
        errors[0].details["done"] = [change.symbol for change in changes]
        raise errors[0]
    return sorted(changes, key=lambda change: change.symbol)


async def _cancel(account_id: int, spec: SymbolSpec | None) -> Response:
    front = current_front()
    reason, dry_run = await _asked()
    if dry_run:
        refuse_if_absent(front, spec)
        await front.history.wait_settled()
        symbol_id = spec.symbol_id if spec else None
        total, ids = await front.database.run(live_order_ids, account_id or None, symbol_id, limit=LISTED_MAX)
        return success(_cancelled_view(0, total, ids, dry_run=True))
    command = placing.cancel_all_command(account_id, spec, 0, 0)
    command["flags"] = CommandFlag.BY_ADMINISTRATOR
    events = await commanding.carry_out(front, command, spec)
    ended = np.sort(events["order_id"][events["kind"] == EventKind.CANCELLED])[:LISTED_MAX]
    total = int(events["quantity_lots"][events["kind"] == EventKind.CANCELLED_ALL].sum())
    audited(after={"cancelled": total})
    _log.info("orders cancelled", by=caller().name, account_id=account_id, orders=total, reason=reason)
    return success(_cancelled_view(total, total, ended.tolist(), dry_run=False))


async def _asked() -> tuple[str, bool]:
    """Read why, and whether it is a dry run. Raises ApiError."""
    dry_run = is_dry_run()
    return checked_reason((await read_json(schemas.Why)).reason), dry_run


def _listed(front: Front) -> list[SymbolSpec]:
    specs = front.pages.directory().symbols.values()
    return [spec for spec in specs if trading_of(front.pages, spec.symbol_id) is not None]


def _refuse_if_unknown(halted: Mapping[SymbolSpec, Trading]) -> None:
    """Refuse to undo what was done to all while nobody can say what that was. Raises ApiError NOT_READY."""
    unknown = sorted(spec.name for spec, trading in halted.items() if trading.sequence < 0)
    if unknown:
        message = (
            "Which call halted these symbols is not known yet, because the publisher is away or behind. Nothing was "
            "done; try again in a moment, or resume each by a call of its own."
        )
        raise ApiError("NOT_READY", message, {"symbols": unknown})


def _would_be(
    front: Front, spec: SymbolSpec, state: TradingState, reason: str, *, for_all: bool = False
) -> schemas.StateChange:
    """Say what a command would do. Raises ApiError SYMBOL_NOT_FOUND for a symbol that is not listed yet."""
    trading = trading_of(front.pages, spec.symbol_id)
    if trading is None:
        raise ApiError("SYMBOL_NOT_FOUND", f"{spec.name} is not listed yet.", {"field": "symbol", "symbol": spec.name})
    stays = for_all and trading.state is state
    return schemas.StateChange(
        symbol=spec.name,
        status=_name(state),
        previous_status=_name(trading.state),
        sequence=None,
        reason=trading.reason if stays else cut(reason),
        dry_run=True,
    )


def _shown(front: Front, change: Changed) -> schemas.StateChange:
    stands = change.trading or trading_of(front.pages, change.symbol_id)
    spec = front.symbol_by_id(change.symbol_id)
    _log.info("trading state set", symbol=spec.name, by=caller().name, status=_name(change.state))
    return schemas.StateChange(
        symbol=spec.name,
        status=_name(change.state),
        previous_status=_name(change.previous),
        sequence=change.sequence,
        reason=stands.reason if stands else None,
        dry_run=False,
    )


def _all_answer(changes: list[schemas.StateChange], *, dry_run: bool) -> Response:
    new = [change for change in changes if change.status != change.previous_status]
    audited(
        before={change.symbol: change.previous_status for change in new},
        after={change.symbol: change.status for change in new},
    )
    return success(schemas.StateChanges(count=len(new), symbols=changes, dry_run=dry_run))


def _cancelled_view(cancelled: int, total: int, ids: list[int], *, dry_run: bool) -> schemas.AdminCancelled:
    orders = [str(order_id) for order_id in ids]
    return schemas.AdminCancelled(cancelled=cancelled, total=total, orders=orders, dry_run=dry_run)


def _name(state: TradingState) -> schemas.StateName:
    names: dict[TradingState, schemas.StateName] = {
        TradingState.OPEN: "open",
        TradingState.CANCEL_ONLY: "cancel_only",
        TradingState.HALTED: "halted",
    }
    return names[state]
