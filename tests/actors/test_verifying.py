"""The walk through a journal that somebody writes at the same time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.actors.matcher_bench import Bench, Shard, flow, run_all, start

from tradeengine.actors.verifying.walk import ShardWalk, Walked
from tradeengine.core.differences import Differences
from tradeengine.storage.journal_format import GROUP_HEADER_BYTES, SEGMENT_HEADER_BYTES, group_bytes, unpack_group
from tradeengine.storage.journal_read import list_segments

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[Shard]:
    """Run a matcher over order flow that fills several segments, a group of few commands each time."""
    made = start(Bench(tmp_path))
    for commands in np.array_split(flow(41, 900), 90):
        run_all(made, commands)
    yield made
    made.die()


def walk_through(shard: Shard, *, is_live: bool, cursor: int = 1 << 62) -> tuple[Walked, Differences, int]:
    """Walk through a shard's journal; gives how far it went, what differs, and how many events were handed on."""
    differences, counts = Differences(), []

    def take(events: NDArray[np.void]) -> None:
        counts.append(len(events))

    made = ShardWalk(shard.bench.place, cursor, differences, is_live=is_live, from_snapshot=False)
    return made.run(take), differences, sum(counts)


def hide_group(shard: Shard) -> tuple[Path, bytes]:
    """Take a group's payload out of the open segment, as who reads between two writes may find it.

    It is not the last group. Gives the file, and what was in it.
    """
    path = list_segments(shard.bench.place.journal_dir)[-1].path
    block = path.read_bytes()
    offsets, offset = [], SEGMENT_HEADER_BYTES
    while (header := unpack_group(block[offset : offset + GROUP_HEADER_BYTES])) is not None:
        offsets.append((offset, group_bytes(header.command_count)))
        offset += group_bytes(header.command_count)
    start_at, size = offsets[-2]
    path.write_bytes(block[: start_at + 64] + bytes(size - 64) + block[start_at + size :])
    return path, block


def test_walk_hands_on_what_is_before_the_cursor(shard: Shard) -> None:
    """Every event is replayed; those from the cursor on are handed to nobody, but for the book's own moment."""
    whole, differences, count = walk_through(shard, is_live=False)
    assert (differences.kept, whole.damaged, count) == ([], False, whole.next_event)
    assert whole.book is None
    cursor = whole.next_event // 2
    walked, differences, count = walk_through(shard, is_live=False, cursor=cursor)
    assert (differences.kept, walked.next_event, count) == ([], whole.next_event, cursor)
    assert walked.book is not None
    assert walked.book.next_sequence >= cursor
    assert np.array_equal(walked.tail["sequence"], np.arange(cursor, walked.book.next_sequence))


def test_group_on_its_way_is_no_damage(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a live engine a group that is not whole yet is looked at again; the walk ends before it."""
    path, block = hide_group(shard)
    looks = []

    def arrive(_: float) -> None:
        looks.append(path.write_bytes(block))

    monkeypatch.setattr(time, "sleep", arrive)
    walked, differences, _ = walk_through(shard, is_live=True)
    assert (differences.kept, walked.damaged, len(looks)) == ([], False, 1)
    assert 0 < walked.next_command < shard.recovered.matching.command_sequence


@pytest.mark.parametrize("is_live", [True, False])
def test_group_that_stays_broken_is_damage(shard: Shard, monkeypatch: pytest.MonkeyPatch, is_live: bool) -> None:
    """A group in the middle that never becomes whole is damage; where nobody writes, it is so at once."""
    path, _ = hide_group(shard)
    looks: list[float] = []
    monkeypatch.setattr(time, "sleep", looks.append)
    walked, differences, _ = walk_through(shard, is_live=is_live)
    (difference,) = differences.kept
    assert (difference.kind, difference.file, difference.sequence) == (
        "journal_damaged",
        str(path),
        walked.next_command,
    )
    assert walked.damaged
    assert bool(looks) == is_live
