"""Batches of orders: checked one by one, sent one behind the other without waiting, answered each by itself.

Rule 1: nothing joins the orders of a batch: what is wrong with one is that one's answer, and the others go on. They
reach the engine in the order of the list, so those of one symbol are matched in that order.
Rule 2: an order of a batch is answered with what it would have been answered alone, repeats included.
It refuses to know HTTP.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import trio

from tradeengine.web import placing, trading
from tradeengine.web.errors import ApiError, invalid_field, overloaded
from tradeengine.web.gateway import OutcomeUnknown, Waiting
from tradeengine.web.schemas import Error, PlaceOrder
from tradeengine.web.schemas_orders import BATCH_MAX, BatchItem, RawBatch
from tradeengine.web.validation import read_body

if TYPE_CHECKING:
    from tradeengine.web.front import Front


def read_batch(value: Any) -> list[Any]:
    """Take the orders out of a decoded body, as they are. Raises ApiError."""
    if isinstance(value, dict):
        value = read_body(value, RawBatch).orders
    if not isinstance(value, list) or not 1 <= len(value) <= BATCH_MAX:
        message = f"A batch is a list of 1 to {BATCH_MAX} orders."
        raise invalid_field("orders", message, minimum=1, maximum=BATCH_MAX)
    return value


async def place_batch(front: Front, account_id: int, orders: list[Any], *, two_factor: bool) -> list[BatchItem]:
    """Place what is right of a batch; what became of each order, in order. Raises ApiError: then nothing was sent.

    two_factor: whether the caller has signed in with a second factor.
    """
    front.refuse_when_stopping()
    commands = [_command(front, account_id, raw, two_factor) for raw in orders]
    sent = await front.ask_each([command for command in commands if not isinstance(command, ApiError)])
    waiting = iter(sent)
    items = [_failed(overloaded())] * len(orders)

    async def answer(place: int, command: placing.Command, asked: Waiting | None) -> None:
        items[place] = await _outcome(front, command, asked)

    # Most answers are in the events; those that are in history are read side by side.
    async with trio.open_nursery() as nursery:
        for place, command in enumerate(commands):
            if isinstance(command, ApiError):
                items[place] = _failed(command)
            else:
                nursery.start_soon(answer, place, command, next(waiting))
    return items


def _command(front: Front, account_id: int, raw: Any, two_factor: bool) -> placing.Command | ApiError:
    """Make the command of one order, or say what is wrong with it."""
    if not isinstance(raw, dict):
        return ApiError("INVALID_REQUEST", "An order is a JSON object.", {"field": "orders"})
    try:
        wanted = read_body(raw, PlaceOrder)
        spec = front.symbol(wanted.symbol)
        command = placing.place_command(wanted, spec, account_id, time.time_ns(), front.command_timeout_ms)
    except ApiError as error:
        return error
    placing.note_second_factor(command, two_factor)
    return command


async def _outcome(front: Front, command: placing.Command, asked: Waiting | None) -> BatchItem:
    if asked is None:
        return _failed(overloaded())
    try:
        events = asked.events()
        outcome = trading.placed(front, command, events) or await trading.read_back(front, command, events)
    except OutcomeUnknown:
        return _failed(front.outcome_unknown({"client_order_id": placing.client_order_id_of(command)}))
    except ApiError as error:
        return _failed(error)
    return BatchItem(success=True, data=outcome.data)


def _failed(error: ApiError) -> BatchItem:
    return BatchItem(success=False, error=Error(code=error.code, message=error.message, details=error.details))
