"""Copies of journals that are of one moment, taken while the matchers write them.

Shards are tied together by risk: what was sold on one is spent on another. So copies that end anywhere may have the
order and not the trade that paid for it. Risk's time stamps are in the order of its decisions over all shards; a copy
of all commands up to one time stamp therefore has, with each command, everything that risk knew when it let it pass.

The moment is the newest time stamp that is found at the journals' ends (``moment_of``). Only after that look it is
looked how far each journal goes by now (``plan_shard``): so whatever was on the disk before the newest command was
decided is in the copy, and every command that was on the disk when the backup asked for the moment.

Rule 1: whole groups, the last one perhaps shortened and framed anew. Rule 2: nothing is written where a matcher writes,
and no lock is taken. A group that is half written at the time of the look does not belong to the journal yet.
Rule 3: files are open before they are copied, so what the shadow removes meanwhile is copied all the same.
It refuses to know databases.
"""

from __future__ import annotations

import os
import zlib
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np

from tradeengine.core.records import COMMAND_BYTES, command_dtype
from tradeengine.storage.journal_files import FileOperations, create_file
from tradeengine.storage.journal_format import (
    GROUP_HEADER_BYTES,
    SEAL_BYTES,
    SEGMENT_HEADER_BYTES,
    TRAILER,
    JournalDamaged,
    JournalError,
    SegmentHeader,
    unpack_group,
)
from tradeengine.storage.journal_read import SegmentFile, as_words, list_segments, start_of
from tradeengine.storage.journal_scan import SCAN_FULL, SCAN_SEALED, scan
from tradeengine.storage.snapshots import Snapshot, list_snapshots, read_snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_BATCH_COMMANDS: Final = 1 << 16
_LOOKS_MAX: Final = 20
"""A segment that is removed or closed between two looks at the folder costs another look."""


@dataclass(frozen=True, slots=True)
class ShardEnd:
    """Where a journal ended at a look: its last segment, and the newest time stamp in it; 0: it has no command."""

    directory: Path
    segment_first: int
    timestamp_ns: int


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What of a shard is copied. ``files``: its segments in order, open; the last one is copied up to ``end``.

    ``end``: the sequence of the first command that is not copied. ``snapshot``: where a replay begins, None: at 0.
    """

    shard: int
    names: tuple[str, ...]
    files: tuple[BinaryIO, ...]
    end: int
    snapshot: Snapshot | None

    @property
    def byte_count(self) -> int:
        """Bytes that are copied at most."""
        payload = len(self.snapshot.payload) if self.snapshot else 0
        return payload + sum(os.fstat(file.fileno()).st_size for file in self.files)


def look_at_end(directory: Path, engine_mark: int = 0) -> ShardEnd:
    """Look where a journal ends by now. engine_mark: as in ``list_segments``. Raises JournalDamaged."""
    segments = steady_segments(directory, engine_mark)
    newest_ns = 0
    for segment in reversed(segments[-2:]):
        # The newest segment may be empty; the one before it never is.
        newest_ns = _newest_in(segment)
        if newest_ns:
            break
    first = segments[-1].header.first_command_sequence if segments else 0
    return ShardEnd(directory, first, newest_ns)


def moment_of(ends: Sequence[ShardEnd]) -> int:
    """Give the newest time stamp at the ends of all journals, by risk's clock; 0 when there is no command at all."""
    return max((end.timestamp_ns for end in ends), default=0)


def plan_shard(
    shard: int, seen: ShardEnd, snapshot_dir: Path, settled_event_sequence: int, moment_ns: int, stack: ExitStack
) -> ShardPlan:
    """Find what is copied of a shard, and open it. Call it after all journals were looked at.

    seen: the earlier look. settled_event_sequence: of the first event that the database's copy does not have.
    stack: closes the files. Raises JournalError when the journal does not reach back so far, JournalDamaged, OSError.
    """
    snapshot = newest_settled(snapshot_dir, shard, settled_event_sequence)
    first = snapshot.header.command_sequence if snapshot else 0
    return plan_from(shard, seen, first, moment_ns, snapshot, stack)


def plan_from(
    shard: int, seen: ShardEnd, first: int, moment_ns: int, snapshot: Snapshot | None, stack: ExitStack
) -> ShardPlan:
    """Find the segments from command ``first`` up to the moment, and open them. Raises as ``plan_shard``."""
    for _ in range(_LOOKS_MAX):
        segments = steady_segments(seen.directory)
        if not segments:
            return ShardPlan(shard, (), (), 0, snapshot)
        end = _end_at(segments, seen, moment_ns)
        starts = [segment.header.first_command_sequence for segment in segments]
        wanted = [
            segment
            for segment, following in zip(segments, [*starts[1:], 1 << 62], strict=True)
            if segment.header.first_command_sequence <= end and following > first
        ]
        if not wanted or wanted[0].header.first_command_sequence > first:
            raise JournalError(
                f"the journal in {seen.directory} begins at command {starts[0]}, and no snapshot is as old as what the "
                f"database has settled; command {first} is needed"
            )
        with suppress(FileNotFoundError):
            files = [stack.enter_context(segment.path.open("rb")) for segment in wanted]
            return ShardPlan(shard, tuple(segment.path.name for segment in wanted), tuple(files), end, snapshot)
    raise JournalError(f"the segments in {seen.directory} go faster than they can be opened")


def newest_settled(snapshot_dir: Path, shard: int, settled_event_sequence: int) -> Snapshot | None:
    """Read the newest whole snapshot of a shard with no event that is not settled; None: there is none."""
    for path, _, event_sequence in reversed(list_snapshots(snapshot_dir)):
        if event_sequence > settled_event_sequence:
            continue
        with suppress(OSError, ValueError):
            snapshot = read_snapshot(path)
            if snapshot.header.shard == shard:
                return snapshot
    return None


def copy_segments(plan: ShardPlan, folder: Path, files: FileOperations | None = None) -> int:
    """Copy what is planned into ``folder``, synced; returns how many bytes. Raises OSError, JournalDamaged."""
    files = files or FileOperations()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    copied = 0
    for place, (name, file) in enumerate(zip(plan.names, plan.files, strict=True)):
        path = folder / name
        parts = [file.read()] if place < len(plan.names) - 1 else _cut(path, file, plan.end)
        os.close(create_file(files, path, parts))
        copied += sum(map(len, parts))
    return copied


def _cut(path: Path, file: BinaryIO, end: int) -> list[bytes]:
    """Read a segment up to command ``end``: its header, whole groups, and a shortened one if ``end`` lies within."""
    data = np.frombuffer(file.read(), np.uint8)
    header = SegmentHeader.unpack(data[:SEGMENT_HEADER_BYTES].tobytes())
    position, before = start_of(header), -1
    status = SCAN_FULL
    while status == SCAN_FULL and position.word != before:
        # It stops before the group that has more commands than are wanted: the output has no room for it.
        before = position.word
        out = np.empty((end - position.sequence, COMMAND_BYTES // 8), dtype=np.uint64)
        status, _, _, position = scan(as_words(data), position, header.shard, out)
    # Without its seal: no segment follows in the copy.
    offset = position.word * 8 - (SEAL_BYTES if status == SCAN_SEALED else 0)
    parts = [data[:offset].tobytes()]
    rest = end - position.sequence
    if rest:
        group = unpack_group(data[offset : offset + GROUP_HEADER_BYTES].tobytes())
        if group is None or group.command_count < rest:
            raise JournalDamaged(path, position.sequence, f"damaged at byte {offset}", "take the backup again")
        begin = offset + GROUP_HEADER_BYTES
        payload = data[begin : begin + rest * COMMAND_BYTES].tobytes()
        framed, _ = group._replace(command_count=rest, payload_crc=zlib.crc32(payload)).pack()
        parts += [framed, payload, TRAILER]
    return parts


def _end_at(segments: Sequence[SegmentFile], seen: ShardEnd, moment_ns: int) -> int:
    """Sequence behind the last command that is not younger than the moment; those before the earlier look all are."""
    end = seen.segment_first
    for segment in segments:
        if segment.header.first_command_sequence < seen.segment_first:
            continue
        for first, stamps in _stamps(segment):
            old = np.flatnonzero(stamps <= moment_ns)
            if len(old):
                end = first + int(old[-1]) + 1
    return end


def _newest_in(segment: SegmentFile) -> int:
    newest_ns = 0
    for _, stamps in _stamps(segment):
        newest_ns = max(newest_ns, int(stamps.max()))
    return newest_ns


def _stamps(segment: SegmentFile) -> list[tuple[int, NDArray[np.int64]]]:
    """Time stamps of a segment's commands, with the first one's sequence; up to the first group that is not whole."""
    words = as_words(np.fromfile(segment.path, dtype=np.uint8))
    position = start_of(segment.header)
    found = []
    status = SCAN_FULL
    while status == SCAN_FULL:
        first = position.sequence
        group = unpack_group(words[position.word : position.word + GROUP_HEADER_BYTES // 8].tobytes())
        room = max(_BATCH_COMMANDS, group.command_count if group else 0)
        out = np.empty((room, COMMAND_BYTES // 8), dtype=np.uint64)
        status, count, _, position = scan(words, position, segment.header.shard, out)
        if count:
            found.append((first, out[:count].reshape(-1).view(command_dtype)["timestamp_ns"].copy()))
    return found


def steady_segments(directory: Path, engine_mark: int = 0) -> list[SegmentFile]:
    """List the segments of a journal that is written and pruned meanwhile, as ``list_segments`` does.

    Raises JournalDamaged.
    """
    for look in range(_LOOKS_MAX):
        try:
            return list_segments(directory, engine_mark)
        except FileNotFoundError:
            continue
        except JournalDamaged:
            if look == _LOOKS_MAX - 1:
                raise
    raise JournalError(f"the segments in {directory} go faster than they can be looked at")
