"""Limits of accounts, to the unit: at each bound an order goes through, a unit above it does not, whatever its kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.core.risk_world import ALICE, BOB, CAROL, QUOTE, RiskWorld, change, place, symbol_spec

from tradeengine.core.records import (
    AccountFlag,
    CommandFlag,
    CommandKind,
    EventKind,
    LimitKind,
    OrderType,
    Reason,
    Side,
    TimeInForce,
    event_dtype,
)
from tradeengine.core.risk import fold
from tradeengine.core.risk_state import AMENDS_IN_USE, OPEN_MAX
from tradeengine.core.symbols import AssetSpec, SymbolSpec

BUY, SELL = Side.BUY, Side.SELL
MARKET, STOP, STOP_LIMIT = OrderType.MARKET, OrderType.STOP, OrderType.STOP_LIMIT
DAY_NS = 86_400 * 1_000_000_000
FUNDS = 1_000_000

Command = np.ndarray[Any, np.dtype[np.void]]

# Every kind of order, and what it comes to: three units for a lot at a tick. The touch is 99 to 101.
KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "limit buy": ({"side": BUY, "lots": 10, "price": 98}, 2940),
    "limit sell": ({"side": SELL, "lots": 10, "price": 102}, 3060),
    "stop buy": ({"side": BUY, "lots": 10, "order_type": STOP, "stop_price_ticks": 110}, 3300),
    "stop sell": ({"side": SELL, "lots": 10, "order_type": STOP, "stop_price_ticks": 90}, 2700),
    "stop limit": ({"side": SELL, "lots": 10, "price": 80, "order_type": STOP_LIMIT, "stop_price_ticks": 90}, 2400),
    "market buy": ({"side": BUY, "lots": 10}, 3030),
    "market sell": ({"side": SELL, "lots": 10}, 2970),
    "by quote": ({"side": BUY, "lots": 0, "flags": CommandFlag.BY_QUOTE, "hold_units": 2999}, 2999),
}
kinds = pytest.mark.parametrize(("fields", "units"), KINDS.values(), ids=KINDS.keys())


def make(account_id: int = ALICE, *, lots: int = 1, side: Side = BUY, price: int = 0, **fields: Any) -> Command:
    """Make a PLACE; stops stay until they are cancelled."""
    if fields.get("order_type") == STOP:
        fields["time_in_force"] = TimeInForce.GTC
    return place(account_id, side, lots, price, **fields)


def amount(units: int) -> str:
    """Write units of two places as a decimal."""
    return f"{units // 100}.{units % 100:02}"


def refusal(events: Command) -> tuple[Reason, LimitKind, int, int]:
    """Read a refusal: reason, which limit, what is used, the maximum."""
    (event,) = events
    assert event["kind"] == EventKind.REFUSED
    limit = LimitKind(int(event["price_ticks"]))
    return Reason(int(event["reason"])), limit, int(event["quantity_lots"]), int(event["notional_units"])


@pytest.fixture
def world() -> RiskWorld:
    """Everyone has money; two symbols of the same quote on two shards; Carol quotes 99 to 101 in both."""
    made = RiskWorld(shards=2, symbols=(symbol_spec(0), symbol_spec(1, shard=1)))
    for account_id in (ALICE, BOB, CAROL):
        for asset_id in range(3):
            made.fund(account_id, asset_id, FUNDS)
    for symbol_id in (0, 1):
        made.ask(make(CAROL, side=BUY, lots=1000, price=99, symbol_id=symbol_id))
        made.ask(make(CAROL, side=SELL, lots=1000, price=101, symbol_id=symbol_id))
    made.settle()
    return made


@kinds
def test_order_size(world: RiskWorld, fields: dict[str, Any], units: int) -> None:
    """An order of exactly max_order_size is taken, one of a unit more is not, and is told so with both numbers."""
    for below in (1, units - 1):
        world.set_account(order_notional_max=amount(below))
        expected = (Reason.LIMIT_EXCEEDED, LimitKind.ORDER_NOTIONAL, units, below)
        assert refusal(world.send(make(**fields))) == expected
    assert world.open_units() == world.held(ALICE, QUOTE) == 0
    for enough in (units, units + 1):
        world.set_account(order_notional_max=amount(enough))
        assert world.ask(make(**fields)) == Reason.NONE
    assert world.open_units() == 2 * units


@kinds
def test_second_factor(world: RiskWorld, fields: dict[str, Any], units: int) -> None:
    """Above the bound an order needs a second factor; the word for it ends in risk and makes no other order of it."""
    flags = fields.get("flags", 0)
    world.set_account(two_factor_above=amount(units))
    assert world.ask(make(**fields)) == Reason.NONE
    world.set_account(two_factor_above=amount(units - 1))
    expected = (Reason.TWO_FACTOR_REQUIRED, LimitKind.TWO_FACTOR, units, units - 1)
    assert refusal(world.send(make(**fields))) == expected
    named = fields | {"client_order_id": b"named"}
    assert world.ask(make(**named | {"flags": flags | CommandFlag.TWO_FACTOR})) == Reason.NONE
    assert world.last_forwarded["flags"] == flags
    (repeat,) = world.send(make(**named))
    assert repeat["kind"] == EventKind.REPEATED


@kinds
def test_volume_of_the_day(world: RiskWorld, fields: dict[str, Any], units: int) -> None:
    """What was traded, what live orders could still trade, and the new order may come to the maximum and no more."""
    world.ask(make(side=SELL, lots=20, price=99, symbol_id=1))
    world.ask(make(side=BUY, lots=5, price=98, symbol_id=1))
    world.settle()
    traded, could = 20 * 99 * 3, 5 * 98 * 3
    assert (world.traded_units(), world.open_units()) == (traded, could)
    world.set_account(day_notional_max=amount(traded + could + units - 1))
    expected = (Reason.LIMIT_EXCEEDED, LimitKind.DAY_NOTIONAL, traded + could, traded + could + units - 1)
    assert refusal(world.send(make(**fields))) == expected
    world.set_account(day_notional_max=amount(traded + could + units))
    assert world.ask(make(**fields)) == Reason.NONE
    assert world.ask(make(lots=1, price=4)) == Reason.LIMIT_EXCEEDED


def test_two_orders_for_the_last_unit_of_volume(world: RiskWorld) -> None:
    """Of two orders in one batch, on two shards, that would together go over the maximum, the first is taken."""
    world.set_account(day_notional_max="59.99")
    orders = [make(lots=10, price=100, symbol_id=symbol_id, client_order_id=b"%d" % symbol_id) for symbol_id in (0, 1)]
    answers = world.send(np.concatenate(orders))
    assert answers["client_order_id"].tolist() == [b"1"]
    assert refusal(answers)[1:] == (LimitKind.DAY_NOTIONAL, 3000, 5999)


def test_makers_fills_count(world: RiskWorld) -> None:
    """A resting order moves from what could be traded to what was, at the same price, as others hit it."""
    world.place(ALICE, BUY, 10, 100)
    world.settle()
    before = world.open_units()
    world.place(BOB, SELL, 4, 100)
    world.settle()
    assert (before, world.open_units(), world.traded_units(), world.traded_units(BOB)) == (3000, 1800, 1200, 1200)


def test_volume_begins_anew_with_the_day(world: RiskWorld) -> None:
    """In the last nanosecond of a UTC day its fills count, in the next one only live orders do."""
    world.place(ALICE, BUY, 10, 101)
    world.place(ALICE, BUY, 10, 90)
    world.settle()
    world.set_account(day_notional_max=amount(10 * 101 * 3 + 10 * 90 * 3 + 2999))
    midnight_ns = (world.now_ns // DAY_NS + 1) * DAY_NS
    world.now_ns = midnight_ns - 1
    assert world.ask(make(lots=10, price=100)) == Reason.LIMIT_EXCEEDED
    world.now_ns = midnight_ns
    assert world.traded_units() == 0
    assert world.ask(make(lots=10, price=100)) == Reason.NONE


def test_a_fill_of_yesterday_that_is_heard_of_today_is_none_of_todays(world: RiskWorld) -> None:
    """Shards are heard of in any order: what traded before midnight on one counts not after a fill of today's."""
    world.place(ALICE, BUY, 10, 101, symbol_id=0)
    world.match(0)
    world.now_ns += DAY_NS
    assert world.ask(make(lots=5, price=101, symbol_id=1)) == Reason.NONE
    world.match(1)
    world.fold(1, 100)
    world.fold(0, 100)
    assert world.traded_units() == 5 * 101 * 3


def test_amend_is_checked_where_it_grows(world: RiskWorld) -> None:
    """An amend to the bound passes, beyond it does not; one that makes less of an order passes whatever the limits."""
    order_id = world.place(ALICE, BUY, 10, 90)
    world.settle()

    def amend(**fields: int) -> Reason:
        return world.ask(change(CommandKind.AMEND, order_id=order_id, **fields))

    world.set_account(order_notional_max="30.00", two_factor_above="29.00", day_notional_max="29.70")
    assert amend(price_ticks=101, flags=CommandFlag.TWO_FACTOR) == Reason.LIMIT_EXCEEDED
    assert amend(price_ticks=100) == Reason.TWO_FACTOR_REQUIRED
    assert amend(price_ticks=100, flags=CommandFlag.TWO_FACTOR) == Reason.LIMIT_EXCEEDED
    assert amend(quantity_lots=11, flags=CommandFlag.TWO_FACTOR) == Reason.NONE
    assert world.last_forwarded["flags"] == 0
    assert world.open_units() == 2970
    world.settle()
    world.set_account(order_notional_max="1.00", two_factor_above="1.00", day_notional_max="1.00")
    assert amend(quantity_lots=12) == Reason.LIMIT_EXCEEDED
    assert amend(quantity_lots=10) == Reason.NONE
    assert amend(price_ticks=89) == Reason.NONE
    world.settle()
    assert (world.open_units(), world.risk.scalars[AMENDS_IN_USE]) == (2670, 0)


def test_amends_on_their_way_count_together(world: RiskWorld) -> None:
    """A dearer price and a greater quantity, asked for one after the other, count as both at once until answered."""
    order_id = world.place(ALICE, BUY, 10, 90)
    world.settle()
    world.set_account(order_notional_max="32.99", day_notional_max="33.00")
    assert world.ask(change(CommandKind.AMEND, order_id=order_id, price_ticks=100)) == Reason.NONE
    assert world.open_units() == 3000
    assert world.ask(change(CommandKind.AMEND, order_id=order_id, quantity_lots=11)) == Reason.LIMIT_EXCEEDED
    world.set_account(order_notional_max="33.00", day_notional_max="33.00")
    assert world.ask(change(CommandKind.AMEND, order_id=order_id, quantity_lots=11)) == Reason.NONE
    assert world.open_units() == 3300
    assert world.ask(change(CommandKind.AMEND, order_id=order_id, quantity_lots=5)) == Reason.NONE
    assert world.open_units() == 3300, "the matcher may refuse the last one"
    world.settle()
    assert world.open_units() == 5 * 100 * 3


def test_amends_that_come_too_late_leave_nothing(world: RiskWorld) -> None:
    """Amends behind the end of their order reserve nothing once it is known, and their refusals change nothing."""
    order_id = world.place(ALICE, BUY, 10, 90)
    world.settle()
    commands = [change(CommandKind.CANCEL, order_id=order_id)]
    commands += [change(CommandKind.AMEND, order_id=order_id, quantity_lots=lots) for lots in (20, 30)]
    assert len(world.send(np.concatenate(commands))) == 0
    assert world.open_units() == 30 * 90 * 3
    world.match(0, 3)
    world.fold(0, 1)
    assert (world.open_units(), world.risk.scalars[AMENDS_IN_USE]) == (0, 0)
    world.settle()
    assert (world.open_units(), world.held(ALICE, QUOTE)) == (0, 0)


def test_amends_of_too_many_orders_are_refused() -> None:
    """When no place is left to remember another order's amend, it is refused; more of the same order pass."""
    world = RiskWorld(amends_max=1)
    world.fund(ALICE, QUOTE, FUNDS)
    first, second = (world.place(ALICE, BUY, 10, 90) for _ in range(2))
    amends = [change(CommandKind.AMEND, order_id=order_id, quantity_lots=12) for order_id in (first, second, first)]
    assert [world.ask(amend) for amend in amends] == [Reason.NONE, Reason.ENGINE_OVERLOADED, Reason.NONE]
    world.settle()
    assert world.ask(amends[1]) == Reason.NONE


def test_open_orders(world: RiskWorld) -> None:
    """An account's own maximum counts where it is the lower one, zero included; ended orders make room."""
    world.set_account(open_orders_max=2)
    first = world.place(ALICE, BUY, 1, 90)
    world.place(ALICE, BUY, 1, 90)
    expected = (Reason.LIMIT_EXCEEDED, LimitKind.OPEN_ORDERS, 2, 2)
    assert refusal(world.send(make(price=90))) == expected
    assert world.ask(change(CommandKind.AMEND, order_id=first, quantity_lots=2)) == Reason.NONE
    world.ask(change(CommandKind.CANCEL, order_id=first))
    world.settle()
    world.place(ALICE, BUY, 1, 90)
    world.set_account(open_orders_max=0)
    assert world.ask(make(price=90)) == Reason.LIMIT_EXCEEDED
    world.set_account(open_orders_max=1000)
    for _ in range(48):
        world.place(ALICE, BUY, 1, 90)
    assert refusal(world.send(make(price=90)))[1:] == (LimitKind.OPEN_ORDERS, 50, 50)


def test_suspended_account_may_cancel_and_nothing_else(world: RiskWorld) -> None:
    """A suspended account's orders stay; it can cancel them, and repeats of what it placed are answered."""
    order_id = world.place(ALICE, BUY, 10, 90, client_order_id=b"before")
    world.settle()
    world.set_account(account_flags=AccountFlag.SUSPENDED)
    assert world.ask(make(price=90)) == Reason.ACCOUNT_SUSPENDED
    for fields in ({"quantity_lots": 20}, {"quantity_lots": 5}):
        assert world.ask(change(CommandKind.AMEND, order_id=order_id, **fields)) == Reason.ACCOUNT_SUSPENDED
    (repeat,) = world.send(make(lots=10, price=90, client_order_id=b"before"))
    assert (repeat["kind"], repeat["order_id"]) == (EventKind.REPEATED, order_id)
    assert world.ask(make(BOB, price=90)) == Reason.NONE
    assert world.ask(change(CommandKind.CANCEL_ALL, symbol_id=0)) == Reason.NONE
    assert world.ask(change(CommandKind.CANCEL, order_id=order_id)) == Reason.NONE
    world.settle()
    world.set_account()
    assert world.ask(make(price=90)) == Reason.NONE


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"order_notional_max": "10000000"}, Reason.LIMIT_EXCEEDED),
        ({"day_notional_max": "10000000"}, Reason.LIMIT_EXCEEDED),
        ({"two_factor_above": "10000000"}, Reason.TWO_FACTOR_REQUIRED),
        ({"open_orders_max": 5}, Reason.NONE),
    ],
)
def test_market_sell_that_no_bid_puts_a_price_on(settings: dict[str, Any], reason: Reason) -> None:
    """Nobody can say what a market sell into an empty book comes to: it is above every limit on amounts."""
    world = RiskWorld()
    world.fund(ALICE, 0, FUNDS)
    world.set_account(**settings)
    answers = world.send(make(side=SELL, lots=10))
    assert (Reason(int(answers["reason"][0])) if len(answers) else Reason.NONE) == reason
    if len(answers):
        assert refusal(answers)[2] == (0 if "day_notional_max" in settings else -1)
        world.set_account()
        assert world.ask(make(side=SELL, lots=10)) == Reason.NONE


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"order_notional_max": "10000000"}, Reason.LIMIT_EXCEEDED),
        ({"day_notional_max": "10000000"}, Reason.LIMIT_EXCEEDED),
        ({"two_factor_above": "10000000"}, Reason.TWO_FACTOR_REQUIRED),
    ],
)
def test_buy_that_goes_on_to_any_price(settings: dict[str, Any], reason: Reason) -> None:
    """Without a collar nobody can say what a buy without a limit comes to, be stop price or best ask ever so low.

    By quote amount, at a limit, or in a symbol with a collar it is taken.
    """
    world = RiskWorld(symbols=(symbol_spec(0, collar_ppm=0), symbol_spec(1)))
    world.fund(ALICE, 1, FUNDS)
    for asset_id in range(3):
        world.fund(CAROL, asset_id, FUNDS)
    for symbol_id in (0, 1):
        assert world.ask(make(CAROL, side=SELL, lots=1, price=10, symbol_id=symbol_id)) == Reason.NONE
    world.settle()
    stop = {"order_type": STOP, "stop_price_ticks": 10}
    assert world.ask(make(side=BUY, lots=1, **stop)) == Reason.NONE
    small_id = world.last_forwarded["order_id"]
    world.set_account(**settings)
    for fields in ({}, stop):
        (answer,) = world.send(make(side=BUY, lots=10, **fields))
        assert answer["reason"] == reason
        assert world.ask(make(side=BUY, lots=10, symbol_id=1, **fields)) == Reason.NONE
    assert world.ask(change(CommandKind.AMEND, order_id=small_id, quantity_lots=500)) == reason
    by_quote = {"lots": 0, "flags": CommandFlag.BY_QUOTE, "hold_units": 300}
    assert world.ask(make(side=BUY, **by_quote)) == Reason.NONE
    assert world.ask(make(side=BUY, lots=10, price=10)) == Reason.NONE
    world.set_account()
    assert world.ask(make(side=BUY, lots=10, **stop)) == Reason.NONE


@pytest.mark.parametrize(
    ("limit", "taken", "refused"),
    [
        ("29.999", 2997, 3000),  # more places than the asset has: rounded down to 29.99
        ("0.000000000000000001", 0, 12),
        ("0", 0, 12),
        ("30", 3000, 3003),
        ("2305843009213693951", 300_000, 0),  # beyond all amounts in two places
    ],
)
def test_limits_of_any_scale(world: RiskWorld, limit: str, taken: int, refused: int) -> None:
    """A limit is a decimal of any asset: one finer than the asset is rounded down, and none is too large."""
    world.set_account(order_notional_max=limit)
    for units, reason in ((taken, Reason.NONE), (refused, Reason.LIMIT_EXCEEDED)):
        if units:
            assert world.ask(make(lots=units // 3, price=1)) == reason


def test_live_orders_together_have_a_bound() -> None:
    """Two orders as large as orders can be are taken, a third is refused, and no sum ever leaves its range."""
    spec = SymbolSpec(
        0, AssetSpec(0, "AAA", 0), AssetSpec(1, "QQQ", 18), 1 << 20, 1, 1 << 21, 1, 1 << 20, 0, 0, 0, 0, 0
    )
    world = RiskWorld(symbols=(spec,))
    world.fund(ALICE, 0, 1 << 40)
    largest: dict[str, Any] = {"side": SELL, "lots": 1 << 20, "price": 1 << 21}
    order_id = world.place(ALICE, **largest)
    assert world.open_units() == 1 << 61
    world.place(ALICE, **largest)
    world.set_account(order_notional_max="9", day_notional_max="9", two_factor_above="9")
    assert refusal(world.send(make(**largest)))[0] == Reason.LIMIT_EXCEEDED
    world.set_account()
    expected = (Reason.LIMIT_EXCEEDED, LimitKind.OPEN_NOTIONAL, OPEN_MAX, OPEN_MAX)
    assert refusal(world.send(make(side=SELL, lots=1, price=1))) == expected
    world.ask(change(CommandKind.CANCEL, order_id=order_id))
    world.settle()
    assert world.open_units() == 1 << 61
    assert world.ask(make(side=SELL, lots=1, price=1)) == Reason.NONE


def test_volume_stops_at_its_bound() -> None:
    """What was traded in a day stays at the bound instead of starting from below; no limit is met there any more."""
    world = RiskWorld()
    events = np.zeros(3, event_dtype)
    for event in events:
        event["kind"] = EventKind.TRADED
        event["account_id"], event["maker_account_id"] = ALICE, BOB
        event["timestamp_ns"] = world.now_ns
        event["notional_units"] = 1 << 61
    fold(world.risk, events.view(np.int64).reshape(3, -1))
    assert world.traded_units() == world.traded_units(BOB) == 1 << 62
    world.fund(ALICE, QUOTE, FUNDS)
    world.set_account(day_notional_max="1000000")
    assert world.ask(make(lots=10, price=90)) == Reason.LIMIT_EXCEEDED
