"""A front's app on a real socket, and what is read from it."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from tests.web.bench import Bench

from tradeengine.web.serve import hypercorn_config, trusted_by
from tradeengine.web.server import Server

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
"""Headers by which a request asks for a WebSocket."""


@asynccontextmanager
async def serving(bench: Bench, keep_alive_s: float = 60) -> AsyncIterator[tuple[Server, int]]:
    """Serve the bench's app; gives the server and its port. Stops gracefully at the end."""
    config = hypercorn_config(bench.front.settings)
    config.keep_alive_timeout = keep_alive_s
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = Server(bench.app, config, listener, trusted_by(bench.front.settings))
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(served.run, stop.wait)
            yield served, listener.getsockname()[1]
            stop.set()


async def read_answer(stream: trio.SocketStream) -> tuple[int, dict[str, Any]]:
    """Read one answer; returns status and body."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += await receive(stream)
    head, _, body = received.partition(b"\r\n\r\n")
    (length,) = (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    while len(body) < length:
        body += await receive(stream)
    assert len(body) == length
    return int(head.split()[1]), json.loads(body)


async def receive(stream: trio.SocketStream) -> bytes:
    """Read something; the server must not close here."""
    received = bytes(await stream.receive_some())
    assert received
    return received
