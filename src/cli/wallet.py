"""``tradeengine wallet``: the reference wallet service in the foreground."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import psycopg

from tradeengine.actors.data_dir import DataDirError, ensure_secret, open_data_dir
from tradeengine.actors.outside import check_dsn
from tradeengine.cli.database import one_line
from tradeengine.cli.errors import CommandError
from tradeengine.ipc.logs import configure_logs
from tradeengine.storage.embedded import EmbeddedError
from tradeengine.storage.migrate import MigrationError
from tradeengine.wallet_service.serve import open_database, run_service

if TYPE_CHECKING:
    from tradeengine.settings import Settings


def run_wallet(settings: Settings, host: str, port: int, dsn: str) -> None:
    """Run until Ctrl-C. Raises CommandError, SettingsError."""
    check_dsn(dsn)
    configure_logs(settings.log, "wallet-service")
    folder = settings.wallet_dir
    with ExitStack() as stack:
        try:
            stack.enter_context(open_data_dir(folder))
            secret = settings.wallet.secret or ensure_secret(folder)
            opened = stack.enter_context(open_database(dsn, folder))
        except (DataDirError, EmbeddedError, MigrationError) as error:
            raise CommandError(str(error)) from None
        except psycopg.Error as error:
            raise CommandError(f"the database cannot be used: {one_line(error)}") from None
        try:
            run_service(opened, secret, host, port)
        except OSError as error:
            raise CommandError(f"{host}:{port} cannot be listened on: {error.strerror}") from None
