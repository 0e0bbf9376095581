"""The bench's front on a real socket, with a publisher that a test plays: what is sent, and when, is the test's.

The kernel keeps little of what goes out, so that a client which does not read is behind at once.
"""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import numpy as np
import trio
from tests.web.bench import ACCOUNT_ID, BTC_USDT, Bench
from tests.web.raw_websocket import WAIT_S

from tradeengine.actors.publishing.demand import Demand
from tradeengine.actors.publishing.feed_writer import FeedWriter
from tradeengine.actors.publishing.market_messages import book_text, level_changes_between, ticker_text, trade_text
from tradeengine.core.feed import FeedKind
from tradeengine.core.messages import OrderUpdate, encode
from tradeengine.core.records import Side
from tradeengine.core.tables import depth_dtype, ticker_dtype
from tradeengine.web.serve import hypercorn_config, trusted_by
from tradeengine.web.server import Server
from tradeengine.web.streams.session import Session

SYMBOL = BTC_USDT.name
KERNEL_BYTES = 4096
"""What the kernel is asked to keep of what goes out; it takes a few times that."""


@dataclass
class StreamBench:
    """A front that serves, and its publisher. ``levels``: lots by side and price in ticks."""

    bench: Bench
    url: str = ""
    sequence: int = 0
    levels: dict[Side, dict[int, int]] = field(default_factory=lambda: {Side.BUY: {}, Side.SELL: {}})

    def __post_init__(self) -> None:
        memory = self.bench.memory
        settings = self.bench.front.settings
        bells = {place: memory.bells[name] for name, place in memory.topology.doorbells.items()}
        self.feed = FeedWriter(memory.rings["feed"].writer(bells))
        self.demand = Demand([memory.tables["demand.0"]], settings.limits.accounts_max, settings.limits.symbols_max)
        self._write_page()

    @property
    def sessions(self) -> set[Session]:
        """Who is connected."""
        return self.bench.front.hub.sessions

    def limit(self, **limits: float) -> None:
        """Set limits of streams for connections to come, by their settings' names."""
        hub = self.bench.front.hub
        hub.limits = msgspec.structs.replace(hub.limits, **limits)

    def change_book(self, *changes: tuple[Side, int, int]) -> None:
        """Set levels (side, price in ticks, lots; 0 takes the level away) and tell that."""
        before = self._sides()
        for side, price_ticks, lots in changes:
            self.levels[side].pop(price_ticks, None)
            if lots:
                self.levels[side][price_ticks] = lots
        after = self._sides()
        previous_sequence, self.sequence = self.sequence, self.sequence + 2
        self._write_page()
        told = tuple(level_changes_between(old, new) for old, new in zip(before, after, strict=True))
        best = tuple((int(side[0, 0]), int(side[0, 1])) if len(side) else (0, 0) for side in after)
        now_ns = time.time_ns()
        text = book_text(BTC_USDT, (told[0], told[1]), (best[0], best[1]), previous_sequence, self.sequence, now_ns)
        self.feed.add(
            FeedKind.BOOK, text, sequence=self.sequence, previous_sequence=previous_sequence, timestamp_ns=now_ns
        )

    def trade(self) -> None:
        """Tell a trade."""
        self.sequence += 1
        row = (self.sequence, time.time_ns(), 0, self.sequence, 100, 1, 0, 1, 1)
        self.feed.add(FeedKind.TRADE, trade_text(row, BTC_USDT), sequence=self.sequence, timestamp_ns=time.time_ns())

    def tick(self) -> None:
        """Tell a ticker, whose number of trades is the sequence."""
        row = np.zeros((), ticker_dtype)
        row["sequence"] = row["trade_count"] = self.sequence
        self.feed.add(FeedKind.TICKER, ticker_text(BTC_USDT, row), sequence=self.sequence, timestamp_ns=time.time_ns())

    def update_order(self, account_id: int = ACCOUNT_ID) -> None:
        """Tell an account about an order of its own."""
        self.sequence += 1
        update = OrderUpdate(
            event="accepted",
            order_id="1",
            client_order_id=None,
            symbol=SYMBOL,
            side="buy",
            order_type="limit",
            status="open",
            price="1.00",
            stop_price=None,
            quantity="1.0000",
            filled_quantity="0.0000",
            remaining_quantity="1.0000",
            trade_id=None,
            last_price=None,
            last_quantity=None,
            fee=None,
            liquidity=None,
            reason=None,
            sequence=self.sequence,
            cursor=f"1.{self.sequence + 1:x}",
            timestamp="2026-11-24T10:30:45.234Z",
        )
        self.feed.add(
            FeedKind.ORDER, encode(update), sequence=self.sequence, account_id=account_id, timestamp_ns=time.time_ns()
        )

    async def passed_on(self) -> None:
        """Publish what was told, and wait until the front has read it."""
        self.feed.flush()
        hub = self.bench.front.hub
        with trio.fail_after(WAIT_S):
            while hub.listens and hub.has_messages():  # noqa: ASYNC110 - the front reads without telling anyone
                await trio.sleep(0.0005)

    async def serve(self) -> None:
        """Answer the front's wishes until cancelled."""
        bell = self.bench.memory.bells["publisher"]
        while True:
            await bell.wait_trio(1.0, self.demand.read)
            for number, front in enumerate(self.demand.fronts):
                now_ns = time.time_ns()
                self.feed.add(FeedKind.CHANNELS_SERVED, sequence=front.number, account_id=number, timestamp_ns=now_ns)
                self.feed.add(
                    FeedKind.ORDERS_SERVED,
                    f"1.{self.sequence + 1:x}".encode(),
                    sequence=front.number,
                    account_id=number,
                    timestamp_ns=now_ns,
                )
            self.feed.flush()

    def _sides(self) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.int64]], ...]:
        bids, asks = sorted(self.levels[Side.BUY].items(), reverse=True), sorted(self.levels[Side.SELL].items())
        return tuple(np.array(side, np.int64).reshape(-1, 2) for side in (bids, asks))

    def _write_page(self) -> None:
        bids, asks = self._sides()
        row = np.zeros((), depth_dtype)
        row["sequence"], row["timestamp_ns"] = self.sequence, time.time_ns()
        row["bid_count"], row["ask_count"] = len(bids), len(asks)
        row["bids"][: len(bids)], row["asks"][: len(asks)] = bids, asks
        self.bench.memory.tables["depth"].write(0, row)


@asynccontextmanager
async def serving_streams(bench: Bench) -> AsyncIterator[StreamBench]:
    """Serve for as long as the block runs."""
    streams = StreamBench(bench)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
        streams.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = Server(bench.app, hypercorn_config(bench.front.settings), listener, trusted_by(bench.front.settings))
        async with bench.engine(lambda _command: []), trio.open_nursery() as nursery:
            stop = trio.Event()
            nursery.start_soon(streams.serve)
            await nursery.start(server.run, stop.wait)
            yield streams
            nursery.cancel_scope.cancel()
