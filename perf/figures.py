"""Figures of a benchmark: percentiles, goals, and how they are printed. Plain Python, so that clients start soon."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any


def percentile_ms(ordered_s: Sequence[float], percent: float, digits: int = 2) -> float:
    """Give a percentile of sorted durations, of which there is one at least, in milliseconds."""
    place = min(int(len(ordered_s) * percent / 100), len(ordered_s) - 1)
    return round(ordered_s[place] * 1000, digits)


def percentile(counts: Mapping[int, int], percent: float) -> int:
    """Give a percentile of values, each with how often it was there; 0 when there are none."""
    if not counts:
        return 0
    values = sorted(counts)
    reached = list(accumulate(counts[value] for value in values))
    return values[bisect_left(reached, percent / 100 * reached[-1])]


def goals_met(figures: Mapping[str, float], goals: Mapping[str, float]) -> dict[str, bool]:
    """Hold figures against goals: of what is done per second more is better, of everything else less."""
    return {
        name: figures[name] >= goal if name.endswith("per_s") else figures[name] <= goal for name, goal in goals.items()
    }


def say(name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Print figures in one line; returns them as printed, rounded."""
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()}
    texts = (
        f"{key} {value:,}" if isinstance(value, int | float) else f"{key} {value}" for key, value in rounded.items()
    )
    print(f"{name:10} {', '.join(texts)}", flush=True)
    return rounded
