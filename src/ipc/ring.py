"""A ring: fixed-size records in shared memory from one producer to many readers, each seeing all of them in order.

Positions are *sequences*: they count records from the ring's first sequence and never wrap; record ``s`` lies in slot
``s % capacity``. The producer *claims* the slots it is about to overwrite, copies, and then *publishes* by moving the
head. A *gating* reader holds the producer back by its cursor; any other can be *lapped*, is told so, and goes on from
a later sequence. The producer never waits: what has no room is refused (``RingFull``) and the caller decides.

Rule 1: every word that one process writes and another reads has two cache lines of its own (the second because
processors fetch lines in pairs), and is touched by compiled atomics only.
Rule 2: a gating reader sees records in place, and they stay until it advances. A reader that can be lapped gets
copies, verified after copying against the claim: an overwritten record is never handed out, not even half of it.
Rule 3: the claim never goes back. A producer that was killed between claim and publish leaves the claim ahead of the
head: the slots in between stay lost for readers, and the next producer writes the same sequences again.
Rule 4: a reader's own cursor is private; the word in the ring is its announcement. So a read-only mapping is enough
for a reader that can be lapped, and what a foreign producer scribbles over the header moves no cursor but its own.
It refuses to know what a record means: copies and comparisons are of bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from tradeengine.ipc.atomics import address_of, load_word, store_word
from tradeengine.ipc.layout import layout_checksum
from tradeengine.ipc.ring_kernels import (
    LAPPED,
    NO_ROOM,
    copy_verified,
    free_slots,
    oldest_held,
    publish,
)
from tradeengine.ipc.ring_reader import COPY_COUNT_MAX, Lapped, RingDamaged, RingReader, RingWatch
from tradeengine.ipc.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tradeengine.ipc.doorbell import Doorbell

    Records = np.ndarray[Any, np.dtype[np.void]]

__all__ = (
    "COPY_COUNT_MAX",
    "Lapped",
    "ReaderSpec",
    "ReaderStatistics",
    "Ring",
    "RingDamaged",
    "RingError",
    "RingFull",
    "RingReader",
    "RingStatistics",
    "RingWatch",
    "RingWriter",
)

LINE_BYTES: Final = 128
READERS_MAX: Final = 62
"""One bit each in the word that tells the producer whom to wake."""
CAPACITY_MAX: Final = 1 << 28
_READER_NAME_BYTES: Final = 48
_OTHER: Final = ": use the version of the program that the engine runs"
_STATIC: Final = struct.Struct("<qqqqq")  # record bytes, layout checksum, capacity, first sequence, reader count
_READER: Final = struct.Struct("<48sqq")  # name, gating, doorbell index
_READERS_OFFSET: Final = LINE_BYTES
_HEAD_OFFSET: Final = _READERS_OFFSET + READERS_MAX * _READER.size
_CLAIM_OFFSET: Final = _HEAD_OFFSET + LINE_BYTES
_CURSORS_OFFSET: Final = _CLAIM_OFFSET + LINE_BYTES
_SLOTS_OFFSET: Final = _CURSORS_OFFSET + READERS_MAX * LINE_BYTES

assert _STATIC.size <= LINE_BYTES
assert _HEAD_OFFSET % 64 == 0
assert _SLOTS_OFFSET % 64 == 0


class RingError(Exception):
    """A ring does not have the layout, or the reader, that was asked for."""


class RingFull(Exception):  # noqa: N818 - the established word; a refusal, not a fault
    """The batch is larger than the free slots; nothing of it was published."""


@dataclass(frozen=True)
class ReaderSpec:
    """One reader of a ring, by name. ``doorbell_index`` (-1: none) says which bell a publication rings."""

    name: str
    gating: bool
    doorbell_index: int = -1


@dataclass(frozen=True)
class ReaderStatistics:
    """``lag``: records published and not yet passed, by the reader's last announcement."""

    name: str
    gating: bool
    cursor: int
    lag: int


@dataclass(frozen=True)
class RingStatistics:
    """Sequences of a ring at one moment; ``claim`` is beyond ``head`` only while a batch is being written."""

    name: str
    capacity: int
    record_bytes: int
    head: int
    claim: int
    readers: tuple[ReaderStatistics, ...]


class Ring:
    """A ring's memory and layout; ``writer()`` and ``reader(name)`` give its ends."""

    def __init__(self, segment: Segment, dtype: np.dtype[Any]) -> None:
        """Take over a segment that holds a ring. Raises RingError when it holds something else."""
        self.segment = segment
        self.name = segment.name
        self.dtype = np.dtype(dtype)
        self.writable = segment.writable
        if segment.size < _SLOTS_OFFSET:
            raise RingError(f"{segment.name} is no ring")
        header = segment.buffer(0, _SLOTS_OFFSET)
        record_bytes, checksum, capacity, first, reader_count = _STATIC.unpack_from(header)
        if record_bytes != self.dtype.itemsize or checksum != layout_checksum(self.dtype):
            raise RingError(
                f"{segment.name} holds other records, of {record_bytes} bytes, than were asked for" + _OTHER
            )
        if not _is_capacity(capacity) or segment.size != _SLOTS_OFFSET + capacity * record_bytes:
            raise RingError(f"{segment.name} has a capacity of {capacity} records in {segment.size} bytes")
        if not 0 <= reader_count <= READERS_MAX:
            raise RingError(f"{segment.name} has {reader_count} readers")
        self.capacity: int = capacity
        self.first_sequence: int = first
        self.readers = tuple(_unpack_reader(header, index) for index in range(reader_count))
        self._slots = segment.array(self.dtype, _SLOTS_OFFSET, capacity)
        self.head_address = segment.address(_HEAD_OFFSET)
        self.claim_address = segment.address(_CLAIM_OFFSET)
        self._plan = self.plan()
        self.plan_address = address_of(self._plan)

    @classmethod
    def create(
        cls, name: str, dtype: np.dtype[Any], capacity: int, readers: Sequence[ReaderSpec], first_sequence: int = 0
    ) -> Self:
        """Make an empty ring whose first record will be ``first_sequence``.

        capacity: records, a power of two up to 2**28. Readers' cursors start at ``first_sequence``.
        """
        assert _is_capacity(capacity)
        assert len(readers) <= READERS_MAX
        assert len({reader.name for reader in readers}) == len(readers)
        assert first_sequence >= 0
        kind = np.dtype(dtype)
        segment = Segment.create(name, _SLOTS_OFFSET + capacity * kind.itemsize)
        header = segment.buffer(0, _SLOTS_OFFSET)
        _STATIC.pack_into(header, 0, kind.itemsize, layout_checksum(kind), capacity, first_sequence, len(readers))
        for index, reader in enumerate(readers):
            _pack_reader(header, index, reader)
        ring = cls(segment, kind)
        for address in (ring.head_address, ring.claim_address, *map(ring.cursor_address, range(len(readers)))):
            store_word(address, first_sequence)
        return ring

    @classmethod
    def attach(cls, fd: int, dtype: np.dtype[Any], *, writable: bool) -> Self:
        """Map a ring that another process made; the descriptor belongs to it from now on.

        writable: the producer and gating readers need it. Raises RingError and SegmentError.
        """
        return cls(Segment.attach(fd, writable=writable), dtype)

    @property
    def fd(self) -> int:
        """The descriptor to pass on."""
        return self.segment.fd

    @property
    def head(self) -> int:
        """One past the newest published sequence."""
        return load_word(self.head_address)

    @property
    def claim(self) -> int:
        """One past the newest sequence that a producer has begun to write."""
        return load_word(self.claim_address)

    @property
    def oldest(self) -> int:
        """The oldest sequence that can still be copied; the head when there is none."""
        return oldest_held(self.plan_address)

    def writer(self, doorbells: Mapping[int, Doorbell] | None = None) -> RingWriter:
        """Give the producer's end. There is one at a time: the one before has ended and been reaped.

        doorbells: by the index in ``ReaderSpec``; a reader whose bell is not among them is not woken.
        Raises RingDamaged.
        """
        assert self.writable
        return RingWriter(self, doorbells or {})

    def reader(self, name: str) -> RingReader:
        """Give a reader's end, at the cursor that the reader of this name announced last. Raises RingError."""
        for index, spec in enumerate(self.readers):
            if spec.name == name:
                return RingReader(self, index)
        raise RingError(f"{self.name} has no reader {name!r}")

    def slots(self, first: int, count: int) -> Records:
        """Copy published records, for looking back: ``count`` from sequence ``first``, all before the head.

        Raises Lapped when some are gone, or were never in this ring; ``resume_at`` is the oldest that it holds.
        """
        assert count >= 0
        assert first + count <= self.head
        copies = np.empty(count, self.dtype)
        if count and copy_verified(self.plan_address, first, copies.view(np.uint8)) == LAPPED:
            raise Lapped(self.name, first, self.oldest)
        return copies

    def view(self, first: int, count: int) -> Records:
        """Give records in place, contiguous: as many of ``count`` from sequence ``first`` as lie before the wrap."""
        start = first & (self.capacity - 1)
        return self._slots[start : start + count]

    def statistics(self) -> RingStatistics:
        """Look at all cursors; it costs the others nothing."""
        cursors = [load_word(self.cursor_address(index)) for index in range(len(self.readers))]
        head = self.head
        readers = tuple(
            ReaderStatistics(spec.name, spec.gating, cursor, max(head - cursor, 0))
            for spec, cursor in zip(self.readers, cursors, strict=True)
        )
        return RingStatistics(self.name, self.capacity, self.dtype.itemsize, head, self.claim, readers)

    def close(self) -> None:
        """Give back the descriptor; the memory goes with the last array over it."""
        self.segment.close()

    def cursor_address(self, reader_index: int) -> int:
        """Say where a reader announces its cursor."""
        return self.segment.address(_CURSORS_OFFSET + reader_index * LINE_BYTES)

    def plan(self, *lists: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Make the words that kernels work from; ``lists`` go behind, each after its length."""
        words = [self.segment.address(_SLOTS_OFFSET), self.claim_address, self.head_address]
        words += [self.capacity - 1, self.dtype.itemsize, self.first_sequence]
        for numbers in lists:
            words += [len(numbers), *numbers]
        return np.array(words, np.int64)


class RingWriter:
    """The producer's end. It keeps the head itself and rings the bells of readers that sleep."""

    def __init__(self, ring: Ring, doorbells: Mapping[int, Doorbell]) -> None:
        self.ring = ring
        self.head = ring.head
        if not ring.first_sequence <= self.head <= ring.claim <= self.head + ring.capacity:
            raise RingDamaged(f"{ring.name}: head {self.head}, claim {ring.claim}")
        gates = [ring.cursor_address(index) for index, spec in enumerate(ring.readers) if spec.gating]
        indexes = sorted({spec.doorbell_index for spec in ring.readers} & doorbells.keys())
        self._bells = [doorbells[index] for index in indexes]
        self._plan = ring.plan(gates, [bell.flag_address for bell in self._bells])
        self._plan_address = address_of(self._plan)

    def free(self) -> int:
        """Count the slots that the slowest gating reader leaves free."""
        return free_slots(self._plan_address, self.head)

    def publish(self, records: Records) -> None:
        """Publish a contiguous batch of the ring's dtype, all at once, and wake who sleeps.

        Raises RingFull when ``len(records)`` exceeds ``free()``: nothing was published. Never blocks.
        """
        assert records.dtype.itemsize == self.ring.dtype.itemsize
        content = records.view(np.uint8)
        if not content.flags.writeable:
            # Compiled code knows one type of array; a read-only one would be another.
            content = content.copy()
        sleeping = publish(self._plan_address, self.head, content)
        if sleeping == NO_ROOM:
            raise RingFull(f"{self.ring.name}: {len(records)} records, room for {self.free()}")
        self.head += len(records)
        if sleeping:
            self._wake(sleeping)

    def _wake(self, sleeping: int) -> None:
        for index, bell in enumerate(self._bells):
            if sleeping >> index & 1:
                bell.wake_sleeper()


def _is_capacity(count: int) -> bool:
    return 0 < count <= CAPACITY_MAX and count & (count - 1) == 0


def _pack_reader(header: memoryview, index: int, reader: ReaderSpec) -> None:
    name = reader.name.encode()
    assert 0 < len(name) <= _READER_NAME_BYTES
    _READER.pack_into(header, _READERS_OFFSET + index * _READER.size, name, reader.gating, reader.doorbell_index)


def _unpack_reader(header: memoryview, index: int) -> ReaderSpec:
    name, gating, doorbell_index = _READER.unpack_from(header, _READERS_OFFSET + index * _READER.size)
    return ReaderSpec(name.rstrip(b"\0").decode(), bool(gating), doorbell_index)
