"""Amending in the order book, rule by rule: what keeps its place, what trades, what it holds, what is refused."""

from __future__ import annotations

import pytest
from tests.core.book_world import BOB, BUY, PLENTY, SELL, Market, amounts, market_with_asks, reason, told, trades

from tradeengine.core.records import CommandFlag, amended_event_dtype

POST_ONLY = CommandFlag.POST_ONLY


def test_less_keeps_the_place_everything_else_loses_it() -> None:
    """Less quantity keeps the place; more quantity, or another price and back, goes to the end of the queue."""
    market = market_with_asks((100, 5), (100, 5), (100, 5), (100, 5))
    market.amend(1, BOB, quantity_lots=4, price_ticks=100)
    market.amend(2, BOB, quantity_lots=6)
    market.amend(3, BOB, price_ticks=101)
    market.amend(3, BOB, price_ticks=100)
    assert [trade[0] for trade in trades(market.place(BUY, 20, 100))] == [1, 4, 2, 3]


def test_amend_counts_what_is_filled() -> None:
    """The new quantity is the total; at or below what is filled it is refused and nothing changes."""
    market = market_with_asks((100, 5))
    market.place(BUY, 2, 100)
    for quantity in (1, 2):
        assert told(market.amend(1, BOB, quantity_lots=quantity)) == [("REFUSED", 1, "QUANTITY_NOT_ABOVE_FILLED")]
    assert market.levels(SELL) == [[100, 3]]
    assert market.amend(1, BOB, quantity_lots=3)["remaining_lots"][0] == 1
    assert market.levels(SELL) == [[100, 1]]


def test_amend_tells_what_was_before() -> None:
    """The event of an amend has the new content, and the price and rest that the order had."""
    market = market_with_asks((100, 5))
    market.place(BUY, 2, 100)
    event = market.amend(1, BOB, quantity_lots=9, price_ticks=110).view(amended_event_dtype)[0]
    assert amounts(event, "price_ticks", "quantity_lots", "remaining_lots") == (110, 9, 7)
    assert amounts(event, "previous_price_ticks", "previous_remaining_lots") == (100, 3)


def test_amended_price_may_trade() -> None:
    """An order that is amended into the other side trades as the taker it then is, and rests with what is left."""
    market = market_with_asks((99, 2), (100, 1))
    market.place(BUY, 6, 98)
    events = market.amend(3, price_ticks=101)
    assert told(events) == [("AMENDED", 3, "NONE"), (1, 3, 99, 2), (2, 3, 100, 1)]
    assert (market.levels(BUY), market.levels(SELL)) == ([[101, 3]], [])
    assert events["hold_units"].tolist() == [606, 404, 303]
    assert events["hold_released_units"][1:].tolist() == [4, 1]  # 2 lots at 2 ticks less, one at 1 less


def test_amended_price_may_meet_an_own_order() -> None:
    """Prevention counts for an order that becomes a taker by an amend."""
    market = Market()
    market.place(SELL, 1, 100)
    market.place(BUY, 1, 99)
    assert told(market.amend(2, price_ticks=100)) == [("AMENDED", 2, "NONE"), ("CANCELLED", 2, "SELF_TRADE")]


def test_amend_takes_what_it_needs_and_gives_back_the_rest() -> None:
    """From 2 lots at 99 (198) to 3 at 100 (300): of 150 more units 48 come back; of 101 there is one too few."""
    market = Market()
    market.place(BUY, 2, 99)
    refused = market.amend(1, price_ticks=100, quantity_lots=3, hold_units=101)
    assert (reason(refused), refused["hold_released_units"][0]) == ("INSUFFICIENT_BALANCE", 101)
    event = market.amend(1, price_ticks=100, quantity_lots=3, hold_units=150)[0]
    assert amounts(event, "hold_units", "hold_released_units") == (300, 48)
    event = market.amend(1, price_ticks=50, hold_units=0)[0]
    assert amounts(event, "hold_units", "hold_released_units") == (150, 150)


def test_sell_amended_holds_what_it_sells() -> None:
    """A sell holds base: from 5 lots of 10 units, 2 of them sold, to 4 in all it needs 20 and gives back 10."""
    market = Market(lot_units=10)
    market.place(SELL, 5, 100)
    market.place(BUY, 2, 100, BOB)
    assert amounts(market.amend(1, quantity_lots=4, hold_units=0)[0], "hold_units", "hold_released_units") == (20, 10)
    assert reason(market.amend(1, quantity_lots=5, hold_units=9)) == "INSUFFICIENT_BALANCE"
    assert amounts(market.amend(1, quantity_lots=5, hold_units=10)[0], "hold_units", "hold_released_units") == (30, 0)


def test_post_only_stays_post_only() -> None:
    """A post-only order cannot be amended into a match."""
    market = market_with_asks((100, 1))
    market.place(BUY, 1, 98, flags=POST_ONLY)
    assert reason(market.amend(2, price_ticks=100)) == "POST_ONLY_WOULD_MATCH"
    assert market.levels(BUY) == [[98, 1]]
    assert reason(market.amend(2, price_ticks=99)) == "NONE"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"order_id": 2, "price_ticks": 5}, "ORDER_NOT_FOUND"),
        ({"account": BOB, "price_ticks": 5}, "ORDER_NOT_FOUND"),
        ({"stop_price_ticks": 5}, "INVALID_COMBINATION"),
        ({"price_ticks": 10**6 + 1}, "NUMBER_OUT_OF_RANGE"),
        ({"price_ticks": -1}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity_lots": 10**6 + 1}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity_lots": 1}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity_lots": -1}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity_lots": 9, "hold_units": -1}, "NUMBER_OUT_OF_RANGE"),
        ({"price_ticks": 79, "quantity_lots": 5}, "BELOW_MIN_NOTIONAL"),
        ({"price_ticks": 100, "hold_units": 4}, "INSUFFICIENT_BALANCE"),
    ],
)
def test_refused_amend_changes_nothing(fields: dict[str, int], why: str) -> None:
    """An amend that is refused leaves the order as it was, its hold and its place, and gives back what it brought."""
    market = Market(quantity_lots_min=2, notional_units_min=396)
    market.place(BUY, 5, 99)
    market.place(SELL, 5, 200)
    market.cancel(2)
    before = market.book.orders[16:32].tolist()
    events = market.amend(**{"order_id": 1} | fields)
    assert (reason(events), len(events)) == (why, 1)
    assert events["hold_released_units"][0] == fields.get("hold_units", PLENTY)
    assert market.book.orders[16:32].tolist() == before
    assert market.levels(BUY) == [[99, 5]]
