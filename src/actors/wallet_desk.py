"""The desk: the wallet actor's side of the database. One round writes down what became of requests and reads new ones.

Rule 1: a round may be repeated after any error: what it writes is the same the second time.
Rule 2: what may be lost may be lost: a transfer whose delivery was not written down is repeated, under its id. So a
round does not wait for the disk, except for a deposit's number, which risk will count on.
Rule 3: nothing is on its way to the wallet without the lock ``DELIVERY_LOCK_KEY``, shared.
It refuses to know trio, and how a wallet is asked. Plain synchronous code, run in a thread.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

import psycopg

from tradeengine.core.money import format_units
from tradeengine.core.records import ACCOUNT_ID_EXCHANGE
from tradeengine.storage import outbox, wallet_fundings
from tradeengine.storage.outbox import DELIVERY_LOCK_KEY, Move, Outbox, OutboxRow, Retry
from tradeengine.storage.wallet_fundings import FundingRow, HoldingKind
from tradeengine.wallet.port import ID_LENGTH_MAX, Direction, Holding, Leg, Transfer

Connection = psycopg.Connection[Any]

WITHHELD_S: Final = 0.25
"""A withdrawal whose account waits for transfers is looked at again so often."""


@dataclass(slots=True)
class TransferJob:
    """A transfer to make. ``alone``: no other transfer that is not delivered would credit whom it debits."""

    row: OutboxRow
    transfer: Transfer
    alone: bool = False


@dataclass(slots=True)
class HoldingJob:
    """A deposit to reserve, or a withdrawal to release."""

    row: FundingRow
    holding: Holding


Job = TransferJob | HoldingJob


@dataclass(slots=True)
class Round:
    """What to write down, and how much to read."""

    delivered: list[int] = field(default_factory=list)
    transfers_put_off: list[Retry] = field(default_factory=list)
    transfers_dead: list[Retry] = field(default_factory=list)
    hastened: list[int] = field(default_factory=list)
    forgiven: list[int] = field(default_factory=list)
    """Transfers that lose a try: the wallet was away as a whole."""
    short: list[TransferJob] = field(default_factory=list)
    """Transfers of which the wallet says that someone has not got enough."""
    reserved: list[int] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    given_back: list[int] = field(default_factory=list)
    deposits_refused: list[tuple[int, str, str]] = field(default_factory=list)
    """Id, reason, and what the wallet said."""
    fundings_put_off: list[Retry] = field(default_factory=list)
    fundings_dead: list[Retry] = field(default_factory=list)
    room: int = 0
    """How many transfers to read at most."""
    transfers_taken: Sequence[int] = ()
    asleep: Sequence[int] = ()
    """Of the taken ones: those that are read again when they are due."""
    asks: Sequence[tuple[int, int]] = ()
    """Accounts and assets of which is read what they have reserved."""
    fundings_room: int = 0
    fundings_taken: Sequence[int] = ()
    ripe: frozenset[int] = frozenset()
    """Withdrawals of which everything that was published before them is settled."""
    wants_counts: bool = False
    gives_lock_back: bool = False

    def joined(self, later: Round) -> Round:
        """Give what is to be written down after this round failed: its own, and what came later."""
        lists = {name: getattr(self, name) + getattr(later, name) for name in _WRITTEN}
        return Round(**lists)

    def writes(self) -> bool:
        """Whether there is anything to write down or to decide."""
        return any(getattr(self, name) for name in _WRITTEN)


_WRITTEN: Final = tuple(each.name for each in fields(Round) if each.default_factory is list)


@dataclass(slots=True)
class News:
    """What a round read."""

    transfers: list[TransferJob] = field(default_factory=list)
    due: list[TransferJob] = field(default_factory=list)
    reserves: dict[tuple[int, int], int] = field(default_factory=dict)
    holdings: list[HoldingJob] = field(default_factory=list)
    unripe: list[int] = field(default_factory=list)
    """Withdrawals that are due and not in ``ripe``."""
    waiting: list[TransferJob] = field(default_factory=list)
    """Of the short ones: those that another transfer would help."""
    alone: list[TransferJob] = field(default_factory=list)
    """Of the short ones: those that none would."""
    outbox: Outbox | None = None
    counting_s: float = 0.0
    is_locked: bool = False
    lock_is_wanted: bool = False


class Desk:
    """One connection, opened when it is needed; after an error ``close`` and work again."""

    def __init__(self, connect: Callable[[], Connection], exchange_user: str) -> None:
        """exchange_user: the wallet's user who gets the fees."""
        self._connect = connect
        self._connection: Connection | None = None
        self._is_locked = False
        self._names: dict[int, str] = {ACCOUNT_ID_EXCHANGE: exchange_user}
        self._assets: dict[int, tuple[str, int]] = {}

    def work(self, done: Round) -> News:
        """Do a round. Raises psycopg.Error."""
        connection = self._open()
        if done.reserved:
            wallet_fundings.confirm_reserved(connection, done.reserved)
        with connection.transaction():
            self._write(connection, done)
            news = News()
            for job in done.short:
                needs = [move for move in job.row.moves() if move.amount_units < 0]
                helped = outbox.expects_credit(connection, job.row.id, needs)
                (news.waiting if helped else news.alone).append(job)
        if done.gives_lock_back:
            self._unlock(connection)
        if not self._is_locked:
            self._lock(connection)
        news.is_locked = self._is_locked
        if done.asks:
            news.reserves = outbox.read_reserves(connection, done.asks)
        self._read(connection, done, news)
        if done.wants_counts:
            began_s = time.monotonic()
            news.outbox = outbox.read_outbox(connection)
            news.counting_s = time.monotonic() - began_s
            news.lock_is_wanted = outbox.delivery_lock_is_wanted(connection)
        return news

    def keep_progress(self, transfer_id: int, progress: str) -> None:
        """Keep a transfer's progress, durable when this returns. Raises psycopg.Error."""
        outbox.keep_progress(self._open(), transfer_id, progress)

    def close(self) -> None:
        """Close the connection; the lock goes with it."""
        self._is_locked = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _lock(self, connection: Connection) -> None:
        row = connection.execute("SELECT pg_try_advisory_lock_shared(%s)", (DELIVERY_LOCK_KEY,)).fetchone()
        self._is_locked = row == (True,)

    def _unlock(self, connection: Connection) -> None:
        if self._is_locked:
            connection.execute("SELECT pg_advisory_unlock_shared(%s)", (DELIVERY_LOCK_KEY,))
            self._is_locked = False

    def _open(self) -> Connection:
        if self._connection is None:
            connection = self._connect()
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET synchronous_commit = off")
            self._connection = connection
        return self._connection

    @staticmethod
    def _write(connection: Connection, done: Round) -> None:
        if done.delivered:
            outbox.delete_delivered(connection, done.delivered)
        if done.transfers_put_off:
            outbox.put_off(connection, done.transfers_put_off)
        if done.transfers_dead:
            outbox.bury(connection, done.transfers_dead)
        if done.forgiven:
            outbox.give_back_tries(connection, done.forgiven)
        if done.hastened:
            outbox.hasten(connection, done.hastened)
        if done.released:
            wallet_fundings.confirm_released(connection, done.released)
        if done.given_back:
            wallet_fundings.confirm_given_back(connection, done.given_back)
        for refused in done.deposits_refused:
            wallet_fundings.refuse_deposit(connection, *refused)
        if done.fundings_put_off:
            wallet_fundings.put_off_fundings(connection, done.fundings_put_off)
        for letter in done.fundings_dead:
            wallet_fundings.bury_funding(connection, letter)

    def _read(self, connection: Connection, done: Round, news: News) -> None:
        rows = outbox.take_pending(connection, done.room, done.transfers_taken) if done.room > 0 else []
        due = outbox.take_due(connection, done.asleep) if done.asleep else []
        fundings = []
        if done.fundings_room > 0:
            fundings = wallet_fundings.take_due_fundings(connection, done.fundings_room, done.fundings_taken)
        self._learn(connection, rows + due, fundings)
        news.transfers = [TransferJob(row, self._transfer(row)) for row in rows]
        news.due = [TransferJob(row, self._transfer(row)) for row in due]
        withheld = []
        for row in fundings:
            if row.kind is not HoldingKind.RELEASE:
                news.holdings.append(HoldingJob(row, self._holding(row)))
            elif row.id not in done.ripe:
                news.unripe.append(row.id)
            elif wallet_fundings.has_undelivered(connection, row.account_id):
                why = "waits until the wallet has confirmed the trades of this account"
                withheld.append(Retry(row.id, row.tries, WITHHELD_S, why))
            else:
                news.holdings.append(HoldingJob(row, self._holding(row)))
        if withheld:
            wallet_fundings.put_off_fundings(connection, withheld)

    def _learn(self, connection: Connection, rows: Sequence[OutboxRow], fundings: Sequence[FundingRow]) -> None:
        """Look up names that are new."""
        accounts = {row.buyer_account_id for row in rows} | {row.seller_account_id for row in rows}
        accounts |= {row.account_id for row in fundings}
        unknown = accounts - self._names.keys()
        if unknown:
            self._names |= dict(
                connection.execute("SELECT id, name FROM accounts WHERE id = ANY (%s)", (list(unknown),)).fetchall()
            )
        assets = {row.base_asset_id for row in rows} | {row.quote_asset_id for row in rows}
        assets |= {row.asset_id for row in fundings}
        if not assets <= self._assets.keys():
            for asset_id, name, places in connection.execute("SELECT id, name, places FROM assets"):
                self._assets[asset_id] = (name, places)

    def _transfer(self, row: OutboxRow) -> Transfer:
        return Transfer(str(row.id), tuple(self._leg(move) for move in row.moves()))

    def _leg(self, move: Move) -> Leg:
        name, places = self._assets[move.asset_id]
        direction = Direction.CREDIT if move.amount_units > 0 else Direction.DEBIT
        return Leg(self._names[move.account_id], name, format_units(abs(move.amount_units), places), direction)

    def _holding(self, row: FundingRow) -> Holding:
        name, places = self._assets[row.asset_id]
        reference = f"{row.kind.value}:{row.reference}"
        if not (reference.isascii() and reference.isprintable() and len(reference) <= ID_LENGTH_MAX):
            reference = f"{row.kind.value}:{hashlib.sha256(row.reference.encode()).hexdigest()}"
        return Holding(reference, self._names[row.account_id], name, format_units(row.amount_units, places))
