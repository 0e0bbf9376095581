"""What can be read of a damaged journal: every whole group that is newer than an order, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.storage.test_journal import commands_from, flip_bit, write_groups, write_segments

from tradeengine.core.records import CommandKind
from tradeengine.storage.journal import Journal
from tradeengine.storage.journal_read import list_segments
from tradeengine.storage.journal_salvage import newer_commands

SHARD = 3


def order_of(sequence: int) -> int:
    """Give the order that the command of a sequence places."""
    return sequence * 7919 + 1


def sequences(commands: NDArray[np.void]) -> list[int]:
    """Tell commands by their sequences."""
    return [(int(order_id) - 1) // 7919 for order_id in commands["order_id"]]


def test_commands_behind_an_order_are_found_across_segments(tmp_path: Path) -> None:
    """In a journal that is whole all commands behind an order are found, and none before it."""
    write_segments(tmp_path / "j")
    for known in (-1, 0, 5, 6, 13, 16):
        assert sequences(newer_commands(tmp_path / "j", SHARD, order_of(known))) == list(range(known + 1, 18))
    assert len(newer_commands(tmp_path / "j", SHARD, order_of(17))) == 0
    assert len(newer_commands(tmp_path / "none", SHARD, 0)) == 0
    assert len(newer_commands(tmp_path / "j", SHARD + 1, 0)) == 0


def test_damaged_group_is_left_out_and_the_others_are_not(tmp_path: Path) -> None:
    """A flipped bit costs its own group, wherever it is in it; what follows is found all the same."""
    ends = write_groups(tmp_path / "j", [2, 3, 4])
    (path,) = (tmp_path / "j").glob("*.journal")
    for offset in range(ends[0], ends[1], 13):
        flip_bit(path, offset)
        assert sequences(newer_commands(tmp_path / "j", SHARD, order_of(-1))) == [0, 1, 5, 6, 7, 8]
        flip_bit(path, offset)


@pytest.mark.parametrize("damage", ["header", "name", "missing", "cut"])
def test_segments_that_no_reader_takes_are_looked_through(tmp_path: Path, damage: str) -> None:
    """A segment whose header or name is damaged, or before which one is missing, is searched for whole groups."""
    write_segments(tmp_path / "j")
    first, middle, last = (segment.path for segment in list_segments(tmp_path / "j"))
    wanted = list(range(6, 18))
    if damage == "header":
        flip_bit(middle, 9)
    elif damage == "name":
        middle.rename(middle.with_suffix(".journal~"))
    elif damage == "missing":
        middle.unlink()
        wanted = list(range(12, 18))
    else:
        os.truncate(last, last.stat().st_size - 20)
        first.unlink()
    assert sequences(newer_commands(tmp_path / "j", SHARD, order_of(5))) == wanted


def test_what_is_not_a_new_order_begins_nothing(tmp_path: Path) -> None:
    """Commands of orders that are known are passed over until the first new order; from there on all are given."""
    with Journal.open(tmp_path / "j", SHARD, 5, segment_bytes=32 << 10) as journal:
        commands = commands_from(0, 6)
        commands["kind"][[1, 2, 4]] = CommandKind.CANCEL
        journal.append(commands)
        journal.sync()
    assert sequences(newer_commands(tmp_path / "j", SHARD, order_of(0))) == [3, 4, 5]


def test_another_engines_files_are_left_out(tmp_path: Path) -> None:
    """What another engine wrote holds nothing here; what does not say whose it is may be this engine's."""
    for name, mark, first in (("own", 7, 0), ("other", 8, 6), ("unknown", 0, 12)):
        with Journal.open(tmp_path / name, SHARD, 5, segment_bytes=32 << 10, engine_mark=mark) as journal:
            journal.append(commands_from(first, 6))
            journal.sync()
        for known, found in ((7, mark != 8), (8, mark != 7), (0, True)):
            commands = newer_commands(tmp_path / name, SHARD, order_of(-1), known)
            assert sequences(commands) == (list(range(first, first + 6)) if found else [])
    (path,) = (tmp_path / "other").glob("*.journal")
    flip_bit(path, 9)
    assert len(newer_commands(tmp_path / "other", SHARD, order_of(-1), 7)) == 6


def test_file_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    """A file that gives an error is as if it was not there."""
    write_segments(tmp_path / "j")
    last = list_segments(tmp_path / "j")[-1].path
    last.unlink()
    last.mkdir()
    assert sequences(newer_commands(tmp_path / "j", SHARD, order_of(5))) == list(range(6, 12))
