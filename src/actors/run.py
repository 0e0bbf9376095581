"""What every actor runs: it waits on its line for its handoff, and does its duty until it is asked to end.

The zygote has imported a role's code and loaded its compiled kernels before it forks an actor. As a program of its own,
``python -m tradeengine.actors.run NAME LINE_FD``, an actor imports them itself; that is for looking at one by itself.

Exit status: 0 asked to end; 1 the actor failed, and has told the supervisor why; 70 the supervisor is gone.
This is the one place where the roles of ``actors`` and ``web`` meet; they are named, not imported.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import socket
import sys
from types import ModuleType
from typing import Final

from tradeengine.ipc.handoff import EXIT_ORPHANED, receive_handoff, tell

MODULES: Final = {
    "risk": "tradeengine.actors.risk",
    "matcher": "tradeengine.actors.matcher",
    "settlement": "tradeengine.actors.settlement",
    "publisher": "tradeengine.actors.publisher",
    "front": "tradeengine.web.serve",
    "shadow": "tradeengine.actors.shadow",
    "keeper": "tradeengine.actors.keeper",
    "wallet": "tradeengine.actors.wallet",
}
"""By role; those come first for which a start waits."""

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


def import_role(role: str) -> ModuleType:
    """Import what a role needs and load its kernels; gives the module with its ``main``."""
    for package in UNUSED:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # None is how an import is told to fail
    from tradeengine.kernels import load_kernels

    module = importlib.import_module(MODULES[role])
    load_kernels(role)
    return module


def _run(name: str, line: socket.socket) -> None:
    module = import_role(name.partition("-")[0])
    import trio

    from tradeengine.ipc.logs import configure_logs
    from tradeengine.ipc.meters import LineCounter, LoopMeter
    from tradeengine.ipc.wiring import Wiring

    wiring = Wiring(receive_handoff(line), line)
    configure_logs(wiring.settings.log, name)
    logging.getLogger().addHandler(LineCounter(wiring.metrics))
    wiring.obey_supervisor()
    if inspect.iscoroutinefunction(module.main):
        trio.run(module.main, wiring, instruments=[LoopMeter(wiring.metrics)])
    else:
        module.main(wiring)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
