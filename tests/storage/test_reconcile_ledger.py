"""The ledger against itself, in as many ranges as it takes, and with old trades gone."""

from __future__ import annotations

import secrets
from random import Random

import numpy as np
import psycopg
import pytest
from tests.storage.events import ALICE, BOB, CAROL, Market, funding_events

from tradeengine.core.differences import Differences
from tradeengine.core.records import Side
from tradeengine.core.symbols import SymbolSpec
from tradeengine.storage import reconcile_ledger
from tradeengine.storage.directory import resolve_account
from tradeengine.storage.funding import FundingKind, request_funding
from tradeengine.storage.reconcile_ledger import LedgerCheck, check_ledger, lock_ledger
from tradeengine.storage.reconcile_world import open_snapshot, read_cursors, read_world
from tradeengine.storage.settle import Settler

PRICE = 5_000_000
DAY_MS = 86_400_000
TRADES = 120


@pytest.fixture
def market(settler: Settler, connection: psycopg.Connection, symbol: SymbolSpec) -> Market:
    """Give a market with a deposit, many trades over several days, and live orders that are filled by a part."""
    chance = Random(secrets.randbits(32))
    opened = Market(symbol)
    settler.settle({0: opened.list_symbol()})
    account_id = resolve_account(connection, "alice", accounts_max=100)
    request_funding(connection, FundingKind.DEPOSIT, reference="r", account_id=account_id, asset_id=0, amount_units=5)
    settler.settle(funding_events(0, (1, account_id, 0, 5, True)))
    for number in range(TRADES):
        if number % 40 == 39:
            opened.now_ms += DAY_MS
        events = opened.place(ALICE, Side.SELL, chance.randint(10, 20), PRICE)
        taken = opened.place(BOB, Side.BUY, chance.randint(1, 9), PRICE)
        settler.settle({0: np.concatenate([events, taken])})
    settler.settle({0: opened.place(CAROL, Side.BUY, 10, PRICE // 2)})
    return opened


def check(dsn: str) -> tuple[LedgerCheck, Differences]:
    """Compare in a snapshot of its own."""
    differences = Differences()
    with open_snapshot(dsn, connect_timeout_s=5) as connection:
        lock_ledger(connection)
        read_cursors(connection)
        return check_ledger(connection, read_world(connection), differences), differences


def test_whole_ledger_is_looked_at(dsn: str, market: Market, connection: psycopg.Connection) -> None:
    """Every posting, transaction, trade and deposit is counted, and nothing differs."""
    found, differences = check(dsn)
    assert differences.kept == []
    rows = connection.execute("SELECT count(*), count(DISTINCT transaction_id) FROM postings").fetchone()
    assert (found.postings, found.transactions) == rows
    (trades,) = connection.execute("SELECT count(*) FROM trades").fetchall()
    assert trades[0] >= TRADES
    assert (found.trades, found.fundings) == (trades[0], 1)


def test_ranges_find_what_the_whole_does(
    dsn: str, market: Market, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger that is gone through in many ranges is counted as once, and the same differences are found."""
    connection.execute("UPDATE trades SET quantity_lots = quantity_lots + 1 WHERE id = (SELECT min(id) FROM trades)")
    connection.execute("DELETE FROM postings WHERE transaction_id = (SELECT max(id) FROM trades)")
    connection.execute("UPDATE balances SET total_units = total_units + 1 WHERE account_id = 1")
    whole, expected = check(dsn)
    monkeypatch.setattr(reconcile_ledger, "RANGE_ROWS", 40)
    monkeypatch.setattr(reconcile_ledger, "POSTING_BYTES", 20)
    with psycopg.connect(dsn) as looked:
        assert len(list(reconcile_ledger._ranges(looked))) > 5
    found, differences = check(dsn)
    assert found == whole
    assert set(differences.kept) == set(expected.kept)
    assert differences.count > 5


def test_trades_that_retention_dropped_are_not_missed(
    dsn: str, market: Market, settler: Settler, connection: psycopg.Connection
) -> None:
    """Where old trades are gone their postings need none, but must still sum to zero and to the balances."""
    (oldest,) = connection.execute(
        "SELECT min(c.relname) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = 'trades'::regclass"
    ).fetchall()
    connection.execute(f"DROP TABLE {oldest[0]}")
    found, differences = check(dsn)
    assert found.trades > 0
    assert differences.kept == []
    connection.execute(
        "DELETE FROM postings WHERE transaction_id = "
        "(SELECT min(transaction_id) FROM postings WHERE kind = 'T') AND account_id = 1"
    )
    _, differences = check(dsn)
    assert {difference.kind for difference in differences.kept} == {"transaction_unbalanced", "balance"}


def test_partition_cannot_be_dropped_while_it_is_compared(
    dsn: str, market: Market, connection: psycopg.Connection
) -> None:
    """While a snapshot is compared nobody can take a partition of it away."""
    with open_snapshot(dsn, connect_timeout_s=5) as snapshot:
        lock_ledger(snapshot)
        connection.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute("DROP TABLE trades CASCADE")
