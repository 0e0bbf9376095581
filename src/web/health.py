"""Health: how each part of the engine is, in one answer, that comes within a second whatever hangs.

Rule 1: what the engine depends on is really looked at (``probes``), all at once; what the engine itself does is read
off shared memory: heartbeats, backlogs and what the supervisor knows.
Rule 2: unhealthy as a whole means that orders are not accepted, as ``/ready`` has it; everything else that is wrong
degrades it.
It refuses to know how things are mended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import trio

from tradeengine import __version__
from tradeengine.core.tables import SILENCE_MS_MAX, ActorState
from tradeengine.ipc import backlog
from tradeengine.wallet.breaker import BreakerState
from tradeengine.web import schemas_overview as schemas
from tradeengine.web.errors import ApiError
from tradeengine.web.figures import latency_of, uptime_s

if TYPE_CHECKING:
    from tradeengine.ipc.overview import ActorView, Overview
    from tradeengine.ipc.window import Interval, Window
    from tradeengine.settings import Settings
    from tradeengine.web.probes import Probe, Probes
    from tradeengine.web.watch import Watch

Status: TypeAlias = Literal["healthy", "degraded", "unhealthy"]
_WORST_LAST: Final[tuple[Status, ...]] = ("healthy", "degraded", "unhealthy")
_LAG_DEGRADED_SHARE: Final = 0.5
_DISK_DEGRADED_FACTOR: Final = 2
"""So many times the free space below which new orders are refused."""


class Health:
    """Looks at everything when asked."""

    def __init__(self, settings: Settings, overview: Overview, window: Window, watch: Watch, probes: Probes) -> None:
        self._settings = settings
        self._overview = overview
        self._window = window
        self._watch = watch
        self._probes = probes

    async def look(self) -> schemas.HealthDetails:
        """Look at every part."""
        wanted = {"database": self._probes.database, "disk": self._probes.disk}
        if self._settings.wallet.kind == "http":
            wanted["wallet_service"] = self._probes.wallet
        probes = await _all_at_once(wanted)
        interval = self._window.interval()
        actors = {actor.name: actor for actor in self._overview.actors()}
        components = {
            "database": _database(probes["database"], actors),
            "matching_engine": _matching(interval, actors, self._settings.engine.shards),
            "risk": _risk(interval, actors),
            "settlement": self._settlement(interval, actors),
            "publisher": _publisher(interval, actors),
            "websocket": _websocket(interval, actors),
            "http": _http(interval, actors),
            "wallet_service": _wallet(probes.get("wallet_service"), interval, actors),
            "journal": self._journal(probes["disk"], interval),
            "shadow": _shadow(interval, actors),
            "keeper": _keeper(interval, actors),
        }
        return schemas.HealthDetails(
            status=self._whole(components, interval),
            version=__version__,
            uptime_seconds=round(uptime_s(interval.later), 3),
            components=components,
        )

    def _whole(self, components: dict[str, schemas.Component], interval: Interval) -> Status:
        try:
            self._watch.readiness()
        except ApiError:
            return "unhealthy"
        if not interval.later.gauge("risk", "accepting"):
            return "unhealthy"
        return "healthy" if all(part.status == "healthy" for part in components.values()) else "degraded"

    def _settlement(self, interval: Interval, actors: dict[str, ActorView]) -> schemas.Component:
        status, message = _standing(actors["settlement"])
        waiting = backlog.backlogs(self._overview.rings.values())
        records = sum(ring.records for ring in waiting)
        most = self._settings.settlement.backlog_events_max
        if records > most:
            status, message = "unhealthy", f"{records} events wait, more than the {most} at which orders are refused"
        elif status == "healthy" and records > most * _LAG_DEGRADED_SHARE:
            status, message = "degraded", f"{records} events wait; at {most} new orders are refused"
        page = interval.later.pages["settlement"]
        return schemas.Component(
            status=status,
            message=message,
            latency_ms=_mean_ms(interval, "settlement", "settle_latency_us"),
            details={
                "state": page.state,
                "queue_size": records,
                "queue_seconds": round(max((ring.oldest_s for ring in waiting), default=0.0), 3),
                "pending_fundings": page.gauges["pending_fundings"],
                "errors": page.counters["errors"],
            },
        )

    def _journal(self, disk: Probe, interval: Interval) -> schemas.Component:
        least = self._settings.journal.free_disk_bytes_min
        status: Status = "healthy"
        message = "there is room on the disk"
        free = disk.details.get("free_bytes", 0)
        if disk.error:
            status, message = "unhealthy", disk.error
        elif free < least:
            status, message = "unhealthy", f"{free} bytes are free; below {least} new orders are refused"
        elif free < least * _DISK_DEGRADED_FACTOR:
            status, message = "degraded", f"{free} bytes are free; below {least} new orders are refused"
        details = {
            **disk.details,
            "free_bytes_min": least,
            "journal_bytes": interval.later.total("matcher", "journal_bytes"),
            "avg_sync_ms": _mean_ms(interval, "matcher", "sync_latency_us"),
        }
        return schemas.Component(status=status, message=message, latency_ms=disk.latency_ms, details=details)


async def _all_at_once(wanted: Mapping[str, Callable[[], Awaitable[Probe]]]) -> dict[str, Probe]:
    found: dict[str, Probe] = {}

    async def look(name: str, probe: Callable[[], Awaitable[Probe]]) -> None:
        found[name] = await probe()

    async with trio.open_nursery() as nursery:
        for name, probe in wanted.items():
            nursery.start_soon(look, name, probe)
    return found


def _standing(actor: ActorView) -> tuple[Status, str]:
    """Say how an actor is, by the supervisor's word and its heartbeat."""
    told = f"{actor.name} is {actor.state.name.lower()}" + (f": {actor.message}" if actor.message else "")
    silent_s = actor.heartbeat_age_s or 0.0
    if actor.state not in {ActorState.READY, ActorState.STALLED}:
        return "unhealthy", told
    if silent_s * 1000 > SILENCE_MS_MAX:
        return "unhealthy", f"{actor.name} has been silent for {silent_s:.1f} s"
    return ("healthy" if actor.state is ActorState.READY else "degraded"), told


def _together(found: list[tuple[Status, str]], all_well: str) -> tuple[Status, str]:
    """Say how several actors are that share a work: unhealthy when none does it."""
    ill = [message for status, message in found if status != "healthy"]
    if not ill:
        return "healthy", all_well
    best = min((status for status, _ in found), key=_WORST_LAST.index)
    return ("unhealthy" if best == "unhealthy" else "degraded"), "; ".join(ill)


def _about(actor: ActorView) -> dict[str, Any]:
    return {
        "name": actor.name,
        "state": actor.state.name.lower(),
        "pid": actor.pid,
        "restarts": actor.restart_count,
        "heartbeat_age_seconds": actor.heartbeat_age_s,
        "lag": max((ring.lag for ring in actor.rings if ring.lag is not None), default=0),
    }


def _of_role(actors: dict[str, ActorView], role: str) -> list[ActorView]:
    return [actor for actor in actors.values() if actor.role == role]


def _mean_ms(interval: Interval, role: str, histogram: str) -> float | None:
    measured = interval.histogram(role, histogram)
    return latency_of(measured).mean_ms if measured.count else None


def _database(probe: Probe, actors: dict[str, ActorView]) -> schemas.Component:
    server = actors.get("database")
    status: Status = "healthy"
    message = "PostgreSQL answers"
    if probe.error:
        status, message = "unhealthy", probe.error
        if server is not None and server.state is not ActorState.READY:
            message = f"{_standing(server)[1]}; {probe.error}"
    elif probe.details["read_only"]:
        status, message = "unhealthy", "PostgreSQL is a standby that cannot be written to"
    details = {**probe.details, "embedded": server is not None}
    return schemas.Component(status=status, message=message, latency_ms=probe.latency_ms, details=details)


def _matching(interval: Interval, actors: dict[str, ActorView], shard_count: int) -> schemas.Component:
    matchers = _of_role(actors, "matcher")
    status, message = _together([_standing(matcher) for matcher in matchers], f"{shard_count} of {shard_count} match")
    details = {
        "shards": [
            _about(matcher) | {"open_orders": interval.later.pages[matcher.name].gauges["open_orders"]}
            for matcher in matchers
        ]
    }
    latency_ms = _mean_ms(interval, "matcher", "command_latency_us")
    return schemas.Component(status=status, message=message, latency_ms=latency_ms, details=details)


def _risk(interval: Interval, actors: dict[str, ActorView]) -> schemas.Component:
    status, message = _standing(actors["risk"])
    accepting = bool(interval.later.gauge("risk", "accepting"))
    if status == "healthy" and not accepting:
        status, message = "degraded", "risk takes no new orders: settlement is too far behind, or the disk is full"
    details = _about(actors["risk"]) | {"accepting": accepting}
    return schemas.Component(status=status, message=message, latency_ms=None, details=details)


def _publisher(interval: Interval, actors: dict[str, ActorView]) -> schemas.Component:
    status, message = _standing(actors["publisher"])
    details = _about(actors["publisher"]) | {"lag": interval.later.gauge("publisher", "lag_events")}
    latency_ms = _mean_ms(interval, "publisher", "publish_latency_us")
    return schemas.Component(status=status, message=message, latency_ms=latency_ms, details=details)


def _websocket(interval: Interval, actors: dict[str, ActorView]) -> schemas.Component:
    """Judge the streams: fronts pass on what the publisher tells."""
    now = interval.later
    status, message = _together([_standing(front) for front in _of_role(actors, "front")], "streams are served")
    publisher_status, publisher_message = _standing(actors["publisher"])
    if publisher_status == "unhealthy":
        status, message = "unhealthy", publisher_message
    details = {
        "connections": now.gauge("front", "stream_clients"),
        "channels": now.gauge("front", "stream_channels"),
        "waiting_bytes": now.gauge("front", "stream_waiting_bytes"),
        "messages_per_second": round(interval.rate("front", "stream_messages"), 3),
        "lapped": now.total("front", "stream_lapped"),
    }
    latency_ms = _mean_ms(interval, "front", "stream_latency_us")
    return schemas.Component(status=status, message=message, latency_ms=latency_ms, details=details)


def _http(interval: Interval, actors: dict[str, ActorView]) -> schemas.Component:
    fronts = _of_role(actors, "front")
    status, message = _together([_standing(front) for front in fronts], "requests are answered")
    details = {
        "fronts": [_about(front) for front in fronts],
        "connections": interval.later.gauge("front", "connections"),
        "requests_per_second": round(interval.rate("front", "requests"), 3),
        "errors": interval.later.total("front", "errors"),
    }
    latency_ms = _mean_ms(interval, "front", "request_latency_us")
    return schemas.Component(status=status, message=message, latency_ms=latency_ms, details=details)


def _wallet(probe: Probe | None, interval: Interval, actors: dict[str, ActorView]) -> schemas.Component:
    actor = actors.get("wallet")
    if probe is None or actor is None:
        return schemas.Component(
            status="healthy", message="the engine's own ledger keeps the money", latency_ms=None, details={}
        )
    gauges = interval.later.pages["wallet"].gauges
    breaker = BreakerState(gauges["breaker_state"])
    status, message = _standing(actor)
    if probe.error:
        status, message = "unhealthy", probe.error
    elif breaker is BreakerState.OPEN:
        status, message = "unhealthy", "the wallet service failed too often and is left alone for a while"
    elif status == "healthy" and gauges["dead_letters"]:
        status, message = "degraded", f"{gauges['dead_letters']} dead letters wait for somebody to look at them"
    details = _about(actor) | {
        "breaker": breaker.name.lower(),
        "outbox_pending": gauges["outbox_pending"],
        "outbox_oldest_seconds": gauges["outbox_oldest_age_s"],
        "dead_letters": gauges["dead_letters"],
    }
    return schemas.Component(status=status, message=message, latency_ms=probe.latency_ms, details=details)


def _shadow(interval: Interval, actors: dict[str, ActorView]) -> schemas.Component:
    actor = actors["shadow"]
    status, message = _standing(actor)
    if actor.state is ActorState.STARTING and not actor.restart_count:
        status = "healthy"  # it has a journal to read first, and nobody waits for it
    mismatches = interval.later.total("shadow", "mismatches")
    if mismatches:
        status, message = "unhealthy", f"{mismatches} replays differed from what the matcher did or PostgreSQL has"
    details = _about(actor) | {"mismatches": mismatches, "snapshots": interval.later.total("shadow", "snapshots")}
    return schemas.Component(status=status, message=message, latency_ms=None, details=details)


def _keeper(interval: Interval, actors: dict[str, ActorView]) -> schemas.Component:
    actor = actors["keeper"]
    status, message = _standing(actor)
    if actor.state is ActorState.STARTING and not actor.restart_count:
        status = "healthy"
    differences = interval.later.gauge("keeper", "differences")
    if differences:
        status, message = "unhealthy", f"the last reconciliation found {differences} differences"
    details = _about(actor) | {
        "differences": differences,
        "reconciled_at_s": interval.later.gauge("keeper", "reconciled_at_s"),
    }
    return schemas.Component(status=status, message=message, latency_ms=None, details=details)
