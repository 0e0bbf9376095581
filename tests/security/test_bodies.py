"""Bodies that are sent to hurt: many at once that never end, and JSON that takes long to read."""

from __future__ import annotations

import json
import socket
from typing import Any

import h11
import pytest
import structlog
import trio
import trio.testing
from tests.web.bench import Bench, bearer, make_bench
from tests.web.served import read_answer, serving

from tradeengine.web import connection
from tradeengine.web.connection import BodyRoom, HttpConnection
from tradeengine.web.errors import ApiError
from tradeengine.web.framing import SMALL_CHUNKS_MAX
from tradeengine.web.jsonbody import NESTING_MAX, PARTS_MAX, read_value
from tradeengine.web.refusals import EnvelopeProtocol

FREE, LARGE = 1000, 4000
HEAD = f"POST /api/v1/orders/test HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer()['Authorization']}\r\n".encode()
ORDER = json.dumps({"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "50000"}).encode()


@pytest.fixture
def bench() -> Bench:
    """Give a front on real rings."""
    return make_bench()


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> BodyRoom:
    """Let a front have room for two large bodies beyond the part of each that is always taken."""
    shared = BodyRoom(2 * (LARGE - FREE))
    monkeypatch.setattr(connection, "BODY_BYTES_FREE", FREE)
    monkeypatch.setattr(HttpConnection, "room", shared)
    return shared


def request(size: int) -> bytes:
    """Make a request with an order of so many bytes."""
    return HEAD + b"Content-Length: %d\r\n\r\n" % size + ORDER.ljust(size)


async def ask(port: int, size: int) -> tuple[int, str]:
    """Send an order of so many bytes on a connection of its own; returns status and code of the error."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request(size))
        with trio.fail_after(10):
            status, body = await read_answer(stream)
    return status, body.get("error", {}).get("code", "")


async def test_bodies_that_never_end_share_a_bounded_room(bench: Bench, room: BodyRoom) -> None:
    """However many hold large bodies open, orders of others are taken; large bodies are refused until there is room."""
    async with serving(bench) as (served, port):
        held = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(5)]
        for stream in held:
            await stream.send_all(request(LARGE)[:-1])
        while room.take(LARGE - FREE):  # until two of them have come, which is all there is room for
            room.give_back(LARGE - FREE)
            await trio.testing.wait_all_tasks_blocked()
        assert await ask(port, LARGE) == (503, "ENGINE_OVERLOADED")
        assert await ask(port, FREE) == (200, "")
        for stream in held:
            await stream.aclose()
        while served.connection_count:
            await trio.testing.wait_all_tasks_blocked()
        assert room.take(2 * (LARGE - FREE)), "what they held is free again"
        room.give_back(2 * (LARGE - FREE))
        assert await ask(port, LARGE) == (200, "")
        assert room.take(2 * (LARGE - FREE)), "and so is what was answered"


async def test_refused_body_of_nobody_says_nothing_of_room(bench: Bench, room: BodyRoom) -> None:
    """Who is nobody hears that first, whether there is room or not."""
    assert room.take(2 * (LARGE - FREE))
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request(LARGE).replace(b"Bearer ", b"Bearer x"))
        assert (await read_answer(stream))[0] == 401


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"[]," * PARTS_MAX + b"[]]",
        b"[" + b"{}," * PARTS_MAX + b"{}]",
        b"[" + b'{"a":1},' * PARTS_MAX + b"{}]",
        b"]" * (2 * PARTS_MAX + 1),
        b'{"a":"' + b"[]" * (PARTS_MAX + 1) + b'"}',
    ],
)
def test_body_of_too_many_parts_is_refused(body: bytes) -> None:
    """More lists and objects than any body needs are refused before they are read, with the bound."""
    with pytest.raises(ApiError) as refusal:
        read_value(body)
    assert (refusal.value.code, refusal.value.details["maximum"]) == ("INVALID_REQUEST", PARTS_MAX)


def test_body_up_to_its_bounds_is_read() -> None:
    """Up to the bounds of nesting and number a body is read as it stands."""
    deep = "[" * NESTING_MAX + "]" * NESTING_MAX
    assert read_value(deep.encode()) == json.loads(deep)
    wide = [{"a": ["]"]}] * (PARTS_MAX // 2 - 1)
    assert read_value(json.dumps(wide).encode().replace(b'"]"', b'""')) == [{"a": [""]}] * (PARTS_MAX // 2 - 1)


@pytest.mark.parametrize(("size", "count", "status"), [(1, SMALL_CHUNKS_MAX, 200), (1, 5000, 400), (256, 2000, 413)])
async def test_body_in_many_small_chunks_is_refused(bench: Bench, size: int, count: int, status: int) -> None:
    """A body in thousands of tiny chunks, each of which costs as much as a large one, is refused."""
    chunks = [b" " * size] * (count - len(ORDER) if size == 1 else count)
    chunks += [bytes([byte]) for byte in ORDER] if size == 1 else []
    body = b"".join(b"%04x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks[1:])
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n")
        with trio.fail_after(10):
            assert (await read_answer(stream))[0] == status


async def test_requests_behind_one_whose_client_is_gone_are_not_begun(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a thousand requests sent at once by a client that is gone, hardly any is worked on once that is seen."""
    begun: list[str] = []
    handle_request = bench.app.handle_request

    async def count(request: Any) -> Any:
        begun.append(request.path)
        return await handle_request(request)

    monkeypatch.setattr(bench.app, "handle_request", count)
    async with serving(bench) as (served, port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(b"GET /api/v1/symbols HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        await stream.receive_some(1)
        await trio.aclose_forcefully(stream)
        with trio.fail_after(30):
            while served.connection_count:
                await trio.testing.wait_all_tasks_blocked()
    assert len(begun) < 200


async def test_time_that_is_over_breaks_no_answer(bench: Bench) -> None:
    """When a request's time is over while its answer goes out, nothing is put into the answer, and nothing fails."""
    with structlog.testing.capture_logs() as said:
        async with serving(bench) as (served, port):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await stream.send_all(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
            (connection,) = served._connections
            protocol = connection.protocol.protocol
            assert isinstance(protocol, EnvelopeProtocol)
            while protocol.connection.our_state is not h11.SEND_BODY:
                await trio.testing.wait_all_tasks_blocked()
            await protocol.refuse_slow_head()
            await stream.aclose()
            while served.connection_count:
                await trio.testing.wait_all_tasks_blocked()
    assert [line for line in said if line["log_level"] == "error"] == []
