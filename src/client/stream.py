"""The engine's streams on one connection that is kept up: it connects again, subscribes again, and says so.

Rule 1: nothing is lost silently. After a loss the reader gets ``Reconnected``, books begin with a snapshot, and own
orders are resumed from the last cursor that came in.
Rule 2: memory is bounded: a reader who does not read stops the reading from the socket, and in the end the engine
closes the connection. Books are the exception: whoever is slow skips states, because only the last one matters.
Rule 3: an operation is repeated where that is safe, also across connections, and ends by its deadline.
It refuses to know what messages mean, but for cursors and books.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack
from urllib.parse import urlsplit

import trio
from msgspec import Struct

from tradeengine.client.batches import Timer
from tradeengine.client.book_view import BookView
from tradeengine.client.codec import MSGPACK
from tradeengine.client.connection import Connection
from tradeengine.client.credentials import Credentials, Key, Token, credential_headers, one_of
from tradeengine.client.errors import ClientError, NoAnswer, StreamClosed
from tradeengine.client.fields import NewOrder, OrderChange, order_fields, written
from tradeengine.client.link import Link
from tradeengine.client.messages import (
    Message,
    OrderbookSnapshot,
    OrderbookUpdate,
    OrderUpdate,
    Reconnected,
    Resumed,
    Resync,
)
from tradeengine.client.models import OrderAndTrades
from tradeengine.client.repeating import repeat

T = TypeVar("T")

MESSAGES_MAX: Final = 1024
PATH: Final = "/ws/stream"
_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_ORDERS: Final = "orders"


class Subscribed(Struct, frozen=True):
    """What is subscribed now; cursor: where own orders stand, when they are among it."""

    channels: list[str]
    cursor: str | None = None


class Identity(Struct, frozen=True):
    """Who the engine takes this connection for, and until when."""

    user: str
    expires_at: datetime | None = None


class Pong(Struct, frozen=True):
    """The engine's clock."""

    time: datetime


class Stream:
    """The streams of one engine; an asynchronous context manager, and an asynchronous iterator over messages.

    url: ``http://127.0.0.1:8000``, or ``ws://…``; ``/ws/stream`` may be left out. token, or an API key: for orders and
    balances.
    msgpack: binary frames. batch: the engine may put many messages into a frame. messages_max: how many wait for the
    reader before reading from the socket stops. timeout_s: for an operation with all its repeats, and for the first
    connection. pause_first_s, pause_longest_s: between attempts to connect; each is varied.

    Iterating gives what was subscribed to. Once the stream has ended for good, it raises the ``ApiError`` or
    ``StreamClosed`` that says why, as all operations do.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        key: Key | None = None,
        msgpack: bool = False,
        batch: bool = False,
        messages_max: int = MESSAGES_MAX,
        timeout_s: float = 15.0,
        pause_first_s: float = 0.1,
        pause_longest_s: float = 5.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._credentials: Credentials = one_of(token, key)
        self._batch = batch
        self._timeout_s = timeout_s
        stream_url = _stream_url(url)
        target = _target(stream_url)
        self._link = Link(
            self,
            stream_url,
            lambda: credential_headers(self._credentials, "GET", target),
            subprotocol=MSGPACK if msgpack else None,
            ssl_context=ssl_context,
            pause_first_s=pause_first_s,
            pause_longest_s=pause_longest_s,
            restore_timeout_s=timeout_s,
        )
        self._inbox, self._messages = trio.open_memory_channel[Message](messages_max)
        self._wanted: set[str] = set()  # by the reader, from the moment of asking
        self._subscribed: set[str] = set()  # acknowledged; these are restored
        self._views: list[BookView] = []
        self._cursor: str | None = None
        self._is_resuming = False
        self._is_left = False
        self._nursery_manager: AbstractAsyncContextManager[trio.Nursery, bool | None]
        self._nursery: trio.Nursery

    async def __aenter__(self) -> Self:
        self._nursery_manager = trio.open_nursery()
        self._nursery = await self._nursery_manager.__aenter__()
        self._nursery.start_soon(self._run)
        try:
            await self._wait_connected()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self._messages.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            if self._link.fault is not None and not self._is_left:
                raise self._link.fault from None
            raise StopAsyncIteration from None

    async def subscribe(self, *channels: str, since: str | None = None) -> Subscribed:
        """Subscribe to channels; those that there are already stay.

        channels: ``trades:S``, ``book:S``, ``ticker:S``, ``candles:TF:S``, ``status:S`` (S: a symbol, TF: a time frame
        such as ``1m``), and, of the token's owner, ``orders`` and ``balances``.
        since: of orders, the cursor of the last message that was dealt with: what changed since comes first.
        """
        names = {_canonical(channel) for channel in channels}
        is_new = names - self._subscribed
        before = self._cursor, self._is_resuming
        # Before asking: messages may come together with the answer.
        self._wanted |= names
        if since is not None:
            self._cursor, self._is_resuming = since, True
        try:
            answer = await self._ask(Subscribed, self._subscription(names, since))
        except ClientError:
            self._wanted -= is_new
            self._cursor, self._is_resuming = before
            raise
        self._subscribed |= names
        self._cursor = self._cursor or answer.cursor
        return answer

    async def unsubscribe(self, *channels: str) -> None:
        """Unsubscribe; what has come in already is still given to the reader."""
        names = {_canonical(channel) for channel in channels}
        self._wanted -= names
        await self._leave(names - {_book(view) for view in self._views})

    def book(self, symbol: str) -> BookView:
        """Follow a book: ``async for book in stream.book("BTC/USDT")`` gives a ``LocalBook`` after every change."""
        return BookView(symbol.replace("-", "/"), self._open_view, self._close_view)

    async def authenticate(self, credentials: str | Key) -> Identity:
        """Give a token or an API key, or a new one before the old one ends; it is used for later connections, too."""

        async def ask() -> Identity:
            # Anew each time: a signature counts once.
            fields = {"access_token": credentials} if isinstance(credentials, str) else credentials.sign_in()
            return await (await self._link.up()).ask({"op": "auth", **fields}, Identity)

        identity = await repeat(ask, is_repeatable=True, timeout_s=self._timeout_s)
        self._credentials = credentials
        return identity

    async def ping(self) -> datetime:
        """Ask the engine for its time, by the way of all operations."""
        return (await self._ask(Pong, {"op": "ping"})).time

    async def place(self, **order: Unpack[NewOrder]) -> OrderAndTrades:
        """Place an order, as ``Client.place`` does."""
        fields = order_fields(order)
        try:
            return await self._ask(OrderAndTrades, {"op": "place", **fields})
        except NoAnswer as error:
            error.details["client_order_id"] = fields["client_order_id"]
            raise

    async def amend(self, order_id: str, **change: Unpack[OrderChange]) -> OrderAndTrades:
        """Change an open order, as ``Client.amend`` does; not repeated when its outcome is unknown."""
        operation = {"op": "amend", "order_id": order_id, **written(change)}
        return await self._ask(OrderAndTrades, operation, is_repeatable=False)

    async def cancel(self, order_id: str) -> OrderAndTrades:
        """Cancel an open order. ``ORDER_NOT_OPEN``, also when the answer to an earlier attempt was lost."""
        return await self._ask(OrderAndTrades, {"op": "cancel", "order_id": order_id})

    async def cancel_all_after(self, timeout_ms: int) -> Timer:
        """Cancel all own orders after a time, as ``Client.cancel_all_after`` does; it outlives the connection."""
        return await self._ask(Timer, {"op": "cancel_all_after", "timeout_ms": timeout_ms})

    async def restore(self, connection: Connection) -> None:
        """Subscribe on a new connection to what the last one had."""
        if not self._subscribed:
            return
        since = self._cursor if _ORDERS in self._subscribed else None
        self._is_resuming = since is not None
        await connection.ask(self._subscription(self._subscribed, since), Subscribed)

    async def deliver(self, message: Message) -> None:
        """Give a message to the books that it is for, and to the reader."""
        if isinstance(message, OrderUpdate | Resumed | Resync):
            self._note_cursor(message)
        elif isinstance(message, OrderbookSnapshot | OrderbookUpdate):
            self._show(message)
            if f"book:{message.symbol}" not in self._wanted:
                return
        await self._hand_over(message)

    async def notice(self, reconnected: Reconnected) -> None:
        """Tell the reader."""
        await self._hand_over(reconnected)

    def lost(self) -> None:
        """Books stand still now, and must not look as if they did not."""
        for view in self._views:
            view.book.invalidate()

    async def _wait_connected(self) -> None:
        with trio.move_on_after(self._timeout_s):
            await self._link.up()
            return
        raise self._link.last_failure or NoAnswer(f"no connection within {self._timeout_s:g} s", is_sent=False)

    async def _run(self) -> None:
        await self._link.run()
        self._end()

    async def _stop(self) -> None:
        self._is_left = True
        with trio.CancelScope(shield=True):
            await self._link.drop()
        self._link.end(StreamClosed(None, "its block was left"))
        self._nursery.cancel_scope.cancel()
        await self._nursery_manager.__aexit__(None, None, None)
        self._end()
        self._messages.close()

    def _end(self) -> None:
        self._inbox.close()
        for view in self._views:
            view.end(None if self._is_left else self._link.fault)

    async def _ask(self, kind: type[T], operation: Mapping[str, Any], *, is_repeatable: bool = True) -> T:
        async def ask() -> T:
            return await (await self._link.up()).ask(operation, kind)

        return await repeat(ask, is_repeatable=is_repeatable, timeout_s=self._timeout_s)

    async def _hand_over(self, message: Message) -> None:
        # Who has subscribed to nothing does not read, and must not stop the rest.
        if self._wanted:
            await self._inbox.send(message)

    def _note_cursor(self, message: OrderUpdate | Resumed | Resync) -> None:
        """Remember where to resume; while resuming, only its end counts: before it, something is still missing."""
        if not isinstance(message, OrderUpdate):
            self._is_resuming = False
        if not self._is_resuming:
            self._cursor = message.cursor

    def _show(self, message: OrderbookSnapshot | OrderbookUpdate) -> None:
        for view in self._views:
            if view.book.symbol == message.symbol and not view.take(message):
                self._nursery.start_soon(self._renew, view)

    async def _open_view(self, view: BookView) -> None:
        self._views.append(view)
        try:
            if _book(view) in self._subscribed:
                await self._renew(view)
            else:
                await self._ask(Subscribed, self._subscription({_book(view)}, None))
                self._subscribed.add(_book(view))
        except BaseException:
            self._views.remove(view)
            raise

    async def _close_view(self, view: BookView) -> None:
        self._views.remove(view)
        if _book(view) not in self._wanted | {_book(other) for other in self._views}:
            await self._leave({_book(view)})

    async def _renew(self, view: BookView) -> None:
        """Ask for a snapshot by leaving and coming back."""
        names = {_book(view)}
        try:
            await self._ask(Subscribed, {"op": "unsubscribe", "channels": sorted(names)})
            if names <= self._subscribed:  # nobody has left it meanwhile
                await self._ask(Subscribed, self._subscription(names, None))
        except NoAnswer:
            # Another connection gets a snapshot, too.
            await self._link.drop()
        except ClientError as error:
            view.end(error)

    async def _leave(self, names: set[str]) -> None:
        # Before asking: a connection that is made meanwhile must not bring them back.
        self._subscribed -= names
        if _ORDERS in names:
            self._cursor = None
        if names:
            await self._ask(Subscribed, {"op": "unsubscribe", "channels": sorted(names)})

    def _subscription(self, names: set[str], since: str | None) -> dict[str, Any]:
        operation: dict[str, Any] = {"op": "subscribe", "channels": sorted(names)}
        if since is not None:
            operation["since"] = since
        if self._batch:
            operation["batch"] = True
        return operation


def _book(view: BookView) -> str:
    return f"book:{view.book.symbol}"


def _canonical(channel: str) -> str:
    """Write a channel as the engine's answers and messages do."""
    return channel.replace("-", "/")


def _target(url: str) -> str:
    """Give path and query of a URL as they are sent."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def _stream_url(url: str) -> str:
    """Complete a URL. Raises ValueError for what is none."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise ValueError(f"{url!r} is no URL of an engine; http://127.0.0.1:8000 would be one")
    path = parts.path.rstrip("/").removesuffix(PATH) + PATH
    return parts._replace(scheme=_SCHEMES[parts.scheme], path=path).geturl()
