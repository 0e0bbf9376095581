"""Makes a sample of what one version of the program leaves on the disk: see README.md beside it.

It is given the folder of a checkout and knows that program only by its command line, HTTP and PostgreSQL's programs, so
that it runs with any version. It refuses to know formats: that is what the sample is for.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

import httpx2
import psycopg

from tradeengine.storage.embedded import postgres_programs, running_embedded

SETTINGS: Final = {
    "TRADEENGINE_LIMITS_ACCOUNTS_MAX": "4096",
    "TRADEENGINE_LIMITS_CLIENT_IDS_MAX": "65536",
    "TRADEENGINE_LIMITS_ORDERS_MAX": "4096",
    "TRADEENGINE_LIMITS_LEVELS_MAX": "256",
    "TRADEENGINE_LIMITS_SYMBOLS_MAX": "16",
    "TRADEENGINE_RINGS_EVENTS_SLOTS": "65536",
    "TRADEENGINE_SETTLEMENT_BACKLOG_EVENTS_MAX": "32768",
    "TRADEENGINE_JOURNAL_SEGMENT_BYTES": "65536",
    "TRADEENGINE_KEEPER_PARTITION_MONTHS_AHEAD": "1",
    "TRADEENGINE_KEEPER_PARTITION_DAYS_AHEAD": "1",
}
USERS: Final = ("ann", "bob")
ORDERS: Final = 700


def main(checkout: Path, target: Path) -> None:
    """Trade with the program of a checkout, and pack its journals, snapshots and a dump from the middle."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        program = Program(checkout, data_dir)
        engine, url = program.start()
        for user, asset, amount in (("ann", "USDT", "1000000"), ("ann", "BTC", "50"), ("bob", "USDT", "1000000")):
            program.run("deposit", user, asset, amount)
        clients = {user: program.client(url, user) for user in USERS}
        chance = random.Random(11)
        trade(clients, chance, ORDERS)
        # The database of here with the journals of the end: what has to be brought forward.
        server = running_embedded(data_dir)
        assert server is not None
        dump = subprocess.run(
            [postgres_programs() / "pg_dump", "--format=custom", "--no-owner", f"--dbname={server.dsn}"],
            check=True,
            capture_output=True,
        ).stdout
        trade(clients, chance, ORDERS)
        # In order, so that a snapshot of the end is written; then on, and killed, so that the journal goes beyond it.
        engine.send_signal(signal.SIGINT)
        engine.wait()
        engine, url = program.start()
        clients = {user: program.client(url, user) for user in USERS}
        trade(clients, chance, 100)
        expected = describe(clients, data_dir)
        engine.kill()
        engine.wait()
        pack(data_dir, dump, expected, target)
        engine, _ = program.start()  # takes the database of the killed one over, and ends it
        engine.send_signal(signal.SIGINT)
        engine.wait()


class Program:
    """The command line of a checkout."""

    def __init__(self, checkout: Path, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.environment = {**os.environ, **SETTINGS, "PYTHONPATH": str(checkout / ".import")}

    def run(self, *arguments: str) -> str:
        """Run a command to its end."""
        line = [sys.executable, "-m", "tradeengine.cli.app", *arguments, "--data-dir", str(self.data_dir)]
        return subprocess.run(line, check=True, capture_output=True, text=True, env=self.environment).stdout.strip()

    def start(self) -> tuple[subprocess.Popen[str], str]:
        """Start an engine and wait until it is ready; returns its process and address."""
        line = [sys.executable, "-m", "tradeengine.cli.app", "up", "--port", "0", "--data-dir", str(self.data_dir)]
        engine = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=self.environment)
        assert engine.stdout is not None
        url = ""
        for text in engine.stdout:
            found = re.match(r"listening\s+(\S+)", text)
            url = found[1] if found else url
            if text.startswith("ready"):
                return engine, url
        raise SystemExit("the engine did not start")

    def client(self, url: str, user: str) -> httpx2.Client:
        """Give a client of a user."""
        headers = {"Authorization": f"Bearer {self.run('token', user)}"}
        return httpx2.Client(base_url=f"{url}/api/v1", headers=headers, timeout=20)


def trade(clients: dict[str, httpx2.Client], chance: random.Random, count: int) -> None:
    """Place, amend and cancel orders of every kind."""
    live: list[tuple[str, str]] = []
    for _ in range(count):
        user = chance.choice(USERS)
        price = f"{40000 + chance.randint(-50, 50)}.00"
        side = chance.choice(["buy", "sell"]) if user == "ann" else chance.choice(["buy", "buy", "sell"])
        order: dict[str, Any] = {"symbol": "BTC/USDT", "side": side, "quantity": f"0.{chance.randint(1, 99):02d}"}
        order |= chance.choice(
            [
                *[{"type": "limit", "price": price}] * 6,
                {"type": "limit", "price": price, "time_in_force": "ioc"},
                {"type": "limit", "price": price, "time_in_force": "fok"},
                {"type": "limit", "price": price, "post_only": True},
                {"type": "limit", "price": price, "time_in_force": "gtd", "expires_at": "2100-01-01T00:00:00Z"},
                {"type": "market"},
                {"type": "stop", "stop_price": price},
                {"type": "stop_limit", "stop_price": price, "price": price},
            ]
        )
        answer = clients[user].post("/orders", json=order)
        if answer.status_code == 201 and order["type"] == "limit":
            live.append((user, answer.json()["data"]["order"]["id"]))
        if len(live) > 20 and chance.random() < 0.3:
            owner, order_id = live.pop(chance.randrange(len(live)))
            if chance.random() < 0.5:
                clients[owner].delete(f"/orders/{order_id}")
            else:
                clients[owner].patch(f"/orders/{order_id}", json={"quantity": "0.05"})
    clients["bob"].request("DELETE", "/orders")


def describe(clients: dict[str, httpx2.Client], data_dir: Path) -> dict[str, Any]:
    """Say what there is at the end: balances and live orders as owners see them, and how much of everything."""
    found: dict[str, Any] = {}
    for user, client in clients.items():
        found[user] = {
            "balances": client.get("/balances").json()["data"],
            "orders": client.get("/orders?status=open&limit=1000").json()["data"],
        }
    server = running_embedded(data_dir)
    assert server is not None
    with psycopg.connect(server.dsn) as connection:
        for table in ("orders", "trades", "postings"):
            row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            assert row is not None
            found[table] = row[0]
    return found


def pack(data_dir: Path, dump: bytes, expected: dict[str, Any], target: Path) -> None:
    """Write everything into one archive."""
    with tarfile.open(target, "w:xz") as archive:
        for name in ("journal", "snapshots"):
            archive.add(data_dir / name, name, filter=_nobodys)
        for name, block in (("database.dump", dump), ("expected.json", json.dumps(expected, indent=1).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(block)
            archive.addfile(entry, io.BytesIO(block))


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who made it."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())
