"""What a symbol allows in the order book: listing, parameters, trading states, collars, bounds, room."""

from __future__ import annotations

from typing import Any

import pytest
from tests.core.book_world import (
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
from tradeengine.core.records import (
    CommandFlag,
    Side,
    TimeInForce,
    TradingState,
    symbol_event_dtype,
)

IOC, FOK, GTD = TimeInForce.IOC, TimeInForce.FOK, TimeInForce.GTD
HALTED, CANCEL_ONLY, OPEN = TradingState.HALTED, TradingState.CANCEL_ONLY, TradingState.OPEN
FIVE_PERCENT = 50_000
CLOSED = [(HALTED, "SYMBOL_HALTED"), (CANCEL_ONLY, "CANCEL_ONLY")]


# Listing and parameters.


def test_listing_tells_every_parameter() -> None:
    """The event of a listing has all that was asked for; a symbol may be listed closed."""
    market = Market()
    terms = {
        "tick_lot_units": 3,
        "lot_units": 4,
        "quantity_lots_min": 5,
        "quantity_lots_max": 6,
        "notional_units_min": 7,
        "price_ticks_max": 8,
        "base_asset_id": 9,
        "quote_asset_id": 10,
        "maker_fee_ppm": 11,
        "taker_fee_ppm": 12,
        "collar_ppm": 13,
        "shard": 14,
        "trading_state": HALTED,
    }
    event = market.list_symbol(1, **terms).view(symbol_event_dtype)[0]
    assert {name: int(event[name]) for name in terms} == terms
    assert reason(market.place(BUY, 5, 5, symbol_id=1)) == "SYMBOL_HALTED"


def test_symbol_is_listed_once() -> None:
    """A second listing of a symbol is refused and changes none of its parameters."""
    market = Market()
    assert reason(market.list_symbol(0, quantity_lots_max=5)) == "SYMBOL_EXISTS"
    assert reason(market.place(BUY, 6, 1)) == "NONE"


@pytest.mark.parametrize(
    ("symbol_id", "changes", "why"),
    [
        (-1, {}, "NUMBER_OUT_OF_RANGE"),
        (2, {}, "NUMBER_OUT_OF_RANGE"),
        (1, {"trading_state": 0}, "INVALID_REQUEST"),
        (1, {"trading_state": 4}, "INVALID_REQUEST"),
    ],
)
def test_listing_that_cannot_be(symbol_id: int, changes: dict[str, int], why: str) -> None:
    """A symbol that the book has no room for, or a state that is none, is refused."""
    assert reason(Market().list_symbol(symbol_id, **changes)) == why


BOUNDS = [
    ({"tick_lot_units": 0}, {"tick_lot_units": 1}),
    ({"lot_units": 0}, {"lot_units": 1}),
    ({"quantity_lots_min": 0}, {"quantity_lots_min": 10**6}),
    ({"quantity_lots_min": 10**6 + 1}, {"quantity_lots_min": 10**6}),
    ({"price_ticks_max": 0}, {"price_ticks_max": 1}),
    ({"notional_units_min": -1}, {"notional_units_min": 0}),
    ({"notional_units_min": 2**61 + 1}, {"notional_units_min": 2**61}),
    ({"maker_fee_ppm": -1}, {"maker_fee_ppm": 0}),
    ({"maker_fee_ppm": 10**6 + 1}, {"maker_fee_ppm": 10**6}),
    ({"taker_fee_ppm": -1}, {"taker_fee_ppm": 0}),
    ({"taker_fee_ppm": 10**6 + 1}, {"taker_fee_ppm": 10**6}),
    ({"collar_ppm": -1}, {"collar_ppm": 0}),
    ({"collar_ppm": 10**7 + 1}, {"collar_ppm": 10**7}),
    # The greatest order is 2**61 units of quote, or of base; a level of a thousand orders has less than 2**63 lots.
    (
        {"price_ticks_max": 2**20, "quantity_lots_max": 2**41 + 1},
        {"price_ticks_max": 2**20, "quantity_lots_max": 2**41},
    ),
    ({"lot_units": 2**41, "quantity_lots_max": 2**20 + 1}, {"lot_units": 2**41, "quantity_lots_max": 2**20}),
    (
        {"price_ticks_max": 1, "quantity_lots_max": 2**63 // 1000 + 1},
        {"price_ticks_max": 1, "quantity_lots_max": 2**63 // 1000},
    ),
    ({"price_ticks_max": 2**62, "tick_lot_units": 2**62}, {"price_ticks_max": 2**41}),
]


UNITS = {"tick_lot_units", "lot_units"}


@pytest.mark.parametrize(("wrong", "right"), BOUNDS, ids=lambda changes: "-".join(changes))
def test_bounds_are_taken_up_to_their_edge(wrong: dict[str, int], right: dict[str, int]) -> None:
    """A listing whose numbers could overflow or contradict each other is refused, and taken at the edge."""
    market = Market()
    assert reason(market.list_symbol(1, **wrong)) == "NUMBER_OUT_OF_RANGE"
    assert reason(market.list_symbol(1, **right)) == "NONE"


@pytest.mark.parametrize("wrong", [wrong for wrong, _ in BOUNDS if not UNITS & wrong.keys()], ids="-".join)
def test_new_parameters_have_the_same_bounds(wrong: dict[str, int]) -> None:
    """Parameters that no listing would be taken with are refused, and those before them stay."""
    market = Market()
    assert reason(market.set_parameters(**wrong)) == "NUMBER_OUT_OF_RANGE"
    assert reason(market.place(BUY, 10**6, 10**6)) == "NONE"


def test_parameters_keep_units_and_state() -> None:
    """New parameters may not change tick, lot or assets, and leave the trading state as it is."""
    market = Market()
    for changed in ({"tick_lot_units": 2}, {"lot_units": 2}, {"base_asset_id": 5}, {"quote_asset_id": 5}):
        assert reason(market.set_parameters(**changed)) == "INVALID_REQUEST"
    assert reason(market.set_parameters(1)) == "SYMBOL_NOT_FOUND"
    market.set_state(HALTED)
    assert market.set_parameters().view(symbol_event_dtype)["trading_state"][0] == HALTED
    assert reason(market.place(BUY, 1, 1)) == "SYMBOL_HALTED"


def test_new_bounds_count_for_what_comes_after_them() -> None:
    """After narrower bounds new orders and new numbers must fit; what rests beyond them still trades and can go."""
    market = Market()
    for _ in range(2):
        market.place(SELL, 100, 1_000, BOB)
    market.set_parameters(quantity_lots_max=50, price_ticks_max=500, notional_units_min=400)
    assert reason(market.place(BUY, 51, 10)) == "NUMBER_OUT_OF_RANGE"
    assert reason(market.place(BUY, 5, 501)) == "NUMBER_OUT_OF_RANGE"
    assert reason(market.place(BUY, 39, 10)) == "BELOW_MIN_NOTIONAL"
    assert trades(market.place(BUY, 50)) == [(1, 6, 1_000, 50)]
    assert reason(market.amend(1, BOB, quantity_lots=60)) == "NUMBER_OUT_OF_RANGE"
    assert reason(market.amend(2, BOB, quantity_lots=40)) == "NONE"
    assert reason(market.amend(1, BOB, price_ticks=400)) == "NONE"
    assert reason(market.cancel(2, BOB)) == "USER"


@pytest.mark.parametrize(
    ("listed", "later", "order", "change"),
    [
        ((2**40, 2**20), (2**10, 2**50), (2**40, 1), {"price_ticks": 2**30}),
        ((2**10, 2**50), (2**40, 2**20), (1, 2**50), {"quantity_lots": 2**30}),
    ],
)
def test_amend_across_new_bounds_does_not_wrap(
    listed: tuple[int, int], later: tuple[int, int], order: tuple[int, int], change: dict[str, int]
) -> None:
    """A quantity from before and a price from after other bounds, or the reverse, may be too much together."""
    market = Market(quantity_lots_max=listed[0], price_ticks_max=listed[1])
    market.place(BUY, *order, hold_units=2**61)
    market.set_parameters(quantity_lots_max=later[0], price_ticks_max=later[1])
    assert reason(market.amend(1, hold_units=0, **change)) == "NUMBER_OUT_OF_RANGE"


# Trading states.


@pytest.mark.parametrize(("state", "why"), CLOSED)
def test_closed_market_takes_nothing_but_cancels(state: TradingState, why: str) -> None:
    """While closed a market rejects orders and refuses amends; cancels and expiry work; opened again it goes on."""
    market = market_at(100)
    market.place(BUY, 1, 90, time_in_force=GTD, expires_at_ns=market.now_ns + 1)
    for price in (91, 92, 93):
        market.place(BUY, 1, price)
    market.place(BUY, 1, 80, CAROL)
    assert told(market.set_state(state)) == [("TRADING_STATE_SET", 0, "NONE")]
    assert told(market.amend(4, quantity_lots=2)) == [("REFUSED", 4, why)]
    assert reason(market.cancel(4)) == "USER"
    market.now_ns += 1
    assert told(market.expire())[0] == ("CANCELLED", 3, "EXPIRED")
    assert told(market.cancel_all(CAROL))[0] == ("CANCELLED", 7, "CANCELLED_ALL")
    market.set_state(OPEN)
    assert trades(market.place(SELL, 2, 90, BOB)) == [(6, 8, 93, 1), (5, 8, 92, 1)]


@pytest.mark.parametrize(
    "fields",
    [
        {"price": 90},
        {"price": 1, "time_in_force": FOK},
        {"price": 200, "flags": CommandFlag.POST_ONLY},
        {"price": 0},
        {"price": 0, "stop_price_ticks": 50},
        {"price": 40, "stop_price_ticks": 50},
    ],
    ids=["limit", "fok", "post-only", "market", "stop", "stop-limit"],
)
@pytest.mark.parametrize(("state", "why"), CLOSED)
def test_closed_market_rejects_every_type(state: TradingState, why: str, fields: dict[str, Any]) -> None:
    """No kind of order is taken while a symbol is closed; each is told as rejected, with its hold back."""
    market = Market()
    market.place(BUY, 1, 90, BOB)
    market.set_state(state)
    events = market.place(SELL, 1, **fields)
    assert told(events) == [("REJECTED", 2, why)]
    assert (events["hold_released_units"][0], kernel.order_count(market.book)) == (PLENTY, 1)


def test_wrong_order_is_refused_in_a_closed_market_too() -> None:
    """What is wrong in itself leaves no order, open or closed."""
    market = Market()
    market.set_state(HALTED)
    assert told(market.place(BUY, 10**7, 1)) == [("REFUSED", 1, "NUMBER_OUT_OF_RANGE")]


def test_states_follow_one_another() -> None:
    """Any state may follow any other, also itself; the one set last counts."""
    market = Market()
    for state, why in (
        (HALTED, "SYMBOL_HALTED"),
        (HALTED, "SYMBOL_HALTED"),
        (CANCEL_ONLY, "CANCEL_ONLY"),
        (OPEN, "NONE"),
    ):
        event = market.set_state(state).view(symbol_event_dtype)[0]
        assert amounts(event, "symbol_id", "trading_state") == (0, state)
        assert kernel.touch(market.book, 0)["trading_state"] == state
        assert reason(market.place(BUY, 1, 1)) == why
    for wrong in (0, 4):
        assert reason(market.set_state(wrong)) == "INVALID_REQUEST"


def test_one_symbol_closes_alone() -> None:
    """A halt of one symbol leaves the others open."""
    market = Market()
    market.list_symbol(1)
    market.set_state(HALTED, 1)
    assert reason(market.place(BUY, 1, 1, symbol_id=1)) == "SYMBOL_HALTED"
    assert reason(market.place(BUY, 1, 1)) == "NONE"


def test_all_symbols_close_and_open_at_once() -> None:
    """Symbol -1 is every listed symbol, each with its event; a symbol that is not listed is refused."""
    market = Market()
    assert reason(market.set_state(HALTED, 1)) == "SYMBOL_NOT_FOUND"
    market.list_symbol(1)
    for state, why in ((HALTED, "SYMBOL_HALTED"), (CANCEL_ONLY, "CANCEL_ONLY"), (OPEN, "NONE")):
        events = market.set_state(state, -1)
        assert told(events) == [("TRADING_STATE_SET", 0, "NONE")] * 2
        assert events["symbol_id"].tolist() == [0, 1]
        assert [reason(market.place(BUY, 1, 1, symbol_id=symbol_id)) for symbol_id in (0, 1)] == [why, why]


# Collars.


@pytest.mark.parametrize(
    ("side", "within", "beyond", "passive"), [(BUY, 114, 115, 1), (SELL, 104, 103, 10**6)], ids=["buy", "sell"]
)
def test_collar_rejects_limits_on_the_aggressive_side_only(side: Side, within: int, beyond: int, passive: int) -> None:
    """At last price 109 and 5 % (5.45 ticks, so 5) buys are taken to 114, sells from 104, and the other way any."""
    market = market_at(109, collar_ppm=FIVE_PERCENT)
    for fields in ({}, {"time_in_force": IOC}):
        assert told(market.place(side, 1, beyond, **fields))[0][::2] == ("REJECTED", "PRICE_OUT_OF_COLLAR")
        for price in (within, passive):
            assert told(market.place(side, 1, price, **fields))[0][0] == "ACCEPTED"


def test_collar_counts_from_the_last_trade() -> None:
    """Before the first trade there is no collar; every trade moves it; an amended price must be within it."""
    market = Market(collar_ppm=FIVE_PERCENT)
    market.place(BUY, 1, 10**6)
    market.cancel(1)
    market.trade_at(100)
    market.place(BUY, 1, 90)
    assert reason(market.amend(4, price_ticks=106)) == "PRICE_OUT_OF_COLLAR"
    market.trade_at(105)
    assert reason(market.amend(4, price_ticks=110)) == "NONE"
    assert reason(market.place(BUY, 1, 111)) == "PRICE_OUT_OF_COLLAR"


@pytest.mark.parametrize("time_in_force", [IOC, FOK])
def test_market_buy_stops_at_the_collar(time_in_force: TimeInForce) -> None:
    """A market order trades to the best price on arrival plus the collar; FOK does not count what lies beyond."""
    market = market_with_asks((100, 1), (105, 1), (106, 1), collar_ppm=FIVE_PERCENT)
    events = market.place(BUY, 3, time_in_force=time_in_force)
    if time_in_force == FOK:
        assert told(events) == [("REJECTED", 4, "FOK_NOT_FILLED")]
    else:
        assert told(events)[1:] == [(1, 4, 100, 1), (2, 4, 105, 1), ("CANCELLED", 4, "COLLAR")]


def test_market_sell_stops_at_the_collar() -> None:
    """The same downwards: from 100 to 95, not to 94."""
    market = Market(collar_ppm=FIVE_PERCENT)
    for price in (100, 95, 94):
        market.place(BUY, 1, price, BOB)
    assert told(market.place(SELL, 3))[1:] == [(1, 4, 100, 1), (2, 4, 95, 1), ("CANCELLED", 4, "COLLAR")]


def test_buy_for_an_amount_stops_at_the_collar() -> None:
    """300 units buy one lot at 100; the next price is beyond the collar, and 200 come back."""
    market = market_with_asks((100, 1), (106, 1), collar_ppm=FIVE_PERCENT)
    events = market.spend(300)
    assert told(events)[1:] == [(1, 3, 100, 1), ("CANCELLED", 3, "COLLAR")]
    assert events["hold_released_units"][-1] == 200


def test_new_collar_counts_for_what_comes_after_it() -> None:
    """A narrower collar leaves resting orders where they are, and holds for the next one."""
    market = market_at(100, collar_ppm=2 * FIVE_PERCENT)
    market.place(BUY, 1, 110)
    market.set_parameters(collar_ppm=FIVE_PERCENT)
    assert market.levels(BUY) == [[110, 1]]
    assert reason(market.place(BUY, 1, 110)) == "PRICE_OUT_OF_COLLAR"
    market.set_parameters(collar_ppm=0)
    assert reason(market.place(BUY, 1, 10**6)) == "NONE"


def test_collar_around_the_greatest_price_does_not_wrap() -> None:
    """At a price of 2**61 and a collar of 1,000 % every price is within it, on both sides."""
    market = Market(quantity_lots_max=1, price_ticks_max=2**61, collar_ppm=10**7)
    market.place(SELL, 1, 2**61, BOB)
    assert trades(market.place(BUY, 1, 2**61, hold_units=2**61)) == [(1, 2, 2**61, 1)]
    assert reason(market.place(SELL, 1, 1, BOB)) == "NONE"
    assert trades(market.place(BUY, 1, 2**61, hold_units=2**61)) == [(3, 4, 1, 1)]
    market.place(SELL, 1, 2**61, BOB)
    assert trades(market.place(BUY, 1, hold_units=2**61)) == [(5, 6, 2**61, 1)]
