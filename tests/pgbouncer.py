"""PgBouncer for tests: in the configuration that ``config/pgbouncer`` has, before the tests' own PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tradeengine.storage.embedded import SYSTEM_USER_NAME

PROGRAM: Final = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
CONFIGURATION: Final = Path(__file__).parent.parent / "config" / "pgbouncer" / "pgbouncer.ini"
START_TIMEOUT_S: Final = 30.0

needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed")


@dataclass
class PgBouncer:
    """A pooler that may be ended and started again in its place."""

    folder: Path
    dsn: str
    process: subprocess.Popen[bytes]

    @property
    def console_dsn(self) -> str:
        """Where its own SHOW commands are."""
        return make_conninfo(self.dsn, dbname="pgbouncer")

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(START_TIMEOUT_S)

    def start(self) -> None:
        """Start it again, and wait until it answers."""
        self.process = _start(self.folder)
        _wait(self)


@contextmanager
def running_pgbouncer(dsn: str, folder: Path, **changes: str) -> Iterator[PgBouncer]:
    """Run PgBouncer before a database while the block runs. changes: of its settings beyond those of a test."""
    folder = folder / "pgbouncer"
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    configuration = ConfigParser(interpolation=None)
    configuration.read(CONFIGURATION)
    # As it is in the file, but for where the server is and who may come.
    _, _, query = configuration["databases"]["tradeengine"].partition("connect_query")
    address = f"host={server['host']} port={server['port']} dbname={server['dbname']} user={server['user']}"
    configuration["databases"] = {server["dbname"]: f"{address} connect_query{query}"}
    here: dict[str, str] = {"listen_port": str(port), "auth_type": "any", "admin_users": "postgres"}
    configuration["pgbouncer"].update(here | changes)
    configuration["pgbouncer"].pop("auth_file")
    with (folder / "pgbouncer.ini").open("w", encoding="utf-8") as file:
        configuration.write(file)
    if os.geteuid() == 0:
        for path in (folder, folder / "pgbouncer.ini"):
            shutil.chown(path, SYSTEM_USER_NAME)
        for parent in folder.parents:
            if not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o001)
    # Nothing but the port and the name is needed: any password is right.
    own = make_conninfo(host="127.0.0.1", port=port, user=server["user"], dbname=server["dbname"])
    pooler = PgBouncer(folder, own, _start(folder))
    try:
        _wait(pooler)
        yield pooler
    finally:
        pooler.process.send_signal(signal.SIGINT)
        try:
            pooler.process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pooler.kill()


def _start(folder: Path) -> subprocess.Popen[bytes]:
    assert PROGRAM is not None
    # It refuses to run as root; and the socket of the tests' server lets its owner in only.
    user = pwd.getpwnam(SYSTEM_USER_NAME) if os.geteuid() == 0 else None
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [PROGRAM, "-q", str(folder / "pgbouncer.ini")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
        )


def _wait(pooler: PgBouncer) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        with suppress(psycopg.OperationalError), psycopg.connect(pooler.dsn, connect_timeout=5) as connection:
            connection.execute("SELECT 1")
            return
        said = (pooler.folder / "log").read_text(encoding="utf-8", errors="replace")
        assert pooler.process.poll() is None, said
        assert time.monotonic() < deadline_s, said
        time.sleep(0.02)
