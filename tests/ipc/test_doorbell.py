"""Doorbells: who sleeps is woken, nobody waits for ever, and no wake-up is lost."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import trio
from tests.ipc.processes import Fd, Given, child, finish
from trio.testing import MockClock

from tradeengine.ipc.atomics import load_word
from tradeengine.ipc.doorbell import Doorbell, create_page
from tradeengine.ipc.ring import ReaderSpec, Ring, RingReader, RingWatch, RingWriter
from tradeengine.ipc.segment import Segment

word_dtype = np.dtype([("number", "<i8")])
ROUND_TRIPS = 8000
TIMEOUT_S = 30.0
"""Longer than any of these tests may take: a wait that lasts so long has lost its wake-up."""
PING = (ReaderSpec("there", gating=True, doorbell_index=0),)
PONG = (ReaderSpec("here", gating=True, doorbell_index=1),)


def never() -> bool:
    """Be ready never."""
    return False


@pytest.fixture
def bell() -> Doorbell:
    """Make a bell on a page of its own."""
    return Doorbell.create(create_page("bells", 2), 1)


def test_ring_while_awake_costs_nothing(bell: Doorbell) -> None:
    """Ringing an owner that does not sleep leaves the eventfd alone: no system call."""
    bell.ring()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(bell.fd)


def test_alarm_ends_the_next_wait(bell: Doorbell) -> None:
    """An alarm wakes even who was not asleep yet, once."""
    bell.alarm()
    bell.alarm()
    looks: list[int] = []

    def look() -> bool:
        looks.append(load_word(bell.flag_address))
        return False

    assert not bell.wait(TIMEOUT_S, look)
    assert looks == [0, 1, 0]
    assert not bell.wait(0.0, never)


def test_wait_ends_by_its_timeout(bell: Doorbell) -> None:
    """A wait that nobody ends comes back with False and leaves the flag down."""
    assert not bell.wait(0.001, never)
    assert not bell.wait(0.0, never, spin_us=100)
    assert load_word(bell.flag_address) == 0


def test_ready_owner_does_not_sleep(bell: Doorbell) -> None:
    """Who is ready, at once, while spinning, or after the flag went up, does not sleep."""
    assert bell.wait(TIMEOUT_S, lambda: True)
    answers = iter([False, False, False, True])
    assert bell.wait(TIMEOUT_S, lambda: next(answers), spin_us=10_000_000)
    assert not bell.wait(TIMEOUT_S, lambda: bool(load_word(bell.flag_address)))


def test_failing_owner_is_not_asleep(bell: Doorbell) -> None:
    """When looking fails the flag goes down: wakers do not ring for who is gone."""

    def fail_when_armed() -> bool:
        if load_word(bell.flag_address):
            raise KeyError
        return False

    with pytest.raises(KeyError):
        bell.wait(TIMEOUT_S, fail_when_armed)
    assert load_word(bell.flag_address) == 0


def test_wait_ends_with_a_watched_pipe(bell: Doorbell) -> None:
    """A wait ends when a watched descriptor comes to its end, as when the parent dies."""
    ours, theirs = socket.socketpair()
    bell.watch(ours.fileno())
    theirs.close()
    assert not bell.wait(TIMEOUT_S, never)
    ours.close()


def test_waker_without_the_right_to_write() -> None:
    """A client that has the page read-only wakes its owner all the same, and leaves the flag to him."""
    page = create_page("bells", 1)
    bell = Doorbell.create(page, 0)
    theirs = Doorbell.attach(Segment.attach(page.read_only_descriptor(), writable=False), 0, os.dup(bell.fd))
    rung = False

    def ring_when_armed() -> bool:
        nonlocal rung
        if load_word(bell.flag_address) and not rung:
            theirs.ring()
            rung = True
        return False

    assert not bell.wait(TIMEOUT_S, ring_when_armed)
    assert rung


async def test_trio_wait_ends_by_its_timeout(bell: Doorbell, autojump_clock: MockClock) -> None:
    """A wait in trio has a timeout too, leaves the flag down, and lets other tasks run."""
    others = []

    async def other() -> None:
        others.append(load_word(bell.flag_address))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        assert not await bell.wait_trio(5.0, never)
    assert others == [1]
    assert load_word(bell.flag_address) == 0


async def test_cancelled_trio_wait_is_not_asleep(bell: Doorbell) -> None:
    """A cancelled wait leaves the flag down, so that wakers make no system calls for nobody."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await bell.wait_trio(TIMEOUT_S, never)
    assert scope.cancelled_caught
    assert load_word(bell.flag_address) == 0


def test_no_wake_up_is_lost() -> None:
    """Two processes that wake each other thousands of times, at all distances in time, never miss a ring."""
    with ping_pong() as (writer, reader, bell, watch):
        for number in range(ROUND_TRIPS):
            _publish(writer, number)
            start = time.monotonic()
            # A bell may ring for nothing, but is not silent until the timeout.
            while not bell.wait(TIMEOUT_S, watch):
                pass
            assert time.monotonic() - start < TIMEOUT_S
            _take(reader, number)


async def test_no_wake_up_is_lost_in_trio() -> None:
    """The same with one of the two in trio."""
    with ping_pong() as (writer, reader, bell, watch):
        for number in range(ROUND_TRIPS):
            _publish(writer, number)
            start = time.monotonic()
            while not await bell.wait_trio(TIMEOUT_S, watch):
                pass
            assert time.monotonic() - start < TIMEOUT_S
            _take(reader, number)


@contextmanager
def ping_pong() -> Iterator[tuple[RingWriter, RingReader, Doorbell, RingWatch]]:
    """Run a process that sends back what it is sent; both sleep whenever there is nothing to do."""
    page = create_page("bells", 2)
    bells = [Doorbell.create(page, index) for index in range(2)]
    ping = Ring.create("ping", word_dtype, 4, PING)
    pong = Ring.create("pong", word_dtype, 4, PONG)
    reader = pong.reader("here")
    descriptors = [Fd(fd) for fd in (page.fd, bells[0].fd, bells[1].fd, ping.fd, pong.fd)]
    with child(answer, *descriptors) as process:
        yield ping.writer(dict(enumerate(bells))), reader, bells[1], RingWatch([reader])
        finish(process)


def answer(page_fd: Given, here_fd: Given, there_fd: Given, ping_fd: Given, pong_fd: Given) -> None:
    """Send back each number."""
    page = Segment.attach(page_fd(), writable=True)
    bells = [Doorbell.attach(page, index, given()) for index, given in enumerate((here_fd, there_fd))]
    reader = Ring.attach(ping_fd(), word_dtype, writable=True).reader("there")
    writer = Ring.attach(pong_fd(), word_dtype, writable=True).writer(dict(enumerate(bells)))
    watch = RingWatch([reader])
    for number in range(ROUND_TRIPS):
        while not bells[0].wait(TIMEOUT_S, watch):
            pass
        _take(reader, number)
        # The other side is falling asleep meanwhile: meet it at every step of that.
        for _ in range(number % 400):
            pass
        _publish(writer, number)


def _publish(writer: RingWriter, number: int) -> None:
    records = np.empty(1, word_dtype)
    records["number"] = number
    writer.publish(records)


def _take(reader: RingReader, number: int) -> None:
    assert reader.poll()["number"].tolist() == [number]
    reader.advance(1)
