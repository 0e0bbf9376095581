"""How metrics are shown to Prometheus: the family of a name on a page, its labels, and how many of its units make one.

Rule 1: pages count whole microseconds, because that is cheap; families are in base units: seconds and bytes.
Rule 2: what every actor has is a family of all actors (``tradeengine_actor_…``), so that one expression compares them;
requests are of all fronts (``tradeengine_http_…``); all else is its role's: ``tradeengine_matcher_trades_total``.
It refuses to know values.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final, Literal, NamedTuple

from tradeengine.ipc.metric_help import metric_help
from tradeengine.ipc.metric_names import EVERYWHERE, TASKS

Kind = Literal["counter", "gauge", "histogram"]

PREFIX: Final = "tradeengine"
_UNITS: Final = (
    ("_at_s", "_timestamp_seconds", 1),
    ("_s", "_seconds", 1),
    ("_ms", "_seconds", 10**3),
    ("_us", "_seconds", 10**6),
    ("_ns", "_seconds", 10**9),
)
"""Ends of names, what they become, and how many of the page's units make one."""
_EVERYWHERE: Final = frozenset(name.partition("{")[0] for name in (*EVERYWHERE, TASKS))
_ROLELESS: Final = re.compile(r"(http|process)_")


class Family(NamedTuple):
    """A family of samples as Prometheus knows it. ``divisor``: what a page's number is divided by."""

    name: str
    kind: Kind
    help: str
    divisor: int


@cache
def family_of(role: str, kind: Kind, name: str) -> Family:
    """Say how a role's metric is shown; ``name`` is without labels. Raises KeyError for one that nobody described."""
    shown, divisor = name, 1
    for end, replacement, count in _UNITS:
        if name.endswith(end):
            shown, divisor = name.removesuffix(end) + replacement, count
            break
    owner = "actor_" if name in _EVERYWHERE else "" if _ROLELESS.match(name) else f"{role}_"
    total = "_total" if kind == "counter" else ""
    return Family(f"{PREFIX}_{owner}{shown}{total}", kind, metric_help(role, name), divisor)


def has_role(name: str) -> bool:
    """Whether a metric's samples are labelled with the role beside the actor: those of all actors are."""
    return name in _EVERYWHERE


def split_labels(name: str) -> tuple[str, str]:
    """Part a page's name into the metric and its labels, as Prometheus writes them; "" when it has none."""
    metric, _, labels = name.partition("{")
    return metric, labels.removesuffix("}")
