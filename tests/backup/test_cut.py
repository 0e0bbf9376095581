"""Copies of journals: of one moment over all shards, whole, and made while they are written."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tradeengine.core.records import CommandKind, command_dtype
from tradeengine.storage.backup.cut import ShardEnd, copy_segments, look_at_end, moment_of, plan_shard
from tradeengine.storage.journal import Journal
from tradeengine.storage.journal_format import JournalError
from tradeengine.storage.journal_read import journal_end, list_segments, prune, read_groups
from tradeengine.storage.snapshots import SnapshotHeader, write_snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SEGMENT_BYTES = 8 << 10
NEVER_SETTLED = 0


def open_journal(directory: Path, shard: int = 0, kernel_version: int = 1) -> Journal:
    """Open a journal of small segments."""
    return Journal.open(directory, shard, kernel_version, segment_bytes=SEGMENT_BYTES)


def append(journal: Journal, stamps: Sequence[int]) -> None:
    """Append and sync one group of commands with these time stamps, in a new segment when this one is full."""
    if not journal.has_room(len(stamps)):
        journal.roll(journal.next_command_sequence * 2, 0, 0)
    commands = np.zeros(len(stamps), command_dtype)
    commands["kind"] = CommandKind.PLACE
    commands["timestamp_ns"] = stamps
    commands["ring_sequence"] = journal.next_command_sequence + np.arange(len(stamps))
    journal.append(commands)
    journal.sync()


def stamps_in(directory: Path) -> NDArray[np.int64]:
    """Give the time stamps of all commands of a journal, in order; checks each byte on the way."""
    found = [commands["timestamp_ns"] for _, commands in read_groups(directory, 0)]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def copy(source: Path, target: Path, seen: ShardEnd, moment_ns: int, settled: int = NEVER_SETTLED) -> int:
    """Copy a shard's journal up to a moment; returns the sequence behind its last command."""
    with ExitStack() as stack:
        plan = plan_shard(0, seen, source.with_name("snapshots"), settled, moment_ns, stack)
        copy_segments(plan, target)
    return plan.end


@pytest.mark.parametrize("groups", [[[10, 20, 30]], [[10], [20], [30]], [[10, 20], [30]], [[10], [20, 30]]])
@pytest.mark.parametrize(("moment_ns", "count"), [(30, 3), (29, 2), (10, 1), (9, 0)])
def test_copy_ends_at_the_moment(tmp_path: Path, groups: list[list[int]], moment_ns: int, count: int) -> None:
    """A copy has all commands up to the moment and none after it, also when it lies within a group."""
    with open_journal(tmp_path / "journal") as journal:
        seen = look_at_end(tmp_path / "journal")
        for group in groups:
            append(journal, group)
    assert copy(tmp_path / "journal", tmp_path / "copy", seen, moment_ns) == count
    assert stamps_in(tmp_path / "copy").tolist() == [10, 20, 30][:count]
    # And it is a journal like any other: the next engine goes on from there.
    with open_journal(tmp_path / "copy") as journal:
        assert journal.next_command_sequence == count
        append(journal, [40])
    assert stamps_in(tmp_path / "copy")[-1] == 40


def test_what_was_on_the_disk_is_in_every_copy(tmp_path: Path) -> None:
    """The moment is the newest time stamp of all shards, so no command is left out that the first look saw."""
    stamps = {0: [10, 70], 1: [20, 30, 90], 2: []}
    for shard, own in stamps.items():
        with open_journal(tmp_path / str(shard), shard) as journal:
            for stamp in own:
                append(journal, [stamp])
    seen = [look_at_end(tmp_path / str(shard)) for shard in stamps]
    assert moment_of(seen) == 90
    for shard, end in enumerate(seen):
        copy(tmp_path / str(shard), tmp_path / f"copy-{shard}", end, 90)
        assert stamps_in(tmp_path / f"copy-{shard}").tolist() == stamps[shard]
    assert moment_of([]) == 0


def test_closed_segments_are_copied_whole(tmp_path: Path) -> None:
    """A copy over several segments, of two kernel versions, is the same files up to the last one's end."""
    source, target = tmp_path / "journal", tmp_path / "copy"
    for kernel_version in (1, 2):
        with open_journal(source, kernel_version=kernel_version) as journal:
            for first in range(0, 60, 3):
                append(journal, [kernel_version * 1000 + first + place for place in range(3)])
    seen = look_at_end(source)
    everything = stamps_in(source)
    names = [segment.path.name for segment in list_segments(source)]
    assert len(names) > 3
    for count in (len(everything), len(everything) - 2, 40, 7):
        place = target / str(count)
        earlier = ShardEnd(source, 0, seen.timestamp_ns)
        assert copy(source, place, earlier, int(everything[count - 1])) == count
        assert stamps_in(place).tolist() == everything[:count].tolist()
        copied = [segment.path.name for segment in list_segments(place)]
        assert copied == names[: len(copied)]
        assert journal_end(place).next_command_sequence == count


def test_copy_begins_at_the_newest_settled_snapshot(tmp_path: Path) -> None:
    """What was settled and is in a snapshot is not copied; one that is newer than the database's copy does not help."""
    source = tmp_path / "journal"
    with open_journal(source) as journal:
        for first in range(60):
            append(journal, [first])
    openings = [segment.header.first_command_sequence for segment in list_segments(source)]
    for sequence in openings[1:]:
        write_snapshot(tmp_path / "snapshots", SnapshotHeader(0, 1, sequence, sequence * 2, 0, 0, 0, 1), b"book")
    with ExitStack() as stack:
        plan = plan_shard(0, look_at_end(source), tmp_path / "snapshots", openings[2] * 2 + 1, 59, stack)
        assert plan.snapshot is not None
        assert plan.snapshot.header.command_sequence == openings[2]
        assert plan.names[0] == f"{openings[2]:020d}.journal"
        # The next start may remove what it does not need; what is open is copied all the same.
        assert prune(source, 120, openings[-1], 0.0, 1 << 62)
        copy_segments(plan, tmp_path / "copy")
    copied = [commands["timestamp_ns"] for _, commands in read_groups(tmp_path / "copy", openings[2])]
    assert np.concatenate(copied).tolist() == list(range(openings[2], 60))


def test_journal_that_does_not_reach_back_is_refused(tmp_path: Path) -> None:
    """Without a snapshot as old as the database's copy, and with the journal's beginning gone, there is no backup."""
    source = tmp_path / "journal"
    with open_journal(source) as journal:
        for first in range(60):
            append(journal, [first])
    last = list_segments(source)[-1].header.first_command_sequence
    prune(source, 1000, last, 0.0, 1 << 62)
    with pytest.raises(JournalError, match="no snapshot is as old"), ExitStack() as stack:
        plan_shard(0, look_at_end(source), tmp_path / "snapshots", 0, 59, stack)


def test_copies_of_two_shards_have_no_gap(tmp_path: Path) -> None:
    """While each command rests on one of the other shard, copies of both have everything up to one command, no hole."""
    sources = [tmp_path / "0", tmp_path / "1"]
    stop, started = threading.Event(), threading.Event()

    def write() -> None:
        chance = np.random.default_rng(7)
        with open_journal(sources[0], 0) as first, open_journal(sources[1], 1) as second:
            stamp = 0
            while not stop.is_set():
                count = int(chance.integers(1, 5))
                append((first, second)[int(chance.integers(0, 2))], range(stamp + 1, stamp + count + 1))
                stamp += count
                if stamp > 100:
                    started.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert started.wait(60)
        for number in range(15):
            seen = [look_at_end(source) for source in sources]
            moment_ns = moment_of(seen)
            found = []
            with ExitStack() as stack:
                for shard in (1, 0):
                    plan = plan_shard(shard, seen[shard], tmp_path / "none", NEVER_SETTLED, moment_ns, stack)
                    copy_segments(plan, tmp_path / f"copy-{number}-{shard}")
                    found += stamps_in(tmp_path / f"copy-{number}-{shard}").tolist()
            assert sorted(found) == list(range(1, moment_ns + 1))
    finally:
        stop.set()
        writer.join()


@pytest.mark.long
def test_copies_while_it_is_written(tmp_path: Path) -> None:
    """A journal that grows and rolls all the time: each copy is a whole journal, and has what was synced before."""
    source = tmp_path / "journal"
    stop, synced = threading.Event(), [0]
    started = threading.Event()

    def write() -> None:
        chance = np.random.default_rng(5)
        with open_journal(source) as journal:
            while not stop.is_set():
                count = int(chance.integers(1, 12))
                append(journal, range(synced[0] + 1, synced[0] + count + 1))
                synced[0] += count
                started.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert started.wait(60)
        for number in range(25):
            before = synced[0]
            seen = look_at_end(source)
            assert seen.timestamp_ns >= before
            moment_ns = moment_of([seen])
            assert copy(source, tmp_path / f"copy-{number}", seen, moment_ns) == moment_ns
            assert stamps_in(tmp_path / f"copy-{number}").tolist() == list(range(1, moment_ns + 1))
    finally:
        stop.set()
        writer.join()
