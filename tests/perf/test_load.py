"""What benchmarks share: work beside a load, percentiles and goals."""

from __future__ import annotations

import threading

import pytest
from perf.figures import goals_met, percentile_ms
from perf.load import beside


def test_work_beside_a_load_ends_with_it() -> None:
    """Work goes on while the block runs, and has ended when the block has, also when the block fails."""
    turns, ended = threading.Semaphore(0), threading.Event()

    def work(over: threading.Event) -> None:
        turns.release()
        over.wait()
        ended.set()

    def fail() -> None:
        assert turns.acquire(timeout=60)
        assert not ended.is_set()
        raise KeyError

    with pytest.raises(KeyError), beside(work):
        fail()
    assert ended.is_set()


def test_work_that_fails_fails_the_measurement() -> None:
    """What stopped the work beside a load is raised: figures of a load that nothing was beside mean nothing."""

    def work(_over: threading.Event) -> None:
        raise ValueError("it differs")

    with pytest.raises(ValueError, match="it differs"), beside(work):
        pass


def test_percentiles_and_goals() -> None:
    """A percentile is a duration that was measured, the last of them at most; rates want more, the rest wants less."""
    ordered_s = [number / 1000 for number in range(1, 101)]
    assert [percentile_ms(ordered_s, percent) for percent in (0, 50, 99, 100)] == [1, 51, 100, 100]
    assert percentile_ms([0.0123456], 99, 3) == 12.346
    goals = {"drain_per_s": 500.0, "wait_p99_ms": 10.0}
    assert goals_met({"drain_per_s": 500.0, "wait_p99_ms": 10.0}, goals) == {"drain_per_s": True, "wait_p99_ms": True}
    assert goals_met({"drain_per_s": 499.0, "wait_p99_ms": 10.1}, goals) == {"drain_per_s": False, "wait_p99_ms": False}
