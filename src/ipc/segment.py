"""A segment: a named piece of anonymous shared memory, reached by its descriptor and by nothing else.

Its creator makes it (``memfd_create``), sizes it once and seals the size, so that no holder can shrink it under
another's feet (that would be a SIGBUS). It has no name in any file system: it goes to children by ``pass_fds`` and to
local clients by SCM_RIGHTS, and it is gone when the last descriptor and mapping of it are. So nobody unlinks
anything, nothing is left behind by a crash, and no resource tracker ends a live one.

The first 128 bytes say what it is: magic, layout version, size, name. Offsets are counted after them.
A reader gets a *read-only descriptor* (``read_only_descriptor``): neither it nor its copies can be mapped for
writing. That guards against faulty programs of the same user, who could always reach the engine by other ways.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import weakref
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from tradeengine.ipc.atomics import address_of

if TYPE_CHECKING:
    from types import TracebackType

HEADER_BYTES: Final = 128
NAME_BYTES_MAX: Final = 96
LAYOUT_VERSION: Final = 1
_MAGIC: Final = b"TRADEENG"
_HEADER: Final = struct.Struct("<8sqq104s")
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW

assert _HEADER.size == HEADER_BYTES


class SegmentError(Exception):
    """A descriptor is not a segment of this layout, or not of the kind that was expected."""


class Segment:
    """One mapping of shared memory. ``size`` counts the usable bytes, zeroed at first.

    Arrays and addresses stay valid as long as the segment object or any array made by it is alive; ``close`` gives
    back the descriptor, and the memory goes with the last array over it.
    """

    def __init__(self, descriptor: int, writable: bool) -> None:
        """Map ``descriptor``, which ``check`` accepted, and own it. Raises PermissionError."""
        self.fd = descriptor
        self.writable = writable
        self._forgotten: weakref.finalize[[int], Self] | None = None
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size, flags=mmap.MAP_SHARED, prot=protection)
        _, _, size, name = _HEADER.unpack_from(self._memory)
        self.size: int = size
        self.name: str = name.rstrip(b"\0").decode()
        self._bytes: np.ndarray[Any, np.dtype[np.uint8]] = np.frombuffer(self._memory, np.uint8)
        self._base = address_of(self._bytes) + HEADER_BYTES

    @classmethod
    def create(cls, name: str, size: int) -> Self:
        """Make a segment of ``size`` > 0 zero bytes. ``name``: at most 96 bytes, shown in ``/proc/…/maps`` too."""
        encoded = name.encode()
        assert 0 < len(encoded) <= NAME_BYTES_MAX
        assert size > 0
        descriptor = os.memfd_create(f"tradeengine:{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, HEADER_BYTES + size)
        os.pwrite(descriptor, _HEADER.pack(_MAGIC, LAYOUT_VERSION, size, encoded), 0)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS | fcntl.F_SEAL_SEAL)
        segment = cls(descriptor, writable=True)
        # The creator's descriptor keeps the memory; one that is forgotten and not closed must not keep it for ever.
        segment._forgotten = weakref.finalize(segment, os.close, descriptor)
        segment._forgotten.atexit = False
        return segment

    @classmethod
    def attach(cls, fd: int, *, writable: bool) -> Self:
        """Map a segment that another process made; the descriptor belongs to it from now on.

        Raises SegmentError when it is none, PermissionError when a read-only descriptor shall be mapped for writing.
        The descriptor is closed then too.
        """
        try:
            check(fd)
            return cls(fd, writable)
        except BaseException:
            os.close(fd)
            raise

    def array(self, dtype: Any, offset: int, shape: int | tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Give an array over the memory, ``offset`` bytes in; read-only when the segment is."""
        assert offset >= 0
        assert offset + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize <= self.size
        return np.ndarray(shape, dtype, buffer=self._memory, offset=HEADER_BYTES + offset)

    def column(self, dtype: Any, offset: int, count: int, stride: int) -> np.ndarray[Any, Any]:
        """Give a one-dimensional array whose ``count`` ≥ 1 elements lie ``stride`` bytes apart."""
        assert offset >= 0
        assert offset + (count - 1) * stride + np.dtype(dtype).itemsize <= self.size
        return np.ndarray(count, dtype, buffer=self._memory, offset=HEADER_BYTES + offset, strides=(stride,))

    def buffer(self, offset: int, size: int) -> memoryview:
        """Give a view of bytes; interpreted code reads and writes single words faster through one than an array."""
        assert offset >= 0
        assert offset + size <= self.size
        return memoryview(self._memory)[HEADER_BYTES + offset : HEADER_BYTES + offset + size]

    def address(self, offset: int) -> int:
        """Give the address of a byte, for compiled code. Valid as long as this object or an array of it lives."""
        assert 0 <= offset < self.size
        return self._base + offset

    def read_only_descriptor(self) -> int:
        """Open a new descriptor that cannot be mapped for writing; the caller owns it."""
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Give back the descriptor. Memory that an array still covers stays mapped until that array is gone."""
        if self._forgotten is not None:
            self._forgotten.detach()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def check(descriptor: int) -> None:
    """Look whether a descriptor is a whole segment of this layout, before it is mapped. Raises SegmentError."""
    size_whole = os.fstat(descriptor).st_size
    if size_whole <= HEADER_BYTES:
        raise SegmentError(f"descriptor {descriptor} is not a segment: {size_whole} bytes")
    magic, version, size, name = _HEADER.unpack(os.pread(descriptor, HEADER_BYTES, 0))
    if magic != _MAGIC:
        raise SegmentError(f"descriptor {descriptor} is not a segment: it has no magic")
    if version != LAYOUT_VERSION:
        raise SegmentError(
            f"segment {name.rstrip(bytes(1)).decode(errors='replace')} has layout version {version}, this program "
            f"knows {LAYOUT_VERSION}: use the version of the program that the engine runs"
        )
    if size != size_whole - HEADER_BYTES:
        raise SegmentError(f"segment says {size} bytes and has {size_whole - HEADER_BYTES}")
    if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise SegmentError(f"descriptor {descriptor} may be resized by others")
