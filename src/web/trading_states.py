"""In which state symbols are, and why: two tables, by matcher and publisher, read as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tradeengine.core.records import TradingState
from tradeengine.core.trading import Trading
from tradeengine.ipc.seqlock import SeqlockBusy

if TYPE_CHECKING:
    from tradeengine.web.front import Pages


def trading_of(pages: Pages, symbol_id: int) -> Trading | None:
    """Read in which state a symbol is, and why, as far as that is known; None: it is not listed, or cannot be read."""
    try:
        return read_trading(pages, symbol_id)
    except SeqlockBusy:
        return None


def read_trading(pages: Pages, symbol_id: int) -> Trading | None:
    """Do the same, and raise SeqlockBusy while it cannot be read."""
    touch = pages.touch.read(symbol_id)
    row = pages.trading_states.read(symbol_id)
    if not touch["listed"]:
        return None
    state = TradingState(int(touch["trading_state"]))
    if int(row["state"]) != state:
        return Trading(state, -1, 0, None, None)
    reason = row["reason"][: int(row["byte_count"])].tobytes().decode(errors="replace") or None
    before_all = TradingState(int(row["before_all"])) if row["before_all"] else None
    return Trading(state, int(row["sequence"]), int(row["timestamp_ns"]), reason, before_all)
