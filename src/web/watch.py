"""The watch: whether orders are accepted, and what does not work as it should.

It looks at the page of actors that the supervisor keeps and at how far settlement is behind.
It refuses to know how things are mended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from tradeengine.core.tables import SILENCE_MS_MAX, ActorState
from tradeengine.ipc.fences import Fences
from tradeengine.ipc.metrics import MetricPage
from tradeengine.ipc.ring import Ring
from tradeengine.ipc.seqlock import SeqlockBusy, SeqlockTable
from tradeengine.web.barrier import Barrier
from tradeengine.web.errors import ApiError
from tradeengine.web.schemas import Readiness

_SERVING: Final = frozenset({ActorState.READY, ActorState.STALLED})
_ASIDE: Final = frozenset({"keeper"})
"""Actors that no caller misses, whatever their state; status and metrics show it."""
_LAG_DEGRADED_SHARE: Final = 0.5
"""Settlement counts as degraded when it has this share of the backlog to settle at which orders are refused."""


class ActorRow(NamedTuple):
    """One actor, as the supervisor knows it."""

    name: str
    state: ActorState
    message: str
    restart_count: int
    heartbeat_age_ms: int = 0

    @property
    def serves(self) -> bool:
        """Whether it does its duty, as far as can be seen."""
        return self.state in _SERVING and self.heartbeat_age_ms <= SILENCE_MS_MAX


class Watch:
    """Looks at actors and backlogs when asked."""

    def __init__(
        self,
        actors: SeqlockTable,
        settled: Barrier,
        backlog_events_max: int,
        pages: Mapping[str, MetricPage],
        rings: Mapping[str, Ring],
    ) -> None:
        self._actors = actors
        self.fences = Fences(actors)
        self._settled = settled
        self._backlog_max = backlog_events_max
        self.pages = pages
        self.rings = rings

    def readiness(self) -> Readiness:
        """Say that orders are accepted, and what is wrong all the same. Raises ApiError NOT_READY when they are not."""
        actors = self.actors()
        troubles = [_sentence(actor) for actor in actors if _is_trouble(actor)]
        passed = [actor for actor in actors if actor.name == "risk" or actor.name.startswith("matcher-")]
        troubles += [
            f"{actor.name} has been silent for {actor.heartbeat_age_ms / 1000:.1f} s"
            for actor in passed
            if actor.state in _SERVING and not actor.serves
        ]
        lags = self._settled.lags()
        if max(lags.values()) > self._backlog_max * _LAG_DEGRADED_SHARE:
            troubles.append(f"settlement is {sum(lags.values())} events behind")
        # Each shard is closed by its own backlog.
        open_matchers = {f"matcher-{ring.removeprefix('events.')}" for ring in lags if lags[ring] <= self._backlog_max}
        serving = {actor.name for actor in passed if actor.serves}
        if not ("risk" in serving and serving & open_matchers):
            message = f"Orders are not accepted now: {'; '.join(troubles)}."
            raise ApiError("NOT_READY", message, {"status": "unready", "degraded": troubles})
        return Readiness("degraded" if troubles else "ready", troubles)

    def actors(self) -> list[ActorRow]:
        """Copy what the supervisor knows of each actor; what cannot be read is stalled."""
        actors = []
        for row in range(self._actors.rows):
            try:
                actor = self._actors.read(row)
            except SeqlockBusy:
                actors.append(ActorRow(f"row {row}", ActorState.STALLED, "its row cannot be read", 0))
                continue
            name = bytes(actor["name"]).decode()
            if name:
                actors.append(
                    ActorRow(
                        name,
                        ActorState(int(actor["state"])),
                        bytes(actor["message"]).decode(errors="replace"),
                        int(actor["restart_count"]),
                        int(actor["heartbeat_age_ms"]),
                    )
                )
        return actors


def _is_trouble(actor: ActorRow) -> bool:
    """Whether callers should hear of it. No start waits for the shadow, which has a journal to read first."""
    starts = actor.name == "shadow" and actor.state == ActorState.STARTING
    return actor.state != ActorState.READY and actor.name not in _ASIDE and not starts


def _sentence(actor: ActorRow) -> str:
    return f"{actor.name} is {actor.state.name.lower()}" + (f": {actor.message}" if actor.message else "")
