"""Requests that are slow, endless or odd on purpose: they end in time, in the envelope, and cost the others nothing."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
import structlog
import trio
import trio.testing
from tests.web.bench import Bench, bearer
from tests.web.served import HEALTH, read_answer, serving

from tradeengine.web import connection, server
from tradeengine.web.refusals import HEADERS_MAX
from tradeengine.web.serve import HEADER_BYTES_MAX

TOKEN = f"Authorization: {bearer()['Authorization']}\r\n".encode()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a head have a moment only."""
    monkeypatch.setattr(server, "_SWEEP_INTERVAL_S", 0.02)
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.2)


@pytest.mark.parametrize(
    "head",
    [
        b"G",
        b"GET /health HTTP/1.1",
        b"GET /health HTTP/1.1\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n",
        b"GET /ws/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    ],
)
@pytest.mark.usefixtures("quick")
async def test_head_that_stops_is_a_timeout(bench: Bench, head: bytes) -> None:
    """A request whose head does not come to its end is answered 408, also on a connection that was used before."""
    async with serving(bench) as (served, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(HEALTH)
        assert (await read_answer(stream))[0] == 200
        await stream.send_all(head)
        with trio.fail_after(10):
            status, body = await read_answer(stream)
            assert not await stream.receive_some()
        assert (status, body["error"]["code"]) == (408, "REQUEST_TIMEOUT")
        while served.connection_count:
            await trio.testing.wait_all_tasks_blocked()


@pytest.mark.usefixtures("quick")
async def test_head_that_trickles_is_a_timeout(bench: Bench) -> None:
    """Who sends a head byte by byte gets no more time by it: one limit is for the whole of it."""
    async with serving(bench) as (served, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:

        async def trickle() -> None:
            await stream.send_all(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            with suppress(trio.BrokenResourceError):
                while True:
                    await stream.send_all(b"a")
                    await trio.sleep(0.01)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trickle)
                assert (await read_answer(stream))[0] == 408
        while served.connection_count:
            await trio.testing.wait_all_tasks_blocked()


@pytest.mark.usefixtures("quick")
async def test_others_are_answered_meanwhile(bench: Bench) -> None:
    """However many heads stand still, requests of others are answered, and the places are free again afterwards."""
    async with serving(bench) as (served, port):
        slow = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(200)]
        for stream in slow:
            await stream.send_all(b"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\n")
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(HEALTH)
            assert (await read_answer(stream))[0] == 200
        with trio.fail_after(20):
            for stream in slow:
                assert (await read_answer(stream))[0] == 408
                await stream.aclose()
            while served.connection_count:
                await trio.testing.wait_all_tasks_blocked()


@pytest.mark.usefixtures("quick")
async def test_request_that_ends_after_its_refusal_does_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes of a head after it was answered 408, and before the connection is closed, is not even read."""
    close = trio.Event()

    async def wait(_: object) -> None:
        await close.wait()

    monkeypatch.setattr(server._Connection, "linger", wait)
    async with serving(bench) as (served, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"DELETE /api/v1/orders HTTP/1.1\r\nHost: x\r\n" + TOKEN)
        with trio.fail_after(10):
            assert (await read_answer(stream))[0] == 408
            with structlog.testing.capture_logs() as said:
                await stream.send_all(b"\r\n")
                await trio.testing.wait_all_tasks_blocked()
            assert said == []
            close.set()
            assert not await stream.receive_some()
            while served.connection_count:
                await trio.testing.wait_all_tasks_blocked()
    assert bench.memory.rings["ingress.front-0"].head == 0


async def test_body_that_trickles_is_a_timeout(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends a body byte by byte gets no more time by it."""
    monkeypatch.setattr(connection, "BODY_TIMEOUT_S", 0.2)
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\n" + TOKEN + b"Content-Length: 4000\r\n\r\n")

        async def trickle() -> None:
            while True:
                await stream.send_all(b" ")
                await trio.sleep(0.01)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trickle)
                status, body = await read_answer(stream)
                nursery.cancel_scope.cancel()
        assert (status, body["error"]["code"]) == (408, "REQUEST_TIMEOUT")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /health?" + b"a" * HEADER_BYTES_MAX + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET /" + b"a" * HEADER_BYTES_MAX, 431),
        (b"A" * HEADER_BYTES_MAX * 2, 431),
        (b"\r\n" * HEADER_BYTES_MAX + HEALTH, 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * (HEADERS_MAX - 1) + b"\r\n", 200),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * HEADERS_MAX + b"\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 3000 + b"\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100_000 + b"\r\n", 431),
    ],
)
async def test_head_that_is_too_large_is_refused(bench: Bench, head: bytes, status: int) -> None:
    """A request line and headers beyond the bound in bytes or in number are answered 431, up to the bound as ever."""
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(head)
        with trio.fail_after(10):
            answered, body = await read_answer(stream)
        assert answered == status
        assert status == 200 or body["error"]["code"] in {"HEADERS_TOO_LARGE", "INVALID_REQUEST"}


async def test_no_upgrade_to_http2_in_the_clear(bench: Bench) -> None:
    """An upgrade to h2c, by which requests could be smuggled past a proxy, is not taken up."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(HEALTH[:-2] + upgrade)
        with trio.fail_after(10):
            assert (await read_answer(stream))[0] == 200


async def test_one_network_cannot_take_all_connections(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has a network of IPv6 has one address's share of the connections, from whichever addresses of it."""
    addresses = iter(["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::"])
    monkeypatch.setattr(server, "_peer_of", lambda _: next(addresses))
    monkeypatch.setattr(server, "CONNECTIONS_PER_ADDRESS_MAX", 2)
    async with serving(bench) as (_, port):
        streams = []
        for is_served in (True, True, False, True):
            streams.append(await trio.open_tcp_stream("127.0.0.1", port))
            await streams[-1].send_all(HEALTH)
            with trio.fail_after(10), suppress(trio.BrokenResourceError):
                assert bool(await streams[-1].receive_some()) is is_served
        for stream in streams:
            await stream.aclose()


async def test_one_address_cannot_take_all_connections(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections of one address are bounded, unless it is a proxy's that we trust; one that ends makes room."""
    monkeypatch.setattr(server, "CONNECTIONS_PER_ADDRESS_MAX", 2)
    async with serving(bench) as (served, port):
        kept = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
        for stream in kept:
            await stream.send_all(HEALTH)
            assert (await read_answer(stream))[0] == 200
        async with await trio.open_tcp_stream("127.0.0.1", port) as beyond:
            with trio.fail_after(10):
                assert await beyond.receive_some() == b""
        await kept.pop().aclose()
        while served.connection_count > 1:
            await trio.testing.wait_all_tasks_blocked()
        async with await trio.open_tcp_stream("127.0.0.1", port) as again:
            await again.send_all(HEALTH)
            assert (await read_answer(again))[0] == 200
        await kept.pop().aclose()
    http = msgspec.structs.replace(bench.front.settings.http, trusted_proxies=("127.0.0.1",))
    bench.front.settings = msgspec.structs.replace(bench.front.settings, http=http)
    async with serving(bench) as (_, port):
        for _ in range(4):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(HEALTH)
            assert (await read_answer(stream))[0] == 200
            kept.append(stream)
        for stream in kept:
            await stream.aclose()
