"""The description of the API, and real answers held against it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import trio
from tests.web.api_key_maker import KEY_ID, make_stored_key
from tests.web.bench import ACCOUNT_ID, BTC_USDT, Bench, Records, bearer, make_order_event
from tests.web.fake_database import LETTER_ID
from tests.web.test_market import TRADE_ID, make_trade
from tests.web.test_orders import LIMIT, ORDER_ID, content

from tradeengine.core.records import CommandKind, EventKind, Reason, TradingState
from tradeengine.storage.depth_snapshots import StoredDepth
from tradeengine.storage.funding import FundingKind
from tradeengine.storage.statement import StatementRow

MOVE = {"user": "alice", "asset": "USDT", "amount": "10.5", "reference": "wire-1"}
LISTING = {
    "symbol": "BTC/USDT",
    "tick": "0.01",
    "lot": "0.0001",
    "price_max": "1000000.00",
    "quantity_min": "0.0001",
    "quantity_max": "1000",
    "min_notional": "5",
    "maker_fee": "0.0005",
    "taker_fee": "0.001",
}
REQUESTS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", "/api/v1/orders", LIMIT),
    ("POST", "/api/v1/orders/test", LIMIT),
    ("POST", "/api/v1/orders/batch", {"orders": [LIMIT, LIMIT | {"price": "0"}]}),
    ("POST", "/api/v1/orders/cancel-all-after", {"timeout_ms": 60_000}),
    ("GET", "/api/v1/orders", None),
    ("GET", f"/api/v1/orders/{ORDER_ID}", None),
    ("GET", "/api/v1/orders/by-client-id/a-1", None),
    ("DELETE", f"/api/v1/orders/{ORDER_ID}", None),
    ("DELETE", "/api/v1/orders", None),
    ("PATCH", f"/api/v1/orders/{ORDER_ID}", {"quantity": "0.5"}),
    ("GET", "/api/v1/balances", None),
    ("GET", "/api/v1/symbols", None),
    ("GET", "/api/v1/time", None),
    ("GET", "/api/v1/orderbook/BTC-USDT", None),
    ("GET", "/api/v1/snapshots/BTC-USDT", None),
    ("GET", "/api/v1/candles/BTC-USDT?tf=1h", None),
    ("GET", "/api/v1/historical/trades/BTC-USDT", None),
    ("GET", "/api/v1/statistics/24h/BTC-USDT", None),
    ("GET", "/api/v1/markets/BTC-USDT/ticker", None),
    ("GET", "/api/v1/trades?symbol=BTC-USDT", None),
    ("GET", "/api/v1/trades?scope=mine", None),
    ("GET", f"/api/v1/trades/{TRADE_ID}", None),
    ("GET", "/api/v1/fees", None),
    ("GET", "/api/v1/ledger", None),
    ("GET", "/api/v1/admin/limits/user/alice", None),
    ("POST", "/api/v1/admin/limits/user/alice", {"max_order_size": "1000.5", "max_open_orders": 7}),
    ("GET", "/api/v1/admin/limits/symbol/BTC-USDT", None),
    ("POST", "/api/v1/admin/limits/symbol/BTC-USDT", {"max_price_deviation": "0.10"}),
    ("POST", "/api/v1/admin/users/bob/suspend", {"reason": "asked for"}),
    ("POST", "/api/v1/admin/users/bob/resume", {"reason": "asked for"}),
    ("POST", "/api/v1/admin/deposits", MOVE),
    ("GET", "/api/v1/admin/deposits", None),
    ("GET", "/api/v1/admin/deposits/wire-1", None),
    ("POST", "/api/v1/admin/withdrawals", MOVE),
    ("POST", "/api/v1/admin/withdrawals?dry_run=true", MOVE),
    ("GET", "/api/v1/admin/withdrawals", None),
    ("GET", "/api/v1/admin/withdrawals/wire-1", None),
    ("GET", "/api/v1/admin/symbols", None),
    ("POST", "/api/v1/admin/symbols", LISTING),
    ("POST", "/api/v1/admin/trading/halt/BTC-USDT", {"reason": "a fault"}),
    ("POST", "/api/v1/admin/trading/cancel-only/BTC-USDT", {"reason": "a fault"}),
    ("POST", "/api/v1/admin/trading/resume/BTC-USDT", {"reason": "a fault"}),
    ("POST", "/api/v1/admin/trading/halt-all", {"reason": "a fault"}),
    ("POST", "/api/v1/admin/trading/resume-all?dry_run=true", {"reason": "a fault"}),
    ("POST", "/api/v1/admin/orders/cancel-all/alice", {"reason": "a fault"}),
    ("POST", "/api/v1/admin/orders/cancel-symbol/BTC-USDT?dry_run=true", {"reason": "a fault"}),
    ("GET", "/api/v1/admin/audit", None),
    ("GET", "/api/v1/admin/dead-letters", None),
    ("GET", f"/api/v1/admin/dead-letters/{LETTER_ID}", None),
    ("POST", f"/api/v1/admin/dead-letters/{LETTER_ID}/retry", None),
    ("POST", f"/api/v1/admin/dead-letters/{LETTER_ID}/retry?dry_run=true", None),
    ("POST", f"/api/v1/admin/dead-letters/{LETTER_ID}/discard", {"reason": "paid by hand"}),
    ("GET", "/api/v1/admin/reconciliation", None),
    ("GET", "/api/v1/admin/actors", None),
    ("GET", "/api/v1/admin/health/detailed", None),
    ("GET", "/api/v1/admin/metrics", None),
    ("GET", "/api/v1/admin/stats", None),
    ("GET", "/api/v1/admin/performance", None),
    ("GET", "/api/v1/admin/orderbook/stats", None),
    ("GET", "/api/v1/admin/settlement/queue", None),
    ("GET", "/api/v1/admin/websocket/connections", None),
    ("POST", "/api/v1/api-keys", {"name": "maker", "permissions": ["read"]}),
    ("GET", "/api/v1/api-keys", None),
    ("DELETE", f"/api/v1/api-keys/{KEY_ID}", None),
    ("GET", "/", None),
    ("GET", "/health", None),
    ("GET", "/ready", None),
]


async def describe(bench: Bench) -> dict[str, Any]:
    """Fetch the description."""
    answer = await bench.client.get("/openapi.json")
    assert answer.content_type == "application/json"
    description: dict[str, Any] = json.loads(await answer.get_data())
    return description


def find_operation(description: dict[str, Any], method: str, path: str) -> tuple[str, dict[str, Any]]:
    """Find the operation that serves a path: the one with the fewest parameters."""
    plain = path.partition("?")[0]
    found = []
    for template, operations in description["paths"].items():
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template).replace(r"\{symbol\}", ".+"))
        if re.fullmatch(pattern, plain) and method.lower() in operations:
            found.append((template.count("{"), template, operations[method.lower()]))
    _, template, operation = min(found, key=lambda match: match[0])
    return template, operation


def validate(description: dict[str, Any], operation: dict[str, Any], status: int, body: Any) -> None:
    """Hold a body against the schema that the description names for it."""
    answers = operation["responses"]
    schema = answers.get(str(status), answers["default"])["content"]["application/json"]["schema"]
    strict = {"components": {"schemas": {name: close(s) for name, s in description["components"]["schemas"].items()}}}
    jsonschema.validate(body, strict | schema, cls=jsonschema.Draft202012Validator)


def close(schema: dict[str, Any]) -> dict[str, Any]:
    """Allow no field that the schema does not name, so that an answer cannot say more than is described."""
    return schema | ({"additionalProperties": False} if "properties" in schema else {})


@pytest.fixture(scope="module")
def description(shared_bench: Bench) -> dict[str, Any]:
    """Give the description, which takes longer to make than any answer."""
    return trio.run(describe, shared_bench)


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
async def test_answers_are_as_described(
    bench: Bench, description: dict[str, Any], method: str, path: str, body: dict[str, Any] | None
) -> None:
    """Every call's real answer, good or bad, fits the schema that the description names, and nothing more."""
    _, operation = find_operation(description, method, path)
    bench.history.contents[ORDER_ID] = content()
    bench.history.fills = [make_trade()]
    bench.history.depths = [StoredDepth(0, 1_780_000_000_000, 5, [[4_999_900, 25_000]], [])]
    bench.database.keys[KEY_ID] = make_stored_key(KEY_ID)
    bench.history.entries = [StatementRow(TRADE_ID, 1, "trade", -500, 0, ORDER_ID)]
    bench.database.symbols[0] = BTC_USDT
    for kind in FundingKind:
        bench.database.request_funding(
            kind, reference="wire-1", account_id=ACCOUNT_ID, asset_id=1, amount_units=10_500_000
        )
    headers = bearer(role="super_admin" if "/admin/" in path else "user")
    bench.show_state(TradingState.OPEN)
    kinds = {1: EventKind.ACCEPTED, 2: EventKind.CANCELLED, 3: EventKind.CANCELLED_ALL, 4: EventKind.AMENDED}
    kinds[int(CommandKind.SET_PARAMETERS)] = EventKind.PARAMETERS_SET
    kinds[int(CommandKind.CANCEL_ALL_AFTER)] = EventKind.TIMER_SET
    kinds[int(CommandKind.SET_TRADING_STATE)] = EventKind.TRADING_STATE_SET

    def answer(command: Any) -> list[tuple[str, Records]]:
        command = command.copy()
        for name in ("order_type", "time_in_force", "self_trade_prevention"):
            command[name] = 1
        command["symbol_id"] = 0
        return [("events.0", make_order_event(command, kinds[int(command["kind"])], ring, ORDER_ID))]

    ring = bench.memory.rings["events.0"]
    async with bench.engine(answer):
        good = await bench.client.open(path, method=method, json=body, headers=headers)
        separator = "&" if "?" in path else "?"
        bad = [
            await bench.client.open(f"{path}{separator}surprise=1", method=method, data="{", headers=wrong)
            for wrong in ({"Authorization": "Bearer x"}, bearer(), headers)
        ]
    assert good.status_code in {200, 201}
    assert str(good.status_code) in operation["responses"]
    validate(description, operation, good.status_code, await good.get_json())
    for answered in bad:
        if answered.status_code >= 400:
            validate(description, operation, 0, await answered.get_json())


async def test_every_operation_is_described_in_full(bench: Bench) -> None:
    """Each operation has a summary, a tag, a named schema for body and every answer, and all references resolve."""
    description = await describe(bench)
    assert description["openapi"].startswith("3.1")
    assert None not in (*description["info"].values(), *description["info"]["license"].values())
    schemas = description["components"]["schemas"]
    asked = {find_operation(description, method, path)[0] + method for method, path, _ in REQUESTS}
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            assert path + method.upper() in asked, "no test calls it"
            assert operation["summary"]
            assert operation["tags"]
            for answer in operation["responses"].values():
                assert answer["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2] in schemas
    for reference in re.findall(r'"\$ref":\s*"#/components/schemas/([^"]+)"', json.dumps(description)):
        assert reference in schemas


async def test_tokens_are_asked_for_where_described(bench: Bench) -> None:
    """Exactly the operations that name the bearer scheme answer 401 without a token."""
    description = await describe(bench)
    for method, path, body in REQUESTS:
        _, operation = find_operation(description, method, path)
        answer = await bench.client.open(path, method=method, json=body)
        wanted = "security" in operation or "scope=mine" in path
        assert (answer.status_code == 401) is wanted, path


async def test_examples_of_the_order_schema_are_orders(bench: Bench) -> None:
    """Bodies that the engine takes fit the schema of requests, and one with a number for a price does not."""
    description = await describe(bench)
    schema = {"components": description["components"], "$ref": "#/components/schemas/PlaceOrder"}
    jsonschema.validate(LIMIT, schema)
    for wrong in (LIMIT | {"price": 5}, LIMIT | {"price": "1e5"}, LIMIT | {"surprise": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


async def test_patterns_are_ecmascript_and_examples_fit(bench: Bench) -> None:
    """Every pattern is of a kind that ECMAScript knows too, and every example and every default fits its schema."""
    description = await describe(bench)
    schemas: list[Any] = list(walk(description))
    patterns = {schema["pattern"] for schema in schemas if isinstance(schema.get("pattern"), str)}
    assert patterns
    for pattern in patterns:
        assert re.fullmatch(r"\^(\[[^\]]+\]|\\\.|[-(){},?+0-9])+\$", pattern), pattern
    for schema in schemas:
        examples = schema.get("examples", [])
        for example in examples if isinstance(examples, list) else ():
            jsonschema.validate(example, schema, cls=jsonschema.Draft202012Validator)


async def test_examples_of_bodies_are_taken(bench: Bench) -> None:
    """The example of an order's body, as the page offers it, is an order that the call takes."""
    description = await describe(bench)
    for path in ("/api/v1/orders", "/api/v1/orders/test"):
        example = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
        answer = await bench.client.post("/api/v1/orders/test", json=example, headers=bearer())
        assert answer.status_code == 200


async def test_decimals_of_the_description_are_what_is_taken(bench: Bench) -> None:
    """A sign, an exponent or too many digits do not fit the schema of a price, as they are not taken in one."""
    description = await describe(bench)
    schema = {"components": description["components"], "$ref": "#/components/schemas/PlaceOrder"}
    for wrong in ("-1", "+1", "1e5", ".5", "1.", "1" * 65):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(LIMIT | {"price": wrong}, schema)
        answer = await bench.client.post("/api/v1/orders/test", json=LIMIT | {"price": wrong}, headers=bearer())
        assert answer.status_code == 400
    change = description["components"]["schemas"]["Ticker"]["properties"]["change"]
    jsonschema.validate("-120.50", change)


async def test_every_status_reason_is_described(bench: Bench) -> None:
    """The description of an order says what each reason means for which an order can end, and only those."""
    description = await describe(bench)
    choices = description["components"]["schemas"]["Order"]["properties"]["status_reason"]["anyOf"]
    (reasons,) = (choice for choice in choices if choice["type"] == "string")
    assert set(reasons["enum"]) == {r.name for r in Reason if Reason.NONE < r < Reason.INVALID_REQUEST}
    for name in reasons["enum"]:
        assert f"- `{name}`: " in reasons["description"]


async def test_path_forms_of_a_symbol_are_described_and_work(bench: Bench) -> None:
    """Each way in which the description writes a symbol in a path finds it."""
    description = await describe(bench)
    (parameter,) = (
        p for p in description["paths"]["/api/v1/orderbook/{symbol}"]["get"]["parameters"] if p["in"] == "path"
    )
    for form in ("BTC-USDT", "BTC%2FUSDT", "BTC/USDT"):
        assert form in parameter["description"]
        assert (await bench.client.get(f"/api/v1/orderbook/{form}")).status_code == 200


async def test_root_says_what_is_where(bench: Bench) -> None:
    """Each path that the root names is answered."""
    told = (await (await bench.client.get("/")).get_json())["data"]
    paths = [value for name, value in told.items() if value.startswith("/") and name != "api"]
    assert len(paths) == 6
    for path in paths:
        assert (await bench.client.get(path)).status_code == 200, path


def walk(part: Any) -> Iterator[dict[str, Any]]:
    """Give every object of a description."""
    if isinstance(part, dict):
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from walk(inner)


async def test_docs_page_needs_nothing_from_elsewhere(bench: Bench) -> None:
    """The page for people loads no address but this server's own."""
    answer = await bench.client.get("/docs")
    page = await answer.get_data(as_text=True)
    assert answer.content_type.startswith("text/html")
    assert "/openapi.json" in page
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert "https://" not in page


async def test_requests_are_counted_by_route(bench: Bench) -> None:
    """A request is counted under its route as the API's description writes it; a path that is none is unknown."""
    await bench.client.get("/api/v1/symbols")
    await bench.client.get("/api/v1/nothing")
    page = bench.memory.metrics["front-0"].snapshot()
    assert page.histograms['http_request_us{route="/api/v1/symbols",method="GET"}'].count == 1
    assert page.counters['http_requests{route="unknown",method="GET",code="404"}'] == 1
    assert page.counters["requests"] == 2
