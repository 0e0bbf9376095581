"""Orders: place, look at, change, cancel."""

from __future__ import annotations

import time

import numpy as np
from quart import Blueprint, Response, request

from tradeengine.core.records import EventKind, Reason
from tradeengine.web import batches, placing, schemas, schemas_orders, trading
from tradeengine.web.access import Access, caller
from tradeengine.web.envelope import success
from tradeengine.web.errors import reason_error
from tradeengine.web.fences import parts_of_all, refuse_if_partly_done
from tradeengine.web.front import Front, current_front, read_json, read_json_value
from tradeengine.web.openapi import describe
from tradeengine.web.paging import decode_cursor, encode_cursor, parse_client_order_id, parse_id
from tradeengine.web.times import parse_ns
from tradeengine.web.validation import read_query
from tradeengine.web.views import Records

blueprint = Blueprint("orders", __name__)
_TAG = "orders"


@blueprint.post("/orders")
@describe(
    tags=_TAG,
    body=schemas.PlaceOrder,
    answers={201: schemas.OrderAndTradesAnswer, 200: schemas.OrderAndTradesAnswer},
    access=Access.TRADE,
)
async def place_order() -> Response:
    """Place an order.

    Answered once it is durable: 201 with the order and the trades it made at once; 200 when it is the repeat of an
    order that exists. OUTCOME_UNKNOWN (504): repeat the request with the client_order_id in the details.

    What an order holds until it ends: a sell its quantity, a buy at most price times quantity and the fee on it, a buy
    by quote_quantity that amount. A market buy by quantity counts with the best ask, a stop buy with its stop_price; it
    holds what its quantity costs at max_price_deviation above that, fee included, or all there is if that is less, and
    is refused when even the best ask, or the stop_price, cannot be paid. No order spends more than it holds: what is
    left of it then is cancelled (BUDGET).

    A stop waits as pending. It triggers when the last trade price reaches its stop_price, and one that is due already
    when it arrives triggers at once. Then it is a market order, or with a price (stop_limit) a limit order.

    Why an order ended is in status_reason; the schema Order has the full list.
    """
    front = current_front()
    identity = caller()
    wanted = await read_json(schemas.PlaceOrder)
    spec = front.symbol(wanted.symbol)
    account_id = await front.account_id(identity.name)
    command = placing.place_command(wanted, spec, account_id, time.time_ns(), front.command_timeout_ms)
    placing.note_second_factor(command, identity.two_factor)
    events = await front.ask(command, client_order_id=placing.client_order_id_of(command))
    outcome = trading.placed(front, command, events) or await trading.read_back(front, command, events)
    return success(outcome.data, 201 if outcome.created else 200)


@blueprint.post("/orders/batch")
@describe(
    tags=_TAG,
    body=schemas_orders.PlaceBatch,
    answers={200: schemas_orders.BatchAnswer},
    access=Access.TRADE,
)
async def place_batch() -> Response:
    """Place up to 100 orders in one request; it weighs as much as they would one by one.

    Each is placed or refused by itself: a wrong one does not stop the others, and nothing is taken back. They reach the
    engine in the order of the list. The answer has one element for each order, in that order: what POST /orders
    would have answered. The status is 200 whatever became of them; only a body that holds no such list is refused
    as a whole.

    A repeat of a batch places only what was not placed before, if each order has a client_order_id.
    """
    front = current_front()
    identity = caller()
    orders = batches.read_batch(await read_json_value())
    front.request_limits.charge_address(front.client_address(), len(orders) - 1, cancels=False)
    front.request_limits.charge_user(identity.name, len(orders) - 1, cancels=False)
    account_id = await front.account_id(identity.name)
    return success(await batches.place_batch(front, account_id, orders, two_factor=identity.two_factor))


@blueprint.post("/orders/cancel-all-after")
@describe(
    tags=_TAG,
    body=schemas_orders.CancelAllAfter,
    answers={200: schemas_orders.TimerAnswer},
    access=Access.TRADE,
    cancels=True,
)
async def cancel_all_after() -> Response:
    """Cancel all own open orders when the time is up, unless this is called again before: a dead-man's switch.

    An account has one timer for all its symbols. Each call sets it anew, from the moment in which the engine takes the
    call; 0 disarms it. It is for a client that may vanish: call it with 60,000, say, every 20 seconds, and when the
    calls end the orders end too, with the reason CANCEL_ALL_AFTER. Then the timer is gone: orders placed later stay.

    Answered once it is durable on all shards. From then on it holds, whatever becomes of the client, its connection, or
    the engine: if the time is up while the engine is down, the orders are cancelled when it starts, before anything
    can trade with them. Without an answer (OUTCOME_UNKNOWN), repeat the call.
    """
    front = current_front()
    account_id = await front.account_id(caller().name)
    wanted = await read_json(schemas_orders.CancelAllAfter)
    command = placing.timer_command(account_id, wanted.timeout_ms, time.time_ns(), front.command_timeout_ms)
    parts, fenced = parts_of_all(front)
    events = await front.ask(command, parts=parts)
    timer = trading.timer_set(wanted.timeout_ms, events).data
    refuse_if_partly_done(front, fenced)
    return success(timer)


@blueprint.post("/orders/test")
@describe(tags=_TAG, body=schemas.PlaceOrder, answers={200: schemas.CheckedOrderAnswer}, access=Access.TRADE)
async def test_order() -> Response:
    """Check an order without placing it: form, symbol, bounds; not the balance and not the book."""
    front = current_front()
    wanted = await read_json(schemas.PlaceOrder)
    spec = front.symbol(wanted.symbol)
    now_ns = time.time_ns()
    command = placing.place_command(wanted, spec, 0, now_ns, front.command_timeout_ms)
    placing.check_expiry(command, now_ns)
    return success(placing.check_order(command, spec))


@blueprint.get("/orders")
@describe(tags=_TAG, query=schemas.OrdersQuery, answers={200: schemas.OrdersAnswer}, access=Access.READ, weight=5)
async def list_orders() -> Response:
    """List own orders, newest first."""
    front = current_front()
    identity = caller()
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
    return success([trading.show(front, content) for content in page], next_cursor=next_cursor)


@blueprint.get("/orders/<order_id>")
@describe(tags=_TAG, answers={200: schemas.OrderAnswer}, access=Access.READ)
async def get_order(order_id: str) -> Response:
    """Look at one own order, open or closed."""
    front = current_front()
    account_id = await front.account_id(caller().name)
    content = await front.history.order(account_id, parse_id(order_id, "ORDER_NOT_FOUND"))
    return success(schemas.OrderOnly(trading.show(front, trading.found(content))))


@blueprint.get("/orders/by-client-id/<client_order_id>")
@describe(tags=_TAG, answers={200: schemas.OrderAnswer}, access=Access.READ)
async def get_order_by_client_id(client_order_id: str) -> Response:
    """Look at one own order by its client_order_id; the latest, should an old one have been used again."""
    front = current_front()
    account_id = await front.account_id(caller().name)
    content = await front.history.order_by_client_id(account_id, parse_client_order_id(client_order_id))
    return success(schemas.OrderOnly(trading.show(front, trading.found(content))))


@blueprint.delete("/orders/<order_id>")
@describe(tags=_TAG, answers={200: schemas.OrderAndTradesAnswer}, access=Access.TRADE, cancels=True)
async def cancel_order(order_id: str) -> Response:
    """Cancel an open order; ORDER_NOT_OPEN (409) when it has ended already."""
    front = current_front()
    account_id = await front.account_id(caller().name)
    number = parse_id(order_id, "ORDER_NOT_FOUND")
    command = placing.cancel_command(account_id, number, time.time_ns(), front.command_timeout_ms)
    events = await front.ask(command, order_id=order_id)
    return await _answer_change(front, events, account_id, number)


@blueprint.patch("/orders/<order_id>")
@describe(tags=_TAG, body=schemas.AmendOrder, answers={200: schemas.OrderAndTradesAnswer}, access=Access.TRADE)
async def amend_order(order_id: str) -> Response:
    """Change quantity, price or stop price of an open order.

    Less quantity alone keeps its place in the queue; any other change goes to the end of it. A refused change leaves
    the order as it was.
    """
    front = current_front()
    account_id = await front.account_id(caller().name)
    number = parse_id(order_id, "ORDER_NOT_FOUND")
    wanted = await read_json(schemas.AmendOrder)
    content = trading.found(await front.history.order(account_id, number))
    spec = front.symbol_by_id(content.symbol_id)
    command = placing.amend_command(wanted, spec, account_id, number, time.time_ns(), front.command_timeout_ms)
    placing.note_second_factor(command, caller().two_factor)
    events = await front.ask(command, order_id=order_id)
    return await _answer_change(front, events, account_id, number, wanted)


@blueprint.delete("/orders")
@describe(
    tags=_TAG,
    query=schemas.CancelQuery,
    answers={200: schemas.CancelledOrdersAnswer},
    access=Access.TRADE,
    cancels=True,
)
async def cancel_all_orders() -> Response:
    """Cancel all own open orders, or those of one symbol."""
    front = current_front()
    account_id = await front.account_id(caller().name)
    query = read_query(request.args, schemas.CancelQuery)
    spec = front.symbol(query.symbol) if query.symbol else None
    command = placing.cancel_all_command(account_id, spec, time.time_ns(), front.command_timeout_ms)
    parts, fenced = (1, frozenset[int]()) if spec else parts_of_all(front)
    events = await front.ask(command, parts=parts)
    if events[0]["kind"] == EventKind.REFUSED:
        raise reason_error(Reason(events[0]["reason"]))
    ended = np.sort(events["order_id"][events["kind"] == EventKind.CANCELLED])
    cancelled = int(events["quantity_lots"][events["kind"] == EventKind.CANCELLED_ALL].sum())
    shown = [str(order_id) for order_id in ended[: schemas.LISTED_MAX]]
    refuse_if_partly_done(front, fenced, cancelled=cancelled, orders=shown)
    return success(schemas.CancelledOrders(cancelled=cancelled, total=cancelled, orders=shown))


async def _answer_change(
    front: Front, events: Records, account_id: int, order_id: int, amend: schemas.AmendOrder | None = None
) -> Response:
    outcome = trading.changed(front, events, order_id, amend)
    if outcome is None:
        outcome = await trading.looked_up(front, account_id, events, order_id)
    return success(outcome.data)
