"""The rules of the order book, one by one, with numbers worked out by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from tests.core.book_pair import run
from tests.core.book_world import ALICE, BOB, BUY, CAROL, PLENTY, SELL, Market, reason, told, trades

from tradeengine.core import book as kernel
from tradeengine.core.records import (
    CommandFlag,
    CommandKind,
    EventFlag,
    EventKind,
    OrderType,
    SelfTradePrevention,
    TimeInForce,
    TradingState,
    command_dtype,
)

POST_ONLY = CommandFlag.POST_ONLY
IOC, FOK, GTD = TimeInForce.IOC, TimeInForce.FOK, TimeInForce.GTD


def market_with_asks(*asks: tuple[int, int]) -> Market:
    """Make a market in which Bob sells (price, lots); his orders are counted from 1 on."""
    market = Market()
    for price, lots in asks:
        market.place(SELL, lots, price, BOB)
    return market


# Priority and price.


def test_best_price_first_then_first_come() -> None:
    """A taker meets the best price first and, at one price, who came first; it trades at the makers' prices."""
    market = market_with_asks((102, 5), (101, 5), (101, 5), (103, 5))
    assert trades(market.place(BUY, 17, 103)) == [(2, 5, 101, 5), (3, 5, 101, 5), (1, 5, 102, 5), (4, 5, 103, 2)]
    assert market.levels(SELL) == [[103, 3]]


def test_sells_meet_the_highest_bid_first() -> None:
    """The same on the other side."""
    market = Market()
    for price in (98, 99, 99):
        market.place(BUY, 1, price, BOB)
    assert trades(market.place(SELL, 3, 1)) == [(2, 4, 99, 1), (3, 4, 99, 1), (1, 4, 98, 1)]


def test_partly_filled_maker_keeps_its_place() -> None:
    """An order that was filled in part is still first of its price."""
    market = market_with_asks((100, 5), (100, 5))
    market.place(BUY, 2, 100)
    assert trades(market.place(BUY, 4, 100)) == [(1, 4, 100, 3), (2, 4, 100, 1)]


def test_rest_of_a_limit_order_rests() -> None:
    """What a limit order does not trade waits at its own limit."""
    market = market_with_asks((100, 2))
    market.place(BUY, 5, 101)
    assert (market.levels(BUY), market.levels(SELL)) == ([[101, 3]], [])


def test_limit_order_never_trades_beyond_its_limit() -> None:
    """One tick beyond its limit is not traded."""
    market = market_with_asks((100, 1), (101, 1))
    assert trades(market.place(BUY, 2, 100)) == [(1, 3, 100, 1)]
    assert (market.levels(BUY), market.levels(SELL)) == ([[100, 1]], [[101, 1]])


# Times in force.


def test_ioc_leaves_nothing() -> None:
    """IOC trades what it can; the rest is cancelled, with a reason that says whether anything was filled."""
    market = market_with_asks((100, 2))
    assert told(market.place(BUY, 5, 100, time_in_force=IOC))[1:] == [
        (1, 2, 100, 2),
        ("CANCELLED", 2, "IOC_REMAINDER"),
    ]
    assert reason(market.place(BUY, 5, 100, time_in_force=IOC)) == "IOC_NOT_FILLED"
    assert market.levels(BUY) == []


def test_fok_takes_all_or_nothing() -> None:
    """FOK trades when the book has exactly enough in reach, and is rejected without a trace when one lot is missing."""
    market = market_with_asks((100, 2), (101, 3), (102, 9))
    assert told(market.place(BUY, 6, 101, time_in_force=FOK)) == [("REJECTED", 4, "FOK_NOT_FILLED")]
    assert market.levels(SELL) == [[100, 2], [101, 3], [102, 9]]
    assert trades(market.place(BUY, 5, 101, time_in_force=FOK)) == [(1, 5, 100, 2), (2, 5, 101, 3)]


@pytest.mark.parametrize(
    ("prevention", "wanted"),
    [
        (SelfTradePrevention.CANCEL_TAKER, [("REJECTED", 4, "FOK_NOT_FILLED")]),
        (SelfTradePrevention.CANCEL_BOTH, [("REJECTED", 4, "FOK_NOT_FILLED")]),
        (
            SelfTradePrevention.CANCEL_MAKER,
            [("ACCEPTED", 4, "NONE"), (1, 4, 100, 1), ("CANCELLED", 2, "SELF_TRADE"), (3, 4, 100, 1)],
        ),
    ],
)
def test_fok_with_an_own_order_in_the_way(prevention: SelfTradePrevention, wanted: list[object]) -> None:
    """FOK counts on what it may trade: past own orders only where these are the ones to end."""
    market = market_with_asks((100, 1))
    market.place(SELL, 1, 100, ALICE)
    market.place(SELL, 1, 100, BOB)
    assert told(market.place(BUY, 2, 100, ALICE, time_in_force=FOK, self_trade_prevention=prevention)) == wanted


def test_post_only_never_takes() -> None:
    """Post-only rests one tick away from a match, and is rejected where it would match."""
    market = market_with_asks((100, 1))
    assert reason(market.place(BUY, 1, 100, flags=POST_ONLY)) == "POST_ONLY_WOULD_MATCH"
    market.place(BUY, 1, 99, flags=POST_ONLY)
    assert market.levels(BUY) == [[99, 1]]
    assert reason(market.place(SELL, 1, 99, CAROL, flags=POST_ONLY)) == "POST_ONLY_WOULD_MATCH"


def test_gtd_order_ends_at_its_time() -> None:
    """An order with an end is there one nanosecond before it and gone at it; ends of one moment go by id."""
    market = Market()
    market.place(BUY, 1, 10, time_in_force=GTD, expires_at_ns=market.now_ns + 5)
    market.place(BUY, 1, 11, time_in_force=GTD, expires_at_ns=market.now_ns + 5)
    market.place(BUY, 1, 12, time_in_force=GTD, expires_at_ns=market.now_ns + 9)
    assert kernel.next_expiry_ns(market.book) == market.now_ns + 5
    market.now_ns += 4
    assert told(market.expire()) == [("EXPIRED", 0, "NONE")]
    market.now_ns += 1
    assert told(market.expire()) == [
        ("CANCELLED", 1, "EXPIRED"),
        ("CANCELLED", 2, "EXPIRED"),
        ("EXPIRED", 0, "NONE"),
    ]
    assert market.levels(BUY) == [[12, 1]]


def test_gtd_order_that_is_over_on_arrival() -> None:
    """An order whose end is not later than its own time is accepted and expires at once: it never trades."""
    market = market_with_asks((100, 1))
    events = market.place(BUY, 1, 100, time_in_force=GTD, expires_at_ns=market.now_ns)
    assert told(events) == [("ACCEPTED", 2, "NONE"), ("CANCELLED", 2, "EXPIRED")]


# Market orders.


def test_market_order_takes_what_is_there_and_ends() -> None:
    """A market order trades at any price and never rests."""
    market = market_with_asks((100, 1), (900, 1))
    assert told(market.place(BUY, 3))[1:] == [(1, 3, 100, 1), (2, 3, 900, 1), ("CANCELLED", 3, "NO_LIQUIDITY")]
    assert reason(market.place(SELL, 1)) == "NO_LIQUIDITY"


def test_market_order_stops_at_the_collar() -> None:
    """A market order trades to the best price on arrival plus the collar, one tick further it is cancelled."""
    market = Market(collar_ppm=50_000)
    for price in (100, 105, 106):
        market.place(SELL, 1, price, BOB)
    assert told(market.place(BUY, 3))[1:] == [(1, 4, 100, 1), (2, 4, 105, 1), ("CANCELLED", 4, "COLLAR")]


def test_market_buy_never_spends_more_than_its_hold() -> None:
    """With 1,049 units and asks of 10 lots at 100, a market buy takes ten; of the rest it takes none at 50 units."""
    market = market_with_asks((100, 10), (110, 10))
    events = market.place(BUY, 15, hold_units=1_049)
    assert told(events)[1:] == [(1, 3, 100, 10), ("CANCELLED", 3, "BUDGET")]
    assert (events["hold_units"][1], events["hold_released_units"][2]) == (49, 49)


def test_market_buy_whose_hold_buys_a_part_of_a_level() -> None:
    """The hold ends in the middle of a level: 305 units buy three lots at 100."""
    market = market_with_asks((100, 10))
    assert told(market.place(BUY, 5, hold_units=305))[1:] == [(1, 2, 100, 3), ("CANCELLED", 2, "BUDGET")]


def test_buy_for_an_amount_is_filled_when_no_lot_fits_any_more() -> None:
    """350 units buy two lots at 100 and one at 120; the 30 that are left buy none: the order is filled."""
    market = market_with_asks((100, 2), (120, 5))
    events = market.spend(350)
    assert told(events) == [("ACCEPTED", 3, "NONE"), (1, 3, 100, 2), (2, 3, 120, 1)]
    assert (events["remaining_lots"][-1], events["hold_units"][-1], events["hold_released_units"][-1]) == (0, 0, 30)


def test_buy_for_an_amount_that_buys_nothing_is_cancelled() -> None:
    """An amount below one lot at the best price ends with BUDGET, in an empty book with NO_LIQUIDITY."""
    market = market_with_asks((100, 2))
    assert reason(market.spend(99)) == "BUDGET"
    market.cancel(1, BOB)
    assert reason(market.spend(99)) == "NO_LIQUIDITY"


def test_fee_counts_within_an_amount() -> None:
    """At 10 % fee 219 units buy one lot at 100 (110), 220 buy two (220)."""
    market = Market(taker_fee_ppm=100_000)
    market.place(SELL, 10, 100, BOB)
    assert trades(market.spend(219)) == [(1, 2, 100, 1)]
    assert trades(market.spend(220)) == [(1, 3, 100, 2)]


# Stops.


def market_at(price: int, **parameters: int) -> Market:
    """Make a market whose last trade was at a price; orders 1 and 2 made it."""
    market = Market(**parameters)
    market.place(SELL, 1, price, BOB)
    market.place(BUY, 1, price, CAROL)
    return market


def trade_at(market: Market, price: int) -> list[tuple[object, ...]]:
    """Trade one lot at a price; return what was told after the trade itself."""
    market.place(SELL, 1, price, BOB)
    return told(market.place(BUY, 1, price, CAROL))[2:]


def test_stops_trigger_at_their_price_and_not_before() -> None:
    """A buy stop triggers at or above its stop price, a sell stop at or below, one tick away neither does."""
    market = market_at(100)
    market.place(BUY, 1, stop_price_ticks=102)
    market.place(SELL, 1, stop_price_ticks=98)
    assert market.stops() == [[BUY, 102, 1], [SELL, 98, 1]]
    assert trade_at(market, 101) == []
    assert trade_at(market, 99) == []
    assert trade_at(market, 102) == [("TRIGGERED", 3, "NONE"), ("CANCELLED", 3, "NO_LIQUIDITY")]
    assert trade_at(market, 98) == [("TRIGGERED", 4, "NONE"), ("CANCELLED", 4, "NO_LIQUIDITY")]


def test_stop_that_is_due_already_triggers_at_once() -> None:
    """A stop whose price was reached by the last trade is accepted and triggers in its own command."""
    market = market_at(100)
    assert told(market.place(BUY, 1, stop_price_ticks=100))[:2] == [("ACCEPTED", 3, "NONE"), ("TRIGGERED", 3, "NONE")]


def test_no_trade_no_trigger() -> None:
    """Before the first trade of a symbol no stop triggers, whatever its price."""
    market = market_with_asks((100, 1))
    assert told(market.place(BUY, 1, stop_price_ticks=1)) == [("ACCEPTED", 2, "NONE")]


def test_stops_fire_in_order_of_price_then_id() -> None:
    """When a trade reaches several buy stops, the lowest stop price fires first, at one price the oldest."""
    market = market_at(100)
    for stop in (103, 102, 103):
        market.place(BUY, 1, stop_price_ticks=stop)
    fired = [event[1] for event in trade_at(market, 103) if event[0] == "TRIGGERED"]
    assert fired == [4, 3, 5]


def test_stop_sets_off_stop() -> None:
    """A stop's own trade moves the last price and so reaches the next stop, within the same command."""
    market = market_at(100)
    market.place(SELL, 1, 110, BOB)  # 3
    market.place(SELL, 1, 120, BOB)  # 4
    market.place(BUY, 1, stop_price_ticks=105)  # 5
    market.place(BUY, 1, stop_price_ticks=110)  # 6
    market.place(SELL, 1, 105, BOB)  # 7
    events = market.place(BUY, 1, 105, CAROL)  # 8
    assert told(events)[1:] == [
        (7, 8, 105, 1),
        ("TRIGGERED", 5, "NONE"),
        (3, 5, 110, 1),
        ("TRIGGERED", 6, "NONE"),
        (4, 6, 120, 1),
    ]
    assert len(set(events["command_sequence"])) == 1


def test_stop_limit_becomes_a_limit_order() -> None:
    """A triggered stop-limit trades to its limit and rests there; with IOC or FOK the rest ends at the trigger."""
    market = market_at(100)
    market.place(BUY, 2, 103, stop_price_ticks=102)
    market.place(BUY, 2, 103, stop_price_ticks=102, time_in_force=IOC)
    market.place(BUY, 2, 103, stop_price_ticks=102, time_in_force=FOK)
    market.place(SELL, 1, 103, BOB)
    assert trade_at(market, 102) == [
        ("TRIGGERED", 3, "NONE"),
        (6, 3, 103, 1),
        ("TRIGGERED", 4, "NONE"),
        ("CANCELLED", 4, "IOC_NOT_FILLED"),
        ("TRIGGERED", 5, "NONE"),
        ("CANCELLED", 5, "FOK_NOT_FILLED"),
    ]
    assert market.levels(BUY) == [[103, 1]]


def test_stop_buy_never_spends_more_than_its_hold() -> None:
    """A stop buy that held 250 units buys two lots at 120 however many it wanted."""
    market = market_at(100)
    market.place(BUY, 9, stop_price_ticks=105, hold_units=250)
    market.place(SELL, 9, 120, BOB)
    assert trade_at(market, 105) == [("TRIGGERED", 3, "NONE"), (4, 3, 120, 2), ("CANCELLED", 3, "BUDGET")]


def test_waiting_stop_can_be_cancelled_amended_and_expires() -> None:
    """A stop is an open order: cancel, amend of its stop price, and its end in time reach it while it waits."""
    market = market_at(100)
    market.place(BUY, 1, stop_price_ticks=105)
    market.place(BUY, 1, stop_price_ticks=106)
    market.place(BUY, 1, stop_price_ticks=107, time_in_force=GTD, expires_at_ns=market.now_ns + 1)
    assert reason(market.cancel(3)) == "USER"
    market.amend(4, stop_price_ticks=110, quantity_lots=3)
    assert market.stops() == [[BUY, 107, 1], [BUY, 110, 3]]
    market.now_ns += 1
    market.expire()
    assert market.stops() == [[BUY, 110, 3]]
    assert told(market.amend(4, stop_price_ticks=99))[:2] == [("AMENDED", 4, "NONE"), ("TRIGGERED", 4, "NONE")]


# Self trades.


@pytest.mark.parametrize(
    ("prevention", "wanted", "left"),
    [
        (SelfTradePrevention.CANCEL_TAKER, [(1, 4, 100, 1), ("CANCELLED", 4, "SELF_TRADE")], [[100, 2]]),
        (
            SelfTradePrevention.CANCEL_MAKER,
            [(1, 4, 100, 1), ("CANCELLED", 2, "SELF_TRADE"), (3, 4, 100, 1)],
            [],
        ),
        (
            SelfTradePrevention.CANCEL_BOTH,
            [(1, 4, 100, 1), ("CANCELLED", 2, "SELF_TRADE"), ("CANCELLED", 4, "SELF_TRADE")],
            [[100, 1]],
        ),
    ],
)
def test_nobody_trades_with_themselves(
    prevention: SelfTradePrevention, wanted: list[object], left: list[list[int]]
) -> None:
    """Alice's order meets Bob's, her own, Bob's: the taker's setting decides who ends; none of it is a trade."""
    market = market_with_asks((100, 1))
    market.place(SELL, 1, 100, ALICE)
    market.place(SELL, 1, 100, BOB)
    assert told(market.place(BUY, 2, 100, ALICE, self_trade_prevention=prevention))[1:] == wanted
    assert market.levels(SELL) == left


# Amending.


def test_less_keeps_the_place_everything_else_loses_it() -> None:
    """Less quantity keeps the place; more quantity, or another price and back, goes to the end of the queue."""
    market = market_with_asks((100, 5), (100, 5), (100, 5), (100, 5))
    market.amend(1, BOB, quantity_lots=4)
    market.amend(2, BOB, quantity_lots=6)
    market.amend(3, BOB, price_ticks=101)
    market.amend(3, BOB, price_ticks=100)
    assert [trade[0] for trade in trades(market.place(BUY, 20, 100))] == [1, 4, 2, 3]


def test_amend_counts_what_is_filled() -> None:
    """The new quantity is the total; at or below what is filled it is refused and nothing changes."""
    market = market_with_asks((100, 5))
    market.place(BUY, 2, 100)
    assert told(market.amend(1, BOB, quantity_lots=2)) == [("REFUSED", 1, "QUANTITY_NOT_ABOVE_FILLED")]
    assert market.levels(SELL) == [[100, 3]]
    assert market.amend(1, BOB, quantity_lots=3)["remaining_lots"][0] == 1


def test_amended_price_may_trade() -> None:
    """An order that is amended into the other side trades as the taker it then is."""
    market = market_with_asks((100, 5))
    market.place(BUY, 2, 99)
    assert told(market.amend(2, price_ticks=100)) == [("AMENDED", 2, "NONE"), (1, 2, 100, 2)]


def test_amend_takes_what_it_needs_and_gives_back_the_rest() -> None:
    """From 2 lots at 99 (198) to 3 at 100 (300): of 150 more units 48 come back; of 101 there is one too few."""
    market = Market()
    market.place(BUY, 2, 99)
    assert reason(market.amend(1, price_ticks=100, quantity_lots=3, hold_units=101)) == "INSUFFICIENT_BALANCE"
    event = market.amend(1, price_ticks=100, quantity_lots=3, hold_units=150)[0]
    assert (event["hold_units"], event["hold_released_units"]) == (300, 48)
    event = market.amend(1, price_ticks=50, hold_units=0)[0]
    assert (event["hold_units"], event["hold_released_units"]) == (150, 150)


def test_post_only_stays_post_only() -> None:
    """A post-only order cannot be amended into a match."""
    market = market_with_asks((100, 1))
    market.place(BUY, 1, 99, flags=POST_ONLY)
    assert reason(market.amend(2, price_ticks=100)) == "POST_ONLY_WOULD_MATCH"
    assert market.levels(BUY) == [[99, 1]]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"stop_price_ticks": 5}, "INVALID_COMBINATION"),
        ({"price_ticks": 10**6 + 1}, "NUMBER_OUT_OF_RANGE"),
        ({"price_ticks": -1}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity_lots": 10**6 + 1}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity_lots": -1}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity_lots": 2, "hold_units": -1}, "NUMBER_OUT_OF_RANGE"),
        ({"price_ticks": 5, "account": BOB}, "ORDER_NOT_FOUND"),
    ],
)
def test_refused_amend_changes_nothing(fields: dict[str, int], why: str) -> None:
    """An amend that is refused leaves the order, its hold and its place as they were."""
    market = Market()
    market.place(BUY, 1, 99)
    before = kernel.dump(market.book)
    assert reason(market.amend(1, **fields)) == why
    assert kernel.levels(market.book, 0, BUY).tolist() == [[99, 1]]
    assert kernel.load(market.limits, before).orders[16:32].tolist() == market.book.orders[16:32].tolist()


# Cancelling, states.


def test_strangers_cannot_cancel() -> None:
    """Another account's order is not found; nor is one that has ended."""
    market = market_with_asks((100, 1))
    assert reason(market.cancel(1, ALICE)) == "ORDER_NOT_FOUND"
    assert reason(market.cancel(1, BOB)) == "USER"
    assert reason(market.cancel(1, BOB)) == "ORDER_NOT_FOUND"


def test_mass_cancel_ends_one_accounts_orders() -> None:
    """A mass cancel ends resting orders and waiting stops of its account alone, oldest first, and says how many."""
    market = market_at(100)
    market.place(BUY, 1, 50, ALICE)
    market.place(BUY, 1, 51, BOB)
    market.place(BUY, 1, stop_price_ticks=200, account=ALICE)
    events = market.send(CommandKind.CANCEL_ALL, account_id=ALICE, symbol_id=-1)
    assert told(events) == [
        ("CANCELLED", 3, "CANCELLED_ALL"),
        ("CANCELLED", 5, "CANCELLED_ALL"),
        ("CANCELLED_ALL", 0, "NONE"),
    ]
    assert events["quantity_lots"][-1] == 2
    assert market.levels(BUY) == [[51, 1]]
    market.send(CommandKind.CANCEL_ALL, account_id=0, symbol_id=0)
    assert market.levels(BUY) == []


@pytest.mark.parametrize(
    ("state", "why"), [(TradingState.HALTED, "SYMBOL_HALTED"), (TradingState.CANCEL_ONLY, "CANCEL_ONLY")]
)
def test_closed_market_takes_nothing_but_cancels(state: TradingState, why: str) -> None:
    """While closed a market rejects orders and refuses amends; cancels and expiry work; opened again it goes on."""
    market = market_at(100)
    market.place(BUY, 1, 90, time_in_force=GTD, expires_at_ns=market.now_ns + 1)
    market.place(BUY, 1, 91)
    market.place(BUY, 1, 92)
    assert told(market.set_state(state)) == [("TRADING_STATE_SET", 0, "NONE")]
    assert told(market.place(SELL, 1, 90, BOB)) == [("REJECTED", 6, why)]
    assert told(market.amend(4, price_ticks=80)) == [("REFUSED", 4, why)]
    assert reason(market.cancel(4)) == "USER"
    market.now_ns += 1
    assert told(market.expire())[0] == ("CANCELLED", 3, "EXPIRED")
    market.set_state(TradingState.OPEN)
    assert trades(market.place(SELL, 1, 90, BOB)) == [(5, 7, 92, 1)]


def test_all_symbols_close_at_once() -> None:
    """Symbol -1 is every listed symbol, each with its event; a symbol that is not listed is refused."""
    market = Market()
    market.list_symbol(1)
    assert market.set_state(TradingState.HALTED, -1)["symbol_id"].tolist() == [0, 1]
    assert reason(Market().set_state(TradingState.HALTED, 1)) == "SYMBOL_NOT_FOUND"


# Collar.


def test_collar_refuses_limits_on_the_aggressive_side_only() -> None:
    """At last price 100 and 5 %, a buy at 105 is taken and one at 106 rejected; low buys are nobody's business."""
    market = market_at(100, collar_ppm=50_000)
    assert reason(market.place(BUY, 1, 106)) == "PRICE_OUT_OF_COLLAR"
    assert reason(market.place(SELL, 1, 94, BOB)) == "PRICE_OUT_OF_COLLAR"
    for side, price in ((BUY, 105), (BUY, 1)):
        assert reason(market.place(side, 1, price)) == "NONE"
    assert reason(Market(collar_ppm=50_000).place(BUY, 1, 10**6)) == "NONE"


# What a book has room for, and what it takes at all.


def test_full_book_says_so() -> None:
    """Without room for an order, or for a price level, an order is rejected; where a level exists it is taken."""
    market = Market(orders_max=3, levels_max=2)
    market.place(BUY, 1, 10)
    market.place(BUY, 1, 11)
    assert reason(market.place(BUY, 1, 12)) == "BOOK_FULL"
    assert reason(market.place(BUY, 1, 11)) == "NONE"
    assert reason(market.place(BUY, 1, 11)) == "BOOK_FULL"
    market.cancel(1)
    assert reason(market.amend(2, price_ticks=15)) == "NONE"


def test_only_the_apis_combinations_are_taken() -> None:
    """Of all types, times in force and flags only those of the API's table are taken; others leave no order."""
    t = TimeInForce
    allowed = {
        OrderType.LIMIT: set(t),
        OrderType.MARKET: {t.IOC, t.FOK},
        OrderType.STOP: {t.GTC, t.GTD},
        OrderType.STOP_LIMIT: set(t),
    }
    for order_type, time, flags, side in product(OrderType, TimeInForce, range(4), (BUY, SELL)):
        market = Market()
        post_only, by_quote = bool(flags & POST_ONLY), bool(flags & CommandFlag.BY_QUOTE)
        wanted = (
            time in allowed[order_type]
            and not (post_only and (order_type != OrderType.LIMIT or time in (t.IOC, t.FOK)))
            and not (by_quote and (order_type != OrderType.MARKET or side == SELL or post_only))
        )
        events = market.place(
            side,
            0 if by_quote else 1,
            order_type=order_type,
            time_in_force=time,
            flags=flags,
            price_ticks=5 * (order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT)),
            stop_price_ticks=5 * (order_type in (OrderType.STOP, OrderType.STOP_LIMIT)),
            expires_at_ns=market.now_ns + 1 if time == GTD else 0,
        )
        assert (reason(events) == "INVALID_COMBINATION") != wanted, (order_type, time, flags, side)
        if not wanted:
            assert kernel.order_count(market.book) == 0


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"symbol_id": 1}, "SYMBOL_NOT_FOUND"),
        ({"symbol_id": -1}, "SYMBOL_NOT_FOUND"),
        ({"account_id": 64}, "INVALID_REQUEST"),
        ({"account_id": -1}, "INVALID_REQUEST"),
        ({"order_id": 0}, "INVALID_REQUEST"),
        ({"price_ticks": 0}, "INVALID_COMBINATION"),
        ({"quantity_lots": 0}, "INVALID_COMBINATION"),
        ({"self_trade_prevention": 0}, "INVALID_COMBINATION"),
        ({"expires_at_ns": 1}, "INVALID_COMBINATION"),
        ({"price_ticks": 10**6 + 1}, "NUMBER_OUT_OF_RANGE"),
        ({"price_ticks": -1}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity_lots": 10**6 + 1}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity_lots": -1}, "NUMBER_OUT_OF_RANGE"),
        ({"hold_units": -1}, "NUMBER_OUT_OF_RANGE"),
        ({"hold_units": 99}, "INSUFFICIENT_BALANCE"),
    ],
)
def test_wrong_order_leaves_nothing(fields: dict[str, int], why: str) -> None:
    """What is wrong in itself is refused: no order, the hold given back, the book as it was."""
    market = Market()
    before = kernel.state_hash(kernel.load(market.limits, kernel.dump(market.book)))
    values = {"quantity": 1, "price": 100, "hold_units": PLENTY} | fields
    events = market.place(BUY, values.pop("quantity"), values.pop("price"), **values)
    assert told(events) == [("REFUSED", fields.get("order_id", 1), why)]
    assert events["hold_released_units"][0] == values["hold_units"]
    assert (kernel.order_count(market.book), market.levels(BUY)) == (0, [])
    assert kernel.state_hash(market.book) != before  # its event and command were counted


def test_order_below_the_minimum_notional_is_refused() -> None:
    """At a minimum of 500 units, 5 lots at 100 pass and 5 at 99 do not."""
    market = Market(notional_units_min=500)
    assert reason(market.place(BUY, 5, 99)) == "BELOW_MIN_NOTIONAL"
    assert reason(market.place(BUY, 5, 100)) == "NONE"


def test_symbol_is_listed_once_and_keeps_its_units() -> None:
    """A second listing is refused, and so are parameters that change tick, lot or assets."""
    market = Market()
    assert reason(market.list_symbol(0)) == "SYMBOL_EXISTS"
    for changed in ({"tick_lot_units": 2}, {"lot_units": 2}, {"quote_asset_id": 5}):
        assert reason(market.list_symbol(0, CommandKind.SET_PARAMETERS, **changed)) == "INVALID_REQUEST"
    assert reason(market.list_symbol(0, CommandKind.SET_PARAMETERS, quantity_lots_max=5)) == "NONE"
    assert reason(market.place(BUY, 6, 1)) == "NUMBER_OUT_OF_RANGE"


# Events.


def test_every_command_ends_with_a_flag() -> None:
    """Every command has at least one event, the last one is flagged, and sequences follow one another."""
    market = market_at(100)
    results = [
        market.place(BUY, 3, 99),
        market.amend(3, quantity_lots=2),
        market.place(SELL, 5, 99, BOB),
        market.cancel(77),
        market.cancel(4, BOB),
        market.expire(),
        market.set_state(TradingState.OPEN, -1),
        market.send(CommandKind.CANCEL_ALL, account_id=0, symbol_id=-1),
        market.send(99),
    ]
    for events in results:
        flagged = (events["flags"] & EventFlag.LAST_OF_COMMAND != 0).tolist()
        assert flagged == [False] * (len(events) - 1) + [True]
    sequences = [int(sequence) for events in results for sequence in events["sequence"]]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))


def test_trade_ids_ascend_beyond_one_milliseconds_counter() -> None:
    """More trades in a millisecond than its counter has numbers borrow from the next; ids go on ascending."""
    market = Market(orders_max=70_000)
    sells = np.zeros(66_000, command_dtype)
    sells["kind"], sells["side"], sells["order_type"] = CommandKind.PLACE, SELL, OrderType.LIMIT
    sells["time_in_force"], sells["self_trade_prevention"] = TimeInForce.GTC, SelfTradePrevention.CANCEL_TAKER
    sells["order_id"], sells["account_id"] = np.arange(1, 66_001), BOB
    sells["price_ticks"], sells["quantity_lots"], sells["hold_units"] = 5, 1, 1
    run(market.book, sells)
    market.order_id = 66_000
    events = market.place(BUY, 66_000, 5)
    ids = events["trade_id"][events["kind"] == EventKind.TRADED]
    assert len(ids) == 66_000
    assert bool((ids[1:] > ids[:-1]).all())
    assert ids[-1] >> 22 == (ids[0] >> 22) + 1
