"""API keys as PostgreSQL keeps them: whose they are, what they may do, and what their signatures are checked with.

Rule 1: a secret comes here sealed and leaves sealed.
Rule 2: a key is revoked together with a new version of its account's settings, in one transaction: a front that has
seen that version looks here again.
Rule 3: a revoked key is kept for a while, so that it is known for what it was; of one account only so many.
It refuses to know signatures, requests and how a secret is sealed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg.rows import args_row

from tradeengine.storage.account_settings import revoke_keys

REVOKED_KEPT_MAX: Final = 100
"""Of one account."""

Connection = psycopg.Connection[Any]


class TooManyKeysError(Exception):
    """The account has as many keys as it may have."""


class KeyIdTakenError(Exception):
    """There is a key with this id; nothing was done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """An API key. ``addresses``: networks in CIDR form that it may be used from; none: from anywhere."""

    key_id: int
    account_id: int
    name: str
    algorithm: str
    permissions: tuple[str, ...]
    addresses: tuple[str, ...]
    two_factor: bool
    sealed_secret: bytes | None = field(default=None, repr=False)
    public_key: bytes | None = None
    created_at: dt.datetime | None = None
    revoked_at: dt.datetime | None = None
    user: str = ""
    """Name of the account, where it was read."""
    keys_version: int = 0
    """How often keys of the account had been revoked when it was read."""


def add_key(connection: Connection, key: StoredKey, *, keys_max: int) -> StoredKey:
    """Store a new key; returns it with its time. keys_max: how many that count an account may have.

    Raises TooManyKeysError, KeyIdTakenError.
    """
    with connection.transaction():
        # Whoever makes another key of this account waits here, so that all are counted.
        connection.execute("SELECT FROM accounts WHERE id = %s FOR NO KEY UPDATE", (key.account_id,))
        counted = connection.execute(_COUNT, (key.account_id,)).fetchone()
        assert counted is not None
        if counted[0] >= keys_max:
            raise TooManyKeysError
        connection.execute(_FORGET, (key.account_id, REVOKED_KEPT_MAX))
        row = connection.execute(_INSERT, _parameters(key)).fetchone()
        if row is None:
            raise KeyIdTakenError
    added = find_key(connection, key.key_id)
    assert added is not None
    return added


def find_key(connection: Connection, key_id: int) -> StoredKey | None:
    """Look for a key, revoked or not; None: there is none."""
    found = _read(connection, "WHERE k.id = %s", (key_id,))
    return found[0] if found else None


def list_keys(connection: Connection, account_id: int, *, before_id: int | None, limit: int) -> list[StoredKey]:
    """List an account's keys that count, newest first; before_id: those older than this one."""
    where = "WHERE k.account_id = %s AND k.revoked_at IS NULL AND k.id < %s ORDER BY k.id DESC LIMIT %s"
    return _read(connection, where, (account_id, 2**63 - 1 if before_id is None else before_id, limit))


def revoke_key(connection: Connection, account_id: int, key_id: int) -> int | None:
    """Revoke an own key; returns the version of the account's settings from which on no front takes it any more.

    None: the account has no such key that counts.
    """
    revoked_from = None
    with connection.transaction():
        if connection.execute(_IS_OWN, (account_id, key_id)).fetchone() is not None:
            # The settings first: they are what everyone who changes something of an account locks first.
            version = revoke_keys(connection, account_id)
            if connection.execute(_REVOKE, (account_id, key_id)).rowcount == 0:
                raise psycopg.Rollback  # somebody else was faster
            revoked_from = version
    return revoked_from


def _read(connection: Connection, where: str, parameters: Sequence[Any]) -> list[StoredKey]:
    with connection.cursor(row_factory=args_row(_make)) as cursor:
        return cursor.execute(_SELECT + where, parameters).fetchall()


def _make(*values: Any) -> StoredKey:
    made: dict[str, Any] = dict(zip(_FIELDS, values, strict=True))
    made["permissions"], made["addresses"] = tuple(made["permissions"]), tuple(made["addresses"])
    return StoredKey(**made)


def _parameters(key: StoredKey) -> dict[str, Any]:
    return {
        "id": key.key_id,
        "account_id": key.account_id,
        "name": key.name,
        "algorithm": key.algorithm,
        "permissions": list(key.permissions),
        "addresses": list(key.addresses),
        "sealed_secret": key.sealed_secret,
        "public_key": key.public_key,
        "two_factor": key.two_factor,
    }


_FIELDS: Final = (
    "key_id",
    "account_id",
    "name",
    "algorithm",
    "permissions",
    "addresses",
    "two_factor",
    "sealed_secret",
    "public_key",
    "created_at",
    "revoked_at",
    "user",
    "keys_version",
)

_SELECT: Final = """
SELECT k.id, k.account_id, k.name, k.algorithm, k.permissions, k.addresses::text[], k.two_factor, k.sealed_secret,
       k.public_key, k.created_at, k.revoked_at, a.name, coalesce(s.keys_version, 0)
FROM api_keys AS k JOIN accounts AS a ON a.id = k.account_id LEFT JOIN account_settings AS s USING (account_id)
"""

_INSERT: Final = """
INSERT INTO api_keys (id, account_id, name, algorithm, permissions, addresses, sealed_secret, public_key, two_factor)
VALUES (%(id)s, %(account_id)s, %(name)s, %(algorithm)s, %(permissions)s, %(addresses)s::text[]::cidr[],
        %(sealed_secret)s, %(public_key)s, %(two_factor)s)
ON CONFLICT (id) DO NOTHING
RETURNING id
"""

_COUNT: Final = "SELECT count(*) FROM api_keys WHERE account_id = %s AND revoked_at IS NULL"

_FORGET: Final = """
DELETE FROM api_keys WHERE id IN (
    SELECT id FROM api_keys WHERE account_id = %s AND revoked_at IS NOT NULL ORDER BY revoked_at DESC OFFSET %s
)
"""

_IS_OWN: Final = "SELECT FROM api_keys WHERE account_id = %s AND id = %s AND revoked_at IS NULL"

_REVOKE: Final = """
UPDATE api_keys SET revoked_at = now() WHERE account_id = %s AND id = %s AND revoked_at IS NULL
"""
