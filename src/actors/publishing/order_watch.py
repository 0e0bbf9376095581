"""Updates of orders for their owners, of those accounts that somebody listens for.

A trade's event does not say what its two orders are called and how large they were; so the live orders of the watched
accounts are kept here. An account begins with what PostgreSQL has, as of a place in each shard's events, and with the
events since that place, which the rings still hold, because settlement gates them. Accounts nobody listens for cost
nothing.

Rule 1: of one account each event is told once, in the order of its shard, and none is left out from the moment at which
``watches`` became true. Rule 2: what contradicts the events raises ``WatchBroken``: some were missed.
It refuses to know connections, SQL and rings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from tradeengine.core.messages import OrderEvent, OrderUpdate
from tradeengine.core.orders import status_of
from tradeengine.core.records import EventFlag, EventKind, OrderType, Reason, Side
from tradeengine.core.times import format_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from tradeengine.core.symbols import SymbolSpec
    from tradeengine.storage.queries import OrderRow

NS_PER_MS: Final = 10**6
_SIDE_NAMES: Final = {int(side): side.name.lower() for side in Side}
_TYPE_NAMES: Final = {int(order_type): order_type.name.lower() for order_type in OrderType}
_EVENT_NAMES: Final[dict[int, OrderEvent]] = {
    EventKind.ACCEPTED: "accepted",
    EventKind.TRIGGERED: "triggered",
    EventKind.AMENDED: "amended",
    EventKind.CANCELLED: "cancelled",
    EventKind.REJECTED: "rejected",
}
_IS_CONTENT: Final = np.zeros(256, bool)
_IS_CONTENT[list(_EVENT_NAMES)] = True
_ENDINGS: Final = {EventKind.CANCELLED: "cancelled", EventKind.REJECTED: "rejected"}


class WatchBroken(Exception):  # noqa: N818 - reads as what happened, like DepthBroken
    """A trade's order is unknown: events were missed."""


class Told(NamedTuple):
    """An update, for whom, and where in the events it stands."""

    account_id: int
    sequence: int
    timestamp_ns: int
    update: OrderUpdate


@dataclass(slots=True)
class _Order:
    account_id: int
    symbol_id: int
    client_order_id: str
    side: int
    order_type: int
    price_ticks: int
    stop_price_ticks: int
    quantity_lots: int
    filled_lots: int
    by_quote: bool


class OrderWatch:
    """Live orders of the watched accounts."""

    def __init__(self, accounts_max: int) -> None:
        self._watched = np.zeros(accounts_max, bool)
        self._orders: dict[int, _Order] = {}

    def watches(self, account_id: int) -> bool:
        """Whether the account's updates are told."""
        return bool(self._watched[account_id])

    def accounts(self) -> list[int]:
        """List the watched accounts."""
        watched: list[int] = np.flatnonzero(self._watched).tolist()
        return watched

    def begin(self, rows: Iterable[OrderRow]) -> None:
        """Take live orders as history has them, of accounts that are not watched yet."""
        for row in rows:
            self._orders[row.order_id] = _Order(
                account_id=row.account_id,
                symbol_id=row.symbol_id,
                client_order_id=row.client_order_id,
                side=row.side,
                order_type=row.order_type,
                price_ticks=row.price_ticks,
                stop_price_ticks=row.stop_price_ticks,
                quantity_lots=row.quantity_lots,
                filled_lots=row.filled_lots,
                by_quote=row.by_quote,
            )

    def watch(self, account_ids: NDArray[np.int64]) -> None:
        """Tell these accounts' updates from now on."""
        self._watched[account_ids] = True

    def forget(self, account_ids: NDArray[np.int64]) -> None:
        """Tell nothing more of these accounts."""
        self._watched[account_ids] = False
        gone = set(account_ids.tolist())
        self._orders = {key: order for key, order in self._orders.items() if order.account_id not in gone}

    def fold(
        self,
        events: NDArray[np.void],
        specs: Mapping[int, SymbolSpec],
        cursor_of: Callable[[Any], str],
        accounts: NDArray[np.bool_] | None = None,
    ) -> list[Told]:
        """Fold a shard's next events and tell what they mean for the watched accounts, or for ``accounts`` instead.

        events: 1-D ``event_dtype``. specs: symbols by id; one that is not there is too young for any listener.
        accounts: by account id. cursor_of: names the place behind an event.
        Raises WatchBroken.
        """
        watched = self._watched if accounts is None else accounts
        if not watched.any():
            return []
        traded = events["kind"] == EventKind.TRADED
        takes = watched[events["account_id"]]
        makes = traded & watched[events["maker_account_id"] * traded]
        chosen = np.flatnonzero(((_IS_CONTENT[events["kind"]] | traded) & takes) | makes)
        told: list[Told] = []
        for place in chosen.tolist():
            event = events[place]
            spec = specs.get(int(event["symbol_id"]))
            if spec is None:
                continue
            if not traded[place]:
                told.append(self._tell_content(event, spec, cursor_of))
                continue
            if makes[place]:
                told.append(self._tell_trade(event, spec, cursor_of, "maker"))
            if takes[place]:
                told.append(self._tell_trade(event, spec, cursor_of, "taker"))
        return told

    def _tell_content(self, event: Any, spec: SymbolSpec, cursor_of: Callable[[Any], str]) -> Told:
        """Tell what one of the events says that name the whole order."""
        kind, order_id, flags = int(event["kind"]), int(event["order_id"]), int(event["flags"])
        by_quote = bool(flags & EventFlag.BY_QUOTE)
        known = self._orders.get(order_id)
        quantity_lots, remaining_lots = int(event["quantity_lots"]), int(event["remaining_lots"])
        order = _Order(
            account_id=int(event["account_id"]),
            symbol_id=int(event["symbol_id"]),
            client_order_id=bytes(event["client_order_id"]).decode("ascii"),
            side=int(event["side"]),
            order_type=int(event["order_type"]),
            price_ticks=int(event["price_ticks"]),
            stop_price_ticks=int(event["stop_price_ticks"]),
            quantity_lots=quantity_lots,
            filled_lots=(known.filled_lots if known else 0) if by_quote else quantity_lots - remaining_lots,
            by_quote=by_quote,
        )
        ending = _ENDINGS.get(EventKind(kind))
        if ending:
            self._orders.pop(order_id, None)
        else:
            self._orders[order_id] = order
        status = ending or status_of(
            order_type=order.order_type,
            triggered=bool(flags & EventFlag.TRIGGERED),
            filled_lots=order.filled_lots,
        )
        return _told(_EVENT_NAMES[kind], event, order, order_id, spec, status, remaining_lots, cursor_of)

    def _tell_trade(self, event: Any, spec: SymbolSpec, cursor_of: Callable[[Any], str], liquidity: str) -> Told:
        """Tell a fill to the owner of one of its two orders."""
        prefix = "maker_" if liquidity == "maker" else ""
        order_id = int(event[f"{prefix}order_id"])
        order = self._orders.get(order_id)
        if order is None:
            raise WatchBroken(f"event {event['sequence']} fills order {order_id}, which is not known")
        remaining_lots = int(event[f"{prefix}remaining_lots"])
        if order.by_quote:
            order.filled_lots += int(event["quantity_lots"])
        else:
            order.filled_lots = order.quantity_lots - remaining_lots
        status = "partially_filled"
        if remaining_lots == 0 and not (order.by_quote and int(event["hold_units"])):
            status = "filled"
            del self._orders[order_id]
        return _told("traded", event, order, order_id, spec, status, remaining_lots, cursor_of, liquidity)


def _told(
    name: OrderEvent,
    event: Any,
    order: _Order,
    order_id: int,
    spec: SymbolSpec,
    status: str,
    remaining_lots: int,
    cursor_of: Callable[[Any], str],
    liquidity: str | None = None,
) -> Told:
    traded = liquidity is not None
    fee = "maker_fee_units" if liquidity == "maker" else "fee_units"
    timestamp_ns, sequence = int(event["timestamp_ns"]), int(event["sequence"])
    reason = 0 if traded or name not in {"cancelled", "rejected"} else int(event["reason"])
    update = OrderUpdate(
        event=name,
        order_id=str(order_id),
        client_order_id=order.client_order_id or None,
        symbol=spec.name,
        side=_SIDE_NAMES[order.side],
        order_type=_TYPE_NAMES[order.order_type],
        status=status,
        price=spec.format_price(order.price_ticks) if order.price_ticks else None,
        stop_price=spec.format_price(order.stop_price_ticks) if order.stop_price_ticks else None,
        quantity=None if order.by_quote else spec.format_quantity(order.quantity_lots),
        filled_quantity=spec.format_quantity(order.filled_lots),
        remaining_quantity=spec.format_quantity(remaining_lots),
        trade_id=str(int(event["trade_id"])) if traded else None,
        last_price=spec.format_price(event["price_ticks"]) if traded else None,
        last_quantity=spec.format_quantity(event["quantity_lots"]) if traded else None,
        fee=spec.quote.format(int(event[fee])) if traded else None,
        liquidity=liquidity,
        reason=Reason(reason).name if reason else None,
        sequence=sequence,
        cursor=cursor_of(event),
        timestamp=format_ms(timestamp_ns // NS_PER_MS),
    )
    return Told(order.account_id, sequence, timestamp_ns, update)
