"""From the engine's integers to the API's orders and trades: one serializer, whatever the source.

What history has comes as rows. The events that answer a command are folded into the same rows, and only rows are
turned into decimals, names and times.
It refuses to know rings, SQL and HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from tradeengine.core.ids import timestamp_ms_of
from tradeengine.core.orders import status_of
from tradeengine.core.records import (
    EventFlag,
    EventKind,
    OrderType,
    Reason,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
from tradeengine.core.symbols import AssetSpec, SymbolSpec
from tradeengine.core.times import format_ms
from tradeengine.storage.queries import OrderRow, TradeRow
from tradeengine.web import schemas

Records: TypeAlias = np.ndarray[Any, np.dtype[np.void]]

NS_PER_MS: Final = 1_000_000

_SIDE_NAMES: Final = {int(side): side.name.lower() for side in Side}
_TYPE_NAMES: Final = {int(order_type): order_type.name.lower() for order_type in OrderType}
_TIME_IN_FORCE_NAMES: Final = {int(time_in_force): time_in_force.name.lower() for time_in_force in TimeInForce}
_PREVENTION_NAMES: Final = {int(prevention): prevention.name.lower() for prevention in SelfTradePrevention}
_CONTENT_KINDS: Final = frozenset(
    {EventKind.ACCEPTED, EventKind.CANCELLED, EventKind.REJECTED, EventKind.TRIGGERED, EventKind.AMENDED}
)


def fold_order(events: Records, order_id: int) -> OrderRow | None:
    """Fold the events of one command into the state of one order after it; None when none is about it.

    events: shape (n,) of ``event_dtype``, in order.
    """
    content: OrderRow | None = None
    for event in events:
        kind = int(event["kind"])
        if kind in _CONTENT_KINDS and int(event["order_id"]) == order_id:
            content = _take_content(event, content)
        elif kind == EventKind.TRADED and content is not None:
            if int(event["order_id"]) == order_id:
                _fill(content, event, "remaining_lots", "filled_notional_units", "fee_total_units")
            elif int(event["maker_order_id"]) == order_id:
                _fill(content, event, "maker_remaining_lots", "maker_filled_notional_units", "maker_fee_total_units")
    return content


def was_triggered_before(events: Records, content: OrderRow) -> bool:
    """Whether an order was a stop that fired before these events, which do not say when."""
    flags = events["flags"][(events["order_id"] == content.order_id) & (events["kind"] != EventKind.TRADED)]
    return content.triggered_ms == 0 and bool(np.any(flags & EventFlag.TRIGGERED))


def trades_of(events: Records, order_id: int) -> list[TradeRow]:
    """Pick the trades of one order from the events of one command."""
    traded = np.flatnonzero(events["kind"] == EventKind.TRADED).tolist()
    return [_trade_row(events[place]) for place in traded if _takes_part(events[place], order_id)]


def order_view(content: OrderRow, spec: SymbolSpec) -> schemas.Order:
    """Show an order."""
    average = spec.average_price(content.filled_notional_units, content.filled_lots) if content.filled_lots else None
    return schemas.Order(
        id=str(content.order_id),
        client_order_id=content.client_order_id or None,
        symbol=spec.name,
        side=_SIDE_NAMES[content.side],  # type: ignore[arg-type]  # the names of an enumeration are the schema's
        type=_TYPE_NAMES[content.order_type],  # type: ignore[arg-type]
        time_in_force=_TIME_IN_FORCE_NAMES[content.time_in_force],  # type: ignore[arg-type]
        post_only=content.post_only,
        self_trade_prevention=_PREVENTION_NAMES[content.self_trade_prevention],  # type: ignore[arg-type]
        quantity=None if content.by_quote else spec.format_quantity(content.quantity_lots),
        price=_optional_price(spec, content.price_ticks),
        stop_price=_optional_price(spec, content.stop_price_ticks),
        filled_quantity=spec.format_quantity(content.filled_lots),
        remaining_quantity=spec.format_quantity(content.remaining_lots),
        average_price=average,
        fee_paid=spec.quote.format(content.fee_total_units),
        status=content.status,  # type: ignore[arg-type]
        status_reason=Reason(content.reason).name if content.reason else None,
        sequence=content.sequence,
        created_at=format_ms(timestamp_ms_of(content.order_id)),
        updated_at=format_ms(content.updated_ms),
        expires_at=_optional_time(content.expires_ms),
        triggered_at=_optional_time(content.triggered_ms),
        closed_at=_optional_time(content.closed_ms),
    )


def trade_view(trade: TradeRow, spec: SymbolSpec, *, with_orders: bool = False) -> schemas.Trade:
    """Show a trade as everyone sees it, or with both order ids."""
    buy_order_id, sell_order_id = _by_side(trade, trade.taker_order_id, trade.maker_order_id)
    return _trade(
        trade,
        spec,
        buy_order_id=str(buy_order_id) if with_orders else UNSET,
        sell_order_id=str(sell_order_id) if with_orders else UNSET,
    )


def own_trade_view(trade: TradeRow, spec: SymbolSpec, order_id: int, settlement_status: str) -> schemas.Trade:
    """Show a trade as the owner of one of its two orders sees it."""
    is_taker = order_id == trade.taker_order_id
    side = trade.taker_side if is_taker else 1 - trade.taker_side
    return _trade(
        trade,
        spec,
        order_id=str(order_id),
        side=_SIDE_NAMES[side],
        fee=spec.quote.format(trade.taker_fee_units if is_taker else trade.maker_fee_units),
        liquidity="taker" if is_taker else "maker",
        settlement_status=settlement_status,
    )


def balance_views(units: NDArray[np.int64], assets: Iterable[AssetSpec]) -> list[schemas.Balance]:
    """Show balances of assets. units: shape (assets_max, 2), total and held by asset id."""
    shown = []
    for asset in assets:
        total, held = units[asset.asset_id].tolist()
        shown.append(
            schemas.Balance(
                asset=asset.name,
                total=asset.format(total),
                available=asset.format(total - held),
                held=asset.format(held),
            )
        )
    return shown


def _trade(trade: TradeRow, spec: SymbolSpec, **whose: Any) -> schemas.Trade:
    buyer_fee_units, seller_fee_units = _by_side(trade, trade.taker_fee_units, trade.maker_fee_units)
    return schemas.Trade(
        id=str(trade.trade_id),
        symbol=spec.name,
        price=spec.format_price(trade.price_ticks),
        quantity=spec.format_quantity(trade.quantity_lots),
        taker_side=_SIDE_NAMES[trade.taker_side],  # type: ignore[arg-type]  # the names of an enumeration
        buyer_fee=spec.quote.format(buyer_fee_units),
        seller_fee=spec.quote.format(seller_fee_units),
        sequence=trade.sequence,
        timestamp=format_ms(trade.timestamp_ms),
        **whose,
    )


def _takes_part(trade: np.void, order_id: int) -> bool:
    return int(trade["order_id"]) == order_id or int(trade["maker_order_id"]) == order_id


def _by_side(trade: TradeRow, takers: int, makers: int) -> tuple[int, int]:
    """Order what is the taker's and the maker's as (buyer's, seller's)."""
    return (takers, makers) if trade.taker_side == Side.BUY else (makers, takers)


def _take_content(event: np.void, before: OrderRow | None) -> OrderRow:
    kind = int(event["kind"])
    flags = int(event["flags"])
    by_quote = bool(flags & EventFlag.BY_QUOTE)
    now_ms = int(event["timestamp_ns"]) // NS_PER_MS
    remaining_lots = int(event["remaining_lots"])
    quantity_lots = int(event["quantity_lots"])
    # An order by quote amount has no quantity to count from, and lives only within its command.
    filled_lots = (before.filled_lots if before else 0) if by_quote else quantity_lots - remaining_lots
    triggered = bool(flags & EventFlag.TRIGGERED)
    triggered_ms = before.triggered_ms if before else 0
    ended = kind in {EventKind.CANCELLED, EventKind.REJECTED}
    status = status_of(order_type=int(event["order_type"]), triggered=triggered, filled_lots=filled_lots)
    if ended:
        status = "cancelled" if kind == EventKind.CANCELLED else "rejected"
    return OrderRow(
        order_id=int(event["order_id"]),
        account_id=int(event["account_id"]),
        symbol_id=int(event["symbol_id"]),
        client_order_id=bytes(event["client_order_id"]).decode("ascii"),
        side=int(event["side"]),
        order_type=int(event["order_type"]),
        time_in_force=int(event["time_in_force"]),
        self_trade_prevention=int(event["self_trade_prevention"]),
        post_only=bool(flags & EventFlag.POST_ONLY),
        by_quote=by_quote,
        price_ticks=int(event["price_ticks"]),
        stop_price_ticks=int(event["stop_price_ticks"]),
        quantity_lots=quantity_lots,
        filled_lots=filled_lots,
        remaining_lots=remaining_lots,
        filled_notional_units=int(event["filled_notional_units"]),
        fee_total_units=int(event["fee_total_units"]),
        hold_units=int(event["hold_units"]),
        status=status,
        reason=int(event["reason"]) if ended else Reason.NONE,
        sequence=int(event["sequence"]),
        updated_ms=now_ms,
        expires_ms=int(event["expires_at_ns"]) // NS_PER_MS,
        triggered_ms=now_ms if kind == EventKind.TRIGGERED else triggered_ms,
        closed_ms=now_ms if ended else 0,
    )


def _fill(content: OrderRow, event: np.void, remaining: str, notional: str, fee: str) -> None:
    content.remaining_lots = int(event[remaining])
    if content.by_quote:
        content.filled_lots += int(event["quantity_lots"])
    else:
        content.filled_lots = content.quantity_lots - content.remaining_lots
    content.filled_notional_units = int(event[notional])
    content.fee_total_units = int(event[fee])
    content.sequence = int(event["sequence"])
    content.updated_ms = int(event["timestamp_ns"]) // NS_PER_MS
    content.status = "partially_filled"
    if content.remaining_lots == 0 and not (content.by_quote and int(event["hold_units"])):
        content.status = "filled"
        content.closed_ms = content.updated_ms


def _trade_row(event: np.void) -> TradeRow:
    return TradeRow(
        trade_id=int(event["trade_id"]),
        symbol_id=int(event["symbol_id"]),
        price_ticks=int(event["price_ticks"]),
        quantity_lots=int(event["quantity_lots"]),
        notional_units=int(event["notional_units"]),
        taker_side=int(event["side"]),
        taker_fee_units=int(event["fee_units"]),
        maker_fee_units=int(event["maker_fee_units"]),
        taker_order_id=int(event["order_id"]),
        maker_order_id=int(event["maker_order_id"]),
        taker_account_id=int(event["account_id"]),
        maker_account_id=int(event["maker_account_id"]),
        sequence=int(event["sequence"]),
        timestamp_ms=int(event["timestamp_ns"]) // NS_PER_MS,
    )


def _optional_price(spec: SymbolSpec, price_ticks: int) -> str | None:
    return spec.format_price(price_ticks) if price_ticks else None


def _optional_time(timestamp_ms: int) -> str | None:
    return format_ms(timestamp_ms) if timestamp_ms else None
