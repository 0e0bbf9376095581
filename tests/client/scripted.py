"""Engines of straw: a WebSocket server and an HTTP server that do what a test says, on real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import h11
import msgspec
import trio
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.trio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from tradeengine.client import Stream

Json = dict[str, Any]
Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]] | str | None
HANG = "hang"
NO_HEADERS: Mapping[str, str] = {}
BACK_S = 10.0
"""How long a test waits for what must come."""
TIME = "2026-11-24T10:30:45.234Z"


class Peer:
    """The server's end of one connection. ``ops``: what the client has asked for, in order."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.is_binary = socket.subprotocol is not None
        self._came, self.ops = trio.open_memory_channel[Json](1000)

    async def say(self, *messages: Any) -> None:
        """Send messages, each in a frame of its own."""
        for message in messages:
            if self.is_binary:
                await self.socket.send(msgspec.msgpack.encode(message))
            else:
                await self.socket.send(json.dumps(message))

    async def acknowledge(self, op: Json, **data: Any) -> None:
        """Answer an operation."""
        await self.say({"type": "ack", "id": op["id"], "data": data})

    async def refuse(self, op: Json, code: str, **details: Any) -> None:
        """Refuse an operation."""
        await self.say({"type": "error", "id": op["id"], "code": code, "message": "no", "details": details})

    async def read(self, respond: Respond) -> None:
        """Answer operations until the connection ends."""
        with self._came:
            while True:
                try:
                    frame = await self.socket.recv()
                    op = msgspec.msgpack.decode(frame) if isinstance(frame, bytes) else json.loads(frame)
                    self._came.send_nowait(op)
                    await respond(self, op)
                except ConnectionClosed:
                    return


Respond = Callable[[Peer, Json], Awaitable[None]]


async def agree(peer: Peer, op: Json) -> None:
    """Acknowledge subscriptions; leave everything else to the test."""
    if op["op"] in {"subscribe", "unsubscribe"}:
        await peer.acknowledge(op, channels=op["channels"], cursor="c0")


@dataclass
class StreamServer:
    """A WebSocket server. ``peers``: its connections as they come."""

    respond: Respond = agree
    refusals: list[tuple[int, Json]] = field(default_factory=list)
    """Handshakes to refuse before any is accepted: status and error."""
    requests: list[Request] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self._came, self._peers = trio.open_memory_channel[Peer](100)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"ws://127.0.0.1:{self.port}"

    async def peer(self) -> Peer:
        """Wait for the next connection."""
        return await self._peers.receive()

    async def handle(self, socket: ServerConnection) -> None:
        """Serve a connection."""
        peer = Peer(socket)
        self._came.send_nowait(peer)
        await peer.read(self.respond)
        peer.ops.close()

    def admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refuse handshakes while there are refusals left."""
        self.requests.append(request)
        if not self.refusals:
            return None
        status, error = self.refusals.pop(0)
        response = connection.respond(status, json.dumps({"success": False, "error": error}))
        response.headers["Retry-After"] = "0"
        return response


@asynccontextmanager
async def stream_server(respond: Respond = agree, **options: Any) -> AsyncIterator[StreamServer]:
    """Run a WebSocket server while the block runs."""
    server = StreamServer(respond, **options)
    async with trio.open_nursery() as nursery:
        await start_stream_server(nursery, server)
        yield server
        nursery.cancel_scope.cancel()


def stream_of(server: StreamServer, **options: Any) -> Stream:
    """Give a stream that does not wait long between attempts."""
    return Stream(server.url, **{"token": "t", "pause_first_s": 0.01, "pause_longest_s": 0.05, **options})


async def receive(stream: Stream, kind: type[Any]) -> Any:
    """Take the next message, which must be of this kind."""
    with trio.fail_after(BACK_S):
        message = await anext(stream)
    assert isinstance(message, kind), message
    return message


async def start_stream_server(nursery: trio.Nursery, server: StreamServer) -> None:
    """Let a server listen, on its port if it has one already."""
    run = partial(
        serve,
        server.handle,
        server.port,
        host="127.0.0.1",
        subprotocols=[Subprotocol("tradeengine.msgpack")],
        select_subprotocol=lambda _, offered: offered[0] if offered else None,
        process_request=server.admit,
        compression=None,
    )
    running = await nursery.start(run)
    server.port = running.listeners[0].socket.getsockname()[1]


@dataclass
class HttpServer:
    """An HTTP server. ``answers``: to each request status, body, headers; None: hang up; HANG: say nothing."""

    answers: list[Answer]
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    """Method, target and body of what came."""
    port: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve a connection."""
        async with stream:
            connection = h11.Connection(h11.SERVER)
            while (request := await _next_request(connection, stream)) is not None:
                head, body = request
                method, target = head.method.decode(), head.target.decode()
                self.requests.append((method, target, json.loads(body) if body else None))
                answer = self.answers.pop(0)
                if answer == HANG:
                    await trio.sleep_forever()
                if answer is None or isinstance(answer, str):
                    return
                await stream.send_all(_answer(connection, *answer))
                connection.start_next_cycle()


@asynccontextmanager
async def http_server(*answers: Answer) -> AsyncIterator[HttpServer]:
    """Run an HTTP server while the block runs."""
    server = HttpServer(list(answers))
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, server.handle, 0, host="127.0.0.1"))
        server.port = listener.socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()


def success(data: Any, **meta: Any) -> Json:
    """Make the envelope of an answer."""
    return {"success": True, "data": data, "meta": {"request_id": "r-1", "timestamp": TIME, **meta}}


def failure(code: str, **details: Any) -> Json:
    """Make the envelope of a refusal."""
    error = {"code": code, "message": "no", "details": details}
    return {"success": False, "error": error, "meta": {"request_id": "r-2", "timestamp": TIME}}


def order(order_id: str = "7", **changes: Any) -> Json:
    """Make an order as the engine shows it, and with a field that no client knows."""
    return {
        "id": order_id,
        "client_order_id": "mine",
        "symbol": "BTC/USDT",
        "side": "buy",
        "type": "limit",
        "time_in_force": "gtc",
        "post_only": False,
        "self_trade_prevention": "cancel_taker",
        "quantity": "1.00",
        "price": "50000.00",
        "stop_price": None,
        "filled_quantity": "0.00",
        "remaining_quantity": "1.00",
        "average_price": None,
        "fee_paid": "0.00",
        "status": "open",
        "status_reason": None,
        "sequence": 5,
        "created_at": TIME,
        "updated_at": TIME,
        "expires_at": None,
        "triggered_at": None,
        "closed_at": None,
        "colour": "green",
        **changes,
    }


def order_update(cursor: str, order_id: str = "7", **changes: Any) -> Json:
    """Make an update of an own order."""
    return {
        "type": "order_update",
        "event": "accepted",
        "order_id": order_id,
        "client_order_id": "mine",
        "symbol": "BTC/USDT",
        "side": "buy",
        "order_type": "limit",
        "status": "open",
        "price": "50000.00",
        "stop_price": None,
        "quantity": "1.00",
        "filled_quantity": "0.00",
        "remaining_quantity": "1.00",
        "trade_id": None,
        "last_price": None,
        "last_quantity": None,
        "fee": None,
        "liquidity": None,
        "reason": None,
        "sequence": 6,
        "cursor": cursor,
        "timestamp": TIME,
        **changes,
    }


def trade(number: int, symbol: str = "BTC/USDT") -> Json:
    """Make a public trade."""
    return {
        "type": "trade_executed",
        "trade_id": str(number),
        "symbol": symbol,
        "price": "50000.00",
        "quantity": "1.00",
        "taker_side": "sell",
        "buyer_fee": "25.00",
        "seller_fee": "50.00",
        "sequence": number,
        "timestamp": TIME,
    }


def snapshot(sequence: int, bids: list[list[str]], asks: list[list[str]] | None = None) -> Json:
    """Make a snapshot of the book of BTC/USDT."""
    head = {"type": "orderbook_snapshot", "symbol": "BTC/USDT", "timestamp": TIME}
    return {**head, "bids": bids, "asks": asks or [], "sequence": sequence}


def update(previous_sequence: int, sequence: int, *changes: list[str]) -> Json:
    """Make an update of the book of BTC/USDT."""
    touch = dict.fromkeys(("best_bid", "best_ask", "bid_quantity", "ask_quantity", "spread"))
    head = {"type": "orderbook_update", "symbol": "BTC/USDT", "timestamp": TIME, **touch}
    return {**head, "changes": list(changes), "previous_sequence": previous_sequence, "sequence": sequence}


async def _next_request(connection: h11.Connection, stream: trio.SocketStream) -> tuple[h11.Request, bytes] | None:
    head, body = None, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            try:
                connection.receive_data(await stream.receive_some())
            except trio.BrokenResourceError:
                return None
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            return head, body
        else:
            return None


def _answer(connection: h11.Connection, status: int, body: Any, headers: Mapping[str, str] = NO_HEADERS) -> bytes:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    fields = [("Content-Length", str(len(content))), *headers.items()]
    parts = [
        connection.send(h11.Response(status_code=status, headers=fields)),
        connection.send(h11.Data(data=content)),
        connection.send(h11.EndOfMessage()),
    ]
    return b"".join(part for part in parts if part)
