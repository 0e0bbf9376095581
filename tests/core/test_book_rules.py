"""The rules of the order book, one by one: priority, times in force, market orders, self trades, cancelling, events."""

from __future__ import annotations

import numpy as np
import pytest
from tests.core.book_pair import run
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

from tradeengine.core import book as kernel
from tradeengine.core.records import (
    CommandFlag,
    CommandKind,
    EventFlag,
    EventKind,
    OrderType,
    SelfTradePrevention,
    TimeInForce,
    command_dtype,
)

POST_ONLY = CommandFlag.POST_ONLY
IOC, FOK, GTD = TimeInForce.IOC, TimeInForce.FOK, TimeInForce.GTD
CANCEL_TAKER, CANCEL_MAKER, CANCEL_BOTH = SelfTradePrevention


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
    """What a limit order does not trade waits at its own limit, behind nobody of the other side."""
    market = market_with_asks((100, 2))
    market.place(BUY, 5, 101)
    assert (market.levels(BUY), market.levels(SELL)) == ([[101, 3]], [])
    assert trades(market.place(SELL, 3, 100, BOB)) == [(2, 3, 101, 3)]


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


def test_fok_at_market_must_fit_its_hold() -> None:
    """Three lots for 301 units and 10 % fee (30.1, rounded up) are filled with a hold of 332 and not with 331."""
    market = market_with_asks((100, 2), (101, 1), taker_fee_ppm=100_000)
    rejected = market.place(BUY, 3, time_in_force=FOK, hold_units=331)
    assert told(rejected) == [("REJECTED", 3, "FOK_NOT_FILLED")]
    assert rejected["hold_released_units"][0] == 331
    events = market.place(BUY, 3, time_in_force=FOK, hold_units=332)
    assert trades(events) == [(1, 4, 100, 2), (2, 4, 101, 1)]
    assert amounts(events[-1], "hold_units", "hold_released_units") == (0, 0)


@pytest.mark.parametrize(("budget", "filled"), [(99, False), (100, True), (299, True), (300, False)])
def test_fok_for_an_amount_is_filled_when_its_amount_is_used_up(budget: int, filled: bool) -> None:
    """Of two lots at 100, an amount that would buy none or a third one is not fillable; 99 left over buys nothing."""
    events = market_with_asks((100, 2)).spend(budget, time_in_force=FOK)
    assert bool(trades(events)) == filled
    assert events["remaining_lots"][-1] == 0
    assert reason(events) == ("NONE" if filled else "FOK_NOT_FILLED")


@pytest.mark.parametrize(
    ("prevention", "wanted"),
    [
        (CANCEL_TAKER, [("REJECTED", 4, "FOK_NOT_FILLED")]),
        (CANCEL_BOTH, [("REJECTED", 4, "FOK_NOT_FILLED")]),
        (CANCEL_MAKER, [("ACCEPTED", 4, "NONE"), (1, 4, 100, 1), ("CANCELLED", 2, "SELF_TRADE"), (3, 4, 100, 1)]),
    ],
)
def test_fok_with_an_own_order_in_the_way(prevention: SelfTradePrevention, wanted: list[object]) -> None:
    """FOK counts on what it may trade: past own orders only where these are the ones to end."""
    market = market_with_asks((100, 1))
    market.place(SELL, 1, 100, ALICE)
    market.place(SELL, 1, 100, BOB)
    assert told(market.place(BUY, 2, 100, ALICE, time_in_force=FOK, self_trade_prevention=prevention)) == wanted


def test_fok_that_is_filled_before_an_own_order() -> None:
    """An own order behind the last lot that is needed is not in the way, and stays."""
    market = market_with_asks((100, 2))
    market.place(SELL, 1, 100, ALICE)
    assert trades(market.place(BUY, 2, 100, ALICE, time_in_force=FOK)) == [(1, 3, 100, 2)]
    assert market.levels(SELL) == [[100, 1]]


def test_post_only_never_takes() -> None:
    """Post-only rests one tick away from a match, and is rejected where it would match."""
    market = market_with_asks((100, 1))
    rejected = market.place(BUY, 1, 100, flags=POST_ONLY)
    assert told(rejected) == [("REJECTED", 2, "POST_ONLY_WOULD_MATCH")]
    assert rejected["hold_released_units"][0] == PLENTY
    market.place(BUY, 1, 99, flags=POST_ONLY)
    assert market.levels(BUY) == [[99, 1]]
    assert reason(market.place(SELL, 1, 99, CAROL, flags=POST_ONLY)) == "POST_ONLY_WOULD_MATCH"


def test_gtd_order_ends_at_its_time() -> None:
    """An order with an end is there one nanosecond before it and gone at it; ends of one moment go by id."""
    market = Market()
    market.place(BUY, 1, 12, time_in_force=GTD, expires_at_ns=market.now_ns + 9)
    market.place(BUY, 1, 10, time_in_force=GTD, expires_at_ns=market.now_ns + 5)
    market.place(BUY, 1, 11, time_in_force=GTD, expires_at_ns=market.now_ns + 5)
    assert kernel.next_expiry_ns(market.book) == market.now_ns + 5
    market.now_ns += 4
    assert told(market.expire()) == [("EXPIRED", 0, "NONE")]
    market.now_ns += 1
    events = market.expire()
    assert told(events) == [("CANCELLED", 2, "EXPIRED"), ("CANCELLED", 3, "EXPIRED"), ("EXPIRED", 0, "NONE")]
    assert events["quantity_lots"][-1] == 2
    assert (market.levels(BUY), kernel.next_expiry_ns(market.book)) == ([[12, 1]], market.now_ns + 4)


def test_gtd_order_that_is_over_on_arrival() -> None:
    """An order whose end is not later than its own time is accepted and expires at once: it never trades."""
    market = market_with_asks((100, 1))
    events = market.place(BUY, 1, 100, time_in_force=GTD, expires_at_ns=market.now_ns)
    assert told(events) == [("ACCEPTED", 2, "NONE"), ("CANCELLED", 2, "EXPIRED")]


def test_gtd_order_that_is_gone_does_not_expire() -> None:
    """Filled and cancelled orders leave no expiry; of one filled in part, the rest ends and gives back its hold."""
    market = Market()
    for _ in range(3):
        market.place(BUY, 2, 10, time_in_force=GTD, expires_at_ns=market.now_ns + 1)
    market.cancel(2)
    market.place(SELL, 3, 10, BOB)
    market.now_ns += 1
    events = market.expire()
    assert told(events) == [("CANCELLED", 3, "EXPIRED"), ("EXPIRED", 0, "NONE")]
    assert amounts(events[0], "remaining_lots", "hold_released_units") == (1, 10)
    assert kernel.next_expiry_ns(market.book) == 2**63 - 1


# Market orders.


def test_market_order_takes_what_is_there_and_ends() -> None:
    """A market order trades at any price and never rests."""
    market = market_with_asks((100, 1), (900, 1))
    assert told(market.place(BUY, 3))[1:] == [(1, 3, 100, 1), (2, 3, 900, 1), ("CANCELLED", 3, "NO_LIQUIDITY")]
    assert reason(market.place(SELL, 1)) == "NO_LIQUIDITY"
    assert (market.levels(BUY), market.levels(SELL)) == ([], [])


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
    assert amounts(events[-1], "remaining_lots", "hold_units", "hold_released_units") == (0, 0, 30)


def test_buy_for_an_amount_that_buys_nothing_is_cancelled() -> None:
    """An amount below one lot at the best price ends with BUDGET, in an empty book with NO_LIQUIDITY."""
    market = market_with_asks((100, 2))
    assert reason(market.spend(99)) == "BUDGET"
    market.cancel(1, BOB)
    assert reason(market.spend(99)) == "NO_LIQUIDITY"


def test_buy_for_an_amount_that_takes_all_there_is() -> None:
    """250 units buy the only lot at 100; 150 would buy another, so the rest is cancelled, with what was filled told."""
    events = market_with_asks((100, 1)).spend(250)
    assert told(events)[1:] == [(1, 2, 100, 1), ("CANCELLED", 2, "NO_LIQUIDITY")]
    assert amounts(events[-1], "quantity_lots", "remaining_lots", "filled_notional_units") == (1, 0, 100)
    assert events["hold_released_units"][-1] == 150


def test_fee_counts_within_an_amount() -> None:
    """At 10 % fee 219 units buy one lot at 100 (110), 220 buy two (220)."""
    market = market_with_asks((100, 10), taker_fee_ppm=100_000)
    assert trades(market.spend(219)) == [(1, 2, 100, 1)]
    assert trades(market.spend(220)) == [(1, 3, 100, 2)]


# Self trades.


@pytest.mark.parametrize(
    ("prevention", "wanted", "left"),
    [
        (CANCEL_TAKER, [(1, 4, 100, 1), ("CANCELLED", 4, "SELF_TRADE")], [[100, 2]]),
        (CANCEL_MAKER, [(1, 4, 100, 1), ("CANCELLED", 2, "SELF_TRADE"), (3, 4, 100, 1)], []),
        (CANCEL_BOTH, [(1, 4, 100, 1), ("CANCELLED", 2, "SELF_TRADE"), ("CANCELLED", 4, "SELF_TRADE")], [[100, 1]]),
    ],
)
@pytest.mark.parametrize("price", [100, 0], ids=["limit", "market"])
def test_nobody_trades_with_themselves(
    price: int, prevention: SelfTradePrevention, wanted: list[object], left: list[list[int]]
) -> None:
    """Alice's order meets Bob's, her own, Bob's: the taker's setting decides who ends; none of it is a trade."""
    market = market_with_asks((100, 1))
    market.place(SELL, 1, 100, ALICE, self_trade_prevention=CANCEL_BOTH)
    market.place(SELL, 1, 100, BOB)
    events = market.place(BUY, 2, price, ALICE, self_trade_prevention=prevention)
    assert told(events)[1:] == wanted
    assert (market.levels(SELL), market.levels(BUY)) == (left, [])


def test_own_order_out_of_reach_is_no_self_trade() -> None:
    """An own order beyond the limit, or behind the last lot that is wanted, is left alone."""
    market = market_with_asks((100, 1))
    market.place(SELL, 1, 101, ALICE)
    assert told(market.place(BUY, 2, 100, ALICE))[1:] == [(1, 3, 100, 1)]
    assert (market.levels(SELL), market.levels(BUY)) == ([[101, 1]], [[100, 1]])


def test_own_order_ends_a_buy_for_an_amount() -> None:
    """Prevention ends a buy by amount as any other taker: what it has bought stays bought, the rest comes back."""
    market = market_with_asks((100, 1))
    market.place(SELL, 5, 100, ALICE)
    events = market.spend(300)
    assert told(events)[1:] == [(1, 3, 100, 1), ("CANCELLED", 3, "SELF_TRADE")]
    assert events["hold_released_units"][-1] == 200


# Cancelling.


def test_strangers_cannot_cancel() -> None:
    """Another account's order is not found; nor is one that has ended."""
    market = market_with_asks((100, 1))
    assert told(market.cancel(1, ALICE)) == [("REFUSED", 1, "ORDER_NOT_FOUND")]
    assert told(market.cancel(1, BOB)) == [("CANCELLED", 1, "USER")]
    assert told(market.cancel(1, BOB)) == [("REFUSED", 1, "ORDER_NOT_FOUND")]


def test_mass_cancel_ends_one_accounts_orders() -> None:
    """A mass cancel ends resting orders and waiting stops of its account alone, oldest first, and says how many."""
    market = Market()
    market.place(BUY, 1, 50)
    market.place(BUY, 1, 51, BOB)
    market.stop(BUY, 1, 200)
    market.place(SELL, 1, 300)
    events = market.cancel_all(ALICE)
    assert told(events) == [
        *(("CANCELLED", order, "CANCELLED_ALL") for order in (1, 3, 4)),
        ("CANCELLED_ALL", 0, "NONE"),
    ]
    assert events["quantity_lots"][-1] == 3
    assert (market.levels(BUY), market.levels(SELL), market.stops()) == ([[51, 1]], [], [])
    assert told(market.cancel_all(ALICE)) == [("CANCELLED_ALL", 0, "NONE")]


def test_mass_cancel_of_one_symbol() -> None:
    """A mass cancel that names a symbol leaves the account's orders on others."""
    market = Market()
    market.list_symbol(1)
    for symbol_id in (0, 1, 0):
        market.place(BUY, 1, 50, symbol_id=symbol_id)
    assert told(market.cancel_all(ALICE, 1))[:1] == [("CANCELLED", 2, "CANCELLED_ALL")]
    assert told(market.cancel_all(0, 0))[:2] == [("CANCELLED", order, "CANCELLED_ALL") for order in (1, 3)]


def test_mass_cancel_of_everyone_goes_by_ladder() -> None:
    """Everyone's orders end by symbol: bids, asks, stop buys, stop sells, each from the best price on."""
    market = Market()
    market.list_symbol(1)
    market.place(BUY, 1, 10, symbol_id=1)
    market.stop(SELL, 1, 50)
    market.stop(BUY, 1, 150, account=BOB)
    market.stop(BUY, 1, 140)
    market.place(SELL, 1, 130, BOB)
    market.place(SELL, 1, 120)
    market.place(BUY, 1, 80, BOB)
    market.place(BUY, 1, 90)
    events = market.cancel_all()
    assert events["order_id"].tolist() == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert (events["quantity_lots"][-1], kernel.order_count(market.book)) == (8, 0)


@pytest.mark.parametrize(("account", "symbol_id"), [(64, -1), (-1, -1), (ALICE, 2), (ALICE, -2)])
def test_mass_cancel_of_what_cannot_be_is_refused(account: int, symbol_id: int) -> None:
    """A mass cancel for an account or symbol that the book has no room for is refused."""
    assert reason(Market().cancel_all(account, symbol_id)) == "INVALID_REQUEST"


# Events.


def test_unknown_command_is_refused() -> None:
    """A kind that no book knows is answered too."""
    assert told(Market().send(99)) == [("REFUSED", 0, "INVALID_REQUEST")]


def test_events_tell_all_about_an_order() -> None:
    """ACCEPTED repeats the whole order; TRADED has both parties' rest, totals and flags."""
    market = market_with_asks((100, 2), maker_fee_ppm=10_000, taker_fee_ppm=20_000)
    end_ns = market.now_ns + 10
    terms = {"time_in_force": GTD, "expires_at_ns": end_ns, "self_trade_prevention": CANCEL_BOTH}
    accepted, first = market.place(BUY, 3, 110, client_order_id=b"me-1", ingress_sequence=7, ingress_ring=5, **terms)
    names = ("order_id", "account_id", "symbol_id", "side", "order_type", "time_in_force", "self_trade_prevention")
    assert amounts(accepted, *names) == (2, ALICE, 0, BUY, OrderType.LIMIT, GTD, CANCEL_BOTH)
    assert amounts(accepted, "price_ticks", "quantity_lots", "remaining_lots", "expires_at_ns") == (110, 3, 3, end_ns)
    assert accepted["client_order_id"] == b"me-1"
    assert amounts(accepted, "ingress_sequence", "ingress_ring", "hold_units") == (7, 5, 337)  # 330 and 2 %: 6.6
    assert amounts(first, "account_id", "maker_account_id", "side") == (ALICE, BOB, BUY)
    assert amounts(first, "remaining_lots", "maker_remaining_lots", "ingress_sequence") == (1, 0, 7)
    assert first["flags"] == EventFlag.MAKER_DONE | EventFlag.LAST_OF_COMMAND
    second = market.place(SELL, 1, 110, CAROL)[1]
    totals = ("maker_filled_notional_units", "maker_fee_total_units", "filled_notional_units", "fee_total_units")
    assert amounts(second, *totals) == (310, 6, 110, 3)  # 2 % of 200 and 1 % of 110: 5.1; 2 % of 110: 2.2


def test_trade_ids_ascend_beyond_one_milliseconds_counter() -> None:
    """70,000 trades of one millisecond borrow numbers from the next one; the ids ascend, also into later commands."""
    count = 70_000
    market = Market(orders_max=count + 2)
    sells = np.zeros(count, command_dtype)
    sells["kind"], sells["side"], sells["order_type"] = CommandKind.PLACE, SELL, OrderType.LIMIT
    sells["time_in_force"], sells["self_trade_prevention"] = TimeInForce.GTC, CANCEL_TAKER
    sells["order_id"], sells["account_id"] = np.arange(1, count + 1), BOB
    sells["price_ticks"], sells["quantity_lots"], sells["hold_units"] = 5, 1, 1
    buys = sells[-2:].copy()
    buys["side"], buys["order_id"], buys["account_id"] = BUY, (count + 1, count + 2), ALICE
    buys["quantity_lots"], buys["hold_units"], buys["timestamp_ns"] = (count - 1, 1), PLENTY, market.now_ns
    events = run(market.book, np.concatenate([sells, buys]))
    ids = events["trade_id"][events["kind"] == EventKind.TRADED]
    assert len(ids) == count
    assert bool((ids[1:] > ids[:-1]).all())
    assert ids[-1] >> 22 == (ids[0] >> 22) + 1
