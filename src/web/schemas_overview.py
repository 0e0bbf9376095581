"""What administrators see of the running engine; the rules are those of ``schemas``.

What is not money is a JSON number here. Totals count from the engine's start, over restarts of single actors.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from tradeengine.web.schemas import answer_of

ActorStateName: TypeAlias = Literal[
    "stopped", "starting", "ready", "stalled", "restarting", "blocked", "failed", "stopping"
]


class ActorRing(Struct, frozen=True, kw_only=True):
    """An actor at a ring."""

    name: str
    access: Annotated[
        Literal["write", "gate", "follow"],
        Meta(description="gate: it must not miss anything and holds the writer back; follow: it may be overtaken."),
    ]
    capacity: Annotated[int, Meta(description="Records that the ring holds.")]
    head: Annotated[int, Meta(description="Sequence of the next record: what it grows by was written.")]
    lag: Annotated[int | None, Meta(description="gate: records written and not yet passed by this actor; else null.")]


class Actor(Struct, frozen=True, kw_only=True):
    """A process of the engine. ``operator`` is the supervisor, ``database`` the embedded PostgreSQL."""

    name: str
    role: str
    pid: Annotated[int, Meta(description="0: there is no process now.")]
    state: ActorStateName
    message: Annotated[str, Meta(description="Why it is blocked, failed or being started again.")]
    restarts: int
    uptime_seconds: Annotated[float, Meta(description="Of the present process.")]
    heartbeat_age_seconds: Annotated[float | None, Meta(description="null: it has none, or does not run.")]
    busy_seconds: Annotated[
        float | None, Meta(description="Time that it worked, in all: its growth per second is its utilisation.")
    ]
    records_in: Annotated[int, Meta(description="Records that it has taken from rings, or dealt with.")]
    records_out: Annotated[int, Meta(description="Records that it has written into its rings.")]
    errors: int
    rings: list[ActorRing]


ActorsAnswer = answer_of("ActorsAnswer", list[Actor])
