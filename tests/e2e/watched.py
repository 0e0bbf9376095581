"""A user who watches their own orders: each update checked against the one before and, at the end, against HTTP.

It refuses to know which orders there are to be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

import trio
from tests.e2e.users import Json, User
from tests.engines import Engine
from tests.web.raw_websocket import WAIT_S, RawSocket, connected

ENDED = frozenset({"filled", "cancelled", "rejected"})
SAME_AS_ORDER = {
    "order_id": "id",
    "client_order_id": "client_order_id",
    "symbol": "symbol",
    "side": "side",
    "order_type": "type",
    "status": "status",
    "price": "price",
    "stop_price": "stop_price",
    "quantity": "quantity",
    "filled_quantity": "filled_quantity",
    "remaining_quantity": "remaining_quantity",
    "reason": "status_reason",
    "sequence": "sequence",
}
"""Fields of the last update of an order, and what they are called in the order."""
SAME_AS_TRADE = {
    "trade_id": "id",
    "order_id": "order_id",
    "symbol": "symbol",
    "side": "side",
    "last_price": "price",
    "last_quantity": "quantity",
    "fee": "fee",
    "liquidity": "liquidity",
    "sequence": "sequence",
    "timestamp": "timestamp",
}


class Watched:
    """A user with a stream of their own orders; ``updates``: by order, all that came."""

    def __init__(self, user: User, socket: RawSocket) -> None:
        self.user = user
        self.socket = socket
        self.updates: defaultdict[str, list[Json]] = defaultdict(list)
        self._sequence = -1

    async def told(self, order_id: str) -> list[tuple[str, ...]]:
        """Read until everything of an order has come, check all of it, and tell it shortly: see ``brief``."""
        order = self.user.order(order_id)
        updates = self.updates[order_id]
        with trio.fail_after(WAIT_S):
            while not updates or updates[-1]["sequence"] < order["sequence"]:
                self._take(await self.socket.next("order_update"))
        for field, name in SAME_AS_ORDER.items():
            assert updates[-1][field] == order[name], field
        assert updates[0]["event"] in {"accepted", "rejected"}
        assert all(update["status"] not in ENDED for update in updates[:-1])
        fees = [Decimal(update["fee"]) for update in updates if update["event"] == "traded"]
        assert sum(fees, Decimal(0)) == Decimal(order["fee_paid"])
        self._check_trades(updates, order)
        return [brief(update) for update in updates]

    async def until(self, order_id: str, event: str) -> Json:
        """Read until this has happened to an order; returns the update."""
        while not (updates := self.updates[order_id]) or updates[-1]["event"] != event:
            self._take(await self.socket.next("order_update"))
        return updates[-1]

    def _take(self, update: Json) -> None:
        """Take an update in, which must follow from the one before."""
        assert update["sequence"] >= self._sequence
        self._sequence = update["sequence"]
        updates = self.updates[update["order_id"]]
        filled = Decimal(updates[-1]["filled_quantity"]) if updates else Decimal(0)
        is_trade = update["event"] == "traded"
        for field in ("trade_id", "last_price", "last_quantity", "fee", "liquidity"):
            assert (update[field] is not None) is is_trade
        assert Decimal(update["filled_quantity"]) == filled + Decimal(update["last_quantity"] or 0)
        if update["quantity"] is not None:
            rest = Decimal(update["quantity"]) - Decimal(update["filled_quantity"])
            assert Decimal(update["remaining_quantity"]) == rest
        updates.append(update)

    def _check_trades(self, updates: list[Json], order: Json) -> None:
        mine: list[Json] = self.user.call("GET", f"/trades?scope=mine&limit=1000&symbol={order['symbol']}")
        trades = {trade["id"]: trade for trade in mine if trade["order_id"] == order["id"]}
        traded = [update for update in updates if update["event"] == "traded"]
        assert {update["trade_id"] for update in traded} == set(trades)
        for update in traded:
            for field, name in SAME_AS_TRADE.items():
                assert update[field] == trades[update["trade_id"]][name], field


@asynccontextmanager
async def watching(engine: Engine, user: User, *, msgpack: bool = False) -> AsyncIterator[Watched]:
    """Watch a user's orders for as long as the block runs."""
    async with connected(engine.url, token=token_of(user), msgpack=msgpack) as socket:
        await socket.ask("subscribe", channels=["orders"])
        yield Watched(user, socket)


def token_of(user: User) -> str:
    """Give a user's token."""
    return user.http.headers["Authorization"].removeprefix("Bearer ")


def brief(update: Json) -> tuple[str, ...]:
    """Tell an update in a few words: what happened, the order's status, how much is filled, and why or how."""
    how = update["reason"] or update["liquidity"]
    words = (update["event"], update["status"], f"{Decimal(update['filled_quantity']).normalize():f}")
    return (*words, how) if how else words
