"""Where actions wait on their way into the audit log: a file per process in the data directory, synced line by line.

Rule 1: an action that begins is on the disk before anything of it is done, and its end before anyone hears of it. What
began and never ended, because the process was killed, is told as ``unknown`` by whoever opens the file next.
Rule 2: a file has one owner, who holds a lock on it for life. What a dead owner left anybody may take over.
Rule 3: room for the usual is taken in advance, so that a full disk does not stop whoever wants to halt trading; there
is a bound above, and beyond it actions are refused, not forgotten.
Rule 4: the first failure of a sync is final, as it is for journals: the process writes nothing more here.
It refuses to know PostgreSQL: a file is read by whoever brings the entries there, and started anew when all are there.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec.structs import replace

from tradeengine.storage.audit import Entry

SUFFIX: Final = ".spool"
ROOM_BYTES: Final = 1 << 20
"""Taken from the disk in advance; a file of half of it is started anew once everything in it is in the log."""
SPOOL_BYTES_MAX: Final = 64 << 20
UNKNOWN: Final = "unknown"
UNKNOWN_CODE: Final = "OUTCOME_UNKNOWN"
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Entry).decode
_CHECKSUM_DIGITS: Final = 8

logger = structlog.get_logger()


class SpoolError(Exception):
    """Nothing can be written down now; the message says why."""


class Spool:
    """One file, open for its owner. May be used by several threads; positions are bytes.

    ``unread``: before it everything is in the log.
    """

    def __init__(self, path: Path, descriptor: int, *, room_bytes: int = ROOM_BYTES) -> None:
        """Take over a file that is locked: end what began and did not end. Raises SpoolError, OSError."""
        self.path = path
        self.unread = 0
        self._descriptor = descriptor
        self._room_bytes = room_bytes
        self._lock = threading.Lock()
        self._open: dict[str, Entry] = {}
        self._failed: str | None = None
        self._end = self._recover()
        for entry in list(self._open.values()):
            self.write(replace(entry, outcome=UNKNOWN, code=UNKNOWN_CODE))

    @property
    def end(self) -> int:
        """Where the next entry will be."""
        return self._end

    def write(self, entry: Entry) -> int:
        """Write an entry down durably; returns where it ends. One without an outcome begins an action.

        Raises SpoolError: then it is not there, and what it wants must not be done.
        """
        payload = _encode(entry)
        line = b"%08x %b\n" % (zlib.crc32(payload), payload)
        with self._lock:
            if self._failed is not None:
                raise SpoolError(self._failed)
            # The end of what has begun always has room: who was let in is written down.
            if entry.outcome is None and self._end + len(line) > SPOOL_BYTES_MAX:
                raise SpoolError(f"{self.path} is full: too much waits for the database")
            self._put(line)
            self._end += len(line)
            if entry.outcome is None:
                self._open[entry.action_id] = entry
            else:
                self._open.pop(entry.action_id, None)
            return self._end

    def read_ended(self, count_max: int) -> tuple[list[Entry], int]:
        """Read on from ``unread``: entries that have ended, and where the last one that was looked at ends."""
        entries: list[Entry] = []
        position = self.unread
        for entry, end in self._lines(position, self._end):
            position = end
            if entry.outcome is not None:
                entries.append(entry)
            if len(entries) == count_max:
                break
        if position == self.unread != self._end:
            raise SpoolError(f"{self.path} is damaged at byte {position}")
        return entries, position

    def mark_read(self, position: int) -> None:
        """Say that everything before a position is in the log; a long file is started anew when all of it is."""
        with self._lock:
            self.unread = position
            if position == self._end and not self._open and position >= self._room_bytes // 2:
                self._start_anew()

    def waiting_bytes(self) -> int:
        """How much of the file is not in the log yet."""
        return self._end - self.unread

    def remove(self) -> None:
        """Remove a file of which everything is in the log."""
        assert self.unread == self._end
        self.path.unlink()
        self.close()

    def put_aside(self, why: str) -> None:
        """Rename a file with entries that the log does not take, and let go of it. Raises OSError."""
        aside = self.path.rename(self._aside())
        self.close()
        logger.error("an audit file is kept aside", path=str(aside), position=self.unread, error=why)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def _put(self, line: bytes) -> None:
        try:
            written = os.pwrite(self._descriptor, line, self._end)
        except OSError as error:
            raise SpoolError(f"{self.path} cannot be written: {error.strerror}") from None
        if written != len(line):
            raise SpoolError(f"{self.path} cannot be written: the disk is full")
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            # What the kernel did not write it may have dropped: nothing after this is certain.
            self._failed = f"{self.path} cannot be synced: {error.strerror}"
            raise SpoolError(self._failed) from None

    def _recover(self) -> int:
        end = 0
        for entry, line_end in self._lines(0, os.fstat(self._descriptor).st_size):
            end = line_end
            if entry.outcome is None:
                self._open[entry.action_id] = entry
            else:
                self._open.pop(entry.action_id, None)
        # What is behind the last whole line was never acted upon, unless the disk or somebody damaged the line.
        self._keep_rest(end)
        os.ftruncate(self._descriptor, end)
        self._take_room(self._descriptor, end)
        os.fsync(self._descriptor)
        return end

    def _keep_rest(self, end: int) -> None:
        """Keep what will be cut off in a file of its own if there is more of it than half a line."""
        rest = os.pread(self._descriptor, os.fstat(self._descriptor).st_size - end, end).rstrip(b"\0")
        if b"\n" not in rest:
            return
        aside = self._aside()
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(rest)
            file.flush()
            os.fsync(file.fileno())
        logger.error("an audit file is damaged; what cannot be read is kept aside", path=str(aside), position=end)

    def _aside(self) -> Path:
        return self.path.with_suffix(f".damaged-{time.time_ns()}")

    def _take_room(self, descriptor: int, end: int) -> None:
        # Without room on the disk it goes on as far as it goes.
        with suppress(OSError):
            if end < self._room_bytes:
                os.posix_fallocate(descriptor, end, self._room_bytes - end)

    def _lines(self, position: int, end: int) -> Iterator[tuple[Entry, int]]:
        """Read whole lines of a part of the file; each with where it ends."""
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(position)
            while position < end:
                line = file.readline()
                entry = _read_line(line)
                if entry is None:
                    return
                position += len(line)
                yield entry, position

    def _start_anew(self) -> None:
        """Put an empty file, with its room, into the place of this one; with no room for one, keep this one."""
        making = self.path.with_suffix(".making")
        fresh = os.open(making, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fresh, fcntl.LOCK_EX)
            os.posix_fallocate(fresh, 0, max(self._room_bytes, 1))
            os.fsync(fresh)
            making.rename(self.path)
            sync_folder(self.path.parent)
        except OSError:
            os.close(fresh)
            return
        os.close(self._descriptor)
        self._descriptor, self._end, self.unread = fresh, 0, 0


def open_spool(path: Path, *, room_bytes: int = ROOM_BYTES) -> Spool:
    """Open a process' own file, made when missing; waits for whoever brings what a dead owner left into the log.

    Raises SpoolError.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(path, descriptor):
                sync_folder(path.parent)
                return Spool(path, descriptor, room_bytes=room_bytes)
            os.close(descriptor)
    except OSError as error:
        raise SpoolError(f"{path} cannot be used: {error.strerror}") from None


def left_over_spools(folder: Path) -> Iterator[Spool]:
    """Take over files whose owner is gone, one after the other; whoever asks closes or removes each."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        spool = _take_left_over(path)
        if spool is not None:
            yield spool


def _take_left_over(path: Path) -> Spool | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(path, descriptor):
            return Spool(path, descriptor, room_bytes=0)
    except (OSError, SpoolError):
        pass
    os.close(descriptor)
    return None


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether a name still means this file: its last owner may have removed it."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def _read_line(line: bytes) -> Entry | None:
    """Read one line; None for one that was not written whole."""
    checksum, payload = line[:_CHECKSUM_DIGITS], line[_CHECKSUM_DIGITS + 1 : -1]
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(payload):
        return None
    try:
        return _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
