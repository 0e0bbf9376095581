"""Who waits for whom: transfers that the wallet refused because someone has enough only after another transfer.

When that one is delivered, those that it may have helped are tried at once; in any case each is tried after a pause
that doubles. What is lost with the process costs such a pause.
It refuses to know the database and the wallet.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from tradeengine.storage.outbox import OutboxRow

PAUSE_S_MIN: Final = 0.5
PAUSE_S_MAX: Final = 30.0
WAITING_MAX: Final = 10_000
"""So many are remembered; others have the longest pause."""


class Waiters:
    """Transfers that wait for credits, by who must be credited with what."""

    def __init__(self) -> None:
        self._by_need: dict[tuple[int, int], set[int]] = defaultdict(set)
        self._waits: dict[int, int] = {}
        self._refused_at: dict[int, int] = {}
        self._delivered_count = 0

    def add(self, row: OutboxRow) -> float:
        """Note that a transfer waits; returns for how many seconds at most."""
        if row.id not in self._waits and len(self._waits) >= WAITING_MAX:
            return PAUSE_S_MAX
        waits = min(self._waits.get(row.id, 0), 30)
        self._waits[row.id] = waits + 1
        self._refused_at[row.id] = self._delivered_count
        for move in row.moves():
            if move.amount_units < 0:
                self._by_need[move.account_id, move.asset_id].add(row.id)
        return min(PAUSE_S_MIN * float(1 << waits), PAUSE_S_MAX)

    def forget(self, transfer_id: int) -> None:
        """Take out a transfer that waits no more."""
        self._waits.pop(transfer_id, None)
        self._refused_at.pop(transfer_id, None)

    def helped_by(self, row: OutboxRow) -> list[int]:
        """Take out a transfer that is delivered, and give those that wait for what it credits."""
        self._delivered_count += 1
        self.forget(row.id)
        helped: set[int] = set()
        for move in row.moves():
            key = (move.account_id, move.asset_id)
            if move.amount_units > 0:
                helped |= self._by_need.pop(key, set())
            elif key in self._by_need:
                self._by_need[key].discard(row.id)
        return sorted(helped - {row.id})

    def circle(self, pending: int) -> int | None:
        """Give the oldest transfer when they all wait for each other: none was delivered since each was refused.

        pending: how many there are by the database's count.
        """
        if not pending or len(self._refused_at) != pending:
            return None
        if any(seen != self._delivered_count for seen in self._refused_at.values()):
            return None
        oldest_id = min(self._refused_at)
        self.forget(oldest_id)
        return oldest_id
