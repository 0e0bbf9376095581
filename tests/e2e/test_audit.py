"""What administrators do is in the audit log: each call that is not a read, how it ended, what was before and after."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import psycopg
import pytest
from tests.e2e.users import User
from tests.engines import Engine

from tradeengine.actors.data_dir import read_secret
from tradeengine.web.auth import issue_token

_numbers = itertools.count()
NewRoot = Callable[..., User]


@pytest.fixture
def new_root(bank: Engine) -> Iterator[NewRoot]:
    """Give a maker of administrators, or of others who would like to be, that nobody else has seen."""
    made: list[User] = []

    def make(role: str = "admin", *, two_factor: bool = False) -> User:
        name = f"audited-{next(_numbers)}"
        token = issue_token(read_secret(bank.data_dir).encode(), name, role, 3600, two_factor=two_factor)
        headers = {"Authorization": f"Bearer {token}"}
        made.append(User(name, httpx2.Client(base_url=f"{bank.url}/api/v1", headers=headers, timeout=20)))
        return made[-1]

    yield make
    for user in made:
        user.http.close()


@pytest.fixture
def root(new_root: NewRoot) -> User:
    """Give an administrator."""
    return new_root(two_factor=True)


@pytest.fixture
def reader(new_root: NewRoot) -> User:
    """Give an administrator who only reads."""
    return new_root()


def rows_of(reader: User, actor: str, **query: Any) -> list[dict[str, Any]]:
    """List what somebody did, the oldest first."""
    rows: list[dict[str, Any]] = reader.call("GET", "/admin/audit", params={"actor": actor, **query})
    return rows[::-1]


def test_action_is_recorded_with_before_and_after(root: User, reader: User) -> None:
    """Who, what, whom, before, after, why, from where and under which request id: all is in the row, at once."""
    answer = root.http.post(
        "/admin/users/marked/suspend", json={"reason": "asked for"}, headers={"X-Request-ID": "audit-test-1"}
    )
    assert answer.status_code == 200
    (row,) = rows_of(reader, root.name)
    assert row | {"id": "", "time": "", "hash": "", "previous_hash": "", "before": None, "after": None} == {
        "id": "",
        "time": "",
        "actor": root.name,
        "role": "admin",
        "credential": "token:default",
        "two_factor": True,
        "action": "suspend_user",
        "target": "marked",
        "details": None,
        "before": None,
        "after": None,
        "reason": "asked for",
        "request_id": "audit-test-1",
        "address": "127.0.0.1",
        "outcome": "ok",
        "code": None,
        "previous_hash": "",
        "hash": "",
    }
    assert row["before"]["suspended"] is False
    assert row["after"] == answer.json()["data"]
    assert row["time"] <= answer.json()["meta"]["timestamp"]


def test_settings_are_recorded_as_they_were(root: User, reader: User) -> None:
    """Changes of a user's and of a symbol's limits hold all limits before and after, and only the fields asked for."""
    for size in ("100", "200"):
        root.call("POST", "/admin/limits/user/bounded", json={"max_order_size": size})
    root.call("POST", "/admin/limits/symbol/avax-usdt", json={"max_price_deviation": "0.25"})
    first, second, symbol = rows_of(reader, root.name)
    assert first["details"] == {"max_order_size": "100"}
    assert (first["before"]["max_order_size"], first["after"]["max_order_size"]) == (None, "100")
    assert (second["before"]["max_order_size"], second["after"]["max_order_size"]) == ("100", "200")
    assert (symbol["action"], symbol["target"]) == ("change_symbol_limits", "AVAX/USDT")
    assert symbol["before"]["max_price_deviation"] != symbol["after"]["max_price_deviation"] == "0.250000"


def test_money_is_recorded(root: User, reader: User) -> None:
    """Deposits and withdrawals hold user, asset, amount and reference, and what became of them, refusals included."""
    move = {"user": "saver", "asset": "USDT", "amount": "10", "reference": f"{root.name}-1"}
    root.call("POST", "/admin/deposits", json=move)
    root.call("POST", "/admin/deposits", 409, json=move | {"amount": "11"})
    root.call("POST", "/admin/withdrawals", 422, json=move | {"amount": "12"})
    deposit, reused, refused = rows_of(reader, root.name)
    assert (deposit["target"], deposit["details"], deposit["outcome"]) == ("saver", move, "ok")
    assert deposit["after"]["status"] == "settled"
    assert (reused["outcome"], reused["code"]) == ("refused", "REFERENCE_REUSED")
    assert (refused["action"], refused["code"]) == ("withdraw", "INSUFFICIENT_BALANCE")
    assert refused["after"]["status"] == "refused"


def test_halts_are_recorded(root: User, reader: User) -> None:
    """A halt and a resume hold the state before and after; a dry run says that it was one, and changed nothing."""
    path = "/admin/trading/halt/LINK-USDT"
    root.call("POST", path, json={"reason": "a look"}, params={"dry_run": "true"})
    root.call("POST", path, json={"reason": "a fault"})
    root.call("POST", "/admin/trading/resume/LINK-USDT", json={"reason": "mended"})
    dry, halt, resume = rows_of(reader, root.name)
    assert dry["details"]["dry_run"] is True
    assert halt["details"] is None or not halt["details"].get("dry_run")
    assert [row["reason"] for row in (dry, halt, resume)] == ["a look", "a fault", "mended"]
    assert (halt["before"]["status"], halt["after"]["status"]) == ("open", "halted")
    assert (resume["before"]["status"], resume["after"]["status"]) == ("halted", "open")


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/admin/users/someone/suspend", {"reason": ""}, 400, "INVALID_REQUEST"),
        ("/admin/users/someone/suspend", {"reason": "x", "extra": 1}, 400, "INVALID_REQUEST"),
        ("/admin/users/someone/suspend", {}, 400, "INVALID_REQUEST"),
        ("/admin/users/someone/suspend?why=x", {"reason": "x"}, 400, "INVALID_REQUEST"),
        ("/admin/limits/symbol/NOPE-USDT", {"max_order_size": "1"}, 404, "SYMBOL_NOT_FOUND"),
        ("/admin/dead-letters/17/retry", None, 404, "NOT_FOUND"),
        ("/admin/deposits", {"user": "a", "asset": "XYZ", "amount": "1", "reference": "r"}, 400, "INVALID_REQUEST"),
    ],
)
def test_refused_action_is_recorded(
    path: str, body: dict[str, Any] | None, status: int, code: str, root: User, reader: User
) -> None:
    """What is refused for how it was asked, or for what is there, is recorded with the error's code."""
    root.call("POST", path, status, json=body)
    (row,) = rows_of(reader, root.name)
    assert (row["outcome"], row["code"]) == ("refused", code)


def test_body_that_is_no_json_is_recorded_without_it(root: User, reader: User) -> None:
    """Of a body that cannot be read nothing is kept but that it was refused."""
    for content in (b"{", b"\xff", b"[" * 1000, b'{"reason": 1e999}'):
        assert root.http.post("/admin/users/x/suspend", content=content).status_code == 400
    rows = rows_of(reader, root.name)
    assert [(row["code"], row["details"], row["reason"]) for row in rows] == [("INVALID_REQUEST", None, None)] * 4


def test_who_may_not_is_recorded(new_root: NewRoot, reader: User) -> None:
    """A user who tries what only administrators may, and an administrator who lacks a rank, are in the log."""
    user = new_root("user")
    user.call("POST", "/admin/users/victim/suspend", 403, json={"reason": "revenge"})
    (row,) = rows_of(reader, user.name)
    assert (row["role"], row["action"], row["target"], row["reason"]) == ("user", "suspend_user", "victim", "revenge")
    assert (row["outcome"], row["code"]) == ("refused", "FORBIDDEN")


def test_suspended_administrator_is_recorded(new_root: NewRoot, reader: User) -> None:
    """An administrator who was suspended gets nowhere, and each attempt is in the log."""
    fallen = new_root()
    reader.call("POST", f"/admin/users/{fallen.name}/suspend", json={"reason": "left us"})
    fallen.call("POST", f"/admin/users/{fallen.name}/resume", 403, json={"reason": "let me in"})
    (row,) = rows_of(reader, fallen.name)
    assert (row["outcome"], row["code"]) == ("refused", "ACCOUNT_SUSPENDED")


def test_reads_and_strangers_are_not_recorded(bank: Engine, root: User, reader: User) -> None:
    """Reads add nothing, nor does a call of which nobody knows who made it."""
    before = reader.call("GET", "/admin/audit", params={"limit": 1})
    root.call("GET", "/admin/audit")
    root.call("GET", "/admin/limits/user/nobody-at-all", 404)
    with bank.client() as nobody:
        assert nobody.post("/admin/users/x/suspend", json={"reason": "x"}).status_code == 401
    assert reader.call("GET", "/admin/audit", params={"limit": 1}) == before


def test_secrets_never_get_in(bank: Engine, root: User, reader: User) -> None:
    """Tokens and secrets of the engine are blotted out wherever somebody puts them, in the table as on the disk."""
    secret = read_secret(bank.data_dir)
    token = str(root.http.headers["Authorization"]).removeprefix("Bearer ")
    for hidden in (secret, token):
        root.http.post(f"/admin/users/{hidden[:64]}/suspend", json={"reason": f"see {hidden[:150]}"})
        root.http.post("/admin/users/x/suspend", json={"reason": "x", hidden: hidden, "token": hidden})
        root.http.post("/admin/deposits", json={"user": hidden, "asset": hidden, "amount": "1", "reference": hidden})
        root.http.post("/admin/users/x/resume", json={"reason": ""}, headers={"X-Request-ID": hidden[:64]})
    rows = rows_of(reader, root.name)
    assert len(rows) == 8
    assert "[secret]" in rows[0]["reason"]
    kept = json.dumps(rows)
    for path in (bank.data_dir / "audit").iterdir():
        kept += path.read_bytes().decode()
    for hidden in (secret, token, token.split(".")[1]):
        assert hidden not in kept
        assert hidden[:60] not in kept


def test_fronts_write_one_chain(bank: Engine, reader: User, new_root: NewRoot) -> None:
    """Many administrators at once, on both fronts: each action is there once, in a chain without gap or fork."""
    roots = [new_root() for _ in range(6)]

    def act(user: User) -> None:
        for number in range(10):
            answer = httpx2.post(
                f"{bank.url}/api/v1/admin/limits/user/{user.name}",
                json={"max_open_orders": number},
                headers={"Authorization": user.http.headers["Authorization"], "Connection": "close"},
                timeout=20,
            )
            assert answer.status_code == 200

    threads = [threading.Thread(target=act, args=(user,)) for user in roots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for user in roots:
        afters = [row["after"]["max_open_orders"] for row in rows_of(reader, user.name)]
        befores = [row["before"]["max_open_orders"] for row in rows_of(reader, user.name)]
        assert sorted(afters) == list(range(10))
        assert befores[1:] == afters[:-1]
    newest_first = reader.call("GET", "/admin/audit", params={"limit": 70})
    for later, earlier in itertools.pairwise(newest_first):
        assert later["previous_hash"] == earlier["hash"]
        assert int(later["id"]) == int(earlier["id"]) + 1
    whole = bank.command("audit", "verify")
    assert (whole.returncode, "whole" in whole.stdout) == (0, True), whole.stdout + whole.stderr


def test_pages_and_filters(root: User, reader: User) -> None:
    """Pages join without gap or repeat; action and time choose rows; what is wrong in a query is named."""
    for number in range(5):
        root.call("POST", "/admin/limits/user/paged", json={"max_open_orders": number})
    root.call("POST", "/admin/users/paged/suspend", json={"reason": "enough"})
    collected: list[str] = []
    cursor: str | None = None
    while True:
        query: dict[str, Any] = {"actor": root.name, "limit": 2} | ({"cursor": cursor} if cursor else {})
        body = reader.http.get("/admin/audit", params=query).json()
        collected += [row["id"] for row in body["data"]]
        cursor = body["meta"]["next_cursor"]
        if cursor is None:
            break
    rows = rows_of(reader, root.name)
    assert collected == [row["id"] for row in rows][::-1]
    assert [row["action"] for row in rows_of(reader, root.name, action="suspend_user")] == ["suspend_user"]
    third = rows[2]["time"]
    assert [row["id"] for row in rows_of(reader, root.name, end=third)] == [row["id"] for row in rows[:2]]
    assert rows[2]["id"] in [row["id"] for row in rows_of(reader, root.name, start=third)]
    for query in ({"limit": "0"}, {"cursor": "x"}, {"start": "yesterday"}, {"who": "me"}, {"actor": "a\0"}):
        reader.call("GET", "/admin/audit", 400, params=query)


def test_command_line_is_recorded_and_lists(bank: Engine, reader: User) -> None:
    """What is changed on the command line is in the log by the system's user, and is listed there as well."""
    assert bank.command("deposit", "cli-audited", "USDT", "7").returncode == 0
    assert bank.command("deposit", "cli-audited", "USDT", "nothing").returncode == 1
    assert bank.command("dead-letters", "retry", "17").returncode == 1
    bank.token("cli-audited", "admin")
    listed = json.loads(bank.command("audit", "list", "--limit", "4", "--json").stdout)
    assert [(row["action"], row["target"], row["outcome"]) for row in listed[::-1]] == [
        ("deposit", "cli-audited", "ok"),
        ("deposit", "cli-audited", "failed"),
        ("retry_dead_letter", "17", "failed"),
        ("issue_token", "cli-audited", "ok"),
    ]
    assert {row["actor"].partition(":")[0] for row in listed} == {"cli"}
    assert rows_of(reader, listed[0]["actor"], limit=4)[::-1] == listed
    lines = bank.command("audit", "list", "--limit", "1", "--action", "issue_token").stdout
    assert "issue_token cli-audited: ok" in lines
    assert bank.command("audit", "list", "--start", "soon").returncode == 1


def test_tampering_is_found_on_the_command_line(bank: Engine, root: User) -> None:
    """A row that a superuser altered is named with status 1; as it was before the log is whole again."""
    root.call("POST", "/admin/users/tampered/suspend", json={"reason": "x"})
    with psycopg.connect(bank.dsn, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE audit SET actor = 'nobody'")
        connection.execute("ALTER TABLE audit DISABLE TRIGGER audit_is_append_only")
        try:
            (row_id,) = connection.execute("SELECT max(id) FROM audit").fetchone() or (0,)
            connection.execute("UPDATE audit SET actor = 'nobody' WHERE id = %s", (row_id,))
            found = bank.command("audit", "verify", "--json")
            connection.execute("UPDATE audit SET actor = %s WHERE id = %s", (root.name, row_id))
        finally:
            connection.execute("ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_is_append_only")
    assert found.returncode == 1
    assert json.loads(found.stdout)["fault"] == {
        "kind": "altered",
        "id": str(row_id),
        "message": f"row {row_id} is not what was written: its hash is another one",
    }
    assert bank.command("audit", "verify").returncode == 0
