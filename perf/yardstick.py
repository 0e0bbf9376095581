"""The yardstick: a fixed compiled loop whose speed says how fast this machine is just now.

Machines differ, and a shared one differs from minute to minute. A figure divided by the yardstick of the same run
differs much less, so that a change of the program can be seen. The loop is made of what kernels are made of: loads
whose address depends on the load before, in a table as large as a book's busy part, branches that depend on data.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

TABLE_WORDS: Final = 1 << 16
STEPS: Final = 400_000
TRIES: Final = 5


def yardstick_ns() -> float:
    """Nanoseconds of one step: the best of a few tries, because whatever disturbs makes it slower."""
    table = _table()
    _walk(table, 1)
    return min(_time_walk(table) for _ in range(TRIES))


def _table() -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(0, 1 << 62, TABLE_WORDS, np.int64)


def _time_walk(table: NDArray[np.int64]) -> float:
    started_ns = time.perf_counter_ns()
    _walk(table, STEPS)
    return (time.perf_counter_ns() - started_ns) / STEPS


@njit(cache=True)
def _walk(table: NDArray[np.int64], steps: int) -> int:
    place, total = 0, 0
    for _ in range(steps):
        word = table[place]
        if word & 1:
            total += word >> 7
            table[place] = word ^ total
        else:
            total ^= word
            table[place] = word + 3
        place = (word ^ (word >> 17) ^ total) & (TABLE_WORDS - 1)
    return total
