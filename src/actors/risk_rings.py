"""The rings that risk stands between, by what it does with them, and what comes with each batch.

An ingress ring's name says who writes it, and that says what its commands may ask for. Administrators' come first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tradeengine.core.risk import IngressRight
from tradeengine.ipc.wiring import REFUSALS

if TYPE_CHECKING:
    from tradeengine.ipc.ring import Ring, RingWriter
    from tradeengine.ipc.ring_reader import RingReader
    from tradeengine.ipc.wiring import Wiring

ADMINISTRATORS_PREFIX: Final = "ingress.admin-"
BATCH_COUNT_MAX: Final = 1024
"""Commands of one ingress ring that are decided and published at once: enough to spread the cost of a call, few enough
that one busy ring does not hold up the others."""


@dataclass(frozen=True)
class RiskRings:
    """Risk's ends of its rings. ``ingress`` in the order of ``ingress_ring``; ``commands`` and ``events`` by shard."""

    ingress: tuple[RingReader, ...]
    rights: tuple[IngressRight, ...]
    commands: tuple[RingWriter, ...]
    events: tuple[RingReader, ...]
    own_events: RingWriter
    refusals: RingWriter
    administrators: frozenset[int] = frozenset()
    """Numbers of the ingress rings that are taken first."""

    def answers_to(self, number: int) -> RingWriter:
        """Say where the commands of an ingress ring are answered that no matcher gets.

        What may fund is answered where settlement reads, and holds risk back; nobody else's answer does.
        """
        return self.own_events if self.rights[number] & IngressRight.FUND else self.refusals

    @property
    def batch_count_max(self) -> int:
        """Largest batch: twice that must fit every ring that risk writes, so that a restart can look back over it."""
        capacities = [writer.ring.capacity for writer in (*self.commands, self.own_events, self.refusals)]
        return min(BATCH_COUNT_MAX, *(capacity // 2 for capacity in capacities))


def rings_of(wiring: Wiring) -> RiskRings:
    """Join up with all rings of risk."""
    shards = range(wiring.shard_count)
    return RiskRings(
        ingress=tuple(wiring.ring_reader(name) for name in wiring.ingress_rings),
        rights=tuple(rights_of(name) for name in wiring.ingress_rings),
        commands=tuple(wiring.ring_writer(f"commands.{shard}") for shard in shards),
        events=tuple(wiring.ring_reader(f"events.{shard}") for shard in shards),
        own_events=wiring.ring_writer("events.risk"),
        refusals=wiring.ring_writer(REFUSALS),
        administrators=frozenset(
            number for number, name in enumerate(wiring.ingress_rings) if name.startswith(ADMINISTRATORS_PREFIX)
        ),
    )


def rights_of(ingress_name: str) -> IngressRight:
    """Say what the commands of an ingress ring may ask for.

    Money comes and goes only through settlement, which numbers it. All others are trusted to have authenticated the
    account that they name: fronts by its token, local clients because only the engine's own user can be one. A front
    has a second ring for what administrators ask for.
    """
    if ingress_name == "ingress.settlement":
        return IngressRight.FUND
    if ingress_name.startswith("ingress.front-"):
        return IngressRight.TRADE
    return IngressRight.TRADE | IngressRight.ADMIN


def settled_sequence(ring: Ring) -> int:
    """Sequence of the first event that PostgreSQL does not have, as settlement announces it."""
    (cursor,) = (reader.cursor for reader in ring.statistics().readers if reader.name == "settlement")
    return cursor
