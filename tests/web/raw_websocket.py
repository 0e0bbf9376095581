"""A WebSocket client as bare as can be: a handshake, frames as bytes, and whatever the server says.

It does what a test tells it, right or wrong, and holds the server to the rules: frames are whole and not masked, a
refused handshake is an answer in the envelope, each message is as ``docs/asyncapi.yaml`` describes it. It answers pings
unless it is told not to, and reads only when a test asks for something.
It refuses to know what messages mean.
"""

from __future__ import annotations

import json
import struct
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import trio
from jsonschema import Draft7Validator
from tests.client.test_asyncapi import document, payloads

Json = dict[str, Any]

WAIT_S: Final = 20.0
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MSGPACK: Final = "tradeengine.msgpack"


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """The handshake was answered by HTTP."""

    def __init__(self, status: int, headers: dict[str, str], body: Json) -> None:
        super().__init__(f"{status} {body}")
        self.status, self.headers, self.body = status, headers, body

    @property
    def code(self) -> str:
        """Code in the envelope."""
        return str(self.body["error"]["code"])


class Closed(Exception):  # noqa: N818 - as above
    """The connection is closed. ``code``: that of the server's close frame; None: there was none."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


class RawSocket:
    """One connection. ``kept``: messages that have come and nobody has asked for."""

    def __init__(self, stream: trio.SocketStream, received: bytes, *, is_binary: bool) -> None:
        self.stream = stream
        self.is_binary = is_binary
        self.answers_pings = True
        self.ping_count = 0
        self.pongs: list[bytes] = []
        self.frame_count = 0
        """Frames with messages that have come; ``list_count``: those that held a list of messages."""
        self.list_count = 0
        self.kept: deque[Json] = deque()
        self._received = bytearray(received)
        self._number = 0

    async def send(self, message: Any) -> None:
        """Send a message in a frame as it should be."""
        payload = msgspec.msgpack.encode(message) if self.is_binary else json.dumps(message).encode()
        await self.send_frame(payload, BINARY if self.is_binary else TEXT)

    async def send_frame(
        self, payload: bytes, opcode: int = TEXT, *, is_last: bool = True, is_masked: bool = True, reserved: int = 0
    ) -> None:
        """Send a frame, proper or not."""
        await self.stream.send_all(frame(payload, opcode, is_last=is_last, is_masked=is_masked, reserved=reserved))

    async def request(self, op: str, **fields: Any) -> int:
        """Send a request without waiting for its answer; returns its id."""
        self._number += 1
        await self.send({"op": op, "id": self._number, **fields})
        return self._number

    async def answer(self, number: int | str | None) -> Json:
        """Give the answer to a request, an ``ack`` or an ``error``."""
        return await self._find(lambda message: message["type"] in {"ack", "error"} and message["id"] == number)

    async def ask(self, op: str, **fields: Any) -> Json:
        """Make a request that must be carried out; returns the answer's data."""
        answer = await self.answer(await self.request(op, **fields))
        assert answer["type"] == "ack", answer
        data: Json = answer["data"]
        return data

    async def refusal(self, op: str, **fields: Any) -> Json:
        """Make a request that must be refused; returns the error."""
        answer = await self.answer(await self.request(op, **fields))
        assert answer["type"] == "error", answer
        return answer

    async def next(self, kind: str, **fields: Any) -> Json:
        """Give the next message of a type, with these fields; what comes before it is kept."""
        wanted = {"type": kind, **fields}
        return await self._find(lambda message: wanted.items() <= message.items())

    async def close_code(self) -> int | None:
        """Read to the end; returns the code of the server's close frame, None when there was none."""
        try:
            with trio.fail_after(WAIT_S):
                while True:
                    self.kept.extend(await self.read_frame())
        except Closed as end:
            return end.code

    async def read_frame(self) -> list[Json]:
        """Read the next frame of messages, and answer what comes before it. Raises Closed."""
        while True:
            opcode, payload = await self._read_any()
            if opcode == PING:
                self.ping_count += 1
                if self.answers_pings:
                    await self.send_frame(payload, PONG)
            elif opcode == PONG:
                self.pongs.append(payload)
            elif opcode == CLOSE:
                code, reason = struct.unpack("!H", payload[:2])[0] if payload else None, payload[2:].decode()
                raise Closed(code, reason)
            else:
                assert opcode == (BINARY if self.is_binary else TEXT)
                content = msgspec.msgpack.decode(payload) if self.is_binary else json.loads(payload)
                self.frame_count += 1
                self.list_count += isinstance(content, list)
                return _messages(content)

    async def _find(self, is_wanted: Any) -> Json:
        for place, message in enumerate(self.kept):
            if is_wanted(message):
                del self.kept[place]
                return message
        with trio.fail_after(WAIT_S):
            while True:
                messages = deque(await self.read_frame())
                while messages:
                    message = messages.popleft()
                    if is_wanted(message):
                        self.kept.extend(messages)
                        return message
                    self.kept.append(message)

    async def _read_any(self) -> tuple[int, bytes]:
        """Take the next frame; who is cancelled meanwhile has taken nothing of it."""
        while (found := self._take()) is None:
            try:
                received = await self.stream.receive_some(1 << 18)
            except trio.BrokenResourceError:
                received = b""
            if not received:
                raise Closed(None)
            self._received += received
        return found

    def _take(self) -> tuple[int, bytes] | None:
        """Give opcode and payload of the first frame, once it has come whole."""
        if len(self._received) < 2:
            return None
        first, length = self._received[:2]
        assert first & 0xF0 == 0x80, "a frame of the server is whole, and no extension was agreed"
        assert not length & 0x80, "a frame of the server is not masked"
        start = {126: 4, 127: 10}.get(length, 2)
        if start > 2:
            length = int.from_bytes(self._received[2:start])
        if len(self._received) < start + length:
            return None
        payload = bytes(self._received[start : start + length])
        del self._received[: start + length]
        return first & 0x0F, payload


def frame(
    payload: bytes, opcode: int = TEXT, *, is_last: bool = True, is_masked: bool = True, reserved: int = 0
) -> bytes:
    """Make a client's frame. reserved: the three reserved bits."""
    size, mask_bit = len(payload), 0x80 if is_masked else 0
    first = (0x80 if is_last else 0) | reserved << 4 | opcode
    if size < 126:
        head = bytes((first, mask_bit | size))
    elif size < 65536:
        head = struct.pack("!BBH", first, mask_bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask_bit | 127, size)
    if not is_masked:
        return head + payload
    mask = b"\x9a\x1c\xf7\x53"  # any will do; the same in each run, because frames name tests
    repeated = (mask * (size // 4 + 1))[:size]
    return head + mask + (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(size)


@asynccontextmanager
async def connected(
    url: str,
    path: str = "/ws/stream",
    *,
    token: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    msgpack: bool = False,
    receive_bytes: int = 0,
    early: bytes = b"",
) -> AsyncIterator[RawSocket]:
    """Connect to an engine (``http://HOST:PORT``) for as long as the block runs. As ``connect`` otherwise."""
    socket = await connect(
        url, path, token=token, headers=headers, msgpack=msgpack, receive_bytes=receive_bytes, early=early
    )
    try:
        yield socket
    finally:
        await trio.aclose_forcefully(socket.stream)


async def connect(
    url: str,
    path: str = "/ws/stream",
    *,
    token: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    msgpack: bool = False,
    receive_bytes: int = 0,
    early: bytes = b"",
) -> RawSocket:
    """Connect; the caller closes. Raises Refused, Closed.

    receive_bytes: what the kernel shall keep, if not as much as it likes. early: sent together with the handshake.
    """
    place = urlsplit(url)
    tcp = trio.socket.socket()
    if receive_bytes:
        tcp.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_bytes)
    try:
        await tcp.connect((place.hostname, place.port))
    except OSError:
        tcp.close()
        raise
    stream = trio.SocketStream(tcp)
    asked = [
        ("Host", place.netloc),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
        *([("Authorization", f"Bearer {token}")] if token else []),
        *([("Sec-WebSocket-Protocol", MSGPACK)] if msgpack else []),
        *headers,
    ]
    try:
        with trio.fail_after(WAIT_S):
            return await _shake_hands(stream, path, asked, early)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


async def _shake_hands(stream: trio.SocketStream, path: str, asked: list[tuple[str, str]], early: bytes) -> RawSocket:
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in asked), "", ""]
    await stream.send_all("\r\n".join(lines).encode() + early)
    status, headers, rest = await read_head(stream)
    if status != 101:
        raise Refused(status, headers, await read_body(stream, headers, rest))
    assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert "sec-websocket-extensions" not in headers
    wanted = dict(asked).get("Sec-WebSocket-Protocol")
    assert headers.get("sec-websocket-protocol") == wanted
    return RawSocket(stream, rest, is_binary=wanted == MSGPACK)


async def read_head(stream: trio.SocketStream) -> tuple[int, dict[str, str], bytes]:
    """Read the head of an HTTP answer: status, headers by lower-case name, and what came behind it. Raises Closed."""
    received = b""
    while b"\r\n\r\n" not in received:
        try:
            part = await stream.receive_some()
        except trio.BrokenResourceError:
            part = b""
        if not part:
            raise Closed(None)
        received += part
    head, _, rest = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, rest


async def read_body(stream: trio.SocketStream, headers: dict[str, str], received: bytes) -> Json:
    """Read the rest of an HTTP answer, which must be in the envelope of failures."""
    while len(received) < int(headers["content-length"]):
        received += await stream.receive_some()
    body: Json = json.loads(received)
    assert set(body) == {"success", "error", "meta"}
    assert set(body["error"]) == {"code", "message", "details"}
    assert body["success"] is False
    return body


def _messages(content: Any) -> list[Json]:
    messages: list[Json] = content if isinstance(content, list) else [content]
    for message in messages:
        check(message)
    return messages


def check(message: Json) -> None:
    """See that a message is as described. Raises jsonschema.ValidationError, KeyError for an unknown type."""
    _validators()[message["type"]].validate(message)


@cache
def _validators() -> dict[str, Draft7Validator]:
    return {
        name: Draft7Validator({**payload, "components": document()["components"]})
        for name, payload in payloads().items()
        if "op" not in payload["required"]
    }
