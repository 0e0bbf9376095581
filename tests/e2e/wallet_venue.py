"""An engine whose money the reference wallet service keeps: both are the programs that users run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psycopg
from tests.e2e.users import User, connect_database, deposit_all, sign_in
from tests.engines import Engine, running_engine
from tests.wallet.service import Service, running_service

from tradeengine.core.money import format_units
from tradeengine.storage.outbox import expected_reserves

PATIENCE_S = 30.0
PLACES = 8
QUICK: Mapping[str, str] = {
    "TRADEENGINE_WALLET_KIND": "http",
    "TRADEENGINE_WALLET_TIMEOUT_S": "1.0",
    "TRADEENGINE_WALLET_BACKOFF_MS_MIN": "10",
    "TRADEENGINE_WALLET_BACKOFF_MS_MAX": "100",
}


@dataclass
class WalletVenue:
    """Both, and what tests ask of them."""

    engine: Engine
    service: Service

    def fund(self, name: str, funds: Mapping[str, str]) -> User:
        """Let money arrive at the wallet and be deposited; give the user, signed in."""
        headers = {"Authorization": f"Bearer {self.service.secret}"}
        with httpx2.Client(base_url=self.service.url, headers=headers) as client:
            for asset, amount in funds.items():
                body = {"id": f"{name}.{asset}", "user": name, "asset": asset, "amount": amount}
                assert client.post("/v1/deposits", json=body).status_code == 201
        deposit_all(self.engine, name, funds)
        return sign_in(self.engine, name)

    def sign_in_as(self, name: str, role: str) -> User:
        """Give an administrator."""
        return User(name, self.engine.client(name, role))

    def trade(self, buyer: User, seller: User, quantity: str = "0.01", price: str = "50000") -> str:
        """Let two users trade; returns the trade's id."""
        seller.place(symbol="BTC/USDT", side="sell", quantity=quantity, price=price)
        (trade,) = buyer.place(symbol="BTC/USDT", side="buy", quantity=quantity, price=price)["trades"]
        return str(trade["id"])

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s, "".join(self.engine.errors)[-4000:]
            time.sleep(0.02)

    def pending(self) -> int:
        """How many transfers wait."""
        with connect_database(self.engine) as connection:
            row = connection.execute("SELECT count(*) FROM wallet_transfers WHERE state = 'pending'").fetchone()
        assert row is not None
        return int(row[0])

    def settlement_status(self, user: User, trade_id: str) -> str:
        """Say how one of a user's trades stands."""
        trades = user.call("GET", "/trades", params={"scope": "mine", "limit": "1000"})
        return str(next(trade["settlement_status"] for trade in trades if trade["id"] == trade_id))

    def metric(self, name: str) -> float:
        """Read one of the wallet actor's metrics."""
        text = httpx2.get(f"{self.engine.url}/metrics").text
        prefix = f'tradeengine_wallet_{name}{{actor="wallet"}} '
        return next(float(line.removeprefix(prefix)) for line in text.splitlines() if line.startswith(prefix))

    def readiness(self) -> dict[str, object]:
        """Ask whether orders are accepted, which they must be."""
        answer = httpx2.get(f"{self.engine.url}/ready")
        assert answer.status_code == 200
        ready: dict[str, object] = answer.json()["data"]
        return ready

    def agree(self) -> None:
        """Wait until ledger, outbox and wallet agree to the last unit, and let the engine compare everything too."""
        self.until(lambda: self.pending() == 0)
        self.until(lambda: self.reserved() == self.expected())
        self.service.check_books()
        result = self.engine.command("reconcile")
        assert result.returncode == 0, result.stdout + result.stderr

    def expected(self) -> dict[tuple[str, str], str]:
        """Work out what the wallet must hold reserved."""
        with connect_database(self.engine) as connection:
            names = dict(connection.execute("SELECT id, name FROM accounts").fetchall()) | {1: "exchange"}
            assets = dict(connection.execute("SELECT id, name FROM assets").fetchall())
            reserves = expected_reserves(connection)
        return {
            (names[account_id], assets[asset_id]): format_units(units, PLACES)
            for (account_id, asset_id), units in reserves.items()
        }

    def reserved(self) -> dict[tuple[str, str], str]:
        """Look what the wallet holds reserved."""
        query = "SELECT user_name, asset, amount FROM wallet.balances WHERE part = 'reserved' AND amount <> 0"
        with psycopg.connect(self.service.dsn) as connection:
            rows = connection.execute(query).fetchall()
        return {(user, asset): f"{amount:.{PLACES}f}" for user, asset, amount in rows}


@contextmanager
def wallet_venue(dsn: str, folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[WalletVenue]:
    """Run both while the block runs. dsn: a database for the wallet service. The engine's data are in ``folder``."""
    with running_service(dsn, folder) as service:
        wanted = {**QUICK, "TRADEENGINE_WALLET_URL": service.url, **(environment or {})}
        with running_engine(folder, [], wanted) as engine:
            yield WalletVenue(engine, service)
