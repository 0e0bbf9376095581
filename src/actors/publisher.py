"""The publisher: turns events into what anyone may look at, and into messages for whoever listens.

What anyone may look at is one row per symbol: the depth of its book, and its ticker. Messages: ``publishing.streams``.

It follows every shard's event ring and never holds one back: when it is lapped, or starts anew, it fetches the books
from the matchers and the last 24 hours from PostgreSQL (``publishing.follower`` says how the two meet without a gap).
Rows are rewritten when they changed: at once when nothing else is to be done, under load every few milliseconds.

Rule 1: a row shows the book at the end of a command, so it is never crossed. Rule 2: one shard's trouble is its own:
a matcher that does not answer, or a database that cannot be read, stops neither the other shards nor the other table.
It refuses to know who looks.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog
import trio

from tradeengine.actors.publishing.demand import Demand
from tradeengine.actors.publishing.feed_writer import FeedWriter
from tradeengine.actors.publishing.follower import Follower
from tradeengine.actors.publishing.streams import Streams
from tradeengine.actors.publishing.ticker import MINUTE_NS, WINDOW_MINUTES, Tickers
from tradeengine.actors.publishing.trading_states import TradingStates
from tradeengine.core.records import Side
from tradeengine.core.tables import DEPTH_LEVELS_MAX
from tradeengine.ipc.crashpoints import crash_point
from tradeengine.ipc.directory import read_directory
from tradeengine.ipc.fences import Fences
from tradeengine.ipc.seqlock import SeqlockBusy
from tradeengine.storage.history import StoredMinutes, read_minutes
from tradeengine.storage.private import LiveOrders, read_live_orders

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tradeengine.core.symbols import SymbolSpec
    from tradeengine.ipc.wiring import Wiring

    Levels = NDArray[np.int64]

RETRY_S: Final = 1.0
PAST_LOOK_S: Final = 0.01
"""How often the publisher looks whether a shard's books are complete, so that its tickers may get their past."""
PAST_TIMEOUT_S: Final = 5.0
"""With a database that gives no answer for so long the publisher is ready without the tickers' past."""
ANSWER_TIMEOUT_S: Final = 0.001
"""How long the publisher sleeps while a matcher has not answered a request yet."""
PAUSE_LAG_MAX: Final = 2048
"""With more events to read than this the publisher makes no pause."""
NS_PER_MS: Final = 10**6

logger = structlog.get_logger()


async def main(wiring: Wiring) -> None:
    """Publish until the supervisor asks for an end."""
    publisher = Publisher(wiring)
    told_ready = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publisher.load_histories)
        nursery.start_soon(publisher.load_orders)
        while not wiring.stopping():
            wiring.metrics.heartbeat()
            if not told_ready and publisher.ready():
                wiring.ready(publisher.recovered())
                told_ready = True
            # The bell asks three times: at once, with the bell armed so that no ring is missed, and after the sleep.
            await wiring.doorbell.wait_trio(publisher.timeout_s(), lambda: wiring.stopping() or publisher.duty() > 0)
            # A fold costs much the same for one event and for a hundred: let some gather, unless there are many.
            await trio.sleep(publisher.pause_s())
        nursery.cancel_scope.cancel()


class Publisher:
    """One follower per shard, and the tables that they are shown in."""

    def __init__(self, wiring: Wiring) -> None:
        settings = wiring.settings
        self._wiring = wiring
        self._fences = Fences(wiring.table("actors"))
        self._tickers = Tickers(settings.limits.symbols_max)
        self._specs: dict[int, SymbolSpec] = {}
        self._trading_states = TradingStates(wiring.table("trading_states"))
        self._followers = [self._follower(shard) for shard in range(wiring.shard_count)]
        self._feed = wiring.ring_writer("feed")
        self._streams = Streams(
            FeedWriter(self._feed),
            Demand(
                [wiring.table(f"demand.{front}") for front in range(settings.engine.fronts)],
                settings.limits.accounts_max,
                settings.limits.symbols_max,
            ),
            self._tickers,
            [wiring.ring(f"events.{shard}") for shard in range(wiring.shard_count)],
            [follower.position for follower in self._followers],
            self._specs,
            settings.publisher.candle_interval_ms * NS_PER_MS,
            self._trading_states,
        )
        self._views: dict[int, tuple[Levels, Levels, int]] = {}
        """By symbol: bids, asks and sequence in the depth table."""
        self._depth_table = wiring.table("depth")
        self._ticker_table = wiring.table("tickers")
        self._touch_table = wiring.table("touch")
        self._directory_table = wiring.table("directory")
        self._directory_version = -1
        self._depth_interval_ns = settings.publisher.depth_interval_ms * NS_PER_MS
        self._ticker_interval_ns = settings.publisher.ticker_interval_ms * NS_PER_MS
        self._shown_ns = [0] * wiring.shard_count
        self._tickers_shown_ns = 0
        self._complete_s: float | None = None
        """When the books were first complete."""
        self._past_refused = False
        self._metrics = _Metrics(wiring)

    def ready(self) -> bool:
        """Whether the pages say all that they should; the past of tickers only where the database gives it in time."""
        if not self.complete or any(follower.changed for follower in self._followers):
            return False
        if not any(follower.history_wanted and follower.complete for follower in self._followers):
            return True
        if self._complete_s is None:
            self._complete_s = time.monotonic()
        return self._past_refused or time.monotonic() - self._complete_s > PAST_TIMEOUT_S

    def recovered(self) -> dict[str, int]:
        """Count the books that are known, and say from which events on they are followed."""
        followers = enumerate(self._followers)
        positions = {f"next_event.{shard}": follower.position for shard, follower in followers}
        return {"books": sum(len(follower.symbol_ids) for follower in self._followers), **positions}

    @property
    def complete(self) -> bool:
        """Whether every book of every listed symbol is known that trades."""
        return self._directory_version >= 0 and self._followers_complete

    @property
    def _followers_complete(self) -> bool:
        """Whether all that are not fenced know their books: a fenced matcher answers nobody, and trades nothing."""
        fenced = self._fences.shards()
        return all(follower.complete or shard in fenced for shard, follower in enumerate(self._followers))

    def timeout_s(self) -> float:
        """Give the longest sleep: until tickers are due, or a matcher's answer is worth another look."""
        if not self._followers_complete:
            return ANSWER_TIMEOUT_S
        until_tickers_ns = self._tickers_shown_ns + self._ticker_interval_ns - time.time_ns()
        return max(min(until_tickers_ns / 10**9, self._wiring.settings.wait.timeout_ms / 1000), 0.001)

    def pause_s(self) -> float:
        """Give how long to let events gather: as long as a row stays as it is, or not at all when far behind."""
        behind = any(follower.lag > PAUSE_LAG_MAX for follower in self._followers) or not self._followers_complete
        return 0.0 if behind else self._depth_interval_ns / 10**9

    def duty(self) -> int:
        """Follow every shard a step and show what is due; returns how many events or answers came in."""
        now_ns = time.time_ns()
        self._read_directory()
        done = 0
        for shard, follower in enumerate(self._followers):
            events_before, lapped_before = follower.event_count, follower.lapped_count
            step = follower.duty()
            crash_point("publisher.after_follow")
            done += step
            self._metrics.count(follower.event_count - events_before, follower.lapped_count - lapped_before)
            if follower.lapped_count != lapped_before:
                self._streams.missed(shard, follower.position)
            due = not step or now_ns - self._shown_ns[shard] >= self._depth_interval_ns
            if follower.changed and follower.whole and due:
                self._show(follower, now_ns)
                self._shown_ns[shard] = now_ns
        self._metrics.behind(sum(follower.lag for follower in self._followers))
        if now_ns - self._tickers_shown_ns >= self._ticker_interval_ns:
            self._show_all_tickers(now_ns)
        self._streams.show_candles(self._knows_past, now_ns)
        self._streams.read_demand(self._ticker_table.read)
        head = self._feed.head
        crash_point("publisher.before_publish")
        self._metrics.told(self._streams.flush(), self._feed.head - head)
        crash_point("publisher.after_publish")
        return done

    async def load_orders(self) -> None:
        """Read the live orders of accounts for which somebody began to listen, for as long as the publisher runs."""
        while True:
            era, accounts = await self._streams.loads.next()
            try:
                live = await trio.to_thread.run_sync(self._read_orders, accounts, abandon_on_cancel=True)
            except psycopg.Error as error:
                logger.warning("orders of a listener cannot be read", error=str(error))
                self._streams.loads.fail(era, accounts)
                await trio.sleep(RETRY_S)
            else:
                self._streams.loads.deliver(era, accounts, live)

    async def load_histories(self) -> None:
        """Give every follower that lacks it its past, for as long as the publisher runs."""
        warned = False
        while True:
            try:
                for shard, follower in enumerate(self._followers):
                    if follower.history_wanted and follower.complete:
                        stored = await trio.to_thread.run_sync(self._read_minutes, shard, abandon_on_cancel=True)
                        follower.take_history(stored.next_sequence, stored.minutes, stored.last_trades)
                warned = False
            except psycopg.Error as error:
                if not warned:
                    logger.warning("tickers lack their past: the database cannot be read", error=str(error))
                warned = self._past_refused = True
            wanted = not warned and any(follower.history_wanted for follower in self._followers)
            await trio.sleep(PAST_LOOK_S if wanted else RETRY_S)

    def _read_minutes(self, shard: int) -> StoredMinutes:
        """Read a shard's past; runs in a thread."""
        with self._connect() as connection:
            return read_minutes(connection, shard, time.time_ns() // MINUTE_NS - WINDOW_MINUTES)

    def _read_orders(self, accounts: list[int]) -> LiveOrders:
        """Read accounts' live orders; runs in a thread."""
        with self._connect() as connection:
            return read_live_orders(connection, accounts)

    def _connect(self) -> psycopg.Connection[Any]:
        database = self._wiring.settings.database
        return psycopg.connect(
            database.dsn,
            connect_timeout=database.connect_timeout_s,
            autocommit=True,
            application_name="tradeengine-publisher",
        )

    def _knows_past(self, symbol_id: int) -> bool:
        spec = self._specs.get(symbol_id)
        return spec is not None and not self._followers[spec.shard].history_wanted

    def _follower(self, shard: int) -> Follower:
        wiring = self._wiring
        return Follower(
            wiring.ring_reader(f"events.{shard}"),
            wiring.table(f"level_requests.{shard}"),
            wiring.table(f"levels.{shard}"),
            self._tickers,
            wiring.settings.limits.symbols_max,
            lambda: wiring.wake(f"matcher-{shard}"),
            lambda events: self._streams.take(shard, events),
        )

    def _read_directory(self) -> None:
        version = self._directory_table.version(0)
        if version == self._directory_version:
            return
        try:
            page = read_directory(self._directory_table)
        except SeqlockBusy:
            return
        if page.version == 0:
            return
        self._directory_version = version
        self._specs.update(page.symbols)
        self._trading_states.learn(page.trading_states)
        for shard, follower in enumerate(self._followers):
            follower.add_symbols(symbol.symbol_id for symbol in page.symbols.values() if symbol.shard == shard)

    def _show(self, follower: Follower, now_ns: int) -> None:
        shown = follower.changed.intersection(follower.symbol_ids)
        follower.changed -= shown
        for symbol_id in shown:
            timestamp_ns = int(follower.timestamps_ns[symbol_id]) or now_ns
            depth = follower.depth(symbol_id)
            bids, asks = depth.side(Side.BUY, DEPTH_LEVELS_MAX), depth.side(Side.SELL, DEPTH_LEVELS_MAX)
            before = self._views.get(symbol_id) or self._read_view(symbol_id)
            # A symbol that is not listed yet has no event: its book is empty from the beginning.
            after = self._views[symbol_id] = (bids, asks, max(int(follower.sequences[symbol_id]), 0))
            with self._depth_table.writing(symbol_id) as row:
                row["sequence"] = after[2]
                row["timestamp_ns"] = timestamp_ns
                row["bid_count"], row["ask_count"] = len(bids), len(asks)
                row["bids"][: len(bids)] = bids
                row["asks"][: len(asks)] = asks
            if symbol_id in self._specs:
                # The page first: a front that finds the chain broken reads it.
                self._streams.show_book(symbol_id, before, after, timestamp_ns)
            self._show_ticker(follower, symbol_id, now_ns)
            self._metrics.shown(now_ns - timestamp_ns)

    def _read_view(self, symbol_id: int) -> tuple[Levels, Levels, int] | None:
        """Read what a publisher before this one has shown; None when it died in the middle of it."""
        if self._depth_table.version(symbol_id) & 1:
            return None
        row = self._depth_table.read(symbol_id)
        return row["bids"][: row["bid_count"]], row["asks"][: row["ask_count"]], int(row["sequence"])

    def _show_all_tickers(self, now_ns: int) -> None:
        for follower in self._followers:
            for symbol_id in follower.symbol_ids if follower.whole else ():
                self._streams.show_ticker(symbol_id, self._show_ticker(follower, symbol_id, now_ns))
        self._tickers_shown_ns = now_ns

    def _show_ticker(self, follower: Follower, symbol_id: int, now_ns: int) -> Any:
        row = self._tickers.row(symbol_id, now_ns)
        row["sequence"] = follower.sequences[symbol_id]
        depth = follower.depth(symbol_id)
        row["best_bid_ticks"], row["best_bid_lots"] = depth.best(Side.BUY)
        row["best_ask_ticks"], row["best_ask_lots"] = depth.best(Side.SELL)
        if not row["last_price_ticks"]:
            # The last trade is older than the window: the matcher remembers it.
            row["last_price_ticks"] = self._last_price_ticks(symbol_id)
        self._ticker_table.write(symbol_id, row)
        self._metrics.ticker_shown()
        return row

    def _last_price_ticks(self, symbol_id: int) -> int:
        try:
            return int(self._touch_table.read(symbol_id)["last_price_ticks"])
        except SeqlockBusy:
            return 0


class _Metrics:
    """The publisher's page, by what happened."""

    def __init__(self, wiring: Wiring) -> None:
        self._page = page = wiring.metrics
        self._events, self._lapped = page.counter("events"), page.counter("lapped")
        self._depth_writes, self._ticker_writes = page.counter("depth_writes"), page.counter("ticker_writes")
        self._messages = page.counter("messages")
        self._in, self._out = page.counter("records_in"), page.counter("records_out")
        self._lag_events = page.gauge("lag_events")
        self._batch_events = page.histogram("batch_events")
        self._publish_latency_us = page.histogram("publish_latency_us")

    def count(self, event_count: int, lapped_count: int) -> None:
        if event_count:
            self._page.add(self._events, event_count)
            self._page.add(self._in, event_count)
            self._page.record(self._batch_events, event_count)
        if lapped_count:
            self._page.add(self._lapped, lapped_count)

    def behind(self, lag_events: int) -> None:
        self._page.set(self._lag_events, lag_events)

    def shown(self, latency_ns: int) -> None:
        self._page.add(self._depth_writes)
        self._page.record(self._publish_latency_us, latency_ns // 1000)

    def ticker_shown(self) -> None:
        self._page.add(self._ticker_writes)

    def told(self, message_count: int, record_count: int) -> None:
        if message_count:
            self._page.add(self._messages, message_count)
            self._page.add(self._out, record_count)
