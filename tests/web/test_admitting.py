"""Refusals by admission on real sockets: clear, early, and over with the request."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import msgspec
import pytest
import trio
import trio.testing
from hypercorn.protocol.events import Request
from hypercorn.typing import ConnectionState
from tests.web.bench import Bench, Records, bearer
from tests.web.served import HEALTH, read_answer, serving

from tradeengine.web import server
from tradeengine.web.admission import Admission, Kind
from tradeengine.web.admitting import Door, Trusted
from tradeengine.web.framing import StrictBuffer

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


async def refused_answer(stream: trio.SocketStream, pieces: list[bytes]) -> bytes:
    """Send a request in pieces; returns its answer without what differs from one to the next."""
    for piece in pieces:
        await stream.send_all(piece)
        await trio.testing.wait_all_tasks_blocked()
    received = b""
    with trio.fail_after(10):
        while not received.endswith(b"}"):
            received += bytes(await stream.receive_some())
    return re.sub(rb"date: [^\r]+|[0-9T:.-]+Z", b"", received)


async def test_whole_and_plain_request_is_refused_unread(
    bench: Bench, admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same refusal as of any other, byte for byte, but h11 reads nothing; it is counted, its connection goes on."""
    http = msgspec.structs.replace(bench.front.settings.http, cors_origins=("https://a.example",))
    bench.front.settings = msgspec.structs.replace(bench.front.settings, http=http)
    heads = 0
    read = StrictBuffer.maybe_extract_lines

    def count_heads(buffer: StrictBuffer) -> list[bytearray] | None:
        nonlocal heads
        lines = read(buffer)
        heads += lines is not None
        return lines

    monkeypatch.setattr(StrictBuffer, "maybe_extract_lines", count_heads)
    refused: list[None] = []
    admission.note_refusal = lambda: refused.append(None)
    request = post(ORDER, "X-Request-ID: mine-1\r\nOrigin: https://a.example\r\n")
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        fill(admission)
        whole = await refused_answer(stream, [request])
        assert (heads, len(refused)) == (0, 1)
        assert whole == await refused_answer(stream, [request[:50], request[50:]])
        assert (heads, len(refused)) == (1, 2)
        assert b"access-control-allow-origin: https://a.example" in whole
        fill(admission, count=0)
        await stream.send_all(SYMBOLS)
        assert (await read_answer(stream))[0] == 200


HALVES = {
    "a header's value": b"GET /api/v1/nothing HTTP/1.1\r\nX-Note: ",
    "a body": f"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\nContent-Length: {len(SYMBOLS)}\r\n\r\n".encode(),
}


@pytest.mark.parametrize("half", HALVES)
async def test_request_inside_another_is_none(bench: Bench, admission: Admission, half: str) -> None:
    """Bytes that are a whole request, and came as a part of another one, are that part: there is one answer."""
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        fill(admission)
        with trio.fail_after(10):
            await refused_answer(stream, [HALVES[half], SYMBOLS])
            fill(admission, count=0)
            await stream.send_all(HEALTH)
            status, body = await read_answer(stream)
        assert (status, body["success"]) == (200, True)
        assert "status" in body["data"]


async def test_request_behind_a_malformed_one_is_not_read(bench: Bench, admission: Admission) -> None:
    """What comes behind a request that broke the protocol has no answer, not even a refusal."""
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        fill(admission)
        received = b""
        with trio.fail_after(10):
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n")
            await trio.testing.wait_all_tasks_blocked()
            await stream.send_all(SYMBOLS)
            while part := await stream.receive_some():
                received += bytes(part)
        assert received.count(b"HTTP/1.1 ") == received.count(b"HTTP/1.1 400 ") == 1
        fill(admission, count=0)


async def test_refused_connection_does_not_stay_for_ever(bench: Bench, admission: Admission) -> None:
    """A connection that was refused and asks for nothing more is idle, and is closed as any other."""
    async with serving(bench, keep_alive_s=0.1) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        fill(admission)
        with trio.fail_after(10):
            await stream.send_all(SYMBOLS)
            assert (await read_answer(stream))[0] == 503
            assert not await stream.receive_some()
        fill(admission, count=0)


async def test_refused_connection_is_closed_when_the_server_stops(bench: Bench, admission: Admission) -> None:
    """Once the server stops a connection ends with the refusal that is on its way."""
    async with serving(bench) as (served, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        fill(admission)
        with trio.fail_after(10):
            await stream.send_all(SYMBOLS)
            assert (await read_answer(stream))[0] == 503
            await served._context.terminated.set()
            await stream.send_all(SYMBOLS)
            assert (await read_answer(stream))[0] == 503
            assert not await stream.receive_some()
        fill(admission, count=0)


@pytest.mark.parametrize(
    ("peer", "asked_for"),
    [("10.0.0.1", "203.0.113.9"), ("10.0.0.2", "10.0.0.2")],
    ids=["a trusted proxy", "anybody"],
)
def test_who_asks_is_whom_a_trusted_proxy_names(peer: str, asked_for: str) -> None:
    """Admission is asked for the client that a trusted proxy speaks for, and for nobody else's word; both ways."""
    whose: list[str] = []

    class Asked(Admission):
        is_quiet = False

        def ask(self, _method: str, _path: bytes, address: str) -> None:
            whose.append(address)

        def refuses(self, _method: str, _path: bytes, address: str) -> bool:
            whose.append(address)
            return True

    door = Door(Asked(1), peer, Trusted(frozenset({"10.0.0.1"})))
    headers = [(b"Host", b"x"), (b"X-Forwarded-For", b"198.51.100.7"), (b"x-forwarded-for", b"203.0.113.9, 10.0.0.1")]
    lines = [b"GET /api/v1/symbols HTTP/1.1", *(b"%b: %b" % header for header in headers), b"", b""]
    assert door.refuses(b"\r\n".join(lines)) is not None
    request = Request(
        stream_id=0,
        headers=headers,
        http_version="1.1",
        method="GET",
        raw_path=b"/api/v1/symbols",
        state=ConnectionState({}),
    )
    assert door.ask(request) is None
    assert whose == [asked_for, asked_for]


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
