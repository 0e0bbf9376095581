"""Orders: place, look at, change, cancel."""

from __future__ import annotations

import time

import numpy as np
from quart import Blueprint, Response, request

from tradeengine.core.records import EventKind, Reason
from tradeengine.storage.queries import OrderRow
from tradeengine.web import placing, schemas
from tradeengine.web.envelope import success
from tradeengine.web.errors import ApiError, reason_error
from tradeengine.web.front import Front, current_front, read_json
from tradeengine.web.openapi import describe
from tradeengine.web.paging import decode_cursor, encode_cursor, parse_id
from tradeengine.web.times import parse_ns
from tradeengine.web.validation import read_query
from tradeengine.web.views import Records, fold_order, order_view, own_trade_view, trades_of, was_triggered_before

blueprint = Blueprint("orders", __name__)
_TAG = "orders"


@blueprint.post("/orders")
@describe(
    tags=_TAG,
    body=schemas.PlaceOrder,
    answers={201: schemas.OrderAndTradesAnswer, 200: schemas.OrderAndTradesAnswer},
)
async def place_order() -> Response:
    """Place an order.

    Answered once it is durable: 201 with the order and the trades it made at once; 200 when it is the repeat of an
    order that exists. OUTCOME_UNKNOWN (504): repeat the request with the client_order_id in the details.
    """
    front = current_front()
    identity = front.identify()
    wanted = await read_json(schemas.PlaceOrder)
    spec = front.symbol(wanted.symbol)
    account_id = await front.account_id(identity.name)
    command = placing.place_command(wanted, spec, account_id, time.time_ns(), front.command_timeout_ms)
    client_order_id = bytes(command[0]["client_order_id"]).decode()
    events = await front.ask(command, client_order_id=client_order_id)
    first = events[0]
    if first["kind"] == EventKind.REFUSED:
        raise reason_error(Reason(first["reason"]), {"client_order_id": client_order_id})
    if first["kind"] == EventKind.REPEATED:
        return await _answer_repeat(front, account_id, int(first["order_id"]))
    return _answer_outcome(front, events, _fold(events, int(first["order_id"])), status=201)


@blueprint.post("/orders/test")
@describe(tags=_TAG, body=schemas.PlaceOrder, answers={200: schemas.CheckedOrderAnswer})
async def test_order() -> Response:
    """Check an order without placing it: form, symbol, bounds; not the balance and not the book."""
    front = current_front()
    front.identify()
    wanted = await read_json(schemas.PlaceOrder)
    spec = front.symbol(wanted.symbol)
    command = placing.place_command(wanted, spec, 0, time.time_ns(), front.command_timeout_ms)
    return success(placing.check_order(command, spec))


@blueprint.get("/orders")
@describe(tags=_TAG, query=schemas.OrdersQuery, answers={200: schemas.OrdersAnswer})
async def list_orders() -> Response:
    """List own orders, newest first."""
    front = current_front()
    identity = front.identify()
    query = read_query(request.args, schemas.OrdersQuery)
    account_id = await front.account_id(identity.name)
    found = await front.history.orders(
        account_id,
        symbol_id=front.symbol(query.symbol).symbol_id if query.symbol else None,
        statuses=query.status,
        side=query.side,
        order_type=query.type,
        start_ns=parse_ns("start", query.start) if query.start else None,
        end_ns=parse_ns("end", query.end) if query.end else None,
        before_id=decode_cursor(query.cursor) if query.cursor else None,
        limit=query.limit + 1,
    )
    page = found[: query.limit]
    next_cursor = encode_cursor(page[-1].order_id) if len(found) > query.limit else None
    return success([_show(front, content) for content in page], next_cursor=next_cursor)


@blueprint.get("/orders/<order_id>")
@describe(tags=_TAG, answers={200: schemas.OrderAnswer})
async def get_order(order_id: str) -> Response:
    """Look at one own order, open or closed."""
    front = current_front()
    account_id = await front.account_id(front.identify().name)
    content = await front.history.order(account_id, parse_id(order_id, "ORDER_NOT_FOUND"))
    return success(schemas.OrderOnly(_show(front, _found(content))))


@blueprint.get("/orders/by-client-id/<client_order_id>")
@describe(tags=_TAG, answers={200: schemas.OrderAnswer})
async def get_order_by_client_id(client_order_id: str) -> Response:
    """Look at one own order by its client_order_id; the latest, should an old one have been used again."""
    front = current_front()
    account_id = await front.account_id(front.identify().name)
    content = await front.history.order_by_client_id(account_id, client_order_id)
    return success(schemas.OrderOnly(_show(front, _found(content))))


@blueprint.delete("/orders/<order_id>")
@describe(tags=_TAG, answers={200: schemas.OrderAndTradesAnswer})
async def cancel_order(order_id: str) -> Response:
    """Cancel an open order; ORDER_NOT_OPEN (409) when it has ended already."""
    front = current_front()
    account_id = await front.account_id(front.identify().name)
    number = parse_id(order_id, "ORDER_NOT_FOUND")
    command = placing.cancel_command(account_id, number, time.time_ns(), front.command_timeout_ms)
    events = await front.ask(command, order_id=order_id)
    return await _answer_change(front, events, account_id, number)


@blueprint.patch("/orders/<order_id>")
@describe(tags=_TAG, body=schemas.AmendOrder, answers={200: schemas.OrderAndTradesAnswer})
async def amend_order(order_id: str) -> Response:
    """Change quantity, price or stop price of an open order.

    Less quantity alone keeps its place in the queue; any other change goes to the end of it. A refused change leaves
    the order as it was.
    """
    front = current_front()
    account_id = await front.account_id(front.identify().name)
    number = parse_id(order_id, "ORDER_NOT_FOUND")
    wanted = await read_json(schemas.AmendOrder)
    content = _found(await front.history.order(account_id, number))
    spec = front.symbol_by_id(content.symbol_id)
    command = placing.amend_command(wanted, spec, account_id, number, time.time_ns(), front.command_timeout_ms)
    events = await front.ask(command, order_id=order_id)
    return await _answer_change(front, events, account_id, number)


@blueprint.delete("/orders")
@describe(tags=_TAG, query=schemas.CancelQuery, answers={200: schemas.CancelledOrdersAnswer})
async def cancel_all_orders() -> Response:
    """Cancel all own open orders, or those of one symbol."""
    front = current_front()
    account_id = await front.account_id(front.identify().name)
    query = read_query(request.args, schemas.CancelQuery)
    spec = front.symbol(query.symbol) if query.symbol else None
    command = placing.cancel_all_command(account_id, spec, time.time_ns(), front.command_timeout_ms)
    events = await front.ask(command, parts=1 if spec else front.shard_count)
    if events[0]["kind"] == EventKind.REFUSED:
        raise reason_error(Reason(events[0]["reason"]))
    ended = events[events["kind"] == EventKind.CANCELLED]
    cancelled = int(events["quantity_lots"][events["kind"] == EventKind.CANCELLED_ALL].sum())
    return success(
        schemas.CancelledOrders(
            cancelled=cancelled, total=cancelled, orders=[str(order_id) for order_id in np.sort(ended["order_id"])]
        )
    )


def _show(front: Front, content: OrderRow) -> schemas.Order:
    return order_view(content, front.symbol_by_id(content.symbol_id))


def _found(content: OrderRow | None) -> OrderRow:
    if content is None:
        raise reason_error(Reason.ORDER_NOT_FOUND)
    return content


def _fold(events: Records, order_id: int) -> OrderRow:
    content = fold_order(events, order_id)
    assert content is not None
    return content


def _answer_outcome(front: Front, events: Records, content: OrderRow, status: int) -> Response:
    """Answer with what a command's events made of an order, and its trades."""
    order_id = content.order_id
    if content.status == "rejected":
        raise _rejection(content)
    spec = front.symbol_by_id(content.symbol_id)
    trades = [own_trade_view(trade, spec, order_id, "pending") for trade in trades_of(events, order_id)]
    return success(schemas.OrderAndTrades(order_view(content, spec), trades), status)


def _rejection(content: OrderRow) -> ApiError:
    """Turn an order that the matcher refused into an answer: it is stored, and its repeat says the same."""
    return reason_error(
        Reason(content.reason),
        {"order_id": str(content.order_id), "client_order_id": content.client_order_id},
    )


async def _answer_repeat(front: Front, account_id: int, order_id: int) -> Response:
    content = _found(await front.history.order(account_id, order_id))
    if content.status == "rejected":
        raise _rejection(content)
    spec = front.symbol_by_id(content.symbol_id)
    trades = await front.history.trades_of_order(order_id)
    shown = [own_trade_view(trade, spec, order_id, "settled") for trade in trades]
    return success(schemas.OrderAndTrades(order_view(content, spec), shown))


async def _answer_change(front: Front, events: Records, account_id: int, order_id: int) -> Response:
    """Answer a cancel or an amend; what the engine does not know any more, history may."""
    first = events[0]
    if first["kind"] != EventKind.REFUSED:
        content = _fold(events, order_id)
        if was_triggered_before(events, content):
            before = await front.history.order(account_id, order_id)
            content.triggered_ms = before.triggered_ms if before else 0
        return _answer_outcome(front, events, content, status=200)
    reason = Reason(first["reason"])
    if reason != Reason.ORDER_NOT_FOUND:
        raise reason_error(reason, {"order_id": str(order_id)})
    ended = _found(await front.history.order(account_id, order_id))
    raise ApiError(
        "ORDER_NOT_OPEN",
        f"The order has ended: it is {ended.status}.",
        {"order_id": str(order_id), "status": ended.status},
    )
