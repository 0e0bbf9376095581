"""Settings of accounts before risk has seen them: whole rows, versions without gaps and in commit order."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import psycopg
import pytest

from tradeengine.core.money import UNITS_MAX
from tradeengine.core.records import AccountFlag, CommandKind
from tradeengine.storage.account_settings import (
    NO_LIMIT,
    change,
    mantissa_and_scale,
    pending_settings,
    read_settings,
    revoke_keys,
)
from tradeengine.storage.directory import resolve_account
from tradeengine.storage.funding import CHANNEL


@pytest.fixture
def account_id(connection: psycopg.Connection) -> int:
    """Return a user's account."""
    return resolve_account(connection, "alice", accounts_max=100)


def test_account_without_a_row_has_no_limits(connection: psycopg.Connection, account_id: int) -> None:
    """Nobody has to write anything down for an account that may do everything."""
    settings = read_settings(connection, account_id)
    assert (settings.version, settings.suspended, settings.max_order_size, settings.keys_version) == (0, False, None, 0)
    assert len(pending_settings(connection, 0, 10)) == 0


def test_what_is_left_out_stays(connection: psycopg.Connection, account_id: int) -> None:
    """A change touches what it names; each gives the next version, and only the newest row is fed."""
    assert change(connection, account_id, max_order_size=Decimal("2.5"), max_open_orders=3) == 1
    assert change(connection, account_id, suspended=True, suspended_reason="x", suspended_by="root") == 2
    assert change(connection, account_id, max_open_orders=None) == 3
    settings = read_settings(connection, account_id)
    assert (settings.max_order_size, settings.max_open_orders, settings.suspended) == (Decimal("2.5"), None, True)
    assert (settings.suspended_reason, settings.suspended_by) == ("x", "root")
    commands = pending_settings(connection, 0, 10)
    assert commands["version"].tolist() == [3]
    assert len(pending_settings(connection, 3, 10)) == 0


def test_revoked_keys_are_counted(connection: psycopg.Connection, account_id: int) -> None:
    """Each revocation gives another number of keys, whether the account had a row or not."""
    assert [revoke_keys(connection, account_id) for _ in range(2)] == [1, 2]
    assert read_settings(connection, account_id).keys_version == 2


def test_command_says_the_whole_row(connection: psycopg.Connection, account_id: int) -> None:
    """Amounts travel as whole numbers and a scale, exactly; what has no limit is told as such."""
    change(
        connection,
        account_id,
        suspended=True,
        max_order_size=Decimal("0.000000000000000001"),
        max_daily_volume=Decimal(0),
    )
    revoke_keys(connection, account_id)
    (command,) = pending_settings(connection, 0, 10)
    assert command["kind"] == CommandKind.SET_ACCOUNT
    assert command["account_id"] == account_id
    assert command["account_flags"] == AccountFlag.SUSPENDED
    assert command["keys_version"] == 1
    assert (command["order_notional_max"], command["order_notional_scale"]) == (1, 18)
    assert (command["day_notional_max"], command["day_notional_scale"]) == (0, 0)
    assert (command["two_factor_above"], command["open_orders_max"]) == (NO_LIMIT, NO_LIMIT)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("1000", (1000, 0)), ("0.50", (5, 1)), ("1.23456789", (123456789, 8)), (str(UNITS_MAX), (UNITS_MAX, 0))],
)
def test_amounts_come_apart_exactly(text: str, parts: tuple[int, int]) -> None:
    """Mantissa and scale are the shortest that say the amount."""
    assert mantissa_and_scale(Decimal(text)) == parts


@pytest.mark.parametrize("amount", ["-1", "0.0000000000000000001", str(UNITS_MAX + 1), "2305843009213693952.5"])
def test_amount_that_the_engine_cannot_hold_is_refused(
    connection: psycopg.Connection, account_id: int, amount: str
) -> None:
    """The database itself takes no amount that would not fit a command."""
    with pytest.raises(psycopg.errors.CheckViolation):
        change(connection, account_id, max_daily_volume=Decimal(amount))
    assert change(connection, account_id, max_daily_volume=Decimal(1)) == 1


def test_versions_have_no_gaps(dsn: str, connection: psycopg.Connection) -> None:
    """Many writers at once, some of whom fail, leave versions 1 … n."""

    def write(number: int) -> int:
        with psycopg.connect(dsn, autocommit=True) as own:
            if number % 5 == 4:
                with pytest.raises(psycopg.errors.ForeignKeyViolation):
                    change(own, 999_999, suspended=True)
                return 0
            account_id = resolve_account(own, f"user-{number}", accounts_max=100)
            return change(own, account_id, max_open_orders=number)

    with ThreadPoolExecutor(8) as executor:
        given = {version for version in executor.map(write, range(40)) if version}
    assert given == set(range(1, len(given) + 1))
    assert pending_settings(connection, 0, 100)["version"].tolist() == sorted(given)
    assert pending_settings(connection, 10, 3)["version"].tolist() == [11, 12, 13]


def test_reader_never_sees_a_later_version_first(dsn: str, connection: psycopg.Connection, account_id: int) -> None:
    """Who holds a version that is not committed keeps others from getting the next one."""
    other_id = resolve_account(connection, "bob", accounts_max=100)
    with psycopg.connect(dsn) as slow:
        slow.execute("SELECT 1")  # a transaction of its own, so that the change is not committed yet
        first = change(slow, account_id, suspended=True)
        done = threading.Event()

        def write() -> None:
            with psycopg.connect(dsn, autocommit=True) as own:
                assert change(own, other_id, suspended=True) == first + 1
            done.set()

        thread = threading.Thread(target=write)
        thread.start()
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while connection.execute(query).fetchone() == (0,):
            pass
        assert not done.is_set()
        assert len(pending_settings(connection, 0, 10)) == 0
        slow.commit()
        thread.join()
    assert done.is_set()


def test_change_is_announced(dsn: str, connection: psycopg.Connection, account_id: int) -> None:
    """Whoever feeds risk hears of a change as of a deposit, once it is committed."""
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute(f"LISTEN {CHANNEL}")
        change(connection, account_id, suspended=True)
        notices = listener.notifies(timeout=10, stop_after=1)
        assert [notice.channel for notice in notices] == [CHANNEL]
