"""What the service manager is told that started the engine: systemd's protocol of one datagram per message.

It is told when orders are accepted, that the supervisor looks after the actors, and in one line how they are. Whoever
starts the engine by hand has no manager, and nothing is told.
Rule 1: a manager that does not listen changes nothing here.
Rule 2: the manager's address is the supervisor's alone: it is taken out of the environment before any process is made.
It refuses to know what systemd does with it.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tradeengine.core.tables import ActorState

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

    from tradeengine.actors.children import Child

_NAMES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """Who started us, if it wants to hear of us."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Take the manager's address out of an environment, where it may be."""
        address, _, _ = (environ.pop(name, "") for name in _NAMES)
        # A name that begins with @ is none of the file system: the kernel writes it with a zero byte.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._status = ""

    def ready(self) -> None:
        """Say that orders are accepted."""
        self._tell("READY=1")

    def alive(self, children: Iterable[Child]) -> None:
        """Say that the actors are looked after, and which of them are not well when that has changed."""
        if not self._address:
            return
        troubled = [child for child in children if child.state is not ActorState.READY]
        unwell = [f"{child.actor.name} {child.state.name.lower()}" for child in troubled]
        status = "running; not well: " + ", ".join(unwell) if unwell else "running"
        changed, self._status = status != self._status, status
        self._tell("WATCHDOG=1", *([f"STATUS={status}"] if changed else []))

    def stopping(self) -> None:
        """Say that the end has begun: what is on its way is matched and settled first."""
        self._tell("STOPPING=1", "STATUS=stopping: what is on its way is settled first")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto("\n".join(lines).encode(), self._address)
