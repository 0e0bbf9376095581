"""A census: everything that lives in one place at one moment, copied out so that others can compare it with theirs.

The keeper asks with a number; risk and each matcher answer between two of their rounds, each into a page of its own.
So a copy is of a moment in which no command was half done there, and says by sequences which moment that was: what is
on its way between two copies is in the rings, and can be added.

Rule 1: a copy costs its writer a pass over its memory and nothing else: no sorting, no strings, no Python per order.
Rule 2: pages are sized by the limits fixed at start, and their memory is taken only as far as something lives.
It refuses to know who compares what.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tradeengine.core.ids import SHARDS_MAX

BALANCES_PER_ACCOUNT_MAX: Final = 16
"""Assets that accounts have something of, on average, for which a page has room."""
RISK_ORDER_WORDS: Final = 8
NO_ROOM: Final = -1
"""In place of a count: there is more than the page holds."""

census_request_dtype: Final = np.dtype([("number", "<i8")])  # counts requests; 0: none was made yet

book_order_dtype: Final = np.dtype(
    [
        ("order_id", "<i8"),
        ("account_id", "<i8"),
        ("symbol_id", "<i8"),
        ("side", "<i8"),
        ("order_type", "<i8"),
        ("triggered", "<i8"),  # 1: a stop that has fired
        ("price_ticks", "<i8"),
        ("stop_price_ticks", "<i8"),
        ("quantity_lots", "<i8"),
        ("remaining_lots", "<i8"),
        ("hold_units", "<i8"),
        ("filled_notional_units", "<i8"),
        ("fee_units", "<i8"),
        ("expires_at_ns", "<i8"),  # 0: never
    ]
)
"""A live order as a matcher has it."""
BOOK_ORDER_WORDS: Final = book_order_dtype.itemsize // 8
assert all(book_order_dtype[name] == np.dtype("<i8") for name in book_order_dtype.names or ())


def book_census_dtype(orders_max: int) -> np.dtype[np.void]:
    """Lay out a matcher's answer. ``sequence``: of the last event that the copy includes."""
    return np.dtype(
        [
            ("number", "<i8"),
            ("duration_us", "<i8"),
            ("sequence", "<i8"),
            ("order_count", "<i8"),
            ("orders", "<i8", (orders_max, BOOK_ORDER_WORDS)),
        ]
    )


def risk_census_dtype(orders_max: int, accounts_max: int, assets_max: int) -> np.dtype[np.void]:
    """Lay out risk's answer. orders_max: of all shards together.

    ``event_cursors``: by shard, the next event to fold. ``command_heads``: by shard, the next place in its command
    ring. ``own_events_head``: the next event of risk's own. ``balances``: rows of account << 16 | asset, total, held.
    ``orders``: rows as in risk's memory (``core.risk_state``).
    """
    balances_max = accounts_max * min(assets_max, BALANCES_PER_ACCOUNT_MAX)
    return np.dtype(
        [
            ("number", "<i8"),
            ("duration_us", "<i8"),
            ("own_events_head", "<i8"),
            ("mismatch_count", "<i8"),
            ("order_count", "<i8"),
            ("balance_count", "<i8"),
            ("event_cursors", "<i8", (SHARDS_MAX,)),
            ("command_heads", "<i8", (SHARDS_MAX,)),
            ("balances", "<i8", (balances_max, 3)),
            ("orders", "<i8", (orders_max, RISK_ORDER_WORDS)),
        ]
    )
