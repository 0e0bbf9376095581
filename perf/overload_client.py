"""An open loop over HTTP: orders that are due whether or not the ones before were answered, for ``perf.overload``.

Each order goes out at its own time on a connection that is free, or on a new one, up to ``connections``; a latency is
from the time when it was due. A connection is kept after a refusal. What is not answered within ``timeout_s`` is a
time-out; what found no connection for so long is not sent. ``python -m perf.overload_client '{"port": …, "token": …,
"rate_per_s": …, "seconds": …, "connections": …, "address": "127.0.0.1", "method": …, "path": …, "body": …}'`` ends by
itself with one JSON object.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time
from collections import Counter, deque
from typing import Any, Final

from perf.figures import percentile_ms

TIMEOUT_S: Final = 10.0
LEAD_S: Final = 1.0
"""What is due in the first second is sent, answered and not measured: a queue begins with a burst."""
_CODE: Final = re.compile(rb'"code":"([A-Z_]+)"')
_LENGTH: Final = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Connection:
    """One connection and the order on its way."""

    def __init__(self, port: int, address: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 30, source_address=(address, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.due_s = self.sent_s = 0.0
        self.received = b""

    def answer(self) -> tuple[int, str, bool] | None:
        """Give status, error code and whether there is a ``Retry-After``, once the answer is whole."""
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self.received[:end]
        length = _LENGTH.search(head)
        if len(self.received) < end + 4 + (int(length[1]) if length else 0):
            return None
        code = _CODE.search(self.received, end)
        status = int(head.split(b" ", 2)[1])
        self.received = b""
        return status, code[1].decode() if code and status >= 400 else "", b"retry-after:" in head.lower()


class Loop:
    """All connections of one client."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        self._wanted = wanted
        self._timeout_s: float = wanted.get("timeout_s", TIMEOUT_S)
        self._selector = selectors.DefaultSelector()
        self._free: list[Connection] = []
        self._waiting: deque[float] = deque()
        self._busy: dict[Connection, None] = {}
        self._answers: Counter[str] = Counter()
        self._latencies_s: dict[str, list[float]] = {"answered": [], "refused": []}
        self._without_retry_after = 0
        body = json.dumps(wanted["body"]) if wanted["body"] else ""
        self._request = (
            f"{wanted['method']} {wanted['path']} HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {wanted['token']}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    def run(self) -> dict[str, Any]:
        """Send for so long, then hear out what is on its way."""
        rate_per_s, seconds = self._wanted["rate_per_s"], self._wanted["seconds"]
        self._began_s = began_s = time.perf_counter()
        sent, count = 0, int(rate_per_s * seconds)
        while sent < count or self._busy or self._waiting:
            now_s = time.perf_counter()
            while sent < count and began_s + sent / rate_per_s <= now_s:
                self._waiting.append(began_s + sent / rate_per_s)
                sent += 1
            while self._waiting and (self._free or len(self._busy) < self._wanted["connections"]):
                self._send(self._waiting.popleft())
            next_s = began_s + sent / rate_per_s if sent < count else now_s + 0.1
            for key, _ in self._selector.select(min(max(next_s - now_s, 0.0), 0.1)):
                self._receive(key.data)
            self._expire()
        return self._summary(seconds - LEAD_S)

    def _send(self, due_s: float) -> None:
        if self._free:
            connection = self._free.pop()
        else:
            connection = Connection(self._wanted["port"], self._wanted["address"])
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.due_s, connection.sent_s = due_s, time.perf_counter()
        self._busy[connection] = None
        connection.socket.send(self._request)

    def _receive(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(65_536)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._end(connection, "closed")
            return
        connection.received += data
        answer = connection.answer()
        if answer is None:
            return
        del self._busy[connection]
        self._free.append(connection)
        if connection.due_s - self._began_s < LEAD_S:
            return
        status, code, has_retry_after = answer
        self._answers[f"{status} {code}".strip()] += 1
        if status >= 500 and not has_retry_after:
            self._without_retry_after += 1
        kind = "answered" if 200 <= status < 300 else "refused"
        self._latencies_s[kind].append(time.perf_counter() - connection.due_s)

    def _expire(self) -> None:
        """Give up those that wait for too long; both are in the order in which they were sent or due."""
        now_s = time.perf_counter()
        while self._waiting and now_s - self._waiting[0] > self._timeout_s:
            self._waiting.popleft()
            self._answers["not sent"] += 1
        while self._busy and now_s - (oldest := next(iter(self._busy))).sent_s > self._timeout_s:
            self._end(oldest, "timed out")

    def _end(self, connection: Connection, why: str) -> None:
        self._answers[why] += 1
        self._selector.unregister(connection.socket)
        connection.socket.close()
        if connection in self._busy:
            del self._busy[connection]
        else:
            self._free.remove(connection)

    def _summary(self, measured_s: float) -> dict[str, Any]:
        figures: dict[str, Any] = {
            "offered_per_s": self._wanted["rate_per_s"],
            "answers": dict(self._answers),
            "without_retry_after": self._without_retry_after,
            "connections": len(self._free),
        }
        return figures | rates(self._latencies_s, measured_s)


def rates(latencies_s: dict[str, list[float]], measured_s: float) -> dict[str, float | None]:
    """Give how many there were of each kind in a second, and percentiles; None where there were none."""
    figures: dict[str, float | None] = {}
    for kind, latencies in latencies_s.items():
        ordered = sorted(latencies)
        figures[f"{kind}_per_s"] = round(len(ordered) / measured_s, 1)
        for percent in (50, 99):
            figures[f"{kind}_p{percent}_ms"] = percentile_ms(ordered, percent) if ordered else None
    return figures


if __name__ == "__main__":
    print(json.dumps(Loop(json.loads(sys.argv[1])).run()))
