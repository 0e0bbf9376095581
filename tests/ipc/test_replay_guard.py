"""Used signatures in shared memory: each is taken once, by whatever process, and memory is fixed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tests.ipc.processes import Fd, Given, child, finish

from tradeengine.ipc import replay_guard
from tradeengine.ipc.replay_guard import GROUP_WORDS, HEAD_BYTES, ReplayGuard, Verdict, board_bytes
from tradeengine.ipc.segment import Segment

NOW_MS = 1_795_000_000_123
WINDOW_MS = 5000
SHARED = 20_000


@pytest.fixture
def board() -> Iterator[Segment]:
    """Memory for one group."""
    with Segment.create("signatures", board_bytes(GROUP_WORDS)) as segment:
        yield segment


def test_each_is_taken_once(board: Segment) -> None:
    """The same content is refused the second time, by the front that took it and by another; other content is not."""
    first, second = ReplayGuard(board, NOW_MS), ReplayGuard(board, NOW_MS + 7)
    assert first.take(b"a", NOW_MS + WINDOW_MS, NOW_MS) is Verdict.TAKEN
    assert first.take(b"a", NOW_MS + WINDOW_MS, NOW_MS) is Verdict.USED
    assert second.take(b"a", NOW_MS + WINDOW_MS, NOW_MS + WINDOW_MS) is Verdict.USED
    assert second.take(b"b", NOW_MS + WINDOW_MS, NOW_MS) is Verdict.TAKEN


def test_a_full_group_lets_nothing_in_until_time_is_over(board: Segment) -> None:
    """Where all places are needed nothing is let in, what is there stays known, and places come back in time."""
    guard = ReplayGuard(board, NOW_MS)
    contents = [f"{number}".encode() for number in range(GROUP_WORDS)]
    expires_ms = NOW_MS + WINDOW_MS
    assert {guard.take(content, expires_ms, NOW_MS) for content in contents} == {Verdict.TAKEN}
    assert guard.take(b"one more", expires_ms, NOW_MS) is Verdict.FULL
    assert {guard.take(content, expires_ms, expires_ms) for content in contents} == {Verdict.USED}
    later_ms = expires_ms + 2000
    assert guard.take(b"one more", later_ms + WINDOW_MS, later_ms) is Verdict.TAKEN
    assert guard.take(b"one more", later_ms + WINDOW_MS, later_ms) is Verdict.USED


def test_a_clock_that_is_set_back_forgets_nothing(board: Segment) -> None:
    """What was taken is known, and its place not given away, when the clock shows a quarter of an hour earlier."""
    guard = ReplayGuard(board, NOW_MS)
    for number in range(GROUP_WORDS):
        guard.take(f"{number}".encode(), NOW_MS + WINDOW_MS, NOW_MS)
    earlier_ms = NOW_MS - 15 * 60_000
    assert guard.take(b"other", NOW_MS + WINDOW_MS, earlier_ms) is Verdict.FULL
    assert guard.take(b"0", NOW_MS + WINDOW_MS, NOW_MS) is Verdict.USED


def test_seconds_are_counted_around_their_end(board: Segment) -> None:
    """Where the counted seconds begin anew, what is taken is known before and after."""
    guard = ReplayGuard(board, NOW_MS)
    edge_ms = (replay_guard.SECOND_MASK + 1) * 1000 * 100_000
    assert guard.take(b"a", edge_ms + 2000, edge_ms - 1000) is Verdict.TAKEN
    assert guard.take(b"a", edge_ms + 2000, edge_ms - 1000) is Verdict.USED
    assert guard.take(b"a", edge_ms + 2000, edge_ms + 1999) is Verdict.USED


def test_every_front_knows_when_it_began(board: Segment) -> None:
    """Who joins later, as a front that is started anew, is told the time of the first."""
    assert ReplayGuard(board, NOW_MS).began_ms == NOW_MS
    assert ReplayGuard(board, NOW_MS + 60_000).began_ms == NOW_MS


def test_processes_never_take_the_same_twice() -> None:
    """Of two processes that take the same things as fast as they can, at most one gets each, and none is forgotten."""
    segment = Segment.create("signatures", board_bytes(1 << 16))
    results = Segment.create("results", 2 * SHARED)
    ReplayGuard(segment, NOW_MS)
    with (
        child(_take_all, Fd(segment.fd), Fd(results.fd), 0) as first,
        child(_take_all, Fd(segment.fd), Fd(results.fd), 1) as second,
    ):
        finish(first)
        finish(second)
    taken = results.array(np.uint8, 0, (2, SHARED)) == Verdict.TAKEN
    assert not np.any(taken[0] & taken[1])
    assert np.count_nonzero(taken[0] | taken[1]) == SHARED
    words = segment.array(np.int64, HEAD_BYTES, 1 << 16)
    assert np.count_nonzero(words) == SHARED


def _take_all(board: Given, results: Given, row: int) -> None:
    guard = ReplayGuard(Segment.attach(board(), writable=True), NOW_MS)
    verdicts = Segment.attach(results(), writable=True).array(np.uint8, 0, (2, SHARED))
    for number in range(SHARED):
        verdicts[row, number] = guard.take(number.to_bytes(4, "little"), NOW_MS + WINDOW_MS, NOW_MS)
