"""A picture of latency against load, as SVG that is readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

WIDTH: Final = 720
HEIGHT: Final = 380
LEFT: Final = 70
RIGHT: Final = 110
TOP: Final = 30
BOTTOM: Final = 60
COLOURS: Final = ("#4477aa", "#228833", "#cc6677", "#aa3377")


def draw(
    path: Path, title: str, axes: tuple[str, str], loads: Sequence[float], series: Mapping[str, Sequence[float]]
) -> None:
    """Draw one line per series over ``loads``, both axes logarithmic. axes: what x and y are, with units."""
    values = [value for line in series.values() for value in line]
    x_range = _decades(min(loads), max(loads))
    y_range = _decades(max(min(values), 0.1), max(values))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13" fill="#888888">',
        f'<text x="{LEFT}" y="18" font-size="15">{title}</text>',
    ]
    for tick in _ticks(x_range):
        x = _x(tick, x_range)
        parts.append(f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{HEIGHT - BOTTOM}" stroke="#88888844"/>')
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:,.0f}</text>')
    for tick in _ticks(y_range):
        y = _y(tick, y_range)
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#88888844"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{tick:,g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 16}" text-anchor="middle">{axes[0]}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="18" y="{middle}" text-anchor="middle" transform="rotate(-90 18 {middle})">{axes[1]}</text>')
    for colour, (name, line) in zip(COLOURS, series.items(), strict=False):
        points = [(_x(load, x_range), _y(max(value, 0.1), y_range)) for load, value in zip(loads, line, strict=True)]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        parts.append(f'<text x="{points[-1][0] + 10:.1f}" y="{points[-1][1] + 4:.1f}" fill="{colour}">{name}</text>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")


def _decades(lowest: float, highest: float) -> tuple[float, float]:
    return math.floor(math.log10(lowest)), max(math.ceil(math.log10(highest)), math.floor(math.log10(lowest)) + 1)


def _ticks(span: tuple[float, float]) -> list[float]:
    return [
        step * 10.0**decade
        for decade in range(int(span[0]), int(span[1]) + 1)
        for step in (1, 2, 5)
        if span[0] <= math.log10(step * 10.0**decade) <= span[1]
    ]


def _x(value: float, span: tuple[float, float]) -> float:
    share = (math.log10(value) - span[0]) / (span[1] - span[0])
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(value: float, span: tuple[float, float]) -> float:
    share = (math.log10(value) - span[0]) / (span[1] - span[0])
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
