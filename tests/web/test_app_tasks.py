"""Connections whose application ends while the client has more to say than anybody wanted to hear."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any

import trio
import trio.testing
from hypercorn.config import Config
from tests.web.raw_websocket import frame
from tests.web.served import UPGRADE

from tradeengine.web.server import Server

HANDSHAKE = f"GET / HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n".encode()


async def end_without_listening(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    """Take a connection up, and end when the queue of messages is full and its filler waits."""
    if scope["type"] == "lifespan":
        for part in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{part}.complete"})
        return
    await send({"type": "websocket.accept"})
    await trio.testing.wait_all_tasks_blocked(0.01)


async def test_connection_ends_though_nobody_listens() -> None:
    """Whoever says more than the application hears before it ends does not stay connected for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = Server(end_without_listening, Config(), listener)  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.run, trio.sleep_forever)
            async with await trio.open_tcp_stream(*listener.getsockname()) as stream:
                await stream.send_all(HANDSHAKE + frame(b"hello") * 100)
                with trio.fail_after(10):
                    while await stream.receive_some():
                        pass
            with trio.fail_after(10):
                while served.connection_count:
                    await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
