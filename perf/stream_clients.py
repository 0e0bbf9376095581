"""Many WebSocket clients in one process, for ``perf.streams``: raw sockets and one selector, each message parsed.

What a client library costs is not what is measured. ``python -m perf.stream_clients '{"port": …, "count": …,
"subscribe": {…}, "stalled": 0}'`` says ``ready`` when every client has its acknowledgement, forgets what it has counted
at each line ``begin``, and ends with one JSON object when its input ends. A latency is from the time in the message,
which is that of the command at risk, to the end of its parsing; times in messages are whole milliseconds.
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import socket
import sys
import time
from collections import Counter
from typing import Any, Final

import msgspec

RECEIVE_BYTES: Final = 1 << 18
HANDSHAKE_TIMEOUT_S: Final = 30


class Told(msgspec.Struct):
    """What is read of a message; the rest of it is parsed and dropped."""

    type: str
    timestamp: str = ""
    sequence: int = 0


_decode: Final = msgspec.json.Decoder(Told).decode


class Client:
    """One connection; ``counts`` and ``latencies_ms`` are shared by all."""

    def __init__(self, port: int, path: str, counts: dict[str, int], latencies_ms: list[int]) -> None:
        self.counts = counts
        self.latencies_ms = latencies_ms
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=HANDSHAKE_TIMEOUT_S)
        self._rest = b""
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            piece = self.socket.recv(4096)
            if not piece:
                raise ConnectionError("the server closed the connection during the handshake")
            head += piece
        if b" 101 " not in head.partition(b"\r\n")[0]:
            raise ConnectionError(head.decode("latin1"))
        self._rest = head.partition(b"\r\n\r\n")[2]

    def send(self, request: dict[str, Any]) -> None:
        """Send one request; the mask is all zeros, which is one, and leaves the text as it is."""
        self.socket.sendall(masked(json.dumps(request).encode()))

    def receive(self) -> bool:
        """Take what there is; returns False at the end of the connection."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        if not data:
            return False
        self.hear(data)
        return True

    def hear(self, data: bytes) -> None:
        """Take what was read elsewhere."""
        self.parse(self._rest + data)

    def parse(self, data: bytes) -> None:
        """Parse whole frames and keep the rest."""
        at, end = 0, len(data)
        while end - at >= 2:
            size, body = data[at + 1], at + 2
            if size == 126:
                size, body = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, body = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if body > end or end - body < size:
                break
            self.take(data[at] & 15, data[body : body + size])
            at = body + size
        self._rest = data[at:]

    def take(self, opcode: int, payload: bytes) -> None:
        """Count a message, answer a ping."""
        if opcode == 9:
            self.socket.send(bytes((0x8A, 0x80 | len(payload))) + bytes(4) + payload)
        elif opcode == 8:
            code = int.from_bytes(payload[:2], "big")
            self.counts[f"closed_{code}"] = self.counts.get(f"closed_{code}", 0) + 1
        elif opcode == 1:
            told = _decode(payload)
            self.counts[told.type] = self.counts.get(told.type, 0) + 1
            if told.timestamp and told.type not in _ANSWERS:
                text = told.timestamp
                self.latencies_ms.append(
                    (int(time.time() * 1000) - (int(text[17:19]) * 1000 + int(text[20:23]))) % 60_000
                )


_ANSWERS: Final = frozenset({"ack", "error", "orderbook_snapshot", "balances"})


def masked(payload: bytes) -> bytes:
    """Make a client's text frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, 0x80 | size)) + bytes(4) + payload
    return b"\x81\xfe" + size.to_bytes(2, "big") + bytes(4) + payload


def main() -> int:
    """Connect, subscribe, count until the input ends."""
    wanted = json.loads(sys.argv[1])
    counts: dict[str, int] = {}
    latencies_ms: list[int] = []
    clients = [Client(wanted["port"], wanted["path"], counts, latencies_ms) for _ in range(wanted["count"])]
    selector = selectors.DefaultSelector()
    for number, client in enumerate(clients):
        if wanted["subscribe"] is not None:
            client.send({"op": "subscribe", "id": 1, **wanted["subscribe"]})
        client.socket.setblocking(False)
        if number >= wanted.get("stalled", 0):
            selector.register(client.socket, selectors.EVENT_READ, client)
    os.set_blocking(0, False)
    selector.register(0, selectors.EVENT_READ, None)
    listening, told_ready = len(clients) - wanted.get("stalled", 0), False
    while True:
        for key, _ in selector.select(1.0):
            client = key.data
            if client is None:
                line = os.read(0, 4096)
                if not line:
                    report(counts, latencies_ms)
                    return 0
                counts.clear()
                latencies_ms.clear()
            elif not client.receive():
                selector.unregister(client.socket)
                counts["ended"] = counts.get("ended", 0) + 1
        acknowledged = counts.get("ack", 0) if wanted["subscribe"] is not None else listening
        if not told_ready and acknowledged >= listening:
            told_ready = True
            print("ready", flush=True)


def report(counts: dict[str, int], latencies_ms: list[int]) -> None:
    """Print what was counted."""
    print(json.dumps({"counts": counts, "latencies_ms": Counter(latencies_ms)}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
