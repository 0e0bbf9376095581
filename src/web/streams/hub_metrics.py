"""What a front counts and shows of its streams, on its metric page. It refuses to know what is streamed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tradeengine.ipc.metrics import MetricPage
    from tradeengine.web.streams.session import Session


class HubMetrics:
    """The streams' part of the front's metric page."""

    def __init__(self, page: MetricPage) -> None:
        """Look up the names once."""
        self._page = page
        self._passed, self._snapshots = page.counter("stream_messages"), page.counter("stream_snapshots")
        self._lapped = page.counter("stream_lapped")
        self._clients, self._channels = page.gauge("stream_clients"), page.gauge("stream_channels")
        self._waiting_bytes = page.gauge("stream_waiting_bytes")
        self._latency_us = page.histogram("stream_latency_us")

    def passed(self, count: int) -> None:
        """Count a message that went to so many sessions."""
        self._page.add(self._passed, count)

    def delivered(self, timestamps_ns: NDArray[np.int64]) -> None:
        """Note how old messages are when they have gone to their clients' connections, by when they were caused."""
        if len(timestamps_ns):
            self._page.record(self._latency_us, (time.time_ns() - timestamps_ns) // 1000)

    def snapshot(self) -> None:
        """Count a book that was told as a whole."""
        self._page.add(self._snapshots)

    def lapped(self) -> None:
        """Count a time when the feed was faster than this front."""
        self._page.add(self._lapped)

    def show(self, sessions: set[Session], channel_count: int) -> None:
        """Show how many are connected, and what waits for them."""
        self._page.set(self._clients, len(sessions))
        self._page.set(self._channels, channel_count)
        self._page.set(self._waiting_bytes, sum(session.waiting_bytes for session in sessions))
