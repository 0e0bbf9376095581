"""Named points at which a test makes a process kill itself, as kill -9 would.

``TRADEENGINE_CRASH_AT=matcher.after_journal_write`` kills at the first pass of that point, ``…write:3`` at the third.
The variable is read once, at import: unset, which is always so outside tests, ``crash_point`` is an empty function.
A process dies by SIGKILL of itself: nothing is flushed, no handler runs, the supervisor sees what it would see.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE: Final = "TRADEENGINE_CRASH_AT"


_is_disarmed = False


def disarm() -> None:
    """Pass by every crash point from now on, in this process."""
    global _is_disarmed
    _is_disarmed = True


def _pass_by(name: str) -> None:
    """Do nothing: no crash point is armed in this process."""


def armed(setting: str) -> Callable[[str], None]:
    """Crash points of one setting, ``name`` or ``name:pass``; an empty one gives the function that does nothing.

    Raises ValueError when the pass is not a number of at least 1.
    """
    if not setting:
        return _pass_by
    wanted, _, ordinal = setting.partition(":")
    passes_left = int(ordinal or "1")
    if passes_left < 1:
        raise ValueError(f"{VARIABLE}={setting}: the pass counts from 1")

    def crash_point(name: str) -> None:
        nonlocal passes_left
        if name != wanted or _is_disarmed:
            return
        passes_left -= 1
        if passes_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return crash_point


crash_point: Final[Callable[[str], None]] = armed(os.environ.get(VARIABLE, ""))
"""Call with the point's name, ``role.where``, at each place worth dying at."""
