"""Deposits and withdrawals through a wallet outside: which ones the wallet must be asked about, and what it said.

A deposit waits until the wallet has reserved it; only then it gets its number, and risk hears of it. A withdrawal
waits, after risk has debited it and settlement has posted that, until the wallet has released it. A deposit that risk
refused after the wallet had reserved it is given back.

Rule 1: a number that risk may see is durable before it is announced.
Rule 2: a withdrawal waits for every undelivered transfer of its account: proceeds that the wallet has not confirmed can
be traded, not taken out.
It refuses to know how a wallet is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import psycopg
from psycopg.rows import args_row

from tradeengine.storage.funding import CHANNEL, next_number
from tradeengine.storage.outbox import Retry

Connection = psycopg.Connection[Any]


class HoldingKind(StrEnum):
    """What is asked of the wallet."""

    RESERVE = "reserve"
    """A deposit."""
    RELEASE = "release"
    """A withdrawal."""
    GIVE_BACK = "give_back"
    """A deposit that risk refused."""


@dataclass(frozen=True, slots=True)
class FundingRow:
    """A deposit or withdrawal that the wallet must be asked about. ``tries``: how often the wallet failed at it."""

    id: int
    kind: HoldingKind
    reference: str
    account_id: int
    asset_id: int
    amount_units: int
    tries: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", HoldingKind(self.kind))


def take_due_fundings(connection: Connection, limit: int, taken: Sequence[int]) -> list[FundingRow]:
    """Read deposits to reserve or give back, and withdrawals to release, the oldest first; without ``taken``."""
    with connection.cursor(row_factory=args_row(FundingRow)) as cursor:
        return cursor.execute(_TAKE_DUE, {"taken": list(taken), "limit": limit}).fetchall()


def has_undelivered(connection: Connection, account_id: int) -> bool:
    """Whether a transfer of this account is not delivered, a dead one included."""
    return connection.execute(_UNDELIVERED, {"account_id": account_id}).rowcount > 0


def confirm_reserved(connection: Connection, ids: Sequence[int]) -> None:
    """Note that the wallet has reserved deposits: risk is told of them from now on. A repeat changes nothing."""
    with connection.transaction():
        connection.execute("SET LOCAL synchronous_commit = on")
        query = (
            "SELECT id FROM funding WHERE id = ANY (%s) AND wallet_state = 'waiting' AND number IS NULL "
            "ORDER BY id FOR UPDATE"
        )
        for (funding_id,) in connection.execute(query, (list(ids),)).fetchall():
            connection.execute(
                "UPDATE funding SET number = %s, wallet_state = 'done', wallet_error = NULL WHERE id = %s",
                (next_number(connection), funding_id),
            )
        connection.execute(f"NOTIFY {CHANNEL}")


def confirm_released(connection: Connection, ids: Sequence[int]) -> None:
    """Note that the wallet has released withdrawals."""
    connection.execute(
        "UPDATE funding SET wallet_state = 'done', wallet_error = NULL WHERE id = ANY (%s) AND kind = 'withdrawal'",
        (list(ids),),
    )


def confirm_given_back(connection: Connection, ids: Sequence[int]) -> None:
    """Note that the wallet has back what risk refused."""
    connection.execute("UPDATE funding SET wallet_state = 'discarded' WHERE id = ANY (%s)", (list(ids),))


def refuse_deposit(connection: Connection, funding_id: int, reason: str, error: str) -> None:
    """End a deposit that the wallet refused. reason: a label of the database's ``reason``."""
    connection.execute(_REFUSE, (reason, error, funding_id))


def put_off_fundings(connection: Connection, retries: Sequence[Retry]) -> None:
    """Write down what failed and when it is tried again."""
    columns = (
        [retry.id for retry in retries],
        [retry.tries for retry in retries],
        [retry.delay_s for retry in retries],
        [retry.error for retry in retries],
    )
    connection.execute(_PUT_OFF, columns)


def bury_funding(connection: Connection, letter: Retry) -> None:
    """Make a dead letter of a deposit or withdrawal; its delay means nothing. One that is given up stays so."""
    connection.execute(
        "UPDATE funding SET wallet_state = 'dead', wallet_tries = %s, wallet_error = %s "
        "WHERE id = %s AND wallet_state <> 'discarded'",
        (letter.tries, letter.error, letter.id),
    )


_SELECT: Final = """
SELECT id, {kind}, reference, account_id, asset_id, amount_units, wallet_tries FROM funding
WHERE {condition} AND wallet_next_try_at <= clock_timestamp() AND id <> ALL (%(taken)s)
"""

_TAKE_DUE: Final = (
    _SELECT.format(
        kind="CASE kind WHEN 'deposit' THEN 'reserve' ELSE 'release' END",
        condition="wallet_state = 'waiting' AND ((kind = 'deposit' AND status = 'pending') OR status = 'settled')",
    )
    + "UNION ALL"
    + _SELECT.format(kind="'give_back'", condition="wallet_state = 'done' AND status = 'refused' AND kind = 'deposit'")
    + "ORDER BY 1 LIMIT %(limit)s"
)

_UNDELIVERED: Final = """
SELECT FROM wallet_transfers WHERE buyer_account_id = %(account_id)s AND state <> 'discarded'
UNION ALL
SELECT FROM wallet_transfers WHERE seller_account_id = %(account_id)s AND state <> 'discarded'
LIMIT 1
"""

_REFUSE: Final = """
UPDATE funding SET status = 'refused', status_reason = %s::reason, wallet_state = 'discarded', wallet_error = %s,
    closed_at = now()
WHERE id = %s AND wallet_state IN ('waiting', 'dead') AND kind = 'deposit' AND status = 'pending'
"""

_PUT_OFF: Final = """
UPDATE funding AS f SET wallet_tries = u.tries, wallet_error = u.error,
    wallet_next_try_at = clock_timestamp() + make_interval(secs => u.delay_s)
FROM unnest(%s::bigint[], %s::integer[], %s::float8[], %s::text[]) AS u (id, tries, delay_s, error)
WHERE f.id = u.id
"""
