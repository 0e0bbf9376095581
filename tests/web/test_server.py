"""The server on real sockets: connections end when they should, and nobody's connection costs the others theirs."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypercorn.events import Event, RawData
from hypercorn.protocol.h11 import H11Protocol
from tests.web.bench import Bench, Records, bearer, make_order_event
from tests.web.served import HEALTH, read_answer, receive, serving

from tradeengine.core.records import EventKind
from tradeengine.web import connection, server

ORDER_ID = 1 << 40


async def test_connection_is_closed_when_asked(bench: Bench) -> None:
    """``Connection: close`` is answered and the connection then closed, at once."""
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        with trio.fail_after(10):
            assert (await read_answer(stream))[0] == 200
            assert await stream.receive_some() == b""


async def test_connection_is_kept_for_many_requests(bench: Bench) -> None:
    """One connection carries request after request, also when they come before the answers."""
    async with serving(bench) as (served, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for _ in range(3):
            await stream.send_all(HEALTH)
            assert (await read_answer(stream))[0] == 200
        assert served.connection_count == 1
        await stream.send_all(HEALTH * 2)
        received = b""
        with trio.fail_after(10):
            while received.count(b'"success":true') < 2:
                received += await receive(stream)


async def test_idle_connections_are_closed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that asks nothing for a while, or never asked anything, is closed; its place is free again."""
    monkeypatch.setattr(server, "_SWEEP_INTERVAL_S", 0.02)
    async with serving(bench, keep_alive_s=0.1) as (served, port):
        used, silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
        async with used, silent:
            await used.send_all(HEALTH)
            await read_answer(used)
            with trio.fail_after(10):
                assert await used.receive_some() == await silent.receive_some() == b""
        await trio.testing.wait_all_tasks_blocked()
        assert served.connection_count == 0


async def test_connections_beyond_the_bound_are_closed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection after the last allowed one is closed at once; those before it go on."""
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)
    async with serving(bench) as (_, port):
        kept = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
        for stream in kept:
            await stream.send_all(HEALTH)
            await read_answer(stream)
        async with await trio.open_tcp_stream("127.0.0.1", port) as beyond:
            with trio.fail_after(10):
                assert await beyond.receive_some() == b""
        for stream in kept:
            await stream.send_all(HEALTH)
            assert (await read_answer(stream))[0] == 200
            await stream.aclose()


async def test_stop_lets_open_requests_finish(bench: Bench) -> None:
    """When the server is asked to stop, a request that waits for its outcome is still answered."""
    ring = bench.memory.rings["events.0"]
    asked, go_on = trio.Event(), trio.Event()
    sent: list[np.void] = []

    def hold_back(command: np.void) -> list[tuple[str, Records]]:
        sent.append(command)
        asked.set()
        return []

    order = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "50000"}
    body = json.dumps(order).encode()
    head = f"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer()['Authorization']}\r\n"
    async with bench.engine(hold_back), trio.open_nursery() as nursery:

        async def publish_late() -> None:
            await go_on.wait()
            events = make_order_event(sent[0], EventKind.ACCEPTED, ring, ORDER_ID)
            ring.writer({bell.index: bell for bell in bench.memory.bells.values()}).publish(events)

        nursery.start_soon(publish_late)
        stream: trio.SocketStream
        async with serving(bench) as (_, port):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await asked.wait()
            nursery.start_soon(_expect_answer, stream)
            # Leaving the block asks the server to stop; the outcome comes only after that.
            nursery.start_soon(_set_soon, go_on)


async def _set_soon(event: trio.Event) -> None:
    await trio.testing.wait_all_tasks_blocked()
    event.set()


async def _expect_answer(stream: trio.SocketStream) -> None:
    async with stream:
        status, body = await read_answer(stream)
    assert (status, body["data"]["order"]["id"]) == (201, str(ORDER_ID))


async def test_fault_in_one_connection_ends_it_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours while one connection is served ends that connection; the others and new ones go on."""
    handle = H11Protocol.handle

    async def fail(protocol: H11Protocol, event: Event) -> None:
        if isinstance(event, RawData) and b"/fault" in event.data:
            raise RuntimeError("a fault of the test's own")
        await handle(protocol, event)

    monkeypatch.setattr(H11Protocol, "handle", fail)
    async with serving(bench) as (served, port):
        first, second = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
        async with first, second:
            await second.send_all(HEALTH)
            assert (await read_answer(second))[0] == 200
            await first.send_all(HEALTH.replace(b"/health", b"/fault"))
            with trio.fail_after(10):
                assert await first.receive_some() == b""
            await second.send_all(HEALTH)
            assert (await read_answer(second))[0] == 200
        async with await trio.open_tcp_stream("127.0.0.1", port) as third:
            await third.send_all(HEALTH)
            assert (await read_answer(third))[0] == 200
            assert served.connection_count == 1


async def test_slow_body_is_a_timeout(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that does not come is answered 408, not waited for without end."""
    monkeypatch.setattr(connection, "BODY_TIMEOUT_S", 0.05)
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        head = f"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer()['Authorization']}\r\n"
        await stream.send_all(f"{head}Content-Length: 10\r\n\r\n{{".encode())
        with trio.fail_after(10):
            status, body = await read_answer(stream)
    assert (status, body["error"]["code"]) == (408, "REQUEST_TIMEOUT")


TIME = b"GET /api/v1/time HTTP/1.1\r\n"
POST = b"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\nTOKEN\r\n"
HANDSHAKE = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
UPGRADE = b"GET /ws/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"


@pytest.mark.parametrize(
    ("request_", "status", "code", "said"),
    [
        (TIME + b"\r\n", 400, "INVALID_REQUEST", "Host"),
        (TIME + b"Host: a\r\nHost: b\r\n\r\n", 400, "INVALID_REQUEST", "Host"),
        (TIME + b"Host: x\r\nBad Header\r\n\r\n", 400, "INVALID_REQUEST", "Bad Header"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, "INVALID_REQUEST", "request line"),
        (POST + b"Content-Length: -5\r\n\r\n", 400, "INVALID_REQUEST", "Content-Length"),
        (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n", 400, "INVALID_REQUEST", "Content-Length"),
        (POST + b"Content-Length: 99999999999999999999\r\n\r\n{", 413, "BODY_TOO_LARGE", "larger"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nabc", 400, "INVALID_REQUEST", "chunk"),
        (
            POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + TIME + b"Host: x\r\n\r\n",
            400,
            "INVALID_REQUEST",
            "both",
        ),
        (POST + b"Transfer-Encoding: gzip\r\n\r\nabc", 501, "NOT_IMPLEMENTED", "Content-Length"),
        (TIME + b"Host: x\r\nX: " + b"a" * 17_000, 431, "HEADERS_TOO_LARGE", "headers"),
        (TIME + b"Host: x\r\nX: " + b"a" * 5_000_000 + b"\r\n\r\n", 431, "HEADERS_TOO_LARGE", "headers"),
        (UPGRADE + HANDSHAKE + b"Origin: http://[\r\n\r\n", 403, "FORBIDDEN", "origin"),
        (UPGRADE.replace(b" HTTP", b"?" + b"&a=1" * 17 + b" HTTP") + HANDSHAKE + b"\r\n", 400, "INVALID_REQUEST", "16"),
        (UPGRADE + b"\r\n", 400, "INVALID_REQUEST", "protocol"),
        (UPGRADE + b"Sec-WebSocket-Version: 12\r\nSec-WebSocket-Key: x\r\n\r\n", 400, "INVALID_REQUEST", "protocol"),
    ],
)
async def test_broken_protocol_is_refused_in_the_envelope(
    bench: Bench, request_: bytes, status: int, code: str, said: str
) -> None:
    """What never reaches a handler is refused as all else is: code, a sentence, a request id; then it is closed."""
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request_.replace(b"TOKEN", f"Authorization: {bearer()['Authorization']}".encode()))
        with trio.fail_after(10):
            answered, body = await read_answer(stream)
            assert not await stream.receive_some()
    assert (answered, body["success"], body["error"]["code"]) == (status, False, code)
    assert said in body["error"]["message"]
    assert body["meta"]["request_id"]


async def test_request_whose_body_breaks_off_does_nothing(bench: Bench) -> None:
    """A body that ends before it is whole, or is no body, leaves its request undone."""
    head = f"DELETE /api/v1/orders HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer()['Authorization']}\r\n".encode()
    async with serving(bench) as (served, port):
        for rest in (b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nabc", b"Content-Length: 5\r\n\r\nab"):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(head + rest)
                await stream.send_eof()
                with trio.fail_after(10):
                    while await stream.receive_some():
                        pass
        while served.connection_count:
            await trio.testing.wait_all_tasks_blocked()
    assert bench.memory.rings["ingress.front-0"].head == 0


@pytest.mark.parametrize("chunked", [True, False])
async def test_endless_body_is_cut_off(bench: Bench, monkeypatch: pytest.MonkeyPatch, chunked: bool) -> None:
    """A body without end is not read for ever: its connection ends, and what was kept of it is bounded."""
    monkeypatch.setattr(connection, "DISCARD_BYTES_MAX", 1 << 18)
    async with serving(bench) as (served, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        head = f"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer()['Authorization']}\r\n"
        length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 1000000000"
        await stream.send_all(f"{head}{length}\r\n\r\n".encode())
        piece = b"1000\r\n" + b" " * 4096 + b"\r\n" if chunked else b" " * 4096
        with trio.fail_after(20), pytest.raises(trio.BrokenResourceError):
            await send_for_ever(stream, piece)
        while served.connection_count:
            await trio.testing.wait_all_tasks_blocked()


async def send_for_ever(stream: trio.SocketStream, piece: bytes) -> None:
    """Send until the other side has had enough. Raises trio.BrokenResourceError then."""
    while True:
        await stream.send_all(piece)


@pytest.mark.parametrize("chunked", [True, False])
async def test_too_large_body_is_answered_when_it_has_come(bench: Bench, chunked: bool) -> None:
    """A client that sends too much and only then reads gets its 413, and may go on using the connection."""
    size = 100 * bench.front.settings.http.body_bytes_max
    head = f"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer()['Authorization']}\r\n"
    if chunked:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (size, b" " * size)
        length = "Transfer-Encoding: chunked"
    else:
        body = b" " * size
        length = f"Content-Length: {size}"
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for _ in range(2):
            await stream.send_all(f"{head}{length}\r\n\r\n".encode() + body)
            status, answer = await read_answer(stream)
            assert (status, answer["error"]["code"]) == (413, "BODY_TOO_LARGE")


async def test_configured_certificate_means_tls(bench: Bench, tmp_path: Path) -> None:
    """With certificate and key configured the socket speaks TLS, and plain HTTP gets nothing."""
    certificate, key = make_certificate(tmp_path)
    http = msgspec.structs.replace(
        bench.front.settings.http, tls_certificate=str(certificate), tls_key=str(key), stop_timeout_s=0.2
    )
    bench.front.settings = msgspec.structs.replace(bench.front.settings, http=http)
    context = ssl.create_default_context(cafile=str(certificate))
    async with serving(bench) as (_, port):
        plain = await trio.open_tcp_stream("127.0.0.1", port)
        async with plain:
            await plain.send_all(HEALTH)
            assert not bytes(await plain.receive_some()).startswith(b"HTTP/")
        tcp = await trio.open_tcp_stream("127.0.0.1", port)
        async with trio.SSLStream(tcp, context, server_hostname="localhost", https_compatible=True) as stream:
            await stream.send_all(HEALTH)
            received = b""
            while b'"success":true' not in received:
                received += bytes(await stream.receive_some())


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for localhost that signs itself, and its key."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private_key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "certificate.pem", folder / "key.pem"
