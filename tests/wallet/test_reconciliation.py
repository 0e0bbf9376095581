"""Reconciliation with a wallet outside: an engine and the reference service, each in processes of its own."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from tests.e2e.users import User, connect_database, sign_in
from tests.engines import Engine, running_engine
from tests.wallet.service import Service, running_service

from tradeengine.storage.reconciliations import Reconciliation, request_reconciliation, wait_reconciliation
from tradeengine.wallet.http import open_http

SYMBOL = "SOL/USDT"
WAIT_S = 30.0


@dataclass
class Venue:
    """An engine, its wallet, and two users who have money in both."""

    engine: Engine
    service: Service
    buyer: User
    seller: User

    def trade(self) -> None:
        """Let the two trade once; they have enough for more than a thousand times."""
        self.seller.place(symbol=SYMBOL, side="sell", quantity="0.05", price="150")
        self.buyer.place(symbol=SYMBOL, side="buy", quantity="0.05", price="150")

    def reconcile(self) -> Reconciliation:
        """Ask the keeper."""
        with connect_database(self.engine) as connection:
            number = request_reconciliation(connection, "a test")
            found = wait_reconciliation(connection, number, timeout_s=WAIT_S)
        assert found.error is None
        return found

    def drain(self) -> None:
        """Wait until the wallet has been told of everything."""
        deadline_s = time.monotonic() + WAIT_S
        with connect_database(self.engine) as connection:
            while connection.execute("SELECT FROM wallet_transfers").rowcount:
                assert time.monotonic() < deadline_s, "".join(self.engine.errors)
                time.sleep(0.02)

    def in_wallet(self, statement: str, *parameters: Any) -> None:
        """Change something in the wallet's own tables."""
        with psycopg.connect(self.service.dsn, autocommit=True) as connection:
            assert connection.execute(statement, parameters).rowcount == 1


@pytest.fixture
def venue(dsn: str, tmp_path: Path) -> Iterator[Venue]:
    """Run both; the users' money arrives at the wallet and is deposited from there."""
    with running_service(dsn, tmp_path / "data") as service:
        environment = {
            "TRADEENGINE_WALLET_KIND": "http",
            "TRADEENGINE_WALLET_URL": service.url,
            "TRADEENGINE_WALLET_BREAKER_OPEN_S": "0.2",
            "TRADEENGINE_WALLET_BACKOFF_MS_MAX": "200",
            "TRADEENGINE_KEEPER_RECONCILE_INTERVAL_S": "0",
            "TRADEENGINE_DEMO_ENABLED": "false",
        }
        with running_engine(tmp_path / "data", (), environment) as engine:
            for user, asset, amount in (("buyer", "USDT", "10000"), ("seller", "SOL", "100")):
                trio.run(arrive, service, user, asset, amount)
                engine.deposit(user, asset, amount)
            buyer, seller = sign_in(engine, "buyer"), sign_in(engine, "seller")
            yield Venue(engine, service, buyer, seller)
            buyer.http.close()
            seller.http.close()


async def arrive(service: Service, user: str, asset: str, amount: str) -> None:
    """Let money of a user's arrive at the wallet."""
    async with open_http(service.url, service.secret, timeout_s=20.0, connections_max=1) as wallet:
        await wallet.deposit(uuid.uuid4().hex, user, asset, amount)


@pytest.mark.long
def test_wallet_is_compared(venue: Venue) -> None:
    """A wallet that was told of everything has what the ledger has; a unit more or less is named, and so is silence."""
    for _ in range(3):
        venue.trade()
    venue.drain()
    found = venue.reconcile()
    assert found.differences == []
    assert found.checked is not None
    assert found.checked["wallet_balances"] == 5  # both assets of both users, and the fees
    change = "UPDATE wallet.balances SET amount = amount + %s WHERE user_name = %s AND asset = %s AND part = 'reserved'"
    venue.in_wallet(change, "0.01", "buyer", "SOL")
    found = venue.reconcile()
    assert found.differences is not None
    (difference,) = found.differences
    assert (difference["kind"], difference["account"], difference["asset"]) == ("wallet_balance", "buyer", "SOL")
    assert difference["expected"] is not None
    assert difference["found"] is not None
    assert float(difference["found"]) - float(difference["expected"]) == pytest.approx(0.01)
    venue.in_wallet(change, "-0.01", "buyer", "SOL")
    assert venue.reconcile().differences == []
    venue.service.kill()
    venue.trade()
    found = venue.reconcile()
    assert found.differences is not None
    assert [difference["kind"] for difference in found.differences] == ["wallet_unavailable"]
    assert found.checked is not None
    assert "wallet_balances" not in found.checked
    venue.service.start()
    while (found := venue.reconcile()).differences:
        # Deliveries may be on their way, but nothing else than the breaker's silence is a difference meanwhile.
        assert {difference["kind"] for difference in found.differences} <= {"wallet_unavailable"}
    venue.drain()
    assert venue.reconcile().differences == []


@pytest.mark.long
def test_nothing_differs_while_who_delivers_is_killed(venue: Venue) -> None:
    """Trades whose transfers are on their way, made, or lost with their answer are no difference at any moment."""
    over = threading.Event()

    def trade() -> None:
        while not over.is_set():
            venue.trade()

    kills: tuple[Callable[[], None], ...] = (
        lambda: venue.engine.kill_actor("wallet"),
        lambda: restart(venue.service),
    )
    trading = threading.Thread(target=trade)
    trading.start()
    try:
        for kill in kills:
            for _ in range(2):
                venue.reconcile()
            kill()
            for _ in range(3):
                differences = venue.reconcile().differences
                assert differences is not None
                assert {difference["kind"] for difference in differences} <= {"wallet_unavailable"}
    finally:
        over.set()
        trading.join()
    venue.drain()
    while (found := venue.reconcile()).differences:
        assert {difference["kind"] for difference in found.differences} == {"wallet_unavailable"}
    assert found.checked is not None
    assert found.checked["trades"] > 10


def restart(service: Service) -> None:
    """Kill a service and start it again."""
    service.kill()
    service.start()
