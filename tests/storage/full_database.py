"""A database that has traded for months: a million rows in the tables that grow, made by the server itself.

Rows are as settlement, the keeper and the wallet actor would have written them, as far as a planner can tell: ids that
embed their times, a partition for each month and day, a few live orders among many that ended, one account with far
more than the others.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from tradeengine.core.ids import EPOCH_2024_MS, TIMESTAMP_SHIFT, first_id_at
from tradeengine.settings_files import load_seeds
from tradeengine.storage.candles import IMPORTED_ID_SHIFT
from tradeengine.storage.directory import seed_directory
from tradeengine.storage.partitions import Partitions

Connection = psycopg.Connection[Any]

BUSY: Final = 16
"""The account that every tenth order is of."""
USUAL: Final = 1234
"""One of the others."""
DAY_MS: Final = 86_400_000
ORDER_DAYS: Final = 100
TRADE_DAYS: Final = 30
ORDERS: Final = 220_000
TRADES: Final = 100_000
ACCOUNTS: Final = 5000
CANDLES: Final = 130_000


@dataclass(frozen=True, slots=True)
class Full:
    """Where things are. Times in milliseconds since 1970."""

    now_ms: int
    symbols: int
    trade_id: int
    """A trade of ``BUSY`` as a taker, of yesterday."""
    live_id: int
    live_account_id: int
    """An order that lives, and whose it is."""
    transfer_ids: tuple[int, ...]
    """Of transfers that wait."""


def fill(connection: Connection) -> Full:
    """Fill a migrated, empty database; connection: in autocommit."""
    now_ms = time.time_ns() // 1_000_000
    directory = seed_directory(connection, load_seeds(), shards=2, assets_max=64, symbols_max=128)
    symbols = len(directory.symbols)
    partitions = Partitions(connection)
    for table, days in (("orders", ORDER_DAYS), ("postings", ORDER_DAYS), ("trades", TRADE_DAYS)):
        partitions.cover(table, first_id_at(now_ms - days * DAY_MS), first_id_at(now_ms + 2 * DAY_MS))
    values = {
        "now_ms": now_ms,
        "epoch_ms": EPOCH_2024_MS,
        "shift": TIMESTAMP_SHIFT,
        "imported_shift": IMPORTED_ID_SHIFT,
        "symbols": symbols,
        "accounts": ACCOUNTS,
        "orders": ORDERS,
        "trades": TRADES,
        "candles": CANDLES,
        # The last of them a minute ago.
        "order_step_ms": (ORDER_DAYS * DAY_MS - 60_000) // ORDERS,
        "trade_step_ms": (TRADE_DAYS * DAY_MS - 60_000) // TRADES,
    }
    with connection.transaction():
        connection.execute("SET LOCAL synchronous_commit = off")
        for name, text in _TABLES.items():
            statement = text.replace("{account}", _ACCOUNT).replace("{order_id}", _ORDER_ID)
            connection.execute(f"INSERT INTO {name} {statement}", values)
    connection.execute("VACUUM (ANALYZE)")
    return _find(connection, now_ms, symbols)


def rows_of(connection: Connection) -> dict[str, int]:
    """How many rows each table has, partitions by themselves too, as the planner believes."""
    tables = "relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
    return dict(connection.execute(f"SELECT relname, reltuples::bigint FROM pg_class WHERE {tables}").fetchall())


def _find(connection: Connection, now_ms: int, symbols: int) -> Full:
    def column(query: str) -> tuple[int, ...]:
        return tuple(value for (value,) in connection.execute(query).fetchall())

    yesterday = first_id_at(now_ms - DAY_MS)
    trade = column(f"SELECT id FROM trades WHERE id > {yesterday} AND taker_account_id = {BUSY} ORDER BY id LIMIT 1")
    live = connection.execute(
        "SELECT id, account_id FROM orders WHERE closed_at IS NULL ORDER BY id LIMIT 1"
    ).fetchone()
    assert live is not None
    return Full(
        now_ms=now_ms,
        symbols=symbols,
        trade_id=trade[0],
        live_id=live[0],
        live_account_id=live[1],
        transfer_ids=column(
            "SELECT id FROM wallet_transfers WHERE state = 'pending' ORDER BY executed_ns, id LIMIT 40"
        ),
    )


# Of row i: every tenth is of the busy account, the others go round.
_ACCOUNT: Final = "CASE WHEN i %% 10 = 0 THEN 16 ELSE 16 + (i * 7919::bigint) %% %(accounts)s END"

_MS: Final = "%(now_ms)s::bigint - 60000 - (%({name}s)s - i::bigint) * %({name}_step_ms)s"
_ORDER_MS: Final = _MS.format(name="order").replace("%(orders)s", "%(orders)s::bigint")
_TRADE_MS: Final = _MS.format(name="trade").replace("%(trades)s", "%(trades)s::bigint")
_ORDER_ID: Final = f"(({_ORDER_MS} - %(epoch_ms)s) << %(shift)s)"
_TRADE_ID: Final = f"(({_TRADE_MS} - %(epoch_ms)s) << %(shift)s)"

_TABLES: Final = {
    "accounts (id, name)": "SELECT 16 + i, 'user-' || i FROM generate_series(0, %(accounts)s) AS i",
    "balances": """
SELECT 16 + i / 4, i %% 4, 1000000000 FROM generate_series(0, 4 * %(accounts)s - 1) AS i
""",
    # Of fifty orders one lives, and a few of the busy account; of the others most were filled. Half have a client order
    # id.
    "orders": f"""
SELECT {_ORDER_ID}, 100000 + i %% 1000, 0, 1000, 0, 1000, 0, 0, 1000, i, i,
    to_timestamp(ms / 1000.0), to_timestamp(ms / 1000.0), NULL,
    CASE WHEN i %% 50 = 7 OR i %% 1000 = 30 THEN NULL ELSE to_timestamp((ms + 1000) / 1000.0) END, NULL,
    {{account}}, i / 10 %% %(symbols)s, CASE i %% 2 WHEN 0 THEN 'buy' ELSE 'sell' END::order_side, 'limit', 'gtc',
    'cancel_taker',
    CASE WHEN i %% 50 = 7 OR i %% 1000 = 30 THEN 'open' WHEN i %% 10 = 3 THEN 'cancelled' ELSE 'filled'
    END::order_status,
    NULL, false, false, CASE i %% 2 WHEN 0 THEN 'client-' || i END
FROM generate_series(0, %(orders)s - 1) AS i, LATERAL (SELECT {_ORDER_MS} AS ms) AS made
""",
    "trades": f"""
SELECT {_TRADE_ID}, 100000 + i %% 1000, 10, 1000000, 500, 250,
    (({_TRADE_MS} - 5 - %(epoch_ms)s) << %(shift)s), (({_TRADE_MS} - 60000 - %(epoch_ms)s) << %(shift)s), i,
    to_timestamp(({_TRADE_MS}) / 1000.0), {{account}}, 16 + (i * 104729::bigint) %% %(accounts)s,
    i / 10 %% %(symbols)s, CASE i %% 2 WHEN 0 THEN 'buy' ELSE 'sell' END::order_side
FROM generate_series(0, %(trades)s - 1) AS i
""",
    "postings": """
SELECT t.id, leg.amount, leg.account, leg.asset, 'T'
FROM trades AS t, LATERAL (VALUES
    (t.taker_account_id, 0, -1000500), (t.taker_account_id, 1, 10), (t.maker_account_id, 0, 999750),
    (t.maker_account_id, 1, -10), (1, 0, 750)) AS leg (account, asset, amount)
""",
    "candles_1m": """
SELECT i %% %(symbols)s, to_timestamp((%(now_ms)s / 60000 - i / %(symbols)s) * 60), 1, 2, 1, 2, 10, 10, 1
FROM generate_series(0, %(candles)s - 1) AS i
""",
    "candles_1h": """
SELECT symbol_id, date_trunc('hour', minute, 'UTC'), 1, 2, 1, 2, 600, 600, 60 FROM candles_1m GROUP BY 1, 2
""",
    "imported_trades": """
SELECT ((%(now_ms)s - 400 * 86400000::bigint + i * 1000) << %(imported_shift)s), 100000, 10, i %% %(symbols)s, 'buy'
FROM generate_series(0, 29999) AS i
""",
    # Of the busy account every thousand postings, as settlement makes them; of the others now and then.
    "statement_marks": """
SELECT 17 + i / 8, ((%(now_ms)s - (8 - i / 2 %% 4) * 10 * 86400000::bigint - %(epoch_ms)s) << %(shift)s), i %% 2, 1000
FROM generate_series(0, 8 * %(accounts)s - 1) AS i
UNION ALL
SELECT 16, transaction_id | (1 << %(shift)s) - 1, asset.id, 1000
FROM (SELECT transaction_id, row_number() OVER (ORDER BY transaction_id) AS place FROM postings WHERE account_id = 16)
    AS own, generate_series(0, 1) AS asset (id)
WHERE place %% 1000 = 0
""",
    "wallet_transfers (id, base_units, notional_units, buyer_fee_units, seller_fee_units, buyer_account_id, "
    "seller_account_id, base_asset_id, quote_asset_id, executed_ns, state)": """
SELECT id, 10, 1000000, 500, 250, taker_account_id, maker_account_id, 1, 0, sequence,
    CASE WHEN sequence %% 100 = 0 THEN 'dead' WHEN sequence %% 100 = 1 THEN 'discarded' ELSE 'pending'
    END::wallet_transfer_state
FROM trades ORDER BY id DESC LIMIT 30000
""",
    # One of a thousand has not been decided.
    "funding (number, kind, reference, account_id, asset_id, amount_units, status, transaction_id, closed_at, "
    "wallet_state)": """
SELECT CASE WHEN i %% 1000 <> 0 OR i %% 3 = 0 THEN i END,
    CASE WHEN i %% 3 = 0 THEN 'withdrawal' ELSE 'deposit' END::funding_kind, 'reference-' || i, {account}, i %% 4, 1000,
    CASE WHEN i %% 1000 = 0 THEN 'pending' WHEN i %% 100 = 1 THEN 'refused' ELSE 'settled' END::funding_status,
    CASE WHEN i %% 1000 <> 0 AND i %% 100 <> 1 THEN
        ((%(now_ms)s - (30000 - i) * 1000::bigint - %(epoch_ms)s) << %(shift)s) + 1 END,
    CASE WHEN i %% 1000 <> 0 THEN now() END,
    CASE WHEN i %% 1000 = 0 THEN 'waiting' WHEN i %% 1000 = 7 THEN 'dead' ELSE 'done' END::wallet_funding_state
FROM generate_series(1, 30000) AS i
""",
    "account_settings (account_id, version)": """
SELECT 16 + i, i + 1 FROM generate_series(0, %(accounts)s - 1) AS i
""",
    "api_keys (id, account_id, name, algorithm, permissions, addresses, public_key, two_factor, revoked_at)": """
SELECT 1 + i, 16 + i / 3, 'key', 'ed25519', '{read}', '{}', '\\x00', false, CASE i %% 3 WHEN 0 THEN now() END
FROM generate_series(0, 3 * %(accounts)s - 1) AS i
""",
    "depth_snapshots": """
SELECT i %% %(symbols)s, to_timestamp(%(now_ms)s / 1000.0) - (i / %(symbols)s) * interval '1 minute', i, '{{1,1}}',
    '{{2,1}}'
FROM generate_series(0, 39999) AS i
""",
    "reconciliations (requested_by, began_at, finished_at, checked, differences, difference_count)": """
SELECT '*keeper*', now() - i * interval '5 minutes', now() - i * interval '5 minutes', '{}', '[]', 0
FROM generate_series(1, 25000) AS i
""",
    "audit": """
SELECT i, gen_random_uuid(), now() - (60000 - i) * interval '1 minute', 'admin-' || i %% 20, 'admin', 'token', true,
    'action-' || i %% 30, NULL, '{}', NULL, NULL, NULL, 'request', '127.0.0.1', 'ok', NULL, sha256('before'), sha256('')
FROM generate_series(1, 60000) AS i
""",
    "settlement_cursors": "SELECT shard, 0 FROM generate_series(0, 1) AS shard",
}
