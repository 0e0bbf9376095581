"""What events make of risk's state: holds become spent or free, proceeds are credited, orders move on and end.

The same fold serves the running engine and a restart. While running, risk has seen every order before its events come;
after a restart an ACCEPTED may be the first that it hears of an order, and then the event says all that the command
said. A hold is set to what the event says, never recomputed, so that risk and matcher cannot drift apart; what was
taken for amends still on their way stands beside it.
"""

from __future__ import annotations

from typing import Final

from tradeengine.core.ids import SHARD_SHIFT, SHARDS_MAX
from tradeengine.core.records import ACCOUNT_ID_EXCHANGE, EventKind, OrderType, Side
from tradeengine.core.risk_admin import apply_funding
from tradeengine.core.risk_checks import is_priced, is_stop
from tradeengine.core.risk_clients import event_content, find_client_id, hash_client_id, insert_client_id, is_named
from tradeengine.core.risk_layout import (
    E_ACCOUNT,
    E_CLIENT_ID,
    E_FEE,
    E_HOLD,
    E_HOLD_RELEASED,
    E_KIND,
    E_KINDS,
    E_MAKER_ACCOUNT,
    E_MAKER_FEE,
    E_MAKER_HOLD,
    E_MAKER_ORDER_ID,
    E_MAKER_REMAINING,
    E_NOTIONAL,
    E_ORDER_ID,
    E_PRICE,
    E_QUANTITY,
    E_REMAINING,
    E_SIDE,
    E_STOP_PRICE,
    E_SYMBOL,
    E_TIMESTAMP,
    E_TYPE,
    N_AMOUNT,
    N_ASSET,
    N_NUMBER,
    get_byte,
    get_half,
)
from tradeengine.core.risk_orders import (
    find_order,
    insert_order,
    order_fee_ppm,
    order_where,
    price_word,
    remove_order,
    set_hold,
)
from tradeengine.core.risk_place import fee_ppm
from tradeengine.core.risk_prefetch import AHEAD, look_ahead_at_event
from tradeengine.core.risk_state import (
    CLIENT_ORDER,
    FUNDING_NUMBER,
    LAST_TIMESTAMP_NS,
    MISMATCH_COUNT,
    NO_ORDER,
    ORDER_AS_HELD,
    ORDER_ENDED,
    ORDER_EXTRA,
    ORDER_FILLED,
    ORDER_HOLD,
    ORDER_NEW,
    ORDER_PRICE,
    ORDER_PRICED,
    ORDER_QUANTITY,
    ORDER_SELL,
    ORDER_STOP,
    ORDER_STOP_PRICE,
    ORDER_TRIGGERED,
    ORDER_WHERE,
    SYMBOL_BASE,
    SYMBOL_LOT_UNITS,
    SYMBOL_QUOTE,
    TOTAL,
    Int64Array,
    RiskState,
    kernel,
    leaf,
    mark_dirty,
)
from tradeengine.core.risk_symbols import fold_symbol
from tradeengine.core.risk_worth import add_traded, day_of, end_order, move_open, open_units, settle_amend

_ACCEPTED: Final = int(EventKind.ACCEPTED)
_TRADED: Final = int(EventKind.TRADED)
_CANCELLED: Final = int(EventKind.CANCELLED)
_REJECTED: Final = int(EventKind.REJECTED)
_TRIGGERED: Final = int(EventKind.TRIGGERED)
_AMENDED: Final = int(EventKind.AMENDED)
_REFUSED: Final = int(EventKind.REFUSED)
_SYMBOL_LISTED: Final = int(EventKind.SYMBOL_LISTED)
_PARAMETERS_SET: Final = int(EventKind.PARAMETERS_SET)
_FUNDED: Final = int(EventKind.FUNDED)
_FUNDING_REFUSED: Final = int(EventKind.FUNDING_REFUSED)
_MARKET: Final = int(OrderType.MARKET)
_SELL: Final = int(Side.SELL)


@kernel
def fold(risk: RiskState, events: Int64Array) -> None:
    """Fold events of one ring, in its order: int64[n, EVENT_WORDS]. Risk's own ring only after a restart."""
    for row in range(len(events)):
        look_ahead_at_event(risk, events, row + AHEAD)
        event = events[row]
        kind = get_byte(event[E_KINDS], E_KIND)
        if kind == _TRADED:
            _fold_trade(risk, event)
        elif kind == _ACCEPTED:
            _fold_accepted(risk, event)
        elif kind == _CANCELLED:
            _fold_end(risk, event)
        elif kind == _REJECTED:
            _fold_rejected(risk, event)
        elif kind == _AMENDED:
            _fold_amended(risk, event)
        elif kind == _TRIGGERED:
            _fold_triggered(risk, event)
        elif kind == _REFUSED:
            _fold_refused(risk, event)
        elif kind in (_SYMBOL_LISTED, _PARAMETERS_SET):
            fold_symbol(risk, event)
        elif kind in (_FUNDED, _FUNDING_REFUSED):
            _fold_funding(risk, event, kind)
    if len(events):
        last_ns = events[len(events) - 1, E_TIMESTAMP]
        risk.scalars[LAST_TIMESTAMP_NS] = max(last_ns, risk.scalars[LAST_TIMESTAMP_NS])


@leaf
def _fold_trade(risk: RiskState, event: Int64Array) -> None:
    symbol = risk.symbols[get_half(event[E_SYMBOL[0]], E_SYMBOL)]
    taker_id = get_half(event[E_ACCOUNT[0]], E_ACCOUNT)
    maker_id = get_half(event[E_MAKER_ACCOUNT[0]], E_MAKER_ACCOUNT)
    quantity_lots = event[E_QUANTITY]
    base_units = quantity_lots * symbol[SYMBOL_LOT_UNITS]
    quote_units = event[E_NOTIONAL]
    base, quote = symbol[SYMBOL_BASE], symbol[SYMBOL_QUOTE]
    if get_byte(event[E_KINDS], E_SIDE) == _SELL:
        base_units = -base_units
        quote_units = -quote_units
    # What the taker pays, less than nothing when it sells; the maker gets the opposite; both pay their fees.
    _add(risk, taker_id, base, base_units)
    _add(risk, taker_id, quote, -quote_units - event[E_FEE])
    _add(risk, maker_id, base, -base_units)
    _add(risk, maker_id, quote, quote_units - event[E_MAKER_FEE])
    _add(risk, ACCOUNT_ID_EXCHANGE, quote, event[E_FEE] + event[E_MAKER_FEE])
    day = day_of(event[E_TIMESTAMP])
    add_traded(risk, taker_id, quote, event[E_NOTIONAL], day)
    add_traded(risk, maker_id, quote, event[E_NOTIONAL], day)
    _fold_fill(risk, event[E_MAKER_ORDER_ID], quantity_lots, event[E_MAKER_HOLD], event[E_MAKER_REMAINING])
    _fold_fill(risk, event[E_ORDER_ID], quantity_lots, event[E_HOLD], event[E_REMAINING])


@leaf
def _fold_fill(risk: RiskState, order_id: int, quantity_lots: int, hold_units: int, remaining_lots: int) -> None:
    row = find_order(risk.orders, order_id)
    if row < 0:
        risk.scalars[MISMATCH_COUNT] += 1
        return
    order = risk.orders[row]
    before_units = open_units(risk, order)
    order[ORDER_FILLED] += quantity_lots
    move_open(risk, order[ORDER_WHERE], open_units(risk, order) - before_units)
    set_hold(risk, row, hold_units, order[ORDER_EXTRA])
    if remaining_lots == 0:
        end_order(risk, row)


@leaf
def _fold_accepted(risk: RiskState, event: Int64Array) -> None:
    row = find_order(risk.orders, event[E_ORDER_ID])
    if row < 0:
        _remember(risk, event)
        row = _insert_from(risk, event)
    order = risk.orders[row]
    order[ORDER_WHERE] &= ~ORDER_NEW
    set_hold(risk, row, event[E_HOLD], order[ORDER_EXTRA])


@kernel
def _fold_rejected(risk: RiskState, event: Int64Array) -> None:
    row = find_order(risk.orders, event[E_ORDER_ID])
    if row < 0:
        _remember(risk, event)
    else:
        end_order(risk, row)


@leaf
def _fold_end(risk: RiskState, event: Int64Array) -> None:
    row = find_order(risk.orders, event[E_ORDER_ID])
    if row < 0:
        risk.scalars[MISMATCH_COUNT] += 1
        return
    end_order(risk, row)


@kernel
def _fold_triggered(risk: RiskState, event: Int64Array) -> None:
    row = find_order(risk.orders, event[E_ORDER_ID])
    if row < 0:
        risk.scalars[MISMATCH_COUNT] += 1
        return
    order = risk.orders[row]
    order[ORDER_WHERE] |= ORDER_TRIGGERED
    set_hold(risk, row, event[E_HOLD], order[ORDER_EXTRA])


@kernel
def _fold_amended(risk: RiskState, event: Int64Array) -> None:
    row = find_order(risk.orders, event[E_ORDER_ID])
    if row < 0:
        risk.scalars[MISMATCH_COUNT] += 1
        return
    order = risk.orders[row]
    before_units = open_units(risk, order)
    order[ORDER_PRICE] = price_word(event[E_PRICE], order_fee_ppm(order[ORDER_PRICE]))
    order[ORDER_STOP_PRICE] = event[E_STOP_PRICE]
    order[ORDER_QUANTITY] = event[E_QUANTITY]
    order[ORDER_FILLED] = event[E_QUANTITY] - event[E_REMAINING]
    settle_amend(risk, order)
    move_open(risk, order[ORDER_WHERE], open_units(risk, order) - before_units)
    # What the amend brought along. After a restart it may have been taken by the risk before: then it is in no account
    # of this one, and there is nothing to take off.
    brought_units = event[E_HOLD] + event[E_HOLD_RELEASED] - order[ORDER_HOLD]
    extra_units = order[ORDER_EXTRA] - min(order[ORDER_EXTRA], max(brought_units, 0))
    set_hold(risk, row, event[E_HOLD], extra_units)


@kernel
def _fold_refused(risk: RiskState, event: Int64Array) -> None:
    """Set free what a refused amend had brought along."""
    row = find_order(risk.orders, event[E_ORDER_ID]) if event[E_ORDER_ID] > 0 else -1
    if row < 0:
        return
    order = risk.orders[row]
    # One that was rejected is new and over: then this is about an amend that came too late.
    if order[ORDER_WHERE] & (ORDER_NEW | ORDER_ENDED) == ORDER_NEW:
        _forget_client_id(risk, event)
        end_order(risk, row)
        return
    before_units = open_units(risk, order)
    settle_amend(risk, order)
    move_open(risk, order[ORDER_WHERE], open_units(risk, order) - before_units)
    released_units = min(order[ORDER_EXTRA], event[E_HOLD_RELEASED])
    set_hold(risk, row, order[ORDER_HOLD], order[ORDER_EXTRA] - released_units)
    if order[ORDER_WHERE] & ORDER_ENDED and order[ORDER_EXTRA] == 0:
        remove_order(risk, row)


@kernel
def _fold_funding(risk: RiskState, event: Int64Array, kind: int) -> None:
    if event[N_NUMBER] <= risk.scalars[FUNDING_NUMBER]:
        return
    risk.scalars[FUNDING_NUMBER] = event[N_NUMBER]
    if kind == _FUNDED:
        account_id = get_half(event[E_ACCOUNT[0]], E_ACCOUNT)
        apply_funding(risk, account_id, get_half(event[N_ASSET[0]], N_ASSET), event[N_AMOUNT])


@kernel
def _insert_from(risk: RiskState, event: Int64Array) -> int:
    """Take an order among the live ones from its ACCEPTED, at the fee rates of its symbol now; it holds nothing yet."""
    kinds = event[E_KINDS]
    account_id = get_half(event[E_ACCOUNT[0]], E_ACCOUNT)
    symbol_id = get_half(event[E_SYMBOL[0]], E_SYMBOL)
    order_type = get_byte(kinds, E_TYPE)
    flags = ORDER_SELL if get_byte(kinds, E_SIDE) == _SELL else 0
    flags |= ORDER_PRICED if is_priced(order_type) else 0
    flags |= ORDER_STOP if is_stop(order_type) else 0
    if order_type == _MARKET and not flags:
        flags = ORDER_AS_HELD
    row = insert_order(risk, event[E_ORDER_ID])
    order = risk.orders[row]
    order[ORDER_WHERE] = order_where(account_id, symbol_id, flags)
    order[ORDER_PRICE] = price_word(event[E_PRICE], fee_ppm(risk.symbols[symbol_id]))
    order[ORDER_STOP_PRICE] = event[E_STOP_PRICE]
    order[ORDER_QUANTITY] = event[E_QUANTITY]
    risk.open_orders[account_id] += 1
    if not flags & ORDER_AS_HELD:
        move_open(risk, order[ORDER_WHERE], open_units(risk, order))
    return row


@kernel
def _remember(risk: RiskState, event: Int64Array) -> None:
    """Remember the ids of an order that was accepted or rejected while another risk was at work."""
    order_id = event[E_ORDER_ID]
    shard = order_id >> SHARD_SHIFT & (SHARDS_MAX - 1)
    risk.last_order_ids[shard] = max(risk.last_order_ids[shard], order_id)
    if is_named(event, E_CLIENT_ID):
        account_id = get_half(event[E_ACCOUNT[0]], E_ACCOUNT)
        hashed, key = hash_client_id(account_id, event, E_CLIENT_ID)
        insert_client_id(risk, hashed, key, event_content(event), order_id)


@kernel
def _forget_client_id(risk: RiskState, event: Int64Array) -> None:
    """Let the client order id of an order be free again that the matcher refused to take at all."""
    if is_named(event, E_CLIENT_ID):
        account_id = get_half(event[E_ACCOUNT[0]], E_ACCOUNT)
        hashed, key = hash_client_id(account_id, event, E_CLIENT_ID)
        row = find_client_id(risk, hashed, key, 0)
        if row >= 0 and risk.client_ids[row, CLIENT_ORDER] == event[E_ORDER_ID]:
            risk.client_ids[row, CLIENT_ORDER] = NO_ORDER


@leaf
def _add(risk: RiskState, account_id: int, asset_id: int, units: int) -> None:
    if units != 0:
        risk.balances[account_id, asset_id, TOTAL] += units
        mark_dirty(risk, account_id)
