"""The embedded server: made once, found again, adopted, never shared by mistake."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tradeengine.storage import embedded
from tradeengine.storage.embedded import (
    EmbeddedError,
    open_embedded,
    running_embedded,
    start_embedded,
    stop_embedded,
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One data directory for the module: making a cluster takes a second."""
    path = tmp_path_factory.mktemp("data")
    with open_embedded(path) as server, psycopg.connect(server.dsn) as connection:
        connection.execute("CREATE TABLE kept (value integer)")
        connection.execute("INSERT INTO kept VALUES (7)")
    yield path
    stop_embedded(path)


def test_data_outlives_server(data_dir: Path) -> None:
    """What was committed is there at the next start, and after the end nothing runs."""
    with open_embedded(data_dir) as server, psycopg.connect(server.dsn) as connection:
        assert connection.execute("SELECT value FROM kept").fetchone() == (7,)
        assert not server.adopted
    assert running_embedded(data_dir) is None


def test_listens_on_no_network(data_dir: Path) -> None:
    """The server has a Unix socket in a closed folder and no TCP port."""
    with open_embedded(data_dir) as server, psycopg.connect(server.dsn) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        assert server.directory.stat().st_mode & 0o077 == 0
        sockets = subprocess.run(["cat", f"/proc/{server.pid}/net/tcp"], capture_output=True, text=True, check=True)
        inodes = {line.split()[9] for line in sockets.stdout.splitlines()[1:]}
        ours = {os.readlink(link) for link in Path(f"/proc/{server.pid}/fd").iterdir()}  # noqa: PTH115 - the text counts
        assert not {f"socket:[{inode}]" for inode in inodes} & ours


def test_commits_wait_for_the_disk(data_dir: Path) -> None:
    """No setting trades durability away."""
    with open_embedded(data_dir) as server, psycopg.connect(server.dsn) as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute(f"SHOW {name}").fetchone() == ("on",), name


def test_adopts_server_of_killed_engine(data_dir: Path) -> None:
    """A server that a killed engine left running is used as it is, and stopped at the end."""
    program = f"""
        import os, signal
        from pathlib import Path
        from tradeengine.storage.embedded import start_embedded
        print(start_embedded(Path({str(data_dir)!r})).pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with open_embedded(data_dir) as server:
        assert server.adopted
        assert server.pid == int(killed.stdout)
    assert running_embedded(data_dir) is None


def test_survives_interrupt_of_terminal(data_dir: Path) -> None:
    """Ctrl-C reaches every process of the terminal's group; the server is in another."""
    with open_embedded(data_dir) as server:
        assert os.getpgid(server.pid) != os.getpgid(0)


def test_starts_over_after_kill(data_dir: Path) -> None:
    """A server that was killed left its pid file; the next start recovers and goes on."""
    server = start_embedded(data_dir)
    pidfd = os.pidfd_open(server.pid)
    os.kill(server.pid, signal.SIGKILL)
    _wait_gone(pidfd)
    with open_embedded(data_dir) as again, psycopg.connect(again.dsn) as connection:
        assert not again.adopted
        assert connection.execute("SELECT value FROM kept").fetchone() == (7,)


def test_pid_of_another_process_is_no_server(data_dir: Path) -> None:
    """A pid file whose number now belongs to another program does not count as a running server."""
    pid_file = data_dir / "postgres" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{data_dir / 'postgres'}\n0\n5432\n/tmp\n\n0\nready\n")
    assert running_embedded(data_dir) is None
    pid_file.unlink()


def test_refuses_damaged_pid_file(data_dir: Path) -> None:
    """A pid file that says nothing is named, with what to do."""
    pid_file = data_dir / "postgres" / "postmaster.pid"
    pid_file.write_text("garbage")
    with pytest.raises(EmbeddedError, match=r"postmaster\.pid is damaged"):
        start_embedded(data_dir)
    pid_file.unlink()


def test_refuses_folder_of_another_version(data_dir: Path) -> None:
    """A cluster of another major version is refused with both versions named."""
    version = data_dir / "postgres" / "PG_VERSION"
    text = version.read_text()
    version.write_text("15\n")
    try:
        with pytest.raises(EmbeddedError, match="made by PostgreSQL 15, this program brings 18"):
            start_embedded(data_dir)
    finally:
        version.write_text(text)


def test_refuses_foreign_files(tmp_path: Path) -> None:
    """A folder that holds something else is not turned into a database."""
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "notes.txt").write_text("mine")
    with pytest.raises(EmbeddedError, match=r"notes\.txt"):
        start_embedded(tmp_path)


def test_long_data_directory_gets_short_socket(tmp_path: Path) -> None:
    """Where the path is too long for a Unix socket, the socket lies in a private folder with a short one."""
    long = tmp_path / ("x" * 100) / "with space"
    with open_embedded(long) as server, psycopg.connect(server.dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        folder = Path(psycopg.conninfo.conninfo_to_dict(server.dsn)["host"])  # type: ignore[arg-type]
        assert folder != server.directory
        assert folder.stat().st_mode & 0o077 == 0
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(folder / f".s.PGSQL.{embedded.PORT}"))
    # The same folder is found again.
    with open_embedded(long) as server:
        assert not server.adopted


def _wait_gone(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(30_000)
    os.close(pidfd)
