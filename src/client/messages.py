"""What comes over a stream, as structs: one for each ``type``.

Rule 1: as in ``models``: decimals are ``Decimal``, times ``datetime``, unknown fields are ignored.
It refuses to know what a message does to anyone's state.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias

from msgspec import Raw, Struct

from tradeengine.client.models import Balance, Level, Order, Trade


class Change(NamedTuple):
    """A level's new quantity; zero: the level is gone."""

    side: str
    price: Decimal
    quantity: Decimal


class Message(Struct, frozen=True, tag_field="type"):
    """Anything that comes over a stream."""


class TradeExecuted(Message, frozen=True, kw_only=True, tag="trade_executed"):
    """A trade, for everyone."""

    trade_id: str
    symbol: str
    price: Decimal
    quantity: Decimal
    taker_side: str
    buyer_fee: Decimal | None = None
    seller_fee: Decimal | None = None
    sequence: int
    timestamp: datetime


class TradesGap(Message, frozen=True, kw_only=True, tag="trades_gap"):
    """Trades of a symbol up to about ``sequence`` may be missing: ``Client.trades`` has them."""

    symbol: str
    sequence: int
    timestamp: datetime


class OrderbookSnapshot(Message, frozen=True, kw_only=True, tag="orderbook_snapshot"):
    """The book as it is, best first; what was known of it before is void."""

    symbol: str
    bids: list[Level]
    asks: list[Level]
    sequence: int
    timestamp: datetime


class OrderbookUpdate(Message, frozen=True, kw_only=True, tag="orderbook_update"):
    """What has changed since the message that ended with ``previous_sequence``."""

    symbol: str
    best_bid: Decimal | None
    best_ask: Decimal | None
    bid_quantity: Decimal | None
    ask_quantity: Decimal | None
    spread: Decimal | None
    changes: list[Change]
    previous_sequence: int
    sequence: int
    timestamp: datetime


class TickerChanged(Message, frozen=True, kw_only=True, tag="ticker"):
    """A symbol in one line: the touch, the last trade, and the last 24 hours. None: there is none."""

    symbol: str
    last: Decimal | None
    last_quantity: Decimal | None = None
    best_bid: Decimal | None
    best_bid_quantity: Decimal | None = None
    best_ask: Decimal | None
    best_ask_quantity: Decimal | None = None
    open: Decimal | None
    high: Decimal | None
    low: Decimal | None
    volume: Decimal
    quote_volume: Decimal
    change: Decimal | None
    trades: int | None = None
    sequence: int
    timestamp: datetime


class CandleChanged(Message, frozen=True, kw_only=True, tag="candle"):
    """A candle so far; ``closed`` when its time is over."""

    symbol: str
    time_frame: str
    time: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    quote_volume: Decimal
    trades: int
    closed: bool
    sequence: int
    timestamp: datetime


class TradingStatus(Message, frozen=True, kw_only=True, tag="trading_status"):
    """Whether a symbol trades: open, cancel_only, halted."""

    symbol: str
    status: str
    reason: str | None
    sequence: int
    timestamp: datetime


class OrderUpdate(Message, frozen=True, kw_only=True, tag="order_update"):
    """Something happened to an own order. The trade's fields are None unless ``event`` is ``traded``."""

    event: str
    order_id: str
    client_order_id: str | None
    symbol: str
    side: str | None = None
    order_type: str | None = None
    status: str
    price: Decimal | None = None
    stop_price: Decimal | None = None
    quantity: Decimal | None = None
    filled_quantity: Decimal
    remaining_quantity: Decimal
    trade_id: str | None
    last_price: Decimal | None
    last_quantity: Decimal | None
    fee: Decimal | None
    liquidity: str | None
    reason: str | None
    sequence: int
    cursor: str
    timestamp: datetime


class OrderSnapshot(Message, frozen=True, kw_only=True, tag="order_snapshot"):
    """After resuming: an order that changed meanwhile, as it is now, and the own fills that were missed."""

    order: Order
    trades: list[Trade]
    cursor: str


class Resumed(Message, frozen=True, kw_only=True, tag="resumed"):
    """Everything missed has been said, of so many orders; updates go on from here."""

    cursor: str
    orders: int


class Resync(Message, frozen=True, kw_only=True, tag="resync"):
    """Forget what you knew of own orders: these are the open ones, and the balances."""

    reason: str
    orders: list[Order]
    balances: list[Balance]
    cursor: str
    timestamp: datetime


class BalancesChanged(Message, frozen=True, kw_only=True, tag="balances"):
    """Own balances: all of them in a snapshot, later those that changed."""

    snapshot: bool
    balances: list[Balance]
    timestamp: datetime


class ServerShutdown(Message, frozen=True, kw_only=True, tag="server_shutdown"):
    """The engine's front is about to stop; the stream connects again by itself."""

    in_seconds: float


class Reconnected(Message, frozen=True, kw_only=True, tag="reconnected"):
    """Made by the client: the connection was lost and there is another one.

    Subscriptions are as before. Books begin anew with a snapshot and own orders are resumed without a gap; trades,
    tickers, candles and states may have been missed. code and reason: how the one before ended; attempts: how often
    connecting was tried.
    """

    code: int | None
    reason: str
    attempts: int


class Ack(Message, frozen=True, kw_only=True, tag="ack"):
    """The answer to an operation; its data is read by who asked."""

    id: int | str | None = None
    data: Raw = Raw(b"null")


class Failed(Message, frozen=True, kw_only=True, tag="error"):
    """The refusal of an operation; without an id, of something that the engine could not even read."""

    id: int | str | None = None
    code: str
    message: str
    details: dict[str, Any] = {}


class UnknownMessage(Message, frozen=True, kw_only=True, tag="unknown"):
    """A message of a type that this client does not know: ``content`` is all of it."""

    content: dict[str, Any]


Known: TypeAlias = (
    TradeExecuted
    | TradesGap
    | OrderbookSnapshot
    | OrderbookUpdate
    | TickerChanged
    | CandleChanged
    | TradingStatus
    | OrderUpdate
    | OrderSnapshot
    | Resumed
    | Resync
    | BalancesChanged
    | ServerShutdown
    | Ack
    | Failed
)
