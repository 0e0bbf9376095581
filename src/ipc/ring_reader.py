"""The readers' end of a ring.

A gating reader sees records where they lie and holds the producer until it advances. Any other takes copies, which
are verified after copying: what was overwritten meanwhile is never handed out, not even half of it.
A reader's cursor is its own; the word in the ring only announces it. So a read-only mapping is enough for who may be
lapped, and nothing that another process writes into the ring moves a cursor.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

from tradeengine.ipc.atomics import address_of, load_word, store_word
from tradeengine.ipc.ring_kernels import LAPPED, any_published, copy_verified, match_verified

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tradeengine.ipc.ring import Ring

    Records = np.ndarray[Any, np.dtype[np.void]]

COPY_COUNT_MAX: Final = 4096
"""Records that one poll copies at most."""
SCAN_COUNT_MAX: Final = 65536
"""Records that one poll with a filter looks at, at most."""


class RingDamaged(Exception):  # noqa: N818 - names the state of the ring
    """The header says what no honest producer writes: a head behind a cursor or more than a lap ahead of it."""


class Lapped(Exception):  # noqa: N818 - the established word; a state to recover from, not a fault
    """Records were overwritten before they were read.

    ``first_lost``: first sequence that is gone. ``resume_at``: where the reader goes on; it has been moved there.
    """

    def __init__(self, ring_name: str, first_lost: int, resume_at: int) -> None:
        super().__init__(f"{ring_name}: records {first_lost} to {resume_at - 1} are lost")
        self.first_lost = first_lost
        self.resume_at = resume_at


class RingReader:
    """A reader's end. ``cursor`` is the next sequence that it will see."""

    def __init__(self, ring: Ring, index: int) -> None:
        self.ring = ring
        self.name = ring.readers[index].name
        self.gating = ring.readers[index].gating
        assert ring.writable or not self.gating
        self._plan = ring.plan_address
        self._announcement = ring.cursor_address(index)
        # A word of memory, private, so that compiled code can compare it with the head.
        self._cursor = array("q", [load_word(self._announcement)])
        self.cursor_address = self._cursor.buffer_info()[0]
        # Reserved at the first use: a gating reader needs no copies.
        self._copies: Records = np.empty(0, ring.dtype)

    @property
    def cursor(self) -> int:
        """The next sequence that it will see."""
        return self._cursor[0]

    @property
    def head(self) -> int:
        """One past the newest published sequence."""
        return load_word(self.ring.head_address)

    def available(self) -> int:
        """Count the records before the head; more than the capacity means lapped. Raises RingDamaged."""
        count = load_word(self.ring.head_address) - self._cursor[0]
        if count < 0 or (self.gating and count > self.ring.capacity):
            raise RingDamaged(f"{self.ring.name}: head {self.head}, cursor of {self.name} {self.cursor}")
        return count

    def poll(self, limit: int = COPY_COUNT_MAX) -> Records:
        """Give up to ``limit`` records from the cursor on, without advancing; empty when there are none.

        Gating: in place, up to the end of the ring's memory (the rest comes with the next poll); they stay valid until
        ``advance``. Else: as ``poll_copy``. Raises Lapped, having moved the cursor to ``resume_at``.
        """
        if not self.gating:
            return self.poll_copy(limit)
        # A view ends at the end of the memory by itself.
        return self.ring.view(self._cursor[0], min(self.available(), limit))

    def poll_copy(self, limit: int = COPY_COUNT_MAX) -> Records:
        """Give a copy of up to ``limit`` (at most 4096) records, without advancing; valid until the next poll.

        A gating reader of a ring that an untrusted process writes uses it: what was checked cannot change afterwards.
        Raises Lapped, having moved the cursor to ``resume_at``.
        """
        copies = self._copy_space()[: min(self.available(), limit)]
        if len(copies) and copy_verified(self._plan, self._cursor[0], copies.view(np.uint8)) == LAPPED:
            self._move_on()
        return copies

    def poll_matching(self, byte_offset: int, byte_value: int, limit: int = COPY_COUNT_MAX) -> Records:
        """Give a copy of the records whose byte at ``byte_offset`` is ``byte_value``, and advance over all seen.

        It looks at 65536 records at most, and until ``limit`` (at most 4096) match; ``available()`` says whether more
        are left. The copies are valid until the next poll. Raises Lapped, having moved the cursor to ``resume_at``.
        """
        assert 0 <= byte_offset < self.ring.dtype.itemsize
        space = self._copy_space()[:limit]
        first = self._cursor[0]
        end = first + min(self.available(), SCAN_COUNT_MAX)
        matched, reached = match_verified(
            self._plan, first, end, byte_offset, byte_value, len(space), space.view(np.uint8)
        )
        if matched == LAPPED:
            self._move_on()
        self._go_to(reached)
        return space[:matched]

    def advance(self, count: int) -> None:
        """Pass ``count`` records: a gating reader gives their slots back."""
        assert count >= 0
        self._go_to(self._cursor[0] + count)

    def seek(self, sequence: int) -> None:
        """Go to any sequence up to the head, also back: recovery reads again what it had not made durable.

        Whether the ring still holds it says ``ring.oldest``, and the next ``poll_copy`` by raising Lapped.
        """
        assert sequence <= self.head
        self._go_to(sequence)

    def _go_to(self, sequence: int) -> None:
        self._cursor[0] = sequence
        if self.ring.writable:
            store_word(self._announcement, sequence)

    def _copy_space(self) -> Records:
        if not len(self._copies):
            self._copies = np.empty(min(COPY_COUNT_MAX, self.ring.capacity), self.ring.dtype)
        return self._copies

    def _move_on(self) -> NoReturn:
        # Half a ring behind the head: what is oldest is overwritten next, so going on there would be lapped again.
        first_lost = self.cursor
        self._go_to(max(self.ring.oldest, self.head - self.ring.capacity // 2))
        raise Lapped(self.ring.name, first_lost, self.cursor)


class RingWatch:
    """Says whether any of several readers has records to see: one compiled call, whatever their number.

    It is what an actor gives its doorbell as ``ready``.
    """

    def __init__(self, readers: Sequence[RingReader]) -> None:
        self._readers = tuple(readers)
        pairs = [address for reader in readers for address in (reader.ring.head_address, reader.cursor_address)]
        self._watched = np.array([len(readers), *pairs], np.int64)
        self._watched_address = address_of(self._watched)

    def __call__(self) -> bool:
        """Look once."""
        return any_published(self._watched_address)
