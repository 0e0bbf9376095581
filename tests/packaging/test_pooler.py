"""PgBouncer as it runs in a container: by the script that makes its configuration out of config/pgbouncer."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.pgbouncer import CONFIGURATION, START_TIMEOUT_S, needs_pgbouncer
from tests.wallet.service import free_port

from tradeengine.storage.embedded import SYSTEM_USER_NAME

SCRIPT = Path(__file__).parents[2] / "packaging" / "compose" / "pgbouncer"


@needs_pgbouncer
def test_pooler_of_the_composition_knows_who_may_come() -> None:
    """It takes the configuration, listens, is well, refuses a wrong password, and hands a right one's question on."""
    # Not the test's own folder: that is closed to the user that it runs as.
    with tempfile.TemporaryDirectory() as folder:
        here, port = Path(folder), free_port()
        here.chmod(0o755)
        for name, text in (("pgbouncer", SCRIPT.read_text()), ("tradeengine.ini", CONFIGURATION.read_text())):
            (here / name).write_text(text)
            (here / name).chmod(0o755)
        (here / "PGPASSWORD").write_text('right "one"')
        environment = {
            "PATH": "/usr/sbin:/usr/local/sbin:/usr/bin:/bin",
            "SERVER_HOST": "127.0.0.1",
            "SERVER_PORT": str(free_port()),
            "LISTEN_HOST": "127.0.0.1",
            "LISTEN_PORT": str(port),
            "CONFIGURATION": str(here / "tradeengine.ini"),
            "PASSWORD_FILE": str(here / "PGPASSWORD"),
        }
        user = pwd.getpwnam(SYSTEM_USER_NAME).pw_uid if os.geteuid() == 0 else None
        process = subprocess.Popen([here / "pgbouncer"], env=environment, user=user, stderr=subprocess.DEVNULL)
        try:
            deadline_s = time.monotonic() + START_TIMEOUT_S
            while subprocess.run([here / "pgbouncer", "check"], env=environment, capture_output=True).returncode:
                assert process.poll() is None
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            address = make_conninfo(host="127.0.0.1", port=port, user="tradeengine", dbname="tradeengine")
            with pytest.raises(psycopg.OperationalError, match="SASL authentication failed"):
                psycopg.connect(address, password="wrong")
            # Nobody is behind it, and that is what it says to who may come.
            with pytest.raises(psycopg.OperationalError, match=r"connect failed|query_wait_timeout|login"):
                psycopg.connect(address, password='right "one"').execute("SELECT 1")
        finally:
            process.terminate()
            process.wait(START_TIMEOUT_S)
