"""Token buckets in shared memory: how much each user and each address may still ask for, on all fronts together.

A bucket is one word, the time at which it will be full again (the "theoretical arrival time" of the generic cell rate
algorithm): a request that costs so many nanoseconds moves it on, and is refused when that would be further ahead than
the bucket is deep. So a bucket that nobody has used for a while needs no memory: its word lies in the past. Who asks
has a line of its own with two buckets, one for everything and one for cancels, found by a keyed hash of the name.

Rule 1: any front writes any line, at the same time as others: words change by compare-and-swap, and nobody waits.
Rule 2: memory is fixed. A line whose buckets are full again may be taken by another name; when every line near a
name's place is busy, the name shares one last line with all others in that case: limited, never let through.
Rule 3: a name is known by 63 bits of hash under a key that is made at start, so nobody can choose whom to collide with.
What races can do is small: two fronts that take the same line for two names in the same microsecond may charge one
request to the wrong one.
It refuses to know requests, users and addresses.
"""

from __future__ import annotations

import secrets
from hashlib import blake2b
from typing import Final, NamedTuple

from numba import njit

from tradeengine.ipc.atomics import compare_exchange, compare_exchange_word, load_acquire, load_word
from tradeengine.ipc.segment import Segment

LINE_BYTES: Final = 64
PROBES_MAX: Final = 32
NS_PER_S: Final = 1_000_000_000
_HASH_MASK: Final = (1 << 63) - 1
# Words of a line. Line 0 has the key of the hash in place of a name; the last line is the one that is shared.
_NAME: Final = 0
_FIRST_BUCKET: Final = 1
BUCKETS_PER_LINE: Final = 2
_WORD_BYTES: Final = 8


class Rate(NamedTuple):
    """How fast a bucket fills, and how much it holds; ``per_s`` 0: it is bottomless."""

    per_s: int
    burst: int


class Charge(NamedTuple):
    """What became of a charge: ``remaining`` units are left; when refused, ``wait_ns`` until it would be allowed."""

    allowed: bool
    remaining: int
    full_ns: int
    """How long until the bucket is full again."""
    wait_ns: int


def board_bytes(line_count: int) -> int:
    """Give the bytes of a board with lines for ``line_count`` names, a power of two."""
    assert line_count & (line_count - 1) == 0
    return (line_count + 2) * LINE_BYTES


class Buckets:
    """All buckets of one engine, as one front sees them."""

    def __init__(self, board: Segment) -> None:
        """Join a board of ``board_bytes``, all zero at first. The first front to come makes the key."""
        self._board = board  # kept, because what follows are addresses in its memory
        self._line_count = board.size // LINE_BYTES - 2
        assert board_bytes(self._line_count) == board.size
        key_address = board.address(0)
        compare_exchange_word(key_address, 0, secrets.randbits(63) | 1)
        self._key = load_word(key_address).to_bytes(8, "little")
        self._first = board.address(LINE_BYTES)

    def charge(self, name: str, bucket: int, cost: int, rate: Rate, now_ns: int) -> Charge:
        """Take ``cost`` units out of one bucket of a name, all or nothing; a cost above the burst empties it.

        bucket: below BUCKETS_PER_LINE. now_ns: a clock that all fronts share and that never goes back.
        """
        if rate.per_s == 0:
            return Charge(True, rate.burst, 0, 0)
        unit_ns = NS_PER_S // rate.per_s
        depth_ns = rate.burst * unit_ns
        line = _find_line(self._first, self._line_count, self._hash(name), now_ns)
        cost_ns = min(cost, rate.burst) * unit_ns
        full_ns, wait_ns = _charge(line + (_FIRST_BUCKET + bucket) * _WORD_BYTES, now_ns, cost_ns, depth_ns)
        return Charge(wait_ns == 0, (depth_ns - full_ns) // unit_ns, full_ns, wait_ns)

    def _hash(self, name: str) -> int:
        digest = blake2b(name.encode(), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little") & _HASH_MASK | 1


@njit("int64(int64, int64, int64, int64)", cache=True)
def _find_line(first: int, line_count: int, name: int, now_ns: int) -> int:
    """Address of a name's line, taken for it if need be; the shared one when there is none."""
    for _ in range(2):
        free = 0
        for probe in range(PROBES_MAX):
            line = first + ((name + probe) & (line_count - 1)) * LINE_BYTES
            known = load_acquire(line)
            if known == name:
                return line
            idle = known == 0 or (
                load_acquire(line + _WORD_BYTES) <= now_ns and load_acquire(line + 2 * _WORD_BYTES) <= now_ns
            )
            if free == 0 and idle:
                free = line
            if known == 0:
                break
        if free == 0:
            break
        known = load_acquire(free)
        if compare_exchange(free, known, name) == known:
            return free
        # Somebody else took it, perhaps for the same name: look again.
    return first + line_count * LINE_BYTES


@njit("UniTuple(int64, 2)(int64, int64, int64, int64)", cache=True)
def _charge(address: int, now_ns: int, cost_ns: int, depth_ns: int) -> tuple[int, int]:
    """Give how long until the bucket is full again, and how long to wait: 0 when it was charged."""
    while True:
        known = load_acquire(address)
        before_ns = max(known, now_ns)
        after_ns = before_ns + cost_ns
        wait_ns = after_ns - now_ns - depth_ns
        if wait_ns > 0:
            return before_ns - now_ns, wait_ns
        if compare_exchange(address, known, after_ns) == known:
            return after_ns - now_ns, 0


def compile_kernels() -> None:
    """Compile what is compiled here. Signatures are fixed, so importing has done it already."""
    for kernel in (_find_line, _charge):
        assert kernel.signatures
