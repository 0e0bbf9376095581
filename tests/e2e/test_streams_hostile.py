"""Clients that break the rules of WebSocket, of JSON, or of good behaviour: each is told so, and costs nobody else."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from tests.e2e.users import User, make_user
from tests.e2e.watched import token_of
from tests.engines import Engine, running_engine
from tests.web.raw_websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    WAIT_S,
    RawSocket,
    Refused,
    connected,
    frame,
)

MESSAGES_PER_S_MAX = 250  # few enough that a busy machine is faster, or nobody would be refused
FRAME_BYTES_MAX = 65_536
STRIKES_MAX = 20
ENVIRONMENT = {
    "TRADEENGINE_STREAMS_PING_INTERVAL_S": "1.0",
    "TRADEENGINE_STREAMS_MESSAGES_PER_S_MAX": f"{MESSAGES_PER_S_MAX}",
    "TRADEENGINE_STREAMS_FRAME_BYTES_MAX": f"{FRAME_BYTES_MAX}",
}
TOO_LARGE, PROTOCOL_ERROR, NOT_UTF8, ABUSE = 1009, 1002, 1007, 4009
PINGED = json.dumps({"op": "ping", "id": "me"}).encode()


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine for these tests; at the end it must have seen no fault of its own."""
    with running_engine(tmp_path_factory.mktemp("hostile"), environment=ENVIRONMENT) as running:
        front = running.actors()["front-0"]
        yield running
        assert running.actors()["front-0"] == front
        assert [line for line in running.errors if "Traceback" in line or "fault" in line] == []


async def assert_serves(socket: RawSocket) -> None:
    """See that a connection is served as ever."""
    await socket.send_frame(
        msgspec.msgpack.encode(json.loads(PINGED)) if socket.is_binary else PINGED, opcode_of(socket)
    )
    assert (await socket.answer("me"))["type"] == "ack"


def opcode_of(socket: RawSocket) -> int:
    """Give the opcode of the connection's messages."""
    return BINARY if socket.is_binary else TEXT


async def test_flood_is_refused_and_then_closed(venue: Engine) -> None:
    """Who sends more than it may is told so for a while and then closed with 4009; others are served meanwhile."""
    async with connected(venue.url) as flooding, connected(venue.url) as other:
        await flooding.stream.send_all(frame(PINGED) * (MESSAGES_PER_S_MAX * 3))
        await assert_serves(other)
        assert await flooding.close_code() == ABUSE
        told = [message.get("code", "ack") for message in flooding.kept]
        assert told.count("ack") >= MESSAGES_PER_S_MAX
        assert told[-1] == "RATE_LIMITED"
        assert STRIKES_MAX <= told.count("RATE_LIMITED") <= 3 * STRIKES_MAX
        await assert_serves(other)


async def test_insisting_on_nonsense_is_closed(venue: Engine) -> None:
    """Some wrong requests are forgiven; who sends nothing else is told each time and then closed with 4009."""
    async with connected(venue.url) as socket:
        for _ in range(STRIKES_MAX // 2):
            assert (await socket.refusal("fly"))["code"] == "INVALID_REQUEST"
        await assert_serves(socket)
        await socket.stream.send_all(frame(b"{") * 100)
        assert await socket.close_code() == ABUSE
        codes = {message["code"] for message in socket.kept}
        assert codes == {"INVALID_REQUEST"}
        assert len(socket.kept) <= STRIKES_MAX


async def test_guessing_tokens_is_closed(venue: Engine) -> None:
    """Who tries one token after the other is closed with 4009."""
    async with connected(venue.url) as socket:
        guesses = [json.dumps({"op": "auth", "access_token": f"guess-{number}"}).encode() for number in range(100)]
        await socket.stream.send_all(b"".join(frame(guess) for guess in guesses))
        assert await socket.close_code() == ABUSE
        assert {message["code"] for message in socket.kept} == {"UNAUTHORIZED"}


@pytest.mark.parametrize("piece_bytes", [FRAME_BYTES_MAX + 1, 10_000, 1])
async def test_oversized_message_is_closed_with_1009(venue: Engine, piece_bytes: int) -> None:
    """A message over the bound closes with 1009, be it in one frame or in pieces; one at the bound is answered."""
    size = FRAME_BYTES_MAX + 1 if piece_bytes > 1 else 3000
    async with connected(venue.url) as socket:
        padded = PINGED.ljust(min(size, FRAME_BYTES_MAX))
        for content, code in ((padded, None), (padded.ljust(size), TOO_LARGE)):
            pieces = [content[start : start + piece_bytes] for start in range(0, len(content), piece_bytes)]
            frames = [
                frame(piece, TEXT if number == 0 else CONTINUATION, is_last=number == len(pieces) - 1)
                for number, piece in enumerate(pieces)
            ]
            await socket.stream.send_all(b"".join(frames))
            if code is None or piece_bytes == 1:
                assert (await socket.answer("me"))["type"] == "ack"
            else:
                assert await socket.close_code() == code


async def test_message_without_end_is_cut_off(venue: Engine) -> None:
    """A frame that announces a gigabyte, and fragments without a last one, are closed when they are too much."""
    async with connected(venue.url) as socket:
        await socket.stream.send_all(
            struct.pack("!BBQ", 0x81, 0xFF, 1 << 30) + bytes(4) + b" " * (FRAME_BYTES_MAX + 100)
        )
        assert await socket.close_code() == TOO_LARGE
    async with connected(venue.url) as socket:
        await socket.send_frame(b" " * 1000, TEXT, is_last=False)
        for _ in range(70):
            await socket.send_frame(b" " * 1000, CONTINUATION, is_last=False)
        assert await socket.close_code() == TOO_LARGE


async def test_message_in_fragments_is_one_message(venue: Engine) -> None:
    """A message in several frames, with pings between them and empty ones among them, is one message."""
    async with connected(venue.url) as socket:
        await socket.send_frame(PINGED[:5], TEXT, is_last=False)
        await socket.send_frame(b"between", PING)
        await socket.send_frame(b"", CONTINUATION, is_last=False)
        await socket.send_frame(PINGED[5:], CONTINUATION)
        assert (await socket.answer("me"))["type"] == "ack"
        assert socket.pongs == [b"between"]


@pytest.mark.parametrize(
    ("content", "position"),
    [
        (b"", None),
        (b"   ", None),
        (b"{", 1),
        (b"[]", None),
        (b'"ping"', None),
        (b"7", None),
        (b"null", None),
        (b"{'op': 'ping'}", 1),
        (b'{"op": "ping",}', 14),
        (b'{"op": "ping"} {"op": "ping"}', 15),
        (b'\xef\xbb\xbf{"op": "ping"}', 0),
        (b'{"op": "ping", "op": "ping"}', None),
        (b'{"op": "ping", "id": NaN}', None),
        (b'{"op": "ping", "id": 1' + b"0" * 5000 + b"}", None),
        (b'{"op": "ping", "id": "\\ud800"}', None),
        (b'{"op": ' + b"[" * 20_000, None),
        (b'{"op": ' + b'{"a":' * 10_000, None),
        (b"{" + b",".join(b'"f%d": 1' % number for number in range(2000)) + b"}", None),
    ],
)
async def test_malformed_json_is_refused(venue: Engine, content: bytes, position: int | None) -> None:
    """What is not one JSON object that says a thing once is refused with a sentence, and the connection goes on."""
    async with connected(venue.url) as socket:
        await socket.send_frame(content)
        error = await socket.answer(None)
        assert (error["type"], error["code"]) == ("error", "INVALID_REQUEST")
        assert error["details"].get("position", position) == position
        await assert_serves(socket)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        b"\x80\x80",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdd\x00\x10\x00\x00" * 10_000,
        b"\x91" * 60_000,
        b"\x81\xa1a" * 20_000,
        b"\x81\x80\x01",
        b"\x81\x91\x01\x01",
        b"\x81\x01\x01",
        b"\x81\xa1\xff\x01",
        b"\x81\xa3\xed\xa0\x80\x01",
        b"\x90",
        b"\x07",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xc7\x05\x01hello",
        PINGED,
    ],
)
async def test_malformed_msgpack_is_refused(venue: Engine, content: bytes) -> None:
    """What is not one msgpack map with names is refused, however large it claims to be, and the connection goes on."""
    async with connected(venue.url, msgpack=True) as socket:
        await socket.send_frame(content, BINARY)
        error = await socket.answer(None)
        assert (error["type"], error["code"]) == ("error", "INVALID_REQUEST")
        await assert_serves(socket)


@pytest.mark.parametrize(
    "value", [float("nan"), 1.5, b"ping", {"a": 1}, msgspec.msgpack.Ext(5, b"x"), 2**64 - 1, -(2**63), True]
)
async def test_odd_values_of_msgpack_are_refused_by_field(venue: Engine, value: Any) -> None:
    """Values that JSON does not have are refused where they stand, by the field's name."""
    user = make_user(venue, "odd", {"USDT": "1000"})
    order = {
        "op": "place",
        "id": 1,
        "symbol": "BTC/USDT",
        "side": "buy",
        "type": "limit",
        "quantity": "1",
        "price": "5",
    }
    async with connected(venue.url, token=token_of(user), msgpack=True) as socket:
        for name in ("quantity", "price", "symbol", "side", "client_order_id", "expires_at", "op"):
            await socket.send(order | {name: value})
            error = await socket.answer(1)
            assert (error["code"], error["details"]["field"]) == ("INVALID_REQUEST", name)
    assert user.call("GET", "/orders") == []
    user.http.close()


async def test_length_bombs_take_no_memory(venue: Engine) -> None:
    """Hundreds of maps and lists that claim to be enormous leave the front as large as it was."""
    front = venue.actors()["front-0"]
    bomb = frame(b"\xdd\x00\xff\xff\xff" * 10, BINARY) + frame(b"\xdf\x7f\xff\xff\xff", BINARY)
    before = resident_bytes(front)
    for _ in range(30):
        async with connected(venue.url, msgpack=True) as socket:
            await socket.stream.send_all(bomb * 9)
            for _ in range(18):
                assert (await socket.answer(None))["code"] == "INVALID_REQUEST"
    assert resident_bytes(front) - before < 32 << 20


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in use."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


async def test_frames_of_the_other_kind_are_refused(venue: Engine) -> None:
    """Binary frames on a JSON connection, and text on a msgpack one, are refused with a sentence."""
    for is_binary, opcode in ((False, BINARY), (True, TEXT)):
        async with connected(venue.url, msgpack=is_binary) as socket:
            await socket.send_frame(PINGED, opcode)
            assert (await socket.answer(None))["code"] == "INVALID_REQUEST"
            await assert_serves(socket)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(b"\xff\xfe{}"), NOT_UTF8),
        (frame(b'{"op": "\xc3'), NOT_UTF8),
        (frame(PINGED, is_masked=False), PROTOCOL_ERROR),
        (frame(PINGED, 3), PROTOCOL_ERROR),
        (frame(PINGED, 7), PROTOCOL_ERROR),
        (frame(b"", 11), PROTOCOL_ERROR),
        (frame(b"", 15), PROTOCOL_ERROR),
        (frame(PINGED, reserved=4), PROTOCOL_ERROR),
        (frame(PINGED, reserved=1), PROTOCOL_ERROR),
        (frame(bytes(126), PING), PROTOCOL_ERROR),
        (frame(b"", PING, is_last=False), PROTOCOL_ERROR),
        (frame(PINGED, CONTINUATION), PROTOCOL_ERROR),
        (frame(PINGED, is_last=False) + frame(PINGED), PROTOCOL_ERROR),
        (struct.pack("!BBQ", 0x81, 0xFF, 1 << 63) + bytes(4), PROTOCOL_ERROR),
        (struct.pack("!BBH", 0x81, 0xFE, 5) + bytes(4) + b"12345", PROTOCOL_ERROR),
        (frame(b"\x03", CLOSE), PROTOCOL_ERROR),
        (frame(struct.pack("!H", 999), CLOSE), PROTOCOL_ERROR),
        (frame(struct.pack("!H", 1005), CLOSE), PROTOCOL_ERROR),
        (frame(struct.pack("!H", 1000) + b"\xff", CLOSE), NOT_UTF8),
    ],
)
async def test_broken_protocol_is_closed_with_its_code(venue: Engine, sent: bytes, code: int) -> None:
    """What breaks the rules of WebSocket closes the connection with the code that says so; the close frame arrives."""
    async with connected(venue.url) as socket, connected(venue.url) as other:
        await assert_serves(socket)
        await socket.stream.send_all(sent)
        assert await socket.close_code() == code
        await assert_serves(other)


@pytest.mark.parametrize("payload", [b"", struct.pack("!H", 1000), struct.pack("!H", 4321) + b"bye"])
async def test_goodbye_is_answered(venue: Engine, payload: bytes) -> None:
    """A client that closes is answered with its own code and nothing after it."""
    async with connected(venue.url) as socket:
        await socket.send_frame(PINGED)
        await socket.send_frame(payload, CLOSE)
        code = await socket.close_code()
        assert code == (struct.unpack("!H", payload[:2])[0] if payload else None)
        assert [message["type"] for message in socket.kept] == ["ack"]
        assert await socket.stream.receive_some() == b""


async def test_pings_of_clients_are_answered(venue: Engine) -> None:
    """Each ping is answered with what it brought, in order, between everything else."""
    async with connected(venue.url) as socket:
        payloads = [b"", b"x" * 125, bytes(range(100)), b"\xff\xfe"]
        await socket.stream.send_all(b"".join(frame(payload, PING) for payload in payloads))
        await socket.send_frame(b"nobody asked", PONG)
        await assert_serves(socket)
        assert socket.pongs == payloads


async def test_silent_client_is_dropped(venue: Engine) -> None:
    """Who answers two pings in a row with nothing is dropped; who answers, or says anything, stays."""
    async with connected(venue.url) as silent, connected(venue.url) as answering, connected(venue.url) as talking:
        silent.answers_pings = talking.answers_pings = False

        async def read_pings(socket: RawSocket) -> None:
            while socket.ping_count < 4:
                await read_any(socket)
                if socket is talking:
                    await socket.send({"op": "ping", "id": "me"})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_pings, answering)
            nursery.start_soon(read_pings, talking)
            assert await silent.close_code() is None
            assert silent.ping_count == 2


async def read_any(socket: RawSocket) -> None:
    """Read until a ping or a message has come."""
    pings = socket.ping_count
    with trio.move_on_after(0.2):  # well within the interval of pings
        while socket.ping_count == pings:
            await socket.read_frame()


@pytest.mark.parametrize("seed", range(6))
async def test_garbage_harms_nobody(venue: Engine, seed: int) -> None:
    """Random bytes, random frames and frames with turned bits end in answers or a close frame, never in a fault."""
    numbers = random.Random(seed)
    async with connected(venue.url) as other:
        for number in range(15):
            async with connected(venue.url, msgpack=numbers.random() < 0.5) as socket:
                content = bytearray(
                    numbers.randbytes(numbers.randint(1, 3000))
                    if number % 3 == 0
                    else b"".join(frame(random_message(numbers), numbers.choice([TEXT, BINARY])) for _ in range(4))
                )
                if number % 3 == 2:
                    content[numbers.randrange(len(content))] ^= 1 << numbers.randrange(8)
                await socket.stream.send_all(bytes(content))
                await socket.stream.send_all(frame(struct.pack("!H", 1000), CLOSE))
                await socket.stream.send_eof()
                await socket.close_code()
            await assert_serves(other)


def random_message(numbers: random.Random) -> bytes:
    """Make a message that is nearly right."""
    message: dict[str, Any] = {
        "op": numbers.choice(["subscribe", "place", "auth", "cancel", "amend", "ping", 5, None]),
        "id": numbers.choice([1, "a", None, [], 1.5]),
        "channels": numbers.choice([["orders"], ["book:BTC/USDT"], "x", [[]], [None], {}]),
        "order_id": numbers.choice(["1", "-1", "9" * 30, 7, None, "\x00"]),
    }
    kept = {name: value for name, value in message.items() if numbers.random() < 0.8}
    return msgspec.msgpack.encode(kept) if numbers.random() < 0.5 else json.dumps(kept).encode()


@pytest.mark.parametrize(
    ("path", "sent", "expected"),
    [
        ("/ws/stream", frame(PINGED), 101),
        ("/ws/stream", frame(PINGED) * 50, 101),
        ("/ws/trades", frame(PINGED), 101),
        ("/ws/stream", b"\xff" * 100, 101),
        ("/ws/nothing", frame(PINGED) * 50, 404),
        ("/ws/nothing", b"\xff" * 100_000, 404),
    ],
)
async def test_who_speaks_before_the_answer_harms_nobody(venue: Engine, path: str, sent: bytes, expected: int) -> None:
    """What a client sends together with its handshake is heard once it is let in, or thrown away; others go on."""
    async with connected(venue.url) as other:
        try:
            async with connected(venue.url, path, early=sent) as socket:
                assert expected == 101
                if sent.startswith(b"\xff"):
                    assert await socket.close_code() == PROTOCOL_ERROR
                else:
                    for _ in range(sent.count(sent[:2])):
                        await socket.answer("me")
        except Refused as refused:
            assert refused.status == expected  # noqa: PT017 - both ways are right, each at its place
        await assert_serves(other)


async def test_handshake_that_stays_half_costs_nobody(venue: Engine) -> None:
    """Connections that send half a handshake, or leave in the middle, keep nobody else from connecting."""
    halves = []
    for number in range(50):
        stream = await trio.open_tcp_stream("127.0.0.1", int(venue.url.rpartition(":")[2]))
        await stream.send_all(b"GET /ws/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"[: 10 + number])
        halves.append(stream)
    async with connected(venue.url) as socket:
        await assert_serves(socket)
    for stream in halves:
        await trio.aclose_forcefully(stream)


async def test_client_that_leaves_without_a_word_is_forgotten(venue: Engine) -> None:
    """Connections that are cut, also in the middle of orders and subscriptions, leave nothing behind."""
    user: User = make_user(venue, "gone", {"USDT": "100000"})
    order = {"op": "place", "symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.1", "price": "100"}
    for number in range(30):
        async with connected(venue.url, token=token_of(user)) as socket:
            await socket.send({"op": "subscribe", "id": 1, "channels": ["book:BTC/USDT", "orders", "balances"]})
            for _ in range(number % 4):
                await socket.send({**order, "id": 2})
            if number % 2:
                await socket.answer(1)
    with trio.fail_after(WAIT_S):
        while streams_of(venue) != (0, 0):  # noqa: ASYNC110 - the page is written once a second and rings no bell
            await trio.sleep(0.1)
    user.call("DELETE", "/orders")
    user.http.close()


def streams_of(venue: Engine) -> tuple[float, ...]:
    """Return how many clients of streams, and how many channels, the metrics show."""
    with venue.client() as http:
        lines = http.get(f"{venue.url}/metrics").text.splitlines()
    names = ("tradeengine_front_stream_clients{", "tradeengine_front_stream_channels{")
    return tuple(float(line.rpartition(" ")[2]) for name in names for line in lines if line.startswith(name))
