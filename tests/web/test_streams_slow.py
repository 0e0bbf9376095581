"""Clients that are slower than the market: what they are sent is merged, bounded and in the end cut off, by itself."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from tests.e2e.told_book import BookReader
from tests.web.bench import Bench, bearer
from tests.web.raw_websocket import WAIT_S, RawSocket, connected
from tests.web.stream_bench import KERNEL_BYTES, SYMBOL, StreamBench, serving_streams

from tradeengine.core.records import Side
from tradeengine.web.streams import hub as hub_module
from tradeengine.web.streams.session import TOO_SLOW, Session

MERGE_BYTES, QUEUE_BYTES_MAX = 8192, 65_536
BOOK, TRADES, TICKER = f"book:{SYMBOL}", f"trades:{SYMBOL}", f"ticker:{SYMBOL}"


@pytest.fixture
async def streams(bench: Bench) -> AsyncIterator[StreamBench]:
    """Give a front that serves with narrow limits, and its publisher."""
    async with serving_streams(bench) as served:
        # However slow the machine, nobody stalls but in the test of that.
        served.limit(merge_bytes=MERGE_BYTES, queue_bytes_max=QUEUE_BYTES_MAX, stall_timeout_s=3600.0)
        yield served


@asynccontextmanager
async def slow_client(
    streams: StreamBench, *channels: str, token: str | None = None
) -> AsyncIterator[tuple[RawSocket, Session]]:
    """Connect a client that reads nothing after the answer to its subscription; gives its session too."""
    before = set(streams.sessions)
    async with connected(streams.url, token=token, receive_bytes=KERNEL_BYTES) as socket:
        await socket.ask("subscribe", channels=list(channels))
        (session,) = streams.sessions - before
        yield socket, session


def random_change(numbers: random.Random, count: int = 5) -> list[tuple[Side, int, int]]:
    """Make changes of a book that does not cross."""
    return [
        (side, numbers.randint(*bounds), numbers.choice([0, numbers.randint(1, 10**6)]))
        for side, bounds in numbers.choices([(Side.BUY, (1, 500)), (Side.SELL, (501, 1000))], k=count)
    ]


async def read_all(reader: BookReader, sequence: int) -> None:
    """Read until the book is of this sequence."""
    with trio.fail_after(WAIT_S):
        while reader.books[SYMBOL].sequence < sequence:
            await reader.read()


async def test_slow_readers_book_is_merged_and_still_follows(streams: StreamBench) -> None:
    """A client that falls behind is sent fewer changes, each following the one before, up to the book as it is."""
    numbers = random.Random(1)
    async with connected(streams.url) as quick:
        watching = BookReader(quick)
        await watching.subscribe(SYMBOL)
        async with slow_client(streams, BOOK) as (socket, session):
            behind = BookReader(socket, is_merged=True)
            await behind.begin(SYMBOL)
            for round_number in range(3):
                for _ in range(300):
                    streams.change_book(*random_change(numbers))
                    await streams.passed_on()
                    await read_all(watching, streams.sequence)
                    assert session.waiting_bytes < QUEUE_BYTES_MAX
                await read_all(behind, streams.sequence)
                assert behind.books[SYMBOL].levels() == watching.books[SYMBOL].levels()
                assert len(behind.books[SYMBOL].seen) < len(watching.books[SYMBOL].seen) / 2, round_number
            assert len(watching.books[SYMBOL].seen) == 901
            assert behind.books[SYMBOL].snapshot_count == watching.books[SYMBOL].snapshot_count == 1
            seen = behind.books[SYMBOL].seen
            assert all(watching.books[SYMBOL].seen[sequence] == levels for sequence, levels in seen.items())
            # Who has caught up is told of each change again.
            for _ in range(5):
                streams.change_book(*random_change(numbers))
                await streams.passed_on()
                await read_all(behind, streams.sequence)
                assert streams.sequence - 2 in seen


async def test_more_changes_than_a_book_are_a_book(streams: StreamBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """When more levels changed than one can tell in pieces, a client that is behind begins anew with the whole book."""
    monkeypatch.setattr("tradeengine.web.streams.merging.CHANGES_MAX", 200)
    numbers = random.Random(2)
    async with slow_client(streams, BOOK) as (socket, _):
        reader = BookReader(socket, is_merged=True)
        await reader.begin(SYMBOL)
        for _ in range(400):
            streams.change_book(*random_change(numbers))
            await streams.passed_on()
        await read_all(reader, streams.sequence)
        book = reader.books[SYMBOL]
        assert book.snapshot_count == 2
        shown = [
            [[f"{price / 100:.2f}", f"{lots / 10_000:.4f}"] for price, lots in sorted(streams.levels[side].items())]
            for side in Side
        ]
        assert book.levels() == (shown[Side.BUY][::-1], shown[Side.SELL])


async def test_slow_reader_gets_the_latest_ticker_and_every_trade(streams: StreamBench) -> None:
    """Of tickers a client that is behind gets the latest; trades are never merged: it gets each, in order."""
    streams.limit(queue_bytes_max=10_000_000)
    async with slow_client(streams, TICKER, TRADES) as (socket, session):
        for _ in range(500):
            streams.trade()
            streams.tick()
            await streams.passed_on()
        assert session.waiting_bytes > MERGE_BYTES
        trades = [(await socket.next("trade_executed"))["sequence"] for _ in range(500)]
        assert trades == sorted(set(trades))
        tickers: list[int] = []
        while not tickers or tickers[-1] < streams.sequence:
            tickers.append((await socket.next("ticker"))["trades"])
        assert tickers == sorted(tickers)
        assert len(tickers) < 400


async def test_reader_who_stays_behind_is_closed_with_4008(streams: StreamBench) -> None:
    """When more waits than may, the client is closed: it reads what had gone out, and why; others miss nothing."""
    async with connected(streams.url) as quick:
        await quick.ask("subscribe", channels=[TRADES])
        async with slow_client(streams, TRADES) as (socket, session):
            count = 0
            while session.closing is None:
                streams.trade()
                await streams.passed_on()
                assert session.waiting_bytes <= QUEUE_BYTES_MAX + 1000
                count += 1
            assert session.closing[0] == TOO_SLOW
            assert await socket.close_code() == TOO_SLOW
            assert 0 < len(socket.kept) < count
            sequences = [message["sequence"] for message in socket.kept]
            assert sequences == list(range(1, len(sequences) + 1))
            assert [(await quick.next("trade_executed"))["sequence"] for _ in range(count)] == list(range(1, count + 1))
            assert session not in streams.sessions


async def test_silent_reader_is_dropped(streams: StreamBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes nothing for too long is dropped, however little waits; one that takes it slowly stays."""
    monkeypatch.setattr(hub_module, "LOOK_INTERVAL_S", 0.05)
    streams.limit(stall_timeout_s=1.5)
    numbers = random.Random(3)
    async with slow_client(streams, BOOK) as (silent, silents), slow_client(streams, BOOK) as (taking, takings):
        with trio.fail_after(WAIT_S):
            while silents in streams.sessions:
                streams.change_book(*random_change(numbers))
                await streams.passed_on()
                with trio.move_on_after(0.01):
                    await taking.stream.receive_some(2000)
        assert silents.closing == (TOO_SLOW, "reads too slowly")
        assert takings in streams.sessions
        assert takings.closing is None
        assert await silent.close_code() is None


async def test_reader_that_leaves_while_it_is_sent_to_is_forgotten(streams: StreamBench) -> None:
    """Clients that vanish with bytes on their way, cleanly or not, are let go; others are told as before."""
    async with connected(streams.url) as quick:
        await quick.ask("subscribe", channels=[TRADES, BOOK])
        for is_clean in (True, False) * 3:
            async with slow_client(streams, TRADES, BOOK) as (socket, session):
                while session.waiting_bytes < MERGE_BYTES:
                    streams.trade()
                    streams.change_book((Side.BUY, 100, streams.sequence + 1))
                    await streams.passed_on()
                if is_clean:
                    await socket.stream.send_eof()
                await trio.aclose_forcefully(socket.stream)
                with trio.fail_after(WAIT_S):
                    while session in streams.sessions:
                        streams.trade()
                        await streams.passed_on()
            streams.trade()
            await streams.passed_on()
            await quick.next("trade_executed", sequence=streams.sequence)


async def test_waiting_changes_end_with_the_subscription(streams: StreamBench) -> None:
    """What waits of a book that a slow client leaves is not sent behind the answer; who comes back begins anew."""
    numbers = random.Random(4)
    async with slow_client(streams, BOOK) as (socket, session):
        reader = BookReader(socket, is_merged=True)
        await reader.begin(SYMBOL)
        while session.waiting_bytes < MERGE_BYTES:
            streams.change_book(*random_change(numbers))
            await streams.passed_on()
        for _ in range(50):
            streams.change_book(*random_change(numbers))
            await streams.passed_on()
        await reader.unsubscribe(SYMBOL)
        await socket.ask("ping")
        assert not socket.kept
        await reader.subscribe(SYMBOL)
        streams.change_book(*random_change(numbers))
        await streams.passed_on()
        await read_all(reader, streams.sequence)


async def test_own_orders_of_a_slow_reader_are_never_merged(streams: StreamBench) -> None:
    """Updates of own orders wait for their owner one by one, until there are too many; then the client is closed."""
    token = bearer()["Authorization"].removeprefix("Bearer ")
    async with slow_client(streams, "orders", token=token) as (socket, session):
        for _ in range(80):
            streams.update_order()
            await streams.passed_on()
        sequences = [(await socket.next("order_update"))["sequence"] for _ in range(80)]
        assert sequences == list(range(1, 81))
        while session.closing is None:
            streams.update_order()
            await streams.passed_on()
        assert await socket.close_code() == TOO_SLOW
        sequences += [message["sequence"] for message in socket.kept]
        assert sequences == list(range(1, len(sequences) + 1))


async def test_answers_that_nobody_reads_are_bounded(streams: StreamBench) -> None:
    """A client that asks and asks and never reads an answer is closed as a slow reader is."""
    async with slow_client(streams, TRADES) as (socket, session):
        with trio.fail_after(WAIT_S):
            while session.closing is None:
                await socket.send({"op": "ping", "id": "x" * 60})
                assert session.waiting_bytes <= QUEUE_BYTES_MAX + 1000
        assert await socket.close_code() == TOO_SLOW


async def test_book_whose_page_is_being_written_comes_with_its_next_change(streams: StreamBench) -> None:
    """Who subscribes while the page of a book cannot be read is given the book as soon as something changes."""
    table = streams.bench.memory.tables["depth"]
    async with connected(streams.url) as socket:
        with table.writing(0):
            await socket.ask("subscribe", channels=[BOOK])
            await socket.ask("ping")
            assert not socket.kept
        streams.change_book((Side.SELL, 700, 5))
        await streams.passed_on()
        snapshot = await socket.next("orderbook_snapshot")
        assert (snapshot["asks"], snapshot["sequence"]) == ([["7.00", "0.0005"]], streams.sequence)
