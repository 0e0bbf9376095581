"""Refusals by admission on real sockets: clear, early, and over with the request."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from tests.web.bench import Bench, Records, bearer
from tests.web.served import HEALTH, read_answer, serving

from tradeengine.web import server
from tradeengine.web.admission import Admission, Kind

TOKEN = f"Authorization: {bearer()['Authorization']}\r\n"
ORDER = json.dumps({"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "50000"})
SYMBOLS = b"GET /api/v1/symbols HTTP/1.1\r\nHost: x\r\n\r\n"
HANDSHAKE = (
    b"GET /ws/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def post(body: str, more: str = "") -> bytes:
    """Make an order's request."""
    head = f"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\n{TOKEN}{more}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body.encode()


@pytest.fixture
def admission(monkeypatch: pytest.MonkeyPatch) -> Iterator[Admission]:
    """Give the admission of the server that is made next."""
    made = Admission(server.ROOM)
    monkeypatch.setattr(server, "Admission", lambda _size: made)
    yield made
    assert made.count == 0


def fill(admission: Admission, kind: Kind = Kind.USUAL, count: int = server.ROOM) -> None:
    """Have others, or nobody any more, take the room."""
    admission.rooms[kind].waiting = count


async def test_refusal_is_clear(bench: Bench, admission: Admission) -> None:
    """What is too much is answered 503 with code, ``Retry-After`` and the request's own name; nothing is sent on."""
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        fill(admission)
        await stream.send_all(post(ORDER, "X-Request-ID: mine-1\r\n"))
        with trio.fail_after(10):
            received = bytes(await stream.receive_some())
            while not received.endswith(b"}"):
                received += bytes(await stream.receive_some())
        fill(admission, count=0)
    head, _, body = received.partition(b"\r\n\r\n")
    answer = json.loads(body)
    assert head.split()[1] == b"503"
    assert b"retry-after: 1" in head.lower()
    assert b"x-request-id: mine-1" in head.lower()
    assert answer["success"] is False
    assert answer["error"]["code"] == "ENGINE_OVERLOADED"
    assert answer["meta"]["request_id"] == "mine-1"
    assert bench.memory.rings["ingress.front-0"].head == 0


async def test_refused_connection_is_kept(bench: Bench, admission: Admission) -> None:
    """The connection of a refusal goes on: also with a body in pieces, and with requests that came before answers."""
    async with serving(bench) as (served, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.fail_after(10):
            for request in (SYMBOLS, post(ORDER), SYMBOLS):
                fill(admission)
                middle = len(request) - 5
                await stream.send_all(request[:middle])
                await trio.testing.wait_all_tasks_blocked()
                await stream.send_all(request[middle:])
                assert (await read_answer(stream))[0] == 503
                fill(admission, count=0)
                await stream.send_all(SYMBOLS)
                assert (await read_answer(stream))[0] == 200
            assert served.connection_count == 1


async def test_refused_body_that_stops_is_a_timeout(
    bench: Bench, admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is refused and does not send the rest has its connection closed, as after half a head."""
    monkeypatch.setattr(server, "_SWEEP_INTERVAL_S", 0.02)
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.2)
    async with serving(bench) as (served, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        fill(admission)
        await stream.send_all(post(ORDER)[:-5])
        with trio.fail_after(10):
            assert (await read_answer(stream))[0] == 408
            assert not await stream.receive_some()
            while served.connection_count:
                await trio.testing.wait_all_tasks_blocked()
        fill(admission, count=0)


async def test_handshake_is_refused(bench: Bench, admission: Admission) -> None:
    """A WebSocket's handshake is a request: refused like any other, and taken when there is room."""
    async with bench.engine(lambda _: []), serving(bench) as (_, port):
        fill(admission)
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(HANDSHAKE)
            with trio.fail_after(10):
                status, body = await read_answer(stream)
        assert (status, body["error"]["code"]) == (503, "ENGINE_OVERLOADED")
        fill(admission, count=0)
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(HANDSHAKE)
            with trio.fail_after(10):
                assert b" 101 " in bytes(await stream.receive_some())
            assert admission.count == 0


async def test_operators_are_answered_meanwhile(bench: Bench, admission: Admission) -> None:
    """While orders are refused, ``/health`` is answered and cancels are let through to be judged."""
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        fill(admission)
        await stream.send_all(HEALTH)
        with trio.fail_after(10):
            assert (await read_answer(stream))[0] == 200
            await stream.send_all(b"DELETE /api/v1/orders/1 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await read_answer(stream))[0] == 401
            await stream.send_all(SYMBOLS)
            assert (await read_answer(stream))[0] == 503
        fill(admission, count=0)


async def test_orders_that_wait_for_the_engine_take_no_room(bench: Bench, admission: Admission) -> None:
    """However many orders wait for a matcher that does not answer, others are answered."""
    waiting = trio.Event()
    asked = 0

    def hold_back(_: object) -> list[tuple[str, Records]]:
        nonlocal asked
        asked += 1
        if asked == 12:
            waiting.set()
        return []

    async with bench.engine(hold_back), serving(bench) as (_, port):
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(12)]
        for stream in streams:
            await stream.send_all(post(ORDER))
        with trio.fail_after(10):
            await waiting.wait()
            assert admission.count == 0
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(SYMBOLS)
                assert (await read_answer(stream))[0] == 200
            for stream in streams:
                assert (await read_answer(stream))[0] == 504
                await stream.aclose()


async def test_slow_bodies_take_no_room(bench: Bench, admission: Admission) -> None:
    """However many requests have sent only a part of their body, others are answered; who goes away leaves nothing."""
    async with serving(bench) as (served, port):
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(30)]
        for stream in streams:
            await stream.send_all(post(ORDER)[:-5])
        with trio.fail_after(10):
            while served.connection_count < len(streams):
                await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked()
            assert admission.count == 0
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(SYMBOLS)
                assert (await read_answer(stream))[0] == 200
            for stream in streams:
                await stream.aclose()
            while served.connection_count:
                await trio.testing.wait_all_tasks_blocked()


async def test_refused_at_its_turn(bench: Bench, admission: Admission) -> None:
    """A body that comes late, when there is no room any more, is refused by the same answer."""
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(post(ORDER)[:-5])
        await trio.testing.wait_all_tasks_blocked()
        fill(admission)
        await stream.send_all(post(ORDER)[-5:])
        with trio.fail_after(10):
            status, body = await read_answer(stream)
        assert (status, body["error"]["code"]) == (503, "ENGINE_OVERLOADED")
        fill(admission, count=0)
