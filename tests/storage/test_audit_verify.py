"""Tampering with the audit log, by somebody who may do anything in the database: the first wrong row is named."""

from __future__ import annotations

import datetime as dt

import psycopg
import pytest
from tests.storage.audit_entries import make_entry

from tradeengine.storage.audit import GENESIS, Link, append_entries, find_head, rows_after, seal, to_row
from tradeengine.storage.audit_verify import PAGE_ROWS, verify

ROWS = 10


@pytest.fixture
def links(connection: psycopg.Connection) -> list[Link]:
    """Make a log of ten rows that the superuser may change."""
    links = append_entries(connection, [make_entry(target=f"user-{number}") for number in range(ROWS)])
    connection.execute("ALTER TABLE audit DISABLE TRIGGER ALL")
    connection.execute("GRANT ALL ON audit TO CURRENT_USER")
    return links


def fault_of(connection: psycopg.Connection, anchors: list[Link]) -> tuple[str, int] | None:
    """Give what verification finds first."""
    fault = verify(connection, anchors).fault
    return None if fault is None else (fault.kind, fault.row_id)


def test_whole_log_is_whole(connection: psycopg.Connection, links: list[Link]) -> None:
    """Nobody has done anything: nothing is found, and the newest row is told."""
    verdict = verify(connection, links[::3])
    assert (verdict.fault, verdict.row_count, verdict.head) == (None, ROWS, links[-1])


def test_empty_log_is_whole(connection: psycopg.Connection) -> None:
    """A log in which nothing is, and of which nothing was anchored, is whole."""
    assert verify(connection, []).fault is None


COLUMNS = {
    "action_id": "gen_random_uuid()",
    "time": "time + interval '1 microsecond'",
    "actor": "'nobody'",
    "role": "'super_admin'",
    "credential": "'key:1'",
    "two_factor": "NOT two_factor",
    "action": "'resume_user'",
    "target": "NULL",
    "details": """'{"reason": "other"}'""",
    "before": "NULL",
    "after": """'{"suspended": "true"}'""",
    "reason": "''",
    "request_id": "'abd'",
    "address": "'127.0.0.2'",
    "outcome": "'refused'",
    "code": "'FORBIDDEN'",
    "previous_hash": "sha256('')",
    "hash": "sha256('')",
}


@pytest.mark.parametrize("column", COLUMNS)
def test_altered_column_is_found(column: str, connection: psycopg.Connection, links: list[Link]) -> None:
    """A row of which any one column was altered is named."""
    connection.execute(f"UPDATE audit SET {column} = {COLUMNS[column]} WHERE id = 4")
    assert fault_of(connection, links) == ("altered", 4)


def test_every_column_is_sealed(connection: psycopg.Connection) -> None:
    """There is no column that could be altered unseen."""
    columns = {name for (name,) in connection.execute(_COLUMN_NAMES)}
    assert columns == {"id", *COLUMNS}


_COLUMN_NAMES = (
    "SELECT attname FROM pg_attribute WHERE attrelid = 'audit'::regclass AND attnum > 0 AND NOT attisdropped"
)


@pytest.mark.parametrize("value", ["'infinity'", "'-infinity'", "'294000-01-01'"])
def test_unreadable_row_is_found(value: str, connection: psycopg.Connection, links: list[Link]) -> None:
    """A row that Python cannot even read is an altered one, and does not end the verification."""
    connection.execute("ALTER TABLE audit DROP CONSTRAINT audit_time_check")
    connection.execute(f"UPDATE audit SET time = {value} WHERE id = 7")
    assert fault_of(connection, links) == ("altered", 7)


def test_nested_json_of_any_depth_is_found(connection: psycopg.Connection, links: list[Link]) -> None:
    """A value nested deeper than the reader can follow is an altered one."""
    connection.execute("UPDATE audit SET before = (repeat('[', 3000) || repeat(']', 3000))::jsonb WHERE id = 2")
    assert fault_of(connection, links) == ("altered", 2)


@pytest.mark.parametrize(("first", "last"), [(1, 1), (5, 5), (5, 8)])
def test_removed_rows_are_found(first: int, last: int, connection: psycopg.Connection, links: list[Link]) -> None:
    """Removed rows are named by the first of them."""
    connection.execute("DELETE FROM audit WHERE id BETWEEN %s AND %s", (first, last))
    assert fault_of(connection, links) == ("missing", first)


def test_removed_row_is_found_though_the_rest_moved_up(connection: psycopg.Connection, links: list[Link]) -> None:
    """Closing the gap does not help: the row that now has the number was sealed with another."""
    connection.execute("DELETE FROM audit WHERE id = 5")
    for row_id in range(6, ROWS + 1):
        connection.execute("UPDATE audit SET id = id - 1 WHERE id = %s", (row_id,))
    assert fault_of(connection, links[:-1]) == ("altered", 5)


def test_inserted_row_is_found(connection: psycopg.Connection, links: list[Link]) -> None:
    """A row that was put in between, sealed as it should be, is found by the one after it."""
    for row_id in range(ROWS, 5, -1):
        connection.execute("UPDATE audit SET id = id + 1 WHERE id = %s", (row_id,))
    _put(connection, 6, links[4].hash, "intruder")
    assert fault_of(connection, []) == ("altered", 7)
    assert fault_of(connection, links) == ("rewritten", 6)


def test_reordered_rows_are_found(connection: psycopg.Connection, links: list[Link]) -> None:
    """Two rows that changed places are found at the first of them."""
    for old, new in ((3, 100), (4, 3), (100, 4)):
        connection.execute("UPDATE audit SET id = %s WHERE id = %s", (new, old))
    assert fault_of(connection, links) == ("altered", 3)


def test_replaced_row_is_found(connection: psycopg.Connection, links: list[Link]) -> None:
    """A row that was replaced by another, sealed as it should be, is named by the one that follows it."""
    connection.execute("DELETE FROM audit WHERE id = 5")
    _put(connection, 5, links[3].hash, "intruder")
    assert fault_of(connection, []) == ("replaced", 5)


def test_log_that_was_written_anew_is_found(connection: psycopg.Connection, links: list[Link]) -> None:
    """Who seals everything anew from a row on is found by the first anchor behind it, though the chain is in order."""
    _write_anew(connection, 5, links[3].hash)
    assert fault_of(connection, [links[1], links[6]]) == ("rewritten", 7)
    append_entries(connection, [make_entry()])
    assert fault_of(connection, [links[1], links[6], find_head(connection)]) == ("rewritten", 7)


def test_end_that_was_cut_off_is_found(connection: psycopg.Connection, links: list[Link]) -> None:
    """Rows that are gone from the end are found by the anchor, also when all are gone."""
    connection.execute("DELETE FROM audit WHERE id > 7")
    assert fault_of(connection, links[:7]) is None
    assert fault_of(connection, [links[-1]]) == ("cut", 8)
    connection.execute("DELETE FROM audit")
    assert fault_of(connection, [links[-1]]) == ("cut", 1)


def test_log_grown_again_after_a_cut_is_found(connection: psycopg.Connection, links: list[Link]) -> None:
    """Rows that come after a cut do not hide it: they are not those that were anchored."""
    connection.execute("DELETE FROM audit WHERE id > 7")
    append_entries(connection, [make_entry() for _ in range(5)])
    assert fault_of(connection, [links[-1], find_head(connection)]) == ("rewritten", 10)


def test_lost_anchors_are_told(connection: psycopg.Connection, links: list[Link]) -> None:
    """Without any anchor nobody can say whether the end is there, and that is said."""
    assert fault_of(connection, []) == ("unanchored", ROWS)


def test_verification_may_go_on_where_it_stood(connection: psycopg.Connection, links: list[Link]) -> None:
    """Behind a row that was right only what is new is looked at; a fault there is found, and one before it is not."""
    assert verify(connection, links, after=links[4]).row_count == 5
    connection.execute("UPDATE audit SET actor = 'nobody' WHERE id IN (3, 8)")
    fault = verify(connection, links, after=links[4]).fault
    assert fault is not None
    assert fault.row_id == 8
    connection.execute("DELETE FROM audit WHERE id > 3")
    assert verify(connection, [], after=links[4]).fault is not None


def test_log_longer_than_a_page_is_walked_to_its_end(connection: psycopg.Connection) -> None:
    """Pages join without a gap, and a fault on a later page is found."""
    count = PAGE_ROWS + 10
    start = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
    links = append_entries(connection, [make_entry(time_us=int(start.timestamp() * 1e6) + n) for n in range(count)])
    verdict = verify(connection, [links[-1]])
    assert (verdict.row_count, verdict.fault) == (count, None)
    connection.execute("ALTER TABLE audit DISABLE TRIGGER ALL")
    connection.execute("GRANT ALL ON audit TO CURRENT_USER")
    connection.execute("UPDATE audit SET actor = 'nobody' WHERE id = %s", (PAGE_ROWS + 1,))
    assert fault_of(connection, [links[-1]]) == ("altered", PAGE_ROWS + 1)


def _put(connection: psycopg.Connection, row_id: int, previous_hash: bytes, actor: str) -> None:
    """Put a row at a number, sealed as it should be there."""
    connection.execute(
        "INSERT INTO audit SELECT (jsonb_populate_record(audit, jsonb_build_object("
        "'id', %s::bigint, 'action_id', gen_random_uuid(), 'actor', %s::text))).* FROM audit WHERE id = 1",
        (row_id, actor),
    )
    _seal(connection, row_id, previous_hash)


def _seal(connection: psycopg.Connection, row_id: int, previous_hash: bytes) -> bytes:
    row = to_row(rows_after(connection, row_id - 1, 1)[0])
    sealed = seal(row_id, previous_hash, row.entry)
    connection.execute("UPDATE audit SET previous_hash = %s, hash = %s WHERE id = %s", (previous_hash, sealed, row_id))
    return sealed


def _write_anew(connection: psycopg.Connection, first: int, previous_hash: bytes) -> None:
    connection.execute("UPDATE audit SET actor = 'nobody' WHERE id = %s", (first,))
    for row_id in range(first, ROWS + 1):
        previous_hash = _seal(connection, row_id, previous_hash)
    assert previous_hash != GENESIS
