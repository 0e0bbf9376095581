"""A wallet that misbehaves as told: a proxy in front of a real service, on a port that stays the same.

``plan`` says what happens to the next requests of a path, one fault each; what is not planned goes through untouched.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Any

import trio

_ENDED = (trio.BrokenResourceError, trio.ClosedResourceError)


class Fault(Enum):
    """What happens to one request."""

    NONE = auto()
    ERROR = auto()
    """500; nothing is done."""
    ERROR_AFTER = auto()
    """500, although it was done."""
    BUSY = auto()
    """429 with Retry-After: 7; nothing is done."""
    FORBIDDEN = auto()
    """401: someone changed the secret."""
    MOVED = auto()
    """A redirect."""
    CUT = auto()
    """The connection ends; nothing is done."""
    CUT_AFTER = auto()
    """The connection ends, although it was done."""
    SILENT = auto()
    """Nothing is done and nothing is answered."""
    LATE = auto()
    """Nothing is answered, and it is done once ``release_late`` is called."""
    TWICE = auto()
    """It arrives twice; the second answer is given."""
    HALF = auto()
    """It is done, and half of the answer comes."""
    GARBAGE = auto()
    """It is done, and the answer is no JSON."""
    NESTED = auto()
    """It is done, and the answer is JSON that is nested too deeply."""
    ACCEPTED = auto()
    """It is done, and answered 202: that it will be."""
    ENDLESS = auto()
    """The answer never ends."""
    BARE_REFUSAL = auto()
    """422 without saying why."""
    REFUSED = auto()
    """Refused: the account is unknown; nothing is done."""
    OTHER_AMOUNT = auto()
    """It is done, and the answer has another amount."""
    OTHER_NUMBER = auto()
    """It is done, and the answer has another number than there is."""
    REFUSED_AFTER = auto()
    """It is done, and refused."""


@dataclass
class FaultyWallet:
    """The proxy. ``requests``: path and id of each that arrived, in order."""

    upstream_port: int
    port: int
    requests: list[tuple[str, str]] = field(default_factory=list)
    plans: defaultdict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))
    before: Callable[[str, str], Awaitable[None]] | None = None
    """Called with path and id before a request is handled."""
    _late: trio.Event = field(default_factory=trio.Event)
    _arrived: list[trio.Event] = field(default_factory=list)
    _serving: trio.CancelScope | None = None
    _nursery: trio.Nursery | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def plan(self, path: str, *faults: Fault) -> None:
        """Let the next requests whose path ends so have these faults."""
        self.plans[path].extend(faults)

    async def release_late(self) -> None:
        """Let late requests arrive now; returns when the service has answered them, whom nobody hears any more."""
        self._late.set()
        self._late = trio.Event()
        for arrived in self._arrived:
            await arrived.wait()

    async def up(self) -> None:
        """Listen."""
        assert self._nursery is not None
        await self._nursery.start(self._serve)

    async def down(self) -> None:
        """Cut all connections and listen no more."""
        assert self._serving is not None
        self._serving.cancel()
        # Until the port refuses.
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", self.port)
            except OSError:
                return
            await stream.aclose()

    async def _serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.CancelScope() as self._serving:
            listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
            task_status.started()
            await trio.serve_listeners(self._connection, listeners)

    async def _connection(self, stream: trio.SocketStream) -> None:
        reader = _Reader(stream)
        try:
            while (request := await reader.message()) is not None:
                if not await self._handle(stream, *request):
                    return
        except _ENDED:
            return

    async def _handle(self, stream: trio.SocketStream, head: bytes, body: bytes) -> bool:
        """Handle one request; returns whether the connection goes on."""
        path = head.split(b" ", 2)[1].decode().partition("?")[0]
        id_ = json.loads(body)["id"] if body else ""
        self.requests.append((path, id_))
        if self.before is not None:
            await self.before(path, id_)
        plan = next((plan for suffix, plan in self.plans.items() if path.endswith(suffix) and plan), None)
        fault = plan.popleft() if plan else Fault.NONE
        if fault in _ANSWERED_HERE:
            await stream.send_all(_ANSWERED_HERE[fault])
            return True
        if fault is Fault.CUT:
            return False
        if fault in {Fault.SILENT, Fault.LATE}:
            assert self._nursery is not None
            if fault is Fault.LATE:
                self._nursery.start_soon(self._arrive_late, head, body)
            await trio.sleep_forever()
        if fault is Fault.ENDLESS:
            await stream.send_all(b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                await stream.send_all(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
        if fault is Fault.TWICE:
            await self._forward(head, body)
        answer = await self._forward(head, body)
        if answer is None or fault is Fault.CUT_AFTER:
            return False
        await stream.send_all(_ANSWERED_AFTER[fault](*answer) if fault in _ANSWERED_AFTER else b"".join(answer))
        return fault is not Fault.HALF

    async def _arrive_late(self, head: bytes, body: bytes) -> None:
        arrived = trio.Event()
        self._arrived.append(arrived)
        await self._late.wait()
        await self._forward(head, body)
        arrived.set()

    async def _forward(self, head: bytes, body: bytes) -> tuple[bytes, bytes] | None:
        """Ask the service; None when it is not there."""
        try:
            async with await trio.open_tcp_stream("127.0.0.1", self.upstream_port) as upstream:
                await upstream.send_all(head + body)
                return await _Reader(upstream).message()
        except (OSError, *_ENDED):
            return None


@asynccontextmanager
async def faulty_wallet(upstream_port: int, port: int) -> AsyncIterator[FaultyWallet]:
    """Run a proxy that is up at first."""
    proxy = FaultyWallet(upstream_port, port)
    async with trio.open_nursery() as nursery:
        proxy._nursery = nursery
        await proxy.up()
        yield proxy
        nursery.cancel_scope.cancel()


class _Reader:
    """Reads HTTP/1.1 messages that have a Content-Length."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._bytes = b""

    async def message(self) -> tuple[bytes, bytes] | None:
        """Read head and body; None at the end."""
        while b"\r\n\r\n" not in self._bytes:
            if not await self._more():
                return None
        head, _, self._bytes = self._bytes.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = int(lengths[0].split(b":")[1]) if lengths else 0
        while len(self._bytes) < length:
            if not await self._more():
                return None
        body, self._bytes = self._bytes[:length], self._bytes[length:]
        return head + b"\r\n\r\n", body

    async def _more(self) -> bool:
        received = await self._stream.receive_some(65_536)
        self._bytes += received
        return bool(received)


def _answer(status: int, body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d " % status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _edited(head: bytes, body: bytes, edit: Callable[[dict[str, Any]], object]) -> bytes:
    answer = json.loads(body)
    edit(answer["data"])
    return _answer(int(head.split(b" ", 2)[1]), json.dumps(answer).encode())


def _set_amount(data: dict[str, Any]) -> None:
    (data["legs"][0] if "legs" in data else data)["amount"] = "7"


def _refusal(code: str, status: int = 422, *headers: bytes) -> bytes:
    error = {"code": code, "message": "no", "details": {}}
    return _answer(status, json.dumps({"success": False, "error": error, "meta": {}}).encode(), *headers)


_ANSWERED_HERE = {
    Fault.ERROR: _answer(500, b"oh dear"),
    Fault.BUSY: _refusal("RATE_LIMITED", 429, b"Retry-After: 7"),
    Fault.FORBIDDEN: _refusal("UNAUTHORIZED", 401),
    Fault.MOVED: _answer(308, b"", b"Location: http://127.0.0.1:9/"),
    Fault.REFUSED: _refusal("UNKNOWN_ACCOUNT"),
    Fault.BARE_REFUSAL: _answer(422, b"<html>no</html>"),
}
_ANSWERED_AFTER: dict[Fault, Callable[[bytes, bytes], bytes]] = {
    Fault.ERROR_AFTER: lambda _head, _body: _answer(500, b"oh dear"),
    Fault.ACCEPTED: lambda _head, body: _answer(202, body),
    Fault.HALF: lambda head, body: head + body[: len(body) // 2],
    Fault.GARBAGE: lambda _head, _body: _answer(200, b"{]"),
    Fault.NESTED: lambda _head, _body: _answer(200, b'{"data": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"),
    Fault.OTHER_AMOUNT: partial(_edited, edit=_set_amount),
    Fault.OTHER_NUMBER: partial(_edited, edit=lambda data: data.update(number=1)),
    Fault.REFUSED_AFTER: lambda _head, _body: _refusal("INSUFFICIENT_BALANCE"),
}
