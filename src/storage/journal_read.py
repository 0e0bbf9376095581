"""Reading a journal: which segments there are, the commands in them, where they end, and which can go.

Rule 1: what is not exactly as it was written is damage and stops the reader; only the end of the last segment may be
torn. Rule 2: commands come in large arrays, however small the groups were. Rule 3: reading changes no file.
``list_segments`` looks at every segment's header and seal, never at what is between; ``read_groups`` checks each byte
that it gives out.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from tradeengine.core.records import COMMAND_BYTES, command_dtype
from tradeengine.storage.identity import is_foreign
from tradeengine.storage.journal_format import (
    GROUP_HEADER_BYTES,
    GROUP_SEAL,
    SEAL_BYTES,
    SEGMENT_HEADER_BYTES,
    TRAILER,
    JournalDamaged,
    JournalError,
    OtherFormat,
    SegmentHeader,
    tail_damage,
    unpack_group,
)
from tradeengine.storage.journal_scan import SCAN_FULL, SCAN_SEALED, SCAN_STOPPED, ScanPosition, scan

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

SUFFIX: Final = ".journal"
SUCCESSOR_SUFFIX: Final = ".journal.new"
REWRITE_SUFFIX: Final = ".journal.rewrite"
BATCH_COMMANDS: Final = 1 << 16

_NAME: Final = re.compile(r"(\d{20})\.journal")
_RESTORE: Final = "restore the file from a copy of the journal"
_FOREIGN: Final = (
    "keep the other engine's files elsewhere, and put this engine's own journal and snapshots there, from a copy or a "
    "backup"
)
_OTHER_PROGRAM: Final = (
    "start the version of the program that wrote it, or a newer one; to stay with this version, restore a backup that "
    "it made into a new data directory and a new database"
)


class SequenceNotHeld(JournalError):  # noqa: N818 - says what is the case
    """The journal does not reach back, or forward, to the sequence that was asked for."""


class KernelChanged(JournalError):  # noqa: N818 - says what is the case
    """The commands to replay were matched by another kernel version, whose events this one may not repeat."""


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """One segment on the disk."""

    path: Path
    header: SegmentHeader


@dataclass(frozen=True, slots=True)
class SegmentEnd:
    """Where the whole groups of a segment end."""

    position: ScanPosition
    sealed: bool
    last_command: NDArray[np.void] | None


@dataclass(frozen=True, slots=True)
class JournalEnd:
    """Where a journal ends: what the next command will get, and what the last one carried (0: there was none)."""

    next_command_sequence: int
    next_ring_sequence: int
    epoch: int
    last_timestamp_ns: int


def journal_end(directory: Path, engine_mark: int = 0) -> JournalEnd:
    """Where the journal in ``directory`` ends; reads its last segment only. An empty or missing one ends at 0.

    engine_mark: as in ``list_segments``. Raises JournalDamaged.
    """
    segments = list_segments(directory, engine_mark)
    if not segments:
        return JournalEnd(0, 0, 0, 0)
    end = read_end(segments[-1])
    last = end.last_command
    if last is None and len(segments) > 1:
        last = _last_before_seal(segments[-2].path)
    ring = segments[-1].header.first_ring_sequence if last is None else int(last["ring_sequence"]) + 1
    timestamp_ns = 0 if last is None else int(last["timestamp_ns"])
    return JournalEnd(end.position.sequence, ring, end.position.epoch, timestamp_ns)


def read_groups(
    directory: Path,
    from_sequence: int,
    kernel_versions: Collection[int] | None = None,
    batch: int = BATCH_COMMANDS,
) -> Iterator[tuple[int, NDArray[np.void]]]:
    """Give the commands from ``from_sequence`` to the end as (first command sequence, command_dtype[1 … batch]).

    kernel_versions: refuse groups that other versions wrote. Whole groups are merged up to ``batch`` commands.
    Raises SequenceNotHeld, KernelChanged, JournalDamaged.
    """
    segments = list_segments(directory)
    if not segments or from_sequence < segments[0].header.first_command_sequence:
        held = f"begins at {segments[0].header.first_command_sequence}" if segments else "is empty"
        raise SequenceNotHeld(f"the journal in {directory} {held}; command sequence {from_sequence} is wanted")
    following = [segment.header.first_command_sequence for segment in segments[1:]]
    for index, segment in enumerate(segments):
        is_last = index == len(following)
        if is_last or following[index] > from_sequence:
            yield from read_segment(
                segment, from_sequence, kernel_versions=kernel_versions, batch=batch, closed=not is_last
            )


def read_segment(
    segment: SegmentFile,
    from_sequence: int,
    *,
    closed: bool,
    kernel_versions: Collection[int] | None = None,
    batch: int = BATCH_COMMANDS,
) -> Iterator[tuple[int, NDArray[np.void]]]:
    """Give the commands of one segment as ``read_groups`` does. closed: it must end with its seal."""
    data = load_bytes(segment.path)
    words = as_words(data)
    position = start_of(segment.header)
    status = SCAN_FULL
    while status == SCAN_FULL:
        first = position.sequence
        out = np.empty((max(batch, _next_count(words, position)), COMMAND_BYTES // 8), dtype=np.uint64)
        status, count, kernel, position = scan(words, position, segment.header.shard, out)
        if count == 0 or first + count <= from_sequence:
            continue
        if kernel_versions is not None and kernel not in kernel_versions:
            raise KernelChanged(
                f"{segment.path}: commands from sequence {first} were matched by kernel version {kernel}, this one "
                f"replays {', '.join(map(str, sorted(kernel_versions)))}. Remedy: start the version that wrote them "
                "once more and stop it in order, so that it leaves a snapshot at its end"
            )
        skip = max(0, from_sequence - first)
        yield first + skip, out[:count].reshape(-1).view(command_dtype)[skip:]
    _check_end(segment, data, position, sealed=status == SCAN_SEALED, closed=closed)


def read_end(segment: SegmentFile) -> SegmentEnd:
    """Find the end of the last segment. Raises JournalDamaged when what follows its whole groups is not a tear."""
    data = load_bytes(segment.path)
    words = as_words(data)
    position = start_of(segment.header)
    out = np.empty((BATCH_COMMANDS, COMMAND_BYTES // 8), dtype=np.uint64)
    last: NDArray[np.void] | None = None
    status = SCAN_FULL
    while status == SCAN_FULL:
        if _next_count(words, position) > len(out):
            out = np.empty((_next_count(words, position), COMMAND_BYTES // 8), dtype=np.uint64)
        status, count, _, position = scan(words, position, segment.header.shard, out)
        if count:
            last = out[count - 1].copy().view(command_dtype)[0]
    _check_end(segment, data, position, sealed=status == SCAN_SEALED, closed=False)
    return SegmentEnd(position, status == SCAN_SEALED, last)


def list_segments(directory: Path, engine_mark: int = 0) -> list[SegmentFile]:
    """All segments in order, their headers and seals checked against each other. Raises JournalDamaged.

    engine_mark: segments with the mark of another engine are refused; 0: they are taken, whosever they are.
    """
    if not directory.is_dir():
        return []
    _refuse_misnamed(directory)
    segments = [_open_segment(path, engine_mark) for path in sorted(directory.glob(f"*{SUFFIX}"))]
    for before, after in pairwise(segments):
        _check_link(before, after)
    return segments


def segments_before_damage(directory: Path, engine_mark: int = 0) -> list[SegmentFile]:
    """Give the segments up to the first header, seal or link that is damaged; each but the last one is sealed.

    engine_mark: as in ``list_segments``.
    """
    segments: list[SegmentFile] = []
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        try:
            segment = _open_segment(path, engine_mark)
            if segments:
                _check_link(segments[-1], segment)
        except JournalDamaged:
            break
        segments.append(segment)
    return segments


def closed_segment(directory: Path, sequence: int, engine_mark: int = 0) -> tuple[SegmentFile, SegmentHeader] | None:
    """Find the closed segment in which a command is or would be, and the header of the one after it; None: not closed.

    Looks at these two files only. engine_mark: as in ``list_segments``. Raises SequenceNotHeld when the journal begins
    later, JournalDamaged.
    """
    paths = sorted(directory.glob(f"*{SUFFIX}"))
    names = [path.name for path in paths]
    index = bisect_right(names, segment_name(sequence)) - 1
    if index < 0 and paths:
        raise SequenceNotHeld(f"the journal in {directory} begins after command sequence {sequence}")
    if index + 1 >= len(paths):
        return None
    segment, after = _open_segment(paths[index], engine_mark), _open_segment(paths[index + 1], engine_mark)
    _check_link(segment, after)
    return segment, after.header


def prune(
    directory: Path, settled_event_sequence: int, snapshot_command_sequence: int, retain_s: float, now_ns: int
) -> list[Path]:
    """Remove the oldest closed segments that nobody needs any more; returns their paths.

    A segment goes when all its events are settled (sequence < settled_event_sequence), all its commands are in the
    oldest snapshot that is kept (sequence < snapshot_command_sequence), and it was closed ``retain_s`` ago.
    """
    removed = []
    for segment, after in pairwise(list_segments(directory)):
        header = after.header
        if (
            header.first_event_sequence > settled_event_sequence
            or header.first_command_sequence > snapshot_command_sequence
            or header.created_ns > now_ns - int(retain_s * 1e9)
        ):
            break
        segment.path.unlink()
        removed.append(segment.path)
    return removed


def segment_name(first_command_sequence: int) -> str:
    """File name of the segment that begins with this command."""
    return f"{first_command_sequence:020d}{SUFFIX}"


def start_of(header: SegmentHeader) -> ScanPosition:
    """Where the groups of a segment begin."""
    return ScanPosition(SEGMENT_HEADER_BYTES // 8, header.first_command_sequence, header.previous_hash, header.epoch)


def load_bytes(path: Path) -> NDArray[np.uint8]:
    """Read a file, read-only. Read, not mapped: a bad sector is then an OSError and not a signal."""
    data = np.fromfile(path, dtype=np.uint8)
    data.flags.writeable = False
    return data


def as_words(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Give a file's whole words, for ``scan``: not to be written, as what its kernel was compiled for."""
    words = data[: len(data) // 8 * 8].view(np.uint64)
    words.flags.writeable = False
    return words


def read_header(path: Path) -> SegmentHeader:
    """Read a segment's header. Raises ValueError, saying what is wrong with it."""
    with path.open("rb") as file:
        return SegmentHeader.unpack(file.read(SEGMENT_HEADER_BYTES))


def _open_segment(path: Path, engine_mark: int) -> SegmentFile:
    match = _NAME.fullmatch(path.name)
    sequence = int(match[1]) if match else -1
    try:
        header = read_header(path)
    except OtherFormat as error:
        if error.surely:
            raise JournalError(f"{path}: {error}. Remedy: {_OTHER_PROGRAM}") from error
        raise JournalDamaged(path, sequence, str(error), f"{_OTHER_PROGRAM}; or {_RESTORE}") from error
    except ValueError as error:
        raise JournalDamaged(path, sequence, str(error), _RESTORE) from error
    if header.first_command_sequence != sequence:
        name = segment_name(header.first_command_sequence)
        raise JournalDamaged(path, header.first_command_sequence, "the file has a wrong name", f"rename it to {name}")
    if is_foreign(header.engine_mark, engine_mark):
        problem = f"a segment of another engine (its mark is {header.engine_mark:08x}, this engine's {engine_mark:08x})"
        raise JournalDamaged(path, sequence, problem, _FOREIGN)
    return SegmentFile(path, header)


def _refuse_misnamed(directory: Path) -> None:
    """Refuse a segment that no pattern finds by its name: left out, it would not be missed if it was the only one."""
    for path in directory.iterdir():
        if path.name.endswith((SUFFIX, SUCCESSOR_SUFFIX, REWRITE_SUFFIX)) or not path.is_file():
            continue
        try:
            sequence = read_header(path).first_command_sequence
        except ValueError:
            continue
        remedy = f"rename it to {segment_name(sequence)}; if it is a copy, keep it in another folder"
        raise JournalDamaged(path, sequence, "a segment whose name is none", remedy)


def _check_link(before: SegmentFile, after: SegmentFile) -> None:
    with before.path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(SEGMENT_HEADER_BYTES, size - SEAL_BYTES))
        block = file.read()
    seal = unpack_group(block[:GROUP_HEADER_BYTES])
    first = before.header.first_command_sequence
    if seal is None or seal.kind != GROUP_SEAL or block[GROUP_HEADER_BYTES:] != TRAILER:
        raise JournalDamaged(before.path, first, "a segment follows, but this one does not end with its seal", _RESTORE)
    if before.header.shard != after.header.shard:
        raise JournalDamaged(after.path, after.header.first_command_sequence, "a segment of another shard", _RESTORE)
    next_sequence, found = seal.first_command_sequence, after.header.first_command_sequence
    if next_sequence != found:
        missing = before.path.with_name(segment_name(next_sequence))
        problem = f"a segment is missing: {before.path.name} ends before {next_sequence}, the next begins at {found}"
        raise JournalDamaged(missing, next_sequence, problem, _RESTORE)
    if seal.pack()[1] != after.header.previous_hash:
        raise JournalDamaged(after.path, found, f"it does not continue {before.path.name}", _RESTORE)


def _check_end(
    segment: SegmentFile, data: NDArray[np.uint8], position: ScanPosition, *, sealed: bool, closed: bool
) -> None:
    if sealed and (not closed or position.word * 8 == len(data)):
        return
    if closed:
        raise JournalDamaged(segment.path, position.sequence, f"damaged at byte {position.word * 8}", _RESTORE)
    problem = tail_damage(data, position.word * 8, segment.header.shard, position.sequence)
    if problem:
        cut = f"truncate -s {position.word * 8} {segment.path}"
        remedy = f"{_RESTORE}; to give up this command and all later ones instead: {cut}"
        raise JournalDamaged(segment.path, position.sequence, f"{problem}, at byte {position.word * 8}", remedy)


def _next_count(words: NDArray[np.uint64], position: ScanPosition) -> int:
    start = position.word
    header = unpack_group(words[start : start + GROUP_HEADER_BYTES // 8].tobytes())
    return header.command_count if header else 0


def _last_before_seal(path: Path) -> NDArray[np.void]:
    # A closed segment has a command: the one after it would have its name otherwise.
    with path.open("rb") as file:
        file.seek(-(SEAL_BYTES + len(TRAILER) + COMMAND_BYTES), 2)
        record: NDArray[np.void] = np.frombuffer(file.read(COMMAND_BYTES), dtype=command_dtype)[0]
    return record


assert SCAN_STOPPED not in (SCAN_FULL, SCAN_SEALED)
