"""Fill or kill: would this order trade whole, right now? A rehearsal of ``book_match`` that changes nothing.

Rule 1: only what others offer counts, within bound and budget, and only as far as prevention would let the taker come:
at the first order of its own it ends, unless prevention cancels the maker, which is then passed over.
"""

from __future__ import annotations

from tradeengine.core.book_kinds import (
    BUY,
    CANCEL_MAKER,
    FLAG_BY_QUOTE,
    MARKET,
    prevention_of,
    side_of,
    symbol_of,
    type_of,
)
from tradeengine.core.book_ladder import (
    entry_of,
    ladder_of,
    linked,
)
from tradeengine.core.book_money import (
    affordable_lots,
    fee_step,
    hold_needed,
)
from tradeengine.core.book_state import (
    FEE_BITS,
    H_LEVELS_MAX,
    K_NEXT,
    L_HEAD,
    L_PRICE,
    LEVEL_SHIFT,
    LOW_32,
    O_FEES,
    O_HOLD,
    O_KINDS,
    O_PLACE,
    O_REMAINING,
    ORDER_SHIFT,
    S_TICK_LOT,
    SYMBOL_SHIFT,
    BookState,
    at,
    int64,
    kernel,
)


@kernel
def fills_whole(book: BookState, taker: int, bound_key: int) -> bool:
    """Whether the order in slot ``taker``, in no queue and without fills, would trade all it wants."""
    orders = book.orders
    o = at(taker, ORDER_SHIFT)
    kinds = orders[o + O_KINDS]
    side = side_of(kinds)
    symbol = symbol_of(kinds)
    ladder = ladder_of(symbol, 1 - side)
    base = ladder * book.header[H_LEVELS_MAX]
    tick_lot_units = book.symbols[at(symbol, SYMBOL_SHIFT) + S_TICK_LOT]
    by_quote = kinds & FLAG_BY_QUOTE != 0
    # Only FOK orders come here, and a FOK buy that holds a budget is a market order.
    budgeted = side == BUY and type_of(kinds) == MARKET
    passes_own = prevention_of(kinds) == CANCEL_MAKER
    account = orders[o + O_PLACE] & LOW_32
    taker_ppm = orders[o + O_FEES] >> (2 * FEE_BITS)
    remaining = orders[o + O_REMAINING]
    hold = orders[o + O_HOLD]
    notional = int64(0)
    credit = int64(0)
    last_lot_price = int64(0)
    just_traded = False  # a budget counts as used up only right after a fill
    position = book.ladder_counts[ladder] - 1
    while position >= 0 and book.ladder_keys[entry_of(base, position)] >= bound_key:
        le = at(int64(book.ladder_levels[entry_of(base, position)]), LEVEL_SHIFT)
        lot_price = book.levels[le + L_PRICE] * tick_lot_units
        maker = book.levels[le + L_HEAD]
        while maker != 0:
            m = at(maker, ORDER_SHIFT)
            own = orders[m + O_PLACE] & LOW_32 == account
            if by_quote and just_traded and affordable_lots(lot_price, hold, taker_ppm, credit, 1) == 0:
                return True
            if own:
                if not passes_own:
                    return False
                just_traded = False
                maker = linked(book, maker, K_NEXT)
                continue
            lots = orders[m + O_REMAINING]
            if by_quote:
                bought = affordable_lots(lot_price, hold, taker_ppm, credit, lots)
                if bought == 0:
                    return False
                if bought < lots:
                    return True
                fee, credit = fee_step(lots * lot_price, taker_ppm, credit)
                hold -= lots * lot_price + fee
                just_traded = True
                last_lot_price = lot_price
            else:
                bought = min(remaining, lots)
                remaining -= bought
                notional += bought * lot_price
                if remaining == 0:
                    return not budgeted or hold_needed(notional, taker_ppm, 0) <= hold
            maker = linked(book, maker, K_NEXT)
        position -= 1
    return just_traded and affordable_lots(last_lot_price, hold, taker_ppm, credit, 1) == 0
