"""What actors counted between two looks at their metric pages, and a window over the last minute made of such looks.

Rule 1: looking copies pages and costs the actors nothing.
Rule 2: a page outlives its actor's process, so an interval may span restarts.
It refuses to know what the metrics mean.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from tradeengine.ipc.histogram import BUCKET_COUNT
from tradeengine.ipc.metrics import Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from tradeengine.ipc.metrics import MetricPage, MetricSnapshot

SPAN_S: Final = 60.0
STEP_S: Final = 5.0
NOTHING: Final = Histogram(0, 0, 0, np.zeros(BUCKET_COUNT, np.int64))


@dataclass(frozen=True)
class Look:
    """Copies of pages, by actor, and when they were made on the monotonic clock."""

    at_s: float
    pages: Mapping[str, MetricSnapshot]

    @classmethod
    def at(cls, pages: Mapping[str, MetricPage], histograms: AbstractSet[str]) -> Look:
        """Copy pages as they are now; of their histograms only those of these names."""
        return cls(time.monotonic(), {name: _thin(page.snapshot(), histograms) for name, page in pages.items()})

    def total(self, role: str, counter: str) -> int:
        """Add up a counter over the actors of a role, since the engine's start. Raises KeyError for an unknown name."""
        return sum(page.counters[counter] for page in self.pages.values() if page.role == role)

    def gauge(self, role: str, gauge: str) -> int:
        """Add up a gauge over the actors of a role. Raises KeyError for an unknown name."""
        return sum(page.gauges[gauge] for page in self.pages.values() if page.role == role)


@dataclass(frozen=True)
class Interval:
    """What happened from one look to a later one."""

    earlier: Look
    later: Look

    @property
    def seconds(self) -> float:
        """How long it is, more than 0."""
        return max(self.later.at_s - self.earlier.at_s, 1e-6)

    def count(self, role: str, counter: str) -> int:
        """Count what the actors of a role counted meanwhile."""
        return self.later.total(role, counter) - self.earlier.total(role, counter)

    def rate(self, role: str, counter: str) -> float:
        """Give the same per second."""
        return self.count(role, counter) / self.seconds

    def histogram(self, role: str, name: str) -> Histogram:
        """Give what the actors of a role measured meanwhile, as one."""
        merged = NOTHING
        for actor, page in self.later.pages.items():
            if page.role == role:
                merged = _merge(merged, self.histogram_of(actor, name))
        return merged

    def histogram_of(self, actor: str, name: str) -> Histogram:
        """Give what one actor measured meanwhile."""
        return self.later.pages[actor].histograms[name].minus(self.earlier.pages[actor].histograms[name])


class Window:
    """Keeps looks, one every ``STEP_S``, of the last ``SPAN_S``."""

    def __init__(self, pages: Mapping[str, MetricPage], histograms: AbstractSet[str]) -> None:
        """histograms: names of those that are wanted."""
        self._pages = pages
        self._histograms = histograms
        self._kept = deque([self._look()], maxlen=int(SPAN_S / STEP_S) + 1)

    def keep(self) -> None:
        """Look once more; to be called every ``STEP_S``."""
        self._kept.append(self._look())

    def interval(self) -> Interval:
        """Give what happened from the oldest look that is kept until now."""
        return Interval(self._kept[0], self._look())

    def _look(self) -> Look:
        return Look.at(self._pages, self._histograms)


def _thin(page: MetricSnapshot, histograms: AbstractSet[str]) -> MetricSnapshot:
    return replace(page, histograms={name: page.histograms[name] for name in histograms & page.histograms.keys()})


def _merge(one: Histogram, other: Histogram) -> Histogram:
    return Histogram(one.count + other.count, one.sum + other.sum, max(one.max, other.max), one.buckets + other.buckets)
