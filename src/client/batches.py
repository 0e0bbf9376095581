"""The calls about many orders at once: batches, and the timer that cancels them all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from tradeengine.client.errors import ApiError
from tradeengine.client.fields import NewOrder, order_fields
from tradeengine.client.models import OrderAndTrades, Refusal
from tradeengine.client.transport import Transport


class Timer(Struct, frozen=True, kw_only=True):
    """When all own orders are cancelled, unless the timer is set anew before; None: never."""

    timeout_ms: int
    triggers_at: datetime | None


class BatchItem(Struct, frozen=True, kw_only=True):
    """What became of one order of a batch: ``data``, or ``error``."""

    success: bool
    data: OrderAndTrades | None = None
    error: Refusal | None = None


class BatchCalls:
    """A part of ``Client``."""

    _transport: Transport

    async def place_batch(self, orders: Sequence[NewOrder]) -> list[OrderAndTrades | ApiError]:
        """Place up to 100 orders at once, each by itself; in their order, what became of each.

        A refusal of one order is given, not raised. The batch is repeated as ``place`` is, and nothing is placed twice.
        """
        body = {"orders": [order_fields(order) for order in orders]}
        items = await self._transport.call(list[BatchItem], "POST", "/orders/batch", body=body)
        return [_outcome(item) for item in items]

    async def cancel_all_after(self, timeout_ms: int) -> Timer:
        """Cancel all own orders in so many milliseconds (1000 to a day), unless called again before; 0 disarms.

        The engine keeps the time, so it also holds when this program ends or loses its connection.
        """
        body = {"timeout_ms": timeout_ms}
        return await self._transport.call(Timer, "POST", "/orders/cancel-all-after", body=body)


def _outcome(item: BatchItem) -> OrderAndTrades | ApiError:
    if item.data is not None:
        return item.data
    assert item.error is not None
    return ApiError(item.error.code, item.error.message, item.error.details)
