"""Dead letters: what a wallet outside will not do, kept with everything that people need to decide: retry or discard.

Rule 1: a fill is never reversed and the ledger stays as it is: whoever discards a dead letter says by how much ledger
and wallet differ from then on, and why, in rows that are only ever added.
Rule 2: a letter is retried or discarded once: both find it dead, or do nothing and say so.
A letter has the id of its trade, or of its deposit or withdrawal; those are small numbers, and ids of trades are not.
It refuses to know how a wallet is asked.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import psycopg
from psycopg.rows import args_row

from tradeengine.core.records import ACCOUNT_ID_OUTSIDE
from tradeengine.storage.outbox import Move, find_row
from tradeengine.storage.wallet_fundings import refuse_deposit

Connection = psycopg.Connection[Any]

REASON_LENGTH_MAX: Final = 500


class LetterKind(StrEnum):
    """What was asked of the wallet."""

    TRANSFER = "transfer"
    DEPOSIT = "deposit"
    WITHDRAWAL = "withdrawal"


class NoSuchLetterError(Exception):
    """There is no dead letter with this id: there never was, or it is retried or discarded already."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One side, by name: what a user gets (above 0) or gives, in minor units of an asset with so many places."""

    user: str
    asset: str
    places: int
    amount_units: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A transfer, deposit or withdrawal that was given up.

    ``reference``: of a deposit or withdrawal. ``progress``: what the wallet's client keeps of a transfer leg by leg.
    """

    id: int
    kind: LetterKind
    reference: str | None
    error: str
    tries: int
    progress: str
    created_at: dt.datetime
    legs: tuple[Leg, ...] = ()


def list_letters(connection: Connection, *, limit: int, before_id: int | None = None) -> list[DeadLetter]:
    """List dead letters, transfers before deposits and withdrawals, the newest of each first, below an id."""
    with connection.cursor(row_factory=args_row(_letter)) as cursor:
        letters = cursor.execute(_LIST, {"before_id": before_id, "limit": limit}).fetchall()
    return [_with_legs(connection, letter) for letter in letters]


def find_letter(connection: Connection, letter_id: int) -> DeadLetter:
    """Find a dead letter. Raises NoSuchLetterError."""
    with connection.cursor(row_factory=args_row(_letter)) as cursor:
        letter = cursor.execute(_FIND, {"id": letter_id}).fetchone()
    if letter is None:
        raise NoSuchLetterError(f"there is no dead letter {letter_id}")
    return _with_legs(connection, letter)


def retry_letter(connection: Connection, letter_id: int) -> DeadLetter:
    """Let a dead letter be tried again, as if it had never failed. Raises NoSuchLetterError."""
    with connection.transaction():
        letter = _lock(connection, letter_id)
        connection.execute(_RETRY_TRANSFER if letter.kind is LetterKind.TRANSFER else _RETRY_FUNDING, (letter_id,))
    return letter


def discard_letter(connection: Connection, letter_id: int, *, reason: str, by: str) -> DeadLetter:
    """Give a dead letter up for good, and write down by how much the wallet differs from the ledger from now on.

    A deposit is refused: the ledger never had it, so nothing differs; one that is refused already, and was to be given
    back, stays with the wallet. reason, by: for people, 1 to 500 characters.
    Raises NoSuchLetterError.
    """
    assert 1 <= len(reason) <= REASON_LENGTH_MAX
    with connection.transaction():
        letter = _lock(connection, letter_id)
        if letter.kind is LetterKind.DEPOSIT and not _is_to_give_back(connection, letter_id):
            refuse_deposit(connection, letter_id, "INVALID_REQUEST", f"discarded by {by}: {reason}")
            return letter
        if letter.kind is LetterKind.TRANSFER:
            connection.execute("UPDATE wallet_transfers SET state = 'discarded' WHERE id = %s", (letter_id,))
        else:
            connection.execute("UPDATE funding SET wallet_state = 'discarded' WHERE id = %s", (letter_id,))
        with connection.cursor() as cursor:
            cursor.executemany(
                _ADJUST,
                [
                    (letter_id, move.account_id, move.asset_id, -move.amount_units, by, reason)
                    for move in _sums(_moves_of(connection, letter))
                ],
            )
    return letter


def _lock(connection: Connection, letter_id: int) -> DeadLetter:
    connection.execute("SELECT FROM wallet_transfers WHERE id = %s FOR UPDATE", (letter_id,))
    connection.execute("SELECT FROM funding WHERE id = %s FOR UPDATE", (letter_id,))
    return find_letter(connection, letter_id)


def _is_to_give_back(connection: Connection, funding_id: int) -> bool:
    """Whether a deposit was refused by risk when the wallet had reserved it: what failed then is its release."""
    found = connection.execute(
        "SELECT FROM funding WHERE id = %s AND kind = 'deposit' AND status = 'refused'", (funding_id,)
    )
    return found.rowcount == 1


def _sums(moves: Sequence[Move]) -> list[Move]:
    """Add up what a transfer does to each account and asset."""
    sums: dict[tuple[int, int], int] = {}
    for move in moves:
        key = (move.account_id, move.asset_id)
        sums[key] = sums.get(key, 0) + move.amount_units
    return [Move(*key, units) for key, units in sums.items() if units]


def _moves_of(connection: Connection, letter: DeadLetter) -> tuple[Move, ...]:
    """Give what a letter would have done at the wallet; a deposit and a withdrawal against the outside."""
    if letter.kind is LetterKind.TRANSFER:
        row = find_row(connection, letter.id)
        assert row is not None
        return row.moves()
    found = connection.execute(
        "SELECT account_id, asset_id, amount_units FROM funding WHERE id = %s", (letter.id,)
    ).fetchone()
    assert found is not None
    account_id, asset_id, amount_units = found
    reserves = letter.kind is LetterKind.DEPOSIT and not _is_to_give_back(connection, letter.id)
    units = amount_units if reserves else -amount_units
    return (Move(account_id, asset_id, units), Move(ACCOUNT_ID_OUTSIDE, asset_id, -units))


def _with_legs(connection: Connection, letter: DeadLetter) -> DeadLetter:
    moves = _moves_of(connection, letter)
    accounts = dict(
        connection.execute(
            "SELECT id, name FROM accounts WHERE id = ANY (%s)", ([move.account_id for move in moves],)
        ).fetchall()
    )
    assets = {
        asset_id: (name, places)
        for asset_id, name, places in connection.execute(
            "SELECT id, name, places FROM assets WHERE id = ANY (%s)", ([move.asset_id for move in moves],)
        )
    }
    legs = tuple(Leg(accounts[move.account_id], *assets[move.asset_id], move.amount_units) for move in moves)
    return replace(letter, legs=legs)


def _letter(*values: Any) -> DeadLetter:
    letter_id, kind, *rest = values
    return DeadLetter(letter_id, LetterKind(kind), *rest)


_LETTERS: Final = """
SELECT id, 'transfer' AS kind, NULL::text AS reference, coalesce(error, ''), tries, progress, created_at
FROM wallet_transfers WHERE state = 'dead' {transfers}
UNION ALL
SELECT id, kind::text, reference, coalesce(wallet_error, ''), wallet_tries, '', requested_at
FROM funding WHERE wallet_state = 'dead' {fundings}
"""
_BELOW: Final = "AND (%(before_id)s::bigint IS NULL OR id < %(before_id)s)"
_LIST: Final = _LETTERS.format(transfers=_BELOW, fundings=_BELOW) + "ORDER BY 1 DESC LIMIT %(limit)s"
_FIND: Final = _LETTERS.format(transfers="AND id = %(id)s", fundings="AND id = %(id)s")

_RETRY_TRANSFER: Final = """
UPDATE wallet_transfers SET state = 'pending', tries = 0, next_try_at = now() WHERE id = %s AND state = 'dead'
"""

_RETRY_FUNDING: Final = """
UPDATE funding SET wallet_tries = 0, wallet_next_try_at = now(),
    wallet_state = CASE WHEN status = 'refused' THEN 'done' ELSE 'waiting' END::wallet_funding_state
WHERE id = %s AND wallet_state = 'dead'
"""

_ADJUST: Final = """
INSERT INTO wallet_adjustments (dead_letter_id, account_id, asset_id, amount_units, adjusted_by, reason)
VALUES (%s, %s, %s, %s, %s, %s)
"""
