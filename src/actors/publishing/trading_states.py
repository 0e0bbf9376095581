"""Since when and why each symbol's trading state is what it is: a row per symbol, for whoever asks later.

A state is written when its event passes. What passed unseen, while there was no publisher or it was lapped, comes with
the directory page, a moment after settlement has it; so do the states from before the engine started.

Rule: of two sources the later event counts. A reader compares a row's state with ``touch``, which is never behind.
It refuses to know who is told, and how.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tradeengine.core.trading import Trading
    from tradeengine.ipc.seqlock import SeqlockTable


class TradingStates:
    """Writes the table ``trading_states``."""

    def __init__(self, table: SeqlockTable) -> None:
        """Go on with what is there; rows that a publisher before this one left half written begin anew."""
        self._table = table
        for row in table.torn_rows():
            table.write(row, np.zeros(1, table.dtype)[0])
        rows = table.read_rows(range(table.rows))
        self._sequences = np.where(rows["state"] == 0, -2, rows["sequence"])
        """By symbol: of the event that its row tells; -2: it tells nothing."""

    def put(self, symbol_id: int, trading: Trading) -> None:
        """Write a state, unless the row tells of that event or a later one."""
        if trading.sequence <= self._sequences[symbol_id]:
            return
        self._sequences[symbol_id] = trading.sequence
        reason = (trading.reason or "").encode()[: self._table.dtype["reason"].itemsize]
        with self._table.writing(symbol_id) as row:
            row["state"], row["sequence"], row["timestamp_ns"] = trading.state, trading.sequence, trading.timestamp_ns
            row["before_all"] = trading.before_all or 0
            row["byte_count"] = len(reason)
            row["reason"][: len(reason)] = np.frombuffer(reason, np.uint8)

    def learn(self, trading_states: Mapping[int, Trading]) -> None:
        """Take over what PostgreSQL knows and this side has not seen."""
        for symbol_id, trading in trading_states.items():
            self.put(symbol_id, trading)
