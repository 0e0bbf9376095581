"""Named points at which a test makes a process kill itself, as kill -9 would.

``TRADEENGINE_CRASH_AT=matcher.after_journal_write`` kills at the first pass of that point, ``…write:3`` at the third.
``TRADEENGINE_CRASH_AT=@FILE`` kills whoever first passes the point that is named in FILE, each time that somebody puts
such a file there; whoever dies renames it to ``FILE.PID`` before.
The variable is read once, at import: unset, which is always so outside tests, ``crash_point`` is an empty function.
A process dies by SIGKILL of itself: nothing is flushed, no handler runs, the supervisor sees what it would see.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
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
    """Crash points of one setting: ``name``, ``name:pass`` or ``@file``; an empty one: the function that does nothing.

    Raises ValueError when the pass is not a number of at least 1.
    """
    if not setting:
        return _pass_by
    if setting.startswith("@"):
        return _armed_by_file(Path(setting[1:]))
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


def _armed_by_file(place: Path) -> Callable[[str], None]:
    def crash_point(name: str) -> None:
        try:
            if place.read_text(encoding="ascii") == name:
                # Of several who pass at once one finds it still there.
                place.rename(f"{place}.{os.getpid()}")
                os.kill(os.getpid(), signal.SIGKILL)
        except FileNotFoundError:
            return

    return crash_point


crash_point: Final[Callable[[str], None]] = armed(os.environ.get(VARIABLE, ""))
"""Call with the point's name, ``role.where``, at each place worth dying at."""
