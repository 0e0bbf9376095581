"""Snapshots: what replaying a shard's journal up to some command gives, so that a restart replays only the rest.

Rule 1: a snapshot is one file, complete or not there: written under another name, synced, renamed, folder synced.
Rule 2: it is never needed: the journal is the truth. So one that is damaged is skipped, with a reason, and an older one
or the journal's beginning serves.
Rule 3: what is kept reaches back as far as the journal does, thinly, so that a restored database backup finds a
snapshot before its cursor.
It refuses to know what the payload means.
"""

from __future__ import annotations

import os
import re
import struct
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from tradeengine.ipc.crashpoints import crash_point
from tradeengine.storage.journal_files import FileOperations, create_file, rename_durably
from tradeengine.storage.journal_format import OtherFormat

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typing_extensions import Buffer

Restored = TypeVar("Restored")

FORMAT_VERSION: Final = 1
SUFFIX: Final = ".snapshot"
SPACED_COUNT: Final = 8
"""How many of the older ones are kept, spread over the time that the journal is retained."""

_MAGIC: Final = 0x5EA7_0F1A_5AFE_B00C
_TEMPORARY_SUFFIX: Final = ".snapshot.new"
# magic, format version, shard, kernel version, short mark of the engine, command, event and ring sequence, event hash,
# state hash, time created, bytes of payload, CRC of the payload; then the CRC of all this. Earlier versions read kernel
# version and mark as one number, and had no marks.
_HEADER: Final = struct.Struct("<QHHHHqqqQQqQI")
_CRC: Final = struct.Struct("<I")
_FORMAT: Final = struct.Struct("<QH")
_HEADER_BYTES: Final = _HEADER.size + _CRC.size
_NAME: Final = re.compile(r"(\d{20})-(\d{20})\.snapshot")

assert _HEADER_BYTES % 8 == 0


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """Where a snapshot was taken: the sequences that come next, and the hashes of all before.

    engine_mark: the short mark of whose journal it was made (``storage.identity``); 0 is not known.
    """

    shard: int
    kernel_version: int
    command_sequence: int
    event_sequence: int
    ring_sequence: int
    event_hash: int
    state_hash: int
    created_ns: int
    engine_mark: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that was read and found whole."""

    path: Path
    header: SnapshotHeader
    payload: bytes


@dataclass(frozen=True, slots=True)
class Skipped:
    """A snapshot that cannot be used, and why."""

    path: Path
    reason: str


def newest_snapshot(
    directory: Path, shard: int, event_sequence_max: int, restore: Callable[[Snapshot], Restored]
) -> tuple[Restored | None, list[Skipped]]:
    """Restore the newest usable snapshot whose next event sequence is at most ``event_sequence_max``.

    restore: makes what the payload stands for; raises ValueError, saying why, when it cannot. Returns what it made
    (None: there is no usable snapshot) and those newer ones that had to be skipped, with reasons.
    """
    skipped: list[Skipped] = []
    for path, command_sequence, event_sequence in reversed(list_snapshots(directory)):
        if event_sequence > event_sequence_max:
            continue
        try:
            snapshot = read_snapshot(path)
            header = snapshot.header
            if header.shard != shard:
                skipped.append(Skipped(path, f"of shard {header.shard}, not {shard}"))
            elif (header.command_sequence, header.event_sequence) != (command_sequence, event_sequence):
                skipped.append(Skipped(path, "its name says other sequences than its header"))
            else:
                return restore(snapshot), skipped
        except (ValueError, OSError) as error:
            skipped.append(Skipped(path, str(error)))
    return None, skipped


def write_snapshot(
    directory: Path, header: SnapshotHeader, payload: Buffer, files: FileOperations | None = None
) -> Path:
    """Write one durably; returns its path. Raises OSError, and then leaves no snapshot behind."""
    files = files or FileOperations()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{header.command_sequence:020d}-{header.event_sequence:020d}{SUFFIX}"
    temporary = path.with_suffix(_TEMPORARY_SUFFIX)
    os.close(create_file(files, temporary, [_pack(header, payload), payload]))
    crash_point("snapshot.before_rename")
    rename_durably(files, temporary, path)
    return path


def read_snapshot(path: Path) -> Snapshot:
    """Read and check one. Raises ValueError, saying what is wrong with it, and OSError."""
    block = path.read_bytes()
    whole = len(block) >= _HEADER_BYTES and _CRC.unpack_from(block, _HEADER.size)[0] == zlib.crc32(
        block[: _HEADER.size]
    )
    if len(block) >= _FORMAT.size:
        # Magic and version stand here in every format.
        magic, version = _FORMAT.unpack_from(block)
        if magic == _MAGIC and version not in (0, FORMAT_VERSION):
            raise OtherFormat("a snapshot", version, FORMAT_VERSION, surely=whole)
    if not whole:
        raise ValueError("the header does not match its checksum")
    magic, version, shard, kernel, mark, command, event, ring, event_hash, state_hash, created_ns, size, crc = (
        _HEADER.unpack_from(block)
    )
    if magic != _MAGIC or version != FORMAT_VERSION:
        raise ValueError("it is not a snapshot")
    payload = block[_HEADER_BYTES:]
    if len(payload) != size or zlib.crc32(payload) != crc:
        raise ValueError("the payload does not match its checksum")
    header = SnapshotHeader(shard, kernel, command, event, ring, event_hash, state_hash, created_ns, mark)
    return Snapshot(path, header, payload)


def list_snapshots(directory: Path) -> list[tuple[Path, int, int]]:
    """Give (path, command sequence, event sequence) of each, oldest first, by their names alone."""
    found = []
    for path in directory.glob(f"*{SUFFIX}"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((path, int(match[1]), int(match[2])))
    return sorted(found, key=lambda entry: entry[1])


def prune_snapshots(directory: Path, settled_event_sequence: int, keep: int, retain_s: float, now_ns: int) -> int:
    """Remove the snapshots that are not worth keeping; returns the command sequence before which no restart reads.

    Kept are the newest ``keep``; one that is settled (event sequence ≤ settled_event_sequence) and was made before
    ``retain_s`` ago, if there is one; and SPACED_COUNT spread over the time between. 0 when none is settled.
    """
    assert keep >= 1
    for leftover in directory.glob(f"*{_TEMPORARY_SUFFIX}"):
        leftover.unlink()
    snapshots = list_snapshots(directory)
    horizon_ns = now_ns - int(retain_s * 1e9)
    created_ns = [path.stat().st_mtime_ns for path, _, _ in snapshots]
    old = [index for index, (_, _, event) in enumerate(snapshots) if event <= settled_event_sequence]
    anchor = max((index for index in old if created_ns[index] <= horizon_ns), default=0)
    spacing_ns = max(1, int(retain_s * 1e9) // SPACED_COUNT)
    kept: list[int] = []
    for index in range(anchor, len(snapshots)):
        is_new = index >= len(snapshots) - keep
        if is_new or not kept or created_ns[index] - created_ns[kept[-1]] >= spacing_ns:
            kept.append(index)
    for index, (path, _, _) in enumerate(snapshots):
        if index not in kept:
            path.unlink()
    return snapshots[kept[0]][1] if old else 0


def _pack(header: SnapshotHeader, payload: Buffer) -> bytes:
    body = _HEADER.pack(
        _MAGIC,
        FORMAT_VERSION,
        header.shard,
        header.kernel_version,
        header.engine_mark,
        header.command_sequence,
        header.event_sequence,
        header.ring_sequence,
        header.event_hash,
        header.state_hash,
        header.created_ns or time.time_ns(),
        memoryview(payload).nbytes,
        zlib.crc32(payload),
    )
    return body + _CRC.pack(zlib.crc32(body))
