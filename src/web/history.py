"""History: what PostgreSQL knows, asked for after the barrier, as the rows that ``views`` shows.

Rule 1: an answer includes everything that was published when the question came, or it is SETTLEMENT_BACKLOG.
Rule 2: one's own only: every question carries the account.
It refuses to know SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from tradeengine.core.feed import TimeFrame
from tradeengine.storage import candles, depth_snapshots, directory, past_trades, queries, statistics
from tradeengine.storage.candles import Candle
from tradeengine.storage.outbox import unconfirmed_credits
from tradeengine.storage.private import Changes, LiveOrders, read_changes, read_live_orders
from tradeengine.storage.queries import OrderRow, TradeRow
from tradeengine.storage.statement import Place, StatementRow, read_statement
from tradeengine.storage.statistics import Day
from tradeengine.web.barrier import Barrier, BarrierTimeout
from tradeengine.web.database import Connection, Database
from tradeengine.web.errors import ApiError

P = ParamSpec("P")
Result = TypeVar("Result")


ABSENT_MAX: Final = 10_000
"""Names without an account that are remembered: administrators, and users on their first call."""


class History:
    """Questions about the past, each after the barrier."""

    def __init__(self, database: Database, settled: Barrier, folded: Barrier, timeout_s: float) -> None:
        """Ask ``database`` once ``settled`` has passed; ``folded`` is risk's barrier. timeout_s: for either."""
        self._database = database
        self._settled = settled
        self._folded = folded
        self._timeout_s = timeout_s

    async def wait_folded(self) -> None:
        """Return when risk has folded everything published until now. Raises ApiError ENGINE_OVERLOADED."""
        try:
            await self._folded.wait(self._timeout_s)
        except BarrierTimeout:
            raise ApiError("ENGINE_OVERLOADED", "Balances are behind what was published; try again.") from None

    async def wait_settled(self) -> None:
        """Return when PostgreSQL has everything published until now. Raises ApiError SETTLEMENT_BACKLOG."""
        try:
            await self._settled.wait(self._timeout_s)
        except BarrierTimeout:
            raise ApiError(
                "SETTLEMENT_BACKLOG",
                "History is behind what was published; try again.",
                {"events": self._settled.lag()},
            ) from None

    async def orders(self, account_id: int, **filters: Any) -> list[OrderRow]:
        """Own orders, newest first; filters as in ``queries.list_orders``."""
        return await self._ask(queries.list_orders, account_id, **filters)

    async def order(self, account_id: int, order_id: int) -> OrderRow | None:
        """One own order."""
        return await self._ask(queries.find_order, account_id, order_id)

    async def order_by_client_id(self, account_id: int, client_order_id: str) -> OrderRow | None:
        """One own order by its client order id, the newest."""
        return await self._ask(queries.find_order_by_client_id, account_id, client_order_id)

    async def trades_of_order(self, order_id: int, limit: int) -> list[TradeRow]:
        """List the fills of one order, oldest first."""
        return await self._ask(queries.list_trades_of_order, order_id, limit=limit)

    async def count_trades_of_order(self, order_id: int, **bounds: int) -> int:
        """Count the fills of one order; bounds as in ``queries.count_trades_of_order``."""
        return await self._ask(queries.count_trades_of_order, order_id, **bounds)

    async def public_trades(self, symbol_id: int, **filters: Any) -> list[TradeRow]:
        """Trades of a symbol, newest first; filters as in ``queries.list_public_trades``."""
        return await self._ask(queries.list_public_trades, symbol_id, **filters)

    async def own_trades(self, account_id: int, symbol_id: int | None, **filters: Any) -> list[TradeRow]:
        """Own trades, newest first; filters as in ``queries.list_own_trades``."""
        return await self._ask(queries.list_own_trades, account_id, symbol_id, **filters)

    async def settlement_statuses(self, trade_ids: Sequence[int]) -> dict[int, str]:
        """Say of trades that are not settled with the wallet how they stand: pending or failed."""
        return await self._database.run(queries.settlement_statuses, trade_ids)

    async def unconfirmed_credits(self, account_id: int, asset_id: int) -> int:
        """Add up what trades have brought an account and a wallet has not confirmed, in minor units."""
        return await self._ask(unconfirmed_credits, account_id, asset_id)

    async def statement(self, account_id: int, **filters: Any) -> tuple[list[StatementRow], Place | None]:
        """Read a page of an account's statement; filters as in ``statement.read_statement``."""
        return await self._ask(read_statement, account_id, **filters)

    async def past_trades(self, symbol_id: int, **filters: Any) -> list[TradeRow]:
        """Trades of a symbol, oldest first, imported ones too; filters as in ``past_trades.list_past_trades``."""
        return await self._ask(past_trades.list_past_trades, symbol_id, **filters)

    async def candles(self, symbol_id: int, time_frame: TimeFrame, **filters: Any) -> list[Candle]:
        """Candles of a symbol, oldest first; filters as in ``candles.list_candles``."""
        return await self._ask(candles.list_candles, symbol_id, time_frame, **filters)

    async def day(self, symbol_id: int) -> Day:
        """Add up the last 24 hours of a symbol."""
        return await self._ask(statistics.read_day, symbol_id)

    async def trade(self, trade_id: int) -> TradeRow | None:
        """One trade."""
        return await self._ask(queries.find_trade, trade_id)

    async def stored_depth(self, symbol_id: int, at_ns: int | None) -> depth_snapshots.StoredDepth | None:
        """Depth of a symbol at or just before a time. Without the barrier: it does not come by way of settlement."""
        return await self._database.run(depth_snapshots.find_depth, symbol_id, at_ns)

    async def live_orders(self, account_id: int) -> LiveOrders:
        """Read an account's open orders, and how far settlement had got."""
        return await self._ask(read_live_orders, [account_id])

    async def changes(self, account_id: int, since_ms: int, positions: Sequence[int]) -> Changes | None:
        """Read what has happened to an account's orders since a place in the events; None: too much to tell."""
        return await self._ask(read_changes, account_id, since_ms, positions)

    async def _ask(
        self, query: Callable[Concatenate[Connection, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        await self.wait_settled()
        return await self._database.run(query, *args, **kwargs)


class Accounts:
    """Account ids of names, made by the database when new and remembered here."""

    def __init__(self, database: Database, accounts_max: int, taken: str | None = None) -> None:
        """taken: a name that no user may have."""
        self._database = database
        self._accounts_max = accounts_max
        self._taken = taken
        self._ids: dict[str, int] = {}
        self._absent: dict[str, int] = {}

    async def find(self, name: str, as_of: int | None = None) -> int | None:
        """Account id of a name that has one. Raises ApiError.

        as_of: that a name has none is remembered for this, and for as long as whoever asks says the same.
        """
        known = self._ids.get(name)
        if known is not None or (as_of is not None and self._absent.get(name) == as_of):
            return known
        found = await self._database.run(directory.find_account, name)
        if found is not None:
            self._ids[name] = found
        elif as_of is not None:
            if len(self._absent) >= ABSENT_MAX:
                self._absent.clear()
            self._absent[name] = as_of
        return found

    async def id_of(self, name: str) -> int:
        """Account id of a user's name.

        Raises ApiError LIMIT_EXCEEDED when no account is left, FORBIDDEN for the name that no user may have.
        """
        known = self._ids.get(name)
        if known is not None:
            return known
        self._refuse_taken(name)
        try:
            account_id = await self._database.run(directory.resolve_account, name, accounts_max=self._accounts_max)
        except directory.DirectoryFullError:
            raise self._full() from None
        # Bounded by accounts_max: only names that have an account are kept.
        self._ids[name] = account_id
        return account_id

    async def foresee(self, name: str) -> int | None:
        """Account id of a user's name, or None for one that would get it. Raises ApiError as ``id_of`` does."""
        known = self._ids.get(name)
        if known is not None:
            return known
        self._refuse_taken(name)
        found = await self.find(name)
        if found is None and not await self._database.run(directory.has_room_for_account, self._accounts_max):
            raise self._full()
        return found

    def _refuse_taken(self, name: str) -> None:
        if name == self._taken:
            raise ApiError(
                "FORBIDDEN", "The exchange's own account at the wallet has this name; no user may.", {"field": "user"}
            )

    def _full(self) -> ApiError:
        return ApiError(
            "LIMIT_EXCEEDED", "This engine has no room for another account.", {"maximum": self._accounts_max}
        )
