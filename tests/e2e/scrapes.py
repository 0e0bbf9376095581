"""What ``/metrics`` says, as numbers that can be added up and compared with those of a moment before."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx2
from prometheus_client.parser import text_string_to_metric_families
from tests.engines import Engine

PATIENCE_S: Final = 20.0
LOOK_S: Final = 0.02
Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Scrape:
    """One answer: samples by name and labels."""

    samples: Mapping[tuple[str, Labels], float]

    def sum(self, name: str, **labels: str) -> float:
        """Add up the samples of a name that have these labels, whatever others they have."""
        wanted = labels.items()
        return sum(value for (known, found), value in self.samples.items() if known == name and wanted <= found)

    def labels(self, name: str, label: str) -> set[str]:
        """Values of a label that the samples of a name have."""
        return {dict(found)[label] for known, found in self.samples if known == name}


def scrape(engine: Engine) -> Scrape:
    """Read the metrics as Prometheus' own parser does."""
    text = httpx2.get(f"{engine.url}/metrics", timeout=20).text
    families = text_string_to_metric_families(text)
    return Scrape(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }
    )


def expect_growth(engine: Engine, before: Scrape, expected: Mapping[str, float]) -> None:
    """See that metrics, each named as ``NAME label=value label=value``, have grown by exactly so much.

    What actors count a moment later is waited for; what is too much shows in a second look.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while _differences(engine, before, expected) and time.monotonic() < deadline_s:
        time.sleep(LOOK_S)
    wrong = _differences(engine, before, expected)
    assert not wrong, wrong


def _differences(engine: Engine, before: Scrape, expected: Mapping[str, float]) -> dict[str, str]:
    after = scrape(engine)
    growth = {name: _look(after, name) - _look(before, name) for name in expected}
    return {
        name: f"expected {wanted:g}, found {growth[name]:g}"
        for name, wanted in expected.items()
        if growth[name] != wanted
    }


def _look(seen: Scrape, name: str) -> float:
    metric, *labels = name.split(" ")
    return seen.sum(metric, **dict(label.split("=", 1) for label in labels))
