"""What PostgreSQL holds at the end of a round, in words that answers use, so that both can be laid side by side."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row
from tests.faults.harness.intents import Json

from tradeengine.core.symbols import SymbolSpec
from tradeengine.storage.directory import load_directory

Connection = psycopg.Connection[Any]

_ORDERS: Final = """
    SELECT o.*, o.side::text, o.type::text, o.time_in_force::text, o.status::text, o.status_reason::text,
        a.name AS user_name
    FROM orders o JOIN accounts a ON a.id = o.account_id ORDER BY o.id"""
_FUNDINGS: Final = """
    SELECT f.kind::text, f.reference, f.status::text, f.amount_units, a.name AS user_name, s.name AS asset, s.places
    FROM funding f JOIN accounts a ON a.id = f.account_id JOIN assets s ON s.id = f.asset_id"""
_BALANCES: Final = """
    SELECT a.name AS user_name, s.name AS asset, s.places, b.total_units, coalesce((
        SELECT sum(o.hold_units) FROM orders o JOIN symbols y ON y.id = o.symbol_id
        WHERE o.account_id = b.account_id AND o.closed_at IS NULL
          AND b.asset_id = CASE o.side WHEN 'buy' THEN y.quote_asset_id ELSE y.base_asset_id END), 0)::bigint AS held
    FROM balances b JOIN accounts a ON a.id = b.account_id JOIN assets s ON s.id = b.asset_id"""


@dataclass(frozen=True)
class World:
    """Rows as dictionaries of columns; ``orders`` and ``trades`` by id, ``fundings`` by kind and reference."""

    orders: dict[int, Json]
    trades: dict[int, Json]
    fundings: dict[tuple[str, str], Json]
    balances: dict[tuple[str, str], tuple[Decimal, Decimal]]
    """Total and held by user and asset."""
    cursors: dict[int, int]
    """Sequence of the first event that is not settled, by shard; -1: of risk's."""
    specs: dict[int, SymbolSpec]

    def view_of(self, order: Json) -> Json:
        """Show an order's row as the API shows orders, as far as an answer must agree with it."""
        spec = self.specs[order["symbol_id"]]
        return {
            "id": str(order["id"]),
            "client_order_id": order["client_order_id"],
            "symbol": spec.name,
            "side": order["side"],
            "type": order["type"],
            "time_in_force": order["time_in_force"],
            "post_only": order["post_only"],
            "quantity": None if order["by_quote"] else spec.format_quantity(order["quantity_lots"]),
            "price": _price(spec, order["price_ticks"]),
            "stop_price": _price(spec, order["stop_price_ticks"]),
            "filled_quantity": spec.format_quantity(order["filled_lots"]),
            "remaining_quantity": spec.format_quantity(order["remaining_lots"]),
            "fee_paid": spec.quote.format(order["fee_units"]),
            "status": order["status"],
            "status_reason": order["status_reason"],
            "sequence": order["sequence"],
        }

    def trade_view(self, trade: Json) -> Json:
        """Show a trade's row as the API shows trades, as far as an answer must agree with it."""
        spec = self.specs[trade["symbol_id"]]
        fees = [spec.quote.format(trade[f"{whose}_fee_units"]) for whose in ("taker", "maker")]
        buyer_fee, seller_fee = fees if trade["taker_side"] == "buy" else fees[::-1]
        return {
            "id": str(trade["id"]),
            "symbol": spec.name,
            "price": spec.format_price(trade["price_ticks"]),
            "quantity": spec.format_quantity(trade["quantity_lots"]),
            "taker_side": trade["taker_side"],
            "buyer_fee": buyer_fee,
            "seller_fee": seller_fee,
            "sequence": trade["sequence"],
        }


def read_world(connection: Connection) -> World:
    """Read everything; nothing is being settled meanwhile."""
    with connection.cursor(row_factory=dict_row) as cursor:
        orders = {row["id"]: row for row in cursor.execute(_ORDERS)}
        trades = {
            row["id"]: row for row in cursor.execute("SELECT *, taker_side::text FROM trades ORDER BY symbol_id, id")
        }
        fundings = {(row["kind"], row["reference"]): row for row in cursor.execute(_FUNDINGS)}
        balances = {
            (row["user_name"], row["asset"]): (
                Decimal(row["total_units"]).scaleb(-row["places"]),
                Decimal(row["held"]).scaleb(-row["places"]),
            )
            for row in cursor.execute(_BALANCES)
        }
    cursors = dict(connection.execute("SELECT shard, sequence FROM settlement_cursors").fetchall())
    specs = {symbol_id: row.spec for symbol_id, row in load_directory(connection).symbols.items()}
    return World(orders, trades, fundings, balances, cursors, specs)


def _price(spec: SymbolSpec, ticks: int) -> str | None:
    return spec.format_price(ticks) if ticks else None
