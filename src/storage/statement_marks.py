"""Marks in statements: now and then, what all of an account's postings so far add up to.

A balance after a posting is the sum of all before it, and an account may have millions. So settlement leaves a mark at
least every ``MARK_EVERY`` postings of an account and a batch, in the batch's own transaction: a page of a statement
begins at the mark before it (``storage.statement``) and adds up the few postings from there.

Rule 1: a mark stands at the end of a millisecond and is the exact sum of the account's postings up to there, always.
What is settled late, below a mark that was made before, is added to that mark by the same transaction.
Rule 2: what is kept in memory only decides when to mark. Lost with the process, it costs a mark that comes later.
It refuses to know trades and deposits.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from tradeengine.core.ids import TIMESTAMP_SHIFT
from tradeengine.core.records import ACCOUNT_ID_FIRST_USER
from tradeengine.storage.bulk import Array, int2, int4, int8
from tradeengine.storage.settle_postings import Postings

MARK_EVERY: Final = 1000
MILLISECOND_MASK: Final = (1 << TIMESTAMP_SHIFT) - 1

Connection = psycopg.Connection[Any]
Int64s = NDArray[np.int64]


class StatementMarks:
    """Knows how many postings each account has got since its last mark. Arrays by account id."""

    def __init__(self, connection: Connection) -> None:
        """Read where the last marks are."""
        self._random = np.random.default_rng()
        self._unmarked: Int64s = np.empty(0, np.int64)
        self._marked_id: Int64s = np.empty(0, np.int64)
        for account_id, transaction_id in connection.execute(_LAST_MARKS):
            self._grow(account_id)
            self._marked_id[account_id] = transaction_id

    def write(self, connection: Connection, postings: Postings) -> None:
        """Keep the marks right behind new postings. Call it in their transaction, after the balances were written."""
        users = postings.account_id >= ACCOUNT_ID_FIRST_USER
        if not users.any():
            return
        account_id, transaction_id = postings.account_id[users], postings.transaction_id[users]
        self._grow(int(account_id.max()))
        late = transaction_id <= self._marked_id[account_id]
        if late.any():
            asset_id, amount_units = postings.asset_id[users][late], postings.amount_units[users][late]
            columns = (int4(account_id[late]), int2(asset_id), int8(transaction_id[late]), int8(amount_units))
            connection.execute(_ADD_TO_MARKS, [Array.of(column) for column in columns])
        np.add.at(self._unmarked, account_id, 1)
        due = np.unique(account_id[self._unmarked[account_id] >= MARK_EVERY])
        if len(due):
            for marked_account, marked_id in connection.execute(_MARK, [Array.of(int4(due))]):
                self._marked_id[marked_account] = marked_id
            self._unmarked[due] = 0

    def _grow(self, account_id: int) -> None:
        """Make room for an account."""
        missing = account_id + 1 - len(self._unmarked)
        if missing > 0:
            missing += len(self._unmarked)
            # How many came since the last mark is not known; at random nobody's mark is put off at every start.
            begun = self._random.integers(0, MARK_EVERY, missing)
            self._unmarked = np.append(self._unmarked, begun)
            self._marked_id = np.append(self._marked_id, np.full(missing, -1, np.int64))


_LAST_MARKS: Final = "SELECT account_id, max(transaction_id) FROM statement_marks GROUP BY account_id"

# Nobody's postings are above the newest one of the account, so up to there they add up to its balance.
_MARK: Final = f"""
INSERT INTO statement_marks AS m (account_id, transaction_id, asset_id, balance_units)
SELECT due.account_id, newest.id, b.asset_id, b.total_units
FROM unnest(%b) AS due (account_id)
CROSS JOIN LATERAL (
    SELECT transaction_id | {MILLISECOND_MASK} AS id FROM postings
    WHERE postings.account_id = due.account_id AND postings.account_id >= {ACCOUNT_ID_FIRST_USER}
    ORDER BY transaction_id DESC LIMIT 1
) AS newest
JOIN balances AS b ON b.account_id = due.account_id
ON CONFLICT (account_id, transaction_id, asset_id) DO UPDATE SET balance_units = excluded.balance_units
RETURNING account_id, transaction_id
"""  # noqa: S608 - made of our own numbers

_ADD_TO_MARKS: Final = """
INSERT INTO statement_marks AS m (account_id, transaction_id, asset_id, balance_units)
SELECT marks.account_id, marks.transaction_id, late.asset_id, sum(late.amount_units)::bigint
FROM unnest(%b, %b, %b, %b) AS late (account_id, asset_id, transaction_id, amount_units)
CROSS JOIN LATERAL (
    SELECT DISTINCT s.account_id, s.transaction_id FROM statement_marks AS s
    WHERE s.account_id = late.account_id AND s.transaction_id >= late.transaction_id
) AS marks
GROUP BY 1, 2, 3
ON CONFLICT (account_id, transaction_id, asset_id)
    DO UPDATE SET balance_units = m.balance_units + excluded.balance_units
"""
