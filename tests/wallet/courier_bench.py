"""The courier and its desk on a real database and a real wallet; risk and settlement are played by a few statements.

The assets have two places. Names are of this bench alone, because all tests share the wallet service.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import trio
from msgspec import structs
from tests.wallet.service import Service

from tradeengine.actors.wallet_courier import Courier
from tradeengine.actors.wallet_desk import Desk
from tradeengine.actors.wallet_metrics import WalletMetrics
from tradeengine.core.money import format_units, parse_units
from tradeengine.ipc.metric_names import ROLE_METRICS
from tradeengine.ipc.metrics import MetricPage
from tradeengine.settings import Wallet as WalletSettings
from tradeengine.settings_files import load_settings
from tradeengine.storage.directory import add_asset, resolve_account
from tradeengine.storage.funding import Funding, FundingKind, find_funding, request_funding
from tradeengine.storage.outbox import OutboxRow, expected_reserves, keep_kind
from tradeengine.wallet.breaker import BreakerState
from tradeengine.wallet.http import open_http
from tradeengine.wallet.open import open_wallet

PLACES = 2
PATIENCE_S = 30.0


@dataclass
class CourierBench:
    """A database with two assets, and a wallet at ``url``."""

    dsn: str
    service: Service
    url: str
    settings: WalletSettings
    page: MetricPage = field(default_factory=lambda: MetricPage.create("wallet", "wallet", *ROLE_METRICS["wallet"]))
    told: list[str] = field(default_factory=list)
    """What the courier said was wrong, in order."""
    states: list[BreakerState] = field(default_factory=list)
    settled: bool = True
    """Whether settlement has got everywhere."""
    in_order: bool = True
    """Whether everything that happened before what is settled is settled too."""
    _tag: str = field(default_factory=lambda: uuid.uuid4().hex[:10])
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(uuid.uuid4().int >> 76 << 8))

    def __post_init__(self) -> None:
        self.settings = structs.replace(self.settings, exchange_user=self.name("fees"), url=self.url)
        self.connection: psycopg.Connection[Any] = psycopg.connect(self.dsn, autocommit=True)
        keep_kind(self.connection, "http", "fees")
        self.assets = {
            name: add_asset(self.connection, f"{name}{self._tag}".upper(), PLACES, assets_max=100) for name in "BQ"
        }

    def name(self, user: str) -> str:
        """Name a user at the wallet."""
        return f"{user}-{self._tag}"

    def account(self, user: str) -> int:
        """Give a user's account."""
        if user == "fees":
            return 1
        return resolve_account(self.connection, self.name(user), accounts_max=10_000)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Courier]:
        """Run a courier; it ends as if killed."""
        courier: Courier | None = None

        def changed(state: BreakerState) -> None:
            self.states.append(state)
            if courier is not None:
                courier.breaker_changed(state)

        async with open_wallet(
            self.settings.url,
            self.service.secret,
            mode=self.settings.mode,
            timeout_s=self.settings.timeout_s,
            connections_max=self.settings.concurrency,
            breaker_failures=self.settings.breaker_failures,
            breaker_open_s=self.settings.breaker_open_s,
            changed=changed,
        ) as wallet:
            desks = [
                Desk(lambda: psycopg.connect(self.dsn, autocommit=True), self.settings.exchange_user) for _ in range(2)
            ]
            courier = Courier(
                wallet,
                (desks[0], desks[1]),
                self.settings,
                WalletMetrics(self.page),
                heads=list,
                passed=lambda _: self.settled,
                horizon=lambda: lambda: self.in_order,
                tell=self.told.append,
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wallet.keep_looking, 0.05)
                nursery.start_soon(courier.deliver)
                nursery.start_soon(courier.keep_rounds)
                yield courier
                nursery.cancel_scope.cancel()
            for desk in desks:
                desk.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        with trio.fail_after(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - what is waited for is in a database
                await trio.sleep(0.005)

    async def drained(self) -> None:
        """Wait until no transfer is pending."""
        await self.until(lambda: self.transfers("pending") == [])

    def transfers(self, state: str) -> list[int]:
        """Ids of transfers in a state."""
        query = "SELECT id FROM wallet_transfers WHERE state = %s::wallet_transfer_state ORDER BY id"
        return [id_ for (id_,) in self.connection.execute(query, (state,))]

    def row(self, transfer_id: int) -> tuple[int, str | None, str]:
        """Give a transfer's tries, error and progress."""
        query = "SELECT tries, error, progress FROM wallet_transfers WHERE id = %s"
        row = self.connection.execute(query, (transfer_id,)).fetchone()
        assert row is not None
        tries, error, progress = row
        return tries, error, progress

    def counter(self, name: str) -> int:
        """Read a counter or gauge of the metric page."""
        snapshot = self.page.snapshot()
        return (snapshot.counters | snapshot.gauges)[name]

    def trade(
        self,
        buyer: str,
        seller: str,
        base: str = "1",
        quote: str = "100",
        fee: str = "0.50",
        executed_ns: int | None = None,
    ) -> int:
        """Settle a trade: balances and a row of the outbox. fee: of each side. executed_ns: now, if not given."""
        fee_units = parse_units(fee, PLACES)
        row = OutboxRow(
            next(self._ids),
            parse_units(base, PLACES),
            parse_units(quote, PLACES),
            fee_units,
            fee_units,
            self.account(buyer),
            self.account(seller),
            self.assets["B"].asset_id,
            self.assets["Q"].asset_id,
            time.time_ns() if executed_ns is None else executed_ns,
            0,
            "",
            0.0,
        )
        with self.connection.transaction():
            for move in row.moves():
                self._post(move.account_id, move.asset_id, move.amount_units)
            self.connection.execute(
                "INSERT INTO wallet_transfers (id, base_units, notional_units, buyer_fee_units, seller_fee_units, "
                "buyer_account_id, seller_account_id, base_asset_id, quote_asset_id, executed_ns) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [getattr(row, name) for name in OutboxRow.__slots__[:10]],
            )
        return row.id

    async def arrive(self, user: str, asset: str, amount: str) -> None:
        """Let money arrive at the wallet, by its own door."""
        async with open_http(self.service.url, self.service.secret, timeout_s=20, connections_max=1) as wallet:
            await wallet.deposit(uuid.uuid4().hex, self.name(user), self.assets[asset].name, amount)

    def ask(self, kind: FundingKind, user: str, asset: str, amount: str, reference: str = "") -> Funding:
        """Ask for a deposit or withdrawal."""
        return request_funding(
            self.connection,
            kind,
            reference=reference or uuid.uuid4().hex,
            account_id=self.account(user),
            asset_id=self.assets[asset].asset_id,
            amount_units=parse_units(amount, PLACES),
        )

    def look(self, funding: Funding) -> Funding:
        """Look what became of it."""
        found = find_funding(self.connection, funding.kind, funding.reference)
        assert found is not None
        return found

    def settle(self, funding: Funding, *, refused: bool = False) -> None:
        """Do as risk and settlement do with a numbered request."""
        status, units = "refused" if refused else "settled", funding.amount_units
        with self.connection.transaction():
            self.connection.execute(
                "UPDATE funding SET status = %s::funding_status WHERE id = %s AND number IS NOT NULL",
                (status, funding.id),
            )
            if not refused:
                sign = 1 if funding.kind is FundingKind.DEPOSIT else -1
                self._post(funding.account_id, funding.asset_id, sign * units)

    async def fund(self, user: str, **amounts: str) -> None:
        """Let money arrive and be deposited; a courier must be running."""
        for asset, amount in amounts.items():
            await self.arrive(user, asset, amount)
            asked = self.ask(FundingKind.DEPOSIT, user, asset, amount)
            await self.until(lambda asked=asked: self.look(asked).number > 0)  # type: ignore[misc]
            self.settle(self.look(asked))

    def reserved(self) -> dict[tuple[str, str], str]:
        """Look what the wallet holds reserved of this bench's users."""
        query = (
            "SELECT user_name, asset, amount FROM wallet.balances "
            "WHERE part = 'reserved' AND amount <> 0 AND right(user_name, %s) = %s"
        )
        with psycopg.connect(self.service.dsn) as connection:
            rows = connection.execute(query, (len(self._tag), self._tag)).fetchall()
        return {(user, asset): f"{amount:.2f}" for user, asset, amount in rows}

    def expected(self) -> dict[tuple[str, str], str]:
        """Work out what the wallet must hold reserved by what the database says."""
        names = dict(self.connection.execute("SELECT id, name FROM accounts").fetchall())
        names[1] = self.settings.exchange_user
        assets = {asset.asset_id: asset.name for asset in self.assets.values()}
        return {
            (names[account_id], assets[asset_id]): format_units(units, PLACES)
            for (account_id, asset_id), units in expected_reserves(self.connection).items()
        }

    def agree(self) -> None:
        """Ledger, outbox and wallet agree to the last unit, and the wallet's own books are right."""
        assert self.reserved() == self.expected()
        self.service.check_books()

    def _post(self, account_id: int, asset_id: int, units: int) -> None:
        self.connection.execute(
            "INSERT INTO balances AS b VALUES (%s, %s, %s) ON CONFLICT (account_id, asset_id) "
            "DO UPDATE SET total_units = b.total_units + excluded.total_units",
            (account_id, asset_id, units),
        )


def quick_settings(**changes: Any) -> WalletSettings:
    """Give settings of a wallet that fail soon, with changes."""
    quick = {"backoff_ms_min": 5, "backoff_ms_max": 20, "timeout_s": 0.5, "breaker_open_s": 0.3}
    return structs.replace(load_settings(environ={}).wallet, **{**quick, **changes})
