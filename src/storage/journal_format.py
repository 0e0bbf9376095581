"""The bytes of a journal: segment header, groups of commands, and what tells a torn write from damage.

A segment is a preallocated file of zeros: one header, then groups back to back. A group is a header of 64 bytes, whole
command records, and a trailer of 64 fixed bytes. Everything is 64-byte aligned, so a header never straddles a sector.

Rule 1: a group names the hash of the group before it, across segments, so a chain of groups has one order and no gaps.
A group's hash is the CRC of its header beside the CRC of its payload; the header holds the payload's CRC and the hash
before, so the hash covers everything up to there.
Rule 2: a segment that is followed by another ends with a seal, an empty group. A seal without a successor, and a
successor without a seal, are damage: so the loss of a whole segment, the last one too, is seen.
Rule 3: one group at a time is under way to the disk. So a crash tears at most the last group, and a tear shows zeros:
the sectors that were not written. Anything else that is wrong is damage.
It refuses to know files and the meaning of commands.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from tradeengine.core.records import COMMAND_BYTES, command_dtype

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FORMAT_VERSION: Final = 1
SECTOR_BYTES: Final = 512

# The top bit of both magics is set: as int64 they are negative, which no client's number in a record can be.
SEGMENT_MAGIC: Final = 0xF1A7_5E60_4A52_4E4C
GROUP_MAGIC: Final = 0xE5B3_9D17_6C0D_A4C8
TRAILER: Final = bytes.fromhex("b7d3a95d6ce3975b") * 8
"""No byte of it is zero: a write torn anywhere before its end leaves a last byte of zero."""
HEADER_END: Final = 0xA75DB36E
"""Closes a group header; its last byte is not zero, for the same reason."""

GROUP_COMMANDS: Final = 0
GROUP_SEAL: Final = 1

SEGMENT_HEADER_BYTES: Final = 4096
GROUP_HEADER_BYTES: Final = 64
GROUP_FRAME_BYTES: Final = GROUP_HEADER_BYTES + len(TRAILER)
SEAL_BYTES: Final = GROUP_FRAME_BYTES

# magic, first command sequence, hash of the group before, count, epoch, shard, format version, kernel version, kind,
# CRC of the payload, time written, (CRC of all this, end mark)
_GROUP: Final = struct.Struct("<QqQIIHHIIIq")
_GROUP_END: Final = struct.Struct("<II")
assert _GROUP.size + _GROUP_END.size == GROUP_HEADER_BYTES

# Offsets in a group header, for the compiled reader: all in units of the width that the name ends with.
FIRST_SEQUENCE_WORD: Final = 1
PREVIOUS_HASH_WORD: Final = 2
COUNT_HALF: Final = 6
EPOCH_HALF: Final = 7
SHARD_FORMAT_HALF: Final = 8
KERNEL_HALF: Final = 9
KIND_HALF: Final = 10
PAYLOAD_CRC_HALF: Final = 11
HEADER_CRC_HALF: Final = 14
HEADER_END_HALF: Final = 15

# magic, format version, shard, kernel version, epoch, mark of the engine, first command, event and ring sequence, event
# hash, state hash, hash of the group before, time created; then the CRC of all this
_SEGMENT: Final = struct.Struct("<QHHIIIqqqQQQq")
_FORMAT: Final = struct.Struct("<QH")
_CRC: Final = struct.Struct("<I")

assert SEGMENT_HEADER_BYTES % SECTOR_BYTES == 0
assert _SEGMENT.size + _CRC.size <= SEGMENT_HEADER_BYTES
assert COMMAND_BYTES % 64 == 0
assert TRAILER[-1] != 0
assert HEADER_END >> 24 != 0
assert struct.unpack("<q", struct.pack("<Q", GROUP_MAGIC))[0] < 0


class JournalError(Exception):
    """The journal cannot be used; the message says what to do."""


class JournalDamaged(JournalError):  # noqa: N818 - says what is the case, and the operator reads it
    """Bytes that were once whole are not any more, or a file is missing, renamed or foreign.

    file: where. sequence: of the first command that cannot be read. remedy: what an operator can do.
    """

    def __init__(self, file: Path, sequence: int, problem: str, remedy: str) -> None:
        self.file = file
        self.sequence = sequence
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"journal damaged: {file}: {problem} (command sequence {sequence}). Remedy: {remedy}")


class JournalFailed(JournalError):  # noqa: N818 - a past fact: the file must not be touched again
    """A write or sync failed. What is on the disk is unknown, so the process must stop; the next start finds out."""


class OtherFormat(ValueError):  # noqa: N818 - says what is the case
    """A file of a format that this program does not read. surely: False where it may be damaged instead."""

    def __init__(self, what: str, found: int, expected: int, *, surely: bool = True) -> None:
        self.surely = surely
        doubt = (
            "" if surely else " unless it is damaged (the header does not match the checksum of the format read here)"
        )
        super().__init__(f"{what} of format {found}{doubt}; this program reads format {expected}")


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What was true when a segment was opened: positions, and the hashes that replaying up to there must give.

    engine_mark: whose journal it is (``storage.identity``); 0 is not known, as in segments of earlier versions.
    """

    shard: int
    kernel_version: int
    epoch: int
    first_command_sequence: int
    first_event_sequence: int
    first_ring_sequence: int
    event_hash: int
    state_hash: int
    previous_hash: int
    created_ns: int
    engine_mark: int = 0

    def pack(self) -> bytes:
        """Give the header block, SEGMENT_HEADER_BYTES long."""
        body = _SEGMENT.pack(
            SEGMENT_MAGIC,
            FORMAT_VERSION,
            self.shard,
            self.kernel_version,
            self.epoch,
            self.engine_mark,
            self.first_command_sequence,
            self.first_event_sequence,
            self.first_ring_sequence,
            self.event_hash,
            self.state_hash,
            self.previous_hash,
            self.created_ns,
        )
        return (body + _CRC.pack(zlib.crc32(body))).ljust(SEGMENT_HEADER_BYTES, b"\0")

    @staticmethod
    def unpack(block: bytes) -> SegmentHeader:
        """Read a header block. Raises ValueError, saying what is wrong with it."""
        if len(block) < SEGMENT_HEADER_BYTES:
            raise ValueError("the segment header is cut short")
        body = block[: _SEGMENT.size]
        whole = _CRC.unpack_from(block, _SEGMENT.size)[0] == zlib.crc32(body) and not any(
            block[_SEGMENT.size + _CRC.size :]
        )
        # Magic and version stand here in every format, whatever follows them and however it is checked.
        magic, version = _FORMAT.unpack_from(block)
        if magic == SEGMENT_MAGIC and version not in (0, FORMAT_VERSION):
            raise OtherFormat("a journal segment", version, FORMAT_VERSION, surely=whole)
        if not whole:
            raise ValueError("the segment header does not match its checksum")
        magic, version, shard, kernel, epoch, mark, command, event, ring, event_hash, state_hash, previous, created = (
            _SEGMENT.unpack(body)
        )
        if magic != SEGMENT_MAGIC or version != FORMAT_VERSION:
            raise ValueError("it is not a journal segment")
        return SegmentHeader(
            shard, kernel, epoch, command, event, ring, event_hash, state_hash, previous, created, mark
        )


class GroupHeader(NamedTuple):
    """The frame of one group: who wrote it, where it belongs, and the CRC of its payload."""

    first_command_sequence: int
    previous_hash: int
    command_count: int
    epoch: int
    shard: int
    kernel_version: int
    kind: int
    payload_crc: int
    written_ns: int

    def pack(self) -> tuple[bytes, int]:
        """Give the header's bytes and the group's hash."""
        body = _GROUP.pack(
            GROUP_MAGIC,
            self.first_command_sequence,
            self.previous_hash,
            self.command_count,
            self.epoch,
            self.shard,
            FORMAT_VERSION,
            self.kernel_version,
            self.kind,
            self.payload_crc,
            self.written_ns,
        )
        crc = zlib.crc32(body)
        return body + _GROUP_END.pack(crc, HEADER_END), crc << 32 | self.payload_crc


def group_bytes(count: int) -> int:
    """Size of a group of ``count`` commands, frame included."""
    return GROUP_FRAME_BYTES + count * COMMAND_BYTES


def unpack_group(block: bytes) -> GroupHeader | None:
    """Read a group header; None when these bytes are none of this format."""
    body = block[: _GROUP.size]
    if len(block) < GROUP_HEADER_BYTES or _GROUP_END.unpack_from(block, _GROUP.size) != (zlib.crc32(body), HEADER_END):
        return None
    magic, first, previous, count, epoch, shard, version, kernel, kind, crc, written = _GROUP.unpack(body)
    if magic != GROUP_MAGIC or version != FORMAT_VERSION:
        return None
    return GroupHeader(first, previous, count, epoch, shard, kernel, kind, crc, written)


def tail_damage(data: NDArray[np.uint8], offset: int, shard: int, first_command_sequence: int) -> str:
    """Judge what follows the last whole group of the last segment: empty when it is zeros or a torn write.

    data: the file's bytes. offset: where the next group would begin. Returns what is wrong in words otherwise.
    """
    rest = data[offset:]
    if not rest.any():
        return ""
    if _later_group(rest, shard, first_command_sequence):
        return "a group is damaged though later ones are whole"
    block = rest[:GROUP_HEADER_BYTES]
    if not block.any():
        return ""  # the sector with the header was not written
    header = unpack_group(block.tobytes())
    if header is None:
        torn = not rest[GROUP_HEADER_BYTES:].any() and (len(block) < GROUP_HEADER_BYTES or block[-1] == 0)
        return "" if torn else "the last group's header is damaged"
    if header.shard != shard or header.first_command_sequence != first_command_sequence:
        return "the last group does not belong here"
    return _group_damage(data, offset, header)


def _group_damage(data: NDArray[np.uint8], offset: int, header: GroupHeader) -> str:
    end = offset + group_bytes(header.command_count)
    if end > len(data) or data[end - 1] == 0:
        return ""  # the file, or what was written of the group, ends inside it
    if data[end:].any():
        return "something follows the last group"
    first_sector = -(-offset // SECTOR_BYTES)
    sectors = data[first_sector * SECTOR_BYTES : end // SECTOR_BYTES * SECTOR_BYTES].reshape(-1, SECTOR_BYTES)
    if (~sectors.any(axis=1)).any():
        return ""  # a sector in the middle was not written
    return "the last group was written whole, but its bytes have changed"


def _later_group(rest: NDArray[np.uint8], shard: int, first_command_sequence: int) -> bool:
    words = rest[: len(rest) // 64 * 64].view("<u8")[::8]
    for index in np.flatnonzero(words == GROUP_MAGIC):
        start = int(index) * 64
        header = unpack_group(rest[start : start + GROUP_HEADER_BYTES].tobytes())
        if start and header and header.shard == shard and header.first_command_sequence >= first_command_sequence:
            return True
    return False


assert command_dtype.itemsize == COMMAND_BYTES
