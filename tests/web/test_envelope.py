"""The envelope: every answer has it, whatever went wrong."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from tests.web.bench import Bench, bearer, make_bench, small_settings

from tradeengine.web.app import create_app
from tradeengine.web.errors import STATUS_OF_CODE, ApiError
from tradeengine.web.jsonbody import FIELDS_MAX

TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z")


def check_failure(body: dict[str, Any], code: str) -> dict[str, Any]:
    """Check the shape of a failure and its code; returns the details."""
    assert body["success"] is False
    assert set(body) == {"success", "error", "meta"}
    assert body["error"]["code"] == code
    assert body["error"]["message"]
    assert TIME.fullmatch(body["meta"]["timestamp"])
    details: dict[str, Any] = body["error"]["details"]
    return details


async def test_success_has_data_and_meta(bench: Bench) -> None:
    """A successful answer has data, a request id and a time, and the id is in a header too."""
    answer = await bench.client.get("/health")
    body = await answer.get_json()
    assert set(body) == {"success", "data", "meta"}
    assert body["success"] is True
    assert answer.headers["X-Request-ID"] == body["meta"]["request_id"]
    assert TIME.fullmatch(body["meta"]["timestamp"])


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("", False)]
)
async def test_sane_request_id_is_kept(shared_bench: Bench, given: str, kept: bool) -> None:
    """A sane X-Request-ID comes back; any other is replaced."""
    answer = await shared_bench.client.get("/health", headers={"X-Request-ID": given})
    assert (answer.headers["X-Request-ID"] == given) is kept
    assert answer.headers["X-Request-ID"]


@pytest.mark.parametrize(
    "path", ["/nothing", "/api/v1/nothing", "/api/v1/orders/", "/api/v1//time", "/API/v1/time", "/%ff"]
)
async def test_unknown_path_is_404(shared_bench: Bench, path: str) -> None:
    """What is no route is NOT_FOUND, never a redirect."""
    answer = await shared_bench.client.get(path)
    assert answer.status_code == 404
    check_failure(await answer.get_json(), "NOT_FOUND")


async def test_wrong_method_is_405_and_says_which_are_right(bench: Bench) -> None:
    """A method that a path does not take is 405 with Allow."""
    answer = await bench.client.put("/api/v1/orders")
    assert answer.status_code == 405
    details = check_failure(await answer.get_json(), "METHOD_NOT_ALLOWED")
    assert {"GET", "POST", "DELETE"} <= set(details["allowed"])
    assert "POST" in answer.headers["Allow"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"{'a': 1}",
        b'{"price": NaN}',
        b'{"price": -Infinity}',
        b'{"symbol": "BTC/USDT", "symbol": "BTC/USDT"}',
        b'{"symbol": "\xff"}',
        b"\xff\xfe{\x00}\x00",
        b'{"price": ' + b"9" * 3000 + b".5e1}",
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b"[" * 2000,
        b'{"a": 1} {"b": 2}',
        b'{"\\ud800": 1}',
        b'{"symbol": "\\ud800", "side": "buy", "type": "limit"}',
        b'{"client_order_id": "\\u0000"}',
    ],
)
async def test_malformed_body_is_a_clear_400(shared_bench: Bench, body: bytes) -> None:
    """A body that is no JSON object, or says a thing twice, is refused with a sentence and a place."""
    answer = await shared_bench.client.post("/api/v1/orders", data=body, headers=bearer())
    assert answer.status_code in {400, 404}
    code = "INVALID_REQUEST" if answer.status_code == 400 else "SYMBOL_NOT_FOUND"
    assert check_failure(json.loads(await answer.get_data()), code)["field"]


async def test_number_with_thousands_of_digits_is_refused(bench: Bench) -> None:
    """An integer longer than Python reads is a 400 like any other."""
    bench.app.config["MAX_CONTENT_LENGTH"] = 100_000
    answer = await bench.client.post("/api/v1/orders", data=b'{"price": ' + b"9" * 5000 + b"}", headers=bearer())
    assert answer.status_code == 400


async def test_object_with_too_many_fields_is_refused_for_that(bench: Bench) -> None:
    """An object of more fields than any body has is refused before its names are compared."""
    names = [f"field_{number}" for number in range(FIELDS_MAX + 1)]
    body = "{" + ",".join(f'"{name}": 1' for name in [*names, names[0]]) + "}"
    answer = await bench.client.post("/api/v1/orders", data=body.encode(), headers=bearer())
    assert answer.status_code == 400
    assert check_failure(await answer.get_json(), "INVALID_REQUEST") == {"field": "body", "maximum": FIELDS_MAX}


@pytest.mark.parametrize("path", ["/health", "/api/v1/nothing", "/ws/stream"])
@pytest.mark.parametrize("host", ["..", "a" * 300, "a." * 130, f"a.{'b' * 64}.c", "x:y:z", "::1", "a b", "x/../y", "é"])
async def test_host_that_names_none_is_a_clear_400(shared_bench: Bench, host: str, path: str) -> None:
    """A Host header that is no name and no address is refused by its name, wherever it goes."""
    answer = await shared_bench.client.get(path, headers={"Host": host})
    assert answer.status_code == 400
    assert check_failure(await answer.get_json(), "INVALID_REQUEST") == {"field": "Host"}


@pytest.mark.parametrize(
    "host", ["", "x", "X.example:8240", "127.0.0.1:8240", "[::1]:8240", "trade_engine", "xn--caf-dma.example.", "x:"]
)
async def test_any_host_is_served(shared_bench: Bench, host: str) -> None:
    """A front serves under whatever name it is reached."""
    answer = await shared_bench.client.get("/health", headers={"Host": host})
    assert answer.status_code == 200


async def test_oversized_body_is_413_with_the_bound(bench: Bench) -> None:
    """A body beyond the limit is BODY_TOO_LARGE and says how large one may be."""
    maximum = bench.front.settings.http.body_bytes_max
    answer = await bench.client.post("/api/v1/orders", data=b" " * (maximum + 1), headers=bearer())
    assert answer.status_code == 413
    assert check_failure(await answer.get_json(), "BODY_TOO_LARGE")["maximum"] == maximum


async def test_fault_of_ours_is_500_without_a_trace(bench: Bench) -> None:
    """An exception in a handler is INTERNAL: nothing of it reaches the client."""

    async def fail(*_: Any) -> None:
        raise RuntimeError("secret inside")

    bench.history.order = fail  # type: ignore[method-assign, assignment]
    answer = await bench.client.get("/api/v1/orders/1", headers=bearer())
    assert answer.status_code == 500
    check_failure(await answer.get_json(), "INTERNAL")
    assert b"secret inside" not in await answer.get_data(as_text=False)


async def test_failing_database_is_503_with_retry_after(bench: Bench) -> None:
    """While history cannot be read the answer is 503 and says when to come back; it is nobody's empty list."""
    bench.history.failure = ApiError("DATABASE_UNAVAILABLE", "The database does not answer; try again.")
    answer = await bench.client.get("/api/v1/orders/1", headers=bearer())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    check_failure(await answer.get_json(), "DATABASE_UNAVAILABLE")


def test_every_code_has_a_status_of_failure() -> None:
    """The table of codes holds nothing that is no failure."""
    assert all(400 <= status < 600 for status in STATUS_OF_CODE.values())


@pytest.mark.parametrize(("origin", "allowed"), [("https://a.example", True), ("https://b.example", False)])
async def test_only_configured_origins_may_read(origin: str, allowed: bool) -> None:
    """Browsers of configured origins may read answers and ask first; others may not."""
    bench = make_bench()
    http = msgspec.structs.replace(small_settings().http, cors_origins=("https://a.example",))
    bench.front.settings = msgspec.structs.replace(small_settings(), http=http)
    client = create_app(bench.front).test_client()
    for answer in (
        await client.get("/health", headers={"Origin": origin}),
        await client.options("/api/v1/orders", headers={"Origin": origin, "Access-Control-Request-Method": "POST"}),
    ):
        assert (answer.headers.get("Access-Control-Allow-Origin") == origin) is allowed
