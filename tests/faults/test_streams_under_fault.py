"""Streams while whatever stands between them and the matcher is stopped, lapped and killed, under a storm.

Rings are small here, so that a moment of standing still is a lap. Every client checks every message: a book's change
follows the message before it, or a snapshot comes; trades and own orders are told once each, or it is said that some
are missing. In the end, with nothing more happening, each book is the engine's, and that is what the live orders in
PostgreSQL add up to; and own orders are those of GET /orders.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial

import pytest
import trio
from tests.e2e.users import User, connect_database, sign_in
from tests.engines import Engine, running_engine, wait_restarted
from tests.faults.book_clients import (
    AGREE_S,
    LossyStream,
    RawBook,
    RawTrades,
    ShownBooks,
    State,
    assert_never_wrong,
    following,
)
from tests.faults.own_orders import OwnOrders, agree, following_orders
from tests.faults.storm import OWNER, Storm, blowing, open_storm

from tradeengine.client import BookView, LocalBook, Stream
from tradeengine.client.messages import OrderbookSnapshot, OrderbookUpdate, Reconnected
from tradeengine.core.messages import resume_cursor
from tradeengine.ipc.seqlock import SeqlockBusy

SETTINGS = {
    "TRADEENGINE_RINGS_FEED_SLOTS": "64",
    "TRADEENGINE_RINGS_EVENTS_SLOTS": "2048",
    "TRADEENGINE_SETTLEMENT_BACKLOG_EVENTS_MAX": "1024",
    "TRADEENGINE_SUPERVISOR_RESTART_COUNT_MAX": "100",
    "TRADEENGINE_SUPERVISOR_RESTART_BACKOFF_MS_MAX": "200",
}
BUSY, OTHER = "SOL/USDT", "LTC/USDT"
STORM_COUNT = 800
LAST_COUNT = 40
LONG_AGO = resume_cursor(0, [0])
"""Who resumes from there is given all open orders."""


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine with small rings, whose actors may be harmed."""
    with running_engine(tmp_path_factory.mktemp("harmed"), environment=SETTINGS) as engine:
        yield engine


def lap_front(engine: Engine, storm: Storm) -> None:
    """Stop the front until the feed is two laps ahead of it."""
    depth = storm.client.wiring.table("depth")
    busy = storm.spec(BUSY).symbol_id
    # Each time that the row is written its version goes up by two, and a change goes out.
    end = depth.version(busy) + 2 * 2 * int(SETTINGS["TRADEENGINE_RINGS_FEED_SLOTS"])
    with engine.standing_still("front-0"):
        storm.run_until(lambda: depth.version(busy) >= end, BUSY, OTHER)


def lap_publisher(engine: Engine, storm: Storm) -> None:
    """Stop the publisher until the events are two laps ahead of it."""
    ring = storm.client.wiring.ring("events.0")
    end = ring.head + 2 * ring.capacity
    with engine.standing_still("publisher"):
        storm.run_until(lambda: ring.head >= end, BUSY, OTHER)


def kill(name: str) -> Callable[[Engine, Storm], None]:
    """Make a fault: an actor is killed in the middle of a storm that goes on until it is back."""

    def cause(engine: Engine, storm: Storm) -> None:
        with blowing(storm, BUSY, OTHER):
            pid = engine.actors()[name]
            os.kill(pid, signal.SIGKILL)
            wait_restarted(engine, name, pid)

    return cause


FAULTS = {
    "nothing": lambda _engine, _storm: None,
    "front lapped": lap_front,
    "publisher lapped": lap_publisher,
    "publisher killed": kill("publisher"),
    "front killed": kill("front-0"),
    "matcher killed": kill("matcher-0"),
}
LOSING = ("front lapped", "publisher lapped", "publisher killed")
"""Faults after which some updates are gone."""
STOOD_FOR = ("front lapped", "front killed", "publisher killed")
"""Faults whose kind another one stands for where time is short."""
LAPPED = {"front lapped": "front_stream_lapped", "publisher lapped": "publisher_lapped"}
"""Faults that a metric has to show."""


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=pytest.mark.long) if fault in STOOD_FOR else fault for fault in FAULTS]
)
async def test_nothing_is_lost_silently_and_all_ends_right(harmed: Engine, fault: str) -> None:
    """Under a storm and each fault nothing is missing silently, and books and own orders end as the engine's."""
    books = [
        RawBook(harmed.url, BUSY),
        RawBook(harmed.url, BUSY, binary=True, batch=True),
        RawBook(harmed.url, BUSY, lose_share=0.1),
        RawBook(harmed.url, OTHER),
    ]
    trades = RawTrades(harmed.url, BUSY)
    with open_storm(harmed, seed=21) as storm, owner_of_orders(harmed) as owner:
        async with (
            following(harmed, books, trades) as shown,
            packaged_client(harmed) as (stream, view),
            book_of_messages(harmed) as told,
            following_orders(owner, OwnOrders(cursor=LONG_AGO)) as orders,
        ):
            first_sequence, laps = storm.client.wiring.ring("events.0").head, lap_counts(harmed)
            await blow(storm.run, STORM_COUNT, BUSY, OTHER)
            await blow(FAULTS[fault], harmed, storm)
            await blow(storm.run, STORM_COUNT, BUSY, OTHER)
            # What is lost shows with what comes next, so something comes that is not lost.
            books[2].lose_share = stream.lose_share = 0
            await blow(change_once_more, storm)
            await all_agree(harmed, storm, books, shown)
            await book_agrees(view.book, shown)
            await book_agrees(told, shown)
            await agree(orders, owner)
        if fault in LAPPED:
            assert lap_counts(harmed)[LAPPED[fault]] > laps[LAPPED[fault]]
        assert_no_trade_is_lost_silently(harmed, storm, trades, first_sequence)
    assert assert_never_wrong(books, shown) > 0
    assert all(book.updates for book in books)
    assert books[2].gaps > 0
    assert stream.lost_count > 0
    assert len(orders.model.resyncs) > (fault in LOSING)


@pytest.mark.parametrize(
    "fault",
    [
        "front lapped",
        "matcher killed",
        *(pytest.param(fault, marks=pytest.mark.long) for fault in ("publisher lapped", "publisher killed")),
    ],
)
async def test_book_that_changed_during_a_fault_and_then_stands_still(harmed: Engine, fault: str) -> None:
    """A book that changes only while messages are lost is right soon after, though nothing more happens to it."""
    books, trades = [RawBook(harmed.url, OTHER), RawBook(harmed.url, BUSY)], RawTrades(harmed.url, OTHER)

    with open_storm(harmed, seed=22) as storm:
        async with following(harmed, books, trades) as shown:
            storm.left[OTHER] = LAST_COUNT
            await blow(FAULTS[fault], harmed, storm)
            assert storm.left[OTHER] == 0
            await all_agree(harmed, storm, books, shown)


def change_once_more(storm: Storm) -> None:
    """Let a storm blow until the busy book has changed since now, whatever is refused for load."""
    depth, symbol_id = storm.client.wiring.table("depth"), storm.spec(BUSY).symbol_id
    head = storm.client.wiring.ring("events.0").head

    def is_shown() -> bool:
        with suppress(SeqlockBusy):
            return int(depth.read(symbol_id)["sequence"]) >= head
        return False

    storm.run_until(is_shown, BUSY, OTHER)


def lap_counts(engine: Engine) -> dict[str, float]:
    """Read how often actors were lapped."""
    with engine.client() as client:
        lines = client.get(f"{engine.url}/metrics").text.splitlines()
    found = {}
    for name in LAPPED.values():
        (line,) = [line for line in lines if line.startswith(f"tradeengine_{name}_total")]
        found[name] = float(line.rpartition(" ")[2])
    return found


@contextmanager
def owner_of_orders(engine: Engine) -> Iterator[User]:
    """Sign in as one of those whose orders a storm is made of."""
    owner = sign_in(engine, OWNER)
    yield owner
    owner.http.close()


def assert_no_trade_is_lost_silently(engine: Engine, storm: Storm, trades: RawTrades, first_sequence: int) -> None:
    """See that each trade since then was told, or that it was told that it may be missing, or the connection broke."""
    query = "SELECT id::text, sequence FROM trades WHERE symbol_id = %s AND sequence >= %s"
    with connect_database(engine) as connection:
        rows = connection.execute(query, (storm.spec(BUSY).symbol_id, first_sequence)).fetchall()
    happened: dict[str, int] = dict(rows)
    told = {trade_id: sequence for trade_id, sequence in trades.seen.items() if sequence >= first_sequence}
    assert told.items() <= happened.items()
    missing = [sequence for trade_id, sequence in happened.items() if trade_id not in told]
    assert trades.connections > 1 or all(sequence <= trades.missing_through for sequence in missing)
    assert told


@asynccontextmanager
async def packaged_client(engine: Engine) -> AsyncIterator[tuple[LossyStream, BookView]]:
    """Follow a book with the packaged client, which loses some of the changes."""
    async with LossyStream(engine.url, pause_first_s=0.02, pause_longest_s=0.2) as stream:
        stream.lose_share = 0.1
        view = stream.book(BUSY)
        with trio.fail_after(AGREE_S):
            await anext(view)
        yield stream, view


async def blow(work: Callable[..., None], *arguments: object) -> None:
    """Do something in a thread, so that clients go on meanwhile."""
    await trio.to_thread.run_sync(partial(work, *arguments))


async def all_agree(engine: Engine, storm: Storm, books: list[RawBook], shown: ShownBooks) -> None:
    """Wait until every client's book and the one that is shown are what rests."""
    for symbol in {book.symbol for book in books}:
        resting = await trio.to_thread.run_sync(resting_orders, engine, storm, symbol)
        for book in books:
            if book.symbol == symbol:
                await shown.agree(book, resting)


@asynccontextmanager
async def book_of_messages(engine: Engine) -> AsyncIterator[LocalBook]:
    """Keep a book from the packaged client's messages, as they come: it takes no gap."""
    book = LocalBook(BUSY)

    async def follow(stream: Stream) -> None:
        async for message in stream:
            if isinstance(message, OrderbookSnapshot | OrderbookUpdate):
                assert book.apply(message)
            elif isinstance(message, Reconnected):
                book.invalidate()

    async with Stream(engine.url, msgpack=True, pause_first_s=0.02, pause_longest_s=0.2) as stream:
        await stream.subscribe(f"book:{BUSY}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, stream)
            yield book
            nursery.cancel_scope.cancel()


async def book_agrees(book: LocalBook, shown: ShownBooks) -> None:
    """Wait until a book is the one that is shown."""
    sequence = 0
    with trio.move_on_after(AGREE_S):
        while True:
            sequence, (bids, asks) = await shown.look(book.symbol)
            sides = [tuple((f"{level.price}", f"{level.quantity}") for level in side) for side in book.depth(1000)]
            if book.sequence == sequence and sides == [bids, asks]:
                return
            await trio.sleep(0.01)
    raise AssertionError(f"the book stays at {book.sequence}, the engine shows {sequence}")


def resting_orders(engine: Engine, storm: Storm, symbol: str) -> State:
    """Add up the live orders of a symbol, once everything that was published is settled."""
    spec, ring = storm.spec(symbol), storm.client.wiring.ring("events.0")
    with connect_database(engine) as connection:
        while connection.execute("SELECT sequence FROM settlement_cursors WHERE shard = 0").fetchone() != (ring.head,):
            pass
        query = """SELECT side::text, price_ticks, sum(remaining_lots)::bigint FROM orders
                   WHERE symbol_id = %s AND closed_at IS NULL GROUP BY 1, 2"""
        rows = connection.execute(query, (spec.symbol_id,)).fetchall()
    sides = [sorted(((price, lots) for name, price, lots in rows if name == side)) for side in ("buy", "sell")]
    bids, asks = (tuple((spec.format_price(p), spec.format_quantity(q)) for p, q in side) for side in sides)
    return bids[::-1], asks
