"""The production book without an engine around it: commands in, events out, holds as large as an order can need."""

from __future__ import annotations

from typing import Any

import numpy as np

from tradeengine.core import book as kernel
from tradeengine.core.records import (
    CommandKind,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
    command_dtype,
    event_dtype,
)
from tradeengine.core.symbols import AssetSpec, SymbolSpec

Records = np.ndarray[Any, np.dtype[np.void]]


def symbol_spec(symbol_id: int = 0, tick: str = "0.01") -> SymbolSpec:
    """Return a symbol without collar, with lots of 1 and fees of 0.05 % and 0.1 %."""
    return SymbolSpec.from_decimals(
        symbol_id=symbol_id,
        base=AssetSpec(2 * symbol_id, f"STOCK{symbol_id}", 0),
        quote=AssetSpec(1, "USD", 4),
        tick=tick,
        lot="1",
        price_max="100000",
        quantity_min="1",
        quantity_max="1000000",
        min_notional="0",
        max_price_deviation="0",
        maker_fee="0.0005",
        taker_fee="0.001",
        shard=0,
    )


class DirectEngine:
    """A book with some symbols listed; gives order ids and holds as risk would."""

    def __init__(self, symbols: int = 1, buffer_events: int = 512) -> None:
        limits = kernel.BookLimits(orders_max=4096, symbols_max=4, levels_max=512, accounts_max=64, shard=0)
        self.book = kernel.make_book(limits)
        self.specs = [symbol_spec(symbol_id) for symbol_id in range(symbols)]
        self._buffer = np.zeros(buffer_events, event_dtype)
        self._order_id = 0
        self._ring_sequence = 0
        self._now_ns = 10**18
        commands = [spec.to_command(CommandKind.LIST_SYMBOL).view(command_dtype) for spec in self.specs]
        self.listing_events = self.run(np.concatenate(commands))

    def run(self, commands: Records) -> Records:
        """Carry out commands; returns all their events."""
        commands = np.ascontiguousarray(commands)
        placing = commands["kind"] == CommandKind.PLACE
        count = int(placing.sum())
        commands["order_id"][placing] = self._order_id + 1 + np.arange(count)
        self._order_id += count
        price = (
            np.maximum(commands["price_ticks"], commands["stop_price_ticks"]) * 2
            + (commands["price_ticks"] == 0) * 10**6
        )
        cost = price * commands["quantity_lots"] * self.specs[0].tick_lot_units
        holds = np.where(commands["side"] == Side.BUY, cost, commands["quantity_lots"])
        needs = placing | (commands["kind"] == CommandKind.AMEND)
        commands["hold_units"][needs] = holds[needs]
        commands["ring_sequence"] = self._ring_sequence + np.arange(len(commands))
        commands["timestamp_ns"] = self._now_ns + np.arange(len(commands))
        self._ring_sequence += len(commands)
        self._now_ns += len(commands)
        first, start, events = kernel.next_command_sequence(self.book), 0, []
        while start < len(commands) or kernel.in_command(self.book):
            start, written = kernel.apply(self.book, commands, first, start, self._buffer)
            events.append(self._buffer[:written].copy())
        return np.concatenate(events)

    def levels(self, symbol_id: int, side: Side) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Levels of the book, best first."""
        return kernel.levels(self.book, symbol_id, side)


def place(
    side: Side,
    price_ticks: int,
    quantity_lots: int,
    *,
    symbol_id: int = 0,
    account_id: int = 16,
    order_type: OrderType = OrderType.LIMIT,
    time_in_force: TimeInForce = TimeInForce.GTC,
    stop_price_ticks: int = 0,
    prevention: SelfTradePrevention = SelfTradePrevention.CANCEL_TAKER,
) -> Records:
    """Make one PLACE command."""
    command = np.zeros(1, command_dtype)
    command["kind"] = CommandKind.PLACE
    command["side"] = side
    command["price_ticks"] = price_ticks
    command["quantity_lots"] = quantity_lots
    command["symbol_id"] = symbol_id
    command["account_id"] = account_id
    command["order_type"] = order_type
    command["time_in_force"] = time_in_force
    command["stop_price_ticks"] = stop_price_ticks
    command["self_trade_prevention"] = prevention
    return command


def change(kind: CommandKind, order_id: int, *, symbol_id: int = 0, account_id: int = 16, **fields: int) -> Records:
    """Make one CANCEL or AMEND command."""
    command = np.zeros(1, command_dtype)
    command["kind"] = kind
    command["order_id"] = order_id
    command["symbol_id"] = symbol_id
    command["account_id"] = account_id
    for name, value in fields.items():
        command[name] = value
    return command
