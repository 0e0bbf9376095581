"""What a front shows of its connections to the database, on its metric page. It refuses to know what is asked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tradeengine.ipc.metrics import MetricPage


class PoolMetrics:
    """The pool's part of a front's metric page."""

    def __init__(self, page: MetricPage) -> None:
        """Look up the names once."""
        self._page = page
        self._latency_us, self._wait_us = page.histogram("query_latency_us"), page.histogram("pool_wait_us")
        self._connects, self._failures = page.counter("pool_connects"), page.counter("pool_failures")
        self._gauges = page.gauge("pool_size"), page.gauge("pool_in_use"), page.gauge("pool_waiting")
        self._connects_seen = 0

    def count(self, asked_ns: int, began_ns: int, *, failed: bool) -> None:
        """Count a query that was asked for and began at these times (perf_counter_ns), and has ended now."""
        page = self._page
        page.record(self._latency_us, (time.perf_counter_ns() - asked_ns) // 1000)
        page.record(self._wait_us, (began_ns - asked_ns) // 1000)
        page.add(self._failures, int(failed))

    def show(self, size: int, in_use: int, waiting: int, connects: int) -> None:
        """Show how many queries may run, run, and wait, and how many connections have been opened so far."""
        for gauge, count in zip(self._gauges, (size, in_use, waiting), strict=True):
            self._page.set(gauge, count)
        self._page.add(self._connects, connects - self._connects_seen)
        self._connects_seen = connects
