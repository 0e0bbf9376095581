"""The reference wallet service for tests: the program that users run, in a process of its own, on a free port."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg

from tradeengine.actors.data_dir import read_secret
from tradeengine.wallet.http import HttpWallet
from tradeengine.wallet.port import Balance, Direction, Holding, Leg, Transfer

PROGRAM: Final = (sys.executable, "-m", "tradeengine.cli.app", "wallet")
STOP_TIMEOUT_S: Final = 30.0


@dataclass
class Service:
    """A wallet service that keeps its database, port and secret over restarts."""

    data_dir: Path
    dsn: str
    port: int = field(default_factory=lambda: free_port())
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def secret(self) -> str:
        """What it wants to be shown."""
        return read_secret(self.data_dir / "wallet")

    def start(self) -> None:
        """Start it, and wait until it says that it is ready."""
        arguments = ["--data-dir", str(self.data_dir), "--port", str(self.port), "--dsn", self.dsn]
        self.process = subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready "), line

    def kill(self) -> None:
        """End it as the kernel would when memory runs out."""
        assert self.process is not None
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        """Ask it to end; returns its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        assert self.process is not None
        status = self.process.wait(STOP_TIMEOUT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return status

    def check_books(self) -> None:
        """Every entry's postings sum to zero, balances are the sums of postings, and no user's money is negative."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            assert connection.execute(_UNBALANCED).fetchall() == []
            assert connection.execute(_DIFFERING).fetchall() == []
            negative = "SELECT * FROM wallet.balances WHERE amount < 0 AND user_name <> ''"
            assert connection.execute(negative).fetchall() == []

    def clearing(self, asset: str) -> str:
        """Give what lies between single debits and credits."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            row = connection.execute(
                "SELECT trim_scale(amount)::text FROM wallet.balances WHERE part = 'clearing' AND asset = %s", (asset,)
            ).fetchone()
        return "0" if row is None else str(row[0])

    def entry_count(self, id_: str) -> int:
        """How many entries begin with an id."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            row = connection.execute("SELECT count(*) FROM wallet.entries WHERE starts_with(id, %s)", (id_,)).fetchone()
        assert row is not None
        return int(row[0])


@contextmanager
def running_service(dsn: str, data_dir: Path) -> Iterator[Service]:
    """Run a wallet service; the caller may kill and start it in between."""
    service = Service(data_dir, dsn)
    service.start()
    try:
        yield service
    finally:
        if service.process is not None:
            service.stop()


@dataclass
class Case:
    """Two users whose names no other test has, an exchange of their own, and a trade between them."""

    buyer: str = field(default_factory=lambda: f"buyer-{uuid.uuid4().hex[:12]}")
    seller: str = field(default_factory=lambda: f"seller-{uuid.uuid4().hex[:12]}")
    exchange: str = field(default_factory=lambda: f"fees-{uuid.uuid4().hex[:12]}")
    base: str = field(default_factory=lambda: f"B{uuid.uuid4().hex[:10]}")
    quote: str = field(default_factory=lambda: f"Q{uuid.uuid4().hex[:10]}")
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def trade(self) -> Transfer:
        """One base at 50,000: the buyer pays 25 of fees, the seller 50."""
        return Transfer(
            self.id,
            (
                Leg(self.buyer, self.quote, "50025.00", Direction.DEBIT),
                Leg(self.buyer, self.base, "1.00", Direction.CREDIT),
                Leg(self.seller, self.base, "1.00", Direction.DEBIT),
                Leg(self.seller, self.quote, "49950.00", Direction.CREDIT),
                Leg(self.exchange, self.quote, "75.00", Direction.CREDIT),
            ),
        )

    @property
    def before(self) -> dict[tuple[str, str], str]:
        """What is reserved once both are funded."""
        return {(self.buyer, self.quote): "60000", (self.seller, self.base): "3"}

    @property
    def after(self) -> dict[tuple[str, str], str]:
        """What is reserved after the trade."""
        return {
            (self.buyer, self.quote): "9975",
            (self.buyer, self.base): "1",
            (self.seller, self.base): "2",
            (self.seller, self.quote): "49950",
            (self.exchange, self.quote): "75",
        }

    async def fund(self, wallet: HttpWallet, *, seller: bool = True) -> None:
        """Give both what they trade with."""
        await fund(wallet, self.buyer, self.quote, "60000")
        if seller:
            await fund(wallet, self.seller, self.base, "3")

    async def reserved(self, wallet: HttpWallet) -> dict[tuple[str, str], str]:
        """Give what each has reserved, without zeros."""
        found: dict[tuple[str, str], str] = {}
        for user in (self.buyer, self.seller, self.exchange):
            for balance in (await wallet.balances(user)).balances:
                if balance.reserved != "0":
                    found[user, balance.asset] = balance.reserved
        return found


async def fund(wallet: HttpWallet, user: str, asset: str, amount: str) -> None:
    """Let money arrive and be reserved."""
    reference = uuid.uuid4().hex
    await wallet.deposit(reference, user, asset, amount)
    await wallet.reserve(Holding(reference, user, asset, amount))


async def balance_of(wallet: HttpWallet, user: str, asset: str) -> Balance:
    """Give a user's money of one asset."""
    page = await wallet.balances(user)
    return next((found for found in page.balances if found.asset == asset), Balance(user, asset, "0", "0"))


def free_port() -> int:
    """Find a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_UNBALANCED: Final = """
SELECT entry_number, asset, sum(amount) FROM wallet.postings GROUP BY 1, 2 HAVING sum(amount) <> 0
"""

_DIFFERING: Final = """
SELECT user_name, asset, part FROM
(SELECT user_name, asset, part, sum(amount) AS amount FROM wallet.postings GROUP BY 1, 2, 3) AS posted
FULL JOIN wallet.balances AS kept USING (user_name, asset, part)
WHERE coalesce(posted.amount, 0) <> coalesce(kept.amount, 0)
"""
