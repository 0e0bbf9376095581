"""Pasts to ask about: trades at moments of the test's choosing, and what plain Python makes of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import psycopg
from tests.storage.events import ALICE, BOB, Events, Market

from tradeengine.core.records import Side
from tradeengine.core.symbols import SymbolSpec
from tradeengine.storage.candles import Candle
from tradeengine.storage.imports import ImportRows, open_import
from tradeengine.storage.settle import Settler

PRICE = 5_000_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


class Made(NamedTuple):
    """A trade as a test made it."""

    time_ms: int
    price_ticks: int
    quantity_lots: int
    taker_side: Side = Side.BUY


class Past:
    """A symbol whose past a test makes: own trades by the book and settlement, others by an import."""

    def __init__(self, dsn: str, spec: SymbolSpec) -> None:
        self.spec = spec
        self.dsn = dsn
        self.market = Market(spec)
        self.settler = Settler(psycopg.connect(dsn), 1)
        self.settler.settle({0: self.market.list_symbol()})
        self.market.now_ms = 0

    def events_of(self, trades: Iterable[Made]) -> Events:
        """Let the book make trades, in ascending order of time; both orders of each in its millisecond."""
        pieces = []
        for trade in trades:
            assert trade.time_ms >= self.market.now_ms - 2
            maker = Side.SELL if trade.taker_side is Side.BUY else Side.BUY
            for account_id, side in ((ALICE, maker), (BOB, trade.taker_side)):
                self.market.now_ms = trade.time_ms
                pieces.append(self.market.place(account_id, side, trade.quantity_lots, trade.price_ticks))
        return np.concatenate(pieces)

    def trade(self, trades: Sequence[Made], batch: int = 1 << 30) -> None:
        """Make and settle trades, so many events a transaction."""
        events = self.events_of(trades)
        for start in range(0, len(events), batch):
            self.settler.settle({0: events[start : start + batch]})

    def bring(self, trades: Sequence[Made], batch: int = 50_000) -> int:
        """Import trades in the order given; returns how many were new."""
        with (
            psycopg.connect(self.dsn, autocommit=True) as connection,
            open_import(connection, self.spec.symbol_id) as importing,
        ):
            importing.stage(rows_of(trades))
            return sum(added for _, added in importing.add(batch))

    def close(self) -> None:
        """Close its connection."""
        self.settler.close()


def rows_of(trades: Sequence[Made]) -> ImportRows:
    """Make the arrays of an import."""
    return ImportRows(
        line=np.arange(1, len(trades) + 1),
        time_ms=np.array([trade.time_ms for trade in trades], np.int64),
        price_ticks=np.array([trade.price_ticks for trade in trades], np.int64),
        quantity_lots=np.array([trade.quantity_lots for trade in trades], np.int64),
        taker_buys=np.array([trade.taker_side is Side.BUY for trade in trades], np.bool_),
    )


def random_trades(seed: int, count: int, first_ms: int, last_ms: int, edges_ms: Sequence[int] = ()) -> list[Made]:
    """Draw trades in order of time; some stand at and just before the edges."""
    draw = random.Random(seed)
    moments = [draw.randrange(first_ms, last_ms) for _ in range(count)]
    moments += [edge_ms + distance for edge_ms in edges_ms for distance in (-1, 0, 0, 1)]
    sides = (Side.BUY, Side.SELL)
    return [
        Made(moment, PRICE + draw.randint(-500, 500), draw.randint(1, 99), draw.choice(sides))
        for moment in sorted(moments)
    ]


def candles_of(trades: Iterable[Made], spec: SymbolSpec, length_ms: int) -> list[Candle]:
    """Make candles one trade at a time. trades: in their order."""
    candles: dict[int, list[int]] = {}
    for time_ms, price, lots, _ in trades:
        notional = spec.notional_units(price, lots)
        begins_ms = time_ms - time_ms % length_ms
        candle = candles.setdefault(begins_ms, [price, price, price, price, 0, 0, 0])
        candle[1:4] = max(candle[1], price), min(candle[2], price), price
        candle[4:7] = candle[4] + lots, candle[5] + notional, candle[6] + 1
    return [Candle(begins_ms, *candles[begins_ms]) for begins_ms in sorted(candles)]
