"""The gateway on real rings: whom it wakes, whom it refuses, and what it says when it cannot know."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import trio
import trio.testing
from tests.web.bench import BTC, BTC_USDT, USDT, Bench, Records, make_event

from tradeengine.core.ids import EPOCH_2024_MS, make_order_id
from tradeengine.core.records import CommandKind, EventFlag, EventKind, Reason, command_dtype
from tradeengine.ipc.directory import write_directory
from tradeengine.web import gateway
from tradeengine.web.gateway import NoRoom, OutcomeUnknown

TIMEOUT_S = 10.0


def make_command(symbol_id: int = 0, order_id: int = 0) -> Records:
    """Make a command; what it asks for does not matter here."""
    command = np.zeros(1, command_dtype)
    command["kind"], command["symbol_id"], command["order_id"] = CommandKind.CANCEL, symbol_id, order_id
    return command


async def test_each_request_gets_its_own_events(bench: Bench) -> None:
    """Many requests at once: each is woken with the events of its own command, in whatever order they come."""
    ring = bench.memory.rings["events.0"]
    held: list[np.void] = []

    def answer_in_reverse(command: np.void) -> list[tuple[str, Records]]:
        held.append(command)
        if len(held) < 8:
            return []
        events = [make_event(c, EventKind.CANCELLED, ring, order_id=int(c["order_id"])) for c in reversed(held)]
        return [("events.0", np.concatenate(events))]

    answers: dict[int, int] = {}

    async def ask(order_id: int) -> None:
        command = make_command()
        command["order_id"] = order_id
        (event,) = await bench.front.gateway.ask(command, TIMEOUT_S)
        answers[order_id] = int(event["order_id"])

    async with bench.engine(answer_in_reverse), trio.open_nursery() as nursery:
        for order_id in range(1, 9):
            nursery.start_soon(ask, order_id)
    assert answers == {order_id: order_id for order_id in range(1, 9)}


async def test_events_are_collected_until_the_last(bench: Bench) -> None:
    """A command whose events come in several pieces is answered when the last has come, with all of them."""
    ring = bench.memory.rings["events.0"]

    def answer(command: np.void) -> list[tuple[str, Records]]:
        piece = [make_event(command, EventKind.TRADED, ring, order_id=n, flags=0) for n in range(3)]
        last = make_event(command, EventKind.CANCELLED, ring, order_id=3)
        return [("events.0", piece[0]), ("events.0", np.concatenate(piece[1:])), ("events.0", last)]

    async with bench.engine(answer):
        events = await bench.front.gateway.ask(make_command(), TIMEOUT_S)
    assert events["order_id"].tolist() == [0, 1, 2, 3]


async def test_enormous_command_keeps_first_events_and_the_last(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one command's events may take in memory is bounded; its last event is never lost."""
    monkeypatch.setattr(gateway, "EVENTS_KEPT_MAX", 4)
    ring = bench.memory.rings["events.0"]

    def answer(command: np.void) -> list[tuple[str, Records]]:
        pieces = [make_event(command, EventKind.TRADED, ring, order_id=n, flags=0) for n in range(9)]
        return [("events.0", piece) for piece in (*pieces, make_event(command, EventKind.CANCELLED, ring, order_id=9))]

    async with bench.engine(answer):
        events = await bench.front.gateway.ask(make_command(), TIMEOUT_S)
    assert events["order_id"].tolist()[:4] == [0, 1, 2, 3]
    assert events["order_id"][-1] == 9
    assert len(events) == 5


async def test_foreign_events_wake_nobody(bench: Bench) -> None:
    """Events of other ingress rings, and of commands nobody waits for any more, are passed over."""
    ring = bench.memory.rings["events.0"]

    def answer(command: np.void) -> list[tuple[str, Records]]:
        foreign = make_event(command, EventKind.CANCELLED, ring, ingress_ring=3)
        old = make_event(command, EventKind.CANCELLED, ring, ingress_sequence=12345)
        own = make_event(command, EventKind.CANCELLED, ring, order_id=5)
        return [("events.0", np.concatenate([foreign, old, own]))]

    async with bench.engine(answer):
        events = await bench.front.gateway.ask(make_command(), TIMEOUT_S)
    assert events["order_id"].tolist() == [5]


async def test_command_for_all_shards_waits_for_all(bench: Bench) -> None:
    """A command that every shard answers is done when each has said its last; a refusal by risk ends it at once."""
    ring = bench.memory.rings["events.0"]

    def answer_twice(command: np.void) -> list[tuple[str, Records]]:
        return [("events.0", make_event(command, EventKind.CANCELLED_ALL, ring, quantity_lots=n)) for n in (1, 2)]

    async with bench.engine(answer_twice):
        events = await bench.front.gateway.ask(make_command(), TIMEOUT_S, parts=2)
    assert events["quantity_lots"].tolist() == [1, 2]


async def test_refusal_answers_for_all_shards(bench: Bench) -> None:
    """Risk's refusal stands for every shard."""
    ring = bench.memory.rings["refusals"]

    def refuse(command: np.void) -> list[tuple[str, Records]]:
        return [("refusals", make_event(command, EventKind.REFUSED, ring, reason=Reason.ENGINE_OVERLOADED))]

    async with bench.engine(refuse):
        events = await bench.front.gateway.ask(make_command(), TIMEOUT_S, parts=3)
    assert events["kind"].tolist() == [EventKind.REFUSED]


async def test_full_ring_refuses_at_once(bench: Bench) -> None:
    """When risk takes nothing, the ring fills, and the next request is refused instead of waiting."""
    writer = bench.memory.rings["ingress.front-0"]
    refused = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.front.run)

        async def ask() -> None:
            nonlocal refused
            try:
                await bench.front.gateway.ask(make_command(), 0.2)
            except OutcomeUnknown:
                return
            except NoRoom:
                refused += 1

        async with trio.open_nursery() as requests:
            for _ in range(writer.capacity + 3):
                requests.start_soon(ask)
        nursery.cancel_scope.cancel()
    assert refused == 3


async def test_waiting_requests_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many waiting requests the next is refused, and room comes back when one ends."""
    monkeypatch.setattr(gateway, "IN_FLIGHT_MAX", 1)
    async with bench.engine(lambda _command: []), trio.open_nursery() as nursery:

        async def wait_in_vain() -> None:
            with pytest.raises(OutcomeUnknown):
                await bench.front.gateway.ask(make_command(), 0.1)

        nursery.start_soon(wait_in_vain)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(NoRoom):
            await bench.front.gateway.ask(make_command(), TIMEOUT_S)
        bench.front.gateway.measure()
        page = bench.memory.metrics["front-0"].snapshot()
        assert page.gauges["in_flight"] == 1
    with trio.fail_after(5):
        async with bench.engine(lambda _command: []):
            with pytest.raises(OutcomeUnknown):
                await bench.front.gateway.ask(make_command(), 0.01)


async def test_symbol_that_nobody_answers_leaves_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """All symbols of a matcher that is away fill a part of the room; orders and cancels of others are sent."""
    specs = [dataclasses.replace(BTC_USDT, symbol_id=number, shard=number // 2) for number in range(3)]
    write_directory(bench.memory.tables["directory"], 2, (BTC, USDT), specs)
    orders = [make_order_id(EPOCH_2024_MS + 1, shard, 0, 0) for shard in range(2)]
    monkeypatch.setattr(gateway, "IN_FLIGHT_MAX", 8)
    async with bench.engine(lambda _command: []), trio.open_nursery() as nursery:
        lost: list[gateway.Waiting] = []
        for away in [make_command(0), make_command(1), make_command(order_id=orders[0])] * 2:
            bench.front.gateway.send(away, lost.append, TIMEOUT_S)
        for away in (make_command(0), make_command(1), make_command(order_id=orders[0])):
            with pytest.raises(NoRoom):
                bench.front.gateway.send(away, lost.append, TIMEOUT_S)
        for here in (make_command(2), make_command(order_id=orders[1])):
            ended = bench.front.gateway.send(here, lost.append, 0.0)
            bench.front.gateway.expire()
            assert lost.pop() is ended
        nursery.cancel_scope.cancel()


async def test_room_of_a_matcher_that_was_away_comes_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody waits for a matcher any more it may have as much of the room as before, again and again."""
    monkeypatch.setattr(gateway, "IN_FLIGHT_MAX", 8)
    async with bench.engine(lambda _command: []), trio.open_nursery() as nursery:
        lost: list[gateway.Waiting] = []
        for waited in (6, 12, 18):
            for _ in range(6):
                bench.front.gateway.send(make_command(), lost.append, 0.0)
            with pytest.raises(NoRoom):
                bench.front.gateway.send(make_command(), lost.append, 0.0)
            bench.front.gateway.expire()
            assert len(lost) == waited
            await trio.testing.wait_all_tasks_blocked()  # until the ring is read
        nursery.cancel_scope.cancel()


async def test_lapped_front_says_that_it_does_not_know(bench: Bench) -> None:
    """When events were overwritten before the front read them, whoever waits is told so at once."""
    ring = bench.memory.rings["events.0"]
    gating = [ring.reader(name) for name in ("risk", "settlement")]

    def overrun(command: np.void) -> list[tuple[str, Records]]:
        foreign = make_event(command, EventKind.CANCELLED, ring, ingress_ring=3)
        batch = np.concatenate([foreign] * (ring.capacity // 2))
        return [("events.0", batch)]

    writer = ring.writer()

    def flood(command: np.void) -> list[tuple[str, Records]]:
        # The front reads only when this function has returned, so everything below laps it.
        for _ in range(4):
            for name, events in overrun(command):
                assert name == "events.0"
                writer.publish(events)
                for reader in gating:
                    reader.seek(writer.head)
        return []

    async with bench.engine(flood):
        with trio.fail_after(5), pytest.raises(OutcomeUnknown):
            await bench.front.gateway.ask(make_command(), TIMEOUT_S)
    assert bench.memory.metrics["front-0"].snapshot().counters["lapped"] == 1


async def test_idle_front_reads_nothing(bench: Bench) -> None:
    """Events that came while nobody waited cost nothing: the next request starts at the head, lapped or not."""
    ring = bench.memory.rings["events.0"]
    writer = ring.writer()
    gating = [ring.reader(name) for name in ("risk", "settlement")]
    foreign = make_event(make_command()[0], EventKind.CANCELLED, ring, ingress_ring=3)
    for _ in range(ring.capacity * 3):
        writer.publish(foreign)
        for reader in gating:
            reader.seek(writer.head)

    def answer(command: np.void) -> list[tuple[str, Records]]:
        return [("events.0", make_event(command, EventKind.CANCELLED, ring, order_id=8))]

    async with bench.engine(answer):
        events = await bench.front.gateway.ask(make_command(), TIMEOUT_S)
    assert events["order_id"].tolist() == [8]
    assert events["flags"][0] & EventFlag.LAST_OF_COMMAND
