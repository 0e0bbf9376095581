"""Tasks beside a session's own: what one of them does wrong is logged, and costs no other session anything.

It refuses to know what the tasks do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import structlog
import trio

Arguments = TypeVarTuple("Arguments")

_log = structlog.get_logger()


class Tasks:
    """Starts tasks that run until they end or the front does."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start_soon(self, task: Callable[[*Arguments], Awaitable[object]], *arguments: *Arguments) -> None:
        """Run a task; its fault ends the task alone."""
        self._nursery.start_soon(_run, task, arguments)


async def _run(task: Callable[..., Awaitable[object]], arguments: tuple[object, ...]) -> None:
    try:
        await task(*arguments)
    except Exception as error:
        _log.error("fault in a stream's task", exc_info=error)
