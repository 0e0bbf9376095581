"""The database's half of a backup: one snapshot, dumped by ``pg_dump`` and put back by ``pg_restore``.

Rule 1: the snapshot is taken first and everything is read from it: the cursors that say which events are in it, and the
dump, however long that takes. It holds up nobody: readers lock out neither settlement nor new partitions.
Rule 2: PostgreSQL's own programs do it, those of the wheel or newer ones on the PATH: they know what is in a database.
Passwords go by the environment, because everybody sees a command line.
Rule 3: a restore is one transaction into a database without tables: it is there whole or not at all.
It refuses to know journals and folders.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tradeengine.storage.embedded import POSTGRES_VERSION, EmbeddedError, postgres_programs
from tradeengine.storage.recovery import settled_cursors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Connection = psycopg.Connection[Any]

COMPRESSION: Final = "gzip:1"
"""Most of a dump are numbers: more effort takes long and saves little."""


class BackupError(Exception):
    """A backup that could not be made, is not whole, or cannot be restored here; the message says what to do."""


@dataclass(frozen=True, slots=True)
class DatabaseView:
    """A snapshot of the database, open as long as the block that gave it."""

    connection: Connection
    snapshot: str
    cursors: dict[int, int]
    """Sequence of the next event to settle, by shard; -1 is risk's ring."""
    migrations: tuple[str, ...]
    server_version: int
    """As PostgreSQL numbers itself: 180001."""
    byte_count: int


@contextmanager
def open_view(dsn: str, connect_timeout_s: int) -> Iterator[DatabaseView]:
    """Open a snapshot. Raises psycopg.Error."""
    with psycopg.connect(
        dsn, connect_timeout=connect_timeout_s, application_name="tradeengine-backup", options=_OPTIONS
    ) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        cursors = settled_cursors(connection)
        yield DatabaseView(
            connection=connection,
            snapshot=_value(connection, "SELECT pg_export_snapshot()"),
            cursors=cursors,
            migrations=applied_migrations(connection),
            server_version=connection.info.server_version,
            byte_count=int(_value(connection, "SELECT pg_database_size(current_database())")),
        )


def applied_migrations(connection: Connection) -> tuple[str, ...]:
    """Names of the migrations that a database has had, in their order."""
    rows = connection.execute("SELECT migration_id FROM _yoyo_migration ORDER BY migration_id").fetchall()
    return tuple(str(row[0]) for row in rows)


def table_count(dsn: str, connect_timeout_s: int) -> int:
    """How many tables the database has, those of PostgreSQL itself left out. Raises psycopg.Error."""
    with psycopg.connect(dsn, connect_timeout=connect_timeout_s) as connection:
        return int(_value(connection, _TABLE_COUNT))


def dump_database(dsn: str, view: DatabaseView, path: Path) -> None:
    """Dump what the view sees into a file of PostgreSQL's custom format. Raises BackupError."""
    program = _program("pg_dump", view.server_version // 10_000)
    arguments = ["--format=custom", f"--compress={COMPRESSION}", f"--snapshot={view.snapshot}", "--no-owner"]
    _run(program, [*arguments, f"--file={path}"], dsn)


def restore_database(dsn: str, path: Path, server_version: int) -> None:
    """Put a dump into an empty database, all of it or nothing. Raises BackupError, psycopg.Error.

    The rights are given anew: the roles of the server that was dumped need not be here.
    """
    program = _program("pg_restore", server_version // 10_000)
    arguments = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"]
    _run(program, [*arguments, str(path)], dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute(_RIGHTS)


def _program(name: str, server_major: int) -> str:
    """Find a program that can talk to this server: newer ones can talk to older servers, not the other way."""
    if server_major <= POSTGRES_VERSION:
        try:
            return str(postgres_programs() / name)
        except EmbeddedError:
            pass
    found = shutil.which(name)
    needed = f"{name} of PostgreSQL {server_major} or newer is needed for this server: install it (Debian: "
    needed += f"postgresql-client-{server_major}) and put it on the PATH"
    if found is None:
        raise BackupError(needed)
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"(\d+)", said)
    if match is None or int(match[1]) < server_major:
        raise BackupError(f"{needed}; {found} is {said.strip()}")
    return found


def _run(program: str, arguments: list[str], dsn: str) -> None:
    parameters = conninfo_to_dict(dsn)
    password = parameters.pop("password", None)
    secret = {"PGPASSWORD": str(password)} if password else {}
    target = make_conninfo("", **parameters)
    try:
        process = subprocess.run(
            [program, *arguments, f"--dbname={target}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C", "PGOPTIONS": _OPTIONS, **secret},
            # What is dumped has everybody's orders and money in it.
            umask=0o077,
            check=False,
        )
    except OSError as error:
        raise BackupError(f"{program} cannot be run: {error.strerror}") from None
    if process.returncode != 0:
        name = program.rpartition("/")[2]
        said = " ".join(process.stderr.split()) or f"status {process.returncode}"
        raise BackupError(f"{name} failed: {said}")


def _value(connection: Connection, query: str) -> Any:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


_OPTIONS: Final = "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0"

# What migrations gave and took away (0014.audit, 0015.operator_views), of a database that had them.
_RIGHTS: Final = """
DO $$ BEGIN
    IF to_regclass('public.audit') IS NOT NULL THEN
        REVOKE UPDATE, DELETE, TRUNCATE ON public.audit FROM PUBLIC, CURRENT_USER;
    END IF;
END $$;
DO $$ BEGIN
    IF to_regrole('tradeengine_reader') IS NULL AND to_regnamespace('operators') IS NOT NULL THEN
        CREATE ROLE tradeengine_reader NOLOGIN;
    END IF;
EXCEPTION WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN
    NULL;
END $$;
DO $$ BEGIN
    GRANT pg_read_all_stats TO tradeengine_reader;
EXCEPTION WHEN insufficient_privilege OR undefined_object OR unique_violation OR internal_error THEN
    NULL;
END $$;
DO $$ BEGIN
    IF to_regnamespace('operators') IS NOT NULL THEN
        REVOKE ALL ON ALL FUNCTIONS IN SCHEMA operators FROM PUBLIC;
        IF to_regrole('tradeengine_reader') IS NOT NULL THEN
            GRANT USAGE ON SCHEMA operators TO tradeengine_reader;
            GRANT SELECT ON ALL TABLES IN SCHEMA operators TO tradeengine_reader;
            GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA operators TO tradeengine_reader;
        END IF;
    END IF;
END $$;
"""

_TABLE_COUNT: Final = """
SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'p') AND nspname NOT IN ('pg_catalog', 'information_schema') AND nspname NOT LIKE 'pg_toast%'
"""
