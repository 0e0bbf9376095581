"""Limits of accounts: whether a new or amended order is within what its account may do.

A limit is a decimal, and counts in the quote asset of whichever order it is: it becomes units by that asset's places,
rounded down, because an amount is a whole number of units. All sums stay in int64: an order comes to ``UNITS_MAX`` at
most, what an account's orders come to together to ``OPEN_MAX``, and what it traded in a day stops at ``TRADED_MAX``.

The price of a market sell is that of the best bid. Where there is none, or none that risk has heard of, nobody can say
what the order comes to: then it is above every limit on amounts. So is a buy by quantity without a limit price in a
symbol without a collar: however low the best ask or its stop price is, it goes on to any price.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tradeengine.core.money import UNITS_MAX
from tradeengine.core.records import AccountFlag, CommandFlag, LimitKind, OrderType, Reason, Side
from tradeengine.core.risk_layout import (
    A_DAY_SCALE,
    A_FLAGS,
    A_ORDER_SCALE,
    A_TWO_FACTOR_SCALE,
    C_FLAGS,
    C_KINDS,
    C_SIDE,
    C_TIMESTAMP,
    C_TYPE,
    get_byte,
)
from tradeengine.core.risk_orders import find_order, order_account, order_symbol
from tradeengine.core.risk_outbox import LIMIT_KIND, LIMIT_MAXIMUM, LIMIT_USED
from tradeengine.core.risk_state import (
    AMENDS_IN_USE,
    AMENDS_MAX,
    AMENDS_PRICE,
    AMENDS_QUANTITY,
    NO_LIMIT,
    OPEN,
    OPEN_MAX,
    OPEN_ORDERS_MAX,
    ORDER_AMENDING,
    ORDER_FILLED,
    ORDER_ID,
    ORDER_PRICED,
    ORDER_QUANTITY,
    ORDER_SELL,
    ORDER_WHERE,
    SETTING_DAY_NOTIONAL,
    SETTING_OPEN_ORDERS,
    SETTING_ORDER_NOTIONAL,
    SETTING_PARTS,
    SETTING_TWO_FACTOR,
    SYMBOL_COLLAR_PPM,
    SYMBOL_QUOTE,
    SYMBOL_TICK_LOT_UNITS,
    Int64Array,
    RiskState,
    kernel,
    leaf,
)
from tradeengine.core.risk_worth import day_of, open_units, own_price, traded_units, worth_units

LIMIT_UNITS_MAX: Final = 1 << 62
"""What a limit becomes that is beyond all amounts."""
_POWERS: Final = 10 ** np.arange(19, dtype=np.int64)
_SUSPENDED: Final = int(AccountFlag.SUSPENDED)
_TWO_FACTOR: Final = int(CommandFlag.TWO_FACTOR)
_BY_QUOTE: Final = int(CommandFlag.BY_QUOTE)
_MARKET: Final = int(OrderType.MARKET)
_STOP: Final = int(OrderType.STOP)
_SELL: Final = int(Side.SELL)
_OF_ORDER: Final = int(LimitKind.ORDER_NOTIONAL)
_OF_DAY: Final = int(LimitKind.DAY_NOTIONAL)
_OF_OPEN_ORDERS: Final = int(LimitKind.OPEN_ORDERS)
_OF_TWO_FACTOR: Final = int(LimitKind.TWO_FACTOR)
_OF_OPEN: Final = int(LimitKind.OPEN_NOTIONAL)
_LIMIT_EXCEEDED: Final = int(Reason.LIMIT_EXCEEDED)
_TWO_FACTOR_REQUIRED: Final = int(Reason.TWO_FACTOR_REQUIRED)
_ACCOUNT_SUSPENDED: Final = int(Reason.ACCOUNT_SUSPENDED)
_OVERLOADED: Final = int(Reason.ENGINE_OVERLOADED)


@leaf
def take_two_factor(command: Int64Array) -> bool:
    """Take off the flag that says that the sender has signed in with a second factor; say whether it was there."""
    given = get_byte(command[C_KINDS], C_FLAGS) & _TWO_FACTOR
    command[C_KINDS] &= ~(_TWO_FACTOR << C_FLAGS[1])
    return given != 0


@leaf
def check_limits(
    risk: RiskState, command: Int64Array, account_id: int, symbol: Int64Array, units: int, two_factor: bool
) -> int:
    """Check a new order that comes to ``units`` of its quote asset. Gives a Reason, 0: none."""
    orders_max = risk.scalars[OPEN_ORDERS_MAX]
    asset_id = symbol[SYMBOL_QUOTE]
    if risk.restricted[account_id]:
        anything = _may_come_to_anything(command, symbol, units)
        reason = _check_settings(risk, command, account_id, asset_id, units, units, two_factor, anything)
        if reason:
            return reason
        own_max = risk.accounts[account_id, SETTING_OPEN_ORDERS]
        orders_max = orders_max if own_max == NO_LIMIT else min(orders_max, own_max)
    could_units = risk.worth[asset_id, account_id, OPEN]
    if units > OPEN_MAX - could_units:
        return _refuse(command, _OF_OPEN, could_units, OPEN_MAX)
    if risk.open_orders[account_id] >= orders_max:
        return _refuse(command, _OF_OPEN_ORDERS, risk.open_orders[account_id], orders_max)
    return 0


@kernel
def check_amended(
    risk: RiskState, command: Int64Array, row: int, quantity_lots: int, price_ticks: int, two_factor: bool
) -> int:
    """Check what an AMEND makes of an order, where it grows. Gives a Reason, 0: none.

    quantity_lots, price_ticks: the order's after it, and after those that are on their way.
    """
    order = risk.orders[row]
    account_id = order_account(order[ORDER_WHERE])
    amending = order[ORDER_WHERE] & ORDER_AMENDING != 0
    if not amending and risk.scalars[AMENDS_IN_USE] >= risk.scalars[AMENDS_MAX]:
        return _OVERLOADED
    symbol = risk.symbols[order_symbol(order[ORDER_WHERE])]
    asset_id, tick_lot_units = symbol[SYMBOL_QUOTE], symbol[SYMBOL_TICK_LOT_UNITS]
    most_lots, most_ticks = max(order[ORDER_QUANTITY], quantity_lots), max(own_price(order), price_ticks)
    if amending:
        amends = risk.amends[find_order(risk.amends, order[ORDER_ID])]
        most_lots, most_ticks = max(most_lots, amends[AMENDS_QUANTITY]), max(most_ticks, amends[AMENDS_PRICE])
    growth_units = worth_units(tick_lot_units, most_ticks, most_lots - order[ORDER_FILLED]) - open_units(risk, order)
    if risk.restricted[account_id]:
        order_units = worth_units(tick_lot_units, price_ticks, quantity_lots)
        if order_units <= worth_units(tick_lot_units, own_price(order), order[ORDER_QUANTITY]):
            order_units = 0
        is_stop_buy = order[ORDER_WHERE] & (ORDER_PRICED | ORDER_SELL) == 0
        anything = order_units > 0 and is_stop_buy and symbol[SYMBOL_COLLAR_PPM] == 0
        reason = _check_settings(risk, command, account_id, asset_id, order_units, growth_units, two_factor, anything)
        if reason:
            return reason
    could_units = risk.worth[asset_id, account_id, OPEN]
    return _refuse(command, _OF_OPEN, could_units, OPEN_MAX) if growth_units > OPEN_MAX - could_units else 0


@kernel
def _check_settings(
    risk: RiskState,
    command: Int64Array,
    account_id: int,
    asset_id: int,
    order_units: int,
    growth_units: int,
    two_factor: bool,
    anything: bool,
) -> int:
    """Check what an account's settings say of amounts. growth_units: by how much its orders could trade more than now.

    order_units: what the order comes to; 0: it does not grow. anything: nobody can say what it comes to.
    """
    account = risk.accounts[account_id]
    if get_byte(account[SETTING_PARTS], A_FLAGS) & _SUSPENDED:
        return _ACCOUNT_SUSPENDED
    used_units = order_units
    if anything:
        order_units = growth_units = UNITS_MAX
        used_units = -1
    limit_units = _limit_units(risk, account_id, asset_id, SETTING_ORDER_NOTIONAL, A_ORDER_SCALE)
    if order_units > limit_units:
        return _refuse(command, _OF_ORDER, used_units, limit_units)
    limit_units = _limit_units(risk, account_id, asset_id, SETTING_TWO_FACTOR, A_TWO_FACTOR_SCALE)
    if order_units > limit_units and not two_factor:
        _refuse(command, _OF_TWO_FACTOR, used_units, limit_units)
        return _TWO_FACTOR_REQUIRED
    if growth_units > 0 and account[SETTING_DAY_NOTIONAL] != NO_LIMIT:
        limit_units = _limit_units(risk, account_id, asset_id, SETTING_DAY_NOTIONAL, A_DAY_SCALE)
        traded = traded_units(risk, account_id, asset_id, day_of(command[C_TIMESTAMP]))
        could = risk.worth[asset_id, account_id, OPEN]
        if growth_units > limit_units - traded - could:
            return _refuse(command, _OF_DAY, min(traded, UNITS_MAX) + min(could, UNITS_MAX), limit_units)
    return 0


@leaf
def _limit_units(risk: RiskState, account_id: int, asset_id: int, setting: int, scale: tuple[int, int]) -> int:
    """Give a limit in units of an asset; ``LIMIT_UNITS_MAX`` for none and for what is beyond all amounts."""
    account = risk.accounts[account_id]
    mantissa = account[setting]
    if mantissa == NO_LIMIT:
        return LIMIT_UNITS_MAX
    shift = risk.asset_places[asset_id] - get_byte(account[SETTING_PARTS], scale)
    if shift < 0:
        return mantissa // _POWERS[-shift]  # type: ignore[no-any-return]
    return min(mantissa, LIMIT_UNITS_MAX // _POWERS[shift]) * _POWERS[shift]  # type: ignore[no-any-return]


@leaf
def _may_come_to_anything(command: Int64Array, symbol: Int64Array, units: int) -> bool:
    """Whether nobody can say what a new order comes to. A buy for which there is no price holds and buys nothing."""
    kinds = command[C_KINDS]
    order_type = get_byte(kinds, C_TYPE)
    if get_byte(kinds, C_SIDE) == _SELL:
        return units == 0 and order_type == _MARKET
    goes_on = order_type == _STOP or (order_type == _MARKET and get_byte(kinds, C_FLAGS) & _BY_QUOTE == 0)
    return units > 0 and goes_on and symbol[SYMBOL_COLLAR_PPM] == 0


@leaf
def _refuse(command: Int64Array, limit: int, used: int, maximum: int) -> int:
    """Write down behind the command which limit refuses it."""
    command[LIMIT_KIND] = limit
    command[LIMIT_USED] = used
    command[LIMIT_MAXIMUM] = maximum
    return _LIMIT_EXCEEDED
