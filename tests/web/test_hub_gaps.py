"""What the hub says where messages were lost: how things are now, at once, or as soon as it can be read."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import trio
from tests.web.bench import BTC_USDT, Bench, make_bench
from trio.testing import MockClock

from tradeengine.actors.publishing.feed_writer import FeedWriter
from tradeengine.core.feed import FeedKind
from tradeengine.core.messages import OrderbookUpdate, TradingStatus, encode
from tradeengine.core.records import TradingState
from tradeengine.core.tables import touch_dtype
from tradeengine.web.streams.channels import ChannelName, parse_channel
from tradeengine.web.streams.wire import Message

Json = dict[str, Any]
NOW = "2026-01-01T00:00:00.000Z"


@dataclass(eq=False)
class Listener:
    """A session that takes everything at once; ``heard`` is what it was told since the last look."""

    channels: dict[Any, str] = field(default_factory=dict)
    messages: list[Json] = field(default_factory=list)
    address: str = "test"
    caller: Any = None
    orders: Any = None
    wants_balances: bool = False
    stalled_s: float = 0.0
    next_ping_s: float = float("inf")
    waiting_bytes: int = 0
    since_ns: int = 0
    sent_count: int = 0
    binary: bool = False

    def push(self, message: Message, _key: Any = None) -> None:
        """Take a message."""
        self.messages.append(json.loads(message.json))

    def flush(self) -> None:
        """Nothing waits."""

    def drop(self, _key: Any) -> None:
        """Nothing waits."""

    async def room(self) -> None:
        """There is always room."""
        await trio.lowlevel.checkpoint()

    def heard(self) -> list[tuple[str, int]]:
        """Give what was told since the last look: its type, or the trading state, and its sequence."""
        told, self.messages = self.messages, []
        return [(str(message.get("status", message["type"])), int(message["sequence"])) for message in told]


class Stage:
    """A hub, one who listens to a channel of BTC/USDT, and the publisher's and matcher's ends in the test's hands."""

    def __init__(self, bench: Bench, listener: Listener) -> None:
        self.bench, self.hub = bench, bench.front.hub
        self.listener = listener
        self.depth, self.touch = bench.memory.tables["depth"], bench.memory.tables["touch"]
        self.feed_slots = bench.memory.rings["feed"].capacity
        self.feed = FeedWriter(bench.memory.rings["feed"].writer())

    def show_book(self, sequence: int, price_ticks: int) -> None:
        """Write the depth page: one bid."""
        with self.depth.writing(0) as row:
            row["sequence"], row["bid_count"], row["ask_count"] = sequence, 1, 0
            row["bids"][0] = price_ticks, 10

    def tell_book(self, previous_sequence: int, sequence: int) -> None:
        """Tell of a change."""
        update = OrderbookUpdate(
            symbol=BTC_USDT.name,
            best_bid=None,
            best_ask=None,
            bid_quantity=None,
            ask_quantity=None,
            spread=None,
            changes=[],
            previous_sequence=previous_sequence,
            sequence=sequence,
            timestamp=NOW,
        )
        self._tell(FeedKind.BOOK, encode(update), sequence, previous_sequence)

    def show_state(self, sequence: int, state: TradingState) -> None:
        """Write the touch page."""
        row = np.zeros(1, touch_dtype)[0]
        row["sequence"], row["trading_state"], row["listed"] = sequence, state, 1
        self.touch.write(0, row)

    def tell_state(self, sequence: int, status: str) -> None:
        """Tell of a trading state."""
        told = TradingStatus(symbol=BTC_USDT.name, status=status, reason=None, sequence=sequence, timestamp=NOW)
        self._tell(FeedKind.STATUS, encode(told), sequence)

    def tell_gap(self) -> None:
        """Tell that events were missed."""
        self._tell(FeedKind.GAP, b"", 0)

    def lap(self) -> None:
        """Fill the feed until the front is lapped."""
        for _ in range(self.feed_slots + 10):
            self.feed.add(FeedKind.TICKER, b"{}", sequence=0, timestamp_ns=0, symbol_id=3)
        self.feed.flush()

    def scan(self) -> list[tuple[str, int]]:
        """Have the hub read all that is on the feed; returns what was told."""
        while self.hub.has_messages():
            self.hub.scan()
        return self.listener.heard()

    def _tell(self, kind: FeedKind, text: bytes, sequence: int, previous_sequence: int = 0) -> None:
        self.feed.add(kind, text, sequence=sequence, previous_sequence=previous_sequence, timestamp_ns=0)
        self.feed.flush()


@asynccontextmanager
async def listening(channel: str) -> AsyncIterator[Stage]:
    """Begin to listen; what the channel begins with was taken already. The hub looks after its sessions meanwhile."""
    bench, listener = make_bench(), Listener()
    stage = Stage(bench, listener)
    stage.show_book(10, 5000)
    stage.show_state(10, TradingState.OPEN)
    hub: Any = stage.hub

    async def served() -> None:
        await trio.lowlevel.checkpoint()

    hub.wishes.channels_served = served
    name = parse_channel(f"{channel}:BTC/USDT", bench.front.symbol)
    assert isinstance(name, ChannelName)
    async with trio.open_nursery() as nursery:
        hub.nursery = nursery
        hub.open(listener)
        await (await hub.join(listener, [name]))()
        listener.heard()
        nursery.start_soon(hub.look_after)
        yield stage
        nursery.cancel_scope.cancel()


async def test_book_that_was_shown_and_never_told_is_told_with_the_gap() -> None:
    """A publisher that died between its page and the feed leaves nobody with an old book, though nothing follows."""
    async with listening("book") as stage:
        stage.show_book(12, 5001)
        stage.tell_gap()
        assert stage.scan() == [("orderbook_snapshot", 12)]
        stage.tell_book(12, 14)
        assert stage.scan() == [("orderbook_update", 14)]


async def test_gap_means_nothing_to_who_has_the_book() -> None:
    """Events that were missed change no book that the client has already."""
    async with listening("book") as stage:
        stage.tell_gap()
        assert stage.scan() == []


async def test_lapped_front_gives_the_book_that_then_stands_still() -> None:
    """After a lap the book comes at once, and changes that it includes are not told on top of it."""
    async with listening("book") as stage:
        stage.show_book(14, 5002)
        stage.tell_book(10, 12)
        stage.lap()
        stage.tell_book(12, 14)
        assert stage.scan() == [("orderbook_snapshot", 14)]
        stage.tell_book(14, 16)
        assert stage.scan() == [("orderbook_update", 16)]


@pytest.mark.parametrize("channel", ["book", "status", "trades"])
async def test_what_cannot_be_read_is_told_when_it_can(channel: str, autojump_clock: MockClock) -> None:
    """A page whose writer died in the middle delays what has to be told, and harms nobody."""
    expected = {"book": "orderbook_snapshot", "status": "open", "trades": "trades_gap"}[channel]
    assert autojump_clock.rate == 0.0
    async with listening(channel) as stage:
        writing = [(stage.depth, stage.depth.writing(0)), (stage.touch, stage.touch.writing(0))]
        for _, row in writing:
            row.__enter__()["sequence"] = 20
        stage.tell_gap()
        assert stage.scan() == []
        for _, row in writing:
            row.__exit__(None, None, None)
        await trio.sleep(2)
        assert stage.listener.heard() == [(expected, 20)]
        await trio.sleep(10)
        assert stage.listener.heard() == []


async def test_change_behind_an_unreadable_book_is_not_told_alone(autojump_clock: MockClock) -> None:
    """A client that was merged, and whose whole book cannot be read, is given it before any change."""
    assert autojump_clock.rate == 0.0
    async with listening("book") as stage:
        (key,) = stage.listener.channels
        with stage.depth.writing(0) as row:
            session: Any = stage.listener
            assert stage.hub.fetch_book(session, key) is None
            stage.tell_book(10, 12)
            assert stage.scan() == []
            row["sequence"] = 12
        await trio.sleep(2)
        assert stage.listener.heard() == [("orderbook_snapshot", 12)]


async def test_trading_state_that_was_lost_is_told() -> None:
    """A halt that was lost in a lap, or by a dead publisher, is told with the gap, and older states not after it."""
    async with listening("status") as stage:
        stage.show_state(20, TradingState.HALTED)
        stage.lap()
        stage.tell_state(15, "cancel_only")
        assert stage.scan() == [("halted", 20)]
        stage.tell_state(25, "open")
        assert stage.scan() == [("open", 25)]
        stage.show_state(30, TradingState.CANCEL_ONLY)
        stage.tell_gap()
        assert stage.scan() == [("cancel_only", 30)]


async def test_state_is_told_with_its_reason() -> None:
    """How a symbol is now says why, and since which event, whoever heard of that event: here nobody did."""
    async with listening("status") as stage:
        stage.bench.show_state(TradingState.HALTED, "a fire", 20)
        stage.tell_gap()
        stage.hub.scan()
        (message,) = stage.listener.messages
        assert (message["status"], message["reason"], message["sequence"]) == ("halted", "a fire", 20)


async def test_table_that_is_behind_takes_no_state_back() -> None:
    """A matcher that died after publishing a halt, before its table said so, makes nobody believe in an open market."""
    async with listening("status") as stage:
        stage.tell_state(20, "halted")
        assert stage.scan() == [("halted", 20)]
        stage.tell_gap()
        assert stage.scan() == [("halted", 20)]
