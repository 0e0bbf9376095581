"""Deposits and withdrawals: asked for here, decided by risk, settled with the ledger.

Rule 1: a request is a row first, pending and idempotent by its reference. Only then does the engine hear of it.
Rule 2: numbers are gapless and commit in their order, because the counter's row stays locked until the commit: who has
seen a number has seen all below it, and risk can refuse repeats by one number.
Rule 3: the answer is what settlement committed. A request may be repeated until it comes.
Rule 4: a wallet outside is asked too (``storage.wallet_fundings``): a deposit gets its number only when the wallet has
reserved it, so risk cannot see it before; a withdrawal is pending until the wallet has released it.
It refuses to know rings, risk and how the money arrives.
"""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import args_row

from tradeengine.core.money import UNITS_MAX
from tradeengine.core.records import CommandKind, funding_command_dtype

CHANNEL: Final = "tradeengine_funding"
"""PostgreSQL channel on which a new request is announced."""
REFERENCE_LENGTH_MAX: Final = 128

Connection = psycopg.Connection[Any]


class FundingKind(StrEnum):
    """Direction, seen from the account."""

    DEPOSIT = "deposit"
    WITHDRAWAL = "withdrawal"


class FundingStatus(StrEnum):
    """Where a request stands. Only pending ones change."""

    PENDING = "pending"
    SETTLED = "settled"
    REFUSED = "refused"


class ReferenceReusedError(Exception):
    """The reference names an earlier request with another account, asset or amount: nothing was done."""


@dataclass(frozen=True, slots=True)
class Funding:
    """A deposit or withdrawal. ``amount_units`` > 0 in minor units of the asset, whatever the direction.

    ``number``: 0 while a wallet has not reserved a deposit. ``wallet_error``: what a wallet said last.
    """

    id: int
    number: int
    kind: FundingKind
    reference: str
    account_id: int
    asset_id: int
    amount_units: int
    status: FundingStatus
    status_reason: str | None
    transaction_id: int | None
    requested_at: dt.datetime
    closed_at: dt.datetime | None
    wallet_error: str | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", FundingKind(self.kind))
        object.__setattr__(self, "status", FundingStatus(self.status))


def request_funding(
    connection: Connection, kind: FundingKind, *, reference: str, account_id: int, asset_id: int, amount_units: int
) -> Funding:
    """Write a request down, or find the one that this reference named before; the engine hears of it at once.

    reference: 1 to 128 characters of the caller's, one per request and kind. amount_units: 1 … ``UNITS_MAX``.
    Raises ReferenceReusedError when the earlier one differs, psycopg.errors.ForeignKeyViolation for an account or asset
    that does not exist.
    """
    assert 1 <= len(reference) <= REFERENCE_LENGTH_MAX
    assert 0 < amount_units <= UNITS_MAX
    with connection.transaction():
        earlier = find_funding(connection, kind, reference)
        if earlier is None:
            connection.execute("SELECT value FROM counters WHERE name = 'funding' FOR UPDATE")
            # Looked for again: who held the lock may have written it.
            earlier = find_funding(connection, kind, reference)
        if earlier is not None:
            if (earlier.account_id, earlier.asset_id, earlier.amount_units) != (account_id, asset_id, amount_units):
                raise ReferenceReusedError(f"reference {reference!r} names another {kind} already")
            return earlier
        return _insert(connection, kind, reference, account_id, asset_id, amount_units)


def _insert(
    connection: Connection, kind: FundingKind, reference: str, account_id: int, asset_id: int, amount_units: int
) -> Funding:
    through_wallet = is_kept_outside(connection)
    number = None if through_wallet and kind is FundingKind.DEPOSIT else next_number(connection)
    connection.execute(
        "INSERT INTO funding (number, kind, reference, account_id, asset_id, amount_units, wallet_state) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s::wallet_funding_state)",
        (number, kind, reference, account_id, asset_id, amount_units, "waiting" if through_wallet else None),
    )
    connection.execute(f"NOTIFY {CHANNEL}")
    request = find_funding(connection, kind, reference)
    assert request is not None
    return request


def is_kept_outside(connection: Connection) -> bool:
    """Whether the money of this database is kept with a wallet service outside."""
    return connection.execute("SELECT FROM wallet_kind WHERE kind = 'http'").rowcount == 1


def next_number(connection: Connection) -> int:
    """Take the next number; its counter stays locked until the caller's transaction ends."""
    row = connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'funding' RETURNING value").fetchone()
    assert row is not None
    return int(row[0])


def find_funding(connection: Connection, kind: FundingKind, reference: str) -> Funding | None:
    """Find the request of this kind and reference."""
    with connection.cursor(row_factory=args_row(Funding)) as cursor:
        return cursor.execute(_SELECT + "WHERE kind = %s AND reference = %s", (kind, reference)).fetchone()


def list_fundings(
    connection: Connection,
    kind: FundingKind,
    *,
    limit: int,
    account_id: int | None = None,
    status: FundingStatus | None = None,
    before_id: int | None = None,
) -> list[Funding]:
    """List requests of a kind, newest first: of one account or all, in one status or any, below an id."""
    conditions = ["kind = %(kind)s"]
    if account_id is not None:
        conditions.append("account_id = %(account_id)s")
    if before_id is not None:
        conditions.append("id < %(before_id)s")
    if status is not None:
        conditions.append(_IN_STATUS[status])
    query = f"{_SELECT} WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT %(limit)s"
    parameters = {"kind": kind, "account_id": account_id, "before_id": before_id, "limit": limit}
    with connection.cursor(row_factory=args_row(Funding)) as cursor:
        return cursor.execute(query, parameters).fetchall()


def wait_funding(connection: Connection, request: Funding, *, timeout_s: float, interval_s: float = 0.01) -> Funding:
    """Wait until the request is settled or refused; return it pending when that takes longer than ``timeout_s``.

    connection: in autocommit, so that each look sees what was committed meanwhile.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = find_funding(connection, request.kind, request.reference)
        assert found is not None
        if found.status is not FundingStatus.PENDING or time.monotonic() >= deadline_s:
            return found
        time.sleep(interval_s)


def pending_commands(connection: Connection, after_number: int, limit: int) -> NDArray[np.void]:
    """FUND commands of pending requests above a number, in its order; shape (n,), ``funding_command_dtype``.

    limit: at most so many. The head of each command is left at 0 but for kind and account.
    """
    rows = connection.execute(_SELECT_PENDING, (after_number, limit)).fetchall()
    commands = np.zeros(len(rows), funding_command_dtype)
    for command, (number, account_id, asset_id, amount_units) in zip(commands, rows, strict=True):
        command["kind"] = CommandKind.FUND
        command["funding_number"] = number
        command["account_id"] = account_id
        command["asset_id"] = asset_id
        command["amount_units"] = amount_units
    return commands


def count_pending(connection: Connection) -> int:
    """How many requests are neither settled nor refused yet."""
    row = connection.execute("SELECT count(*) FROM funding WHERE status = 'pending'").fetchone()
    assert row is not None
    return int(row[0])


# What the ledger has settled and the wallet has not released yet is pending for everyone who asks.
_SELECT: Final = """
SELECT id, coalesce(number, 0), kind::text, reference, account_id, asset_id, amount_units,
       CASE WHEN status = 'settled' AND wallet_state IN ('waiting', 'dead') THEN 'pending' ELSE status::text END,
       status_reason::text, transaction_id, requested_at, closed_at, wallet_error
FROM funding
"""

_IN_STATUS: Final = {
    FundingStatus.PENDING: "(status = 'pending' OR (status = 'settled' AND wallet_state = 'waiting') "
    "OR (status = 'settled' AND wallet_state = 'dead'))",
    FundingStatus.SETTLED: "(status = 'settled' AND wallet_state IS DISTINCT FROM 'waiting' "
    "AND wallet_state IS DISTINCT FROM 'dead')",
    FundingStatus.REFUSED: "status = 'refused'",
}
"""As ``_SELECT`` tells it; each part in the words of an index, so that those of what is pending are used."""

_SELECT_PENDING: Final = """
SELECT number, account_id, asset_id, CASE kind WHEN 'deposit' THEN amount_units ELSE -amount_units END
FROM funding WHERE status = 'pending' AND number > %s ORDER BY number LIMIT %s
"""
