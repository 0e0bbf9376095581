"""The machine under the simulated engine: a clock, memory and a disk, which do what a seed says and nothing else.

The clock moves when a schedule moves it. Memory is ordinary memory in the place of shared segments: rings, tables and
metric pages are the real ones. The disk is a folder of real files, so that the real code reads and writes them, and
beside it a record of what was synced.

Rule 1: a process that dies loses nothing that it has written; the machine that dies loses what was not synced, by
sectors: each sector written since is there or not, as the seed says. Names are like that too: one that was made,
replaced or taken away is safe when its folder was synced, before that as the seed says, in the order of the changes.
Rule 2: after a sync that failed, what it was about never reaches the disk, and the next sync says nothing of it.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tradeengine.ipc.atomics import address_of
from tradeengine.storage.journal_files import FileOperations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Buffer

SECTOR_BYTES: Final = 512
START_NS: Final = 1_900_000_000 * 10**9
"""Later than any real time stamp of a file."""
NS_PER_S: Final = 10**9


class Clock:
    """Stands in for the module ``time`` in whatever is simulated. ``pause`` is called by who sleeps."""

    def __init__(self, pause: Callable[[], None]) -> None:
        self._pause = pause
        self.now_ns = START_NS
        self.uptime_ns = NS_PER_S

    def pass_by(self, duration_ns: int) -> None:
        """Let time pass."""
        self.now_ns += duration_ns
        self.uptime_ns += duration_ns

    def time_ns(self) -> int:
        """Give UTC now."""
        return self.now_ns

    def time(self) -> float:
        """Give UTC now."""
        return self.now_ns / NS_PER_S

    def monotonic_ns(self) -> int:
        """Give the time since the machine came up."""
        return self.uptime_ns

    perf_counter_ns = monotonic_ns

    def monotonic(self) -> float:
        """Give the time since the machine came up."""
        return self.uptime_ns / NS_PER_S

    def sleep(self, duration_s: float) -> None:
        """Let time pass, and others work meanwhile."""
        self.pass_by(int(duration_s * NS_PER_S))
        self._pause()


class Memory:
    """A segment of ordinary memory, as ``tradeengine.ipc.segment.Segment`` but for its descriptor."""

    fd = -1
    writable = True

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self._bytes = np.zeros(size + 64, np.uint8)
        self._offset = -address_of(self._bytes) % 64

    @classmethod
    def create(cls, name: str, size: int) -> Memory:
        """Make a segment of zeros."""
        return cls(name, size)

    def array(self, dtype: Any, offset: int, shape: Any) -> np.ndarray[Any, Any]:
        """Give an array over the memory."""
        return np.ndarray(shape, dtype, buffer=self._bytes.data, offset=self._offset + offset)

    def column(self, dtype: Any, offset: int, count: int, stride: int) -> np.ndarray[Any, Any]:
        """Give an array whose elements lie ``stride`` bytes apart."""
        return np.ndarray(count, dtype, buffer=self._bytes.data, offset=self._offset + offset, strides=(stride,))

    def buffer(self, offset: int, size: int) -> memoryview:
        """Give a view of bytes."""
        return self._bytes.data[self._offset + offset : self._offset + offset + size]

    def address(self, offset: int) -> int:
        """Give the address of a byte."""
        return address_of(self._bytes) + self._offset + offset

    def close(self) -> None:
        """Give nothing back: the memory goes with the last array over it."""


@dataclass(eq=False)
class File:
    """What of a file is safe, and what was done to it since: (offset, bytes) written, or (size, None) cut or grown."""

    safe: bytearray = field(default_factory=bytearray)
    since: list[tuple[int, bytes | None]] = field(default_factory=list)
    is_doubtful: bool = False
    """A sync failed: what was written before is not safe, and never will be."""

    def sync(self) -> None:
        """Make everything safe."""
        for offset, content in self.since:
            _apply(self.safe, offset, content)
        self.since.clear()

    def after_crash(self, random: Random) -> bytes:
        """Give what is left of it when the machine dies."""
        if not self.since:
            return bytes(self.safe)
        whole = bytearray(self.safe)
        for offset, content in self.since:
            _apply(whole, offset, content)
        left = bytearray(self.safe.ljust(len(whole), b"\0")[: len(whole)])
        how = random.random()
        for start in range(0, len(whole), SECTOR_BYTES):
            sector = slice(start, start + SECTOR_BYTES)
            if whole[sector] != left[sector] and (how < 0.2 or (how < 0.9 and random.random() < 0.5)):
                left[sector] = whole[sector]
        return bytes(left)


@dataclass(eq=False)
class Folder:
    """The names in a folder: those of now, those that are safe, and the changes since, in their order."""

    now: dict[str, File] = field(default_factory=dict)
    safe: dict[str, File] = field(default_factory=dict)
    since: list[dict[str, File]] = field(default_factory=list)
    """The names after each change."""

    def change(self, names: dict[str, File]) -> None:
        """Go on with these names."""
        self.now = names
        self.since.append(names)

    def sync(self) -> None:
        """Make the names safe."""
        self.safe = self.now
        self.since = []


class Disk(FileOperations):
    """All files of the engine under ``root``. What is asked for through here is done, and remembered.

    ``fails``: what goes wrong next, once: a write or a sync that fails, no space, a write that is cut short, or in
    which the writer dies: then ``kill`` is called, which does not return.
    """

    def __init__(self, root: Path, kill: Callable[[], None] = lambda: None) -> None:
        shutil.rmtree(root, ignore_errors=True)
        self.root = root
        self.kill = kill
        self.fails = ""
        self.cut_at = 0
        self._folders: dict[Path, Folder] = {}
        self._open: dict[int, File | Path] = {}

    def make_folder(self, path: Path) -> None:
        """Make a folder that is safe."""
        path.mkdir(parents=True)
        self._folders[path] = Folder()

    def store(self, path: Path, content: bytes) -> None:
        """Put a file there that is safe."""
        path.write_bytes(content)
        folder = self._folders[path.parent]
        folder.now = folder.safe = folder.now | {path.name: File(bytearray(content))}

    def is_safe(self, folder: Path) -> bool:
        """Whether everything that was written to a folder's files is safe."""
        return not any(file.since or file.is_doubtful for file in self._folders[folder].now.values())

    def crash(self, random: Random) -> None:
        """Lose what was not synced, as far as the seed says."""
        for path, folder in self._folders.items():
            self._notice(path, folder)
            names = random.choice([folder.safe, *folder.since]) if folder.since else folder.safe
            for there in path.iterdir():
                there.unlink()
            folder.now = folder.safe = names
            folder.since = []
            for name, file in names.items():
                file.safe = bytearray(file.after_crash(random))
                file.since.clear()
                file.is_doubtful = False
                (path / name).write_bytes(file.safe)
        self.fails = ""

    def close(self) -> None:
        """Take everything away, and close what those who died left open."""
        for fd in self._open:
            with suppress(OSError):
                if str(Path(f"/proc/self/fd/{fd}").readlink()).startswith(str(self.root)):
                    os.close(fd)
        shutil.rmtree(self.root, ignore_errors=True)

    def open(self, path: Path, flags: int) -> int:
        """Open as the system does."""
        is_new = not path.exists()
        fd = super().open(path, flags)
        if flags & os.O_DIRECTORY:
            self._open[fd] = path
            return fd
        folder = self._folders[path.parent]
        if is_new:
            folder.change(folder.now | {path.name: File()})
        file = folder.now[path.name]
        if flags & os.O_TRUNC:
            file.since.append((0, None))
        self._open[fd] = file
        return fd

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write, unless it shall fail or be cut short."""
        content = b"".join(bytes(buffer) for buffer in buffers)
        if offset and self.fails == "write":
            self.fails = ""
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        cut, kills = self.fails in ("short", "kill"), self.fails == "kill"
        if offset and cut:
            self.fails = ""
            content = content[: self.cut_at % len(content) + 1]
        self._file(fd).since.append((offset, content))
        written = os.pwrite(fd, content, offset)
        if offset and kills:
            self.kill()
        return written

    def preallocate(self, fd: int, size: int) -> None:
        """Grow the file with zeros."""
        if self.fails == "space":
            self.fails = ""
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._file(fd).since.append((size, None))
        os.ftruncate(fd, size)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file."""
        self._file(fd).since.append((size, None))
        os.ftruncate(fd, size)

    def begin_writing(self, fd: int, offset: int, size: int) -> None:
        """Do nothing: a hint."""

    def datasync(self, fd: int) -> None:
        """Make a file safe, unless it shall fail."""
        if self.fails == "sync":
            self.fails = ""
            self._file(fd).since.clear()
            self._file(fd).is_doubtful = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._file(fd).sync()

    def sync(self, fd: int) -> None:
        """Make a file, or a folder's names, safe."""
        opened = self._open[fd]
        if isinstance(opened, Path):
            folder = self._folders[opened]
            self._notice(opened, folder)
            folder.sync()
        else:
            opened.sync()

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name."""
        folder = self._folders[source.parent]
        self._notice(source.parent, folder)
        names = dict(folder.now)
        names[target.name] = names.pop(source.name)
        folder.change(names)
        super().rename(source, target)

    def _file(self, fd: int) -> File:
        file = self._open[fd]
        assert isinstance(file, File)
        return file

    def _notice(self, path: Path, folder: Folder) -> None:
        """Look which files were taken away since the last look; who does it takes the oldest first."""
        there = {entry.name for entry in path.iterdir()}
        for name in sorted(folder.now.keys() - there):
            folder.change({other: file for other, file in folder.now.items() if other != name})


def _apply(target: bytearray, offset: int, content: bytes | None) -> None:
    if content is None:
        del target[offset:]
        target.extend(bytes(offset - len(target)))
        return
    target.extend(bytes(max(0, offset + len(content) - len(target))))
    target[offset : offset + len(content)] = content
