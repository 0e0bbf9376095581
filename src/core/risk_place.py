"""Risk's decision on a new order: is it one, is it new, may it be, and what does it hold.

The order of questions matters to clients: what a repeat says is answered before anything that may have changed since
(bounds, balance, backlog), so that the answer to a repeat stays the same; and nothing is written before every question
is answered.
"""

from __future__ import annotations

from typing import Final

from tradeengine.core.ids import COUNTER_MAX, EPOCH_2024_MS, EPOCH_SHIFT, EPOCHS_MAX, SHARD_SHIFT, TIMESTAMP_SHIFT
from tradeengine.core.records import ACCOUNT_ID_FIRST_USER, CommandFlag, OrderType, Reason, Side
from tradeengine.core.risk_checks import (
    check_numbers,
    check_shape,
    collar_price,
    cost_units,
    is_priced,
    is_stop,
    reference_ticks,
)
from tradeengine.core.risk_checks import is_valid_client_id as is_valid_id
from tradeengine.core.risk_clients import find_client_id, hash_client_id, insert_client_id, is_named, place_content
from tradeengine.core.risk_layout import (
    C_ACCOUNT,
    C_CLIENT_ID,
    C_FLAGS,
    C_HOLD,
    C_KINDS,
    C_ORDER_ID,
    C_PRICE,
    C_QUANTITY,
    C_SIDE,
    C_STOP_PRICE,
    C_SYMBOL,
    C_TIMESTAMP,
    C_TYPE,
    get_byte,
    get_half,
)
from tradeengine.core.risk_limits import check_limits, take_two_factor
from tradeengine.core.risk_orders import insert_order, order_where, price_word, set_hold
from tradeengine.core.risk_outbox import DONE, FOR_ORDERS, REPEATED, Outbox, check_room, forward
from tradeengine.core.risk_prefetch import look_ahead_at_order_id
from tradeengine.core.risk_state import (
    CLIENT_CONTENT,
    CLIENT_ORDER,
    EPOCH,
    HELD,
    LAST_TIMESTAMP_NS,
    ORDER_AS_HELD,
    ORDER_COUNT,
    ORDER_NEW,
    ORDER_PRICE,
    ORDER_PRICED,
    ORDER_QUANTITY,
    ORDER_SELL,
    ORDER_STOP,
    ORDER_STOP_PRICE,
    ORDER_WHERE,
    ORDERS_MAX,
    SYMBOL_BASE,
    SYMBOL_LOT_UNITS,
    SYMBOL_MAKER_PPM,
    SYMBOL_QUOTE,
    SYMBOL_SHARD,
    SYMBOL_TAKER_PPM,
    SYMBOL_TICK_LOT_UNITS,
    TOTAL,
    TOUCH_ASK,
    TOUCH_BID,
    Int64Array,
    RiskState,
    leaf,
)
from tradeengine.core.risk_symbols import is_listed
from tradeengine.core.risk_worth import move_open, open_units

_SELL: Final = int(Side.SELL)
_MARKET: Final = int(OrderType.MARKET)
_STOP: Final = int(OrderType.STOP)
_BY_QUOTE: Final = int(CommandFlag.BY_QUOTE)
_INVALID_REQUEST: Final = int(Reason.INVALID_REQUEST)
_SYMBOL_NOT_FOUND: Final = int(Reason.SYMBOL_NOT_FOUND)
_ID_REUSED: Final = int(Reason.CLIENT_ORDER_ID_REUSED)
_OVERLOADED: Final = int(Reason.ENGINE_OVERLOADED)
_INSUFFICIENT: Final = int(Reason.INSUFFICIENT_BALANCE)
_NS_PER_MS: Final = 1_000_000
_NOT_ENOUGH: Final = -1


@leaf
def place(risk: RiskState, outbox: Outbox, command: Int64Array, now_ns: int) -> int:
    """Answer a PLACE: DONE and forwarded, REPEATED with the original ``order_id``, or a Reason and nothing changed."""
    two_factor = take_two_factor(command)
    reason = check_shape(command)
    if reason:
        return reason
    account_id = get_half(command[C_ACCOUNT[0]], C_ACCOUNT)
    if not ACCOUNT_ID_FIRST_USER <= account_id < len(risk.open_orders) or not is_valid_id(command, C_CLIENT_ID):
        return _INVALID_REQUEST
    symbol_id = get_half(command[C_SYMBOL[0]], C_SYMBOL)
    if not is_listed(risk, symbol_id):
        return _SYMBOL_NOT_FOUND
    hashed, key = hash_client_id(account_id, command, C_CLIENT_ID)
    content = place_content(command)
    if is_named(command, C_CLIENT_ID):
        known = find_client_id(risk, hashed, key, command[C_TIMESTAMP] // _NS_PER_MS - EPOCH_2024_MS)
        if known >= 0:
            command[C_ORDER_ID] = risk.client_ids[known, CLIENT_ORDER]
            return REPEATED if risk.client_ids[known, CLIENT_CONTENT] == content else _ID_REUSED
    symbol = risk.symbols[symbol_id]
    bid_ticks = outbox.touch[symbol_id, TOUCH_BID]
    ask_ticks = outbox.touch[symbol_id, TOUCH_ASK]
    reason = check_numbers(command, symbol, bid_ticks, ask_ticks, now_ns)
    if reason:
        return reason
    price_ticks = reference_ticks(command, symbol, bid_ticks, ask_ticks)
    units = price_ticks * command[C_QUANTITY] * symbol[SYMBOL_TICK_LOT_UNITS]
    if get_byte(command[C_KINDS], C_FLAGS) & _BY_QUOTE:
        units = command[C_HOLD]
    reason = check_limits(risk, command, account_id, symbol, units, two_factor)
    if reason:
        return reason
    shard = symbol[SYMBOL_SHARD]
    reason = check_room(outbox, shard, FOR_ORDERS)
    if reason:
        return reason
    if risk.scalars[ORDER_COUNT] >= risk.scalars[ORDERS_MAX]:
        return _OVERLOADED
    hold_units = _size_hold(risk, command, account_id, symbol, ask_ticks)
    if hold_units == _NOT_ENOUGH:
        return _INSUFFICIENT
    command[C_HOLD] = hold_units
    command[C_ORDER_ID] = _next_order_id(risk, command, shard)
    take_order(risk, command, price_ticks)
    if is_named(command, C_CLIENT_ID):
        insert_client_id(risk, hashed, key, content, command[C_ORDER_ID])
    forward(outbox, command, shard)
    return DONE


@leaf
def take_order(risk: RiskState, command: Int64Array, price_ticks: int) -> None:
    """Count an order among the live ones and take its hold, from a checked PLACE that has its id and hold.

    price_ticks: what it was sized with, for a market order; 0: not known any more.
    """
    kinds = command[C_KINDS]
    account_id = get_half(command[C_ACCOUNT[0]], C_ACCOUNT)
    symbol_id = get_half(command[C_SYMBOL[0]], C_SYMBOL)
    order_type = get_byte(kinds, C_TYPE)
    flags = ORDER_NEW
    flags |= ORDER_SELL if get_byte(kinds, C_SIDE) == _SELL else 0
    flags |= ORDER_PRICED if is_priced(order_type) else 0
    flags |= ORDER_STOP if is_stop(order_type) else 0
    if order_type == _MARKET and not flags & ORDER_SELL and (price_ticks == 0 or command[C_QUANTITY] == 0):
        flags |= ORDER_AS_HELD
    row = insert_order(risk, command[C_ORDER_ID])
    order = risk.orders[row]
    order[ORDER_WHERE] = order_where(account_id, symbol_id, flags)
    order[ORDER_PRICE] = price_word(command[C_PRICE], fee_ppm(risk.symbols[symbol_id]))
    order[ORDER_STOP_PRICE] = price_ticks if order_type == _MARKET else command[C_STOP_PRICE]
    order[ORDER_QUANTITY] = command[C_QUANTITY]
    risk.open_orders[account_id] += 1
    if not flags & ORDER_AS_HELD:
        move_open(risk, order[ORDER_WHERE], open_units(risk, order))
    set_hold(risk, row, command[C_HOLD], 0)


@leaf
def fee_ppm(symbol: Int64Array) -> int:
    """Fee rate that holds are sized with: the higher one, because an order may trade as either."""
    return max(symbol[SYMBOL_MAKER_PPM], symbol[SYMBOL_TAKER_PPM])  # type: ignore[no-any-return]


@leaf
def available_units(risk: RiskState, account_id: int, asset_id: int) -> int:
    """Free balance."""
    return risk.balances[account_id, asset_id, TOTAL] - risk.balances[account_id, asset_id, HELD]  # type: ignore[no-any-return]


@leaf
def _size_hold(risk: RiskState, command: Int64Array, account_id: int, symbol: Int64Array, ask_ticks: int) -> int:
    """Say what a checked order has to hold; ``_NOT_ENOUGH`` when the account has less."""
    kinds = command[C_KINDS]
    quantity_lots = command[C_QUANTITY]
    order_type = get_byte(kinds, C_TYPE)
    if get_byte(kinds, C_SIDE) == _SELL:
        need_units = quantity_lots * symbol[SYMBOL_LOT_UNITS]
        return need_units if need_units <= available_units(risk, account_id, symbol[SYMBOL_BASE]) else _NOT_ENOUGH
    available = available_units(risk, account_id, symbol[SYMBOL_QUOTE])
    if get_byte(kinds, C_FLAGS) & _BY_QUOTE:
        return command[C_HOLD] if command[C_HOLD] <= available else _NOT_ENOUGH
    if is_priced(order_type):
        need_units = cost_units(symbol, command[C_PRICE], quantity_lots, fee_ppm(symbol))
        return need_units if need_units <= available else _NOT_ENOUGH
    price_ticks = command[C_STOP_PRICE] if order_type == _STOP else ask_ticks
    return size_budget(symbol, price_ticks, quantity_lots, available)


@leaf
def size_budget(symbol: Int64Array, price_ticks: int, quantity_lots: int, available: int) -> int:
    """Budget of a buy without a limit price, expected at a price: up to the collar, but no more than there is.

    0 when nobody sells (the matcher says so); ``_NOT_ENOUGH`` when not even the expected price can be paid.
    """
    if price_ticks == 0:
        return 0
    taker_ppm = symbol[SYMBOL_TAKER_PPM]
    if cost_units(symbol, price_ticks, quantity_lots, taker_ppm) > available:
        return _NOT_ENOUGH
    return min(available, cost_units(symbol, collar_price(symbol, price_ticks), quantity_lots, taker_ppm))


@leaf
def _next_order_id(risk: RiskState, command: Int64Array, shard: int) -> int:
    """Make the shard's next order id; when a millisecond's counter is used up, time moves on to the next one."""
    last = risk.last_order_ids[shard]
    epoch = risk.scalars[EPOCH]
    elapsed_ms = command[C_TIMESTAMP] // _NS_PER_MS - EPOCH_2024_MS
    counter = 0
    if elapsed_ms <= last >> TIMESTAMP_SHIFT:
        elapsed_ms = last >> TIMESTAMP_SHIFT
        counter = (last & COUNTER_MAX) + 1
        if counter > COUNTER_MAX or last >> EPOCH_SHIFT & (EPOCHS_MAX - 1) != epoch:
            elapsed_ms += 1
            counter = 0
        started_ns = (elapsed_ms + EPOCH_2024_MS) * _NS_PER_MS
        if started_ns > command[C_TIMESTAMP]:
            command[C_TIMESTAMP] = started_ns
            risk.scalars[LAST_TIMESTAMP_NS] = started_ns
    order_id = elapsed_ms << TIMESTAMP_SHIFT | shard << SHARD_SHIFT | epoch << EPOCH_SHIFT | counter
    risk.last_order_ids[shard] = order_id
    look_ahead_at_order_id(risk, order_id)
    return order_id  # type: ignore[no-any-return]
