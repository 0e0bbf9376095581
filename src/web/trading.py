"""What a command's events mean for who sent it: the order and its trades, or why not. HTTP and streams answer the same.

Most answers are in the events; a repeat, an order that the engine does not know any more, and what more events are
about than a front keeps, are looked up in history.
It refuses to know how a question came and how the answer travels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import trio

from tradeengine.core.records import EventKind, LimitKind, Reason
from tradeengine.core.times import format_ms
from tradeengine.web import placing, schemas
from tradeengine.web.admission import Pauses
from tradeengine.web.errors import ApiError, reason_error
from tradeengine.web.gateway import is_cut
from tradeengine.web.placing import NS_PER_MS
from tradeengine.web.schemas_orders import Timer
from tradeengine.web.views import Records, fold_order, order_view, own_trade_view, trades_of, was_triggered_before

if TYPE_CHECKING:
    from tradeengine.storage.queries import OrderRow, TradeRow
    from tradeengine.web.front import Front


_LIMIT_NAMES: Final = {
    LimitKind.ORDER_NOTIONAL: "max_order_size",
    LimitKind.DAY_NOTIONAL: "max_daily_volume",
    LimitKind.OPEN_ORDERS: "max_open_orders",
    LimitKind.TWO_FACTOR: "requires_2fa_above",
    LimitKind.OPEN_NOTIONAL: "open_notional",
}
_PAUSE_S: Final = 0.005
_PAUSE_S_MAX: Final = 0.1


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer; ``created``: a new order, not one that was there."""

    data: schemas.OrderAndTrades
    created: bool


@dataclass(frozen=True, slots=True)
class TimerOutcome:
    """The answer to who set a timer."""

    data: Timer


def placed(front: Front, command: placing.Command, events: Records) -> Outcome | None:
    """Answer a PLACE from its events; None: history knows more, see ``read_back``. Raises ApiError."""
    first = events[0]
    if first["kind"] == EventKind.REPEATED or is_cut(events):
        return None
    if first["kind"] == EventKind.REFUSED:
        if first["reason"] == Reason.NUMBER_OUT_OF_RANGE:
            placing.check_expiry(command, int(first["timestamp_ns"]))
        raise _refusal(front, events, {"client_order_id": placing.client_order_id_of(command)})
    order_id = int(first["order_id"])
    return Outcome(_from_events(front, events, _fold(events, order_id)), created=True)


async def read_back(front: Front, command: placing.Command, events: Records) -> Outcome:
    """Answer a PLACE from history: of an order that was there already, or that made very many events. Raises ApiError.

    Risk knows an order before a matcher has it, so it may still be on its way: it is waited for as long as a command.
    """
    account_id, order_id = int(command[0]["account_id"]), int(events[0]["order_id"])
    details = {"client_order_id": placing.client_order_id_of(command)}
    if events[0]["kind"] != EventKind.REPEATED:
        return Outcome(await _from_history(front, account_id, events, order_id, details), created=True)
    content = await _carried_out(front, account_id, order_id, details)
    if content.status == "rejected":
        raise _rejection(content)
    try:
        trades = await front.history.trades_of_order(order_id, limit=schemas.LISTED_MAX)
        total = len(trades) if len(trades) < schemas.LISTED_MAX else await front.history.count_trades_of_order(order_id)
        return Outcome(await _settled_view(front, content, trades, total), created=False)
    except ApiError as error:
        raise front.outcome_unknown(details) from error


def changed(front: Front, events: Records, order_id: int, amend: schemas.AmendOrder | None = None) -> Outcome | None:
    """Answer a CANCEL or AMEND from its events; None: history knows more, see ``looked_up``. Raises ApiError.

    amend: what was asked for, so that a refusal can name the field.
    """
    first = events[0]
    if first["kind"] == EventKind.REFUSED:
        if first["reason"] == Reason.ORDER_NOT_FOUND:
            return None
        raise _refusal(front, events, {"order_id": str(order_id)}, amend)
    content = _fold(events, order_id)
    if was_triggered_before(events, content) or is_cut(events):
        return None
    return Outcome(_from_events(front, events, content), created=False)


async def looked_up(front: Front, account_id: int, events: Records, order_id: int) -> Outcome:
    """Answer a CANCEL or AMEND from history. Raises ApiError.

    The order has ended, or it was a stop that fired earlier, or the command made very many events.
    """
    if events[0]["kind"] != EventKind.REFUSED:
        details = {"order_id": str(order_id)}
        if is_cut(events):
            return Outcome(await _from_history(front, account_id, events, order_id, details), created=False)
        content = _fold(events, order_id)
        content.triggered_ms = (await _carried_out(front, account_id, order_id, details)).triggered_ms
        return Outcome(_from_events(front, events, content), created=False)
    ended = found(await front.history.order(account_id, order_id))
    raise ApiError(
        "ORDER_NOT_OPEN",
        f"The order has ended: it is {ended.status}.",
        {"order_id": str(order_id), "status": ended.status},
    )


def timer_set(timeout_ms: int, events: Records) -> TimerOutcome:
    """Answer a CANCEL_ALL_AFTER from its events, one of each shard. Raises ApiError."""
    first = events[0]
    if first["kind"] == EventKind.REFUSED:
        raise reason_error(Reason(first["reason"]))
    # All the same, unless risk died between two shards: then from the first of them on orders are cancelled.
    ends_ns = int(events["expires_at_ns"].min())
    triggers_at = format_ms(ends_ns // NS_PER_MS) if ends_ns else None
    return TimerOutcome(Timer(timeout_ms=timeout_ms, triggers_at=triggers_at))


def show(front: Front, content: OrderRow) -> schemas.Order:
    """Show an order."""
    return order_view(content, front.symbol_by_id(content.symbol_id))


def found(content: OrderRow | None) -> OrderRow:
    """Give the order that was looked for. Raises ApiError ORDER_NOT_FOUND."""
    if content is None:
        raise reason_error(Reason.ORDER_NOT_FOUND)
    return content


async def _from_history(
    front: Front, account_id: int, events: Records, order_id: int, details: dict[str, str]
) -> schemas.OrderAndTrades:
    """Answer a command of which not every event was kept: from history, but for the trades that are listed."""
    content = await _carried_out(front, account_id, order_id, details)
    first, last = (int(events["sequence"][place]) for place in (0, -1))
    try:
        total = await front.history.count_trades_of_order(order_id, first_sequence=first, last_sequence=last)
    except ApiError as error:
        raise front.outcome_unknown(details) from error
    return await _settled_view(front, content, trades_of(events, order_id), total)


async def _carried_out(front: Front, account_id: int, order_id: int, details: dict[str, str]) -> OrderRow:
    """Read an order after a command that was carried out: a failure to do so must not read as if nothing was done."""
    try:
        content = await _arrived(front, account_id, order_id)
    except ApiError as error:
        raise front.outcome_unknown(details) from error
    if content is None:
        raise front.outcome_unknown(details)
    return content


async def _arrived(front: Front, account_id: int, order_id: int) -> OrderRow | None:
    """Look for an order until it is there; None: it did not come in time. Raises ApiError."""
    pauses = Pauses(_PAUSE_S, _PAUSE_S_MAX)
    with trio.move_on_after(front.command_timeout_ms / 1000):
        while (content := await front.history.order(account_id, order_id)) is None:
            await pauses.take()
        return content
    return None


def _fold(events: Records, order_id: int) -> OrderRow:
    content = fold_order(events, order_id)
    assert content is not None
    return content


def _from_events(front: Front, events: Records, content: OrderRow) -> schemas.OrderAndTrades:
    if content.status == "rejected":
        raise _rejection(content)
    trades = trades_of(events, content.order_id)
    return _view(front, content, trades, len(trades), "pending")


async def _settled_view(front: Front, content: OrderRow, trades: list[TradeRow], total: int) -> schemas.OrderAndTrades:
    """Show trades that are in the ledger; where a wallet is outside, it may not have confirmed them."""
    listed = [trade.trade_id for trade in trades[: schemas.LISTED_MAX]]
    return _view(front, content, trades, total, "settled", await front.history.settlement_statuses(listed))


def _view(
    front: Front,
    content: OrderRow,
    trades: list[TradeRow],
    total: int,
    settled: str,
    unsettled: Mapping[int, str] = MappingProxyType({}),
) -> schemas.OrderAndTrades:
    spec = front.symbol_by_id(content.symbol_id)
    listed = [
        own_trade_view(trade, spec, content.order_id, unsettled.get(trade.trade_id, settled))
        for trade in trades[: schemas.LISTED_MAX]
    ]
    return schemas.OrderAndTrades(order_view(content, spec), listed, total)


def _refusal(
    front: Front, events: Records, details: dict[str, Any], amend: schemas.AmendOrder | None = None
) -> ApiError:
    """Turn the engine's refusal of a command into an answer that names, where it can, the field and the bound."""
    reason = Reason(events[0]["reason"])
    given = [name for name in ("quantity", "price", "stop_price") if amend is not None and getattr(amend, name)]
    error = reason_error(reason, details)
    if reason == Reason.BELOW_MIN_NOTIONAL:
        spec = front.symbol_by_id(int(events[0]["symbol_id"]))
        minimum = spec.quote.format(spec.notional_units_min)
        error.message = f"price times quantity must be at least {minimum} {spec.quote.name}."
        error.details |= {"field": (given or ["quantity"])[0], "minimum": minimum}
    elif reason in {Reason.LIMIT_EXCEEDED, Reason.TWO_FACTOR_REQUIRED}:
        error.details |= _limit_details(front, events[0])
    elif reason == Reason.QUANTITY_NOT_ABOVE_FILLED:
        error.details["field"] = "quantity"
    elif reason == Reason.INVALID_COMBINATION and (wrong := [name for name in given if name != "quantity"]):
        error.message = (
            f"This order has no {' and '.join(wrong)} to change; a stop that has triggered is none any more."
        )
        error.details |= {"field": wrong[-1], "fields": wrong}
    return error


def _limit_details(front: Front, event: Any) -> dict[str, Any]:
    """Name the limit that refused an order, with its maximum and how much of it is used, where that is known."""
    used, maximum = int(event["quantity_lots"]), int(event["notional_units"])
    limit = LimitKind(int(event["price_ticks"]))
    details: dict[str, Any] = {"limit": _LIMIT_NAMES[limit]}
    if limit == LimitKind.OPEN_ORDERS:
        return details | {"maximum": maximum, "used": used}
    quote = front.symbol_by_id(int(event["symbol_id"])).quote
    details |= {"asset": quote.name, "maximum": quote.format(maximum)}
    return details | ({"used": quote.format(used)} if used >= 0 else {})


def _rejection(content: OrderRow) -> ApiError:
    """Turn an order that the matcher refused into an answer: it is stored, and its repeat says the same."""
    details: dict[str, Any] = {"order_id": str(content.order_id), "client_order_id": content.client_order_id}
    return reason_error(Reason(content.reason), details)
