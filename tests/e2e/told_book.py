"""A book as a stream tells it, kept in the plainest way, and a reader that keeps those of a connection.

Rule 1: every message is checked: the chain, the best prices that it names, the bound on levels. Rule 2: what is not
subscribed to must not come. It refuses to know how books come about.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from decimal import Decimal

import trio
from tests.e2e.users import Json, User
from tests.web.raw_websocket import WAIT_S, RawSocket

Levels = list[list[str]]
LEVELS_MAX = 1000


class ToldBook:
    """One book. ``sequence``: of the last message; -1: nothing was told yet. ``seen``: by sequence, as it was then.

    is_merged: one message may stand for several, hence tell of levels that came and went, or came back, in between.
    """

    def __init__(self, *, is_merged: bool = False) -> None:
        self._is_merged = is_merged
        self.sequence = -1
        self.snapshot_count = 0
        self.seen: dict[int, tuple[Levels, Levels]] = {}
        self._sides: dict[str, dict[str, str]] = {"buy": {}, "sell": {}}

    def apply(self, message: Json) -> None:
        """Take a message in."""
        if message["type"] == "orderbook_snapshot":
            self.snapshot_count += 1
            assert message["sequence"] >= self.sequence
            self._sides = {"buy": dict(message["bids"]), "sell": dict(message["asks"])}
            assert self.levels() == (message["bids"], message["asks"]), "levels come best first, each price once"
        else:
            assert message["previous_sequence"] == self.sequence >= 0
            for side, price, quantity in message["changes"]:
                known = self._sides[side].pop(price, "0")
                if Decimal(quantity):
                    self._sides[side][price] = quantity
                assert self._is_merged or Decimal(quantity) != Decimal(known), "what does not change is not told"
        self.sequence = message["sequence"]
        bids, asks = self.seen[self.sequence] = self.levels()
        assert max(len(bids), len(asks)) <= LEVELS_MAX
        if message["type"] == "orderbook_update":
            assert [message["best_bid"], message["bid_quantity"]] == (bids[0] if bids else [None, None])
            assert [message["best_ask"], message["ask_quantity"]] == (asks[0] if asks else [None, None])
            spread = Decimal(asks[0][0]) - Decimal(bids[0][0]) if bids and asks else None
            assert message["spread"] == (None if spread is None else f"{spread}")
            assert spread is None or spread > 0

    def levels(self) -> tuple[Levels, Levels]:
        """Bids and asks, best first."""
        bids, asks = (
            sorted(self._sides[side].items(), key=lambda level: Decimal(level[0])) for side in ("buy", "sell")
        )
        return [list(level) for level in reversed(bids)], [list(level) for level in asks]


class BookReader:
    """The books of a connection; ``books`` by symbol, of those that are subscribed to. is_merged: as in a book."""

    def __init__(self, socket: RawSocket, *, is_merged: bool = False) -> None:
        self.socket = socket
        self._is_merged = is_merged
        self.books: dict[str, ToldBook] = {}
        self.others: defaultdict[str, list[Json]] = defaultdict(list)
        """Other messages by type."""

    async def subscribe(self, *symbols: str) -> None:
        """Begin to listen; returns when the first message of each has come, which must be a snapshot."""
        new = [symbol for symbol in symbols if symbol not in self.books]
        await self._ask("subscribe", symbols, lambda: self.books.update({symbol: self._book() for symbol in new}))
        with trio.fail_after(WAIT_S):
            while any(self.books[symbol].sequence < 0 for symbol in new):
                await self.read()
        assert all(self.books[symbol].snapshot_count == 1 for symbol in new)

    async def begin(self, symbol: str) -> None:
        """Read the first messages of a path that tells this book from the start."""
        self.books[symbol] = self._book()
        with trio.fail_after(WAIT_S):
            while self.books[symbol].sequence < 0:
                await self.read()

    async def unsubscribe(self, *symbols: str) -> None:
        """Listen no more; a message behind the answer would be a fault."""
        await self._ask("unsubscribe", symbols, lambda: [self.books.pop(symbol) for symbol in symbols])

    async def read(self) -> None:
        """Take the next frame in."""
        for message in await self.socket.read_frame():
            self._take(message)

    async def read_for_ever(self) -> None:
        """Read until cancelled."""
        while True:
            await self.read()

    async def agree(self, user: User, symbol: str, sequence: int = 0) -> tuple[Levels, Levels]:
        """Read until the book is as new as the one that HTTP shows, which must have the same levels; returns them.

        sequence: both must be that new at least.
        """
        book = self.books[symbol]
        with trio.fail_after(WAIT_S):
            while book.sequence < sequence:
                await self.read()
            while True:
                shown = user.call("GET", f"/orderbook/{symbol}?depth=1000")
                while book.sequence < shown["sequence"]:
                    await self.read()
                if book.sequence == shown["sequence"]:
                    assert book.levels() == (shown["bids"], shown["asks"])
                    return book.levels()

    async def _ask(self, op: str, symbols: Iterable[str], take_effect: Callable[[], object]) -> None:
        """Make a request, and let it take effect where its answer stands among the messages."""
        number = await self.socket.request(op, channels=[f"book:{symbol}" for symbol in symbols])
        answer = None
        with trio.fail_after(WAIT_S):
            while answer is None:
                for message in await self.socket.read_frame():
                    if message["type"] in {"ack", "error"} and message["id"] == number:
                        answer = message
                        assert answer["type"] == "ack", answer
                        take_effect()
                    else:
                        self._take(message)

    def _book(self) -> ToldBook:
        return ToldBook(is_merged=self._is_merged)

    def _take(self, message: Json) -> None:
        if message["type"].startswith("orderbook"):
            self.books[message["symbol"]].apply(message)
        else:
            self.others[message["type"]].append(message)
