"""The program that every actor runs in: ``python -m tradeengine.actors.run NAME LINE_FD``, started by the supervisor.

It imports the actor's code and loads its compiled kernels at once, while the supervisor still prepares the database,
then waits on the line for its handoff, and does its duty until it is asked to end.

Exit status: 0 asked to end; 1 the actor failed, and has told the supervisor why; 70 the supervisor is gone.
This is the one place where the roles of ``actors`` and ``web`` meet; they are named, not imported.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import socket
import sys
from typing import Final

from tradeengine.ipc.handoff import EXIT_ORPHANED, receive_handoff, tell

MODULES: Final = {
    "risk": "tradeengine.actors.risk",
    "matcher": "tradeengine.actors.matcher",
    "settlement": "tradeengine.actors.settlement",
    "publisher": "tradeengine.actors.publisher",
    "shadow": "tradeengine.actors.shadow",
    "keeper": "tradeengine.actors.keeper",
    "wallet": "tradeengine.actors.wallet",
    "front": "tradeengine.web.serve",
}

UNUSED: Final = ("coverage", "cffi", "rich")
"""Packages that numba and structlog load when they find them, and no actor needs: a tenth of an actor's start."""
logger = logging.getLogger(__name__)


def main(name: str, line_fd: int) -> int:
    """Run one actor; returns the exit status."""
    line = socket.socket(fileno=line_fd)
    try:
        _run(name, line)
    except EOFError:
        return EXIT_ORPHANED
    except Exception as error:
        # The one place where an actor's failure ends: it is told, logged, and the process with it.
        logger.exception("%s failed", name)
        tell(line, "failed", f"{type(error).__name__}: {error}")
        return 1
    return 0


def _run(name: str, line: socket.socket) -> None:
    role = name.partition("-")[0]
    for package in UNUSED:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # None is how an import is told to fail
    import trio

    from tradeengine.ipc.logs import configure_logs
    from tradeengine.ipc.wiring import Wiring
    from tradeengine.kernels import load_kernels

    module = importlib.import_module(MODULES[role])
    load_kernels(role)
    wiring = Wiring(receive_handoff(line), line)
    configure_logs(wiring.settings.log, name)
    wiring.obey_supervisor()
    if inspect.iscoroutinefunction(module.main):
        trio.run(module.main, wiring)
    else:
        module.main(wiring)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
