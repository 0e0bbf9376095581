"""Tests of backups may ask for a database."""

from tests.postgres import connection, dsn, make_database, postgres, symbol

__all__ = ["connection", "dsn", "make_database", "postgres", "symbol"]
