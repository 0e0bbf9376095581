"""What a command's events mean for who sent it: the order and its trades, or why not. HTTP and streams answer the same.

Most answers are in the events; a repeat, or an order that the engine does not know any more, is looked up in history.
It refuses to know how a question came and how the answer travels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from tradeengine.core.records import EventKind, Reason
from tradeengine.web import placing, schemas
from tradeengine.web.errors import ApiError, reason_error
from tradeengine.web.views import Records, fold_order, order_view, own_trade_view, trades_of, was_triggered_before

if TYPE_CHECKING:
    from tradeengine.storage.queries import OrderRow
    from tradeengine.web.front import Front


_PAUSE_S: Final = 0.005
_PAUSE_S_MAX: Final = 0.1


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer; ``created``: a new order, not one that was there."""

    data: schemas.OrderAndTrades
    created: bool


def placed(front: Front, command: placing.Command, events: Records) -> Outcome | None:
    """Answer a PLACE from its events; None: it is a repeat, see ``repeated``. Raises ApiError."""
    first = events[0]
    if first["kind"] == EventKind.REPEATED:
        return None
    if first["kind"] == EventKind.REFUSED:
        if first["reason"] == Reason.NUMBER_OUT_OF_RANGE:
            placing.check_expiry(command, int(first["timestamp_ns"]))
        raise _refusal(front, events, {"client_order_id": placing.client_order_id_of(command)})
    order_id = int(first["order_id"])
    return Outcome(_from_events(front, events, _fold(events, order_id)), created=True)


async def repeated(front: Front, command: placing.Command, events: Records) -> Outcome:
    """Answer a PLACE whose order was there already. Raises ApiError.

    Risk knows an order before a matcher has it, so it may still be on its way: it is waited for as long as a command.
    """
    order_id = int(events[0]["order_id"])
    content = await _arrived(front, int(command[0]["account_id"]), order_id)
    if content is None:
        raise front.outcome_unknown({"client_order_id": placing.client_order_id_of(command)})
    if content.status == "rejected":
        raise _rejection(content)
    spec = front.symbol_by_id(content.symbol_id)
    trades = await front.history.trades_of_order(order_id)
    shown = [own_trade_view(trade, spec, order_id, "settled") for trade in trades]
    return Outcome(schemas.OrderAndTrades(order_view(content, spec), shown), created=False)


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
    if was_triggered_before(events, content):
        return None
    return Outcome(_from_events(front, events, content), created=False)


async def looked_up(front: Front, account_id: int, events: Records, order_id: int) -> Outcome:
    """Answer a CANCEL or AMEND of an order that has ended, or that was a stop and fired earlier. Raises ApiError."""
    known = await front.history.order(account_id, order_id)
    if events[0]["kind"] != EventKind.REFUSED:
        content = _fold(events, order_id)
        content.triggered_ms = known.triggered_ms if known else 0
        return Outcome(_from_events(front, events, content), created=False)
    ended = found(known)
    raise ApiError(
        "ORDER_NOT_OPEN",
        f"The order has ended: it is {ended.status}.",
        {"order_id": str(order_id), "status": ended.status},
    )


def show(front: Front, content: OrderRow) -> schemas.Order:
    """Show an order."""
    return order_view(content, front.symbol_by_id(content.symbol_id))


def found(content: OrderRow | None) -> OrderRow:
    """Give the order that was looked for. Raises ApiError ORDER_NOT_FOUND."""
    if content is None:
        raise reason_error(Reason.ORDER_NOT_FOUND)
    return content


async def _arrived(front: Front, account_id: int, order_id: int) -> OrderRow | None:
    """Look for an order until it is there; None: it did not come in time."""
    pause_s = _PAUSE_S
    with trio.move_on_after(front.command_timeout_ms / 1000):
        while (content := await front.history.order(account_id, order_id)) is None:
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, _PAUSE_S_MAX)
        return content
    return None


def _fold(events: Records, order_id: int) -> OrderRow:
    content = fold_order(events, order_id)
    assert content is not None
    return content


def _from_events(front: Front, events: Records, content: OrderRow) -> schemas.OrderAndTrades:
    order_id = content.order_id
    if content.status == "rejected":
        raise _rejection(content)
    spec = front.symbol_by_id(content.symbol_id)
    trades = [own_trade_view(trade, spec, order_id, "pending") for trade in trades_of(events, order_id)]
    return schemas.OrderAndTrades(order_view(content, spec), trades)


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
    elif reason == Reason.QUANTITY_NOT_ABOVE_FILLED:
        error.details["field"] = "quantity"
    elif reason == Reason.INVALID_COMBINATION and (wrong := [name for name in given if name != "quantity"]):
        error.message = (
            f"This order has no {' and '.join(wrong)} to change; a stop that has triggered is none any more."
        )
        error.details |= {"field": wrong[-1], "fields": wrong}
    return error


def _rejection(content: OrderRow) -> ApiError:
    """Turn an order that the matcher refused into an answer: it is stored, and its repeat says the same."""
    details: dict[str, Any] = {"order_id": str(content.order_id), "client_order_id": content.client_order_id}
    return reason_error(Reason(content.reason), details)
