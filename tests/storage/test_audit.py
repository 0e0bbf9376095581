"""The audit log in the database: a chain that only grows, whoever adds to it."""

from __future__ import annotations

import itertools
import json
import threading
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from tests.storage.audit_entries import make_entry

from tradeengine.storage.audit import (
    GENESIS,
    VALUE_BYTES_MAX,
    Entry,
    Link,
    append_entries,
    canonical,
    find_head,
    list_rows,
    seal,
    storable,
    storable_text,
)


def test_entries_become_a_chain(connection: psycopg.Connection) -> None:
    """Rows are numbered without gaps, each holds the hash of the one before, and says what the entry said."""
    entries = [make_entry(target=f"user-{number}") for number in range(3)]
    links = append_entries(connection, entries[:1]) + append_entries(connection, entries[1:])
    assert [link.id for link in links] == [1, 2, 3]
    rows = list_rows(connection, limit=10)[::-1]
    assert [row.entry for row in rows] == entries
    assert [row.link for row in rows] == links
    assert [row.previous_hash for row in rows] == [GENESIS, links[0].hash, links[1].hash]
    assert all(seal(row.link.id, row.previous_hash, row.entry) == row.link.hash for row in rows)
    assert find_head(connection) == links[-1]


def test_entry_is_added_once(connection: psycopg.Connection) -> None:
    """An entry that is offered again stays where it is, also beside new ones."""
    first, second = make_entry(), make_entry()
    (link,) = append_entries(connection, [first])
    assert append_entries(connection, [first, second, first]) == [link, Link(2, find_head(connection).hash), link]
    assert find_head(connection).id == 2


def test_writers_do_not_fork_the_chain(dsn: str, connection: psycopg.Connection) -> None:
    """Four processes that add at the same time make one chain without gaps."""
    entries = [[make_entry(actor=f"front-{writer}") for _ in range(25)] for writer in range(4)]

    def write(mine: list[Entry]) -> None:
        with psycopg.connect(dsn, autocommit=True) as own:
            for entry in mine:
                append_entries(own, [entry])

    threads = [threading.Thread(target=write, args=(mine,)) for mine in entries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = list_rows(connection, limit=1000)[::-1]
    assert [row.link.id for row in rows] == list(range(1, 101))
    assert all(after.previous_hash == before.link.hash for before, after in itertools.pairwise(rows))
    for writer, mine in enumerate(entries):
        assert [row.entry for row in rows if row.entry.actor == f"front-{writer}"] == mine


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'nobody'",
        "UPDATE audit SET actor = 'nobody' WHERE false",
        "DELETE FROM audit WHERE id = 1",
        "TRUNCATE audit",
        "INSERT INTO audit SELECT * FROM audit ON CONFLICT (id) DO UPDATE SET actor = 'nobody'",
        "SET session_replication_role = replica; DELETE FROM audit",
    ],
)
def test_rows_cannot_be_changed(statement: str, connection: psycopg.Connection) -> None:
    """Nobody changes or removes a row, not even the owner, a superuser, or one that says it is a replica."""
    append_entries(connection, [make_entry()])
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="never changed or removed"):
        connection.execute(statement)
    connection.execute("RESET session_replication_role")
    assert list_rows(connection, limit=1)[0].entry.actor == "root"


def test_no_role_is_granted_a_change(connection: psycopg.Connection) -> None:
    """By its grants nobody may update, delete or truncate; the owner may read and add."""
    granted = connection.execute(
        "SELECT privilege_type FROM pg_class, aclexplode(relacl) WHERE oid = 'audit'::regclass"
    ).fetchall()
    assert {privilege for (privilege,) in granted} >= {"SELECT", "INSERT"}
    assert {privilege for (privilege,) in granted}.isdisjoint({"UPDATE", "DELETE", "TRUNCATE"})


def test_unprivileged_role_is_refused_by_grants(connection: psycopg.Connection) -> None:
    """A role that was given everything that the owner has may read and add, and is refused the rest by grants."""
    connection.execute("DROP ROLE IF EXISTS audit_writer")
    connection.execute("CREATE ROLE audit_writer")
    try:
        connection.execute("GRANT SELECT, INSERT ON audit TO audit_writer")
        connection.execute("SET ROLE audit_writer")
        append_entries(connection, [make_entry()])
        for statement in ("UPDATE audit SET actor = ''", "DELETE FROM audit", "TRUNCATE audit"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table audit"):
                connection.execute(statement)
    finally:
        connection.execute("RESET ROLE")
        connection.execute("REVOKE ALL ON audit FROM audit_writer")
        connection.execute("DROP ROLE audit_writer")


def test_canonical_form_is_as_documented() -> None:
    """The written form is RFC 8785: names sorted, no white space, nothing escaped that need not be."""
    entry = make_entry(
        action_id="0" * 32, target="a/b", reason='say "ü"\n\x01', details={"b": 1, "a": [True, None]}, before=None
    )
    assert canonical(7, GENESIS, entry).decode() == (
        '{"action":"suspend_user","action_id":"' + "0" * 32 + '","actor":"root","address":"127.0.0.1",'
        '"after":{"suspended":true},"before":null,"code":null,"credential":"token",'
        '"details":{"a":[true,null],"b":1},"id":7,"outcome":"ok","previous_hash":"' + "0" * 64 + '",'
        '"reason":"say \\"ü\\"\\n\\u0001","request_id":"abc","role":"admin","target":"a/b",'
        '"time":1795516245234567,"two_factor":true}'
    )


@pytest.mark.parametrize(
    "value",
    [
        {"1": "nul \0, lone \ud800 and long " + "x" * 2000, "exact": 2**53 - 1},
        {"float": 0.1, "large": 2**70, "decimal": Decimal("1.50"), "set": {1}},
        {"ü": {"deep": [[[[[[[[[["bottom"]]]]]]]]]]}},
        ["1e400", "NaN", -0.0, float("nan"), float("inf"), "\u2028"],
        "x" * 5000,
        0,
    ],
)
def test_any_value_survives_the_database(value: object, connection: psycopg.Connection) -> None:
    """Whatever a handler gives is kept so that the row read back has the same hash."""
    entry = make_entry(before=storable(value), after=storable([value]), details=storable({"value": value}))
    (link,) = append_entries(connection, [entry])
    (row,) = list_rows(connection, limit=1)
    assert row.entry == entry
    assert seal(row.link.id, row.previous_hash, row.entry) == link.hash


def test_written_form_escapes_as_rfc_8785() -> None:
    """Of all characters only those are escaped that must be, and in the form in which they must be."""
    characters = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x10400))]
    for start in range(0, len(characters), 1000):
        text = "".join(characters[start : start + 1000])
        said = canonical(1, GENESIS, make_entry(after={text: [text]})).decode()
        written = json.dumps({text: [text]}, ensure_ascii=False, separators=(",", ":"))
        assert f'"after":{written},"before"' in said


def test_large_values_are_left_out_with_their_hash() -> None:
    """A value beyond the bound is kept as its size and hash, so that a row has a bound."""
    kept = storable(["x" * 999] * (VALUE_BYTES_MAX // 1000 + 1))
    assert kept.keys() == {"left_out_bytes", "sha256"}
    assert kept["left_out_bytes"] > VALUE_BYTES_MAX
    assert len(storable_text("x" * 5000)) == 1000


def test_filters_choose_rows(connection: psycopg.Connection) -> None:
    """Rows are listed by actor, action and time (end exclusive), the newest first, below an id."""
    second = 1_000_000
    append_entries(
        connection,
        [
            make_entry(actor="a", action="x", time_us=1 * second),
            make_entry(actor="b", action="x", time_us=2 * second),
            make_entry(actor="a", action="y", time_us=3 * second),
        ],
    )

    def ids(**filters: object) -> list[int]:
        return [row.link.id for row in list_rows(connection, limit=10, **filters)]  # type: ignore[arg-type]

    assert ids() == [3, 2, 1]
    assert ids(actor="a") == [3, 1]
    assert ids(action="x") == [2, 1]
    assert ids(actor="a", action="x") == [1]
    assert ids(before_id=3) == [2, 1]
    assert ids(start=datetime.fromtimestamp(2, UTC), end=datetime.fromtimestamp(3, UTC)) == [2]


def test_documented_hash_is_the_hash() -> None:
    """The example of the document is in the canonical form, and its hash is the one that stands there."""
    document = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    (line,) = (line for line in document.splitlines() if line.startswith('{"action":'))
    said = json.loads(line)
    row_id, previous_hash = said.pop("id"), bytes.fromhex(said.pop("previous_hash"))
    entry = Entry(time_us=said.pop("time"), **said)
    assert canonical(row_id, previous_hash, entry).decode() == line
    assert f"`{seal(row_id, previous_hash, entry).hex()}`" in document
