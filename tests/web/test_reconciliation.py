"""The call for a reconciliation, where nothing could be compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.web.bench import Bench, bearer

PATH = "/api/v1/admin/reconciliation"


async def ask(bench: Bench) -> tuple[int, dict[str, Any]]:
    """Ask as an administrator; give status and error."""
    answer = await bench.client.get(PATH, headers=bearer(role="admin"))
    return answer.status_code, (await answer.get_json()).get("error")


async def test_what_cannot_be_compared_says_why(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison that failed is 503 with its reason, and names the row in which it is."""
    found = bench.database.find_reconciliation(7)
    failed = replace(found, checked=None, differences=None, difference_count=None, error="matcher-1 is silent")
    monkeypatch.setattr(bench.database, "find_reconciliation", named("find_reconciliation", failed))
    status, error = await ask(bench)
    assert (status, error["code"]) == (503, "RECONCILIATION_UNAVAILABLE")
    assert "matcher-1 is silent" in error["message"]
    assert error["details"] == {"id": "1"}


async def test_keeper_that_says_nothing_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody answers in time the call does not hang."""
    waiting = replace(bench.database.find_reconciliation(7), finished_at=None, checked=None, differences=None)
    monkeypatch.setattr(bench.database, "find_reconciliation", named("find_reconciliation", waiting))
    settings = bench.front.settings
    keeper = msgspec.structs.replace(settings.keeper, reconcile_timeout_s=0.05)
    monkeypatch.setattr(bench.front, "settings", msgspec.structs.replace(settings, keeper=keeper))
    status, error = await ask(bench)
    assert (status, error["code"]) == (503, "RECONCILIATION_UNAVAILABLE")
    assert "keeper" in error["message"]


def named(name: str, result: Any) -> Any:
    """Make a query of that name that always gives the same."""

    def query(*_: Any) -> Any:
        return result

    query.__name__ = name
    return query
