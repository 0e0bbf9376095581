"""What requests and answers look like: the named schemas of ``/openapi.json``, and the only description of JSON.

Rule 1: decimals are strings both ways, ids are strings of digits, times RFC 3339 in UTC with milliseconds.
Rule 2: a request names every field that it takes; anything else is refused by name.
Rule 3: whatever is answered is one of these structs inside the envelope, so that tests can validate real answers.
It refuses to know integers of the engine (see ``views`` and ``placing``) and how answers travel (see ``envelope``).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType, defstruct, field

from tradeengine.web.fields import (
    AmountText,
    ChangeText,
    ClientOrderId,
    FractionText,
    Id,
    PriceText,
    QuantityText,
    SelfTradePreventionName,
    SideName,
    StatusName,
    StatusReason,
    SymbolName,
    Time,
    TimeInForceName,
    TypeName,
)

LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 1000
DEPTH_DEFAULT: Final = 50
DEPTH_MAX: Final = 1000
LISTED_MAX: Final = 10_000
"""Trades or orders in the answer to one command."""


class PlaceOrder(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """An order to place. Enumerations are read in any letter case."""

    symbol: SymbolName
    side: SideName
    type: TypeName
    quantity: Annotated[
        QuantityText | None, Meta(description="A multiple of the lot; needed unless quote_quantity is given.")
    ] = None
    quote_quantity: Annotated[
        AmountText | None,
        Meta(
            description="Market buy only, instead of quantity: what to spend, fees included. With fok: all of it, as "
            "far as it buys whole lots, or nothing."
        ),
    ] = None
    price: Annotated[PriceText | None, Meta(description="limit and stop_limit: a multiple of the tick.")] = None
    stop_price: Annotated[
        PriceText | None, Meta(description="stop and stop_limit: a buy triggers at or above it, a sell at or below.")
    ] = None
    time_in_force: Annotated[TimeInForceName | None, Meta(description="Default gtc; market orders: ioc.")] = None
    expires_at: Annotated[Time | None, Meta(description="With gtd: when the order ends.")] = None
    post_only: Annotated[bool, Meta(description="limit: refused where it would trade at once.")] = False
    client_order_id: Annotated[
        ClientOrderId | None, Meta(description="Makes a repeat harmless; one is made where none is given.")
    ] = None
    self_trade_prevention: Annotated[
        SelfTradePreventionName, Meta(description="Which orders end where two of one account would trade.")
    ] = "cancel_taker"


class AmendOrder(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What to change of an open order; at least one field. Less quantity alone keeps its place in the queue."""

    quantity: Annotated[QuantityText | None, Meta(description="The new total, what is filled included.")] = None
    price: PriceText | None = None
    stop_price: PriceText | None = None


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
    quantity: Annotated[QuantityText | None, Meta(description="null: a market buy by quote_quantity.")]
    price: PriceText | None
    stop_price: PriceText | None
    filled_quantity: QuantityText
    remaining_quantity: QuantityText
    average_price: Annotated[PriceText | None, Meta(description="Of its fills, rounded half-even; null: none.")]
    fee_paid: Annotated[AmountText, Meta(description="In the quote asset.")]
    status: StatusName
    status_reason: StatusReason | None
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
    price: PriceText
    quantity: QuantityText
    taker_side: SideName
    buyer_fee: AmountText
    seller_fee: AmountText
    sequence: int
    timestamp: Time
    buy_order_id: Annotated[Id | UnsetType, Meta(description="For the two parties and admins.")] = UNSET
    sell_order_id: Annotated[Id | UnsetType, Meta(description="For the two parties and admins.")] = UNSET
    order_id: Annotated[Id | UnsetType, Meta(description="Own trades: the caller's order.")] = UNSET
    side: Annotated[SideName | UnsetType, Meta(description="Own trades: the caller's side.")] = UNSET
    fee: Annotated[AmountText | UnsetType, Meta(description="Own trades: what the caller paid.")] = UNSET
    liquidity: Annotated[Literal["maker", "taker"] | UnsetType, Meta(description="Own trades.")] = UNSET
    settlement_status: Annotated[
        Literal["pending", "settled", "failed"] | UnsetType, Meta(description="Own trades.")
    ] = UNSET


class OrderAndTrades(Struct, frozen=True):
    """An order and the trades that the command made with it; where a repeat is answered, all trades of the order."""

    order: Order
    trades: Annotated[
        list[Trade],
        Meta(
            description=f"Oldest first; no more than the first {LISTED_MAX}. The others are in GET /trades?scope=mine."
        ),
    ]
    trades_total: Annotated[int, Meta(description="How many there are, listed or not.")]


class OrderOnly(Struct, frozen=True):
    """One order."""

    order: Order


class CheckedOrder(Struct, frozen=True, kw_only=True):
    """What ``/orders/test`` found: the order would be sent to the engine as it is."""

    valid: Literal[True]
    notional: Annotated[AmountText | None, Meta(description="Price times quantity; null without a price.")]
    fee_max: Annotated[AmountText | None, Meta(description="The most that its fee can be; null without a price.")]


class CancelledOrders(Struct, frozen=True, kw_only=True):
    """What a mass cancel ended."""

    cancelled: Annotated[int, Meta(description="Orders ended by this call, listed or not.")]
    total: Annotated[int, Meta(description="Open orders that it met.")]
    orders: Annotated[list[Id], Meta(description=f"The ended ones; no more than {LISTED_MAX} of them.")]


class Balance(Struct, frozen=True, kw_only=True):
    """One asset of an account."""

    asset: str
    total: AmountText
    available: Annotated[AmountText, Meta(description="total - held.")]
    held: Annotated[AmountText, Meta(description="By open orders and pending withdrawals.")]


class OrderBook(Struct, frozen=True, kw_only=True):
    """Price levels, best first: ``[price, quantity]``."""

    symbol: SymbolName
    sequence: int
    bids: list[tuple[PriceText, QuantityText]]
    asks: list[tuple[PriceText, QuantityText]]
    timestamp: Time


class Ticker(Struct, frozen=True, kw_only=True):
    """The touch and the last 24 hours. null: there is none."""

    symbol: SymbolName
    best_bid: PriceText | None
    best_bid_quantity: QuantityText | None
    best_ask: PriceText | None
    best_ask_quantity: QuantityText | None
    last: PriceText | None
    last_quantity: QuantityText | None
    open: PriceText | None
    high: PriceText | None
    low: PriceText | None
    volume: QuantityText
    quote_volume: AmountText
    change: Annotated[ChangeText | None, Meta(description="last - open")]
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
    tick: PriceText
    lot: QuantityText
    price_max: PriceText
    quantity_min: QuantityText
    quantity_max: QuantityText
    min_notional: AmountText
    max_price_deviation: Annotated[FractionText | None, Meta(description="The collar as a fraction; null: none.")]
    maker_fee: Annotated[FractionText, Meta(description="As a fraction: 0.001 is 0.1 %.")]
    taker_fee: FractionText
    status: Literal["open", "cancel_only", "halted", "unlisted"]
    shard: int


class EntryPoints(Struct, frozen=True, kw_only=True):
    """What is where: paths on this server."""

    name: Literal["tradeengine"]
    version: str
    docs: Annotated[str, Meta(description="The API for people, with calls to try out.")]
    openapi: Annotated[str, Meta(description="The API for programs.")]
    admin: Annotated[str, Meta(description="The operators' page.")]
    api: Annotated[str, Meta(description="What all its calls begin with.")]
    health: str
    ready: str
    metrics: Annotated[str, Meta(description="Every actor and ring, as Prometheus text.")]


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
    """Orders are accepted, and what is wrong if anything is."""

    status: Annotated[
        Literal["ready", "degraded"], Meta(description="Else the answer is 503 NOT_READY, and its details say as much.")
    ]
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


def answer_of(name: str, data: Any) -> type[Struct]:
    """Make the schema of a successful answer: the envelope around ``data``."""
    return defstruct(
        name,
        [("success", Literal[True]), ("data", data), ("meta", AnswerMeta)],
        module=__name__,
        namespace={"__doc__": f"The envelope around {name.removesuffix('Answer')}."},
    )


OrderAndTradesAnswer = answer_of("OrderAndTradesAnswer", OrderAndTrades)
OrderAnswer = answer_of("OrderAnswer", OrderOnly)
OrdersAnswer = answer_of("OrdersAnswer", list[Order])
CheckedOrderAnswer = answer_of("CheckedOrderAnswer", CheckedOrder)
CancelledOrdersAnswer = answer_of("CancelledOrdersAnswer", CancelledOrders)
BalancesAnswer = answer_of("BalancesAnswer", list[Balance])
TradesAnswer = answer_of("TradesAnswer", list[Trade])
TradeAnswer = answer_of("TradeAnswer", Trade)
OrderBookAnswer = answer_of("OrderBookAnswer", OrderBook)
TickerAnswer = answer_of("TickerAnswer", Ticker)
SymbolsAnswer = answer_of("SymbolsAnswer", list[Symbol])
ServerTimeAnswer = answer_of("ServerTimeAnswer", ServerTime)
EntryPointsAnswer = answer_of("EntryPointsAnswer", EntryPoints)
HealthAnswer = answer_of("HealthAnswer", Health)
ReadinessAnswer = answer_of("ReadinessAnswer", Readiness)


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
    bids: list[tuple[PriceText, QuantityText]]
    asks: list[tuple[PriceText, QuantityText]]


DepthSnapshotAnswer = answer_of("DepthSnapshotAnswer", DepthSnapshot)


class SnapshotQuery(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """When."""

    time: Annotated[Time | None, Meta(description="Default: now.")] = None


TimeFrameName: TypeAlias = Literal["1m", "5m", "15m", "1h", "4h", "1d"]


class Candle(Struct, frozen=True, kw_only=True):
    """What was traded from ``time`` on for the length of the time frame."""

    time: Annotated[Time, Meta(description="When it begins.")]
    open: PriceText
    high: PriceText
    low: PriceText
    close: PriceText
    volume: Annotated[QuantityText, Meta(description="In the base asset.")]
    quote_volume: Annotated[AmountText, Meta(description="In the quote asset.")]
    trades: int


class PastTrade(Struct, frozen=True, kw_only=True):
    """A trade of a symbol's past. An imported one has no fees and no sequence, and ``/trades`` does not know it."""

    id: Annotated[Id, Meta(description="Later trades of a symbol have larger ids; unique within the symbol.")]
    symbol: SymbolName
    price: PriceText
    quantity: QuantityText
    taker_side: SideName
    buyer_fee: Annotated[AmountText | None, Meta(description="null: imported.")]
    seller_fee: Annotated[AmountText | None, Meta(description="null: imported.")]
    sequence: Annotated[int | None, Meta(description="null: imported.")]
    timestamp: Time
    imported: Annotated[bool, Meta(description="Whether it was made elsewhere, before the engine's first trade.")]


class DayStatistics(Struct, frozen=True, kw_only=True):
    """The trades with ``from`` < time ≤ ``to``. Prices are null when there was none."""

    symbol: SymbolName
    from_: Annotated[Time, Meta(description="24 hours before to.")] = field(name="from")
    to: Annotated[Time, Meta(description="When it was asked.")]
    open: PriceText | None
    high: PriceText | None
    low: PriceText | None
    last: PriceText | None
    volume: Annotated[QuantityText, Meta(description="In the base asset.")]
    quote_volume: Annotated[AmountText, Meta(description="In the quote asset.")]
    trades: int
    change: Annotated[ChangeText | None, Meta(description="last - open")]
    change_percent: Annotated[ChangeText | None, Meta(description="change in hundredths of open, four places.")]
    weighted_average_price: Annotated[PriceText | None, Meta(description="quote_volume / volume")]


CandlesAnswer = answer_of("CandlesAnswer", list[Candle])
PastTradesAnswer = answer_of("PastTradesAnswer", list[PastTrade])
DayStatisticsAnswer = answer_of("DayStatisticsAnswer", DayStatistics)


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
