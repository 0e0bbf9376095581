"""Reconciliation of a running engine: every kind of difference is found where it is planted, and told by name."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import psycopg
import pytest
from tests.e2e.users import User, connect_database, make_user
from tests.engines import Engine, run_command, running_engine

from tradeengine.storage.reconciliations import (
    Reconciliation,
    begin_open,
    find_reconciliation,
    request_reconciliation,
    wait_reconciliation,
)

SYMBOL = "SOL/USDT"
FUNDS = {"USDT": "100000", "SOL": "1000"}
TABLES = ("orders", "trades", "postings", "balances", "funding")
NO_KEEPER_S = "0.5"
LATER = "2090-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine with two shards in which two users have traded: one order rests, one is filled by half."""
    environment = {"TRADEENGINE_KEEPER_RECONCILE_INTERVAL_S": "0"}
    with running_engine(tmp_path_factory.mktemp("reconciled"), ["--shards", "2"], environment) as engine:
        seller, buyer = make_user(engine, "seller", FUNDS), make_user(engine, "buyer", FUNDS)
        seller.place(symbol=SYMBOL, side="sell", quantity="2", price="150")
        buyer.place(symbol=SYMBOL, side="buy", quantity="0.5", price="150")
        buyer.place(symbol=SYMBOL, side="buy", quantity="1", price="140", time_in_force="gtd", expires_at=LATER)
        buyer.place(symbol="BTC/USDT", side="buy", quantity="0.1", price="20000")
        buyer.call("GET", "/orders")  # answered once everything is settled
        yield engine
        for user in (seller, buyer):
            user.http.close()


def reconcile(connection: psycopg.Connection[Any]) -> Reconciliation:
    """Ask the keeper, and wait for its answer."""
    number = request_reconciliation(connection, "a test")
    found = wait_reconciliation(connection, number, timeout_s=30)
    assert found.error is None
    assert found.checked is not None
    assert found.differences is not None
    return found


@contextmanager
def kept(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Put the tables back afterwards as they were; nobody trades meanwhile."""
    with connection.transaction():
        for table in TABLES:
            connection.execute(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}")
    try:
        yield
    finally:
        with connection.transaction():
            for table in TABLES:
                connection.execute(f"DELETE FROM {table}")
                connection.execute(f"INSERT INTO {table} SELECT * FROM kept_{table}")
                connection.execute(f"DROP TABLE kept_{table}")


def test_everything_agrees_and_everything_was_looked_at(venue: Engine) -> None:
    """An engine that nobody has tampered with has no difference, and the counts say what was compared."""
    with connect_database(venue) as connection:
        found = reconcile(connection)
        assert (found.difference_count, found.differences) == (0, [])
        assert found.checked is not None
        (stored,) = connection.execute("SELECT count(*) FROM postings").fetchall()
        assert found.checked["postings"] == stored[0]
        assert found.checked["orders"] == found.checked["risk_orders"] == found.checked["book_orders"] == 3
        assert found.checked["trades"] == 1
        assert set(found.checked["cursors"]) == {"0", "1", "risk"}


BUYER = "(SELECT id FROM accounts WHERE name LIKE 'buyer%')"
FILLED = "(SELECT id FROM orders WHERE filled_lots > 0 AND closed_at IS NULL)"
RESTING = "(SELECT id FROM orders WHERE expires_at IS NOT NULL)"
TRADE = "(SELECT id FROM trades)"
PLANTED = {
    "a balance": (
        f"UPDATE balances SET total_units = total_units + 1 WHERE account_id = {BUYER} AND asset_id = 0",
        {"balance", "risk_balance"},
    ),
    "a balance that nobody posted": (
        "INSERT INTO balances VALUES (4000, 0, 7)",
        {"balance", "risk_balance"},
    ),
    "a balance that is gone": (
        f"DELETE FROM balances WHERE account_id = {BUYER} AND asset_id = 0",
        {"balance", "risk_balance"},
    ),
    "a posting that is gone": (
        f"DELETE FROM postings WHERE transaction_id = {TRADE} AND account_id = {BUYER} AND amount_units > 0",
        {"trade_posting", "transaction_unbalanced", "balance"},
    ),
    "a posting of another amount": (
        f"UPDATE postings SET amount_units = amount_units + 1 WHERE transaction_id = {TRADE} AND account_id = 1",
        {"trade_posting", "transaction_unbalanced", "balance"},
    ),
    "money moved between two users": (
        f"""WITH moved AS (UPDATE postings SET account_id = {BUYER} WHERE transaction_id = {TRADE} AND account_id = 1
            RETURNING amount_units, asset_id)
        UPDATE balances b SET total_units = total_units + amount_units * CASE account_id WHEN 1 THEN -1 ELSE 1 END
        FROM moved m WHERE b.asset_id = m.asset_id AND b.account_id IN (1, {BUYER})""",
        {"trade_posting", "risk_balance"},
    ),
    "postings without a trade": (
        f"INSERT INTO postings SELECT {TRADE} + 1, amount, {BUYER}, 0, 'T' FROM (VALUES (5), (-5)) v (amount)",
        {"trade_posting"},
    ),
    "a trade without its postings": (
        f"DELETE FROM postings WHERE transaction_id = {TRADE}",
        {"trade_posting", "balance"},
    ),
    "a trade that is gone": ("DELETE FROM trades", {"trade_posting", "order_fills"}),
    "a trade of another size": (
        "UPDATE trades SET quantity_lots = quantity_lots + 1",
        {"trade_posting", "order_fills"},
    ),
    "a deposit of another amount": (
        "UPDATE funding SET amount_units = amount_units + 1 WHERE number = (SELECT max(number) FROM funding)",
        {"funding_posting"},
    ),
    "a deposit that nobody made": (
        "DELETE FROM funding WHERE number = (SELECT max(number) FROM funding)",
        {"funding_posting"},
    ),
    "an order's hold": (
        f"UPDATE orders SET hold_units = hold_units + 1 WHERE id = {RESTING}",
        {"risk_order", "book_order"},
    ),
    "an order's price": (
        f"UPDATE orders SET price_ticks = price_ticks + 1 WHERE id = {RESTING}",
        {"risk_order", "book_order"},
    ),
    "an order's fills": (
        f"UPDATE orders SET filled_lots = filled_lots - 1 WHERE id = {FILLED}",
        {"order_fills", "risk_order"},
    ),
    "an order's rest": (
        f"UPDATE orders SET remaining_lots = remaining_lots - 1 WHERE id = {FILLED}",
        {"order_fills", "book_order"},
    ),
    "an order's fee": (
        f"UPDATE orders SET fee_units = fee_units + 1 WHERE id = {FILLED}",
        {"order_fills", "book_order"},
    ),
    "an order's status": (f"UPDATE orders SET status = 'filled' WHERE id = {RESTING}", {"order_status"}),
    "an order's owner": (
        f"UPDATE orders SET account_id = 1 WHERE id = {RESTING}",
        {"risk_order", "book_order"},
    ),
    "an order's end": (
        f"UPDATE orders SET expires_at = expires_at + interval '1 second' WHERE id = {RESTING}",
        {"book_order"},
    ),
    "an order that is over": (
        f"UPDATE orders SET closed_at = now(), status = 'cancelled' WHERE id = {RESTING}",
        {"risk_order_unknown", "book_order_unknown"},
    ),
    "an order that nobody has": (
        f"""INSERT INTO orders SELECT id + 1, price_ticks, stop_price_ticks, quantity_lots, filled_lots, remaining_lots,
            filled_notional_units, fee_units, hold_units, sequence, content_hash, created_at, updated_at, triggered_at,
            closed_at, expires_at, account_id, symbol_id, side, type, time_in_force, self_trade_prevention, status,
            status_reason, post_only, by_quote, NULL FROM orders WHERE id = {RESTING}""",
        {"risk_order_missing", "book_order_missing"},
    ),
}


@pytest.mark.parametrize("what", PLANTED)
def test_planted_difference_is_found(venue: Engine, what: str) -> None:
    """What is changed behind the engine's back is found wherever it can be seen from, and nothing else is."""
    statement, kinds = PLANTED[what]
    with connect_database(venue) as connection:
        with kept(connection):
            connection.execute(statement)
            found = reconcile(connection)
            assert found.differences is not None
            assert {difference["kind"] for difference in found.differences} == kinds
            assert found.difference_count == len(found.differences)
        assert reconcile(connection).differences == []


def test_difference_is_told_in_words(venue: Engine) -> None:
    """A difference names user, asset and order, and its two sides are decimals as the API writes them."""
    with connect_database(venue) as connection, kept(connection):
        connection.execute(PLANTED["an order's hold"][0])
        connection.execute(PLANTED["a deposit of another amount"][0])
        found = reconcile(connection).differences
        assert found is not None
        hold = next(difference for difference in found if difference["kind"] == "risk_order")
        assert hold["account"] is not None
        assert hold["account"].startswith("buyer")
        assert (hold["symbol"], hold["field"]) == (SYMBOL, "hold")
        assert (hold["expected"], hold["found"]) == ("140.14000001", "140.14000000")
        assert hold["order_id"] == str(connection.execute(f"SELECT {RESTING}").fetchall()[0][0])
        deposits = [difference for difference in found if difference["kind"] == "funding_posting"]
        assert {(difference["account"] or "")[:5] for difference in deposits} == {"buyer", "*outs"}
        assert all(difference["transaction_id"] for difference in deposits)


def test_command_says_what_differs_and_ends_with_one(venue: Engine) -> None:
    """``tradeengine reconcile`` ends with 0 when all agree, with 1 and a line per difference when not."""
    agreed = venue.command("reconcile")
    assert (agreed.returncode, agreed.stderr) == (0, "")
    assert "differences  0\n" in agreed.stdout
    with connect_database(venue) as connection, kept(connection):
        connection.execute(PLANTED["a balance"][0])
        found = venue.command("reconcile")
        as_json = venue.command("reconcile", "--json")
    assert found.returncode == as_json.returncode == 1
    assert "balance: account=buyer" in found.stdout
    assert {difference["kind"] for difference in json.loads(as_json.stdout)["differences"]} == {
        "balance",
        "risk_balance",
    }


def test_administrators_may_ask(venue: Engine) -> None:
    """The call is for administrators, and answers what the command prints."""
    with connect_database(venue) as connection, kept(connection):
        connection.execute(PLANTED["an order's status"][0])
        with venue.client("root", "admin") as http:
            found = User("root", http).call("GET", "/admin/reconciliation")
    assert (found["difference_count"], found["checked"]["wallet_balances"]) == (1, None)
    (difference,) = found["differences"]
    assert (difference["kind"], difference["expected"], difference["found"]) == ("order_status", "open", "filled")
    for role, status in (("user", 403), (None, 401)):
        with venue.client("alice" if role else None, role or "user") as http:
            User("alice", http).call("GET", "/admin/reconciliation", status)


def test_those_who_ask_at_once_share_an_answer(venue: Engine) -> None:
    """Requests that are open when a comparison begins are answered by it together; each gets an answer."""
    with connect_database(venue) as connection:
        with connection.transaction():
            # Seen by the keeper in one moment.
            numbers = [request_reconciliation(connection, f"asker {number}") for number in range(3)]
        found = [wait_reconciliation(connection, number, timeout_s=30) for number in numbers]
        assert len({answer.began_at for answer in found}) == 1
    done: list[int] = []

    def ask() -> None:
        with connect_database(venue) as own:
            done.append(reconcile(own).number)

    askers = [threading.Thread(target=ask) for _ in range(6)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(set(done)) == 6


def test_keeper_that_does_not_answer_is_told(venue: Engine) -> None:
    """While the keeper stands still the command ends with 2 and says so; what was asked is answered later."""
    with venue.standing_still("keeper"):
        silent = run_command(
            *("reconcile", "--data-dir", str(venue.data_dir)),
            TRADEENGINE_KEEPER_RECONCILE_TIMEOUT_S=NO_KEEPER_S,
        )
        assert silent.returncode == 2
        assert "the keeper" in silent.stderr
        with connect_database(venue) as connection:
            number = request_reconciliation(connection, "someone patient")
            assert find_reconciliation(connection, number) is not None
    with connect_database(venue) as connection:
        assert wait_reconciliation(connection, number, timeout_s=30).difference_count == 0


def test_killed_keeper_leaves_no_question_open(venue: Engine) -> None:
    """What a keeper had begun when it was killed is answered by the next one."""
    with connect_database(venue) as connection:
        keeper = venue.actors()["keeper"]
        os.kill(keeper, signal.SIGSTOP)
        number = request_reconciliation(connection, "someone patient")
        assert number in begin_open(connection)
        os.kill(keeper, signal.SIGKILL)
        assert wait_reconciliation(connection, number, timeout_s=30).difference_count == 0


def test_metrics_tell_the_last_result(venue: Engine) -> None:
    """The keeper's metrics say how many differences there were, when, and at what cost; at 0 it does not ask itself."""
    with connect_database(venue) as connection:
        with kept(connection):
            connection.execute(PLANTED["a balance"][0])
            reconcile(connection)
            assert metric(venue, "differences") == 2
        reconcile(connection)
        assert metric(venue, "differences") == 0
        assert connection.execute("SELECT FROM reconciliations WHERE requested_by = '*keeper*'").rowcount == 0
    assert metric(venue, "reconciled_timestamp_seconds") > 0
    assert metric(venue, "census_seconds") > 0


def metric(venue: Engine, name: str) -> float:
    """Read one of the keeper's numbers."""
    text = httpx2.get(f"{venue.url}/metrics", timeout=20).text
    (line,) = (line for line in text.splitlines() if line.startswith(f"tradeengine_keeper_{name}{{"))
    return float(line.rpartition(" ")[2])


def test_without_an_engine_there_is_nothing_to_compare(venue: Engine) -> None:
    """Where no engine runs the command says so, and ends with 2."""
    found = run_command("reconcile", "--data-dir", str(venue.data_dir.parent / "nothing"))
    assert found.returncode == 2
    assert "no engine is running" in found.stderr
