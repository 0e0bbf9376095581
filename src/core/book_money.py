"""Arithmetic of the order book: fees, holds, budgets, collars. Pure functions on int64.

Rule 1: the fee of an order is ceil(exact fee of all its fills); a fill is charged what that grows by. The part charged
beyond the exact fee is kept in millionths (the *credit*, 0 … 999,999), so a mix of maker and taker fills stays exact.
Rule 2: a hold covers what is left of the order at its limit price, at the higher of its two fee rates.
Rule 3: nothing overflows while notionals stay within ``UNITS_MAX``, which listing and validation see to.
"""

from __future__ import annotations

import numpy as np

from tradeengine.core.book_state import (
    int64,
    kernel,
    leaf,
)

PPM = 1_000_000
DEVIATION_MAX = 2**62
"""Wider than any price: no collar."""


@leaf
def fee_step(notional_units: int, rate_ppm: int, credit: int) -> tuple[int, int]:
    """Charge for one fill and the credit after it. notional_units: 0 … 2**62. rate_ppm: 0 … 10**6."""
    whole = millions(notional_units)
    part = (notional_units - whole * PPM) * rate_ppm - credit + (PPM - 1)
    charged = millions(part)
    return whole * rate_ppm + charged, (PPM - 1) - (part - charged * PPM)


@leaf
def hold_needed(notional_units: int, rate_ppm: int, credit: int) -> int:
    """Quote units that a buy of this notional needs, fee included."""
    whole = millions(notional_units)
    part = (notional_units - whole * PPM) * rate_ppm - credit + (PPM - 1)
    return notional_units + whole * rate_ppm + millions(part)


@leaf
def millions(units: int) -> int:
    """Divide by a million; units ≥ 0. Unsigned, because that is one multiplication and a shift."""
    return int64(np.uint64(units) // np.uint64(PPM))


@leaf
def deviation_ticks(price_ticks: int, collar_ppm: int) -> int:
    """Give the collar's width around a price, rounded down. collar_ppm: 0 … 10**7."""
    whole = millions(price_ticks)
    if whole > 400_000_000_000 and collar_ppm > PPM:
        return DEVIATION_MAX  # the product would wrap, and such a collar reaches beyond the greatest price
    return whole * collar_ppm + millions((price_ticks - whole * PPM) * collar_ppm)


@kernel
def affordable_lots(lot_price_units: int, budget_units: int, rate_ppm: int, credit: int, lots_max: int) -> int:
    """Find the most lots, up to lots_max, whose notional and fee a budget covers. By bisection: exact and rare."""
    low = int64(0)
    high = min(lots_max, budget_units // lot_price_units)
    while low < high:
        middle = (low + high + 1) >> 1
        if hold_needed(middle * lot_price_units, rate_ppm, credit) <= budget_units:
            low = middle
        else:
            high = middle - 1
    return low
