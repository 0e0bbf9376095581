"""A client that follows its own orders and trusts nobody: what every message says must fit what was known before.

``OwnOrders`` knows no socket: messages in, orders and fills out. It holds the server to this: while connected each
update goes on from the one before; after a resume nothing is told twice and nothing is left out; only a ``resync`` may
make it forget. ``OwnStream`` feeds it from a plain connection that is made again, and resumed, whenever it breaks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import msgspec
import trio
from tests.e2e.users import Json, User
from websockets.exceptions import WebSocketException
from websockets.trio.client import ClientConnection, connect

from tradeengine.core.ids import shard_of

RECONNECT_S: Final = 0.02
KNOWN_S: Final = 30.0
PAGE_COUNT: Final = 1000
LATER: Final = frozenset({"ENGINE_OVERLOADED", "SETTLEMENT_BACKLOG", "DATABASE_UNAVAILABLE", "SHUTTING_DOWN"})
"""Refusals that say that the same may be asked again."""
OPEN: Final = frozenset({"pending", "open", "partially_filled"})
COMPARED: Final = ("status", "quantity", "price", "stop_price", "filled_quantity", "remaining_quantity", "sequence")


@dataclass
class OwnOrders:
    """Orders by id, as the fields in ``COMPARED``, and fills: the quantity by order and trade."""

    orders: dict[str, Json] = field(default_factory=dict)
    fills: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    cursor: str | None = None
    has_forgotten: bool = False
    resuming: bool = False
    resumes: int = 0
    resyncs: list[str] = field(default_factory=list)
    is_long_resync: bool = False
    """Whether open orders that had no room in a resync are following it."""
    last_sequences: dict[int, int] = field(default_factory=dict)
    """By shard, of updates."""
    snapshots: int = 0
    """Told since resuming began."""

    def resume(self) -> None:
        """Take note that what was missed is told next."""
        self.resuming, self.snapshots = True, 0

    def take(self, message: Json) -> None:
        """Take a message in. Raises AssertionError for one that does not fit."""
        match message["type"]:
            case "order_update":
                self._update(message)
            case "order_snapshot":
                self._snapshot(message)
            case "resumed":
                assert self.resuming or self.is_long_resync
                assert message["orders"] == self.snapshots
                self.resumes += self.resuming
                self.resuming = self.is_long_resync = False
                self.cursor = message["cursor"]
            case "resync":
                self.resuming = self.is_long_resync = False
                self.snapshots = 0
                self.has_forgotten = True
                self.resyncs.append(message["reason"])
                self.orders = {order["id"]: _content(order) for order in message["orders"]}
                assert all(order["status"] in OPEN for order in self.orders.values())
                self.fills.clear()
                self.cursor = message["cursor"]

    def _update(self, message: Json) -> None:
        assert not self.resuming, "an update before what was missed"
        assert not self.is_long_resync, "an update before all open orders"
        order_id = message["order_id"]
        self._go_on(order_id, message)
        self.cursor = message["cursor"]
        known = self.orders.get(order_id)
        assert (known is None) == (message["event"] in {"accepted", "rejected"}), (known, message)
        assert known is None or known["status"] in OPEN, (known, message)
        filled = Decimal(known["filled_quantity"]) if known else Decimal(0)
        if message["event"] == "traded":
            filled += self._fill(order_id, message["trade_id"], message["last_quantity"])
        assert Decimal(message["filled_quantity"]) == filled, (known, message)
        self.orders[order_id] = _content(message)

    def _snapshot(self, message: Json) -> None:
        self.snapshots += 1
        order = message["order"]
        if not self.resuming:
            assert self.has_forgotten
            assert order["status"] in OPEN
            assert (order["id"] in self.orders, message["trades"]) == (False, [])
            self.is_long_resync = True
            self.orders[order["id"]] = _content(order)
            return
        known = self.orders.get(order["id"])
        filled = Decimal(known["filled_quantity"]) if known else Decimal(0)
        assert known is None or known["sequence"] < order["sequence"], "nothing has changed"
        for trade in message["trades"]:
            assert trade["order_id"] == order["id"]
            filled += self._fill(order["id"], trade["id"], trade["quantity"])
        assert Decimal(order["filled_quantity"]) == filled, (known, message)
        self.orders[order["id"]] = _content(order)

    def _go_on(self, order_id: str, message: Json) -> None:
        """See that an update comes after all those before it; each shard counts for itself."""
        shard = shard_of(int(order_id))
        assert message["sequence"] > self.last_sequences.get(shard, -1), ("an update twice, or out of order", message)
        self.last_sequences[shard] = message["sequence"]

    def _fill(self, order_id: str, trade_id: str, quantity: str) -> Decimal:
        assert (order_id, trade_id) not in self.fills, "a fill twice"
        self.fills[order_id, trade_id] = Decimal(quantity)
        return self.fills[order_id, trade_id]

    def differences(self, listed: dict[str, Json], fills: dict[tuple[str, str], Decimal]) -> list[Any]:
        """Tell where this is not what the engine lists: all orders, or those that it has reason to know."""
        expected = {
            order_id: _content(order)
            for order_id, order in listed.items()
            if not self.has_forgotten or order["status"] in OPEN or order_id in self.orders
        }
        found: list[Any] = [
            (order_id, self.orders.get(order_id), expected.get(order_id))
            for order_id in self.orders.keys() | expected.keys()
            if self.orders.get(order_id) != expected.get(order_id)
        ]
        if not self.has_forgotten:
            found += [key for key in self.fills.keys() | fills.keys() if self.fills.get(key) != fills.get(key)]
        return found


class OwnStream:
    """A user's connection for own orders. ``model`` is what it was told; it may be set to where something was left."""

    def __init__(self, user: User, model: OwnOrders | None = None) -> None:
        self.model = model or OwnOrders()
        self.changed = trio.Event()
        self.answered = trio.Event()
        """Whether there was any answer to a subscription."""
        self.connections = 0
        self.refusals: list[str] = []
        self._user = user
        self._is_known = False
        """Whether a subscription holds on this connection."""

    async def run(self) -> None:
        """Follow until cancelled, from the model's cursor on."""
        token = self._user.http.headers["Authorization"]
        url = str(self._user.http.base_url.copy_with(scheme="ws", path="/ws/stream"))
        while True:
            with suppress(OSError, WebSocketException):
                async with connect(
                    url, additional_headers={"Authorization": token}, compression=None, max_size=2**26
                ) as socket:
                    self.connections += 1
                    await self._follow(socket)
            await trio.sleep(RECONNECT_S)

    async def wait(self, enough: Callable[[OwnOrders], bool]) -> None:
        """Wait until the model is so. Raises AssertionError when it never is."""
        with trio.move_on_after(KNOWN_S):
            while self.model.resuming or self.model.is_long_resync or not self._is_known or not enough(self.model):
                await self.changed.wait()
            return
        what = f"{self.connections} connections, known: {self._is_known}, resuming: {self.model.resuming}"
        raise AssertionError(f"own orders stay as they are; {what}, refusals: {self.refusals}")

    async def _follow(self, socket: ClientConnection) -> None:
        self._is_known = False
        await self._subscribe(socket)
        while True:
            message = msgspec.json.decode(await socket.recv())
            self.answered.set()
            if message["type"] == "error":
                # Refused for now, and nothing of it holds: asked again.
                assert not self._is_known, f"taken back: {message}"
                assert message["code"] in LATER, message
                self.refusals.append(message["code"])
                await trio.sleep(RECONNECT_S)
                await self._subscribe(socket)
            elif message["type"] == "ack":
                self._is_known = True
                self.model.cursor = self.model.cursor or message["data"]["cursor"]
            else:
                self.model.take(message)
            changed, self.changed = self.changed, trio.Event()
            changed.set()

    async def _subscribe(self, socket: ClientConnection) -> None:
        request = {"op": "subscribe", "id": 1, "channels": ["orders"]}
        if self.model.cursor is not None:
            request["since"] = self.model.cursor
            self.model.resume()
        await socket.send(msgspec.json.encode(request), text=True)


@asynccontextmanager
async def following_orders(user: User, model: OwnOrders | None = None) -> AsyncIterator[OwnStream]:
    """Follow a user's orders while the block runs, going on from a model's cursor if one is given."""
    stream = OwnStream(user, model)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.run)
        await stream.wait(lambda _: True)
        yield stream
        nursery.cancel_scope.cancel()


async def agree(stream: OwnStream, user: User, **filters: str) -> None:
    """Wait until what was told is what GET /orders and GET /trades list, with nothing else happening."""
    listed, fills = await trio.to_thread.run_sync(lambda: (all_orders(user, **filters), all_fills(user, **filters)))
    with suppress(AssertionError):
        await stream.wait(lambda model: not model.differences(listed, fills))
    assert stream.model.differences(listed, fills) == []


def all_orders(user: User, **filters: str) -> dict[str, Json]:
    """List own orders by id."""
    return {order["id"]: order for order in _pages(user, "/orders", filters)}


def all_fills(user: User, **filters: str) -> dict[tuple[str, str], Decimal]:
    """List own fills by order and trade."""
    fills = _pages(user, "/trades", {"scope": "mine", **filters})
    return {(trade["order_id"], trade["id"]): Decimal(trade["quantity"]) for trade in fills}


def _pages(user: User, path: str, filters: dict[str, str]) -> list[Json]:
    found: list[Json] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"limit": str(PAGE_COUNT), **filters} | ({"cursor": cursor} if cursor else {})
        answer = user.http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        found += answer.json()["data"]
        cursor = answer.json()["meta"]["next_cursor"]
    return found


def _content(order: Json) -> Json:
    return {name: order[name] for name in COMPARED}
