"""The soak's WebSocket clients, in one process: most listen, some are slow, some come and go.

``listening`` clients subscribe to books, trades, tickers, candles, or to their own orders and balances, and check that
every change of a book names the one before. ``slow`` ones read a little each second: books are merged for them, and the
server may close them (4008), which is as it should be; they come again. ``passing`` ones stay for some seconds, and
every other one leaves without a word.

``python -m perf.soak_streams '{"port": …, "listening": 80, "slow": 10, "passing": 10, "symbols": […], "tokens": […]}'``
writes a line of JSON per interval as ``perf.soak_rest`` does, and ends when its input ends.
"""

from __future__ import annotations

import json
import os
import selectors
import sys
import time
from contextlib import suppress
from typing import Any, Final

import msgspec
from perf.soak_rest import INTERVAL_S, Tally
from perf.stream_clients import Client

SLOW_BYTES: Final = 2048
"""What a slow client reads each second."""
STAY_S: Final = 5.0
_GOODBYE: Final = b"\x88\x82\0\0\0\0\x03\xe8"
"""A close frame with code 1000, masked with zeros."""
_CLOSES: Final = frozenset({"closed_4008"})
"""With which the server may close a slow client."""


class Told(msgspec.Struct):
    """What is read of a message."""

    type: str
    timestamp: str = ""
    symbol: str = ""
    sequence: int = 0
    previous_sequence: int | None = None
    code: str | int = ""
    message: str = ""


_decode: Final = msgspec.json.Decoder(Told).decode
_MEASURED: Final = frozenset({"trade_executed", "orderbook_update", "order_update"})


class Listener(Client):
    """A client that checks what it is told."""

    def __init__(self, port: int, kind: str, requests: list[dict[str, Any]], tally: Tally) -> None:
        super().__init__(port, "/ws/stream", {}, [])
        self.kind = kind
        self.since_s = self.read_s = time.monotonic()
        self._tally = tally
        self._books: dict[str, int] = {}
        for request in requests:
            self.send(request)
        self.socket.setblocking(False)

    def take(self, opcode: int, payload: bytes) -> None:
        """Count a message, answer a ping, and check what can be checked."""
        if opcode == 9:
            # It may be gone already: what came before that is read all the same.
            with suppress(OSError):
                self.socket.send(bytes((0x8A, 0x80 | len(payload))) + bytes(4) + payload)
        elif opcode == 8:
            code = f"closed_{int.from_bytes(payload[:2], 'big')}"
            self._tally.counts[code] += 1
            if self.kind != "slow" or code not in _CLOSES:
                self._tally.object(f"a {self.kind} client was {code}: {payload[2:].decode(errors='replace')}")
        elif opcode == 1:
            self._hear(_decode(payload))

    def _hear(self, told: Told) -> None:
        self._tally.counts[told.type] += 1
        if told.type == "error":
            self._tally.object(f"a {self.kind} client was refused: {told.code} {told.message}")
        elif told.type == "orderbook_update":
            if self._books.get(told.symbol) != told.previous_sequence:
                self._tally.object(f"a change of {told.symbol} does not follow the one before")
            self._books[told.symbol] = told.sequence
        elif told.type == "orderbook_snapshot":
            self._books[told.symbol] = told.sequence
        if told.type in _MEASURED and self.kind == "listening":
            sent_ms = int(told.timestamp[17:19]) * 1000 + int(told.timestamp[20:23])
            late_ms = (int(time.time() * 1000) - sent_ms) % 60_000
            self._tally.take("stream", (late_ms if late_ms < 59_000 else 0) / 1000)


class Crowd:
    """All clients; whoever has gone comes again."""

    def __init__(self, wanted: dict[str, Any], tally: Tally) -> None:
        self._wanted = wanted
        self._tally = tally
        self._selector = selectors.DefaultSelector()
        self._slow: list[Listener] = []
        self._passing: list[Listener] = []
        self._came = 0
        for kind in ("listening", "slow", "passing"):
            for number in range(wanted[kind]):
                self._join(kind, number)

    def run(self) -> None:
        """Listen until the input ends."""
        os.set_blocking(0, False)
        self._selector.register(0, selectors.EVENT_READ, None)
        next_s = time.monotonic() + INTERVAL_S
        while True:
            for key, _ in self._selector.select(0.2):
                if key.data is None:
                    if not os.read(0, 4096):
                        return
                else:
                    self._read(key.data)
            self._look_after(time.monotonic())
            if time.monotonic() >= next_s:
                next_s += INTERVAL_S
                self._tally.tell()

    def _read(self, client: Listener) -> None:
        if client.receive():
            return
        self._selector.unregister(client.socket)
        client.socket.close()
        self._tally.counts["ended"] += 1
        if client.kind == "listening":
            self._tally.object("a listening client's connection ended")
            self._join("listening", self._came)

    def _look_after(self, now_s: float) -> None:
        """Let slow ones read a little, and passing ones go and come."""
        for client in [client for client in self._slow if now_s - client.read_s >= 1]:
            client.read_s = now_s
            if not self._read_little(client):
                client.socket.close()
                self._slow.remove(client)
                self._join("slow", self._came)
        for client in [client for client in self._passing if now_s - client.since_s >= STAY_S]:
            self._passing.remove(client)
            if client.socket.fileno() >= 0:
                self._selector.unregister(client.socket)
                if self._came % 2:
                    with suppress(OSError):
                        client.socket.send(_GOODBYE)
                client.socket.close()
            self._join("passing", self._came)

    def _read_little(self, client: Listener) -> bool:
        try:
            data = client.socket.recv(SLOW_BYTES)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        if data:
            client.hear(data)
        return bool(data)

    def _join(self, kind: str, number: int) -> None:
        self._came += 1
        client = Listener(self._wanted["port"], kind, self._requests(kind, number), self._tally)
        if kind == "slow":
            self._slow.append(client)
            return
        if kind == "passing":
            # Not all of them at the same moment.
            client.since_s -= STAY_S * (number % 10) / 10
            self._passing.append(client)
        self._selector.register(client.socket, selectors.EVENT_READ, client)

    def _requests(self, kind: str, number: int) -> list[dict[str, Any]]:
        symbols, tokens = self._wanted["symbols"], self._wanted["tokens"]
        symbol = symbols[number % len(symbols)]
        if kind != "listening" or number % 4 == 0:
            channels = [f"book:{symbol}"]
        elif number % 4 == 1:
            channels = [f"trades:{symbol}", f"ticker:{symbol}", f"candles:1m:{symbol}"]
        elif number % 4 == 2:
            channels = [f"book:{name}" for name in symbols] + [f"trades:{name}" for name in symbols]
        else:
            channels = ["orders", "balances", f"status:{symbol}"]
        subscribe = {"op": "subscribe", "id": "s", "channels": channels}
        if "orders" not in channels:
            return [subscribe]
        return [{"op": "auth", "id": "a", "access_token": tokens[number % len(tokens)]}, subscribe]


def main() -> int:
    """Listen until the input ends."""
    tally = Tally()
    Crowd(json.loads(sys.argv[1]), tally).run()
    tally.tell()
    return 0


if __name__ == "__main__":
    sys.exit(main())
