"""Token buckets in shared memory: what is let through, how long to wait, and that processes share them exactly."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.ipc.processes import Fd, Given, child, finish

from tradeengine.ipc.buckets import LINE_BYTES, Buckets, Rate, board_bytes
from tradeengine.ipc.segment import Segment

NOW_NS = 10**15
MS = 10**6
RATE = Rate(per_s=100, burst=10)


@pytest.fixture
def board() -> Iterator[Segment]:
    """Memory for 64 names."""
    with Segment.create("buckets", board_bytes(64)) as segment:
        yield segment


def test_a_burst_passes_and_no_more(board: Segment) -> None:
    """A full bucket gives its burst at once; the next one must wait for one unit's time."""
    buckets = Buckets(board)
    charges = [buckets.charge("alice", 0, 1, RATE, NOW_NS) for _ in range(10)]
    assert [charge.remaining for charge in charges] == list(range(9, -1, -1))
    assert all(charge.allowed for charge in charges)
    refused = buckets.charge("alice", 0, 1, RATE, NOW_NS)
    assert not refused.allowed
    assert refused.wait_ns == 10 * MS


def test_it_fills_again_at_its_rate(board: Segment) -> None:
    """After the time that a refusal names the same charge passes, a moment earlier it does not."""
    buckets = Buckets(board)
    buckets.charge("alice", 0, 10, RATE, NOW_NS)
    wait_ns = buckets.charge("alice", 0, 3, RATE, NOW_NS).wait_ns
    assert wait_ns == 30 * MS
    assert not buckets.charge("alice", 0, 3, RATE, NOW_NS + wait_ns - 1).allowed
    assert buckets.charge("alice", 0, 3, RATE, NOW_NS + wait_ns).allowed


def test_a_refusal_costs_nothing(board: Segment) -> None:
    """Whoever goes on asking while refused is not kept out for longer."""
    buckets = Buckets(board)
    buckets.charge("alice", 0, 10, RATE, NOW_NS)
    for _ in range(1000):
        buckets.charge("alice", 0, 1, RATE, NOW_NS)
    assert buckets.charge("alice", 0, 1, RATE, NOW_NS + 10 * MS).allowed


def test_names_and_buckets_are_apart(board: Segment) -> None:
    """Another user, and the same user's cancels, have all that is theirs."""
    buckets = Buckets(board)
    buckets.charge("alice", 0, 10, RATE, NOW_NS)
    assert buckets.charge("bob", 0, 10, RATE, NOW_NS).remaining == 0
    assert buckets.charge("alice", 1, 10, RATE, NOW_NS).remaining == 0
    assert not buckets.charge("alice", 0, 1, RATE, NOW_NS).allowed


def test_what_is_above_the_burst_takes_all_of_it(board: Segment) -> None:
    """A request that weighs more than the bucket holds is possible, once the bucket is full."""
    buckets = Buckets(board)
    assert buckets.charge("alice", 0, 1000, RATE, NOW_NS).allowed
    assert buckets.charge("alice", 0, 1000, RATE, NOW_NS).wait_ns == 100 * MS


def test_a_rate_of_zero_is_no_limit(board: Segment) -> None:
    """Nothing is counted where there is no limit."""
    buckets = Buckets(board)
    assert all(buckets.charge("alice", 0, 10**6, Rate(0, 1), NOW_NS).allowed for _ in range(100))


def test_more_names_than_lines_are_limited_too(board: Segment) -> None:
    """When every line is busy the others share one bucket: no flood of names opens the way for anyone."""
    buckets = Buckets(board)
    passed = sum(
        buckets.charge(f"user-{number}", 0, 10, RATE, NOW_NS).allowed for number in range(1000) for _ in range(2)
    )
    assert 33 <= passed <= 65  # every line at most once, and the shared one once


def test_idle_lines_are_given_to_others(board: Segment) -> None:
    """A second later everybody's bucket is full again, and as many new names find a place."""
    buckets = Buckets(board)
    for moment in range(5):
        now_ns = NOW_NS + moment * 10**9
        assert sum(buckets.charge(f"{moment}-{name}", 0, 10, RATE, now_ns).allowed for name in range(30)) == 30


def test_no_name_is_found_in_memory(board: Segment) -> None:
    """What a board holds are keyed hashes: another engine puts the same names elsewhere."""
    with Segment.create("other", board_bytes(64)) as other:
        for segment in (board, other):
            Buckets(segment).charge("alice", 0, 1, RATE, NOW_NS)
        first, second = (bytes(segment.buffer(LINE_BYTES, 64 * LINE_BYTES)) for segment in (board, other))
    assert first != second


def _spend(board: Given, result: Given) -> None:
    buckets = Buckets(Segment.attach(board(), writable=True))
    rate = Rate(per_s=1, burst=10_000)
    passed = sum(buckets.charge("alice", 0, 1, rate, NOW_NS).allowed for _ in range(8_000))
    os.write(result(), passed.to_bytes(8, "little"))


def test_processes_share_a_bucket_to_the_unit(board: Segment) -> None:
    """Three fronts that spend the same user's bucket at the same time get exactly what it holds, together."""
    reader, writer = os.pipe()
    try:
        with (
            child(_spend, Fd(board.fd), Fd(writer)) as one,
            child(_spend, Fd(board.fd), Fd(writer)) as two,
            child(_spend, Fd(board.fd), Fd(writer)) as three,
        ):
            for process in (one, two, three):
                finish(process)
        passed = [int.from_bytes(os.read(reader, 8), "little") for _ in range(3)]
    finally:
        os.close(reader)
        os.close(writer)
    assert sum(passed) == 10_000
