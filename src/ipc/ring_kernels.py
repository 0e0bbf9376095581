"""The compiled inside of rings: claim, copy, publish on one side; copy and verify on the other.

A *plan* is a private array of words that holds the addresses a kernel needs, so that one argument says it all:
slots, claim, head, index mask, record bytes, first sequence; a writer's goes on with its gating readers' cursors and
its readers' sleeping flags, each list after its length. Kernels compile where they stand, so leaves come first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from numba import njit

from tradeengine.ipc.atomics import (
    WORD_BYTES,
    bytes_address,
    copy_bytes,
    fence_acquire,
    fence_full,
    fence_release,
    load_acquire,
    load_byte,
    store_release,
)

if TYPE_CHECKING:
    import numpy as np

    Bytes = np.ndarray[Any, np.dtype[np.uint8]]

PLAN_SLOTS: Final = 0 * WORD_BYTES
PLAN_CLAIM: Final = 1 * WORD_BYTES
PLAN_HEAD: Final = 2 * WORD_BYTES
PLAN_MASK: Final = 3 * WORD_BYTES
PLAN_RECORD_BYTES: Final = 4 * WORD_BYTES
PLAN_FIRST: Final = 5 * WORD_BYTES
PLAN_LISTS: Final = 6 * WORD_BYTES

NO_ROOM: Final = -1
LAPPED: Final = -1
_VERIFY_COUNT: Final = 64
"""Records that a scan copies before it verifies: what is lost when it is overtaken."""


@njit("int64(int64, int64)", cache=True)
def free_slots(plan: int, head: int) -> int:
    """Count the slots that no gating reader still needs. Without gating readers, all."""
    free: int = load_acquire(plan + PLAN_MASK) + 1
    capacity = free
    count = load_acquire(plan + PLAN_LISTS)
    for index in range(count):
        cursor = load_acquire(load_acquire(plan + PLAN_LISTS + (1 + index) * WORD_BYTES))
        free = min(free, cursor + capacity - head)
    return free


@njit("int64(int64)", cache=True)
def oldest_held(plan: int) -> int:
    """Give the oldest sequence that nobody has begun to overwrite."""
    claim = load_acquire(load_acquire(plan + PLAN_CLAIM))
    oldest: int = max(load_acquire(plan + PLAN_FIRST), claim - load_acquire(plan + PLAN_MASK) - 1)
    return oldest


@njit("int64(int64)", cache=True)
def _sleeping(plan: int) -> int:
    flags = plan + PLAN_LISTS + (1 + load_acquire(plan + PLAN_LISTS)) * WORD_BYTES
    sleeping = 0
    for index in range(load_acquire(flags)):
        if load_acquire(load_acquire(flags + (1 + index) * WORD_BYTES)) != 0:
            sleeping |= 1 << index
    return sleeping


@njit("void(int64, int64, int64, int64)", cache=True)
def _copy_in(plan: int, first: int, count: int, source: int) -> None:
    slots = load_acquire(plan + PLAN_SLOTS)
    size = load_acquire(plan + PLAN_RECORD_BYTES)
    mask = load_acquire(plan + PLAN_MASK)
    start = first & mask
    before_wrap = min(count, mask + 1 - start)
    copy_bytes(slots + start * size, source, before_wrap * size)
    copy_bytes(slots, source + before_wrap * size, (count - before_wrap) * size)


@njit("void(int64, int64, int64, int64)", cache=True)
def _copy_out(plan: int, first: int, count: int, target: int) -> None:
    slots = load_acquire(plan + PLAN_SLOTS)
    size = load_acquire(plan + PLAN_RECORD_BYTES)
    mask = load_acquire(plan + PLAN_MASK)
    start = first & mask
    before_wrap = min(count, mask + 1 - start)
    copy_bytes(target, slots + start * size, before_wrap * size)
    copy_bytes(target + before_wrap * size, slots, (count - before_wrap) * size)


@njit("int64(int64, int64, uint8[::1])", cache=True)
def publish(plan: int, head: int, records: Bytes) -> int:
    """Publish whole records at ``head``. Returns NO_ROOM, or one bit for each bell whose owner sleeps."""
    count = len(records) // load_acquire(plan + PLAN_RECORD_BYTES)
    if count == 0:
        return 0
    if count > free_slots(plan, head):
        return NO_ROOM
    claim = load_acquire(plan + PLAN_CLAIM)
    # Never back: a claim beyond this batch is a dead producer's, and what it had begun to overwrite stays lost.
    store_release(claim, max(load_acquire(claim), head + count))
    # A reader that sees a byte of this batch must see the claim.
    fence_release()
    _copy_in(plan, head, count, bytes_address(records))
    store_release(load_acquire(plan + PLAN_HEAD), head + count)
    # The head must be visible before the flags are read: the sleeper sets its flag, then reads the head.
    fence_full()
    return _sleeping(plan)


@njit("int64(int64, int64, uint8[::1])", cache=True)
def copy_verified(plan: int, first: int, copies: Bytes) -> int:
    """Copy whole records from sequence ``first`` until ``copies`` is full. Returns LAPPED when one of them was gone."""
    count = len(copies) // load_acquire(plan + PLAN_RECORD_BYTES)
    if count > load_acquire(plan + PLAN_MASK) + 1:
        return LAPPED
    _copy_out(plan, first, count, bytes_address(copies))
    # The claim is read after the last byte: had any of them been overwritten, this load sees the claim for it.
    fence_acquire()
    return LAPPED if oldest_held(plan) > first else count


@njit("UniTuple(int64, 2)(int64, int64, int64, int64, int64, int64, uint8[::1])", cache=True)
def match_verified(
    plan: int, first: int, end: int, byte_offset: int, byte_value: int, limit: int, copies: Bytes
) -> tuple[int, int]:
    """Copy the records whose byte has a value; returns how many, and the sequence reached.

    It ends at ``end``, when ``limit`` match, or where it was lapped: (LAPPED, first) when that was at once.
    """
    slots = load_acquire(plan + PLAN_SLOTS)
    size = load_acquire(plan + PLAN_RECORD_BYTES)
    mask = load_acquire(plan + PLAN_MASK)
    target = bytes_address(copies)
    matched = 0
    reached = first
    while reached < end and matched < limit:
        verified, chunk_first = matched, reached
        chunk_end = min(end, chunk_first + _VERIFY_COUNT)
        while reached < chunk_end and matched < limit:
            record = slots + (reached & mask) * size
            if load_byte(record + byte_offset) == byte_value:
                copy_bytes(target + matched * size, record, size)
                matched += 1
            reached += 1
        fence_acquire()
        if oldest_held(plan) > chunk_first:
            return (LAPPED if chunk_first == first else verified), chunk_first
    return matched, reached


@njit("boolean(int64)", cache=True)
def any_published(watched: int) -> bool:
    """Say whether any of the (head address, address of a private cursor) pairs differs; their number comes first."""
    for index in range(load_acquire(watched)):
        pair = watched + (1 + 2 * index) * WORD_BYTES
        if load_acquire(load_acquire(pair)) != load_acquire(load_acquire(pair + WORD_BYTES)):
            return True
    return False


def compile_kernels() -> None:
    """Compile what is compiled here. Signatures are fixed, so importing has done it already."""
    for kernel in (free_slots, publish, oldest_held, copy_verified, match_verified, any_published):
        assert kernel.signatures
