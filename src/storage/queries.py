"""What the front asks of the past: orders and trades by id, by owner, by symbol, newest first.

Rule 1: every question is answered from an index and bounded by a limit.
Rule 2: a page continues below the last id of the one before (``before_id``): pages neither skip nor repeat what was
there when the first was read. Times become ids, because ids embed them and partitions are bounded by them.
Rule 3: integers out, as they are stored; enumerations as the numbers of ``core.records``, times in milliseconds.
It refuses to know pools, threads and who may see what.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import args_row

from tradeengine.core.ids import TIMESTAMP_SHIFT, first_id_at
from tradeengine.core.records import OrderType, Reason, SelfTradePrevention, Side, TimeInForce

Connection = psycopg.Connection[Any]

ID_MAX: Final = 2**63 - 1
_DAY_MS: Final = 86_400_000
_CLOCK_SLACK_MS: Final = 3_600_000
"""Ids may run ahead of this machine's clock by less than this."""


@dataclass(slots=True, kw_only=True)
class OrderRow:
    """An order. Times in milliseconds since 1970, 0: not yet, or never. ``reason``: 0 or a ``Reason``."""

    order_id: int
    account_id: int
    symbol_id: int
    client_order_id: str
    side: int
    order_type: int
    time_in_force: int
    self_trade_prevention: int
    post_only: bool
    by_quote: bool
    price_ticks: int
    stop_price_ticks: int
    quantity_lots: int
    filled_lots: int
    remaining_lots: int
    filled_notional_units: int
    fee_total_units: int
    hold_units: int
    status: str
    reason: int
    sequence: int
    updated_ms: int
    expires_ms: int
    triggered_ms: int
    closed_ms: int


@dataclass(slots=True, kw_only=True)
class TradeRow:
    """A trade; ``timestamp_ms`` since 1970."""

    trade_id: int
    symbol_id: int
    price_ticks: int
    quantity_lots: int
    notional_units: int
    taker_side: int
    taker_fee_units: int
    maker_fee_units: int
    taker_order_id: int
    maker_order_id: int
    taker_account_id: int
    maker_account_id: int
    sequence: int
    timestamp_ms: int


def list_orders(
    connection: Connection,
    account_id: int,
    *,
    limit: int,
    symbol_id: int | None = None,
    statuses: Sequence[str] | None = None,
    side: str | None = None,
    order_type: str | None = None,
    start_ns: int | None = None,
    end_ns: int | None = None,
    before_id: int | None = None,
) -> list[OrderRow]:
    """List an account's orders, newest first: those made from start_ns (inclusive) to end_ns (exclusive), below an id.

    statuses, side, order_type: the API's names, lower case; None or empty: any.
    """
    conditions = ["account_id = %(account_id)s", "id >= %(first_id)s", "id < %(end_id)s"]
    if symbol_id is not None:
        conditions.append("symbol_id = %(symbol_id)s")
    if statuses:
        conditions.append("status = ANY (%(statuses)s::order_status[])")
        if _LIVE_STATUSES.issuperset(statuses):
            # Says the same, but so that the index of live orders can be used.
            conditions.append("closed_at IS NULL")
    if side is not None:
        conditions.append("side = %(side)s::order_side")
    if order_type is not None:
        conditions.append("type = %(order_type)s::order_type")
    first_id, end_id = id_range(start_ns, end_ns, before_id)
    parameters = {
        "account_id": account_id,
        "symbol_id": symbol_id,
        "statuses": list(statuses or ()),
        "side": side,
        "order_type": order_type,
        "first_id": first_id,
        "end_id": end_id,
        "limit": limit,
    }
    return orders_where(connection, f"WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT %(limit)s", parameters)


def find_order(connection: Connection, account_id: int, order_id: int) -> OrderRow | None:
    """Find one of an account's orders."""
    parameters = {"account_id": account_id, "order_id": order_id}
    found = orders_where(connection, "WHERE id = %(order_id)s AND account_id = %(account_id)s", parameters)
    return found[0] if found else None


def find_order_by_client_id(connection: Connection, account_id: int, client_order_id: str) -> OrderRow | None:
    """Find an account's newest order with this client order id: after its lifetime an id may be used again."""
    tail = (
        "WHERE account_id = %(account_id)s AND client_order_id = %(client_order_id)s AND id < %(end_id)s "
        "ORDER BY id DESC LIMIT 1"
    )
    parameters = {"account_id": account_id, "client_order_id": client_order_id, "end_id": id_range(None, None, None)[1]}
    found = orders_where(connection, tail, parameters)
    return found[0] if found else None


def list_trades_of_order(connection: Connection, order_id: int, *, limit: int = 10_000) -> list[TradeRow]:
    """List the fills of one order, oldest first."""
    # Two questions, each with an index of its own; an order is never on both sides of a trade.
    source = f"{_OF_ORDER} ORDER BY id LIMIT %(limit)s"
    parameters = _of_order(order_id) | {"limit": limit}
    made = trades_from(connection, source.format("maker"), parameters)
    taken = trades_from(connection, source.format("taker"), parameters)
    return sorted(made + taken, key=lambda trade: trade.trade_id)[:limit]


def count_trades_of_order(
    connection: Connection, order_id: int, *, first_sequence: int = 0, last_sequence: int = ID_MAX
) -> int:
    """Count the fills of one order, those in a range of its shard's event sequences (both inclusive)."""
    counting = f"SELECT count(*) {_OF_ORDER} AND sequence BETWEEN %(first)s AND %(last)s"
    query = f"SELECT ({counting.format('maker')}) + ({counting.format('taker')})"
    parameters = _of_order(order_id) | {"first": first_sequence, "last": last_sequence}
    row = connection.execute(query, parameters).fetchone()
    assert row is not None
    return int(row[0])


def _of_order(order_id: int) -> dict[str, Any]:
    # A trade of the order's own millisecond may have the smaller id.
    first_id = order_id >> TIMESTAMP_SHIFT << TIMESTAMP_SHIFT
    return {"order_id": order_id, "first_id": first_id, "end_id": id_range(None, None, None)[1]}


def list_public_trades(
    connection: Connection,
    symbol_id: int,
    *,
    limit: int,
    start_ns: int | None = None,
    end_ns: int | None = None,
    before_id: int | None = None,
) -> list[TradeRow]:
    """List a symbol's trades, newest first, in a range of time and below an id."""
    source = (
        "FROM trades WHERE symbol_id = %(symbol_id)s AND id >= %(first_id)s AND id < %(end_id)s "
        "ORDER BY id DESC LIMIT %(limit)s"
    )
    return _newest_trades(connection, source, {"symbol_id": symbol_id}, limit, start_ns, end_ns, before_id)


def list_own_trades(
    connection: Connection,
    account_id: int,
    symbol_id: int | None = None,
    *,
    limit: int,
    start_ns: int | None = None,
    end_ns: int | None = None,
    before_id: int | None = None,
) -> list[TradeRow]:
    """List an account's trades, newest first, of one symbol or all, in a range of time and below an id."""
    source = _OWN_TRADES if symbol_id is None else _OWN_TRADES_OF_SYMBOL
    # A trade has two postings of each party at most; of one symbol, any number may have to be passed over.
    posting_limit = 2 * limit if symbol_id is None else None
    parameters = {"account_id": account_id, "symbol_id": symbol_id, "posting_limit": posting_limit}
    return _newest_trades(connection, source, parameters, limit, start_ns, end_ns, before_id)


def settlement_statuses(connection: Connection, trade_ids: Sequence[int]) -> dict[int, str]:
    """Say of those trades that are not settled with the wallet how they stand: pending, or failed.

    With the built-in ledger, what is in ``trades`` is settled, and nothing is here.
    """
    query = (
        "SELECT id, CASE state WHEN 'pending' THEN 'pending' ELSE 'failed' END "
        "FROM wallet_transfers WHERE id = ANY (%s)"
    )
    return dict(connection.execute(query, (list(trade_ids),)).fetchall())


def find_trade(connection: Connection, trade_id: int) -> TradeRow | None:
    """Find one trade."""
    found = trades_from(connection, "FROM trades WHERE id = %(trade_id)s", {"trade_id": trade_id})
    return found[0] if found else None


def live_order_ids(
    connection: Connection, account_id: int | None, symbol_id: int | None, *, limit: int
) -> tuple[int, list[int]]:
    """Count the live orders of an account, of a symbol, or of both (None: of every one); list the oldest of them."""
    parameters = {"account_id": account_id, "symbol_id": symbol_id, "limit": limit}
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        (total,) = connection.execute(f"SELECT count(*) {_LIVE_ORDERS}", parameters).fetchone() or (0,)
        rows = connection.execute(f"SELECT id {_LIVE_ORDERS} ORDER BY id LIMIT %(limit)s", parameters)
        return total, [order_id for (order_id,) in rows]


def id_range(start_ns: int | None, end_ns: int | None, before_id: int | None) -> tuple[int, int]:
    """Turn a range of time and a place to go on from into ids: first (inclusive) and end (exclusive).

    Without an end it is a little after now, so that no partition made ahead is looked at.
    """
    first_id = 0 if start_ns is None else first_id_at(_ceil_ms(start_ns))
    end_ms = time.time_ns() // 1_000_000 + _CLOCK_SLACK_MS if end_ns is None else _ceil_ms(end_ns)
    end_id = min(first_id_at(end_ms), ID_MAX if before_id is None else before_id)
    return first_id, end_id


def _newest_trades(
    connection: Connection,
    source: str,
    parameters: dict[str, Any],
    limit: int,
    start_ns: int | None,
    end_ns: int | None,
    before_id: int | None,
) -> list[TradeRow]:
    """Look back window by window, each longer than the one before: most pages end in the first.

    One question over all days would have to plan for, and lock, every day's partition.
    """
    first_id, end_id = id_range(start_ns, end_ns, before_id)
    found: list[TradeRow] = []
    window = _DAY_MS << TIMESTAMP_SHIFT
    oldest_id: int | None = None
    while end_id > first_id and len(found) < limit:
        start_id = max(end_id - window, first_id)
        bounds = {"first_id": start_id, "end_id": end_id, "limit": limit - len(found)}
        found += trades_from(connection, source, parameters | bounds)
        end_id = start_id
        window *= 8
        if oldest_id is None and len(found) < limit:
            oldest_id = _oldest_trade_id(connection, end_id)
            first_id = max(first_id, oldest_id)
    return found


def _oldest_trade_id(connection: Connection, end_id: int) -> int:
    row = connection.execute("SELECT id FROM trades WHERE id < %s ORDER BY id LIMIT 1", (end_id,)).fetchone()
    return end_id if row is None else int(row[0])


def orders_where(connection: Connection, tail: str, parameters: dict[str, Any]) -> list[OrderRow]:
    """Read orders; ``tail`` is what stands behind FROM orders."""
    with connection.cursor(row_factory=args_row(_order_row)) as cursor:
        return cursor.execute(sql.SQL(_SELECT_ORDER + tail), parameters).fetchall()


def trades_from(connection: Connection, source: str, parameters: dict[str, Any]) -> list[TradeRow]:
    """Read trades; ``source`` is what stands behind the columns, from FROM on."""
    with connection.cursor(row_factory=args_row(_trade_row)) as cursor:
        return cursor.execute(sql.SQL(_SELECT_TRADE + source), parameters).fetchall()


def _order_row(*values: Any) -> OrderRow:
    row = dict(zip(OrderRow.__slots__, values, strict=True))
    row["side"] = _SIDES[row["side"]]
    row["order_type"] = _TYPES[row["order_type"]]
    row["time_in_force"] = _TIMES_IN_FORCE[row["time_in_force"]]
    row["self_trade_prevention"] = _PREVENTIONS[row["self_trade_prevention"]]
    row["reason"] = _REASONS[row["reason"]]
    return OrderRow(**row)


def _trade_row(*values: Any) -> TradeRow:
    row = dict(zip(TradeRow.__slots__, values, strict=True))
    row["taker_side"] = _SIDES[row["taker_side"]]
    return TradeRow(**row)


def _ceil_ms(timestamp_ns: int) -> int:
    return -(-timestamp_ns // 1_000_000)


_OF_ORDER: Final = "FROM trades WHERE {}_order_id = %(order_id)s AND id >= %(first_id)s AND id < %(end_id)s"
_LIVE_ORDERS: Final = """FROM orders WHERE closed_at IS NULL
    AND (%(account_id)s::integer IS NULL OR account_id = %(account_id)s)
    AND (%(symbol_id)s::integer IS NULL OR symbol_id = %(symbol_id)s)"""
_LIVE_STATUSES: Final = frozenset({"pending", "open", "partially_filled"})
_SIDES: Final = {side.name.lower(): int(side) for side in Side}
_TYPES: Final = {order_type.name.lower(): int(order_type) for order_type in OrderType}
_TIMES_IN_FORCE: Final = {in_force.name.lower(): int(in_force) for in_force in TimeInForce}
_PREVENTIONS: Final = {prevention.name.lower(): int(prevention) for prevention in SelfTradePrevention}
_REASONS: Final = {None if reason is Reason.NONE else reason.name: int(reason) for reason in Reason}


def _milliseconds(column: str) -> str:
    return f"coalesce(floor(extract(epoch FROM {column}) * 1000)::bigint, 0)"


_SELECT_ORDER: Final = f"""
SELECT id, account_id, symbol_id, coalesce(client_order_id, ''), side::text, type::text, time_in_force::text,
       self_trade_prevention::text, post_only, by_quote, price_ticks, stop_price_ticks, quantity_lots, filled_lots,
       remaining_lots, filled_notional_units, fee_units, hold_units, status::text, status_reason::text, sequence,
       {_milliseconds("updated_at")}, {_milliseconds("expires_at")}, {_milliseconds("triggered_at")},
       {_milliseconds("closed_at")}
FROM orders
"""  # noqa: S608 - made of our own names

_SELECT_TRADE: Final = f"""
SELECT id, symbol_id, price_ticks, quantity_lots, notional_units, taker_side::text, taker_fee_units, maker_fee_units,
       taker_order_id, maker_order_id, taker_account_id, maker_account_id, sequence, {_milliseconds("executed_at")}
"""

# By its postings an account's trades have an index; of each of its trades it has at least one posting.
# OFFSET 0 keeps the planner from joining the other way round, through all trades of a symbol.
_OWN_TRADES: Final = """
FROM (
    SELECT DISTINCT transaction_id FROM (
        SELECT transaction_id FROM postings
        WHERE account_id = %(account_id)s AND account_id >= 16 AND kind = 'T'
            AND transaction_id >= %(first_id)s AND transaction_id < %(end_id)s
        ORDER BY transaction_id DESC LIMIT %(posting_limit)s
    ) AS newest
    ORDER BY transaction_id DESC
) AS own
CROSS JOIN LATERAL (SELECT * FROM trades WHERE trades.id = own.transaction_id OFFSET 0) AS trades
ORDER BY own.transaction_id DESC LIMIT %(limit)s
"""

_OWN_TRADES_OF_SYMBOL: Final = _OWN_TRADES.replace("ORDER BY own", "WHERE symbol_id = %(symbol_id)s ORDER BY own")
