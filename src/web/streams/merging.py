"""Merging for a client that is behind: of a ticker or candle the latest, of a book one change for many.

It refuses to know why a client is behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from tradeengine.core.feed import FeedKind
from tradeengine.core.messages import OrderbookSnapshot, OrderbookUpdate, encode
from tradeengine.web.streams.wire import Message

if TYPE_CHECKING:
    Key = tuple[int, int, int]

CHANGES_MAX: Final = 4000
"""With more of them a whole book is shorter."""
_decode_book: Final = msgspec.json.Decoder(OrderbookUpdate | OrderbookSnapshot).decode


class Merging:
    """What waits for one client, by channel, in the order in which channels began to wait."""

    def __init__(self) -> None:
        self._waiting: dict[Key, Message | _MergedBook] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, key: Key, message: Message) -> bool:
        """Take a message of a channel; returns whether one waited already, with which it is one now."""
        book = self._waiting.get(key)
        if key[0] != FeedKind.BOOK:
            self._waiting[key] = message
            return book is not None
        is_first = not isinstance(book, _MergedBook)
        if not isinstance(book, _MergedBook):
            book = self._waiting[key] = _MergedBook()
        book.add(message)
        return not is_first

    def drop(self, key: Key) -> None:
        """Forget a channel."""
        self._waiting.pop(key, None)

    def take(self) -> list[tuple[Key, Message | None]]:
        """Give what has to be told now, and begin anew; None: the whole book of that channel as it is."""
        waiting, self._waiting = self._waiting, {}
        told: list[tuple[Key, Message | None]] = []
        for key, entry in waiting.items():
            messages = entry.messages() if isinstance(entry, _MergedBook) else [entry]
            told += [(key, message) for message in messages]
        return told


class _MergedBook:
    """Changes of one book: of a level's several quantities the last one stays. A snapshot voids what was before it."""

    def __init__(self) -> None:
        self._snapshot: Message | None = None
        self._previous_sequence = 0
        self._changes: dict[tuple[str, str], str] = {}
        self._last: OrderbookUpdate | None = None

    def add(self, message: Message) -> None:
        decoded = _decode_book(message.json)
        if isinstance(decoded, OrderbookSnapshot):
            self._snapshot, self._last = message, None
            self._changes.clear()
            return
        if self._last is None:
            self._previous_sequence = decoded.previous_sequence
        self._last = decoded
        if len(self._changes) <= CHANGES_MAX:
            self._changes.update({(side, price): quantity for side, price, quantity in decoded.changes})

    def messages(self) -> list[Message] | list[None]:
        if len(self._changes) > CHANGES_MAX:
            return [None]
        told = [] if self._snapshot is None else [self._snapshot]
        if self._last is not None:
            changes = [(side, price, quantity) for (side, price), quantity in self._changes.items()]
            merged = msgspec.structs.replace(self._last, previous_sequence=self._previous_sequence, changes=changes)
            told.append(Message(encode(merged)))
        return told
