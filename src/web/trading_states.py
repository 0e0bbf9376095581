"""In which state symbols are, and why: two tables, by matcher and publisher, read as one.

The matcher shows a new state before anyone hears of it, the publisher the reason when the event passes. Whoever changed
a state waits for both, so that nobody who looks after the answer sees the state alone.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from tradeengine.core.records import TradingState
from tradeengine.core.trading import Trading
from tradeengine.ipc.seqlock import SeqlockBusy
from tradeengine.web.admission import Pauses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tradeengine.web.front import Pages

PATIENCE_S: Final = 0.5
"""A publisher that is away keeps nobody longer: the state itself is so without it."""
_PAUSE_S: Final = 0.001
_PAUSE_S_MAX: Final = 0.02


async def wait_told(pages: Pages, sequences: Mapping[int, int]) -> None:
    """Return when the reasons of changes can be read, or are late. sequences: of their events, by symbol id."""
    pauses = Pauses(_PAUSE_S, _PAUSE_S_MAX)
    with trio.move_on_after(PATIENCE_S):
        while not all(_is_told(pages, symbol_id, sequence) for symbol_id, sequence in sequences.items()):
            await pauses.take()


def _is_told(pages: Pages, symbol_id: int, sequence: int) -> bool:
    with suppress(SeqlockBusy):
        row = pages.trading_states.read(symbol_id)
        return bool(row["state"]) and int(row["sequence"]) >= sequence
    return False


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
