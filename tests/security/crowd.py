"""A crowd: many connections that ask more than a front can answer, in every shape that HTTP/1.1 allows.

Each request has a name, and each answer must say the name of the request whose turn it is: none is lost, none comes
twice, none is another's, none is half. What was asked is drawn from a seed: whole requests and torn ones, pipelines,
chunks, bodies that nobody wants, HEAD, handshakes good and bad, and clients that are suddenly gone. Whom a request is
from is drawn, too, from a million addresses behind a proxy.
"""

from __future__ import annotations

import json
import random
import ssl
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import trio

WAIT_S: Final = 60.0
STATUSES: Final = frozenset({101, 200, 201, 204, 400, 401, 404, 405, 426, 503})
_GETS: Final = ("/api/v1/symbols", "/api/v1/time", "/api/v1/nothing", "/api/v1/balances")
ORDER: Final = {
    "symbol": "BTC/USDT",
    "side": "buy",
    "type": "limit",
    "quantity": "0.1",
    "price": "100",
    "time_in_force": "ioc",
}
_KEY: Final = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


class Gone(Exception):  # noqa: N818 - the client's word, no fault of its own
    """The server closed the connection between two answers."""


@dataclass
class Asked:
    """One request. ``order``: the client order id that it would place; ``ends``: its answer is the last one.

    ``is_odd``: no application answers it, so the answer need not know its name.
    """

    name: str
    data: bytes
    is_head: bool = False
    order: str = ""
    ends: bool = False
    is_odd: bool = False


@dataclass
class Crowd:
    """What was asked, and what became of it; ``wrong``: what no server may do."""

    url: str
    seed: int
    token: str
    tls: ssl.SSLContext | None = None
    is_ending: bool = False
    """The server was told to stop: it may close a connection behind any answer."""
    statuses: Counter[int] = field(default_factory=Counter)
    placed: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    _count: int = 0

    async def ask(self, connection_count: int, seconds: float) -> None:
        """Ask on so many connections at a time, for so long."""
        with trio.move_on_after(seconds + WAIT_S) as patience:
            async with trio.open_nursery() as nursery:
                end_s = trio.current_time() + seconds
                for number in range(connection_count):
                    nursery.start_soon(self._ask_on, random.Random(self.seed * 10_007 + number), end_s)
        if patience.cancelled_caught:
            self.wrong.append("some answers never came")

    async def answered(self, count: int) -> None:
        """Wait until so many answers have come."""
        while sum(self.statuses.values()) < count:  # noqa: ASYNC110 - many raise it
            await trio.sleep(0.01)

    async def _ask_on(self, chance: random.Random, end_s: float) -> None:
        while trio.current_time() < end_s and not self.wrong:
            try:
                await self._ask_once(chance, end_s)
            except* (OSError, trio.BrokenResourceError, Gone) as broken:
                if self.is_ending:
                    end_s = 0.0
                else:
                    self.wrong.append(f"a connection broke: {broken.exceptions}")

    async def _ask_once(self, chance: random.Random, end_s: float) -> None:
        """Use one connection until it ends."""
        place = urlsplit(self.url)
        stream: Any = await trio.open_tcp_stream(place.hostname or "", place.port or 0)
        if self.tls is not None:
            stream = trio.SSLStream(stream, self.tls, server_hostname="localhost", https_compatible=True)
        line = _Line(stream)
        try:
            while trio.current_time() < end_s:
                asked = [self._draw(chance) for _ in range(chance.choice((1, 1, 1, 2, 8, 30)))]
                ends = next((number for number, one in enumerate(asked) if one.ends), len(asked) - 1)
                asked = asked[: ends + 1]
                if chance.random() < 0.02:
                    await stream.send_all(b"".join(one.data for one in asked)[: chance.randrange(1, 4000)])
                    return  # nobody knows what was done
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, chance, line, asked)
                    for one in asked:
                        await self._read(line, one)
                if asked[-1].ends:
                    return
        finally:
            await trio.aclose_forcefully(stream)

    async def _send(self, chance: random.Random, line: _Line, asked: list[Asked]) -> None:
        """Send requests: in one piece, or torn anywhere."""
        data = b"".join(one.data for one in asked)
        how = chance.random()
        cuts = sorted(chance.randrange(len(data)) for _ in range(chance.randrange(1, 5))) if how < 0.3 else []
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
                if end > start:
                    await line.stream.send_all(data[start:end])
                    await trio.sleep(chance.choice((0, 0, 0.01)))

    async def _read(self, line: _Line, asked: Asked) -> None:
        try:
            status, name, code = await line.answer(asked)
        except (AssertionError, ValueError, KeyError) as error:
            self.wrong.append(f"{asked.data[:200]!r} was answered: {error!r}")
            raise Gone from None
        except Gone:
            raise Gone(asked.data[:400]) from None
        self.statuses[status] += 1
        is_broken_off = self.is_ending and status == 408
        if name != asked.name and not asked.is_odd and not is_broken_off:
            self.wrong.append(f"{asked.name} was given the answer of {name}: {status} {code}")
        if status not in STATUSES and not is_broken_off:
            self.wrong.append(f"{asked.data[:200]!r} was answered {status} {code}")
        if asked.order and status in {200, 201}:
            self.placed.add(asked.order)
        elif asked.order and code in {"ENGINE_OVERLOADED", "SHUTTING_DOWN", "REQUEST_TIMEOUT"}:
            self.refused.add(asked.order)

    def _draw(self, chance: random.Random) -> Asked:
        """Draw a request."""
        self._count += 1
        name = f"{self.seed}.{self._count}"
        head = f"Host: x\r\nX-Request-ID: {name}\r\nX-Forwarded-For: {_address(chance)}\r\n"
        signed = f"{head}Authorization: Bearer {self.token}\r\n"
        path, close = chance.choice(_GETS), chance.random() < 0.03
        last = "Connection: close\r\n" if close else ""
        kind = chance.randrange(20)
        if kind < 8:
            return self._order(chance, name, signed + last, ends=close)
        if kind < 12:
            return Asked(name, f"GET {path} HTTP/1.1\r\n{signed}{last}\r\n".encode(), ends=close)
        if kind < 14:
            return Asked(name, f"HEAD {path} HTTP/1.1\r\n{signed}{last}\r\n".encode(), is_head=True, ends=close)
        if kind < 15:
            return Asked(
                name, f"DELETE /api/v1/orders/{self._count} HTTP/1.1\r\n{signed}{last}\r\n".encode(), ends=close
            )
        if kind < 17:
            body = " " * chance.randrange(20_000)
            lead = f"GET {path} HTTP/1.1\r\n{signed}{last}Content-Length: {len(body)}\r\n\r\n"
            return Asked(name, (lead + body).encode(), ends=close)
        if kind < 18:
            return Asked(name, f"OPTIONS {path} HTTP/1.1\r\n{head}Origin: http://a\r\n{last}\r\n".encode(), ends=close)
        if kind < 19:
            return Asked(name, f"GET {path} HTTP/1.0\r\n{signed}\r\n".encode(), ends=True)
        lead = f"GET /ws/stream HTTP/1.1\r\n{head}Connection: Upgrade\r\nUpgrade: websocket\r\n"
        version, key = chance.choice(((13, _KEY), (12, _KEY), (13, "")))
        return Asked(name, f"{lead}Sec-WebSocket-Version: {version}\r\n{key}\r\n".encode(), ends=True, is_odd=True)

    def _order(self, chance: random.Random, name: str, head: str, *, ends: bool) -> Asked:
        order = f"c{name.replace('.', '-')}"
        body = json.dumps(ORDER | {"client_order_id": order})
        lead = f"POST /api/v1/orders HTTP/1.1\r\n{head}"
        how = chance.randrange(6)
        if how == 0:
            half = len(body) // 2
            chunks = f"{half:x}\r\n{body[:half]}\r\n{len(body) - half:x}\r\n{body[half:]}\r\n0\r\n\r\n"
            return Asked(name, f"{lead}Transfer-Encoding: chunked\r\n\r\n{chunks}".encode(), order=order, ends=ends)
        lead += "Expect: 100-continue\r\n" if how == 1 else ""
        return Asked(name, f"{lead}Content-Length: {len(body)}\r\n\r\n{body}".encode(), order=order, ends=ends)


class _Line:
    """One connection, from which answers are read one by one."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self._received = b""

    async def answer(self, asked: Asked) -> tuple[int, str, str]:
        """Read the answer to a request: status, whose it is, and the error's code. Raises Gone, AssertionError."""
        while True:
            while b"\r\n\r\n" not in self._received:
                await self._receive()
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin1").split("\r\n")
            assert first.startswith("HTTP/1.1 "), first
            status = int(first.split(" ")[1])
            if status != 100:
                break
        pairs = [text.split(": ", 1) for text in lines]
        headers = {key.lower(): value for key, value in pairs}
        assert len(headers) == len(pairs), f"a header twice: {head!r}"
        if status in {101, 204} or asked.is_head:
            return status, headers.get("x-request-id", ""), ""
        length = int(headers["content-length"])
        while len(self._received) < length:
            await self._receive()
        body, self._received = self._received[:length], self._received[length:]
        told = json.loads(body)
        code = told["error"]["code"] if told.get("success") is False else ""
        return status, headers["x-request-id"], code

    async def _receive(self) -> None:
        received = bytes(await self.stream.receive_some())
        if not received:
            assert not self._received, f"half an answer, {self._received[-200:]!r}"
            raise Gone
        self._received += received


def _address(chance: random.Random) -> str:
    """Draw whose request it is; what stands before the last address was written by the client itself."""
    number = chance.randrange(1 << 20)
    address = (
        f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" if number % 8 else f"2001:db8:{number & 0xFFFF:x}::1"
    )
    return chance.choice(("", "127.0.0.1, ", "nonsense, ", "10.0.0.1, 10.0.0.2, ")) + address
