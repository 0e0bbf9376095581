"""Who stands for whom, when an aggressor hits another order of the level than the recorded one did.

An order of the file *holds* lots of orders in the engine: at first all of its own. When the file says that order A was
executed and the engine fills B, A's lots stay in the book while B's are gone: from then on the file's B holds A's
lots, and what the file later does to B is done to A. So each level's sum stays what the file makes of it; only who is
first in the queue differs. This is rare, so it is kept in dictionaries, and all other orders only in two arrays.
It refuses to know prices, commands and events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Reduction(NamedTuple):
    """What to do to an order in the engine: amend it to ``total_lots``, or cancel it when that is 0."""

    order: int
    total_lots: int


class StandIns:
    """Lots of ``order_count`` orders; an order is its dense index, the same in the file and in the engine."""

    def __init__(self, order_count: int) -> None:
        self._totals = np.zeros(order_count, np.int64)
        self._filled = np.zeros(order_count, np.int64)
        self._involved = np.zeros(order_count, bool)
        self._holders: dict[int, dict[int, int]] = {}
        self._holdings: dict[int, dict[int, int]] = {}
        self.fill_count = 0
        """Fills of another order than the file names."""
        self.lots = 0

    def set_totals(self, orders: NDArray[np.int64], total_lots: NDArray[np.int64] | int) -> None:
        """Note what orders were placed with or amended to; 0 when they are gone."""
        self._totals[orders] = total_lots

    def are_involved(self, orders: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which orders of the file hold, or once held, other lots than their own: reduce them by ``reduce``."""
        involved: NDArray[np.bool_] = self._involved[orders]
        return involved

    def fold(self, makers: NDArray[np.int64], named: NDArray[np.int64], lots: NDArray[np.int64]) -> None:
        """Take fills in order: who was filled, whom the file names (-1: it names none), and how much."""
        start = 0
        while start < len(makers):
            rest = slice(start, None)
            odd = ((makers[rest] != named[rest]) & (named[rest] >= 0)) | self._involved[makers[rest]]
            first_odd = int(np.argmax(odd)) if odd.any() else len(odd)
            plain = slice(start, start + first_odd)
            np.add.at(self._filled, makers[plain], lots[plain])
            start += first_odd
            if start < len(makers):
                self._fold_odd(int(makers[start]), int(named[start]), int(lots[start]))
                start += 1

    def reduce(self, order: int, lots: int | None = None) -> list[Reduction]:
        """Take lots (None: all) from what an order of the file holds: what to do in the engine."""
        reductions = []
        for engine_order, held in list(self._holdings.get(order, {}).items()):
            taken = held if lots is None else min(held, lots)
            if lots is not None:
                lots -= taken
            if taken:
                self._move(engine_order, taken, order, None)
                self._totals[engine_order] = self._totals[engine_order] - taken if self._holders[engine_order] else 0
                reductions.append(Reduction(engine_order, int(self._totals[engine_order])))
        return reductions

    def _fold_odd(self, maker: int, named: int, lots: int) -> None:
        self._involve(maker)
        self._filled[maker] += lots
        holders = self._holders.get(maker, {})
        if named >= 0:
            self._involve(named)
            own = min(lots, holders.get(named, 0))
            self._move(maker, own, named, None)
            lots -= own
            self.fill_count += lots > 0
            self.lots += lots
        for holder, held in list(holders.items()):
            taken = min(lots, held)
            self._move(maker, taken, holder, None)
            if named >= 0:
                self._compensate(named, holder, taken)
            lots -= taken

    def _compensate(self, named: int, holder: int, lots: int) -> None:
        for engine_order, held in list(self._holdings.get(named, {}).items()):
            moved = min(lots, held)
            self._move(engine_order, moved, named, holder)
            lots -= moved

    def _involve(self, order: int) -> None:
        if self._involved[order]:
            return
        self._involved[order] = True
        rest = int(self._totals[order] - self._filled[order])
        if rest > 0:
            self._move(order, rest, None, order)

    def _move(self, engine_order: int, lots: int, source: int | None, target: int | None) -> None:
        """Move lots of an engine's order from one order of the file to another (None: nobody)."""
        if not lots:
            return
        for order, change in ((source, -lots), (target, lots)):
            if order is None:
                continue
            for table, key, entry in (
                (self._holders, engine_order, order),
                (self._holdings, order, engine_order),
            ):
                entries = table.setdefault(key, {})
                entries[entry] = entries.get(entry, 0) + change
                assert entries[entry] >= 0
                if not entries[entry]:
                    del entries[entry]
