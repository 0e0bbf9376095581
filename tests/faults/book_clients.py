"""Clients that keep books and trust nobody: every message is held against the one before, and every state written down.

``RawBook`` is a client written from the protocol alone: a plain connection, strings as they come. A change that does
not follow the last message is a gap; it may only be there where the client itself lost something on purpose.
``LossyStream`` is the packaged client with the same bad habit.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Self, TypeAlias

import httpx2
import msgspec
import trio
from tests.engines import Engine
from websockets.exceptions import WebSocketException
from websockets.trio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tradeengine.client import Stream
from tradeengine.client.messages import Message, OrderbookUpdate

Side: TypeAlias = tuple[tuple[str, str], ...]
State: TypeAlias = tuple[Side, Side]
"""Bids and asks, best first."""

AGREE_S: Final = 20.0
RECONNECT_S: Final = 0.02
BUSY: Final = 503
MSGPACK: Final = Subprotocol("tradeengine.msgpack")


class RawBook:
    """One symbol's book from a plain connection that is made again when it breaks.

    ``states``: the book after each message, by sequence. ``lose_share``: of the changes, thrown away unseen.
    """

    def __init__(self, url: str, symbol: str, *, binary: bool = False, batch: bool = False, lose_share: float = 0.0):
        self.symbol = symbol
        self.sequence: int | None = None
        self.known = trio.Event()
        self.states: dict[int, State] = {}
        self.connections = self.snapshots = self.updates = self.lost = self.gaps = 0
        self._url = url.replace("http", "ws", 1) + "/ws/stream"
        self._binary = binary
        self._batch = batch
        self.lose_share = lose_share
        self._random = random.Random(symbol)
        self._levels: dict[str, dict[str, str]] = {"buy": {}, "sell": {}}
        self._missing = False
        """Whether something was thrown away since the last message that was taken."""

    def __repr__(self) -> str:
        counts = f"{self.connections} connections, {self.snapshots} snapshots, {self.updates} updates, {self.gaps} gaps"
        return f"<book of {self.symbol} at {self.sequence}; {counts}>"

    @property
    def state(self) -> State | None:
        """The book as it is known; None while it is not."""
        return self.states.get(self.sequence) if self.sequence is not None else None

    async def run(self) -> None:
        """Follow the book until cancelled."""
        while True:
            try:
                protocols = [MSGPACK] if self._binary else None
                async with connect(self._url, subprotocols=protocols, compression=None, max_size=2**24) as socket:
                    self.connections += 1
                    await self._follow(socket)
            except (OSError, WebSocketException):
                pass
            self.sequence = None
            await trio.sleep(RECONNECT_S)

    async def _follow(self, socket: ClientConnection) -> None:
        self._missing = False
        await self._ask(socket, "subscribe")
        while True:
            frame = await socket.recv(decode=False)
            found = msgspec.msgpack.decode(frame) if self._binary else msgspec.json.decode(frame)
            for message in found if isinstance(found, list) else [found]:
                if message["type"] == "error":
                    # Nobody serves streams now, as it says: later somebody will.
                    assert message["code"] == "ENGINE_OVERLOADED", message
                    await self._ask(socket, "subscribe")
                elif message["type"] == "orderbook_snapshot":
                    self._replace(message)
                elif message["type"] == "orderbook_update" and not self._change(message):
                    await self._ask(socket, "unsubscribe")
                    await self._ask(socket, "subscribe")

    async def _ask(self, socket: ClientConnection, op: str) -> None:
        request: dict[str, Any] = {"op": op, "id": op, "channels": [f"book:{self.symbol}"]}
        if op == "subscribe" and self._batch:
            request["batch"] = True
        content = msgspec.msgpack.encode(request) if self._binary else msgspec.json.encode(request)
        await socket.send(content, text=not self._binary)

    def _replace(self, message: dict[str, Any]) -> None:
        assert self.sequence is None or message["sequence"] >= self.sequence, "a snapshot leads back"
        self.snapshots += 1
        self._missing = False
        self._levels = {"buy": _distinct(message["bids"]), "sell": _distinct(message["asks"])}
        self._note(message["sequence"])

    def _change(self, message: dict[str, Any]) -> bool:
        """Take a change; returns whether it follows."""
        if self.sequence is None:
            return True  # after a gap: only a snapshot helps, and it is asked for
        if self._random.random() < self.lose_share:
            self.lost += 1
            self._missing = True
            return True
        if message["previous_sequence"] != self.sequence:
            assert self._missing, f"the book is at {self.sequence}: {message}"
            self.gaps += 1
            self.sequence = None
            return False
        assert not self._missing, "something is missing and nothing shows it"
        self.updates += 1
        for side, price, quantity in message["changes"]:
            if float(quantity):
                self._levels[side][price] = quantity
            else:
                self._levels[side].pop(price, None)
        self._note(message["sequence"])
        bids, asks = self.states[message["sequence"]]
        best = [(levels[0] if levels else (None, None)) for levels in (bids, asks)]
        shown = [(message["best_bid"], message["bid_quantity"]), (message["best_ask"], message["ask_quantity"])]
        assert best == shown
        return True

    def _note(self, sequence: int) -> None:
        state = (_sorted(self._levels["buy"], best=max), _sorted(self._levels["sell"], best=min))
        assert self.states.setdefault(sequence, state) == state, f"two books at {sequence}"
        self.sequence = sequence
        self.known.set()


class RawTrades:
    """One symbol's trades from a plain connection that is made again when it breaks. ``seen``: sequences by trade."""

    def __init__(self, url: str, symbol: str) -> None:
        self.known = trio.Event()
        self.seen: dict[str, int] = {}
        self.missing_through = -1
        """Trades up to this sequence may be missing, as the engine has said."""
        self.spans: list[tuple[int, int, int]] = []
        """Of each connection that told of any: first and last sequence, and up to where trades may be missing."""
        self.connections = 0
        self._url = url.replace("http", "ws", 1) + "/ws/stream"
        self._request = msgspec.json.encode({"op": "subscribe", "id": 1, "channels": [f"trades:{symbol}"]})

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            with suppress(OSError, WebSocketException):
                async with connect(self._url, compression=None) as socket:
                    self.connections += 1
                    await self._listen(socket)
            await trio.sleep(RECONNECT_S)

    async def _listen(self, socket: ClientConnection) -> None:
        await socket.send(self._request, text=True)
        first_sequence = last_sequence = missing_through = -1
        while True:
            message = msgspec.json.decode(await socket.recv())
            match message["type"]:
                case "ack":
                    self.known.set()
                case "error":
                    assert message["code"] == "ENGINE_OVERLOADED", message
                    await socket.send(self._request, text=True)
                case "trades_gap":
                    missing_through = max(missing_through, message["sequence"])
                    self.missing_through = max(self.missing_through, missing_through)
                case "trade_executed":
                    assert message["sequence"] > last_sequence, "a trade twice, or out of order"
                    last_sequence = self.seen[message["trade_id"]] = message["sequence"]
                    if first_sequence < 0:
                        first_sequence = last_sequence
                        self.spans.append((first_sequence, last_sequence, missing_through))
            if first_sequence >= 0:
                self.spans[-1] = (first_sequence, last_sequence, missing_through)


class LossyStream(Stream):
    """A stream that throws some changes of books away before anyone sees them."""

    lost_count = 0
    lose_share = 0.0
    numbers = random.Random(5)

    async def deliver(self, message: Message) -> None:
        """Hand a message on, or lose it."""
        if isinstance(message, OrderbookUpdate) and self.numbers.random() < self.lose_share:
            self.lost_count += 1
            return
        await super().deliver(message)


class ShownBooks:
    """What GET /orderbook shows, asked for again and again: by symbol and sequence."""

    def __init__(self, engine: Engine, symbols: Iterable[str]) -> None:
        self.states: dict[str, dict[int, State]] = {symbol: {} for symbol in symbols}
        self._http = httpx2.AsyncClient(base_url=f"{engine.url}/api/v1", timeout=5, trust_env=False)

    async def look(self, symbol: str) -> tuple[int, State]:
        """Ask until there is an answer. Raises httpx2.TransportError."""
        while True:
            answer = await self._http.get(f"/orderbook/{symbol.replace('/', '-')}", params={"depth": 1000})
            if answer.status_code != BUSY:
                break  # else the page is being written, by a process that has to wait for its turn
        assert answer.status_code == 200, answer.text
        book = answer.json()["data"]
        state = tuple(tuple((price, quantity) for price, quantity in book[side]) for side in ("bids", "asks"))
        known = self.states[symbol].setdefault(book["sequence"], (state[0], state[1]))
        assert known == state, f"two books of {symbol} at {book['sequence']}"
        return book["sequence"], known

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            for symbol in self.states:
                # A front that stands still, or is being killed, shows nothing.
                with trio.move_on_after(2), suppress(httpx2.TransportError):
                    await self.look(symbol)
            await trio.sleep(0.01)

    async def agree(self, book: RawBook, expected: State) -> None:
        """Wait until a client's book, and the one that is shown, are what they should be. Nothing else happens."""
        shown: tuple[int, State | None] = (0, None)
        with trio.move_on_after(AGREE_S):
            while True:
                shown = await self.look(book.symbol)
                if (book.sequence, book.state) == shown and book.state == expected:
                    return
                await trio.sleep(0.01)
        assert shown[1] == expected, f"{book.symbol}: what is shown at {shown[0]} is not what rests"
        raise AssertionError(f"{book}: the engine shows {shown[0]}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with trio.CancelScope(shield=True):
            await self._http.aclose()


@asynccontextmanager
async def following(engine: Engine, books: list[RawBook], trades: RawTrades) -> AsyncIterator[ShownBooks]:
    """Run clients, and look at the same books, while the block runs; every book is known when it begins."""
    async with ShownBooks(engine, {book.symbol for book in books}) as shown, trio.open_nursery() as nursery:
        clients: list[RawBook | RawTrades] = [*books, trades]
        for client in clients:
            nursery.start_soon(client.run)
        with trio.fail_after(AGREE_S):
            for client in clients:
                await client.known.wait()
        nursery.start_soon(shown.run)
        yield shown
        nursery.cancel_scope.cancel()


def assert_never_wrong(books: Iterable[RawBook], shown: ShownBooks) -> int:
    """Compare every state that a client and the engine have both shown; returns how many there were."""
    compared = 0
    for book in books:
        for sequence in book.states.keys() & shown.states[book.symbol].keys():
            assert book.states[sequence] == shown.states[book.symbol][sequence], (book.symbol, sequence)
            compared += 1
    return compared


def _distinct(levels: list[tuple[str, str]]) -> dict[str, str]:
    assert len({price for price, _ in levels}) == len(levels)
    return dict(levels)


def _sorted(levels: dict[str, str], best: Any) -> Side:
    return tuple(sorted(levels.items(), key=lambda level: float(level[0]), reverse=best is max))
