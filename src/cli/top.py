"""``tradeengine top``: actors, rings and symbols of a running engine, live in the terminal.

It looks at the engine's shared memory, read-only, and asks nobody anything: an engine that answers no request can be
looked at, too. When the engine ends it waits for the next one, and says so.

Rule 1: the terminal is left as it was found, however this ends: a key, Ctrl-C, a signal, an error.
Rule 2: without ``--once`` or ``--json`` it needs a terminal to draw on; keys are read where there is a keyboard.
It refuses to know what the figures mean (``top_figures``) and how they look (``top_screen``).
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import termios
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich.console import Console
from rich.live import Live

from tradeengine.cli.errors import CommandError
from tradeengine.cli.top_figures import Figures, Observatory
from tradeengine.cli.top_screen import SORTS, draw, draw_waiting
from tradeengine.ipc.client import ClientError, open_observer
from tradeengine.ipc.seqlock import SeqlockBusy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tradeengine.ipc.wiring import Wiring
    from tradeengine.settings import Settings

RETRY_S: Final = 0.5
"""How often an engine is looked for that has ended."""
_PLAIN_WIDTH: Final = 120
_QUIT: Final = ("q", "Q", "\x03", "\x04")
_READ_BYTES: Final = 64


def run_top(settings: Settings, *, once: bool, as_json: bool, interval_s: float, sort: str) -> None:
    """Show an engine. Raises CommandError when there is none, or no terminal."""
    data_dir = settings.data_dir
    if once or as_json:
        with suppress(BrokenPipeError):
            _print(data_dir, once=once, as_json=as_json, interval_s=interval_s, sort=sort)
        return
    if not sys.stdout.isatty():
        raise CommandError("standard output is no terminal: use --once, or --json for one line per interval")
    try:
        with open_observer(data_dir):
            pass
    except ClientError as error:
        raise CommandError(str(error)) from None
    Top(data_dir, interval_s, sort).run()


def _print(data_dir: Path, *, once: bool, as_json: bool, interval_s: float, sort: str) -> None:
    """Print intervals to a script, until there is no engine any more."""
    try:
        with open_observer(data_dir) as (wiring, line):
            observatory = Observatory(wiring)
            while not select.select([line], [], [], interval_s)[0]:
                figures = _look(observatory)
                if as_json:
                    sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")
                else:
                    # Where nobody says how wide it is, nothing need be cut.
                    width = None if "COLUMNS" in os.environ or sys.stdout.isatty() else _PLAIN_WIDTH
                    Console(highlight=False, width=width).print(draw(figures, sort=sort))
                sys.stdout.flush()
                if once:
                    return
    except ClientError as error:
        raise CommandError(str(error)) from None
    raise CommandError(f"the engine in {data_dir} has ended")


def _look(observatory: Observatory) -> Figures:
    while True:
        with suppress(SeqlockBusy):
            return observatory.figures()
        time.sleep(RETRY_S)


class Top:
    """The live view."""

    def __init__(self, data_dir: Path, interval_s: float, sort: str) -> None:
        self._data_dir = data_dir
        self._interval_s = interval_s
        self._sort = sort
        self._console = Console(highlight=False)
        self._figures: Figures | None = None
        self._wanted = True
        self._signal = 0
        """By which it was ended."""

    def run(self) -> None:
        """Show until a key or a signal ends it. Raises SystemExit after a signal."""
        with (
            _signals(self._end),
            _keyboard() as keyboard,
            _resizes() as resizes,
            Live(console=self._console, screen=True, auto_refresh=False) as live,
        ):
            while self._wanted:
                try:
                    with open_observer(self._data_dir) as (wiring, line):
                        self._follow(live, wiring, line, keyboard, resizes)
                    ended = "the engine has ended"
                except ClientError as error:
                    ended = str(error)
                if self._wanted:
                    self._figures = None
                    live.update(draw_waiting(ended), refresh=True)
                    self._attend(live, RETRY_S, keyboard, resizes)
        if self._signal:
            raise SystemExit(128 + self._signal)

    def _end(self, number: int, _frame: Any) -> None:
        """Note a signal; it wakes whoever waits. The second one ends this wherever it hangs.

        An exception in the middle of whatever runs may be swallowed there: what is collected or called back has nobody
        to raise it to.
        """
        if self._signal:
            raise SystemExit(128 + number)
        self._signal, self._wanted = number, False

    def _follow(self, live: Live, wiring: Wiring, line: socket.socket, keyboard: int | None, resizes: int) -> None:
        """Show one engine until it ends."""
        observatory = Observatory(wiring)
        # The first figures soon, so that nobody looks at nothing.
        pause_s = min(self._interval_s, RETRY_S)
        while self._wanted:
            if self._attend(live, pause_s, keyboard, resizes, line):
                return
            pause_s = self._interval_s
            with suppress(SeqlockBusy):
                self._figures = observatory.figures()
            self._redraw(live)

    def _attend(
        self, live: Live, pause_s: float, keyboard: int | None, resizes: int, line: socket.socket | None = None
    ) -> bool:
        """Obey keys and resizes for a while; returns whether the engine has ended meanwhile."""
        until_s = time.monotonic() + pause_s
        while self._wanted and (rest_s := until_s - time.monotonic()) > 0:
            sources: list[Any] = [resizes, *([] if keyboard is None else [keyboard]), *([] if line is None else [line])]
            ready, _, _ = select.select(sources, [], [], rest_s)
            if line is not None and line in ready:
                return True
            if resizes in ready:
                os.read(resizes, _READ_BYTES)
                self._redraw(live)
            if keyboard is not None and keyboard in ready:
                self._obey(os.read(keyboard, _READ_BYTES).decode(errors="replace"))
                self._redraw(live)
        return False

    def _obey(self, keys: str) -> None:
        # No key at all is the end of the terminal.
        if not keys or any(key in _QUIT for key in keys):
            self._wanted = False
        names = list(SORTS)
        self._sort = names[(names.index(self._sort) + keys.count("s")) % len(names)]

    def _redraw(self, live: Live) -> None:
        if self._figures is not None:
            height = self._console.size.height
            live.update(draw(self._figures, sort=self._sort, height=height))
        live.refresh()


@contextmanager
def _keyboard() -> Iterator[int | None]:
    """Read keys one by one and do not show them; None: there is no keyboard."""
    if not sys.stdin.isatty():
        yield None
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    raw = termios.tcgetattr(keyboard)
    raw[3] &= ~(termios.ICANON | termios.ECHO)
    # Suspended it would leave its picture behind and the terminal without echo.
    raw[6][termios.VSUSP] = b"\0"
    termios.tcsetattr(keyboard, termios.TCSADRAIN, raw)
    try:
        yield keyboard
    finally:
        # What was typed and not read is not for the shell.
        termios.tcsetattr(keyboard, termios.TCSAFLUSH, before)


@contextmanager
def _resizes() -> Iterator[int]:
    """Give a descriptor that becomes readable when the terminal got another size."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        before = signal.signal(signal.SIGWINCH, lambda _number, _frame: None)
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield ours.fileno()
        finally:
            signal.set_wakeup_fd(wakeup)
            signal.signal(signal.SIGWINCH, before)


@contextmanager
def _signals(end: Callable[[int, Any], None]) -> Iterator[None]:
    """Have what ends programs come to ``end``, so that the terminal is put right."""
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
