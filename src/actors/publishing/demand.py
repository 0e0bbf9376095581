"""What the fronts' clients want, all together: each front says so in a table of its own and counts its requests.

It refuses to know how wishes are served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tradeengine.ipc.seqlock import SeqlockBusy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tradeengine.ipc.seqlock import SeqlockTable


class FrontDemand:
    """One front's wishes, as of its request ``number``."""

    def __init__(self, table: SeqlockTable, accounts_max: int, symbols_max: int) -> None:
        self._table = table
        self._version = -1
        self._accounts_max = accounts_max
        self.number = 0
        self.channels = np.zeros(symbols_max, np.int64)
        self.asked = np.zeros(symbols_max, np.int64)
        self.accounts = np.zeros(accounts_max, bool)
        self.channels_served = 0
        """Latest request whose channels are served, and told so."""
        self.orders_served = 0

    def read(self) -> bool:
        """Look; returns whether anything is new."""
        version = self._table.version(0)
        if version == self._version or version & 1:
            return False
        try:
            self.number, self.channels, self.asked, self.accounts = self._table.read_with(0, self._copy)
        except SeqlockBusy:
            return False
        # Should it have changed meanwhile, the next look finds a version that is not this one.
        self._version = version
        return True

    def fresh(self) -> list[int]:
        """List the symbols of which this front needs to be told how things are, before its request is served."""
        # A front that is older by its numbers than the one before it had another clock: nothing of it was served.
        served = self.channels_served if self.channels_served < self.number else 0
        symbol_ids: list[int] = np.flatnonzero((self.asked > served) & (self.channels != 0)).tolist()
        return symbol_ids

    def _copy(self, row: Any) -> tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        accounts = row["accounts"][: self._accounts_max].astype(bool)
        return int(row["number"]), row["channels"].copy(), row["asked"].copy(), accounts


class Demand:
    """All fronts' wishes: ``channels`` by symbol id (``Interest`` bits), ``accounts`` by account id."""

    def __init__(self, tables: Sequence[SeqlockTable], accounts_max: int, symbols_max: int) -> None:
        self.fronts = [FrontDemand(table, accounts_max, symbols_max) for table in tables]
        self.channels = np.zeros(symbols_max, np.int64)
        self.accounts = np.zeros(accounts_max, bool)

    def read(self) -> bool:
        """Look at all fronts; returns whether anything is new."""
        news = [front.read() for front in self.fronts]
        if not any(news):
            return False
        self.channels = np.bitwise_or.reduce([front.channels for front in self.fronts])
        self.accounts = np.logical_or.reduce([front.accounts for front in self.fronts])
        return True
