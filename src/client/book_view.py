"""A book to watch: it follows its stream by itself, and whoever iterates sees each time how it is by then.

Rule 1: whoever is slow skips states. There is one book in memory, however long nobody looks.
Rule 2: a gap, or a lost connection, makes the book invalid at once; it is shown again after the next snapshot.
It refuses to know how a snapshot is asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Self, TypeAlias

import trio

from tradeengine.client.book import LocalBook
from tradeengine.client.errors import ClientError, Gap
from tradeengine.client.messages import OrderbookSnapshot, OrderbookUpdate

Step: TypeAlias = "Callable[[BookView], Awaitable[None]]"


class BookView:
    """The asynchronous iterator behind ``Stream.book``. Between two ``await`` the book does not change."""

    def __init__(self, symbol: str, open_view: Step, close_view: Step) -> None:
        self.book = LocalBook(symbol)
        self._open = open_view
        self._close = close_view
        self._is_open = False
        self._is_ended = False
        self._fault: ClientError | None = None
        self._is_news = False
        self._lot = trio.lowlevel.ParkingLot()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LocalBook:
        if not self._is_open and not self._is_ended:
            await self._open(self)
            self._is_open = True
        while not self._is_news or self.book.sequence is None:
            if self._fault is not None:
                raise self._fault
            if self._is_ended:
                raise StopAsyncIteration
            await self._lot.park()
        self._is_news = False
        return self.book

    async def aclose(self) -> None:
        """Stop following; whoever iterates comes to the end."""
        self.end(None)
        if self._is_open:
            self._is_open = False
            await self._close(self)

    def take(self, message: OrderbookSnapshot | OrderbookUpdate) -> bool:
        """Take a message in; returns False when a snapshot is needed and none is on its way."""
        was_whole = self.book.sequence is not None
        try:
            is_news = self.book.apply(message)
        except Gap:
            return not was_whole
        if is_news:
            self._is_news = True
            self._lot.unpark_all()
        return True

    def end(self, fault: ClientError | None) -> None:
        """There will be no more messages."""
        self._is_ended = True
        self._fault = fault
        self._lot.unpark_all()
