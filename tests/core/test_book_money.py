"""Fees, holds and conservation in the book, to the unit, with numbers worked out by hand."""

from __future__ import annotations

import pytest
from tests.core.book_world import ALICE, BOB, BUY, CAROL, PLENTY, SELL, Market, trades

from tradeengine.core.money import UNITS_MAX
from tradeengine.core.records import CommandKind, EventKind

RATES = {"maker_fee_ppm": 500, "taker_fee_ppm": 1_000}


def test_fees_of_maker_and_taker() -> None:
    """1 lot at 50,000 costs the maker (0.05 %) 25 and the taker (0.1 %) 50, both in quote."""
    market = Market(**RATES)
    market.place(BUY, 1, 50_000, BOB)
    event = market.place(SELL, 1, 50_000)[1]
    assert (event["notional_units"], event["maker_fee_units"], event["fee_units"]) == (50_000, 25, 50)


def test_fee_is_rounded_up() -> None:
    """A millionth of a unit costs a whole one; an exact fee costs no more than itself."""
    market = Market(taker_fee_ppm=1)
    market.place(SELL, 3, 1_000_000, BOB)
    assert market.place(BUY, 1, 1_000_000)["fee_units"][1] == 1
    assert market.place(BUY, 2, 1_000_000)["fee_units"][1] == 2
    market.place(SELL, 3, 1, BOB)
    assert market.place(BUY, 1, 1)["fee_units"][1] == 1
    assert market.place(BUY, 2, 1)["fee_units"][1] == 1


@pytest.mark.parametrize("taker_is_split", [True, False])
def test_ten_fills_cost_the_fee_of_one(taker_is_split: bool) -> None:
    """Ten fills of one lot at 333 (0.333 each at 0.1 %) cost what one of ten lots does: 3.33, rounded up 4."""
    market = Market(maker_fee_ppm=1_000, taker_fee_ppm=1_000)
    fees, name = [], "fee_units"
    if taker_is_split:
        for _ in range(10):
            market.place(SELL, 1, 333, BOB)
        events = market.place(BUY, 10, 333)
        fees = events["fee_units"][events["kind"] == EventKind.TRADED].tolist()
    else:
        market.place(SELL, 10, 333, BOB)
        name = "maker_fee_units"
        fees = [int(market.place(BUY, 1, 333)[name][1]) for _ in range(10)]
    assert (len(fees), sum(fees)) == (10, 4)
    assert fees == [1, 0, 0, 1, 0, 0, 1, 0, 0, 1]


def test_taker_that_becomes_maker_is_exact() -> None:
    """One lot at 500 as taker (0.5) and then one as maker (0.25) are 0.75 together: one unit, not two."""
    market = Market(**RATES)
    market.place(SELL, 1, 500, BOB)
    first = market.place(BUY, 2, 500)[1]
    second = market.place(SELL, 1, 500, CAROL)[1]
    assert (first["fee_units"], second["maker_fee_units"], second["maker_fee_total_units"]) == (1, 0, 1)


def test_fee_of_an_order_is_that_of_its_acceptance() -> None:
    """New fees reach orders that come after them; what rests keeps the fees that it was accepted with."""
    market = Market(**RATES)
    market.place(SELL, 1, 10_000, BOB)
    market.list_symbol(0, CommandKind.SET_PARAMETERS, maker_fee_ppm=900_000, taker_fee_ppm=100_000)
    event = market.place(BUY, 1, 10_000)[1]
    assert (event["maker_fee_units"], event["fee_units"]) == (5, 1_000)


def test_buy_holds_the_higher_fee_and_gives_back_the_difference() -> None:
    """2 lots at 10,000 hold 20,020 (0.1 %); filled as maker at 0.05 % they cost 20,010 and 10 come back."""
    market = Market(**RATES)
    accepted = market.place(BUY, 2, 10_000, BOB, hold_units=20_020)[0]
    assert (accepted["hold_units"], accepted["hold_released_units"]) == (20_020, 0)
    first, second = (market.place(SELL, 1, 10_000)[1] for _ in range(2))
    assert (first["maker_hold_units"], first["maker_hold_released_units"]) == (10_015, 0)
    assert (second["maker_hold_units"], second["maker_hold_released_units"]) == (0, 10)


def test_better_price_is_given_back_when_the_rest_rests() -> None:
    """3 lots at 100 hold 300; one bought at 90 leaves two resting that need 200: 10 come back at once."""
    market = Market()
    market.place(SELL, 1, 90, BOB)
    event = market.place(BUY, 3, 100)[1]
    assert (event["hold_units"], event["hold_released_units"]) == (200, 10)


def test_sellers_pay_fees_out_of_what_they_get() -> None:
    """A seller holds base alone: 5 lots of 10 units each, whatever the fee."""
    market = Market(lot_units=10, taker_fee_ppm=1_000_000)
    market.place(BUY, 5, 100, BOB)
    events = market.place(SELL, 5, 100, hold_units=50)
    assert (events["hold_units"][0], events["hold_units"][1], events["fee_units"][1]) == (50, 0, 500)


def test_what_does_not_fit_a_hold_comes_back_at_once() -> None:
    """More than an order needs is released by its acceptance; a cancelled order gives back all that it holds."""
    market = Market(**RATES)
    accepted = market.place(BUY, 1, 10_000, hold_units=PLENTY)[0]
    assert (accepted["hold_units"], accepted["hold_released_units"]) == (10_010, PLENTY - 10_010)
    assert market.cancel(1)["hold_released_units"][0] == 10_010


def test_greatest_order_overflows_nothing() -> None:
    """The greatest price times the greatest quantity at 100 % fee is held, traded and charged exactly."""
    lots_max = UNITS_MAX // 10**6
    fees = {"maker_fee_ppm": 1_000_000, "taker_fee_ppm": 1_000_000}
    market = Market(quantity_lots_max=lots_max, **fees)
    notional = lots_max * 10**6
    accepted = market.place(BUY, lots_max, 10**6, BOB, hold_units=2 * notional)[0]
    assert accepted["hold_units"] == 2 * notional
    event = market.place(SELL, lots_max, 10**6, hold_units=lots_max)[1]
    assert (event["notional_units"], event["fee_units"], event["maker_fee_units"]) == (notional, notional, notional)
    assert (event["maker_hold_units"], event["maker_hold_released_units"]) == (0, 0)


def test_money_is_conserved() -> None:
    """Over a wild afternoon what buyers spend is what sellers get plus fees, and lots change hands one for one."""
    market = Market(**RATES)
    quote, base, fees = dict.fromkeys((ALICE, BOB, CAROL), 0), dict.fromkeys((ALICE, BOB, CAROL), 0), 0
    for number in range(600):
        side, account = (BUY, SELL)[number % 2], (ALICE, BOB, CAROL)[number % 3]
        price = 1_000 + (number * 7) % 23 - (number * 5) % 19
        for event in market.place(side, 1 + number % 9, price, account):
            if event["kind"] != EventKind.TRADED:
                continue
            taker, maker = int(event["account_id"]), int(event["maker_account_id"])
            buyer, seller = (taker, maker) if event["side"] == BUY else (maker, taker)
            notional, lots = int(event["notional_units"]), int(event["quantity_lots"])
            quote[buyer] -= notional
            quote[seller] += notional
            base[buyer] += lots
            base[seller] -= lots
            for account_id, name in ((taker, "fee_units"), (maker, "maker_fee_units")):
                quote[account_id] -= int(event[name])
                fees += int(event[name])
    assert fees > 0
    assert sum(quote.values()) + fees == 0
    assert sum(base.values()) == 0
    assert trades(market.place(BUY, 1, 10**6, 20))
