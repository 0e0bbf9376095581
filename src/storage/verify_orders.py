"""A shard's orders, as its journal leaves them, beside the table ``orders``: each once, in its last state, no others.

What an order is at the end is known when it has ended, or when the replay has. Until then its expected row is kept,
changed by every fold as settlement would change the table, and the row that was found is kept beside it: as many as
live at a time. Orders that lived when the replay began come from the book that it began with; a book does not know
everything of an order, and what it does not know is not compared.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tradeengine.core.differences import Differences, Int64s
from tradeengine.core.records import OrderType, Side
from tradeengine.storage.bulk import POSTGRES_ORIGIN_US
from tradeengine.storage.settle_fold import Orders, fold_orders
from tradeengine.storage.settle_postings import Events
from tradeengine.storage.settle_sql import REASON_LABELS, STATUS_LABELS, order_columns
from tradeengine.storage.verify_rows import ID_MAX, Connection, Layout, Rows, TableCheck, pair_rows

ORDERS: Final = Layout(
    "orders",
    {
        "id": "i8",
        "price_ticks": "i8",
        "stop_price_ticks": "i8",
        "quantity_lots": "i8",
        "filled_lots": "i8",
        "remaining_lots": "i8",
        "filled_notional_units": "i8",
        "fee_units": "i8",
        "hold_units": "i8",
        "sequence": "i8",
        "content_hash": "i8",
        "created_at": "time",
        "updated_at": "time",
        "triggered_at": "time",
        "closed_at": "time",
        "expires_at": "time",
        "account_id": "i4",
        "symbol_id": "i4",
        "side": "4",
        "type": "10",
        "time_in_force": "3",
        "self_trade_prevention": "12",
        "status": "16",
        "status_reason": "32",
        "post_only": "u1",
        "by_quote": "u1",
        "client_order_id": "bytes36",
    },
)

_STATUSES: Final = np.array([label.encode() for label in STATUS_LABELS])
_SIDES: Final = {Side.BUY: b"buy", Side.SELL: b"sell"}
_TYPES: Final = {member: member.name.lower().encode() for member in OrderType}
_PRICED: Final = (b"limit", b"stop_limit")
_STOPS: Final = (b"stop", b"stop_limit")
_NOT_IN_A_BOOK: Final = (
    *("content_hash", "created_at", "time_in_force", "self_trade_prevention", "post_only", "by_quote"),
    *("client_order_id", "sequence", "updated_at", "triggered_at"),
)


class OrderCheck(TableCheck):
    """Takes a shard's events in order."""

    layout = ORDERS

    def __init__(
        self, connection: Connection, shard: int, after_id: int, differences: Differences, *, keeps_all: bool
    ) -> None:
        """Begin after an id. keeps_all: nothing is ever dropped."""
        super().__init__(connection, shard, after_id, differences, keeps_all=keeps_all)
        # Live ones in order of ids: what follows from the journal, what was found, and whether anything was.
        self._expected = np.zeros(0, ORDERS.dtype)
        self._found = np.zeros(0, ORDERS.dtype)
        self._is_found = np.zeros(0, np.bool_)

    def begin_with(self, book_orders: NDArray[np.void], event_sequence: int) -> None:
        """Take over what lives in the book with which the replay begins, before this event (``book_order_dtype``)."""
        expected = _rows_of_book(book_orders)
        found = self._reader.read_these(expected["id"])
        at_expected, at_found, missing, _ = pair_rows(expected, found)
        for name in _NOT_IN_A_BOOK:
            expected[name][at_expected] = found[name][at_found]
        for name, types in (("price_ticks", _PRICED), ("stop_price_ticks", _STOPS)):
            unsaid = ~np.isin(expected["type"][at_expected], types)
            expected[name][at_expected[unsaid]] = found[name][at_found[unsaid]]
        # Which event touched it last is not in a book; one of the replay is told by its fold.
        expected["sequence"] = np.minimum(expected["sequence"], event_sequence - 1)
        self._add(expected, found, at_expected, at_found, missing)

    def take(self, events: Events) -> None:
        """Fold settled events, and compare the orders that ended with them."""
        orders = fold_orders(events)
        if not len(orders.order_id):
            return
        self._change(orders)
        begun = ORDERS.rows(order_columns(orders))
        if len(begun):
            found = self._reader.read_to(int(begun["id"][-1]))
            at_begun, at_found, missing, unknown = pair_rows(begun, found)
            self._note_unknown(found[unknown])
            self._add(begun, found, at_begun, at_found, missing)
        self._compare(self._expected["closed_at"] != 0)

    def finish(self) -> None:
        """Compare those that still live, and see that there is nothing behind the last one."""
        self._note_unknown(self._reader.read_to(ID_MAX))
        self._compare(np.ones(len(self._expected), np.bool_))

    def _add(self, expected: Rows, found: Rows, at_expected: Int64s, at_found: Int64s, missing: Int64s) -> None:
        """Put rows behind those that are there: their ids are greater."""
        beside = np.zeros(len(expected), ORDERS.dtype)
        beside[at_expected] = found[at_found]
        is_found = np.zeros(len(expected), np.bool_)
        is_found[at_expected] = True
        self._note_missing(expected[missing])
        self._expected = np.concatenate([self._expected, expected])
        self._found = np.concatenate([self._found, beside])
        self._is_found = np.concatenate([self._is_found, is_found])

    def _change(self, orders: Orders) -> None:
        """Do to the expected rows what ``UPDATE_ORDERS`` does to the table."""
        rows = self._expected
        touched = np.flatnonzero(~orders.began)
        at = np.searchsorted(rows["id"], orders.order_id[touched])
        # A journal that leads to an order that never began is found by its hashes.
        is_known = at < len(rows)
        is_known[is_known] = rows["id"][at[is_known]] == orders.order_id[touched[is_known]]
        touched, at = touched[is_known], at[is_known]
        events, content, told = orders.events, orders.content_at[touched], orders.has_content[touched]
        rows["filled_lots"][at] += orders.filled_lots[touched]
        for name in ("price_ticks", "stop_price_ticks", "quantity_lots"):
            rows[name][at] = np.where(told, events[name][content], rows[name][at])
        rows["quantity_lots"][at] = np.where(
            rows["by_quote"][at] == 1, rows["filled_lots"][at], rows["quantity_lots"][at]
        )
        updated, triggered = _time(orders.updated_ns[touched]), orders.triggered_ns[touched]
        for name, values in (
            ("remaining_lots", orders.remaining_lots),
            ("filled_notional_units", orders.notional_units),
            ("fee_units", orders.fee_units),
            ("hold_units", orders.hold_units),
            ("sequence", orders.sequence),
        ):
            rows[name][at] = values[touched]
        rows["status"][at] = _STATUSES[orders.status[touched]]
        rows["status_reason"][at] = np.where(orders.reason[touched] == 0, b"", REASON_LABELS[orders.reason[touched]])
        rows["updated_at"][at] = updated
        rows["closed_at"][at] = np.where(orders.closed[touched], updated, 0)
        rows["triggered_at"][at] = np.where(triggered != 0, _time(triggered), rows["triggered_at"][at])

    def _compare(self, which: NDArray[np.bool_]) -> None:
        """Compare some rows, and let them go."""
        wanted = which & self._is_found
        self._compare_rows(self._expected[wanted], self._found[wanted])
        self._expected, self._found, self._is_found = (
            self._expected[~which],
            self._found[~which],
            self._is_found[~which],
        )


def _rows_of_book(orders: NDArray[np.void]) -> Rows:
    """Make rows of a book's orders, in order of ids; what a book does not know is 0."""
    orders = orders[np.argsort(orders["order_id"])]
    rows = np.zeros(len(orders), ORDERS.dtype)
    rows["id"] = orders["order_id"]
    for name in (
        *("account_id", "symbol_id", "price_ticks", "stop_price_ticks", "quantity_lots", "remaining_lots"),
        *("hold_units", "filled_notional_units", "fee_units"),
    ):
        rows[name] = orders[name]
    rows["filled_lots"] = orders["quantity_lots"] - orders["remaining_lots"]
    rows["expires_at"] = np.where(orders["expires_at_ns"] == 0, 0, _time(orders["expires_at_ns"]))
    for names, column, codes in ((_SIDES, "side", "side"), (_TYPES, "type", "order_type")):
        for member, label in names.items():
            rows[column][orders[codes] == member] = label
    waits = np.isin(rows["type"], _STOPS) & (orders["triggered"] == 0)
    rows["status"] = np.select([waits, rows["filled_lots"] > 0], [b"pending", b"partially_filled"], b"open")
    return rows


def _time(timestamp_ns: NDArray[Any]) -> Int64s:
    times: Int64s = timestamp_ns // 1000 - POSTGRES_ORIGIN_US
    return times
