"""A database of Python: the queries that fronts ask of PostgreSQL directly, answered out of dictionaries."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from tradeengine.core.records import TradingState
from tradeengine.core.symbols import SymbolSpec
from tradeengine.core.trading import Trading
from tradeengine.storage.account_settings import AccountSettings
from tradeengine.storage.api_keys import KeyIdTakenError, StoredKey, TooManyKeysError
from tradeengine.storage.audit import Entry, Link, Row
from tradeengine.storage.audit_anchors import Anchors
from tradeengine.storage.audit_delivery import Delivered
from tradeengine.storage.audit_spool import Spool
from tradeengine.storage.dead_letters import DeadLetter, Leg, LetterKind, NoSuchLetterError
from tradeengine.storage.directory import SymbolRow
from tradeengine.storage.funding import Funding, FundingKind, FundingStatus, ReferenceReusedError
from tradeengine.storage.listing import Room, Wanted
from tradeengine.storage.reconciliations import Reconciliation

LETTER_ID = 1 << 50
"""The one dead letter that there is."""

MADE_AT = dt.datetime(2026, 11, 24, 10, 30, 45, 234_000, tzinfo=dt.UTC)


@dataclass
class FakeDatabase:
    """Answers a query by the method of its name. ``keys``: API keys by id."""

    keys: dict[int, StoredKey] = field(default_factory=dict)
    settings: dict[int, AccountSettings] = field(default_factory=dict)
    symbols: dict[int, SymbolSpec] = field(default_factory=dict)
    fundings: dict[tuple[FundingKind, str], Funding] = field(default_factory=dict)
    outcome: FundingStatus = FundingStatus.SETTLED
    """What becomes of a request."""
    filters: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    audit: list[Entry] = field(default_factory=list)

    async def run(self, query: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Answer a query."""
        await trio.lowlevel.checkpoint()
        self.asked.append(query.__name__)
        answer = getattr(self, query.__name__)(*args, **kwargs)
        return await answer if isinstance(answer, Awaitable) else answer

    def deliver(self, spool: Spool, _anchors: Anchors) -> Delivered:
        """Take what was written down for the audit log."""
        entries, position = spool.read_ended(100)
        spool.mark_read(position)
        self.audit += entries
        return [(entry, Link(number, bytes(32))) for number, entry in enumerate(entries, 1)]

    def deliver_left_over(self, _folder: Path, _anchors: Anchors) -> Delivered:
        """Nobody else has left anything."""
        return []

    def change(self, account_id: int, **changes: Any) -> int:
        """Change an account's settings; in force at once."""
        self.settings[account_id] = replace(self.read_settings(account_id), updated_at=MADE_AT, **changes)
        return 0

    def count_live_orders(self, symbol_ids: Sequence[int]) -> dict[int, int]:
        """Count live orders: three of each symbol."""
        return dict.fromkeys(symbol_ids, 3)

    def change_from(self, account_id: int, **changes: Any) -> tuple[AccountSettings, int]:
        """Change an account's settings; say what was before."""
        before = self.read_settings(account_id)
        return before, self.change(account_id, **changes)

    def list_rows(self, **filters: Any) -> list[Row]:
        """List the audit log: one row of it."""
        self.filters = filters
        return [Row(Link(1, bytes(32)), bytes(32), self.audit[-1])] if self.audit else []

    def request_listing(self, wanted: Wanted, _room: Room, *, dry_run: bool) -> tuple[SymbolRow, bool]:
        """Find the one symbol that there is, listed as it is wanted."""
        assert not dry_run or wanted.shard is None
        trading = Trading(TradingState.OPEN, 0, 0, None, None)
        return SymbolRow(self.symbols[0], listed=True, trading=trading), False

    def live_order_ids(self, _account_id: int | None, _symbol_id: int | None, *, limit: int) -> tuple[int, list[int]]:
        """List two live orders."""
        return 2, [1 << 40, 2 << 40][:limit]

    def read_settings(self, account_id: int) -> AccountSettings:
        """Read an account's settings."""
        return self.settings.get(account_id, AccountSettings(account_id))

    async def change_symbol(
        self,
        symbol_id: int,
        change: Callable[[SymbolSpec], SymbolSpec],
        carry_out: Callable[[SymbolSpec], None],
    ) -> SymbolSpec:
        """Change a symbol."""
        changed = change(self.symbols[symbol_id])
        await trio.to_thread.run_sync(carry_out, changed)
        return changed

    def request_funding(
        self, kind: FundingKind, *, reference: str, account_id: int, asset_id: int, amount_units: int
    ) -> Funding:
        """Write a request down; it is settled when it is looked for."""
        asked = (account_id, asset_id, amount_units)
        earlier = self.fundings.get((kind, reference))
        if earlier is None:
            number = len(self.fundings) + 1
            waiting = Funding(
                number, number, kind, reference, *asked, FundingStatus.PENDING, None, None, MADE_AT, None, None
            )
            settled = replace(waiting, status=self.outcome, transaction_id=1 << 40, closed_at=MADE_AT)
            self.fundings[kind, reference] = settled
            return waiting
        if (earlier.account_id, earlier.asset_id, earlier.amount_units) != asked:
            raise ReferenceReusedError
        return earlier

    def find_funding(self, kind: FundingKind, reference: str) -> Funding | None:
        """Look for a request."""
        return self.fundings.get((kind, reference))

    def list_fundings(self, kind: FundingKind, *, limit: int, **filters: Any) -> list[Funding]:
        """List requests, newest first."""
        self.filters = filters
        return [funding for funding in reversed(self.fundings.values()) if funding.kind is kind][:limit]

    def list_letters(self, *, limit: int, before_id: int | None) -> list[DeadLetter]:
        """List one dead letter, and no more below it."""
        return [self.find_letter(LETTER_ID)][:limit] if before_id is None else []

    def find_letter(self, letter_id: int) -> DeadLetter:
        """Look for the one dead letter."""
        if letter_id != LETTER_ID:
            raise NoSuchLetterError
        legs = (Leg("alice", "USDT", 2, -50_025), Leg("*exchange*", "USDT", 2, 75))
        return DeadLetter(LETTER_ID, LetterKind.TRANSFER, None, "it says no", 3, "", MADE_AT, legs)

    def retry_letter(self, letter_id: int) -> DeadLetter:
        """Retry it."""
        return self.find_letter(letter_id)

    def discard_letter(self, letter_id: int, *, reason: str, by: str) -> DeadLetter:
        """Discard it."""
        self.filters = {"reason": reason, "by": by}
        return self.find_letter(letter_id)

    def account_names(self, account_ids: Sequence[int]) -> dict[int, str]:
        """Name accounts."""
        return {account_id: {16: "alice", 17: "bob"}[account_id] for account_id in account_ids}

    def request_reconciliation(self, requested_by: str) -> int:
        """Compare everything; it is done when it is looked for."""
        self.filters = {"requested_by": requested_by}
        return 1

    def find_reconciliation(self, number: int) -> Reconciliation:
        """Look at a comparison that found one difference."""
        counts = ("accounts", "balances", "postings", "transactions", "trades", "fundings", "orders", "risk_orders")
        checked = dict.fromkeys((*counts, "book_orders", "holds", "census_us"), 7)
        difference = dict.fromkeys(
            ("account", "asset", "symbol", "order_id", "transaction_id", "field", "expected", "found")
        )
        difference |= {"kind": "balance", "message": "It is another one.", "account": "alice", "found": "7.00"}
        cursors = {"0": {"settled": 1, "risk": 2, "matcher": 3}}
        return Reconciliation(
            number, MADE_AT, "root", MADE_AT, MADE_AT, {**checked, "cursors": cursors}, [difference], 1, None
        )

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
