"""A session by itself: what waits, what is merged, and when patience ends, with a client of straw."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import trio
from tests.web.bench import small_settings
from trio.testing import MockClock, wait_all_tasks_blocked

from tradeengine.core.feed import FeedKind
from tradeengine.settings import Streams
from tradeengine.web.streams.session import STRIKES_MAX, TOO_SLOW, Session
from tradeengine.web.streams.tasks import Tasks
from tradeengine.web.streams.wire import Message

TICKER = (FeedKind.TICKER, 0, 0)


@dataclass
class Straw:
    """A client that takes what it is told to take. ``taken``: the text of each frame."""

    is_quick: bool = True
    taken: list[Any] = field(default_factory=list)
    waiting: bytes = b""
    go_on: trio.Event = field(default_factory=trio.Event)

    def write_now(self, frames: bytes) -> bool:
        """Take everything, or keep it waiting."""
        if not self.is_quick:
            self.waiting += frames
            return False
        self._take(frames)
        return True

    async def drain(self) -> None:
        """Take what waits as soon as the test lets it."""
        await self.go_on.wait()
        frames, self.waiting = self.waiting, b""
        self._take(frames)

    def _take(self, frames: bytes) -> None:
        while frames:
            size, start = frames[1], 2
            if size == 126:
                size, start = int.from_bytes(frames[2:4]), 4
            self.taken.append(json.loads(frames[start : start + size]))
            frames = frames[start + size :]


@pytest.fixture
def straw() -> Straw:
    """Give a client."""
    return Straw()


def make_session(
    straw: Straw, nursery: trio.Nursery, note_merge: Callable[[], None] = lambda: None, **limits: float
) -> Session:
    """Make a session of a client of straw."""
    streams: Streams = msgspec.structs.replace(small_settings().streams, **limits)
    return Session(
        straw,  # type: ignore[arg-type]
        streams,
        Tasks(nursery),
        lambda _session, _key: None,
        address="test",
        binary=False,
        batch=False,
        note_merge=note_merge,
    )


def message(number: int, size: int = 100) -> Message:
    """Make a message."""
    return Message(json.dumps({"number": number, "fill": "x" * size}).encode())


def numbers(straw: Straw) -> list[int]:
    """Give the messages that were taken."""
    return [taken["number"] for taken in straw.taken]


async def test_burst_does_not_make_a_quick_reader_slow(straw: Straw, nursery: trio.Nursery) -> None:
    """However much comes at once, a client that takes it all is not closed for it, and gets it in order."""
    session = make_session(straw, nursery, queue_bytes_max=4096)
    for number in range(200):
        session.push(message(number))
    session.flush()
    assert session.closing is None
    assert (numbers(straw), session.waiting_bytes) == (list(range(200)), 0)


async def test_slow_reader_is_closed_at_the_bound(straw: Straw, nursery: trio.Nursery) -> None:
    """A client that takes nothing is closed when more than the bound waits, and no sooner; nothing is kept for it."""
    session = make_session(straw, nursery, queue_bytes_max=4096, merge_bytes=1024)
    straw.is_quick = False
    count = 0
    while session.closing is None:
        session.push(message(count))
        session.flush()
        count += 1
        await wait_all_tasks_blocked()
        assert session.waiting_bytes < 4096 + 300
    assert session.closing == (TOO_SLOW, "reads too slowly")
    assert 4096 // 250 < count < 4096 // 150
    session.push(message(count))
    straw.go_on.set()
    await session.finish()
    assert numbers(straw) == [0]


async def test_one_message_may_be_larger_than_the_bound(straw: Straw, nursery: trio.Nursery) -> None:
    """A message that is larger than all that may wait is sent, be the client quick or slow."""
    session = make_session(straw, nursery, queue_bytes_max=4096)
    session.push(message(0, 10_000))
    session.flush()
    straw.is_quick = False
    session.push(message(1, 10_000))
    session.flush()
    await wait_all_tasks_blocked()
    assert session.closing is None
    straw.go_on.set()
    await session.finish()
    assert numbers(straw) == [0, 1]


async def test_latest_state_stands_for_those_before_it(straw: Straw, nursery: trio.Nursery) -> None:
    """Of what may be merged a client that is behind gets the latest, behind what was pushed before; then all again.

    Each that is left out is counted.
    """
    left_out: list[None] = []
    session = make_session(straw, nursery, lambda: left_out.append(None), merge_bytes=1024, queue_bytes_max=100_000)
    straw.is_quick = False
    for number in range(50):
        session.push(message(number), TICKER)
        session.push(message(1000 + number))
        session.flush()
        await wait_all_tasks_blocked()
    straw.is_quick = True
    straw.go_on.set()
    await session.finish()
    told = numbers(straw)
    tickers, others = [number for number in told if number < 1000], [number for number in told if number >= 1000]
    assert others == list(range(1000, 1050))
    assert tickers == sorted(tickers)
    assert (tickers[-1], len(tickers) < 10) == (49, True)
    assert len(left_out) + len(tickers) == 50
    session.push(message(50), TICKER)
    session.push(message(51), TICKER)
    session.flush()
    assert numbers(straw)[-2:] == [50, 51]


async def test_room_is_there_when_little_waits(straw: Straw, nursery: trio.Nursery) -> None:
    """Who has much to say waits until the client has taken enough, or is to be closed."""
    session = make_session(straw, nursery, merge_bytes=1024)
    with trio.fail_after(5):
        await session.room()
    straw.is_quick = False
    session.push(message(0, 5000))
    waited = trio.Event()

    async def wait() -> None:
        await session.room()
        waited.set()

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert not waited.is_set()
    straw.go_on.set()
    with trio.fail_after(5):
        await waited.wait()


async def test_messages_per_second_are_counted(straw: Straw, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A client may send so many messages a second, all at once or spread out, and no more."""
    session = make_session(straw, nursery, messages_per_s_max=10)
    assert [session.may_ask() for _ in range(12)] == [True] * 10 + [False] * 2
    await trio.sleep(0.5)
    assert [session.may_ask() for _ in range(6)] == [True] * 5 + [False]
    await trio.sleep(100)
    assert sum(session.may_ask() for _ in range(50)) == 10


async def test_strikes_are_forgiven_with_time(straw: Straw, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Many wrong requests at once are too many; one a second never is."""
    session = make_session(straw, nursery)
    assert [session.strike() for _ in range(STRIKES_MAX + 1)] == [False] * STRIKES_MAX + [True]
    await trio.sleep(STRIKES_MAX + 1)
    for _ in range(5 * STRIKES_MAX):
        assert not session.strike()
        await trio.sleep(1)


async def test_stall_counts_from_what_was_taken_last(
    straw: Straw, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A client stalls while something waits and it takes nothing; with nothing to take it never does."""
    session = make_session(straw, nursery)
    await trio.sleep(50)
    assert session.stalled_s == 0
    straw.is_quick = False
    session.push(message(0))
    session.flush()
    await trio.sleep(7)
    assert session.stalled_s == pytest.approx(7, abs=0.1)
    straw.go_on.set()
    await session.finish()
    assert session.stalled_s == 0
