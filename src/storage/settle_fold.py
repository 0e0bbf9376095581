"""From events to what PostgreSQL must say afterwards: a pure fold over one batch, in numpy, without a loop per event.

Rule 1: it knows no connection. The same events give the same rows, so that a batch can be settled again after an error.
Rule 2: an order that began in the batch is inserted as it is at the end of it; any other is updated once.
Rule 3: every order event tells the whole order and every TRADED event both orders' totals, so the last event that
touches an order decides; only what was filled in the batch is added up.
Rule 4: what it does not understand raises: nothing is left out silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from tradeengine.core.records import (
    EventFlag,
    EventKind,
    OrderType,
    funding_event_dtype,
    symbol_event_dtype,
)
from tradeengine.core.risk_clients import content_fingerprint
from tradeengine.storage.settle_postings import (
    Balances,
    Bools,
    Events,
    Int64s,
    Postings,
    SymbolUnits,
    TradeLegs,
    concatenate,
    funding_transaction_ids,
    post_fundings,
    post_trades,
    sum_balances,
    trade_legs,
)

NS_PER_MINUTE: Final = 60 * 10**9
NS_PER_HOUR: Final = 60 * NS_PER_MINUTE
PENDING, OPEN, PARTIALLY_FILLED, FILLED, CANCELLED, REJECTED = range(6)
"""Places of the labels of ``order_status``."""
_ORDER_KINDS: Final = (
    EventKind.ACCEPTED,
    EventKind.TRADED,
    EventKind.CANCELLED,
    EventKind.REJECTED,
    EventKind.TRIGGERED,
    EventKind.AMENDED,
)
_SYMBOL_KINDS: Final = (EventKind.SYMBOL_LISTED, EventKind.PARAMETERS_SET, EventKind.TRADING_STATE_SET)
_SILENT_KINDS: Final = (
    EventKind.REFUSED,
    EventKind.REPEATED,
    EventKind.CANCELLED_ALL,
    EventKind.EXPIRED,
    EventKind.TIMER_SET,
)
_SHARD_KINDS: Final = frozenset(_ORDER_KINDS + _SYMBOL_KINDS + _SILENT_KINDS)
_RISK_KINDS: Final = frozenset(
    {EventKind.REFUSED, EventKind.REPEATED, EventKind.FUNDED, EventKind.FUNDING_REFUSED, EventKind.ACCOUNT_SET}
)


class SettlementStopped(Exception):  # noqa: N818 - the state that it leads to
    """Events that cannot be settled. ``state`` names why, in upper case; the message says which and what to do."""

    def __init__(self, state: str, message: str) -> None:
        super().__init__(f"{state}: {message}")
        self.state = state


@dataclass(frozen=True, slots=True)
class Orders:
    """Orders that a batch touched, one row each, by ascending id. Times in nanoseconds, 0: none.

    Places of events stand for the events: copies of whole records would cost more than all the rest.
    """

    events: Events
    order_id: Int64s
    first_at: Int64s
    """Place of the event with which each began; of those that began earlier, of one that touched it."""
    began: Bools
    content_at: Int64s
    """Place of the last event that told its content; of those without, of one that touched it."""
    has_content: Bools
    status: Int64s
    reason: Int64s
    filled_lots: Int64s
    """In this batch."""
    remaining_lots: Int64s
    notional_units: Int64s
    fee_units: Int64s
    hold_units: Int64s
    sequence: Int64s
    updated_ns: Int64s
    triggered_ns: Int64s
    closed: Bools
    content_hash: Int64s
    """0 where the order began earlier."""


@dataclass(frozen=True, slots=True)
class Candles:
    """What the batch adds to each minute, or hour, of each symbol; ``time_ns``: when that begins."""

    symbol_id: Int64s
    time_ns: Int64s
    open_ticks: Int64s
    high_ticks: Int64s
    low_ticks: Int64s
    close_ticks: Int64s
    volume_lots: Int64s
    notional_units: Int64s
    trade_count: Int64s


@dataclass(frozen=True, slots=True)
class Fold:
    """Everything that one transaction must write."""

    trades: Events
    legs: TradeLegs
    """Of these trades."""
    orders: Orders
    postings: Postings
    balances: Balances
    minutes: Candles
    hours: Candles
    symbols: Events
    """SYMBOL_LISTED, PARAMETERS_SET and TRADING_STATE_SET in order, ``symbol_event_dtype``."""
    fundings: Events
    """FUNDED and FUNDING_REFUSED in order, ``funding_event_dtype``."""
    funding_transaction_id: Int64s


def fold_batch(shard_events: Events, risk_events: Events, symbols: SymbolUnits) -> Fold:
    """Fold one batch. Both inputs are 1-D ``event_dtype``.

    shard_events: of all shards, each shard's in their order. risk_events: of risk's own ring. symbols: what is known
    so far; symbols that the batch lists are added. Raises SettlementStopped: UNKNOWN_EVENT, UNKNOWN_SYMBOL.
    """
    _refuse_unknown(shard_events, _SHARD_KINDS)
    _refuse_unknown(risk_events, _RISK_KINDS)
    kind = shard_events["kind"]
    symbol_events = shard_events[np.isin(kind, _SYMBOL_KINDS)].view(symbol_event_dtype)
    for event in symbol_events[symbol_events["kind"] == EventKind.SYMBOL_LISTED]:
        symbols.put(event["symbol_id"], event["base_asset_id"], event["quote_asset_id"], event["lot_units"])
    trades = shard_events[kind == EventKind.TRADED]
    unknown = ~symbols.known(trades["symbol_id"].astype(np.int64))
    if unknown.any():
        raise SettlementStopped("UNKNOWN_SYMBOL", f"trade {trades['trade_id'][unknown][0]} is on a symbol never listed")
    fundings = risk_events[np.isin(risk_events["kind"], (EventKind.FUNDED, EventKind.FUNDING_REFUSED))]
    fundings = fundings.view(funding_event_dtype)
    funding_ids = funding_transaction_ids(fundings)
    legs = trade_legs(trades, symbols)
    postings = concatenate(post_trades(legs), post_fundings(fundings, funding_ids))
    return Fold(
        trades=trades,
        legs=legs,
        orders=fold_orders(shard_events),
        postings=postings,
        balances=sum_balances(postings),
        minutes=_fold_candles(trades, NS_PER_MINUTE),
        hours=_fold_candles(trades, NS_PER_HOUR),
        symbols=symbol_events,
        fundings=fundings,
        funding_transaction_id=funding_ids,
    )


def _refuse_unknown(events: Events, kinds: frozenset[EventKind]) -> None:
    unknown = ~np.isin(events["kind"], list(kinds))
    if unknown.any():
        event = events[unknown][0]
        raise SettlementStopped("UNKNOWN_EVENT", f"event {event['sequence']} is of kind {event['kind']}")


def fold_orders(events: Events) -> Orders:
    """Find for each order the last event that touched it, and what it was on the way there."""
    kind = events["kind"]
    own = np.flatnonzero(np.isin(kind, _ORDER_KINDS))
    made = np.flatnonzero(kind == EventKind.TRADED)
    # One row per touch: an order event touches one order, a trade the taker's and the maker's.
    position = np.concatenate([own, made])
    is_maker = np.zeros(len(position), np.bool_)
    is_maker[len(own) :] = True
    order_id = np.concatenate([events["order_id"][own], events["maker_order_id"][made]])
    arranged = np.lexsort((position, order_id))
    position, is_maker, order_id = position[arranged], is_maker[arranged], order_id[arranged]
    start, last = _groups(order_id[1:] != order_id[:-1], len(order_id))
    touch_kind = kind[position]
    is_trade = touch_kind == EventKind.TRADED
    end_at, end_maker = position[last], is_maker[last]
    content_touch = np.maximum.reduceat(np.where(is_trade, -1, np.arange(len(position))), start)
    has_content = content_touch >= 0
    first_at = position[start]
    began = np.isin(kind[first_at], (EventKind.ACCEPTED, EventKind.REJECTED))

    def at_end(field: str) -> Int64s:
        """Take a field of the last event, the maker's one where the order was the maker."""
        values: Int64s = np.where(end_maker, events[f"maker_{field}"][end_at], events[field][end_at])
        return values

    remaining = at_end("remaining_lots")
    status = _status(events, end_at, remaining)
    content_hash = np.zeros(len(start), np.int64)
    if began.any():
        content_hash[began] = content_fingerprint(events[first_at[began]])
    was_triggered = touch_kind == EventKind.TRIGGERED
    return Orders(
        events=events,
        order_id=order_id[start],
        first_at=first_at,
        began=began,
        content_at=np.where(has_content, position[content_touch], end_at),
        has_content=has_content,
        status=status,
        reason=np.where(status >= CANCELLED, events["reason"][end_at], 0).astype(np.int64),
        filled_lots=np.add.reduceat(np.where(is_trade, events["quantity_lots"][position], 0), start),
        remaining_lots=remaining,
        notional_units=at_end("filled_notional_units"),
        fee_units=at_end("fee_total_units"),
        hold_units=at_end("hold_units"),
        sequence=events["sequence"][end_at],
        updated_ns=events["timestamp_ns"][end_at],
        triggered_ns=np.maximum.reduceat(np.where(was_triggered, events["timestamp_ns"][position], 0), start),
        closed=status >= FILLED,
        content_hash=content_hash,
    )


def _status(events: Events, end_at: Int64s, remaining_lots: Int64s) -> Int64s:
    """Status of each order after the last event that touched it."""
    kind, flags = events["kind"][end_at], events["flags"][end_at]
    is_trade = kind == EventKind.TRADED
    is_stop = np.isin(events["order_type"][end_at], (OrderType.STOP, OrderType.STOP_LIMIT))
    waits = is_stop & (flags & EventFlag.TRIGGERED == 0)
    # By quote an order has no quantity before it is filled; nothing of it can be open then.
    by_quote = flags & EventFlag.BY_QUOTE != 0
    filled_some = ~by_quote & (remaining_lots < events["quantity_lots"][end_at])
    conditions = [
        kind == EventKind.REJECTED,
        kind == EventKind.CANCELLED,
        is_trade & (remaining_lots == 0),
        is_trade,
        waits,
        filled_some,
    ]
    return np.select(conditions, [REJECTED, CANCELLED, FILLED, PARTIALLY_FILLED, PENDING, PARTIALLY_FILLED], OPEN)


def _fold_candles(trades: Events, length_ns: int) -> Candles:
    place = trades["timestamp_ns"] // length_ns
    symbol_id = trades["symbol_id"].astype(np.int64)
    # Stable: within a candle of a symbol trades stay in their order, which is what open and close are about.
    arranged = np.lexsort((np.arange(len(trades)), place, symbol_id))
    place, symbol_id, price = place[arranged], symbol_id[arranged], trades["price_ticks"][arranged]
    start, last = _groups((symbol_id[1:] != symbol_id[:-1]) | (place[1:] != place[:-1]), len(trades))
    return Candles(
        symbol_id=symbol_id[start],
        time_ns=place[start] * length_ns,
        open_ticks=price[start],
        high_ticks=np.maximum.reduceat(price, start),
        low_ticks=np.minimum.reduceat(price, start),
        close_ticks=price[last],
        volume_lots=np.add.reduceat(trades["quantity_lots"][arranged], start),
        notional_units=np.add.reduceat(trades["notional_units"][arranged], start),
        trade_count=last - start + 1,
    )


def _groups(changes: Bools, count: int) -> tuple[Int64s, Int64s]:
    """First and last place of each group of equal neighbours. changes: whether place n + 1 begins another group."""
    if count == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    ends = np.flatnonzero(changes)
    return np.concatenate([[0], ends + 1]), np.append(ends, count - 1)
