"""Admission: whose turn it is, who is refused, and that nobody is for what others ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
import trio.testing

from tradeengine.web.admission import (
    CALM_S,
    CROWDED_COUNT,
    LATE_S,
    PATIENCE_S,
    WAIT_S_MAX,
    WORKING_MAX,
    Admission,
    Crowded,
    Kind,
    Pauses,
    Place,
    Room,
    kind_of,
    waiting,
    working_at,
)

ORDERS = b"/api/v1/orders"
SIZE = 64


class Clock:
    """A clock that is set."""

    now_s = 1000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now_s


class Desk:
    """An admission, and requests that work until they are told to end."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.clock = Clock()
        self.refused = 0
        self.admission = Admission(SIZE, self._note_refusal, self.clock)
        self.began: list[str] = []
        self._nursery = nursery
        self._ends: list[trio.Event] = []

    @property
    def room(self) -> Room:
        """The room of most requests."""
        return self.admission.rooms[Kind.USUAL]

    def ask(self, address: str, name: str = "", method: str = "POST", path: bytes = ORDERS) -> bool:
        """Ask for a place, and work there when it is its turn; returns whether it was let in."""
        place = self.admission.ask(method, path, address)
        if place is not None:
            self._nursery.start_soon(self._work, place, name or address)
        return place is not None

    async def end_one(self) -> None:
        """Have the one end that has worked longest."""
        self._ends.pop(0).set()
        await trio.testing.wait_all_tasks_blocked()

    async def _work(self, place: Place, name: str) -> None:
        end = trio.Event()
        with working_at(place):
            await place.enter()
            self.began.append(name)
            self._ends.append(end)
            await end.wait()

    def _note_refusal(self) -> None:
        self.refused += 1


@asynccontextmanager
async def a_desk() -> AsyncIterator[Desk]:
    """Give a desk; at the end nobody works any more."""
    async with trio.open_nursery() as nursery:
        yield Desk(nursery)
        nursery.cancel_scope.cancel()


async def crowd(desk: Desk, address: str) -> None:
    """Ask from an address for longer than it can be answered."""
    for _ in range(SIZE // 2):
        desk.ask(address)
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(3):
        desk.clock.now_s += max(WAIT_S_MAX, LATE_S) * 1.1
        await desk.end_one()
    assert desk.room.crowded == 1


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", b"/api/v1/orders", Kind.USUAL),
        ("GET", b"/api/v1/orders/1", Kind.USUAL),
        ("DELETE", b"/api/v1/orders/1", Kind.CANCEL),
        ("DELETE", b"/api/v1/orders", Kind.CANCEL),
        ("POST", b"/api/v1/orders/cancel-all-after", Kind.CANCEL),
        ("DELETE", b"/api/v1/api-keys/1", Kind.USUAL),
        ("POST", b"/api/v1/admin/trading/halt-all", Kind.URGENT),
        ("GET", b"/health", Kind.URGENT),
        ("GET", b"/ready", Kind.URGENT),
        ("GET", b"/metrics", Kind.URGENT),
    ],
)
def test_kinds_of_requests(method: str, path: bytes, kind: Kind) -> None:
    """Cancels, and what operators ask, are no orders."""
    assert kind_of(method, path) is kind


async def test_few_work_at_a_time_and_the_rest_in_order() -> None:
    """So many work at a time; when one ends the next one begins, the first to come first."""
    async with a_desk() as desk:
        for number in range(WORKING_MAX + 3):
            assert desk.ask("a", str(number))
            await trio.testing.wait_all_tasks_blocked()
        assert desk.began == [str(number) for number in range(WORKING_MAX)]
        await desk.end_one()
        await desk.end_one()
        assert desk.began == [str(number) for number in range(WORKING_MAX + 2)]
        assert (desk.room.working, desk.room.waiting) == (WORKING_MAX, 1)


async def test_addresses_take_turns() -> None:
    """Whoever asks once waits for one turn of an address that floods, and not for its whole lane."""
    async with a_desk() as desk:
        for number in range(WORKING_MAX + 10):
            desk.ask("flood", f"flood-{number}")
        await trio.testing.wait_all_tasks_blocked()
        desk.ask("quiet")
        await trio.testing.wait_all_tasks_blocked()
        await desk.end_one()
        await desk.end_one()
        assert "quiet" in desk.began


async def test_burst_passes() -> None:
    """A lane may grow to three quarters of the room at a moment, and all of that is answered."""
    async with a_desk() as desk:
        let_in = sum(desk.ask("a") for _ in range(2 * SIZE))
        assert let_in == desk.room.waiting == SIZE * 3 // 4
        assert desk.refused == 2 * SIZE - let_in
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(let_in):
            await desk.end_one()
        assert len(desk.began) == let_in
        assert (desk.room.working, desk.room.waiting) == (0, 0)


async def test_whoever_floods_leaves_room() -> None:
    """While one address has all that it can get, another one is let in, and so is a third."""
    async with a_desk() as desk:
        while desk.ask("flood"):
            pass
        assert desk.ask("other")
        assert desk.ask("third")
        assert not desk.ask("flood")


async def test_queue_does_not_pass() -> None:
    """Where turns are late for a while, only few are let in, until hardly any has to be refused."""
    async with a_desk() as desk:
        await crowd(desk, "a")
        while desk.room.waiting > CROWDED_COUNT - 1:
            assert not desk.ask("a")
            await desk.end_one()
        assert desk.ask("a")
        assert not desk.ask("a")
        # Others are not refused for it.
        assert desk.ask("b")
        await trio.testing.wait_all_tasks_blocked()
        while desk.room.working:
            await desk.end_one()
        # A window in which many were refused is followed by one in which none is: then it is over.
        for _ in range(2):
            desk.clock.now_s += CALM_S
            assert desk.ask("a")
            await trio.testing.wait_all_tasks_blocked()
            await desk.end_one()
        assert desk.room.crowded == 0
        assert sum(desk.ask("a") for _ in range(SIZE)) > CROWDED_COUNT


async def test_late_turns_now_and_then_are_no_queue() -> None:
    """A late turn after which one is in time begins no crowd, however often that happens."""
    async with a_desk() as desk:
        for _ in range(5):
            for _ in range(WORKING_MAX + 1):
                desk.ask("a")
            await trio.testing.wait_all_tasks_blocked()
            desk.clock.now_s += WAIT_S_MAX * 3
            await desk.end_one()
            desk.ask("a")
            await trio.testing.wait_all_tasks_blocked()
            while desk.room.working:
                await desk.end_one()
        assert desk.room.crowded == 0


async def test_silent_crowd_is_forgotten() -> None:
    """An address that was crowded and asks no more leaves nothing behind."""
    async with a_desk() as desk:
        await crowd(desk, "a")
        while desk.room.working:
            await desk.end_one()
        desk.clock.now_s += CALM_S
        assert desk.ask("b")
        assert desk.room.crowded == 0


async def test_kinds_have_rooms_of_their_own() -> None:
    """However many orders wait, cancels and what operators ask are let in and have their turn."""
    async with a_desk() as desk:
        while desk.ask("a"):
            pass
        assert desk.ask("a", "cancel", "DELETE", b"/api/v1/orders/1")
        assert desk.ask("a", "health", "GET", b"/health")
        assert desk.ask("a", "halt", "POST", b"/api/v1/admin/trading/halt-all")
        await trio.testing.wait_all_tasks_blocked()
        assert {"cancel", "health", "halt"} <= set(desk.began)


async def test_who_waits_for_others_is_not_in_work() -> None:
    """While requests wait for the engine, others have their turns; who comes back goes on at once."""
    async with a_desk() as desk, trio.open_nursery() as nursery:
        answered = trio.Event()
        came_back = []

        async def ask_engine() -> None:
            place = desk.admission.ask("POST", ORDERS, "a")
            assert place is not None
            with working_at(place):
                await place.enter()
                with waiting():
                    await answered.wait()
                came_back.append(desk.room.working)

        for _ in range(3 * WORKING_MAX):
            nursery.start_soon(ask_engine)
        await trio.testing.wait_all_tasks_blocked()
        assert (desk.room.working, desk.room.waiting) == (0, 0)
        for _ in range(WORKING_MAX):
            desk.ask("b")
        await trio.testing.wait_all_tasks_blocked()
        answered.set()
        await trio.testing.wait_all_tasks_blocked()
        assert len(came_back) == 3 * WORKING_MAX
        assert desk.room.working == WORKING_MAX


async def test_work_that_stands_still_stops_nobody(autojump_clock: trio.testing.MockClock) -> None:
    """Who has waited for a turn for so long goes on without one."""
    async with a_desk() as desk:
        for _ in range(WORKING_MAX):
            desk.ask("stuck")
        await trio.testing.wait_all_tasks_blocked()
        desk.ask("a")
        await trio.sleep(PATIENCE_S * 0.9)
        assert "a" not in desk.began
        await trio.sleep(PATIENCE_S * 0.2)
        assert "a" in desk.began


async def test_late_body_asks_again() -> None:
    """A request that was let in before all of it had come takes no room meanwhile, and may find none then."""
    async with a_desk() as desk:
        place = desk.admission.ask("POST", ORDERS, "slow")
        assert place is not None
        place.stay_away()
        assert desk.room.waiting == 0
        desk.room.waiting = SIZE  # as if all others had come meanwhile
        with pytest.raises(Crowded):
            await place.enter()
        desk.room.waiting = 0
        await place.enter()
        assert desk.room.working == 1
        place.give_back()
        assert desk.room.working == 0


async def test_cancelled_request_gives_its_place_back() -> None:
    """A request that is cancelled, waiting or at work, leaves nothing behind."""
    async with a_desk() as desk:
        async with trio.open_nursery() as nursery:

            async def work() -> None:
                place = desk.admission.ask("POST", ORDERS, "a")
                assert place is not None
                with working_at(place):
                    await place.enter()
                    await trio.sleep_forever()

            for _ in range(WORKING_MAX + 3):
                nursery.start_soon(work)
            await trio.testing.wait_all_tasks_blocked()
            assert (desk.room.working, desk.room.waiting) == (WORKING_MAX, 3)
            nursery.cancel_scope.cancel()
        assert desk.admission.count == 0


async def test_pauses_grow_up_to_the_longest(autojump_clock: trio.testing.MockClock) -> None:
    """Who looks again and again looks less and less often, and never less than once in the longest pause."""
    pauses, seen_s = Pauses(0.01, 0.05), [trio.current_time()]
    for _ in range(5):
        await pauses.take()
        seen_s.append(trio.current_time())
    assert [round(later - earlier, 6) for earlier, later in pairwise(seen_s)] == [0.01, 0.02, 0.04, 0.05, 0.05]
