"""Answers that are given before the client has sent everything: it may send on, and sees them all the same."""

from __future__ import annotations

import pytest
import trio
from tests.web.bench import Bench
from tests.web.served import UPGRADE, read_answer, serving

BODY_BYTES = 4_000_000
PIECE = b"\xff" * 50_000


@pytest.mark.parametrize(
    ("request_line", "headers", "expected"),
    [
        ("POST /api/v1/nothing", f"Content-Length: {BODY_BYTES}\r\n", 404),
        ("POST /api/v1/orders", f"Content-Length: {BODY_BYTES}\r\n", 401),
        ("GET /ws/nothing", UPGRADE, 404),
    ],
)
async def test_answer_is_seen_by_who_is_still_sending(
    bench: Bench, request_line: str, headers: str, expected: int
) -> None:
    """A client that sends megabytes behind a head that is refused is not cut off before it has read why."""
    async with serving(bench) as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"{request_line} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
        with trio.fail_after(10):
            for _ in range(BODY_BYTES // len(PIECE)):
                await stream.send_all(PIECE)
            assert (await read_answer(stream))[0] == expected
