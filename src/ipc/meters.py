"""Meters: how busy an actor is and what it logs, measured around its duty and counted on its metric page.

Rule 1: a round costs two looks at the clock and a word at most.
It refuses to know what the actor does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import trio

from tradeengine.ipc.metric_names import ERROR_LINES, TASKS, WARNING_LINES
from tradeengine.ipc.metrics import MetricPage

_TASKS_INTERVAL_NS: Final = 10**9


def measured(page: MetricPage, duty: Callable[[], int]) -> Callable[[], int]:
    """Give a duty that counts the time of its rounds; one that did nothing, and says so by 0, counts as sleep."""
    busy = BusyTime(page)

    def work() -> int:
        began_ns = time.perf_counter_ns()
        count = duty()
        if count:
            busy.add(time.perf_counter_ns() - began_ns)
        return count

    return work


class BusyTime:
    """Adds up how long an actor worked."""

    def __init__(self, page: MetricPage) -> None:
        self._page = page
        self._busy_us = page.counter("busy_us")
        self._rest_ns = 0

    def add(self, duration_ns: int) -> None:
        """Count a duration; what is less than a microsecond is kept for the next one."""
        duration_us, self._rest_ns = divmod(self._rest_ns + duration_ns, 1000)
        self._page.add(self._busy_us, duration_us)


class LoopMeter(trio.abc.Instrument):
    """Measures how long a trio program's event loop works between its sleeps, and once a second how many tasks live."""

    def __init__(self, page: MetricPage) -> None:
        self._busy = BusyTime(page)
        self._page = page
        self._tasks = page.gauge(TASKS)
        self._counted_ns = 0
        self._woke_ns = time.perf_counter_ns()

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's interface
        """Begin to work."""
        self._woke_ns = time.perf_counter_ns()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's interface
        """Go to sleep, or only look for news, which is a moment."""
        now_ns = time.perf_counter_ns()
        self._busy.add(now_ns - self._woke_ns)
        if now_ns - self._counted_ns >= _TASKS_INTERVAL_NS:
            self._counted_ns = now_ns
            self._page.set(self._tasks, trio.lowlevel.current_statistics().tasks_living)


class LineCounter(logging.Handler):
    """Counts lines as they are logged, whoever logs them; structlog's pass here, too."""

    def __init__(self, page: MetricPage) -> None:
        super().__init__(logging.WARNING)
        self._page = page
        self._warnings, self._errors = page.counter(WARNING_LINES), page.counter(ERROR_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Count a line; a handler's lock is held, so that threads do not count at the same time."""
        self._page.add(self._errors if record.levelno >= logging.ERROR else self._warnings)
