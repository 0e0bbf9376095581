"""The soak's traders over HTTP: scripts of calls at a steady rate, each on a connection that is kept.

A trader is two users who go through a round of twenty calls: orders of every kind, repeats, changes, cancels, reads,
and two calls that must be refused. Each call has an answer that is expected. Any other is *unexpected* and fails the
soak, but for 503, of which a few in ten thousand are forgiven: whoever is told so comes again. What a round places it
also takes away, so the book stays as it is, and its two trades cancel out but for the fee.

``python -m perf.soak_rest '{"port": …, "tokens": [[maker, taker], …], "rate_per_s": …}'`` writes a line of JSON per
interval, and ends when its input ends. A latency is from the time when the call was due, so waiting counts.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import trio

SYMBOL: Final = "ETH/USDT"
INTERVAL_S: Final = 5.0
UNEXPECTED_MAX: Final = 20
"""Unexpected answers that are told in full; all are counted."""
GONE_PAUSE_S: Final = 0.2
BEHIND_S_MAX: Final = 1.0
"""Calls that are later than this are left out, and counted: what a stopped machine owes is not caught up with."""


@dataclass
class Tally:
    """What happened since the last line. ``latencies_ms``: by method, whole milliseconds."""

    counts: Counter[str] = field(default_factory=Counter)
    latencies_ms: dict[str, Counter[int]] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)

    def take(self, method: str, latency_s: float) -> None:
        """Count a call that was answered."""
        self.counts[method] += 1
        self.latencies_ms.setdefault(method, Counter())[round(latency_s * 1000)] += 1

    def object(self, what: str) -> None:
        """Count what must not be."""
        self.counts["unexpected"] += 1
        if len(self.unexpected) < UNEXPECTED_MAX:
            self.unexpected.append(what)

    def tell(self) -> None:
        """Write a line, and begin anew."""
        print(
            json.dumps({"counts": self.counts, "latencies_ms": self.latencies_ms, "unexpected": self.unexpected}),
            flush=True,
        )
        self.counts, self.latencies_ms, self.unexpected = Counter(), {}, []


class Pace:
    """When calls are due: one after the other, whoever makes them."""

    def __init__(self, rate_per_s: float, tally: Tally) -> None:
        self._interval_s = 1 / rate_per_s
        self._tally = tally
        self._next_s = time.perf_counter()

    async def wait(self) -> float:
        """Wait for the next call's time; returns it."""
        behind = int((time.perf_counter() - self._next_s - BEHIND_S_MAX) / self._interval_s)
        if behind > 0:
            self._next_s += behind * self._interval_s
            self._tally.counts["left_out"] += behind
        due_s = self._next_s
        self._next_s += self._interval_s
        await trio.sleep(max(due_s - time.perf_counter(), 0))
        return due_s


class Connection:
    """Calls one after the other on one connection, which is made anew when the server closes it."""

    def __init__(self, port: int, pace: Pace, tally: Tally) -> None:
        self._port = port
        self._pace = pace
        self._tally = tally
        self._stream: trio.SocketStream | None = None

    async def call(self, method: str, path: str, token: str, body: Any = None, expected: int = 200) -> Any:
        """Make a call when it is due; returns its data, or None when the answer was another than expected."""
        due_s = await self._pace.wait()
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        try:
            if self._stream is None:
                self._stream = await trio.open_tcp_stream("127.0.0.1", self._port)
            await self._stream.send_all(head.encode() + content)
            status, answer = await self._read()
        except (OSError, trio.BrokenResourceError, EOFError) as error:
            self._tally.object(f"{method} {path}: {error!r}")
            await self.close()
            await trio.sleep(GONE_PAUSE_S)
            return None
        self._tally.take(method, time.perf_counter() - due_s)
        self._tally.counts[f"status_{status}"] += 1
        if status == 503:
            # A page whose writer was interrupted, a history that is behind: whoever asks is told to come again.
            self._tally.counts["busy"] += 1
            return None
        if status != expected:
            self._tally.object(f"{method} {path}: {status} {answer.get('error')}")
            return None
        return answer.get("data")

    async def close(self) -> None:
        """Close it, if it is open."""
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)
            self._stream = None

    async def _read(self) -> tuple[int, dict[str, Any]]:
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += await self._receive()
        head = bytes(received[:end]).lower()
        lines = (line.partition(b":") for line in head.split(b"\r\n"))
        length = next((int(value) for name, _, value in lines if name == b"content-length"), 0)
        body = received[end + 4 :]
        while len(body) < length:
            body += await self._receive()
        return int(head.split(b" ", 2)[1]), json.loads(body) if body else {}

    async def _receive(self) -> bytes:
        assert self._stream is not None
        received = bytes(await self._stream.receive_some(65_536))
        if not received:
            raise EOFError("the server closed the connection")
        return received


class Trader:
    """Two users and their rounds."""

    def __init__(self, connection: Connection, tokens: tuple[str, str], name: str, tally: Tally) -> None:
        self._connection = connection
        self._tokens = tokens
        self._name = name
        self._tally = tally
        self._rounds = 0

    async def trade(self) -> None:
        """Go round until cancelled."""
        while True:
            # They take turns, so that neither runs out of anything.
            maker, taker = self._tokens if self._rounds % 2 == 0 else self._tokens[::-1]
            await self._round(maker, taker, f"{self._name}-{self._rounds}-{time.time_ns() % 10**9}")
            self._rounds += 1

    async def _round(self, maker: str, taker: str, tag: str) -> None:
        call = self._connection.call
        resting = _limit("buy", "0.05", "2000.00") | {"client_order_id": tag}
        placed = await self._place(maker, resting)
        again = await call("POST", "/orders", maker, resting)
        if placed and again and placed["order"]["id"] != again["order"]["id"]:
            self._tally.object(f"a repeat of {tag} was another order")
        await call("GET", f"/orders/by-client-id/{tag}", maker)
        if placed:
            order_id = placed["order"]["id"]
            await call("PATCH", f"/orders/{order_id}", maker, {"quantity": "0.04"})
            await call("GET", f"/orders/{order_id}", maker)
        await self._place(maker, _limit("sell", "0.01", "3000.00"))
        await self._place(taker, _limit("buy", "0.01", "3000.00") | {"time_in_force": "ioc"})
        await call("GET", "/orderbook/ETH-USDT?depth=50", taker)
        stop = await self._place(taker, _stop("sell", "0.01", "1000.00"))
        await call("GET", "/orders?limit=50", maker)
        if stop:
            await call("DELETE", f"/orders/{stop['order']['id']}", taker)
            await call("DELETE", f"/orders/{stop['order']['id']}", taker, expected=409)
        await call("POST", "/orders/batch", maker, {"orders": [_limit("buy", "0.05", "1999.00")] * 3})
        self._tally.counts["orders"] += 3
        await call("POST", "/orders", taker, _limit("buy", "0.01", "1.001"), expected=400)
        await call("GET", "/balances", taker)
        await call("GET", "/trades?symbol=ETH/USDT&scope=mine&limit=20", taker)
        await call("GET", "/markets/ETH-USDT/ticker", taker)
        await call("GET", "/candles/ETH-USDT?tf=1m&limit=50", taker)
        await call("GET", "/ledger?limit=50", maker)
        await call("DELETE", "/orders?symbol=ETH/USDT", maker)

    async def _place(self, token: str, order: dict[str, Any]) -> Any:
        placed = await self._connection.call("POST", "/orders", token, order, expected=201)
        self._tally.counts["orders"] += placed is not None
        self._tally.counts["trades"] += len(placed["trades"]) if placed else 0
        return placed


def _limit(side: str, quantity: str, price: str) -> dict[str, Any]:
    return {"symbol": SYMBOL, "side": side, "type": "limit", "quantity": quantity, "price": price}


def _stop(side: str, quantity: str, stop_price: str) -> dict[str, Any]:
    return {"symbol": SYMBOL, "side": side, "type": "stop", "quantity": quantity, "stop_price": stop_price}


@asynccontextmanager
async def ends_with_input(tally: Tally) -> AsyncIterator[trio.Nursery]:
    """Give a nursery that ends with the input, and tell the tally of each interval until then."""

    async def follow_input() -> None:
        async with trio.lowlevel.FdStream(sys.stdin.fileno()) as lines:
            while await lines.receive_some():
                pass
        nursery.cancel_scope.cancel()

    async def tell() -> None:
        while True:
            await trio.sleep(INTERVAL_S)
            tally.tell()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow_input)
        nursery.start_soon(tell)
        yield nursery
    tally.tell()


async def run(wanted: dict[str, Any]) -> None:
    """Trade until the input ends."""
    tally = Tally()
    pace = Pace(wanted["rate_per_s"], tally)
    async with ends_with_input(tally) as nursery:
        for number, tokens in enumerate(wanted["tokens"]):
            trader = Trader(Connection(wanted["port"], pace, tally), tuple(tokens), f"soak-{number}", tally)
            nursery.start_soon(trader.trade)


if __name__ == "__main__":
    trio.run(run, json.loads(sys.argv[1]))
