"""Tables of rows in shared memory that one process writes and any number read, without either waiting for the other.

Each row has a version. The writer makes it odd, writes, makes it even; a reader copies the row and takes the copy
only if the version was even and did not change meanwhile. So readers never see half a row, never delay the writer,
and need no right to write.

Rule 1: one writer per row; different rows may have different writers.
Rule 2: reads are bounded. A row that stays odd, because its writer was killed in the middle or writes without pause,
ends in ``SeqlockBusy``, and the caller says that it does not know.
Rule 3: a writer that finds an odd version writes as usual, which repairs the row; one that starts anew rewrites its
rows, or at least ``torn_rows()``.
It refuses to know what a row means.
"""

from __future__ import annotations

import struct
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import numpy as np

from tradeengine.ipc.layout import layout_checksum
from tradeengine.ipc.segment import Segment
from tradeengine.ipc.seqlock_kernels import (
    OUTSIDE,
    begin_write,
    end_write,
    read_rows,
    unchanged,
    version_of,
    write_rows,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Rows = np.ndarray[Any, np.dtype[Any]]
    Indices = np.ndarray[Any, np.dtype[np.int64]] | Sequence[int]

Result = TypeVar("Result")

LINE_BYTES: Final = 64
_OTHER: Final = ": use the version of the program that the engine runs"
_STATIC: Final = struct.Struct("<qqq")  # record bytes, layout checksum, row count
_ROWS_OFFSET: Final = LINE_BYTES
_VERSION_BYTES: Final = 8
_ROUNDS_MAX: Final = 40
"""Rounds of a read; a round is some dozens of tries, and the pauses between rounds add up to about 4 ms."""
_PAUSE_S: Final = 0.0001

assert _STATIC.size <= LINE_BYTES


class SeqlockError(Exception):
    """A segment does not hold the table that was asked for."""


class SeqlockBusy(Exception):  # noqa: N818 - names the state of the row
    """A row was being written at every try: its writer died in the middle, or writes without pause."""

    def __init__(self, table_name: str, row: int) -> None:
        super().__init__(f"{table_name}: row {row} is being written, or its writer died while writing it")
        self.row = row


class SeqlockTable:
    """A table of ``rows`` records of one dtype; all zero at first."""

    def __init__(self, segment: Segment, dtype: Any) -> None:
        """Take over a segment that holds a table. Raises SeqlockError when it holds something else."""
        self.segment = segment
        self.name = segment.name
        self.dtype = np.dtype(dtype)
        self.writable = segment.writable
        if segment.size < _ROWS_OFFSET:
            raise SeqlockError(f"{segment.name} is no table")
        record_bytes, checksum, rows = _STATIC.unpack_from(segment.buffer(0, _ROWS_OFFSET))
        if record_bytes != self.dtype.itemsize or checksum != layout_checksum(self.dtype):
            raise SeqlockError(
                f"{segment.name} holds other rows, of {record_bytes} bytes, than were asked for" + _OTHER
            )
        self._stride = _stride(self.dtype)
        if rows <= 0 or segment.size != _ROWS_OFFSET + rows * self._stride:
            raise SeqlockError(f"{segment.name} has {rows} rows in {segment.size} bytes")
        self.rows: int = rows
        self._base = segment.address(_ROWS_OFFSET)
        self._records = segment.column(self.dtype, _ROWS_OFFSET + _VERSION_BYTES, rows, self._stride)
        self._geometry = (self._base, self.rows, self._stride, self.dtype.itemsize)

    @classmethod
    def create(cls, name: str, dtype: Any, rows: int) -> Self:
        """Make a table of ``rows`` ≥ 1 zeroed rows."""
        assert rows >= 1
        kind = np.dtype(dtype)
        segment = Segment.create(name, _ROWS_OFFSET + rows * _stride(kind))
        _STATIC.pack_into(segment.buffer(0, _ROWS_OFFSET), 0, kind.itemsize, layout_checksum(kind), rows)
        return cls(segment, kind)

    @classmethod
    def attach(cls, fd: int, dtype: Any, *, writable: bool) -> Self:
        """Map a table that another process made; the descriptor belongs to it from now on.

        Raises SeqlockError and SegmentError.
        """
        return cls(Segment.attach(fd, writable=writable), dtype)

    @property
    def fd(self) -> int:
        """The descriptor to pass on."""
        return self.segment.fd

    def write(self, row: int, record: Any) -> None:
        """Write one row; ``record`` is whatever numpy can assign to one element of the dtype."""
        records = np.empty(1, self.dtype)
        records[0] = record
        self.write_rows((row,), records)

    def write_rows(self, indices: Indices, records: Rows) -> None:
        """Write ``records[i]`` into row ``indices[i]``, row by row: readers may see some new and some old ones."""
        assert self.writable
        rows = _index_array(indices)
        assert records.dtype.itemsize == self.dtype.itemsize
        assert len(records) == len(rows)
        content = records.view(np.uint8)
        if not content.flags.writeable:
            # Compiled code knows one type of array; a read-only one would be another.
            content = content.copy()
        if not write_rows(*self._geometry, rows, content):
            raise IndexError(f"{self.name} has rows 0 to {self.rows - 1}")

    @contextmanager
    def writing(self, row: int) -> Iterator[Any]:
        """Write a part of a large row in place: gives the row as a record; readers wait until the block ends.

        If the block fails the row stays odd, which is what it is.
        """
        assert self.writable
        version_address = self._version_address(row)
        version = begin_write(version_address)
        yield self._records[row]
        end_write(version_address, version)

    def read(self, row: int) -> Any:
        """Give a copy of one row, as a numpy record of the dtype. Raises SeqlockBusy."""
        return self.read_rows((row,))[0]

    def read_rows(self, indices: Indices) -> Rows:
        """Give copies of rows, each whole; they need not be of the same moment. Raises SeqlockBusy."""
        rows = _index_array(indices)
        records = np.empty(len(rows), self.dtype)
        target, done = records.view(np.uint8), 0
        for _ in range(_ROUNDS_MAX):
            done = read_rows(*self._geometry, rows, target, done)
            if done == len(rows):
                return records
            if done == OUTSIDE:
                raise IndexError(f"{self.name} has rows 0 to {self.rows - 1}")
            time.sleep(_PAUSE_S)
        raise SeqlockBusy(self.name, int(rows[done]))

    def read_with(self, row: int, copy: Callable[[Any], Result]) -> Result:
        """Give what ``copy`` takes from a row in place, for rows of which a part is wanted. Raises SeqlockBusy.

        copy: gets the record over the shared memory, returns copies only, and stands torn numbers, because it is
        called again when the row changed under it. An error that it raises counts only if the row did not change.
        """
        version_address = self._version_address(row)
        record = self._records[row]
        for _ in range(_ROUNDS_MAX):
            version = version_of(version_address)
            if not version & 1:
                try:
                    result = copy(record)
                except Exception:
                    if unchanged(version_address, version):
                        raise
                else:
                    if unchanged(version_address, version):
                        return result
            time.sleep(_PAUSE_S)
        raise SeqlockBusy(self.name, row)

    def version(self, row: int) -> int:
        """Give a number that changes whenever the row does; odd while it is being written."""
        return version_of(self._version_address(row))

    def torn_rows(self) -> list[int]:
        """List the rows whose writer was killed in the middle. For their writer, while it does not write."""
        return [row for row in range(self.rows) if self.version(row) & 1]

    def close(self) -> None:
        """Give back the descriptor; the memory goes with the last array over it."""
        self.segment.close()

    def _version_address(self, row: int) -> int:
        if not 0 <= row < self.rows:
            raise IndexError(f"{self.name} has rows 0 to {self.rows - 1}, not {row}")
        return self._base + row * self._stride


def _index_array(indices: Indices) -> np.ndarray[Any, np.dtype[np.int64]]:
    rows = np.ascontiguousarray(indices, np.int64)
    return rows if rows.flags.writeable else rows.copy()


def _stride(dtype: np.dtype[Any]) -> int:
    """Bytes from row to row: whole cache lines, so that writers of neighbouring rows do not meet."""
    return -(-(_VERSION_BYTES + dtype.itemsize) // LINE_BYTES) * LINE_BYTES
