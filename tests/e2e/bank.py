"""What stories about accounts and money share: administrators, fresh connections, and checks of the ledger."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Final

import httpx2
from tests.e2e.users import Json, User, connect_database
from tests.engines import Engine
from tests.faults.load import LEDGER_CLAIMS

CONNECTIONS: Final = 8
"""Each is taken by whichever front comes first: so many seldom miss one of two."""
_TLS: Final = ssl.create_default_context()
"""Of no use over HTTP, but each client that is not given one makes one, which takes longer than all its calls."""


def admin_of(engine: Engine, role: str = "admin") -> User:
    """Sign an administrator in."""
    return User("root", engine.client("root", role))


@contextmanager
def fresh(user: User) -> Iterator[httpx2.Client]:
    """Open a connection of its own to whichever front takes it."""
    headers = {"Authorization": user.http.headers["Authorization"]}
    with httpx2.Client(
        base_url=user.http.base_url, headers=headers, timeout=20, verify=_TLS, trust_env=False
    ) as client:
        yield client


def ask_everyone(user: User, method: str, path: str, **options: Any) -> list[tuple[int, str]]:
    """Make a call on many connections, so on every front; returns status and error code of each."""
    answers = []
    for _ in range(CONNECTIONS):
        with fresh(user) as client:
            answer = client.request(method, path, **options)
            answers.append((answer.status_code, answer.json().get("error", {}).get("code", "")))
    return answers


def at_once(*works: Callable[[], int]) -> list[int]:
    """Do things at the same time; returns what each gave."""
    given: list[int] = [0] * len(works)
    begin = threading.Barrier(len(works))

    def run(place: int) -> None:
        begin.wait()
        given[place] = works[place]()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return given


def move(admin: User, kind: str, user: str, asset: str, amount: str, reference: str, status: int = 200) -> Json:
    """Deposit or withdraw; returns ``data`` or ``error``."""
    body = {"user": user, "asset": asset, "amount": amount, "reference": reference}
    moved: Json = admin.call("POST", f"/admin/{kind}s", status, json=body)
    return moved


def statement(user: User, **parameters: Any) -> list[Json]:
    """Read a whole statement, page by page."""
    entries: list[Json] = []
    cursor = None
    while True:
        answer = user.http.get("/ledger", params=parameters | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200, answer.text
        entries += answer.json()["data"]
        cursor = answer.json()["meta"]["next_cursor"]
        if cursor is None:
            return entries


def check_statement(user: User) -> list[Json]:
    """Hold a statement against itself and against the balances: sums are exact, and nothing was ever below zero."""
    entries = statement(user, limit=1000)
    balances: dict[str, Decimal] = {}
    for entry in reversed(entries):
        amount = Decimal(entry["amount"])
        balances[entry["asset"]] = balances.get(entry["asset"], Decimal(0)) + amount
        assert Decimal(entry["balance"]) == balances[entry["asset"]] >= 0, entry
        assert (amount > 0) or entry["kind"] != "deposit"
    told = {asset: total for asset, (total, _, _) in user.balances().items() if total}
    assert {asset: total for asset, total in balances.items() if total} == told
    return entries


def check_ledger(engine: Engine) -> None:
    """Hold the ledger against itself: postings sum to zero and to the balances, and no user's is below zero."""
    with connect_database(engine) as connection:
        for claim, query in LEDGER_CLAIMS.items():
            assert connection.execute(query).fetchall() == [], claim
