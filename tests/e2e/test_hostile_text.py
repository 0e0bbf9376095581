"""Strings that mean something elsewhere, in every string that any call takes: here they are letters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

import pytest
from tests.e2e.bank import admin_of, check_ledger
from tests.e2e.users import Json, User, connect_database, make_user
from tests.engines import Engine

TEXTS: Final = (
    "'; DROP TABLE accounts; --",
    "1' OR '1'='1",
    "x\\'); DELETE FROM postings; --",
    "1; SELECT pg_sleep(30)",
    "$$; TRUNCATE balances; $$",
    "%s %(name)s {0} {account_id}",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{7*7}}${7*7}#{7*7}",
    "${jndi:ldap://x/a}",
    "../../../../etc/passwd",
    "a\r\nSet-Cookie: b=c",
    "=cmd|' /C calc'!A0",
    "\u202egnp.exe",
    "\x00",
    "\ud7ff\U0001f980",
    "a" * 300,
)
BODIES: Final[dict[str, Json]] = {
    "POST /api/v1/orders": {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "100"},
    "POST /api/v1/orders/test": {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "100"},
    "POST /api/v1/admin/deposits": {"user": "mallory", "asset": "USDT", "amount": "1", "reference": "hostile.1"},
    "POST /api/v1/admin/withdrawals": {"user": "mallory", "asset": "USDT", "amount": "1", "reference": "hostile.1"},
    "POST /api/v1/api-keys": {"name": "x", "permissions": ["read"]},
}
"""What is right about a body but for the one text that is tried; any other body has only that."""
PARTS: Final = {"symbol": "BTC-USDT", "user": "mallory", "tf": "1m"}
"""Right values for what a call cannot do without."""


@pytest.fixture(scope="module")
def mallory(bank: Engine) -> Iterator[User]:
    """Give a user with some money, and every right that a user has."""
    user = make_user(bank, "mallory", {"USDT": "1000"})
    yield user
    user.http.close()


@pytest.fixture(scope="module")
def operations(bank: Engine, mallory: User) -> list[tuple[str, str, Json, dict[str, Json]]]:
    """Give every operation that the engine describes: method, path, description, and all schemas."""
    description = mallory.http.get(f"{bank.url}/openapi.json").json()
    schemas = description["components"]["schemas"]
    return [
        (method.upper(), path, operation, schemas)
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
    ]


def fields_of(operation: Json, schemas: dict[str, Json]) -> list[tuple[str, str]]:
    """Name where an operation takes a text: (``path``, ``query`` or ``body``, name)."""
    fields = [(parameter["in"], parameter["name"]) for parameter in operation.get("parameters", ())]
    if "requestBody" in operation:
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        fields += [("body", name) for name in schemas[reference.rpartition("/")[2]]["properties"]]
    return fields


def ask(user: User, url: str, method: str, path: str, operation: Json, place: tuple[str, str], text: str) -> Any:
    """Make a call with a text in one place."""
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            own = place == ("path", parameter["name"])
            value = text if own else PARTS.get(parameter["name"], "1")
            path = path.replace("{" + parameter["name"] + "}", quote(value, safe=""))
    query = {
        parameter["name"]: PARTS.get(parameter["name"], "1")
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query" and parameter["required"]
    }
    query |= {place[1]: text} if place[0] == "query" else {}
    body = None
    if "requestBody" in operation:
        body = BODIES.get(f"{method} {path}", {}) | ({place[1]: text} if place[0] == "body" else {})
    return user.http.request(method, f"{url}{path}", params=query, json=body)


@pytest.mark.long
def test_hostile_texts_are_letters(bank: Engine, mallory: User, operations: list[Any]) -> None:
    """Whatever text stands wherever a call takes one, the answer is a plain refusal or takes it as it is.

    Nothing of it is carried out, neither as SQL nor as a format, a header or a path, and it comes back as JSON only.
    """
    root = admin_of(bank, "super_admin")
    before = _tables(bank)
    tried = 0
    for method, path, operation, schemas in operations:
        user = root if "/admin/" in path else mallory
        for place in fields_of(operation, schemas):
            for text in TEXTS:
                answer = ask(user, bank.url, method, path, operation, place, text)
                what = (method, path, place, text)
                assert answer.status_code < 500, (what, answer.text)
                assert answer.headers["Content-Type"] == "application/json", what
                assert "set-cookie" not in answer.headers, what
                assert answer.json()["success"] is (answer.status_code < 400), what
                tried += 1
    assert tried > 1000
    assert _tables(bank) == before
    assert mallory.balances()["USDT"][0] == 1000
    mallory.call("DELETE", "/orders")
    root.http.close()
    check_ledger(bank)


def test_hostile_texts_come_back_as_they_were(bank: Engine, mallory: User) -> None:
    """Where a text is for people it is kept letter by letter, and escaped as JSON wants it."""
    root = admin_of(bank)
    for text in TEXTS:
        if text.isprintable() and len(text) <= 200:
            told = root.call("POST", f"/admin/users/{mallory.name}/suspend", json={"reason": text})
            assert told["reason"] == text
    root.call("POST", f"/admin/users/{mallory.name}/resume", json={"reason": "x"})
    root.http.close()


def _tables(engine: Engine) -> list[tuple[str]]:
    with connect_database(engine) as connection:
        query = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
        return connection.execute(query).fetchall()
