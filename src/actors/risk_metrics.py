"""Risk's metric page by meaning. Counted per batch, written to the page now and then: the page is for people."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np

from tradeengine.core.records import EventKind, Reason
from tradeengine.core.risk import order_count
from tradeengine.ipc.metric_names import refusals

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tradeengine.core.risk import RiskState
    from tradeengine.ipc.metrics import MetricPage

_INTERVAL_S: Final = 0.01


class RiskMetrics:
    """Counts what risk does."""

    def __init__(self, page: MetricPage, risk: RiskState) -> None:
        """Look up the names once."""
        self._page = page
        self._risk = risk
        self._written_s = 0.0
        self._refusals_seen = risk.refusals.copy()
        self._commands = page.counter("commands")
        self._forwarded = page.counter("forwarded")
        self._events = page.counter("events")
        self._repeated = page.counter("repeated")
        self._funded = page.counter("funded")
        self._in, self._out = page.counter("records_in"), page.counter("records_out")
        self._by_reason = [
            (int(reason), page.counter(refusals(reason)))
            for reason in Reason
            if refusals(reason) in page.names.counters
        ]
        self._open_orders = page.gauge("open_orders")
        self._accepting = page.gauge("accepting")
        self._batch_commands = page.histogram("batch_commands")
        self._batch_events = page.histogram("batch_events")

    def count_batch(self, commands: int, forwarded: int, answers: NDArray[np.void]) -> None:
        """Count one batch of an ingress ring. answers: risk's own events of it."""
        page = self._page
        page.add(self._commands, commands)
        page.add(self._forwarded, forwarded)
        page.add(self._in, commands)
        page.add(self._out, forwarded + len(answers))
        page.record(self._batch_commands, commands)
        if len(answers):
            page.add(self._repeated, int(np.count_nonzero(answers["kind"] == EventKind.REPEATED)))
            page.add(self._funded, int(np.count_nonzero(answers["kind"] == EventKind.FUNDED)))

    def count_events(self, events: int) -> None:
        """Count one piece of folded events."""
        self._page.add(self._events, events)
        self._page.add(self._in, events)
        self._page.record(self._batch_events, events)

    def look(self, *, accepting: bool) -> None:
        """Write the gauges and the refusals by reason, unless that was done a moment ago."""
        now_s = time.monotonic()
        if now_s - self._written_s < _INTERVAL_S:
            return
        self._written_s = now_s
        page = self._page
        page.set(self._open_orders, order_count(self._risk))
        page.set(self._accepting, int(accepting))
        new = self._risk.refusals - self._refusals_seen
        if new.any():
            self._refusals_seen += new
            for reason, counter in self._by_reason:
                page.add(counter, int(new[reason]))
