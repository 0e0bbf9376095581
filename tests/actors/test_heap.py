"""Memory that was freed does not stay with an actor for ever."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from tradeengine.actors.heap import _trim, give_back_memory

COUNT = 2000
BYTES = 100_000
"""Too small for pages of its own."""


def own_bytes() -> int:
    """Memory of this process's own that is resident."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


@pytest.mark.skipif(_trim() is None, reason="the C library cannot be asked for it")
def test_freed_memory_is_given_back() -> None:
    """What a thread took and freed is the system's again, also when something small of it is still in use."""
    kept = []

    def take_much() -> None:
        much = [np.ones(BYTES, np.uint8) for _ in range(COUNT)]
        kept.append(much[-1])

    before = own_bytes()
    thread = Thread(target=take_much)
    thread.start()
    thread.join()
    left = own_bytes() - before
    give_back_memory()
    given_back = left - (own_bytes() - before)
    assert len(kept) == 1
    assert left > COUNT * BYTES // 2, "the C library gave it back by itself"
    assert given_back > COUNT * BYTES // 2
