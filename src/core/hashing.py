"""Hashes of records: fast, chained, the same on every machine. They find differences; they are no signature.

Four lanes of multiply-and-fold over whole words, so that the processor works on four words at once; a lane's step is a
bijection of its state, so that no difference is lost on the way. The state goes in and comes out: hashing a stream in
pieces of whole records gives the same as hashing it at once only if the pieces are chained record by record, which is
why every record ends in one state.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_LANE_1 = np.uint64(0x9E3779B97F4A7C15)
_LANE_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_LANE_3 = np.uint64(0x165667B19E3779F9)
_LANE_4 = np.uint64(0xD6E8FEB86659FD93)
_FOLD = np.uint64(29)
_FOLD_LAST = np.uint64(32)
HASH_START = 0x27220A95FE5C6D1B
"""State before the first record."""


def hash_records(state: int, records: NDArray[np.void]) -> int:
    """Chain the hash of records, in order, onto a state.

    state: ``HASH_START`` or what an earlier call returned, 0 … 2**64 - 1. records: shape (n,), contiguous, itemsize a
    multiple of 32. Returns the new state; n = 0 returns the old one.
    """
    assert records.dtype.itemsize % 32 == 0
    words = records.view(np.uint64)
    words.flags.writeable = False
    return int(_hash_words(np.uint64(state), words, records.dtype.itemsize // 8))


def hash_bytes(state: int, data: bytes) -> int:
    """Chain the hash of bytes onto a state; the length counts too."""
    padded = np.zeros(-(-len(data) // 32) * 4 + 4, np.uint64)
    padded.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
    padded[-1] = len(data)
    padded.flags.writeable = False
    return int(_hash_words(np.uint64(state), padded, len(padded)))


def compile_kernels() -> None:
    """Compile (or load) this module's kernels for the types in which they are called."""
    hash_bytes(HASH_START, b"")


@njit(cache=True)
def _hash_words(state: np.uint64, words: NDArray[np.uint64], record_words: int) -> np.uint64:
    for first in range(0, len(words), record_words):
        a, b, c, d = state ^ _LANE_4, state ^ _LANE_3, state ^ _LANE_2, state ^ _LANE_1
        for w in range(first, first + record_words, 4):
            a = (a ^ words[w]) * _LANE_1
            b = (b ^ words[w + 1]) * _LANE_2
            c = (c ^ words[w + 2]) * _LANE_3
            d = (d ^ words[w + 3]) * _LANE_4
            a ^= a >> _FOLD
            b ^= b >> _FOLD
            c ^= c >> _FOLD
            d ^= d >> _FOLD
        state = (a * _LANE_2) ^ (b * _LANE_3) ^ (c * _LANE_4) ^ (d * _LANE_1)
        state = (state ^ (state >> _FOLD_LAST)) * _LANE_1
        state ^= state >> _FOLD
    return state
