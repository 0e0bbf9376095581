"""What rounds have come to: counts, kills by actor, and how long each took to be back, against what is wanted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from tests.faults.harness.faults import ENGINE, OPERATOR

if TYPE_CHECKING:
    from tests.faults.harness.rounds import Round

GOAL_S: Final = {"matcher": 3, "settlement": 3, "publisher": 3, "front": 3, "risk": 5, OPERATOR: 10, ENGINE: 10}
"""Within which who was killed is wanted back, on a machine that has nothing else to do."""


class Summary:
    """Sums over rounds."""

    def __init__(self) -> None:
        self.rounds = 0
        self.seconds = 0.0
        self.failed_seeds: list[int] = []
        self.counts: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self.points: Counter[str] = Counter()
        self.stops: Counter[str] = Counter()
        self.other: Counter[str] = Counter()
        self.back_s: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, result: Round) -> None:
        """Take a round in."""
        self.rounds += 1
        self.seconds += result.seconds
        self.counts.update(result.counts)
        self.codes.update(result.codes)
        findings = result.findings
        self.kills.update(findings.kills)
        self.points.update(findings.points)
        self.stops.update(findings.stops)
        self.other.update(findings.other)
        for name, seconds in findings.back_s.items():
            self.back_s[role_of(name)] += seconds
        if result.wrong:
            self.failed_seeds.append(result.plan.seed)

    def as_object(self) -> dict[str, Any]:
        """Give everything as plain values."""
        return {
            "rounds": self.rounds,
            "minutes": round(self.seconds / 60, 1),
            "failed_seeds": self.failed_seeds,
            "counts": dict(self.counts),
            "answers": dict(self.codes),
            "kills": {"all": self.kills.total(), **self.kills},
            "kills_at_points": dict(self.points),
            "stops": dict(self.stops),
            "other": dict(self.other),
            "back_s": {role: _times(role, seconds) for role, seconds in sorted(self.back_s.items())},
        }

    @staticmethod
    def lines_of(result: Round) -> Iterator[str]:
        """Tell of one round."""
        findings = result.findings
        strikes = Counter(strike.fault for strike in result.plan.strikes)
        yield f"{result.seconds:.0f} s; strikes: {_words(strikes)}"
        yield f"clients: {_words(result.counts)}; answers: {_words(result.codes)}"
        yield f"kills: {findings.kills.total()}: {_words(findings.kills)}; at points: {_words(findings.points)}"
        by_role: defaultdict[str, list[float]] = defaultdict(list)
        for name, seconds in findings.back_s.items():
            by_role[role_of(name)] += seconds
        for role, seconds in sorted(by_role.items()):
            times = _times(role, seconds)
            yield f"{role} back: p50 {times['p50']} s, max {times['max']} s of {times['count']}, late {times['late']}"


def role_of(name: str) -> str:
    """Name an actor without its number."""
    return name.partition("-")[0]


def _times(role: str, seconds: list[float]) -> dict[str, float]:
    goal_s = GOAL_S.get(role, 60)
    return {
        "count": len(seconds),
        "p50": round(median(seconds), 2),
        "max": round(max(seconds), 2),
        "goal": goal_s,
        "late": sum(second > goal_s for second in seconds),
    }


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
