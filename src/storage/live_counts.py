"""How many orders are live, by symbol.

It refuses to know who asks, and what is newer than the last commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg

_TIMEOUT_MS: Final = 1000
_COUNT: Final = """
SELECT symbol_id, count(*) FROM orders WHERE closed_at IS NULL AND symbol_id = ANY(%s) GROUP BY symbol_id
"""


def count_live_orders(connection: psycopg.Connection[Any], symbol_ids: Sequence[int]) -> dict[int, int]:
    """Count the live orders of symbols, of those that have any. Raises QueryCanceled when that takes over a second."""
    with connection.transaction():
        connection.execute("SELECT set_config('statement_timeout', %s, true)", (str(_TIMEOUT_MS),))
        return dict(connection.execute(_COUNT, (list(symbol_ids),)).fetchall())
