"""What batches of orders and timers look like in JSON."""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from tradeengine.web.fields import Time
from tradeengine.web.schemas import Error, OrderAndTrades, PlaceOrder, answer_of

BATCH_MAX: Final = 100
TIMEOUT_MS_MIN: Final = 1_000
TIMEOUT_MS_MAX: Final = 24 * 3600 * 1000


class PlaceBatch(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Orders to place. A body that is the list alone is taken too."""

    orders: Annotated[list[PlaceOrder], Meta(min_length=1, max_length=BATCH_MAX)]


class RawBatch(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The same before its orders are looked at: each is right or wrong by itself."""

    orders: list[Any]


class BatchItem(Struct, frozen=True, kw_only=True):
    """What became of one order of a batch: what ``POST /orders`` alone would have answered."""

    success: bool
    data: Annotated[OrderAndTrades | UnsetType, Meta(description="Where it succeeded.")] = UNSET
    error: Annotated[Error | UnsetType, Meta(description="Where it did not.")] = UNSET


class CancelAllAfter(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """When to cancel everything, unless told otherwise before."""

    timeout_ms: Annotated[
        int,
        Meta(
            description=f"From now, {TIMEOUT_MS_MIN} to {TIMEOUT_MS_MAX}; 0 disarms.",
            extra_json_schema={"minimum": 0, "maximum": TIMEOUT_MS_MAX},
        ),
    ]


class Timer(Struct, frozen=True, kw_only=True):
    """The timer as it now is."""

    timeout_ms: int
    triggers_at: Annotated[Time | None, Meta(description="null: it is disarmed.")]


BatchAnswer = answer_of("BatchAnswer", list[BatchItem])
TimerAnswer = answer_of("TimerAnswer", Timer)
