"""The compiled reader of a segment's groups: checks each one and copies its commands into one array.

At low load a group holds one command, so per-group work decides how fast a journal is read: it is compiled.
Rule 1: it stops at the first group that is not whole and in its place, and says so; the caller judges why.
Rule 2: it works on plain arrays of words, so that it runs without compilation too.
It refuses to know files.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numba import njit

from tradeengine.core.records import COMMAND_BYTES
from tradeengine.storage.journal_format import (
    COUNT_HALF,
    EPOCH_HALF,
    FIRST_SEQUENCE_WORD,
    FORMAT_VERSION,
    GROUP_FRAME_BYTES,
    GROUP_HEADER_BYTES,
    GROUP_MAGIC,
    GROUP_SEAL,
    HEADER_CRC_HALF,
    HEADER_END,
    HEADER_END_HALF,
    KERNEL_HALF,
    KIND_HALF,
    PAYLOAD_CRC_HALF,
    PREVIOUS_HASH_WORD,
    SHARD_FORMAT_HALF,
    TRAILER,
    GroupHeader,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCAN_FULL: Final = 0
"""The next group does not fit the output any more."""
SCAN_STOPPED: Final = 1
"""The next group is not whole, or there is none."""
SCAN_SEALED: Final = 2
"""The seal was read: the segment ends here."""

_FRAME_WORDS: Final = GROUP_FRAME_BYTES // 8
_HEADER_WORDS: Final = GROUP_HEADER_BYTES // 8
_RECORD_WORDS: Final = COMMAND_BYTES // 8
_CRC_WORDS: Final = HEADER_CRC_HALF // 2
_MAGIC: Final = np.uint64(GROUP_MAGIC)
_TRAILER_WORD: Final = np.frombuffer(TRAILER, "<u8")[0]
_LOW: Final = np.uint64(0xFFFFFFFF)
_BYTE: Final = np.uint64(0xFF)


def _crc_tables() -> NDArray[np.uint64]:
    # Table k gives the CRC of one byte followed by k zero bytes: eight look-ups then take in a word.
    tables = np.zeros((8, 256), dtype=np.uint64)
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
        tables[0, value] = crc
    for k in range(1, 8):
        before = tables[k - 1]
        tables[k] = before >> np.uint64(8) ^ tables[0][(before & _BYTE).astype(np.int64)]
    return tables


CRC_TABLES: Final = _crc_tables()


class ScanPosition(NamedTuple):
    """Where a reader of one segment stands: all that the next call needs."""

    word: int
    """Offset of the next group in the file, in words of 8 bytes."""
    sequence: int
    """Command sequence that the next group must begin with."""
    previous_hash: int
    """Hash of the last whole group."""
    epoch: int
    """Of the last whole group; never falls."""


def scan(
    words: NDArray[np.uint64], position: ScanPosition, shard: int, out: NDArray[np.uint64]
) -> tuple[int, int, int, ScanPosition]:
    """Read whole groups from ``position`` until ``out`` is full, the groups end, or one is not whole.

    words: the file as little-endian words. out: rows of COMMAND_BYTES / 8 words; filled with commands from row 0.
    Returns status (SCAN_…), commands copied, the kernel version of the last group read (-1: none was read), and the
    new position. A change of kernel version ends the call (as SCAN_FULL) before the group that brings it.
    """
    status, count, kernel, word, sequence, low, high, epoch = _scan(
        words,
        words.view(np.uint32),
        position.word,
        position.sequence,
        np.uint64(position.previous_hash),
        position.epoch,
        shard,
        out,
        CRC_TABLES,
    )
    previous_hash = int(high) << 32 | int(low)
    return int(status), int(count), int(kernel), ScanPosition(int(word), int(sequence), previous_hash, int(epoch))


def compile_kernels() -> None:
    """Compile and cache the kernels of this file by calling each once."""
    out = np.zeros((2, _RECORD_WORDS), dtype=np.uint64)
    payload = out[:1].tobytes()
    header = GroupHeader(0, 0, 1, 0, 0, 0, 0, zlib.crc32(payload), 0)
    file = np.frombuffer(header.pack()[0] + payload + TRAILER, dtype=np.uint64)
    status, count, _, _ = scan(file, ScanPosition(0, 0, 0, 0), 0, out)
    assert (status, count) == (SCAN_STOPPED, 1)


@njit(cache=True)
def _scan(
    words: NDArray[np.uint64],
    halves: NDArray[np.uint32],
    word: Any,
    sequence: Any,
    previous_hash: np.uint64,
    epoch: Any,
    shard: int,
    out: NDArray[np.uint64],
    tables: NDArray[np.uint64],
) -> tuple[Any, ...]:
    shard_format = np.uint32(shard | FORMAT_VERSION << 16)
    kernel = np.int64(-1)
    count = np.int64(0)
    status = SCAN_STOPPED
    while word + _FRAME_WORDS <= len(words):
        half = 2 * word
        if words[word] != _MAGIC or halves[half + HEADER_END_HALF] != HEADER_END:
            break
        header_crc = crc32_words(words, word, word + _CRC_WORDS, tables)
        if halves[half + HEADER_CRC_HALF] != header_crc or halves[half + SHARD_FORMAT_HALF] != shard_format:
            break
        if np.int64(words[word + FIRST_SEQUENCE_WORD]) != sequence or words[word + PREVIOUS_HASH_WORD] != previous_hash:
            break
        group_epoch = np.int64(halves[half + EPOCH_HALF])
        rows = np.int64(halves[half + COUNT_HALF])
        end = word + _FRAME_WORDS + rows * _RECORD_WORDS
        if group_epoch < epoch or end > len(words):
            break
        group_kernel = np.int64(halves[half + KERNEL_HALF])
        if count + rows > len(out) or (kernel != -1 and kernel != group_kernel):
            status = SCAN_FULL
            break
        payload_crc = crc32_words(words, word + _HEADER_WORDS, end - _HEADER_WORDS, tables)
        if payload_crc != halves[half + PAYLOAD_CRC_HALF] or not _trailer_whole(words, end - _HEADER_WORDS):
            break
        source = word + _HEADER_WORDS
        for row in range(count, count + rows):
            for column in range(_RECORD_WORDS):
                out[row, column] = words[source + column]
            source += _RECORD_WORDS
        kind = halves[half + KIND_HALF]
        previous_hash = np.uint64(header_crc) << np.uint64(32) | np.uint64(payload_crc)
        kernel = group_kernel
        epoch = group_epoch
        count += rows
        sequence += rows
        word = end
        if kind == GROUP_SEAL:
            status = SCAN_SEALED
            break
    # Two halves, because a hash does not fit the int64 that the other results are.
    low = np.int64(previous_hash & _LOW)
    high = np.int64(previous_hash >> np.uint64(32))
    return status, count, kernel, word, sequence, low, high, epoch


@njit(cache=True)
def crc32_words(words: NDArray[np.uint64], start: int, end: int, tables: NDArray[np.uint64]) -> np.uint64:
    """CRC-32 (as zlib's) of ``words[start:end]``, eight bytes a step. Returns uint64."""
    crc = _LOW
    for index in range(start, end):
        value = words[index] ^ crc
        crc = (
            tables[7, value & _BYTE]
            ^ tables[6, value >> np.uint64(8) & _BYTE]
            ^ tables[5, value >> np.uint64(16) & _BYTE]
            ^ tables[4, value >> np.uint64(24) & _BYTE]
            ^ tables[3, value >> np.uint64(32) & _BYTE]
            ^ tables[2, value >> np.uint64(40) & _BYTE]
            ^ tables[1, value >> np.uint64(48) & _BYTE]
            ^ tables[0, value >> np.uint64(56)]
        )
    return crc ^ _LOW


@njit(cache=True)
def _trailer_whole(words: NDArray[np.uint64], start: int) -> bool:
    whole = True
    for index in range(start, start + _HEADER_WORDS):
        whole &= bool(words[index] == _TRAILER_WORD)
    return whole
