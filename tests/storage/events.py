"""Event streams for settlement tests: the real order book, fed with holds such as risk would take."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradeengine.core import book
from tradeengine.core.ids import make_order_id
from tradeengine.core.money import fee_units
from tradeengine.core.records import (
    SYMBOL_ID_ALL,
    CommandFlag,
    CommandKind,
    EventFlag,
    EventKind,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
    TradingState,
    command_dtype,
    event_dtype,
    funding_event_dtype,
    symbol_command_dtype,
)
from tradeengine.core.symbols import SymbolSpec
from tradeengine.core.trading import state_command
from tradeengine.storage.settle import RISK_SHARD

Events = NDArray[np.void]

START_MS = 1_790_000_000_000
ALICE, BOB, CAROL = 16, 17, 18


class Market:
    """One shard with its book. Each method carries out a command a millisecond later and returns its events."""

    def __init__(self, spec: SymbolSpec, *, shard: int = 0) -> None:
        self.spec = spec
        self.shard = shard
        self.now_ms = START_MS
        self._counter = 0
        limits = book.BookLimits(orders_max=1 << 16, symbols_max=16, levels_max=4096, accounts_max=4096, shard=shard)
        self._book = book.make_book(limits)

    def list_symbol(self) -> Events:
        """List the symbol."""
        command = self.spec.to_command(CommandKind.LIST_SYMBOL)
        return self.apply(command.view(command_dtype))

    def place(self, account_id: int, side: Side, lots: int, price: int = 0, **fields: Any) -> Events:
        """Place an order: a limit order when there is a price, else a market order, unless ``order_type`` says else."""
        command = self.command(CommandKind.PLACE, account_id)
        order_type = OrderType.LIMIT if price else OrderType.MARKET
        in_force = TimeInForce.GTC if price else TimeInForce.IOC
        fields = {"order_type": order_type, "time_in_force": in_force} | fields
        command["order_id"] = self.next_order_id()
        command["side"] = side
        command["quantity_lots"] = lots
        command["price_ticks"] = price
        command["self_trade_prevention"] = SelfTradePrevention.CANCEL_TAKER
        for name, value in fields.items():
            command[name] = value
        if "hold_units" not in fields:
            command["hold_units"] = self._hold(command[0])
        return self.apply(command)

    def place_by_quote(self, account_id: int, budget_units: int) -> Events:
        """Place a market buy for so much of the quote asset."""
        return self.place(account_id, Side.BUY, 0, flags=CommandFlag.BY_QUOTE, hold_units=budget_units)

    def cancel(self, account_id: int, order_id: int) -> Events:
        """Cancel an order."""
        command = self.command(CommandKind.CANCEL, account_id)
        command["order_id"] = order_id
        return self.apply(command)

    def amend(self, account_id: int, order_id: int, hold_units: int = 0, **fields: int) -> Events:
        """Amend an order; hold_units: what is held in addition."""
        command = self.command(CommandKind.AMEND, account_id)
        command["order_id"] = order_id
        command["hold_units"] = hold_units
        for name, value in fields.items():
            command[name] = value
        return self.apply(command)

    def set_state(self, state: TradingState, reason: str = "", *, everywhere: bool = False) -> Events:
        """Set the trading state, with a reason or as old journals have it."""
        command = self.command(CommandKind.SET_TRADING_STATE, 0)
        command["trading_state"] = state
        if reason:
            symbol_id = SYMBOL_ID_ALL if everywhere else self.spec.symbol_id
            command = state_command(symbol_id, state, reason).view(command_dtype)
        return self.apply(command)

    def set_parameters(self, spec: SymbolSpec) -> Events:
        """Set the symbol's parameters."""
        command = spec.to_command(CommandKind.SET_PARAMETERS)
        assert command.dtype == symbol_command_dtype
        return self.apply(command.view(command_dtype))

    def command(self, kind: CommandKind, account_id: int, count: int = 1) -> Events:
        """Make commands with a head."""
        commands = np.zeros(count, command_dtype)
        commands["kind"] = kind
        commands["account_id"] = account_id
        commands["symbol_id"] = self.spec.symbol_id
        return commands

    def next_order_id(self) -> int:
        """Give the id that risk would give."""
        self._counter = (self._counter + 1) % 4096
        return make_order_id(self.now_ms, self.shard, 0, self._counter)

    def apply(self, commands: Events) -> Events:
        """Carry out commands, all at the same millisecond, and move the clock on."""
        commands["timestamp_ns"] = self.now_ms * 1_000_000
        self.now_ms += 1
        pieces = []
        index = 0
        buffer = np.zeros(4096, event_dtype)
        first = book.next_command_sequence(self._book)
        commands["ring_sequence"] = np.arange(first, first + len(commands))
        while index < len(commands):
            index, count = book.apply(self._book, commands, first, index, buffer)
            pieces.append(buffer[:count].copy())
        return np.concatenate(pieces)

    def _hold(self, command: np.void) -> int:
        if command["side"] == Side.SELL:
            return int(command["quantity_lots"]) * self.spec.lot_units
        price = int(command["price_ticks"]) or int(command["stop_price_ticks"]) or self.spec.price_ticks_max // 100
        notional = self.spec.notional_units(price, int(command["quantity_lots"]))
        return notional + fee_units(notional, max(self.spec.maker_fee_ppm, self.spec.taker_fee_ppm))


def funding_events(first_sequence: int, *outcomes: tuple[int, int, int, int, bool]) -> dict[int, Events]:
    """Make risk's answers: (number, account id, asset id, signed amount, funded)."""
    events = np.zeros(len(outcomes), funding_event_dtype)
    for position, (number, account_id, asset_id, amount_units, funded) in enumerate(outcomes):
        event = events[position]
        event["sequence"] = first_sequence + position
        event["timestamp_ns"] = START_MS * 1_000_000 + position
        event["kind"] = EventKind.FUNDED if funded else EventKind.FUNDING_REFUSED
        event["reason"] = 0 if funded else 47
        event["funding_number"], event["account_id"] = number, account_id
        event["asset_id"], event["amount_units"] = asset_id, amount_units
        event["flags"] = EventFlag.LAST_OF_COMMAND
    return {RISK_SHARD: events.view(event_dtype)}


def order_id_of(events: Events) -> int:
    """Id of the order that a placement's events are about."""
    return int(events["order_id"][0])
