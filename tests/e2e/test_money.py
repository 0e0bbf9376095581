"""Stories of money in and out: asked for once, done once, never more than is free, and each unit in the statement."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial

import pytest
from tests.e2e.bank import at_once, check_ledger, check_statement, fresh, move, statement
from tests.e2e.users import Json, User, connect_database, make_user
from tests.engines import Engine

UNIT = "0.00000001"


@pytest.fixture
def alice(bank: Engine) -> Iterator[User]:
    """Give a new user without money."""
    user = make_user(bank, "alice")
    yield user
    user.http.close()


@pytest.fixture(autouse=True, scope="module")
def ledger(bank: Engine) -> Iterator[None]:
    """Check the whole ledger when all stories are told."""
    yield
    check_ledger(bank)


def asking(admin: User, kind: str, body: Json) -> Callable[[], int]:
    """Prepare a deposit or withdrawal on a connection of its own; it gives the status of the answer."""

    def ask() -> int:
        with fresh(admin) as client:
            return client.post(f"/admin/{kind}s", json=body).status_code

    return ask


def body_of(user: User, amount: str, reference: str, asset: str = "USDT") -> Json:
    """Make the body of a deposit or withdrawal."""
    return {"user": user.name, "asset": asset, "amount": amount, "reference": reference}


def test_deposit_is_there_when_it_is_answered(root: User, alice: User) -> None:
    """What a deposit credited can be traded with at once, is in the statement, and is found by its reference."""
    made = move(root, "deposit", alice.name, "usdt", "1000.5", f"{alice.name}.1")
    assert (made["status"], made["amount"], made["asset"]) == ("settled", "1000.50000000", "USDT")
    assert alice.balances()["USDT"][:2] == (Decimal("1000.5"), Decimal("1000.5"))
    (entry,) = statement(alice)
    assert (entry["kind"], entry["amount"], entry["balance"]) == ("deposit", "1000.50000000", "1000.50000000")
    assert (entry["reference"], entry["transaction_id"]) == (made["reference"], made["transaction_id"])
    assert root.call("GET", f"/admin/deposits/{made['reference']}") == made
    assert root.call("GET", f"/admin/withdrawals/{made['reference']}", 404)["code"] == "NOT_FOUND"
    alice.place(symbol="BTC/USDT", quantity="0.01", price="50000")
    alice.call("DELETE", "/orders")


@pytest.mark.parametrize("kind", ["deposit", "withdrawal"])
def test_reference_is_good_for_one(root: User, alice: User, bank: Engine, kind: str) -> None:
    """Repeated with the same content it is the same one, however written; with other content it is a conflict."""
    move(root, "deposit", alice.name, "USDT", "100", f"{alice.name}.0")
    reference = f"{alice.name}.1"
    first = move(root, kind, alice.name, "USDT", "10", reference)
    assert move(root, kind, alice.name, "usdt", "10.000", reference) == first
    bob = make_user(bank, "bob")
    for user, asset, amount in ((alice.name, "USDT", "11"), (alice.name, "BTC", "10"), (bob.name, "USDT", "10")):
        error = move(root, kind, user, asset, amount, reference, 409)
        assert (error["code"], error["details"]["field"]) == ("REFERENCE_REUSED", "reference")
    assert alice.balances()["USDT"][0] == Decimal(110 if kind == "deposit" else 90)
    bob.http.close()


def test_same_deposit_many_times_at_once(root: User, alice: User) -> None:
    """Asked for on many connections at the same time, one reference is one deposit, and everyone hears of it."""
    statuses = at_once(*[asking(root, "deposit", body_of(alice, "7", f"{alice.name}.1"))] * 12)
    assert statuses == [200] * 12
    assert alice.balances()["USDT"][0] == 7
    assert len(statement(alice)) == 1


def test_withdrawal_takes_what_is_free_and_no_more(root: User, alice: User) -> None:
    """The last free unit can be withdrawn; a unit more, or what an order holds, is refused and nothing is taken."""
    move(root, "deposit", alice.name, "USDT", "1000", f"{alice.name}.0")
    order = alice.place(symbol="BTC/USDT", quantity="0.01", price="50000")["order"]
    free = alice.balances()["USDT"][1]
    over = str(free + Decimal(UNIT))
    error = move(root, "withdrawal", alice.name, "USDT", over, f"{alice.name}.1", 422)
    assert (error["code"], error["details"]["asset"]) == ("INSUFFICIENT_BALANCE", "USDT")
    assert alice.balances()["USDT"][:2] == (Decimal(1000), free)
    assert move(root, "withdrawal", alice.name, "USDT", str(free), f"{alice.name}.2")["status"] == "settled"
    assert alice.balances()["USDT"] == (1000 - free, Decimal(0), 1000 - free)
    alice.call("DELETE", f"/orders/{order['id']}")
    # The first was refused for good: its reference stands for that, whatever there is now.
    assert move(root, "withdrawal", alice.name, "USDT", over, f"{alice.name}.1", 422)["code"] == error["code"]
    assert root.call("GET", f"/admin/withdrawals/{alice.name}.1")["status"] == "refused"
    assert {entry["kind"] for entry in check_statement(alice)} == {"deposit", "withdrawal"}


def test_last_unit_goes_to_an_order_or_out(root: User, alice: User) -> None:
    """A withdrawal of the last unit and an order for it at the same time: exactly one of them, every time."""
    order = {"symbol": "BTC/USDT", "side": "sell", "type": "limit", "quantity": "0.00100", "price": "90000"}

    def place() -> int:
        with fresh(alice) as client:
            return client.post("/orders", json=order).status_code

    outcomes = set()
    for number in range(12):
        move(root, "deposit", alice.name, "BTC", "0.001", f"{alice.name}.in{number}")
        body = body_of(alice, "0.001", f"{alice.name}.out{number}", "BTC")
        withdrawn, placed = at_once(asking(root, "withdrawal", body), place)
        assert (withdrawn, placed) in {(200, 422), (422, 201)}
        outcomes.add(placed)
        total, _, held = alice.balances()["BTC"]
        assert (total, held) == ((Decimal("0.001"),) * 2 if placed == 201 else (0, 0))
        alice.call("DELETE", "/orders")
        if placed == 201:
            move(root, "withdrawal", alice.name, "BTC", "0.001", f"{alice.name}.rest{number}")
    check_statement(alice)


def test_last_unit_is_withdrawn_once(root: User, alice: User) -> None:
    """Of several withdrawals of everything at the same time exactly one is made."""
    for number in range(5):
        move(root, "deposit", alice.name, "USDT", "5", f"{alice.name}.in{number}")
        statuses = at_once(
            *(asking(root, "withdrawal", body_of(alice, "5", f"{alice.name}.{number}.{place}")) for place in range(4))
        )
        assert sorted(statuses) == [200, 422, 422, 422]
        assert alice.balances()["USDT"][0] == 0
    check_statement(alice)


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"amount": "0"}, "NUMBER_OUT_OF_RANGE", "amount"),
        ({"amount": "-1"}, "NUMBER_OUT_OF_RANGE", "amount"),
        ({"amount": "0.000000001"}, "INVALID_REQUEST", "amount"),
        ({"amount": "1" * 40}, "NUMBER_OUT_OF_RANGE", "amount"),
        ({"amount": 1}, "INVALID_REQUEST", "amount"),
        ({"asset": "NOPE"}, "INVALID_REQUEST", "asset"),
        ({"asset": ""}, "INVALID_REQUEST", "asset"),
        ({"user": "*exchange*"}, "INVALID_REQUEST", "user"),
        ({"user": ""}, "INVALID_REQUEST", "user"),
        ({"reference": ""}, "INVALID_REQUEST", "reference"),
        ({"reference": "=1+1"}, "INVALID_REQUEST", "reference"),
        ({"reference": "x" * 129}, "INVALID_REQUEST", "reference"),
        ({"reference": "two words"}, "INVALID_REQUEST", "reference"),
        ({"reference": None}, "INVALID_REQUEST", "reference"),
        ({"note": "x"}, "INVALID_REQUEST", "note"),
    ],
)
def test_wrong_movement_is_refused_by_field(root: User, alice: User, change: Json, code: str, field: str) -> None:
    """What cannot be a deposit or withdrawal is refused with the field's name, and nothing is written down."""
    body = body_of(alice, "1", f"{alice.name}.1") | change
    for kind in ("deposit", "withdrawal"):
        error = root.call("POST", f"/admin/{kind}s", 400, json=body)
        assert (error["code"], error["details"]["field"]) == (code, field)
    assert root.call("GET", f"/admin/deposits?user={alice.name}") == []


def test_withdrawal_of_nobody(root: User) -> None:
    """A withdrawal from a user who does not exist is 404 and makes no account."""
    assert move(root, "withdrawal", "nobody-at-all", "USDT", "1", "nobody.1", 404)["code"] == "NOT_FOUND"
    assert root.call("GET", "/admin/limits/user/nobody-at-all", 404)["code"] == "NOT_FOUND"


def test_more_than_the_engine_can_count(root: User, alice: User) -> None:
    """A deposit that fits by itself but not with everything that is there already is refused and credits nothing."""
    move(root, "deposit", alice.name, "DOGE", "20000000000", f"{alice.name}.1")
    error = move(root, "deposit", alice.name, "DOGE", "20000000000", f"{alice.name}.2", 400)
    assert error["code"] == "NUMBER_OUT_OF_RANGE"
    assert alice.balances()["DOGE"][0] == 20000000000
    move(root, "withdrawal", alice.name, "DOGE", "20000000000", f"{alice.name}.3")


def test_dry_run_of_a_deposit_writes_nothing_down(root: User, alice: User) -> None:
    """A deposit tried dry is told as it would be; no account, no row and no credit comes of it, and it can be made."""
    name = f"{alice.name}-unseen"
    body = body_of(alice, "5", f"{alice.name}.1") | {"user": name}
    tried = root.call("POST", "/admin/deposits?dry_run=true", json=body)
    assert (tried["status"], tried["amount"], tried["transaction_id"]) == ("settled", "5.00000000", None)
    assert root.call("GET", f"/admin/limits/user/{name}", 404)["code"] == "NOT_FOUND"
    assert root.call("GET", f"/admin/deposits/{alice.name}.1", 404)["code"] == "NOT_FOUND"
    made = move(root, "deposit", alice.name, "USDT", "5", f"{alice.name}.1")
    assert root.call("POST", "/admin/deposits?dry_run=true", json=body_of(alice, "5.0", f"{alice.name}.1")) == made
    for other in (body, body_of(alice, "6", f"{alice.name}.1")):
        assert root.call("POST", "/admin/deposits?dry_run=true", 409, json=other)["code"] == "REFERENCE_REUSED"
    assert alice.balances()["USDT"][0] == 5
    assert root.call("GET", f"/admin/limits/user/{name}", 404)["code"] == "NOT_FOUND"
    move(root, "deposit", alice.name, "DOGE", "20000000000", f"{alice.name}.2")
    much = body_of(alice, "20000000000", f"{alice.name}.3", "DOGE")
    assert root.call("POST", "/admin/deposits?dry_run=true", 400, json=much)["code"] == "NUMBER_OUT_OF_RANGE"
    move(root, "withdrawal", alice.name, "DOGE", "20000000000", f"{alice.name}.4")


def test_dry_run_of_a_withdrawal_takes_nothing(root: User, alice: User) -> None:
    """A withdrawal tried dry is refused for what is not free and for a user who is not there; the reference stays free.

    What is free would be taken, and is still there afterwards.
    """
    move(root, "deposit", alice.name, "USDT", "1000", f"{alice.name}.0")
    order = alice.place(symbol="BTC/USDT", quantity="0.01", price="50000")["order"]
    balances = alice.balances()
    free = balances["USDT"][1]
    path, reference = "/admin/withdrawals?dry_run=true", f"{alice.name}.1"
    error = root.call("POST", path, 422, json=body_of(alice, str(free + Decimal(UNIT)), reference))
    assert (error["code"], error["details"]["asset"]) == ("INSUFFICIENT_BALANCE", "USDT")
    tried = root.call("POST", path, json=body_of(alice, str(free), reference))
    assert (tried["status"], tried["transaction_id"], Decimal(tried["amount"])) == ("settled", None, free)
    error = root.call("POST", path, 400, json=body_of(alice, "1", reference, "NOPE"))
    assert error["details"]["field"] == "asset"
    nobody = body_of(alice, "1", reference) | {"user": "nobody-at-all"}
    assert root.call("POST", path, 404, json=nobody)["code"] == "NOT_FOUND"
    assert alice.balances() == balances
    assert root.call("GET", f"/admin/withdrawals?user={alice.name}") == []
    assert move(root, "withdrawal", alice.name, "USDT", str(free), reference)["status"] == "settled"
    assert root.call("POST", path, 409, json=body_of(alice, "1", reference))["code"] == "REFERENCE_REUSED"
    alice.call("DELETE", f"/orders/{order['id']}")


def test_pages_of_movements_are_complete(root: User, alice: User) -> None:
    """Deposits and withdrawals are listed newest first, page by page, by user and by status."""
    for number in range(7):
        move(root, "deposit", alice.name, "USDT", str(number + 1), f"{alice.name}.{number}")
    move(root, "withdrawal", alice.name, "USDT", "1000", f"{alice.name}.no", 422)
    found: list[Json] = []
    cursor = ""
    while True:
        answer = root.http.get(f"/admin/deposits?user={alice.name}&limit=3{cursor}").json()
        found += answer["data"]
        if answer["meta"]["next_cursor"] is None:
            break
        cursor = f"&cursor={answer['meta']['next_cursor']}"
    assert [row["reference"] for row in found] == [f"{alice.name}.{number}" for number in reversed(range(7))]
    path = f"/admin/withdrawals?user={alice.name}&status="
    counts = {status: len(root.call("GET", path + status)) for status in ("pending", "settled", "refused")}
    assert counts == {"pending": 0, "settled": 0, "refused": 1}
    assert root.call("GET", "/admin/deposits?user=nobody-at-all", 404)["code"] == "NOT_FOUND"


def test_statements_after_random_trading(root: User, bank: Engine) -> None:
    """After random trades, deposits and withdrawals on two shards every statement adds up, entry by entry."""
    draw = random.Random(20261121)
    funds = {"USDT": "10000", "BTC": "5", "ETH": "50"}
    users = [make_user(bank, f"trader{place}", funds) for place in range(3)]
    for number in range(150):
        user = draw.choice(users)
        symbol, price = draw.choice((("BTC/USDT", 100), ("ETH/USDT", 20)))
        quantity = Decimal(draw.randint(1, 300)) / 100
        order = {"symbol": symbol, "side": draw.choice(("buy", "sell")), "quantity": str(quantity)}
        user.http.post("/orders", json=order | {"type": "limit", "price": str(price + draw.randint(-1, 1))})
        if number % 15 == 0:
            kind = draw.choice(("deposit", "withdrawal"))
            body = body_of(user, str(draw.randint(1, 20)), f"{user.name}.{number}", draw.choice(("USDT", "BTC")))
            root.http.post(f"/admin/{kind}s", json=body)
    for user in users:
        user.call("DELETE", "/orders")
        entries = check_statement(user)
        trades = {row["id"]: row for row in user.call("GET", "/trades?scope=mine&limit=1000")}
        assert len(trades) > 10
        assert {row["settlement_status"] for row in trades.values()} == {"settled"}
        told = {entry["trade_id"]: entry["order_id"] for entry in entries if entry["kind"] == "trade"}
        assert told == {trade_id: trade["order_id"] for trade_id, trade in trades.items()}
        compare_forms(user, entries)
        user.http.close()


def compare_forms(user: User, entries: list[Json]) -> None:
    """Hold filters, pages and the CSV form against the whole statement."""
    for asset in ("USDT", "BTC"):
        assert statement(user, asset=asset, limit=7) == [entry for entry in entries if entry["asset"] == asset]
    for kind in ("trade", "deposit", "withdrawal"):
        assert statement(user, kind=kind, limit=3) == [entry for entry in entries if entry["kind"] == kind]
    middle = entries[len(entries) // 2]["time"]
    assert statement(user, end=middle) + statement(user, start=middle) != []
    assert statement(user, start=middle) + statement(user, end=middle) == entries
    rows: list[dict[str, str]] = []
    address = "/ledger?limit=11"
    while address:
        answer = user.http.get(address, headers={"Accept": "text/csv"})
        assert answer.headers["Content-Type"].startswith("text/csv; charset=utf-8")
        assert answer.text.endswith("\r\n")
        rows += csv.DictReader(io.StringIO(answer.text, newline=""))
        link = answer.headers.get("Link", "")
        address = link.partition("<")[2].partition(">")[0].removeprefix("/api/v1")
    assert rows == [{name: value or "" for name, value in entry.items()} for entry in entries]


def test_statement_is_json_unless_csv_is_wanted(alice: User) -> None:
    """Who accepts anything, or prefers JSON, gets JSON; an empty statement as CSV is its header line."""
    for accept in (None, "*/*", "application/json", "text/html", "text/csv;q=0.5, application/json"):
        answer = alice.http.get("/ledger", headers={} if accept is None else {"Accept": accept})
        assert answer.json()["data"] == []
    for accept in ("text/csv", "text/*, application/json;q=0.1"):
        answer = alice.http.get("/ledger", headers={"Accept": accept})
        assert answer.text == "time,kind,asset,amount,balance,transaction_id,trade_id,order_id,reference\r\n"
        assert "Accept" in answer.headers["Vary"]


def test_reference_is_no_formula(bank: Engine, alice: User) -> None:
    """A reference that came by another way and would be a formula to a spreadsheet is none in the CSV form."""
    reference = f'=HYPERLINK("http://x";"{alice.name}"),"\n'
    result = bank.command("deposit", alice.name, "USDT", "1", "--reference", reference)
    assert result.returncode == 0, result.stderr
    (entry,) = statement(alice)
    assert entry["reference"] == reference
    answer = alice.http.get("/ledger", headers={"Accept": "text/csv"})
    (row,) = csv.DictReader(io.StringIO(answer.text, newline=""))
    assert row["reference"] == f"'{reference}"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("asset=NOPE", "asset"),
        ("kind=fee", "kind"),
        ("cursor=x", "cursor"),
        ("cursor=AAAAAAAAAAAAAAAAAA", "cursor"),
        ("limit=1001", "limit"),
        ("start=yesterday", "start"),
        ("user=alice", "user"),
    ],
)
def test_wrong_question_is_refused_by_name(alice: User, query: str, field: str) -> None:
    """A filter that cannot be is refused with its name; nobody can ask for another's statement."""
    assert alice.call("GET", f"/ledger?{query}", 400)["details"]["field"] == field


def test_withdrawals_race_orders_on_two_shards(root: User, bank: Engine) -> None:
    """Orders on two shards and withdrawals through two fronts, all for the same money: no unit is spent twice."""
    users = [make_user(bank, f"racer{place}", {"USDT": "500", "BTC": "2", "ETH": "20"}) for place in range(2)]
    taken: list[Decimal] = []

    def trade(user: User, symbol: str, price: int, seed: int) -> int:
        draw = random.Random(seed)
        with fresh(user) as client:
            for _ in range(40):
                side = draw.choice(("buy", "sell"))
                order = {"symbol": symbol, "side": side, "type": "limit", "quantity": "1", "price": str(price)}
                assert client.post("/orders", json=order).status_code in {201, 422}
                if draw.random() < 0.3:
                    client.delete("/orders")
        return 0

    def withdraw(user: User, seed: int) -> int:
        draw = random.Random(seed)
        with fresh(root) as client:
            for number in range(25):
                amount = draw.randint(1, 60)
                body = body_of(user, str(amount), f"{user.name}.{seed}.{number}")
                status = client.post("/admin/withdrawals", json=body).status_code
                assert status in {200, 422}
                if status == 200:
                    taken.append(Decimal(amount))
        return 0

    works = []
    for place, user in enumerate(users):
        works += [partial(trade, user, "BTC/USDT", 100, place), partial(trade, user, "ETH/USDT", 20, 10 + place)]
        works += [partial(withdraw, user, 20 + place)]
    at_once(*works)
    assert taken
    totals: dict[str, Decimal] = {}
    for user in users:
        user.call("DELETE", "/orders")
        check_statement(user)
        for asset, (total, available, held) in user.balances().items():
            assert held == 0
            assert total == available >= 0
            totals[asset] = totals.get(asset, Decimal(0)) + total
    with connect_database(bank) as connection:
        row = connection.execute(
            "SELECT coalesce(sum(taker_fee_units + maker_fee_units), 0) FROM trades WHERE taker_account_id IN "
            "(SELECT id FROM accounts WHERE name = ANY (%s))",
            ([user.name for user in users],),
        ).fetchone()
    assert row is not None
    fees = Decimal(row[0]) / 10**8
    assert totals["USDT"] == 1000 - sum(taken) - fees
    assert (totals["BTC"], totals["ETH"]) == (Decimal(4), Decimal(40))
    for user in users:
        user.http.close()
