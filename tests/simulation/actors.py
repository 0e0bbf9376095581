"""The actors of the simulated engine: the real duties on simulated rings, each started as its own program starts it.

An actor lives or is dead. ``start`` recovers as the real program does and ``work`` does one round; each may end by
``Killed``, and then whatever it had in its memory is gone, and its files are closed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tradeengine.actors.matcher import MatcherDuty
from tradeengine.actors.matcher_events import EventOutlet
from tradeengine.actors.matcher_recovery import recover
from tradeengine.actors.matcher_tables import MatcherTables
from tradeengine.actors.publishing.follower import Follower
from tradeengine.actors.publishing.ticker import Tickers
from tradeengine.actors.risk import RiskDuty, RiskTables
from tradeengine.actors.risk_gates import Gates
from tradeengine.actors.risk_restart import restart
from tradeengine.actors.risk_rings import RiskRings, rights_of, settled_sequence
from tradeengine.actors.settlement import SettlementDuty, SettlementState
from tradeengine.actors.shadow import ShardShadow
from tradeengine.core.risk import RiskState, make_outbox, make_risk
from tradeengine.storage.settle import RISK_SHARD

if TYPE_CHECKING:
    from tests.simulation.engine import Engine

    from tradeengine.actors.matching import Matching

WAITS_MAX: Final = 12
"""Looks at matchers that are not ready yet before a risk that recovers is killed: the schedule shall go on."""
ROOM_WAITS_MAX: Final = 60
"""Pauses of a matcher that waits for room before it is killed, for the same reason."""
RETAIN_S: Final = 60.0


class Killed(BaseException):
    """An actor died, as by kill -9."""


class Failed(BaseException):
    """A promise was broken; the message says which."""


class Actor:
    """What all have in common. ``is_alive``: it has recovered and does its rounds."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.is_alive = False

    def start(self) -> None:
        """Recover as a new process."""
        raise NotImplementedError

    def work(self) -> int:
        """Do one round; give how much there was to do."""
        raise NotImplementedError

    def stop(self) -> None:
        """End in order."""
        self.die()

    def die(self) -> None:
        """Lose everything that is in no shared memory and no file."""
        self.is_alive = False


class Risk(Actor):
    """Risk, with its rings and tables."""

    risk: RiskState

    def start(self) -> None:
        """Recover. Raises whatever recovery says of events that were overwritten meanwhile: there must be none."""
        engine = self.engine
        self.risk = make_risk(engine.sizes.risk)
        rings = RiskRings(
            ingress=tuple(ring.reader("risk") for ring in engine.ingress),
            rights=tuple(rights_of(ring.name) for ring in engine.ingress),
            commands=tuple(engine.writer(ring) for ring in engine.commands),
            events=tuple(ring.reader("risk") for ring in engine.events),
            own_events=engine.writer(engine.own_events),
            refusals=engine.writer(engine.refusals),
            administrators=frozenset({engine.sizes.ADMIN}),
        )
        self._waits = 0
        taken = restart(self.risk, rings, self._load, partial(self._matchers_ready, rings))
        outbox = make_outbox(engine.shards, engine.sizes.symbols_max, rings.batch_count_max)
        tables = RiskTables(self.risk, engine.balances, engine.accounts, engine.touch)
        tables.repair()
        gates = Gates(engine.events, outbox, engine.sizes.backlog_max, Path("/"), 0, engine.commands)
        page = engine.page("risk")
        clock = engine.clock.time_ns
        self._duty = RiskDuty(
            self.risk, rings, outbox, tables, gates, page, taken, reserve=engine.sizes.reserve_slots, clock=clock
        )

    def work(self) -> int:
        """Fold, decide, and have the result looked at."""
        count = self._duty()
        self.engine.audit.look_at_risk(self.risk)
        return count

    def _load(self) -> Any:
        self.engine.pause("risk.before_load")
        snapshot = self.engine.database.recovery()
        self.engine.pause("risk.after_load")
        return snapshot

    def _matchers_ready(self, rings: RiskRings) -> bool:
        unused = [shard for shard, writer in enumerate(rings.commands) if writer.head == writer.ring.first_sequence]
        if all(self.engine.matchers[shard].is_alive for shard in unused):
            return True
        self._waits += 1
        if self._waits > WAITS_MAX:
            raise Killed(self.name)
        self.engine.pause("risk.waits_for_matchers", must=True)
        return False


class Matcher(Actor):
    """One shard's matcher with its journal."""

    matching: Matching

    def __init__(self, engine: Engine, shard: int) -> None:
        super().__init__(engine, f"matcher-{shard}")
        self.shard = shard
        self._duty: MatcherDuty | None = None

    def start(self) -> None:
        """Recover from snapshot, journal and rings."""
        self._waits = 0
        engine, shard = self.engine, self.shard
        commands = engine.commands[shard].reader("matcher")
        outlet = EventOutlet(engine.writer(engine.events[shard]), self._wait)
        settled = settled_sequence(engine.events[shard])
        place = engine.place(shard)
        recovered = recover(place, settled, outlet, commands, lambda: engine.pause("matcher.replays"), engine.disk)
        self.matching = recovered.matching
        self._journal = recovered.journal
        tables = MatcherTables(self.matching.book, engine.touch, engine.levels[shard], engine.requests[shard])
        try:
            tables.write_all()
        except BaseException:
            self._journal.close()
            raise
        self._duty = MatcherDuty(
            commands,
            recovered.journal,
            self.matching,
            outlet,
            tables,
            engine.page("matcher"),
            batch_max=engine.sizes.batch_max,
        )

    def work(self) -> int:
        """Journal, sync, match, publish."""
        self._waits = 0
        assert self._duty is not None
        return self._duty()

    def stop(self) -> None:
        """End in order, leaving a snapshot."""
        assert self._duty is not None
        self._duty.drain()
        self._duty.write_snapshot(self.engine.place(self.shard))
        self.die()

    def die(self) -> None:
        """Close the files, as the system does for a process that is gone."""
        super().die()
        if self._duty is not None:
            self._duty.close()
            self._duty = None

    def _wait(self) -> None:
        # Whoever stands in the middle of a round below this one cannot go on, and who needs the database may wait for
        # long: then the schedule shall go on.
        self._waits += 1
        stuck = self.engine.is_at_work("risk") or self.engine.is_at_work("settlement")
        if stuck or self._waits > ROOM_WAITS_MAX:
            raise Killed(f"{self.name} waits for room")
        self.engine.clock.pass_by(500_000)
        self.engine.pause("matcher.waits_for_room", must=True)


class Settlement(Actor):
    """Settlement, with its connection."""

    def start(self) -> None:
        """Join the rings; the database is connected to in the first round."""
        engine = self.engine
        rings = {**dict(enumerate(engine.events)), RISK_SHARD: engine.own_events}
        self._duty = SettlementDuty(
            {shard: ring.reader("settlement") for shard, ring in rings.items()},
            engine.writer(engine.ingress[engine.sizes.SETTLEMENT]),
            engine.database.connect,
            engine.page("settlement"),
            ingress_number=engine.sizes.SETTLEMENT,
            settings_applied=lambda: int(engine.accounts.read(0)["version"]),
            batch_events_max=engine.sizes.settle_max,
            tell=_refuse_to_stop,
        )

    def work(self) -> int:
        """Settle and feed."""
        return self._duty()

    def die(self) -> None:
        """Lose the connection."""
        super().die()
        if hasattr(self, "_duty"):
            self._duty.close()


class Publisher(Actor):
    """The followers of all shards: books and tickers."""

    def start(self) -> None:
        """Begin at the heads, with nothing."""
        engine = self.engine
        self.tickers = Tickers(engine.sizes.symbols_max)
        self.followers = [
            Follower(
                ring.reader("publisher"),
                engine.requests[shard],
                engine.levels[shard],
                self.tickers,
                engine.sizes.symbols_max,
                lambda: None,
            )
            for shard, ring in enumerate(engine.events)
        ]
        for shard, follower in enumerate(self.followers):
            follower.add_symbols([shard])

    def work(self) -> int:
        """Follow each shard a step; where a past is wanted, read it."""
        done = 0
        for shard, follower in enumerate(self.followers):
            if follower.history_wanted and follower.complete and not self.engine.database.away:
                follower.take_history(*self.engine.database.history(shard))
                done += 1
            done += follower.duty()
            self.engine.audit.look_at_depth(follower)
        return done


class Shadow(Actor):
    """The shadow, which checks replays, writes snapshots and removes segments."""

    def start(self) -> None:
        """Go on from the newest snapshots."""
        engine = self.engine
        self._shadows = [
            ShardShadow(
                engine.place(shard),
                engine.page("shadow"),
                lambda: None,
                keep_count=2,
                retain_s=RETAIN_S,
                snapshot_interval_s=0.001,
            )
            for shard in range(engine.shards)
        ]

    def work(self) -> int:
        """Follow a closed segment of each shard, and keep house."""
        done = 0
        for shard, shadow in enumerate(self._shadows):
            self.engine.audit.keep_closed(shard)
            done += shadow.step(settled_sequence(self.engine.events[shard]))
            if shadow.trouble:
                raise Failed(f"the shadow: {shadow.trouble}")
        return done


def _refuse_to_stop(state: SettlementState, text: str) -> None:
    if state in (SettlementState.STOPPED, SettlementState.DATABASE_IN_USE):
        raise Failed(f"settlement: {text}")
