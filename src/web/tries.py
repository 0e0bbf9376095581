"""How often somebody may try what only administrators may, before it is no longer written down.

Each such try is a synced line that the audit log keeps for ever: without a bound any user could fill it, and keep those
waiting who want to halt trading. Whoever makes a mistake never meets the bound; who does is in the log of the front.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

TRIES_MAX: Final = 200
PER_S: Final = 1.0
NAMES_MAX: Final = 4096

_log = structlog.get_logger()


class Tries:
    """A bucket of tries for each of the names that tried last; of this front alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, name: str) -> bool:
        """Count one; returns whether it is still to be written down."""
        now_s = self._clock()
        before, then_s = self._left.pop(name, (float(TRIES_MAX), now_s))
        left = min(TRIES_MAX, before + (now_s - then_s) * PER_S)
        is_allowed = left >= 1
        self._left[name] = (left - 1 if is_allowed else left, now_s)
        if len(self._left) > NAMES_MAX:
            self._left.popitem(last=False)
        if is_allowed and left < 2:
            _log.warning("refused calls are audited only so often from now on", actor=name, per_s=PER_S)
        return is_allowed
