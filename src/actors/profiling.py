"""Profiles: where the time of one actor goes, function by function, as Python's own profiler sees it.

Compiled kernels are one line each, and what waits shows as ``poll`` or ``epoll_wait``. The profiler makes Python code
about half as fast, so shares are to be read from a profile, and times from ``/metrics``.
"""

from __future__ import annotations

import cProfile
import io
import pstats
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FOLDER: Final = "profiles"
"""In the data directory."""
LINES_MAX: Final = 60


def run_profiled(duty: Callable[[], int], path: Path) -> int:
    """Run an actor's duty and write its profile when it ends, to ``path`` for tools and beside it as text for people.

    Returns what the duty returns. Raises OSError when nothing can be written there.
    """
    profiler = cProfile.Profile()
    try:
        return profiler.runcall(duty)
    finally:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        profiler.dump_stats(path)
        text = io.StringIO()
        statistics = pstats.Stats(profiler, stream=text).strip_dirs()
        statistics.sort_stats("tottime").print_stats(LINES_MAX)
        path.with_suffix(".txt").write_text(text.getvalue(), encoding="utf-8")
