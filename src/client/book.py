"""A book kept in step with its stream: a snapshot, then updates, each going on where the one before ended.

Rule 1: it knows no socket: messages in, a book out. Whoever feeds it decides where they come from.
Rule 2: a book with a hole is worse than none. An update that does not fit raises ``Gap``, and from then on only a
snapshot is taken; the levels stay as they were, but ``sequence`` is None.
It refuses to know more than the levels that the engine shows.
"""

from __future__ import annotations

from decimal import Decimal
from itertools import islice

from sortedcontainers import SortedDict

from tradeengine.client.errors import Gap
from tradeengine.client.messages import Change, OrderbookSnapshot, OrderbookUpdate
from tradeengine.client.models import Level


class LocalBook:
    """One symbol's price levels as of ``sequence``; None before the first snapshot and after a gap."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.sequence: int | None = None
        # Asks by price; bids by the negative price, so that the best of either side comes first.
        self._bids: SortedDict[Decimal, Decimal] = SortedDict()
        self._asks: SortedDict[Decimal, Decimal] = SortedDict()

    def apply(self, message: OrderbookSnapshot | OrderbookUpdate) -> bool:
        """Take a message in; returns whether it was news.

        An update that the book is past already is no news. Raises Gap when something between is missing, and
        ValueError for another symbol's message.
        """
        if message.symbol != self.symbol:
            raise ValueError(f"a message of {message.symbol} is none for the book of {self.symbol}")
        if isinstance(message, OrderbookSnapshot):
            self._replace(message)
            return True
        if self.sequence is not None and message.sequence <= self.sequence:
            return False
        if message.previous_sequence != self.sequence:
            sequence = self.sequence
            self.invalidate()
            raise Gap(self.symbol, sequence, message.previous_sequence)
        for change in message.changes:
            self._change(change)
        self.sequence = message.sequence
        return True

    def invalidate(self) -> None:
        """Say that something may be missing: only a snapshot is taken from now on."""
        self.sequence = None

    @property
    def best_bid(self) -> Level | None:
        """The highest price that someone would pay; None: nobody."""
        return next(iter(self.depth(1)[0]), None)

    @property
    def best_ask(self) -> Level | None:
        """The lowest price that someone would sell at; None: nobody."""
        return next(iter(self.depth(1)[1]), None)

    def depth(self, levels_max: int) -> tuple[list[Level], list[Level]]:
        """Give the best bids and asks, best first, at most so many of each."""
        bids = [Level(-key, quantity) for key, quantity in islice(self._bids.items(), levels_max)]
        asks = [Level(key, quantity) for key, quantity in islice(self._asks.items(), levels_max)]
        return bids, asks

    def _replace(self, snapshot: OrderbookSnapshot) -> None:
        self._bids = SortedDict((-price, quantity) for price, quantity in snapshot.bids)
        self._asks = SortedDict(snapshot.asks)
        self.sequence = snapshot.sequence

    def _change(self, change: Change) -> None:
        levels, key = (self._bids, -change.price) if change.side == "buy" else (self._asks, change.price)
        if change.quantity:
            levels[key] = change.quantity
        else:
            levels.pop(key, None)
