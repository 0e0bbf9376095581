"""Paths and headers that are written to mean something else on the way, or in the answer."""

from __future__ import annotations

import pytest
from tests.e2e.test_api_keys import make_key
from tests.e2e.users import NewUser, User
from tests.engines import Engine
from tests.security.raw_http import LAST, LAST_ID, exchange
from tests.web.api_key_maker import signed_headers

ONE = b"GET %s HTTP/1.1\r\nHost: x\r\nX-Request-ID: first\r\n\r\n"


@pytest.mark.parametrize(
    "path",
    [
        b"//metrics",
        b"/metrics/",
        b"/./metrics",
        b"/x/../metrics",
        b"/api/v1/../../metrics",
        b"/%2e/metrics",
        b"/%2e%2e/metrics",
        b"/api/v1/%2e%2e/%2e%2e/metrics",
        b"/..%2fmetrics",
        b"/%2fmetrics",
        b"/metrics%2f",
        b"/metrics%00",
        b"/metrics%00.html",
        b"/metrics%0a",
        b"/metrics%20",
        b"/metrics;",
        b"/metrics;a=b",
        b"/METRICS",
        b"/Metrics",
        b"/\\metrics",
        b"/%5cmetrics",
        b"\\metrics",
        b"/%256d%65trics",
        b"/%6",
        b"/%zzmetrics",
        b"/%u006detrics",
        b"/%c0%afmetrics",
        b"/\xef\xbc\x8fmetrics",
        b"/%ef%bc%8fmetrics",
        b"/%ef%bd%8detrics",
        b"/admin/../metrics",
        b"/admin/..%2fmetrics",
        b"/admin/%2e%2e/%2e%2e/etc/passwd",
        b"/admin/..%2f..%2f..%2f..%2fetc%2fpasswd",
        b"/admin//etc/passwd",
        b"/admin/%2fetc%2fpasswd",
        b"/admin/admin.py",
        b"/admin/.",
        b"/admin/..",
        b"/admin/%00",
        b"/static/../config/default.toml",
        b"/.git/config",
        b"/.env",
        b"/api/v1//time",
        b"/api//v1/time",
        b"/API/V1/TIME",
        b"/api/v1/time/",
        b"/api/v1/time;x",
        b"/api/v1/time%3fx",
        b"/api/v1/orderbook/../time",
        b"/api/v1/orderbook/..%2ftime",
        b"/api/v1/admin;/actors",
        b"/api/v1/./admin/actors",
        b"*",
        b"metrics",
        b"http://x/metrics",
        b"http:///metrics",
        b"https://x/../metrics",
        b"file:///etc/passwd",
        b"//x/metrics",
        b"@x/metrics",
        b"?/metrics",
        b"#/metrics",
    ],
)
def test_a_path_has_one_way_to_be_written(target: Engine, path: bytes) -> None:
    """What is not the very path of a route is no route: 404 in the envelope, never a page, a redirect or a file."""
    answers = exchange(target.url, ONE % path + LAST)
    first = answers[0]
    assert first.code in {"NOT_FOUND", "SYMBOL_NOT_FOUND", "INVALID_REQUEST"}
    assert first.status in {400, 404}
    assert "location" not in first.headers
    assert first.headers["content-type"] == "application/json"
    assert b"root:" not in first.body
    if first.status == 404:
        assert [answer.request_id for answer in answers] == ["first", LAST_ID]


@pytest.mark.parametrize(
    ("path", "status"),
    [(b"/%6detrics", 200), (b"/api/v1%2ftime", 200), (b"/api/v1/%61dmin/actors", 401), (b"/api/v1/orders%2F1", 401)],
)
def test_percent_encoding_hides_nothing(target: Engine, path: bytes, status: int) -> None:
    """A path with letters percent-encoded is the path without: who may call it is asked of what it means."""
    assert exchange(target.url, ONE % path + LAST)[0].status == status


def test_signature_is_over_the_path_as_it_was_sent(target: Engine, new_user: NewUser) -> None:
    """Another spelling of a path that was signed is another text, so the signature of one is none of the other."""
    user: User = new_user("signer")
    key = make_key(user)
    for signed, sent in (
        ("/api/v1/balances", "/api/v1/%62alances"),
        ("/api/v1/%62alances", "/api/v1/balances"),
        ("/api/v1/orders?limit=1", "/api/v1/orders?limit=2"),
        ("/api/v1/orders?limit=1&side=buy", "/api/v1/orders?side=buy&limit=1"),
        ("/api/v1/orders?limit=1", "/api/v1/orders?limit=1&"),
        ("/api/v1/orders?limit=1", "/api/v1/orders?limit=%31"),
        ("/api/v1/orders", "/api/v1/orders?"),
        ("/api/v1/orders/by-client-id/caf\u00e9", "/api/v1/orders/by-client-id/cafe%CC%81"),
    ):
        headers = signed_headers(*key, "GET", signed)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        sent_head = f"GET {sent} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()
        answer = exchange(target.url, sent_head + LAST)[0]
        if sent.endswith("?"):
            # An empty query is no query to the server: both spellings are one text, and mean the same.
            assert answer.status == 200
        else:
            assert (answer.status, answer.code) == (401, "UNAUTHORIZED"), (signed, sent)


TOLD = (
    b"X-Request-ID: %s",
    b"X-Request-ID: a\r\nX-Request-ID: %s",
    b"Origin: %s",
    b"Authorization: Bearer %s",
    b"X-API-Key: %s",
    b"Host: x\r\nX-Forwarded-For: %s",
    b"Sec-WebSocket-Protocol: %s",
    b"Accept: %s",
    b"Cookie: %s",
)
MARK = b"injected"


@pytest.mark.parametrize("header", TOLD)
@pytest.mark.parametrize(
    "value",
    [
        b"a\r\nSet-Cookie: injected=1",
        b"a\r\n\r\n<injected>",
        b"a\nSet-Cookie: injected=1",
        b"a\rSet-Cookie: injected=1",
        b"a\xc4\x8d\xc4\x8aSet-Cookie: injected=1",
        b"a%0d%0aSet-Cookie: injected=1",
        b"a\\r\\nSet-Cookie: injected=1",
        b"a\x85Set-Cookie: injected=1",
        b"a\xe2\x80\xa8Set-Cookie: injected=1",
    ],
)
def test_no_value_becomes_a_header_of_the_answer(target: Engine, header: bytes, value: bytes) -> None:
    """Line ends in values, raw or encoded in whatever way, write no header and no body into the answer."""
    for path in (b"/api/v1/time", b"/api/v1/balances", b"/nothing"):
        head = b"GET " + path + b" HTTP/1.1\r\n" + (b"" if header.startswith(b"Host") else b"Host: x\r\n")
        for answer in exchange(target.url, head + header % value + b"\r\nConnection: close\r\n\r\n"):
            assert MARK not in answer.raw
            assert "set-cookie" not in answer.headers
            assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "path",
    [
        b"/api/v1/a%0d%0aSet-Cookie:%20injected=1",
        b"/api/v1/orderbook/a%0d%0aSet-Cookie:%20injected=1",
        b"/api/v1/time?a%0d%0aSet-Cookie:%20injected=1",
        b"/api/v1/trades?symbol=a%0d%0a%0d%0a<injected>",
        b"/admin/a%0d%0aSet-Cookie:%20injected=1",
    ],
)
def test_no_path_becomes_a_header_of_the_answer(target: Engine, path: bytes) -> None:
    """Line ends in a path or a query stay in the body, as JSON writes them."""
    (answer, *_) = exchange(target.url, ONE % path + LAST)
    assert MARK not in answer.raw
    assert answer.status in {400, 404}
    assert b"\r" not in answer.body


def test_pages_cannot_be_framed_or_sniffed(target: Engine) -> None:
    """Pages for people say that they are in nobody's frame, run only their own scripts, and are what they say."""
    for path in (b"/admin", b"/docs"):
        (answer, *_) = exchange(target.url, ONE % path + LAST)
        assert answer.status == 200
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "'unsafe-eval'" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
