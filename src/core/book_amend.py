"""Amending an order in place: same id, other terms.

Rule 1: less quantity keeps the place in the queue; more quantity or another price loses it, and the order may then
trade as a taker. A waiting stop has no place to lose: its level is its stop price, and there it stands by id.
Rule 2: a refused amend changes nothing and gives back what risk took in addition for it.
Rule 3: an order amended by its price meets the checks of a new one: collar, post-only, room in the book.
"""

from __future__ import annotations

from tradeengine.core.book_events import (
    C_ACCOUNT,
    C_HOLD,
    C_ORDER_ID,
    C_PRICE,
    C_QUANTITY,
    C_STOP,
    Call,
    put_order,
    put_refusal,
)
from tradeengine.core.book_index import (
    find_slot,
)
from tradeengine.core.book_kinds import (
    BELOW_MIN_NOTIONAL,
    BOOK_FULL,
    BUY,
    EVENT_AMENDED,
    EVENT_REFUSED,
    FLAG_POST_ONLY,
    INSUFFICIENT_BALANCE,
    INVALID_COMBINATION,
    MARK_WAITING,
    NONE,
    NUMBER_OUT_OF_RANGE,
    ORDER_NOT_FOUND,
    POST_ONLY_WOULD_MATCH,
    PRICE_OUT_OF_COLLAR,
    QUANTITY_NOT_ABOVE_FILLED,
    STATE_OPEN,
    STOP,
    has_limit,
    side_of,
    symbol_of,
    type_of,
)
from tradeengine.core.book_ladder import (
    dequeue,
    enqueue_by_id,
    ladder_of,
)
from tradeengine.core.book_match import (
    look_for_stops,
    match,
)
from tradeengine.core.book_place import (
    HOLD_MAX,
    bound_of,
    crosses,
    no_room,
    order_needs,
    out_of_collar,
    state_reason,
)
from tradeengine.core.book_state import (
    FEE_BITS,
    FEE_MASK,
    L_COUNT,
    L_LOTS,
    LADDER_STOP_BUYS,
    LEVEL_SHIFT,
    LOW_32,
    O_FEES,
    O_HOLD,
    O_KINDS,
    O_PLACE,
    O_PRICE,
    O_QUANTITY,
    O_REMAINING,
    O_STOP,
    ORDER_SHIFT,
    S_NOTIONAL_MIN,
    S_PRICE_MAX,
    S_QUANTITY_MAX,
    S_QUANTITY_MIN,
    S_STATE,
    S_TICK_LOT,
    SYMBOL_SHIFT,
    BookState,
    at,
    kernel,
)
from tradeengine.core.money import UNITS_MAX


@kernel
def amend(book: BookState, call: Call, n: int) -> int:
    """Carry out AMEND. Return the count of events; the header's phase says what is left to do."""
    commands, c, orders = call.commands, call.command, book.orders
    slot = find_slot(book, commands[c + C_ORDER_ID])
    o = at(slot, ORDER_SHIFT)
    if slot == 0 or orders[o + O_PLACE] & LOW_32 != commands[c + C_ACCOUNT] & LOW_32:
        return put_refusal(call, n, EVENT_REFUSED, ORDER_NOT_FOUND, commands[c + C_HOLD])
    previous_price = orders[o + O_PRICE]
    previous_stop = orders[o + O_STOP]
    previous_remaining = orders[o + O_REMAINING]
    filled = orders[o + O_QUANTITY] - previous_remaining
    price = commands[c + C_PRICE] if commands[c + C_PRICE] != 0 else previous_price
    stop = commands[c + C_STOP] if commands[c + C_STOP] != 0 else previous_stop
    remaining = commands[c + C_QUANTITY] - filled if commands[c + C_QUANTITY] != 0 else previous_remaining
    hold = orders[o + O_HOLD] + commands[c + C_HOLD]
    reason = _refusal(book, call, slot, price, stop, remaining, hold)
    if reason != NONE:
        return put_refusal(call, n, EVENT_REFUSED, reason, commands[c + C_HOLD])

    kinds = orders[o + O_KINDS]
    side = side_of(kinds)
    symbol = symbol_of(kinds)
    order_type = type_of(kinds)
    waiting = kinds & MARK_WAITING != 0
    moves = stop != previous_stop if waiting else price != previous_price or remaining > previous_remaining
    if moves:
        dequeue(book, slot)
    else:
        book.levels[(at(orders[o + O_PLACE] >> 32, LEVEL_SHIFT)) + L_LOTS] += remaining - previous_remaining
    needed = _needs(book, slot, price, remaining)
    if side == BUY and order_type == STOP:
        needed = hold
    orders[o + O_PRICE] = price
    orders[o + O_STOP] = stop
    orders[o + O_REMAINING] = remaining
    orders[o + O_QUANTITY] = filled + remaining
    orders[o + O_HOLD] = needed
    n = put_order(book, call, n, slot, EVENT_AMENDED, NONE, needed, hold - needed, previous_price, previous_remaining)
    if not moves:
        return n
    if waiting:
        enqueue_by_id(book, ladder_of(symbol, LADDER_STOP_BUYS + side), stop, slot)
        look_for_stops(book, symbol)
        return n
    return match(book, call, n, slot, bound_of(book, slot), NONE)


@kernel
def _refusal(book: BookState, call: Call, slot: int, price: int, stop: int, remaining: int, hold: int) -> int:
    """Why an order may not have these terms. price, stop, remaining: as they would be; hold: with what risk added."""
    commands, c, orders = call.commands, call.command, book.orders
    o = at(slot, ORDER_SHIFT)
    kinds = orders[o + O_KINDS]
    side = side_of(kinds)
    symbol = symbol_of(kinds)
    order_type = type_of(kinds)
    s = at(symbol, SYMBOL_SHIFT)
    limited = has_limit(order_type)
    waiting = kinds & MARK_WAITING != 0
    if book.symbols[s + S_STATE] != STATE_OPEN:
        return state_reason(book.symbols[s + S_STATE])
    if (commands[c + C_PRICE] != 0 and not limited) or (commands[c + C_STOP] != 0 and not waiting):
        return INVALID_COMBINATION
    if commands[c + C_QUANTITY] < 0 or commands[c + C_HOLD] < 0 or commands[c + C_HOLD] > HOLD_MAX:
        return NUMBER_OUT_OF_RANGE
    if remaining <= 0:
        return QUANTITY_NOT_ABOVE_FILLED
    reason = _range_fault(book, call, s, price, stop)
    if reason != NONE:
        return reason
    quantity = orders[o + O_QUANTITY] - orders[o + O_REMAINING] + remaining
    lot_price = price * book.symbols[s + S_TICK_LOT]
    # Each was in bounds when it came, but the bounds may have changed in between: the product could wrap.
    if limited and quantity > UNITS_MAX // lot_price:
        return NUMBER_OUT_OF_RANGE
    if limited and quantity * lot_price < book.symbols[s + S_NOTIONAL_MIN]:
        return BELOW_MIN_NOTIONAL
    if hold < _needs(book, slot, price, remaining):
        return INSUFFICIENT_BALANCE
    if waiting:
        moves_from, moves = orders[o + O_STOP], stop
        ladder = ladder_of(symbol, LADDER_STOP_BUYS + side)
    else:
        moves_from, moves = orders[o + O_PRICE], price
        ladder = ladder_of(symbol, side)
    if moves == moves_from:
        return NONE
    if not waiting:
        if out_of_collar(book, symbol, side, price):
            return PRICE_OUT_OF_COLLAR
        if kinds & FLAG_POST_ONLY and crosses(book, ladder_of(symbol, 1 - side), (2 * side - 1) * price):
            return POST_ONLY_WOULD_MATCH
    alone = book.levels[(at(orders[o + O_PLACE] >> 32, LEVEL_SHIFT)) + L_COUNT] == 1
    return BOOK_FULL if not alone and no_room(book, ladder, moves) else NONE


@kernel
def _range_fault(book: BookState, call: Call, s: int, price: int, stop: int) -> int:
    """Whether a number that the amend brings is out of the symbol's bounds; what it keeps is not looked at again."""
    commands, c = call.commands, call.command
    quantity = commands[c + C_QUANTITY]
    if quantity != 0 and (quantity < book.symbols[s + S_QUANTITY_MIN] or quantity > book.symbols[s + S_QUANTITY_MAX]):
        return NUMBER_OUT_OF_RANGE
    price_max = book.symbols[s + S_PRICE_MAX]
    if commands[c + C_PRICE] != 0 and (price < 0 or price > price_max):
        return NUMBER_OUT_OF_RANGE
    if commands[c + C_STOP] != 0 and (stop < 0 or stop > price_max):
        return NUMBER_OUT_OF_RANGE
    return NONE


@kernel
def _needs(book: BookState, slot: int, price: int, remaining: int) -> int:
    """Units the order must hold with these terms; 0 for a stop buy, which holds a budget."""
    o = at(slot, ORDER_SHIFT)
    kinds = book.orders[o + O_KINDS]
    side = side_of(kinds)
    order_type = type_of(kinds)
    fees = book.orders[o + O_FEES]
    symbol = symbol_of(kinds)
    return order_needs(book, symbol, side, order_type, price, remaining, fees >> FEE_BITS, fees & FEE_MASK)
