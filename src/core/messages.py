"""What the streams say of the market and of orders: one struct per message, decimals and times as text.

Rule 1: these are the messages that the publisher makes, and the snapshot to which its changes of a book are chained.
What a connection is told about itself (acknowledgements, errors, resuming) is the front's own.
Rule 2: the words are the API's: enumerations in lower case, reasons in upper case, ids as strings of digits.
It refuses to know who gets a message and how it travels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from msgspec import Struct, json

Level: TypeAlias = tuple[str, str]
"""Price and quantity."""
Change: TypeAlias = tuple[str, str, str]
"""Side, price, and the level's new quantity; zero: the level is gone."""


class TradeExecuted(Struct, frozen=True, kw_only=True, tag_field="type", tag="trade_executed"):
    """A trade, for everyone."""

    trade_id: str
    symbol: str
    price: str
    quantity: str
    taker_side: str
    buyer_fee: str
    seller_fee: str
    sequence: int
    timestamp: str


class OrderbookSnapshot(Struct, frozen=True, kw_only=True, tag_field="type", tag="orderbook_snapshot"):
    """The book as it is, best first, at most a thousand levels a side; what was known of it before is void."""

    symbol: str
    bids: Sequence[Level]
    asks: Sequence[Level]
    sequence: int
    timestamp: str


class OrderbookUpdate(Struct, frozen=True, kw_only=True, tag_field="type", tag="orderbook_update"):
    """What has changed since the message that ended with ``previous_sequence``."""

    symbol: str
    best_bid: str | None
    best_ask: str | None
    bid_quantity: str | None
    ask_quantity: str | None
    spread: str | None
    changes: Sequence[Change]
    previous_sequence: int
    sequence: int
    timestamp: str


class Ticker(Struct, frozen=True, kw_only=True, tag_field="type", tag="ticker"):
    """A symbol in one line: the touch, the last trade, and the last 24 hours."""

    symbol: str
    last: str | None
    last_quantity: str | None
    best_bid: str | None
    best_bid_quantity: str | None
    best_ask: str | None
    best_ask_quantity: str | None
    open: str | None
    high: str | None
    low: str | None
    volume: str
    quote_volume: str
    change: str | None
    trades: int
    sequence: int
    timestamp: str


class Candle(Struct, frozen=True, kw_only=True, tag_field="type", tag="candle"):
    """A candle so far; ``closed`` when its time is over."""

    symbol: str
    time_frame: str
    time: str
    open: str
    high: str
    low: str
    close: str
    volume: str
    quote_volume: str
    trades: int
    closed: bool
    sequence: int
    timestamp: str


class TradingStatus(Struct, frozen=True, kw_only=True, tag_field="type", tag="trading_status"):
    """Whether a symbol trades: open, cancel_only, halted."""

    symbol: str
    status: str
    reason: str | None
    sequence: int
    timestamp: str


OrderEvent: TypeAlias = Literal["accepted", "triggered", "traded", "amended", "cancelled", "rejected"]


class OrderUpdate(Struct, frozen=True, kw_only=True, tag_field="type", tag="order_update"):
    """Something happened to an order, for its owner. The trade's fields are null unless ``event`` is traded."""

    event: OrderEvent
    order_id: str
    client_order_id: str | None
    symbol: str
    side: str
    order_type: str
    status: str
    price: str | None
    stop_price: str | None
    quantity: str | None
    filled_quantity: str
    remaining_quantity: str
    trade_id: str | None
    last_price: str | None
    last_quantity: str | None
    fee: str | None
    liquidity: str | None
    reason: str | None
    sequence: int
    cursor: str
    timestamp: str


encode: Final = json.Encoder().encode
"""JSON text of a message."""


def resume_cursor(timestamp_ms: int, positions: Sequence[int]) -> str:
    """Name a place in the events of all shards: the next event of each, and about when that was."""
    return ".".join(f"{number:x}" for number in (timestamp_ms, *positions))


def parse_resume_cursor(text: str) -> tuple[int, tuple[int, ...]]:
    """Give time (ms since 1970) and the next event of each shard. Raises ValueError."""
    if len(text) > 2000 or not text.isascii():
        raise ValueError("no cursor")
    timestamp_ms, *positions = (int(part, 16) for part in text.split("."))
    if not positions or not all(0 <= number < 2**63 for number in (timestamp_ms, *positions)):
        raise ValueError("no cursor")
    return timestamp_ms, tuple(positions)
