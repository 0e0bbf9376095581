"""The wallet service as a program: its database, its socket, and an orderly end.

Rule 1: it shares nothing with an engine but the file with the secret: it may start, stop and be killed at any time.
Rule 2: without a database of the operator's it keeps one of its own in its folder.
It refuses to know what the calls do.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import trio
from hypercorn.config import Config

from tradeengine.settings_files import package_folder
from tradeengine.storage.embedded import open_embedded
from tradeengine.storage.migrate import migrate
from tradeengine.wallet_service.app import create_app
from tradeengine.wallet_service.store import SCHEMA
from tradeengine.wallet_service.writer import Writer
from tradeengine.web.database import Database
from tradeengine.web.server import Server

BACKLOG: Final = 128
HEADER_BYTES_MAX: Final = 16 * 1024
KEEP_ALIVE_S: Final = 75
STOP_TIMEOUT_S: Final = 5.0
STATEMENT_TIMEOUT_MS: Final = 10_000
CONNECT_TIMEOUT_S: Final = 10
CONNECTIONS: Final = 4
"""One writes, the others read."""


@contextmanager
def open_database(dsn: str, folder: Path) -> Iterator[str]:
    """Give a database with the service's schema: the one named, or one that is kept in ``folder``.

    The caller owns the folder. Raises MigrationError, EmbeddedError, psycopg.Error.
    """
    with ExitStack() as stack:
        dsn = dsn or stack.enter_context(open_embedded(folder)).dsn
        migrate(dsn, package_folder("migrations") / "wallet", SCHEMA)
        yield dsn


def run_service(dsn: str, secret: str, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; the line that begins with ``ready`` says where. Raises OSError."""
    with socket.create_server(
        (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
    ) as listener:
        trio.run(_serve, dsn, secret, listener)
    with suppress(OSError):
        os.write(sys.stdout.fileno(), b"stopped\n")


async def _serve(dsn: str, secret: str, listener: socket.socket) -> None:
    database = Database(
        dsn, size=CONNECTIONS, statement_timeout_ms=STATEMENT_TIMEOUT_MS, connect_timeout_s=CONNECT_TIMEOUT_S
    )
    writer = Writer(database)
    server = Server(create_app(database, writer, secret), _hypercorn_config(), listener)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:

        async def asked_to_end() -> None:
            async for _ in signals:
                return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            async with trio.open_nursery() as serving:
                await serving.start(server.run, asked_to_end)
                # What was imported stays: scanning it again and again would stop requests for long.
                gc.collect()
                gc.freeze()
                _announce(listener)
            nursery.cancel_scope.cancel()
    database.close()


def _announce(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    sys.stdout.write(f"ready      http://{f'[{host}]' if ':' in host else host}:{port}; Ctrl-C stops\n")
    sys.stdout.flush()


def _hypercorn_config() -> Config:
    config = Config()
    config.h11_max_incomplete_size = HEADER_BYTES_MAX
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.keep_alive_max_requests = 1 << 62
    config.graceful_timeout = STOP_TIMEOUT_S
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("tradeengine.wallet.http")
    return config
