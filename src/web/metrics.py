"""``/metrics``: every actor's metric page, what the supervisor knows of it, and every ring's cursors, for Prometheus.

Rule 1: names say unit and meaning: ``tradeengine_<role>_<name>``, labelled with the actor.
Rule 2: nothing is kept here: each scrape copies the pages as they are.
It refuses to know what the metrics mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tradeengine.core.tables import ActorState
from tradeengine.ipc.metric_help import metric_help
from tradeengine.ipc.metrics import BUCKET_BOUNDS, MetricPage, MetricSnapshot
from tradeengine.ipc.ring import Ring
from tradeengine.web.watch import ActorRow

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX: Final = "tradeengine"
_BUCKET_STEP: Final = 16
"""Every sixteenth bound, a power of two, is shown: the pages have more buckets than a scrape should carry."""


def render(pages: Iterable[MetricPage], actors: Iterable[ActorRow], rings: Mapping[str, Ring]) -> bytes:
    """Show all pages, actors and rings as text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Pages([page.snapshot() for page in pages], actors, rings))
    return generate_latest(registry)


class _Pages(Collector):
    def __init__(self, snapshots: list[MetricSnapshot], actors: Iterable[ActorRow], rings: Mapping[str, Ring]) -> None:
        self._snapshots = snapshots
        self._actors = actors
        self._rings = rings

    def collect(self) -> Iterator[Metric]:
        """Give one family per metric, with a sample per actor."""
        yield _heartbeats(self._snapshots)
        yield from _supervised(self._actors)
        by_role: dict[str, list[MetricSnapshot]] = defaultdict(list)
        for snapshot in self._snapshots:
            by_role[snapshot.role].append(snapshot)
        for role, snapshots in sorted(by_role.items()):
            yield from _counters(role, snapshots)
            yield from _gauges(role, snapshots)
            yield from _histograms(role, snapshots)
        yield from _ring_cursors(self._rings)


def _heartbeats(snapshots: Iterable[MetricSnapshot]) -> Metric:
    heartbeat = GaugeMetricFamily(
        f"{_PREFIX}_actor_heartbeat_seconds",
        "Time of the actor's last heartbeat, in seconds since 1970; 0: it never ran.",
        labels=["actor"],
    )
    for snapshot in snapshots:
        heartbeat.add_metric([snapshot.name], snapshot.heartbeat_ns / 1e9)
    return heartbeat


def _supervised(actors: Iterable[ActorRow]) -> Iterator[Metric]:
    restarts = CounterMetricFamily(
        f"{_PREFIX}_actor_restarts", "How often the actor died and was started again.", labels=["actor"]
    )
    codes = ", ".join(f"{int(state)} {state.name.lower()}" for state in ActorState)
    state = GaugeMetricFamily(f"{_PREFIX}_actor_state", f"How the actor is: {codes}.", labels=["actor"])
    for actor in actors:
        restarts.add_metric([actor.name], actor.restart_count)
        state.add_metric([actor.name], actor.state)
    yield from (restarts, state)


def _counters(role: str, snapshots: list[MetricSnapshot]) -> Iterator[Metric]:
    for name in snapshots[0].counters:
        family = CounterMetricFamily(f"{_PREFIX}_{role}_{name}", metric_help(role, name), labels=["actor"])
        for snapshot in snapshots:
            family.add_metric([snapshot.name], snapshot.counters[name])
        yield family


def _gauges(role: str, snapshots: list[MetricSnapshot]) -> Iterator[Metric]:
    for name in snapshots[0].gauges:
        family = GaugeMetricFamily(f"{_PREFIX}_{role}_{name}", metric_help(role, name), labels=["actor"])
        for snapshot in snapshots:
            family.add_metric([snapshot.name], snapshot.gauges[name])
        yield family


def _histograms(role: str, snapshots: list[MetricSnapshot]) -> Iterator[Metric]:
    for name in snapshots[0].histograms:
        family = HistogramMetricFamily(f"{_PREFIX}_{role}_{name}", metric_help(role, name), labels=["actor"])
        for snapshot in snapshots:
            histogram = snapshot.histograms[name]
            cumulated = np.cumsum(histogram.buckets)
            # The last bucket shown and the infinite one are of the same copy, so that they never contradict.
            total = int(cumulated[-1])
            buckets = [
                (str(float(BUCKET_BOUNDS[index])), float(cumulated[index]))
                for index in range(_BUCKET_STEP - 1, len(BUCKET_BOUNDS), _BUCKET_STEP)
                if index == _BUCKET_STEP - 1 or cumulated[index - _BUCKET_STEP] < total
            ]
            family.add_metric([snapshot.name], buckets=[*buckets, ("+Inf", float(total))], sum_value=histogram.sum)
        yield family


def _ring_cursors(rings: Mapping[str, Ring]) -> Iterator[Metric]:
    head = CounterMetricFamily(
        f"{_PREFIX}_ring_records",
        "Sequence of the ring's next record: what it grows by was published.",
        labels=["ring"],
    )
    lag = GaugeMetricFamily(
        f"{_PREFIX}_ring_lag_records",
        "Records published and not yet passed by a reader that holds the writer back.",
        labels=["ring", "reader"],
    )
    for name, ring in rings.items():
        statistics = ring.statistics()
        head.add_metric([name], statistics.head)
        for reader in statistics.readers:
            if reader.gating:
                lag.add_metric([name, reader.name], reader.lag)
    yield from (head, lag)
