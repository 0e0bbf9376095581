"""What administrators see of the engine, on a front whose engine is in the test's hands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.web.bench import Bench, bearer

from tradeengine.core.records import EventKind, event_dtype
from tradeengine.core.tables import ActorState
from tradeengine.ipc.metrics import MetricPage
from tradeengine.ipc.window import Window
from tradeengine.web.figures import HISTOGRAMS

ADMIN = bearer(role="admin")
PERCENTILES = ("p50_ms", "p99_ms", "p999_ms")


async def ask(bench: Bench, path: str) -> Any:
    """Ask as an administrator; returns ``data``."""
    answer = await bench.client.get(f"/api/v1/admin/{path}", headers=ADMIN)
    assert answer.status_code == 200
    return (await answer.get_json())["data"]


def page_of(bench: Bench, actor: str) -> MetricPage:
    """Give an actor's metric page, to count on in its place."""
    return bench.memory.metrics[actor]


def set_state(bench: Bench, actor: str, state: ActorState, message: str = "", silent_ms: int = 0) -> None:
    """Write an actor's row as the supervisor does."""
    row = [known.name for known in bench.memory.topology.actors].index(actor)
    bench.memory.tables["actors"].write(row, (actor.encode(), message.encode(), 7, state, 3, 1, silent_ms))


async def test_performance_is_of_the_window(bench: Bench) -> None:
    """Averages and percentiles are of what was measured in the window, exact as the pages are; totals are of always."""
    matcher = page_of(bench, "matcher-0")
    latency = matcher.histogram("command_latency_us")
    matcher.record(latency, 1_000_000)  # before the window
    matcher.add(matcher.counter("orders_placed"), 5)
    bench.front.window = Window(bench.front.overview.pages, HISTOGRAMS)
    matcher.record(latency, np.array([1000] * 98 + [2000, 30_000], np.int64))
    matcher.add(matcher.counter("orders_placed"), 2)
    matcher.add(matcher.counter("trades"), 3)
    settlement = page_of(bench, "settlement")
    settlement.add(settlement.counter("transactions"), 3)
    settlement.add(settlement.counter("errors"), 1)
    front = page_of(bench, "front-0")
    front.add(front.counter("errors"), 2)
    shown = await ask(bench, "performance")
    matching = shown["matching_engine"]
    assert (matching["orders_placed"], matching["trades_executed"]) == (7, 3)
    assert matching["avg_latency_ms"] == (98 * 1000 + 2000 + 30_000) / 100 / 1000
    for name, exact_ms in zip(PERCENTILES, (1, 2, 30), strict=True):
        assert exact_ms <= matching[name] <= exact_ms * 17 / 16
    assert shown["settlement"]["success_rate"] == 0.75
    assert shown["error_count"] == 3
    assert [shown["websocket"][name] for name in ("avg_latency_ms", *PERCENTILES)] == [0, 0, 0, 0]


async def test_queue_is_counted_in_the_rings(bench: Bench) -> None:
    """What waits is counted event by event, its trades too, and its age is the oldest event's; passing empties it."""
    events = np.zeros(5, event_dtype)
    events["kind"] = [EventKind.ACCEPTED, EventKind.TRADED, EventKind.TRADED, EventKind.CANCELLED, EventKind.TRADED]
    events["timestamp_ns"] = 1_000_000_000
    ring = bench.memory.rings["events.0"]
    ring.writer().publish(events)
    settlement = ring.reader("settlement")
    settlement.advance(2)
    queue = await ask(bench, "settlement/queue")
    assert (queue["queue_size"], queue["pending_trades"]) == (3, 2)
    (shard,) = (entry for entry in queue["shards"] if entry["shard"] == 0)
    assert (shard["cursor"], shard["head"], shard["backlog"]) == (2, 5, 3)
    assert shard["backlog_seconds"] == pytest.approx(queue["queue_seconds"])
    assert shard["backlog_seconds"] > 40 * 365 * 86_400
    assert (await ask(bench, "performance"))["settlement"]["queue_size"] == 3
    settlement.advance(3)
    queue = await ask(bench, "settlement/queue")
    assert (queue["queue_size"], queue["pending_trades"], queue["queue_seconds"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("actor", "component"),
    [
        ("matcher-0", "matching_engine"),
        ("risk", "risk"),
        ("settlement", "settlement"),
        ("publisher", "publisher"),
        ("publisher", "websocket"),
        ("front-0", "http"),
        ("shadow", "shadow"),
        ("keeper", "keeper"),
    ],
)
async def test_bad_actor_is_a_bad_component(bench: Bench, actor: str, component: str) -> None:
    """Whoever is blocked, dead or silent makes its part unhealthy, in words that name it; back, the part is healthy."""
    page_of(bench, "risk").set(page_of(bench, "risk").gauge("accepting"), 1)
    for state, silent_ms, words in (
        (ActorState.BLOCKED, 0, f"{actor} is blocked: the reason"),
        (ActorState.RESTARTING, 0, f"{actor} is restarting"),
        (ActorState.FAILED, 0, f"{actor} is failed"),
        (ActorState.READY, 9000, f"{actor} has been silent for 9.0 s"),
    ):
        set_state(bench, actor, state, "the reason", silent_ms)
        shown = await ask(bench, "health/detailed")
        assert shown["components"][component]["status"] == "unhealthy"
        assert words in shown["components"][component]["message"]
        assert shown["status"] == ("unhealthy" if actor in {"risk", "matcher-0"} else "degraded")
    set_state(bench, actor, ActorState.STALLED)
    stalled = (await ask(bench, "health/detailed"))["components"][component]["status"]
    assert stalled in ({"degraded"} if component != "websocket" else {"degraded", "healthy"})
    set_state(bench, actor, ActorState.READY)
    assert (await ask(bench, "health/detailed"))["components"][component]["status"] == "healthy"


@pytest.mark.parametrize(
    ("actor", "kind", "name", "component", "words"),
    [
        ("shadow", "counter", "mismatches", "shadow", "4 replays differed"),
        ("keeper", "gauge", "differences", "keeper", "4 differences"),
    ],
)
async def test_faults_that_were_found_are_shown(
    bench: Bench, actor: str, kind: str, name: str, component: str, words: str
) -> None:
    """A replay that differed, and a reconciliation with differences, make the part that found them unhealthy."""
    page = page_of(bench, actor)
    if kind == "counter":
        page.add(page.counter(name), 4)
    else:
        page.set(page.gauge(name), 4)
    shown = (await ask(bench, "health/detailed"))["components"][component]
    assert (shown["status"], words in shown["message"]) == ("unhealthy", True)


async def test_shut_gate_is_unhealthy(bench: Bench) -> None:
    """While risk takes no new orders the engine is unhealthy, though every process is well."""
    accepting = page_of(bench, "risk").gauge("accepting")
    page_of(bench, "risk").set(accepting, 0)
    shown = await ask(bench, "health/detailed")
    assert (shown["status"], shown["components"]["risk"]["status"]) == ("unhealthy", "degraded")


async def test_database_that_cannot_be_reached_is_told(bench: Bench) -> None:
    """A database that refuses connections is unhealthy, with the reason; the rest of the answer comes all the same."""
    shown = (await ask(bench, "health/detailed"))["components"]
    assert shown["database"]["status"] == "unhealthy"
    assert shown["database"]["message"]
    assert shown["matching_engine"]["status"] == "healthy"


async def test_actor_that_cannot_be_read_is_shown(bench: Bench) -> None:
    """A row that its writer left half written shows as stalled; the others are there."""
    table = bench.memory.tables["actors"]
    with pytest.raises(ZeroDivisionError), table.writing(1):
        raise ZeroDivisionError
    actors = {actor["name"]: actor for actor in await ask(bench, "actors")}
    assert actors["row 1"]["state"] == "stalled"
    assert {"risk", "settlement", "publisher", "front-0", "operator"} <= actors.keys()


async def test_rings_show_who_is_behind(bench: Bench) -> None:
    """An actor is shown at each of its rings: what it wrote, and what waits for it where it holds others up."""
    events = np.zeros(7, event_dtype)
    ring = bench.memory.rings["events.0"]
    ring.writer().publish(events)
    ring.reader("risk").advance(3)
    actors = {actor["name"]: actor for actor in await ask(bench, "actors")}

    def end(actor: str) -> tuple[str, int, int | None]:
        (found,) = (ring for ring in actors[actor]["rings"] if ring["name"] == "events.0")
        return found["access"], found["head"], found["lag"]

    assert end("matcher-0") == ("write", 7, None)
    assert (end("risk"), end("settlement")) == (("gate", 7, 4), ("gate", 7, 7))
    assert (end("publisher"), end("front-0")) == (("follow", 7, None), ("follow", 7, None))
    assert (actors["matcher-0"]["records_out"], actors["risk"]["records_in"]) == (7, 3)
