"""Deposits and withdrawals before risk has seen them: idempotent, gapless, in commit order."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tradeengine.core.records import CommandKind
from tradeengine.core.symbols import SymbolSpec
from tradeengine.storage.directory import resolve_account
from tradeengine.storage.funding import (
    CHANNEL,
    Funding,
    FundingKind,
    FundingStatus,
    ReferenceReusedError,
    pending_commands,
    request_funding,
    wait_funding,
)

pytestmark = pytest.mark.usefixtures("symbol")


@pytest.fixture
def account_id(connection: psycopg.Connection) -> int:
    """Return a user's account."""
    return resolve_account(connection, "alice", accounts_max=100)


def _deposit(connection: psycopg.Connection, account_id: int, reference: str, amount_units: int = 100) -> Funding:
    return request_funding(
        connection,
        FundingKind.DEPOSIT,
        reference=reference,
        account_id=account_id,
        asset_id=0,
        amount_units=amount_units,
    )


def test_repeat_finds_the_first(connection: psycopg.Connection, account_id: int) -> None:
    """The same reference and content is one request, however often it is asked."""
    first = _deposit(connection, account_id, "wire-1")
    assert first.status is FundingStatus.PENDING
    assert _deposit(connection, account_id, "wire-1") == first
    assert len(pending_commands(connection, 0, 10)) == 1


def test_other_amount_is_refused(connection: psycopg.Connection, account_id: int) -> None:
    """The same reference with another amount changes nothing and says so."""
    _deposit(connection, account_id, "wire-1", 100)
    with pytest.raises(ReferenceReusedError):
        _deposit(connection, account_id, "wire-1", 101)
    assert len(pending_commands(connection, 0, 10)) == 1


def test_directions_have_references_of_their_own(connection: psycopg.Connection, account_id: int) -> None:
    """A deposit and a withdrawal may have the same reference; risk gets the second with a negative amount."""
    _deposit(connection, account_id, "one", 100)
    request_funding(
        connection, FundingKind.WITHDRAWAL, reference="one", account_id=account_id, asset_id=1, amount_units=30
    )
    commands = pending_commands(connection, 0, 10)
    assert commands["funding_number"].tolist() == [1, 2]
    assert commands["amount_units"].tolist() == [100, -30]
    assert commands["asset_id"].tolist() == [0, 1]
    assert commands["account_id"].tolist() == [account_id] * 2
    assert (commands["kind"] == CommandKind.FUND).all()
    assert pending_commands(connection, 1, 10)["funding_number"].tolist() == [2]
    assert pending_commands(connection, 0, 1)["funding_number"].tolist() == [1]


def test_numbers_have_no_gaps(dsn: str, connection: psycopg.Connection, account_id: int) -> None:
    """Many writers at once, some of whom repeat and some of whom fail, leave numbers 1 … n."""

    def ask(number: int) -> int:
        with psycopg.connect(dsn, autocommit=True) as own:
            if number % 5 == 4:
                with pytest.raises(psycopg.errors.ForeignKeyViolation):
                    _deposit(own, 999_999, f"nobody-{number}")
                return 0
            return _deposit(own, account_id, f"wire-{number // 2}").number

    with ThreadPoolExecutor(8) as executor:
        given = {number for number in executor.map(ask, range(40)) if number}
    assert given == set(range(1, len(given) + 1))
    assert pending_commands(connection, 0, 100)["funding_number"].tolist() == sorted(given)


def test_reader_never_sees_a_later_number_first(dsn: str, connection: psycopg.Connection, account_id: int) -> None:
    """Who holds a number that is not committed keeps others from getting the next one."""
    with psycopg.connect(dsn) as slow:
        slow.execute("SELECT 1")  # a transaction of its own, so that the request is not committed yet
        first = _deposit(slow, account_id, "slow")
        done = threading.Event()

        def ask() -> None:
            with psycopg.connect(dsn, autocommit=True) as own:
                assert _deposit(own, account_id, "fast").number == first.number + 1
            done.set()

        thread = threading.Thread(target=ask)
        thread.start()
        _wait_for_lock(connection)
        assert not done.is_set()
        assert len(pending_commands(connection, 0, 10)) == 0
        slow.commit()
        thread.join()
    assert done.is_set()


def test_request_is_announced(dsn: str, connection: psycopg.Connection, account_id: int) -> None:
    """Who listens hears of a new request, once it is committed."""
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute(f"LISTEN {CHANNEL}")
        _deposit(connection, account_id, "wire-1")
        notices = listener.notifies(timeout=10, stop_after=1)
        assert [notice.channel for notice in notices] == [CHANNEL]


def test_waiting_ends_with_the_outcome(dsn: str, connection: psycopg.Connection, account_id: int) -> None:
    """The wait returns what settlement committed, or the pending request when it takes too long."""
    request = _deposit(connection, account_id, "wire-1")
    assert wait_funding(connection, request, timeout_s=0).status is FundingStatus.PENDING
    with ThreadPoolExecutor() as executor:
        waiting = executor.submit(wait_funding, connection, request, timeout_s=60)
        with psycopg.connect(dsn, autocommit=True) as settlement:
            settlement.execute("UPDATE funding SET status = 'refused', status_reason = 'INSUFFICIENT_BALANCE'")
        answer = waiting.result()
    assert (answer.status, answer.status_reason) == (FundingStatus.REFUSED, "INSUFFICIENT_BALANCE")


def test_needs_a_symbols_asset(connection: psycopg.Connection, account_id: int, symbol: SymbolSpec) -> None:
    """An asset that does not exist is refused by the database."""
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        request_funding(
            connection, FundingKind.DEPOSIT, reference="x", account_id=account_id, asset_id=9, amount_units=1
        )


def _wait_for_lock(connection: psycopg.Connection) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while connection.execute(query).fetchone() == (0,):
        pass
