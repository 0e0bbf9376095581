"""Whole engines for tests: started by the command line as a user would, on a free port and a directory of their own.

Everything is waited for by an event: the line that begins with ``ready``, the end of a process. What an engine wrote to
standard error is shown when it does not behave.
"""

from __future__ import annotations

import atexit
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx2

from tradeengine.actors.data_dir import LOCK_NAME, read_secret
from tradeengine.ipc.client import ask
from tradeengine.storage.embedded import DIRECTORY_NAME, open_embedded, running_embedded, stop_embedded
from tradeengine.web.auth import issue_token

PROGRAM: Final = (sys.executable, "-m", "tradeengine.cli.app")
READY_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 40.0
COMMAND_TIMEOUT_S: Final = 110.0
"""A busy machine is slow; a command that hangs is named before the test's own time is over."""
SMALL: Final[Mapping[str, str]] = {
    "TRADEENGINE_LIMITS_ACCOUNTS_MAX": "4096",
    "TRADEENGINE_LIMITS_CLIENT_IDS_MAX": "65536",
    "TRADEENGINE_RINGS_EVENTS_SLOTS": "65536",
    "TRADEENGINE_SETTLEMENT_BACKLOG_EVENTS_MAX": "32768",
    "TRADEENGINE_JOURNAL_SEGMENT_BYTES": "1048576",
    "TRADEENGINE_KEEPER_PARTITION_MONTHS_AHEAD": "1",
    "TRADEENGINE_KEEPER_PARTITION_DAYS_AHEAD": "1",
}
"""Settings that start sooner and need less disk; nothing behaves differently for them."""


@dataclass
class Engine:
    """An engine in processes of its own. ``lines``: what it printed up to ``ready``."""

    process: subprocess.Popen[str]
    data_dir: Path
    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    readers: list[threading.Thread] = field(default_factory=list)
    printed: queue.Queue[str | None] = field(default_factory=queue.Queue)
    """What it prints, line by line, and None at the end; up to ``ready`` they are taken from here."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return _find(r"listening\s+(\S+)", self.lines)

    @property
    def demo_token(self) -> str:
        """Token of ``demo-1``."""
        return _find(r"token\s+(\S+)", self.lines)

    @property
    def curl_line(self) -> str:
        """The line to paste."""
        return _find(r"try\s+(curl .*)", self.lines)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the program on the same data directory."""
        return run_command(*arguments, "--data-dir", str(self.data_dir))

    def token(self, user: str, role: str = "user") -> str:
        """Token for a user."""
        result = self.command("token", user, "--role", role)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def deposit(self, user: str, asset: str, amount: str) -> None:
        """Credit a user; returns when that is settled."""
        result = self.command("deposit", user, asset, amount)
        assert result.returncode == 0, result.stderr

    def client(self, user: str | None = None, role: str = "user") -> httpx2.Client:
        """HTTP client, with a user's token if one is named; to be closed by the caller."""
        headers = {}
        if user is not None:
            # Not by the command line: a process for every client would be most of a test's time.
            secret = read_secret(self.data_dir).encode()
            headers["Authorization"] = f"Bearer {issue_token(secret, user, role, 3600)}"
        return httpx2.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=20)

    def actors(self) -> dict[str, int]:
        """Process ids of the actors by name, as the operating system sees them."""
        found = self._processes()
        found.pop("zygote", None)
        return found

    def zygote(self) -> int:
        """Process id of the zygote."""
        return self._processes()["zygote"]

    def _processes(self) -> dict[str, int]:
        """Process ids by what a process calls itself; those of this engine hold its data directory's lock."""
        found = {}
        lock = (self.data_dir / LOCK_NAME).resolve()
        for process in Path("/proc").glob("[0-9]*"):
            # It may end between any two looks.
            with suppress(OSError):
                program, _, name = (process / "cmdline").read_bytes().rstrip(b"\0 ").decode().partition(" ")
                if program == "tradeengine" and any(fd.readlink() == lock for fd in (process / "fd").iterdir()):
                    found[name] = int(process.name)
        return found

    def demo_traders(self) -> int | None:
        """Process id of the demo traders; None: there is none, and no number that a signal could be sent to."""
        for pid in _children_of(self.process.pid):
            with suppress(FileNotFoundError, ProcessLookupError):
                if b"tradeengine.cli.demo_process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return None

    def kill_actor(self, name: str) -> None:
        """Kill an actor as the kernel would when memory runs out."""
        os.kill(self.actors()[name], signal.SIGKILL)

    def standing_still(self, *names: str) -> AbstractContextManager[None]:
        """Let actors stand still while the block runs."""
        pids = self.actors()
        return standing_still(*(pids[name] for name in names))

    @property
    def dsn(self) -> str:
        """Connection string of its embedded database."""
        running = running_embedded(self.data_dir)
        assert running is not None
        return running.dsn

    def wait_for_file(self, path: Path) -> None:
        """Wait until a file is there."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while not path.exists():
            assert time.monotonic() < deadline_s, f"no {path}; the engine said:\n{''.join(self.errors)}"
            time.sleep(0.005)

    def stop(self, how: int = signal.SIGINT) -> int:
        """Ask it to stop and wait; returns the exit status."""
        self.process.send_signal(how)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; returns the exit status."""
        try:
            status = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the engine did not end; it said:\n{''.join(self.errors)}") from None
        if not self.lines and self.process.stdout is not None:
            self.process.stdout.close()
        for reader in self.readers:
            reader.join(STOP_TIMEOUT_S)  # it closes its pipe
        return status


@contextmanager
def running_engine(
    data_dir: Path, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Engine]:
    """Run an engine while the block runs; it is ready when the block begins."""
    engine = start_engine(data_dir, arguments, environment)
    try:
        wait_ready(engine)
        yield engine
    finally:
        if engine.process.poll() is None:
            engine.stop()
        # A supervisor that was killed leaves its database running, for the next one to adopt.
        stop_embedded(data_dir)


def start_engine(
    data_dir: Path,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    *,
    lent: bool = True,
) -> Engine:
    """Start an engine without waiting for it. ``lent``: a first start finds a database that is made already."""
    if lent and "--dsn" not in arguments and "TRADEENGINE_DATABASE_DSN" not in (environment or {}):
        _lend_database(data_dir)
    process = subprocess.Popen(
        [*PROGRAM, "up", "--port", "0", "--data-dir", str(data_dir), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **SMALL, **(environment or {})},
    )
    engine = Engine(process, data_dir)
    engine.readers.append(threading.Thread(target=_collect, args=(process.stderr, engine.errors), daemon=True))
    engine.readers[-1].start()
    return engine


def _lend_database(data_dir: Path) -> None:
    """Put an empty PostgreSQL into a new data directory: to make one takes each first start a second."""
    if not data_dir.exists() or not any(data_dir.iterdir()):
        data_dir.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "--archive", str(_empty_database()), str(data_dir)], check=True)


@cache
def _empty_database() -> Path:
    """Make one without tables as an engine does, once in this process."""
    folder = tempfile.TemporaryDirectory(prefix="empty-")
    atexit.register(folder.cleanup)
    with open_embedded(Path(folder.name)):
        return Path(folder.name) / DIRECTORY_NAME


def wait_ready(engine: Engine, timeout_s: float = READY_TIMEOUT_S) -> None:
    """Wait for the line that begins with ``ready``. Raises AssertionError with what the engine said instead.

    timeout_s: for each line.
    """

    def read() -> None:
        assert engine.process.stdout is not None
        with engine.process.stdout as stdout:
            for line in stdout:
                engine.printed.put(line)
        engine.printed.put(None)

    engine.readers.append(threading.Thread(target=read, daemon=True))
    engine.readers[-1].start()
    while not (engine.lines and engine.lines[-1].startswith("ready")):
        try:
            line = engine.printed.get(timeout=timeout_s)
        except queue.Empty:
            line = None
        if line is None:
            engine.process.kill()
            engine.process.wait()
            raise AssertionError(f"the engine was never ready; it said:\n{''.join(engine.errors)}")
        engine.lines.append(line.rstrip("\n"))


def wait_restarted(engine: Engine, name: str, first_pid: int) -> None:
    """Wait until another process than ``first_pid`` is that actor, and orders are accepted again."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while engine.actors().get(name, first_pid) == first_pid or not _accepts_orders(engine):
        assert time.monotonic() < deadline_s, f"{name} did not come back; the engine said:\n{''.join(engine.errors)}"
        time.sleep(0.02)


@contextmanager
def standing_still(*pids: int) -> Iterator[None]:
    """Let processes stand still while the block runs, as a debugger or a frozen machine would."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def database_away(engine: Engine) -> Iterator[None]:
    """End the embedded database, and let no start of it succeed before the block ends."""
    server = running_embedded(engine.data_dir)
    assert server is not None
    configuration = server.directory / "tradeengine.conf"
    configuration.unlink()
    configuration.mkdir()
    os.kill(server.pid, signal.SIGINT)
    try:
        yield
    finally:
        configuration.rmdir()


def wait_database_restarted(engine: Engine, first_pid: int) -> None:
    """Wait until another process than ``first_pid`` is the embedded database, and everything is ready again."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while _database_pid(engine) in {0, first_pid} or not _accepts_orders(engine):
        assert time.monotonic() < deadline_s, f"no database; the engine said:\n{''.join(engine.errors)}"
        time.sleep(0.02)


def _database_pid(engine: Engine) -> int:
    actors = ask(engine.data_dir, "status")["actors"]
    return next(int(actor["pid"]) for actor in actors if actor["name"] == "database")


def _accepts_orders(engine: Engine) -> bool:
    try:
        answer = httpx2.get(f"{engine.url}/ready", timeout=5)
    except httpx2.TransportError:
        return False
    return answer.status_code == 200 and answer.json()["data"]["status"] == "ready"


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the program to its end."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        env={**os.environ, **SMALL, **environment},
        check=False,
    )


def is_alive(pid: int) -> bool:
    """Whether that process runs and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def _children_of(pid: int) -> list[int]:
    children = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end between the two looks; its children are another's then.
        with suppress(FileNotFoundError, ProcessLookupError):
            children += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
    return children


def _collect(stream: Any, lines: list[str]) -> None:
    with stream:
        lines.extend(stream)


def _find(pattern: str, lines: Sequence[str]) -> str:
    for line in lines:
        match = re.match(pattern, line)
        if match is not None:
            return match.group(1)
    raise AssertionError(f"no line like {pattern!r} in {lines}")
