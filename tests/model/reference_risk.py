"""The reference risk: the same decisions in plain Python on dicts, to be equalled by the compiled kernel.

It is written from the rules, not from the kernel: fees as exact fractions, holds recomputed from the orders, client
order ids by their text. It is slow and knows no limits of memory but those that clients can notice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any

from tradeengine.core.ids import EPOCH_2024_MS
from tradeengine.core.records import (
    ACCOUNT_ID_EXCHANGE,
    ACCOUNT_ID_FIRST_USER,
    ACCOUNT_ID_OUTSIDE,
    SYMBOL_ID_ALL,
    CommandFlag,
    CommandKind,
    EventKind,
    LimitKind,
    OrderType,
    Reason,
    Side,
    TimeInForce,
)

DAY_MS = 24 * 3600 * 1000
DAY_NS = DAY_MS * 10**6
UNITS_MAX = 2**61
ID_CHARACTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:-")
TIMES = {
    OrderType.LIMIT: {TimeInForce.GTC, TimeInForce.GTD, TimeInForce.IOC, TimeInForce.FOK},
    OrderType.MARKET: {TimeInForce.IOC, TimeInForce.FOK},
    OrderType.STOP: {TimeInForce.GTC, TimeInForce.GTD},
    OrderType.STOP_LIMIT: {TimeInForce.GTC, TimeInForce.GTD, TimeInForce.IOC, TimeInForce.FOK},
}
PRICED = {OrderType.LIMIT, OrderType.STOP_LIMIT}
STOPS = {OrderType.STOP, OrderType.STOP_LIMIT}


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """A command that changes nothing."""

    def __init__(
        self, reason: Reason, order_id: int | None = None, limit: tuple[LimitKind, int, int] | None = None
    ) -> None:
        super().__init__(reason.name)
        self.reason = reason
        self.order_id = order_id
        self.limit = (int(limit[0]), limit[1], limit[2]) if limit else (0, 0, 0)


@dataclass
class Order:
    """A live order. ``extra``: taken for amends that the matcher has not answered.

    ``asked``: quantity and own price that the order may have after one of these amends. ``touch_ticks``: what a market
    order was sized with.
    """

    account_id: int
    symbol_id: int
    side: Side
    order_type: OrderType
    price_ticks: int
    stop_price_ticks: int
    quantity_lots: int
    hold: int
    fee_ppm: int
    filled_lots: int = 0
    extra: int = 0
    touch_ticks: int = 0
    asked: list[tuple[int, int]] = field(default_factory=list)
    answered: int = 0
    is_new: bool = True
    ended: bool = False
    triggered: bool = False
    by_quote: bool = False

    @property
    def own_price(self) -> int:
        """Price at which it counts."""
        return self.price_ticks or self.stop_price_ticks or self.touch_ticks


@dataclass
class Answer:
    """What becomes of a command: ``kind`` is FORWARDED, SKIPPED, or the name of risk's event."""

    kind: str
    reason: Reason = Reason.NONE
    order_id: int = 0
    hold_units: int = 0
    limit: tuple[int, int, int] = (0, 0, 0)


@dataclass
class Limits:
    """An account's own limits: None is none; amounts are decimals of any quote asset."""

    order: Decimal | None = None
    day: Decimal | None = None
    two_factor: Decimal | None = None
    orders: int | None = None
    suspended: bool = False


@dataclass
class Symbol:
    """What a listing says."""

    shard: int
    base: int
    quote: int
    tick_lot: int
    lot: int
    price_max: int
    lots_min: int
    lots_max: int
    notional_min: int
    maker_ppm: int
    taker_ppm: int
    collar_ppm: int

    @property
    def ppm(self) -> int:
        """The higher fee rate."""
        return max(self.maker_ppm, self.taker_ppm)

    def cost(self, price: int, lots: int, ppm: int) -> int:
        """Notional and its fee."""
        notional = price * lots * self.tick_lot
        return notional + ceil(Fraction(notional * ppm, 10**6))

    def is_open(self, order_type: OrderType) -> bool:
        """Whether a buy of that type, by quantity, goes on to any price."""
        return self.collar_ppm == 0 and order_type not in PRICED

    def dearest(self, price: int) -> int:
        """Price at the collar."""
        if self.collar_ppm == 0:
            return self.price_max
        return min(self.price_max, price + price * self.collar_ppm // 10**6)


@dataclass
class ReferenceRisk:
    """State and rules. ``asks`` and ``bids``: the touch as the matchers publish it."""

    accounts_max: int
    open_orders_max: int
    client_ids_max: int
    total: dict[tuple[int, int], int] = field(default_factory=dict)
    orders: dict[int, Order] = field(default_factory=dict)
    client_ids: dict[tuple[int, bytes], tuple[tuple[int, ...], int]] = field(default_factory=dict)
    symbols: dict[int, Symbol] = field(default_factory=dict)
    asks: dict[int, int] = field(default_factory=dict)
    bids: dict[int, int] = field(default_factory=dict)
    funding_number: int = 0
    limits: dict[int, Limits] = field(default_factory=dict)
    fills: list[tuple[int, int, int, int]] = field(default_factory=list)
    places: int = 2

    # Balances.

    def held(self, account_id: int, asset_id: int) -> int:
        """Sum of what the account's live orders hold of an asset."""
        return sum(
            order.hold + order.extra
            for order in self.orders.values()
            if order.account_id == account_id and self._held_asset(order) == asset_id
        )

    def free(self, account_id: int, asset_id: int) -> int:
        """Tell what orders may still take."""
        return self.total.get((account_id, asset_id), 0) - self.held(account_id, asset_id)

    def _held_asset(self, order: Order) -> int:
        symbol = self.symbols[order.symbol_id]
        return symbol.base if order.side == Side.SELL else symbol.quote

    def _add(self, account_id: int, asset_id: int, units: int) -> None:
        self.total[account_id, asset_id] = self.total.get((account_id, asset_id), 0) + units

    # Limits.

    def could_trade(self, order: Order) -> int:
        """Tell what an order could still trade, whichever of its amends the matcher accepts."""
        if order.ended:
            return 0
        if order.by_quote:
            return order.hold
        lots = max([order.quantity_lots, *(lots for lots, _ in order.asked)]) - order.filled_lots
        price = max([order.own_price, *(price for _, price in order.asked)])
        return price * lots * self.symbols[order.symbol_id].tick_lot

    def open_notional(self, account_id: int, asset_id: int) -> int:
        """Sum of what an account's live orders could still trade in a quote asset."""
        return sum(
            self.could_trade(order)
            for order in self.orders.values()
            if order.account_id == account_id and self.symbols[order.symbol_id].quote == asset_id
        )

    def day_notional(self, account_id: int, asset_id: int, now_ns: int) -> int:
        """Sum of an account's fills of the present UTC day."""
        return sum(
            notional
            for account, asset, at_ns, notional in self.fills
            if (account, asset) == (account_id, asset_id) and at_ns // DAY_NS == now_ns // DAY_NS
        )

    def _check_limits(
        self, account_id: int, asset_id: int, order: int, growth: int, now_ns: int, *, two_factor: bool, unpriced: bool
    ) -> None:
        """Refuse what the account's limits forbid. order: what it comes to; 0: an amend that does not grow it."""
        limits = self.limits.get(account_id, Limits())
        if limits.suspended:
            raise Refused(Reason.ACCOUNT_SUSPENDED)
        unit = Decimal(1).scaleb(-self.places)
        maxima = [None if m is None else int(m // unit) for m in (limits.order, limits.two_factor, limits.day)]
        used = -1 if unpriced else order
        if maxima[0] is not None and (unpriced or order > maxima[0]):
            raise Refused(Reason.LIMIT_EXCEEDED, limit=(LimitKind.ORDER_NOTIONAL, used, maxima[0]))
        if maxima[1] is not None and (unpriced or order > maxima[1]) and not two_factor:
            raise Refused(Reason.TWO_FACTOR_REQUIRED, limit=(LimitKind.TWO_FACTOR, used, maxima[1]))
        if maxima[2] is not None and (unpriced or growth > 0):
            used = self.day_notional(account_id, asset_id, now_ns) + self.open_notional(account_id, asset_id)
            if unpriced or used + growth > maxima[2]:
                raise Refused(Reason.LIMIT_EXCEEDED, limit=(LimitKind.DAY_NOTIONAL, used, maxima[2]))

    # Commands.

    def decide(self, command: Any, now_ns: int, next_order_id: int) -> Answer:
        """Decide on one command (a record of command_dtype). next_order_id: the id that a new order would get."""
        kind = int(command["kind"])
        late_ns = now_ns - int(command["timestamp_ns"])
        if 0 < int(command["deadline_ms"]) * 10**6 < late_ns:
            return Answer("REFUSED", Reason.DEADLINE_PASSED, int(command["order_id"]))
        try:
            if kind == CommandKind.PLACE:
                return self._place(command, now_ns, next_order_id)
            if kind == CommandKind.CANCEL:
                self._own(command)
                return Answer("FORWARDED", order_id=int(command["order_id"]))
            if kind == CommandKind.CANCEL_ALL:
                return self._cancel_all(command)
            if kind == CommandKind.AMEND:
                return self._amend(command, now_ns)
        except Refused as refused:
            order_id = refused.order_id or int(command["order_id"])
            return Answer("REFUSED", refused.reason, order_id, limit=refused.limit)
        return Answer("REFUSED", Reason.INVALID_REQUEST, int(command["order_id"]))

    def fund(self, number: int, account_id: int, asset_id: int, amount: int) -> Answer:
        """Deposit (above 0) or withdraw."""
        if number <= self.funding_number:
            return Answer("SKIPPED")
        if number > self.funding_number + 1:
            return Answer("REFUSED", Reason.INVALID_REQUEST)
        self.funding_number = number
        if amount == 0 or not ACCOUNT_ID_FIRST_USER <= account_id < self.accounts_max:
            return Answer("FUNDING_REFUSED", Reason.INVALID_REQUEST)
        if abs(amount) > UNITS_MAX or amount - self.total.get((ACCOUNT_ID_OUTSIDE, asset_id), 0) > UNITS_MAX:
            return Answer("FUNDING_REFUSED", Reason.NUMBER_OUT_OF_RANGE)
        if -amount > self.free(account_id, asset_id):
            return Answer("FUNDING_REFUSED", Reason.INSUFFICIENT_BALANCE)
        self._add(account_id, asset_id, amount)
        self._add(ACCOUNT_ID_OUTSIDE, asset_id, -amount)
        return Answer("FUNDED")

    def _place(self, command: Any, now_ns: int, next_order_id: int) -> Answer:
        side, order_type = _member(Side, command["side"]), _member(OrderType, command["order_type"])
        time = _member(TimeInForce, command["time_in_force"])
        flags = int(command["flags"]) & ~CommandFlag.TWO_FACTOR
        post_only, by_quote = bool(flags & CommandFlag.POST_ONLY), bool(flags & CommandFlag.BY_QUOTE)
        price, stop, lots = (int(command[name]) for name in ("price_ticks", "stop_price_ticks", "quantity_lots"))
        if flags > 3 or not 1 <= command["self_trade_prevention"] <= 3:
            raise Refused(Reason.INVALID_REQUEST)
        if (
            time not in TIMES[order_type]
            or (post_only and (order_type != OrderType.LIMIT or time not in {TimeInForce.GTC, TimeInForce.GTD}))
            or (by_quote and (order_type != OrderType.MARKET or side != Side.BUY or lots != 0))
            or (command["expires_at_ns"] != 0) != (time == TimeInForce.GTD)
            or (price != 0 and order_type not in PRICED)
            or (stop != 0 and order_type not in STOPS)
        ):
            raise Refused(Reason.INVALID_COMBINATION)
        account_id, symbol_id = int(command["account_id"]), int(command["symbol_id"])
        client_id = bytes(command["client_order_id"])
        if not ACCOUNT_ID_FIRST_USER <= account_id < self.accounts_max or not set(client_id) <= ID_CHARACTERS:
            raise Refused(Reason.INVALID_REQUEST)
        if symbol_id not in self.symbols:
            raise Refused(Reason.SYMBOL_NOT_FOUND)
        content = _content(command)
        if client_id and (known := self._remembered(account_id, client_id, now_ns)):
            if known[0] != content:
                raise Refused(Reason.CLIENT_ORDER_ID_REUSED, known[1])
            return Answer("REPEATED", order_id=known[1])
        symbol = self.symbols[symbol_id]
        self._check_numbers(command, symbol, order_type, side, by_quote=by_quote, now_ns=now_ns)
        touch = (self.asks if side == Side.BUY else self.bids).get(symbol_id, 0)
        notional = int(command["hold_units"]) if by_quote else (price or stop or touch) * lots * symbol.tick_lot
        goes_on = notional > 0 and not by_quote and symbol.is_open(order_type)
        self._check_limits(
            account_id,
            symbol.quote,
            notional,
            notional,
            now_ns,
            two_factor=bool(command["flags"] & CommandFlag.TWO_FACTOR),
            unpriced=notional == 0 if side == Side.SELL else goes_on,
        )
        self._check_count(account_id)
        hold = self._hold(command, symbol, order_type, side, by_quote=by_quote)
        order = Order(account_id, symbol_id, side, order_type, price, stop, lots, hold, symbol.ppm)
        order.by_quote = by_quote
        order.touch_ticks = touch if order_type == OrderType.MARKET else 0
        self.orders[next_order_id] = order
        if client_id:
            self.client_ids.pop((account_id, client_id), None)
            self.client_ids[account_id, client_id] = (content, next_order_id)
            if len(self.client_ids) > self.client_ids_max:
                del self.client_ids[next(iter(self.client_ids))]
        return Answer("FORWARDED", order_id=next_order_id, hold_units=hold)

    def _check_count(self, account_id: int) -> None:
        count = sum(o.account_id == account_id and not o.ended for o in self.orders.values())
        own = self.limits.get(account_id, Limits()).orders
        maximum = self.open_orders_max if own is None else min(own, self.open_orders_max)
        if count >= maximum:
            raise Refused(Reason.LIMIT_EXCEEDED, limit=(LimitKind.OPEN_ORDERS, count, maximum))

    def _remembered(self, account_id: int, client_id: bytes, now_ns: int) -> tuple[tuple[int, ...], int] | None:
        known = self.client_ids.get((account_id, client_id))
        if known is None or (known[1] >> 22) + EPOCH_2024_MS < now_ns // 10**6 - DAY_MS:
            return None
        return known

    def _check_numbers(
        self, command: Any, symbol: Symbol, order_type: OrderType, side: Side, *, by_quote: bool, now_ns: int
    ) -> None:
        price, stop, lots = (int(command[name]) for name in ("price_ticks", "stop_price_ticks", "quantity_lots"))
        if order_type in PRICED and not 1 <= price <= symbol.price_max:
            raise Refused(Reason.NUMBER_OUT_OF_RANGE)
        if order_type in STOPS and not 1 <= stop <= symbol.price_max:
            raise Refused(Reason.NUMBER_OUT_OF_RANGE)
        if command["time_in_force"] == TimeInForce.GTD and command["expires_at_ns"] <= now_ns:
            raise Refused(Reason.NUMBER_OUT_OF_RANGE)
        if by_quote:
            if not 1 <= command["hold_units"] <= UNITS_MAX:
                raise Refused(Reason.NUMBER_OUT_OF_RANGE)
            if command["hold_units"] < symbol.notional_min:
                raise Refused(Reason.BELOW_MIN_NOTIONAL)
            return
        if not symbol.lots_min <= lots <= symbol.lots_max:
            raise Refused(Reason.NUMBER_OUT_OF_RANGE)
        touch = (self.asks if side == Side.BUY else self.bids).get(int(command["symbol_id"]), 0)
        reference = price or stop or touch
        if reference and reference * lots * symbol.tick_lot < symbol.notional_min:
            raise Refused(Reason.BELOW_MIN_NOTIONAL)

    def _hold(self, command: Any, symbol: Symbol, order_type: OrderType, side: Side, *, by_quote: bool) -> int:
        account_id, lots = int(command["account_id"]), int(command["quantity_lots"])
        free = self.free(account_id, symbol.base if side == Side.SELL else symbol.quote)
        if side == Side.SELL:
            least = most = lots * symbol.lot
        elif by_quote:
            least = most = int(command["hold_units"])
        elif order_type in PRICED:
            least = most = symbol.cost(int(command["price_ticks"]), lots, symbol.ppm)
        else:
            expected = int(command["stop_price_ticks"]) or self.asks.get(int(command["symbol_id"]), 0)
            if expected == 0:
                return 0
            least = symbol.cost(expected, lots, symbol.taker_ppm)
            most = symbol.cost(symbol.dearest(expected), lots, symbol.taker_ppm)
        if least > free:
            raise Refused(Reason.INSUFFICIENT_BALANCE)
        return min(most, free)

    def _own(self, command: Any) -> Order:
        order = self.orders.get(int(command["order_id"]))
        if order is None or order.ended or order.account_id != command["account_id"]:
            raise Refused(Reason.ORDER_NOT_FOUND)
        return order

    def _cancel_all(self, command: Any) -> Answer:
        if not ACCOUNT_ID_FIRST_USER <= command["account_id"] < self.accounts_max and command["account_id"] != 0:
            raise Refused(Reason.INVALID_REQUEST)
        if command["symbol_id"] != SYMBOL_ID_ALL and int(command["symbol_id"]) not in self.symbols:
            raise Refused(Reason.SYMBOL_NOT_FOUND)
        return Answer("FORWARDED")

    def _amend(self, command: Any, now_ns: int) -> Answer:
        order = self._own(command)
        if order.order_type == OrderType.MARKET:
            raise Refused(Reason.ORDER_NOT_FOUND)
        symbol = self.symbols[order.symbol_id]
        lots, price, stop = (int(command[name]) for name in ("quantity_lots", "price_ticks", "stop_price_ticks"))
        if not (lots or price or stop):
            raise Refused(Reason.INVALID_REQUEST)
        if price and order.order_type not in PRICED:
            raise Refused(Reason.INVALID_COMBINATION)
        if stop and (order.order_type not in STOPS or order.triggered):
            raise Refused(Reason.INVALID_COMBINATION)
        lots, price, stop = lots or order.quantity_lots, price or order.price_ticks, stop or order.stop_price_ticks
        if not symbol.lots_min <= lots <= symbol.lots_max:
            raise Refused(Reason.NUMBER_OUT_OF_RANGE)
        if not 0 <= price <= symbol.price_max or not 0 <= stop <= symbol.price_max:
            raise Refused(Reason.NUMBER_OUT_OF_RANGE)
        if lots <= order.filled_lots:
            raise Refused(Reason.QUANTITY_NOT_ABOVE_FILLED)
        if (price or stop) * lots * symbol.tick_lot < symbol.notional_min:
            raise Refused(Reason.BELOW_MIN_NOTIONAL)
        asked = self._asked(order, command)
        self._check_growth(order, asked, now_ns, two_factor=bool(command["flags"] & CommandFlag.TWO_FACTOR))
        rest = lots - order.filled_lots
        if order.side == Side.SELL:
            least = most = rest * symbol.lot
        elif order.order_type in PRICED:
            least = symbol.cost(price, rest, order.fee_ppm)
            most = symbol.cost(max(price, min(order.price_ticks, symbol.price_max)), rest, order.fee_ppm)
        else:
            least = symbol.cost(stop, rest, order.fee_ppm)
            most = symbol.cost(symbol.dearest(stop), rest, order.fee_ppm)
        free = self.free(order.account_id, self._held_asset(order))
        if least - order.hold - order.extra > free:
            raise Refused(Reason.INSUFFICIENT_BALANCE)
        extra = min(free, max(most - order.hold, 0))
        order.extra += extra
        order.asked.append(asked)
        return Answer("FORWARDED", order_id=int(command["order_id"]), hold_units=extra)

    def _asked(self, order: Order, command: Any) -> tuple[int, int]:
        """Tell what quantity and own price an amend leads to, after those that are on their way."""
        lots = int(command["quantity_lots"]) or max([order.quantity_lots, *(lots for lots, _ in order.asked)])
        new_price = int(command["price_ticks" if order.order_type in PRICED else "stop_price_ticks"])
        return lots, new_price or max([order.own_price, *(price for _, price in order.asked)])

    def _check_growth(self, order: Order, asked: tuple[int, int], now_ns: int, *, two_factor: bool) -> None:
        symbol = self.symbols[order.symbol_id]
        before = self.could_trade(order)
        order.asked.append(asked)
        growth = self.could_trade(order) - before
        order.asked.pop()
        whole = asked[0] * asked[1] * symbol.tick_lot
        grows = whole > order.quantity_lots * order.own_price * symbol.tick_lot
        self._check_limits(
            order.account_id,
            symbol.quote,
            whole if grows else 0,
            growth,
            now_ns,
            two_factor=two_factor,
            unpriced=grows and order.side == Side.BUY and symbol.is_open(order.order_type),
        )

    # Events.

    def fold(self, event: Any) -> None:
        """Take in one event of a matcher."""
        kind = event["kind"]
        order = self.orders.get(int(event["order_id"]))
        if kind == EventKind.TRADED:
            self._fold_trade(event)
        elif kind == EventKind.ACCEPTED:
            assert order is not None
            order.is_new = False
            order.hold = int(event["hold_units"])
        elif kind in {EventKind.CANCELLED, EventKind.REJECTED}:
            self._end(int(event["order_id"]))
        elif kind == EventKind.TRIGGERED:
            assert order is not None
            order.triggered = True
        elif kind == EventKind.AMENDED:
            assert order is not None
            order.extra -= int(event["hold_units"] + event["hold_released_units"]) - order.hold
            order.hold = int(event["hold_units"])
            order.price_ticks, order.stop_price_ticks = int(event["price_ticks"]), int(event["stop_price_ticks"])
            order.quantity_lots = int(event["quantity_lots"])
            self._answer_amend(order)
        elif kind == EventKind.REFUSED and order is not None:
            order.extra -= int(event["hold_released_units"])
            assert not order.is_new
            self._answer_amend(order)
            if order.ended and order.extra == 0:
                del self.orders[int(event["order_id"])]

    def _answer_amend(self, order: Order) -> None:
        """Forget what was asked for once nothing is on its way: until then the most of it all counts."""
        order.answered += 1
        if order.answered == len(order.asked):
            order.asked.clear()
            order.answered = 0

    def _fold_trade(self, event: Any) -> None:
        symbol = self.symbols[int(event["symbol_id"])]
        parties = [
            (int(event["account_id"]), Side(int(event["side"])), int(event["fee_units"])),
            (int(event["maker_account_id"]), Side(1 - int(event["side"])), int(event["maker_fee_units"])),
        ]
        base, quote = int(event["quantity_lots"]) * symbol.lot, int(event["notional_units"])
        for account_id, side, fee in parties:
            sign = 1 if side == Side.BUY else -1
            self._add(account_id, symbol.base, sign * base)
            self._add(account_id, symbol.quote, -sign * quote - fee)
            self._add(ACCOUNT_ID_EXCHANGE, symbol.quote, fee)
            self.fills.append((account_id, symbol.quote, int(event["timestamp_ns"]), quote))
        for prefix, id_field in (("", "order_id"), ("maker_", "maker_order_id")):
            order_id = int(event[id_field])
            order = self.orders[order_id]
            order.filled_lots += int(event["quantity_lots"])
            order.hold = int(event[f"{prefix}hold_units"])
            if event[f"{prefix}remaining_lots"] == 0:
                self._end(order_id)

    def _end(self, order_id: int) -> None:
        order = self.orders[order_id]
        order.hold, order.ended = 0, True
        if order.extra == 0:
            del self.orders[order_id]


def _member(enumeration: Any, value: Any) -> Any:
    try:
        return enumeration(int(value))
    except ValueError:
        raise Refused(Reason.INVALID_REQUEST) from None


def _content(command: Any) -> tuple[int, ...]:
    names = ["symbol_id", "side", "order_type", "time_in_force", "self_trade_prevention", "price_ticks"]
    names += ["stop_price_ticks", "quantity_lots", "expires_at_ns"]
    flags = int(command["flags"]) & ~CommandFlag.TWO_FACTOR
    budget = int(command["hold_units"]) if flags & CommandFlag.BY_QUOTE else 0
    return (*(int(command[name]) for name in names), flags, budget)
