"""History: what PostgreSQL knows, asked for after the barrier, as the contents that ``views`` shows.

Rule 1: an answer includes everything that was published when the question came, or it is SETTLEMENT_BACKLOG.
Rule 2: one's own only: every question carries the account.
It refuses to know SQL.
"""

from __future__ import annotations

from typing import Any

from tradeengine.storage import directory
from tradeengine.web.barrier import Barrier, BarrierTimeout
from tradeengine.web.database import Database
from tradeengine.web.errors import ApiError
from tradeengine.web.views import OrderContent, TradeContent


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

    async def orders(self, account_id: int, **filters: Any) -> list[OrderContent]:
        """Own orders, newest first."""
        raise NotImplementedError

    async def order(self, account_id: int, order_id: int) -> OrderContent | None:
        """One own order."""
        raise NotImplementedError

    async def order_by_client_id(self, account_id: int, client_order_id: str) -> OrderContent | None:
        """One own order by its client order id."""
        raise NotImplementedError

    async def trades_of_order(self, order_id: int) -> list[TradeContent]:
        """List the fills of one order, oldest first."""
        raise NotImplementedError

    async def public_trades(self, symbol_id: int, **filters: Any) -> list[TradeContent]:
        """Trades of a symbol, newest first."""
        raise NotImplementedError

    async def own_trades(self, account_id: int, symbol_id: int | None, **filters: Any) -> list[TradeContent]:
        """Own trades, newest first."""
        raise NotImplementedError

    async def trade(self, trade_id: int) -> TradeContent | None:
        """One trade."""
        raise NotImplementedError


class Accounts:
    """Account ids of names, made by the database when new and remembered here."""

    def __init__(self, database: Database, accounts_max: int) -> None:
        self._database = database
        self._accounts_max = accounts_max
        self._ids: dict[str, int] = {}

    async def id_of(self, name: str) -> int:
        """Account id of a user's name. Raises ApiError LIMIT_EXCEEDED when no account is left."""
        known = self._ids.get(name)
        if known is not None:
            return known
        try:
            account_id = await self._database.run(directory.resolve_account, name, accounts_max=self._accounts_max)
        except directory.DirectoryFullError:
            raise ApiError(
                "LIMIT_EXCEEDED", "This engine has no room for another account.", {"maximum": self._accounts_max}
            ) from None
        # Bounded by accounts_max: only names that have an account are kept.
        self._ids[name] = account_id
        return account_id
