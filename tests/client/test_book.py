"""Books that follow a stream, against a plain one that is told everything."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from tradeengine.client import Gap, LocalBook
from tradeengine.client.messages import Change, OrderbookSnapshot, OrderbookUpdate
from tradeengine.client.models import Level

NOW = datetime(2026, 11, 24, tzinfo=UTC)
STEPS = 400


class Venue:
    """The plain book: two mappings, a sequence, and what it tells its followers."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.levels: dict[str, dict[Decimal, Decimal]] = {"buy": {}, "sell": {}}
        self.sequence = 0

    def change(self) -> OrderbookUpdate:
        """Change some levels."""
        changes = []
        for _ in range(self.random.randint(1, 5)):
            side = self.random.choice(("buy", "sell"))
            offset = self.random.randint(1, 20)
            price = Decimal(1000 - offset if side == "buy" else 1000 + offset) / 100
            quantity = Decimal(self.random.randint(0, 3))
            self.levels[side][price] = quantity
            if not quantity:
                del self.levels[side][price]
            changes.append(Change(side, price, quantity))
        previous, self.sequence = self.sequence, self.sequence + self.random.randint(1, 9)
        return OrderbookUpdate(
            symbol="BTC/USDT",
            best_bid=None,
            best_ask=None,
            bid_quantity=None,
            ask_quantity=None,
            spread=None,
            changes=changes,
            previous_sequence=previous,
            sequence=self.sequence,
            timestamp=NOW,
        )

    def depth(self, levels_max: int) -> tuple[list[Level], list[Level]]:
        """Give the levels, best first."""
        bids = sorted(self.levels["buy"].items(), reverse=True)
        asks = sorted(self.levels["sell"].items())
        return [Level(*level) for level in bids[:levels_max]], [Level(*level) for level in asks[:levels_max]]

    def snapshot(self) -> OrderbookSnapshot:
        """Tell everything."""
        bids, asks = self.depth(1000)
        return OrderbookSnapshot(symbol="BTC/USDT", bids=bids, asks=asks, sequence=self.sequence, timestamp=NOW)


@pytest.mark.parametrize("seed", range(5))
def test_follows_every_change(seed: int) -> None:
    """A book that is given a snapshot and every update equals the venue's after each."""
    venue = Venue(seed)
    for _ in range(20):
        venue.change()
    book = LocalBook("BTC/USDT")
    book.apply(venue.snapshot())
    for _ in range(STEPS):
        assert book.apply(venue.change())
        assert book.sequence == venue.sequence
        assert book.depth(1000) == venue.depth(1000)
        bids, asks = venue.depth(3)
        assert book.depth(3) == (bids, asks)
        assert book.best_bid == (bids[0] if bids else None)
        assert book.best_ask == (asks[0] if asks else None)


@pytest.mark.parametrize("seed", range(5))
def test_missing_update_is_noticed(seed: int) -> None:
    """Whichever updates are dropped or said twice, the book equals the venue's or says that it does not."""
    venue = Venue(seed)
    book = LocalBook("BTC/USDT")
    book.apply(venue.snapshot())
    gaps = 0
    for _ in range(STEPS):
        message = venue.change()
        chance = venue.random.random()
        if chance < 0.1:
            continue
        try:
            book.apply(message)
        except Gap:
            gaps += 1
            assert book.sequence is None
            if chance < 0.5:
                continue
            book.apply(venue.snapshot())
        if chance > 0.9:
            assert not book.apply(message)
        assert book.sequence == venue.sequence
        assert book.depth(1000) == venue.depth(1000)
    assert gaps > 10


def test_update_before_a_snapshot_is_a_gap() -> None:
    """A book without a snapshot takes no update."""
    venue = Venue(1)
    book = LocalBook("BTC/USDT")
    with pytest.raises(Gap) as caught:
        book.apply(venue.change())
    assert caught.value.sequence is None


def test_other_symbols_are_refused() -> None:
    """A message of another symbol is a mistake of the caller, and changes nothing."""
    venue = Venue(1)
    book = LocalBook("ETH/USDT")
    with pytest.raises(ValueError, match=r"BTC/USDT.*ETH/USDT"):
        book.apply(venue.snapshot())
    assert book.sequence is None
