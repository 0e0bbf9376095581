"""The circuit breaker: a wallet that does not answer is left alone for a while.

Closed: everything passes. After ``failures_max`` failures in a row: open, nothing passes. After ``open_s``, or as soon
as a look at the wallet's health goes well: half open, one request passes; its outcome closes the breaker or opens it
for another ``open_s``.

Rule 1: only ``Unavailable`` is a failure. A refusal is an answer: the wallet is there.
Rule 2: an answer counts only in the period in which its request passed, so that what was on its way when the breaker
opened neither closes it nor holds it open.
Rule 3: a wallet that says that it is well and then fails the probe is not believed until the time is over.
It refuses to know clocks, tasks and requests: ``now_s`` comes from the caller and never goes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class BreakerState(IntEnum):
    """What the breaker lets pass. The values are the metric's."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(frozen=True, slots=True)
class Pass:
    """Leave to send one request; it must be given back by ``succeeded``, ``failed`` or ``abandoned``."""

    period: int
    is_probe: bool


class Breaker:
    """One breaker, for one wallet."""

    def __init__(self, failures_max: int, open_s: float) -> None:
        """failures_max: failures in a row that open it, at least 1. open_s: seconds until it is half open."""
        assert failures_max >= 1
        assert open_s > 0
        self._failures_max = failures_max
        self._open_s = open_s
        self._failures = 0
        self._half_open_at_s = 0.0
        self._probe: Pass | None = None
        self._period = 0
        self._is_open = False
        self._believes_health = True
        self._came_early = False

    def state(self, now_s: float) -> BreakerState:
        """Tell what a request would find now."""
        if not self._is_open:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_s < self._half_open_at_s else BreakerState.HALF_OPEN

    def passable(self, now_s: float) -> bool:
        """Whether a request would pass now: not while it is open, nor while the probe of a half-open one is away."""
        return not self._is_open or (self._probe is None and now_s >= self._half_open_at_s)

    def try_pass(self, now_s: float) -> Pass | None:
        """Let a request pass, or not."""
        if not self.passable(now_s):
            return None
        if not self._is_open:
            return Pass(self._period, is_probe=False)
        self._period += 1
        self._probe = Pass(self._period, is_probe=True)
        return self._probe

    def succeeded(self, granted: Pass) -> None:
        """Note that the wallet answered."""
        if granted.period != self._period:
            return
        self._failures = 0
        if granted.is_probe:
            self._is_open = False
            self._believes_health = True
            self._came_early = False
            self._probe = None
            self._period += 1

    def failed(self, granted: Pass, now_s: float) -> None:
        """Note that the wallet did not answer."""
        if granted.period != self._period:
            return
        self._failures += 1
        if granted.is_probe or self._failures >= self._failures_max:
            self._is_open = True
            self._probe = None
            self._period += 1
            self._failures = 0
            self._half_open_at_s = now_s + self._open_s
            self._believes_health = not self._came_early
            self._came_early = False

    def abandoned(self, granted: Pass) -> None:
        """Note that nobody waits for the answer any more: nothing was learnt. Another probe may pass."""
        if granted is self._probe:
            self._probe = None

    def saw_health(self, now_s: float) -> None:
        """Note that the wallet says it is well: an open breaker is half open from now on."""
        if self._is_open and self._believes_health and now_s < self._half_open_at_s:
            self._half_open_at_s = now_s
            self._came_early = True

    def wait_s(self, now_s: float) -> float:
        """Seconds until an open breaker is half open by itself; 0 when it is not open."""
        return max(0.0, self._half_open_at_s - now_s) if self._is_open else 0.0
