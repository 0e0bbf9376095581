"""The few file operations that durability rests on, in one place, so that a test can make each of them fail.

Rule 1: a file comes into being complete: written under another name, synced, renamed, and the folder synced.
Rule 2: a write that was cut short goes on where it stopped; an error is the caller's, who must not try again.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

_SYNC_FILE_RANGE_WRITE: Final = 2
_libc: Final = ctypes.CDLL(None)


class FileOperations:
    """The operating system's calls. Tests put a failing double in its place."""

    def open(self, path: Path, flags: int) -> int:
        """Open and return a descriptor; what is created is readable by this user only."""
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write at ``offset``; returns how many bytes were taken, which may be fewer."""
        return os.pwritev(fd, buffers, offset)

    def preallocate(self, fd: int, size: int) -> None:
        """Reserve ``size`` bytes that read as zeros. Raises OSError ENOSPC when they are not there."""
        os.posix_fallocate(fd, 0, size)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to ``size`` bytes."""
        os.ftruncate(fd, size)

    def begin_writing(self, fd: int, offset: int, size: int) -> None:
        """Let the disk begin with these bytes now, so that a later ``datasync`` waits less. A hint; fails silently."""
        _libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(size), _SYNC_FILE_RANGE_WRITE)

    def datasync(self, fd: int) -> None:
        """Wait until the file's bytes, and the size that reading them needs, are on the disk."""
        os.fdatasync(fd)

    def sync(self, fd: int) -> None:
        """Wait until a file or folder with all its metadata is on the disk."""
        os.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Give ``source`` the name ``target``, replacing what has it."""
        source.rename(target)


def write_all(files: FileOperations, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
    """Write all ``buffers`` back to back at ``offset``; returns how many bytes. Raises OSError."""
    size = sum(memoryview(buffer).nbytes for buffer in buffers)
    written = files.pwritev(fd, buffers, offset)
    if written < size:
        rest = memoryview(b"".join(buffers))
        while written < size:
            written += files.pwritev(fd, [rest[written:]], offset + written)
    return size


def create_file(files: FileOperations, path: Path, parts: Sequence[Buffer], size: int = 0) -> int:
    """Create ``path`` with ``parts``, preallocated to ``size`` bytes, synced; returns a descriptor open for writing."""
    fd = files.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        if size:
            files.preallocate(fd, size)
        write_all(files, fd, parts, 0)
        files.sync(fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def rename_durably(files: FileOperations, source: Path, target: Path) -> None:
    """Rename within one folder and sync the folder, so that the new name survives a crash."""
    files.rename(source, target)
    sync_folder(files, target.parent)


def make_folder(files: FileOperations, folder: Path) -> None:
    """Make a folder, and what is missing above it, so that they survive a crash. Raises OSError."""
    missing = [place for place in (folder, *folder.parents) if not place.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_folder(files, place.parent)


def sync_folder(files: FileOperations, folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    fd = files.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        files.sync(fd)
    finally:
        os.close(fd)
