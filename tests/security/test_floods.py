"""One bad client costs the others nothing: floods of every kind, while another client places and cancels orders.

All of it goes to one front, from one address. The calls of the other client, from another, are all answered with what
they would be answered otherwise. When the flood is over the front has no connection of it, and its memory is bounded.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import pytest
from tests.e2e.users import Json, User
from tests.engines import Engine
from tests.security.raw_http import Line
from tests.web.raw_websocket import frame

ORDER: Final[Json] = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.1", "price": "100"}
ATTACKER: Final = "127.0.0.66"
CALLS_MIN: Final = 10
"""So often the other client is served at least."""
GROWTH_BYTES_MAX: Final = 192 << 20
"""What a front may grow by in all floods together: 64 MiB of bodies, buffers, and what is not given back."""
GET: Final = b"GET /api/v1/symbols HTTP/1.1\r\nHost: x\r\n\r\n"
POST: Final = b"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\n"
HANDSHAKE: Final = (
    b"GET /ws/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def push(line: Line, data: bytes) -> None:
    """Send what the server takes without waiting, and read nothing."""
    line.socket.setblocking(False)
    with suppress(OSError):
        line.socket.send(data)


def pipelines(url: str, lines: ExitStack) -> None:
    """Send a thousand requests on each of many connections, and read no answer."""
    for line in opened(url, 40, lines):
        push(line, GET * 1000)


def pipelines_that_are_read(url: str, lines: ExitStack) -> None:
    """Send a hundred requests on each of several connections, and read all the answers."""
    for line in opened(url, 10, lines):
        line.send(GET * 100)
        for _ in range(100):
            answer = line.read()
            assert answer is not None
            assert answer.status in {200, 429, 503}


def heads_that_stop(url: str, lines: ExitStack) -> None:
    """Begin heads and never end them."""
    for number, line in enumerate(opened(url, 500, lines)):
        push(line, GET[: 5 + number % 60])


def bodies_that_stop(url: str, lines: ExitStack) -> None:
    """Send all of a large body but its last byte."""
    for line in opened(url, 300, lines):
        push(line, POST + b"Content-Length: 131072\r\n\r\n" + b" " * 131071)


def chunks_that_drip(url: str, lines: ExitStack) -> None:
    """Send a body in chunks of one byte, each with an extension."""
    for line in opened(url, 100, lines):
        push(line, POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1;a=b\r\nx\r\n" * 3000)


def answers_that_nobody_reads(url: str, lines: ExitStack) -> None:
    """Ask for large answers and read none."""
    for line in opened(url, 60, lines):
        line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        push(line, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 50)


def connections_that_break(url: str, lines: ExitStack) -> None:
    """Connect, ask, and reset the connection at once."""
    for _ in range(500):
        line = Line(url, ATTACKER)
        push(line, GET)
        line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.socket.close()


def halves_that_stay(url: str, lines: ExitStack) -> None:
    """Ask, say that nothing more will come, and stay."""
    for line in opened(url, 200, lines):
        push(line, GET)
        with suppress(OSError):
            line.socket.shutdown(socket.SHUT_WR)


def prefaces_of_http2(url: str, lines: ExitStack) -> None:
    """Speak HTTP/2, which nobody here does."""
    for line in opened(url, 200, lines):
        push(
            line,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9) + b"\x00\x00\x04\x01\x05\x00\x00\x00\x01\x82\x84\x86A" * 100,
        )


def garbage(url: str, lines: ExitStack) -> None:
    """Send what is no protocol."""
    for number, line in enumerate(opened(url, 200, lines)):
        push(line, bytes([number % 256]) * 5000)


def expectations(url: str, lines: ExitStack) -> None:
    """Ask whether to go on, and never do."""
    for line in opened(url, 200, lines):
        push(line, POST + b"Expect: 100-continue\r\nContent-Length: 100000\r\n\r\n")


def wrong_tokens(url: str, lines: ExitStack) -> None:
    """Guess tokens."""
    for line in opened(url, 10, lines):
        push(
            line,
            b"GET /api/v1/balances HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n"
            % (b"a.b." + b"c" * 3000)
            * 20,
        )


def sockets_that_flood(url: str, lines: ExitStack) -> None:
    """Subscribe, ping and talk nonsense on many WebSockets, and read nothing."""
    wishes = frame(b'{"op":"subscribe","id":1,"channels":["book:BTC/USDT","trades:BTC/USDT","ticker:BTC/USDT"]}')
    for line in opened(url, 60, lines):
        push(line, HANDSHAKE + (wishes + frame(b"x" * 125, 9) + frame(b"{")) * 200)


FLOODS: Final[list[Callable[[str, ExitStack], None]]] = [
    pipelines,
    heads_that_stop,
    bodies_that_stop,
    connections_that_break,
    halves_that_stay,
    prefaces_of_http2,
    garbage,
    expectations,
    wrong_tokens,
    sockets_that_flood,
]
SLOW_FLOODS: Final = (pipelines_that_are_read, chunks_that_drip, answers_that_nobody_reads)
"""They take their time."""


def opened(url: str, count: int, lines: ExitStack) -> Iterator[Line]:
    """Open connections one by one; they stay open until the flood is over."""
    for _ in range(count):
        line = Line(url, ATTACKER)
        lines.callback(line.socket.close)
        yield line


@pytest.fixture(scope="module")
def resident_bytes_before(target: Engine) -> int:
    """Tell what memory the front has before all floods."""
    return resident_bytes(target)


def resident_bytes(engine: Engine) -> int:
    """Tell how much memory the front has."""
    text = Path(f"/proc/{engine.actors()['front-0']}/status").read_text(encoding="ascii")
    (line,) = [line for line in text.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("flood", [*FLOODS, *(pytest.param(flood, marks=pytest.mark.long) for flood in SLOW_FLOODS)])
def test_orders_of_others_are_answered_meanwhile(
    target: Engine, victim: User, resident_bytes_before: int, flood: Callable[[str, ExitStack], None]
) -> None:
    """While one address floods, each order and cancel of another is answered as ever, and memory is bounded."""
    faults: list[BaseException] = []

    def attack(lines: ExitStack) -> None:
        try:
            flood(target.url, lines)
        except BaseException as fault:  # told by the test's own thread
            faults.append(fault)

    with ExitStack() as lines:
        attacker = threading.Thread(target=attack, args=(lines,))
        attacker.start()
        count = 0
        while attacker.is_alive() or count < CALLS_MIN:
            order = victim.place(**ORDER)["order"]
            assert order["status"] == "open"
            assert victim.call("DELETE", f"/orders/{order['id']}")["order"]["status"] == "cancelled"
            count += 1
        attacker.join()
        assert resident_bytes(target) - resident_bytes_before < GROWTH_BYTES_MAX
    assert faults == []
    wait_for_quiet(victim)


def wait_for_quiet(user: User) -> None:
    """Wait until the front has no connection left but the asking one."""
    deadline_s = time.monotonic() + 30
    while True:
        text = user.http.get(str(user.http.base_url.copy_with(path="/metrics"))).text
        (line,) = [row for row in text.splitlines() if row.startswith("tradeengine_front_connections{")]
        if float(line.rpartition(" ")[2]) <= 1:
            return
        assert time.monotonic() < deadline_s, line
        time.sleep(0.1)  # the page is written twice a second and rings no bell
