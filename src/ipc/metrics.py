"""A metric page: what one actor counts and measures, in shared memory, for anyone to look at.

Its actor writes plain words; readers copy them and cost the actor nothing. One page lives as long as the engine and
outlives its actor's process, so that counters go on after a restart.

Rule 1: the names are stored in the page, so that a reader needs nothing but the descriptor. A name may end in labels
as Prometheus writes them: ``refusals{reason="limit_exceeded"}``. What is not known before (which routes are asked for)
has *spare* places, which the actor names when it first needs them; there is a fixed number.
Rule 2: each word has one writer, the page's actor in one thread. What the supervisor knows of an actor (restarts,
whether it is ready) is in the table ``actors``.
Rule 3: a histogram is log-linear, 16 buckets to each power of two: a percentile read from it is at most one
sixteenth too high and never too low. It counts whole numbers of whatever unit its name says (``match_latency_us``).
It refuses to know how metrics are shown; rates are for the reader of two snapshots.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import msgspec
import numpy as np

from tradeengine.ipc.histogram import BUCKET_COUNT, bucket_bounds, bucket_index, record_values
from tradeengine.ipc.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIXED_WORDS: Final = 16
_PID, _STARTED, _HEARTBEAT, _STATE_CODE, _STATE_SLOT, _NAMES_BYTES, _NAMED_COUNTERS, _NAMED_HISTOGRAMS = range(8)
STATE_BYTES_MAX: Final = 120
_STATE_SLOT_BYTES: Final = 128
_STATES_OFFSET: Final = _FIXED_WORDS * 8
_NAMES_OFFSET: Final = _STATES_OFFSET + 2 * _STATE_SLOT_BYTES
SPARE_NAME_BYTES: Final = 256
_COUNT, _SUM, _MAX, _BUCKETS = range(4)
_HISTOGRAM_WORDS: Final = _BUCKETS + BUCKET_COUNT


class MetricNames(msgspec.Struct, frozen=True):
    """What a page holds; the order gives the indexes."""

    role: str
    counters: tuple[str, ...]
    gauges: tuple[str, ...]
    histograms: tuple[str, ...]
    spare_counters: int = 0
    spare_histograms: int = 0


@dataclass(frozen=True)
class Histogram:
    """Copy of a histogram. ``buckets[i]`` counts values v with ``bounds[i-1] < v ≤ bounds[i]``."""

    count: int
    sum: int
    max: int
    buckets: np.ndarray[Any, np.dtype[np.int64]]

    @property
    def mean(self) -> float:
        """Exact, unlike the percentiles; 0 when nothing was recorded."""
        return self.sum / self.count if self.count else 0.0

    def percentile(self, percent: float) -> int:
        """Give the smallest bucket bound that at least ``percent`` (0 to 100) of the values do not exceed."""
        ranks = np.cumsum(self.buckets)
        if ranks[-1] == 0:
            return 0
        index = int(np.searchsorted(ranks, max(1, math.ceil(int(ranks[-1]) * percent / 100))))
        return min(int(BUCKET_BOUNDS[index]), self.max)

    def minus(self, earlier: Histogram) -> Histogram:
        """Give what was recorded after ``earlier``; the maximum stays that of all time."""
        return Histogram(self.count - earlier.count, self.sum - earlier.sum, self.max, self.buckets - earlier.buckets)


@dataclass(frozen=True)
class MetricSnapshot:
    """Copy of a page. Times are UTC nanoseconds, 0 for never. Words are whole, but not all of the same moment."""

    name: str
    role: str
    pid: int
    started_ns: int
    heartbeat_ns: int
    state_code: int
    state: str
    counters: dict[str, int]
    gauges: dict[str, int]
    histograms: dict[str, Histogram]


BUCKET_BOUNDS: Final = bucket_bounds()
"""Highest value of each bucket."""


class MetricPage:
    """An actor's page. ``add``, ``set`` and ``record`` take indexes that ``counter``, ``gauge``, ``histogram`` give."""

    def __init__(self, segment: Segment) -> None:
        """Take over a segment that holds a metric page. Raises msgspec.DecodeError when it does not."""
        self.segment = segment
        self.name = segment.name
        self._fixed = segment.buffer(0, _STATES_OFFSET).cast("q")
        self._states = segment.buffer(_STATES_OFFSET, 2 * _STATE_SLOT_BYTES)
        names_bytes = self._fixed[_NAMES_BYTES]
        self.names = msgspec.json.decode(bytes(segment.buffer(_NAMES_OFFSET, names_bytes)), type=MetricNames)
        places = _offsets(self.names, names_bytes)
        counter_count = len(self.names.counters) + self.names.spare_counters
        histogram_count = len(self.names.histograms) + self.names.spare_histograms
        self._counters = segment.buffer(places.counters, counter_count * 8).cast("q")
        self._gauges = segment.buffer(places.gauges, len(self.names.gauges) * 8).cast("q")
        self._histograms = segment.array(np.int64, places.histograms, (histogram_count, _HISTOGRAM_WORDS))
        self._records = [
            segment.buffer(places.histograms + index * _HISTOGRAM_WORDS * 8, _HISTOGRAM_WORDS * 8).cast("q")
            for index in range(histogram_count)
        ]
        spare_bytes = (self.names.spare_counters + self.names.spare_histograms) * SPARE_NAME_BYTES
        self._spare_names = segment.buffer(places.spare_names, spare_bytes)
        self._named: dict[int, list[str]] = {_NAMED_COUNTERS: [], _NAMED_HISTOGRAMS: []}

    @classmethod
    def create(
        cls,
        name: str,
        role: str,
        counters: Sequence[str] = (),
        gauges: Sequence[str] = (),
        histograms: Sequence[str] = (),
        spare_counters: int = 0,
        spare_histograms: int = 0,
    ) -> Self:
        """Make a page of zeros. Names end in their unit: ``orders``, ``lag_records``, ``sync_latency_us``."""
        names = MetricNames(role, tuple(counters), tuple(gauges), tuple(histograms), spare_counters, spare_histograms)
        for group in (names.counters, names.gauges, names.histograms):
            assert len(set(group)) == len(group)
        encoded = msgspec.json.encode(names)
        segment = Segment.create(name, _offsets(names, len(encoded)).end)
        segment.buffer(0, _STATES_OFFSET).cast("q")[_NAMES_BYTES] = len(encoded)
        segment.buffer(_NAMES_OFFSET, len(encoded))[:] = encoded
        return cls(segment)

    @classmethod
    def attach(cls, fd: int, *, writable: bool) -> Self:
        """Map a page that another process made; the descriptor belongs to it from now on. Raises SegmentError."""
        return cls(Segment.attach(fd, writable=writable))

    @property
    def fd(self) -> int:
        """The descriptor to pass on."""
        return self.segment.fd

    def counter(self, name: str) -> int:
        """Give the index of a counter. Raises ValueError for a name that the page does not have."""
        return self.names.counters.index(name)

    def gauge(self, name: str) -> int:
        """Give the index of a gauge. Raises ValueError for a name that the page does not have."""
        return self.names.gauges.index(name)

    def histogram(self, name: str) -> int:
        """Give the index of a histogram. Raises ValueError for a name that the page does not have."""
        return self.names.histograms.index(name)

    def name_counter(self, name: str, otherwise: int) -> int:
        """Give the index of a counter, named now if it was not before; ``otherwise`` when no spare place is left."""
        if name in self.names.counters:
            return self.names.counters.index(name)
        place = self._name_spare(_NAMED_COUNTERS, name, 0, self.names.spare_counters)
        return otherwise if place is None else len(self.names.counters) + place

    def name_histogram(self, name: str, otherwise: int) -> int:
        """Give the index of a histogram, named now if it was not before; ``otherwise`` when no place is left."""
        if name in self.names.histograms:
            return self.names.histograms.index(name)
        place = self._name_spare(_NAMED_HISTOGRAMS, name, self.names.spare_counters, self.names.spare_histograms)
        return otherwise if place is None else len(self.names.histograms) + place

    def add(self, counter: int, count: int = 1) -> None:
        """Count ``count`` ≥ 0 more."""
        self._counters[counter] += count

    def set(self, gauge: int, value: int) -> None:
        """Set a gauge, which may fall as well as rise."""
        self._gauges[gauge] = value

    def record(self, histogram: int, values: int | np.ndarray[Any, np.dtype[np.int64]]) -> None:
        """Record a value, or each of an array in one compiled call. Negative ones (a clock set back) count as 0."""
        if isinstance(values, np.ndarray):
            record_values(self._histograms[histogram], np.array(values, np.int64))
        else:
            self._record_one(self._records[histogram], max(int(values), 0))

    def started(self) -> None:
        """Say that the present process is the page's actor, from now on."""
        self._fixed[_PID] = os.getpid()
        self._fixed[_STARTED] = time.time_ns()
        self.heartbeat()

    def heartbeat(self) -> None:
        """Say that the actor goes round its duty."""
        self._fixed[_HEARTBEAT] = time.time_ns()

    @property
    def heartbeat_ns(self) -> int:
        """The last heartbeat, UTC; 0: none yet."""
        return self._fixed[_HEARTBEAT]

    @property
    def pid(self) -> int:
        """The process that called ``started`` last; 0: none yet."""
        return self._fixed[_PID]

    def set_state(self, code: int, text: str) -> None:
        """Name the actor's state, in at most 120 bytes of text."""
        encoded = text.encode()[:STATE_BYTES_MAX]
        # Two slots, used in turn: a reader copies the one that is not being written.
        slot = 1 - self._fixed[_STATE_SLOT]
        start = slot * _STATE_SLOT_BYTES
        self._states[start : start + _STATE_SLOT_BYTES] = encoded.ljust(_STATE_SLOT_BYTES, b"\0")
        self._fixed[_STATE_SLOT] = slot
        self._fixed[_STATE_CODE] = code

    def snapshot(self) -> MetricSnapshot:
        """Copy everything."""
        fixed = self._fixed
        counters = (*self.names.counters, *self._named_spares(_NAMED_COUNTERS, 0))
        histograms = (*self.names.histograms, *self._named_spares(_NAMED_HISTOGRAMS, self.names.spare_counters))
        return MetricSnapshot(
            name=self.name,
            role=self.names.role,
            pid=fixed[_PID],
            started_ns=fixed[_STARTED],
            heartbeat_ns=fixed[_HEARTBEAT],
            state_code=fixed[_STATE_CODE],
            state=self._state(),
            counters=dict(zip(counters, self._counters, strict=False)),
            gauges=dict(zip(self.names.gauges, self._gauges, strict=True)),
            histograms=dict(zip(histograms, map(_copy_histogram, self._histograms), strict=False)),
        )

    def close(self) -> None:
        """Give back the descriptor; the memory goes with the last view of it."""
        self.segment.close()

    def _name_spare(self, word: int, name: str, first: int, count: int) -> int | None:
        """Find the spare place of a name, or give it one; None: all are taken. Only the page's actor names them."""
        named = self._named_spares(word, first)
        if name in named:
            return named.index(name)
        if len(named) == count:
            return None
        encoded = name.encode()
        assert len(encoded) <= SPARE_NAME_BYTES
        start = (first + len(named)) * SPARE_NAME_BYTES
        self._spare_names[start : start + SPARE_NAME_BYTES] = encoded.ljust(SPARE_NAME_BYTES, b"\0")
        # After the name: a reader that sees the number sees the name, too.
        self._fixed[word] = len(named) + 1
        return len(named)

    def _named_spares(self, word: int, first: int) -> list[str]:
        """Names of the spare places in use. They never change, so each is read once."""
        known = self._named[word]
        for place in range(first + len(known), first + self._fixed[word]):
            start = place * SPARE_NAME_BYTES
            known.append(bytes(self._spare_names[start : start + SPARE_NAME_BYTES]).rstrip(b"\0").decode())
        return known

    @staticmethod
    def _record_one(words: memoryview, value: int) -> None:
        words[_COUNT] += 1
        words[_SUM] += value
        if value > words[_MAX]:
            words[_MAX] = value
        words[_BUCKETS + bucket_index(value)] += 1

    def _state(self) -> str:
        start = self._fixed[_STATE_SLOT] * _STATE_SLOT_BYTES
        return bytes(self._states[start : start + _STATE_SLOT_BYTES]).rstrip(b"\0").decode(errors="replace")


def _copy_histogram(words: np.ndarray[Any, np.dtype[np.int64]]) -> Histogram:
    copied = words.copy()
    return Histogram(int(copied[_COUNT]), int(copied[_SUM]), int(copied[_MAX]), copied[_BUCKETS:])


class _Places(NamedTuple):
    """Where in a page things begin, in bytes."""

    counters: int
    gauges: int
    histograms: int
    spare_names: int
    end: int


def _offsets(names: MetricNames, names_bytes: int) -> _Places:
    counters = -(-(_NAMES_OFFSET + names_bytes) // 64) * 64
    gauges = counters + (len(names.counters) + names.spare_counters) * 8
    histograms = gauges + len(names.gauges) * 8
    spare_names = histograms + (len(names.histograms) + names.spare_histograms) * _HISTOGRAM_WORDS * 8
    end = spare_names + (names.spare_counters + names.spare_histograms) * SPARE_NAME_BYTES
    return _Places(counters, gauges, histograms, spare_names, end)
