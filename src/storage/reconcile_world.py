"""The world as PostgreSQL has it, in one snapshot, and as it would have it had settlement come further.

Events that are published and not settled yet are what other processes know already. Folding them, as settlement itself
will, onto what the snapshot says gives what they must know at their own moment; so trading never has to stop for a
comparison.
Rule 1: everything here is read in the snapshot of the connection that is given, and changes nothing.
Rule 2: live orders are arrays in order of their ids, ``stored_order_dtype``.
It refuses to know rings and who compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from tradeengine.core.differences import Int64s, sum_by_key
from tradeengine.core.records import EventFlag, OrderType, Side, event_dtype
from tradeengine.storage.bulk import copy_out
from tradeengine.storage.recovery import settled_cursors
from tradeengine.storage.settle_fold import Orders, fold_batch
from tradeengine.storage.settle_postings import Events, SymbolUnits

Connection = psycopg.Connection[Any]

ASSET_SHIFT: Final = 16
"""A balance's key is account << 16 | asset."""
IDLE_MS_MAX: Final = 120_000
"""The server ends a snapshot whose reader hangs for so long."""

_FIELDS: Final = {
    "order_id": "i8",
    "account_id": "i4",
    "symbol_id": "i4",
    "side": "i4",
    "order_type": "i4",
    "status": "i4",
    "triggered": "u1",
    "by_quote": "u1",
    "price_ticks": "i8",
    "stop_price_ticks": "i8",
    "quantity_lots": "i8",
    "filled_lots": "i8",
    "remaining_lots": "i8",
    "filled_notional_units": "i8",
    "fee_units": "i8",
    "hold_units": "i8",
    "expires_at_us": "i8",
}
stored_order_dtype: Final = np.dtype([(name, "<i8") for name in _FIELDS])
"""A live order as PostgreSQL has it, or would have it. ``status``: place of the label in ``order_status``."""


@dataclass(frozen=True, slots=True)
class World:
    """What is compared with others, of one moment. Balances by key, ascending."""

    orders: NDArray[np.void]
    balance_keys: Int64s
    total_units: Int64s
    symbols: SymbolUnits
    """Assets and lot of each symbol that is or was listed."""


@contextmanager
def open_snapshot(dsn: str, *, connect_timeout_s: int) -> Iterator[Connection]:
    """Open a connection whose every answer is of one moment, that of its first question. Raises psycopg.Error."""
    with psycopg.connect(
        dsn, connect_timeout=connect_timeout_s, application_name="tradeengine-reconcile"
    ) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        for setting in ("jit = off", "work_mem = '128MB'", f"idle_in_transaction_session_timeout = {IDLE_MS_MAX}"):
            connection.execute(f"SET LOCAL {setting}")
        yield connection


def read_world(connection: Connection) -> World:
    """Read what the snapshot says."""
    symbols = SymbolUnits()
    for row in connection.execute("SELECT id, base_asset_id, quote_asset_id, lot_units FROM symbols"):
        symbols.put(*row)
    balances = copy_out(connection, _BALANCES, {"account_id": "i4", "asset_id": "i2", "total_units": "i8"})
    return World(
        orders=_read_orders(connection),
        balance_keys=balance_key(balances["account_id"], balances["asset_id"]),
        total_units=balances["total_units"].astype(np.int64),
        symbols=symbols,
    )


def bring_forward(world: World, shard_events: Events, risk_events: Events) -> World:
    """Say what the world would be with these events settled, each shard's and risk's own from its cursor on.

    Raises SettlementStopped when settlement could not settle them either. Symbols that they list are added to both.
    """
    fold = fold_batch(shard_events, risk_events, world.symbols)
    keys, totals = sum_by_key(
        np.concatenate([world.balance_keys, balance_key(fold.balances.account_id, fold.balances.asset_id)]),
        np.concatenate([world.total_units, fold.balances.delta_units]),
    )
    return World(_orders_after(world.orders, fold.orders), keys, totals, world.symbols)


def balance_key(account_id: NDArray[Any], asset_id: NDArray[Any]) -> Int64s:
    """Make the keys of balances."""
    return account_id.astype(np.int64) << ASSET_SHIFT | asset_id.astype(np.int64)


def events_between(events: Events, first: int, last: int) -> Events:
    """Cut the events with first ≤ sequence < last out of a ring's, which follow one another without gaps."""
    if not len(events):
        return events
    start = int(events["sequence"][0])
    return events[max(0, first - start) : max(0, last - start)]


def no_events() -> Events:
    """Give an empty array of events."""
    return np.empty(0, event_dtype)


def held_asset(world: World, symbol_id: Int64s, side: Int64s) -> Int64s:
    """Asset that each order holds: sells the base, buys the quote; -1 where the symbol is not known."""
    known = world.symbols.known(symbol_id)
    place = np.where(known, symbol_id, 0)
    asset = np.where(side == Side.SELL, world.symbols.base_asset_id[place], world.symbols.quote_asset_id[place])
    return np.where(known, asset, -1)


def read_cursors(connection: Connection) -> dict[int, int]:
    """Read how far the snapshot has settled each shard; asked first, it fixes the snapshot's moment."""
    return settled_cursors(connection)


def _read_orders(connection: Connection) -> NDArray[np.void]:
    rows = copy_out(connection, _LIVE_ORDERS, _FIELDS)
    orders = np.zeros(len(rows), stored_order_dtype)
    for name in _FIELDS:
        orders[name] = rows[name]
    return orders[np.argsort(orders["order_id"])]


def _orders_after(orders: NDArray[np.void], changes: Orders) -> NDArray[np.void]:
    """Bring live orders forward: those that began are added, those that ended are gone, the others as they end up."""
    known_at, change_at = _places_of(orders["order_id"], changes)
    after = orders.copy()
    _change(after, known_at, changes, change_at)
    is_closed = np.zeros(len(orders), np.bool_)
    is_closed[known_at] = changes.closed[change_at]
    made = np.concatenate([after[~is_closed], _begun(changes)])
    return made[np.argsort(made["order_id"])]


def _places_of(order_ids: Int64s, changes: Orders) -> tuple[Int64s, Int64s]:
    """Match earlier orders with the changes that touch them: places in both."""
    _, known_at, change_at = np.intersect1d(order_ids, changes.order_id, assume_unique=True, return_indices=True)
    earlier = ~changes.began[change_at]
    return known_at[earlier], change_at[earlier]


def _change(orders: NDArray[np.void], known_at: Int64s, changes: Orders, change_at: Int64s) -> None:
    events, content = changes.events, changes.content_at[change_at]
    told = changes.has_content[change_at]
    for name in ("price_ticks", "stop_price_ticks", "quantity_lots"):
        orders[name][known_at] = np.where(told, events[name][content], orders[name][known_at])
    orders["filled_lots"][known_at] += changes.filled_lots[change_at]
    orders["triggered"][known_at] |= changes.triggered_ns[change_at] != 0
    _set_end(orders, known_at, changes, change_at)


def _begun(changes: Orders) -> NDArray[np.void]:
    """Make rows of the orders that began and live."""
    rows = np.flatnonzero(changes.began & ~changes.closed)
    events, first, content = changes.events, changes.first_at[rows], changes.content_at[rows]
    begun = np.zeros(len(rows), stored_order_dtype)
    begun["order_id"] = changes.order_id[rows]
    for name in ("account_id", "symbol_id", "side", "order_type"):
        begun[name] = events[name][first]
    begun["by_quote"] = events["flags"][first] & EventFlag.BY_QUOTE != 0
    for name in ("price_ticks", "stop_price_ticks", "quantity_lots"):
        begun[name] = events[name][content]
    begun["filled_lots"] = changes.filled_lots[rows]
    begun["triggered"] = changes.triggered_ns[rows] != 0
    begun["expires_at_us"] = events["expires_at_ns"][first] // 1000
    _set_end(begun, np.arange(len(rows)), changes, rows)
    return begun


def _set_end(orders: NDArray[np.void], at: Int64s, changes: Orders, change_at: Int64s) -> None:
    for name, values in (
        ("status", changes.status),
        ("remaining_lots", changes.remaining_lots),
        ("filled_notional_units", changes.notional_units),
        ("fee_units", changes.fee_units),
        ("hold_units", changes.hold_units),
    ):
        orders[name][at] = values[change_at]


def _codes(column: str, members: type[Side] | type[OrderType]) -> str:
    cases = " ".join(f"WHEN '{member.name.lower()}' THEN {int(member)}" for member in members)
    return f"CASE {column} {cases} END"


_BALANCES: Final = "SELECT account_id, asset_id, total_units FROM balances ORDER BY account_id, asset_id"

_LIVE_ORDERS: Final = f"""
SELECT id, account_id, symbol_id, {_codes("side", Side)}, {_codes("type", OrderType)},
       array_position(enum_range(NULL::order_status), status) - 1, triggered_at IS NOT NULL, by_quote,
       price_ticks, stop_price_ticks, quantity_lots, filled_lots, remaining_lots, filled_notional_units, fee_units,
       hold_units, coalesce((extract(epoch FROM expires_at) * 1000000)::bigint, 0)
FROM orders WHERE closed_at IS NULL
"""  # noqa: S608 - made of our own names
