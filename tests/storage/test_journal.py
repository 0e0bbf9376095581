"""The journal: what was synced is there after a crash, what was torn is cut, what was damaged is named."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tradeengine.core.records import CommandKind, command_dtype
from tradeengine.storage.journal import Journal, JournalError, JournalFailed
from tradeengine.storage.journal_files import FileOperations
from tradeengine.storage.journal_format import SEGMENT_HEADER_BYTES, JournalDamaged, group_bytes
from tradeengine.storage.journal_read import (
    KernelChanged,
    SequenceNotHeld,
    journal_end,
    list_segments,
    prune,
    read_groups,
    segment_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from typing_extensions import Buffer

SEGMENT_BYTES = 32 << 10
GROUP_COUNTS = (1, 3, 2)


def commands_from(first: int, count: int) -> NDArray[np.void]:
    """Make commands whose every field tells which one it is."""
    commands = np.zeros(count, dtype=command_dtype)
    sequence = np.arange(first, first + count)
    commands["kind"] = CommandKind.PLACE
    commands["ring_sequence"] = sequence + 1000
    commands["timestamp_ns"] = sequence + 10**18
    commands["order_id"] = sequence * 7919 + 1
    commands["price_ticks"] = sequence % 97
    commands["client_order_id"] = [b"order-%d" % n for n in sequence]
    return commands


def open_journal(directory: Path, **options: object) -> Journal:
    """Open shard 3's journal with small segments."""
    return Journal.open(directory, 3, 5, segment_bytes=SEGMENT_BYTES, **options)  # type: ignore[arg-type]


def write_groups(directory: Path, counts: Sequence[int] = GROUP_COUNTS) -> list[int]:
    """Append groups of these counts, synced; returns the file offsets at which they end."""
    ends = []
    with open_journal(directory) as journal:
        for count in counts:
            journal.append(commands_from(journal.next_command_sequence, count))
            journal.sync()
            ends.append(journal.bytes_used)
    return ends


def write_segments(directory: Path, segments: int = 3, **options: object) -> None:
    """Write several segments of three groups each; events count double."""
    with open_journal(directory, **options) as journal:
        for index in range(segments):
            for count in GROUP_COUNTS:
                journal.append(commands_from(journal.next_command_sequence, count))
                journal.sync()
            if index + 1 < segments:
                journal.roll(journal.next_command_sequence * 2, 11, 12)


def read_all(directory: Path, from_sequence: int = 0) -> NDArray[np.void]:
    """Give everything the journal holds, after checking that sequences have no gap."""
    parts = []
    expected = from_sequence
    for first, commands in read_groups(directory, from_sequence):
        assert first == expected
        expected += len(commands)
        parts.append(commands)
    return np.concatenate([np.empty(0, dtype=command_dtype), *parts])


def tail_of(directory: Path) -> Path:
    """Give the last segment's path."""
    return list_segments(directory)[-1].path


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Change bytes in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip_bit(path: Path, offset: int, bit: int = 0) -> None:
    """Flip one bit."""
    overwrite(path, offset, bytes([path.read_bytes()[offset] ^ 1 << bit]))


def test_commands_come_back_in_order(tmp_path: Path) -> None:
    """What was appended and synced is read back byte for byte, from any sequence on."""
    write_groups(tmp_path / "j")
    everything = read_all(tmp_path / "j")
    assert everything.tobytes() == commands_from(0, 6).tobytes()
    for start in range(7):
        assert read_all(tmp_path / "j", start).tobytes() == everything[start:].tobytes()


def test_reopened_journal_continues(tmp_path: Path) -> None:
    """A journal goes on where it ended, across starts and segments, and knows the next ring sequence."""
    write_segments(tmp_path / "j")
    with open_journal(tmp_path / "j") as journal:
        assert journal.next_command_sequence == 18
        assert journal.next_ring_sequence == 1018
        journal.append(commands_from(18, 4))
        journal.sync()
    assert read_all(tmp_path / "j").tobytes() == commands_from(0, 22).tobytes()
    end = journal_end(tmp_path / "j")
    assert (end.next_command_sequence, end.next_ring_sequence, end.last_timestamp_ns) == (22, 1022, 10**18 + 21)


def test_end_of_nothing_is_zero(tmp_path: Path) -> None:
    """A journal that was never written ends at zero, and looking at it creates nothing."""
    end = journal_end(tmp_path / "none")
    assert (end.next_command_sequence, end.next_ring_sequence) == (0, 0)
    assert not (tmp_path / "none").exists()


def test_end_of_fresh_segment_is_known(tmp_path: Path) -> None:
    """After a roll and before the next command, the end still tells ring sequence and time of the last one."""
    write_groups(tmp_path / "j")
    with open_journal(tmp_path / "j") as journal:
        journal.roll(12, 1, 2)
    end = journal_end(tmp_path / "j")
    assert (end.next_command_sequence, end.next_ring_sequence, end.last_timestamp_ns) == (6, 1006, 10**18 + 5)


def test_roll_records_positions_and_hashes(tmp_path: Path) -> None:
    """A segment's header says where commands and events stood, and the hashes up to there."""
    write_segments(tmp_path / "j", segments=2)
    header = list_segments(tmp_path / "j")[1].header
    assert (header.first_command_sequence, header.first_event_sequence, header.first_ring_sequence) == (6, 12, 1006)
    assert (header.event_hash, header.state_hash, header.shard, header.kernel_version) == (11, 12, 3, 5)


def test_full_segment_says_so(tmp_path: Path) -> None:
    """A segment is full before its seal would no longer fit, and rolling makes room for the largest group."""
    with open_journal(tmp_path / "j") as journal:
        while journal.has_room(7):
            journal.append(commands_from(journal.next_command_sequence, 7))
        assert journal.bytes_used <= SEGMENT_BYTES
        journal.sync()
        journal.roll(0, 0, 0)
        assert journal.has_room(journal.batch_max)
        assert not journal.has_room(journal.batch_max + 1)
        journal.append(commands_from(journal.next_command_sequence, journal.batch_max))
        journal.sync()
        journal.roll(0, 0, 0)
        total = journal.next_command_sequence
    assert read_all(tmp_path / "j").tobytes() == commands_from(0, total).tobytes()


def test_large_journal_is_read_in_batches(tmp_path: Path) -> None:
    """Small groups are merged up to the batch size; a group larger than the batch still comes whole."""
    write_groups(tmp_path / "j", [1] * 50 + [40])
    sizes = [len(commands) for _, commands in read_groups(tmp_path / "j", 0, batch=16)]
    assert sizes == [16, 16, 16, 2, 40]


@pytest.mark.parametrize("cut", ["truncated", "zeroed"])
def test_torn_tail_is_cut_at_every_byte(tmp_path: Path, cut: str) -> None:
    """However much of the last group reached the disk, the whole groups before it stay and new ones follow."""
    ends = write_groups(tmp_path / "j")
    path = tail_of(tmp_path / "j")
    original = path.read_bytes()
    for size in range(ends[-2], ends[-1]):
        kept = original[:size]
        path.write_bytes(kept if cut == "truncated" else kept.ljust(len(original), b"\0"))
        with open_journal(tmp_path / "j") as journal:
            assert journal.next_command_sequence == 4
        assert path.read_bytes() == original[: ends[-2]].ljust(SEGMENT_BYTES, b"\0")
    with open_journal(tmp_path / "j") as journal:
        journal.append(commands_from(4, 2))
        journal.sync()
    assert read_all(tmp_path / "j").tobytes() == commands_from(0, 6).tobytes()


def test_missing_sectors_are_a_tear(tmp_path: Path) -> None:
    """Sectors of the last group reach the disk in any order; each one missing cuts the group, not more."""
    ends = write_groups(tmp_path / "j", [3, 40])
    path = tail_of(tmp_path / "j")
    original = path.read_bytes()
    first_sector = -(-ends[0] // 512) * 512
    for sector in range(first_sector, ends[1], 512):
        path.write_bytes(original)
        overwrite(path, sector, bytes(min(512, ends[1] - sector)))
        with open_journal(tmp_path / "j") as journal:
            assert journal.next_command_sequence == 3


def test_lost_header_sector_is_a_tear(tmp_path: Path) -> None:
    """When only the sector that begins the last group is missing, the group is cut."""
    ends = write_groups(tmp_path / "j", [3, 40])
    overwrite(tail_of(tmp_path / "j"), ends[0], bytes(512 - ends[0] % 512))
    with open_journal(tmp_path / "j") as journal:
        assert journal.next_command_sequence == 3


def test_flipped_bit_refuses_to_start(tmp_path: Path) -> None:
    """A bit flipped anywhere that was written is damage, in the last group too, and never a silent loss."""
    ends = write_groups(tmp_path / "j")
    path = tail_of(tmp_path / "j")
    original = path.read_bytes()
    for offset in range(SEGMENT_HEADER_BYTES, ends[-1]):
        path.write_bytes(original)
        flip_bit(path, offset, offset % 8)
        with pytest.raises(JournalDamaged) as caught:
            open_journal(tmp_path / "j")
        group = sum(offset >= end for end in ends)
        assert caught.value.file == path
        assert caught.value.sequence == sum(GROUP_COUNTS[:group])
        assert caught.value.remedy in str(caught.value)


@pytest.mark.parametrize("offset", [0, 9, 40, 90, 200, SEGMENT_HEADER_BYTES - 1])
def test_flipped_bit_in_segment_header_refuses(tmp_path: Path, offset: int) -> None:
    """A damaged segment header refuses to start, in the first segment and in the last."""
    write_segments(tmp_path / "j")
    for segment in list_segments(tmp_path / "j"):
        flip_bit(segment.path, offset)
        with pytest.raises(JournalDamaged, match="header"):
            open_journal(tmp_path / "j")
        flip_bit(segment.path, offset)


def test_flipped_bit_in_closed_segment_stops_the_reader(tmp_path: Path) -> None:
    """A bit flipped in a closed segment is found by whoever reads it, named with file and sequence."""
    write_segments(tmp_path / "j")
    closed = list_segments(tmp_path / "j")[1].path
    original = closed.read_bytes()
    for offset in range(SEGMENT_HEADER_BYTES, len(original), 7):
        closed.write_bytes(original)
        flip_bit(closed, offset)
        with pytest.raises(JournalDamaged) as caught:
            read_all(tmp_path / "j")
        assert caught.value.file == closed
        assert 6 <= caught.value.sequence <= 12


def test_damage_before_whole_groups_is_no_tear(tmp_path: Path) -> None:
    """Zeros where a group was are damage, not a tear, when whole groups follow."""
    ends = write_groups(tmp_path / "j")
    overwrite(tail_of(tmp_path / "j"), ends[0], bytes(ends[1] - ends[0]))
    with pytest.raises(JournalDamaged, match="later ones are whole"):
        open_journal(tmp_path / "j")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda paths: paths[1].unlink(), "a segment is missing"),
        (lambda paths: paths[2].unlink(), "is sealed, but the segment after it is missing"),
        (lambda paths: paths[1].rename(paths[1].with_name(segment_name(7))), "wrong name"),
        (lambda paths: paths[1].rename(paths[1].with_name("copy.journal")), "wrong name"),
        (lambda paths: os.truncate(paths[0], paths[0].stat().st_size - 128), "does not end with its seal"),
        (lambda paths: os.truncate(paths[0], paths[0].stat().st_size + 64), "does not end with its seal"),
        (lambda paths: os.truncate(paths[0], 100), "cut short"),
    ],
)
def test_missing_and_misnamed_segments_refuse(
    tmp_path: Path, change: Callable[[list[Path]], object], problem: str
) -> None:
    """A gap between segments, a lost last one, a wrong name, and a cut closed one refuse to start."""
    write_segments(tmp_path / "j")
    change([segment.path for segment in list_segments(tmp_path / "j")])
    with pytest.raises(JournalDamaged, match=problem):
        open_journal(tmp_path / "j")


def test_segment_of_another_history_refuses(tmp_path: Path) -> None:
    """A segment with the right name and sequences from another journal does not continue this one."""
    write_segments(tmp_path / "a")
    with open_journal(tmp_path / "b") as journal:
        journal.append(commands_from(100, 6))
        journal.roll(12, 0, 0)
        journal.append(commands_from(6, 6))
        journal.roll(24, 0, 0)
    shutil.copy(tmp_path / "b" / segment_name(6), tmp_path / "a" / segment_name(6))
    with pytest.raises(JournalDamaged, match="does not continue"):
        open_journal(tmp_path / "a")


def test_other_shard_and_second_writer_refuse(tmp_path: Path) -> None:
    """A journal belongs to one shard and, at a time, to one writer."""
    write_groups(tmp_path / "j")
    with pytest.raises(JournalError, match="shard 3, not 4"):
        Journal.open(tmp_path / "j", 4, 5)
    with open_journal(tmp_path / "j"), pytest.raises(JournalError, match="in use"):
        open_journal(tmp_path / "j")
    with pytest.raises(JournalError, match="epoch"):
        open_journal(tmp_path / "j", epoch=0)


def test_unknown_sequence_and_kernel_refuse(tmp_path: Path) -> None:
    """A reader refuses commands that the journal no longer holds, and those of another kernel version."""
    write_segments(tmp_path / "j")
    assert list(read_groups(tmp_path / "j", 0, kernel_versions={4, 5}))
    with pytest.raises(KernelChanged, match="version 5"):
        list(read_groups(tmp_path / "j", 0, kernel_versions={6}))
    list_segments(tmp_path / "j")[0].path.unlink()
    with pytest.raises(SequenceNotHeld, match="begins at 6"):
        list(read_groups(tmp_path / "j", 5))
    with pytest.raises(SequenceNotHeld, match="empty"):
        list(read_groups(tmp_path / "none", 0))


def test_prune_removes_only_what_nobody_needs(tmp_path: Path) -> None:
    """A closed segment goes once settled, in a snapshot, and old; the open one never."""
    write_segments(tmp_path / "j")
    now_ns = list_segments(tmp_path / "j")[-1].header.created_ns + 10**9
    assert prune(tmp_path / "j", 11, 100, 0, now_ns) == []
    assert prune(tmp_path / "j", 100, 5, 0, now_ns) == []
    assert prune(tmp_path / "j", 100, 100, 60, now_ns) == []
    assert [path.name for path in prune(tmp_path / "j", 12, 6, 0.5, now_ns)] == [segment_name(0)]
    assert [path.name for path in prune(tmp_path / "j", 100, 100, 0, now_ns)] == [segment_name(6)]
    assert read_all(tmp_path / "j", 12).tobytes() == commands_from(12, 6).tobytes()
    with open_journal(tmp_path / "j") as journal:
        assert journal.next_command_sequence == 18


class FailingFiles(FileOperations):
    """The operating system on a bad day: fails the chosen call once, and writes in small pieces."""

    def __init__(self, call: str = "", error: int = errno.EIO, piece: int = 1 << 30) -> None:
        self.call = call
        self.error = error
        self.piece = piece
        self.writes_left = 1 << 30

    def _fail(self, call: str) -> None:
        if call == self.call:
            self.call = ""  # the next one "succeeds", as after a real failed sync
            raise OSError(self.error, os.strerror(self.error))

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write a piece of the first buffer."""
        self._fail("pwritev")
        return os.pwrite(fd, memoryview(buffers[0])[: self.piece], offset)

    def preallocate(self, fd: int, size: int) -> None:
        """Reserve, or fail."""
        self._fail("preallocate")
        super().preallocate(fd, size)

    def datasync(self, fd: int) -> None:
        """Sync, or fail."""
        self._fail("datasync")
        super().datasync(fd)

    def sync(self, fd: int) -> None:
        """Sync, or fail."""
        self._fail("sync")
        super().sync(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Rename, or fail."""
        self._fail("rename")
        super().rename(source, target)


class WatchedFiles(FileOperations):
    """The operating system, and what it was asked for: the names of calls, and of whatever each was about."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.names: dict[int, str] = {}

    def open(self, path: Path, flags: int) -> int:
        """Open, and remember the name."""
        fd = super().open(path, flags)
        self.names[fd] = path.name
        return fd

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write."""
        self.calls.append(("write", self.names[fd]))
        return super().pwritev(fd, buffers, offset)

    def sync(self, fd: int) -> None:
        """Sync."""
        self.calls.append(("sync", self.names[fd]))
        super().sync(fd)


def test_names_are_durable_before_they_are_relied_on(tmp_path: Path) -> None:
    """New folders are synced into those above them, and a successor's name is, before its segment is sealed."""
    files = WatchedFiles()
    with open_journal(tmp_path / "data" / "j", files=files) as journal:
        assert {("sync", tmp_path.name), ("sync", "data")} <= set(files.calls)
        append_and_sync(journal, commands_from(0, 6))
        files.calls.clear()
        journal.roll(12, 0, 0)
    successor = f"{6:020d}.journal.new"
    assert files.calls[:3] == [("write", successor), ("sync", successor), ("sync", "j")]
    assert files.calls[3][0] == "write"


def test_short_writes_are_continued(tmp_path: Path) -> None:
    """A disk that takes a few bytes at a time loses none of them."""
    with open_journal(tmp_path / "j", files=FailingFiles(piece=37)) as journal:
        journal.append(commands_from(0, 5))
        journal.sync()
    assert read_all(tmp_path / "j").tobytes() == commands_from(0, 5).tobytes()


@pytest.mark.parametrize(
    ("call", "error"), [("pwritev", errno.ENOSPC), ("pwritev", errno.EIO), ("datasync", errno.EIO)]
)
def test_first_error_is_final(tmp_path: Path, call: str, error: int) -> None:
    """After one failed write or sync nothing more is written, though the disk would take it again."""
    files = FailingFiles()
    with open_journal(tmp_path / "j", files=files) as journal:
        journal.append(commands_from(0, 2))
        journal.sync()
        files.call, files.error = call, error
        with pytest.raises(JournalFailed, match=os.strerror(error)):
            append_and_sync(journal, commands_from(2, 1))
        for action in (lambda: journal.append(commands_from(2, 1)), journal.sync, lambda: journal.roll(0, 0, 0)):
            with pytest.raises(JournalFailed, match="only a restart"):
                action()
    with open_journal(tmp_path / "j") as journal:
        assert journal.next_command_sequence in (2, 3)  # a failed sync leaves it open which


def append_and_sync(journal: Journal, commands: NDArray[np.void]) -> None:
    """Append one group durably."""
    journal.append(commands)
    journal.sync()


@pytest.mark.parametrize("call", ["preallocate", "pwritev", "sync", "datasync", "rename"])
def test_failed_roll_loses_nothing(tmp_path: Path, call: str) -> None:
    """Wherever opening the next segment fails, the next start finds every command and goes on."""
    files = FailingFiles()
    with open_journal(tmp_path / "j", files=files) as journal:
        append_and_sync(journal, commands_from(0, 6))
        files.call = call
        with pytest.raises(JournalFailed):
            journal.roll(12, 0, 0)
    with open_journal(tmp_path / "j") as journal:
        assert journal.next_command_sequence == 6
        assert journal.next_ring_sequence == 1006
        append_and_sync(journal, commands_from(6, 2))
        journal.roll(16, 0, 0)
    assert read_all(tmp_path / "j").tobytes() == commands_from(0, 8).tobytes()


def test_seal_whose_sync_failed_is_written_anew(tmp_path: Path) -> None:
    """A sealed segment is copied, as any last one is: another sync of the same file would only seem to succeed."""
    with open_journal(tmp_path / "j", files=FailingFiles("datasync")) as journal:
        journal.append(commands_from(0, 6))
        with pytest.raises(JournalFailed):
            journal.roll(12, 0, 0)
    sealed = tail_of(tmp_path / "j").stat().st_ino
    files = WatchedFiles()
    with open_journal(tmp_path / "j", files=files) as journal:
        assert journal.next_command_sequence == 6
    copy = f"{0:020d}.journal.rewrite"
    assert files.calls[:3] == [("write", copy), ("sync", copy), ("sync", "j")]
    assert list_segments(tmp_path / "j")[0].path.stat().st_ino != sealed


@pytest.mark.parametrize("call", ["preallocate", "pwritev", "sync", "rename"])
def test_failed_open_changes_nothing(tmp_path: Path, call: str) -> None:
    """A start that fails while it rewrites the last segment leaves the old one in place."""
    write_groups(tmp_path / "j")
    with pytest.raises(OSError, match="Input/output"):
        open_journal(tmp_path / "j", files=FailingFiles(call))
    with open_journal(tmp_path / "j") as journal:
        assert journal.next_command_sequence == 6
    assert sorted(path.suffix for path in (tmp_path / "j").iterdir()) == [".journal"]


def test_killed_writer_leaves_a_whole_journal(tmp_path: Path) -> None:
    """After kill -9 of a process that appends without pause, all it had reported as synced is there."""
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from tradeengine.core.records import command_dtype\n"
        "from tradeengine.storage.journal import Journal\n"
        "journal = Journal.open(Path(sys.argv[1]), 3, 5, segment_bytes=32 << 10)\n"
        "while True:\n"
        "    commands = np.zeros(5, dtype=command_dtype)\n"
        "    commands['kind'] = 1\n"
        "    commands['order_id'] = np.arange(5) + journal.next_command_sequence\n"
        "    if not journal.has_room(5): journal.roll(0, 0, 0)\n"
        "    journal.append(commands); journal.sync()\n"
        "    print(journal.next_command_sequence, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "j")], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        reported = 0
        for line in writer.stdout:
            reported = int(line)
            if reported >= 1000:
                writer.send_signal(signal.SIGKILL)
                break
        reported = max([reported, *(int(line) for line in writer.stdout)])
    with open_journal(tmp_path / "j") as journal:
        assert journal.next_command_sequence in (reported, reported + 5)
    held = read_all(tmp_path / "j")
    assert np.array_equal(held["order_id"], np.arange(len(held)))


assert group_bytes(1) == 256
