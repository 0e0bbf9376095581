"""A database of Python: the queries that fronts ask of PostgreSQL directly, answered out of dictionaries."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from tradeengine.storage.api_keys import KeyIdTakenError, StoredKey, TooManyKeysError

MADE_AT = dt.datetime(2026, 11, 24, 10, 30, 45, 234_000, tzinfo=dt.UTC)


@dataclass
class FakeDatabase:
    """Answers a query by the method of its name. ``keys``: API keys by id."""

    keys: dict[int, StoredKey] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def run(self, query: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Answer a query."""
        await trio.lowlevel.checkpoint()
        self.asked.append(query.__name__)
        return getattr(self, query.__name__)(*args, **kwargs)

    def add_key(self, key: StoredKey, *, keys_max: int) -> StoredKey:
        """Store a key, whose owner is alice."""
        if len(self.list_keys(key.account_id, before_id=None, limit=keys_max)) >= keys_max:
            raise TooManyKeysError
        if key.key_id in self.keys:
            raise KeyIdTakenError
        self.keys[key.key_id] = replace(key, created_at=MADE_AT, user="alice")
        return self.keys[key.key_id]

    def find_key(self, key_id: int) -> StoredKey | None:
        """Look for a key."""
        return self.keys.get(key_id)

    def list_keys(self, account_id: int, *, before_id: int | None, limit: int) -> list[StoredKey]:
        """List an account's keys that count."""
        own = [key for key in self.keys.values() if key.account_id == account_id and key.revoked_at is None]
        older = [key for key in own if before_id is None or key.key_id < before_id]
        return sorted(older, key=lambda key: -key.key_id)[:limit]

    def revoke_key(self, account_id: int, key_id: int) -> int | None:
        """Revoke a key; in force at once."""
        key = self.keys.get(key_id)
        if key is None or key.account_id != account_id or key.revoked_at is not None:
            return None
        self.keys[key_id] = replace(key, revoked_at=MADE_AT)
        return 0
