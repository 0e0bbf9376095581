"""Best bid and ask after each row of a replayed file, from events alone, written as LOBSTER's one-level order book.

A line is best ask price, its size, best bid price, its size; prices × 10,000, and the venue's own numbers for "none".
A line is written when the state differs from the one before, so that two recordings of the same flow can be compared
although one has rows that change nothing.
It refuses to know where events come from and which commands made them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TextIO

import numpy as np
from sortedcontainers import SortedDict

from tradeengine.actors.publishing.depth import NO_TAKER, level_changes
from tradeengine.core.records import Side

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tradeengine.core.symbols import SymbolSpec

NO_ASK: Final = (9_999_999_999, 0)
NO_BID: Final = (-9_999_999_999, 0)


class TouchRecorder:
    """Follows one symbol's book, empty at first, and writes the states that rows leave behind.

    tick: in the file's unit of price.
    """

    def __init__(self, file: TextIO, symbol: SymbolSpec, tick: int) -> None:
        self._file = file
        self._symbol_id = symbol.symbol_id
        self._tick = tick
        self._lot_units = symbol.lot_units
        self._size_units = 10**symbol.base.places
        self._taker = NO_TAKER
        self._bids: SortedDict[int, int] = SortedDict()
        self._asks: SortedDict[int, int] = SortedDict()
        self._last: tuple[int, int, int, int] | None = None
        self.state_count = 0

    def fold(self, events: NDArray[np.void], rows: NDArray[np.int64]) -> None:
        """Take a shard's events in order; ``rows`` is per event the row that it completes, or -1."""
        changes, self._taker = level_changes(events, self._taker)
        changes = changes[changes["symbol_id"] == self._symbol_id]
        completing = np.flatnonzero(rows >= 0)
        parts = np.searchsorted(changes["event"], completing, side="right").tolist()
        steps = list(
            zip(changes["side"].tolist(), changes["price_ticks"].tolist(), changes["lots"].tolist(), strict=True)
        )
        done = 0
        for part in parts:
            self._apply(steps[done:part])
            self._write()
            done = part
        self._apply(steps[done:])

    def _apply(self, steps: list[tuple[int, int, int]]) -> None:
        for side, price_ticks, lots in steps:
            levels = self._bids if side == Side.BUY else self._asks
            rest = levels.get(price_ticks, 0) + lots
            if rest:
                levels[price_ticks] = rest
            else:
                levels.pop(price_ticks, None)

    def _write(self) -> None:
        state = (*self._state(self._asks, 0, NO_ASK), *self._state(self._bids, -1, NO_BID))
        if state != self._last:
            self._last = state
            self.state_count += 1
            self._file.write(f"{state[0]},{state[1]},{state[2]},{state[3]}\n")

    def _state(self, levels: SortedDict[int, int], place: int, none: tuple[int, int]) -> tuple[int, int]:
        if not levels:
            return none
        price_ticks, lots = levels.peekitem(place)
        return price_ticks * self._tick, lots * self._lot_units // self._size_units
