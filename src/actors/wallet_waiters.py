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
        self._sent_at: dict[int, int] = {}
        self._credited_at: dict[tuple[int, int], int] = {}
        self.credit_count = 0
        """How many credits there were: a request that was sent before one of them knew nothing of it."""

    def add(self, row: OutboxRow, sent_at: int) -> float:
        """Note that a transfer waits; returns for how many seconds at most.

        sent_at: ``credit_count`` when the request was sent that was refused.
        """
        needs = [(move.account_id, move.asset_id) for move in row.moves() if move.amount_units < 0]
        if any(self._credited_at.get(need, 0) > sent_at for need in needs):
            return 0.0
        if row.id not in self._waits and len(self._waits) >= WAITING_MAX:
            return PAUSE_S_MAX
        waits = min(self._waits.get(row.id, 0), 30)
        self._waits[row.id] = waits + 1
        self._sent_at[row.id] = sent_at
        for need in needs:
            self._by_need[need].add(row.id)
        return min(PAUSE_S_MIN * float(1 << waits), PAUSE_S_MAX)

    def forget(self, transfer_id: int) -> None:
        """Take out a transfer that waits no more."""
        self._waits.pop(transfer_id, None)
        self._sent_at.pop(transfer_id, None)

    def helped_by(self, row: OutboxRow) -> list[int]:
        """Take out a transfer that is delivered, and give those that wait for what it credits."""
        self.forget(row.id)
        helped: set[int] = set()
        for move in row.moves():
            if move.amount_units > 0:
                helped.update(self.credited(move.account_id, move.asset_id))
            elif (move.account_id, move.asset_id) in self._by_need:
                self._by_need[move.account_id, move.asset_id].discard(row.id)
        return sorted(helped - {row.id})

    def credited(self, account_id: int, asset_id: int) -> list[int]:
        """Give those that wait for an account to have more of an asset, which it has now."""
        self.credit_count += 1
        if len(self._credited_at) >= WAITING_MAX:
            # Who was credited long ago has been tried since; who was not, waits a pause longer.
            self._credited_at.clear()
        self._credited_at[account_id, asset_id] = self.credit_count
        return sorted(self._by_need.pop((account_id, asset_id), set()))

    def circle(self, pending: int) -> int | None:
        """Give the oldest transfer when they all wait for each other: nobody was credited since each was refused.

        pending: how many there are by the database's count.
        """
        if not pending or len(self._sent_at) != pending:
            return None
        if any(sent_at != self.credit_count for sent_at in self._sent_at.values()):
            return None
        oldest_id = min(self._sent_at)
        self.forget(oldest_id)
        return oldest_id
