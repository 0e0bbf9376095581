"""The compiled inside of seqlocked tables. A row is its version, one word, and then its record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from numba import njit

from tradeengine.ipc.atomics import (
    WORD_BYTES,
    bytes_address,
    copy_bytes,
    fence_acquire,
    fence_release,
    load_acquire,
    pause,
    store_release,
)

if TYPE_CHECKING:
    import numpy as np

    Indices = np.ndarray[Any, np.dtype[np.int64]]
    Bytes = np.ndarray[Any, np.dtype[np.uint8]]

TRIES_PER_ROUND: Final = 64
OUTSIDE: Final = -1


@njit("int64(int64)", cache=True)
def begin_write(version_address: int) -> int:
    """Mark a row as being written; an odd version is a dead writer's and stays. Returns the odd version."""
    version: int = load_acquire(version_address) | 1
    store_release(version_address, version)
    # A reader that sees a byte of the new record must see the odd version.
    fence_release()
    return version


@njit("void(int64, int64)", cache=True)
def end_write(version_address: int, version: int) -> None:
    """Mark a row as whole again."""
    store_release(version_address, version + 1)


@njit("int64(int64)", cache=True)
def version_of(version_address: int) -> int:
    """Give a row's version, before it is read."""
    version: int = load_acquire(version_address)
    return version


@njit("boolean(int64, int64)", cache=True)
def unchanged(version_address: int, version: int) -> bool:
    """Say whether what was read since ``version_of`` is whole."""
    fence_acquire()
    same: bool = load_acquire(version_address) == version
    return same


@njit("boolean(int64, int64[::1])", cache=True)
def inside(row_count: int, rows: Indices) -> bool:
    """Say whether all rows exist: what is compiled below does not look."""
    for row in rows:  # noqa: SIM110 - a generator does not compile
        if row < 0 or row >= row_count:
            return False
    return True


@njit("boolean(int64, int64, int64, int64, int64[::1], uint8[::1])", cache=True)
def write_rows(base: int, row_count: int, stride: int, record_bytes: int, rows: Indices, records: Bytes) -> bool:
    """Write records, one after another, into rows. Writes nothing and returns False when a row does not exist."""
    if not inside(row_count, rows):
        return False
    source = bytes_address(records)
    for index in range(len(rows)):
        version_address = base + rows[index] * stride
        version = begin_write(version_address)
        copy_bytes(version_address + WORD_BYTES, source + index * record_bytes, record_bytes)
        end_write(version_address, version)
    return True


@njit("int64(int64, int64, int64, int64, int64[::1], uint8[::1], int64)", cache=True)
def read_rows(
    base: int, row_count: int, stride: int, record_bytes: int, rows: Indices, records: Bytes, done: int
) -> int:
    """Copy rows, one after another, into ``records``, from ``rows[done]`` on; returns how many are done.

    That is fewer than all when one was being written at each of a bounded number of tries, and OUTSIDE when a row
    does not exist.
    """
    if not inside(row_count, rows):
        return OUTSIDE
    target = bytes_address(records)
    tries = 0
    while done < len(rows) and tries < TRIES_PER_ROUND:
        version_address = base + rows[done] * stride
        version = load_acquire(version_address)
        if version & 1 == 0:
            copy_bytes(target + done * record_bytes, version_address + WORD_BYTES, record_bytes)
            if unchanged(version_address, version):
                done += 1
                tries = 0
                continue
        tries += 1
        pause()
    return done


def compile_kernels() -> None:
    """Compile what is compiled here. Signatures are fixed, so importing has done it already."""
    for kernel in (begin_write, end_write, version_of, unchanged, inside, write_rows, read_rows):
        assert kernel.signatures
