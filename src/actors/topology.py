"""The topology: which actors exist, and which rings, tables and doorbells join them. Read this first.

An order's way, top down. A **front** parses a request and writes a command into its *ingress ring*. **Risk** takes
it from there, checks and holds the money, and forwards it into the *command ring* of the symbol's shard. The shard's
**matcher** journals it, syncs, matches, and publishes what happened into the *event ring* of the shard. From there

- risk turns holds into spent or free balance,
- **settlement** commits trades, orders, postings and its cursor to PostgreSQL in one transaction,
- the **publisher** keeps depth pages and tickers, and writes messages for clients into the *feed ring*,
- the fronts answer the request that waits for the event, and fan the feed out to those who have subscribed.

What never reaches a matcher risk answers itself: refusals and repeats on a ring that holds nobody back, funding, which
settlement must have, on an event ring of its own. Beside the way stands the **shadow**, which replays closed journal
segments, writes snapshots and checks that a replay is identical, and the **keeper**, which makes and drops partitions
in PostgreSQL, stores depth now and then, and compares everything with everything: it asks risk and the matchers for a
*census* of what lives in them.
Where a wallet service outside keeps the money, the **wallet** actor tells it of every trade, deposit and withdrawal.
The **supervisor** owns the memory and the processes; on the rings it is called *operator*, and lists symbols.
**Clients** are local programs (replay, benchmarks) that attach later and have a ring like a front.
Each front has a second ingress ring for what administrators ask for, which risk takes first: a halt waits for no order.

Rule 1: a ring has one producer. Rule 2: whoever must not miss an event is a *gating* reader and holds the producer
back; whoever can start over from a table is *lappable* and never does. Rule 3: this file is the only place that says
who is joined to whom; it refuses to know memory, processes and what the records mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal

from tradeengine.core.tables import table_dtype
from tradeengine.ipc.handoff import Access, Layout, RingTerms, TableTerms

if TYPE_CHECKING:
    import numpy as np

    from tradeengine.settings import Limits, Settings

Role = Literal[
    "front",
    "risk",
    "matcher",
    "settlement",
    "publisher",
    "shadow",
    "keeper",
    "wallet",
    "operator",
    "client",
    "database",
]

RISK: Final = "risk"
SETTLEMENT: Final = "settlement"
PUBLISHER: Final = "publisher"
SHADOW: Final = "shadow"
KEEPER: Final = "keeper"
WALLET: Final = "wallet"
OPERATOR: Final = "operator"
OBSERVER: Final = "observer"
"""Who only looks: a local program that is no party on the rings. It may look at all of them, and at these tables."""
OBSERVED_TABLES: Final = ("actors", "directory", "touch", "tickers")
DATABASE: Final = "database"
"""The embedded one, where there is one: a process that the supervisor keeps, and no party on the rings."""

ADMIN_SLOTS_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class Actor:
    """A process, or a place that a local client can take.

    ``index``: shard of a matcher, number of a front or client.
    """

    name: str
    role: Role
    index: int = 0


@dataclass(frozen=True, slots=True)
class RingPlan:
    """A ring: its one writer, and its readers with whether they hold the writer back."""

    name: str
    layout: Layout
    slots: int
    writer: str
    gating: tuple[str, ...]
    lappable: tuple[str, ...] = ()

    def access_of(self, actor: str) -> Access | None:
        """Say what an actor does with this ring; None when nothing."""
        if actor == self.writer:
            return "write"
        if actor in self.gating:
            return "gate"
        return "follow" if actor in self.lappable else None


@dataclass(frozen=True, slots=True)
class TablePlan:
    """A table: its rows, who writes them (matchers share ``touch``: each writes its own symbols) and who reads."""

    name: str
    rows: int
    writers: tuple[str, ...]
    readers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BoardPlan:
    """A board: words of shared memory that all fronts change at the same time; ``entries``: how much it remembers."""

    name: str
    entries: int


@dataclass(frozen=True)
class Topology:
    """All actors, rings, tables and boards of one engine."""

    actors: tuple[Actor, ...]
    clients: tuple[Actor, ...]
    rings: tuple[RingPlan, ...]
    tables: tuple[TablePlan, ...]
    boards: tuple[BoardPlan, ...]
    limits: Limits

    @property
    def shard_count(self) -> int:
        """How many matchers there are."""
        return sum(actor.role == "matcher" for actor in self.actors)

    @property
    def operator(self) -> Actor:
        """The supervisor as a party on the rings."""
        return Actor(OPERATOR, "operator")

    @cached_property
    def doorbells(self) -> dict[str, int]:
        """Place of each party's doorbell in the doorbell page."""
        parties = (*self.actors, self.operator, *self.clients)
        return {actor.name: place for place, actor in enumerate(parties)}

    @cached_property
    def ingress_rings(self) -> tuple[str, ...]:
        """Ingress rings in the order of ``ingress_ring``, the number that commands and events carry."""
        return tuple(ring.name for ring in self.rings if ring.name.startswith("ingress."))

    def actor(self, name: str) -> Actor:
        """Find an actor, the operator or a client by name. Raises KeyError."""
        found = {actor.name: actor for actor in (*self.actors, self.operator, *self.clients)}
        return found[name]

    def ring(self, name: str) -> RingPlan:
        """Find a ring by name. Raises KeyError."""
        return {ring.name: ring for ring in self.rings}[name]

    def rings_of(self, actor: str) -> dict[str, RingTerms]:
        """Rings that an actor is joined to, and how.

        A front also looks at the cursors of all others, for /metrics, and the keeper looks back into what is on its way
        between two censuses; the wallet looks how far settlement is. None of them is woken by that.
        """
        looks = self.actor(actor).role in {"front", "keeper", "wallet"}
        terms = {ring: ring.access_of(actor) or ("follow" if looks else None) for ring in self.rings}
        return {
            ring.name: RingTerms(ring.layout, access, ring.writer)
            for ring, access in terms.items()
            if access is not None
        }

    def tables_of(self, actor: str) -> dict[str, TableTerms]:
        """Tables that an actor writes or reads."""
        return {
            table.name: TableTerms(writable=actor in table.writers)
            for table in self.tables
            if actor in table.writers or actor in table.readers
        }

    def boards_of(self, actor: str) -> tuple[str, ...]:
        """Boards that an actor writes: those of the fronts."""
        return tuple(board.name for board in self.boards) if self.actor(actor).role == "front" else ()

    def dtype_of(self, table: str) -> np.dtype[np.void]:
        """Layout of a table's rows."""
        limits = self.limits
        return table_dtype(
            table,
            assets_max=limits.assets_max,
            levels_max=limits.levels_max,
            accounts_max=limits.accounts_max,
            symbols_max=limits.symbols_max,
            orders_max=limits.orders_max,
            shards=self.shard_count,
        )


def plan(settings: Settings) -> Topology:
    """Join everything up, for so many shards, fronts and clients as the settings say."""
    matchers = tuple(Actor(f"matcher-{shard}", "matcher", shard) for shard in range(settings.engine.shards))
    fronts = tuple(Actor(f"front-{number}", "front", number) for number in range(settings.engine.fronts))
    clients = tuple(Actor(f"client-{number}", "client", number) for number in range(settings.limits.clients_max))
    actors = (
        Actor(RISK, "risk"),
        *matchers,
        Actor(SETTLEMENT, "settlement"),
        Actor(PUBLISHER, "publisher"),
        Actor(SHADOW, "shadow"),
        Actor(KEEPER, "keeper"),
        *([Actor(WALLET, "wallet")] if settings.wallet.kind == "http" else ()),
        *fronts,
    )
    return Topology(
        actors=actors,
        clients=clients,
        rings=(
            *_ingress_rings(settings, fronts, clients),
            *_shard_rings(settings, matchers, fronts, clients),
            RingPlan("feed", "feed", settings.rings.feed_slots, PUBLISHER, gating=(), lappable=_names(fronts)),
        ),
        tables=_tables(settings, matchers, fronts, clients),
        boards=(
            BoardPlan("buckets", settings.requests.names_max),
            BoardPlan("signatures", settings.keys.signatures_max),
        ),
        limits=settings.limits,
    )


def _ingress_rings(settings: Settings, fronts: tuple[Actor, ...], clients: tuple[Actor, ...]) -> tuple[RingPlan, ...]:
    """Lay out who asks. Their order is the number that commands carry: fronts, settlement, operator, clients.

    Last come the fronts again, with what administrators ask for: a ring that no order can fill.
    """
    writers = (*_names(fronts), SETTLEMENT, OPERATOR, *_names(clients))
    slots = settings.rings.ingress_slots
    return (
        *(RingPlan(f"ingress.{writer}", "command", slots, writer, gating=(RISK,)) for writer in writers),
        *(
            RingPlan(f"ingress.admin-{front.index}", "command", min(slots, ADMIN_SLOTS_MAX), front.name, gating=(RISK,))
            for front in fronts
        ),
    )


def _shard_rings(
    settings: Settings, matchers: tuple[Actor, ...], fronts: tuple[Actor, ...], clients: tuple[Actor, ...]
) -> tuple[RingPlan, ...]:
    """Lay out what is done and what happened: per shard a command ring and an event ring, and risk's own two."""
    rings = settings.rings
    followers = (*_names(fronts), OPERATOR, *_names(clients))
    commands = tuple(
        RingPlan(f"commands.{matcher.index}", "command", rings.commands_slots, RISK, gating=(matcher.name,))
        for matcher in matchers
    )
    events = tuple(
        RingPlan(
            f"events.{matcher.index}",
            "event",
            rings.events_slots,
            matcher.name,
            gating=(RISK, SETTLEMENT),
            lappable=(PUBLISHER, *followers, SHADOW),  # the shadow only looks how far settlement is
        )
        for matcher in matchers
    )
    # However many are refused while settlement stands still, risk takes the next command: nobody gates refusals.
    answers = (
        RingPlan("events.risk", "event", rings.risk_events_slots, RISK, gating=(SETTLEMENT,)),
        RingPlan("refusals", "event", rings.risk_events_slots, RISK, gating=(), lappable=followers),
    )
    return (*commands, *events, *answers)


def _tables(
    settings: Settings, matchers: tuple[Actor, ...], fronts: tuple[Actor, ...], clients: tuple[Actor, ...]
) -> tuple[TablePlan, ...]:
    """Lay out what is: pages that one actor keeps and others read at any moment."""
    limits = settings.limits
    watchers = (*_names(fronts), OPERATOR, *_names(clients))
    # Beside these: risk, settlement, publisher, shadow, keeper, wallet, database.
    actor_count = len(matchers) + len(fronts) + 7
    per_shard = tuple(
        plan
        for matcher in matchers
        for plan in (
            TablePlan(f"levels.{matcher.index}", 1, (matcher.name,), (PUBLISHER,)),
            TablePlan(f"level_requests.{matcher.index}", 1, (PUBLISHER,), (matcher.name,)),
            TablePlan(f"book_census.{matcher.index}", 1, (matcher.name,), (KEEPER,)),
        )
    )
    return (
        TablePlan("balances", limits.accounts_max, (RISK,), watchers),
        TablePlan("accounts", limits.accounts_max, (RISK,), (SETTLEMENT, *watchers)),
        TablePlan("touch", limits.symbols_max, _names(matchers), (RISK, PUBLISHER, *watchers)),
        TablePlan("trading_states", limits.symbols_max, (PUBLISHER,), watchers),
        TablePlan("depth", limits.symbols_max, (PUBLISHER,), (KEEPER, *watchers)),
        TablePlan("tickers", limits.symbols_max, (PUBLISHER,), watchers),
        TablePlan("directory", 1, (OPERATOR,), (RISK, SETTLEMENT, PUBLISHER, SHADOW, *watchers)),
        TablePlan("actors", actor_count, (OPERATOR,), (RISK, SETTLEMENT, PUBLISHER, *watchers)),
        TablePlan("risk_census", 1, (RISK,), (KEEPER,)),
        TablePlan("census_requests", 1, (KEEPER,), (RISK, *_names(matchers))),
        *per_shard,
        *(TablePlan(f"demand.{front.index}", 1, (front.name,), (PUBLISHER,)) for front in fronts),
        *(
            TablePlan(f"connections.{front.index}", settings.streams.connections_max, (front.name,), _names(fronts))
            for front in fronts
        ),
    )


def _names(actors: tuple[Actor, ...]) -> tuple[str, ...]:
    return tuple(actor.name for actor in actors)
