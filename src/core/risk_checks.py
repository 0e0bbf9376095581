"""What a command must be before risk takes it: shapes, ranges, combinations, bounds of its symbol; and what it costs.

Everything that comes from a ring is checked here again, whoever wrote it, because the next reader believes it. Each
check answers with a ``Reason``; 0 is none. Nothing here changes anything.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tradeengine.core.book_money import DEVIATION_MAX, deviation_ticks, hold_needed
from tradeengine.core.money import PLACES_MAX, PPM, UNITS_MAX
from tradeengine.core.records import (
    CLIENT_ORDER_ID_BYTES_MAX,
    CommandFlag,
    CommandKind,
    OrderType,
    Reason,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
from tradeengine.core.risk_layout import (
    C_EXPIRES,
    C_FLAGS,
    C_HOLD,
    C_KIND,
    C_KINDS,
    C_PRICE,
    C_QUANTITY,
    C_SELF_TRADE,
    C_SIDE,
    C_STOP_PRICE,
    C_SYMBOL,
    C_TIME_IN_FORCE,
    C_TYPE,
    Y_BASE,
    Y_COLLAR_PPM,
    Y_LOT_UNITS,
    Y_LOTS_MAX,
    Y_LOTS_MIN,
    Y_MAKER_PPM,
    Y_NOTIONAL_MIN,
    Y_PRICE_TICKS_MAX,
    Y_QUOTE,
    Y_QUOTE_PLACES,
    Y_TAKER_PPM,
    Y_TICK_LOT_UNITS,
    get_byte,
    get_half,
)
from tradeengine.core.risk_state import (
    SYMBOL_COLLAR_PPM,
    SYMBOL_LOTS_MAX,
    SYMBOL_LOTS_MIN,
    SYMBOL_NOTIONAL_MIN,
    SYMBOL_PRICE_TICKS_MAX,
    SYMBOL_TICK_LOT_UNITS,
    Int64Array,
    kernel,
    leaf,
)
from tradeengine.core.symbols import COLLAR_PPM_MAX, PRICE_TICKS_MAX

_PLACE: Final = int(CommandKind.PLACE)
_LIMIT: Final = int(OrderType.LIMIT)
_MARKET: Final = int(OrderType.MARKET)
_STOP: Final = int(OrderType.STOP)
_STOP_LIMIT: Final = int(OrderType.STOP_LIMIT)
_BUY: Final = int(Side.BUY)
_GTC: Final = int(TimeInForce.GTC)
_GTD: Final = int(TimeInForce.GTD)
_POST_ONLY: Final = int(CommandFlag.POST_ONLY)
_BY_QUOTE: Final = int(CommandFlag.BY_QUOTE)
_PLACE_FLAGS: Final = int(CommandFlag.POST_ONLY | CommandFlag.BY_QUOTE)
_STP_MAX: Final = int(max(SelfTradePrevention))
_INVALID_REQUEST: Final = int(Reason.INVALID_REQUEST)
_INVALID_COMBINATION: Final = int(Reason.INVALID_COMBINATION)
_OUT_OF_RANGE: Final = int(Reason.NUMBER_OUT_OF_RANGE)
_BELOW_MIN_NOTIONAL: Final = int(Reason.BELOW_MIN_NOTIONAL)


def _allowed_times() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """List the times in force that go with each order type: a bit each, by type."""
    bits = np.zeros(max(OrderType) + 1, np.int64)
    every = sum(1 << time for time in TimeInForce)
    bits[OrderType.LIMIT] = every
    bits[OrderType.MARKET] = 1 << TimeInForce.IOC | 1 << TimeInForce.FOK
    bits[OrderType.STOP] = 1 << TimeInForce.GTC | 1 << TimeInForce.GTD
    bits[OrderType.STOP_LIMIT] = every
    return bits


_ALLOWED_TIMES: Final = _allowed_times()
_CLIENT_ID_BYTES: Final = np.array(
    [chr(code).isascii() and (chr(code).isalnum() or chr(code) in "_.:-") for code in range(256)]
)


@kernel
def market_symbols(commands: Int64Array, symbols: Int64Array) -> int:
    """List the symbols in which market orders are asked for, each once, into int64[symbols_max]; give their count."""
    count = 0
    for row in range(len(commands)):
        kinds = commands[row, C_KINDS]
        if get_byte(kinds, C_KIND) == _PLACE and get_byte(kinds, C_TYPE) == _MARKET:
            symbol_id = get_half(commands[row, C_SYMBOL[0]], C_SYMBOL)
            known = symbol_id < 0 or symbol_id >= len(symbols)
            for place in range(count):
                known = known or symbols[place] == symbol_id
            if not known:
                symbols[count] = symbol_id
                count += 1
    return count


@leaf
def check_shape(command: Int64Array) -> int:
    """Check that a PLACE's enumerations exist and go together, whatever the symbol."""
    kinds = command[C_KINDS]
    order_type = get_byte(kinds, C_TYPE)
    time_in_force = get_byte(kinds, C_TIME_IN_FORCE)
    flags = get_byte(kinds, C_FLAGS)
    side = get_byte(kinds, C_SIDE)
    if not _LIMIT <= order_type <= _STOP_LIMIT or not _GTC <= time_in_force <= _GTD or side > 1:
        return _INVALID_REQUEST
    if not 1 <= get_byte(kinds, C_SELF_TRADE) <= _STP_MAX or flags & ~_PLACE_FLAGS:
        return _INVALID_REQUEST
    if _ALLOWED_TIMES[order_type] >> time_in_force & 1 == 0:
        return _INVALID_COMBINATION
    if flags & _POST_ONLY and (order_type != _LIMIT or (time_in_force != _GTC and time_in_force != _GTD)):
        return _INVALID_COMBINATION
    if flags & _BY_QUOTE and (order_type != _MARKET or side != _BUY or command[C_QUANTITY] != 0):
        return _INVALID_COMBINATION
    if (command[C_EXPIRES] != 0) != (time_in_force == _GTD):
        return _INVALID_COMBINATION
    if command[C_PRICE] != 0 and not is_priced(order_type):
        return _INVALID_COMBINATION
    if command[C_STOP_PRICE] != 0 and not is_stop(order_type):
        return _INVALID_COMBINATION
    return 0


@leaf
def check_numbers(command: Int64Array, symbol: Int64Array, bid_ticks: int, ask_ticks: int, now_ns: int) -> int:
    """Check a well-shaped PLACE against its symbol's bounds. A market order's worth is that at the touch, if any."""
    kinds = command[C_KINDS]
    order_type = get_byte(kinds, C_TYPE)
    price_max = symbol[SYMBOL_PRICE_TICKS_MAX]
    if is_priced(order_type) and not 1 <= command[C_PRICE] <= price_max:
        return _OUT_OF_RANGE
    if is_stop(order_type) and not 1 <= command[C_STOP_PRICE] <= price_max:
        return _OUT_OF_RANGE
    if get_byte(kinds, C_TIME_IN_FORCE) == _GTD and command[C_EXPIRES] <= now_ns:
        return _OUT_OF_RANGE
    if get_byte(kinds, C_FLAGS) & _BY_QUOTE:
        if not 1 <= command[C_HOLD] <= UNITS_MAX:
            return _OUT_OF_RANGE
        return _BELOW_MIN_NOTIONAL if command[C_HOLD] < symbol[SYMBOL_NOTIONAL_MIN] else 0
    if not symbol[SYMBOL_LOTS_MIN] <= command[C_QUANTITY] <= symbol[SYMBOL_LOTS_MAX]:
        return _OUT_OF_RANGE
    return check_notional(symbol, reference_ticks(command, symbol, bid_ticks, ask_ticks), command[C_QUANTITY])


@leaf
def reference_ticks(command: Int64Array, symbol: Int64Array, bid_ticks: int, ask_ticks: int) -> int:
    """Price that an order's worth is reckoned at: its own, or that of the touch; 0: there is none."""
    kinds = command[C_KINDS]
    order_type = get_byte(kinds, C_TYPE)
    if is_priced(order_type):
        return command[C_PRICE]  # type: ignore[no-any-return]
    if order_type == _STOP:
        return command[C_STOP_PRICE]  # type: ignore[no-any-return]
    touch_ticks = ask_ticks if get_byte(kinds, C_SIDE) == _BUY else bid_ticks
    return min(touch_ticks, symbol[SYMBOL_PRICE_TICKS_MAX])  # type: ignore[no-any-return]


@leaf
def check_notional(symbol: Int64Array, reference_ticks: int, quantity_lots: int) -> int:
    """Check the least worth of an order at a price; 0 ticks: there is no price to go by."""
    notional_units = reference_ticks * quantity_lots * symbol[SYMBOL_TICK_LOT_UNITS]
    if reference_ticks > 0 and notional_units < symbol[SYMBOL_NOTIONAL_MIN]:
        return _BELOW_MIN_NOTIONAL
    return 0


@leaf
def is_priced(order_type: int) -> bool:
    """Whether orders of a type have a limit price."""
    return order_type in (_LIMIT, _STOP_LIMIT)


@leaf
def is_stop(order_type: int) -> bool:
    """Whether orders of a type have a stop price."""
    return order_type in (_STOP, _STOP_LIMIT)


@leaf
def cost_units(symbol: Int64Array, price_ticks: int, quantity_lots: int, fee_ppm: int) -> int:
    """Quote units that buying at a price needs, the fee included. Bounds are checked: it cannot overflow."""
    return hold_needed(price_ticks * quantity_lots * symbol[SYMBOL_TICK_LOT_UNITS], fee_ppm, 0)


@leaf
def collar_price(symbol: Int64Array, price_ticks: int) -> int:
    """Highest price that an order may pay that meets the market at a price; without a collar, the symbol's highest."""
    collar_ppm = symbol[SYMBOL_COLLAR_PPM]
    price_max = symbol[SYMBOL_PRICE_TICKS_MAX]
    if collar_ppm == 0:
        return price_max  # type: ignore[no-any-return]
    deviation = deviation_ticks(price_ticks, collar_ppm)
    return price_max if deviation >= DEVIATION_MAX else min(price_max, price_ticks + deviation)  # type: ignore[no-any-return]


@kernel
def is_valid_client_id(words: Int64Array, first: int) -> bool:
    """Check the characters of an id, zero-padded from the upper half of ``words[first]`` on; an empty one is valid."""
    for place in range(4, 4 + CLIENT_ORDER_ID_BYTES_MAX):
        rest = words[first + (place >> 3)] >> ((place & 7) << 3)
        if rest == 0:
            later = 0
            for word in range(first + (place >> 3) + 1, first + (CLIENT_ORDER_ID_BYTES_MAX + 4 >> 3)):
                later |= words[word]
            return later == 0
        if not _CLIENT_ID_BYTES[rest & 0xFF]:
            return False
    return True


@kernel
def check_symbol(command: Int64Array, assets_max: int) -> int:
    """Check a LIST_SYMBOL or SET_PARAMETERS as ``SymbolSpec`` does: nothing within its bounds may overflow."""
    tick_lot_units = command[Y_TICK_LOT_UNITS]
    lot_units = command[Y_LOT_UNITS]
    price_max = command[Y_PRICE_TICKS_MAX]
    lots_max = command[Y_LOTS_MAX]
    if not 1 <= tick_lot_units <= UNITS_MAX or not 1 <= lot_units <= UNITS_MAX:
        return _OUT_OF_RANGE
    if not 1 <= price_max <= PRICE_TICKS_MAX or not 1 <= command[Y_LOTS_MIN] <= lots_max:
        return _OUT_OF_RANGE
    if lots_max > UNITS_MAX // lot_units or lots_max > UNITS_MAX // tick_lot_units // price_max:
        return _OUT_OF_RANGE
    if not 0 <= command[Y_NOTIONAL_MIN] <= UNITS_MAX:
        return _OUT_OF_RANGE
    if not 0 <= get_half(command[Y_MAKER_PPM[0]], Y_MAKER_PPM) <= PPM:
        return _OUT_OF_RANGE
    if not 0 <= get_half(command[Y_TAKER_PPM[0]], Y_TAKER_PPM) <= PPM:
        return _OUT_OF_RANGE
    if not 0 <= get_half(command[Y_QUOTE_PLACES[0]], Y_QUOTE_PLACES) <= PLACES_MAX:
        return _OUT_OF_RANGE
    if not 0 <= get_half(command[Y_COLLAR_PPM[0]], Y_COLLAR_PPM) <= COLLAR_PPM_MAX:
        return _OUT_OF_RANGE
    base = get_half(command[Y_BASE[0]], Y_BASE)
    quote = get_half(command[Y_QUOTE[0]], Y_QUOTE)
    if not 0 <= base < assets_max or not 0 <= quote < assets_max or base == quote:
        return _INVALID_REQUEST
    return 0
