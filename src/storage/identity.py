"""Which engine a data directory and a database are of: the same identity in both, so that two engines' are not mixed.

It is a number by chance, made at the first start of both: a row in PostgreSQL, a small file in the data directory, and
its last 32 bits, the *mark*, in the header of every journal segment, 16 of them in that of every snapshot. Settlement
goes on at a cursor, which is only a number: with the journals of another engine that are long enough it would settle
events of another history.

Rule 1: where both have one and they differ, nobody goes on with the two.
Rule 2: what one of them lacks it gets from the other: a data directory or a database of an earlier version, or one that
was restored from such a backup.
Rule 3: a mark of 0 is not known, and fits every engine: so are segments and snapshots of earlier versions.
It refuses to know what else is in either.
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any, Final

from tradeengine.storage.journal_files import FileOperations, create_file, rename_durably

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg

    Connection = psycopg.Connection[Any]

IDENTITY_NAME: Final = "identity"
"""Of the file in the data directory."""
MARK_UNKNOWN: Final = 0
_MARK_BITS: Final = (1 << 32) - 1
_SHORT_MARK_BITS: Final = (1 << 16) - 1
_REMEDY: Final = (
    "start with the data directory and the database (--data-dir, --dsn) of the same engine; a new engine needs a new "
    "data directory and an empty database"
)


class IdentityError(Exception):
    """Things of two engines were to be used together, or it cannot be known; the message says which, and what to do."""


def bind_identity(connection: Connection, data_dir: Path) -> uuid.UUID:
    """Give the identity of an engine; written where it is missing, made where it is in neither place.

    connection: in autocommit mode. The directory is there, and owned by the caller. Raises IdentityError.
    """
    kept = read_identity(data_dir)
    # The row first: of two engines that begin with one database at once, one gets what the other wrote.
    connection.execute(
        "INSERT INTO engine_identity (identity) VALUES (%s) ON CONFLICT DO NOTHING", (kept or uuid.uuid4(),)
    )
    identity = check_identity(connection, data_dir)
    assert identity is not None
    if kept is None:
        _write(data_dir, identity)
    return identity


def check_identity(connection: Connection, data_dir: Path) -> uuid.UUID | None:
    """Give the identity of an engine, None when neither place has one. Raises IdentityError when they differ."""
    kept, stored = read_identity(data_dir), identity_in(connection)
    refuse_two(str(data_dir / IDENTITY_NAME), kept, name_of(connection), stored)
    return kept or stored


def refuse_two(
    first: str, identity: uuid.UUID | None, second: str, other: uuid.UUID | None, remedy: str = _REMEDY
) -> None:
    """Raise IdentityError when two things, told by name, are known to be of two engines."""
    if identity and other and identity != other:
        raise IdentityError(
            f"{first} says that it is of engine {identity}, and {second} is of engine {other}: they do not belong "
            f"together. Remedy: {remedy}"
        )


def read_identity(data_dir: Path) -> uuid.UUID | None:
    """Read the identity that a data directory, or its copy in a backup, has; None when there is none yet.

    Raises IdentityError when the file cannot be read, or is none.
    """
    path = data_dir / IDENTITY_NAME
    try:
        return uuid.UUID(path.read_text(encoding="ascii").strip())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IdentityError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise IdentityError(
            f"{path} is no identity of an engine. Remedy: put the right file back, or remove it, and the next start "
            "writes it from the database, which must be this engine's"
        ) from None


def identity_in(connection: Connection) -> uuid.UUID | None:
    """Read the identity that a database has; None when it has none yet, or is of an earlier version."""
    if connection.execute("SELECT FROM pg_class WHERE oid = to_regclass('engine_identity')").rowcount == 0:
        return None
    row = connection.execute("SELECT identity FROM engine_identity").fetchone()
    return None if row is None else uuid.UUID(str(row[0]))


def mark_of(data_dir: Path) -> int:
    """Give the mark that the segments of a data directory's journals carry; MARK_UNKNOWN: it has no identity yet.

    Raises IdentityError.
    """
    identity = read_identity(data_dir)
    return MARK_UNKNOWN if identity is None else identity.int & _MARK_BITS or 1


def short_mark(mark: int) -> int:
    """Give what a snapshot carries of a mark: its header has no more room. One in 65,536 is MARK_UNKNOWN."""
    return mark & _SHORT_MARK_BITS


def is_foreign(mark: int, own: int) -> bool:
    """Whether something with this mark is known to be another engine's; both marks of the same length."""
    return mark != own and MARK_UNKNOWN not in (mark, own)


def name_of(connection: Connection) -> str:
    """Name a database as people know it."""
    info = connection.info
    return f"the database {info.dbname} at {info.host}:{info.port}"


def _write(data_dir: Path, identity: uuid.UUID) -> None:
    path = data_dir / IDENTITY_NAME
    files, making = FileOperations(), path.with_suffix(".new")
    try:
        os.close(create_file(files, making, [f"{identity}\n".encode()]))
        rename_durably(files, making, path)
    except OSError as error:
        raise IdentityError(f"{path} cannot be written: {error.strerror}") from None
