"""Snapshots: the newest usable one is found, a damaged one is skipped, and what is kept reaches back far enough."""

from __future__ import annotations

import errno
import os
import zlib
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tradeengine.storage.journal_files import FileOperations
from tradeengine.storage.snapshots import (
    Snapshot,
    SnapshotHeader,
    list_snapshots,
    newest_snapshot,
    prune_snapshots,
    read_snapshot,
    write_snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

DAY_NS = 86_400 * 10**9
PAYLOAD = bytes(range(256)) * 5


def header_at(command_sequence: int, shard: int = 1, kernel_version: int = 2) -> SnapshotHeader:
    """Make a header at which three events came of each command."""
    return SnapshotHeader(shard, kernel_version, command_sequence, command_sequence * 3, 7, 2**64 - 1, 2**63 + 5, 99)


def write_at(directory: Path, *command_sequences: int) -> list[Path]:
    """Write snapshots at these commands."""
    return [write_snapshot(directory, header_at(sequence), PAYLOAD) for sequence in command_sequences]


def same(snapshot: Snapshot) -> Snapshot:
    """Restore nothing."""
    return snapshot


def found(directory: Path, event_sequence_max: int) -> int | None:
    """Give the command sequence of the snapshot that a restart would use."""
    snapshot, _ = newest_snapshot(directory, 1, event_sequence_max, same)
    return snapshot.header.command_sequence if snapshot else None


def test_snapshot_comes_back(tmp_path: Path) -> None:
    """What was written is read back, header and payload."""
    (path,) = write_at(tmp_path / "s", 10)
    snapshot = read_snapshot(path)
    assert snapshot.header == header_at(10)
    assert snapshot.payload == PAYLOAD


def test_newest_at_or_below_is_taken(tmp_path: Path) -> None:
    """A restart takes the newest snapshot whose events are all settled, or none."""
    write_at(tmp_path / "s", 10, 20, 30)
    assert [found(tmp_path / "s", limit) for limit in (29, 30, 59, 60, 1000)] == [None, 10, 10, 20, 30]
    assert found(tmp_path / "none", 1000) is None


def test_damaged_snapshot_is_skipped_with_a_reason(tmp_path: Path) -> None:
    """A bit flipped anywhere, or a cut file, makes a restart take the one before and say why."""
    paths = write_at(tmp_path / "s", 10, 20)
    original = paths[1].read_bytes()
    for offset in [*range(100), 128, 700, len(original) - 1]:
        changed = bytearray(original)
        changed[offset] ^= 1 << offset % 8
        paths[1].write_bytes(changed)
        snapshot, skipped = newest_snapshot(tmp_path / "s", 1, 1000, same)
        assert snapshot is not None
        assert snapshot.header.command_sequence == 10
        assert [entry.path for entry in skipped] == [paths[1]]
        assert "checksum" in skipped[0].reason
    for size in (0, 50, 80, len(original) - 1):
        paths[1].write_bytes(original[:size])
        assert found(tmp_path / "s", 1000) == 10


def test_unusable_snapshot_is_skipped(tmp_path: Path) -> None:
    """A snapshot of another shard, and one that cannot be restored, are skipped with their reasons."""
    write_at(tmp_path / "s", 10, 20)
    write_snapshot(tmp_path / "s", header_at(30, shard=4), PAYLOAD)

    def restore(snapshot: Snapshot) -> int:
        if snapshot.header.command_sequence == 20:
            raise ValueError("of an unknown format")
        return snapshot.header.command_sequence

    restored, skipped = newest_snapshot(tmp_path / "s", 1, 1000, restore)
    assert restored == 10
    assert [entry.reason for entry in skipped] == ["of shard 4, not 1", "of an unknown format"]


def test_snapshot_under_another_name_is_skipped(tmp_path: Path) -> None:
    """A name promises sequences: one that says others than the header is skipped, and one that is none is not seen."""
    first, second = write_at(tmp_path / "s", 10, 20)
    second.rename(second.with_name(f"{20:020d}-{61:020d}.snapshot"))
    first.with_name("copy.snapshot").write_bytes(first.read_bytes())
    snapshot, skipped = newest_snapshot(tmp_path / "s", 1, 1000, same)
    assert snapshot is not None
    assert snapshot.path == first
    assert [entry.reason for entry in skipped] == ["its name says other sequences than its header"]


def test_whole_file_of_something_else_is_no_snapshot(tmp_path: Path) -> None:
    """A header whose checksum is right and whose magic or version is another's is skipped by what it is."""
    (path,) = write_at(tmp_path / "s", 10)
    original = path.read_bytes()
    crc_at = len(original) - len(PAYLOAD) - 4
    for offset, word, why in (
        (0, bytes(8), "it is not a snapshot"),
        (8, bytes(2), "it is not a snapshot"),
        (8, b"\x02\0", "a snapshot of format 2; this program reads format 1"),
    ):
        head = original[:offset] + word + original[offset + len(word) : crc_at]
        path.write_bytes(head + zlib.crc32(head).to_bytes(4, "little") + original[crc_at + 4 :])
        snapshot, skipped = newest_snapshot(tmp_path / "s", 1, 1000, same)
        assert snapshot is None
        assert [entry.reason for entry in skipped] == [why]


def test_failed_write_leaves_no_snapshot(tmp_path: Path) -> None:
    """A full disk while writing leaves the older snapshots, and the remains go at the next pruning."""

    class FullDisk(FileOperations):
        def pwritev(self, _fd: int, _buffers: Sequence[Buffer], _offset: int) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_at(tmp_path / "s", 10)
    with pytest.raises(OSError, match="No space"):
        write_snapshot(tmp_path / "s", header_at(20), PAYLOAD, FullDisk())
    assert found(tmp_path / "s", 1000) == 10
    assert prune_snapshots(tmp_path / "s", 1000, 2, 0, 0) == 10
    assert len(list((tmp_path / "s").iterdir())) == 1


def test_pruning_keeps_the_newest(tmp_path: Path) -> None:
    """Without retention only the newest few stay."""
    write_at(tmp_path / "s", *range(10, 100, 10))
    newest = list_snapshots(tmp_path / "s")[-1][0].stat().st_mtime_ns
    assert prune_snapshots(tmp_path / "s", 10**6, 3, 0, newest) == 90
    assert prune_snapshots(tmp_path / "none", 10**6, 3, 0, newest) == 0


def test_pruning_reaches_back_as_far_as_the_journal(tmp_path: Path) -> None:
    """With retention, one snapshot from before its start stays, and some spread over it."""
    start_ns = 1_700_000_000 * 10**9
    for number, path in enumerate(write_at(tmp_path / "s", *range(1, 241))):
        os.utime(path, ns=(start_ns + number * DAY_NS // 24,) * 2)
    now_ns = start_ns + 10 * DAY_NS
    assert prune_snapshots(tmp_path / "s", 10**6, 2, 7 * 86_400, now_ns) == 73
    kept = [command for _, command, _ in list_snapshots(tmp_path / "s")]
    assert kept[-2:] == [239, 240]
    assert 9 <= len(kept) <= 12
    assert max(after - before for before, after in pairwise(kept)) <= 22


def test_pruning_keeps_what_is_not_settled(tmp_path: Path) -> None:
    """However old, the newest snapshot that PostgreSQL has reached stays, and so do those after it."""
    write_at(tmp_path / "s", *range(10, 100, 10))
    far_ns = 4_000_000_000 * 10**9
    assert prune_snapshots(tmp_path / "s", 125, 1, 0, far_ns) == 40
    assert found(tmp_path / "s", 125) == 40
    assert prune_snapshots(tmp_path / "s", 119, 1, 0, far_ns) == 0
