"""The database from the command line: ``tradeengine migrate``, and connections for other commands."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg

from tradeengine.actors.data_dir import DataDirError, open_data_dir, owner_pid
from tradeengine.actors.outside import check_addresses
from tradeengine.cli.errors import CommandError
from tradeengine.storage.embedded import EmbeddedError, open_embedded, running_embedded
from tradeengine.storage.migrate import MigrationError, check_schema, migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tradeengine.settings import Settings


START_TIMEOUT_S: Final = 10.0
"""A database that a running engine starts, or starts anew, is waited for so long."""
_PAUSE_S: Final = 0.05


def run_migrate(settings: Settings) -> None:
    """Apply what is missing. The embedded server is started for it, unless an engine runs it.

    Raises CommandError, SettingsError.
    """
    check_addresses(settings.database)
    with ExitStack() as stack:
        try:
            applied = migrate(settings.database.direct_dsn or _embedded_dsn(settings, stack))
        except (MigrationError, DataDirError, EmbeddedError) as error:
            raise CommandError(str(error)) from None
        except psycopg.OperationalError as error:
            raise CommandError(f"the database cannot be reached: {one_line(error)}") from None
    sys.stdout.write(f"migrated   {', '.join(applied) or 'nothing was missing'}\n")


def require_engine(settings: Settings) -> None:
    """Make sure that an engine has the data directory. Raises CommandError."""
    if owner_pid(settings.data_dir) is None:
        where = settings.data_dir
        raise CommandError(f"no engine is running in {where}: start one with `tradeengine up --data-dir {where}`")


@contextmanager
def connect(settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    """Connect to the database of a running engine, which may be starting. Raises CommandError, SettingsError."""
    check_addresses(settings.database)
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            connection = _open(settings, settings.database.direct_dsn or _running_dsn(settings))
        except (EmbeddedError, CommandError) as error:
            if owner_pid(settings.data_dir) is None or time.monotonic() > deadline_s:
                raise CommandError(str(error)) from None
            time.sleep(_PAUSE_S)
        else:
            break
    with connection:
        yield connection


@contextmanager
def connect_or_start(settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    """Connect to the database, whether an engine runs or not; it must have this program's schema.

    Without an engine the embedded server is started for as long as this takes. Raises CommandError.
    """
    with ExitStack() as stack:
        try:
            dsn = database_dsn(settings, stack)
            connection = _open(settings, dsn)
            check_schema(dsn)
        except (MigrationError, DataDirError, EmbeddedError) as error:
            raise CommandError(str(error)) from None
        yield stack.enter_context(connection)


def database_dsn(settings: Settings, stack: ExitStack) -> str:
    """Give the connection string of the database, whether an engine runs or not.

    Without an engine the embedded server is started, and stopped with the stack. Raises CommandError, DataDirError,
    EmbeddedError.
    """
    if settings.database.dsn:
        return settings.database.direct_dsn
    if not (settings.data_dir / "postgres" / "PG_VERSION").exists():
        where = settings.data_dir
        raise CommandError(f"no engine was ever started in {where}: run `tradeengine up --data-dir {where}` first")
    return _embedded_dsn(settings, stack)


def _running_dsn(settings: Settings) -> str:
    server = running_embedded(settings.data_dir)
    if server is not None:
        return server.dsn
    require_engine(settings)
    raise CommandError(f"the database of the engine in {settings.data_dir} does not run; see the engine's log")


def _open(settings: Settings, dsn: str) -> psycopg.Connection[Any]:
    try:
        return psycopg.connect(dsn, autocommit=True, connect_timeout=settings.database.connect_timeout_s)
    except psycopg.OperationalError as error:
        raise CommandError(f"the database cannot be reached: {one_line(error)}") from None


def one_line(error: Exception) -> str:
    """Give an error's text on one line."""
    return " ".join(str(error).split())


def _embedded_dsn(settings: Settings, stack: ExitStack) -> str:
    running = running_embedded(settings.data_dir)
    if running is not None:
        return running.dsn
    stack.enter_context(open_data_dir(settings.data_dir))
    return stack.enter_context(open_embedded(settings.data_dir)).dsn
