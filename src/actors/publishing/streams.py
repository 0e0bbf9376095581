"""The streams' side of the publisher: what happens becomes messages on the feed, as far as any front wants it.

A front asks through its demand table. What it wants of symbols is served from the next duty on; orders of an account
are served once the account's live orders are loaded (``OrderLoads``). Both are told on the feed, so that a front knows
from which message on nothing is missing.

Rule 1: nothing that nobody wants is put into words. Rule 2: every event is looked at once, in its shard's order, and
what was missed is told as a gap. Rule 3: this side reads no ring by itself, except to look back for orders.
It refuses to know WebSockets.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import trio

from tradeengine.actors.publishing.candles import LiveCandles
from tradeengine.actors.publishing.demand import Demand
from tradeengine.actors.publishing.market_messages import (
    book_text,
    candle_text,
    level_changes_between,
    status_text,
    ticker_text,
    trade_rows,
    trade_text,
)
from tradeengine.actors.publishing.order_watch import OrderWatch, WatchBroken
from tradeengine.core.feed import CANDLE_INTERESTS, FeedKind, Interest
from tradeengine.core.messages import encode, resume_cursor
from tradeengine.core.records import EventKind
from tradeengine.core.trading import trading_after
from tradeengine.ipc.ring import Lapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from tradeengine.actors.publishing.candles import ToldCandle
    from tradeengine.actors.publishing.feed_writer import FeedWriter
    from tradeengine.actors.publishing.ticker import Tickers
    from tradeengine.actors.publishing.trading_states import TradingStates
    from tradeengine.core.symbols import SymbolSpec
    from tradeengine.ipc.ring import Ring
    from tradeengine.storage.private import LiveOrders

    Levels = NDArray[np.int64]

NS_PER_MS: Final = 10**6
LOOK_BACK_COUNT: Final = 4096
"""Events that are copied at once when orders are brought up to date."""
LOAD_ACCOUNTS_MAX: Final = 256
_TELLS_STATE: Final = np.zeros(256, bool)
_TELLS_STATE[[EventKind.TRADING_STATE_SET, EventKind.SYMBOL_LISTED]] = True


class Streams:
    """Messages of all shards. ``specs``: symbols by id, which the caller keeps up to date.

    A symbol that is not among them was listed a moment ago; nobody can have asked for it yet.
    """

    def __init__(
        self,
        feed: FeedWriter,
        demand: Demand,
        tickers: Tickers,
        rings: list[Ring],
        positions: list[int],
        specs: Mapping[int, SymbolSpec],
        candle_interval_ns: int,
        trading_states: TradingStates,
    ) -> None:
        """Join the ends. rings: each shard's event ring. positions: the next event of each that ``take`` will bring."""
        self._feed = feed
        self._demand = demand
        self._rings = rings
        self._specs = specs
        self._trading_states = trading_states
        self._positions = positions
        """By shard: the next event that was not looked at."""
        self._watch = OrderWatch(len(demand.accounts))
        self._candles = LiveCandles(tickers)
        self._candle_interval_ns = candle_interval_ns
        self._candles_told_ns = 0
        self._channels = np.zeros_like(demand.channels)
        self.loads = OrderLoads()
        for shard in range(len(rings)):
            self._tell_gap(shard)

    def wants(self, symbol_id: int, interest: int) -> bool:
        """Whether anyone wants this of a symbol."""
        return bool(self._channels[symbol_id] & interest)

    def read_demand(self, ticker_of: Callable[[int], Any]) -> None:
        """Look what fronts want, and tell them what is served. ticker_of: the ``ticker_dtype`` record of a symbol."""
        if self._demand.read():
            self._channels = self._demand.channels
            self._load_wanted()
        self._take_loaded()
        for number, front in enumerate(self._demand.fronts):
            if front.number != front.channels_served:
                for symbol_id in front.fresh():
                    self._tell_present(symbol_id, int(front.channels[symbol_id]), ticker_of)
                front.channels_served = front.number
                self._tell_served(FeedKind.CHANNELS_SERVED, number, front.number, b"")
            if front.number != front.orders_served and self._watches_all(front.accounts):
                front.orders_served = front.number
                cursor = resume_cursor(time.time_ns() // NS_PER_MS, self._positions)
                self._tell_served(FeedKind.ORDERS_SERVED, number, front.number, cursor.encode())

    def take(self, shard: int, events: NDArray[np.void]) -> None:
        """Look at a shard's next events, 1-D ``event_dtype``; those that were looked at before are passed over."""
        events = events[np.searchsorted(events["sequence"], self._positions[shard]) :]
        if not len(events):
            return
        self._positions[shard] = int(events["sequence"][-1]) + 1
        self._tell_trades(events)
        self._tell_states(events)
        self._tell_orders(shard, events)

    def missed(self, shard: int, position: int) -> None:
        """Take note that events were lost; position: the next event that will come."""
        self._positions[shard] = position
        self._tell_gap(shard)
        self._reload_orders()

    def show_book(
        self, symbol_id: int, before: tuple[Levels, Levels, int] | None, after: tuple[Levels, Levels, int], now_ns: int
    ) -> None:
        """Tell how a book has changed. before, after: bids, asks (shape (n, 2), best first) and sequence.

        before: None when nobody can know it; fronts then begin anew from the depth page.
        """
        if not self.wants(symbol_id, Interest.BOOK):
            return
        bids, asks, sequence = after
        if before is None:
            self._feed.add(
                FeedKind.BOOK, symbol_id=symbol_id, previous_sequence=-1, sequence=sequence, timestamp_ns=now_ns
            )
            return
        changes = (level_changes_between(before[0], bids), level_changes_between(before[1], asks))
        if before[2] == sequence and not any(changes):
            return
        text = book_text(self._specs[symbol_id], changes, (_best(bids), _best(asks)), before[2], sequence, now_ns)
        self._feed.add(
            FeedKind.BOOK,
            text,
            symbol_id=symbol_id,
            previous_sequence=before[2],
            sequence=sequence,
            timestamp_ns=now_ns,
        )

    def show_ticker(self, symbol_id: int, row: Any) -> None:
        """Tell a ticker, a ``ticker_dtype`` record."""
        spec = self._specs.get(symbol_id)
        if spec is not None and self.wants(symbol_id, Interest.TICKER):
            self._feed.add(
                FeedKind.TICKER,
                ticker_text(spec, row),
                symbol_id=symbol_id,
                sequence=int(row["sequence"]),
                timestamp_ns=int(row["timestamp_ns"]),
            )

    def show_candles(self, knows_past: Callable[[int], bool], now_ns: int) -> None:
        """Tell the candles that are due, when it is time to."""
        if now_ns - self._candles_told_ns >= self._candle_interval_ns:
            self._candles_told_ns = now_ns
            for told in self._candles.due(self._channels, knows_past, now_ns):
                self._tell_candle(told, now_ns)

    def flush(self) -> int:
        """Publish everything that was told; returns how many messages that was."""
        return self._feed.flush()

    def _tell_trades(self, events: NDArray[np.void]) -> None:
        traded = (events["kind"] == EventKind.TRADED) & (
            self._channels[events["symbol_id"]] & int(Interest.TRADES) != 0
        )
        if not traded.any():
            return
        for row in trade_rows(events[traded]):
            sequence, timestamp_ns, symbol_id = row[:3]
            text = trade_text(row, self._specs[symbol_id])
            self._feed.add(FeedKind.TRADE, text, symbol_id=symbol_id, sequence=sequence, timestamp_ns=timestamp_ns)

    def _tell_states(self, events: NDArray[np.void]) -> None:
        for event in events[_TELLS_STATE[events["kind"]]]:
            trading = trading_after(event)
            if trading is None:
                continue
            symbol_id = int(event["symbol_id"])
            # The row first: who begins to listen now finds what others are told.
            self._trading_states.put(symbol_id, trading)
            spec = self._specs.get(symbol_id)
            if spec is not None:
                self._feed.add(
                    FeedKind.STATUS,
                    status_text(spec, trading),
                    symbol_id=symbol_id,
                    sequence=trading.sequence,
                    timestamp_ns=trading.timestamp_ns,
                )

    def _tell_orders(self, shard: int, events: NDArray[np.void]) -> None:
        try:
            told = self._watch.fold(events, self._specs, lambda event: self._cursor(shard, event))
        except WatchBroken:
            self._tell_gap(shard)
            self._reload_orders()
            return
        for account_id, sequence, timestamp_ns, update in told:
            self._feed.add(
                FeedKind.ORDER,
                encode(update),
                account_id=account_id,
                shard=shard,
                sequence=sequence,
                timestamp_ns=timestamp_ns,
            )

    def _cursor(self, shard: int, event: Any) -> str:
        positions = list(self._positions)
        positions[shard] = int(event["sequence"]) + 1
        return resume_cursor(int(event["timestamp_ns"]) // NS_PER_MS, positions)

    def _tell_candle(self, told: ToldCandle, now_ns: int) -> None:
        spec = self._specs.get(told.symbol_id)
        if spec is not None:
            sequence = self._positions[spec.shard] - 1
            self._feed.add(
                FeedKind.CANDLE,
                candle_text(spec, told.frame, told.bucket, sequence, now_ns, closed=told.closed),
                symbol_id=told.symbol_id,
                time_frame=int(told.frame),
                sequence=sequence,
                timestamp_ns=now_ns,
            )

    def _tell_present(self, symbol_id: int, interests: int, ticker_of: Callable[[int], Any]) -> None:
        """Tell what is, to those who begin to listen for what changes."""
        now_ns = time.time_ns()
        if interests & Interest.TICKER:
            self.show_ticker(symbol_id, ticker_of(symbol_id))
        for frame, interest in CANDLE_INTERESTS.items():
            if interests & interest:
                told = self._candles.current(symbol_id, frame, now_ns)
                if told is not None:
                    self._tell_candle(told, now_ns)

    def _tell_served(self, kind: FeedKind, front: int, number: int, cursor: bytes) -> None:
        self._feed.add(kind, cursor, account_id=front, sequence=number, timestamp_ns=time.time_ns())

    def _tell_gap(self, shard: int) -> None:
        self._feed.add(FeedKind.GAP, shard=shard, sequence=self._positions[shard], timestamp_ns=time.time_ns())

    def _watches_all(self, accounts: NDArray[np.bool_]) -> bool:
        return all(self._watch.watches(account_id) for account_id in np.flatnonzero(accounts).tolist())

    def _load_wanted(self) -> None:
        wanted = set(np.flatnonzero(self._demand.accounts).tolist())
        left = [account_id for account_id in self._watch.accounts() if account_id not in wanted]
        if left:
            self._watch.forget(np.array(left, np.int64))
        self.loads.want({account_id for account_id in wanted if not self._watch.watches(account_id)})

    def _reload_orders(self) -> None:
        watched = self._watch.accounts()
        self._watch.forget(np.array(watched, np.int64))
        self.loads.begin_anew()
        for front in self._demand.fronts:
            front.orders_served = 0
        self._load_wanted()

    def _take_loaded(self) -> None:
        """Begin with accounts whose orders were read, once this side has seen the events that the rows include."""
        while self.loads.arrived:
            accounts, live = self.loads.arrived[0]
            if any(
                self._positions[shard] < settled for shard, settled in live.settled.items() if shard < len(self._rings)
            ):
                return
            self.loads.arrived.popleft()
            wanted = [account_id for account_id in accounts if self._demand.accounts[account_id]]
            self.loads.done(accounts)
            try:
                self._begin_orders(wanted, live)
            except (Lapped, WatchBroken):
                self._watch.forget(np.array(wanted, np.int64))
                self.loads.want(set(wanted))

    def _begin_orders(self, accounts: list[int], live: LiveOrders) -> None:
        if not accounts:
            return
        chosen = np.zeros(len(self._demand.accounts), bool)
        chosen[accounts] = True
        self._watch.begin(row for row in live.orders if chosen[row.account_id])
        for shard, ring in enumerate(self._rings):
            position, end = live.settled.get(shard, 0), self._positions[shard]
            while position < end:
                events = ring.slots(position, min(end - position, LOOK_BACK_COUNT))
                self._watch.fold(events, self._specs, lambda _: "", chosen)
                position += len(events)
        self._watch.watch(np.array(accounts, np.int64))


class OrderLoads:
    """Accounts whose live orders have to be read from history: who wants them, and what has arrived."""

    def __init__(self) -> None:
        self._wanted: set[int] = set()
        self._reading: set[int] = set()
        self._era = 0
        self._news = trio.Event()
        """Something is wanted since it was last looked for."""
        self.arrived: deque[tuple[list[int], LiveOrders]] = deque()

    def want(self, accounts: set[int]) -> None:
        """Have these read, unless they are being read already."""
        self._want(accounts - self._reading)

    async def next(self) -> tuple[int, list[int]]:
        """Wait for accounts to read; give them, and what ``deliver`` wants to hear about them."""
        while not self._wanted:
            self._news = trio.Event()
            await self._news.wait()
        accounts = sorted(self._wanted)[:LOAD_ACCOUNTS_MAX]
        self._wanted.difference_update(accounts)
        self._reading.update(accounts)
        return self._era, accounts

    def deliver(self, era: int, accounts: list[int], live: LiveOrders) -> None:
        """Bring what was read."""
        if era == self._era:
            self.arrived.append((accounts, live))

    def fail(self, era: int, accounts: list[int]) -> None:
        """Take note that reading failed: it is tried again."""
        if era == self._era:
            self._reading.difference_update(accounts)
            self._want(accounts)

    def done(self, accounts: list[int]) -> None:
        """Take note that what arrived was used."""
        self._reading.difference_update(accounts)

    def begin_anew(self) -> None:
        """Drop what is under way: it began before events were missed."""
        self._era += 1
        self._reading.clear()
        self.arrived.clear()

    def _want(self, accounts: Iterable[int]) -> None:
        self._wanted.update(accounts)
        if self._wanted:
            self._news.set()


def _best(levels: Levels) -> tuple[int, int]:
    return (int(levels[0, 0]), int(levels[0, 1])) if len(levels) else (0, 0)
