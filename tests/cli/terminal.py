"""A terminal for tests: a real pseudo-terminal with a program in front, whose screen is read picture by picture.

A picture begins where the program goes to the upper left corner; what colours and styles it has is left out.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

PATIENCE_S: Final = 30.0
ENTER_PICTURE: Final = "\x1b[?1049h"
LEAVE_PICTURE: Final = "\x1b[?1049l"
SHOW_CURSOR: Final = "\x1b[?25h"
_HOME: Final = "\x1b[H"
_CONTROLS: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """One terminal and the program in it. ``output``: everything that was written."""

    def __init__(self, ours: int, theirs: int, process: subprocess.Popen[bytes]) -> None:
        self._ours = ours
        self._theirs = theirs
        self._seen = 0
        self.process = process
        self.output = ""

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Change the size; the kernel tells the program."""
        set_size(self._ours, columns, rows)

    def attributes(self) -> list[object]:
        """Give how the terminal is set."""
        return list(termios.tcgetattr(self._theirs))

    def picture(self, wanted: Callable[[list[str]], bool]) -> list[str]:
        """Wait for a whole picture, of those that begin from now on, that is as wanted; returns its lines."""
        self._seen = len(self.output)
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            # The last one may not be whole yet.
            for text in self.output[self._seen :].split(_HOME)[1:-1]:
                lines = [line.rstrip("\r") for line in _CONTROLS.sub("", text).split("\n")]
                if wanted(lines):
                    return lines
            assert time.monotonic() < deadline_s, f"it shows:\n{_CONTROLS.sub('', self.output)[-4000:]}"
            self._read(0.1)

    def read_until(self, condition: Callable[[str], bool]) -> None:
        """Read until everything that was written is as wanted."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition(self.output):
            assert time.monotonic() < deadline_s, f"it shows:\n{self.output[-4000:]}"
            self._read(0.1)

    def end(self) -> int:
        """Wait for the program's end; returns its exit status."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, f"it shows:\n{self.output[-4000:]}"
            self._read(0.1)
        while self._read(0):
            pass
        return int(self.process.returncode)

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._ours], [], [], timeout_s)[0]:
            return False
        self.output += os.read(self._ours, 1 << 16).decode(errors="replace")
        return True


@contextmanager
def in_terminal(command: Sequence[str], columns: int = 100, rows: int = 40) -> Iterator[Terminal]:
    """Run a program in a terminal of its own, as the one that gets its keys and signals."""
    ours, theirs = os.openpty()
    try:
        set_size(ours, columns, rows)
        environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
        process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**environment, "TERM": "xterm-256color"},
        )
        try:
            yield Terminal(ours, theirs, process)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
    finally:
        os.close(ours)
        os.close(theirs)


def set_size(terminal: int, columns: int, rows: int) -> None:
    """Set a terminal's size."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
