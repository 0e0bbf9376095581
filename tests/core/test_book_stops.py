"""Stops in the order book, rule by rule: what waits, what sets it off, in which order, and what it then is."""

from __future__ import annotations

import pytest
from tests.core.book_world import (
    ALICE,
    BOB,
    BUY,
    CAROL,
    PLENTY,
    SELL,
    Market,
    amounts,
    market_at,
    market_with_asks,
    reason,
    told,
    trades,
)

from tradeengine.core import book as kernel
from tradeengine.core.records import EventFlag, SelfTradePrevention, Side, TimeInForce, TradingState

IOC, FOK, GTD = TimeInForce.IOC, TimeInForce.FOK, TimeInForce.GTD


def fired(events: list[tuple[object, ...]]) -> list[object]:
    """Orders that were triggered, in order."""
    return [event[1] for event in events if event[0] == "TRIGGERED"]


# What sets a stop off.


def test_stops_trigger_at_their_price_and_not_before() -> None:
    """A buy stop triggers at or above its stop price, a sell stop at or below, one tick away neither does."""
    market = market_at(100)
    market.stop(BUY, 1, 102)
    market.stop(SELL, 1, 98)
    assert market.stops() == [[BUY, 102, 1], [SELL, 98, 1]]
    assert market.trade_at(101) == []
    assert market.trade_at(99) == []
    assert market.trade_at(102) == [("TRIGGERED", 3, "NONE"), ("CANCELLED", 3, "NO_LIQUIDITY")]
    assert market.trade_at(98) == [("TRIGGERED", 4, "NONE"), ("CANCELLED", 4, "NO_LIQUIDITY")]


@pytest.mark.parametrize(("side", "price"), [(BUY, 103), (SELL, 97)])
def test_price_beyond_the_stop_triggers_too(side: Side, price: int) -> None:
    """A trade that jumps over a stop price sets it off."""
    market = market_at(100)
    market.stop(side, 1, 102 if side == BUY else 98)
    assert fired(market.trade_at(price)) == [3]


def test_waiting_stop_is_not_in_the_book() -> None:
    """A waiting stop is on no level and trades with nobody; a quote at its price does not set it off, a trade does."""
    market = market_at(100)
    market.stop(SELL, 1, 98, 97)
    assert (market.levels(SELL), market.levels(BUY)) == ([], [])
    assert told(market.place(BUY, 1, 98, BOB)) == [("ACCEPTED", 4, "NONE")]
    assert market.levels(BUY) == [[98, 1]]


@pytest.mark.parametrize(("side", "stop"), [(BUY, 100), (BUY, 99), (SELL, 100), (SELL, 101)])
def test_stop_that_is_due_already_triggers_at_once(side: Side, stop: int) -> None:
    """A stop whose price was reached by the last trade is accepted and triggers in its own command."""
    market = market_at(100)
    events = market.stop(side, 1, stop)
    assert told(events) == [("ACCEPTED", 3, "NONE"), ("TRIGGERED", 3, "NONE"), ("CANCELLED", 3, "NO_LIQUIDITY")]


def test_no_trade_no_trigger() -> None:
    """Before the first trade of a symbol no stop triggers, whatever its price."""
    market = market_with_asks((100, 1))
    assert told(market.stop(BUY, 1, 1)) == [("ACCEPTED", 2, "NONE")]
    assert told(market.stop(SELL, 1, 10**6)) == [("ACCEPTED", 3, "NONE")]


def test_trades_of_another_symbol_trigger_nothing() -> None:
    """A stop looks at the last price of its own symbol."""
    market = market_at(100)
    market.list_symbol(1)
    market.stop(BUY, 1, 102, symbol_id=1)
    assert market.trade_at(105) == []


# In which order.


def test_stops_fire_in_order_of_price_then_id() -> None:
    """When a trade reaches several buy stops, the lowest stop price fires first, at one price the oldest."""
    market = market_at(100)
    for stop in (103, 102, 103):
        market.stop(BUY, 1, stop)
    assert fired(market.trade_at(103)) == [4, 3, 5]


def test_sell_stops_fire_from_the_highest_price_on() -> None:
    """When a trade reaches several sell stops, the highest stop price fires first, at one price the oldest."""
    market = market_at(100)
    for stop in (97, 98, 97):
        market.stop(SELL, 1, stop)
    assert fired(market.trade_at(97)) == [4, 3, 5]


def test_buy_stops_fire_before_sell_stops() -> None:
    """Stops on both sides that wait for a symbol's first trade: the buys go first."""
    market = Market()
    market.stop(SELL, 1, 110)
    market.stop(BUY, 1, 90)
    market.stop(SELL, 1, 120)
    market.stop(BUY, 1, 95)
    assert fired(market.trade_at(100)) == [2, 4, 3, 1]


def test_stops_fire_after_the_command_that_traded() -> None:
    """The order that trades at a stop's price has its other fills first, and is in the book before the stop fires."""
    market = market_at(90)
    market.stop(SELL, 1, 80)  # 3
    market.stop(BUY, 2, 100)  # 4
    market.place(SELL, 1, 100, BOB)  # 5
    market.place(SELL, 1, 105, BOB)  # 6
    market.place(SELL, 1, 110, BOB)  # 7
    events = market.place(BUY, 3, 105, CAROL)  # 8
    assert told(events)[1:] == [
        (5, 8, 100, 1),
        (6, 8, 105, 1),
        ("TRIGGERED", 4, "NONE"),
        (7, 4, 110, 1),
        ("CANCELLED", 4, "NO_LIQUIDITY"),
    ]
    assert market.levels(BUY) == [[105, 1]]


def test_stop_sets_off_stop() -> None:
    """A stop's own trade moves the last price and so reaches the next stop, within the same command."""
    market = market_at(100)
    market.place(SELL, 1, 110, BOB)  # 3
    market.place(SELL, 1, 120, BOB)  # 4
    market.stop(BUY, 1, 105)  # 5
    market.stop(BUY, 1, 110)  # 6
    assert market.trade_at(105) == [
        ("TRIGGERED", 5, "NONE"),
        (3, 5, 110, 1),
        ("TRIGGERED", 6, "NONE"),
        (4, 6, 120, 1),
    ]


def test_long_chain_runs_to_its_end() -> None:
    """Fifty stops, each set off by the one before, are one command with fifty-one trades."""
    market = market_at(100)
    for price in range(101, 152):
        market.place(SELL, 1, price, BOB)
    for price in range(101, 151):
        market.stop(BUY, 1, price)
    events = market.place(BUY, 1, 101, CAROL)
    assert [trade[2] for trade in trades(events)] == list(range(101, 152))
    assert (market.stops(), kernel.order_count(market.book)) == ([], 0)


def test_stop_that_is_out_of_reach_again_goes_on_waiting() -> None:
    """One stop runs to its end before the next is looked for: where it moved the price away, the next one waits."""
    market = Market()
    market.stop(BUY, 1, 100)  # 1
    market.stop(SELL, 1, 110)  # 2
    market.place(SELL, 1, 120, BOB)  # 3
    assert market.trade_at(100) == [("TRIGGERED", 1, "NONE"), (3, 1, 120, 1)]
    assert market.stops() == [[SELL, 110, 1]]


# What it then is.


def test_fired_stop_is_told_under_the_command_that_set_it_off() -> None:
    """The events of a fired stop name the trade's command; they carry the order's own content, and that it fired."""
    market = market_at(100)
    market.stop(SELL, 2, 98, client_order_id=b"mine", ingress_sequence=7)
    market.place(BUY, 1, 98, BOB)
    market.place(BUY, 1, 97, BOB)
    events = market.place(SELL, 1, 98, CAROL, ingress_sequence=9)
    assert told(events)[1:] == [
        (4, 6, 98, 1),
        ("TRIGGERED", 3, "NONE"),
        (5, 3, 97, 1),
        ("CANCELLED", 3, "NO_LIQUIDITY"),
    ]
    assert events["ingress_sequence"].tolist() == [9] * 5
    assert amounts(events[2], "hold_units", "account_id", "stop_price_ticks") == (2, ALICE, 98)
    assert events["client_order_id"][2] == b"mine"
    assert [bool(flags & EventFlag.TRIGGERED) for flags in events["flags"]] == [False, False, True, True, True]


def test_stop_limit_becomes_a_limit_order() -> None:
    """A triggered stop-limit trades to its limit and rests there; with IOC or FOK the rest ends at the trigger."""
    market = market_at(100)
    market.stop(BUY, 2, 102, 103)
    market.stop(BUY, 2, 102, 103, time_in_force=IOC)
    market.stop(BUY, 2, 102, 103, time_in_force=FOK)
    market.place(SELL, 1, 103, BOB)
    assert market.trade_at(102) == [
        ("TRIGGERED", 3, "NONE"),
        (6, 3, 103, 1),
        ("TRIGGERED", 4, "NONE"),
        ("CANCELLED", 4, "IOC_NOT_FILLED"),
        ("TRIGGERED", 5, "NONE"),
        ("CANCELLED", 5, "FOK_NOT_FILLED"),
    ]
    assert market.levels(BUY) == [[103, 1]]


def test_fok_stop_limit_fills_whole_at_its_trigger() -> None:
    """A stop-limit with FOK looks at the book when it fires, not when it comes."""
    market = market_at(100)
    assert told(market.stop(BUY, 2, 102, 103, time_in_force=FOK)) == [("ACCEPTED", 3, "NONE")]
    market.place(SELL, 2, 103, BOB)
    assert market.trade_at(102) == [("TRIGGERED", 3, "NONE"), (4, 3, 103, 2)]


def test_fired_stop_limit_is_behind_those_who_came_before() -> None:
    """A stop-limit has its place in the queue from when it fired, not from when it was placed."""
    market = market_at(100)
    market.stop(BUY, 1, 102, 101)  # 3
    market.place(BUY, 1, 101, BOB)  # 4
    market.trade_at(102)
    assert [trade[0] for trade in trades(market.place(SELL, 2, 101, CAROL))] == [4, 3]


def test_stop_buy_never_spends_more_than_its_hold() -> None:
    """With a fee of 10 %, a stop buy that held 250 units buys one lot at 120 (132), however many it wanted."""
    market = market_at(100, taker_fee_ppm=100_000)
    market.stop(BUY, 9, 105, hold_units=250)
    market.place(SELL, 9, 120, BOB)
    market.place(SELL, 1, 105, BOB)
    events = market.place(BUY, 1, 105, CAROL)
    assert told(events)[2:] == [("TRIGGERED", 3, "NONE"), (4, 3, 120, 1), ("CANCELLED", 3, "BUDGET")]
    assert events["hold_units"][2:].tolist() == [250, 118, 0]
    assert events["hold_released_units"][-1] == 118


def test_stop_sell_holds_what_it_sells() -> None:
    """A stop sell holds its lots of base, ten units each; what finds no buyer comes back."""
    market = market_at(100, lot_units=10)
    assert amounts(market.stop(SELL, 3, 98)[0], "hold_units", "hold_released_units") == (30, PLENTY - 30)
    market.place(BUY, 2, 97, BOB)
    market.place(SELL, 1, 98, BOB)
    events = market.place(BUY, 1, 98, CAROL)
    assert told(events)[2:] == [("TRIGGERED", 3, "NONE"), (4, 3, 97, 2), ("CANCELLED", 3, "NO_LIQUIDITY")]
    assert events["hold_released_units"][-1] == 10


def test_collar_of_a_stop_is_that_of_its_trigger() -> None:
    """A fired stop trades to the best price at its trigger plus 5 %: from 110 to 115, not to 116."""
    market = market_at(100, collar_ppm=50_000)
    market.stop(BUY, 3, 105)
    for price in (110, 115, 116):
        market.place(SELL, 1, price, BOB)
    assert market.trade_at(105) == [
        ("TRIGGERED", 3, "NONE"),
        (4, 3, 110, 1),
        (5, 3, 115, 1),
        ("CANCELLED", 3, "COLLAR"),
    ]


def test_limit_of_a_stop_meets_the_collar_at_its_trigger() -> None:
    """A stop-limit's limit is looked at when it fires: at 105 and 5 %, 110 is within the collar and 111 is not."""
    market = market_at(100, collar_ppm=50_000)
    market.stop(BUY, 1, 105, 110)
    market.stop(BUY, 1, 105, 111)
    assert market.trade_at(105) == [
        ("TRIGGERED", 3, "NONE"),
        ("TRIGGERED", 4, "NONE"),
        ("CANCELLED", 4, "COLLAR"),
    ]
    assert market.levels(BUY) == [[110, 1]]


def test_fired_stop_limit_without_room_ends() -> None:
    """Where the book has no level left for the rest of a fired stop-limit, it is cancelled and gives back its hold."""
    market = market_at(100, levels_max=1)
    market.place(BUY, 1, 90, BOB)
    market.stop(BUY, 1, 102, 101)
    market.place(SELL, 1, 102, BOB)
    events = market.place(BUY, 1, 102, CAROL, time_in_force=IOC)
    assert told(events)[2:] == [("TRIGGERED", 4, "NONE"), ("CANCELLED", 4, "BOOK_FULL")]
    assert events["hold_released_units"][-1] == 101


@pytest.mark.parametrize(
    ("prevention", "wanted"),
    [
        (SelfTradePrevention.CANCEL_TAKER, [("CANCELLED", 3, "SELF_TRADE")]),
        (SelfTradePrevention.CANCEL_MAKER, [("CANCELLED", 4, "SELF_TRADE"), (5, 3, 106, 1)]),
        (SelfTradePrevention.CANCEL_BOTH, [("CANCELLED", 4, "SELF_TRADE"), ("CANCELLED", 3, "SELF_TRADE")]),
    ],
)
def test_fired_stop_does_not_trade_with_its_owner(prevention: SelfTradePrevention, wanted: list[object]) -> None:
    """Prevention counts for a stop as a taker."""
    market = market_at(100)
    market.stop(BUY, 1, 105, self_trade_prevention=prevention)
    market.place(SELL, 1, 106)
    market.place(SELL, 1, 106, BOB)
    assert market.trade_at(105) == [("TRIGGERED", 3, "NONE"), *wanted]


# While it waits.


def test_waiting_stop_can_be_cancelled_and_amended() -> None:
    """A stop is an open order: a cancel and an amend reach it; one that comes due by an amend fires at once."""
    market = market_at(100)
    market.stop(BUY, 1, 105)
    market.stop(BUY, 1, 106)
    assert told(market.cancel(3)) == [("CANCELLED", 3, "USER")]
    market.amend(4, stop_price_ticks=110, quantity_lots=3)
    assert market.stops() == [[BUY, 110, 3]]
    assert told(market.amend(4, stop_price_ticks=99))[:2] == [("AMENDED", 4, "NONE"), ("TRIGGERED", 4, "NONE")]


def test_amended_stop_limit_holds_for_its_new_limit() -> None:
    """From 2 lots at 103 (206) to 2 at 110 a waiting stop-limit needs 14 more; 13 are too few, of 20 six come back."""
    market = market_at(100)
    market.stop(BUY, 2, 102, 103)
    assert reason(market.amend(3, price_ticks=110, hold_units=13)) == "INSUFFICIENT_BALANCE"
    assert amounts(market.amend(3, price_ticks=110, hold_units=20)[0], "hold_units", "hold_released_units") == (220, 6)
    assert market.stops() == [[BUY, 102, 2]]


def test_amended_stop_stands_by_its_id() -> None:
    """A stop that was moved away and back fires in the order of ids all the same."""
    market = market_at(100)
    for _ in range(3):
        market.stop(BUY, 1, 105)
    for stop in (110, 105):
        market.amend(4, stop_price_ticks=stop)
    assert fired(market.trade_at(105)) == [3, 4, 5]


def test_only_a_waiting_stop_has_a_stop_price_to_amend() -> None:
    """A stop-limit that has fired is a limit order, and a stop without limit has none to amend."""
    market = market_at(100)
    market.stop(BUY, 1, 102, 101)
    market.stop(BUY, 1, 110)
    market.trade_at(102)
    assert reason(market.amend(3, stop_price_ticks=103)) == "INVALID_COMBINATION"
    assert reason(market.amend(4, price_ticks=103)) == "INVALID_COMBINATION"
    assert reason(market.amend(3, price_ticks=100)) == "NONE"
    assert market.levels(BUY) == [[100, 1]]


def test_gtd_stop_expires_waiting_or_resting() -> None:
    """The end of a GTD stop counts while it waits and, of a stop-limit, while it rests; fired at market it is over."""
    market = market_at(100)
    terms = {"time_in_force": GTD, "expires_at_ns": market.now_ns + 1}
    market.stop(BUY, 1, 107, **terms)
    market.stop(BUY, 1, 102, 101, **terms)
    market.stop(BUY, 1, 102, **terms)
    assert market.trade_at(102) == [
        ("TRIGGERED", 4, "NONE"),
        ("TRIGGERED", 5, "NONE"),
        ("CANCELLED", 5, "NO_LIQUIDITY"),
    ]
    market.now_ns += 1
    assert told(market.expire())[:-1] == [("CANCELLED", 3, "EXPIRED"), ("CANCELLED", 4, "EXPIRED")]
    assert (market.stops(), market.levels(BUY)) == ([], [])


def test_gtd_stop_that_is_over_on_arrival_never_fires() -> None:
    """A stop whose end is not later than its own time expires at once, though it would be due."""
    market = market_at(100)
    events = market.stop(BUY, 1, 100, time_in_force=GTD, expires_at_ns=market.now_ns)
    assert told(events) == [("ACCEPTED", 3, "NONE"), ("CANCELLED", 3, "EXPIRED")]


@pytest.mark.parametrize(
    ("state", "why"), [(TradingState.HALTED, "SYMBOL_HALTED"), (TradingState.CANCEL_ONLY, "CANCEL_ONLY")]
)
def test_stops_keep_still_while_closed(state: TradingState, why: str) -> None:
    """A closed symbol takes no stop, not even one that is due, and amends none; what waits can go, or fires later."""
    market = market_at(100)
    for _ in range(3):
        market.stop(BUY, 1, 105)
    market.set_state(state)
    assert told(market.stop(BUY, 1, 100)) == [("REJECTED", 6, why)]
    assert told(market.amend(3, stop_price_ticks=99)) == [("REFUSED", 3, why)]
    assert reason(market.cancel(4)) == "USER"
    market.set_state(TradingState.OPEN)
    assert market.stops() == [[BUY, 105, 2]]
    assert fired(market.trade_at(105)) == [3, 5]


def test_mass_cancel_reaches_waiting_stops() -> None:
    """A mass cancel ends waiting stops of both sides with their holds."""
    market = market_at(100)
    market.stop(BUY, 1, 105, hold_units=500)
    market.stop(SELL, 7, 95)
    market.stop(SELL, 1, 95, account=BOB)
    events = market.cancel_all(ALICE, 0)
    assert told(events)[:-1] == [("CANCELLED", 3, "CANCELLED_ALL"), ("CANCELLED", 4, "CANCELLED_ALL")]
    assert events["hold_released_units"][:-1].tolist() == [500, 7]
    assert market.stops() == [[SELL, 95, 1]]


def test_ladder_of_stops_can_be_full() -> None:
    """Stops have levels of their own: a new price is rejected when there is no room, a price that is there is not."""
    market = market_at(100, levels_max=1)
    for side, stop in ((BUY, 105), (BUY, 105), (SELL, 95)):
        assert reason(market.stop(side, 1, stop)) == "NONE"
    for side, stop in ((BUY, 106), (SELL, 94)):
        assert reason(market.stop(side, 1, stop)) == "BOOK_FULL"
    assert reason(market.amend(3, stop_price_ticks=106)) == "BOOK_FULL"
    assert reason(market.amend(5, stop_price_ticks=94)) == "NONE"
    assert market.stops() == [[BUY, 105, 2], [SELL, 94, 1]]


@pytest.mark.parametrize("amended", [1, 2, 3, 4])
def test_stop_that_comes_to_a_price_stands_by_its_id(amended: int) -> None:
    """Stops of one price fire by their ids, also one that was amended to it after younger ones had come."""
    market = Market()
    for order_id in range(1, 5):
        market.stop(SELL, 1, 80 if order_id == amended else 90, order_id=order_id)
    assert market.stops() == [[SELL, 90, 3], [SELL, 80, 1]]
    market.amend(amended, stop_price_ticks=90)
    market.order_id = 4
    assert fired(market.trade_at(90)) == [1, 2, 3, 4]
    assert market.stops() == []


def test_stop_price_out_of_the_bounds_changes_nothing() -> None:
    """An amend to a stop price that the symbol does not allow is refused, and the stop waits where it was."""
    market = market_at(100, price_ticks_max=1_000)
    market.stop(SELL, 1, 98)
    for stop_price in (-1, 1_001):
        assert reason(market.amend(3, stop_price_ticks=stop_price)) == "NUMBER_OUT_OF_RANGE"
    assert market.stops() == [[SELL, 98, 1]]
