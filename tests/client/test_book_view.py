"""Books that a stream keeps: after a gap, after a loss, for slow readers and for several."""

from __future__ import annotations

from decimal import Decimal

import pytest
import trio
from tests.client.scripted import (
    BACK_S,
    Json,
    Peer,
    agree,
    failure,
    receive,
    snapshot,
    stream_of,
    stream_server,
    update,
)

from tradeengine.client import ApiError, BookView, LocalBook
from tradeengine.client.messages import OrderbookSnapshot, OrderbookUpdate

BOOK = "book:BTC/USDT"


async def look(view: BookView) -> LocalBook:
    """Wait for the next state of a book."""
    with trio.fail_after(BACK_S):
        return await anext(view)


def best_bid(book: LocalBook) -> tuple[str, str]:
    """Give price and quantity of the best bid."""
    assert book.best_bid is not None
    return str(book.best_bid.price), str(book.best_bid.quantity)


async def asked(peer: Peer) -> tuple[str, list[str]]:
    """Wait for the next operation that the client asks for."""
    with trio.fail_after(BACK_S):
        op = await peer.ops.receive()
    return op["op"], op["channels"]


async def give(peer: Peer, op: Json) -> None:
    """Agree, and give a snapshot to whoever subscribes to a book."""
    await agree(peer, op)
    if op["op"] == "subscribe" and BOOK in op["channels"]:
        await peer.say(snapshot(10, [["9", "1"]], [["11", "1"]]))


async def test_book_is_shown_after_every_change() -> None:
    """A book that is followed shows the snapshot, and then each change, with all that was before."""
    async with stream_server(give) as server, stream_of(server) as stream:
        peer = await server.peer()
        view = stream.book("BTC-USDT")
        book = await look(view)
        assert await asked(peer) == ("subscribe", [BOOK])
        assert (book.sequence, best_bid(book)) == (10, ("9", "1"))
        await peer.say(update(10, 13, ["buy", "10", "2"]))
        assert await look(view) is book
        assert (book.sequence, best_bid(book)) == (13, ("10", "2"))
        await peer.say(update(13, 14, ["buy", "10", "0"], ["sell", "11", "0"]))
        await look(view)
        assert best_bid(book) == ("9", "1")
        assert book.best_ask is None
        assert book.depth(5) == ([(Decimal(9), Decimal(1))], [])


async def test_gap_is_mended_by_a_snapshot() -> None:
    """After a gap the stream leaves the channel and comes back, and the book is shown when it is whole again."""
    async with stream_server() as server, stream_of(server) as stream:
        peer = await server.peer()
        view = stream.book("BTC/USDT")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look, view)
            assert await asked(peer) == ("subscribe", [BOOK])
            await peer.say(snapshot(10, [["9", "1"]]))
        await peer.say(update(12, 13, ["buy", "9", "7"]), update(13, 14, ["buy", "8", "7"]))
        assert await asked(peer) == ("unsubscribe", [BOOK])
        assert await asked(peer) == ("subscribe", [BOOK])
        assert view.book.sequence is None
        await peer.say(snapshot(20, [["9.5", "3"]]), update(20, 21, ["buy", "9", "4"]))
        book = await look(view)
        while book.sequence != 21:
            await look(view)
        assert book.depth(5)[0] == [(Decimal("9.5"), Decimal(3)), (Decimal(9), Decimal(4))]
        # One gap is mended once.
        await stream.unsubscribe("nothing")
        assert await asked(peer) == ("unsubscribe", ["nothing"])


async def test_gap_that_nobody_mends_is_mended_by_another_connection() -> None:
    """When the engine does not answer after a gap, the stream gives the connection up, and the next has a snapshot."""

    async def give_once(peer: Peer, op: Json) -> None:
        if op["op"] == "subscribe":
            await give(peer, op)

    async with stream_server(give_once) as server, stream_of(server, timeout_s=0.5) as stream:
        peer = await server.peer()
        view = stream.book("BTC/USDT")
        await look(view)
        await peer.say(update(12, 13))
        await server.peer()
        assert (await look(view)).sequence == 10


async def test_book_that_is_gone_ends_its_view() -> None:
    """When the snapshot after a gap is refused for good, who follows the book is told."""

    async def give_then_refuse(peer: Peer, op: Json) -> None:
        await (peer.refuse(op, "SYMBOL_NOT_FOUND") if op["op"] == "unsubscribe" else give(peer, op))

    async with stream_server(give_then_refuse) as server, stream_of(server) as stream:
        peer = await server.peer()
        view = stream.book("BTC/USDT")
        await look(view)
        await peer.say(update(12, 13))
        with pytest.raises(ApiError, match="SYMBOL_NOT_FOUND"):
            await look(view)


async def test_book_is_void_while_there_is_no_connection() -> None:
    """A book whose stream is cut says so at once, and is shown again after the next connection's snapshot."""
    async with stream_server(give) as server, stream_of(server) as stream:
        peer = await server.peer()
        view = stream.book("BTC/USDT")
        book = await look(view)
        server.refusals += [(503, failure("SHUTTING_DOWN")["error"])] * 1000
        await peer.socket.aclose(1012)
        with trio.fail_after(BACK_S):
            while book.sequence is not None:
                await trio.lowlevel.checkpoint()
        server.refusals.clear()
        assert await look(view) is book
        peer = await server.peer()
        assert await asked(peer) == ("subscribe", [BOOK])
        assert book.sequence == 10


async def test_slow_reader_sees_the_last_state() -> None:
    """Whoever looks late sees the book as it is by then, once, and nobody has waited for them."""
    async with stream_server(give) as server, stream_of(server, messages_max=1) as stream:
        peer = await server.peer()
        view = stream.book("BTC/USDT")
        await look(view)
        for sequence in range(10, 110):
            await peer.say(update(sequence, sequence + 1, ["buy", "9", str(sequence)]))
        await stream.unsubscribe("nothing")  # answered after all that was said
        book = await look(view)
        assert (book.sequence, best_bid(book)) == (110, ("9", "109"))
        await peer.say(update(110, 111, ["buy", "9", "1"]))
        assert (await look(view)).sequence == 111


async def test_two_views_and_a_reader_share_a_channel() -> None:
    """A book is subscribed to once, begun anew for who comes later, and left when nobody wants it any more."""
    async with stream_server(give) as server, stream_of(server) as stream:
        peer = await server.peer()
        first, second = stream.book("BTC/USDT"), stream.book("BTC/USDT")
        await look(first)
        assert await asked(peer) == ("subscribe", [BOOK])
        await look(second)
        assert [await asked(peer), await asked(peer)] == [("unsubscribe", [BOOK]), ("subscribe", [BOOK])]
        await stream.subscribe(BOOK)
        assert await asked(peer) == ("subscribe", [BOOK])
        await receive(stream, OrderbookSnapshot)
        await first.aclose()
        await stream.unsubscribe(BOOK)
        await peer.say(update(10, 11, ["buy", "9", "5"]))
        while second.book.sequence != 11:
            await look(second)
        await second.aclose()
        assert await asked(peer) == ("unsubscribe", [BOOK])
        with pytest.raises(StopAsyncIteration):
            await anext(second)


async def test_reader_gets_each_message_of_a_book() -> None:
    """Who subscribes to a book as to any channel gets every message of it, also while a view follows it."""
    async with stream_server(give) as server, stream_of(server) as stream:
        peer = await server.peer()
        await stream.subscribe(BOOK)
        await receive(stream, OrderbookSnapshot)
        await look(stream.book("BTC/USDT"))
        await receive(stream, OrderbookSnapshot)
        await peer.say(update(10, 11, ["buy", "9", "5"]), update(11, 12, ["buy", "9", "6"]))
        assert (await receive(stream, OrderbookUpdate)).sequence == 11
        assert (await receive(stream, OrderbookUpdate)).changes == [("buy", Decimal(9), Decimal(6))]


async def test_end_of_the_stream_is_the_end_of_its_books() -> None:
    """Who follows a book is told why the stream has ended."""
    async with stream_server(give) as server, stream_of(server) as stream:
        peer = await server.peer()
        view = stream.book("BTC/USDT")
        await look(view)
        server.refusals.append((401, failure("UNAUTHORIZED")["error"]))
        await peer.socket.aclose(4001)
        with pytest.raises(ApiError, match="UNAUTHORIZED"):
            await look(view)


async def test_unknown_book_is_an_error() -> None:
    """A book that there is not is refused to who wants to follow it, each time."""

    async def refuse(peer: Peer, op: Json) -> None:
        await peer.refuse(op, "SYMBOL_NOT_FOUND")

    async with stream_server(refuse) as server, stream_of(server) as stream:
        view = stream.book("XXX/YYY")
        for _ in range(2):
            with pytest.raises(ApiError, match="SYMBOL_NOT_FOUND"):
                await look(view)
