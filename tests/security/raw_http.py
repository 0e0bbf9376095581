"""A client of HTTP/1.1 that sends the bytes that a test gives it, and reads whatever answers come.

It holds the server to what every answer is: a status line, headers that say how long the body is, and a body in the
envelope. It refuses to know what a right request is.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

WAIT_S: Final = 30.0
LAST_ID: Final = "the-last-one"
LAST: Final = f"GET /api/v1/time HTTP/1.1\r\nHost: x\r\nX-Request-ID: {LAST_ID}\r\nConnection: close\r\n\r\n".encode()
"""Sent behind something odd: whether it is answered says whether the server still knows where requests begin."""


@dataclass(frozen=True)
class Answer:
    """One answer. ``headers``: by lower-case name; ``raw``: the head as it came."""

    status: int
    headers: dict[str, str]
    body: bytes
    raw: bytes

    @property
    def request_id(self) -> str:
        """Name of the request that it answers."""
        return self.headers["x-request-id"]

    @property
    def code(self) -> str:
        """Code of the error in it."""
        return str(self.json["error"]["code"])

    @property
    def json(self) -> Any:
        """Give what the body says."""
        return json.loads(self.body)


class Line:
    """One connection."""

    def __init__(self, url: str, address: str = "127.0.0.1") -> None:
        """Connect. address: where from; any of 127.0.0.0/8 will do."""
        place = urlsplit(url)
        self.socket = socket.create_connection((place.hostname, place.port), WAIT_S, source_address=(address, 0))
        self._received = b""

    def send(self, data: bytes) -> None:
        """Send bytes, all of them unless the server hangs up."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return  # what it answered before can still be read

    def read(self) -> Answer | None:
        """Read one answer; None: the connection was closed instead."""
        while b"\r\n\r\n" not in self._received:
            if not self._receive():
                assert not self._received, f"half an answer: {self._received!r}"
                return None
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin1").split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), f"a header twice: {head!r}"
        version, status, *_ = first.split(" ")
        assert version == "HTTP/1.1"
        length = int(headers.get("content-length", "0"))
        while len(self._received) < length:
            assert self._receive(), "the body broke off"
        body, self._received = self._received[:length], self._received[length:]
        return Answer(int(status), headers, body, head)

    def read_all(self) -> list[Answer]:
        """Read until the server closes the connection."""
        return list(iter(self.read, None))

    def _receive(self) -> bool:
        try:
            received = self.socket.recv(1 << 16)
        except ConnectionResetError:
            received = b""
        self._received += received
        return bool(received)


@contextmanager
def open_line(url: str) -> Iterator[Line]:
    """Connect for as long as the block runs."""
    line = Line(url)
    with line.socket:
        yield line


def exchange(url: str, sent: bytes) -> list[Answer]:
    """Send bytes on a connection of their own, and read answers until the server has closed it."""
    with open_line(url) as line:
        line.send(sent)
        return line.read_all()
