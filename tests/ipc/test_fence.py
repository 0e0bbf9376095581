"""The fence between publishing and looking for sleepers: a litmus test at the speed of compiled code.

Kernels in a test, because interpreted code is too slow to meet the few nanoseconds in which a processor lets a load
overtake a store: without the fence in ``publish`` this test fails and the others pass.
"""

import threading

import numpy as np
from numba import njit

from tradeengine.ipc.atomics import address_of, exchange, load_acquire, load_word, store_release
from tradeengine.ipc.doorbell import Doorbell, create_page
from tradeengine.ipc.ring import ReaderSpec, Ring
from tradeengine.ipc.ring_kernels import publish

ROUNDS = 100_000
RECORD_BYTES = 1024
"""So much that the head's store waits behind the record's: the later a store is seen, the more often this fails."""


def test_waker_or_sleeper_sees_the_other() -> None:
    """In every round the producer sees the raised flag, or the sleeper the new head; never neither."""
    page = create_page("bells", 1)
    bell = Doorbell.create(page, 0)
    ring = Ring.create("litmus", np.dtype(f"V{RECORD_BYTES}"), 4096, [ReaderSpec("sleeper", False, 0)])
    plan = ring.plan([], [bell.flag_address])
    turns = np.zeros(64, np.int64)
    sleeper_missed = np.zeros(ROUNDS, np.int64)
    arguments = (address_of(turns), address_of(turns) + 256, bell.flag_address, ring.head_address, sleeper_missed)
    sleeper = threading.Thread(target=_fall_asleep, args=arguments)
    sleeper.start()
    waker_missed = np.zeros(ROUNDS, np.int64)
    _publish_each_round(
        address_of(turns), address_of(turns) + 256, address_of(plan), np.zeros(RECORD_BYTES, np.uint8), waker_missed
    )
    sleeper.join()
    assert load_word(ring.head_address) == ROUNDS
    assert not (waker_missed & sleeper_missed).any()


@njit("void(int64, int64, int64, uint8[::1], int64[::1])", nogil=True, cache=True)
def _publish_each_round(mine, theirs, plan, record, missed):  # type: ignore[no-untyped-def]
    for number in range(len(missed)):
        store_release(mine, number + 1)
        while load_acquire(theirs) <= number:
            pass
        missed[number] = publish(plan, number, record) == 0


@njit("void(int64, int64, int64, int64, int64[::1])", nogil=True, cache=True)
def _fall_asleep(theirs, mine, flag, head, missed):  # type: ignore[no-untyped-def]
    for number in range(len(missed)):
        while load_acquire(theirs) <= number:
            pass
        store_release(flag, 0)
        store_release(mine, number + 1)
        # Meet the producer at each step of its work.
        for _ in range(number % 64):
            load_acquire(mine)
        exchange(flag, 1)
        missed[number] = load_acquire(head) == number
