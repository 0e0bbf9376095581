"""The engine's shared memory: every ring, table, doorbell and metric page of a topology, made and owned in one place.

The supervisor makes it once per start and keeps it as long as it lives, so an actor that dies finds everything as it
left it. An actor gets descriptors of what the topology joins it to (its *handoff*): read-only ones where it only reads.

Rule 1: nothing here is durable. A whole start begins from the journals and from PostgreSQL, and opens the rings at the
sequences that these hold.
It refuses to know processes.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from tradeengine.actors.topology import DATABASE, OBSERVED_TABLES, OBSERVER, OPERATOR, Topology
from tradeengine.ipc import buckets, replay_guard
from tradeengine.ipc.doorbell import Doorbell, create_page
from tradeengine.ipc.handoff import Handoff, RingTerms, TableTerms
from tradeengine.ipc.metric_names import ROLE_METRICS, operator_metrics
from tradeengine.ipc.metrics import MetricPage
from tradeengine.ipc.ring import ReaderSpec, Ring, RingStatistics
from tradeengine.ipc.segment import Segment
from tradeengine.ipc.seqlock import SeqlockTable
from tradeengine.ipc.wiring import LAYOUTS, Wiring

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tradeengine.actors.topology import Actor, RingPlan
    from tradeengine.settings import Settings

BOARD_BYTES: Final = {"buckets": buckets.board_bytes, "signatures": replay_guard.board_bytes}
"""How large a board is by its entries. Not in the topology, which is read before anything heavy is imported."""


@dataclass
class Memory:
    """All shared memory of one engine. ``first_sequences``: where rings open, by name; others open at 0."""

    topology: Topology
    settings: Settings
    first_sequences: Mapping[str, int]
    bells_page: Segment = field(init=False)
    bells: dict[str, Doorbell] = field(init=False)
    rings: dict[str, Ring] = field(init=False)
    tables: dict[str, SeqlockTable] = field(init=False)
    boards: dict[str, Segment] = field(init=False)
    metrics: dict[str, MetricPage] = field(init=False)

    def __post_init__(self) -> None:
        topology = self.topology
        self.bells_page = create_page("bells", len(topology.doorbells))
        self.bells = {name: Doorbell.create(self.bells_page, place) for name, place in topology.doorbells.items()}
        self.rings = {ring.name: self._create_ring(ring) for ring in topology.rings}
        self.tables = {
            table.name: SeqlockTable.create(table.name, topology.dtype_of(table.name), table.rows)
            for table in topology.tables
        }
        self.boards = {
            board.name: Segment.create(board.name, BOARD_BYTES[board.name](board.entries)) for board in topology.boards
        }
        parties = (*topology.actors, topology.operator, *topology.clients)
        processes = [(actor.name, actor.role) for actor in (*topology.actors, topology.operator)]
        layouts = {**ROLE_METRICS, OPERATOR: operator_metrics([*processes, (DATABASE, DATABASE)])}
        self.metrics = {
            actor.name: MetricPage.create(actor.name, actor.role, *layouts[actor.role]) for actor in parties
        }

    def _create_ring(self, plan: RingPlan) -> Ring:
        bells = self.topology.doorbells
        readers = [ReaderSpec(name, gating=True, doorbell_index=bells[name]) for name in plan.gating]
        readers += [ReaderSpec(name, gating=False, doorbell_index=bells[name]) for name in plan.lappable]
        return Ring.create(plan.name, LAYOUTS[plan.layout], plan.slots, readers, self.first_sequences.get(plan.name, 0))

    def handoff(self, actor: Actor, listener: socket.socket | None = None) -> Handoff:
        """Give what an actor is joined to. ``fds`` are new descriptors that the caller closes after sending them.

        Raises OSError when there are no more descriptors.
        """
        rings = self.topology.rings_of(actor.name)
        tables = self.topology.tables_of(actor.name)
        fds: dict[str, int] = {}
        try:
            self._open_for(actor, fds, listener)
        except OSError:
            for fd in fds.values():
                os.close(fd)
            raise
        return Handoff(
            name=actor.name,
            role=actor.role,
            index=actor.index,
            settings=_settings_for(actor.role, self.settings),
            ingress_rings=self.topology.ingress_rings,
            rings=rings,
            tables=tables,
            doorbells=self.topology.doorbells,
            fds=fds,
        )

    def _open_for(self, actor: Actor, fds: dict[str, int], listener: socket.socket | None) -> None:
        """Add new descriptors of what an actor is joined to. Raises OSError when there are no more."""
        fds["bells"] = os.dup(self.bells_page.fd)
        for name, bell in self.bells.items():
            fds[f"bell:{name}"] = os.dup(bell.fd)
        for name, terms in self.topology.rings_of(actor.name).items():
            fds[f"ring:{name}"] = _descriptor(self.rings[name].segment, writable=terms.access != "follow")
        for name, table_terms in self.topology.tables_of(actor.name).items():
            fds[f"table:{name}"] = _descriptor(self.tables[name].segment, writable=table_terms.writable)
        for name in self.topology.boards_of(actor.name):
            fds[f"board:{name}"] = os.dup(self.boards[name].fd)
        for name, page in self.metrics.items():
            if name == actor.name or actor.role in {"front", "operator"}:
                fds[f"metrics:{name}"] = _descriptor(page.segment, writable=name == actor.name)
        if actor.role == "front" and listener is not None:
            fds["listen"] = os.dup(listener.fileno())

    def observation(self) -> Handoff:
        """Give what it takes to look at everything and to touch nothing: who gets it is nobody on the rings.

        ``fds`` are new descriptors that the caller closes after sending them.
        """
        topology = self.topology
        rings = {ring.name: RingTerms(ring.layout, "follow", ring.writer) for ring in topology.rings}
        fds = {f"ring:{name}": self.rings[name].segment.read_only_descriptor() for name in rings}
        fds |= {f"table:{name}": self.tables[name].segment.read_only_descriptor() for name in OBSERVED_TABLES}
        fds |= {f"metrics:{name}": page.segment.read_only_descriptor() for name, page in self.metrics.items()}
        return Handoff(
            name=OBSERVER,
            role=OBSERVER,
            index=0,
            settings=_settings_for(OBSERVER, self.settings),
            ingress_rings=topology.ingress_rings,
            rings=rings,
            tables={name: TableTerms(writable=False) for name in OBSERVED_TABLES},
            doorbells={},
            fds=fds,
        )

    def operator_wiring(self) -> Wiring:
        """Give the supervisor's own ends, as if it were an actor."""
        return Wiring(self.handoff(self.topology.actor(OPERATOR)))

    def ring_all_bells(self) -> None:
        """Wake everyone, because something happened that no ring shows."""
        for bell in self.bells.values():
            bell.alarm()

    def ring_statistics(self) -> list[RingStatistics]:
        """Look at the cursors of all rings."""
        return [ring.statistics() for ring in self.rings.values()]

    def close(self) -> None:
        """Give back all descriptors; what actors have been handed stays theirs."""
        parts: list[Ring | SeqlockTable | MetricPage | Doorbell] = [*self.rings.values(), *self.tables.values()]
        for part in (*parts, *self.metrics.values(), *self.bells.values(), *self.boards.values()):
            part.close()
        self.bells_page.close()

    def bytes_total(self) -> int:
        """Size of all rings, tables and boards; the kernel gives a page only when it is first written."""
        segments = [ring.segment for ring in self.rings.values()] + [table.segment for table in self.tables.values()]
        return sum(segment.size for segment in (*segments, *self.boards.values()))


def _descriptor(segment: Segment, *, writable: bool) -> int:
    return os.dup(segment.fd) if writable else segment.read_only_descriptor()


def _settings_for(role: str, settings: Settings) -> Settings:
    """Leave out the secrets that a role has no use for."""
    replace = msgspec.structs.replace
    if role != "front":
        settings = replace(settings, auth=replace(settings.auth, secret=""), keys=replace(settings.keys, master=""))
    if role not in {"wallet", "keeper"}:
        settings = replace(settings, wallet=replace(settings.wallet, secret=""))
    return settings
