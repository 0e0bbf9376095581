"""What HTTP costs: orders per second through one front, and how long single calls take at a steady rate.

An engine is started as a user would start it, in a directory of its own; the load comes from another process over raw
keep-alive connections, so that the generator's HTTP library is not what is measured. Five phases:

- ``post_burst``: so many connections, each sending its next order when the last was answered: orders per second;
- ``post_signed_burst``: the same, but every order signed with an API key instead of carrying a token; the two take
  turns, because what else the machine does and how full tables are changes both; the ratio is the median of theirs;
- ``post_paced``: orders at a steady rate, each measured from the moment when it was due, so that waiting counts;
- ``get_orders``, ``get_orderbook``: the same with reads, after the orders above have filled the tables.

Of the orders, two in five meet a resting one and trade. ``python -m perf.rest [--seconds N] [--fronts N]``; its last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import hmac
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx2
import trio
from perf.engine import PROGRAM, arguments_parser, filesystem, machine, private_folder
from perf.figures import goals_met, percentile_ms

from tradeengine.actors.data_dir import read_secret
from tradeengine.web.auth import issue_token

TRADERS: Final = ("rest-maker", "rest-taker")
SYMBOL: Final = "BTC/USDT"
GOALS: Final = {
    "post_per_s": 500.0,
    "post_p99_ms": 30.0,
    "get_orders_p99_ms": 10.0,
    "get_orderbook_p99_ms": 20.0,
}
POST_RATE_PER_S: Final = 100
READ_RATE_PER_S: Final = 50
READY_TIMEOUT_S: Final = 60
TIMER_SLACK_S: Final = 0.002
TURNS: Final = 5
PERCENTILES: Final = {"50": 50.0, "90": 90.0, "99": 99.0, "999": 99.9}


@dataclass(frozen=True)
class Phase:
    """A kind of load. ``rate_per_s`` 0: as fast as answers come."""

    name: str
    seconds: float
    connections: int
    rate_per_s: int = 0


def main() -> int:
    """Run all phases against an engine, or (as ``--load``) one phase against a port."""
    arguments = parse_arguments()
    if arguments.load:
        print(json.dumps(trio.run(run_load, json.loads(arguments.load))))
        return 0
    with private_folder(arguments.dir) as folder, Engine(folder / "data", arguments.fronts) as engine:
        figures = measure(engine, arguments.seconds)
    figures |= {"machine": machine(), "fronts": arguments.fronts, "goals_met": goals_met(figures, GOALS)}
    print(json.dumps(figures))
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each phase")
    parser.add_argument("--fronts", type=int, default=1)
    parser.add_argument("--load", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(engine: Engine, seconds: float) -> dict[str, Any]:
    """Run the phases; print each, return the figures."""
    print(f"machine    {machine()}")
    disk = filesystem(engine.data_dir)
    print(f"topology   1 shard, {engine.fronts} front(s), embedded PostgreSQL, fdatasync on {disk}; 1 load process")
    warm_up = [engine.load(Phase(name, 2, 4))["count"] for name in ("post", "get_orders", "get_orderbook")]
    print(f"warm-up    {warm_up[0]} orders, {warm_up[1] + warm_up[2]} reads")
    turns = [
        (engine.load(Phase("post", seconds / TURNS, 16)), engine.load(Phase("post_signed", seconds / TURNS, 16)))
        for _ in range(TURNS)
    ]
    for plain, signed in turns:
        show("post burst, 16 connections", plain)
        show("the same, signed", signed)
    paced = engine.load(Phase("post", seconds, 16, POST_RATE_PER_S))
    orders = engine.load(Phase("get_orders", seconds, 8, READ_RATE_PER_S))
    book = engine.load(Phase("get_orderbook", seconds, 8, READ_RATE_PER_S))
    show(f"post at {POST_RATE_PER_S}/s", paced)
    show(f"GET /orders at {READ_RATE_PER_S}/s", orders)
    show(f"GET /orderbook at {READ_RATE_PER_S}/s", book)
    return {
        "post_per_s": median(plain["per_s"] for plain, _ in turns),
        "post_burst_p99_ms": median(plain["p99_ms"] for plain, _ in turns),
        "post_signed_per_s": median(signed["per_s"] for _, signed in turns),
        "signed_to_plain": round(median(signed["per_s"] / plain["per_s"] for plain, signed in turns), 3),
        "post_p50_ms": paced["p50_ms"],
        "post_p99_ms": paced["p99_ms"],
        "get_orders_p50_ms": orders["p50_ms"],
        "get_orders_p99_ms": orders["p99_ms"],
        "get_orderbook_p50_ms": book["p50_ms"],
        "get_orderbook_p99_ms": book["p99_ms"],
    }


def show(title: str, result: dict[str, Any]) -> None:
    """Print one phase."""
    print(
        f"{title:28} {result['count']:7} calls {result['per_s']:8.1f}/s   p50 {result['p50_ms']:.2f} ms"
        f"   p90 {result['p90_ms']:.2f}   p99 {result['p99_ms']:.2f}   p99.9 {result['p999_ms']:.2f}"
        f"   max {result['max_ms']:.2f}   other than 2xx: {result['failures']}"
    )


class Engine:
    """An engine that this benchmark started, with two funded traders who have a key each."""

    def __init__(self, data_dir: Path, fronts: int) -> None:
        self.data_dir = data_dir
        self.fronts = fronts
        self.port = 0

    def __enter__(self) -> Engine:
        command = ["up", "--port", "0", "--fronts", str(self.fronts), "--data-dir", str(self.data_dir)]
        self._log = (self.data_dir.parent / "engine.log").open("w")
        self._process = subprocess.Popen(
            [*PROGRAM, *command],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._wait_ready()
        for trader in TRADERS:
            for asset in ("USDT", "BTC"):
                self._run("deposit", trader, asset, "100000000" if asset == "USDT" else "10000")
        secret = read_secret(self.data_dir).encode()
        self._tokens = [issue_token(secret, trader, "user", 3600) for trader in TRADERS]
        self._keys = [self._make_key(token) for token in self._tokens]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)
        self._log.close()

    def load(self, phase: Phase) -> dict[str, Any]:
        """Run one phase of load in a process of its own."""
        order = {
            "port": self.port,
            "tokens": self._tokens,
            "keys": self._keys,
            "name": phase.name,
            "seconds": phase.seconds,
            "connections": phase.connections,
            "rate_per_s": phase.rate_per_s,
        }
        result = subprocess.run(
            [sys.executable, "-m", "perf.rest", "--load", json.dumps(order)], capture_output=True, text=True, check=True
        )
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    def _make_key(self, token: str) -> tuple[str, str]:
        wanted = {"name": "benchmark", "permissions": ["read", "trade"]}
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx2.post(f"http://127.0.0.1:{self.port}/api/v1/api-keys", json=wanted, headers=headers)
        answer.raise_for_status()
        made = answer.json()["data"]
        return made["id"], made["secret"]

    def _wait_ready(self) -> None:
        assert self._process.stdout is not None
        deadline = time.monotonic() + READY_TIMEOUT_S
        for line in self._process.stdout:
            if line.startswith("listening"):
                self.port = int(line.split()[1].rpartition(":")[2])
            if line.startswith("ready"):
                return
            if time.monotonic() > deadline:
                break
        self._process.kill()
        raise SystemExit(f"the engine was not ready:\n{Path(self._log.name).read_text(encoding='utf-8')}")

    def _run(self, *arguments: str) -> None:
        subprocess.run([*PROGRAM, *arguments, "--data-dir", str(self.data_dir)], check=True, stdout=subprocess.DEVNULL)


async def run_load(order: dict[str, Any]) -> dict[str, Any]:
    """Send one phase's requests; returns count, rate and percentiles in milliseconds."""
    load = Load(order)
    started_s = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(order["connections"]):
            nursery.start_soon(load.keep_asking)
    return load.summary(time.perf_counter() - started_s)


class Load:
    """Requests of one phase, over connections that are kept. A paced request that comes late is measured as late."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._port = order["port"]
        self._tokens = order["tokens"]
        self._keys = order["keys"]
        self._name = order["name"]
        self._interval_s = 1 / order["rate_per_s"] if order["rate_per_s"] else 0.0
        self._begin_s = time.perf_counter()
        self._end_s = self._begin_s + order["seconds"]
        self._sent = 0
        self._latencies_s: list[float] = []
        self._failures = 0

    async def keep_asking(self) -> None:
        """Ask over one connection until the time is over."""
        stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        async with stream:
            while True:
                due_s = self._begin_s + self._sent * self._interval_s if self._interval_s else time.perf_counter()
                if due_s >= self._end_s:
                    return
                place = self._sent
                self._sent += 1
                await sleep_until(due_s)
                await stream.send_all(self._request(place))
                status = await read_status(stream)
                self._latencies_s.append(time.perf_counter() - due_s)
                self._failures += not 200 <= status < 300

    def summary(self, elapsed_s: float) -> dict[str, Any]:
        """Summarise what was measured."""
        ordered = sorted(self._latencies_s)

        return {
            "count": len(ordered),
            "failures": self._failures,
            "per_s": round(len(ordered) / elapsed_s, 1),
            **{f"p{name}_ms": percentile_ms(ordered, percent, 3) for name, percent in PERCENTILES.items()},
            "max_ms": percentile_ms(ordered, 100, 3),
        }

    def _request(self, place: int) -> bytes:
        if self._name == "get_orders":
            return self._head("GET", "/api/v1/orders?limit=50", self._bearer(0))
        if self._name == "get_orderbook":
            return self._head("GET", f"/api/v1/orderbook/{SYMBOL}?depth=50", self._bearer(0))
        body = json.dumps(make_order(place)).encode()
        trader = place % 5 in TAKING
        named = self._signed(trader, place, body) if self._name == "post_signed" else self._bearer(trader)
        return self._head("POST", "/api/v1/orders", named, len(body)) + body

    def _head(self, method: str, path: str, named: str, length: int = 0) -> bytes:
        return (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{named}"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        ).encode()

    def _bearer(self, trader: int) -> str:
        return f"Authorization: Bearer {self._tokens[trader]}\r\n"

    def _signed(self, trader: int, place: int, body: bytes) -> str:
        """Sign an order; the window makes the signatures of equal orders of one millisecond differ."""
        key_id, secret = self._keys[trader]
        timestamp_ms, window_ms = time.time_ns() // 1_000_000, 5000 + place % 1000
        content = f"{timestamp_ms}\n{window_ms}\nPOST\n/api/v1/orders\n{sha256(body).hexdigest()}"
        signature = hmac.digest(secret.encode(), content.encode(), "sha256").hex()
        return (
            f"X-API-Key: {key_id}\r\nX-API-Timestamp: {timestamp_ms}\r\nX-API-Window: {window_ms}\r\n"
            f"X-API-Signature: {signature}\r\n"
        )


TAKING: Final = (2, 4)
"""Of five orders in a row the third and the fifth meet the ones before them."""


def make_order(place: int) -> dict[str, str]:
    """Make an order: a bid far below, then twice an offer and the order that takes it."""
    step = place % 5
    if step == 0:
        return _limit("buy", "0.001", f"{45000 + place % 1000}.00")
    return _limit("buy" if step in TAKING else "sell", "0.001", "50000.00")


def _limit(side: str, quantity: str, price: str) -> dict[str, str]:
    return {"symbol": SYMBOL, "side": side, "type": "limit", "quantity": quantity, "price": price}


async def sleep_until(due_s: float) -> None:
    """Sleep until shortly before, then look at the clock: a timer that rings late would count as the engine's time."""
    await trio.sleep(max(due_s - time.perf_counter() - TIMER_SLACK_S, 0))
    while time.perf_counter() < due_s:
        await trio.lowlevel.checkpoint()


async def read_status(stream: trio.SocketStream) -> int:
    """Read one answer to its end; returns its status."""
    received = bytearray()
    while b"\r\n\r\n" not in received:
        received += await _receive(stream)
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    )
    missing = length - len(body)
    while missing > 0:
        missing -= len(await _receive(stream))
    return int(head.split(b" ", 2)[1])


async def _receive(stream: trio.SocketStream) -> bytes:
    received = bytes(await stream.receive_some(65536))
    if not received:
        raise SystemExit("the engine closed a connection")
    return received


if __name__ == "__main__":
    sys.exit(main())
