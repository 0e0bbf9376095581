"""One market to play in: orders with round numbers, events as short tuples, and what must hold of any events.

Rule 1: every command goes through an event buffer of three, so that every test also passes through commands that are
taken up again in the middle. Rule 2: after every command the events are checked for what they owe to any reader: at
least one, the last and only the last one flagged, sequences without a gap, and every unit of every hold accounted for.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from tests.core.book_pair import Holds, contiguous, run
from tests.model.random_commands import Records

from tradeengine.core import book as kernel
from tradeengine.core.book_state import BookLimits
from tradeengine.core.records import (
    CommandFlag,
    CommandKind,
    EventFlag,
    EventKind,
    OrderType,
    Reason,
    SelfTradePrevention,
    Side,
    TimeInForce,
    TradingState,
    command_dtype,
    symbol_command_dtype,
)

ALICE, BOB, CAROL = 16, 17, 18
BUY, SELL = Side.BUY, Side.SELL
PLENTY: Final = 10**12


class Market:
    """A book with one symbol: a tick times a lot is one unit of quote, a lot one unit of base; no fees, no collar."""

    def __init__(self, *, orders_max: int = 1_000, levels_max: int = 100, **parameters: int) -> None:
        """Parameters are fields of ``symbol_command_dtype``."""
        self.limits = BookLimits(orders_max=orders_max, symbols_max=2, levels_max=levels_max, accounts_max=64, shard=0)
        self.book = kernel.make_book(self.limits)
        self.now_ns = 1_800_000_000_000_000_000
        self.order_id = 0
        self.holds = Holds()
        self.parameters = {
            "tick_lot_units": 1,
            "lot_units": 1,
            "quantity_lots_min": 1,
            "quantity_lots_max": 10**6,
            "price_ticks_max": 10**6,
            "base_asset_id": 0,
            "quote_asset_id": 1,
            "trading_state": TradingState.OPEN,
        } | parameters
        self._event_sequence = 0
        self._command_sequence = 0
        self.list_symbol(0)

    def list_symbol(self, symbol_id: int, **changes: int) -> Records:
        """List a symbol."""
        values = self.parameters | changes
        return self.send(CommandKind.LIST_SYMBOL, symbol_command_dtype, symbol_id=symbol_id, **values)

    def set_parameters(self, symbol_id: int = 0, **changes: int) -> Records:
        """Set a symbol's parameters: those it was listed with, with changes."""
        values = self.parameters | changes
        return self.send(CommandKind.SET_PARAMETERS, symbol_command_dtype, symbol_id=symbol_id, **values)

    def send(self, kind: int, dtype: np.dtype[np.void] = command_dtype, **fields: Any) -> Records:
        """Send one command; return its events."""
        command = np.zeros(1, dtype)
        command["kind"], command["timestamp_ns"] = kind, self.now_ns
        for name, value in fields.items():
            command[name] = value
        command = contiguous(command)
        events = run(self.book, command, buffer_events=3)
        self._check(events)
        self.holds.fold(events, command, self.parameters["lot_units"])
        return events

    def _check(self, events: Records) -> None:
        count = len(events)
        assert count >= 1
        assert (events["flags"] & EventFlag.LAST_OF_COMMAND != 0).tolist() == [False] * (count - 1) + [True]
        assert events["sequence"].tolist() == list(range(self._event_sequence, self._event_sequence + count))
        assert set(events["command_sequence"].tolist()) == {self._command_sequence}
        assert set(events["timestamp_ns"].tolist()) == {self.now_ns}
        self._event_sequence += count
        self._command_sequence += 1

    def place(self, side: Side, quantity: int, price: int = 0, account: int = ALICE, **fields: Any) -> Records:
        """Place an order with money enough: a limit order when it has a price, else a market order."""
        self.order_id += 1
        stop = fields.get("stop_price_ticks", 0)
        if price:
            order_type = OrderType.STOP_LIMIT if stop else OrderType.LIMIT
        else:
            order_type = OrderType.STOP if stop else OrderType.MARKET
        values = {
            "order_id": self.order_id,
            "account_id": account,
            "side": side,
            "order_type": order_type,
            "time_in_force": TimeInForce.IOC if order_type == OrderType.MARKET else TimeInForce.GTC,
            "self_trade_prevention": SelfTradePrevention.CANCEL_TAKER,
            "price_ticks": price,
            "quantity_lots": quantity,
            "hold_units": PLENTY,
        }
        return self.send(CommandKind.PLACE, **values | fields)

    def spend(self, budget: int, account: int = ALICE, **fields: Any) -> Records:
        """Buy at market for an amount."""
        return self.place(BUY, 0, account=account, flags=CommandFlag.BY_QUOTE, hold_units=budget, **fields)

    def stop(self, side: Side, quantity: int, stop_price: int, price: int = 0, **fields: Any) -> Records:
        """Place a stop, or with a price a stop-limit."""
        return self.place(side, quantity, price, stop_price_ticks=stop_price, **fields)

    def cancel(self, order_id: int, account: int = ALICE) -> Records:
        """Cancel an order."""
        return self.send(CommandKind.CANCEL, order_id=order_id, account_id=account)

    def cancel_all(self, account: int = 0, symbol_id: int = -1) -> Records:
        """Cancel all orders of an account (0: of everyone) on a symbol (-1: on each)."""
        return self.send(CommandKind.CANCEL_ALL, account_id=account, symbol_id=symbol_id)

    def amend(self, order_id: int, account: int = ALICE, **fields: Any) -> Records:
        """Amend an order, with money enough unless ``hold_units`` says otherwise."""
        fields = {"hold_units": PLENTY} | fields
        return self.send(CommandKind.AMEND, order_id=order_id, account_id=account, **fields)

    def set_timer(self, account: int, ends_ns: int, **fields: Any) -> Records:
        """Let an account's orders be cancelled at a time; 0: never."""
        values = {"symbol_id": -1, "account_id": account, "expires_at_ns": ends_ns}
        return self.send(CommandKind.CANCEL_ALL_AFTER, **values | fields)

    def expire(self) -> Records:
        """End what is over."""
        return self.send(CommandKind.EXPIRE, symbol_id=-1)

    def set_state(self, state: int, symbol_id: int = 0) -> Records:
        """Halt, let cancel only, or open."""
        return self.send(CommandKind.SET_TRADING_STATE, symbol_id=symbol_id, trading_state=state)

    def trade_at(self, price: int) -> list[tuple[Any, ...]]:
        """Let Bob sell Carol one lot at a price; return what was told after the trade itself."""
        self.place(SELL, 1, price, BOB)
        return told(self.place(BUY, 1, price, CAROL))[2:]

    def levels(self, side: Side) -> list[list[int]]:
        """Price and lots of each level, best first."""
        return kernel.levels(self.book, 0, side).tolist()  # type: ignore[no-any-return]

    def stops(self) -> list[list[int]]:
        """Side, stop price and lots of waiting stops, in the order in which they fire."""
        return kernel.stops(self.book, 0).tolist()  # type: ignore[no-any-return]


def market_with_asks(*asks: tuple[int, int], **parameters: int) -> Market:
    """Make a market in which Bob sells (price, lots); his orders are counted from 1 on."""
    market = Market(**parameters)
    for price, lots in asks:
        market.place(SELL, lots, price, BOB)
    return market


def market_at(price: int, **parameters: int) -> Market:
    """Make a market whose last trade was at a price; orders 1 and 2 made it."""
    market = Market(**parameters)
    market.trade_at(price)
    return market


def told(events: Records) -> list[tuple[Any, ...]]:
    """Tell events shortly: trades as (maker, taker, price, lots), others as (kind, order, reason)."""
    return [
        tuple(int(event[name]) for name in ("maker_order_id", "order_id", "price_ticks", "quantity_lots"))
        if event["kind"] == EventKind.TRADED
        else (EventKind(event["kind"]).name, int(event["order_id"]), Reason(event["reason"]).name)
        for event in events
    ]


def trades(events: Records) -> list[tuple[Any, ...]]:
    """Tell only the trades: (maker, taker, price, lots)."""
    return [event for event in told(events) if len(event) == 4]


def reason(events: Records) -> str:
    """Reason of the last event."""
    return Reason(events["reason"][-1]).name


def amounts(event: Any, *names: str) -> tuple[int, ...]:
    """Read some numbers of an event."""
    return tuple(int(event[name]) for name in names)
