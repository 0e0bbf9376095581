"""Risk's table of symbols: what a listing or a change of parameters makes of a row.

A row changes when the command passes through risk, because the orders behind it in the command ring meet the matcher
with the same values. The event that comes back changes it only where risk did not see the command itself: after a
restart. ``ring_sequence`` tells which of two is the newer one.
"""

from __future__ import annotations

from tradeengine.core.risk_layout import (
    C_RING_SEQUENCE,
    C_SYMBOL,
    E_RING_SEQUENCE,
    E_SYMBOL,
    S_BASE,
    S_COLLAR_PPM,
    S_LOT_UNITS,
    S_LOTS_MAX,
    S_LOTS_MIN,
    S_MAKER_PPM,
    S_NOTIONAL_MIN,
    S_PRICE_TICKS_MAX,
    S_QUOTE,
    S_SHARD,
    S_TAKER_PPM,
    S_TICK_LOT_UNITS,
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
    Y_SHARD,
    Y_TAKER_PPM,
    Y_TICK_LOT_UNITS,
    get_half,
)
from tradeengine.core.risk_state import (
    SYMBOL_BASE,
    SYMBOL_COLLAR_PPM,
    SYMBOL_LISTED,
    SYMBOL_LOT_UNITS,
    SYMBOL_LOTS_MAX,
    SYMBOL_LOTS_MIN,
    SYMBOL_MAKER_PPM,
    SYMBOL_NOTIONAL_MIN,
    SYMBOL_PRICE_TICKS_MAX,
    SYMBOL_QUOTE,
    SYMBOL_RING_SEQUENCE,
    SYMBOL_SHARD,
    SYMBOL_TAKER_PPM,
    SYMBOL_TICK_LOT_UNITS,
    Int64Array,
    RiskState,
    kernel,
    leaf,
)


@kernel
def set_symbol(risk: RiskState, command: Int64Array) -> None:
    """Take over a checked LIST_SYMBOL or SET_PARAMETERS that is on its way to the matcher."""
    symbol = risk.symbols[get_half(command[C_SYMBOL[0]], C_SYMBOL)]
    symbol[SYMBOL_LISTED] = 1
    symbol[SYMBOL_RING_SEQUENCE] = command[C_RING_SEQUENCE]
    symbol[SYMBOL_SHARD] = get_half(command[Y_SHARD[0]], Y_SHARD)
    symbol[SYMBOL_BASE] = get_half(command[Y_BASE[0]], Y_BASE)
    symbol[SYMBOL_QUOTE] = get_half(command[Y_QUOTE[0]], Y_QUOTE)
    symbol[SYMBOL_TICK_LOT_UNITS] = command[Y_TICK_LOT_UNITS]
    symbol[SYMBOL_LOT_UNITS] = command[Y_LOT_UNITS]
    symbol[SYMBOL_PRICE_TICKS_MAX] = command[Y_PRICE_TICKS_MAX]
    symbol[SYMBOL_LOTS_MIN] = command[Y_LOTS_MIN]
    symbol[SYMBOL_LOTS_MAX] = command[Y_LOTS_MAX]
    symbol[SYMBOL_NOTIONAL_MIN] = command[Y_NOTIONAL_MIN]
    symbol[SYMBOL_MAKER_PPM] = get_half(command[Y_MAKER_PPM[0]], Y_MAKER_PPM)
    symbol[SYMBOL_TAKER_PPM] = get_half(command[Y_TAKER_PPM[0]], Y_TAKER_PPM)
    symbol[SYMBOL_COLLAR_PPM] = get_half(command[Y_COLLAR_PPM[0]], Y_COLLAR_PPM)
    risk.asset_places[symbol[SYMBOL_QUOTE]] = get_half(command[Y_QUOTE_PLACES[0]], Y_QUOTE_PLACES)


@kernel
def fold_symbol(risk: RiskState, event: Int64Array) -> None:
    """Take over a SYMBOL_LISTED or PARAMETERS_SET, unless a later command has passed already."""
    symbol = risk.symbols[get_half(event[E_SYMBOL[0]], E_SYMBOL)]
    if symbol[SYMBOL_LISTED] == 1 and event[E_RING_SEQUENCE] <= symbol[SYMBOL_RING_SEQUENCE]:
        return
    symbol[SYMBOL_LISTED] = 1
    symbol[SYMBOL_RING_SEQUENCE] = event[E_RING_SEQUENCE]
    symbol[SYMBOL_SHARD] = get_half(event[S_SHARD[0]], S_SHARD)
    symbol[SYMBOL_BASE] = get_half(event[S_BASE[0]], S_BASE)
    symbol[SYMBOL_QUOTE] = get_half(event[S_QUOTE[0]], S_QUOTE)
    symbol[SYMBOL_TICK_LOT_UNITS] = event[S_TICK_LOT_UNITS]
    symbol[SYMBOL_LOT_UNITS] = event[S_LOT_UNITS]
    symbol[SYMBOL_PRICE_TICKS_MAX] = event[S_PRICE_TICKS_MAX]
    symbol[SYMBOL_LOTS_MIN] = event[S_LOTS_MIN]
    symbol[SYMBOL_LOTS_MAX] = event[S_LOTS_MAX]
    symbol[SYMBOL_NOTIONAL_MIN] = event[S_NOTIONAL_MIN]
    symbol[SYMBOL_MAKER_PPM] = get_half(event[S_MAKER_PPM[0]], S_MAKER_PPM)
    symbol[SYMBOL_TAKER_PPM] = get_half(event[S_TAKER_PPM[0]], S_TAKER_PPM)
    symbol[SYMBOL_COLLAR_PPM] = get_half(event[S_COLLAR_PPM[0]], S_COLLAR_PPM)


@leaf
def is_listed(risk: RiskState, symbol_id: int) -> bool:
    """Whether a symbol id names a symbol that orders may go to."""
    return 0 <= symbol_id < len(risk.symbols) and risk.symbols[symbol_id, SYMBOL_LISTED] == 1
