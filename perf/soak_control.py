"""The soak's control: the same small work, many times a second, beside the engine and not in it.

What it takes longer than ever is the machine's doing, so the verdict takes it out of what the engine took longer.
It writes a line of JSON per interval as ``perf.soak_rest`` does, and ends when its input ends.
"""

from __future__ import annotations

import os
import select
import sys
import time
from typing import Final

from perf.soak_rest import INTERVAL_S, Tally

TURN_S: Final = 0.05
STEPS: Final = 20_000


def main() -> int:
    """Work and tell until the input ends."""
    tally, told_s, due_s = Tally(), time.monotonic(), time.perf_counter()
    ended = False
    while not ended:
        work()
        tally.take("control", time.perf_counter() - due_s)
        due_s = max(due_s + TURN_S, time.perf_counter())
        if time.monotonic() - told_s >= INTERVAL_S:
            told_s = time.monotonic()
            tally.tell()
        readable, _, _ = select.select([0], [], [], max(due_s - time.perf_counter(), 0))
        ended = bool(readable) and not os.read(0, 4096)
    tally.tell()
    return 0


def work() -> int:
    """Do what takes about a millisecond."""
    total = 0
    for number in range(STEPS):
        total += number
    return total


if __name__ == "__main__":
    sys.exit(main())
