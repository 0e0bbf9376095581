"""What a front counts and shows of its streams, on its metric page. It refuses to know what is streamed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tradeengine.ipc.metric_names import CLOSE_CODES, GONE, OTHER, stream_closed

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
        self._lapped, self._read = page.counter("stream_lapped"), page.counter("records_in")
        self._opened, self._merges = page.counter("stream_opened"), page.counter("stream_merges")
        self._closed = {code: page.counter(stream_closed(str(code))) for code in (*CLOSE_CODES, GONE, OTHER)}
        self._clients, self._channels = page.gauge("stream_clients"), page.gauge("stream_channels")
        self._waiting_bytes = page.gauge("stream_waiting_bytes")
        self._latency_us = page.histogram("stream_latency_us")

    def read(self, count: int) -> None:
        """Count what was read of the feed."""
        self._page.add(self._read, count)

    def opened(self) -> None:
        """Count a client that was let in."""
        self._page.add(self._opened)

    def closed(self, code: int | None) -> None:
        """Count one that was closed with a code, or, without one, went by itself."""
        self._page.add(self._closed.get(GONE if code is None else code, self._closed[OTHER]))

    def merged(self) -> None:
        """Count a message that takes the place of one that a client had no time for."""
        self._page.add(self._merges)

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
