"""What an actor has freed, given back to the system.

The C library keeps freed memory for later, in each thread that has used it: a chore that takes much for a moment, each
time in another thread, would leave all of it behind again and again.
It refuses to know what was freed.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def give_back_memory() -> None:
    """Return freed pages to the system, of all threads; nothing happens where the C library knows no such call."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
