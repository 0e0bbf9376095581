"""Who wants to wear out admission: odd requests leave nothing behind, go on after nothing, and hold up nobody."""

from __future__ import annotations

import socket
from collections import Counter

import pytest
import trio
import trio.testing
from tests.web.bench import Bench
from tests.web.served import HEALTH, read_answer, receive, serving
from tests.web.test_admitting import HANDSHAKE, SYMBOLS, admission, fill

from tradeengine.web.admission import Admission

__all__ = ["admission"]

BAD_HANDSHAKES = {
    "an old version": HANDSHAKE.replace(b"Version: 13", b"Version: 12"),
    "no key": HANDSHAKE.replace(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""),
    "HTTP/1.0": HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0"),
}


async def exchange(port: int, sent: bytes) -> bytes:
    """Send bytes on a connection of their own; returns all that comes until the server closes it."""
    received = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(sent)
        with trio.fail_after(10):
            while data := await stream.receive_some():
                received += bytes(data)
    return received


@pytest.mark.parametrize("name", BAD_HANDSHAKES)
async def test_bad_handshakes_take_no_room(bench: Bench, admission: Admission, name: str) -> None:
    """A handshake that nobody can answer is refused, and its place is free again: the room is as large as before."""
    async with bench.engine(lambda _: []), serving(bench) as (_, port):
        for _ in range(3):
            assert (await exchange(port, BAD_HANDSHAKES[name])).split()[1] == b"400"
        assert admission.count == 0


async def test_head_is_refused(bench: Bench, admission: Admission) -> None:
    """A refused HEAD is answered like any other, without a body, and its connection goes on."""
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        fill(admission)
        with trio.fail_after(10):
            await stream.send_all(SYMBOLS.replace(b"GET", b"HEAD"))
            received = b""
            while not received.endswith(b"\r\n\r\n"):
                received += await receive(stream)
            assert received.split()[1] == b"503"
            await stream.send_all(HEALTH)
            assert (await read_answer(stream))[0] == 200
        fill(admission, count=0)


async def test_late_body_of_a_route_without_one_is_refused(bench: Bench, admission: Admission) -> None:
    """Whoever sends a body where none is asked for passes admission by no other way than everyone else."""
    request = SYMBOLS.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n{}")
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request[:-1])
        await trio.testing.wait_all_tasks_blocked()
        fill(admission)
        await stream.send_all(request[-1:])
        with trio.fail_after(10):
            assert (await read_answer(stream))[0] == 503
        fill(admission, count=0)


async def test_refusals_of_many_requests_at_once_hold_up_nobody(bench: Bench, admission: Admission) -> None:
    """Between the refusals of requests that came in one piece others have their turns."""
    count = 200
    turns = 0
    turn_of_refusal: list[int] = []
    admission.note_refusal = lambda: turn_of_refusal.append(turns)

    async def count_turns() -> None:
        nonlocal turns
        while len(turn_of_refusal) < count:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        fill(admission)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(count_turns)
                await stream.send_all(SYMBOLS * count)
            received = b""
            while received.count(b"HTTP/1.1 503") < count or not received.endswith(b"}"):
                received += await receive(stream)
        fill(admission, count=0)
    assert max(Counter(turn_of_refusal).values()) <= 2


async def test_stop_lets_refusals_go_out(bench: Bench, admission: Admission) -> None:
    """When the server stops, a refusal that its client is slow to take goes out to its last byte."""
    refused: list[None] = []
    admission.note_refusal = lambda: refused.append(None)
    end = trio.socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    async with trio.open_nursery() as nursery, serving(bench) as (served, port):
        await end.connect(("127.0.0.1", port))
        fill(admission)
        sent = 0
        with trio.fail_after(30):
            while not any(connection.send_lock.locked() for connection in served._connections):
                if len(refused) == sent:
                    await end.send(SYMBOLS)
                    sent += 1
                await trio.lowlevel.checkpoint()
        fill(admission, count=0)
        received = bytearray()

        async def read_slowly() -> None:
            while served.connection_count:
                await trio.testing.wait_all_tasks_blocked()
                received.extend(await end.recv(1 << 16))
            while data := await end.recv(1 << 16):
                received.extend(data)

        nursery.start_soon(read_slowly)
    end.close()
    heads, bodies = received.count(b"HTTP/1.1 503"), received.count(b'"timestamp":"')
    assert received.endswith(b'Z"}}')
    assert heads == bodies == len(refused)
