"""The matcher's restart: from the newest settled snapshot through the journal to where its rings stand.

What PostgreSQL has committed (the settled cursor) is the base: a snapshot at or before it, then every command after.
Events come out with the sequences that they had; those already in the ring are compared, the rest is published.
Rule 1: nothing is published before the journal's last segment was rewritten and synced by this process.
Rule 2: whatever does not fit together refuses to start and says what: a cursor that the journal does not reach, events
in the ring that the journal does not give, commands that were taken and are not in the journal.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from tradeengine.actors.matcher_events import ReplayDiffers
from tradeengine.actors.matching import KERNEL_VERSIONS_REPLAYED, Matching
from tradeengine.core.book import load, make_book, state_hash
from tradeengine.core.hashing import HASH_START
from tradeengine.storage.identity import is_foreign, short_mark
from tradeengine.storage.journal import Journal
from tradeengine.storage.journal_read import SequenceNotHeld, list_segments, read_groups
from tradeengine.storage.snapshots import Skipped, list_snapshots, newest_snapshot, read_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from tradeengine.actors.matcher_events import EventOutlet
    from tradeengine.core.book import BookLimits
    from tradeengine.ipc.ring import RingReader
    from tradeengine.storage.journal_files import FileOperations
    from tradeengine.storage.journal_format import SegmentHeader
    from tradeengine.storage.snapshots import Snapshot


class RecoveryRefused(Exception):  # noqa: N818 - names the state in which the matcher stops
    """Journal, rings and database do not fit together; the message says which two, and where."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a shard's book lives on the disk, and what it may hold. engine_mark: whose it is; 0: not known."""

    journal_dir: Path
    snapshot_dir: Path
    segment_bytes: int
    limits: BookLimits
    kernel_version: int
    engine_mark: int = 0


@dataclass(frozen=True, slots=True)
class Recovered:
    """A shard ready to go on, and what it took."""

    journal: Journal
    matching: Matching
    from_command_sequence: int
    from_event_sequence: int
    commands_replayed: int
    events_published: int
    skipped: list[Skipped]
    duration_s: float


def recover(
    place: Place,
    settled_sequence: int,
    outlet: EventOutlet,
    commands: RingReader,
    alive: Callable[[], None],
    files: FileOperations | None = None,
) -> Recovered:
    """Bring a shard back to where it was. settled_sequence: of the first event that PostgreSQL does not have.

    alive: called often, to say so. Moves the cursor of ``commands`` behind the last journaled one.
    Raises RecoveryRefused, ReplayDiffers, JournalError and OSError.
    """
    started_ns = time.monotonic_ns()
    journal = Journal.open(
        place.journal_dir,
        place.limits.shard,
        place.kernel_version,
        segment_bytes=place.segment_bytes,
        files=files,
        engine_mark=place.engine_mark,
    )
    try:
        _check_commands(journal, commands)
        _check_snapshots(place, journal)
        openings = {
            opening.header.first_command_sequence: opening.header for opening in list_segments(place.journal_dir)
        }
        matching, skipped = starting_point(place, settled_sequence, openings)
        from_command, from_event = matching.command_sequence, matching.event_sequence
        published = _replay(place, matching, openings, settled_sequence, outlet, alive, skipped)
        _check_end(journal, matching, settled_sequence, outlet)
    except BaseException:
        journal.close()
        raise
    commands.seek(journal.next_ring_sequence)
    return Recovered(
        journal=journal,
        matching=matching,
        from_command_sequence=from_command,
        from_event_sequence=from_event,
        commands_replayed=matching.command_sequence - from_command,
        events_published=published,
        skipped=skipped,
        duration_s=(time.monotonic_ns() - started_ns) / 1e9,
    )


def starting_point(
    place: Place, event_sequence_max: int, openings: Mapping[int, SegmentHeader] = MappingProxyType({})
) -> tuple[Matching, list[Skipped]]:
    """Restore the newest usable snapshot at or before an event sequence, else an empty book; and what was skipped.

    openings: headers of segments by their first command; one that was made where a segment begins must agree with it.
    """

    def restore(snapshot: Snapshot) -> Matching:
        header = snapshot.header
        if is_foreign(header.engine_mark, short_mark(place.engine_mark)):
            raise ValueError("it is another engine's")
        opening = openings.get(header.command_sequence)
        if opening and (opening.first_event_sequence, opening.event_hash) != (header.event_sequence, header.event_hash):
            raise ValueError("it is not of this journal, which had other events before")
        book = load(place.limits, snapshot.payload)
        matching = Matching(book, header.event_hash)
        if (matching.command_sequence, matching.event_sequence) != (header.command_sequence, header.event_sequence):
            raise ValueError("the book in it stands at other sequences than its header")
        if header.kernel_version == place.kernel_version and state_hash(book) != header.state_hash:
            raise ValueError("the book in it does not have the hash that its header says")
        return matching

    restored, skipped = newest_snapshot(place.snapshot_dir, place.limits.shard, event_sequence_max, restore)
    return restored or Matching(make_book(place.limits), HASH_START), skipped


def check_opening(header: SegmentHeader, matching: Matching) -> None:
    """Compare a replay at a segment's beginning with what the matcher wrote there. Raises ReplayDiffers."""
    if (matching.event_sequence, matching.event_hash) != (header.first_event_sequence, header.event_hash):
        raise ReplayDiffers(
            f"shard {header.shard}: the replay up to command sequence {header.first_command_sequence} gives other "
            f"events than were published (next event {matching.event_sequence}, was {header.first_event_sequence}). "
            "Remedy: keep a copy of the journal and the snapshots; a snapshot of another engine is moved away, else "
            "the machine or the program is at fault"
        )


def _replay(
    place: Place,
    matching: Matching,
    openings: Mapping[int, SegmentHeader],
    settled_sequence: int,
    outlet: EventOutlet,
    alive: Callable[[], None],
    skipped: list[Skipped],
) -> int:
    published = 0
    try:
        for first, commands in read_groups(place.journal_dir, matching.command_sequence, KERNEL_VERSIONS_REPLAYED):
            if first in openings:
                check_opening(openings[first], matching)
            published += _replay_batch(matching, commands, outlet, alive)
    except SequenceNotHeld as error:
        raise RecoveryRefused(
            f"the settled cursor {settled_sequence} of shard {place.limits.shard} lies before what the journal holds, "
            f"and no usable snapshot is that old: {error}"
            + "".join(f"; {skip.path}: {skip.reason}" for skip in skipped)
            + f". Remedy: put the segments that are missing, or an older snapshot, back into {place.journal_dir} and "
            f"{place.snapshot_dir}, or `tradeengine restore` a newer backup of the database"
        ) from error
    if matching.command_sequence in openings:
        check_opening(openings[matching.command_sequence], matching)
    return published


def _replay_batch(
    matching: Matching, commands: NDArray[np.void], outlet: EventOutlet, alive: Callable[[], None]
) -> int:
    published = 0
    for events in matching.pieces(commands):
        published += outlet.republish(events)
        alive()
    return published


def _check_commands(journal: Journal, commands: RingReader) -> None:
    if not commands.cursor <= journal.next_ring_sequence <= commands.head:
        raise RecoveryRefused(
            f"the journal ends before command {journal.next_ring_sequence} of the ring, which was read up to "
            f"{commands.cursor} and written up to {commands.head}: they do not belong together"
        )


def _check_snapshots(place: Place, journal: Journal) -> None:
    """Refuse a journal that ends before a snapshot of it: it is an older copy, and would be gone on with in silence."""
    for path, command_sequence, _ in reversed(list_snapshots(place.snapshot_dir)):
        if command_sequence <= journal.next_command_sequence:
            return
        try:
            header = read_snapshot(path).header
        except (ValueError, OSError):
            continue  # damaged: it says nothing
        if (header.shard, header.command_sequence) == (place.limits.shard, command_sequence):
            raise RecoveryRefused(
                f"{journal.directory} ends before command {journal.next_command_sequence}, but the snapshot {path} was "
                f"made of commands up to {command_sequence}: the journal is an older copy, or was lost. Remedy: put "
                "the journal that belongs to this snapshot there; if it is lost, `tradeengine restore` a backup into "
                "a new database and a new data directory"
            )


def _check_end(journal: Journal, matching: Matching, settled_sequence: int, outlet: EventOutlet) -> None:
    end = matching.event_sequence
    if settled_sequence > end:
        raise RecoveryRefused(
            f"the settled cursor {settled_sequence} lies behind the journal's end, event {end}: the database has seen "
            f"commands that {journal.directory} does not hold. Remedy: put the journal that belongs to this database "
            "there; if it is lost, `tradeengine restore` a backup into a new database and a new data directory"
        )
    if outlet.head > end:
        raise RecoveryRefused(
            f"events up to {outlet.head} were published, but the journal gives only {end}: it has lost commands"
        )
