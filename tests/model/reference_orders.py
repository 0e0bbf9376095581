"""What the reference book is made of: orders, queues, markets, plans, and the arithmetic of money.

Rule 1: integers of any size; a fee is rounded once, from the exact sum of all that the order owes.
It refuses to know commands and how a taker's way is found.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sortedcontainers import SortedDict

from tradeengine.core.records import (
    EventFlag,
    EventKind,
    OrderType,
    Reason,
    Side,
    TradingState,
    amended_event_dtype,
    event_dtype,
    symbol_event_dtype,
    trading_event_dtype,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Event = dict[str, Any]

PPM: Final = 1_000_000
LIMITED: Final = (OrderType.LIMIT, OrderType.STOP_LIMIT)


def ceil_millions(millionths: int) -> int:
    """Round millionths up to whole units."""
    return -(-millionths // PPM)


def cost(notional_units: int, rate_ppm: int, owed: int, fee: int) -> int:
    """Units that a buy of this notional takes: itself, and what the order's fee (``fee`` so far) grows by."""
    return notional_units + ceil_millions(owed + notional_units * rate_ppm) - fee


def affordable(lot_price: int, budget: int, rate_ppm: int, owed: int, fee: int) -> int:
    """Most lots that a budget pays for."""
    lots = range(1, budget // lot_price + 1)
    return bisect_right(lots, budget, key=lambda count: cost(count * lot_price, rate_ppm, owed, fee))


def is_in_reach(side: int, price: int, bound: int | None) -> bool:
    """Whether a taker of this side may trade at a price. bound: worst price allowed; None: any."""
    if bound is None:
        return True
    return price <= bound if side == Side.BUY else price >= bound


def state_reason(state: int) -> Reason:
    """Why a symbol that is not open takes no orders."""
    return Reason.SYMBOL_HALTED if state == TradingState.HALTED else Reason.CANCEL_ONLY


@dataclass(eq=False)
class Order:
    """An order with all that it has done. ``owed``: the exact fee of its fills, in millionths of a unit."""

    order_id: int
    account_id: int
    symbol_id: int
    side: int
    order_type: int
    time_in_force: int
    prevention: int
    flags: int
    price: int
    stop: int
    quantity: int
    remaining: int
    hold: int
    expires_at_ns: int
    client_order_id: bytes
    maker_ppm: int
    taker_ppm: int
    notional: int = 0
    fee: int = 0
    owed: int = 0
    waiting: bool = False

    @property
    def by_quote(self) -> bool:
        """Whether it buys for a budget instead of a quantity."""
        return bool(self.flags & EventFlag.BY_QUOTE)

    @property
    def budgeted(self) -> bool:
        """Whether its hold is a budget: buys without a limit."""
        return self.side == Side.BUY and self.order_type not in LIMITED

    def charge(self, notional: int, rate_ppm: int) -> int:
        """Add a fill; return what the fee over all fills, rounded up once, grows by."""
        self.notional += notional
        self.owed += notional * rate_ppm
        charged = ceil_millions(self.owed) - self.fee
        self.fee += charged
        return charged


@dataclass
class Ladder:
    """Queues by key, the least key first. ``by_id``: a queue is in the order of ids instead of arrival."""

    by_id: bool = False
    queues: SortedDict[int, dict[int, Order]] = field(default_factory=SortedDict)  # key -> {order id: Order}

    def add(self, key: int, order: Order) -> None:
        """Put an order at its place in its key's queue."""
        queue = self.queues.setdefault(key, {})
        queue[order.order_id] = order
        if self.by_id:
            self.queues[key] = dict(sorted(queue.items()))

    def remove(self, key: int, order: Order) -> None:
        """Take an order out."""
        del self.queues[key][order.order_id]
        if not self.queues[key]:
            del self.queues[key]

    def orders(self) -> Iterator[Order]:
        """All orders, best first."""
        for queue in self.queues.values():
            yield from queue.values()


@dataclass
class Market:
    """One symbol: its parameters, state, last price, and four ladders in the order of ``ladder_of``."""

    parameters: dict[str, int]
    state: int
    last: int = 0
    ladders: tuple[Ladder, Ladder, Ladder, Ladder] = field(
        default_factory=lambda: (Ladder(), Ladder(), Ladder(by_id=True), Ladder(by_id=True))
    )

    def __getattr__(self, name: str) -> int:
        return self.parameters[name]


@dataclass(frozen=True)
class Fill:
    """A step of a plan: so many lots from this maker; ``wanted`` is what the taker wants after it."""

    maker: Order
    lots: int
    wanted: int


@dataclass(frozen=True)
class Prevented:
    """A step of a plan: the maker is of the taker's account and ends."""

    maker: Order


def kinds_of(order: Order) -> Event:
    """Fields that an order repeats in all its events."""
    return {
        "side": order.side,
        "order_type": order.order_type,
        "time_in_force": order.time_in_force,
        "self_trade_prevention": order.prevention,
    }


def records(events: Iterable[Event]) -> np.ndarray[Any, np.dtype[np.void]]:
    """Events as the compiled book writes them: shape (n,), ``event_dtype``."""
    told = list(events)
    rows = np.zeros(len(told), event_dtype)
    layouts = {
        EventKind.AMENDED: rows.view(amended_event_dtype),
        EventKind.TRADING_STATE_SET: rows.view(trading_event_dtype),
        EventKind.SYMBOL_LISTED: rows.view(symbol_event_dtype),
        EventKind.PARAMETERS_SET: rows.view(symbol_event_dtype),
    }
    for at, event in enumerate(told):
        record = layouts.get(event["kind"], rows)[at]
        for name, value in event.items():
            record[name] = value
    return rows
