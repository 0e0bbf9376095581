"""A journal that somebody has altered and framed anew, so that its checksums, or its whole chain, are right again."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from tradeengine.core.records import COMMAND_BYTES, CommandKind, command_dtype
from tradeengine.storage.journal_format import (
    GROUP_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    TRAILER,
    SegmentHeader,
    group_bytes,
    unpack_group,
)


def alter_command(path: Path, *, chain: bool) -> int:
    """Halve the quantity of a segment's first resting sell, with right checksums; returns the last group's hash."""
    block = bytearray(path.read_bytes())
    for offset, count in groups_of(block):
        payload = np.frombuffer(block, command_dtype, count, offset + GROUP_HEADER_BYTES).copy()
        wanted = np.flatnonzero((payload["kind"] == CommandKind.PLACE) & (payload["quantity_lots"] > 1))
        if len(wanted):
            payload["quantity_lots"][wanted[0]] //= 2
            start = offset + GROUP_HEADER_BYTES
            block[start : start + count * COMMAND_BYTES] = payload.tobytes()
            frame(block, offset, None)
            break
    path.write_bytes(block)
    return chain_anew(path, None) if chain else 0


def groups_of(block: bytearray) -> list[tuple[int, int]]:
    """List a segment's groups: where each begins, and how many commands it has."""
    offset, found = SEGMENT_HEADER_BYTES, []
    while (header := unpack_group(bytes(block[offset : offset + GROUP_HEADER_BYTES]))) is not None:
        found.append((offset, header.command_count))
        offset += group_bytes(header.command_count)
    return found


def frame(block: bytearray, offset: int, previous: int | None) -> int:
    """Write a group's header anew; returns its hash."""
    header = unpack_group(bytes(block[offset : offset + GROUP_HEADER_BYTES]))
    assert header is not None
    start = offset + GROUP_HEADER_BYTES
    crc = zlib.crc32(block[start : start + header.command_count * COMMAND_BYTES])
    header = header._replace(payload_crc=crc, **({} if previous is None else {"previous_hash": previous}))
    packed, group_hash = header.pack()
    block[offset:start] = packed
    assert block[offset + group_bytes(header.command_count) - len(TRAILER) :][: len(TRAILER)] == TRAILER
    return group_hash


def chain_anew(path: Path, previous: int | None) -> int:
    """Chain all groups of a segment anew, from its own beginning or from another hash; returns the last hash."""
    block = bytearray(path.read_bytes())
    header = SegmentHeader.unpack(bytes(block[:SEGMENT_HEADER_BYTES]))
    if previous is None:
        previous = header.previous_hash
    else:
        changed = SegmentHeader(
            **{name: getattr(header, name) for name in header.__slots__} | {"previous_hash": previous}
        )
        block[:SEGMENT_HEADER_BYTES] = changed.pack()
    for offset, _ in groups_of(block):
        previous = frame(block, offset, previous)
    path.write_bytes(block)
    return previous
