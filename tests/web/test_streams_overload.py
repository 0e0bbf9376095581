"""A stream that sends more orders than are read: what is too much is refused, and not done late."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing
from tests.web.bench import Bench, bearer
from tests.web.raw_websocket import WAIT_S, connected
from tests.web.stream_bench import SYMBOL, serving_streams

from tradeengine.core.records import CommandKind
from tradeengine.web import websocket
from tradeengine.web.server import _Connection

TOKEN = bearer()["Authorization"].partition(" ")[2]
ORDER = {"symbol": SYMBOL, "side": "buy", "type": "limit", "quantity": "1", "price": "50000"}


async def test_orders_of_a_stream_that_is_behind_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While more waits to be read than is allowed, orders are answered ENGINE_OVERLOADED and cancels go through."""
    monkeypatch.setattr(websocket, "UNREAD_BYTES_MAX", -1)
    async with serving_streams(bench) as served, connected(served.url, token=TOKEN) as client:
        assert (await client.refusal("place", **ORDER))["code"] == "ENGINE_OVERLOADED"
        assert (await client.refusal("amend", order_id="123", quantity="1"))["code"] == "ENGINE_OVERLOADED"
        await client.request("cancel", order_id="123")
        with trio.fail_after(WAIT_S):
            while not bench.commands:
                await trio.testing.wait_all_tasks_blocked()
        assert [command["kind"] for command in bench.commands] == [CommandKind.CANCEL]
        monkeypatch.undo()
        await client.request("place", **ORDER)
        with trio.fail_after(WAIT_S):
            while len(bench.commands) < 2:
                await trio.testing.wait_all_tasks_blocked()
        assert bench.commands[1]["kind"] == CommandKind.PLACE


async def test_what_is_not_read_is_counted() -> None:
    """A connection knows how much its client has sent that nobody has read; of one that is gone there is nothing."""
    here, there = socket.socketpair()
    with there:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(here))
        connection = cast("Any", SimpleNamespace(stream=stream))
        assert _Connection.unread_bytes(connection) == 0
        there.sendall(bytes(1234))
        assert _Connection.unread_bytes(connection) == 1234
        await stream.receive_some(234)
        assert _Connection.unread_bytes(connection) == 1000
        await stream.aclose()
        assert _Connection.unread_bytes(connection) == 0
