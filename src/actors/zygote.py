"""The zygote: a process that has imported what actors run on, and becomes one whenever the supervisor asks.

Importing takes an actor more than a second of a core, and an engine has ten of them. Here it is done once: an actor is
a fork of this process, which is ready to work at once, at the first start and after every death.

It is started as a program, ``python -m tradeengine.actors.zygote LINE_FD``. Over the line come orders, each with the
new actor's own line; back go reports: who was started, with a descriptor of the process, and who ended, and how.

Rule 1: it has one thread and runs no actor's code, so that a fork copies nothing that is in the middle of something.
Rule 2: it keeps no line of an actor open, so that each of them hears when the supervisor is gone.
Rule 3: it imports role by role, those first for which a start waits; orders for the others wait meanwhile.
It refuses to know why actors die, and whether they are wanted again.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import msgspec
from setproctitle import setproctitle

from tradeengine.actors import run
from tradeengine.actors.profiling import run_profiled
from tradeengine.ipc.crashpoints import crash_point, disarm
from tradeengine.ipc.handoff import EXIT_ORPHANED

ORDER_BYTES_MAX: Final = 4096


class Order(msgspec.Struct, frozen=True):
    """Asks for an actor; the descriptor of its line comes with it.

    ``disarm``: it passes by its crash points. ``profiles``: folder for a profile of it; empty: none is made.
    """

    number: int
    name: str
    role: str
    disarm: bool
    profiles: str


class Report(msgspec.Struct, frozen=True):
    """Tells that order ``number`` became process ``pid`` (with its descriptor), or, with a status, how that ended."""

    number: int
    pid: int
    status: int | None = None


class Zygote:
    """Takes orders from ``line``."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._roles_left = list(run.MODULES)
        self._waiting: list[tuple[Order, int]] = []
        self._actors: dict[int, tuple[int, int]] = {}
        """Number of the order and process id, by the descriptor of the process."""
        self._poll = select.poll()
        self._poll.register(line, select.POLLIN)

    def serve(self) -> tuple[Order, int]:
        """Work until this process is an actor; gives the order for it and the descriptor of its line.

        Raises EOFError or OSError when the supervisor is gone.
        """
        while True:
            ready = self._poll.poll(0 if self._roles_left or self._waiting else None)
            for fd, _ in ready:
                if fd == self._line.fileno():
                    self._waiting.append(self._receive())
                else:
                    self._reap(fd)
            for order, line_fd in [waiting for waiting in self._waiting if waiting[0].role not in self._roles_left]:
                self._waiting.remove((order, line_fd))
                if self._fork(order, line_fd):
                    return order, line_fd
            if not ready and self._roles_left:
                # An actor whose role cannot be imported tries it again, and tells why it fails.
                with suppress(Exception):
                    run.import_role(self._roles_left.pop(0))

    def _receive(self) -> tuple[Order, int]:
        message, fds, _, _ = socket.recv_fds(self._line, ORDER_BYTES_MAX, 1)
        if not message:
            raise EOFError("the supervisor is gone")
        return msgspec.json.decode(message, type=Order), fds[0]

    def _fork(self, order: Order, line_fd: int) -> bool:
        """Fork; returns whether this is the child."""
        pid = os.fork()
        if pid == 0:
            self._become(order)
            return True
        # Nobody else reaps it, so until then the number means this process.
        process_fd = os.pidfd_open(pid)
        crash_point("zygote.after_fork")
        os.close(line_fd)
        self._actors[process_fd] = order.number, pid
        self._poll.register(process_fd, select.POLLIN)
        socket.send_fds(self._line, [msgspec.json.encode(Report(order.number, pid))], [process_fd])
        return False

    def _become(self, order: Order) -> None:
        # A group of its own, so that a signal to one reaches no other.
        os.setpgid(0, 0)
        self._line.close()
        for process_fd in self._actors:
            os.close(process_fd)
        for _, line_fd in self._waiting:
            os.close(line_fd)
        if order.disarm:
            disarm()
        setproctitle(f"tradeengine {order.name}")

    def _reap(self, process_fd: int) -> None:
        self._poll.unregister(process_fd)
        os.close(process_fd)
        number, pid = self._actors.pop(process_fd)
        _, status = os.waitpid(pid, 0)
        self._line.send(msgspec.json.encode(Report(number, pid, os.waitstatus_to_exitcode(status))))


def main(line_fd: int) -> NoReturn:
    """Be the zygote, then an actor; ends with the exit status of whichever this process has become."""
    setproctitle("tradeengine zygote")
    try:
        order, actor_fd = Zygote(socket.socket(fileno=line_fd)).serve()
    except (EOFError, OSError):
        sys.exit(EXIT_ORPHANED)
    duty = partial(run.main, order.name, actor_fd)
    status = run_profiled(duty, Path(order.profiles, f"{order.name}-{os.getpid()}.prof")) if order.profiles else duty()
    # Not by the interpreter's own end: taking apart what was imported would copy most of the zygote's memory.
    logging.shutdown()
    os._exit(status)


if __name__ == "__main__":
    main(int(sys.argv[1]))
