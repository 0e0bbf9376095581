"""Placing: what a new order must satisfy, then what it does.

Rule 1: first what leaves no order (REFUSED: unknown symbol, impossible combination, a number out of bounds, a hold that
is too small), then what leaves a rejected one (REJECTED: halt, no room, collar, post-only, fill-or-kill). Risk has
looked at most of it already; the book trusts nobody with its memory.
Rule 2: an accepted order holds exactly what it needs; a market buy and a stop buy hold their budget.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tradeengine.core.book_events import (
    C_ACCOUNT,
    C_CLIENT,
    C_EXPIRES,
    C_HOLD,
    C_KINDS,
    C_ORDER_ID,
    C_PRICE,
    C_QUANTITY,
    C_STOP,
    C_TIMESTAMP,
    Call,
    put_order,
    put_refusal,
)
from tradeengine.core.book_kinds import (
    BELOW_MIN_NOTIONAL,
    BOOK_FULL,
    BUY,
    CANCEL_ONLY,
    EVENT_ACCEPTED,
    EVENT_REFUSED,
    EVENT_REJECTED,
    EXPIRED,
    FLAGS_SHIFT,
    FOK,
    FOK_NOT_FILLED,
    GTD,
    INSUFFICIENT_BALANCE,
    INVALID_COMBINATION,
    INVALID_REQUEST,
    LIMIT,
    MARK_WAITING,
    NONE,
    NUMBER_OUT_OF_RANGE,
    POST_ONLY_WOULD_MATCH,
    PRICE_OUT_OF_COLLAR,
    SIDE_SHIFT,
    STATE_HALTED,
    STATE_OPEN,
    STOP,
    SYMBOL_HALTED,
    SYMBOL_NOT_FOUND,
    has_limit,
    is_stop,
    may_rest,
    side_of,
    symbol_of,
    time_in_force_of,
    type_of,
)
from tradeengine.core.book_ladder import (
    enqueue,
    enqueue_by_id,
    entry_of,
    has_level,
    ladder_of,
)
from tradeengine.core.book_match import (
    UNBOUND,
    look_for_stops,
    match,
)
from tradeengine.core.book_money import (
    deviation_ticks,
    hold_needed,
)
from tradeengine.core.book_orders import (
    register,
    take_slot,
)
from tradeengine.core.book_reach import (
    fills_whole,
)
from tradeengine.core.book_state import (
    FEE_BITS,
    H_ACCOUNTS_MAX,
    H_LEVELS_MAX,
    H_ORDER_COUNT,
    H_ORDER_ID,
    H_ORDERS_MAX,
    H_SYMBOLS_MAX,
    HIGH_32,
    LADDER_STOP_BUYS,
    LOW_32,
    O_CLIENT,
    O_FEE,
    O_FEES,
    O_HOLD,
    O_ID,
    O_KINDS,
    O_NOTIONAL,
    O_PLACE,
    O_PRICE,
    O_QUANTITY,
    O_REMAINING,
    O_STOP,
    O_TAIL,
    ORDER_SHIFT,
    S_COLLAR,
    S_FEES,
    S_LAST,
    S_LISTED,
    S_LOT,
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
    leaf,
)
from tradeengine.core.money import UNITS_MAX
from tradeengine.core.records import CommandFlag, OrderType, TimeInForce

HOLD_MAX: Final = 2 * UNITS_MAX
"""A notional and a fee of 100 % on it."""


def _combination(side: int, order_type: int, time_in_force: int, flags: int) -> int:
    return side | order_type << 1 | time_in_force << 4 | flags << 7


def _allowed_combinations() -> NDArray[np.uint8]:
    """Table of the API's order types × times in force, by the bits that ``_combination`` packs."""
    table = np.zeros(1 << 9, np.uint8)
    t = TimeInForce
    times = {
        OrderType.LIMIT: (t.GTC, t.GTD, t.IOC, t.FOK),
        OrderType.MARKET: (t.IOC, t.FOK),
        OrderType.STOP: (t.GTC, t.GTD),
        OrderType.STOP_LIMIT: (t.GTC, t.GTD, t.IOC, t.FOK),
    }
    for order_type, allowed in times.items():
        for time_in_force in allowed:
            for side in (0, 1):
                table[_combination(side, order_type, time_in_force, 0)] = 1
    for side in (0, 1):
        for time_in_force in (t.GTC, t.GTD):
            table[_combination(side, OrderType.LIMIT, time_in_force, CommandFlag.POST_ONLY)] = 1
    for time_in_force in (t.IOC, t.FOK):
        table[_combination(BUY, OrderType.MARKET, time_in_force, CommandFlag.BY_QUOTE)] = 1
    return table


_ALLOWED = _allowed_combinations()
_KNOWN_BITS: Final = 0x0003_0307_0701_0000
"""Bits that side, type, time in force, prevention and flags may have in a command's word of kinds."""
_DETAILS: Final = 0x00FF_FFFF_FFFF_0000


@leaf
def place(book: BookState, call: Call, n: int) -> int:
    """Carry out PLACE. Return the count of events; the header's phase says what is left to do."""
    commands, c = call.commands, call.command
    reason = _refusal(book, commands, c)
    if reason != NONE:
        return put_refusal(call, n, EVENT_REFUSED, reason, commands[c + C_HOLD])
    book.header[H_ORDER_ID] = commands[c + C_ORDER_ID]
    reason = _rejection(book, commands, c)
    if reason != NONE:
        return put_refusal(call, n, EVENT_REJECTED, reason, commands[c + C_HOLD])

    slot = take_slot(book)
    released = _fill_slot(book, commands, c, slot)
    o = at(slot, ORDER_SHIFT)
    kinds = book.orders[o + O_KINDS]
    symbol = symbol_of(kinds)
    side = side_of(kinds)
    order_type = type_of(kinds)
    time_in_force = time_in_force_of(kinds)
    ending = NONE
    if time_in_force == GTD:
        book.expires_at[slot] = commands[c + C_EXPIRES]
        if commands[c + C_EXPIRES] <= commands[c + C_TIMESTAMP]:
            ending = EXPIRED
    n = put_order(book, call, n, slot, EVENT_ACCEPTED, NONE, book.orders[o + O_HOLD], released, 0, 0)
    if is_stop(order_type) and ending == NONE:
        book.orders[o + O_KINDS] = kinds | MARK_WAITING
        enqueue_by_id(book, ladder_of(symbol, LADDER_STOP_BUYS + side), book.orders[o + O_STOP], slot)
        register(book, slot)
        look_for_stops(book, symbol)
        return n
    bound_key = bound_of(book, slot)
    if may_rest(time_in_force) and ending == NONE:
        opposite = ladder_of(symbol, 1 - side)
        if not crosses(book, opposite, bound_key):
            register(book, slot)
            enqueue(book, ladder_of(symbol, side), book.orders[o + O_PRICE], slot)
            return n
    return match(book, call, n, slot, bound_key, ending)


@leaf
def crosses(book: BookState, opposite: int, bound_key: int) -> bool:
    """Whether the best level of a ladder is in reach of a bound."""
    count = book.ladder_counts[opposite]
    return count > 0 and book.ladder_keys[entry_of(opposite * book.header[H_LEVELS_MAX], count - 1)] >= bound_key  # type: ignore[no-any-return]


@leaf
def bound_of(book: BookState, slot: int) -> int:
    """Least key of the opposite ladder at which an order may trade: its limit, or its collar around the best price."""
    o = at(slot, ORDER_SHIFT)
    kinds = book.orders[o + O_KINDS]
    side = side_of(kinds)
    sign = 2 * side - 1
    order_type = type_of(kinds)
    if has_limit(order_type):
        return sign * book.orders[o + O_PRICE]  # type: ignore[no-any-return]
    symbol = symbol_of(kinds)
    collar_ppm = book.symbols[at(symbol, SYMBOL_SHIFT) + S_COLLAR]
    opposite = ladder_of(symbol, 1 - side)
    count = book.ladder_counts[opposite]
    if collar_ppm == 0 or count == 0:
        return UNBOUND
    key = book.ladder_keys[entry_of(opposite * book.header[H_LEVELS_MAX], count - 1)]
    return key - deviation_ticks(sign * key, collar_ppm)  # type: ignore[no-any-return]


@leaf
def out_of_collar(book: BookState, symbol: int, side: int, price_ticks: int) -> bool:
    """Whether a limit lies beyond the last trade price ± collar on the aggressive side. No last price, no check."""
    s = at(symbol, SYMBOL_SHIFT)
    last = book.symbols[s + S_LAST]
    collar_ppm = book.symbols[s + S_COLLAR]
    if last == 0 or collar_ppm == 0:
        return False
    deviation = deviation_ticks(last, collar_ppm)
    if side == BUY:
        return price_ticks > last + deviation  # type: ignore[no-any-return]
    return price_ticks < last - deviation  # type: ignore[no-any-return]


@leaf
def state_reason(state: int) -> int:
    """Why a symbol in this state, which is not OPEN, takes no orders."""
    return SYMBOL_HALTED if state == STATE_HALTED else CANCEL_ONLY


@leaf
def order_needs(
    book: BookState, symbol: int, side: int, order_type: int, price_ticks: int, lots: int, fees: int, credit: int
) -> int:
    """Units that so many lots must hold: sells base, limit buys quote; 0 for buys that hold a budget instead.

    fees: maker | taker << 20, in ppm.
    """
    s = at(symbol, SYMBOL_SHIFT)
    if side != BUY:
        return lots * book.symbols[s + S_LOT]  # type: ignore[no-any-return]
    if not has_limit(order_type):
        return 0
    rate_ppm = max(fees & ((1 << FEE_BITS) - 1), fees >> FEE_BITS)
    return hold_needed(lots * price_ticks * book.symbols[s + S_TICK_LOT], rate_ppm, credit)


@leaf
def symbol_fees(book: BookState, symbol: int) -> int:
    """Give the fees that an order accepted now keeps: maker | taker << 20, in ppm."""
    fees = book.symbols[at(symbol, SYMBOL_SHIFT) + S_FEES]
    return (fees & LOW_32) | (fees >> 32) << FEE_BITS  # type: ignore[no-any-return]


@leaf
def _refusal(book: BookState, commands: NDArray[np.int64], c: int) -> int:
    """Why this PLACE leaves no order at all."""
    account = commands[c + C_ACCOUNT] & LOW_32
    symbol = commands[c + C_ACCOUNT] >> 32
    if symbol < 0 or symbol >= book.header[H_SYMBOLS_MAX]:
        return SYMBOL_NOT_FOUND
    s = at(symbol, SYMBOL_SHIFT)
    if book.symbols[s + S_LISTED] == 0:
        return SYMBOL_NOT_FOUND
    if account >= book.header[H_ACCOUNTS_MAX] or commands[c + C_ORDER_ID] <= book.header[H_ORDER_ID]:
        return INVALID_REQUEST
    kinds = commands[c + C_KINDS]
    side = (kinds >> 16) & 1
    order_type = (kinds >> 24) & 7
    time_in_force = (kinds >> 32) & 7
    flags = (kinds >> 48) & 3
    price = commands[c + C_PRICE]
    stop = commands[c + C_STOP]
    lots = commands[c + C_QUANTITY]
    hold = commands[c + C_HOLD]
    by_quote = flags & 2 != 0
    combination = side | order_type << 1 | time_in_force << 4 | flags << 7
    limited = has_limit(order_type)
    if (
        kinds & _DETAILS & ~_KNOWN_BITS != 0
        or (kinds >> 40) & 3 == 0
        or _ALLOWED[combination] == 0
        or (price != 0) != limited
        or (stop != 0) != (order_type >= STOP)
        or (commands[c + C_EXPIRES] != 0) != (time_in_force == GTD)
        or (lots == 0) != by_quote
    ):
        return INVALID_COMBINATION
    price_max = book.symbols[s + S_PRICE_MAX]
    if price < 0 or price > price_max or stop < 0 or stop > price_max or hold < 0 or hold > HOLD_MAX:
        return NUMBER_OUT_OF_RANGE
    if not by_quote and (lots < book.symbols[s + S_QUANTITY_MIN] or lots > book.symbols[s + S_QUANTITY_MAX]):
        return NUMBER_OUT_OF_RANGE
    if limited and lots * price * book.symbols[s + S_TICK_LOT] < book.symbols[s + S_NOTIONAL_MIN]:
        return BELOW_MIN_NOTIONAL
    if hold < order_needs(book, symbol, side, order_type, price, lots, symbol_fees(book, symbol), 0):
        return INSUFFICIENT_BALANCE
    return NONE


@leaf
def _rejection(book: BookState, commands: NDArray[np.int64], c: int) -> int:
    """Why this PLACE leaves a rejected order. ``_refusal`` found nothing."""
    header = book.header
    symbol = commands[c + C_ACCOUNT] >> 32
    kinds = commands[c + C_KINDS]
    side = (kinds >> 16) & 1
    order_type = (kinds >> 24) & 7
    time_in_force = (kinds >> 32) & 7
    price = commands[c + C_PRICE]
    state = book.symbols[at(symbol, SYMBOL_SHIFT) + S_STATE]
    if state != STATE_OPEN:
        return state_reason(state)
    if header[H_ORDER_COUNT] == header[H_ORDERS_MAX]:
        return BOOK_FULL
    if is_stop(order_type):
        ladder = ladder_of(symbol, LADDER_STOP_BUYS + side)
        return BOOK_FULL if no_room(book, ladder, commands[c + C_STOP]) else NONE
    if order_type == LIMIT:
        if out_of_collar(book, symbol, side, price):
            return PRICE_OUT_OF_COLLAR
        if (kinds >> 48) & 1 and crosses(book, ladder_of(symbol, 1 - side), (2 * side - 1) * price):
            return POST_ONLY_WOULD_MATCH
        if may_rest(time_in_force) and no_room(book, ladder_of(symbol, side), price):
            return BOOK_FULL
    if time_in_force == FOK:
        return _fill_or_kill(book, commands, c)
    return NONE


@leaf
def no_room(book: BookState, ladder: int, price_ticks: int) -> bool:
    """Whether a price would need a new level where none fits."""
    full = book.ladder_counts[ladder] == book.header[H_LEVELS_MAX]
    return full and not has_level(book, ladder, price_ticks)


@kernel
def _fill_or_kill(book: BookState, commands: NDArray[np.int64], c: int) -> int:
    """Try a FOK order on the scratch slot 0, which no order ever has."""
    _fill_slot(book, commands, c, 0)
    return NONE if fills_whole(book, 0, bound_of(book, 0)) else FOK_NOT_FILLED


@leaf
def _fill_slot(book: BookState, commands: NDArray[np.int64], c: int, slot: int) -> int:
    """Write a new order into its slot. Return what it does not need of the hold that came with it."""
    orders = book.orders
    o = at(slot, ORDER_SHIFT)
    kinds = commands[c + C_KINDS]
    symbol = commands[c + C_ACCOUNT] >> 32
    side = (kinds >> 16) & 1
    order_type = (kinds >> 24) & 7
    lots = commands[c + C_QUANTITY]
    price = commands[c + C_PRICE]
    hold = commands[c + C_HOLD]
    fees = symbol_fees(book, symbol)
    needed = order_needs(book, symbol, side, order_type, price, lots, fees, 0)
    if side == BUY and not has_limit(order_type):
        needed = hold
    orders[o + O_ID] = commands[c + C_ORDER_ID]
    orders[o + O_REMAINING] = lots
    orders[o + O_HOLD] = needed
    orders[o + O_NOTIONAL] = 0
    orders[o + O_FEE] = 0
    orders[o + O_FEES] = fees << FEE_BITS
    orders[o + O_PLACE] = commands[c + C_ACCOUNT] & LOW_32
    flags = (kinds >> 48) & 3
    orders[o + O_KINDS] = ((kinds >> 16) & LOW_32) << SIDE_SHIFT | flags << FLAGS_SHIFT | symbol << 16
    orders[o + O_PRICE] = price
    orders[o + O_STOP] = commands[c + C_STOP]
    orders[o + O_QUANTITY] = lots
    orders[o + O_CLIENT] = commands[c + C_CLIENT + 1]
    orders[o + O_CLIENT + 1] = commands[c + C_CLIENT + 2]
    orders[o + O_CLIENT + 2] = commands[c + C_CLIENT + 3]
    orders[o + O_CLIENT + 3] = commands[c + C_CLIENT + 4]
    orders[o + O_TAIL] = commands[c + C_CLIENT] & HIGH_32
    return hold - needed  # type: ignore[no-any-return]
