"""A machine with faults: what the operating system says to a program that has this folder in its PYTHONPATH.

Python imports a module of this name at its start. Each fault holds while a file of its name is in the folder that the
variable FAULTS names: ``slow_disk``, ``full_disk``, ``clock_unsynchronised``, ``clock_ahead``, ``memory``. The engine
knows nothing of it: calls of the operating system answer as they would on such a machine.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

_FOLDER = os.environ.get("FAULTS", "")
_SYNC_S = 0.08
_AHEAD_NS = 2 * 10**9
_MEMORY_BYTES = 640 * 2**20
_UNSYNCHRONISED = 0x0040
_FREE_FIELDS = (3, 4)  # f_bfree and f_bavail of what statvfs gives

_fdatasync, _statvfs, _time_ns = os.fdatasync, os.statvfs, time.time_ns
_load = ctypes.CDLL.__getattr__
_hoard: list[bytearray] = []


def _has(fault: str) -> bool:
    return os.access(os.path.join(_FOLDER, fault), os.F_OK)  # noqa: PTH118 - nothing heavy is imported here


def fdatasync(fd: Any) -> None:
    """Take longer when the disk is slow."""
    if _has("slow_disk"):
        time.sleep(_SYNC_S)
    _fdatasync(fd)


def statvfs(path: Any) -> os.statvfs_result:
    """Say that hardly anything is free when the disk is full; hoard memory when there is to be a leak."""
    if _has("memory"):
        # Touched, page by page: what was only asked for is not held.
        _hoard[:] = _hoard or [bytearray(b"x") * _MEMORY_BYTES]
    else:
        _hoard.clear()
    found = _statvfs(path)
    if not _has("full_disk"):
        return found
    return os.statvfs_result([1 if place in _FREE_FIELDS else value for place, value in enumerate(found)])


def time_ns() -> int:
    """Be ahead when the clock was set."""
    return _time_ns() + (_AHEAD_NS if _has("clock_ahead") else 0)


def load(library: ctypes.CDLL, name: str) -> Any:
    """Give a function of a library; adjtimex says whether the clock is synchronised as it is wanted here."""
    function = _load(library, name)
    if name != "adjtimex":
        return function

    def adjtimex(reference: Any) -> int:
        state = int(function(reference))
        clock = reference._obj
        clock.status = clock.status & ~_UNSYNCHRONISED | (_UNSYNCHRONISED if _has("clock_unsynchronised") else 0)
        return max(state, 0)

    setattr(library, name, adjtimex)
    return adjtimex


if _FOLDER:
    os.fdatasync, os.statvfs, time.time_ns = fdatasync, statvfs, time_ns
    ctypes.CDLL.__getattr__ = load  # type: ignore[method-assign]
