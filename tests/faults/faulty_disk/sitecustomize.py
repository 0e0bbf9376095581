"""A disk with faults: what the operating system says to a program that has this folder in its PYTHONPATH.

Python imports a module of this name at its start. Each fault is a file in the folder that the variable DISK_FAULTS
names, called like what fails (``fdatasync``, ``fsync``, ``pwritev``, ``pwrite``, ``fallocate``), and holds while it is
there. In it stand what the path must contain, and what happens: the number of an error, ``short`` (half of it is
written), ``once N`` (the error, and the fault is over), or ``hang`` (it ends when the fault is over). Whoever meets a
fault says so by a file of that name with ``.met`` behind it.

The engine knows nothing of it: calls of the operating system answer as they would on such a disk.
"""

from __future__ import annotations

import os
import time
from typing import Any

_FOLDER = os.environ.get("DISK_FAULTS", "")
_PAUSE_S = 0.005

_fdatasync, _fsync, _pwritev, _pwrite = os.fdatasync, os.fsync, os.pwritev, os.pwrite
_fallocate = os.posix_fallocate


def _fault(call: str, fd: int) -> str:
    """Give what happens to this call; empty: what is usual. Raises OSError."""
    place = f"{_FOLDER}/{call}"
    try:
        with open(place, encoding="ascii") as file:  # noqa: PTH123 - nothing heavy is imported here
            part, _, what = file.read().partition(" ")
        if part not in os.readlink(f"/proc/self/fd/{fd}"):  # noqa: PTH115
            return ""
    except OSError:
        return ""
    if what.startswith("once "):
        os.rename(place, f"{place}.over")  # noqa: PTH104
    os.close(os.open(f"{place}.met", os.O_CREAT | os.O_WRONLY))
    if what == "hang":
        while os.access(place, os.F_OK):
            time.sleep(_PAUSE_S)
        return ""
    if what == "short":
        return what
    number = int(what.removeprefix("once "))
    raise OSError(number, os.strerror(number))


def fdatasync(fd: Any) -> None:
    """Sync, as far as this disk does."""
    _fault("fdatasync", fd)
    _fdatasync(fd)


def fsync(fd: Any) -> None:
    """Sync, as far as this disk does."""
    _fault("fsync", fd)
    _fsync(fd)


def pwritev(fd: int, buffers: Any, offset: int, *flags: int) -> int:
    """Write, as far as this disk does."""
    if _fault("pwritev", fd) == "short":
        data = b"".join(buffers)
        return _pwrite(fd, data[: max(len(data) // 2, 1)], offset)
    return _pwritev(fd, buffers, offset, *flags)


def pwrite(fd: int, data: Any, offset: int) -> int:
    """Write, as far as this disk does."""
    _fault("pwrite", fd)
    return _pwrite(fd, data, offset)


def posix_fallocate(fd: int, offset: int, size: int) -> None:
    """Take room, as far as this disk has some."""
    _fault("fallocate", fd)
    _fallocate(fd, offset, size)


if _FOLDER:
    os.fdatasync, os.fsync, os.pwritev, os.pwrite = fdatasync, fsync, pwritev, pwrite
    os.posix_fallocate = posix_fallocate
