"""Users of a running engine: funded, with a token, and with the checks that their stories share."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx2
from tests.engines import Engine

from tradeengine.actors.data_dir import read_secret
from tradeengine.web.auth import issue_token

_numbers = itertools.count()

Json = dict[str, Any]
NewUser = Callable[..., "User"]


@dataclass
class User:
    """A user with a connection of their own."""

    name: str
    http: httpx2.Client

    def place(self, status: int = 201, **order: Any) -> Json:
        """Place an order; returns ``data``, or ``error`` when another status than 201 or 200 is expected."""
        placed: Json = self.call("POST", "/orders", status, json={"side": "buy", "type": "limit", **order})
        return placed

    def call(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        """Make a call that must end with ``status``; returns ``data`` or ``error``."""
        answer = self.http.request(method, path, **options)
        body = answer.json()
        assert answer.status_code == status, body
        assert body["success"] is (status < 400)
        return body["data"] if body["success"] else body["error"]

    def order(self, order_id: str) -> Json:
        """Look at an own order."""
        order: Json = self.call("GET", f"/orders/{order_id}")["order"]
        return order

    def balances(self) -> dict[str, tuple[Decimal, Decimal, Decimal]]:
        """Own balances: total, available, held."""
        return {
            row["asset"]: (Decimal(row["total"]), Decimal(row["available"]), Decimal(row["held"]))
            for row in self.call("GET", "/balances")
        }


def make_user(engine: Engine, prefix: str, funds: Mapping[str, str] | None = None) -> User:
    """Make a user that no other test knows, with these deposits."""
    name = f"{prefix}-{os.getpid()}-{next(_numbers)}"
    for asset, amount in (funds or {}).items():
        engine.deposit(name, asset, amount)
    token = issue_token(read_secret(engine.data_dir).encode(), name, "user", 3600)
    client = httpx2.Client(
        base_url=f"{engine.url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=20, trust_env=False
    )
    return User(name, client)
