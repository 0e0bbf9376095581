"""Where a request ends: requests that two readers could frame differently, and what is hidden behind them.

A proxy and the engine that disagree about the end of a request let a client put words into the mouth of the next one.
So what can be read in two ways is refused, and the connection ends there: nothing behind it is carried out.
"""

from __future__ import annotations

import pytest
from tests.e2e.users import User
from tests.engines import Engine
from tests.security.raw_http import LAST, LAST_ID, exchange, open_line

POST = b"POST /api/v1/orders/test HTTP/1.1\r\nHost: x\r\nX-Request-ID: first\r\n"
HIDDEN = b"GET /api/v1/time HTTP/1.1\r\nHost: x\r\nX-Request-ID: hidden\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(HIDDEN)
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)


@pytest.mark.parametrize(
    "head",
    [
        LENGTH + CHUNKED,
        CHUNKED + LENGTH,
        b"Content-Length: 0\r\n" + LENGTH,
        LENGTH + b"Content-Length: 0\r\n",
        b"Content-Length: 0, %d\r\n" % len(HIDDEN),
        b"Content-Length: +%d\r\n" % len(HIDDEN),
        b"Content-Length: -0\r\n",
        b"Content-Length: 0x%x\r\n" % len(HIDDEN),
        b"Content-Length: %d.0\r\n" % len(HIDDEN),
        b"Content-Length: 1e1\r\n",
        b"Content-Length: 1_0\r\n",
        b"Content-Length: \xb2\r\n",
        b"Content-Length:\r\n",
        b"Content-Length: \r\n %d\r\n" % len(HIDDEN),
        b"Content-Length : %d\r\n" % len(HIDDEN),
        b"Content-Length\t: %d\r\n" % len(HIDDEN),
        b" Content-Length: %d\r\n" % len(HIDDEN),
        b"Content-Length: %d\r\n" % 10**30,
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: identity, chunked\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked;q=1\r\n",
        b'Transfer-Encoding: "chunked"\r\n',
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Transfer-Encoding: chunked\x00\r\n",
        b"Transfer-Encoding:\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding\r\n : chunked\r\n",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"X: a\r\n folded: b\r\n",
        b"X: a\r\n\tfolded\r\n",
        b"X: a\nTransfer-Encoding: chunked\r\n",
        b"X: a\n" + LENGTH,
        b"X: a\rTransfer-Encoding: chunked\r\n",
        b"X: a\x00b\r\n",
        b"X\x00Y: a\r\n",
        b"X Y: a\r\n",
        b"X(Y): a\r\n",
        b": a\r\n",
        b"no colon\r\n",
        b"\xc3\xa9: a\r\n",
        b"Host: y\r\n",
    ],
)
def test_request_that_ends_in_two_places(target: Engine, head: bytes) -> None:
    """A head that two readers may read differently is refused once, and nothing that comes behind it is read."""
    for rest in (HIDDEN, CHUNKS, b"0\r\n\r\n" + HIDDEN):
        (answer,) = exchange(target.url, POST + head + b"\r\n" + rest + LAST)
        assert answer.status in {400, 413, 501}
        assert answer.code in {"INVALID_REQUEST", "BODY_TOO_LARGE", "NOT_IMPLEMENTED"}
        assert answer.headers["connection"].lower() == "close"
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "request_line",
    [
        b"POST /api/v1/orders/test HTTP/1.0",
        b"POST /api/v1/orders/test HTTP/0.9",
        b"POST /api/v1/orders/test HTTP/2.0",
        b"POST /api/v1/orders/test HTTP/1.2",
        b"POST /api/v1/orders/test HTTP/9.9",
        b"POST /api/v1/orders/test http/1.1",
        b"POST /api/v1/orders/test HTTP/1.1 ",
        b"POST /api/v1/orders/test  HTTP/1.1",
        b"POST  /api/v1/orders/test HTTP/1.1",
        b"POST\t/api/v1/orders/test\tHTTP/1.1",
        b" POST /api/v1/orders/test HTTP/1.1",
        b"POST /api/v1/orders/test",
        b"POST /api/v1/orders test HTTP/1.1",
        b"POST /api/v1/orders/\x00 HTTP/1.1",
        b"POST /api/v1/orders/\xff HTTP/1.1",
        b"PO\x00ST /api/v1/orders/test HTTP/1.1",
        b"",
        b"PRI * HTTP/2.0",
    ],
)
def test_request_line_that_is_none(target: Engine, request_line: bytes) -> None:
    """A request line of another version or form cannot say how its body is framed: it is refused, and all behind it."""
    head = request_line + b"\r\nHost: x\r\nX-Request-ID: first\r\n" + CHUNKED + b"\r\n"
    for rest in (CHUNKS, b"0\r\n\r\n" + HIDDEN):
        (answer,) = exchange(target.url, head + rest + LAST)
        assert (answer.status, answer.code) == (400, "INVALID_REQUEST")
        assert answer.request_id not in {"hidden", LAST_ID}


@pytest.mark.parametrize(
    "chunks",
    [
        b"-1\r\n",
        b"+%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN),
        b"0x%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN),
        b" %x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN),
        b"\r\n",
        b"G\r\n",
        b"%x\n%s\n0\n\n" % (len(HIDDEN), HIDDEN),
        b"%x\r\n%s0\r\n\r\n" % (len(HIDDEN), HIDDEN),
        b"%x\r\n%sXX0\r\n\r\n" % (len(HIDDEN), HIDDEN),
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN) - 3, HIDDEN),
        b"0" * 21 + b"\r\n\r\n",
        b"1;\x00\r\na\r\n0\r\n\r\n",
        b"1;a\nb\r\na\r\n0\r\n\r\n",
        b"1;a\rb\r\na\r\n0\r\n\r\n",
        b"1;" + b"a" * 20_000 + b"\r\na\r\n0\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nX: a\x00\r\n\r\n",
        b"0\r\nX: a\n\r\n",
        b"0\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    ],
)
def test_chunks_that_are_none(target: Engine, chunks: bytes) -> None:
    """Chunks whose end is not plain are refused, and neither what they hide nor what follows them is read."""
    answers = exchange(target.url, POST + CHUNKED + b"\r\n" + chunks + HIDDEN + LAST)
    assert [answer.status for answer in answers] in ([400], [431])
    assert answers[0].request_id not in {"hidden", LAST_ID}


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (LENGTH, HIDDEN),
        (LENGTH * 2, HIDDEN),
        (CHUNKED, CHUNKS),
        (b"tRANSFER-eNCODING: CHUNKED\r\n", CHUNKS),
        (CHUNKED, b"".join(b"1\r\n%c\r\n" % byte for byte in HIDDEN) + b"0\r\n\r\n"),
        (CHUNKED, b"%X;name=value;x\r\n%s\r\n0;last\r\n\r\n" % (len(HIDDEN), HIDDEN)),
        (CHUNKED, b"%x\r\n%s\r\n0\r\nContent-Length: 3\r\nHost: z\r\nAuthorization: a\r\n\r\n" % (len(HIDDEN), HIDDEN)),
        (b"", b""),
        (b"Content-Length: 0\r\n", b""),
        (CHUNKED, b"0\r\n\r\n"),
        (b"Expect: 100-continue\r\n" + LENGTH, HIDDEN),
        (b"Connection: keep-alive, Content-Length\r\n" + LENGTH, HIDDEN),
        (b"Transfer_Encoding: chunked\r\nContent_Length: 0\r\n" + LENGTH, HIDDEN),
    ],
)
def test_request_inside_a_body_is_a_body(target: Engine, head: bytes, body: bytes) -> None:
    """A request in a body, in pieces or whole, is part of it: only that request and the next one are answered."""
    answers = exchange(target.url, POST + head + b"\r\n" + body + LAST)
    ids = [answer.request_id for answer in answers if answer.status != 100]
    assert ids == ["first", LAST_ID]
    assert answers[-1].status == 200


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"TRACE", b"CONNECT", b"BREW", b"get"])
def test_body_where_none_is_expected(target: Engine, method: bytes) -> None:
    """Whatever the method, a body belongs to its own request and is not the next one."""
    for head, body in ((LENGTH, HIDDEN), (CHUNKED, CHUNKS)):
        sent = method + b" /api/v1/time HTTP/1.1\r\nHost: x\r\nX-Request-ID: first\r\n" + head + b"\r\n" + body
        with open_line(target.url) as line:
            line.send(sent + LAST)
            if method == b"HEAD":
                head_answer = line.socket.recv(1 << 16)
                assert b"hidden" not in head_answer
                continue
            answers = line.read_all()
        assert [answer.request_id for answer in answers] == ["first", LAST_ID]
        assert answers[0].status in {200, 204, 405}


def test_pipelined_requests_are_answered_in_order(target: Engine, victim: User) -> None:
    """Requests that are sent at once are answered one by one, in their order, each under its own name."""
    one = b"GET /api/v1/time HTTP/1.1\r\nHost: x\r\nX-Request-ID: %d\r\n\r\n"
    answers = exchange(target.url, b"".join(one % number for number in range(500)) + LAST)
    assert [answer.request_id for answer in answers] == [*map(str, range(500)), LAST_ID]
