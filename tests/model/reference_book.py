"""The order book in plain Python, written from the rules: what the compiled book must equal, event for event.

Rule 1: simple before fast. Orders are objects, ladders are sorted dictionaries of queues. Rule 2: a taker's way is
*planned* first and changes nothing, then carried out; fill-or-kill is a plan that is looked at. Rule 3: one command in,
a list of events out, each a dictionary of the fields that are not zero (``records`` makes them what the compiled book
writes).
"""

from __future__ import annotations

from typing import Any, Final

from tests.model.reference_orders import (
    LIMITED,
    PPM,
    Event,
    Fill,
    Ladder,
    Market,
    Order,
    Prevented,
    affordable,
    ceil_millions,
    cost,
    is_in_reach,
    kinds_of,
    state_reason,
)

from tradeengine.core.ids import EPOCH_2024_MS
from tradeengine.core.money import UNITS_MAX
from tradeengine.core.records import (
    ACCOUNT_ID_NONE,
    SYMBOL_ID_ALL,
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
    symbol_command_dtype,
    trading_command_dtype,
)
from tradeengine.core.symbols import COLLAR_PPM_MAX

INT64_MAX: Final = 2**63 - 1
RESTING_TIMES: Final = (TimeInForce.GTC, TimeInForce.GTD)
STOPS: Final = (OrderType.STOP, OrderType.STOP_LIMIT)
TIMES: Final = {
    OrderType.LIMIT: tuple(TimeInForce),
    OrderType.MARKET: (TimeInForce.IOC, TimeInForce.FOK),
    OrderType.STOP: RESTING_TIMES,
    OrderType.STOP_LIMIT: tuple(TimeInForce),
}
PARAMETERS: Final = (
    *("tick_lot_units", "lot_units", "quantity_lots_min", "quantity_lots_max", "notional_units_min"),
    *("price_ticks_max", "base_asset_id", "quote_asset_id", "maker_fee_ppm", "taker_fee_ppm", "collar_ppm", "shard"),
)
FILLED: Final = object()
"""How a plan ends that trades all that was wanted."""


class ReferenceBook:
    """All markets of a shard. ``apply`` takes a command as a mapping of field names to plain values."""

    def __init__(self, orders_max: int, symbols_max: int, levels_max: int, accounts_max: int, shard: int) -> None:
        """Make an empty book with the limits of ``BookLimits``."""
        self.orders_max, self.symbols_max = orders_max, symbols_max
        self.levels_max, self.accounts_max, self.shard = levels_max, accounts_max, shard
        self.markets: dict[int, Market] = {}
        self.orders: dict[int, Order] = {}
        self.timers: dict[int, int] = {}  # account -> when it runs out
        self.sequence = 0
        self.command_sequence = 0
        self.ring_sequence = -1
        self.order_id_last = 0
        self.trade_id_last = 0
        self._command: Any = None
        self._events: list[Event] = []

    def apply(self, command: Any) -> list[Event]:
        """Carry out one record of ``command_dtype``; return its events."""
        self._command, self._events = command, []
        if command["kind"] != CommandKind.EXPIRE:
            self.ring_sequence = int(command["ring_sequence"])
        handlers = {
            CommandKind.PLACE: self._place,
            CommandKind.CANCEL: self._cancel,
            CommandKind.CANCEL_ALL: self._cancel_all,
            CommandKind.AMEND: self._amend,
            CommandKind.EXPIRE: self._expire,
            CommandKind.CANCEL_ALL_AFTER: self._set_timer,
            CommandKind.LIST_SYMBOL: self._list_symbol,
            CommandKind.SET_PARAMETERS: self._set_parameters,
            CommandKind.SET_TRADING_STATE: self._set_trading_state,
        }
        handler = handlers.get(int(command["kind"]))  # type: ignore[call-overload]
        if handler is None:
            self._refuse(EventKind.REFUSED, Reason.INVALID_REQUEST)
        else:
            handler()
        self._events[-1]["flags"] = self._events[-1].get("flags", 0) | EventFlag.LAST_OF_COMMAND
        self.command_sequence += 1
        return self._events

    # Placing.

    def _place(self) -> None:
        command = self._command
        reason = self._refusal()
        if reason is not None:
            self._refuse(EventKind.REFUSED, reason)
            return
        self.order_id_last = int(command["order_id"])
        order = self._new_order()
        released = int(command["hold_units"]) - order.hold
        reason = self._rejection(order)
        if reason is not None:
            self._refuse(EventKind.REJECTED, reason)
            return
        self.orders[order.order_id] = order
        self._tell(EventKind.ACCEPTED, order, hold=order.hold, released=released)
        over = order.time_in_force == TimeInForce.GTD and order.expires_at_ns <= command["timestamp_ns"]
        if order.order_type in STOPS and not over:
            order.waiting = True
            self._enqueue(order)
        else:
            self._run(order, Reason.EXPIRED if over else None)
        self._fire_stops(order.symbol_id)

    def _refusal(self) -> Reason | None:
        c = self._command
        market = self.markets.get(int(c["symbol_id"]))
        if market is None:
            return Reason.SYMBOL_NOT_FOUND
        if not 0 <= c["account_id"] < self.accounts_max or c["order_id"] <= self.order_id_last:
            return Reason.INVALID_REQUEST
        if not self._is_combination():
            return Reason.INVALID_COMBINATION
        price, stop, lots, hold = (
            int(c[n]) for n in ("price_ticks", "stop_price_ticks", "quantity_lots", "hold_units")
        )
        by_quote = bool(c["flags"] & CommandFlag.BY_QUOTE)
        if not (0 <= price <= market.price_ticks_max and 0 <= stop <= market.price_ticks_max):
            return Reason.NUMBER_OUT_OF_RANGE
        if not 0 <= hold <= 2 * UNITS_MAX:
            return Reason.NUMBER_OUT_OF_RANGE
        if not by_quote and not market.quantity_lots_min <= lots <= market.quantity_lots_max:
            return Reason.NUMBER_OUT_OF_RANGE
        if c["order_type"] in LIMITED and lots * price * market.tick_lot_units < market.notional_units_min:
            return Reason.BELOW_MIN_NOTIONAL
        if hold < self._needs(self._new_order()):
            return Reason.INSUFFICIENT_BALANCE
        return None

    def _is_combination(self) -> bool:
        c = self._command
        flags, order_type, time_in_force = (int(c[name]) for name in ("flags", "order_type", "time_in_force"))
        by_quote, post_only = bool(flags & CommandFlag.BY_QUOTE), bool(flags & CommandFlag.POST_ONLY)
        return (
            int(c["side"]) in tuple(Side)
            and order_type in tuple(OrderType)
            and time_in_force in TIMES[OrderType(order_type)]
            and int(c["self_trade_prevention"]) in tuple(SelfTradePrevention)
            and flags < 4
            and not (by_quote and (post_only or order_type != OrderType.MARKET or c["side"] != Side.BUY))
            and not (post_only and (order_type != OrderType.LIMIT or time_in_force not in RESTING_TIMES))
            and (c["price_ticks"] != 0) == (order_type in LIMITED)
            and (c["stop_price_ticks"] != 0) == (order_type in STOPS)
            and (c["expires_at_ns"] != 0) == (time_in_force == TimeInForce.GTD)
            and (c["quantity_lots"] == 0) == by_quote
        )

    def _new_order(self) -> Order:
        """Make the order that the command asks for; it holds what it needs, a budget all that came."""
        c = self._command
        market = self.markets[int(c["symbol_id"])]
        order = Order(
            order_id=int(c["order_id"]),
            account_id=int(c["account_id"]),
            symbol_id=int(c["symbol_id"]),
            side=int(c["side"]),
            order_type=int(c["order_type"]),
            time_in_force=int(c["time_in_force"]),
            prevention=int(c["self_trade_prevention"]),
            flags=int(c["flags"]),
            price=int(c["price_ticks"]),
            stop=int(c["stop_price_ticks"]),
            quantity=int(c["quantity_lots"]),
            remaining=int(c["quantity_lots"]),
            hold=0,
            expires_at_ns=int(c["expires_at_ns"]),
            client_order_id=bytes(c["client_order_id"]),
            maker_ppm=market.maker_fee_ppm,
            taker_ppm=market.taker_fee_ppm,
        )
        order.hold = int(c["hold_units"]) if order.budgeted else self._needs(order)
        return order

    def _needs(self, order: Order) -> int:
        """Units that what is left of an order must hold; 0 for one with a budget."""
        market = self.markets[order.symbol_id]
        if order.side == Side.SELL:
            return order.remaining * market.lot_units
        if order.budgeted:
            return 0
        notional = order.remaining * order.price * market.tick_lot_units
        return cost(notional, max(order.maker_ppm, order.taker_ppm), order.owed, order.fee)

    def _rejection(self, order: Order) -> Reason | None:
        market = self.markets[order.symbol_id]
        if market.state != TradingState.OPEN:
            return state_reason(market.state)
        if len(self.orders) == self.orders_max:
            return Reason.BOOK_FULL
        if order.order_type in STOPS:
            order.waiting = True
            full = self._has_no_room(order)
            order.waiting = False
            return Reason.BOOK_FULL if full else None
        if order.order_type == OrderType.LIMIT:
            if self._is_out_of_collar(order, order.price):
                return Reason.PRICE_OUT_OF_COLLAR
            if order.flags & CommandFlag.POST_ONLY and self._would_match(order, order.price):
                return Reason.POST_ONLY_WOULD_MATCH
            if order.time_in_force in RESTING_TIMES and self._has_no_room(order):
                return Reason.BOOK_FULL
        if order.time_in_force == TimeInForce.FOK and self._plan(order)[1] is not FILLED:
            return Reason.FOK_NOT_FILLED
        return None

    # What holds for a price.

    def _ladder_and_key(self, order: Order, price: int | None = None) -> tuple[Ladder, int]:
        """Where an order queues, or would with another price: bids and stop sells best at the greatest price."""
        ladders = self.markets[order.symbol_id].ladders
        if order.waiting:
            price = order.stop if price is None else price
            return ladders[2 + order.side], price if order.side == Side.BUY else -price
        price = order.price if price is None else price
        return ladders[order.side], -price if order.side == Side.BUY else price

    def _has_no_room(self, order: Order, price: int | None = None) -> bool:
        ladder, key = self._ladder_and_key(order, price)
        return key not in ladder.queues and len(ladder.queues) == self.levels_max

    def _is_out_of_collar(self, order: Order, price: int) -> bool:
        market = self.markets[order.symbol_id]
        if not market.last or not market.collar_ppm:
            return False
        width = market.last * market.collar_ppm // PPM
        return price > market.last + width if order.side == Side.BUY else price < market.last - width

    def _would_match(self, order: Order, price: int) -> bool:
        best = next(self.markets[order.symbol_id].ladders[1 - order.side].orders(), None)
        return best is not None and is_in_reach(order.side, best.price, price)

    def _bound(self, order: Order) -> int | None:
        """Worst price at which an order may trade; None: any."""
        if order.order_type in LIMITED:
            return order.price
        market = self.markets[order.symbol_id]
        best = next(market.ladders[1 - order.side].orders(), None)
        if best is None or not market.collar_ppm:
            return None
        width = best.price * market.collar_ppm // PPM
        return best.price + width if order.side == Side.BUY else best.price - width

    # Matching.

    def _plan(self, order: Order) -> tuple[list[Fill | Prevented], object]:
        """Plan whom an order meets: the steps, and how it ends (FILLED, a Reason, or None: something is left)."""
        market = self.markets[order.symbol_id]
        bound = self._bound(order)
        reach = [m for m in market.ladders[1 - order.side].orders() if is_in_reach(order.side, m.price, bound)]
        steps: list[Fill | Prevented] = []
        remaining, hold, owed, fee = order.remaining, order.hold, order.owed, order.fee
        for index, maker in enumerate(reach):
            if maker.account_id == order.account_id:
                if order.prevention != SelfTradePrevention.CANCEL_TAKER:
                    steps.append(Prevented(maker))
                if order.prevention != SelfTradePrevention.CANCEL_MAKER:
                    return steps, Reason.SELF_TRADE
                continue
            lot_price = maker.price * market.tick_lot_units
            lots = maker.remaining if order.by_quote else min(remaining, maker.remaining)
            if order.budgeted:
                lots = min(lots, affordable(lot_price, hold, order.taker_ppm, owed, fee))
                if lots == 0:
                    return steps, Reason.BUDGET
                owed += lots * lot_price * order.taker_ppm
                hold -= lots * lot_price + ceil_millions(owed) - fee
                fee = ceil_millions(owed)
            remaining -= lots
            if order.by_quote:
                following = reach[index + 1] if lots == maker.remaining and index + 1 < len(reach) else maker
                remaining = affordable(following.price * market.tick_lot_units, hold, order.taker_ppm, owed, fee)
            steps.append(Fill(maker, lots, remaining))
            if remaining == 0:
                return steps, FILLED
            if lots < maker.remaining:
                return steps, Reason.BUDGET
        return steps, None

    def _run(self, order: Order, ending: object = None) -> None:
        """Let an order trade, then rest or end."""
        steps: list[Fill | Prevented] = []
        if ending is None:
            steps, ending = self._plan(order)
        for step in steps:
            if isinstance(step, Prevented):
                self._end(step.maker, Reason.SELF_TRADE)
            else:
                self._trade(order, step)
        if ending is FILLED:
            del self.orders[order.order_id]
            return
        if ending is None:
            ending = self._ending_of_rest(order)
        if ending is None:
            self._enqueue(order)
            return
        if order.by_quote:
            order.remaining = 0
        self._tell(EventKind.CANCELLED, order, reason=ending, released=order.hold)
        del self.orders[order.order_id]

    def _ending_of_rest(self, order: Order) -> Reason | None:
        market = self.markets[order.symbol_id]
        if order.order_type not in LIMITED:
            return Reason.COLLAR if market.ladders[1 - order.side].queues else Reason.NO_LIQUIDITY
        if order.time_in_force not in RESTING_TIMES:
            return Reason.IOC_REMAINDER if order.remaining != order.quantity else Reason.IOC_NOT_FILLED
        return Reason.BOOK_FULL if self._has_no_room(order) else None

    def _trade(self, taker: Order, fill: Fill) -> None:
        market = self.markets[taker.symbol_id]
        maker, lots = fill.maker, fill.lots
        notional = lots * maker.price * market.tick_lot_units
        fees = {taker: taker.charge(notional, taker.taker_ppm), maker: maker.charge(notional, maker.maker_ppm)}
        for order in (taker, maker):
            order.hold -= notional + fees[order] if order.side == Side.BUY else lots * market.lot_units
        maker.remaining -= lots
        done = maker.remaining == 0
        ladder, key = self._ladder_and_key(maker)
        if done:
            ladder.remove(key, maker)
            del self.orders[maker.order_id]
        if taker.by_quote:
            taker.quantity += lots
        taker.remaining = fill.wanted
        maker_released = maker.hold if done else 0
        maker.hold -= maker_released
        keep = taker.hold if taker.budgeted else self._needs(taker)
        if taker.remaining == 0:
            keep = 0
        released = taker.hold - keep
        taker.hold = keep
        market.last = maker.price
        self._put(
            kind=EventKind.TRADED,
            order_id=taker.order_id,
            trade_id=self._next_trade_id(),
            maker_order_id=maker.order_id,
            price_ticks=maker.price,
            quantity_lots=lots,
            remaining_lots=taker.remaining,
            maker_remaining_lots=maker.remaining,
            notional_units=notional,
            fee_units=fees[taker],
            maker_fee_units=fees[maker],
            hold_units=taker.hold,
            hold_released_units=released,
            maker_hold_units=maker.hold,
            maker_hold_released_units=maker_released,
            account_id=taker.account_id,
            maker_account_id=maker.account_id,
            symbol_id=taker.symbol_id,
            flags=taker.flags | (EventFlag.MAKER_DONE if done else 0),
            filled_notional_units=taker.notional,
            maker_filled_notional_units=maker.notional,
            fee_total_units=taker.fee,
            maker_fee_total_units=maker.fee,
            **kinds_of(taker),
        )

    def _next_trade_id(self) -> int:
        """Ids ascend: from the command's millisecond, unless there have been more than fit it."""
        milliseconds = max(0, int(self._command["timestamp_ns"]) // 1_000_000 - EPOCH_2024_MS)
        following = self.trade_id_last + 1
        if following % (1 << 16) == 0:  # the counter is full: on with the next millisecond
            following = ((self.trade_id_last >> 22) + 1) << 22 | self.shard << 16
        self.trade_id_last = max(following, milliseconds << 22 | self.shard << 16)
        return self.trade_id_last

    # Stops.

    def _fire_stops(self, symbol_id: int) -> None:
        """Fire one stop after the other until the last price reaches none."""
        while (order := self._due_stop(symbol_id)) is not None:
            ladder, key = self._ladder_and_key(order)
            ladder.remove(key, order)
            order.waiting = False
            order.flags |= EventFlag.TRIGGERED
            self._tell(EventKind.TRIGGERED, order, hold=order.hold)
            ending: object = None
            if order.order_type == OrderType.STOP_LIMIT:
                if self._is_out_of_collar(order, order.price):
                    ending = Reason.COLLAR
                elif order.time_in_force == TimeInForce.FOK and self._plan(order)[1] is not FILLED:
                    ending = Reason.FOK_NOT_FILLED
            self._run(order, ending)

    def _due_stop(self, symbol_id: int) -> Order | None:
        market = self.markets[symbol_id]
        for side in Side:
            order = next(market.ladders[2 + side].orders(), None)
            if market.last and order is not None and is_in_reach(side, order.stop, market.last):
                return order
        return None

    # Cancelling and expiry.

    def _cancel(self) -> None:
        order = self.orders.get(int(self._command["order_id"]))
        if order is None or order.account_id != self._command["account_id"]:
            self._refuse(EventKind.REFUSED, Reason.ORDER_NOT_FOUND)
        else:
            self._end(order, Reason.USER)

    def _cancel_all(self) -> None:
        account_id, symbol_id = int(self._command["account_id"]), int(self._command["symbol_id"])
        if not 0 <= account_id < self.accounts_max or not SYMBOL_ID_ALL <= symbol_id < self.symbols_max:
            self._refuse(EventKind.REFUSED, Reason.INVALID_REQUEST, released=0)
            return
        if account_id == ACCOUNT_ID_NONE:
            ladders = (ladder for _, market in sorted(self.markets.items()) for ladder in market.ladders)
            orders = [order for ladder in ladders for order in ladder.orders()]
        else:
            orders = sorted((o for o in self.orders.values() if o.account_id == account_id), key=lambda o: o.order_id)
        ended = [order for order in orders if symbol_id in (SYMBOL_ID_ALL, order.symbol_id)]
        by_administrator = int(self._command["flags"]) & CommandFlag.BY_ADMINISTRATOR
        for order in ended:
            self._end(order, Reason.ADMINISTRATOR if by_administrator else Reason.CANCELLED_ALL)
        self._close(EventKind.CANCELLED_ALL, symbol_id, quantity_lots=len(ended))

    def _expire(self) -> None:
        now_ns = int(self._command["timestamp_ns"])
        # At the same instant orders come before timers: False before True.
        due = [(o.expires_at_ns, False, o.order_id) for o in self.orders.values() if 0 < o.expires_at_ns <= now_ns]
        due += [(ends_ns, True, account_id) for account_id, ends_ns in self.timers.items() if ends_ns <= now_ns]
        ended = 0
        for _, is_timer, number in sorted(due):
            if is_timer:
                del self.timers[number]
                ended += self._end_all_of(number, Reason.CANCEL_ALL_AFTER)
            elif number in self.orders:
                self._end(self.orders[number], Reason.EXPIRED)
                ended += 1
        self._close(EventKind.EXPIRED, int(self._command["symbol_id"]), quantity_lots=ended)

    def _set_timer(self) -> None:
        account_id, ends_ns = int(self._command["account_id"]), int(self._command["expires_at_ns"])
        if not 0 < account_id < self.accounts_max or self._command["symbol_id"] != SYMBOL_ID_ALL or ends_ns < 0:
            self._refuse(EventKind.REFUSED, Reason.INVALID_REQUEST, released=0)
            return
        self.timers.pop(account_id, None)
        if ends_ns:
            self.timers[account_id] = ends_ns
        self._close(EventKind.TIMER_SET, SYMBOL_ID_ALL, expires_at_ns=ends_ns)

    def _end_all_of(self, account_id: int, reason: Reason) -> int:
        own = sorted((o for o in self.orders.values() if o.account_id == account_id), key=lambda o: o.order_id)
        for order in own:
            self._end(order, reason)
        return len(own)

    def _end(self, order: Order, reason: Reason) -> None:
        """End an order that rests or waits."""
        self._tell(EventKind.CANCELLED, order, reason=reason, released=order.hold)
        ladder, key = self._ladder_and_key(order)
        ladder.remove(key, order)
        del self.orders[order.order_id]

    def _enqueue(self, order: Order) -> None:
        ladder, key = self._ladder_and_key(order)
        ladder.add(key, order)

    # Amending.

    def _amend(self) -> None:
        c = self._command
        order = self.orders.get(int(c["order_id"]))
        if order is None or order.account_id != c["account_id"]:
            self._refuse(EventKind.REFUSED, Reason.ORDER_NOT_FOUND)
            return
        changed = Order(**vars(order))
        filled = order.quantity - order.remaining
        changed.price = int(c["price_ticks"]) or order.price
        changed.stop = int(c["stop_price_ticks"]) or order.stop
        changed.quantity = int(c["quantity_lots"]) or order.quantity
        changed.remaining = changed.quantity - filled
        reason = self._amend_refusal(order, changed)
        if reason is not None:
            self._refuse(EventKind.REFUSED, reason)
            return
        hold = order.hold + int(c["hold_units"])
        changed.hold = hold if order.budgeted else self._needs(changed)
        if order.waiting:
            moves = changed.stop != order.stop
        else:
            moves = changed.price != order.price or changed.remaining > order.remaining
        ladder, key = self._ladder_and_key(order)
        previous = {"previous_price_ticks": order.price, "previous_remaining_lots": order.remaining}
        if moves:
            ladder.remove(key, order)
        vars(order).update(vars(changed))
        self._tell(EventKind.AMENDED, order, hold=order.hold, released=hold - order.hold, **previous)
        if moves and order.waiting:
            self._enqueue(order)
        elif moves:
            self._run(order)
        self._fire_stops(order.symbol_id)

    def _amend_refusal(self, order: Order, changed: Order) -> Reason | None:
        c, market = self._command, self.markets[order.symbol_id]
        limited = order.order_type in LIMITED
        if market.state != TradingState.OPEN:
            return state_reason(market.state)
        if (c["price_ticks"] != 0 and not limited) or (c["stop_price_ticks"] != 0 and not order.waiting):
            return Reason.INVALID_COMBINATION
        if c["quantity_lots"] < 0 or not 0 <= c["hold_units"] <= 2 * UNITS_MAX:
            return Reason.NUMBER_OUT_OF_RANGE
        if changed.remaining <= 0:
            return Reason.QUANTITY_NOT_ABOVE_FILLED
        lots_allowed = market.quantity_lots_min <= changed.quantity <= market.quantity_lots_max
        if c["quantity_lots"] != 0 and not lots_allowed:
            return Reason.NUMBER_OUT_OF_RANGE
        for name in ("price_ticks", "stop_price_ticks"):
            if not 0 <= c[name] <= market.price_ticks_max:
                return Reason.NUMBER_OUT_OF_RANGE
        notional = changed.quantity * changed.price * market.tick_lot_units
        if limited and notional > UNITS_MAX:
            return Reason.NUMBER_OUT_OF_RANGE
        if limited and notional < market.notional_units_min:
            return Reason.BELOW_MIN_NOTIONAL
        if order.hold + int(c["hold_units"]) < self._needs(changed):
            return Reason.INSUFFICIENT_BALANCE
        ladder, key = self._ladder_and_key(order)
        _, new_key = self._ladder_and_key(changed)
        if key == new_key:
            return None
        if not order.waiting:
            if self._is_out_of_collar(order, changed.price):
                return Reason.PRICE_OUT_OF_COLLAR
            if order.flags & CommandFlag.POST_ONLY and self._would_match(order, changed.price):
                return Reason.POST_ONLY_WOULD_MATCH
        leaves_its_level = len(ladder.queues[key]) == 1
        return Reason.BOOK_FULL if not leaves_its_level and self._has_no_room(changed) else None

    # Symbols.

    def _list_symbol(self) -> None:
        c = self._command.view(symbol_command_dtype)
        symbol_id = int(c["symbol_id"])
        if not 0 <= symbol_id < self.symbols_max:
            reason: Reason | None = Reason.NUMBER_OUT_OF_RANGE
        elif symbol_id in self.markets:
            reason = Reason.SYMBOL_EXISTS
        elif int(c["trading_state"]) not in tuple(TradingState):
            reason = Reason.INVALID_REQUEST
        else:
            reason = self._parameters_fault(c)
        if reason is not None:
            self._close(EventKind.REFUSED, symbol_id, reason=reason)
            return
        self.markets[symbol_id] = Market({name: int(c[name]) for name in PARAMETERS}, int(c["trading_state"]))
        self._tell_symbol(EventKind.SYMBOL_LISTED, symbol_id)

    def _set_parameters(self) -> None:
        c = self._command.view(symbol_command_dtype)
        symbol_id = int(c["symbol_id"])
        market = self.markets.get(symbol_id)
        if market is None:
            self._close(EventKind.REFUSED, symbol_id, reason=Reason.SYMBOL_NOT_FOUND)
            return
        fixed = ("tick_lot_units", "lot_units", "base_asset_id", "quote_asset_id")
        same = all(c[name] == market.parameters[name] for name in fixed)
        reason = self._parameters_fault(c) if same else Reason.INVALID_REQUEST
        if reason is not None:
            self._close(EventKind.REFUSED, symbol_id, reason=reason)
            return
        market.parameters = {name: int(c[name]) for name in PARAMETERS}
        self._tell_symbol(EventKind.PARAMETERS_SET, symbol_id)

    def _parameters_fault(self, c: Any) -> Reason | None:
        """Whether any number could overflow 64 bits or makes no sense."""
        p = {name: int(c[name]) for name in PARAMETERS}
        lots_max = p["quantity_lots_max"]
        sound = (
            min(p["tick_lot_units"], p["lot_units"], p["quantity_lots_min"], p["price_ticks_max"]) >= 1
            and lots_max >= p["quantity_lots_min"]
            and 0 <= p["notional_units_min"] <= UNITS_MAX
            and lots_max * p["price_ticks_max"] * p["tick_lot_units"] <= UNITS_MAX
            and lots_max * p["lot_units"] <= UNITS_MAX
            and lots_max * self.orders_max <= INT64_MAX
            and 0 <= p["maker_fee_ppm"] <= PPM
            and 0 <= p["taker_fee_ppm"] <= PPM
            and 0 <= p["collar_ppm"] <= COLLAR_PPM_MAX
        )
        return None if sound else Reason.NUMBER_OUT_OF_RANGE

    def _set_trading_state(self) -> None:
        asked, state = int(self._command["symbol_id"]), int(self._command["trading_state"])
        if state not in tuple(TradingState):
            self._close(EventKind.REFUSED, asked, reason=Reason.INVALID_REQUEST)
            return
        touched = [symbol_id for symbol_id in sorted(self.markets) if asked in (SYMBOL_ID_ALL, symbol_id)]
        for symbol_id in touched:
            why = self._why(asked, self.markets[symbol_id].state)
            self.markets[symbol_id].state = state
            self._close(EventKind.TRADING_STATE_SET, symbol_id, trading_state=state, **why)
        if not touched:
            self._close(EventKind.REFUSED, asked, reason=Reason.SYMBOL_NOT_FOUND)

    def _why(self, asked: int, previous_state: int) -> dict[str, Any]:
        """Repeat the command's reason, with what was before; nothing of both where it has none."""
        c = self._command.view(trading_command_dtype)
        if not bytes(c["reason_head"])[:8].strip(b"\0"):
            return {}
        told = {name: bytes(c[name]) for name in ("reason_head", "reason_tail")}
        return told | {"previous_state": previous_state, "for_all": int(asked == SYMBOL_ID_ALL)}

    # Telling.

    def _put(self, **fields: Any) -> None:
        command = self._command
        self._events.append(
            {
                "sequence": self.sequence,
                "command_sequence": self.command_sequence,
                "ring_sequence": self.ring_sequence,
                "ingress_sequence": command["ingress_sequence"],
                "ingress_ring": command["ingress_ring"],
                "timestamp_ns": command["timestamp_ns"],
                **fields,
            }
        )
        self.sequence += 1

    def _tell(
        self, kind: EventKind, order: Order, *, reason: object = 0, hold: int = 0, released: int = 0, **more: int
    ) -> None:
        """Tell an order's full content."""
        self._put(
            kind=kind,
            reason=reason,
            hold_units=hold,
            hold_released_units=released,
            order_id=order.order_id,
            price_ticks=order.price,
            quantity_lots=order.quantity,
            remaining_lots=order.remaining,
            stop_price_ticks=order.stop,
            expires_at_ns=order.expires_at_ns,
            account_id=order.account_id,
            symbol_id=order.symbol_id,
            client_order_id=order.client_order_id,
            flags=order.flags,
            filled_notional_units=order.notional,
            fee_total_units=order.fee,
            **kinds_of(order),
            **more,
        )

    def _refuse(self, kind: EventKind, reason: Reason, released: int | None = None) -> None:
        """Tell what was asked for, and why it is not."""
        c = self._command
        repeated = (
            *("order_id", "price_ticks", "quantity_lots", "stop_price_ticks", "expires_at_ns", "account_id"),
            *("symbol_id", "client_order_id", "side", "order_type", "time_in_force", "self_trade_prevention"),
        )
        self._put(
            kind=kind,
            reason=reason,
            remaining_lots=c["quantity_lots"],
            hold_released_units=c["hold_units"] if released is None else released,
            flags=int(c["flags"]) & (CommandFlag.POST_ONLY | CommandFlag.BY_QUOTE),
            **{name: c[name] for name in repeated},
        )

    def _close(self, kind: EventKind, symbol_id: int, **fields: Any) -> None:
        """Tell what is about no order."""
        self._put(kind=kind, symbol_id=symbol_id, account_id=self._command["account_id"], **fields)

    def _tell_symbol(self, kind: EventKind, symbol_id: int) -> None:
        market = self.markets[symbol_id]
        self._put(kind=kind, symbol_id=symbol_id, trading_state=market.state, **market.parameters)
