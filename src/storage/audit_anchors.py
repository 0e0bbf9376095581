"""Anchors: the newest hash of the audit log, again and again, in a file outside of the database.

Rule 1: an anchor is written when its row is committed, and synced; so the log never ends before an anchor.
Rule 2: a file that has grown long is thinned out: every second anchor stays, and always the newest.
It refuses to know what is in the rows.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tradeengine.storage.audit import Link
from tradeengine.storage.audit_spool import sync_folder

NAME: Final = "anchors"
ANCHORS_BYTES_MAX: Final = 1 << 20
_LINE: Final = re.compile(rb"([0-9]{1,19}) ([0-9a-f]{64})\n?")


class Anchors:
    """The file of a data directory; any number of processes add to it."""

    def __init__(self, folder: Path, *, bytes_max: int = ANCHORS_BYTES_MAX) -> None:
        """Nothing is opened before it is needed."""
        self.path = folder / NAME
        self._bytes_max = bytes_max

    def add(self, link: Link) -> None:
        """Write down durably where the log is. Raises OSError."""
        line = _line(link)
        with self._locked() as descriptor:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line  # somebody was killed in the middle of a line
            if os.write(descriptor, line) != len(line):
                raise OSError(f"{self.path} was not written whole")
            os.fsync(descriptor)
            if size + len(line) > self._bytes_max:
                self._thin_out()

    def read(self) -> list[Link]:
        """Read all anchors, in the order in which they were written; a torn line is none. Raises OSError."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        found = [_LINE.fullmatch(line) for line in lines]
        return [Link(int(match[1]), bytes.fromhex(match[2].decode())) for match in found if match]

    def _thin_out(self) -> None:
        anchors = self.read()
        kept = [anchor for place, anchor in enumerate(reversed(anchors)) if place % 2 == 0]
        making = self.path.with_suffix(".making")
        with making.open("wb") as file:
            file.write(b"".join(_line(anchor) for anchor in reversed(kept)))
            file.flush()
            os.fsync(file.fileno())
        making.rename(self.path)
        sync_folder(self.path.parent)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Open the file, alone; it may have been replaced while this waited."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            is_new = not self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if self.path.stat().st_ino == os.fstat(descriptor).st_ino:
                    if is_new:
                        sync_folder(self.path.parent)
                    yield descriptor
                    return
            finally:
                os.close(descriptor)


def _line(link: Link) -> bytes:
    return f"{link.id} {link.hash.hex()}\n".encode()
