"""Who is suspended, as a front sees it: by the shared table alone, from the first moment on."""

from __future__ import annotations

import pytest
from tests.web.bench import ACCOUNT_ID, Bench, bearer, refuse
from tests.web.fake_database import FakeDatabase

from tradeengine.core.records import AccountFlag, Reason
from tradeengine.web.history import ABSENT_MAX, Accounts
from tradeengine.web.in_force import InForce


async def outcome(bench: Bench, method: str, path: str) -> tuple[int, str]:
    """Make a call as alice; returns status and code of the error."""
    answer = await bench.client.open(path, method=method, headers=bearer())
    return answer.status_code, (await answer.get_json()).get("error", {}).get("code", "")


async def test_table_decides(bench: Bench) -> None:
    """The flag in the table refuses everything but cancels and what is public; taken away, everything passes."""
    accounts, refusals = bench.memory.tables["accounts"], bench.memory.rings["refusals"]
    accounts.write(ACCOUNT_ID, (1, int(AccountFlag.SUSPENDED), 0))
    async with bench.engine(lambda command: [("refusals", refuse(command, refusals, Reason.ORDER_NOT_FOUND))]):
        for path in ("balances", "orders", "orders/1", "fees", "ledger", "trades?scope=mine", "api-keys"):
            assert await outcome(bench, "GET", f"/api/v1/{path}") == (403, "ACCOUNT_SUSPENDED"), path
        assert (await outcome(bench, "DELETE", "/api/v1/orders/1"))[1] == "ORDER_NOT_FOUND"
        assert (await outcome(bench, "GET", "/api/v1/symbols"))[0] == 200
        accounts.write(ACCOUNT_ID, (2, 0, 0))
        assert (await outcome(bench, "GET", "/api/v1/balances"))[0] == 200


async def test_nobody_gets_in_before_risk_has_said_who_may(bench: Bench) -> None:
    """While risk has not written the table in this engine's life, nobody may do anything of their own."""
    table = bench.memory.tables["tickers"]  # any that nobody has written yet
    bench.front.in_force = InForce(table, 0.1)
    assert await outcome(bench, "GET", "/api/v1/balances") == (503, "NOT_READY")
    assert await outcome(bench, "GET", "/api/v1/trades?scope=mine") == (503, "NOT_READY")
    assert (await outcome(bench, "GET", "/api/v1/symbols"))[0] == 200


class Directory(FakeDatabase):
    """Names of accounts."""

    def __init__(self) -> None:
        super().__init__()
        self.names = {"alice": ACCOUNT_ID}

    def find_account(self, name: str) -> int | None:
        """Look for a name."""
        return self.names.get(name)


async def test_name_without_an_account_is_asked_for_once() -> None:
    """That a name has no account is believed until anyone's settings have changed; that it has one, for good."""
    database = Directory()
    accounts = Accounts(database, 100)  # type: ignore[arg-type]  # a database of Python
    for _ in range(3):
        assert await accounts.find("alice", 1) == ACCOUNT_ID
        assert await accounts.find("root", 1) is None
    assert len(database.asked) == 2
    database.names["root"] = 17
    assert await accounts.find("root", 1) is None
    assert await accounts.find("root", 2) == 17
    assert await accounts.find("root", 1) == 17
    assert len(database.asked) == 3


async def test_names_without_an_account_are_bounded() -> None:
    """However many strangers come, few are remembered."""
    accounts = Accounts(Directory(), 100)  # type: ignore[arg-type]
    for number in range(ABSENT_MAX + 10):
        await accounts.find(f"stranger-{number}", 1)
    assert len(accounts._absent) <= ABSENT_MAX


@pytest.mark.parametrize("row", [0, ACCOUNT_ID])
async def test_torn_row_is_overload(bench: Bench, row: int) -> None:
    """While risk is replaced in the middle of a row, calls are refused for the moment, and nobody slips through."""
    table = bench.memory.tables["accounts"]
    table.write(ACCOUNT_ID, (1, int(AccountFlag.SUSPENDED), 0))
    with table.writing(row):
        assert await outcome(bench, "GET", "/api/v1/balances") == (503, "ENGINE_OVERLOADED")
    assert await outcome(bench, "GET", "/api/v1/balances") == (403, "ACCOUNT_SUSPENDED")
