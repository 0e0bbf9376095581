"""One shard's journal, replayed from the oldest point that is there, and compared with itself on the way.

Every group is read, its checksum and its place in the chain checked. At each segment's beginning the hash over all
events, and the hash of the book, must be those that the matcher wrote there when it was; at each snapshot's place the
book in it must be the replay's. The events go on to whoever compares them with something else.

Rule 1: beside a live engine too: segments are opened for reading only, and the last one is read up to its last whole
group. What goes on behind that is not part of the look.
Rule 2: the first difference of hashes is told, once: all that follow are its consequence. The replay goes on, because
the events say what the difference means.
Rule 3: damage ends the walk: what a damaged segment would have given nobody knows.
It refuses to know databases.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from tradeengine.actors.matcher_recovery import Place, starting_point
from tradeengine.actors.matching import KERNEL_VERSIONS_REPLAYED, Matching
from tradeengine.actors.reconciling.cut import BookCount
from tradeengine.core.book import load, make_book, state_hash
from tradeengine.core.book_census import copy_book_orders
from tradeengine.core.book_state import H_ORDER_COUNT, H_ORDER_ID, H_TRADE_ID
from tradeengine.core.census import BOOK_ORDER_WORDS, book_order_dtype
from tradeengine.core.differences import Difference, Differences
from tradeengine.core.hashing import HASH_START
from tradeengine.core.records import event_dtype
from tradeengine.storage.backup.cut import steady_segments
from tradeengine.storage.journal_format import JournalDamaged, JournalError
from tradeengine.storage.journal_read import SegmentFile, read_end, read_segment, segments_before_damage
from tradeengine.storage.snapshots import list_snapshots, read_snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CHUNK_EVENTS: Final = 1 << 17
"""Events that are handed on at once, about: 32 MiB."""
_SLICE_COMMANDS: Final = 1 << 13
_TAIL_LOOKS: Final = 20
_TAIL_PAUSE_S: Final = 0.05


@dataclass
class Walked:
    """How far a walk went. Sequences are of the next command and event; ``snapshots`` of those ``snapshots_found``."""

    shard: int
    from_command: int = 0
    from_event: int = 0
    next_command: int = 0
    next_event: int = 0
    segments: int = 0
    byte_count: int = 0
    hashes: int = 0
    snapshots: int = 0
    snapshots_found: int = 0
    damaged: bool = False
    book: BookCount | None = None
    """At the first command's end at or behind the settled cursor; None: the replay did not come so far."""
    tail: NDArray[np.void] = field(default_factory=lambda: np.empty(0, event_dtype))
    """Events from the settled cursor to the book's moment."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a replay begins. The ids are the last ones that were given before."""

    matching: Matching
    last_trade_id: int
    last_order_id: int
    orders: NDArray[np.void]


class ShardWalk:
    """A shard's walk. Snapshots and segments are those that are there when it is made."""

    def __init__(
        self, place: Place, cursor: int, differences: Differences, *, is_live: bool, from_snapshot: bool
    ) -> None:
        """Find where to begin. cursor: of the first event that the database does not have.

        is_live: an engine may be writing. from_snapshot: begin at the newest snapshot that the database has passed, not
        at the oldest. Raises JournalError when there is nowhere to begin, OSError.
        """
        self._place = place
        self._cursor = cursor
        self._differences = differences
        self._is_live = is_live
        self._diverged = False
        self.walked = Walked(place.limits.shard)
        # Before the journal: it goes at least as far as any snapshot of it.
        self._snapshots = list_snapshots(place.snapshot_dir)
        self.walked.snapshots_found = len(self._snapshots)
        try:
            self._segments = steady_segments(place.journal_dir, place.engine_mark)
        except JournalDamaged as damage:
            self._note_damage(damage)
            self._segments = segments_before_damage(place.journal_dir, place.engine_mark)
        self._matching = self._begin(from_snapshot=from_snapshot)
        self.walked.from_command = self.walked.next_command = self._matching.command_sequence
        self.walked.from_event = self.walked.next_event = self._matching.event_sequence
        header = self._matching.book.header
        self.start = Start(self._matching, int(header[H_TRADE_ID]), int(header[H_ORDER_ID]), self._live_orders())

    def run(self, take: Callable[[NDArray[np.void]], None]) -> Walked:
        """Replay to the end. take: gets the events before the cursor, in order, in arrays of its own for its time."""
        walked = self.walked
        outlet = _Outlet(take, self._cursor)
        try:
            for commands in self._commands():
                for events in self._matching.pieces(commands):
                    outlet.put(events)
                if walked.book is None and self._matching.event_sequence >= self._cursor:
                    walked.book = BookCount(self._live_orders(), self._matching.event_sequence, 0)
                    walked.tail = outlet.end_tail()
        except JournalDamaged as damage:
            self._note_damage(damage)
        outlet.flush()
        if walked.book is None and self._matching.event_sequence == self._cursor and not walked.damaged:
            walked.book = BookCount(self._live_orders(), self._matching.event_sequence, 0)
        walked.next_command, walked.next_event = self._matching.command_sequence, self._matching.event_sequence
        return walked

    def _begin(self, *, from_snapshot: bool) -> Matching:
        place, segments = self._place, self._segments
        first = segments[0].header.first_command_sequence if segments else 0
        usable = [entry for entry in self._snapshots if entry[1] >= first and entry[2] <= self._cursor]
        if first == 0 and not (from_snapshot and usable):
            return Matching(make_book(place.limits), HASH_START)
        for _, command_sequence, event_sequence in reversed(usable) if from_snapshot else usable:
            matching, _ = starting_point(place, event_sequence)
            if matching.command_sequence == command_sequence:
                return matching
        if first == 0:
            return Matching(make_book(place.limits), HASH_START)
        raise JournalError(
            f"the journal in {place.journal_dir} begins at command {first}, and no snapshot in {place.snapshot_dir} "
            f"can be used between there and what the database has settled (event {self._cursor}). Remedy: put older "
            "segments or snapshots back from a backup"
        )

    def _commands(self) -> Iterator[NDArray[np.void]]:
        """Give all commands from the start on, cut where there is something to compare, which is done in between."""
        stops = sorted(command for _, command, _ in self._snapshots)
        for index, segment in enumerate(self._segments):
            closed = index + 1 < len(self._segments)
            header, matching = segment.header, self._matching
            self.walked.segments += 1
            self.walked.byte_count += segment.path.stat().st_size
            if header.first_command_sequence == matching.command_sequence:
                self._compare_opening(segment)
            for first, batch in self._read(segment, closed=closed):
                # A segment that begins before the start is read from its beginning all the same, for its checksums.
                commands = batch[max(0, matching.command_sequence - first) :]
                while len(commands):
                    self._compare_snapshots()
                    here = matching.command_sequence
                    stop = next((stop for stop in stops if stop > here), here + _SLICE_COMMANDS)
                    count = min(stop - here, _SLICE_COMMANDS, len(commands))
                    yield commands[:count]
                    commands = commands[count:]
        self._compare_snapshots()
        if not self.walked.damaged:
            self._note_beyond()

    def _read(self, segment: SegmentFile, *, closed: bool) -> Iterator[tuple[int, NDArray[np.void]]]:
        """Read a segment; the last one of a live engine up to its last whole group, which is looked at until it is."""
        try:
            yield from read_segment(segment, 0, closed=closed, kernel_versions=KERNEL_VERSIONS_REPLAYED)
        except JournalDamaged:
            if closed or not self._is_live:
                raise
            _look_at_tail(segment)

    def _compare_opening(self, segment: SegmentFile) -> None:
        header, matching = segment.header, self._matching
        self.walked.hashes += 1
        if (matching.event_sequence, matching.event_hash) != (header.first_event_sequence, header.event_hash):
            self._note_hash("events_hash", "events", segment.path, header.event_hash, matching.event_hash)
        # The first segment is opened before there is a book.
        elif header.kernel_version == self._place.kernel_version and header.first_command_sequence:
            found = int(state_hash(matching.book))
            if found != header.state_hash:
                self._note_hash("book_hash", "book", segment.path, header.state_hash, found)

    def _compare_snapshots(self) -> None:
        while self._snapshots and self._snapshots[0][1] <= self._matching.command_sequence:
            path, command_sequence, _ = self._snapshots.pop(0)
            if command_sequence == self._matching.command_sequence:
                self._compare_snapshot(path)

    def _compare_snapshot(self, path: Path) -> None:
        matching = self._matching
        try:
            snapshot = read_snapshot(path)
            book = load(self._place.limits, snapshot.payload)
        except FileNotFoundError:
            return  # the shadow keeps only some of them
        except ValueError as error:
            self._note_snapshot(path, f"The snapshot cannot be used: {error}.")
            return
        header = snapshot.header
        self.walked.snapshots += 1
        found, expected = int(state_hash(book)), int(state_hash(matching.book))
        if (header.event_sequence, header.event_hash) != (matching.event_sequence, matching.event_hash):
            self._note_hash("snapshot_events_hash", "events", path, header.event_hash, matching.event_hash)
        elif found != expected:
            self._note_snapshot(path, "The snapshot has another book than the journal gives.", expected, found)
        elif header.kernel_version == self._place.kernel_version and header.state_hash != expected:
            self._note_snapshot(path, "The snapshot names another hash than its book's.", expected, header.state_hash)

    def _note_beyond(self) -> None:
        for path, _, _ in self._snapshots:
            if path.exists():
                self._note_snapshot(path, "The snapshot is of a command that the journal does not have.")

    def _live_orders(self) -> NDArray[np.void]:
        book = self._matching.book
        rows = np.zeros((int(book.header[H_ORDER_COUNT]), BOOK_ORDER_WORDS), np.int64)
        count = copy_book_orders(book, rows)
        assert count == len(rows)
        orders = rows.view(book_order_dtype).reshape(-1)
        return orders[np.argsort(orders["order_id"])]

    def _note_damage(self, damage: JournalDamaged) -> None:
        self.walked.damaged = True
        self._differences.add(
            Difference(
                kind="journal_damaged",
                message=f"{damage.problem}. Remedy: {damage.remedy}.",
                shard=self.walked.shard,
                sequence=damage.sequence,
                file=str(damage.file),
            )
        )

    def _note_hash(self, kind: str, what: str, path: Path, expected: int, found: int) -> None:
        if self._diverged:
            return
        self._diverged = True
        self._differences.add(
            Difference(
                kind=kind,
                message=f"The journal up to this command does not give the {what} that were hashed here.",
                expected=f"{expected:016x}",
                found=f"{found:016x}",
                shard=self.walked.shard,
                sequence=self._matching.command_sequence,
                file=str(path),
            )
        )

    def _note_snapshot(self, path: Path, message: str, expected: int | None = None, found: int | None = None) -> None:
        self._differences.add(
            Difference(
                kind="snapshot",
                message=message,
                expected=None if expected is None else f"{expected:016x}",
                found=None if found is None else f"{found:016x}",
                shard=self.walked.shard,
                sequence=self._matching.command_sequence,
                file=str(path),
            )
        )


class _Outlet:
    """Collects events before the cursor into chunks, and those between it and the book's moment."""

    def __init__(self, take: Callable[[NDArray[np.void]], None], cursor: int) -> None:
        self._take = take
        self._cursor = cursor
        self._chunk = np.empty(CHUNK_EVENTS, event_dtype)
        self._used = 0
        self._tail: list[NDArray[np.void]] | None = []

    def put(self, events: NDArray[np.void]) -> None:
        if not len(events):
            return
        settled = max(0, min(len(events), self._cursor - int(events["sequence"][0])))
        if self._tail is not None and settled < len(events):
            self._tail.append(events[settled:].copy())
        done = 0
        while done < settled:
            if self._used == len(self._chunk):
                self.flush()
            count = min(settled - done, len(self._chunk) - self._used)
            self._chunk[self._used : self._used + count] = events[done : done + count]
            self._used += count
            done += count

    def flush(self) -> None:
        if self._used:
            self._take(self._chunk[: self._used])
        self._used = 0

    def end_tail(self) -> NDArray[np.void]:
        """Give the tail, and collect no more of it."""
        assert self._tail is not None
        tail = np.concatenate([np.empty(0, event_dtype), *self._tail])
        self._tail = None
        return tail


def _look_at_tail(segment: SegmentFile) -> None:
    """See that what looked like damage was a group on its way to the file. Raises JournalDamaged when it stays."""
    for look in range(_TAIL_LOOKS):
        try:
            read_end(segment)
        except JournalDamaged:
            if look == _TAIL_LOOKS - 1:
                raise
            time.sleep(_TAIL_PAUSE_S)
        else:
            return
