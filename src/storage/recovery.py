"""What risk reads when it starts: the world as of the settled cursors, in one snapshot, as arrays.

Rule 1: one REPEATABLE READ transaction, so that balances, orders and cursors are of the same moment.
Rule 2: hundreds of thousands of rows in a second: binary COPY out, decoded by numpy, no Python object per row.
Rule 3: times are ids: client order ids of the last 24 hours are those of orders made since an id.
It refuses to know what risk makes of it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from tradeengine.core.ids import SHARD_SHIFT, SHARDS_MAX, first_id_at
from tradeengine.core.records import CommandKind, OrderType, Side, TradingState, symbol_command_dtype
from tradeengine.core.risk_recovery import client_id_dtype, live_order_dtype, traded_dtype
from tradeengine.storage.account_settings import pending_settings
from tradeengine.storage.bulk import copy_out

CLIENT_ID_LIFETIME_MS: Final = 24 * 60 * 60 * 1000
"""How long a client order id is remembered."""

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class RiskRecovery:
    """The database as of one moment, for risk."""

    symbols: NDArray[np.void]
    """Listed symbols, ``symbol_command_dtype``, kind LIST_SYMBOL, by id."""
    account_ids: NDArray[np.int64]
    asset_ids: NDArray[np.int64]
    total_units: NDArray[np.int64]
    """Balances: three columns, int64[n]."""
    place_asset_ids: NDArray[np.int64]
    places: NDArray[np.int64]
    """Decimal places of assets: two columns, int64[n]."""
    settings: NDArray[np.void]
    """Settings of the accounts that have any, ``account_command_dtype``."""
    traded: NDArray[np.void]
    """Volumes of the newest trade's day, ``traded_dtype``; a row each as taker and as maker."""
    orders: NDArray[np.void]
    """Live orders, ``live_order_dtype``."""
    client_ids: NDArray[np.void]
    """Client order ids, ``client_id_dtype``, the oldest first."""
    funding_number: int
    """Of the last deposit or withdrawal that is not pending; 0: none."""
    last_order_id: int
    """0: there is no order."""
    cursors: dict[int, int]
    """Sequence of the next event to settle, by shard; -1 is risk's own ring."""


def load_risk_recovery(
    dsn: str, client_ids_max: int, *, now_ms: int | None = None, connect_timeout_s: int = 10
) -> RiskRecovery:
    """Read what risk starts from. Raises psycopg.Error when the database does not answer.

    client_ids_max: the newest so many client order ids, none older than 24 hours before now_ms (milliseconds since
    1970; the present when None).
    """
    since_ms = (time.time_ns() // 1_000_000 if now_ms is None else now_ms) - CLIENT_ID_LIFETIME_MS
    with psycopg.connect(dsn, connect_timeout=connect_timeout_s, application_name="tradeengine-recovery") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        # Sorting a million rows belongs into memory; a compiled expression costs more than it saves here.
        connection.execute("SET LOCAL work_mem = '256MB'")
        connection.execute("SET LOCAL jit = off")
        assets = connection.execute("SELECT id, places FROM assets").fetchall()
        balances = copy_out(connection, _BALANCES, {"account_id": "i4", "asset_id": "i2", "total_units": "i8"})
        return RiskRecovery(
            symbols=_read_symbols(connection),
            account_ids=balances["account_id"].astype(np.int64),
            asset_ids=balances["asset_id"].astype(np.int64),
            total_units=balances["total_units"].astype(np.int64),
            place_asset_ids=np.array([asset_id for asset_id, _ in assets], np.int64),
            places=np.array([places for _, places in assets], np.int64),
            settings=pending_settings(connection, 0, None),
            traded=_read_traded(connection),
            orders=_read_orders(connection),
            client_ids=_read_client_ids(connection, first_id_at(since_ms), client_ids_max),
            funding_number=_read_number(connection, _FUNDING_NUMBER),
            last_order_id=last_order_id(connection),
            cursors=settled_cursors(connection),
        )


def settled_cursors(connection: Connection) -> dict[int, int]:
    """Sequence of the next event to settle, by shard; -1 is risk's own ring. A shard that is new is not there."""
    return dict(connection.execute("SELECT shard, sequence FROM settlement_cursors").fetchall())


def last_order_id(connection: Connection) -> int:
    """Greatest id of an order; 0: there is no order."""
    return _read_number(connection, _LAST_ORDER_ID)


def newest_order(dsn: str, shard: int, *, connect_timeout_s: int = 10) -> int:
    """Greatest id of a shard's orders; 0: there is none. Raises psycopg.Error when the database does not answer."""
    with psycopg.connect(dsn, connect_timeout=connect_timeout_s, application_name="tradeengine-recovery") as connection:
        row = connection.execute(_NEWEST_ORDER, {"shift": SHARD_SHIFT, "mask": SHARDS_MAX - 1, "shard": shard})
        return int(row.fetchall()[0][0])


def _read_symbols(connection: Connection) -> NDArray[np.void]:
    rows = connection.execute(_SYMBOLS).fetchall()
    symbols = np.zeros(len(rows), symbol_command_dtype)
    symbols["kind"] = CommandKind.LIST_SYMBOL
    for symbol, (*values, trading_state) in zip(symbols, rows, strict=True):
        symbol["trading_state"] = TradingState[trading_state.upper()]
        for name, value in zip(_SYMBOL_FIELDS, values, strict=True):
            symbol[name] = value
    return symbols


def _read_orders(connection: Connection) -> NDArray[np.void]:
    rows = copy_out(connection, _LIVE_ORDERS, _LIVE_ORDER_FIELDS)
    orders = np.zeros(len(rows), live_order_dtype)
    for name in _LIVE_ORDER_FIELDS:
        orders[name] = rows[name]
    return orders


def _read_traded(connection: Connection) -> NDArray[np.void]:
    """Read what was traded on the day of the newest trade: whatever the clock says now, no trade is of a later one."""
    newest = connection.execute("SELECT executed_at FROM trades ORDER BY id DESC LIMIT 1").fetchone()
    if newest is None:
        return np.zeros(0, traded_dtype)
    # An id is never older than its trade, so this is the whole day, and perhaps a few trades of the one before.
    day_ms = int(newest[0].timestamp()) // 86_400 * 86_400_000
    fields = {"account_id": "i4", "asset_id": "i4", "notional_units": "i8", "day": "i4"}
    rows = copy_out(connection, _TRADED.format(since_id=first_id_at(day_ms)), fields)
    traded = np.zeros(len(rows), traded_dtype)
    for name in fields:
        traded[name] = rows[name]
    return traded


def _read_client_ids(connection: Connection, since_id: int, limit: int) -> NDArray[np.void]:
    query = _CLIENT_IDS.format(since_id=since_id, limit=limit)
    rows = copy_out(
        connection, query, {"account_id": "i4", "content": "i8", "order_id": "i8", "client_order_id": "S36"}
    )
    client_ids = np.zeros(len(rows), client_id_dtype)
    # The newest come out first, because that is what the limit is about.
    for name in client_ids.dtype.names or ():
        client_ids[name] = rows[name][::-1]
    return client_ids


def _read_number(connection: Connection, query: str) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def _codes(column: str, members: type[Side] | type[OrderType]) -> str:
    cases = " ".join(f"WHEN '{member.name.lower()}' THEN {int(member)}" for member in members)
    return f"CASE {column} {cases} END"


_SYMBOL_FIELDS: Final = (
    "symbol_id",
    "base_asset_id",
    "quote_asset_id",
    "shard",
    "tick_lot_units",
    "lot_units",
    "price_ticks_max",
    "quantity_lots_min",
    "quantity_lots_max",
    "notional_units_min",
    "maker_fee_ppm",
    "taker_fee_ppm",
    "collar_ppm",
)

_SYMBOLS: Final = f"""
SELECT id AS {", ".join(_SYMBOL_FIELDS)}, trading_state::text FROM symbols WHERE status = 'listed' ORDER BY id
"""  # noqa: S608 - made of our own names

_BALANCES: Final = "SELECT account_id, asset_id, total_units FROM balances"

_LIVE_ORDER_FIELDS: Final = {
    "order_id": "i8",
    "account_id": "i4",
    "symbol_id": "i4",
    "side": "i4",
    "order_type": "i4",
    "triggered": "u1",
    "price_ticks": "i8",
    "stop_price_ticks": "i8",
    "quantity_lots": "i8",
    "filled_lots": "i8",
    "hold_units": "i8",
}

_LIVE_ORDERS: Final = f"""
SELECT id, account_id, symbol_id, {_codes("side", Side)}, {_codes("type", OrderType)}, triggered_at IS NOT NULL,
       price_ticks, stop_price_ticks, quantity_lots, filled_lots, hold_units
FROM orders WHERE closed_at IS NULL
"""  # noqa: S608 - made of our own names

# Each side by itself: grouping a trade's two parties at once would need every trade twice.
_TRADED: Final = " UNION ALL ".join(
    f"""
SELECT account_id, quote_asset_id, least(units, 4611686018427387904)::bigint, day - date '1970-01-01'
FROM (
    SELECT {party}_account_id AS account_id, symbol_id, (executed_at AT TIME ZONE 'UTC')::date AS day,
           sum(notional_units) AS units
    FROM trades WHERE id >= {{since_id}} GROUP BY 1, 2, 3
) AS sums JOIN symbols ON symbols.id = symbol_id
"""  # noqa: S608 - made of our own names
    for party in ("taker", "maker")
)

_CLIENT_IDS: Final = """
SELECT account_id, content_hash, id, rpad(client_order_id, 36) FROM orders
WHERE id >= {since_id} AND client_order_id IS NOT NULL ORDER BY id DESC LIMIT {limit}
"""

# In order of their numbers: risk decides and settlement settles in that order, so the greatest is the last.
_FUNDING_NUMBER: Final = "SELECT coalesce(max(number), 0) FROM funding WHERE status <> 'pending'"

_NEWEST_ORDER: Final = """
    SELECT coalesce((
        SELECT id FROM orders WHERE (id >> %(shift)s) & %(mask)s = %(shard)s ORDER BY id DESC LIMIT 1), 0)"""

_LAST_ORDER_ID: Final = "SELECT coalesce((SELECT id FROM orders ORDER BY id DESC LIMIT 1), 0)"
