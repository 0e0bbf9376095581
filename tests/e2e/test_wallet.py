"""An engine and a wallet service in processes of their own: trading never waits for the wallet, and nothing is lost."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from tests.e2e.users import User
from tests.e2e.wallet_venue import QUICK, WalletVenue, wallet_venue
from tests.engines import running_engine, wait_restarted

from tradeengine.storage.embedded import Embedded

FUNDS = {"USDT": "1000000", "BTC": "10"}

_numbers = itertools.count()


@pytest.fixture(scope="module")
def books(postgres: Embedded) -> Callable[[], str]:
    """Make databases for wallet services."""

    def make() -> str:
        name = f"wallet_books_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(postgres.dsn_of("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template1")
        return postgres.dsn_of(name)

    return make


@pytest.fixture(scope="module")
def venue(books: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WalletVenue]:
    """Run one engine and one wallet for those tests that leave them as they found them."""
    with wallet_venue(books(), tmp_path_factory.mktemp("venue")) as running:
        yield running


@pytest.fixture
def alice(venue: WalletVenue) -> Iterator[User]:
    """Give a rich user of the test's own."""
    user = venue.fund(f"alice-{next(_numbers)}", FUNDS)
    yield user
    user.http.close()


@pytest.fixture
def bob(venue: WalletVenue) -> Iterator[User]:
    """Give another."""
    user = venue.fund(f"bob-{next(_numbers)}", FUNDS)
    yield user
    user.http.close()


@pytest.fixture
def root(venue: WalletVenue) -> Iterator[User]:
    """Give an administrator."""
    user = venue.sign_in_as("root", "admin")
    yield user
    user.http.close()


def test_trade_stop_the_wallet_trade_on(venue: WalletVenue, alice: User, bob: User) -> None:
    """Trading goes on while the wallet is away, degraded and not down; on its return everything drains and agrees."""
    first = venue.trade(alice, bob)
    venue.until(lambda: venue.settlement_status(alice, first) == "settled")
    assert venue.service.stop() == 0
    ids = [venue.trade(alice, bob) for _ in range(20)]
    venue.until(lambda: venue.metric("breaker_state") == 2)
    venue.until(lambda: venue.readiness()["status"] == "degraded")
    assert "wallet" in str(venue.readiness()["degraded"])
    assert venue.settlement_status(bob, ids[-1]) == "pending"
    ids += [venue.trade(bob, alice) for _ in range(5)]
    venue.until(lambda: venue.metric("outbox_pending") == len(ids))
    assert venue.metric("outbox_oldest_age_seconds") >= 0
    venue.service.start()
    venue.agree()
    venue.until(lambda: venue.metric("breaker_state") == 0)
    venue.until(lambda: venue.readiness()["status"] == "ready")
    assert {venue.settlement_status(alice, trade_id) for trade_id in ids} == {"settled"}
    assert venue.metric("dead_letters") == 0


def test_killed_wallet_loses_nothing(venue: WalletVenue, alice: User, bob: User) -> None:
    """A wallet service killed in the middle of transfers makes each of them once."""
    ids = [venue.trade(alice, bob) for _ in range(5)]
    venue.service.kill()
    ids += [venue.trade(alice, bob) for _ in range(5)]
    venue.service.start()
    venue.agree()
    assert all(venue.service.entry_count(trade_id) == 1 for trade_id in ids)


def test_killed_wallet_actor_is_replaced(venue: WalletVenue, alice: User, bob: User) -> None:
    """Orders pass while the wallet actor is dead; the next one takes up what waited."""
    pid = venue.engine.actors()["wallet"]
    venue.engine.kill_actor("wallet")
    ids = [venue.trade(alice, bob) for _ in range(5)]
    wait_restarted(venue.engine, "wallet", pid)
    venue.agree()
    assert all(venue.service.entry_count(trade_id) == 1 for trade_id in ids)


@pytest.mark.long
def test_withdrawals_race_orders_and_an_outage(venue: WalletVenue, alice: User, bob: User, root: User) -> None:
    """Proceeds that the wallet has not confirmed can be traded, not taken out; what was there before can."""
    venue.service.stop()
    venue.trade(alice, bob, quantity="1", price="50000")
    for query in ("?dry_run=true", ""):
        refused = root.call("POST", f"/admin/withdrawals{query}", 422, json=_money(bob, "USDT", "1049975"))
        assert refused["code"] == "INSUFFICIENT_BALANCE"
        assert refused["details"]["unconfirmed"] == "49975.00000000"
    # With the proceeds bob buys: the engine knows that they are his.
    carol = f"carol-{next(_numbers)}"
    asked = _money(bob, "USDT", "1000000", carol)
    pending = root.call("POST", "/admin/withdrawals", 202, json=asked)
    assert pending["status"] == "pending"
    venue.trade(bob, alice, quantity="0.5", price="50000")
    venue.service.start()
    venue.until(lambda: root.call("GET", f"/admin/withdrawals/{carol}")["status"] == "settled")
    venue.agree()
    rest = root.call("POST", "/admin/withdrawals", 200, json=_money(bob, "USDT", "24950"))
    assert rest["status"] == "settled"
    venue.agree()


def test_deposit_waits_for_the_wallet(venue: WalletVenue, alice: User, root: User) -> None:
    """A deposit that the wallet cannot reserve is refused by its answer; one asked while it is away is made later.

    A dry run does not ask the wallet, and says that it is for it to decide.
    """
    tried = root.call("POST", "/admin/deposits?dry_run=true", json=_money(alice, "USDT", "5"))
    assert (tried["status"], tried["transaction_id"]) == ("pending", None)
    refused = root.call("POST", "/admin/deposits", 422, json=_money(alice, "USDT", "5"))
    assert refused["code"] == "INSUFFICIENT_BALANCE"
    assert "wallet" in refused["message"]
    venue.service.stop()
    asked = _money(alice, "USDT", "1")
    assert root.call("POST", "/admin/deposits", 202, json=asked)["status"] == "pending"
    other = root.call("POST", "/admin/deposits", 409, json={**asked, "amount": "2"})
    assert other["code"] == "REFERENCE_REUSED"
    venue.service.start()
    path = f"/admin/deposits/{asked['reference']}"
    venue.until(lambda: root.call("GET", path)["status"] == "refused")
    venue.agree()


@pytest.mark.long
def test_dead_letters_by_api_and_command_line(venue: WalletVenue, alice: User, bob: User, root: User) -> None:
    """A transfer that the wallet refuses is listed and shown with its legs, retried, and discarded with a reason."""
    _take_at_the_wallet(venue, bob, "BTC", "10")
    first = venue.trade(alice, bob, quantity="1")
    venue.until(lambda: venue.metric("dead_letters") == 1)
    assert venue.settlement_status(alice, first) == "failed"
    (listed,) = root.call("GET", "/admin/dead-letters")
    assert listed == root.call("GET", f"/admin/dead-letters/{first}")
    assert listed["kind"] == "transfer"
    assert listed["error"].startswith("INSUFFICIENT_BALANCE")
    assert {leg["user"] for leg in listed["legs"]} == {alice.name, bob.name, "*exchange*"}
    alice.call("GET", "/admin/dead-letters", 403)
    shown = venue.engine.command("dead-letters", "show", first)
    assert json.loads(shown.stdout)["legs"] == listed["legs"]
    assert "1 dead letter\n" in venue.engine.command("dead-letters", "list").stdout
    assert root.call("POST", f"/admin/dead-letters/{first}/retry?dry_run=true") == listed
    assert root.call("GET", "/admin/dead-letters") == [listed]
    _take_at_the_wallet(venue, bob, "BTC", "-10")
    assert venue.engine.command("dead-letters", "retry", first).returncode == 0
    venue.until(lambda: venue.settlement_status(alice, first) == "settled")
    _take_at_the_wallet(venue, bob, "BTC", "9")
    second = venue.trade(alice, bob, quantity="1")
    venue.until(lambda: venue.settlement_status(alice, second) == "failed")
    root.call("POST", f"/admin/dead-letters/{second}/discard", 400, json={"reason": ""})
    discarded = venue.engine.command("dead-letters", "discard", second, "--reason", "paid by hand")
    assert discarded.returncode == 0, discarded.stderr
    for query in ("", "?dry_run=true"):
        root.call("POST", f"/admin/dead-letters/{second}/retry{query}", 404)
    assert venue.engine.command("dead-letters", "retry", second).returncode == 1
    _take_at_the_wallet(venue, bob, "BTC", "-9")
    assert venue.settlement_status(alice, second) == "failed"
    venue.agree()


def test_nobody_takes_the_name_of_who_gets_the_fees(venue: WalletVenue, root: User) -> None:
    """Who signs in under the name of the wallet's exchange user gets no account and no deposit, by no way in."""
    name = "exchange"  # the default of wallet.exchange_user
    intruder = venue.sign_in_as(name, "user")
    for path in ("/balances", "/orders", "/ledger"):
        assert intruder.call("GET", path, 403)["code"] == "FORBIDDEN"
    deposit = {"user": name, "asset": "USDT", "amount": "1", "reference": "into-the-fees"}
    for query in ("?dry_run=true", ""):
        assert root.call("POST", f"/admin/deposits{query}", 403, json=deposit)["code"] == "FORBIDDEN"
    said = venue.engine.command("deposit", name, "USDT", "1")
    assert said.returncode != 0
    assert "wallet.exchange_user" in said.stderr
    with psycopg.connect(venue.engine.dsn) as connection:
        assert connection.execute("SELECT FROM accounts WHERE name = %s", (name,)).rowcount == 0
    intruder.http.close()


@pytest.mark.long
@pytest.mark.parametrize(
    ("crash_at", "actor"),
    [
        ("wallet.before_marking:4", "wallet"),
        ("settlement.after_commit:6", "settlement"),
    ],
)
def test_killed_at_the_worst_moment(books: Callable[[], str], tmp_path: Path, crash_at: str, actor: str) -> None:
    """Killed between the wallet's answer and its note, or after the outbox's commit: every trade arrives, and once."""
    with wallet_venue(books(), tmp_path, {"TRADEENGINE_CRASH_AT": crash_at}) as venue:
        first_pid = venue.engine.actors()[actor]
        alice, bob = venue.fund("alice", FUNDS), venue.fund("bob", FUNDS)
        ids = [venue.trade(alice, bob) for _ in range(10)]
        wait_restarted(venue.engine, actor, first_pid)
        venue.agree()
        assert all(venue.service.entry_count(trade_id) == 1 for trade_id in ids)
        for user in (alice, bob):
            user.http.close()


@pytest.mark.long
def test_restart_with_transfers_that_wait(books: Callable[[], str], tmp_path: Path) -> None:
    """What waits when the engine is killed is delivered by the next one; and the money's keeper cannot be changed."""
    with wallet_venue(books(), tmp_path) as venue:
        alice, bob = venue.fund("alice", FUNDS), venue.fund("bob", FUNDS)
        venue.service.stop()
        ids = [venue.trade(alice, bob) for _ in range(10)]
        venue.until(lambda: venue.pending() == len(ids))
        for user in (alice, bob):
            user.http.close()
        venue.engine.stop(signal.SIGKILL)
        refused = _start_with(tmp_path, {"TRADEENGINE_WALLET_KIND": "ledger"})
        assert "wallet.kind" in refused
        venue.service.start()
        with running_engine(tmp_path, [], {**QUICK, "TRADEENGINE_WALLET_URL": venue.service.url}) as engine:
            WalletVenue(engine, venue.service).agree()
        assert all(venue.service.entry_count(trade_id) == 1 for trade_id in ids)


def _money(user: User, asset: str, amount: str, reference: str = "") -> dict[str, str]:
    return {"user": user.name, "asset": asset, "amount": amount, "reference": reference or f"r-{next(_numbers)}"}


def _take_at_the_wallet(venue: WalletVenue, user: User, asset: str, amount: str) -> None:
    """Take reserved money at the wallet, past the engine; below 0: put it back."""
    with psycopg.connect(venue.service.dsn) as connection:
        changed = connection.execute(
            "UPDATE wallet.balances SET amount = amount - %s WHERE user_name = %s AND asset = %s AND part = 'reserved'",
            (amount, user.name, asset),
        )
        assert changed.rowcount == 1


def _start_with(data_dir: Path, environment: dict[str, str]) -> str:
    """Start an engine that must refuse; returns what it said."""
    with pytest.raises(AssertionError) as refused, running_engine(data_dir, [], environment):
        pass
    return str(refused.value)
