"""Whole requests: what the quick reader takes, h11 reads the same, to the last byte; what is not plain it leaves."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tradeengine.web.framing import ambiguity, strict_connection
from tradeengine.web.whole_request import HEAD_BYTES_MAX, WholeRequest, read_whole

PLAIN = b"POST /api/v1/orders?x=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a.b.c\r\nContent-Length: 2\r\n\r\n{}"
NOT_PLAIN = {
    "nothing": b"",
    "half a head": PLAIN[:40],
    "half a body": PLAIN[:-1],
    "more than a body": PLAIN + b"G",
    "two requests": PLAIN + PLAIN,
    "an empty line before it": b"\r\n" + PLAIN,
    "HEAD": PLAIN.replace(b"POST", b"HEAD"),
    "HTTP/1.0": PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a target that is no path": PLAIN.replace(b"/api", b"http://x/api"),
    "a fragment": PLAIN.replace(b"?x=1", b"?x=\x7f"),
    "no host": PLAIN.replace(b"Host: x\r\n", b""),
    "two hosts": PLAIN.replace(b"Host: x", b"Host: x\r\nhost: y"),
    "two lengths": PLAIN.replace(b"Content-Length: 2", b"Content-Length: 2\r\nContent-Length: 2"),
    "a list of lengths": PLAIN.replace(b"Length: 2", b"Length: 2, 2"),
    "a length with a sign": PLAIN.replace(b"Length: 2", b"Length: +2"),
    "an empty length": PLAIN.replace(b"Length: 2", b"Length: "),
    "chunks": PLAIN.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked"),
    "a length beside chunks": PLAIN.replace(b"Host", b"Transfer-Encoding: chunked\r\nHost"),
    "who waits for a hundred": PLAIN.replace(b"Host", b"Expect: 100-continue\r\nHost"),
    "who wants to close": PLAIN.replace(b"Host", b"Connection: close\r\nHost"),
    "who says two things of the connection": PLAIN.replace(
        b"Host", b"Connection: close\r\nConnection: keep-alive\r\nHost"
    ),
    "a handshake": PLAIN.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: websocket\r\nHost"),
    "an upgrade that the connection does not name": PLAIN.replace(b"Host", b"Upgrade: h2c\r\nHost"),
    "who takes trailers": PLAIN.replace(b"Host", b"TE: trailers\r\nHost"),
    "who announces trailers": PLAIN.replace(b"Host", b"Trailer: Expires\r\nHost"),
    "a space before a colon": PLAIN.replace(b"Content-Length:", b"Content-Length :"),
    "a header that goes on": PLAIN.replace(b"Bearer ", b"Bearer\r\n "),
    "a bare line feed": PLAIN.replace(b"Host: x\r\n", b"Host: x\n"),
    "a bare carriage return": PLAIN.replace(b"Host: x", b"Host: x\rX: y"),
    "a zero byte": PLAIN.replace(b"Host: x", b"Host: x\x00"),
    "letters beyond ASCII": PLAIN.replace(b"Bearer", b"Bearer \xe4"),
    "a head that is long": PLAIN.replace(b"Bearer ", b"Bearer " + b"a" * HEAD_BYTES_MAX),
}

PUT = [
    *(b"", b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\x00", b"\xff", b"2", b"0", b",", b"{}"),
    *(b"Host: y\r\n", b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 0\r\n\r\n"),
]
"""What the altered requests have in the places of something else."""


def read_by_h11(data: bytes) -> WholeRequest | None:
    """Read one request by the server's usual reader; None: it is refused, or not all of the bytes, or not only they."""
    connection = strict_connection(1 << 16)
    connection.receive_data(data)
    try:
        request = connection.next_event()
        if not isinstance(request, h11.Request) or ambiguity(request):
            return None
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                return None
    except h11.RemoteProtocolError:
        return None
    if connection.trailing_data[0] or connection.our_state is not h11.SEND_RESPONSE:
        return None
    return WholeRequest(request.method.decode(), request.target.partition(b"?")[0], list(request.headers))


@pytest.mark.parametrize("more", [b"", b"Connection: keep-alive\r\n", b"Connection: Keep-Alive\r\nAccept:\r\n"])
def test_plain_request_is_read(more: bytes) -> None:
    """Method, path and headers are what h11 reads."""
    data = PLAIN.replace(b"Host", more + b"Host")
    whole = read_whole(data)
    assert whole is not None
    assert (whole.method, whole.path) == ("POST", b"/api/v1/orders")
    assert whole == read_by_h11(data)


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_is_not_plain_is_left(name: str) -> None:
    """Whatever could end elsewhere for another reader, or wants more than an answer, is h11's."""
    assert read_whole(NOT_PLAIN[name]) is None


@settings(max_examples=2000, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(PLAIN)),
            st.integers(0, 3),
            st.sampled_from(PUT),
        ),
        max_size=4,
    )
)
@example([])
def test_what_is_taken_h11_reads_the_same(changes: list[tuple[int, int, bytes]]) -> None:
    """However a request is altered: what the quick reader takes is one request to h11, and the same one."""
    data = PLAIN
    for place, length, put in changes:
        data = data[:place] + put + data[place + length :]
    whole = read_whole(data)
    if whole is not None:
        assert whole == read_by_h11(data)
