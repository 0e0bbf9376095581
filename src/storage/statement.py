"""An account's statement: its postings, newest first, each with the balance of the asset after it.

Rule 1: balances are exact: a page begins at the mark before it (``storage.statement_marks``) and adds up from there,
in one snapshot. So a page reads its own postings and those of a few marks, however long the history is.
Rule 2: no balance is below zero. Postings are in order of their millisecond; within one, which is as exact as ids are,
what came in stands before what went out: where it was paid from, it had come in.
Rule 3: a page is bounded in what it reads. With a filter that little passes it may end before it is full, and says
where to go on.
It refuses to know names of assets, decimals and who may ask.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.rows import args_row

from tradeengine.core.ids import TIMESTAMP_SHIFT, first_id_at
from tradeengine.core.records import ACCOUNT_ID_FIRST_USER
from tradeengine.storage.statement_marks import MILLISECOND_MASK

Connection = psycopg.Connection[Any]

STRETCHES_MAX: Final = 32
"""Stretches between two marks that one page reads at most: tens of thousands of postings."""
_CLOCK_SLACK_MS: Final = 3_600_000
"""Ids may run ahead of this machine's clock by less than this."""
FUNDING_KINDS: Final = ("deposit", "withdrawal")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a statement: that of a posting, or the end of a millisecond. What is below it is older."""

    transaction_id: int
    asset_id: int
    went_out: bool


@dataclass(slots=True)
class StatementRow:
    """A posting. ``kind``: trade, deposit or withdrawal. ``balance_units``: of its asset, after it.

    ``order_id``: the account's own in a trade; 0 where there is none, or none is kept any more. ``reference``: of the
    request for a deposit or withdrawal.
    """

    transaction_id: int
    asset_id: int
    kind: str
    amount_units: int
    balance_units: int
    order_id: int = 0
    reference: str | None = None

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.transaction_id, self.asset_id, self.amount_units < 0)


def read_statement(
    connection: Connection,
    account_id: int,
    *,
    limit: int,
    asset_id: int | None = None,
    kind: str | None = None,
    start_ns: int | None = None,
    end_ns: int | None = None,
    below: Place | None = None,
) -> tuple[list[StatementRow], Place | None]:
    """Read a page of an account's postings, newest first, and the place below which the next page goes on (None: end).

    asset_id, kind: only those. start_ns (inclusive), end_ns (exclusive): of the time in the transaction's id.
    below: what an earlier page gave. A page may have fewer rows than ``limit`` and be followed by others.
    """
    assert account_id >= ACCOUNT_ID_FIRST_USER
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        page = _Page(connection, account_id, limit, asset_id, kind, first_id_at(_ceil_ms(start_ns or 0)))
        page.read(_last_id(end_ns), below)
        _name_orders(connection, account_id, page.rows)
        _name_references(connection, account_id, page.rows)
    return page.rows, page.below


class _Page:
    """A page while it is read, stretch by stretch, back in time."""

    def __init__(
        self,
        connection: Connection,
        account_id: int,
        limit: int,
        asset_id: int | None,
        kind: str | None,
        first_id: int,
    ) -> None:
        self._connection = connection
        self._limit = limit
        self._kind = kind
        self._filters: dict[str, Any] = {
            "account_id": account_id,
            "asset_id": asset_id,
            "kind": kind,
            "first_id": first_id,
        }
        self.rows: list[StatementRow] = []
        self.below: Place | None = None

    def read(self, last_id: int, below: Place | None) -> None:
        """Read what is at or before an id, and below a place."""
        if below is not None:
            last_id = min(last_id, below.transaction_id | MILLISECOND_MASK)
        for _ in range(STRETCHES_MAX):
            if self._kind in FUNDING_KINDS:
                last_id = self._last_funding(last_id)
            if last_id < self._filters["first_id"]:
                return
            mark_id = self._mark_before(last_id)
            self.rows += self._read_stretch(mark_id, last_id, below)
            if len(self.rows) > self._limit:
                del self.rows[self._limit :]
                self.below = self.rows[-1].place
                return
            last_id = mark_id
        if last_id >= self._filters["first_id"]:
            self.below = Place(last_id + 1, 0, went_out=False)

    def _last_funding(self, last_id: int) -> int:
        """End of the millisecond of the newest deposit or withdrawal at or before an id; -1: there is none."""
        row = self._connection.execute(_LAST_FUNDING, self._filters | {"last_id": last_id}).fetchone()
        return -1 if row is None else row[0] | MILLISECOND_MASK

    def _mark_before(self, last_id: int) -> int:
        """Give the last mark before the millisecond of an id; -1: there is none."""
        row = self._connection.execute(_MARK_BEFORE, self._filters | {"id": last_id & ~MILLISECOND_MASK}).fetchone()
        return -1 if row is None else int(row[0])

    def _read_stretch(self, mark_id: int, last_id: int, below: Place | None) -> list[StatementRow]:
        parameters = self._filters | {"mark_id": mark_id, "last_id": last_id, "limit": self._limit + 1 - len(self.rows)}
        place = below or Place(last_id + 1, 0, went_out=False)
        parameters |= {"below_id": place.transaction_id, "below_asset": place.asset_id, "below_out": place.went_out}
        with self._connection.cursor(row_factory=args_row(StatementRow)) as cursor:
            return cursor.execute(_STRETCH, parameters).fetchall()


def _name_orders(connection: Connection, account_id: int, rows: list[StatementRow]) -> None:
    trade_ids = list({row.transaction_id for row in rows if row.kind == "trade"})
    orders = dict(connection.execute(_ORDERS, {"account_id": account_id, "trade_ids": trade_ids}).fetchall())
    for row in rows:
        row.order_id = orders.get(row.transaction_id, 0)


def _name_references(connection: Connection, account_id: int, rows: list[StatementRow]) -> None:
    ids = [row.transaction_id for row in rows if row.kind in FUNDING_KINDS]
    query = "SELECT transaction_id, reference FROM funding WHERE account_id = %s AND transaction_id = ANY (%s)"
    references = dict(connection.execute(query, (account_id, ids)).fetchall())
    for row in rows:
        row.reference = references.get(row.transaction_id)


def _last_id(end_ns: int | None) -> int:
    """Last id before a time; without one a little after now, so that no partition made ahead is looked at."""
    end_ms = time.time_ns() // 1_000_000 + _CLOCK_SLACK_MS if end_ns is None else _ceil_ms(end_ns)
    return first_id_at(end_ms) - 1


def _ceil_ms(timestamp_ns: int) -> int:
    return -(-timestamp_ns // 1_000_000)


_LAST_FUNDING: Final = """
SELECT transaction_id FROM funding
WHERE account_id = %(account_id)s AND kind = %(kind)s::funding_kind AND transaction_id <= %(last_id)s
ORDER BY transaction_id DESC LIMIT 1
"""

_MARK_BEFORE: Final = """
SELECT transaction_id FROM statement_marks WHERE account_id = %(account_id)s AND transaction_id < %(id)s
ORDER BY transaction_id DESC LIMIT 1
"""

_STRETCH: Final = f"""
SELECT id, asset_id, kind, amount_units, balance_units FROM (
    SELECT p.transaction_id AS id, p.transaction_id >> {TIMESTAMP_SHIFT} AS ms, p.asset_id, p.amount_units,
        CASE WHEN p.kind = 'T' THEN 'trade' WHEN p.amount_units > 0 THEN 'deposit' ELSE 'withdrawal' END AS kind,
        (coalesce(m.balance_units, 0) + sum(p.amount_units) OVER up_to_here)::bigint AS balance_units
    FROM postings AS p
    LEFT JOIN statement_marks AS m
        ON m.account_id = %(account_id)s AND m.transaction_id = %(mark_id)s AND m.asset_id = p.asset_id
    WHERE p.account_id = %(account_id)s AND p.account_id >= {ACCOUNT_ID_FIRST_USER}
        AND p.transaction_id > %(mark_id)s AND p.transaction_id <= %(last_id)s
    WINDOW up_to_here AS (
        PARTITION BY p.asset_id
        ORDER BY p.transaction_id >> {TIMESTAMP_SHIFT}, p.amount_units < 0, p.transaction_id)
) AS stretch
WHERE (ms, amount_units < 0, id, asset_id)
        < (%(below_id)s::bigint >> {TIMESTAMP_SHIFT}, %(below_out)s, %(below_id)s, %(below_asset)s)
    AND id >= %(first_id)s
    AND (%(asset_id)s::integer IS NULL OR asset_id = %(asset_id)s)
    AND (%(kind)s::text IS NULL OR kind = %(kind)s)
ORDER BY ms DESC, amount_units < 0 DESC, id DESC, asset_id DESC LIMIT %(limit)s
"""  # noqa: S608 - made of our own numbers

# By key, one partition each.
_ORDERS: Final = """
SELECT t.id, CASE WHEN t.taker_account_id = %(account_id)s THEN t.taker_order_id ELSE t.maker_order_id END
FROM unnest(%(trade_ids)s::bigint[]) AS wanted (id)
CROSS JOIN LATERAL (SELECT * FROM trades WHERE trades.id = wanted.id OFFSET 0) AS t
"""
