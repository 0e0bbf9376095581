"""The identity of an engine: in its data directory and in its database the same, and never two engines' together."""

from __future__ import annotations

import stat
import uuid
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tradeengine.storage.identity import (
    IDENTITY_NAME,
    MARK_UNKNOWN,
    IdentityError,
    bind_identity,
    check_identity,
    identity_in,
    is_foreign,
    mark_of,
    read_identity,
    short_mark,
)


def folder(tmp_path: Path, name: str) -> Path:
    """Make a data directory."""
    made = tmp_path / name
    made.mkdir()
    return made


def test_first_start_makes_one_and_later_ones_keep_it(connection: psycopg.Connection, tmp_path: Path) -> None:
    """The first start writes one into both, for its owner's eyes; every later one finds it, and nothing else there."""
    assert (read_identity(tmp_path), identity_in(connection), mark_of(tmp_path)) == (None, None, MARK_UNKNOWN)
    assert check_identity(connection, tmp_path) is None
    made = bind_identity(connection, tmp_path)
    assert made.version == 4
    for _ in range(2):
        assert bind_identity(connection, tmp_path) == check_identity(connection, tmp_path) == made
        assert read_identity(tmp_path) == identity_in(connection) == made
    assert mark_of(tmp_path) == int(str(made)[-8:], 16) != MARK_UNKNOWN
    assert [path.name for path in tmp_path.iterdir()] == [IDENTITY_NAME]
    assert stat.S_IMODE((tmp_path / IDENTITY_NAME).stat().st_mode) == 0o600


def test_what_one_lacks_comes_from_the_other(make_database: Callable[[str], str], tmp_path: Path) -> None:
    """A directory without its file, and a database without its row, take up what the other has."""
    own = folder(tmp_path, "own")
    with psycopg.connect(make_database("tradeengine"), autocommit=True) as connection:
        made = bind_identity(connection, own)
        (own / IDENTITY_NAME).unlink()
        assert bind_identity(connection, own) == read_identity(own) == made
    with psycopg.connect(make_database("tradeengine"), autocommit=True) as restored:
        assert bind_identity(restored, own) == identity_in(restored) == made


def test_two_engines_are_refused_with_both_names(make_database: Callable[[str], str], tmp_path: Path) -> None:
    """File and database of two engines are refused with both, and what to do; neither is changed."""
    first, second = folder(tmp_path, "first"), folder(tmp_path, "second")
    with (
        psycopg.connect(make_database("tradeengine"), autocommit=True) as one,
        psycopg.connect(make_database("tradeengine"), autocommit=True) as two,
    ):
        made, other = bind_identity(one, first), bind_identity(two, second)
        assert made != other
        for look in (check_identity, bind_identity):
            with pytest.raises(IdentityError) as refusal:
                look(two, first)
            words = str(refusal.value)
            assert words.startswith(f"{first / IDENTITY_NAME} says that it is of engine {made}, and the database ")
            assert f"the database {two.info.dbname} at {two.info.host}" in words
            assert f"is of engine {other}: they do not belong together. Remedy: start with" in words
            assert "\n" not in words
        assert (read_identity(first), identity_in(two)) == (made, other)


def test_two_first_starts_on_one_database_get_one_identity(connection: psycopg.Connection, tmp_path: Path) -> None:
    """Who begins second with a new database gets what the first one wrote, though its own directory is new, too."""
    first, second = folder(tmp_path, "first"), folder(tmp_path, "second")
    assert bind_identity(connection, first) == bind_identity(connection, second)


def test_database_of_an_earlier_version_has_none(make_database: Callable[[str], str], tmp_path: Path) -> None:
    """Without the table nothing is known, also within a transaction that goes on."""
    with psycopg.connect(make_database("template1")) as connection:
        assert check_identity(connection, tmp_path) is None
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_row_is_one(connection: psycopg.Connection, tmp_path: Path) -> None:
    """A database cannot have a second identity."""
    bind_identity(connection, tmp_path)
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute("INSERT INTO engine_identity (identity) VALUES (%s)", (uuid.uuid4(),))
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("INSERT INTO engine_identity VALUES (false, %s)", (uuid.uuid4(),))


@pytest.mark.parametrize("content", [b"", b"4711\n", b"\xff" * 36, b"not-an-identity"])
def test_file_that_is_none_is_refused(connection: psycopg.Connection, tmp_path: Path, content: bytes) -> None:
    """A damaged file is refused by name, with what to do, and is not written over."""
    (tmp_path / IDENTITY_NAME).write_bytes(content)
    with pytest.raises(IdentityError, match=f"{tmp_path / IDENTITY_NAME} is no identity of an engine. Remedy: "):
        bind_identity(connection, tmp_path)
    assert (tmp_path / IDENTITY_NAME).read_bytes() == content
    assert identity_in(connection) is None


def test_file_that_cannot_be_read_or_written_is_refused(connection: psycopg.Connection, tmp_path: Path) -> None:
    """Something else in the file's place, or no directory to write it into, is told by name."""
    (tmp_path / IDENTITY_NAME).mkdir()
    with pytest.raises(IdentityError, match=f"{tmp_path / IDENTITY_NAME} cannot be read: Is a directory"):
        mark_of(tmp_path)
    gone = tmp_path / "gone"
    with pytest.raises(IdentityError, match=f"{gone / IDENTITY_NAME} cannot be written: No such file"):
        bind_identity(connection, gone)


def test_torn_attempt_is_no_identity(connection: psycopg.Connection, tmp_path: Path) -> None:
    """What a start that was killed while writing left behind is replaced by what the database says."""
    (tmp_path / f"{IDENTITY_NAME}.new").write_text("6f1")
    made = bind_identity(connection, tmp_path)
    assert read_identity(tmp_path) == made
    assert [path.name for path in tmp_path.iterdir()] == [IDENTITY_NAME]


def test_mark_is_never_the_unknown_one(tmp_path: Path) -> None:
    """An identity whose last bits are zeros has a mark all the same."""
    (tmp_path / IDENTITY_NAME).write_text(str(uuid.UUID(int=7 << 64)))
    assert mark_of(tmp_path) == 1


def test_what_is_not_known_is_nobodys_else() -> None:
    """Only two marks that are both known and differ are of two engines; a snapshot's is the lower half."""
    assert is_foreign(7, 8)
    assert not any(is_foreign(*marks) for marks in ((7, 7), (0, 7), (7, 0), (0, 0)))
    assert short_mark(0xDEADBEEF) == 0xBEEF
