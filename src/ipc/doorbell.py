"""A doorbell wakes an actor that sleeps because its rings were empty. It carries no data and may ring for nothing.

It is an eventfd and a *sleeping flag*, a word in a shared page. Who publishes looks at the flag and touches the
eventfd only when its owner sleeps, so that a busy engine makes no system calls. No wake-up is lost, because each side
writes first and reads the other's word afterwards, with a full fence in between:

    sleeper: flag := 1 · fence · anything published? · no: wait for the eventfd · flag := 0
    waker:   publish   · fence · flag set?           · yes: flag := 0, write to the eventfd

Rule 1: every wait has a timeout: a bell is a hint, and a missed one costs milliseconds, never a stall.
Rule 2: a waker may have the page read-only (a local client): it then leaves the flag, and at worst writes twice.
It refuses to know who is behind a bell and why it rings.
"""

from __future__ import annotations

import math
import os
import select
import time
import weakref
from typing import TYPE_CHECKING, Final, Self

import trio

from tradeengine.ipc.atomics import exchange_word, load_word_after_fence, store_word
from tradeengine.ipc.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Callable

_LINE_BYTES: Final = 128


def create_page(name: str, count: int) -> Segment:
    """Make a page with the sleeping flags of ``count`` doorbells."""
    return Segment.create(name, count * _LINE_BYTES)


class Doorbell:
    """One bell: anyone who has it may ring, its owner waits. One waiter at a time."""

    def __init__(self, page: Segment, index: int, fd: int) -> None:
        self._page = page
        self.index = index
        self.fd = fd
        self._forgotten: weakref.finalize[[int], Self] | None = None
        self.flag_address = page.address(index * _LINE_BYTES)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    @classmethod
    def create(cls, page: Segment, index: int) -> Self:
        """Make the bell of line ``index`` of a page, with an eventfd of its own."""
        bell = cls(page, index, os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        # As a segment does: who makes one and forgets it leaves no descriptor behind.
        bell._forgotten = weakref.finalize(bell, os.close, bell.fd)
        bell._forgotten.atexit = False
        return bell

    @classmethod
    def attach(cls, page: Segment, index: int, fd: int) -> Self:
        """Use a bell that another process made; the descriptor belongs to it from now on."""
        return cls(page, index, fd)

    def ring(self) -> None:
        """Wake the owner when it sleeps. Call it after what it shall see has been stored."""
        if load_word_after_fence(self.flag_address):
            self.wake_sleeper()

    def wake_sleeper(self) -> None:
        """Wake the owner, whose flag was seen set; who else saw it too need not."""
        if not self._page.writable or exchange_word(self.flag_address, 0):
            self.alarm()

    def alarm(self) -> None:
        """Wake the owner, or its next sleep, in any case: for what no ring shows, such as a stop or a dead child."""
        try:
            os.eventfd_write(self.fd, 1)
        except BlockingIOError:
            # The counter is at its end: it is readable, and more than that is not wanted.
            return

    def watch(self, fd: int) -> None:
        """Let ``wait`` end as well when ``fd`` is readable or at its end: a pipe that tells of the parent's death."""
        self._poll.register(fd, select.POLLIN)

    def wait(self, timeout_s: float, ready: Callable[[], bool], spin_us: int = 0) -> bool:
        """Sleep until rung or ``timeout_s`` ≥ 0 is over; returns what ``ready()`` says then, so maybe False early.

        ready: cheap, reads shared words by atomics (a ``RingWatch``). spin_us: look that long before sleeping.
        """
        if ready() or (spin_us > 0 and _spin(spin_us, ready)):
            return True
        exchange_word(self.flag_address, 1)
        try:
            if not ready():
                self._poll.poll(math.ceil(timeout_s * 1000))
        finally:
            self._wake_up()
        return ready()

    async def wait_trio(self, timeout_s: float, ready: Callable[[], bool]) -> bool:
        """Do as ``wait`` does, in a trio task; the other tasks run meanwhile."""
        if ready():
            await trio.lowlevel.checkpoint()
            return True
        exchange_word(self.flag_address, 1)
        try:
            if ready():
                await trio.lowlevel.checkpoint()
            else:
                with trio.move_on_after(timeout_s):
                    await trio.lowlevel.wait_readable(self.fd)
        finally:
            self._wake_up()
        return ready()

    def close(self) -> None:
        """Give back the eventfd; the page is its owner's."""
        if self._forgotten is not None:
            self._forgotten.detach()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _wake_up(self) -> None:
        store_word(self.flag_address, 0)
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            # Nobody rang.
            return


def _spin(spin_us: int, ready: Callable[[], bool]) -> bool:
    end_ns = time.perf_counter_ns() + spin_us * 1000
    while time.perf_counter_ns() < end_ns:
        if ready():
            return True
    return False
