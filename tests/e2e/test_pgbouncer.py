"""A whole engine through PgBouncer in transaction mode: what fronts and publisher ask goes through it, sessions beside.

The pooler gives every transaction another process of the server, so whatever was left in a session would be missing, or
be somebody else's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from psycopg.rows import dict_row
from tests.e2e.users import User
from tests.engines import Engine, run_command, running_engine, wait_restarted
from tests.pgbouncer import PgBouncer, needs_pgbouncer, running_pgbouncer

pytestmark = needs_pgbouncer

SYMBOL = "BTC/USDT"
LIVE = "/orders?status=partially_filled"
ROUNDS = 12
"""More than the five times after which psycopg would prepare a statement."""


@dataclass
class Venue:
    """An engine, the pooler before its database, and the database itself."""

    dsn: str
    pooler: PgBouncer
    data_dir: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self) -> Any:
        """Run the engine while the block runs."""
        return running_engine(self.data_dir, ["--shards", "2", "--fronts", "2"], self.environment)

    def command(self, *arguments: str) -> str:
        """Run a command of the program beside the engine; returns what it printed."""
        done = run_command(*arguments, "--data-dir", str(self.data_dir), **self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def venue(make_database: Any, tmp_path: Path) -> Iterator[Venue]:
    """Make a database behind a pooler, and an engine's directory."""
    dsn = make_database("tradeengine")
    with running_pgbouncer(dsn, tmp_path) as pooler:
        # The pooler is the address; the server's own is named beside it.
        environment = {"TRADEENGINE_DATABASE_DSN": pooler.dsn, "TRADEENGINE_DATABASE_SESSION_DSN": dsn}
        yield Venue(dsn, pooler, tmp_path / "data", environment)


@contextmanager
def users(engine: Engine, *names: str, funds: bool = False) -> Iterator[list[User]]:
    """Sign users in; with ``funds`` an administrator credits them first, over HTTP."""
    with ExitStack() as stack:
        if funds:
            admin = stack.enter_context(engine.client("root", "admin"))
            for name in names:
                for asset, amount in (("USDT", "1000000"), ("BTC", "100")):
                    body = {"user": name, "asset": asset, "amount": amount, "reference": f"{name}.{asset}"}
                    # 202: asked for. A repeat waits again.
                    while (answer := admin.post("/admin/deposits", json=body)).status_code == 202:
                        pass
                    assert answer.json()["data"]["status"] == "settled", answer.text
            recorded = admin.get("/admin/audit").json()["data"]
            assert [row["action"] for row in recorded] == ["deposit"] * 2 * len(names)
        yield [sign_in(stack, engine, name) for name in names]


def sign_in(stack: ExitStack, engine: Engine, name: str) -> User:
    """Connect as a user, until the stack ends."""
    return User(name, stack.enter_context(engine.client(name)))


def fresh(user: User) -> httpx2.Client:
    """Connect anew, so that either front may answer."""
    return httpx2.Client(base_url=user.http.base_url, headers=user.http.headers, timeout=20, trust_env=False)


def pages(client: httpx2.Client, order_id: str) -> None:
    """Read everything that comes from the database."""
    for path in (
        f"/orders/{order_id}",
        "/orders",
        "/orders?status=open&limit=5",
        "/trades?scope=mine",
        "/trades?scope=mine&symbol=BTC-USDT",
        "/trades?symbol=BTC-USDT",
        "/ledger?limit=20",
        "/historical/trades/BTC-USDT",
        "/candles/BTC-USDT?tf=1m",
        "/candles/BTC-USDT?tf=1h&fill=true",
        "/statistics/24h/BTC-USDT",
        "/api-keys",
        "/fees",
    ):
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text)


@pytest.mark.long
def test_an_orders_life_through_pgbouncer(venue: Venue) -> None:
    """Orders are placed, matched, settled, read from history and reconciled, over and over, and after a restart."""
    with venue.run() as engine, users(engine, "seller", "buyer", funds=True) as (seller, buyer):
        for _ in range(ROUNDS):
            order = seller.place(symbol=SYMBOL, side="sell", quantity="0.2", price="50000")["order"]
            buyer.place(symbol=SYMBOL, quantity="0.1", price="50000")
            with fresh(seller) as client:
                pages(client, order["id"])
        statement = seller.call("GET", "/ledger?limit=100")
        assert len([entry for entry in statement if entry["kind"] == "trade"]) == 2 * ROUNDS
        first_pid = engine.actors()["settlement"]
        engine.kill_actor("settlement")
        wait_restarted(engine, "settlement", first_pid)
        buyer.place(symbol=SYMBOL, quantity="0.1", price="40000")
        venue.command("reconcile")
        venue.command("deposit", "later", "USDT", "5")
        before = [(user.balances(), user.call("GET", LIVE)) for user in (seller, buyer)]
        assert through_pooler(venue.pooler) > 10 * ROUNDS
    with venue.run() as engine, users(engine, "seller", "buyer") as (seller, buyer):
        assert [(user.balances(), user.call("GET", LIVE)) for user in (seller, buyer)] == before
        buyer.call("DELETE", "/orders")
        venue.command("reconcile")


@pytest.mark.long
def test_pooler_that_dies_under_load_loses_nothing(venue: Venue) -> None:
    """While the pooler is away orders are taken, matched and settled; when it is back all of them are in history."""
    with venue.run() as engine, users(engine, "maker", "taker", funds=True) as (maker, taker):
        maker.place(symbol=SYMBOL, side="sell", quantity="50", price="50000")
        placed: list[str] = []
        faults: list[BaseException] = []
        ending = threading.Event()
        # Both fronts know who they are: a name is looked up once.
        for user in (maker, taker):
            for _ in range(8):
                with fresh(user) as client:
                    assert client.get("/orders").status_code == 200

        def load() -> None:
            try:
                while not ending.is_set():
                    placed.append(taker.place(symbol=SYMBOL, quantity="0.001", price="50000")["order"]["id"])
            except BaseException as fault:
                faults.append(fault)

        loading = threading.Thread(target=load)
        loading.start()
        try:
            for _ in range(2):
                venue.pooler.kill()
                # Trading goes on without it, and who asks for the past is told why there is none.
                wanted = len(placed) + 50
                while len(placed) < wanted:
                    assert not faults
                with fresh(maker) as client:
                    away = client.get("/orders")
                assert (away.status_code, away.json()["error"]["code"]) == (503, "DATABASE_UNAVAILABLE")
                venue.pooler.start()
                with fresh(maker) as client:
                    assert client.get("/orders").status_code == 200
        finally:
            ending.set()
            loading.join()
        assert faults == []
        assert {taker.order(order_id)["status"] for order_id in placed} == {"filled"}
        venue.command("reconcile")


def test_pooler_alone_is_refused(venue: Venue) -> None:
    """An engine that is given nothing but the pooler says at once what is missing, and changes nothing."""
    done = run_command("up", "--port", "0", "--data-dir", str(venue.data_dir), "--dsn", venue.pooler.dsn)
    assert done.returncode != 0
    assert "set database.session_dsn to the address of PostgreSQL itself" in done.stderr
    with psycopg.connect(venue.dsn) as connection:
        assert connection.execute("SELECT count(*) FROM symbols").fetchone() == (0,)


def through_pooler(pooler: PgBouncer) -> int:
    """Count the transactions that went through the pooler."""
    with psycopg.connect(pooler.console_dsn, autocommit=True, row_factory=dict_row) as console:
        rows = psycopg.ClientCursor(console).execute("SHOW STATS_TOTALS").fetchall()
    return sum(int(row["xact_count"]) for row in rows if row["database"] != "pgbouncer")
