"""What is whole and does not belong: headers, groups and files that no tear makes are told from tears, by name.

A tear leaves less than was written; everything here has its checksums right and is in the wrong place, or was written
by another program.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from tests.storage.test_journal import (
    commands_from,
    open_journal,
    overwrite,
    read_all,
    tail_of,
    write_groups,
    write_segments,
)

from tradeengine.storage import journal_read
from tradeengine.storage.journal import Journal, JournalError
from tradeengine.storage.journal_files import FileOperations
from tradeengine.storage.journal_format import (
    FORMAT_VERSION,
    GROUP_COMMANDS,
    GROUP_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    TRAILER,
    GroupHeader,
    JournalDamaged,
    SegmentHeader,
    group_bytes,
    unpack_group,
)
from tradeengine.storage.journal_read import (
    SUCCESSOR_SUFFIX,
    SequenceNotHeld,
    closed_segment,
    journal_end,
    list_segments,
    segments_before_damage,
)

SHARD: Final = 3
KERNEL: Final = 5
EPOCH: Final = 1
SEGMENT_CRC_AT: Final = 80
VERSION_AT: Final = 8
SHARD_AT: Final = 10
PREVIOUS_HASH_AT: Final = 64


def sealed_anew(header: bytes, offset: int, word: bytes, crc_at: int) -> bytes:
    """Change a header and make its checksum right again."""
    changed = header[:offset] + word + header[offset + len(word) :]
    return changed[:crc_at] + struct.pack("<I", zlib.crc32(changed[:crc_at])) + changed[crc_at + 4 :]


def group(first: int, count: int, previous_hash: int = 0, *, epoch: int = EPOCH, shard: int = SHARD) -> bytes:
    """Give a whole group's bytes."""
    payload = commands_from(first, count).tobytes()
    header = GroupHeader(first, previous_hash, count, epoch, shard, KERNEL, GROUP_COMMANDS, zlib.crc32(payload), 1)
    return header.pack()[0] + payload + TRAILER


def last_hash(path: Path, start: int) -> int:
    """Give the hash of the group that begins at ``start``."""
    header = unpack_group(path.read_bytes()[start : start + GROUP_HEADER_BYTES])
    assert header is not None
    return header.pack()[1]


def test_header_of_something_else_is_no_segment() -> None:
    """A header whose checksum is right and whose magic or version is another's is refused."""
    block = SegmentHeader(SHARD, KERNEL, EPOCH, 0, 0, 0, 1, 2, 3, 4).pack()
    assert struct.unpack_from("<I", block, SEGMENT_CRC_AT)[0] == zlib.crc32(block[:SEGMENT_CRC_AT])
    for offset, word in ((0, bytes(8)), (VERSION_AT, bytes(2))):
        with pytest.raises(ValueError, match="it is not a journal segment"):
            SegmentHeader.unpack(sealed_anew(block, offset, word, SEGMENT_CRC_AT))


def test_group_of_another_format_is_no_group() -> None:
    """A group's header whose checksum is right and whose magic or version is another's is none of this format."""
    header = group(0, 1)[:GROUP_HEADER_BYTES]
    assert unpack_group(header) is not None
    assert unpack_group(header[:-1]) is None
    version_at = header.index(struct.pack("<HH", SHARD, FORMAT_VERSION)) + 2
    for offset in (0, version_at):
        assert unpack_group(sealed_anew(header, offset, b"\x77", GROUP_HEADER_BYTES - 8)) is None


def test_journal_of_a_newer_program_names_the_version(tmp_path: Path) -> None:
    """A later format is refused by its number: surely where its checksum is right, with a doubt where it is not."""
    write_groups(tmp_path / "j")
    path = tail_of(tmp_path / "j")
    block = path.read_bytes()[:SEGMENT_HEADER_BYTES]
    overwrite(path, 0, sealed_anew(block, VERSION_AT, struct.pack("<H", 2), SEGMENT_CRC_AT))
    with pytest.raises(JournalError, match="a journal segment of format 2; this program reads format 1") as caught:
        open_journal(tmp_path / "j")
    assert not isinstance(caught.value, JournalDamaged)
    overwrite(path, 0, block)
    overwrite(path, VERSION_AT, struct.pack("<H", 2))
    with pytest.raises(JournalDamaged, match="of format 2 unless it is damaged"):
        open_journal(tmp_path / "j")


def test_segment_under_no_segments_name_is_refused_and_other_files_are_not(tmp_path: Path) -> None:
    """A copy of a segment beside the journal could be the real one: it is named; notes and folders are left alone."""
    write_groups(tmp_path / "j")
    (tmp_path / "j" / "notes.txt").write_bytes(b"written by somebody")
    (tmp_path / "j" / "old").mkdir()
    assert len(read_all(tmp_path / "j")) == 6
    (tmp_path / "j" / "copy").write_bytes(tail_of(tmp_path / "j").read_bytes())
    with pytest.raises(JournalDamaged, match="a segment whose name is none"):
        open_journal(tmp_path / "j")


def unwritten(_path: Path, ends: list[int]) -> tuple[int, bytes]:
    """Give nothing."""
    return ends[-1], b""


def of_another_place(_path: Path, ends: list[int]) -> tuple[int, bytes]:
    """Give a whole group that comes earlier."""
    return ends[-1], group(2, 1)


def of_another_shard(path: Path, ends: list[int]) -> tuple[int, bytes]:
    """Give a whole group that would fit another shard's journal."""
    return ends[-1], group(6, 1, last_hash(path, ends[-2]), shard=SHARD + 1)


def with_something_behind(path: Path, ends: list[int]) -> tuple[int, bytes]:
    """Give a group whose payload has changed, and bytes after its end, which no torn write leaves."""
    changed = bytearray(group(6, 2, last_hash(path, ends[-2])))
    changed[GROUP_HEADER_BYTES] ^= 1
    return ends[-1], bytes(changed) + b"x"


def of_an_earlier_epoch(path: Path, ends: list[int]) -> tuple[int, bytes]:
    """Give a group that continues the last one, and says that it was written before it."""
    return ends[-1], group(6, 1, last_hash(path, ends[-2]), epoch=EPOCH - 1)


@pytest.mark.parametrize(
    ("tail", "problem"),
    [
        (unwritten, ""),
        (of_another_place, "the last group does not belong here"),
        (of_another_shard, "the last group does not belong here"),
        (with_something_behind, "something follows the last group"),
        (of_an_earlier_epoch, "the last group was written whole, but its bytes have changed"),
    ],
)
def test_whole_groups_that_do_not_continue_are_no_tear(
    tmp_path: Path, tail: Callable[[Path, list[int]], tuple[int, bytes]], problem: str
) -> None:
    """What stands behind the last group and is no tear of one refuses to start, and stays as it is."""
    ends = write_groups(tmp_path / "j")
    path = tail_of(tmp_path / "j")
    overwrite(path, *tail(path, ends))
    before = path.read_bytes()
    if not problem:
        assert len(read_all(tmp_path / "j")) == 6
        return
    with pytest.raises(JournalDamaged, match=problem) as caught:
        open_journal(tmp_path / "j")
    assert caught.value.sequence == 6
    assert path.read_bytes() == before


def test_group_that_says_it_is_longer_than_the_file_is_a_tear(tmp_path: Path) -> None:
    """A last group of which the file has no more is cut, as any write that did not end."""
    ends = write_groups(tmp_path / "j")
    path = tail_of(tmp_path / "j")
    count = 1000
    payload = commands_from(6, count).tobytes()
    header = GroupHeader(
        6, last_hash(path, ends[-2]), count, EPOCH, SHARD, KERNEL, GROUP_COMMANDS, zlib.crc32(payload), 1
    )
    overwrite(path, ends[-1], header.pack()[0])
    assert ends[-1] + group_bytes(count) > path.stat().st_size
    with open_journal(tmp_path / "j") as journal:
        assert journal.next_command_sequence == 6


def test_end_behind_groups_larger_than_a_batch_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end is found whatever the groups' sizes are; the room to read them in grows with the largest."""
    write_groups(tmp_path / "j", (2, 40, 1))
    monkeypatch.setattr(journal_read, "BATCH_COMMANDS", 4)
    end = journal_read.journal_end(tmp_path / "j")
    assert (end.next_command_sequence, end.next_ring_sequence) == (43, 1043)
    assert len(np.concatenate([part for _, part in journal_read.read_groups(tmp_path / "j", 0, batch=4)])) == 43


def test_remains_of_a_segment_that_was_not_begun_are_removed(tmp_path: Path) -> None:
    """A successor whose predecessor was never sealed was never relied on: the next start removes it."""
    write_groups(tmp_path / "j")
    remains = [tmp_path / "j" / f"{6:020d}.journal.{suffix}" for suffix in ("new", "rewrite")]
    for path in remains:
        path.write_bytes(b"half")
    with open_journal(tmp_path / "j") as journal:
        journal.append(commands_from(6, 1))
        journal.sync()
        assert not any(path.exists() for path in remains)
    assert len(read_all(tmp_path / "j")) == 7


def test_closing_twice_closes_once(tmp_path: Path) -> None:
    """A journal that was closed stays closed: the numbers of its descriptors may be another file's by then."""
    journal = open_journal(tmp_path / "j")
    journal.close()
    with (tmp_path / "other").open("wb") as other:
        journal.close()
        other.write(b"still open")
    assert (tmp_path / "other").read_bytes() == b"still open"


def test_disk_is_told_early_of_large_groups(tmp_path: Path) -> None:
    """A group of 64 KiB and more is on its way to the disk before it is synced; a small one costs no call more."""
    begun = []

    class Told(FileOperations):
        def begin_writing(self, fd: int, offset: int, size: int) -> None:
            begun.append((offset, size))
            super().begin_writing(fd, offset, size)

    with journal_of_large_segments(tmp_path / "j", Told()) as journal:
        journal.append(commands_from(0, 10))
        journal.sync()
        assert begun == []
        offset = journal.bytes_used
        journal.append(commands_from(10, 600))
        journal.sync()
        assert begun == [(offset, group_bytes(600))]
    assert len(read_all(tmp_path / "j")) == 610


def journal_of_large_segments(directory: Path, files: FileOperations) -> Journal:
    """Open a journal whose segments have room for large groups."""
    return Journal.open(directory, SHARD, KERNEL, segment_bytes=1 << 20, files=files)


def test_successor_of_another_journal_is_not_taken_over(tmp_path: Path) -> None:
    """After a crash between seal and rename the successor must continue what was sealed; another one is named."""
    write_segments(tmp_path / "j", 2)
    (_, tail) = list_segments(tmp_path / "j")
    block = tail.path.read_bytes()[:SEGMENT_HEADER_BYTES]
    tail.path.rename(tail.path.with_suffix(SUCCESSOR_SUFFIX))
    overwrite(tail.path.with_suffix(SUCCESSOR_SUFFIX), 0, sealed_anew(block, PREVIOUS_HASH_AT, b"?", SEGMENT_CRC_AT))
    with pytest.raises(JournalDamaged, match="it does not continue"):
        open_journal(tmp_path / "j")
    overwrite(tail.path.with_suffix(SUCCESSOR_SUFFIX), 0, block)
    with open_journal(tmp_path / "j") as journal:
        assert journal.next_command_sequence == 6


def test_segments_of_two_shards_are_no_journal(tmp_path: Path) -> None:
    """A segment that says it is another shard's is refused, though it continues the one before."""
    write_segments(tmp_path / "j", 2)
    (_, tail) = list_segments(tmp_path / "j")
    block = tail.path.read_bytes()[:SEGMENT_HEADER_BYTES]
    overwrite(tail.path, 0, sealed_anew(block, SHARD_AT, b"\x04", SEGMENT_CRC_AT))
    with pytest.raises(JournalDamaged, match="a segment of another shard"):
        list_segments(tmp_path / "j")


def test_segments_of_another_engine_are_refused_by_everyone_who_knows_his_own(tmp_path: Path) -> None:
    """Every new segment has the mark of its engine; who asks with another gets none of it, who asks with none, all."""
    write_segments(tmp_path / "j", engine_mark=7)
    segments = list_segments(tmp_path / "j", 7)
    assert [segment.header.engine_mark for segment in segments] == [7, 7, 7]
    assert list_segments(tmp_path / "j") == segments
    assert closed_segment(tmp_path / "j", 0, 7) is not None
    assert segments_before_damage(tmp_path / "j", 8) == []
    for ask in (
        lambda: list_segments(tmp_path / "j", 8),
        lambda: journal_end(tmp_path / "j", 8),
        lambda: closed_segment(tmp_path / "j", 0, 8),
        lambda: open_journal(tmp_path / "j", engine_mark=8),
    ):
        with pytest.raises(JournalDamaged, match="its mark is 00000007, this engine's 00000008") as refusal:
            ask()
        assert refusal.value.file == segments[0].path
    with open_journal(tmp_path / "j", engine_mark=7) as journal:
        assert journal.next_command_sequence == 18


def test_segments_without_a_mark_are_anybodys(tmp_path: Path) -> None:
    """Those of earlier versions, and of tests, have a mark of 0; who continues such a journal marks what he adds."""
    write_segments(tmp_path / "j", 2)
    with open_journal(tmp_path / "j", engine_mark=7) as journal:
        journal.append(commands_from(journal.next_command_sequence, 1))
        journal.sync()
        journal.roll(0, 0, 0)
    assert [segment.header.engine_mark for segment in list_segments(tmp_path / "j", 7)] == [0, 0, 7]
    with pytest.raises(JournalDamaged, match="a segment of another engine"):
        list_segments(tmp_path / "j", 8)


def test_epoch_is_the_callers_as_long_as_it_does_not_fall(tmp_path: Path) -> None:
    """Every group says in which start it was written: the caller may name the start, and none before the last."""
    with open_journal(tmp_path / "j", epoch=9) as journal:
        journal.append(commands_from(0, 1))
        journal.sync()
    assert journal_end(tmp_path / "j").epoch == 9
    with pytest.raises(JournalError, match="epoch 9 was here before epoch 8"):
        open_journal(tmp_path / "j", epoch=8)
    open_journal(tmp_path / "j", epoch=9).close()


def test_closed_segment_is_found_by_a_command_in_it(tmp_path: Path) -> None:
    """Who follows a journal finds the closed segment in which a command is, and what came after it, if it is closed."""
    assert closed_segment(tmp_path / "none", 0) is None
    write_segments(tmp_path / "j")
    first, second, third = list_segments(tmp_path / "j")
    for sequence, closed, after in ((0, first, second), (5, first, second), (6, second, third), (11, second, third)):
        assert closed_segment(tmp_path / "j", sequence) == (closed, after.header)
    assert closed_segment(tmp_path / "j", 12) is None
    first.path.unlink()
    with pytest.raises(SequenceNotHeld, match="begins after command sequence 3"):
        closed_segment(tmp_path / "j", 3)


def test_segments_before_the_first_damage_are_given(tmp_path: Path) -> None:
    """What stands before a damaged header or link is still of use; without damage that is all."""
    write_segments(tmp_path / "j")
    first, second, third = list_segments(tmp_path / "j")
    assert segments_before_damage(tmp_path / "j") == [first, second, third]
    overwrite(third.path, 0, b"?")
    assert segments_before_damage(tmp_path / "j") == [first, second]
    second.path.unlink()
    third.path.unlink()
    write_segments(tmp_path / "other")
    (tmp_path / "other" / third.path.name).rename(third.path)
    assert segments_before_damage(tmp_path / "j") == [first]
