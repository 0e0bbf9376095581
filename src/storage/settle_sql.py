"""Rows and statements of the settlement transaction: which field of a fold goes into which column.

Rule 1: names of columns stand next to what fills them. Rule 2: enumerations travel as their labels.
It refuses to know connections and cursors.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tradeengine.core.records import (
    EventFlag,
    EventKind,
    OrderType,
    Reason,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
from tradeengine.core.trading import trading_after
from tradeengine.storage.bulk import Array, Column, boolean, char, int2, int4, int8, text, timestamp
from tradeengine.storage.settle_fold import Candles, Fold, Orders
from tradeengine.storage.settle_postings import Balances, Events, Postings

STATUS_LABELS: Final = ("pending", "open", "partially_filled", "filled", "cancelled", "rejected")

ADVANCE_CURSORS: Final = """
UPDATE settlement_cursors AS c SET sequence = u.after
FROM unnest(%b, %b, %b) AS u (shard, expected, after)
WHERE c.shard = u.shard AND c.sequence = u.expected
"""

UPDATE_ORDERS: Final = """
UPDATE orders AS o SET
    status = u.status::order_status,
    status_reason = u.reason::reason,
    filled_lots = o.filled_lots + u.filled,
    remaining_lots = u.remaining,
    filled_notional_units = u.notional,
    fee_units = u.fee,
    hold_units = u.hold,
    sequence = u.sequence,
    updated_at = u.updated_at,
    closed_at = u.closed_at,
    triggered_at = coalesce(u.triggered_at, o.triggered_at),
    price_ticks = coalesce(u.price, o.price_ticks),
    stop_price_ticks = coalesce(u.stop_price, o.stop_price_ticks),
    quantity_lots = CASE WHEN o.by_quote THEN o.filled_lots + u.filled ELSE coalesce(u.quantity, o.quantity_lots) END
FROM unnest(%b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b) AS u (
    id, status, reason, filled, remaining, notional, fee, hold, sequence, updated_at, closed_at, triggered_at,
    price, stop_price, quantity)
WHERE o.id = u.id
"""

ADD_BALANCES: Final = """
INSERT INTO balances AS b (account_id, asset_id, total_units)
SELECT * FROM unnest(%b, %b, %b)
ON CONFLICT (account_id, asset_id) DO UPDATE SET total_units = b.total_units + excluded.total_units
"""

_ADD_CANDLES: Final = """
INSERT INTO {table} AS c (
    symbol_id, {time}, open_ticks, high_ticks, low_ticks, close_ticks, volume_lots, notional_units, trade_count)
SELECT * FROM unnest(%b, %b, %b, %b, %b, %b, %b, %b, %b)
ON CONFLICT (symbol_id, {time}) DO UPDATE SET
    high_ticks = greatest(c.high_ticks, excluded.high_ticks),
    low_ticks = least(c.low_ticks, excluded.low_ticks),
    close_ticks = excluded.close_ticks,
    volume_lots = c.volume_lots + excluded.volume_lots,
    notional_units = c.notional_units + excluded.notional_units,
    trade_count = c.trade_count + excluded.trade_count
"""
ADD_MINUTES: Final = _ADD_CANDLES.format(table="candles_1m", time="minute")
ADD_HOURS: Final = _ADD_CANDLES.format(table="candles_1h", time="hour")

CLOSE_FUNDINGS: Final = """
UPDATE funding AS f SET
    status = u.status::funding_status,
    status_reason = u.reason::reason,
    transaction_id = u.transaction_id,
    closed_at = u.closed_at
FROM unnest(%b, %b, %b, %b, %b) AS u (number, status, reason, transaction_id, closed_at)
WHERE f.number = u.number AND f.status = 'pending'
"""

PUT_SYMBOL: Final = """
UPDATE symbols SET
    status = 'listed',
    trading_state = coalesce(%(trading_state)s::trading_state, trading_state),
    trading_sequence = coalesce(%(trading_sequence)s, trading_sequence),
    trading_changed_at = coalesce(to_timestamp(%(trading_changed_us)s / 1e6), trading_changed_at),
    trading_reason = CASE WHEN %(trading_state)s::trading_state IS NULL THEN trading_reason ELSE %(trading_reason)s END,
    trading_before_all = CASE WHEN %(trading_state)s::trading_state IS NULL THEN trading_before_all
        ELSE %(trading_before_all)s::trading_state END,
    tick_lot_units = coalesce(%(tick_lot_units)s, tick_lot_units),
    lot_units = coalesce(%(lot_units)s, lot_units),
    price_ticks_max = coalesce(%(price_ticks_max)s, price_ticks_max),
    quantity_lots_min = coalesce(%(quantity_lots_min)s, quantity_lots_min),
    quantity_lots_max = coalesce(%(quantity_lots_max)s, quantity_lots_max),
    notional_units_min = coalesce(%(notional_units_min)s, notional_units_min),
    maker_fee_ppm = coalesce(%(maker_fee_ppm)s, maker_fee_ppm),
    taker_fee_ppm = coalesce(%(taker_fee_ppm)s, taker_fee_ppm),
    collar_ppm = coalesce(%(collar_ppm)s, collar_ppm),
    updated_at = now()
WHERE id = %(symbol_id)s
"""

_PARAMETERS: Final = (
    "tick_lot_units",
    "lot_units",
    "price_ticks_max",
    "quantity_lots_min",
    "quantity_lots_max",
    "notional_units_min",
    "maker_fee_ppm",
    "taker_fee_ppm",
    "collar_ppm",
)
_TRADING: Final = (
    "trading_state",
    "trading_sequence",
    "trading_changed_us",
    "trading_reason",
    "trading_before_all",
)


class Arrays(NamedTuple):
    """Parameters of a statement that works on many rows."""

    row_count: int
    parameters: list[Array]


def _arrays(*columns: Column) -> Arrays:
    return Arrays(len(columns[0].values), [Array.of(column) for column in columns])


def _labels(members: type[IntEnum]) -> NDArray[np.bytes_]:
    """Labels by value, in lower case."""
    labels = [b""] * (max(members) + 1)
    for member in members:
        labels[member] = member.name.lower().encode()
    return np.array(labels)


_SIDES: Final = _labels(Side)
_TYPES: Final = _labels(OrderType)
_TIMES_IN_FORCE: Final = _labels(TimeInForce)
_PREVENTIONS: Final = _labels(SelfTradePrevention)
REASON_LABELS: Final = np.char.upper(_labels(Reason))
_STATUSES: Final = np.array([label.encode() for label in STATUS_LABELS])
_FUNDING_STATUSES: Final = np.array([b"refused", b"settled"])


def cursor_arrays(shards: list[int], expected: list[int], after: list[int]) -> list[Array]:
    """Fill ADVANCE_CURSORS."""
    return _arrays(int2(np.array(shards)), int8(np.array(expected)), int8(np.array(after))).parameters


def symbol_parameters(event: np.void) -> dict[str, Any]:
    """Fill PUT_SYMBOL from one event; what the event does not tell stays as it is."""
    parameters: dict[str, Any] = dict.fromkeys((*_PARAMETERS, *_TRADING))
    if event["kind"] != EventKind.TRADING_STATE_SET:
        parameters |= {name: int(event[name]) for name in _PARAMETERS}
    trading = trading_after(event) if event["kind"] != EventKind.PARAMETERS_SET else None
    if trading is not None:
        parameters |= {
            "trading_state": trading.state.name.lower(),
            "trading_sequence": trading.sequence,
            "trading_changed_us": trading.timestamp_ns // 1000,
            "trading_reason": trading.reason,
            "trading_before_all": trading.before_all.name.lower() if trading.before_all else None,
        }
    return parameters | {"symbol_id": int(event["symbol_id"])}


def trade_columns(trades: Events) -> dict[str, Column]:
    """Make the rows of ``trades``."""
    return {
        "id": int8(trades["trade_id"]),
        "price_ticks": int8(trades["price_ticks"]),
        "quantity_lots": int8(trades["quantity_lots"]),
        "notional_units": int8(trades["notional_units"]),
        "taker_fee_units": int8(trades["fee_units"]),
        "maker_fee_units": int8(trades["maker_fee_units"]),
        "taker_order_id": int8(trades["order_id"]),
        "maker_order_id": int8(trades["maker_order_id"]),
        "sequence": int8(trades["sequence"]),
        "executed_at": timestamp(trades["timestamp_ns"]),
        "taker_account_id": int4(trades["account_id"]),
        "maker_account_id": int4(trades["maker_account_id"]),
        "symbol_id": int4(trades["symbol_id"]),
        "taker_side": text(_SIDES[trades["side"]]),
    }


def posting_columns(postings: Postings) -> dict[str, Column]:
    """Make the rows of ``postings``, by account, so that neighbours go to the same page of its index."""
    rows = np.argsort(postings.account_id, kind="stable")
    return {
        "transaction_id": int8(postings.transaction_id[rows]),
        "amount_units": int8(postings.amount_units[rows]),
        "account_id": int4(postings.account_id[rows]),
        "asset_id": int2(postings.asset_id[rows]),
        "kind": char(postings.kind[rows]),
    }


def order_columns(orders: Orders) -> dict[str, Column]:
    """Make the rows of ``orders`` for those that began in the batch.

    By account: three of the table's four indexes begin with it, and neighbours then go to the same page.
    """
    events = orders.events
    rows = np.flatnonzero(orders.began)
    rows = rows[np.argsort(events["account_id"][orders.first_at[rows]], kind="stable")]
    first, content = orders.first_at[rows], orders.content_at[rows]
    flags = events["flags"][first]
    by_quote = flags & EventFlag.BY_QUOTE != 0
    filled = orders.filled_lots[rows]
    updated_ns, triggered_ns = orders.updated_ns[rows], orders.triggered_ns[rows]
    expires_ns, client_order_id = events["expires_at_ns"][first], events["client_order_id"][first]
    reason = orders.reason[rows]
    return {
        "id": int8(orders.order_id[rows]),
        "price_ticks": int8(events["price_ticks"][content]),
        "stop_price_ticks": int8(events["stop_price_ticks"][content]),
        "quantity_lots": int8(np.where(by_quote, filled, events["quantity_lots"][content])),
        "filled_lots": int8(filled),
        "remaining_lots": int8(orders.remaining_lots[rows]),
        "filled_notional_units": int8(orders.notional_units[rows]),
        "fee_units": int8(orders.fee_units[rows]),
        "hold_units": int8(orders.hold_units[rows]),
        "sequence": int8(orders.sequence[rows]),
        "content_hash": int8(orders.content_hash[rows]),
        "created_at": timestamp(events["timestamp_ns"][first]),
        "updated_at": timestamp(updated_ns),
        "triggered_at": timestamp(triggered_ns, triggered_ns == 0),
        "closed_at": timestamp(updated_ns, ~orders.closed[rows]),
        "expires_at": timestamp(expires_ns, expires_ns == 0),
        "account_id": int4(events["account_id"][first]),
        "symbol_id": int4(events["symbol_id"][first]),
        "side": text(_SIDES[events["side"][first]]),
        "type": text(_TYPES[events["order_type"][first]]),
        "time_in_force": text(_TIMES_IN_FORCE[events["time_in_force"][first]]),
        "self_trade_prevention": text(_PREVENTIONS[events["self_trade_prevention"][first]]),
        "status": text(_STATUSES[orders.status[rows]]),
        "status_reason": text(REASON_LABELS[reason], reason == 0),
        "post_only": boolean(flags & EventFlag.POST_ONLY != 0),
        "by_quote": boolean(by_quote),
        "client_order_id": text(client_order_id, client_order_id == b""),
    }


def order_arrays(orders: Orders) -> Arrays:
    """Fill UPDATE_ORDERS for those that began in earlier batches."""
    events = orders.events
    rows = np.flatnonzero(~orders.began)
    content, no_content = orders.content_at[rows], ~orders.has_content[rows]
    updated_ns, triggered_ns = orders.updated_ns[rows], orders.triggered_ns[rows]
    reason = orders.reason[rows]
    return _arrays(
        int8(orders.order_id[rows]),
        text(_STATUSES[orders.status[rows]]),
        text(REASON_LABELS[reason], reason == 0),
        int8(orders.filled_lots[rows]),
        int8(orders.remaining_lots[rows]),
        int8(orders.notional_units[rows]),
        int8(orders.fee_units[rows]),
        int8(orders.hold_units[rows]),
        int8(orders.sequence[rows]),
        timestamp(updated_ns),
        timestamp(updated_ns, ~orders.closed[rows]),
        timestamp(triggered_ns, triggered_ns == 0),
        int8(events["price_ticks"][content], no_content),
        int8(events["stop_price_ticks"][content], no_content),
        int8(events["quantity_lots"][content], no_content),
    )


def balance_arrays(balances: Balances) -> Arrays:
    """Fill ADD_BALANCES."""
    return _arrays(int4(balances.account_id), int2(balances.asset_id), int8(balances.delta_units))


def candle_arrays(candles: Candles) -> Arrays:
    """Fill ADD_MINUTES or ADD_HOURS."""
    return _arrays(
        int4(candles.symbol_id),
        timestamp(candles.time_ns),
        int8(candles.open_ticks),
        int8(candles.high_ticks),
        int8(candles.low_ticks),
        int8(candles.close_ticks),
        int8(candles.volume_lots),
        int8(candles.notional_units),
        int8(candles.trade_count),
    )


def funding_arrays(fold: Fold) -> Arrays:
    """Fill CLOSE_FUNDINGS."""
    fundings = fold.fundings
    funded = fundings["kind"] == EventKind.FUNDED
    reason = np.where(funded, 0, fundings["reason"])
    return _arrays(
        int8(fundings["funding_number"]),
        text(_FUNDING_STATUSES[funded.astype(np.int64)]),
        text(REASON_LABELS[reason], reason == 0),
        int8(fold.funding_transaction_id, ~funded),
        timestamp(fundings["timestamp_ns"]),
    )
