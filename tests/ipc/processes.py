"""Real processes for tests of shared memory: started from a clean server process, given descriptors, killed at will."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from typing import Any

# Forked from a server that has loaded the kernels: a child runs after milliseconds, and no thread of pytest is copied.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tradeengine.ipc.ring", "tradeengine.ipc.seqlock", "tradeengine.ipc.doorbell"])

Given = Callable[[], int]
"""What a child's function gets for an ``Fd``: call it once, for the descriptor."""


class Fd:
    """A descriptor as an argument for a child, which gets one of its own by calling it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        """Pass the descriptor on while the child is being started."""
        return _arrived, (DupFd(self._fd),)


def _arrived(duplicate: Any) -> Given:
    return duplicate.detach  # type: ignore[no-any-return]


@contextmanager
def child(function: Callable[..., None], *arguments: Any) -> Iterator[BaseProcess]:
    """Run a module-level function in a process of its own; killed at the end of the block if it still runs."""
    process = _context.Process(target=function, args=arguments, daemon=True)
    process.start()
    try:
        yield process
    finally:
        if process.is_alive():
            process.kill()
        process.join()


def finish(process: BaseProcess) -> None:
    """Wait until a child has ended by itself, without an error."""
    process.join(60)
    assert process.exitcode == 0


def kill_self() -> None:
    """Die as by kill -9: nothing is flushed, no handler runs."""
    os.kill(os.getpid(), signal.SIGKILL)
