"""The soak's picture: memory of each actor and percentiles of latencies over time, as SVG for light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WIDTH: Final = 760
PANEL_HEIGHT: Final = 200
LEFT: Final = 60
RIGHT: Final = 130
GAP: Final = 46
LABEL_HEIGHT: Final = 13
COLOURS: Final = (
    *("#4477aa", "#228833", "#cc6677", "#aa3377", "#ee7733"),
    *("#009988", "#997700", "#6699cc", "#994455", "#777777"),
)
_STEPS: Final = (1, 2, 5)


@dataclass(frozen=True)
class Panel:
    """One diagram: lines of points (minutes, value) by name. The y axis begins at 0."""

    title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


def draw_panels(path: Path, title: str, panels: Sequence[Panel], warm_minutes: float) -> None:
    """Draw diagrams one below the other over the same minutes. warm_minutes: where the warm-up ended."""
    minutes_max = max((point[0] for panel in panels for line in panel.lines.values() for point in line), default=1.0)
    height = 30 + len(panels) * (PANEL_HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12" fill="#888888">',
        f'<text x="{LEFT}" y="18" font-size="15">{title}</text>',
    ]
    for number, panel in enumerate(panels):
        parts += _draw(panel, 40 + number * (PANEL_HEIGHT + GAP), max(minutes_max, 0.1), warm_minutes)
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def _draw(panel: Panel, top: int, minutes_max: float, warm_minutes: float) -> list[str]:
    bottom, right = top + PANEL_HEIGHT, WIDTH - RIGHT
    value_max = max((value for line in panel.lines.values() for _, value in line), default=1.0) or 1.0
    step, minute_step = step_of(value_max), step_of(minutes_max)

    def x(minutes: float) -> float:
        return round(LEFT + minutes / minutes_max * (right - LEFT), 1)

    def y(value: float) -> float:
        return round(bottom - value / value_max * (PANEL_HEIGHT - 20), 1)

    at: float
    label_bottom: float = bottom
    parts = [f'<text x="{LEFT}" y="{top + 6}">{panel.title}</text>']
    for count in range(int(value_max / step) + 1):
        at = y(count * step)
        parts.append(f'<line x1="{LEFT}" y1="{at}" x2="{right}" y2="{at}" stroke="#88888844"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4}" text-anchor="end">{count * step:g}</text>')
    for count in range(int(minutes_max / minute_step) + 1):
        at = x(count * minute_step)
        parts.append(f'<text x="{at}" y="{bottom + 15}" text-anchor="middle">{count * minute_step:g} min</text>')
    at = x(warm_minutes)
    parts.append(f'<line x1="{at}" y1="{top + 12}" x2="{at}" y2="{bottom}" stroke="#888888" stroke-dasharray="3 3"/>')
    # From the lowest end upwards, so that names that would lie upon each other move up.
    for (name, line), colour in sorted(zip(panel.lines.items(), COLOURS, strict=False), key=lambda drawn: _end(*drawn)):
        if not line:
            continue
        points = " ".join(f"{x(minutes)},{y(value)}" for minutes, value in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        label = min(y(line[-1][1]) + 4, label_bottom)
        label_bottom = label - LABEL_HEIGHT
        parts.append(f'<text x="{right + 6}" y="{label:.1f}" fill="{colour}">{name}</text>')
    return parts


def _end(named: tuple[str, Sequence[tuple[float, float]]], _colour: str) -> float:
    return named[1][-1][1] if named[1] else 0.0


def step_of(largest: float) -> float:
    """Give a round distance between four to ten lines up to a value."""
    decade = 10.0 ** (len(f"{max(largest, 1):.0f}") - 2)
    while True:
        for step in _STEPS:
            if largest / (step * decade) <= 8:
                return step * decade
        decade *= 10
