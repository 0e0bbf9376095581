"""A shard's trades, as its journal gives them, beside the table ``trades``: each once, as it is, and none besides."""

from __future__ import annotations

from typing import Final

import numpy as np

from tradeengine.core.differences import Int64s
from tradeengine.core.hashing import HASH_START, hash_records
from tradeengine.core.records import EventKind, event_dtype
from tradeengine.storage.settle_postings import Events
from tradeengine.storage.settle_sql import trade_columns
from tradeengine.storage.verify_rows import ID_MAX, Connection, Layout, Rows, TableCheck, TableReader, pair_rows

TRADES: Final = Layout(
    "trades",
    {
        "id": "i8",
        "price_ticks": "i8",
        "quantity_lots": "i8",
        "notional_units": "i8",
        "taker_fee_units": "i8",
        "maker_fee_units": "i8",
        "taker_order_id": "i8",
        "maker_order_id": "i8",
        "sequence": "i8",
        "executed_at": "time",
        "taker_account_id": "i4",
        "maker_account_id": "i4",
        "symbol_id": "i4",
        "taker_side": "4",
    },
)

_DIGESTED: Final = np.dtype([("words", "<u8", (16,))])
assert len(TRADES.kinds) <= 16


class TradeCheck(TableCheck):
    """Takes a shard's events in order."""

    layout = TRADES

    def take(self, events: Events) -> None:
        """Compare the trades among settled events."""
        made = events[events["kind"] == EventKind.TRADED]
        if not len(made):
            return
        expected = TRADES.rows(trade_columns(made))
        self._compare(expected, self._reader.read_to(int(expected["id"][-1])))

    def finish(self) -> None:
        """See that there is nothing behind the last one."""
        self._compare(TRADES.rows(trade_columns(np.empty(0, event_dtype))), self._reader.read_to(ID_MAX))

    def _compare(self, expected: Rows, found: Rows) -> None:
        at_expected, at_found, missing, unknown = pair_rows(expected, found)
        self._note_missing(expected[missing])
        self._note_unknown(found[unknown])
        self._compare_rows(expected[at_expected], found[at_found])


def digest_events(state: int, events: Events) -> tuple[int, Int64s]:
    """Chain a hash over the trades among events, as rows, onto a state; give the new state, and the trades' ids."""
    made = events[events["kind"] == EventKind.TRADED]
    return _digest(state, TRADES.rows(trade_columns(made))) if len(made) else state, made["trade_id"]


def digest_stored(
    connection: Connection, shard: int, after_id: int, first_id: int, last_id: int
) -> tuple[int, int] | None:
    """Hash a shard's stored trades with after_id < id ≤ last_id; give how many there are, and the hash.

    first_id: of the first one that there should be. None: retention has dropped the place of the first or last one.
    """
    reader = TableReader(connection, TRADES, shard, after_id, keeps_all=False)
    if not reader.is_kept(np.array([first_id, last_id])).all():
        return None
    rows = reader.read_to(last_id)
    return len(rows), _digest(HASH_START, rows)


def _digest(state: int, rows: Rows) -> int:
    words = np.zeros(len(rows), _DIGESTED)
    for place, name in enumerate(TRADES.kinds):
        column = rows[name] == b"sell" if name == "taker_side" else rows[name]
        words["words"][:, place] = column.astype(np.int64).view(np.uint64)
    return hash_records(state, words)
