"""Fees, holds and conservation in the book, to the unit, with numbers worked out by hand."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any, Final

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
    market_with_asks,
    reason,
    told,
    trades,
)

from tradeengine.core.money import UNITS_MAX
from tradeengine.core.records import EventKind, SelfTradePrevention, TimeInForce

RATES: Final = {"maker_fee_ppm": 500, "taker_fee_ppm": 1_000}


# Fees.


def test_fees_of_maker_and_taker() -> None:
    """1 lot at 50,000 costs the maker (0.05 %) 25 and the taker (0.1 %) 50, both in quote."""
    market = Market(**RATES)
    market.place(BUY, 1, 50_000, BOB)
    event = market.place(SELL, 1, 50_000)[1]
    assert amounts(event, "notional_units", "maker_fee_units", "fee_units") == (50_000, 25, 50)


def test_notional_is_ticks_times_lots_times_unit() -> None:
    """7 lots at 11 ticks of 3 units each are 231; 1 % of it 2.31, rounded up 3; the seller gave 7 lots of 10 units."""
    market = market_with_asks((11, 7), tick_lot_units=3, lot_units=10, taker_fee_ppm=10_000)
    accepted, traded = market.place(BUY, 7, 11)
    assert accepted["hold_units"] == 234
    assert amounts(traded, "notional_units", "fee_units", "maker_hold_units", "hold_units") == (231, 3, 0, 0)
    assert market.place(SELL, 7, 11)["hold_units"][0] == 70


def test_fee_is_rounded_up() -> None:
    """A millionth of a unit costs a whole one; an exact fee costs no more than itself."""
    market = market_with_asks((1_000_000, 3), taker_fee_ppm=1)
    assert market.place(BUY, 1, 1_000_000)["fee_units"][1] == 1
    assert market.place(BUY, 2, 1_000_000)["fee_units"][1] == 2
    market.place(SELL, 3, 1, BOB)
    assert market.place(BUY, 1, 1)["fee_units"][1] == 1
    assert market.place(BUY, 2, 1)["fee_units"][1] == 1


def test_no_rate_no_fee() -> None:
    """At a rate of 0 nothing is charged to either side."""
    event = market_with_asks((999_999, 7)).place(BUY, 7, 999_999)[1]
    assert amounts(event, "fee_units", "maker_fee_units", "fee_total_units", "maker_fee_total_units") == (0, 0, 0, 0)


def test_ten_fills_of_a_taker_cost_the_fee_of_one() -> None:
    """Ten fills of one lot at 333 (0.333 each at 0.1 %) cost what one of ten lots does: 3.33, rounded up 4."""
    events = market_with_asks(*[(333, 1)] * 10, **RATES).place(BUY, 10, 333)[1:]
    assert events["fee_units"].tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 0, 1]
    assert events["fee_total_units"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4]
    assert market_with_asks((333, 10), **RATES).place(BUY, 10, 333)["fee_units"].tolist() == [0, 4]


def test_ten_fills_of_a_maker_cost_the_fee_of_one() -> None:
    """The same for a maker whom ten takers meet; each of those pays for itself, 0.333 rounded up."""
    market = market_with_asks((333, 10), maker_fee_ppm=1_000, taker_fee_ppm=1_000)
    fills = [market.place(BUY, 1, 333)[1] for _ in range(10)]
    assert [int(fill["maker_fee_units"]) for fill in fills] == [1, 0, 0, 1, 0, 0, 1, 0, 0, 1]
    assert [int(fill["fee_units"]) for fill in fills] == [1] * 10


@pytest.mark.parametrize("side", [BUY, SELL])
def test_mixture_of_taker_and_maker_fills_is_exact(side: Any) -> None:
    """3 lots at 333 as taker (0.999) and 7 as maker (1.1655) are 2.1645 together: 3, however many fills it were."""
    market = Market(**RATES)
    other = SELL if side == BUY else BUY
    for _ in range(3):
        market.place(other, 1, 333, BOB)
    taken = market.place(side, 10, 333)[1:]
    made = [market.place(other, 1, 333, CAROL)[1] for _ in range(7)]
    assert taken["fee_units"].tolist() == [1, 0, 0]
    assert [int(fill["maker_fee_units"]) for fill in made] == [1, 0, 0, 0, 0, 0, 1]
    assert made[-1]["maker_fee_total_units"] == 3


def test_fee_of_an_order_is_that_of_its_acceptance() -> None:
    """New fees reach orders that come after them; what rests or waits keeps the fees that it was accepted with."""
    market = Market(**RATES)
    market.place(SELL, 1, 10_000, BOB)  # 1
    market.stop(BUY, 1, 10_000)  # 2
    market.place(SELL, 1, 20_000, BOB)  # 3
    market.set_parameters(maker_fee_ppm=900_000, taker_fee_ppm=100_000)
    events = market.place(BUY, 1, 10_000, CAROL)
    assert trades(events) == [(1, 4, 10_000, 1), (3, 2, 20_000, 1)]
    assert amounts(events[1], "maker_fee_units", "fee_units") == (5, 1_000)
    assert amounts(events[3], "maker_fee_units", "fee_units") == (10, 20)


def test_amend_keeps_the_fees_of_the_acceptance() -> None:
    """An order that is amended after the fees rose still holds and pays at its own rates."""
    market = Market(**RATES)
    market.place(BUY, 1, 10_000)
    market.set_parameters(maker_fee_ppm=900_000, taker_fee_ppm=900_000)
    assert market.amend(1, quantity_lots=2)["hold_units"][0] == 20_020
    assert market.place(SELL, 2, 10_000, BOB)["maker_fee_units"][1] == 10


# Holds.


def test_buy_holds_the_higher_fee_and_gives_back_the_difference() -> None:
    """2 lots at 10,000 hold 20,020 (0.1 %); filled as maker at 0.05 % they cost 20,010 and 10 come back."""
    market = Market(**RATES)
    accepted = market.place(BUY, 2, 10_000, BOB, hold_units=20_020)[0]
    assert amounts(accepted, "hold_units", "hold_released_units") == (20_020, 0)
    first, second = (market.place(SELL, 1, 10_000)[1] for _ in range(2))
    assert amounts(first, "maker_hold_units", "maker_hold_released_units") == (10_015, 0)
    assert amounts(second, "maker_hold_units", "maker_hold_released_units") == (0, 10)


def test_maker_rate_above_the_taker_rate_is_held() -> None:
    """Where makers pay more, a buy holds for that: 1 lot at 10,000 and 2 % is 10,200; as taker at 1 % 100 come back."""
    market = market_with_asks((10_000, 1), maker_fee_ppm=20_000, taker_fee_ppm=10_000)
    assert reason(market.place(BUY, 1, 10_000, hold_units=10_199)) == "INSUFFICIENT_BALANCE"
    events = market.place(BUY, 1, 10_000, hold_units=10_200)
    assert amounts(events[1], "fee_units", "hold_units", "hold_released_units") == (100, 0, 100)


def test_better_price_is_given_back_when_the_rest_rests() -> None:
    """3 lots at 100 hold 300; one bought at 90 leaves two resting that need 200: 10 come back at once."""
    event = market_with_asks((90, 1)).place(BUY, 3, 100)[1]
    assert amounts(event, "hold_units", "hold_released_units") == (200, 10)


def test_better_price_is_given_back_when_filled() -> None:
    """1 lot at most 100 with 1 % holds 101; bought at 50 for 51 (0.5 rounded up) it gives back 50."""
    event = market_with_asks((50, 1), taker_fee_ppm=10_000).place(BUY, 1, 100)[1]
    assert amounts(event, "fee_units", "hold_units", "hold_released_units") == (1, 0, 50)


def test_rest_holds_no_fee_that_was_paid_already() -> None:
    """1 of 3 lots at 150 and 1 % paid 2 for 1.5; the rest of 300 owes 3, 0.5 of it paid: 303 held before 302.5 due."""
    market = market_with_asks((150, 1), maker_fee_ppm=10_000, taker_fee_ppm=10_000)
    accepted, traded = market.place(BUY, 3, 150)
    assert accepted["hold_units"] == 455  # 450 and 4.5
    assert amounts(traded, "fee_units", "hold_units", "hold_released_units") == (2, 303, 0)
    last = market.place(SELL, 2, 150, BOB)[1]
    assert amounts(last, "maker_fee_units", "maker_hold_units", "maker_hold_released_units") == (3, 0, 0)


def test_sellers_pay_fees_out_of_what_they_get() -> None:
    """A seller holds base alone: 5 lots of 10 units each, even at a fee of all that it gets."""
    market = Market(lot_units=10, taker_fee_ppm=1_000_000)
    market.place(BUY, 5, 100, BOB)
    assert reason(market.place(SELL, 5, 100, hold_units=49)) == "INSUFFICIENT_BALANCE"
    events = market.place(SELL, 5, 100, hold_units=50)
    assert amounts(events[1], "hold_units", "notional_units", "fee_units") == (0, 500, 500)


def test_what_does_not_fit_a_hold_comes_back_at_once() -> None:
    """More than an order needs is released by its acceptance; a cancelled order gives back all that it holds."""
    market = Market(**RATES)
    accepted = market.place(BUY, 1, 10_000, hold_units=PLENTY)[0]
    assert amounts(accepted, "hold_units", "hold_released_units") == (10_010, PLENTY - 10_010)
    assert market.cancel(1)["hold_released_units"][0] == 10_010


def test_hold_of_a_prevented_maker_comes_back() -> None:
    """A maker that prevention ends gives back what it holds, with its own event."""
    market = Market()
    market.place(BUY, 2, 100)
    events = market.place(SELL, 1, 100, self_trade_prevention=SelfTradePrevention.CANCEL_BOTH)
    assert told(events)[1:] == [("CANCELLED", 1, "SELF_TRADE"), ("CANCELLED", 2, "SELF_TRADE")]
    assert events["hold_released_units"][1:].tolist() == [200, 1]


@pytest.mark.parametrize(("budget", "lots"), [(331, 2), (332, 3), (333, 3)])
def test_budget_counts_the_fee_of_all_fills_together(budget: int, lots: int) -> None:
    """Three lots for 300 at 10.5 % cost 331.5, rounded up 332: one unit less buys two, whichever way they are split."""
    for asks in ([(100, 3)], [(100, 1)] * 3):
        events = market_with_asks(*asks, taker_fee_ppm=105_000).place(BUY, 3, hold_units=budget)
        assert sum(trade[3] for trade in trades(events)) == lots
        assert events["filled_notional_units"][-1] == 100 * lots


# Great numbers.


GREATEST: Final = {
    "price_ticks_max": 2**20,
    "quantity_lots_max": 2**41,
    "maker_fee_ppm": 1_000_000,
    "taker_fee_ppm": 1_000_000,
}


def test_greatest_order_overflows_nothing() -> None:
    """The greatest price times the greatest quantity at 100 % fee is held, traded and charged exactly."""
    market = Market(**GREATEST)
    assert UNITS_MAX == 2**61
    assert reason(market.place(BUY, 2**41, 2**20, BOB, hold_units=2**62 - 1)) == "INSUFFICIENT_BALANCE"
    accepted = market.place(BUY, 2**41, 2**20, BOB, hold_units=2**62)[0]
    assert accepted["hold_units"] == 2**62
    event = market.place(SELL, 2**41, 2**20, hold_units=2**41)[1]
    assert amounts(event, "notional_units", "fee_units", "maker_fee_units") == (2**61, 2**61, 2**61)
    assert amounts(event, "maker_hold_units", "maker_hold_released_units", "hold_units") == (0, 0, 0)


def test_greatest_order_in_pieces_overflows_nothing() -> None:
    """The same in eight fills: what it has paid and what it holds stay exact between them."""
    market = Market(**GREATEST)
    market.place(BUY, 2**41, 2**20, BOB, hold_units=2**62)
    fills = [market.place(SELL, 2**38, 1, hold_units=2**38)[1] for _ in range(8)]
    assert [int(fill["maker_hold_units"]) for fill in fills] == [2**59 * (7 - number) for number in range(8)]
    assert amounts(fills[-1], "maker_filled_notional_units", "maker_fee_total_units") == (2**61, 2**61)


@pytest.mark.parametrize("fields", [{"flags": 2, "quantity_lots": 0}, {}], ids=["by amount", "by quantity"])
def test_greatest_budget_overflows_nothing(fields: dict[str, int]) -> None:
    """The greatest budget buys the greatest offer at 100 % fee and has nothing left."""
    market = Market(**GREATEST)
    for _ in range(2):
        market.place(SELL, 2**41, 2**20, BOB, hold_units=2**41)
    events = market.place(BUY, 2**41, hold_units=2**62, **fields)
    assert trades(events) == [(1, 3, 2**20, 2**41)]
    assert amounts(events[-1], "remaining_lots", "hold_units", "hold_released_units") == (0, 0, 0)


# Conservation.


class Purses:
    """What accounts have, by their commands and what is released, spent and received; knows nothing of matching."""

    def __init__(self, start: int, lot_units: int) -> None:
        """Give each account ``start`` units of base and of quote."""
        self.free = Counter({(account, asset): start for account in (ALICE, BOB, CAROL) for asset in ("base", "quote")})
        self.lot_units = lot_units
        self.fees = 0

    def pay(self, account: int, side: Any, hold: int) -> None:
        """Take a hold for a command."""
        self.free[account, "quote" if side == BUY else "base"] -= hold

    def fold(self, events: Any, sides: dict[int, Any]) -> None:
        """Fold events. sides: of orders by id."""
        for event in events:
            if event["kind"] == EventKind.TRADED:
                self._party(event, "maker_", sides)
            self._party(event, "", sides)

    def _party(self, event: Any, prefix: str, sides: dict[int, Any]) -> None:
        order_id, account = amounts(event, prefix + "order_id", prefix + "account_id")
        if order_id not in sides:
            return
        buys = sides[order_id] == BUY
        self.free[account, "quote" if buys else "base"] += int(event[prefix + "hold_released_units"])
        if event["kind"] != EventKind.TRADED:
            return
        fee = int(event[prefix + "fee_units"])
        self.fees += fee
        if buys:
            self.free[account, "base"] += int(event["quantity_lots"]) * self.lot_units
        else:
            self.free[account, "quote"] += int(event["notional_units"]) - fee


@pytest.mark.parametrize("seed", range(4))
def test_money_is_conserved(seed: int) -> None:
    """Over a wild afternoon base, quote and the fees taken together stay what they were; in the end nothing is held.

    Buyers' money is followed by what their holds gave back, sellers' by what they were paid: neither knows the other.
    """
    random, start = Random(seed), 10**15
    market = Market(tick_lot_units=3, lot_units=7, **RATES)
    purses, sides, seen = Purses(start, 7), {}, set()
    for _ in range(400):
        account, side = random.choice((ALICE, BOB, CAROL)), random.choice((BUY, SELL))
        roll, hold = random.random(), random.randint(3_000, 60_000)
        stop = {"stop_price_ticks": random.randint(990, 1_010)} if roll < 0.15 else {}
        price = 0 if roll < 0.1 or 0.15 < roll < 0.3 else random.randint(990, 1_010)
        if roll < 0.8:
            prevention = random.choice(list(SelfTradePrevention))
            fields = {"hold_units": hold, "self_trade_prevention": prevention, **stop}
            sides[market.order_id + 1] = side
            purses.pay(account, side, hold)
            events = market.place(side, random.randint(1, 30), price, account, **fields)
        else:
            order_id = random.randint(max(1, market.order_id - 20), market.order_id)
            purses.pay(account, sides[order_id], hold)
            events = market.amend(order_id, account, quantity_lots=random.randint(1, 30), hold_units=hold)
        purses.fold(events, sides)
        seen.update(events["kind"].tolist())
    assert seen >= {EventKind.TRADED, EventKind.CANCELLED, EventKind.TRIGGERED, EventKind.AMENDED, EventKind.REFUSED}
    assert purses.fees > 0
    purses.fold(market.cancel_all(), sides)
    assert market.holds.held == {}
    assert sum(units for (_, asset), units in purses.free.items() if asset == "quote") + purses.fees == 3 * start
    assert sum(units for (_, asset), units in purses.free.items() if asset == "base") == 3 * start


def test_everything_is_released_in_the_end() -> None:
    """Whichever way orders end (filled, cancelled, expired, prevented, out of budget), nothing of them stays held."""
    market = market_with_asks((100, 2), (120, 2), **RATES)
    market.place(BUY, 3, 110, time_in_force=TimeInForce.GTD, expires_at_ns=market.now_ns + 1)
    market.place(BUY, 5, hold_units=200)
    market.spend(250)
    market.place(SELL, 1, 200)
    market.place(BUY, 2, 200)
    market.stop(BUY, 2, 300, hold_units=700)
    assert market.holds.held == {3: 110, 6: 1, 8: 700}  # the fee of order 3's rest, 0.11, is paid already
    market.now_ns += 1
    market.expire()
    market.cancel_all()
    assert market.holds.held == {}
