"""What a wallet outside must hold: exact where everything is delivered, a range where nobody can know."""

from __future__ import annotations

import threading

import psycopg
import pytest
from tests.storage.events import ALICE, BOB

from tradeengine.core.differences import Differences
from tradeengine.core.symbols import SymbolSpec
from tradeengine.storage.outbox import DELIVERY_LOCK_KEY
from tradeengine.storage.reconcile_wallet import Reserve, compare_wallet, deliveries_paused

USDT, BTC = 0, 1
UNIT = 10**8


@pytest.fixture
def ledger(connection: psycopg.Connection, symbol: SymbolSpec) -> psycopg.Connection:
    """Give Alice 1,000 USDT and Bob 2 BTC."""
    connection.execute("INSERT INTO accounts (id, name) VALUES (16, 'alice'), (17, 'bob')")
    connection.execute("UPDATE counters SET value = 17 WHERE name = 'account'")
    for account_id, asset_id, units in ((ALICE, USDT, 1000 * UNIT), (BOB, BTC, 2 * UNIT)):
        connection.execute("INSERT INTO balances VALUES (%s, %s, %s)", (account_id, asset_id, units))
    return connection


def differences_of(connection: psycopg.Connection, *reserves: tuple[str, str, str]) -> Differences:
    """Compare with what a wallet says."""
    differences = Differences()
    compare_wallet(connection, [Reserve(*reserve) for reserve in reserves], "fees", differences)
    return differences


def wait_for_a_trade(connection: psycopg.Connection, state: str = "pending") -> None:
    """Write down a trade that the ledger has and the wallet was not told of: Bob sold Alice 1 BTC for 100, fee 1."""
    connection.execute(
        "INSERT INTO wallet_transfers (id, base_units, notional_units, buyer_fee_units, seller_fee_units, "
        "buyer_account_id, seller_account_id, base_asset_id, quote_asset_id, executed_ns, state) "
        "VALUES (1, %s, %s, %s, 0, 16, 17, 1, 0, 0, %s)",
        (UNIT, 100 * UNIT, UNIT, state),
    )


BEFORE = (("alice", "USDT", "1000.00"), ("bob", "BTC", "2"))


def test_delivered_is_exact(ledger: psycopg.Connection) -> None:
    """Where nothing waits each unit counts; users without a reserve, and assets in any number of places, do not."""
    assert differences_of(ledger, *BEFORE, ("stranger", "BTC", "0.00"), ("alice", "DOGE", "0")).count == 0
    (difference,) = differences_of(ledger, ("alice", "USDT", "1000.00000001"), BEFORE[1]).kept
    assert (difference.account_id, difference.asset_id) == (ALICE, USDT)
    assert (difference.expected, difference.found) == (1000 * UNIT, 1000 * UNIT + 1)
    (difference,) = differences_of(ledger, BEFORE[0]).kept
    assert (difference.account_id, difference.found) == (BOB, 0)


def test_what_is_of_nobody_is_named(ledger: psycopg.Connection) -> None:
    """Reserved money of a user, of an asset, or of an amount that cannot be here is told in words."""
    for strange in (("mallory", "USDT", "5"), ("alice", "DOGE", "5"), ("alice", "USDT", "0.000000001")):
        (difference,) = differences_of(ledger, *BEFORE, strange).kept
        assert strange[0] in difference.message
        assert strange[2] in difference.message


@pytest.mark.parametrize("state", ["pending", "dead"])
def test_undelivered_may_have_been_made_or_not(ledger: psycopg.Connection, state: str) -> None:
    """A transfer whose answer may be lost is no difference, made, half made or not made; anything beyond it is."""
    wait_for_a_trade(ledger, state)
    # The ledger has the trade already, so the wallet is expected as it was before it.
    not_made = (("alice", "USDT", "1101"), ("alice", "BTC", "0"), ("bob", "BTC", "3"))
    made = (("alice", "USDT", "1000"), ("bob", "BTC", "2"))
    ledger.execute("INSERT INTO balances VALUES (16, 1, %s), (17, 0, %s), (1, 0, %s)", (UNIT, 100 * UNIT, UNIT))
    after = (("alice", "BTC", "1"), ("bob", "USDT", "100"), ("fees", "USDT", "1"))
    assert differences_of(ledger, *not_made).count == 0
    assert differences_of(ledger, *made, *after).count == 0
    assert differences_of(ledger, *not_made[1:], ("alice", "USDT", "1000")).count == 0
    for wrong in ("1101.01", "999.99"):
        (difference,) = differences_of(ledger, ("alice", "USDT", wrong), *not_made[1:]).kept
        assert "undelivered" in difference.message


def test_discarded_is_explained_by_its_adjustment(ledger: psycopg.Connection) -> None:
    """A dead letter that was given up leaves no doubt: the wallet differs by exactly its adjustment."""
    wait_for_a_trade(ledger, "discarded")
    ledger.execute(
        "INSERT INTO wallet_adjustments (dead_letter_id, amount_units, account_id, asset_id, adjusted_by, reason) "
        "VALUES (1, %s, 16, 0, 'root', 'given up')",
        (101 * UNIT,),
    )
    assert differences_of(ledger, ("alice", "USDT", "1101"), BEFORE[1]).count == 0
    assert differences_of(ledger, *BEFORE).count == 1


def test_deliveries_pause_while_the_wallet_is_read(ledger: psycopg.Connection, dsn: str) -> None:
    """Who delivers shares a lock; reading waits until it is given back, keeps it while it reads, and no longer."""
    share = "SELECT pg_try_advisory_lock_shared(%s)"
    assert ledger.execute(share, (DELIVERY_LOCK_KEY,)).fetchone() == (True,)
    with (
        pytest.raises(psycopg.errors.LockNotAvailable),
        deliveries_paused(dsn, connect_timeout_s=5, timeout_s=0.05),
    ):
        pass
    reads, done = threading.Event(), threading.Event()

    def read() -> None:
        with deliveries_paused(dsn, connect_timeout_s=5, timeout_s=30):
            reads.set()
            done.wait(30)

    reader = threading.Thread(target=read)
    reader.start()
    ledger.execute("SELECT pg_advisory_unlock_shared(%s)", (DELIVERY_LOCK_KEY,))
    assert reads.wait(30)
    assert ledger.execute(share, (DELIVERY_LOCK_KEY,)).fetchone() == (False,)
    done.set()
    reader.join()
    ledger.execute("SELECT pg_advisory_lock_shared(%s)", (DELIVERY_LOCK_KEY,))
