"""What streams of a user's own orders begin with: live orders, and what has changed since a place in the events.

Everything about one question comes from one snapshot, together with how far settlement had got in each shard: what is
at or after that place is not included, whatever is before it is.
It refuses to know subscriptions and who may ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from tradeengine.core.ids import first_id_at, shard_of
from tradeengine.storage.queries import OrderRow, TradeRow, orders_where, trades_from

Connection = psycopg.Connection[Any]

CHANGES_MAX: Final = 1000
"""More orders or fills than this are not told one by one."""
_SLACK_MS: Final = 60_000
"""How far the clock of a cursor and the times in ids may differ."""


@dataclass(frozen=True, slots=True)
class LiveOrders:
    """Live orders of some accounts. ``settled``: the next event of each shard that is not included, by shard."""

    settled: dict[int, int]
    orders: list[OrderRow]


@dataclass(frozen=True, slots=True)
class Changes:
    """Orders that changed, each as it is now, and fills, both in the order of their ids; ``settled`` as above."""

    settled: dict[int, int]
    orders: list[OrderRow]
    trades: list[TradeRow]


def read_live_orders(connection: Connection, account_ids: Sequence[int]) -> LiveOrders:
    """Read the live orders of accounts."""
    with connection.transaction():
        connection.execute(_SNAPSHOT)
        settled = _settled(connection)
        tail = "WHERE account_id = ANY (%(account_ids)s) AND closed_at IS NULL ORDER BY id"
        return LiveOrders(settled, orders_where(connection, tail, {"account_ids": list(account_ids)}))


def read_changes(connection: Connection, account_id: int, since_ms: int, positions: Sequence[int]) -> Changes | None:
    """Read what has happened to an account's orders at or after ``positions`` (the next event of each shard).

    since_ms: about when that was. Returns None when it is more than ``CHANGES_MAX``.
    """
    parameters = {
        "account_id": account_id,
        "first_id": first_id_at(since_ms - _SLACK_MS),
        "since_s": (since_ms - _SLACK_MS) / 1000,
        "limit": 2 * CHANGES_MAX,
    }
    with connection.transaction():
        connection.execute(_SNAPSHOT)
        settled = _settled(connection)
        orders = orders_where(connection, _CHANGED_ORDERS, parameters)
        trades = trades_from(connection, _CHANGED_TRADES, parameters)
    changed = [order for order in orders if order.sequence >= _position(positions, order.order_id)]
    filled = [trade for trade in trades if trade.sequence >= _position(positions, trade.trade_id)]
    if max(len(orders), len(trades)) >= parameters["limit"] or max(len(changed), len(filled)) > CHANGES_MAX:
        return None
    return Changes(settled, sorted(changed, key=lambda order: order.order_id), filled)


def _settled(connection: Connection) -> dict[int, int]:
    return dict(connection.execute("SELECT shard, sequence FROM settlement_cursors WHERE shard >= 0").fetchall())


def _position(positions: Sequence[int], any_id: int) -> int:
    shard = shard_of(any_id)
    # A shard that the cursor does not know is younger than it.
    return positions[shard] if shard < len(positions) else 0


_SNAPSHOT: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"

# Whatever changed is live, or began since, or was filled since, or ended without a fill since. As arrays, and OFFSET 0:
# by key then, one by one, whatever the planner believes; joined it may read all that the account ever placed.
_CHANGED_ORDERS: Final = """
WHERE account_id = %(account_id)s AND id = ANY (ARRAY(
    SELECT id FROM orders WHERE account_id = %(account_id)s AND closed_at IS NULL
    UNION
    SELECT id FROM orders WHERE account_id = %(account_id)s AND id >= %(first_id)s
    UNION
    SELECT id FROM orders
    WHERE account_id = %(account_id)s AND status = 'cancelled' AND closed_at >= to_timestamp(%(since_s)s)
    UNION
    SELECT CASE WHEN t.taker_account_id = %(account_id)s THEN t.taker_order_id ELSE t.maker_order_id END
    FROM postings AS p
    CROSS JOIN LATERAL (SELECT * FROM trades WHERE trades.id = p.transaction_id OFFSET 0) AS t
    WHERE p.account_id = %(account_id)s AND p.account_id >= 16 AND p.kind = 'T' AND p.transaction_id >= %(first_id)s
))
LIMIT %(limit)s
"""

_CHANGED_TRADES: Final = """
FROM trades WHERE id = ANY (ARRAY(
    SELECT DISTINCT transaction_id FROM postings
    WHERE account_id = %(account_id)s AND account_id >= 16 AND kind = 'T' AND transaction_id >= %(first_id)s
)) AND id >= %(first_id)s
ORDER BY id LIMIT %(limit)s
"""
