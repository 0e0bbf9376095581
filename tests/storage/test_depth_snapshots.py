"""Stored depth in PostgreSQL: found by time, and forgotten without a hole in what is kept."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from tests.postgres import btc_usdt

from tradeengine.core.symbols import SymbolSpec
from tradeengine.storage import depth_snapshots
from tradeengine.storage.depth_snapshots import StoredDepth, find_depth, forget_depth, store_depth, stored_sequences
from tradeengine.storage.directory import add_asset, add_symbol

Connection = psycopg.Connection[Any]
NS_PER_MS = 1_000_000
FIRST_MS = 1_790_000_000_123
MINUTE_MS = 60_000


def make(taken_ms: int, sequence: int = 1, symbol_id: int = 0) -> StoredDepth:
    """Make a book with two bids and no ask."""
    return StoredDepth(symbol_id, taken_ms, sequence, [[5_000_000, 7], [4_999_900, 2**62]], [])


def test_found_at_and_between_and_not_before(connection: Connection) -> None:
    """A time finds the row at it or last before it, to the millisecond; before the first row there is none."""
    first, second = make(FIRST_MS, 1), make(FIRST_MS + MINUTE_MS, 2)
    offsets_ns = (-1, 0, MINUTE_MS * NS_PER_MS - 1, MINUTE_MS * NS_PER_MS, 10**15)
    store_depth(connection, [first, second, make(FIRST_MS - 1, 9, symbol_id=1)])
    found = [find_depth(connection, 0, FIRST_MS * NS_PER_MS + offset_ns) for offset_ns in offsets_ns]
    assert found == [None, first, first, second, second]
    assert find_depth(connection, 0) == second
    assert find_depth(connection, 2) is None


def test_clock_that_was_set_back_replaces(connection: Connection) -> None:
    """A second look at the same millisecond takes the place of the first."""
    store_depth(connection, [make(FIRST_MS, 1)])
    store_depth(connection, [make(FIRST_MS, 2)])
    found = find_depth(connection, 0)
    assert found is not None
    assert found.sequence == 2


def test_sequences_of_listed_symbols(connection: Connection, symbol: SymbolSpec) -> None:
    """Each listed symbol is named with the sequence of its newest row, or with none; a pending one is not named."""
    other = add_asset(connection, "ETH", 8, assets_max=16)
    listed = add_symbol(connection, btc_usdt(other, symbol.quote), symbols_max=16).spec
    assert stored_sequences(connection) == {}
    connection.execute("UPDATE symbols SET status = 'listed'")
    store_depth(connection, [make(FIRST_MS, 8), make(FIRST_MS + 1, 5)])
    assert stored_sequences(connection) == {symbol.symbol_id: 5, listed.symbol_id: None}


@pytest.mark.parametrize("batch", [1, 5000])
def test_newest_of_the_old_is_not_forgotten(
    connection: Connection, symbol: SymbolSpec, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """Rows before a time go, but for the last of them: it is the answer for that time. In batches, all the same."""
    monkeypatch.setattr(
        depth_snapshots, "_FORGET", depth_snapshots._FORGET.replace(f"{depth_snapshots.DELETE_BATCH}", f"{batch}")
    )
    store_depth(connection, [make(FIRST_MS + second * 1000, second) for second in range(10)])
    kept_from_ms = FIRST_MS + 6500
    before = find_depth(connection, 0, kept_from_ms * NS_PER_MS)
    assert forget_depth(connection, kept_from_ms) == 6
    assert find_depth(connection, 0, kept_from_ms * NS_PER_MS) == before
    assert find_depth(connection, 0, FIRST_MS * NS_PER_MS) is None
    assert forget_depth(connection, kept_from_ms) == 0
    assert forget_depth(connection, FIRST_MS + 10**9) == 3
    assert find_depth(connection, 0) == make(FIRST_MS + 9000, 9)
