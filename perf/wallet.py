"""How soon a wallet outside knows of a trade, and how soon it has caught up: an engine and the reference service.

Both are started as a user would start them.

- ``calm``: so many trades a second over HTTP; for each, the time from the trade to the wallet's time of the transfer;
- ``return``: the wallet is stopped, so many trades are made, and it is started again: how many transfers a second are
  made from the first to the last of them, and when the last one is settled, counted from the wallet's being ready.

The times of transfers are those that the wallet has in its books, on the same clock.

``python -m perf.wallet [--trades N] [--rate N] [--seconds N]``; its last line is one JSON object.
"""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import numpy as np
import psycopg
import trio
from numpy.typing import NDArray
from perf.engine import (
    Engine,
    arguments_parser,
    filesystem,
    fund_accounts,
    machine,
    private_folder,
    running_engine,
)
from perf.figures import goals_met
from perf.wallet_service import start_service, stop_service

from tradeengine.actors.data_dir import read_secret
from tradeengine.storage.directory import load_directory
from tradeengine.storage.embedded import running_embedded

USERS: Final = 16
PRICE: Final = "50000"
QUANTITY: Final = "0.001"
GOALS: Final = {"drain_per_s": 500.0, "caught_up_s": 10.0, "calm_p99_ms": 100.0}
PATIENCE_S: Final = 120.0
Floats = NDArray[np.float64]


def main() -> int:
    """Run both phases and print what they say."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--trades", type=int, default=1000, help="made while the wallet is away")
    parser.add_argument("--rate", type=float, default=50.0, help="trades a second of the calm phase")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the calm phase")
    arguments = parser.parse_args()
    with private_folder(arguments.dir) as folder:
        figures = measure(folder, arguments.trades, arguments.rate, arguments.seconds)
    print(json.dumps({**figures, "machine": machine(), "goals_met": goals_met(figures, GOALS)}))
    return 0


def measure(folder: Path, trades: int, rate: float, seconds: float) -> dict[str, float]:
    """Start both programs and run the phases."""
    service = Service(folder / "wallet-data")
    with ExitStack() as stack:
        stack.enter_context(service.running())
        settings = {"WALLET_KIND": "http", "WALLET_URL": service.url, "WALLET_SECRET": service.secret}
        engine = stack.enter_context(running_engine(folder, {**settings, "REQUESTS_USER_PER_S": 1_000_000}))
        print(f"machine    {machine()}")
        print(f"topology   1 shard, 1 front, 1 wallet, two PostgreSQL on {filesystem(folder)}; 10 transfers at once")
        fund(engine, service)
        trio.run(trade, engine, 50, None)
        wait_drained(engine)
        calm = trio.run(trade, engine, int(rate * seconds), rate)
        wait_drained(engine)
        waits_ms = service.latencies_ms(engine, calm)
        p50, p99 = (float(np.percentile(waits_ms, q)) for q in (50, 99))
        print(f"calm       {rate:.0f} trades/s   trade to transfer p50 {p50:.1f} ms   p99 {p99:.1f}")
        service.stop()
        missed = trio.run(trade, engine, trades, None)
        wait_settled(engine, len(missed))
        service.start()
        ready_s = time.time()
        wait_drained(engine)
        caught_up_s = time.time() - ready_s
        made_s = np.sort(service.made_s(missed))
        drain_per_s = (len(made_s) - 1) / float(made_s[-1] - made_s[0])
        print(
            f"return     {len(missed)} transfers   {drain_per_s:.0f}/s   first after {made_s[0] - ready_s:.2f} s   "
            f"all settled after {caught_up_s:.2f} s"
        )
    return {"calm_p50_ms": p50, "calm_p99_ms": p99, "drain_per_s": drain_per_s, "caught_up_s": caught_up_s}


class Service:
    """The wallet service, with a database of its own that outlives it."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def secret(self) -> str:
        """What it wants to be shown."""
        return read_secret(self.data_dir / "wallet")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it; in between it may be stopped and started."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        self.process, _ = start_service(self.data_dir, self.port)

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self.process is not None:
            stop_service(self.process)
            self.process = None

    def made_s(self, ids: list[str]) -> Floats:
        """When transfers were made, seconds since 1970."""
        server = running_embedded(self.data_dir / "wallet")
        assert server is not None
        with psycopg.connect(server.dsn) as connection:
            rows = connection.execute(
                "SELECT id, extract(epoch FROM made_at)::float8 FROM wallet.entries "
                "WHERE kind = 'transfer' AND id = ANY (%s)",
                (ids,),
            ).fetchall()
        made: dict[str, float] = dict(rows)
        assert len(made) == len(ids)
        return np.array([made[id_] for id_ in ids])

    def latencies_ms(self, engine: Engine, ids: list[str]) -> Floats:
        """From each trade to its transfer."""
        with psycopg.connect(database_of(engine)) as connection:
            rows = connection.execute(
                "SELECT id, extract(epoch FROM executed_at)::float8 FROM trades WHERE id = ANY (%s)",
                ([int(id_) for id_ in ids],),
            ).fetchall()
        executed: dict[int, float] = dict(rows)
        waits_s: Floats = self.made_s(ids) - np.array([executed[int(id_)] for id_ in ids])
        return waits_s * 1000


def fund(engine: Engine, service: Service) -> None:
    """Give every user more than they will spend, at the wallet and from there in the engine."""
    names = [f"user-{number}" for number in range(USERS)]
    headers = {"Authorization": f"Bearer {service.secret}"}
    with httpx2.Client(base_url=service.url, headers=headers, timeout=30) as client:
        for name, asset in itertools.product(names, ("USDT", "BTC")):
            body = {"id": f"{name} {asset}", "user": name, "asset": asset, "amount": "1000000"}
            client.post("/v1/deposits", json=body).raise_for_status()
    with psycopg.connect(database_of(engine), autocommit=True) as connection:
        assets = load_directory(connection).assets.values()
        amounts = {asset: asset.parse("1000000") for asset in assets if asset.name in {"USDT", "BTC"}}
        fund_accounts(connection, names, amounts, 4096)


async def trade(engine: Engine, count: int, rate: float | None) -> list[str]:
    """Make trades between pairs of users, at a rate or as fast as it goes; returns their ids."""
    numbers = iter(range(count))
    ids: list[str] = []
    began_s = trio.current_time()

    async def work(pair: int) -> None:
        headers = [{"Authorization": f"Bearer {engine.token(f'user-{2 * pair + side}')}"} for side in range(2)]
        order = {"symbol": "BTC/USDT", "type": "limit", "quantity": QUANTITY, "price": PRICE}
        async with httpx2.AsyncClient(base_url=f"{engine.url}/api/v1", timeout=30, trust_env=False) as client:
            for number in numbers:
                if rate is not None:
                    await trio.sleep_until(began_s + number / rate)
                for side, header in zip(("sell", "buy"), headers, strict=True):
                    answer = await client.post("/orders", json={**order, "side": side}, headers=header)
                    answer.raise_for_status()
                    ids.extend(each["id"] for each in answer.json()["data"]["trades"])

    async with trio.open_nursery() as nursery:
        for pair in range(USERS // 2):
            nursery.start_soon(work, pair)
    return ids


def wait_settled(engine: Engine, transfers: int) -> None:
    """Wait until so many transfers are in the outbox."""
    _wait(engine, lambda pending: pending == transfers)


def wait_drained(engine: Engine) -> None:
    """Wait until the outbox is empty and everything is settled."""
    _wait(engine, lambda pending: pending == 0)


def _wait(engine: Engine, condition: Any) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    with psycopg.connect(database_of(engine), autocommit=True) as connection:
        while True:
            row = connection.execute("SELECT count(*) FROM wallet_transfers").fetchone()
            assert row is not None
            if condition(row[0]) and not any(
                lag for name, lag in engine.metrics().items() if "settlement_backlog_events" in name
            ):
                return
            assert time.monotonic() < deadline_s, f"{row[0]} transfers wait"
            time.sleep(0.05)


def database_of(engine: Engine) -> str:
    """Give the connection string of the engine's embedded database."""
    server = running_embedded(engine.data_dir)
    assert server is not None
    return server.dsn


if __name__ == "__main__":
    sys.exit(main())
