"""An engine under load whose backups are compared with it: traders on two shards who spend what they just earned."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Decimal
from typing import Any, Final

import httpx2
import psycopg
from tests.e2e.users import ACCOUNTS_MAX, Json, User, connect_database, make_user
from tests.engines import Engine

from tradeengine.storage.directory import load_directory, resolve_account
from tradeengine.storage.funding import FundingKind, FundingStatus, request_funding, wait_funding

SHARDS: Final = ("--shards", "2")
SYMBOLS: Final = ("BTC/USDT", "ETH/USDT")
"""One on each shard."""
PRICES: Final = {"BTC/USDT": Decimal(40000), "ETH/USDT": Decimal(2000)}
WAIT_S: Final = 60.0
Row = tuple[int, int, str]
Rows = dict[str, set[Row]]


@dataclass
class AllIn:
    """A trader who buys on one shard with all there is, sells all of it, and goes on with that on the other."""

    user: User
    seed: int
    acknowledged: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event, progress: threading.Semaphore) -> None:
        """Trade until asked to stop; releases ``progress`` once for each order that was acknowledged."""
        chance = random.Random(self.seed)
        while not stop.is_set():
            try:
                self._swing(chance.choice(SYMBOLS), progress)
            except httpx2.TransportError:
                stop.wait(0.05)

    def _swing(self, symbol: str, progress: threading.Semaphore) -> None:
        base, _, quote = symbol.partition("/")
        for side, asset in (("buy", quote), ("sell", base)):
            free = self._free(asset)
            price = PRICES[symbol] * (Decimal("1.01") if side == "buy" else Decimal("0.99"))
            # With room for the fee; of what is left nothing is worth an order.
            quantity = free / price * Decimal("0.997") if side == "buy" else free
            quantity = min(quantity, Decimal(5)).quantize(Decimal("0.001"), ROUND_DOWN)
            if quantity <= 0:
                continue
            order = {"symbol": symbol, "side": side, "type": "limit", "time_in_force": "ioc"}
            answer = self.user.http.post("/orders", json=order | {"quantity": f"{quantity}", "price": f"{price:.2f}"})
            if answer.status_code == 201:
                self.acknowledged.append(answer.json()["data"]["order"]["id"])
                progress.release()

    def _free(self, asset: str) -> Decimal:
        answer = self.user.http.get("/balances")
        if answer.status_code != 200:
            return Decimal(0)
        return next((Decimal(row["available"]) for row in answer.json()["data"] if row["asset"] == asset), Decimal(0))


@dataclass
class Maker:
    """A rich trader whose orders the others hit, on both shards; some are amended, some cancelled."""

    user: User
    seed: int
    acknowledged: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event, progress: threading.Semaphore) -> None:
        """Keep orders in both books until asked to stop."""
        chance = random.Random(self.seed)
        while not stop.is_set():
            try:
                self._quote(chance, progress)
            except httpx2.TransportError:
                stop.wait(0.05)

    def _quote(self, chance: random.Random, progress: threading.Semaphore) -> None:
        symbol = chance.choice(SYMBOLS)
        side, offset = chance.choice([("buy", -1), ("sell", 1)])
        price = PRICES[symbol] * (1 + Decimal(offset * chance.randint(1, 50)) / 10_000)
        order = {"symbol": symbol, "side": side, "type": "limit", "quantity": "2", "price": f"{price:.2f}"}
        answer = self.user.http.post("/orders", json=order)
        if answer.status_code != 201:
            return
        order_id = answer.json()["data"]["order"]["id"]
        self.acknowledged.append(order_id)
        progress.release()
        if chance.random() < 0.2:
            self.user.http.delete(f"/orders/{order_id}")
        elif chance.random() < 0.2:
            self.user.http.patch(f"/orders/{order_id}", json={"quantity": "1.5"})


@dataclass
class Teller:
    """Deposits for new accounts, and withdrawals of some of it, all the time."""

    engine: Engine
    settled: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event, progress: threading.Semaphore) -> None:
        """Move money until asked to stop; an outcome that does not come is not waited for again."""
        number = 0
        while not stop.is_set():
            number += 1
            try:
                with connect_database(self.engine) as connection:
                    self._move(connection, number)
            except (psycopg.Error, AssertionError):
                stop.wait(0.05)
            progress.release()

    def _move(self, connection: psycopg.Connection[Any], number: int) -> None:
        asset = load_directory(connection).asset("USDT")
        assert asset is not None
        account_id = resolve_account(connection, f"saver-{number // 3}", accounts_max=ACCOUNTS_MAX)
        for kind, amount in ((FundingKind.DEPOSIT, "100"), (FundingKind.WITHDRAWAL, "70.5")):
            name = f"{kind}-{number}"
            request = request_funding(
                connection,
                kind,
                reference=name,
                account_id=account_id,
                asset_id=asset.asset_id,
                amount_units=asset.parse(amount),
            )
            if wait_funding(connection, request, timeout_s=5).status is not FundingStatus.PENDING:
                self.settled.append(name)


@dataclass
class Venue:
    """Everybody who trades."""

    engine: Engine
    traders: list[AllIn | Maker | Teller]
    progress: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def acknowledged(self) -> set[str]:
        """Orders that somebody was told of so far."""
        return {name for trader in self.traders if not isinstance(trader, Teller) for name in trader.acknowledged}

    def settled(self) -> set[str]:
        """Deposits and withdrawals that are settled so far, by reference."""
        return {name for trader in self.traders if isinstance(trader, Teller) for name in trader.settled}

    def wait(self, count: int) -> None:
        """Wait until so much more has happened."""
        for _ in range(count):
            said = "".join(self.engine.errors)
            assert self.progress.acquire(timeout=WAIT_S), f"trading stands still; the engine said:\n{said}"

    @contextmanager
    def trading(self, *, money: bool = True) -> Iterator[None]:
        """Let everyone trade while the block runs. money: with deposits and withdrawals."""
        stop = threading.Event()
        running = [trader for trader in self.traders if money or not isinstance(trader, Teller)]
        threads = [threading.Thread(target=trader.run, args=(stop, self.progress)) for trader in running]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def make_venue(engine: Engine) -> Venue:
    """Make users with money."""
    traders: list[AllIn | Maker | Teller] = [
        Maker(make_user(engine, "maker", {"USDT": "100000000", "BTC": "1000", "ETH": "10000"}), 1),
        *(AllIn(make_user(engine, f"all-in-{number}", {"USDT": "30000"}), number) for number in range(2, 4)),
        Teller(engine),
    ]
    return Venue(engine, traders)


def cursors(connection: psycopg.Connection[Any]) -> dict[int, int]:
    """How far events are settled, by shard."""
    return dict(connection.execute("SELECT shard, sequence FROM settlement_cursors WHERE shard >= 0").fetchall())


def rows_of(connection: psycopg.Connection[Any]) -> Rows:
    """All trades, their postings, and all orders, each with the event that wrote it last: shard, sequence, row."""
    return {name: set(connection.execute(query).fetchall()) for name, query in _ROWS.items()}


def before(rows: set[Row], ends: dict[int, int]) -> set[Row]:
    """Those that an earlier event than these wrote last."""
    return {row for row in rows if row[1] < ends[row[0]]}


def order_ids(connection: psycopg.Connection[Any]) -> set[str]:
    """All orders."""
    return {name for (name,) in connection.execute("SELECT id::text FROM orders")}


def fundings(connection: psycopg.Connection[Any]) -> dict[str, Json]:
    """Deposits and withdrawals by reference."""
    rows = connection.execute("SELECT reference, row_to_json(f) FROM funding AS f").fetchall()
    return dict(rows)


_ROWS: Final = {
    "trades": "SELECT shard, sequence, row_to_json(t)::text FROM trades AS t JOIN symbols AS s ON s.id = symbol_id",
    "orders": "SELECT shard, sequence, row_to_json(o)::text FROM orders AS o JOIN symbols AS s ON s.id = symbol_id",
    "postings": "SELECT shard, sequence, row_to_json(p)::text FROM postings AS p "
    "JOIN trades AS t ON t.id = transaction_id JOIN symbols AS s ON s.id = symbol_id",
}
