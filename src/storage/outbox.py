"""The outbox: trades that a wallet outside has not been told of yet, a row each, written with the trade's postings.

Rule 1: settlement adds the row in the trade's own transaction (``settle``), and the wallet actor deletes it when the
wallet has made the transfer. A trade without a row is delivered; a crash in between repeats the transfer, by its id.
Rule 2: a row that ends otherwise stays: a dead letter, which people retry or discard (``storage.dead_letters``).
Rule 3: rows are taken in the order in which they happened, so what is read is a beginning of what is pending. They are
not taken with a cursor: settlement commits the trades of two shards in any order, and dead letters come back.
It refuses to know how a wallet is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import args_row

from tradeengine.core.records import ACCOUNT_ID_EXCHANGE
from tradeengine.storage.bulk import Column, int2, int4, int8
from tradeengine.storage.settle_postings import TradeLegs

Connection = psycopg.Connection[Any]

DELIVERY_LOCK_KEY: Final = 0x7452_6164_6500_0003
"""Advisory lock: the wallet actor shares it while it delivers, and gives it back within a second when someone waits for
it. Who has it alone knows that nothing is on its way to the wallet.
"""


class WalletKindError(Exception):
    """The money of this database is kept elsewhere than the settings say; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Move:
    """One side of a transfer: what an account gets (above 0) or gives, in minor units of an asset."""

    account_id: int
    asset_id: int
    amount_units: int


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A transfer that waits. ``tries``: how often the wallet failed at this one; ``progress``: the wallet client's.

    ``executed_ns``: when risk let the order pass that made the trade, by its clock. ``created_s``: when it was settled,
    seconds since 1970.
    """

    id: int
    base_units: int
    notional_units: int
    buyer_fee_units: int
    seller_fee_units: int
    buyer_account_id: int
    seller_account_id: int
    base_asset_id: int
    quote_asset_id: int
    executed_ns: int
    tries: int
    progress: str
    created_s: float
    is_due: bool = True
    """Whether the time of its next try has come."""

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands among all transfers: whatever brought its money stands before it."""
        return self.executed_ns, self.id

    def moves(self) -> tuple[Move, ...]:
        """Give the five legs, debits first, those of nothing left out. They sum to zero per asset."""
        base, quote = self.base_asset_id, self.quote_asset_id
        legs = (
            Move(self.buyer_account_id, quote, -(self.notional_units + self.buyer_fee_units)),
            Move(self.seller_account_id, base, -self.base_units),
            Move(self.buyer_account_id, base, self.base_units),
            Move(self.seller_account_id, quote, self.notional_units - self.seller_fee_units),
            Move(ACCOUNT_ID_EXCHANGE, quote, self.buyer_fee_units + self.seller_fee_units),
        )
        return tuple(leg for leg in legs if leg.amount_units)


@dataclass(frozen=True, slots=True)
class Retry:
    """A transfer to try again. delay_s: not before. tries: as they are now."""

    id: int
    tries: int
    delay_s: float
    error: str


@dataclass(frozen=True, slots=True)
class Outbox:
    """How the outbox stands. ``oldest_s``: age of the oldest transfer that waits, 0: none does."""

    pending: int
    dead: int
    oldest_s: float


def transfer_columns(legs: TradeLegs, executed_ns: NDArray[np.int64]) -> dict[str, Column]:
    """Make the rows of ``wallet_transfers`` for settlement. executed_ns: of each trade."""
    return {
        "id": int8(legs.trade_id),
        "base_units": int8(legs.base_units),
        "notional_units": int8(legs.notional_units),
        "buyer_fee_units": int8(legs.buyer_fee_units),
        "seller_fee_units": int8(legs.seller_fee_units),
        "buyer_account_id": int4(legs.buyer_account_id),
        "seller_account_id": int4(legs.seller_account_id),
        "base_asset_id": int2(legs.base_asset_id),
        "quote_asset_id": int2(legs.quote_asset_id),
        "executed_ns": int8(executed_ns),
    }


def keep_kind(connection: Connection, kind: str, exchange_user: str) -> None:
    """Note with whom the money of this database is kept, ``ledger`` or ``http``.

    exchange_user: the wallet's user who gets the fees. Raises WalletKindError when there is money already and it is
    kept with the other, or when a user of the exchange has that name: at the wallet their money would be one.
    """
    with connection.transaction():
        named = connection.execute("SELECT FROM accounts WHERE name = %s", (exchange_user,))
        if kind == "http" and named.rowcount:
            raise WalletKindError(
                f"setting wallet.exchange_user = {exchange_user!r} is not allowed: a user of the exchange has that name"
            )
        row = connection.execute("SELECT kind FROM wallet_kind FOR UPDATE").fetchone()
        assert row is not None
        if row[0] == kind:
            return
        if connection.execute("SELECT FROM funding LIMIT 1").rowcount:
            raise WalletKindError(
                f"the money of this database is kept with wallet.kind = {row[0]!r}: go on with that, or begin with a "
                "new database (another --data-dir or --dsn)"
            )
        connection.execute("UPDATE wallet_kind SET kind = %s", (kind,))


def take_pending(connection: Connection, limit: int, taken: Sequence[int]) -> list[OutboxRow]:
    """Read pending transfers in the order in which they happened, without those that are ``taken`` already."""
    with connection.cursor(row_factory=args_row(OutboxRow)) as cursor:
        return cursor.execute(_TAKE_PENDING, (list(taken), limit)).fetchall()


def take_due(connection: Connection, ids: Sequence[int]) -> list[OutboxRow]:
    """Read those of some pending transfers whose time has come."""
    with connection.cursor(row_factory=args_row(OutboxRow)) as cursor:
        return cursor.execute(_TAKE_DUE, (list(ids),)).fetchall()


def find_row(connection: Connection, transfer_id: int) -> OutboxRow | None:
    """Find a transfer that is not delivered."""
    with connection.cursor(row_factory=args_row(OutboxRow)) as cursor:
        return cursor.execute(f"{_SELECT} WHERE id = %s", (transfer_id,)).fetchone()


def delete_delivered(connection: Connection, ids: Sequence[int]) -> None:
    """Take delivered transfers out."""
    connection.execute("DELETE FROM wallet_transfers WHERE id = ANY (%s)", (list(ids),))


def put_off(connection: Connection, retries: Sequence[Retry]) -> None:
    """Write down what failed and when it is tried again."""
    columns = (
        [retry.id for retry in retries],
        [retry.tries for retry in retries],
        [retry.delay_s for retry in retries],
        [retry.error for retry in retries],
    )
    connection.execute(_PUT_OFF, columns)


def bury(connection: Connection, dead: Sequence[Retry]) -> None:
    """Make dead letters of transfers; their delay means nothing."""
    columns = ([letter.id for letter in dead], [letter.tries for letter in dead], [letter.error for letter in dead])
    connection.execute(_BURY, columns)


def hasten(connection: Connection, ids: Sequence[int]) -> None:
    """Let transfers that were put off be tried at once."""
    connection.execute(
        "UPDATE wallet_transfers SET next_try_at = now() WHERE id = ANY (%s) AND state = 'pending'", (list(ids),)
    )


def give_back_tries(connection: Connection, ids: Iterable[int]) -> None:
    """Take back one try of each transfer: the wallet as a whole was away, not these at fault."""
    connection.execute("UPDATE wallet_transfers SET tries = tries - 1 WHERE id = ANY (%s) AND tries > 0", (list(ids),))


def keep_progress(connection: Connection, transfer_id: int, progress: str) -> None:
    """Keep what the wallet's client must find again, durable when this returns."""
    with connection.transaction():
        connection.execute("SET LOCAL synchronous_commit = on")
        connection.execute("UPDATE wallet_transfers SET progress = %s WHERE id = %s", (progress, transfer_id))


def expects_credit(connection: Connection, transfer_id: int, needs: Sequence[Move]) -> bool:
    """Whether another transfer that is not delivered would credit an account with an asset that is needed here."""
    for need in needs:
        parameters = {"id": transfer_id, "account_id": need.account_id, "asset_id": need.asset_id}
        if connection.execute(_CREDITOR, parameters).rowcount:
            return True
    return False


def unconfirmed_credits(connection: Connection, account_id: int, asset_id: int) -> int:
    """Minor units that trades have brought an account and the wallet has not confirmed: tradable, not withdrawable."""
    row = connection.execute(_CREDITS, {"account_id": account_id, "asset_id": asset_id}).fetchone()
    assert row is not None
    return int(row[0])


def read_outbox(connection: Connection) -> Outbox:
    """Count what waits and what is dead, deposits and withdrawals included."""
    with connection.cursor(row_factory=args_row(Outbox)) as cursor:
        outbox = cursor.execute(_OUTBOX).fetchone()
    assert outbox is not None
    return outbox


def delivery_lock_is_wanted(connection: Connection) -> bool:
    """Whether someone waits to have ``DELIVERY_LOCK_KEY`` alone."""
    return connection.execute(_LOCK_WANTED, (DELIVERY_LOCK_KEY,)).rowcount > 0


def expected_reserves(connection: Connection) -> dict[tuple[int, int], int]:
    """Minor units that a wallet holds reserved, by account and asset, when it has made exactly what is delivered.

    The ledger without what is undelivered, with what was given up. It holds while nothing is on its way to the wallet
    (``DELIVERY_LOCK_KEY``) and nothing that is undelivered was made all the same, its answer lost.
    """
    rows = connection.execute(_EXPECTED)
    return {(account_id, asset_id): int(units) for account_id, asset_id, units in rows if units}


def read_reserves(connection: Connection, keys: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Minor units that accounts, by account and asset, have reserved at a wallet that has made what is delivered.

    As ``expected_reserves``, for a few, and without deposits that risk refused: those are to be given back. Only what
    is written down of the wallet's answers changes it: a trade that is settled changes ledger and outbox at once.
    """
    columns = ([account_id for account_id, _ in keys], [asset_id for _, asset_id in keys])
    rows = connection.execute(_RESERVES, columns)
    return {(account_id, asset_id): int(units) for account_id, asset_id, units in rows}


_SELECT: Final = """
SELECT id, base_units, notional_units, buyer_fee_units, seller_fee_units, buyer_account_id, seller_account_id,
       base_asset_id, quote_asset_id, executed_ns, tries, progress, extract(epoch FROM created_at)::float8,
       next_try_at <= clock_timestamp()
FROM wallet_transfers
"""

_TAKE_PENDING: Final = f"""
{_SELECT} WHERE state = 'pending' AND id <> ALL (%s) ORDER BY executed_ns, id LIMIT %s
"""

_TAKE_DUE: Final = f"""
{_SELECT} WHERE state = 'pending' AND id = ANY (%s) AND next_try_at <= clock_timestamp() ORDER BY executed_ns, id
"""

_PUT_OFF: Final = """
UPDATE wallet_transfers AS t
SET tries = u.tries, next_try_at = clock_timestamp() + make_interval(secs => u.delay_s), error = u.error
FROM unnest(%s::bigint[], %s::integer[], %s::float8[], %s::text[]) AS u (id, tries, delay_s, error)
WHERE t.id = u.id
"""

_BURY: Final = """
UPDATE wallet_transfers AS t SET state = 'dead', tries = u.tries, error = u.error
FROM unnest(%s::bigint[], %s::integer[], %s::text[]) AS u (id, tries, error)
WHERE t.id = u.id AND t.state = 'pending'
"""

_CREDITOR: Final = """
SELECT FROM wallet_transfers WHERE buyer_account_id = %(account_id)s AND base_asset_id = %(asset_id)s
    AND id <> %(id)s AND state <> 'discarded'
UNION ALL
SELECT FROM wallet_transfers WHERE seller_account_id = %(account_id)s AND quote_asset_id = %(asset_id)s
    AND id <> %(id)s AND state <> 'discarded'
LIMIT 1
"""

_CREDITS: Final = """
SELECT coalesce(sum(units), 0) FROM (
    SELECT base_units AS units FROM wallet_transfers
    WHERE buyer_account_id = %(account_id)s AND base_asset_id = %(asset_id)s AND state <> 'discarded'
    UNION ALL
    SELECT notional_units - seller_fee_units FROM wallet_transfers
    WHERE seller_account_id = %(account_id)s AND quote_asset_id = %(asset_id)s AND state <> 'discarded'
) AS credits
"""

_OUTBOX: Final = """
SELECT transfers.count + fundings.count,
       (SELECT count(*) FROM wallet_transfers WHERE state = 'dead')
           + (SELECT count(*) FROM funding WHERE wallet_state = 'dead'),
       coalesce(extract(epoch FROM clock_timestamp() - least(transfers.oldest, fundings.oldest)), 0)::float8
FROM (SELECT count(*), (SELECT created_at FROM wallet_transfers WHERE state = 'pending'
                        ORDER BY executed_ns, id LIMIT 1) AS oldest
      FROM wallet_transfers WHERE state = 'pending') AS transfers,
     (SELECT count(*), min(requested_at) AS oldest FROM funding
      WHERE wallet_state = 'waiting' AND (kind = 'deposit' OR status = 'settled')) AS fundings
"""

_LOCK_WANTED: Final = """
SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid::bigint << 32 | objid::bigint = %s
"""

# What is reserved and not yet settled, or was refused and not yet given back, is with the wallet and not in the ledger;
# so is a withdrawal that is settled and not yet released.
_EXPECTED: Final = f"""
SELECT account_id, asset_id, sum(units)::numeric FROM (
    SELECT account_id, asset_id::integer, total_units AS units FROM balances WHERE account_id <> 2
    UNION ALL
    SELECT moved.account_id, moved.asset_id, -moved.units
    FROM wallet_transfers AS t, LATERAL (VALUES
        (buyer_account_id, quote_asset_id::integer, -(notional_units + buyer_fee_units)),
        (seller_account_id, base_asset_id::integer, -base_units),
        (buyer_account_id, base_asset_id::integer, base_units),
        (seller_account_id, quote_asset_id::integer, notional_units - seller_fee_units),
        ({ACCOUNT_ID_EXCHANGE}, quote_asset_id::integer, buyer_fee_units + seller_fee_units)
    ) AS moved (account_id, asset_id, units)
    WHERE state <> 'discarded'
    UNION ALL
    SELECT account_id, asset_id::integer, amount_units FROM wallet_adjustments WHERE account_id <> 2
    UNION ALL
    SELECT account_id, asset_id, amount_units FROM funding
    WHERE (kind = 'deposit' AND wallet_state = 'done' AND status <> 'settled')
        OR (kind = 'deposit' AND wallet_state = 'dead' AND status = 'refused')
        OR (kind = 'withdrawal' AND wallet_state IN ('waiting', 'dead') AND status = 'settled')
) AS parts
GROUP BY account_id, asset_id
"""  # noqa: S608 - made of our own names

_RESERVES: Final = f"""
SELECT account_id, asset_id, (
    coalesce((SELECT total_units FROM balances AS b WHERE b.account_id = k.account_id AND b.asset_id = k.asset_id), 0)
    - coalesce((SELECT sum(CASE k.asset_id WHEN base_asset_id THEN base_units
                                           WHEN quote_asset_id THEN -(notional_units + buyer_fee_units) END)
                FROM wallet_transfers WHERE buyer_account_id = k.account_id AND state <> 'discarded'), 0)
    - coalesce((SELECT sum(CASE k.asset_id WHEN base_asset_id THEN -base_units
                                           WHEN quote_asset_id THEN notional_units - seller_fee_units END)
                FROM wallet_transfers WHERE seller_account_id = k.account_id AND state <> 'discarded'), 0)
    - CASE k.account_id WHEN {ACCOUNT_ID_EXCHANGE} THEN coalesce((
          SELECT sum(buyer_fee_units + seller_fee_units) FROM wallet_transfers
          WHERE quote_asset_id = k.asset_id AND state <> 'discarded'), 0) ELSE 0 END
    + coalesce((SELECT sum(amount_units) FROM wallet_adjustments AS a
                WHERE a.account_id = k.account_id AND a.asset_id = k.asset_id), 0)
    + coalesce((SELECT sum(amount_units) FROM funding AS f
                WHERE f.account_id = k.account_id AND f.asset_id = k.asset_id AND (
                    (kind = 'deposit' AND wallet_state = 'done' AND status = 'pending')
                    OR (kind = 'withdrawal' AND wallet_state IN ('waiting', 'dead') AND status = 'settled'))), 0)
)::numeric
FROM unnest(%s::integer[], %s::integer[]) AS k (account_id, asset_id)
"""  # noqa: S608 - made of our own names
