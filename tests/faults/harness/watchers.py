"""Those who listen while the engine is struck: books, trades and own orders, held against what they are told.

They are the clients of ``book_clients`` and ``own_orders``, which raise when a message does not fit the ones before. A
message that does not fit ends its listener, and is a finding; in the end the others must know what the engine shows.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from tests.e2e.users import User, sign_in
from tests.faults.book_clients import RawBook, RawTrades, ShownBooks
from tests.faults.harness.intents import SYMBOLS
from tests.faults.harness.world import World
from tests.faults.own_orders import OwnOrders, OwnStream, agree

if TYPE_CHECKING:
    from tests.faults.harness.venue import Venue

LISTENERS: Final = ("ada", "ben")
"""Users whose own orders are followed."""
LISTENING_S_MAX: Final = 120.0
AGREE_S_MAX: Final = 120.0


@dataclass
class Watchers:
    """All who listen."""

    venue: Venue
    books: list[RawBook] = field(default_factory=list)
    trades: list[RawTrades] = field(default_factory=list)
    own: list[tuple[User, OwnStream]] = field(default_factory=list)

    async def check(self, world: World) -> None:
        """See that everyone knows what the engine shows now; nothing happens meanwhile."""
        async with ShownBooks(self.venue.engine, SYMBOLS) as shown:
            for book in self.books:
                agreeing = partial(shown.agree, book, resting(world, book.symbol))
                await self._guard(f"book of {book.symbol}", partial(_patiently, agreeing))
        for user, stream in self.own:
            await self._guard(f"own orders of {user.name}", partial(_patiently, partial(agree, stream, user)))
        for trades, symbol in zip(self.trades, SYMBOLS, strict=True):
            self._check_trades(trades, symbol, world)

    def _check_trades(self, trades: RawTrades, symbol: str, world: World) -> None:
        """See that every trade of a connection's time was told by it, or that it was told that it may be missing."""
        ids = {str(row["id"]): row["sequence"] for row in world.trades.values() if _name(world, row) == symbol}
        wrong = self.venue.findings.wrong
        if invented := trades.seen.items() - ids.items():
            wrong.append(f"trades of {symbol} were told and are not settled: {sorted(invented)}")
        for first, last, missing_through in trades.spans:
            silent = {
                name for name, sequence in ids.items() if max(first, missing_through + 1) <= sequence <= last
            } - trades.seen.keys()
            if silent:
                wrong.append(f"trades of {symbol} between {first} and {last} were not told of: {sorted(silent)}")

    async def listen(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run a listener for as long as what it hears makes sense."""
        await self._guard(name, work)

    async def _guard(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception:
            self.venue.findings.wrong.append(f"{name}: {traceback.format_exc()}")


@asynccontextmanager
async def watching(venue: Venue) -> AsyncIterator[Watchers]:
    """Have everyone listen while the block runs; all have been answered when it begins."""
    watchers = Watchers(venue)
    watchers.books = [RawBook(venue.url, symbol, binary=place == 1) for place, symbol in enumerate(SYMBOLS)]
    watchers.trades = [RawTrades(venue.url, symbol) for symbol in SYMBOLS]
    watchers.own = [
        (user, OwnStream(user, OwnOrders())) for user in (sign_in(venue.engine, name) for name in LISTENERS)
    ]
    async with trio.open_nursery() as nursery:
        clients: list[RawBook | RawTrades] = [*watchers.books, *watchers.trades]
        for client in clients:
            nursery.start_soon(watchers.listen, repr(client), client.run)
        for user, stream in watchers.own:
            nursery.start_soon(watchers.listen, f"own orders of {user.name}", stream.run)
        with trio.fail_after(LISTENING_S_MAX):
            for client in clients:
                await client.known.wait()
            for _, stream in watchers.own:
                await stream.wait(lambda _: True)
        try:
            yield watchers
        finally:
            for user, _ in watchers.own:
                user.http.close()
        nursery.cancel_scope.cancel()


async def _patiently(agreeing: Callable[[], Awaitable[None]]) -> None:
    """Wait until who listens agrees with the engine, for as long as a busy machine may take."""
    deadline_s = time.monotonic() + AGREE_S_MAX
    while True:
        try:
            await agreeing()
        except AssertionError:
            if time.monotonic() > deadline_s:
                raise
        else:
            return


def resting(world: World, symbol: str) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """Add up the live orders of a symbol: bids and asks, best first, as the API shows them."""
    levels: dict[str, dict[int, int]] = {"buy": {}, "sell": {}}
    spec = next(spec for spec in world.specs.values() if spec.name == symbol)
    for row in world.orders.values():
        if row["symbol_id"] == spec.symbol_id and row["status"] in {"open", "partially_filled"}:
            side = levels[row["side"]]
            side[row["price_ticks"]] = side.get(row["price_ticks"], 0) + row["remaining_lots"]
    bids, asks = (
        tuple(
            (spec.format_price(ticks), spec.format_quantity(levels[side][ticks]))
            for ticks in sorted(levels[side], reverse=side == "buy")
        )
        for side in ("buy", "sell")
    )
    return bids, asks


def check_balances(user: User, world: World) -> list[str]:
    """Compare what the engine shows of a user's money with the ledger and the live orders."""
    shown = user.balances()
    expected = {asset: money for (name, asset), money in world.balances.items() if name == user.name}
    return [
        f"{user.name} is shown {asset} {shown.get(asset)}, has {money}"
        for asset, money in expected.items()
        if asset not in shown or (shown[asset][0], shown[asset][2]) != money or sum(shown[asset][1:]) != money[0]
    ]


def _name(world: World, row: dict[str, int]) -> str:
    return world.specs[row["symbol_id"]].name
