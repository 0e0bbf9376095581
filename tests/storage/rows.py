"""Rows as settlement would write them, made by hand, for tests that care about their age and nothing else."""

from __future__ import annotations

from typing import Any

import psycopg

from tradeengine.core.ids import first_id_at


def insert_order(
    connection: psycopg.Connection[Any], made_ms: int, *, live: bool = False, client_order_id: str | None = None
) -> int:
    """Insert an order made at a time (milliseconds since 1970); returns its id."""
    order_id = first_id_at(made_ms)
    connection.execute(
        "INSERT INTO orders VALUES (%(id)s, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, to_timestamp(%(s)s), to_timestamp(%(s)s), "
        "NULL, CASE WHEN %(live)s THEN NULL ELSE to_timestamp(%(s)s) END, NULL, 16, 0, 'buy', 'limit', 'gtc', "
        "'cancel_taker', CASE WHEN %(live)s THEN 'open' ELSE 'cancelled' END::order_status, NULL, false, false, "
        "%(client_order_id)s)",
        {"id": order_id, "s": made_ms / 1000, "live": live, "client_order_id": client_order_id},
    )
    return order_id


def insert_trade(connection: psycopg.Connection[Any], made_ms: int) -> int:
    """Insert a trade made at a time (milliseconds since 1970); returns its id."""
    trade_id = first_id_at(made_ms)
    connection.execute(
        "INSERT INTO trades VALUES (%s, 1, 1, 1, 0, 0, 1, 2, 0, to_timestamp(%s), 16, 17, 0, 'buy')",
        (trade_id, made_ms / 1000),
    )
    return trade_id
