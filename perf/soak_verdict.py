"""The soak's verdict: what grew, what drifted, and what should never have happened.

Rule 1: memory is flat when the line of least squares through it, from the end of the warm-up on, rises by no more than
``GROWTH_MAX`` of its mean, or one and a half MiB of a small process. What counts is what is left between peaks, the
least of each minute: a comparison of the ledger takes its memory for seconds. What processes share has a size from the
start, and is judged as a whole.
Rule 2: a latency is steady when its 99th percentile of the last third of the minutes is no worse than that of the first
third, as a ratio, with the machine's own lateness taken out: a control that does the same work all the time, beside the
engine and not in it.
Rule 3: what must be 0 is 0.
It refuses to know processes and files: it is given series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from perf.figures import percentile

GROWTH_MAX: Final = 0.02
"""Of a process's memory, over the time that is judged."""
GROWTH_KIB_FORGIVEN: Final = 1536
"""Pages of an allocator that were not touched before: less than 2 % of the larger actors."""
COUNT_FORGIVEN: Final = 10
"""Threads, descriptors and tasks by which the line may rise, beside a share: connections come and go."""
DRIFT_MAX: Final = 1.5
"""Of a latency's percentile, last third against first."""
DRIFT_MS_FORGIVEN: Final = 10.0
CALLS_MIN: Final = 300
"""Of which a 99th percentile is taken: of fewer it is the one or two that were worst, and says little."""
SPANS_MIN: Final = 6
"""Spans of time without which there are no thirds to compare."""
SMOOTHED: Final = 13
"""Samples, about a minute, of which the least is taken before the line is drawn."""


@dataclass(frozen=True)
class Growth:
    """How a series rose, by its line: in its own unit and as a share of its mean."""

    mean: float
    rise: float

    @property
    def share(self) -> float:
        """The rise as a share of the mean."""
        return self.rise / self.mean if self.mean else 0.0


def growth(times_s: Sequence[float], values: Sequence[float]) -> Growth:
    """Draw the line of least squares through the least of each minute; returns what it rises by from end to end."""
    ys = smoothed(values)
    xs = np.asarray(times_s, float)
    if len(xs) < 2 or xs[-1] == xs[0]:
        return Growth(float(np.mean(ys)) if len(ys) else 0.0, 0.0)
    slope, _ = np.polyfit(xs - xs[0], ys, 1)
    return Growth(float(np.mean(ys)), float(slope * (xs[-1] - xs[0])))


def smoothed(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Take the least of each value and its neighbours, fewer at the ends."""
    array, half = np.asarray(values, float), SMOOTHED // 2
    return np.array([np.min(array[max(place - half, 0) : place + half + 1]) for place in range(len(array))])


def judge_memory(times_s: Sequence[float], own_kib: Sequence[float], processes: int = 1) -> str | None:
    """Say what is wrong with the memory of an actor's own. None: it is flat. processes: that it is made of."""
    found = growth(times_s, own_kib)
    if found.rise > max(GROWTH_MAX * found.mean, GROWTH_KIB_FORGIVEN * processes):
        return f"its own memory rose by {found.rise / 1024:.1f} MiB, {found.share:.1%}"
    return None


def judge_count(times_s: Sequence[float], counts: Sequence[float], what: str) -> str | None:
    """Say whether a number of things rises. None: it does not."""
    found = growth(times_s, counts)
    if found.rise > max(GROWTH_MAX * found.mean, COUNT_FORGIVEN):
        return f"{what} rose by {found.rise:.0f}, from {counts[0]:.0f} to {counts[-1]:.0f}"
    return None


def judge_drift(minutes: Sequence[Mapping[int, int]], control: Sequence[Mapping[int, int]]) -> str | None:
    """Say whether the 99th percentile got worse, from the first third of the minutes to the last. None: it did not.

    control: of the same minutes, what the same machine took for work that never changes. Minutes with few calls are
    joined to spans that have enough; where there are too few of these nothing is compared.
    """
    spans = _spans(minutes)
    if len(spans) < SPANS_MIN:
        return None
    third = len(spans) // 3
    first_ms, last_ms = _typical(minutes, spans[:third]), _typical(minutes, spans[-third:])
    machine_ratio = max(_typical(control, spans[-third:]) / max(_typical(control, spans[:third]), 1.0), 1.0)
    if last_ms > first_ms * DRIFT_MAX * machine_ratio and last_ms - first_ms > DRIFT_MS_FORGIVEN:
        return f"p99 went from {first_ms:.0f} to {last_ms:.0f} ms, the machine's own lateness by {machine_ratio:.1f} ×"
    return None


def _spans(minutes: Sequence[Mapping[int, int]]) -> list[range]:
    """Join minutes to spans that have enough calls each; what is left over at the end belongs to none."""
    spans, first, calls = [], 0, 0
    for place, minute in enumerate(minutes):
        calls += sum(minute.values())
        if calls >= CALLS_MIN:
            spans.append(range(first, place + 1))
            first, calls = place + 1, 0
    return spans


def _typical(minutes: Sequence[Mapping[int, int]], spans: Sequence[range]) -> float:
    """Give the median of spans' 99th percentiles: one bad minute of a shared machine is no drift."""
    return float(np.median([percentile(add_up([minutes[place] for place in span]), 99) for span in spans]))


def add_up(intervals: Sequence[Mapping[int, int]]) -> Counter[int]:
    """Join counted latencies."""
    joined: Counter[int] = Counter()
    for interval in intervals:
        joined.update(interval)
    return joined
