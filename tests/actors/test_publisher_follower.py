"""Claims about following a shard: books fetched and events meet without a gap, also after being lapped."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from tests.actors.test_publisher_depth import random_command
from tests.direct_engine import DirectEngine, place

from tradeengine.actors.publishing.follower import Follower
from tradeengine.actors.publishing.ticker import MINUTE_NS, Tickers
from tradeengine.core.records import EventKind, Side, event_dtype
from tradeengine.core.tables import level_request_dtype, levels_dtype
from tradeengine.ipc.ring import ReaderSpec, Ring
from tradeengine.ipc.seqlock import SeqlockTable

Records = np.ndarray[Any, np.dtype[np.void]]
LEVELS_MAX = 512


@dataclass
class Shard:
    """A shard's rings and tables, with the book's side of the conversation done by the test."""

    capacity: int = 1024
    engine: DirectEngine = field(default_factory=lambda: DirectEngine(symbols=2))
    tickers: Tickers = field(default_factory=lambda: Tickers(4))
    asked_count: int = 0
    fetched: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.ring = Ring.create("events.0", event_dtype, self.capacity, [ReaderSpec("publisher", gating=False)])
        self.writer = self.ring.writer()
        self.requests = SeqlockTable.create("level_requests.0", level_request_dtype, 1)
        self.levels = SeqlockTable.create("levels.0", levels_dtype(LEVELS_MAX), 1)

    def follower(self) -> Follower:
        """Start a follower, as a publisher that starts does."""
        return Follower(self.ring.reader("publisher"), self.requests, self.levels, self.tickers, 4, self._ask)

    def _ask(self) -> None:
        self.asked_count += 1

    def answer(self) -> None:
        """Answer the request that is out, as the matcher does between two commands."""
        request = self.requests.read(0)
        symbol_id = int(request["symbol_id"])
        sides = [self.engine.levels(symbol_id, side) for side in (Side.BUY, Side.SELL)]
        with self.levels.writing(0) as row:
            row["number"], row["symbol_id"] = request["number"], symbol_id
            row["sequence"] = self.ring.head - 1
            row["bid_count"], row["ask_count"] = len(sides[0]), len(sides[1])
            row["bids"][: len(sides[0])], row["asks"][: len(sides[1])] = sides
        self.fetched.add(symbol_id)

    def follow(self, follower: Follower, *, answering: bool = True) -> None:
        """Let a follower do what there is to do."""
        asked = self.asked_count
        while follower.duty() or self.asked_count > asked:
            if self.asked_count > asked and answering:
                asked = self.asked_count
                self.answer()
            elif self.asked_count > asked:
                return

    def assert_equal(self, follower: Follower) -> None:
        """Compare each book with the engine's."""
        assert follower.symbol_ids == [0, 1]
        for symbol_id in follower.symbol_ids:
            for side in Side:
                np.testing.assert_array_equal(follower.depth(symbol_id).side(side), self.engine.levels(symbol_id, side))


def wants_history(follower: Follower) -> bool:
    """Ask anew each time: a type checker takes what it has seen for constant."""
    return follower.history_wanted


def is_whole(follower: Follower) -> bool:
    """Ask anew each time, as above."""
    return follower.whole


def test_follower_from_the_listing_on_asks_nobody() -> None:
    """Who sees a symbol listed knows its book: it is empty."""
    shard = Shard()
    follower = shard.follower()
    shard.writer.publish(shard.engine.listing_events)
    shard.writer.publish(shard.engine.run(place(Side.BUY, 100, 5)))
    shard.follow(follower)
    shard.assert_equal(follower)
    assert shard.asked_count == 0
    assert follower.changed == {0, 1}


def test_follower_that_starts_later_fetches_every_book() -> None:
    """Who starts while books are full gets them whole, and adds only what came after each copy."""
    shard = Shard()
    shard.writer.publish(shard.engine.listing_events)
    shard.writer.publish(shard.engine.run(place(Side.BUY, 100, 5)))
    follower = shard.follower()
    follower.add_symbols([0, 1])
    assert follower.duty() == 1
    # Published after the request and before the answer: in the copy, and in the ring ahead of the follower.
    shard.writer.publish(shard.engine.run(place(Side.SELL, 110, 3)))
    shard.answer()
    assert follower.duty() == 1
    # Published between two copies: in the second symbol's copy only.
    shard.writer.publish(
        shard.engine.run(np.concatenate([place(Side.SELL, 110, 4), place(Side.SELL, 99, 1, symbol_id=1)]))
    )
    shard.follow(follower)
    shard.assert_equal(follower)
    assert shard.fetched == {0, 1}


def test_nothing_is_folded_before_the_answer() -> None:
    """While a request is out the follower neither polls nor shows: it waits for the matcher."""
    shard = Shard()
    follower = shard.follower()
    follower.add_symbols([0, 1])
    shard.follow(follower, answering=False)
    shard.writer.publish(shard.engine.run(place(Side.BUY, 100, 5)))
    assert follower.duty() == 0
    assert follower.symbol_ids == []
    assert not follower.complete


def test_answer_to_an_earlier_publisher_is_not_taken() -> None:
    """A follower that starts anew numbers its requests after its predecessor's and ignores the answer to that."""
    shard = Shard()
    shard.writer.publish(shard.engine.listing_events)
    first = shard.follower()
    first.add_symbols([0])
    first.duty()
    shard.answer()
    second = shard.follower()
    second.add_symbols([0, 1])
    second.duty()
    assert second.duty() == 0
    shard.writer.publish(shard.engine.run(place(Side.BUY, 100, 5)))
    shard.answer()
    shard.follow(second)
    shard.assert_equal(second)


@pytest.mark.parametrize("seed", range(4))
def test_lapped_follower_fetches_again_and_agrees(seed: int) -> None:
    """However often a follower is lapped, in the middle of whatever flow, its books end up the engine's."""
    rng = random.Random(seed)
    shard = Shard(capacity=64)
    follower = shard.follower()
    shard.writer.publish(shard.engine.listing_events)
    shard.follow(follower)
    for round_number in range(60):
        for number in range(rng.choice([1, 5, 80])):
            events = shard.engine.run(random_command(rng, round_number * 20 + number))
            for start in range(0, len(events), 16):
                shard.writer.publish(np.ascontiguousarray(events[start : start + 16]))
        shard.follow(follower)
        shard.assert_equal(follower)
    assert follower.lapped_count > 3


def test_book_is_whole_only_at_the_end_of_a_command() -> None:
    """A command that is published in pieces makes the book whole with its last piece."""
    shard = Shard()
    follower = shard.follower()
    shard.writer.publish(shard.engine.listing_events)
    shard.follow(follower)
    shard.writer.publish(shard.engine.run(np.concatenate([place(Side.SELL, 100, 2), place(Side.SELL, 101, 2)])))
    events = shard.engine.run(place(Side.BUY, 101, 5, account_id=17))
    shard.writer.publish(np.ascontiguousarray(events[:2]))
    shard.follow(follower)
    assert not is_whole(follower)
    shard.writer.publish(np.ascontiguousarray(events[2:]))
    shard.follow(follower)
    assert is_whole(follower)
    shard.assert_equal(follower)


def test_history_does_not_make_half_a_command_whole() -> None:
    """While earlier events are read again, a book that stands inside a command stays one that may not be shown."""
    shard = Shard()
    shard.writer.publish(shard.engine.listing_events)
    follower = shard.follower()
    follower.add_symbols([0, 1])
    shard.follow(follower)
    first = shard.ring.head
    shard.writer.publish(shard.engine.run(place(Side.SELL, 100, 5)))
    events = shard.engine.run(place(Side.BUY, 100, 7))
    assert len(events) == 2
    shard.follow(follower)
    shard.writer.publish(events[:1])
    shard.follow(follower)
    assert not is_whole(follower)
    follower.take_history(first, {}, {})
    assert follower.duty() > 0
    assert not is_whole(follower)
    shard.writer.publish(events[1:])
    shard.follow(follower)
    assert is_whole(follower)
    shard.assert_equal(follower)


def test_history_that_arrives_late_adds_each_trade_once() -> None:
    """Trades that the stored minutes lack are read again from the ring; books do not take those events twice."""
    shard = Shard()
    follower = shard.follower()
    shard.writer.publish(shard.engine.listing_events)
    shard.follow(follower)
    first = shard.engine.run(np.concatenate([place(Side.SELL, 100, 9), place(Side.BUY, 100, 2, account_id=17)]))
    second = shard.engine.run(place(Side.BUY, 100, 3, account_id=17))
    for events in (first, second):
        shard.writer.publish(events)
    shard.follow(follower)
    assert wants_history(follower)
    trade = first[first["kind"] == EventKind.TRADED][0]
    minute = int(trade["timestamp_ns"]) // MINUTE_NS
    follower.take_history(int(second["sequence"][0]), {0: [(minute, 100, 100, 100, 100, 2, 200, 1)]}, {0: (100, 2)})
    assert not wants_history(follower)
    shard.follow(follower)
    shard.assert_equal(follower)
    row = shard.tickers.row(0, int(trade["timestamp_ns"]))
    assert (int(row["volume_lots"]), int(row["trade_count"])) == (5, 2)


def test_last_trade_is_known_however_old_it_is() -> None:
    """The last trade's price and quantity come with the history, also when no stored minute has that trade."""
    shard = Shard()
    follower = shard.follower()
    shard.writer.publish(shard.engine.listing_events)
    shard.follow(follower)
    follower.take_history(0, {}, {0: (77, 5)})
    shard.follow(follower)
    row = shard.tickers.row(0, MINUTE_NS)
    assert (int(row["last_price_ticks"]), int(row["last_quantity_lots"])) == (77, 5)
    assert (int(row["volume_lots"]), int(row["trade_count"])) == (0, 0)


def test_lapped_follower_wants_its_history_again() -> None:
    """Trades that were overwritten before they were seen come from the database: the follower says that it needs it."""
    shard = Shard(capacity=16)
    follower = shard.follower()
    shard.writer.publish(shard.engine.listing_events)
    shard.follow(follower)
    follower.take_history(0, {}, {})
    shard.follow(follower)
    assert not wants_history(follower)
    for price in range(90, 120):
        shard.writer.publish(shard.engine.run(place(Side.BUY, price, 1)))
    shard.follow(follower)
    assert wants_history(follower)
