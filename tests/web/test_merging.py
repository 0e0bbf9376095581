"""Claims about merging: what a client that is behind is told leads to the same state as all that it stands for."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from tests.e2e.told_book import ToldBook

from tradeengine.core.feed import FeedKind
from tradeengine.core.messages import OrderbookSnapshot, OrderbookUpdate, encode
from tradeengine.web.streams import merging
from tradeengine.web.streams.merging import Merging
from tradeengine.web.streams.wire import Message

BOOK = (int(FeedKind.BOOK), 0, 0)
OTHER_BOOK = (int(FeedKind.BOOK), 1, 0)
TICKER = (int(FeedKind.TICKER), 0, 0)
CANDLE = (int(FeedKind.CANDLE), 0, 5)
NOW = "2026-11-24T10:30:45.234Z"


class Source:
    """A book whose messages are made from its levels."""

    def __init__(self, seed: int) -> None:
        self.numbers = Random(seed)
        self.sides: dict[str, dict[str, str]] = {"buy": {}, "sell": {}}
        self.sequence = 0

    def snapshot(self) -> Message:
        """Tell the book as it is."""
        bids, asks = self._sorted()
        return Message(
            encode(OrderbookSnapshot(symbol="A/B", bids=bids, asks=asks, sequence=self.sequence, timestamp=NOW))
        )

    def update(self) -> Message:
        """Change some levels and tell that."""
        changes = {}
        for _ in range(self.numbers.randint(0, 4)):
            side = self.numbers.choice(["buy", "sell"])
            price = f"{self.numbers.randint(1, 20) + (50 if side == 'sell' else 0)}.00"
            quantity = self.numbers.choice(["0.0", f"{self.numbers.randint(1, 99)}.0"])
            if self.sides[side].get(price, "0.0") != quantity:
                changes[side, price] = quantity
        for (side, price), quantity in changes.items():
            self.sides[side].pop(price, None)
            if quantity != "0.0":
                self.sides[side][price] = quantity
        previous_sequence, self.sequence = self.sequence, self.sequence + self.numbers.randint(1, 3)
        bids, asks = self._sorted()
        best = [side[0] if side else (None, None) for side in (bids, asks)]
        return Message(
            encode(
                OrderbookUpdate(
                    symbol="A/B",
                    best_bid=best[0][0],
                    best_ask=best[1][0],
                    bid_quantity=best[0][1],
                    ask_quantity=best[1][1],
                    spread=f"{float(asks[0][0]) - float(bids[0][0]):.2f}" if bids and asks else None,
                    changes=[(side, price, quantity) for (side, price), quantity in changes.items()],
                    previous_sequence=previous_sequence,
                    sequence=self.sequence,
                    timestamp=NOW,
                )
            )
        )

    def _sorted(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        bids, asks = (sorted(self.sides[side].items(), key=lambda level: float(level[0])) for side in ("buy", "sell"))
        return bids[::-1], asks


def told(merged: Merging) -> list[tuple[Any, Any]]:
    """Take what is to be told."""
    return [(key, json.loads(message.json) if message else None) for key, message in merged.take()]


@pytest.mark.parametrize("seed", range(20))
def test_merged_changes_lead_to_the_same_book(seed: int) -> None:
    """However often a reader takes, and wherever it began anew, its book is the book, and each message follows."""
    source, merged, book = Source(seed), Merging(), ToldBook(is_merged=True)
    numbers = Random(100 + seed)
    book.apply(json.loads(source.snapshot().json))
    count = 0
    for _ in range(300):
        merged.add(BOOK, source.update())
        if numbers.random() < 0.03:
            merged.add(BOOK, source.snapshot())
        if numbers.random() < 0.1:
            for key, message in told(merged):
                assert key == BOOK
                book.apply(message)
                count += 1
            assert book.sequence == source.sequence
            assert book.levels() == tuple([list(level) for level in side] for side in source._sorted())
    assert 10 < count < 100


def test_snapshot_voids_what_was_before_it() -> None:
    """Of what waits before a snapshot nothing is told; what came behind it follows it."""
    source, merged = Source(1), Merging()
    for _ in range(5):
        merged.add(BOOK, source.update())
    merged.add(BOOK, source.snapshot())
    at = source.sequence
    for _ in range(5):
        merged.add(BOOK, source.update())
    messages = [message for _, message in told(merged)]
    assert [message["type"] for message in messages] == ["orderbook_snapshot", "orderbook_update"]
    assert (messages[0]["sequence"], messages[1]["previous_sequence"]) == (at, at)
    assert messages[1]["sequence"] == source.sequence


def test_latest_of_tickers_and_candles_is_told() -> None:
    """Of tickers and candles the latest is told, each channel by itself, in the order in which they began to wait."""
    merged = Merging()
    for number in range(5):
        for key in (CANDLE, TICKER):
            merged.add(key, Message(json.dumps({"n": number, "of": key[0]}).encode()))
    assert told(merged) == [(CANDLE, {"n": 4, "of": CANDLE[0]}), (TICKER, {"n": 4, "of": TICKER[0]})]
    assert not merged
    assert told(merged) == []


def test_more_changes_than_a_book_call_for_the_book(monkeypatch: pytest.MonkeyPatch) -> None:
    """When so much changed that a whole book is shorter, the whole book is asked for, and others are as ever."""
    monkeypatch.setattr(merging, "CHANGES_MAX", 10)
    source, other, merged = Source(2), Source(3), Merging()
    for _ in range(50):
        merged.add(BOOK, source.update())
    merged.add(OTHER_BOOK, other.update())
    assert [(key, message is None) for key, message in told(merged)] == [(BOOK, True), (OTHER_BOOK, False)]
    merged.add(BOOK, source.update())
    assert [message is None for _, message in told(merged)] == [False]


def test_channel_that_is_left_is_not_told() -> None:
    """What waits of a channel that is left is forgotten; the others are told."""
    source, merged = Source(4), Merging()
    merged.add(BOOK, source.update())
    merged.add(TICKER, Message(b"{}"))
    merged.drop(BOOK)
    merged.drop(CANDLE)
    assert [key for key, _ in told(merged)] == [TICKER]
