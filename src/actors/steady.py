"""Time that never goes back and never stands still: what risk stamps commands with, and by what matchers end orders.

The clock of days may be set: by hand, by a time service, by a machine that was moved. Forward it is followed at once.
Set back, it is not: stamps that followed it would come twice, and stamps that waited for it would stand still, and with
them every timer, so that a dead man's switch of ten seconds would fire an hour late. So time runs on at three quarters
of its pace until the clock of days has caught up, which takes four times as long as that was set back.
It refuses to know what time is needed for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class SteadyClock:
    """UTC in nanoseconds for as long as the clock of days is not set back."""

    def __init__(self, wall: Callable[[], int], running: Callable[[], int]) -> None:
        """Begin with the clock of days. running: nanoseconds on a clock that nobody sets."""
        self._wall = wall
        self._running = running
        self._looked_ns = running()
        self._now_ns = wall()

    def now_ns(self, at_least_ns: int = 0) -> int:
        """Tell the time. at_least_ns: what somebody was told before, in this process or another."""
        looked_ns = self._running()
        ran_ns = max(looked_ns - self._looked_ns, 0) * 3 // 4
        self._looked_ns = looked_ns
        self._now_ns = max(self._wall(), self._now_ns + ran_ns, at_least_ns)
        return self._now_ns
