"""The journal of one shard: every command, on the disk before anything that follows from it is seen.

Rule 1: ``append`` writes a group, ``sync`` makes it durable; one group at a time is under way.
Rule 2: the first error of a write or sync is final. The file is not touched again, because after one failed sync the
next one may succeed without the bytes being there; the process must stop.
Rule 3: on every start the last segment is copied up to its last whole group, synced and renamed over the old one. So
what is replayed has been synced by this process, whatever the last one was told.
Rule 4: closing a segment is: write the next one under another name, seal this one, rename. A crash in between is
finished, or undone, at the next start.
It refuses to know rings, books, and what the commands mean, but for the ring sequence that it keeps for restarts.
"""

from __future__ import annotations

import fcntl
import os
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tradeengine.core.hashing import HASH_START
from tradeengine.core.records import command_dtype
from tradeengine.ipc.crashpoints import crash_point
from tradeengine.storage.journal_files import (
    FileOperations,
    create_file,
    make_folder,
    rename_durably,
    sync_folder,
    write_all,
)
from tradeengine.storage.journal_format import (
    GROUP_COMMANDS,
    GROUP_SEAL,
    SEAL_BYTES,
    SEGMENT_HEADER_BYTES,
    TRAILER,
    GroupHeader,
    JournalDamaged,
    JournalError,
    JournalFailed,
    SegmentHeader,
    group_bytes,
)
from tradeengine.storage.journal_read import (
    REWRITE_SUFFIX,
    SUCCESSOR_SUFFIX,
    SegmentEnd,
    SegmentFile,
    journal_end,
    list_segments,
    read_end,
    read_groups,
    read_header,
    segment_name,
    start_of,
)

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer

__all__ = ["SEGMENT_BYTES", "Journal", "JournalDamaged", "JournalError", "JournalFailed", "journal_end", "read_groups"]

SEGMENT_BYTES: Final = 64 << 20
_LARGE_GROUP_BYTES: Final = 64 << 10
"""Worth a system call more: the disk works while the caller does something else before ``sync``."""


@dataclass(frozen=True, slots=True)
class _Settings:
    shard: int
    kernel_version: int
    segment_bytes: int
    files: FileOperations
    engine_mark: int


class Journal:
    """The writer of one journal. There is one at a time: it holds a lock on the directory until closed."""

    def __init__(
        self, segment: SegmentFile, end: SegmentEnd, fd: int, lock_fd: int, epoch: int, settings: _Settings
    ) -> None:
        """Continue ``segment`` at ``end``; ``Journal.open`` is the way in."""
        last = end.last_command
        self.directory = segment.path.parent
        self.next_command_sequence = end.position.sequence
        self.next_ring_sequence = segment.header.first_ring_sequence if last is None else int(last["ring_sequence"]) + 1
        self.groups_written = 0
        self.bytes_written = 0
        self._segment = segment
        self._offset = end.position.word * 8
        self._capacity = os.fstat(fd).st_size
        self._previous_hash = end.position.previous_hash
        self._fd = fd
        self._lock_fd = lock_fd
        self._epoch = epoch
        self._settings = settings
        self._files = settings.files
        self._failed = False

    @staticmethod
    def open(
        directory: Path,
        shard: int,
        kernel_version: int,
        epoch: int | None = None,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        files: FileOperations | None = None,
        engine_mark: int = 0,
    ) -> Journal:
        """Open for appending; creates what is missing, cuts a torn tail and rewrites the last segment.

        segment_bytes: size of segments made from now on. epoch: of this start, which must
        not fall; None counts the starts. engine_mark: whose journal it is; new segments carry it, those of another
        engine are refused; 0: not known.
        Raises JournalDamaged, JournalError (the directory is in use, the shard is another's, the epoch fell), OSError.
        """
        assert segment_bytes >= SEGMENT_HEADER_BYTES + group_bytes(1) + SEAL_BYTES
        settings = _Settings(shard, kernel_version, segment_bytes, files or FileOperations(), engine_mark)
        make_folder(settings.files, directory)
        lock_fd = _lock(directory)
        try:
            segment, end = _tail(directory, settings)
            epoch = _next_epoch(directory, end.position.epoch, epoch)
            fd = _rewrite(segment, end, settings)
        except BaseException:
            os.close(lock_fd)
            raise
        return Journal(segment, end, fd, lock_fd, epoch, settings)

    def append(self, commands: NDArray[np.void]) -> int:
        """Write ``commands`` (command_dtype[≥ 1], contiguous) as one group; returns the first one's sequence.

        The caller has asked ``has_room``. Not durable before ``sync`` returns. Raises JournalFailed.
        """
        assert commands.dtype == command_dtype
        assert len(commands) > 0
        assert self.has_room(len(commands))
        payload = commands.view("u1").data
        header, group_hash = self._group(len(commands), GROUP_COMMANDS, zlib.crc32(payload)).pack()
        self._write([header, payload, TRAILER])
        self._previous_hash = group_hash
        first = self.next_command_sequence
        self.next_command_sequence += len(commands)
        self.next_ring_sequence = int(commands["ring_sequence"][-1]) + 1
        self.groups_written += 1
        return first

    def sync(self) -> None:
        """Wait until all appended groups are on the disk. Raises JournalFailed."""
        self._check()
        try:
            self._files.datasync(self._fd)
        except OSError as error:
            raise self._fail(error) from error

    def has_room(self, count: int) -> bool:
        """Whether a group of ``count`` commands, and the seal after it, fit this segment; if not, ``roll``."""
        return self._offset + group_bytes(count) + SEAL_BYTES <= self._capacity

    @property
    def batch_max(self) -> int:
        """How many commands fit a new segment as one group."""
        return (
            self._settings.segment_bytes - SEGMENT_HEADER_BYTES - SEAL_BYTES - group_bytes(0)
        ) // command_dtype.itemsize

    @property
    def segment_age_s(self) -> float:
        """Seconds since this segment was created; 0 while it holds nothing, so that empty ones are never closed."""
        if self.next_command_sequence == self._segment.header.first_command_sequence:
            return 0.0
        return max(0.0, (time.time_ns() - self._segment.header.created_ns) / 1e9)

    @property
    def bytes_used(self) -> int:
        """Bytes written to the present segment."""
        return self._offset

    def roll(self, event_sequence: int, event_hash: int, state_hash: int) -> None:
        """Close this segment and open the next; between commands and after a ``sync`` only.

        event_sequence: of the next event. The hashes are of all events before it, and of the book.
        Raises JournalFailed.
        """
        seal, seal_hash = self._group(0, GROUP_SEAL, 0).pack()
        header = SegmentHeader(
            shard=self._settings.shard,
            kernel_version=self._settings.kernel_version,
            epoch=self._epoch,
            first_command_sequence=self.next_command_sequence,
            first_event_sequence=event_sequence,
            first_ring_sequence=self.next_ring_sequence,
            event_hash=event_hash,
            state_hash=state_hash,
            previous_hash=seal_hash,
            created_ns=time.time_ns(),
            engine_mark=self._settings.engine_mark,
        )
        path = self.directory / segment_name(header.first_command_sequence)
        self._check()
        try:
            fd = create_file(
                self._files, path.with_suffix(SUCCESSOR_SUFFIX), [header.pack()], self._settings.segment_bytes
            )
            # Its name too, before the seal: a sealed segment without a successor is damage.
            sync_folder(self._files, self.directory)
            crash_point("journal.after_successor")
            write_all(self._files, self._fd, [seal, TRAILER], self._offset)
            self._files.truncate(self._fd, self._offset + SEAL_BYTES)
            self._files.datasync(self._fd)
            crash_point("journal.after_seal")
            rename_durably(self._files, path.with_suffix(SUCCESSOR_SUFFIX), path)
        except OSError as error:
            raise self._fail(error) from error
        os.close(self._fd)
        self._fd = fd
        self._capacity = os.fstat(fd).st_size
        self._segment = SegmentFile(path, header)
        self._offset = SEGMENT_HEADER_BYTES
        self._previous_hash = seal_hash

    def close(self) -> None:
        """Release the file and the lock. What was appended and not synced may be lost."""
        if self._fd >= 0:
            os.close(self._fd)
            os.close(self._lock_fd)
            self._fd = -1

    def __enter__(self) -> Journal:
        """Close at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _group(self, count: int, kind: int, payload_crc: int) -> GroupHeader:
        return GroupHeader(
            first_command_sequence=self.next_command_sequence,
            previous_hash=self._previous_hash,
            command_count=count,
            epoch=self._epoch,
            shard=self._settings.shard,
            kernel_version=self._settings.kernel_version,
            kind=kind,
            payload_crc=payload_crc,
            written_ns=time.time_ns(),
        )

    def _write(self, buffers: list[Buffer]) -> None:
        self._check()
        try:
            written = write_all(self._files, self._fd, buffers, self._offset)
        except OSError as error:
            raise self._fail(error) from error
        if written >= _LARGE_GROUP_BYTES:
            self._files.begin_writing(self._fd, self._offset, written)
        self._offset += written
        self.bytes_written += written

    def _check(self) -> None:
        if self._failed:
            raise JournalFailed(f"{self._segment.path}: an earlier write failed; only a restart may go on")

    def _fail(self, error: OSError) -> JournalFailed:
        self._failed = True
        return JournalFailed(f"{self._segment.path}: {error.strerror or error}; the process must stop")


def _tail(directory: Path, settings: _Settings) -> tuple[SegmentFile, SegmentEnd]:
    segments = list_segments(directory, settings.engine_mark)
    for leftover in directory.glob(f"*{REWRITE_SUFFIX}"):
        leftover.unlink()
    if not segments:
        return _first_segment(directory, settings)
    tail = segments[-1]
    if tail.header.shard != settings.shard:
        raise JournalError(f"{directory} is the journal of shard {tail.header.shard}, not {settings.shard}")
    end = read_end(tail)
    if end.sealed:
        return _finish_roll(tail, end, settings.files)
    for leftover in directory.glob(f"*{SUCCESSOR_SUFFIX}"):
        leftover.unlink()
    return tail, end


def _next_epoch(directory: Path, last: int, wanted: int | None) -> int:
    if wanted is None:
        return last + 1
    if wanted < last:
        raise JournalError(f"{directory}: epoch {last} was here before epoch {wanted}")
    return wanted


def _first_segment(directory: Path, settings: _Settings) -> tuple[SegmentFile, SegmentEnd]:
    header = SegmentHeader(
        shard=settings.shard,
        kernel_version=settings.kernel_version,
        epoch=0,
        first_command_sequence=0,
        first_event_sequence=0,
        first_ring_sequence=0,
        event_hash=HASH_START,
        state_hash=0,
        previous_hash=0,
        created_ns=time.time_ns(),
        engine_mark=settings.engine_mark,
    )
    path = directory / segment_name(0)
    os.close(create_file(settings.files, path.with_suffix(SUCCESSOR_SUFFIX), [header.pack()]))
    rename_durably(settings.files, path.with_suffix(SUCCESSOR_SUFFIX), path)
    return SegmentFile(path, header), SegmentEnd(start_of(header), sealed=False, last_command=None)


def _finish_roll(sealed: SegmentFile, end: SegmentEnd, files: FileOperations) -> tuple[SegmentFile, SegmentEnd]:
    # The crash came between the seal and the new name: the successor was whole before the seal was written.
    path = sealed.path.with_name(segment_name(end.position.sequence))
    successor = path.with_suffix(SUCCESSOR_SUFFIX)
    try:
        header = read_header(successor)
    except (FileNotFoundError, ValueError) as error:
        problem = f"{sealed.path.name} is sealed, but the segment after it is missing"
        remedy = "restore the file from a copy of the journal"
        raise JournalDamaged(path, end.position.sequence, problem, remedy) from error
    if header.previous_hash != end.position.previous_hash:
        remedy = "restore the file from a copy of the journal"
        raise JournalDamaged(successor, end.position.sequence, f"it does not continue {sealed.path.name}", remedy)
    # Rule 3 is about the seal too: its sync may have failed, and then another one would only seem to succeed.
    os.close(_copy(sealed, end, files))
    rename_durably(files, successor, path)
    return SegmentFile(path, header), SegmentEnd(start_of(header), sealed=False, last_command=None)


def _rewrite(segment: SegmentFile, end: SegmentEnd, settings: _Settings) -> int:
    return _copy(segment, end, settings.files, settings.segment_bytes)


def _copy(segment: SegmentFile, end: SegmentEnd, files: FileOperations, segment_bytes: int = 0) -> int:
    """Put a copy up to the last whole group in a segment's place; gives a descriptor of it. segment_bytes: 0 is all."""
    with segment.path.open("rb") as file:
        whole = file.read(end.position.word * 8)
    copy = segment.path.with_suffix(REWRITE_SUFFIX)
    fd = create_file(files, copy, [whole], max(segment_bytes, len(whole) + SEAL_BYTES) if segment_bytes else 0)
    crash_point("journal.before_rewrite")
    rename_durably(files, copy, segment.path)
    return fd


def _lock(directory: Path) -> int:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise JournalError(f"{directory} is in use by another process") from error
    return fd
