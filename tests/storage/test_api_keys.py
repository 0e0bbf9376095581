"""API keys in PostgreSQL: whose they are, how many, and that revoking one is told to all fronts."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from tradeengine.storage import api_keys
from tradeengine.storage.account_settings import pending_settings, read_settings
from tradeengine.storage.api_keys import (
    KeyIdTakenError,
    StoredKey,
    TooManyKeysError,
    add_key,
    find_key,
    list_keys,
    revoke_key,
)
from tradeengine.storage.directory import resolve_account

pytestmark = pytest.mark.usefixtures("symbol")
KEYS_MAX = 5


@pytest.fixture
def alice(connection: psycopg.Connection) -> int:
    """Return a user's account."""
    return resolve_account(connection, "alice", accounts_max=100)


@pytest.fixture
def bob(connection: psycopg.Connection) -> int:
    """Return another user's account."""
    return resolve_account(connection, "bob", accounts_max=100)


def make(key_id: int, account_id: int, **changes: Any) -> StoredKey:
    """Make a key."""
    fields: dict[str, Any] = {
        "key_id": key_id,
        "account_id": account_id,
        "name": "bot",
        "algorithm": "hmac-sha256",
        "permissions": ("read",),
        "addresses": ("192.0.2.0/24", "2001:db8::1/128"),
        "two_factor": True,
        "sealed_secret": b"\0sealed",
    }
    return StoredKey(**fields | changes)


def test_a_key_is_found_as_it_was_added(connection: psycopg.Connection, alice: int) -> None:
    """A key comes back whole, with its time, its user's name and the version of the account's keys."""
    added = add_key(connection, make(7, alice), keys_max=KEYS_MAX)
    assert added == find_key(connection, 7)
    assert added == replace(make(7, alice), created_at=added.created_at, user="alice")
    assert added.created_at is not None
    assert find_key(connection, 8) is None
    with pytest.raises(KeyIdTakenError):
        add_key(connection, make(7, alice, name="other"), keys_max=KEYS_MAX)
    assert find_key(connection, 7) == added


@pytest.mark.parametrize(
    "wrong",
    [
        {"permissions": ()},
        {"permissions": ("admin",)},
        {"algorithm": "none"},
        {"sealed_secret": None},
        {"public_key": b"x" * 32},
        {"algorithm": "ed25519"},
    ],
)
def test_the_table_takes_no_key_that_makes_no_sense(connection: psycopg.Connection, alice: int, wrong: Any) -> None:
    """A key without permissions, with unknown ones, or with what another algorithm needs, is refused by the table."""
    with pytest.raises(psycopg.errors.CheckViolation):
        add_key(connection, make(7, alice, **wrong), keys_max=KEYS_MAX)


def test_revoking_brings_a_new_version(connection: psycopg.Connection, alice: int, bob: int) -> None:
    """A revoked key is told to the engine as a new version of its account's keys; nobody else's key can be revoked."""
    add_key(connection, make(7, alice), keys_max=KEYS_MAX)
    add_key(connection, make(8, alice), keys_max=KEYS_MAX)
    assert revoke_key(connection, bob, 7) is None
    assert revoke_key(connection, alice, 9) is None
    assert len(pending_settings(connection, 0, 10)) == 0
    version = revoke_key(connection, alice, 7)
    assert version is not None
    assert revoke_key(connection, alice, 7) is None
    settings = read_settings(connection, alice)
    assert (settings.version, settings.keys_version) == (version, 1)
    revoked, other = find_key(connection, 7), find_key(connection, 8)
    assert revoked is not None
    assert other is not None
    assert revoked.revoked_at is not None
    assert (other.revoked_at, other.keys_version) == (None, 1)
    (command,) = pending_settings(connection, 0, 10)
    assert (command["account_id"], command["keys_version"], command["version"]) == (alice, 1, version)
    assert [key.key_id for key in list_keys(connection, alice, before_id=None, limit=10)] == [8]


def test_a_key_is_revoked_by_one(dsn: str, connection: psycopg.Connection, alice: int) -> None:
    """Of many who revoke one key at the same time one does, and the version grows by one."""
    add_key(connection, make(7, alice), keys_max=KEYS_MAX)
    start = threading.Barrier(6)

    def revoke(_: int) -> int | None:
        with psycopg.connect(dsn, autocommit=True) as own:
            start.wait()
            return revoke_key(own, alice, 7)

    with ThreadPoolExecutor(6) as pool:
        versions = list(pool.map(revoke, range(6)))
    assert len([version for version in versions if version is not None]) == 1
    assert read_settings(connection, alice).keys_version == 1


def test_keys_are_counted_also_when_many_come_at_once(dsn: str, connection: psycopg.Connection, alice: int) -> None:
    """An account gets as many keys as it may have and no more; revoked ones do not count."""
    start = threading.Barrier(8)

    def add(key_id: int) -> bool:
        with psycopg.connect(dsn, autocommit=True) as own:
            start.wait()
            try:
                add_key(own, make(key_id, alice), keys_max=KEYS_MAX)
            except TooManyKeysError:
                return False
            return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(add, range(1, 9))) == KEYS_MAX
    newest = list_keys(connection, alice, before_id=None, limit=2)
    older = list_keys(connection, alice, before_id=newest[-1].key_id, limit=10)
    assert len(newest + older) == KEYS_MAX
    revoke_key(connection, alice, newest[0].key_id)
    add_key(connection, make(100, alice), keys_max=KEYS_MAX)


def test_revoked_keys_are_forgotten_in_the_end(
    connection: psycopg.Connection, alice: int, bob: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an account's revoked keys only the latest are kept; another account's stay."""
    monkeypatch.setattr(api_keys, "REVOKED_KEPT_MAX", 3)
    for account_id, first in ((bob, 1), (alice, 10)):
        for key_id in range(first, first + 5):
            add_key(connection, make(key_id, account_id), keys_max=KEYS_MAX)
            revoke_key(connection, account_id, key_id)
    add_key(connection, make(99, alice), keys_max=KEYS_MAX)
    kept = connection.execute("SELECT array_agg(id ORDER BY id) FROM api_keys WHERE account_id = %s", (alice,))
    assert kept.fetchone() == ([12, 13, 14, 99],)
    others = connection.execute("SELECT count(*) FROM api_keys WHERE account_id = %s", (bob,)).fetchone()
    assert others == (4,)
