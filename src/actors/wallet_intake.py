"""The intake: what was read for the wallet and is not over, so how much more is read, and when it may go.

Rule 1: transfers are taken up only when all earlier ones are settled, so that their order is whole from its beginning.
Rule 2: what was taken is not read again before its outcome is written down; what was put off is read when it is due.
Memory is bounded: a window of what may go, and so many transfers that wait for their money.
It refuses to know the wallet and the database.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from tradeengine.actors.wallet_desk import HoldingJob, Job, News, Round, TransferJob
from tradeengine.actors.wallet_order import Order
from tradeengine.storage.wallet_fundings import HoldingKind

HELD_MAX: Final = 4096
"""So many transfers are held while they wait for their money. Beyond that nothing newer is read."""
ASKS_MAX: Final = 256
"""Of so many accounts is read in a round what they have."""


class Intake:
    """What was taken of transfers, deposits and withdrawals. ``order`` has the transfers."""

    def __init__(
        self,
        window: int,
        *,
        heads: Callable[[], list[int]],
        passed: Callable[[list[int]], bool],
        horizon: Callable[[], Callable[[], bool]],
    ) -> None:
        """Begin with nothing. window: so many of each may be on their way; the others as ``Courier`` has them."""
        self.order = Order()
        self._window = window
        self._heads = heads
        self._passed = passed
        self._horizon = horizon
        self._fundings: set[int] = set()
        self._unripe: dict[int, list[int]] = {}
        self._unsure: deque[tuple[Callable[[], bool], list[TransferJob]]] = deque()
        """Transfers that were read while earlier ones may still be settled."""

    def prepare(self, done: Round) -> None:
        """Say in a round how much it is to read, and what."""
        order = self.order
        unsure = [job.row.id for _, jobs in self._unsure for job in jobs]
        done.room = min(self._window - order.busy(), HELD_MAX - len(order)) - len(unsure)
        done.transfers_taken, done.asleep = order.taken() + unsure, order.asleep()
        done.asks = order.ask(ASKS_MAX)
        done.fundings_room = self._window - len(self._fundings)
        done.fundings_taken = tuple(self._fundings)
        done.ripe = frozenset(funding_id for funding_id, heads in self._unripe.items() if self._passed(heads))

    def forget(self, done: Round) -> None:
        """Let go of what a round has written down."""
        self.order.written([*done.delivered, *(each.id for each in done.transfers_dead)])
        self._fundings -= {*done.reserved, *done.released, *done.given_back}
        self._fundings -= {funding_id for funding_id, _, _ in done.deposits_refused}
        self._fundings -= {each.id for each in (*done.fundings_put_off, *done.fundings_dead)}
        for funding_id in done.ripe:
            self._unripe.pop(funding_id, None)

    def take(self, news: News) -> list[Job]:
        """Take up what a round has read; returns deposits and withdrawals, which may go at once."""
        heads = self._heads()
        for funding_id in news.unripe:
            self._unripe.setdefault(funding_id, heads)
        for holding in news.holdings:
            self._take_holding(holding)
        for transfer in news.due:
            self.order.wake(transfer)
        self.order.learn(news.reserves)
        if news.transfers:
            self._unsure.append((self._horizon(), news.transfers))
        while self._unsure and self._unsure[0][0]():
            for transfer in self._unsure.popleft()[1]:
                self.order.add(transfer)
        return list(news.holdings)

    def waits_for_settlement(self) -> bool:
        """Whether something goes as soon as settlement has come further."""
        return bool(self._unripe or self._unsure)

    def wants_more(self, news: News, done: Round) -> bool:
        """Whether a round has not read everything that there is."""
        is_full = len(news.transfers) >= done.room > 0 or len(news.holdings) >= done.fundings_room > 0
        return is_full or self.order.wants_answers()

    def stuck(self) -> int | None:
        """Give the first transfer when all wait for it; None: something may move."""
        return None if self._unsure or self._fundings else self.order.stuck()

    def _take_holding(self, job: HoldingJob) -> None:
        row = job.row
        self._fundings.add(row.id)
        if row.kind is HoldingKind.RELEASE:
            self.order.claim_release(row.id, (row.account_id, row.asset_id), row.amount_units)
        elif row.kind is HoldingKind.GIVE_BACK:
            self.order.read_again((row.account_id, row.asset_id))
