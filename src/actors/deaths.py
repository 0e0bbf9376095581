"""Deaths of a process within a window of time, and the pause that follows from them before it is started again.

It refuses to know what died.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tradeengine.settings import Supervisor as Policy


@dataclass
class Deaths:
    """The deaths of one actor, or of the database."""

    policy: Policy
    _at_s: deque[float] = field(default_factory=deque)

    def add(self) -> int:
        """Note a death that happened now; returns how many there were in the window, this one included."""
        now_s = time.monotonic()
        self._at_s.append(now_s)
        while now_s - self._at_s[0] > self.policy.restart_window_s:
            self._at_s.popleft()
        return len(self._at_s)

    def pause_s(self) -> float:
        """Tell how long to wait before the next start: twice as long after each death, up to a bound."""
        pause_ms: int = self.policy.restart_backoff_ms * 2 ** (len(self._at_s) - 1)
        return min(pause_ms, self.policy.restart_backoff_ms_max) / 1000
