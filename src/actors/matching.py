"""Matching as a function: commands in, events out in pieces, and the hash over all events so far.

Matcher, recovery and shadow all go through here, so that what is replayed is what was published, byte for byte.
Rule 1: an event leaves only in a piece that the caller takes; between pieces the book may stand inside a command.
Rule 2: the hash is over events in order and does not depend on how they were cut into pieces.
It refuses to know rings, files and clocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tradeengine.core.book import apply, in_command, next_command_sequence, next_event_sequence
from tradeengine.core.hashing import hash_records
from tradeengine.core.records import event_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tradeengine.core.book_state import BookState

KERNEL_VERSION: Final = 3
"""Raise it when the same commands would give other events or another state hash than before; journals and snapshots
name it. 2 knows timers, 3 why a trading state was set and that an administrator cancelled."""
KERNEL_VERSIONS_REPLAYED: Final = frozenset({1, 2, KERNEL_VERSION})
"""Whose journals give the same events here. With version 1, risk let no CANCEL_ALL_AFTER pass, so its journals have
none; no command of version 2 has a reason or ``BY_ADMINISTRATOR``; and all else is as it was. An older version in turn
refuses to replay a newer one's journals, as it must."""
PIECE_EVENTS: Final = 8192
"""Events in one piece at most: 2 MiB, which stays in a core's cache until it is published."""


class Matching:
    """One shard's book with the hash over its events, and the buffer that events are written into."""

    def __init__(self, book: BookState, event_hash: int, piece_events: int = PIECE_EVENTS) -> None:
        """Go on with ``book``, whose events so far have ``event_hash`` (``HASH_START``: none yet)."""
        self.book = book
        self.event_hash = event_hash
        self._events = np.zeros(piece_events, dtype=event_dtype)

    @property
    def command_sequence(self) -> int:
        """Of the next command."""
        return int(next_command_sequence(self.book))

    @property
    def event_sequence(self) -> int:
        """Of the next event."""
        return int(next_event_sequence(self.book))

    def pieces(self, commands: NDArray[np.void]) -> Iterator[NDArray[np.void]]:
        """Apply ``commands`` (command_dtype, contiguous) and give their events, in order, as they fill the buffer.

        Each piece is valid until the next one is asked for; take them all. The book knows the first one's sequence.
        """
        first = self.command_sequence
        done = 0
        while done < len(commands) or in_command(self.book):
            done, count = apply(self.book, commands, first, done, self._events)
            events = self._events[:count]
            self.event_hash = hash_records(self.event_hash, events)
            yield events
