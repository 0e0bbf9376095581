"""A symbol's whole past, trade by trade, oldest first: what was imported, then what the engine traded.

Rule 1: order is order of ids. Imported trades are older than the engine's first one, and so are their ids.
Rule 2: a page continues above the last id of the one before. What is imported later may lie below and is not seen then.
Rule 3: the engine's trades lie in a partition a day. Hours without a trade are passed over by the stored candles, and
the rest is looked through window by window, so that a question touches few partitions.
It refuses to know who asks.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg

from tradeengine.core.ids import TIMESTAMP_SHIFT, first_id_at, timestamp_ms_of
from tradeengine.storage.candles import ID_SLACK_MS, IMPORTED_ID_END, IMPORTED_ID_SHIFT
from tradeengine.storage.queries import TradeRow, id_range, trades_from

Connection = psycopg.Connection[Any]

_FIRST_WINDOW: Final = 86_400_000 << TIMESTAMP_SHIFT


def is_imported(trade_id: int) -> bool:
    """Whether a trade was imported: then it has no orders, fees and sequence, and these are 0 in its row."""
    return trade_id < IMPORTED_ID_END


def list_past_trades(
    connection: Connection,
    symbol_id: int,
    *,
    limit: int,
    start_ns: int | None = None,
    end_ns: int | None = None,
    after_id: int | None = None,
) -> list[TradeRow]:
    """List trades, oldest first: those made from start_ns (inclusive) to end_ns (exclusive), above an id."""
    first_id, end_id = id_range(start_ns, end_ns, None)
    found: list[TradeRow] = []
    if after_id is None or is_imported(after_id):
        first_ms, end_ms = _ceil_ms(start_ns or 0), timestamp_ms_of(end_id) if end_ns is None else _ceil_ms(end_ns)
        bounds = {
            "symbol_id": symbol_id,
            "first_id": max(first_ms << IMPORTED_ID_SHIFT, (after_id or 0) + 1),
            "end_id": end_ms << IMPORTED_ID_SHIFT,
            "limit": limit,
        }
        found = trades_from(connection, _IMPORTED, bounds)
    else:
        first_id = max(first_id, after_id + 1)
    return found + _own_trades(connection, symbol_id, first_id, end_id, limit - len(found))


def _own_trades(connection: Connection, symbol_id: int, first_id: int, end_id: int, limit: int) -> list[TradeRow]:
    found: list[TradeRow] = []
    window = _FIRST_WINDOW
    while first_id < end_id and len(found) < limit:
        since_ms = timestamp_ms_of(first_id) - ID_SLACK_MS
        hour = connection.execute(_NEXT_HOUR, (symbol_id, since_ms)).fetchone()
        if hour is None:
            break
        first_id = max(first_id, first_id_at(hour[0]))
        stop_id = min(first_id + window, end_id)
        bounds = {"symbol_id": symbol_id, "first_id": first_id, "end_id": stop_id, "limit": limit - len(found)}
        found += trades_from(connection, _OWN, bounds)
        first_id = stop_id
        window *= 8
    return found


def _ceil_ms(moment_ns: int) -> int:
    return -(-moment_ns // 1_000_000)


_RANGE: Final = "WHERE symbol_id = %(symbol_id)s AND id >= %(first_id)s AND id < %(end_id)s ORDER BY id LIMIT %(limit)s"

_OWN: Final = f"FROM trades {_RANGE}"

_IMPORTED: Final = f"""
FROM (
    SELECT id, symbol_id, price_ticks, quantity_lots, taker_side, price_ticks * quantity_lots
               * (SELECT tick_lot_units FROM symbols WHERE symbols.id = %(symbol_id)s) AS notional_units,
           0 AS taker_fee_units, 0 AS maker_fee_units, 0 AS taker_order_id, 0 AS maker_order_id, 0 AS taker_account_id,
           0 AS maker_account_id, 0 AS sequence, to_timestamp((id >> {IMPORTED_ID_SHIFT}) / 1000.0) AS executed_at
    FROM imported_trades {_RANGE}
) AS imported ORDER BY id
"""  # noqa: S608 - made of our own names

# The hour of the moment counts too.
_NEXT_HOUR: Final = """
SELECT (extract(epoch FROM hour) * 1000)::bigint FROM candles_1h
WHERE symbol_id = %s AND hour > to_timestamp(%s / 1000.0) - interval '1 hour' ORDER BY hour LIMIT 1
"""
