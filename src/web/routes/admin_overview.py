"""What administrators see of the running engine: its actors, its books, its queues, its clients.

Rule 1: whichever front is asked answers for the whole engine.
Rule 2: what is shown lies in shared memory or in PostgreSQL: no matcher is asked anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import Blueprint, Response

from tradeengine.web import schemas_overview as schemas
from tradeengine.web.access import Access
from tradeengine.web.envelope import success
from tradeengine.web.front import current_front
from tradeengine.web.openapi import describe

if TYPE_CHECKING:
    from tradeengine.ipc.overview import ActorView

blueprint = Blueprint("admin_overview", __name__)
_TAG = "operations"


@blueprint.get("/actors")
@describe(tags=_TAG, answers={200: schemas.ActorsAnswer}, access=Access.ADMIN)
async def show_actors() -> Response:
    """Show every process of the engine: how it is, what went through it, and the rings that it is joined to.

    Totals count from the engine's start; rates come of two answers.
    """
    return success([_actor_view(actor) for actor in current_front().overview.actors()])


def _actor_view(actor: ActorView) -> schemas.Actor:
    return schemas.Actor(
        name=actor.name,
        role=actor.role,
        pid=actor.pid,
        state=actor.state.name.lower(),  # type: ignore[arg-type]  # the names are the enumeration's
        message=actor.message,
        restarts=actor.restart_count,
        uptime_seconds=round(actor.uptime_s, 3),
        heartbeat_age_seconds=actor.heartbeat_age_s,
        busy_seconds=None if actor.busy_us is None else actor.busy_us / 1e6,
        records_in=actor.records_in,
        records_out=actor.records_out,
        errors=actor.error_count,
        rings=[
            schemas.ActorRing(name=ring.name, access=ring.access, capacity=ring.capacity, head=ring.head, lag=ring.lag)
            for ring in actor.rings
        ],
    )
