"""Time that never goes back and never stands still, whatever is done to the clock of days."""

from __future__ import annotations

from random import Random

import pytest

from tradeengine.actors.steady import SteadyClock

HOUR_NS = 3600 * 10**9
START_NS = 1_790_000_000 * 10**9


class Clocks:
    """A clock of days that is set, and one that nobody sets."""

    def __init__(self) -> None:
        self.wall_ns, self.running_ns = START_NS, 5 * HOUR_NS
        self.steady = SteadyClock(lambda: self.wall_ns, lambda: self.running_ns)

    def pass_by(self, duration_ns: int) -> int:
        """Let time pass, and tell it."""
        self.wall_ns += duration_ns
        self.running_ns += duration_ns
        return self.steady.now_ns()


def test_time_is_that_of_the_clock_of_days() -> None:
    """As long as nobody sets the clock, or sets it forward, it is what counts."""
    clocks = Clocks()
    assert clocks.pass_by(10**9) == clocks.wall_ns
    clocks.wall_ns += HOUR_NS
    assert clocks.pass_by(1) == clocks.wall_ns


def test_time_runs_on_where_the_clock_was_set_back() -> None:
    """After a step back of an hour time goes on at three quarters of its pace for four hours, and then is right."""
    clocks = Clocks()
    before_ns = clocks.pass_by(10**9)
    clocks.wall_ns -= HOUR_NS
    assert clocks.pass_by(40 * 10**9) == before_ns + 30 * 10**9
    assert clocks.pass_by(3 * HOUR_NS) > clocks.wall_ns
    assert clocks.pass_by(HOUR_NS) == clocks.wall_ns


def test_time_goes_on_after_what_another_was_told() -> None:
    """Who is told a later time than its own clock's goes on from there."""
    clocks = Clocks()
    later_ns = clocks.wall_ns + HOUR_NS
    assert clocks.steady.now_ns(later_ns) == later_ns
    assert clocks.pass_by(4 * 10**9) == later_ns + 3 * 10**9


@pytest.mark.parametrize("seed", range(20))
def test_time_never_goes_back(seed: int) -> None:
    """However the clock is set, and how often: time grows by at least three quarters of what passes."""
    chance, clocks = Random(seed), Clocks()
    told_ns = clocks.steady.now_ns()
    for _ in range(200):
        if chance.random() < 0.1:
            clocks.wall_ns += chance.randint(-HOUR_NS, HOUR_NS)
        passed_ns = chance.randint(0, 10**10)
        now_ns = clocks.pass_by(passed_ns)
        assert now_ns >= told_ns + passed_ns * 3 // 4
        assert now_ns >= clocks.wall_ns
        told_ns = now_ns
