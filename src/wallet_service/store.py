"""The books of the wallet service: entries whose postings sum to zero per asset, kept in PostgreSQL.

Rule 1: an entry takes effect once; a repeat finds it by kind and id, and another content under them is refused.
Rule 2: no part of a user's money is ever negative; an entry that would make it so leaves nothing behind.
Rule 3: the database holds all of that, in ``make_entries``; a group of entries costs one round trip and one commit.
It refuses to know HTTP.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import psycopg

SCHEMA: Final = "wallet"
NOBODY: Final = ""
"""The user name of the accounts that are no one's."""

Connection = psycopg.Connection[Any]


class Kind(StrEnum):
    """What an entry does. Each kind has ids of its own."""

    TRANSFER = "transfer"
    DEBIT = "debit"
    CREDIT = "credit"
    RESERVATION = "reservation"
    RELEASE = "release"
    DEPOSIT = "deposit"


class Outcome(StrEnum):
    """What became of an entry."""

    MADE = "made"
    REPEATED = "repeated"
    REUSED = "reused"
    INSUFFICIENT = "insufficient"
    TOO_LARGE = "too_large"


@dataclass(frozen=True, slots=True)
class Line:
    """A change of one account. amount: signed plain decimal. part: available, reserved, outside or clearing."""

    user_name: str
    asset: str
    part: str
    amount: str


@dataclass(frozen=True, slots=True)
class Entry:
    """Something to be made. content: what was asked for, in one spelling."""

    kind: Kind
    id: str
    content: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """What became of an entry; number and time are those of the entry that is there, None when none is."""

    outcome: Outcome
    number: int | None
    made_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry that is there."""

    number: int
    made_at: dt.datetime
    content: str


@dataclass(frozen=True, slots=True)
class UserBalance:
    """A user's money of one asset."""

    user_name: str
    asset: str
    available: str
    reserved: str


def make_entries(connection: Connection, entries: Sequence[Entry]) -> list[Made]:
    """Make entries in their order, durably; each wholly or not at all. connection: in autocommit."""
    rows = connection.execute(
        _MAKE,
        (
            [entry.kind.value for entry in entries],
            [entry.id for entry in entries],
            [entry.content for entry in entries],
            [json.dumps([_as_row(line) for line in entry.lines]) for entry in entries],
        ),
    ).fetchall()
    return [Made(Outcome(outcome), number, made_at) for outcome, number, made_at in rows]


def find_entry(connection: Connection, kind: Kind, id_: str) -> Stored | None:
    """Find an entry."""
    row = connection.execute(_FIND, (kind.value, id_)).fetchone()
    return None if row is None else Stored(*row)


def list_balances(
    connection: Connection, user_name: str | None, after: tuple[str, str], limit: int
) -> Iterator[UserBalance]:
    """List balances after a user and asset, in order of both; of one user, or of all."""
    for row in connection.execute(_BALANCES, {"user": user_name, "after": list(after), "limit": limit}):
        yield UserBalance(*row)


def check(connection: Connection) -> None:
    """Raise psycopg.OperationalError when the database does not answer."""
    connection.execute("SELECT 1")


def _as_row(line: Line) -> dict[str, str]:
    return {"user_name": line.user_name, "asset": line.asset, "part": line.part, "amount": line.amount}


_MAKE: Final = f"SELECT * FROM {SCHEMA}.make_entries(%s::text[], %s::text[], %s::text[], %s::jsonb[])"  # noqa: S608 - a constant

_FIND: Final = f"SELECT number, made_at, content FROM {SCHEMA}.entries WHERE kind = %s AND id = %s"  # noqa: S608 - a constant

# Both parts in one row, so that a page never ends between them.
_BALANCES: Final = f"""
SELECT user_name, asset, trim_scale(coalesce(sum(amount) FILTER (WHERE part = 'available'), 0))::text,
       trim_scale(coalesce(sum(amount) FILTER (WHERE part = 'reserved'), 0))::text
FROM {SCHEMA}.balances
WHERE user_name <> '' AND (%(user)s::text IS NULL OR user_name = %(user)s)
  AND (user_name, asset) > ((%(after)s::text[])[1], (%(after)s::text[])[2])
GROUP BY user_name, asset ORDER BY user_name, asset LIMIT %(limit)s
"""  # noqa: S608 - a constant
