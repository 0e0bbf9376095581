"""What requests and answers look like: the named schemas of ``/openapi.json``, and the only description of JSON.

Rule 1: decimals are strings both ways, ids are strings of digits, times RFC 3339 in UTC with milliseconds.
Rule 2: a request names every field that it takes; anything else is refused by name.
Rule 3: whatever is answered is one of these structs inside the envelope, so that tests can validate real answers.
It refuses to know integers of the engine (see ``views`` and ``placing``) and how answers travel (see ``envelope``).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType, defstruct, field

CLIENT_ORDER_ID_PATTERN: Final = r"^[A-Za-z0-9_.:-]{1,36}\Z"
LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 1000
DEPTH_DEFAULT: Final = 50
DEPTH_MAX: Final = 1000

# Checked where the symbol is known, so that the answer can name its tick, lot and bounds: hence no ``pattern`` here.
DecimalText: TypeAlias = Annotated[
    str,
    Meta(
        description="A plain decimal as a string: no exponent, no sign, at most 64 characters.",
        examples=["50000.00"],
        extra_json_schema={"pattern": r"^-?[0-9]+(\.[0-9]+)?$"},
    ),
]
Time: TypeAlias = Annotated[
    str,
    Meta(
        description="RFC 3339, UTC.", examples=["2026-11-24T10:30:45.234Z"], extra_json_schema={"format": "date-time"}
    ),
]
Id: TypeAlias = Annotated[
    str,
    Meta(
        description="Digits; later ids are larger.",
        examples=["95482301847207936"],
        extra_json_schema={"pattern": "^[0-9]+$"},
    ),
]
SymbolName: TypeAlias = Annotated[str, Meta(description="Base and quote asset.", examples=["BTC/USDT"])]
ClientOrderId: TypeAlias = Annotated[
    str, Meta(description="1 to 36 of A-Z a-z 0-9 _ . : -", pattern=CLIENT_ORDER_ID_PATTERN, examples=["my-order-1"])
]

SideName: TypeAlias = Literal["buy", "sell"]
TypeName: TypeAlias = Literal["limit", "market", "stop", "stop_limit"]
TimeInForceName: TypeAlias = Literal["gtc", "ioc", "fok", "gtd"]
SelfTradePreventionName: TypeAlias = Literal["cancel_taker", "cancel_maker", "cancel_both"]
StatusName: TypeAlias = Literal["pending", "open", "partially_filled", "filled", "cancelled", "rejected"]


class PlaceOrder(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """An order to place. Enumerations are read in any letter case."""

    symbol: SymbolName
    side: SideName
    type: TypeName
    quantity: DecimalText | None = None
    quote_quantity: Annotated[
        str | None, Meta(description="Market buy only, instead of quantity: what to spend, fees included.")
    ] = None
    price: Annotated[DecimalText | None, Meta(description="limit and stop_limit.")] = None
    stop_price: Annotated[DecimalText | None, Meta(description="stop and stop_limit.")] = None
    time_in_force: Annotated[TimeInForceName | None, Meta(description="Default gtc; market orders: ioc.")] = None
    expires_at: Annotated[Time | None, Meta(description="With gtd: when the order ends.")] = None
    post_only: bool = False
    client_order_id: ClientOrderId | None = None
    self_trade_prevention: SelfTradePreventionName = "cancel_taker"


class AmendOrder(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What to change of an open order; at least one field. Less quantity alone keeps its place in the queue."""

    quantity: Annotated[DecimalText | None, Meta(description="The new total, what is filled included.")] = None
    price: DecimalText | None = None
    stop_price: DecimalText | None = None


class Order(Struct, frozen=True, kw_only=True):
    """An order, open or closed."""

    id: Id
    client_order_id: str | None
    symbol: SymbolName
    side: SideName
    type: TypeName
    time_in_force: TimeInForceName
    post_only: bool
    self_trade_prevention: SelfTradePreventionName
    quantity: Annotated[DecimalText | None, Meta(description="null: a market buy by quote_quantity.")]
    price: DecimalText | None
    stop_price: DecimalText | None
    filled_quantity: DecimalText
    remaining_quantity: DecimalText
    average_price: Annotated[DecimalText | None, Meta(description="Of its fills, rounded half-even; null: none.")]
    fee_paid: Annotated[DecimalText, Meta(description="In the quote asset.")]
    status: StatusName
    status_reason: Annotated[str | None, Meta(description="Why it ended, e.g. USER, EXPIRED, COLLAR, SELF_TRADE.")]
    sequence: Annotated[int, Meta(description="Of the event that last changed it.")]
    created_at: Time
    updated_at: Time
    expires_at: Time | None
    triggered_at: Time | None
    closed_at: Time | None


class Trade(Struct, frozen=True, kw_only=True):
    """A trade as everyone sees it, and, for who may see it, whose it was."""

    id: Id
    symbol: SymbolName
    price: DecimalText
    quantity: DecimalText
    taker_side: SideName
    buyer_fee: DecimalText
    seller_fee: DecimalText
    sequence: int
    timestamp: Time
    buy_order_id: Annotated[Id | UnsetType, Meta(description="For the two parties and admins.")] = UNSET
    sell_order_id: Annotated[Id | UnsetType, Meta(description="For the two parties and admins.")] = UNSET
    order_id: Annotated[Id | UnsetType, Meta(description="Own trades: the caller's order.")] = UNSET
    side: Annotated[SideName | UnsetType, Meta(description="Own trades: the caller's side.")] = UNSET
    fee: Annotated[DecimalText | UnsetType, Meta(description="Own trades: what the caller paid.")] = UNSET
    liquidity: Annotated[Literal["maker", "taker"] | UnsetType, Meta(description="Own trades.")] = UNSET
    settlement_status: Annotated[
        Literal["pending", "settled", "failed"] | UnsetType, Meta(description="Own trades.")
    ] = UNSET


class OrderAndTrades(Struct, frozen=True):
    """An order and the trades that the command made with it."""

    order: Order
    trades: list[Trade]


class OrderOnly(Struct, frozen=True):
    """One order."""

    order: Order


class CheckedOrder(Struct, frozen=True, kw_only=True):
    """What ``/orders/test`` found: the order would be sent to the engine as it is."""

    valid: Literal[True]
    notional: Annotated[DecimalText | None, Meta(description="Price times quantity; null without a price.")]
    fee_max: Annotated[DecimalText | None, Meta(description="The most that its fee can be; null without a price.")]


class CancelledOrders(Struct, frozen=True, kw_only=True):
    """What a mass cancel ended."""

    cancelled: Annotated[int, Meta(description="Orders ended by this call.")]
    total: Annotated[int, Meta(description="Open orders that it met.")]
    orders: list[Id]


class Balance(Struct, frozen=True, kw_only=True):
    """One asset of an account."""

    asset: str
    total: DecimalText
    available: Annotated[DecimalText, Meta(description="total - held")]
    held: Annotated[DecimalText, Meta(description="By open orders and pending withdrawals.")]


class OrderBook(Struct, frozen=True, kw_only=True):
    """Price levels, best first: ``[price, quantity]``."""

    symbol: SymbolName
    sequence: int
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]
    timestamp: Time


class Ticker(Struct, frozen=True, kw_only=True):
    """The touch and the last 24 hours. null: there is none."""

    symbol: SymbolName
    best_bid: DecimalText | None
    best_bid_quantity: DecimalText | None
    best_ask: DecimalText | None
    best_ask_quantity: DecimalText | None
    last: DecimalText | None
    last_quantity: DecimalText | None
    open: DecimalText | None
    high: DecimalText | None
    low: DecimalText | None
    volume: DecimalText
    quote_volume: DecimalText
    change: Annotated[DecimalText | None, Meta(description="last - open")]
    trades: int
    sequence: int
    timestamp: Time


class Symbol(Struct, frozen=True, kw_only=True):
    """What may be traded, and its bounds."""

    symbol: SymbolName
    base_asset: str
    quote_asset: str
    base_places: int
    quote_places: int
    tick: DecimalText
    lot: DecimalText
    price_max: DecimalText
    quantity_min: DecimalText
    quantity_max: DecimalText
    min_notional: DecimalText
    max_price_deviation: Annotated[DecimalText | None, Meta(description="The collar as a fraction; null: none.")]
    maker_fee: Annotated[DecimalText, Meta(description="As a fraction: 0.001 is 0.1 %.")]
    taker_fee: DecimalText
    status: Literal["open", "cancel_only", "halted", "unlisted"]
    shard: int


class ServerTime(Struct, frozen=True, kw_only=True):
    """The clock that time stamps are made by."""

    time: Time
    unix_ms: int


class Health(Struct, frozen=True):
    """The process answers."""

    status: Literal["ok"]
    version: str
    uptime_seconds: float


class Readiness(Struct, frozen=True):
    """Whether orders are accepted, and what is wrong if anything is."""

    status: Literal["ready", "degraded", "unready"]
    degraded: Annotated[list[str], Meta(description="What does not work as it should, one sentence each.")]


class AnswerMeta(Struct, frozen=True, kw_only=True):
    """What accompanies every answer."""

    request_id: str
    timestamp: Time
    next_cursor: Annotated[
        str | UnsetType | None, Meta(description="Lists: what to pass as cursor next; null at the end.")
    ] = UNSET


class Error(Struct, frozen=True, kw_only=True):
    """What went wrong. ``code`` is stable; ``details`` names field and bound."""

    code: str
    message: str
    details: dict[str, Any]


class ErrorAnswer(Struct, frozen=True, kw_only=True):
    """The answer to a request that failed."""

    success: Literal[False]
    error: Error
    meta: AnswerMeta


def _answer(name: str, data: Any) -> type[Struct]:
    """Make the schema of a successful answer: the envelope around ``data``."""
    return defstruct(
        name,
        [("success", Literal[True]), ("data", data), ("meta", AnswerMeta)],
        module=__name__,
        namespace={"__doc__": f"The envelope around {name.removesuffix('Answer')}."},
    )


OrderAndTradesAnswer = _answer("OrderAndTradesAnswer", OrderAndTrades)
OrderAnswer = _answer("OrderAnswer", OrderOnly)
OrdersAnswer = _answer("OrdersAnswer", list[Order])
CheckedOrderAnswer = _answer("CheckedOrderAnswer", CheckedOrder)
CancelledOrdersAnswer = _answer("CancelledOrdersAnswer", CancelledOrders)
BalancesAnswer = _answer("BalancesAnswer", list[Balance])
TradesAnswer = _answer("TradesAnswer", list[Trade])
TradeAnswer = _answer("TradeAnswer", Trade)
OrderBookAnswer = _answer("OrderBookAnswer", OrderBook)
TickerAnswer = _answer("TickerAnswer", Ticker)
SymbolsAnswer = _answer("SymbolsAnswer", list[Symbol])
ServerTimeAnswer = _answer("ServerTimeAnswer", ServerTime)
HealthAnswer = _answer("HealthAnswer", Health)
ReadinessAnswer = _answer("ReadinessAnswer", Readiness)


class OrdersQuery(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Filters of ``GET /orders``."""

    symbol: SymbolName | None = None
    status: Annotated[list[StatusName] | None, Meta(description="Repeatable.")] = None
    side: SideName | None = None
    type: TypeName | None = None
    start: Annotated[Time | None, Meta(description="Inclusive.")] = None
    end: Annotated[Time | None, Meta(description="Exclusive.")] = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT
    cursor: Annotated[str | None, Meta(description="Opaque: meta.next_cursor of the answer before.")] = None


class TradesQuery(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Filters of ``GET /trades``."""

    symbol: Annotated[str | None, Meta(description="Needed unless scope is mine.")] = None
    scope: Annotated[Literal["public", "mine"], Meta(description="mine: own fills; needs a token.")] = "public"
    start: Annotated[Time | None, Meta(description="Inclusive.")] = None
    end: Annotated[Time | None, Meta(description="Exclusive.")] = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT
    cursor: Annotated[str | None, Meta(description="Opaque: meta.next_cursor of the answer before.")] = None


class CancelQuery(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Filter of ``DELETE /orders``."""

    symbol: Annotated[str | None, Meta(description="Only this symbol's orders; without it, every own order.")] = None


class DepthQuery(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """How much of a book."""

    depth: Annotated[int, Meta(ge=1, le=DEPTH_MAX, description="Levels of each side.")] = DEPTH_DEFAULT


class NoQuery(Struct, forbid_unknown_fields=True, frozen=True):
    """No parameters."""


class DepthSnapshot(Struct, frozen=True, kw_only=True):
    """Price levels as they were at ``time``, best first: ``[price, quantity]``."""

    symbol: SymbolName
    time: Annotated[Time, Meta(description="When the book was looked at.")]
    sequence: Annotated[int, Meta(description="Of the last event in it.")]
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]


DepthSnapshotAnswer = _answer("DepthSnapshotAnswer", DepthSnapshot)


class SnapshotQuery(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """When."""

    time: Annotated[Time | None, Meta(description="Default: now.")] = None


TimeFrameName: TypeAlias = Literal["1m", "5m", "15m", "1h", "4h", "1d"]


class Candle(Struct, frozen=True, kw_only=True):
    """What was traded from ``time`` on for the length of the time frame."""

    time: Annotated[Time, Meta(description="When it begins.")]
    open: DecimalText
    high: DecimalText
    low: DecimalText
    close: DecimalText
    volume: Annotated[DecimalText, Meta(description="In the base asset.")]
    quote_volume: Annotated[DecimalText, Meta(description="In the quote asset.")]
    trades: int


class PastTrade(Struct, frozen=True, kw_only=True):
    """A trade of a symbol's past. An imported one has no fees and no sequence, and ``/trades`` does not know it."""

    id: Annotated[Id, Meta(description="Later trades of a symbol have larger ids; unique within the symbol.")]
    symbol: SymbolName
    price: DecimalText
    quantity: DecimalText
    taker_side: SideName
    buyer_fee: Annotated[DecimalText | None, Meta(description="null: imported.")]
    seller_fee: Annotated[DecimalText | None, Meta(description="null: imported.")]
    sequence: Annotated[int | None, Meta(description="null: imported.")]
    timestamp: Time
    imported: Annotated[bool, Meta(description="Whether it was made elsewhere, before the engine's first trade.")]


class DayStatistics(Struct, frozen=True, kw_only=True):
    """The trades with ``from`` < time ≤ ``to``. Prices are null when there was none."""

    symbol: SymbolName
    from_: Annotated[Time, Meta(description="24 hours before to.")] = field(name="from")
    to: Annotated[Time, Meta(description="When it was asked.")]
    open: DecimalText | None
    high: DecimalText | None
    low: DecimalText | None
    last: DecimalText | None
    volume: Annotated[DecimalText, Meta(description="In the base asset.")]
    quote_volume: Annotated[DecimalText, Meta(description="In the quote asset.")]
    trades: int
    change: Annotated[DecimalText | None, Meta(description="last - open")]
    change_percent: Annotated[DecimalText | None, Meta(description="change in hundredths of open, four places.")]
    weighted_average_price: Annotated[DecimalText | None, Meta(description="quote_volume / volume")]


CandlesAnswer = _answer("CandlesAnswer", list[Candle])
PastTradesAnswer = _answer("PastTradesAnswer", list[PastTrade])
DayStatisticsAnswer = _answer("DayStatisticsAnswer", DayStatistics)


class CandlesQuery(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Which candles."""

    tf: Annotated[TimeFrameName, Meta(description="The time frame.")]
    start: Annotated[Time | None, Meta(description="Inclusive; of the time at which a candle begins.")] = None
    end: Annotated[Time | None, Meta(description="Exclusive, likewise.")] = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT
    fill: Annotated[bool, Meta(description="Whether candles without trades are there too.")] = False


class PastTradesQuery(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Filters of ``GET /historical/trades``."""

    start: Annotated[Time | None, Meta(description="Inclusive.")] = None
    end: Annotated[Time | None, Meta(description="Exclusive.")] = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT
    cursor: Annotated[str | None, Meta(description="Opaque: meta.next_cursor of the answer before.")] = None
