"""The tasks in which a connection's requests are answered, and what they are told.

Hypercorn gives each its queue, which is short, and a connection's reader waits for room in it. A task that ends takes
nothing out any more: the reader would wait without end, and the connection stay when its client is long gone. Here
whoever still wants to tell an ended task something need not.
It refuses to know what is told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import hypercorn.trio.tcp_server
import trio
from hypercorn.config import Config
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope


class AppTasks(TaskGroup):
    """All tasks of one connection."""

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Let the application answer a request; gives what tells it something, and waits while it has much to hear."""
        # Hypercorn's own queue stays empty: it gives nobody the end of it that has to be closed.
        told, heard = trio.open_memory_channel[ASGIReceiveEvent](config.max_app_queue_size)

        async def run(scope: Scope, _receive: object, send: Any, *rest: Any) -> None:
            with heard:
                await app(scope, heard.receive, send, *rest)

        async def tell(message: ASGIReceiveEvent) -> None:
            with suppress(trio.BrokenResourceError):  # it has ended
                await told.send(message)

        await super().spawn_app(run, config, scope, send)  # type: ignore[arg-type]  # it is called as an application is
        return tell


def install() -> None:
    """Let Hypercorn answer in tasks of ours; it offers no setting for that."""
    hypercorn.trio.tcp_server.TaskGroup = AppTasks  # type: ignore[attr-defined]
