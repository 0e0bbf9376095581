"""Bring a database to the schema that this program speaks.

Rule 1: the schema is plain SQL in ``migrations/``, numbered, a rollback beside each file; yoyo keeps the record.
Rule 2: one at a time: an advisory lock, which unlike a row of a lock table dies with the process that holds it.
Rule 3: a database that is newer than the program, or too old a server, is refused before anything is changed.
It refuses to know what the tables are for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from tradeengine.settings_files import package_folder

SERVER_VERSION_MIN: Final = 140_000
MIGRATION_LOCK_KEY: Final = 0x7452_6164_6500_0001
"""Advisory lock, one per database. The last digit tells the engine's locks apart."""


class MigrationError(Exception):
    """The database cannot be used with this program; the message says why and what to do."""


def migrate(dsn: str, folder: Path | None = None, schema: str = "public") -> list[str]:
    """Apply what is missing and return the names of what was applied.

    dsn: as URL or key=value string. schema: where the tables are and the record of what was applied, made when missing;
    so two programs can share a database. Raises MigrationError for a server before version 14 or a database with
    migrations that this program does not know, psycopg.Error when the database cannot be reached or a statement fails
    (nothing of that file is then applied).
    """
    with _backend(dsn, folder, schema) as (backend, migrations):
        missing = backend.to_apply(migrations)
        backend.apply_migrations(missing)
        return [migration.id for migration in missing]


def roll_back(dsn: str, folder: Path | None = None) -> list[str]:
    """Undo every migration, newest first; all data is gone then. Raises as ``migrate`` does."""
    with _backend(dsn, folder) as (backend, migrations):
        applied = backend.to_rollback(migrations)
        backend.rollback_migrations(applied)
        return [migration.id for migration in applied]


def check_schema(dsn: str, folder: Path | None = None) -> None:
    """Raise MigrationError unless the database has exactly the migrations of this program."""
    with _backend(dsn, folder) as (backend, migrations):
        missing = [migration.id for migration in backend.to_apply(migrations)]
        if missing:
            raise MigrationError(f"the database misses {', '.join(missing)}: run `tradeengine migrate`")


@contextmanager
def _backend(dsn: str, folder: Path | None, schema: str = "public") -> Iterator[tuple[Any, Any]]:
    with warnings.catch_warnings():
        # yoyo's SQLite driver registers adapters that newer Pythons deprecate; ours is PostgreSQL.
        warnings.simplefilter("ignore", DeprecationWarning)
        from yoyo import read_migrations
        from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
        from yoyo.connections import DatabaseURI
        from yoyo.migrations import default_migration_table

    connection = psycopg.connect(dsn, autocommit=True, application_name="tradeengine-migrate")
    connection.execute("SET client_min_messages = warning")

    class Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]  # yoyo is untyped
        """yoyo on a connection that psycopg opened (it would parse only URLs), a migration and its record as one."""

        list_tables_sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"

        def connect(self, _uri: object) -> psycopg.Connection:
            return connection

        def copy(self) -> nullcontext[Backend]:
            return nullcontext(self)

        def apply_one(self, *args: Any, **kwargs: Any) -> None:
            with self.transaction():
                super().apply_one(*args, **kwargs)

        def rollback_one(self, *args: Any, **kwargs: Any) -> None:
            with self.transaction():
                super().rollback_one(*args, **kwargs)

    with connection:
        check_server(connection)
        connection.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK_KEY,))
        if schema != "public":
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
            connection.execute("SELECT set_config('search_path', %s, false)", (schema,))
        uri = DatabaseURI("postgresql+psycopg", None, None, None, None, connection.info.dbname, {})
        backend = Backend(uri, default_migration_table)
        backend.init_database()
        migrations = read_migrations(str(folder or package_folder("migrations")))
        backend.ensure_internal_schema_updated()
        _refuse_unknown(backend, migrations)
        yield backend, migrations


def check_server(connection: psycopg.Connection[Any]) -> None:
    """Raise MigrationError when the server is older than PostgreSQL 14."""
    version = connection.info.server_version
    if version < SERVER_VERSION_MIN:
        raise MigrationError(f"PostgreSQL {version // 10_000} is too old: the engine needs version 14 or newer")


def _refuse_unknown(backend: Any, migrations: Any) -> None:
    unknown = set(backend.get_applied_migration_hashes()) - {migration.hash for migration in migrations}
    if unknown:
        raise MigrationError(
            f"the database has {len(unknown)} migrations that this program does not know: a newer version used it"
        )
