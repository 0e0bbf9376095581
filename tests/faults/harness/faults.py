"""What can be done to an engine, and the register by which the harness knows it.

A fault draws its *strikes* from a seed when the plan is made: what, to whom, for how long, after which pause. Nothing
is drawn while the engine runs. A fault of another file joins by ``register``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from tests.faults.harness.venue import Venue

ZYGOTE: Final = "zygote"
OPERATOR: Final = "operator"
"""The supervisor: without it all actors end."""
ENGINE: Final = "engine"
"""All processes at once, but for the database."""
OUTSIDE: Final = "outside"
"""The wallet service, where there is one: no process of the engine."""


@dataclass(frozen=True)
class Shape:
    """Of the engine that is run."""

    shards: int
    fronts: int
    wallet: bool = False
    """Whether a wallet service outside keeps the money."""

    @property
    def actors(self) -> tuple[str, ...]:
        """Give the actors' names."""
        matchers = [f"matcher-{shard}" for shard in range(self.shards)]
        fronts = [f"front-{number}" for number in range(self.fronts)]
        wallet = ("wallet",) if self.wallet else ()
        return ("risk", "settlement", "publisher", "shadow", "keeper", *wallet, *matchers, *fronts)


@dataclass(frozen=True)
class Strike:
    """One fault at one moment. ``pause_s``: after the strike before it; ``waits``: until all is well again."""

    fault: str
    targets: tuple[str, ...] = ()
    pause_s: float = 0.0
    seconds: float = 0.0
    point: str = ""
    waits: bool = True

    def __str__(self) -> str:
        words = [f"+{self.pause_s:.2f} s", self.fault, ",".join(self.targets), self.point]
        words += [f"for {self.seconds:.1f} s"] if self.seconds else []
        words += ["and wait"] if self.waits else []
        return " ".join(word for word in words if word)


class Fault(Protocol):
    """A kind of fault."""

    def draw(self, chance: random.Random, shape: Shape, /) -> Strike:
        """Draw a strike; called when the plan is made. Its name and its pause are put in by the plan."""

    async def strike(self, venue: Venue, strike: Strike) -> None:
        """Do it; returns when it is over, whether or not the engine is well again."""


FAULTS: Final[dict[str, Fault]] = {}
WEIGHTS: Final[dict[str, float]] = {}


def register(name: str, weight: float, fault: Fault) -> None:
    """Make a fault known. weight: how often it is drawn, against the others."""
    FAULTS[name], WEIGHTS[name] = fault, weight
