"""Users of a running engine: funded, with a token, and with the checks that their stories share."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx2
import psycopg
from tests.engines import SMALL, Engine

from tradeengine.actors.data_dir import read_secret
from tradeengine.storage.directory import load_directory, resolve_account
from tradeengine.storage.embedded import running_embedded
from tradeengine.storage.funding import FundingKind, FundingStatus, request_funding, wait_funding
from tradeengine.web.auth import issue_token

ACCOUNTS_MAX = int(SMALL["TRADEENGINE_LIMITS_ACCOUNTS_MAX"])

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


def deposit_all(engine: Engine, name: str, funds: Mapping[str, str]) -> None:
    """Credit a user with several assets as ``tradeengine deposit`` does, in one process and at once."""
    with connect_database(engine) as connection:
        directory = load_directory(connection)
        account_id = resolve_account(connection, name, accounts_max=ACCOUNTS_MAX)
        requests = []
        for asset_name, amount in funds.items():
            asset = directory.asset(asset_name)
            assert asset is not None
            requests.append(
                request_funding(
                    connection,
                    FundingKind.DEPOSIT,
                    reference=f"{name}.{asset_name}",
                    account_id=account_id,
                    asset_id=asset.asset_id,
                    amount_units=asset.parse(amount),
                )
            )
        for request in requests:
            assert wait_funding(connection, request, timeout_s=30).status is FundingStatus.SETTLED


def connect_database(engine: Engine) -> psycopg.Connection[Any]:
    """Connect to the PostgreSQL that an engine runs."""
    server = running_embedded(engine.data_dir)
    assert server is not None
    return psycopg.connect(server.dsn, autocommit=True)


def make_user(engine: Engine, prefix: str, funds: Mapping[str, str] | None = None) -> User:
    """Make a user that no other test knows, with these deposits."""
    name = f"{prefix}-{os.getpid()}-{next(_numbers)}"
    deposit_all(engine, name, funds or {})
    return sign_in(engine, name)


def user_for_a_test(engine: Engine, prefix: str, funds: Mapping[str, str]) -> Iterator[User]:
    """Be a fixture: a new user, whose orders are cancelled at the end."""
    user = make_user(engine, prefix, funds)
    yield user
    user.call("DELETE", "/orders")
    user.http.close()


def users_for_a_test(engine: Engine) -> Iterator[NewUser]:
    """Be a fixture: a maker of users that are the test's own, ``new_user("carol", BTC="2")``."""
    made: list[User] = []

    def make(prefix: str, **funds: str) -> User:
        made.append(make_user(engine, prefix, funds))
        return made[-1]

    yield make
    for user in made:
        user.http.close()


def sign_in(engine: Engine, name: str) -> User:
    """Connect to an engine as a user that exists."""
    token = issue_token(read_secret(engine.data_dir).encode(), name, "user", 3600)
    client = httpx2.Client(
        base_url=f"{engine.url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=20, trust_env=False
    )
    return User(name, client)
