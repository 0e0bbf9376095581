"""What the HTTP calls answer, as structs.

Rule 1: decimals are ``decimal.Decimal``, times are aware ``datetime``; nothing is a float.
Rule 2: unknown fields are ignored and enumerations are plain text, so that an old client survives a new engine.
It refuses to know how answers travel.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, NamedTuple, TypeVar

from msgspec import Struct, field

T = TypeVar("T")


class Level(NamedTuple):
    """A price, and how much is wanted or offered at it."""

    price: Decimal
    quantity: Decimal


class Order(Struct, frozen=True, kw_only=True):
    """An order, open or closed. status: pending, open, partially_filled, filled, cancelled, rejected."""

    id: str
    client_order_id: str | None
    symbol: str
    side: str
    type: str
    time_in_force: str
    post_only: bool
    self_trade_prevention: str | None = None
    quantity: Decimal | None
    price: Decimal | None
    stop_price: Decimal | None
    filled_quantity: Decimal
    remaining_quantity: Decimal
    average_price: Decimal | None
    fee_paid: Decimal
    status: str
    status_reason: str | None
    sequence: int
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None
    triggered_at: datetime | None = None
    closed_at: datetime | None = None


class Trade(Struct, frozen=True, kw_only=True):
    """A trade. Order ids are for those who may see them; ``order_id`` to ``settlement_status`` are of own trades.

    An imported trade was made elsewhere: it has no fees and no sequence.
    """

    id: str
    symbol: str
    price: Decimal
    quantity: Decimal
    taker_side: str
    buyer_fee: Decimal | None = None
    seller_fee: Decimal | None = None
    sequence: int | None = None
    timestamp: datetime
    buy_order_id: str | None = None
    sell_order_id: str | None = None
    order_id: str | None = None
    side: str | None = None
    fee: Decimal | None = None
    liquidity: str | None = None
    settlement_status: str | None = None
    imported: bool = False


class OrderAndTrades(Struct, frozen=True):
    """An order, and the trades that the command made with it. trades_total counts those, too, that are not listed."""

    order: Order
    trades: list[Trade]
    trades_total: int = 0


class OrderOnly(Struct, frozen=True):
    """One order."""

    order: Order


class CheckedOrder(Struct, frozen=True, kw_only=True):
    """An order that would be sent to the book as it is. None: it has no price to reckon with."""

    valid: bool
    notional: Decimal | None
    fee_max: Decimal | None


class CancelledOrders(Struct, frozen=True, kw_only=True):
    """What a mass cancel ended: how many of how many open orders, and their ids."""

    cancelled: int
    total: int
    orders: list[str]


class Balance(Struct, frozen=True, kw_only=True):
    """One asset of an account. available = total - held."""

    asset: str
    total: Decimal
    available: Decimal
    held: Decimal


class Symbol(Struct, frozen=True, kw_only=True):
    """What may be traded, and its bounds. Fees and the collar are fractions: 0.001 is 0.1 %."""

    symbol: str
    base_asset: str
    quote_asset: str
    base_places: int
    quote_places: int
    tick: Decimal
    lot: Decimal
    price_max: Decimal
    quantity_min: Decimal
    quantity_max: Decimal
    min_notional: Decimal
    max_price_deviation: Decimal | None
    maker_fee: Decimal
    taker_fee: Decimal
    status: str


class ServerTime(Struct, frozen=True, kw_only=True):
    """The engine's clock."""

    time: datetime
    unix_ms: int


class OrderBook(Struct, frozen=True, kw_only=True):
    """Levels of a book, best first, and the sequence at which it stood so."""

    symbol: str
    sequence: int
    bids: list[Level]
    asks: list[Level]
    timestamp: datetime


class DepthSnapshot(Struct, frozen=True, kw_only=True):
    """Levels as they were stored at ``time``, best first."""

    symbol: str
    time: datetime
    sequence: int
    bids: list[Level]
    asks: list[Level]


class Ticker(Struct, frozen=True, kw_only=True):
    """The touch and the last 24 hours. None: there is none."""

    symbol: str
    best_bid: Decimal | None
    best_bid_quantity: Decimal | None
    best_ask: Decimal | None
    best_ask_quantity: Decimal | None
    last: Decimal | None
    last_quantity: Decimal | None
    open: Decimal | None
    high: Decimal | None
    low: Decimal | None
    volume: Decimal
    quote_volume: Decimal
    change: Decimal | None
    trades: int
    sequence: int
    timestamp: datetime


class Candle(Struct, frozen=True, kw_only=True):
    """The trades of one stretch of time, which begins at ``time``."""

    time: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    quote_volume: Decimal
    trades: int


class DayStatistics(Struct, frozen=True, kw_only=True):
    """The trades of the 24 hours up to ``to``. change_percent: of ``open``. None: there was no trade."""

    symbol: str
    since: datetime = field(name="from")
    to: datetime
    open: Decimal | None
    high: Decimal | None
    low: Decimal | None
    last: Decimal | None
    volume: Decimal
    quote_volume: Decimal
    trades: int
    change: Decimal | None
    change_percent: Decimal | None
    weighted_average_price: Decimal | None


class Health(Struct, frozen=True):
    """The process answers."""

    status: str
    version: str
    uptime_seconds: float


class Readiness(Struct, frozen=True):
    """Whether orders are accepted (ready, degraded, unready), and what is wrong if anything is."""

    status: str
    degraded: list[str]


class Meta(Struct, frozen=True, kw_only=True):
    """What accompanies an answer. next_cursor: of lists, where the next page begins; None at the end."""

    request_id: str
    next_cursor: str | None = None


class Answer(Struct, Generic[T], frozen=True, kw_only=True):
    """The envelope around what was asked for."""

    data: T
    meta: Meta


class Refusal(Struct, frozen=True, kw_only=True):
    """Why a call failed."""

    code: str
    message: str
    details: dict[str, Any] = {}


class RefusedAnswer(Struct, frozen=True, kw_only=True):
    """The envelope around a refusal."""

    error: Refusal
    meta: Meta | None = None
