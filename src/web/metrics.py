"""``/metrics``: every actor's metric page, what the supervisor knows of it, rings and symbols, for Prometheus.

Rule 1: names say unit and meaning, in base units: ``ipc.metric_families`` says how a page's name is shown.
Rule 2: nothing is kept here but words that never change: each scrape copies the pages as they are, and no actor does
anything for it.
Rule 3: a histogram has the same buckets always and for everyone, so that actors and moments can be added up.
The text is put together here and not by Prometheus' own library, which takes ten times as long: all the while this
front answers nobody.
It refuses to know what the metrics mean.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tradeengine import __version__
from tradeengine.core.records import TradingState
from tradeengine.core.tables import ActorState
from tradeengine.ipc.metric_families import PREFIX, Family, Kind, family_of, has_role, split_labels
from tradeengine.ipc.metrics import BUCKET_BOUNDS, Histogram, MetricPage, MetricSnapshot
from tradeengine.ipc.ring import Ring, RingStatistics
from tradeengine.web.watch import ActorRow

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_DURATION_BITS: Final = range(4, 25)
"""Buckets of durations end at powers of two, in units of the page: 15 µs to 17 s, or 15 ms to 4 h."""
_COUNT_BITS: Final = range(1, 17)
"""Buckets of counts: 1, 3, 7 … 65,535."""
_SETTLEMENT: Final = "settlement"

_codes = ", ".join(f"{int(state)} {state.name.lower()}" for state in ActorState)
_HEARTBEAT: Final = Family(
    f"{PREFIX}_actor_heartbeat_timestamp_seconds",
    "gauge",
    "Time of the actor's last heartbeat, in seconds since 1970; 0: it never ran.",
    1,
)
_HEARTBEAT_AGE: Final = Family(
    f"{PREFIX}_actor_heartbeat_age_seconds",
    "gauge",
    "For how long the actor's heartbeat has stood still, by the supervisor's clock.",
    1,
)
_STATE: Final = Family(f"{PREFIX}_actor_state", "gauge", f"How the actor is: {_codes}.", 1)
_UP: Final = Family(f"{PREFIX}_actor_up", "gauge", "1 while the actor does its duty, as far as can be seen.", 1)
_RESTARTS: Final = Family(
    f"{PREFIX}_actor_restarts_total", "counter", "How often the actor died and was started again.", 1
)
_PROCESS_START: Final = Family(
    f"{PREFIX}_process_start_time_seconds",
    "gauge",
    "Time when the actor's present process began, in seconds since 1970.",
    1,
)
_ENGINE_START: Final = Family(
    f"{PREFIX}_start_time_seconds", "gauge", "Time when the engine began, in seconds since 1970.", 1
)
_BUILD: Final = Family(f"{PREFIX}_build_info", "gauge", "1; the labels say what runs.", 1)
_RING_RECORDS: Final = Family(
    f"{PREFIX}_ring_records_total",
    "counter",
    "Records published since the engine's start.",
    1,
)
_RING_CAPACITY: Final = Family(f"{PREFIX}_ring_capacity_records", "gauge", "Records that the ring holds.", 1)
_RING_CURSOR: Final = Family(
    f"{PREFIX}_ring_cursor_records",
    "gauge",
    "Records, since the engine's start, that a reader which holds the writer back has passed.",
    1,
)
_RING_LAG: Final = Family(
    f"{PREFIX}_ring_lag_records",
    "gauge",
    "Records published and not yet passed by a reader that holds the writer back.",
    1,
)
_SETTLEMENT_LAG: Final = Family(
    f"{PREFIX}_settlement_lag_seconds",
    "gauge",
    "For how long the ring's oldest event that is not settled has waited; 0: none does.",
    1,
)

_trading = ", ".join(f"{int(state)} {state.name.lower()}" for state in TradingState)
_TRADING_STATE: Final = Family(
    f"{PREFIX}_symbol_trading_state", "gauge", f"Whether the symbol trades: {_trading}; not there: not listed.", 1
)


def render(
    pages: Iterable[MetricPage],
    actors: Iterable[ActorRow],
    rings: Mapping[str, Ring],
    trading_states: Mapping[str, TradingState],
) -> bytes:
    """Show all pages, actors, rings and symbols as text."""
    exposition = Exposition()
    exposition.add(_BUILD, f'version="{__version__}",python="{platform.python_version()}"', 1)
    roles = {}
    for page in pages:
        snapshot = page.snapshot()
        roles[snapshot.name] = snapshot.role
        # A place that no local client has ever taken says nothing.
        if snapshot.started_ns or snapshot.role != "client":
            exposition.add_page(snapshot)
    for actor in actors:
        exposition.add_actor(actor, roles.get(actor.name, actor.name))
    for ring in rings.values():
        exposition.add_ring(ring)
    for symbol, trading_state in trading_states.items():
        exposition.add(_TRADING_STATE, f'symbol="{symbol}"', int(trading_state))
    return exposition.text()


class Exposition:
    """Lines by family, in Prometheus' text format."""

    def __init__(self) -> None:
        self._families: dict[Family, list[str]] = {}

    def text(self) -> bytes:
        """Give everything, family by family."""
        lines = []
        for family, samples in sorted(self._families.items()):
            lines.append(f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n")
            lines += samples
        return "".join(lines).encode()

    def add(self, family: Family, labels: str, value: float) -> None:
        """Add a sample; ``labels`` as they are written, without braces."""
        self._of(family).append(f"{family.name}{{{labels}}} {value}\n" if labels else f"{family.name} {value}\n")

    def add_page(self, snapshot: MetricSnapshot) -> None:
        """Add everything that is on a metric page."""
        labels = f'actor="{snapshot.name}",role="{snapshot.role}"'
        self.add(_HEARTBEAT, labels, snapshot.heartbeat_ns / 1e9)
        self.add(_PROCESS_START, labels, snapshot.started_ns / 1e9)
        if snapshot.role == "operator":
            self.add(_ENGINE_START, "", snapshot.started_ns / 1e9)
        of_kind: tuple[tuple[Kind, dict[str, int]], ...] = (
            ("counter", snapshot.counters),
            ("gauge", snapshot.gauges),
        )
        for kind, values in of_kind:
            for name, value in values.items():
                family, head = _shown(snapshot.role, snapshot.name, kind, name)
                shown = value if family.divisor == 1 else value / family.divisor
                self._of(family).append(f"{head}{shown}\n")
        for name, histogram in snapshot.histograms.items():
            self._add_histogram(_histogram(snapshot.role, snapshot.name, name), histogram)

    def add_actor(self, actor: ActorRow, role: str) -> None:
        """Add what the supervisor knows of an actor."""
        labels = f'actor="{actor.name}",role="{role}"'
        self.add(_STATE, labels, int(actor.state))
        self.add(_UP, labels, int(actor.serves))
        self.add(_RESTARTS, labels, actor.restart_count)
        self.add(_HEARTBEAT_AGE, labels, actor.heartbeat_age_ms / 1000)

    def add_ring(self, ring: Ring) -> None:
        """Add a ring's cursors."""
        statistics = ring.statistics()
        label = f'ring="{ring.name}"'
        # Some rings begin at a time in nanoseconds, which Prometheus would not keep to the unit.
        self.add(_RING_RECORDS, label, statistics.head - ring.first_sequence)
        self.add(_RING_CAPACITY, label, statistics.capacity)
        for reader in statistics.readers:
            if reader.gating:
                labels = f'{label},reader="{reader.name}"'
                self.add(_RING_CURSOR, labels, reader.cursor - ring.first_sequence)
                self.add(_RING_LAG, labels, reader.lag)
        if ring.name.startswith("events."):
            self.add(_SETTLEMENT_LAG, label, unsettled_s(ring, statistics))

    def _add_histogram(self, shown: _ShownHistogram, histogram: Histogram) -> None:
        lines = self._of(shown.family)
        counts = np.cumsum(histogram.buckets)
        lines += [f"{head}{count}\n" for head, count in zip(shown.heads, counts[shown.places].tolist(), strict=True)]
        divisor = shown.family.divisor
        total = histogram.sum if divisor == 1 else histogram.sum / divisor
        # The infinite bucket and the count are of the same copy as the others, so that they never contradict.
        lines.append(f"{shown.sum_head}{total}\n{shown.count_head}{counts[-1]}\n")

    def _of(self, family: Family) -> list[str]:
        return self._families.setdefault(family, [])


def unsettled_s(ring: Ring, statistics: RingStatistics) -> float:
    """Tell for how long an event ring's oldest event that is not settled has waited, by the time of its command.

    The event lies in the ring until settlement has passed it: this is right also while settlement is dead.
    """
    cursor = next((reader.cursor for reader in statistics.readers if reader.name == _SETTLEMENT), statistics.head)
    if cursor >= statistics.head:
        return 0.0
    happened_ns = int(ring.view(cursor, 1)["timestamp_ns"][0])
    return max(time.time_ns() - happened_ns, 0) / 1e9


class _ShownHistogram(NamedTuple):
    """How a histogram is shown: which of the page's buckets, and what stands before each number."""

    family: Family
    places: NDArray[np.int64]
    """Of the buckets that are shown, and of the last, which is the infinite one's."""
    heads: tuple[str, ...]
    sum_head: str
    count_head: str


@cache
def _shown(role: str, actor: str, kind: Kind, name: str) -> tuple[Family, str]:
    """Say to which family a name on a page belongs, and what stands before its number."""
    metric, _ = split_labels(name)
    family = family_of(role, kind, metric)
    return family, f"{family.name}{{{_labels(role, actor, name)}}} "


@cache
def _histogram(role: str, actor: str, name: str) -> _ShownHistogram:
    metric, _ = split_labels(name)
    family, labels = family_of(role, "histogram", metric), _labels(role, actor, name)
    bounds = [(1 << bits) - 1 for bits in (_COUNT_BITS if family.divisor == 1 else _DURATION_BITS)]
    shown = [*(str(bound if family.divisor == 1 else bound / family.divisor) for bound in bounds), "+Inf"]
    return _ShownHistogram(
        family,
        np.append(np.searchsorted(BUCKET_BOUNDS, bounds), len(BUCKET_BOUNDS) - 1),
        tuple(f'{family.name}_bucket{{{labels},le="{bound}"}} ' for bound in shown),
        f"{family.name}_sum{{{labels}}} ",
        f"{family.name}_count{{{labels}}} ",
    )


def _labels(role: str, actor: str, name: str) -> str:
    metric, own = split_labels(name)
    if own.startswith('actor="'):
        return own  # told of another: the supervisor looks at processes
    whose = f'actor="{actor}",role="{role}"' if has_role(metric) else f'actor="{actor}"'
    return f"{whose},{own}" if own else whose
