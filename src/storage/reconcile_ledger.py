"""The ledger against itself: postings, trades, funding, balances, and what live orders have filled.

Four things must hold in any snapshot. The postings of a transaction sum to zero per asset. A trade has exactly the
postings that follow from it, and so has a deposit or withdrawal; and no such posting is without its cause. An account's
balance is the sum of its postings. What a live order has filled is the sum of its trades (``reconcile_orders``).

Rule 1: all of it is looked at, every time, in ranges of transaction ids that fit memory: ids embed times, so a range of
a table is a range of its pages.
Rule 2: rows come out by binary COPY and are compared as arrays.
Rule 3: old trades may have been dropped by retention, postings never: what was before the oldest kept trade is only
asked to sum to zero, and live orders from before it are not asked for their trades.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from tradeengine.core.differences import Difference, Differences, Int64s, Unit, sum_by_key
from tradeengine.core.records import ACCOUNT_ID_OUTSIDE
from tradeengine.storage.bulk import copy_out
from tradeengine.storage.reconcile_orders import FILLED, add_fills, compare_live
from tradeengine.storage.reconcile_world import ASSET_SHIFT, World, balance_key
from tradeengine.storage.settle_postings import POSTING_FUNDING, POSTING_TRADE, post_trades, trade_legs

Connection = psycopg.Connection[Any]

RANGE_ROWS: Final = 100_000
"""Postings of one range, about: some 50 MiB while they are compared. At most eighty times as many fit a key."""
POSTING_BYTES: Final = 60
"""Of a posting on its page, about."""
_SAMPLE_PER_RANGE: Final = 1000
_LAST_ID: Final = (1 << 63) - 1
_PLACE_SHIFT: Final = 40
_LOW: Final = (1 << ASSET_SHIFT) - 1
_BOUND: Final = re.compile(r"FOR VALUES FROM \('(\d+)'\)")


@dataclass
class LedgerCheck:
    """What was looked at."""

    postings: int = 0
    transactions: int = 0
    trades: int = 0
    fundings: int = 0


@dataclass
class _Sums:
    """What is added up over all ranges."""

    balances: list[tuple[Int64s, ...]] = field(default_factory=list)
    filled: dict[str, Int64s] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Sides:
    """What was posted to each account and asset in each transaction of a range, and what should have been."""

    transactions: Int64s
    keys: Int64s
    """Place of the transaction, account, asset."""
    found: Int64s
    expected: Int64s
    surplus: Int64s
    """How many postings there are more than there should be."""


def lock_ledger(connection: Connection) -> None:
    """See that nobody drops a partition while the snapshot is compared. Before the snapshot's first question."""
    connection.execute("LOCK TABLE trades, postings, orders IN ACCESS SHARE MODE")


def check_ledger(connection: Connection, world: World, differences: Differences) -> LedgerCheck:
    """Compare in the snapshot of ``connection``; ``world`` is what it says. Raises psycopg.Error."""
    check = LedgerCheck()
    trades_since = _trades_since(connection)
    fundings = _read_fundings(connection)
    check.fundings = len(fundings) // 2
    sums = _Sums(filled={name: np.zeros(len(world.orders), np.int64) for name in FILLED})
    for first, end in _ranges(connection):
        postings = copy_out(connection, _POSTINGS.format(first=first, end=end), _POSTING_FIELDS)
        trades = copy_out(connection, _TRADES.format(first=first, end=end), _TRADE_FIELDS)
        start, stop = np.searchsorted(fundings["transaction_id"], (first, end))
        check.postings += len(postings)
        check.trades += len(trades)
        check.transactions += _compare_range(postings, trades, fundings[start:stop], world, trades_since, differences)
        keys = balance_key(postings["account_id"], postings["asset_id"])
        sums.balances.append(sum_by_key(keys, postings["amount_units"]))
        add_fills(sums.filled, world.orders["order_id"], trades)
    _compare_balances(world, sums.balances, differences)
    compare_live(world.orders, sums.filled, trades_since, differences)
    return check


def _compare_range(
    postings: NDArray[np.void],
    trades: NDArray[np.void],
    fundings: NDArray[np.void],
    world: World,
    trades_since: int,
    differences: Differences,
) -> int:
    """Compare what was posted with what follows from trades and funding; return how many transactions there were."""
    known = trades[world.symbols.known(trades["symbol_id"].astype(np.int64))]
    legs = post_trades(trade_legs(known, world.symbols))
    posted = len(postings)
    transactions, place = np.unique(
        np.concatenate([postings["transaction_id"], legs.transaction_id, fundings["transaction_id"]]),
        return_inverse=True,
    )
    assert len(transactions) < 1 << (63 - _PLACE_SHIFT)
    account_ids = np.concatenate([postings["account_id"], legs.account_id, fundings["account_id"]]).astype(np.int64)
    asset_ids = np.concatenate([postings["asset_id"], legs.asset_id, fundings["asset_id"]]).astype(np.int64)
    amounts = np.concatenate([postings["amount_units"], legs.amount_units, fundings["amount_units"]])
    is_posted = np.arange(len(amounts)) < posted
    # Amounts and how many they are: two postings too many that cancel each other out would leave the sum as it is.
    keys, found, expected, surplus = sum_by_key(
        place << _PLACE_SHIFT | account_ids << ASSET_SHIFT | asset_ids,
        np.where(is_posted, amounts, 0),
        np.where(is_posted, 0, amounts),
        np.where(is_posted, 1, -1),
    )
    sides = _Sides(transactions, keys, found, expected, surplus)
    _note_postings(sides, postings, trades_since, differences)
    asset_keys, asset_sums = sum_by_key(place[:posted] << ASSET_SHIFT | asset_ids[:posted], amounts[:posted])
    _note_unbalanced(transactions, asset_keys, asset_sums, differences)
    return len(np.unique(place[:posted]))


def _note_postings(sides: _Sides, postings: NDArray[np.void], trades_since: int, differences: Differences) -> None:
    wrong = np.flatnonzero((sides.found != sides.expected) | (sides.surplus != 0))
    wrong_ids = sides.transactions[sides.keys[wrong] >> _PLACE_SHIFT]
    kinds = _kinds_of(wrong_ids, postings)
    counts = (kinds == POSTING_FUNDING) | ((kinds == POSTING_TRADE) & (wrong_ids >= trades_since))
    wrong, wrong_ids, kinds = wrong[counts], wrong_ids[counts], kinds[counts]

    def make(index: int) -> Difference:
        at, is_trade = wrong[index], kinds[index] == POSTING_TRADE
        cause = "trade" if is_trade else "deposit or withdrawal"
        return Difference(
            kind="trade_posting" if is_trade else "funding_posting",
            message=f"The ledger does not have exactly what follows from the {cause} of this transaction.",
            expected=int(sides.expected[at]),
            found=int(sides.found[at]),
            unit=Unit.AMOUNT,
            transaction_id=int(wrong_ids[index]),
            account_id=int(sides.keys[at] >> ASSET_SHIFT) & 0xFF_FFFF,
            asset_id=int(sides.keys[at]) & _LOW,
        )

    differences.add_each(len(wrong), make)


def _kinds_of(transaction_ids: Int64s, postings: NDArray[np.void]) -> NDArray[np.uint8]:
    """Kind of each transaction by its postings; a trade's where it has none: then no funding is settled by it."""
    kinds = np.full(len(transaction_ids), POSTING_TRADE, np.uint8)
    concerned = postings[np.isin(postings["transaction_id"], transaction_ids)]
    ids, first = np.unique(concerned["transaction_id"], return_index=True)
    if len(ids):
        place = np.minimum(np.searchsorted(ids, transaction_ids), len(ids) - 1)
        has_postings = ids[place] == transaction_ids
        kinds[has_postings] = concerned["kind"][first[place[has_postings]]]
    return kinds


def _note_unbalanced(transactions: Int64s, keys: Int64s, sums: Int64s, differences: Differences) -> None:
    wrong = np.flatnonzero(sums)
    differences.add_each(
        len(wrong),
        lambda index: Difference(
            kind="transaction_unbalanced",
            message="The postings of this transaction do not sum to zero in this asset.",
            expected=0,
            found=int(sums[wrong[index]]),
            unit=Unit.AMOUNT,
            transaction_id=int(transactions[keys[wrong[index]] >> ASSET_SHIFT]),
            asset_id=int(keys[wrong[index]]) & _LOW,
        ),
    )


def _compare_balances(world: World, parts: list[tuple[Int64s, ...]], differences: Differences) -> None:
    posted_keys, posted_units = sum_by_key(
        np.concatenate([keys for keys, _ in parts]), np.concatenate([units for _, units in parts])
    )
    size = (len(world.balance_keys), len(posted_keys))
    keys, found, expected = sum_by_key(
        np.concatenate([world.balance_keys, posted_keys]),
        np.concatenate([world.total_units, np.zeros(size[1], np.int64)]),
        np.concatenate([np.zeros(size[0], np.int64), posted_units]),
    )
    wrong = np.flatnonzero(found != expected)
    differences.add_each(
        len(wrong),
        lambda index: Difference(
            kind="balance",
            message="The balance is not the sum of the account's postings.",
            expected=int(expected[wrong[index]]),
            found=int(found[wrong[index]]),
            unit=Unit.AMOUNT,
            account_id=int(keys[wrong[index]] >> ASSET_SHIFT),
            asset_id=int(keys[wrong[index]]) & _LOW,
        ),
    )


def _ranges(connection: Connection) -> Iterator[tuple[int, int]]:
    """Cut the ledger into ranges of transaction ids that hold about as many postings each."""
    row = connection.execute(_POSTINGS_BYTES).fetchone()
    assert row is not None
    count = int(row[0]) // POSTING_BYTES // RANGE_ROWS
    bounds: list[int] = []
    if count > 1:
        percent = min(100.0, 100 * count * _SAMPLE_PER_RANGE * POSTING_BYTES / int(row[0]))
        sample = np.sort(copy_out(connection, _SAMPLE.format(percent=percent), {"transaction_id": "i8"}))
        if len(sample):
            places = np.arange(1, count) * len(sample) // count
            bounds = np.unique(sample["transaction_id"][places]).tolist()
    yield from pairwise([0, *bounds, _LAST_ID])


def _trades_since(connection: Connection) -> int:
    """First id that a kept trade could have."""
    bounds = [_BOUND.match(text) for (text,) in connection.execute(_TRADE_PARTITIONS).fetchall()]
    return min((int(bound.group(1)) for bound in bounds if bound is not None), default=_LAST_ID)


def _read_fundings(connection: Connection) -> NDArray[np.void]:
    """Read what follows from settled deposits and withdrawals, as postings in order of their transactions."""
    rows = copy_out(connection, _FUNDINGS, _FUNDING_FIELDS)
    both = np.concatenate([rows, rows])
    both["account_id"][len(rows) :] = ACCOUNT_ID_OUTSIDE
    both["amount_units"][len(rows) :] *= -1
    return both[np.argsort(both["transaction_id"], kind="stable")]


_POSTING_FIELDS: Final = {
    "transaction_id": "i8",
    "amount_units": "i8",
    "account_id": "i4",
    "asset_id": "i2",
    "kind": "u1",
}

_POSTINGS: Final = """
SELECT transaction_id, amount_units, account_id, asset_id, kind FROM postings
WHERE transaction_id >= {first} AND transaction_id < {end}
"""

_TRADE_FIELDS: Final = {
    "trade_id": "i8",
    "quantity_lots": "i8",
    "notional_units": "i8",
    "fee_units": "i8",
    "maker_fee_units": "i8",
    "order_id": "i8",
    "maker_order_id": "i8",
    "account_id": "i4",
    "maker_account_id": "i4",
    "symbol_id": "i4",
    "side": "i4",
}
"""As an event names them."""

_TRADES: Final = """
SELECT id, quantity_lots, notional_units, taker_fee_units, maker_fee_units, taker_order_id, maker_order_id,
       taker_account_id, maker_account_id, symbol_id, (taker_side = 'sell')::integer
FROM trades WHERE id >= {first} AND id < {end}
"""

_FUNDING_FIELDS: Final = {"transaction_id": "i8", "account_id": "i4", "asset_id": "i4", "amount_units": "i8"}

_FUNDINGS: Final = """
SELECT transaction_id, account_id, asset_id, CASE kind WHEN 'deposit' THEN amount_units ELSE -amount_units END
FROM funding WHERE transaction_id IS NOT NULL
"""

_POSTINGS_BYTES: Final = """
SELECT coalesce(sum(pg_relation_size(inhrelid)), 0) FROM pg_inherits WHERE inhparent = 'postings'::regclass
"""

_SAMPLE: Final = "SELECT transaction_id FROM postings TABLESAMPLE SYSTEM ({percent})"

_TRADE_PARTITIONS: Final = """
SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'trades'::regclass
"""
