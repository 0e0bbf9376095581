"""What accounts have traded today and could still trade, per quote asset: what limits on volume are about.

OPEN is the sum over an account's live orders of what each could still trade: its remaining lots at its own price; a
stop without a limit at its stop price, a market order at the touch that it was sized with, one by quote amount what it
still holds. TRADED is the sum of the notional of the account's fills, as taker and as maker, in one UTC day; it goes
back to zero with the first look or fill of a later day.

Amends on their way count with what they may make of an order at most: the highest quantity and the highest price that
was asked for, until the matcher has answered all of them. So nothing that was let in can come to more than was counted.
"""

from __future__ import annotations

from typing import Final

from tradeengine.core.money import UNITS_MAX
from tradeengine.core.risk_layout import C_PRICE, C_QUANTITY, C_STOP_PRICE
from tradeengine.core.risk_orders import (
    find_order,
    insert_row,
    order_account,
    order_price,
    order_symbol,
    remove_order,
    remove_row,
    set_hold,
)
from tradeengine.core.risk_state import (
    AMENDS_COUNT,
    AMENDS_IN_USE,
    AMENDS_PRICE,
    AMENDS_QUANTITY,
    AMENDS_WORDS,
    OPEN,
    ORDER_AMENDING,
    ORDER_AS_HELD,
    ORDER_ENDED,
    ORDER_EXTRA,
    ORDER_FILLED,
    ORDER_HOLD,
    ORDER_ID,
    ORDER_PRICE,
    ORDER_PRICED,
    ORDER_QUANTITY,
    ORDER_STOP_PRICE,
    ORDER_WHERE,
    SYMBOL_QUOTE,
    SYMBOL_TICK_LOT_UNITS,
    TRADED,
    TRADED_DAY,
    TRADED_MAX,
    Int64Array,
    RiskState,
    kernel,
    leaf,
)

_NS_PER_DAY: Final = 86_400 * 1_000_000_000


@leaf
def own_price(order: Int64Array) -> int:
    """Price in ticks at which an order counts; 0: a market order of which no price is known."""
    return order_price(order[ORDER_PRICE]) if order[ORDER_WHERE] & ORDER_PRICED else order[ORDER_STOP_PRICE]


@leaf
def open_units(risk: RiskState, order: Int64Array) -> int:
    """Say what an order could still trade, in units of its quote asset."""
    where = order[ORDER_WHERE]
    if where & (ORDER_ENDED | ORDER_AS_HELD | ORDER_AMENDING):
        return _odd_open_units(risk, order)
    tick_lot_units = risk.symbols[order_symbol(where), SYMBOL_TICK_LOT_UNITS]
    return own_price(order) * (order[ORDER_QUANTITY] - order[ORDER_FILLED]) * tick_lot_units  # type: ignore[no-any-return]


@kernel
def _odd_open_units(risk: RiskState, order: Int64Array) -> int:
    where = order[ORDER_WHERE]
    if where & ORDER_ENDED:
        return 0
    if where & ORDER_AS_HELD:
        return order[ORDER_HOLD]  # type: ignore[no-any-return]
    amends = risk.amends[find_order(risk.amends, order[ORDER_ID])]
    lots = max(order[ORDER_QUANTITY], amends[AMENDS_QUANTITY]) - order[ORDER_FILLED]
    price_ticks = max(own_price(order), amends[AMENDS_PRICE])
    return worth_units(risk.symbols[order_symbol(where), SYMBOL_TICK_LOT_UNITS], price_ticks, lots)


@leaf
def worth_units(tick_lot_units: int, price_ticks: int, lots: int) -> int:
    """Say what lots at a price come to, at most ``UNITS_MAX``: quantity and price of two amends may go beyond it."""
    lot_price_units = price_ticks * tick_lot_units
    return min(lots, UNITS_MAX // max(lot_price_units, 1)) * lot_price_units


@leaf
def move_open(risk: RiskState, where: int, change_units: int) -> None:
    """Add to what an order's account could still trade."""
    risk.worth[risk.symbols[order_symbol(where), SYMBOL_QUOTE], order_account(where), OPEN] += change_units


@leaf
def end_order(risk: RiskState, row: int) -> None:
    """End an order: it holds nothing any more and counts no more. Rows may move.

    It stays, marked, while amends that were forwarded before its end was known have something to give back.
    """
    order = risk.orders[row]
    where = order[ORDER_WHERE]
    if where & ORDER_ENDED == 0:
        risk.open_orders[order_account(where)] -= 1
        if where & ORDER_AS_HELD == 0:  # of the others ``set_hold`` takes it off
            move_open(risk, where, -open_units(risk, order))
        if where & ORDER_AMENDING:
            _forget_amends(risk, order)
    set_hold(risk, row, 0, order[ORDER_EXTRA])
    if order[ORDER_EXTRA] == 0:
        remove_order(risk, row)
    else:
        order[ORDER_WHERE] |= ORDER_ENDED


@kernel
def note_amend(risk: RiskState, row: int, quantity_lots: int, price_ticks: int) -> None:
    """Count an amend that was forwarded. quantity_lots, price_ticks: what the order will have, at its own price."""
    order = risk.orders[row]
    before_units = open_units(risk, order)
    place = find_order(risk.amends, order[ORDER_ID])
    if place < 0:
        place = insert_row(risk.amends, order[ORDER_ID])
        risk.scalars[AMENDS_IN_USE] += 1
        order[ORDER_WHERE] |= ORDER_AMENDING
    amends = risk.amends[place]
    amends[AMENDS_COUNT] += 1
    amends[AMENDS_QUANTITY] = max(amends[AMENDS_QUANTITY], quantity_lots)
    amends[AMENDS_PRICE] = max(amends[AMENDS_PRICE], price_ticks)
    move_open(risk, order[ORDER_WHERE], open_units(risk, order) - before_units)


@leaf
def amended_content(risk: RiskState, order: Int64Array, command: Int64Array) -> tuple[int, int]:
    """Say what quantity, and at which own price, a checked AMEND makes of an order: after all that are on their way."""
    where = order[ORDER_WHERE]
    lots, price_ticks = order[ORDER_QUANTITY], own_price(order)
    if where & ORDER_AMENDING:
        amends = risk.amends[find_order(risk.amends, order[ORDER_ID])]
        lots = max(lots, amends[AMENDS_QUANTITY])
        price_ticks = max(price_ticks, amends[AMENDS_PRICE])
    asked_ticks = command[C_PRICE] if where & ORDER_PRICED else command[C_STOP_PRICE]
    lots = command[C_QUANTITY] if command[C_QUANTITY] != 0 else lots
    return lots, asked_ticks if asked_ticks != 0 else price_ticks


@leaf
def settle_amend(risk: RiskState, order: Int64Array) -> None:
    """Count an amend no more that the matcher has answered. Its caller moves what the order could still trade."""
    if order[ORDER_WHERE] & ORDER_AMENDING:
        amends = risk.amends[find_order(risk.amends, order[ORDER_ID])]
        amends[AMENDS_COUNT] -= 1
        if amends[AMENDS_COUNT] == 0:
            _forget_amends(risk, order)


@kernel
def _forget_amends(risk: RiskState, order: Int64Array) -> None:
    order[ORDER_WHERE] &= ~ORDER_AMENDING
    remove_row(risk.amends, find_order(risk.amends, order[ORDER_ID]), AMENDS_WORDS)
    risk.scalars[AMENDS_IN_USE] -= 1


@leaf
def day_of(timestamp_ns: int) -> int:
    """UTC day of a time, counted since 1970."""
    return timestamp_ns // _NS_PER_DAY


@leaf
def add_traded(risk: RiskState, account_id: int, asset_id: int, notional_units: int, day: int) -> None:
    """Count a fill. One of a day before the account's last is none of today's any more."""
    worth = risk.worth[asset_id, account_id]
    if day > worth[TRADED_DAY]:
        worth[TRADED_DAY] = day
        worth[TRADED] = 0
    if day == worth[TRADED_DAY]:
        worth[TRADED] = min(worth[TRADED] + notional_units, TRADED_MAX)


@leaf
def traded_units(risk: RiskState, account_id: int, asset_id: int, day: int) -> int:
    """Say what an account has traded in a quote asset on a day that is its last or later."""
    worth = risk.worth[asset_id, account_id]
    return worth[TRADED] if day <= worth[TRADED_DAY] else 0
