"""An engine that trades, with a wallet outside, and a real Prometheus that looks at it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psycopg
import pytest
from tests.e2e.users import User
from tests.e2e.wallet_venue import WalletVenue, wallet_venue
from tests.monitoring.prometheus import Prometheus, running_prometheus

from tradeengine.storage.embedded import Embedded

SYMBOL = "BTC/USDT"
FUNDS = {"USDT": "10000000", "BTC": "1000"}
PAUSE_S = 0.02
ENVIRONMENT = {
    # Small rings and segments, so that they are filled soon; a pool that is soon in use.
    "TRADEENGINE_RINGS_EVENTS_SLOTS": "4096",
    "TRADEENGINE_SETTLEMENT_BACKLOG_EVENTS_MAX": "2048",
    "TRADEENGINE_JOURNAL_SEGMENT_BYTES": "65536",
    "TRADEENGINE_JOURNAL_FREE_DISK_BYTES_MIN": "1000000",
    "TRADEENGINE_DATABASE_POOL_SIZE": "1",
    "TRADEENGINE_HTTP_COMMAND_TIMEOUT_MS": "1000",
    # Minutes last a second here, too.
    "TRADEENGINE_KEEPER_RECONCILE_INTERVAL_S": "5",
    "TRADEENGINE_KEEPER_AUDIT_INTERVAL_S": "1",
    # Nobody is to end what a test has stopped.
    "TRADEENGINE_SUPERVISOR_HEARTBEAT_TIMEOUT_S": "60",
}


@dataclass
class Watched:
    """An engine that trades, and who watches it. ``faults``: the folder whose files are the machine's faults."""

    venue: WalletVenue
    prometheus: Prometheus
    faults: Path
    buyer: User
    seller: User

    @contextmanager
    def fault(self, name: str) -> Iterator[None]:
        """Let the machine have a fault while the block runs."""
        path = self.faults / name
        path.touch()
        try:
            yield
        finally:
            path.unlink()

    def place_hundred(self) -> bool:
        """Place a hundred orders that rest; returns whether all were taken."""
        order = {"symbol": SYMBOL, "side": "sell", "type": "limit", "quantity": "0.001", "price": "51000"}
        answer = self.buyer.http.post("/orders/batch", json={"orders": [order] * 100}).json()
        return bool(answer["success"]) and all(item["success"] for item in answer["data"])


@contextmanager
def meanwhile(work: Callable[[threading.Event], None], threads: int = 1) -> Iterator[None]:
    """Have threads work while the block runs; each ends soon when the event is set that it is given."""
    stop = threading.Event()
    working = [threading.Thread(target=work, args=(stop,), daemon=True) for _ in range(threads)]
    for thread in working:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in working:
            thread.join(30)


@contextmanager
def trading(venue: WalletVenue, buyer: User, seller: User) -> Iterator[None]:
    """Let two users trade with each other while the block runs, whatever they are answered."""
    headers = [dict(user.http.headers) for user in (seller, buyer)]

    def run(stop: threading.Event) -> None:
        with httpx2.Client(base_url=f"{venue.engine.url}/api/v1", timeout=5, trust_env=False) as client:
            number = 0
            while not stop.wait(PAUSE_S):
                number += 1
                order = {"symbol": SYMBOL, "type": "limit", "quantity": "0.001", "price": "50000"}
                for side, who in zip(("sell", "buy"), headers, strict=True):
                    with suppress(httpx2.TransportError):
                        client.post("/orders", json={**order, "side": side}, headers=who)
                if number % 10 == 0:
                    with suppress(httpx2.TransportError):
                        client.get("/orders", headers=headers[0])

    with meanwhile(run):
        yield


@pytest.fixture(scope="module")
def watched(postgres: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Run all of it."""
    folder = tmp_path_factory.mktemp("watched")
    faults = folder / "faults"
    faults.mkdir()
    name = f"wallet_watched_{os.getpid()}"
    with psycopg.connect(postgres.dsn_of("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template1")
    environment = {
        **ENVIRONMENT,
        "FAULTS": str(faults),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "faulty"), os.environ.get("PYTHONPATH", "")]),
    }
    with ExitStack() as stack:
        venue = stack.enter_context(wallet_venue(postgres.dsn_of(name), folder / "data", environment))
        buyer, seller = venue.fund("buyer", FUNDS), venue.fund("seller", FUNDS)
        stack.callback(buyer.http.close)
        stack.callback(seller.http.close)
        stack.enter_context(trading(venue, buyer, seller))
        target = venue.engine.url.removeprefix("http://")
        prometheus = stack.enter_context(running_prometheus(folder / "prometheus", [target]))
        yield Watched(venue, prometheus, faults, buyer, seller)
