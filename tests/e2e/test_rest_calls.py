"""The other calls on the real engine, real answers against the description, and HTTP at its edges."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.users import User
from tests.engines import Engine
from tests.web.test_openapi import find_operation, validate


@pytest.fixture(scope="module")
def description(engine: Engine) -> Any:
    """Give the description that the engine serves."""
    return httpx2.get(f"{engine.url}/openapi.json").json()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        (
            "POST",
            "/api/v1/orders",
            {"symbol": "ETH/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "900"},
        ),
        ("POST", "/api/v1/orders", {"symbol": "ETH/USDT"}),
        ("POST", "/api/v1/orders/test", {"symbol": "ETH/USDT", "side": "sell", "type": "market", "quantity": "1"}),
        ("POST", "/api/v1/orders/test", {"symbol": "ETH/USDT", "side": "sell", "type": "market", "quantity": 1}),
        ("GET", "/api/v1/orders?limit=3", None),
        ("GET", "/api/v1/orders?limit=0", None),
        ("GET", "/api/v1/orders/1", None),
        ("GET", "/api/v1/orders/by-client-id/unknown", None),
        ("GET", "/api/v1/orders/by-client-id/%00", None),
        ("POST", "/api/v1/orders/batch", {"orders": [{"symbol": "ETH/USDT"}, 5]}),
        ("POST", "/api/v1/orders/batch", {"orders": 5}),
        ("POST", "/api/v1/orders/cancel-all-after", {"timeout_ms": 0}),
        ("POST", "/api/v1/orders/cancel-all-after", {"timeout_ms": 7}),
        ("DELETE", "/api/v1/orders/1", None),
        ("DELETE", "/api/v1/orders?symbol=ETH-USDT", None),
        ("DELETE", "/api/v1/orders?symbol=NO-SUCH", None),
        ("PATCH", "/api/v1/orders/1", {"price": "1"}),
        ("GET", "/api/v1/balances", None),
        ("GET", "/api/v1/fees", None),
        ("GET", "/api/v1/ledger?limit=2", None),
        ("GET", "/api/v1/ledger?kind=fee", None),
        ("GET", "/api/v1/admin/limits/user/alice", None),
        ("POST", "/api/v1/admin/deposits", {"user": "alice", "asset": "USDT", "amount": "1", "reference": "x"}),
        ("GET", "/api/v1/symbols", None),
        ("GET", "/api/v1/time", None),
        ("GET", "/api/v1/orderbook/ETH/USDT?depth=5", None),
        ("GET", "/api/v1/orderbook/NO/SUCH", None),
        ("GET", "/api/v1/snapshots/ETH/USDT", None),
        ("GET", "/api/v1/snapshots/ETH/USDT?time=2024-01-01T00:00:00Z", None),
        ("GET", "/api/v1/markets/ETH-USDT/ticker", None),
        ("GET", "/api/v1/candles/ETH-USDT?tf=1m&fill=true", None),
        ("GET", "/api/v1/candles/ETH-USDT", None),
        ("GET", "/api/v1/historical/trades/BTC-USDT?limit=2", None),
        ("GET", "/api/v1/statistics/24h/BTC-USDT", None),
        ("GET", "/api/v1/trades?symbol=BTC-USDT", None),
        ("GET", "/api/v1/trades?scope=mine&limit=2", None),
        ("GET", "/api/v1/trades", None),
        ("GET", "/api/v1/trades/1", None),
        ("GET", "/", None),
        ("GET", "/health", None),
        ("GET", "/ready", None),
    ],
)
def test_real_answers_are_as_described(
    engine: Engine, alice: User, description: Any, method: str, path: str, body: Any
) -> None:
    """Good and bad, every call's real answer fits the schema that the description names for its status."""
    answer = alice.http.request(method, f"{engine.url}{path}", json=body)
    assert answer.status_code < 500
    _, operation = find_operation(description, method, path)
    validate(description, operation, answer.status_code, answer.json())


def test_engine_is_healthy_and_ready(engine: Engine) -> None:
    """Health and readiness answer 200 and degrade nothing while everything runs."""
    assert httpx2.get(f"{engine.url}/health").json()["data"]["status"] == "ok"
    ready = httpx2.get(f"{engine.url}/ready")
    assert (ready.status_code, ready.json()["data"]) == (200, {"status": "ready", "degraded": []})


def test_every_symbol_is_open(alice: User) -> None:
    """The seeded symbols are listed and open, with tick, lot and fees."""
    symbols = {symbol["symbol"]: symbol for symbol in alice.call("GET", "/symbols")}
    assert len(symbols) >= 10
    assert {symbols[name]["status"] for name in ("BTC/USDT", "ETH/USDT")} == {"open"}
    assert (symbols["BTC/USDT"]["tick"], symbols["BTC/USDT"]["lot"]) == ("0.01", "0.00001")


def test_metrics_count_what_happened(engine: Engine, alice: User) -> None:
    """The metrics of every actor are there, and an order moves them."""

    def read() -> dict[str, float]:
        text = httpx2.get(f"{engine.url}/metrics").text
        families = {family.name: family for family in text_string_to_metric_families(text)}
        names = ("tradeengine_front_orders_sent", "tradeengine_risk_commands", "tradeengine_matcher_commands")
        beats = families["tradeengine_actor_heartbeat_timestamp_seconds"].samples
        actors = {sample.labels["actor"] for sample in beats}
        assert {"risk", "matcher-0", "settlement", "publisher", "shadow", "keeper", "front-0"} <= actors
        return {name: sum(s.value for s in families[name].samples if s.name.endswith("_total")) for name in names}

    before = read()
    order = alice.place(symbol="ETH/USDT", quantity="1", price="1000")["order"]
    alice.call("DELETE", f"/orders/{order['id']}")
    after = read()
    assert all(after[name] >= before[name] + 2 for name in before)


def exchange(engine: Engine, request: bytes) -> tuple[int, bytes]:
    """Send raw bytes and read until the server closes; returns status and body of the first answer."""
    address = urlsplit(engine.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"PUT /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"GET /%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"GET /api/v1/orderbook/%ff%fe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"GET /api/v1/orders?limit=%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 401),
    ],
)
def test_odd_requests_are_answered_in_the_envelope(engine: Engine, request_: bytes, status: int) -> None:
    """Unknown paths, wrong methods and bytes that are no text are answered like any other failure."""
    answered, body = exchange(engine, request_)
    assert answered == status
    assert json.loads(body)["success"] is False


def test_methods_of_a_path_are_told_by_the_header_alone(engine: Engine) -> None:
    """OPTIONS names the methods in Allow and has no body and no type; of an unknown path it is answered as any call."""
    answer = httpx2.options(f"{engine.url}/api/v1/orders")
    assert (answer.status_code, answer.content) == (204, b"")
    assert {"GET", "POST", "DELETE"} <= set(answer.headers["Allow"].split(", "))
    assert "Content-Type" not in answer.headers
    unknown = httpx2.options(f"{engine.url}/api/v1/nothing")
    assert (unknown.status_code, unknown.headers["Content-Type"]) == (404, "application/json")


def test_what_is_not_http_is_refused_and_harms_nobody(engine: Engine) -> None:
    """Garbage, headers without end and a broken length close that connection with 4xx, and the next one works."""
    for request in (
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
        b"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    ):
        assert 400 <= exchange(engine, request)[0] < 500
    assert httpx2.get(f"{engine.url}/health").status_code == 200


def test_oversized_body_is_413(engine: Engine, alice: User) -> None:
    """A body over the limit is refused with the bound, whether its length is told or it comes in chunks."""
    size = 1_100_000
    told = alice.http.post("/orders", content=b" " * size)
    assert told.status_code == 413
    assert told.json()["error"]["code"] == "BODY_TOO_LARGE"
    chunked = alice.http.post("/orders", content=iter([b" " * 65536] * 17))
    assert chunked.status_code == 413
