"""Matching: a taker meets the opposite ladder, best price first, at each price in time priority.

Rule 1: a taker trades at the maker's price and stops at whichever comes first: its quantity, its bound (limit or
collar), its budget, or prevention of a trade with itself. Rule 2: what is left of a limit order with GTC or GTD rests;
of any other it ends. Rule 3: every change comes with its event; when the event buffer is full before one, the state
between two events is put away and the next call goes on from there.
It refuses to know how the taker came: placed, amended or triggered.
"""

from __future__ import annotations

from tradeengine.core.book_events import (
    C_TIMESTAMP,
    E_ACCOUNT,
    E_CLIENT,
    E_EXPIRES,
    E_FEE,
    E_FEE_TOTAL,
    E_FILLED_NOTIONAL,
    E_HOLD,
    E_KINDS,
    E_MAKER_FEE,
    E_MAKER_FEE_TOTAL,
    E_MAKER_FILLED_NOTIONAL,
    E_MAKER_HOLD,
    E_MAKER_ORDER_ID,
    E_MAKER_RELEASED,
    E_MAKER_REMAINING,
    E_NOTIONAL,
    E_ORDER_ID,
    E_PRICE,
    E_QUANTITY,
    E_RELEASED,
    E_REMAINING,
    E_STOP,
    E_SYMBOL,
    E_TRADE_ID,
    ORDER_KINDS,
    Call,
    put_head,
    put_order,
    ring_bits,
)
from tradeengine.core.book_kinds import (
    BOOK_FULL,
    BUDGET,
    BUY,
    CANCEL_MAKER,
    CANCEL_TAKER,
    COLLAR,
    EVENT_CANCELLED,
    EVENT_TRADED,
    FLAG_BY_QUOTE,
    FLAG_MAKER_DONE,
    IOC_NOT_FILLED,
    IOC_REMAINDER,
    NO_LIQUIDITY,
    SELF_TRADE,
    has_limit,
    may_rest,
    prevention_of,
    side_of,
    symbol_of,
    time_in_force_of,
    type_of,
)
from tradeengine.core.book_ladder import (
    dequeue,
    enqueue,
    entry_of,
    free_level,
    has_level,
    ladder_of,
    linked,
)
from tradeengine.core.book_money import (
    affordable_lots,
    fee_step,
    hold_needed,
)
from tradeengine.core.book_orders import (
    end_order,
    register,
)
from tradeengine.core.book_state import (
    FEE_BITS,
    FEE_MASK,
    H_BOUND,
    H_CURSOR,
    H_ENDING,
    H_LEVELS_MAX,
    H_PHASE,
    H_SHARD,
    H_TAKER,
    H_TRADE_ID,
    K_NEXT,
    K_PREVIOUS,
    L_COUNT,
    L_HEAD,
    L_LOTS,
    LADDER_STOP_BUYS,
    LADDER_STOP_SELLS,
    LEVEL_SHIFT,
    LINK_SHIFT,
    LOW_32,
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
    ORDER_SHIFT,
    PHASE_IDLE,
    PHASE_MATCH,
    PHASE_STOPS,
    S_LAST,
    S_LOT,
    S_TICK_LOT,
    SYMBOL_SHIFT,
    BookState,
    at,
    int64,
    kernel,
    leaf,
)
from tradeengine.core.ids import EPOCH_2024_MS, TIMESTAMP_SHIFT, TRADE_SHARD_SHIFT

UNBOUND = -(2**63) + 1
"""Below every key: a market order without collar."""
FILLED = -1
"""How a taker ends that traded all it wanted; otherwise a Reason, 0 while it goes on."""


@leaf
def match(book: BookState, call: Call, n: int, taker: int, bound_key: int, ending: int) -> int:
    """Let the order in ``taker`` trade down to ``bound_key``, then rest or end. Return the count of events.

    ending: a Reason that ends it at once; 0: none. Leaves PHASE_MATCH in the header when the buffer is full,
    PHASE_STOPS when it traded in reach of a stop, else PHASE_IDLE.
    """
    header, orders, levels, symbols = book.header, book.orders, book.levels, book.symbols
    o = at(taker, ORDER_SHIFT)
    kinds = orders[o + O_KINDS]
    side = side_of(kinds)
    symbol = symbol_of(kinds)
    s = at(symbol, SYMBOL_SHIFT)
    tick_lot_units = symbols[s + S_TICK_LOT]
    lot_units = symbols[s + S_LOT]
    ladder = ladder_of(symbol, 1 - side)
    sign = 2 * side - 1
    base = ladder * header[H_LEVELS_MAX]
    account = orders[o + O_PLACE] & LOW_32
    by_quote = kinds & FLAG_BY_QUOTE != 0
    order_type = type_of(kinds)
    limited = has_limit(order_type)
    budgeted = side == BUY and not limited
    remaining = orders[o + O_REMAINING]
    hold = orders[o + O_HOLD]
    notional_total = orders[o + O_NOTIONAL]
    fee_total = orders[o + O_FEE]
    fees = orders[o + O_FEES]
    credit = fees & FEE_MASK
    maker_ppm = (fees >> FEE_BITS) & FEE_MASK
    taker_ppm = fees >> (2 * FEE_BITS)
    rest_lot_price = orders[o + O_PRICE] * tick_lot_units
    rest_ppm = max(maker_ppm, taker_ppm)

    while ending == 0:
        count = book.ladder_counts[ladder]
        if count == 0:
            break
        key = book.ladder_keys[entry_of(base, count - 1)]
        if key < bound_key:
            break
        le = at(int64(book.ladder_levels[entry_of(base, count - 1)]), LEVEL_SHIFT)
        maker = levels[le + L_HEAD]
        m = at(maker, ORDER_SHIFT)
        price_ticks = sign * key
        lot_price = price_ticks * tick_lot_units
        maker_account = orders[m + O_PLACE] & LOW_32
        if n == call.capacity:
            header[H_PHASE] = PHASE_MATCH
            header[H_TAKER] = taker
            header[H_BOUND] = bound_key
            header[H_ENDING] = ending
            _put_away(book, o, remaining, hold, notional_total, fee_total, fees, credit)
            return n
        if maker_account == account:
            prevention = prevention_of(kinds)
            if prevention != CANCEL_TAKER:
                n = cancel_resting(book, call, n, maker, SELF_TRADE)
            if prevention != CANCEL_MAKER:
                ending = SELF_TRADE
            continue

        maker_remaining = orders[m + O_REMAINING]
        quantity = maker_remaining if by_quote else min(remaining, maker_remaining)
        if budgeted and hold_needed(quantity * lot_price, taker_ppm, credit) > hold:
            quantity = affordable_lots(lot_price, hold, taker_ppm, credit, quantity)
            if quantity == 0:
                ending = BUDGET
                break
        notional = quantity * lot_price
        fee, credit = fee_step(notional, taker_ppm, credit)
        notional_total += notional
        fee_total += fee

        maker_fees = orders[m + O_FEES]
        maker_fee, maker_credit = fee_step(notional, (maker_fees >> FEE_BITS) & FEE_MASK, maker_fees & FEE_MASK)
        maker_id = orders[m + O_ID]
        maker_notional = orders[m + O_NOTIONAL] + notional
        maker_fee_total = orders[m + O_FEE] + maker_fee
        maker_remaining -= quantity
        base_units = quantity * lot_units
        quote_units = notional + (fee if side == BUY else maker_fee)
        hold -= quote_units if side == BUY else base_units
        maker_hold = orders[m + O_HOLD] - (base_units if side == BUY else quote_units)
        maker_released = int64(0)
        done = int64(0)
        levels[le + L_LOTS] -= quantity
        if maker_remaining == 0:
            maker_released = maker_hold
            maker_hold = int64(0)
            done = int64(FLAG_MAKER_DONE)
            _pop_head(book, ladder, count, le, maker)
        else:
            orders[m + O_REMAINING] = maker_remaining
            orders[m + O_HOLD] = maker_hold
            orders[m + O_NOTIONAL] = maker_notional
            orders[m + O_FEE] = maker_fee_total
            orders[m + O_FEES] = (maker_fees & ~FEE_MASK) | maker_credit

        if by_quote:
            orders[o + O_QUANTITY] += quantity
            remaining = _lots_in_reach(
                book, ladder, base, bound_key, lot_price, tick_lot_units, hold, taker_ppm, credit
            )
        else:
            remaining -= quantity
        keep = hold
        if remaining == 0:
            ending = FILLED
            keep = int64(0)
        elif limited and side == BUY:
            keep = hold_needed(remaining * rest_lot_price, rest_ppm, credit)
        released = hold - keep
        hold = keep

        e = put_head(call, n)
        n += 1
        events = call.events
        events[e + E_ORDER_ID] = orders[o + O_ID]
        events[e + E_TRADE_ID] = _next_trade_id(book, call)
        events[e + E_MAKER_ORDER_ID] = maker_id
        events[e + E_PRICE] = price_ticks
        events[e + E_QUANTITY] = quantity
        events[e + E_REMAINING] = remaining
        events[e + E_MAKER_REMAINING] = maker_remaining
        events[e + E_NOTIONAL] = notional
        events[e + E_FEE] = fee
        events[e + E_MAKER_FEE] = maker_fee
        events[e + E_HOLD] = hold
        events[e + E_RELEASED] = released
        events[e + E_MAKER_HOLD] = maker_hold
        events[e + E_MAKER_RELEASED] = maker_released
        events[e + E_STOP] = 0
        events[e + E_EXPIRES] = 0
        events[e + E_ACCOUNT] = account | maker_account << 32
        events[e + E_SYMBOL] = symbol
        events[e + E_CLIENT] = 0
        events[e + E_CLIENT + 1] = 0
        events[e + E_CLIENT + 2] = 0
        events[e + E_CLIENT + 3] = 0
        events[e + E_KINDS] = EVENT_TRADED | (kinds & ORDER_KINDS) | done | ring_bits(call)
        events[e + E_FILLED_NOTIONAL] = notional_total
        events[e + E_MAKER_FILLED_NOTIONAL] = maker_notional
        events[e + E_FEE_TOTAL] = fee_total
        events[e + E_MAKER_FEE_TOTAL] = maker_fee_total
        symbols[s + S_LAST] = price_ticks

    _put_away(book, o, remaining, hold, notional_total, fee_total, fees, credit)
    if ending == FILLED:
        end_order(book, taker)
    else:
        if ending == 0:
            ending = _ending_of_rest(book, kinds, order_type, ladder, remaining != orders[o + O_QUANTITY], o)
        if ending == 0:
            register(book, taker)
            enqueue(book, ladder_of(symbol, side), orders[o + O_PRICE], taker)
        elif n == call.capacity:
            header[H_PHASE] = PHASE_MATCH
            header[H_TAKER] = taker
            header[H_BOUND] = bound_key
            header[H_ENDING] = ending
            return n
        else:
            if by_quote:
                orders[o + O_REMAINING] = 0
            n = put_order(book, call, n, taker, EVENT_CANCELLED, ending, 0, hold, 0, 0)
            end_order(book, taker)
    look_for_stops(book, symbol)
    return n


@leaf
def look_for_stops(book: BookState, symbol: int) -> None:
    """Leave PHASE_STOPS in the header, with the symbol, when a stop is due; else PHASE_IDLE."""
    if _stop_is_due(book, symbol):
        book.header[H_PHASE] = PHASE_STOPS
        book.header[H_CURSOR] = symbol
    else:
        book.header[H_PHASE] = PHASE_IDLE


@leaf
def _stop_is_due(book: BookState, symbol: int) -> bool:
    """Whether the last trade price fires a stop of this symbol. Two compares however many stops wait."""
    last = book.symbols[at(symbol, SYMBOL_SHIFT) + S_LAST]
    if last == 0:
        return False
    levels_max = book.header[H_LEVELS_MAX]
    buys = ladder_of(symbol, LADDER_STOP_BUYS)
    sells = ladder_of(symbol, LADDER_STOP_SELLS)
    count = book.ladder_counts[buys]
    if count > 0 and book.ladder_keys[entry_of(buys * levels_max, count - 1)] >= -last:
        return True
    count = book.ladder_counts[sells]
    return count > 0 and book.ladder_keys[entry_of(sells * levels_max, count - 1)] >= last  # type: ignore[no-any-return]


@kernel
def cancel_resting(book: BookState, call: Call, n: int, slot: int, reason: int) -> int:
    """End an order that rests or waits, with its event. Return the count of events."""
    n = put_order(book, call, n, slot, EVENT_CANCELLED, reason, 0, book.orders[at(slot, ORDER_SHIFT) + O_HOLD], 0, 0)
    dequeue(book, slot)
    end_order(book, slot)
    return n


@leaf
def _put_away(
    book: BookState,
    o: int,
    remaining: int,
    hold: int,
    notional_total: int,
    fee_total: int,
    fees: int,
    credit: int,
) -> None:
    """Write back what matching kept in registers."""
    book.orders[o + O_REMAINING] = remaining
    book.orders[o + O_HOLD] = hold
    book.orders[o + O_NOTIONAL] = notional_total
    book.orders[o + O_FEE] = fee_total
    book.orders[o + O_FEES] = (fees & ~FEE_MASK) | credit


@leaf
def _pop_head(book: BookState, ladder: int, count: int, le: int, maker: int) -> None:
    """Take the filled head off the best level, and the level off the end of the ladder if it is empty."""
    after = linked(book, maker, K_NEXT)
    if after == 0:
        book.ladder_counts[ladder] = count - 1
        free_level(book, le >> LEVEL_SHIFT)
    else:
        book.levels[le + L_HEAD] = after
        book.levels[le + L_COUNT] -= 1
        book.links[at(after, LINK_SHIFT) + K_PREVIOUS] = 0
    end_order(book, maker)


@leaf
def _next_trade_id(book: BookState, call: Call) -> int:
    """Ids ascend; a full counter borrows from the next millisecond."""
    shard_bits = book.header[H_SHARD] << TRADE_SHARD_SHIFT
    milliseconds = max(0, call.commands[call.command + C_TIMESTAMP] // 1_000_000 - EPOCH_2024_MS)
    first = milliseconds << TIMESTAMP_SHIFT | shard_bits
    following = book.header[H_TRADE_ID] + 1
    if following & ((1 << TRADE_SHARD_SHIFT) - 1) == 0:
        following = ((following - 1) >> TIMESTAMP_SHIFT) + 1 << TIMESTAMP_SHIFT | shard_bits
    following = max(first, following)
    book.header[H_TRADE_ID] = following
    return following  # type: ignore[no-any-return]


@kernel
def _lots_in_reach(
    book: BookState,
    ladder: int,
    base: int,
    bound_key: int,
    lot_price: int,
    tick_lot_units: int,
    hold: int,
    taker_ppm: int,
    credit: int,
) -> int:
    """Lots that a budget still buys at the next price in reach, else at the price just paid; 0 says it is used up."""
    count = book.ladder_counts[ladder]
    if count > 0:
        key = book.ladder_keys[entry_of(base, count - 1)]
        if key >= bound_key:
            lot_price = -key * tick_lot_units
    return affordable_lots(lot_price, hold, taker_ppm, credit, hold // lot_price)


@leaf
def _ending_of_rest(book: BookState, kinds: int, order_type: int, ladder: int, traded: bool, o: int) -> int:
    """Why what is left cannot rest; 0: it rests."""
    if not has_limit(order_type):
        return NO_LIQUIDITY if book.ladder_counts[ladder] == 0 else COLLAR
    time_in_force = time_in_force_of(kinds)
    if not may_rest(time_in_force):
        return IOC_REMAINDER if traded else IOC_NOT_FILLED
    own = ladder ^ 1
    if book.ladder_counts[own] == book.header[H_LEVELS_MAX] and not has_level(book, own, book.orders[o + O_PRICE]):
        return BOOK_FULL
    return 0
