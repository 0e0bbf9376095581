"""One market to play in: orders with round numbers, and events as short tuples."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from tests.core.book_pair import contiguous, run
from tests.model.random_commands import Records

from tradeengine.core import book as kernel
from tradeengine.core.book_state import BookLimits
from tradeengine.core.records import (
    CommandFlag,
    CommandKind,
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
        self.list_symbol(0)

    def list_symbol(self, symbol_id: int, kind: CommandKind = CommandKind.LIST_SYMBOL, **changes: int) -> Records:
        """List a symbol, or set its parameters."""
        return self.send(kind, symbol_command_dtype, symbol_id=symbol_id, **self.parameters | changes)

    def send(self, kind: int, dtype: np.dtype[np.void] = command_dtype, **fields: Any) -> Records:
        """Send one command; return its events."""
        command = np.zeros(1, dtype)
        command["kind"], command["timestamp_ns"] = kind, self.now_ns
        for name, value in fields.items():
            command[name] = value
        return run(self.book, contiguous(command))

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

    def cancel(self, order_id: int, account: int = ALICE) -> Records:
        """Cancel an order."""
        return self.send(CommandKind.CANCEL, order_id=order_id, account_id=account)

    def amend(self, order_id: int, account: int = ALICE, **fields: Any) -> Records:
        """Amend an order, with money enough unless ``hold_units`` says otherwise."""
        fields = {"hold_units": PLENTY} | fields
        return self.send(CommandKind.AMEND, order_id=order_id, account_id=account, **fields)

    def expire(self) -> Records:
        """End what is over."""
        return self.send(CommandKind.EXPIRE, symbol_id=-1)

    def set_state(self, state: TradingState, symbol_id: int = 0) -> Records:
        """Halt, let cancel only, or open."""
        return self.send(CommandKind.SET_TRADING_STATE, symbol_id=symbol_id, trading_state=state)

    def levels(self, side: Side) -> list[list[int]]:
        """Price and lots of each level, best first."""
        return kernel.levels(self.book, 0, side).tolist()  # type: ignore[no-any-return]

    def stops(self) -> list[list[int]]:
        """Side, stop price and lots of waiting stops, in the order in which they fire."""
        return kernel.stops(self.book, 0).tolist()  # type: ignore[no-any-return]


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
