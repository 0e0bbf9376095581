"""The watch: whether orders are accepted, and what does not work as it should.

It looks at the page of actors that the supervisor keeps and at how far settlement is behind.
It refuses to know how things are mended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from tradeengine.core.tables import ActorState
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
        self._settled = settled
        self._backlog_events_max = backlog_events_max
        self.pages = pages
        self.rings = rings

    def readiness(self) -> Readiness:
        """Say that orders are accepted, and what is wrong all the same. Raises ApiError NOT_READY when they are not."""
        states = self._states()
        troubles = [
            _sentence(name, *state)
            for name, state in states.items()
            if state[0] != ActorState.READY and name not in _ASIDE
        ]
        lag = self._settled.lag()
        if lag > self._backlog_events_max * _LAG_DEGRADED_SHARE:
            troubles.append(f"settlement is {lag} events behind")
        if not self._accepts_orders({name: state for name, (state, _) in states.items()}, lag):
            message = f"Orders are not accepted now: {'; '.join(troubles)}."
            raise ApiError("NOT_READY", message, {"status": "unready", "degraded": troubles})
        return Readiness("degraded" if troubles else "ready", troubles)

    def _accepts_orders(self, states: Mapping[str, ActorState], lag: int) -> bool:
        matchers = [state for name, state in states.items() if name.startswith("matcher-")]
        return (
            states.get("risk") in _SERVING
            and any(state in _SERVING for state in matchers)
            and lag <= self._backlog_events_max
        )

    def _states(self) -> dict[str, tuple[ActorState, str]]:
        """State and message of every actor by name; what cannot be read is stalled."""
        return {actor.name: (actor.state, actor.message) for actor in self.actors()}

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
                message = bytes(actor["message"]).decode(errors="replace")
                actors.append(ActorRow(name, ActorState(int(actor["state"])), message, int(actor["restart_count"])))
        return actors


def _sentence(name: str, state: ActorState, message: str) -> str:
    return f"{name} is {state.name.lower()}" + (f": {message}" if message else "")
