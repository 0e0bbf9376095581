"""Reconciliations as rows: who wants one writes a row, the keeper does it, the answer is in the row.

Rule 1: one run answers every row that was written before it began; a row written later waits for the next run, because
its answer must be of a moment after the question.
Rule 2: a row is open until it is finished, whoever dies meanwhile: the next keeper takes up what is open.
Rule 3: answers are kept for ninety days.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.rows import args_row
from psycopg.types.json import Jsonb

REQUESTED: Final = "tradeengine_reconciliation"
"""PostgreSQL channel on which a request is announced."""
KEPT_DAYS: Final = 90

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """One request and its answer. ``checked`` and ``differences`` are there when it is finished without ``error``."""

    number: int
    requested_at: dt.datetime
    requested_by: str
    began_at: dt.datetime | None
    finished_at: dt.datetime | None
    checked: dict[str, Any] | None
    differences: list[dict[str, str | None]] | None
    difference_count: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found, or why it could not: then ``error`` says so, and the others are None."""

    checked: dict[str, Any] | None = None
    differences: list[dict[str, str | None]] | None = None
    difference_count: int | None = None
    error: str | None = None


def request_reconciliation(connection: Connection, requested_by: str) -> int:
    """Ask for a reconciliation; returns its number. connection: in autocommit."""
    with connection.transaction():
        row = connection.execute(_REQUEST, (requested_by,)).fetchone()
        connection.execute(f"NOTIFY {REQUESTED}")
    assert row is not None
    return int(row[0])


def find_reconciliation(connection: Connection, number: int) -> Reconciliation | None:
    """Look at one."""
    with connection.cursor(row_factory=args_row(Reconciliation)) as cursor:
        return cursor.execute(_SELECT + "WHERE id = %s", (number,)).fetchone()


def wait_reconciliation(
    connection: Connection, number: int, *, timeout_s: float, interval_s: float = 0.05
) -> Reconciliation:
    """Wait until it is finished; return it as it is when that takes longer than ``timeout_s``.

    connection: in autocommit, so that each look sees what was committed meanwhile.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = find_reconciliation(connection, number)
        assert found is not None
        if found.finished_at is not None or time.monotonic() >= deadline_s:
            return found
        time.sleep(interval_s)


def begin_open(connection: Connection) -> list[int]:
    """Begin a run for everything that is open: the numbers that it will answer; none when nothing is wanted."""
    rows = connection.execute(
        "UPDATE reconciliations SET began_at = now() WHERE finished_at IS NULL RETURNING id"
    ).fetchall()
    return sorted(number for (number,) in rows)


def finish(connection: Connection, numbers: Sequence[int], outcome: Outcome) -> None:
    """Write a run's answer into all rows that it answers, and forget old answers. connection: in autocommit."""
    checked = None if outcome.checked is None else Jsonb(outcome.checked)
    differences = None if outcome.differences is None else Jsonb(outcome.differences)
    with connection.transaction():
        connection.execute(_FINISH, (checked, differences, outcome.difference_count, outcome.error, list(numbers)))
        connection.execute(_FORGET, (dt.timedelta(days=KEPT_DAYS),))


_REQUEST: Final = "INSERT INTO reconciliations (requested_by) VALUES (%s) RETURNING id"

_SELECT: Final = """
SELECT id, requested_at, requested_by, began_at, finished_at, checked, differences, difference_count, error
FROM reconciliations
"""

_FINISH: Final = """
UPDATE reconciliations SET finished_at = now(), checked = %s, differences = %s, difference_count = %s, error = %s
WHERE id = ANY (%s)
"""

_FORGET: Final = "DELETE FROM reconciliations WHERE finished_at < now() - %s"
