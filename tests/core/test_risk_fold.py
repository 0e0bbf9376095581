"""What risk makes of events: also of those about orders that it does not know, told twice, or told to a fresh risk.

A risk that starts again folds the events that the database has not settled, and takes again what is in command rings.
"""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from tests.core.risk_world import (
    ALICE,
    BASE,
    BOB,
    QUOTE,
    START_NS,
    Records,
    RiskWorld,
    change,
    funded,
    kinds_of,
    place,
    symbol_spec,
)

from tradeengine.core import risk as risk_kernel
from tradeengine.core.ids import SHARD_SHIFT
from tradeengine.core.money import UNITS_MAX
from tradeengine.core.records import (
    ACCOUNT_ID_EXCHANGE,
    CommandKind,
    EventKind,
    OrderType,
    Reason,
    SelfTradePrevention,
    Side,
    TimeInForce,
    TradingState,
    event_dtype,
)
from tradeengine.core.risk import RiskState, live_order_dtype
from tradeengine.core.risk_state import (
    LAST_TIMESTAMP_NS,
    MISMATCH_COUNT,
    OPEN,
    ORDER_HOLD,
    ORDER_ID,
    ORDER_TRIGGERED,
    ORDER_WHERE,
    SYMBOL_TAKER_PPM,
)

IOC = TimeInForce.IOC


@pytest.fixture
def world() -> RiskWorld:
    """Alice and Bob have a million of each asset; one symbol is listed."""
    return funded(RiskWorld())


def words(records: Records) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Give records as kernels get them."""
    return np.ascontiguousarray(records).view(np.int64).reshape(len(records), records.dtype.itemsize // 8)


def fresh(world: RiskWorld, balances: bool = True) -> RiskState:
    """Make a risk that knows the world's symbols, and its balances, and no order."""
    risk = risk_kernel.make_risk(world.limits)
    risk_kernel.load_symbols(risk, np.concatenate([spec.to_command(CommandKind.LIST_SYMBOL) for spec in world.specs]))
    if balances:
        risk.balances[:, :, 0] = world.risk.balances[:, :, 0]
    return risk


def whole_life(world: RiskWorld) -> Records:
    """Let a stop trigger, be amended, trade, and end, and others come and go; gives all events."""
    stop = world.place(ALICE, Side.SELL, 10, 95, stop_price_ticks=100, order_type=OrderType.STOP_LIMIT)
    world.place(BOB, Side.BUY, 1, 100)
    events = [world.settle()]
    world.place(ALICE, Side.SELL, 1, 100)
    events.append(world.settle())
    world.send(change(CommandKind.AMEND, order_id=stop, quantity_lots=20))
    events.append(world.settle())
    world.place(BOB, Side.BUY, 5, 95)
    events.append(world.settle())
    world.send(change(CommandKind.CANCEL, order_id=stop))
    return np.concatenate([*events, world.settle()])


def test_events_of_orders_that_are_not_known_are_counted(world: RiskWorld) -> None:
    """Each event about an order that risk does not have is a mismatch, which is counted, and moves no hold."""
    events = whole_life(world)
    kinds = [EventKind.TRADED, EventKind.CANCELLED, EventKind.TRIGGERED, EventKind.AMENDED]
    for kind in kinds:
        about = events[events["kind"] == kind]
        assert len(about) > 0
        risk = fresh(world)
        risk_kernel.fold(risk, words(about))
        assert risk.scalars[MISMATCH_COUNT] == len(about) * (2 if kind == EventKind.TRADED else 1)
        assert not risk.balances[:, :, 1].any()
        assert risk_kernel.order_count(risk) == 0


def test_fresh_risk_folds_a_whole_life(world: RiskWorld) -> None:
    """A risk that folds all events from the first on has the orders, holds and open amounts of the one that decided."""
    events = [whole_life(world)]
    world.place(BOB, Side.BUY, 7, 90, client_order_id=b"resting")
    world.place(ALICE, Side.BUY, 3, 0, stop_price_ticks=200, order_type=OrderType.STOP, time_in_force=TimeInForce.GTC)
    events.append(world.settle())
    risk = fresh(world, balances=False)
    risk_kernel.load_balances(
        risk, np.array([ALICE, ALICE, BOB, BOB]), np.array([BASE, QUOTE] * 2), np.full(4, 1_000_000)
    )
    risk_kernel.fold(risk, words(np.concatenate(events)))
    assert risk.scalars[MISMATCH_COUNT] == 0
    assert bool((risk.balances[16:] == world.risk.balances[16:]).all())
    assert bool((risk.worth[:, :, OPEN] == world.risk.worth[:, :, OPEN]).all())
    assert risk.open_orders.tolist() == world.risk.open_orders.tolist()
    assert risk_kernel.order_count(risk) == 2


def test_no_events_change_nothing(world: RiskWorld) -> None:
    """An empty batch is folded without a trace."""
    last_ns = world.risk.scalars[LAST_TIMESTAMP_NS]
    risk_kernel.fold(world.risk, words(np.zeros(0, event_dtype)))
    assert world.risk.scalars[LAST_TIMESTAMP_NS] == last_ns == START_NS


def test_end_that_is_told_twice_counts_once(world: RiskWorld) -> None:
    """An order that ended stays while an amend is on its way; its end told again frees and counts nothing more."""
    order_id = world.place(ALICE, Side.BUY, 100, 100)
    world.settle()
    world.place(ALICE, Side.BUY, 1, 50)
    world.settle()
    world.send(change(CommandKind.CANCEL, order_id=order_id))
    world.send(change(CommandKind.AMEND, order_id=order_id, quantity_lots=200))
    world.match(0, 1)
    (end,) = world.happened[0]
    world.fold(0, 1)
    extra_units = world.orders()[order_id][1]
    assert extra_units > 0
    state = world.risk.open_orders.tolist(), world.risk.balances.tolist(), world.risk.worth.tolist()
    risk_kernel.fold(world.risk, words(end))
    assert (world.risk.open_orders.tolist(), world.risk.balances.tolist(), world.risk.worth.tolist()) == state
    world.settle()
    assert list(world.orders()) != [order_id]
    assert world.held(ALICE, QUOTE) == 151


def refused_by_the_book(world: RiskWorld, **fields: object) -> int:
    """Place an order that the book refuses to take at all: its price is changed on its way. Gives its id."""
    order_id = world.place(ALICE, Side.BUY, 10, 100, **fields)
    world.last_forwarded["price_ticks"] = 10**9
    return order_id


def test_order_that_the_book_refuses_was_never_there(world: RiskWorld) -> None:
    """An order that the matcher refuses to take holds nothing, and its client order id may be used again."""
    refused_by_the_book(world, client_order_id=b"again")
    assert kinds_of(world.settle()) == [EventKind.REFUSED]
    assert (world.orders(), world.held(ALICE, QUOTE), world.open_units()) == ({}, 0, 0)
    world.place(ALICE, Side.BUY, 10, 100, client_order_id=b"again")
    refused_by_the_book(world)
    assert kinds_of(world.settle()) == [EventKind.ACCEPTED, EventKind.REFUSED]
    assert len(world.orders()) == 1


def test_refused_order_takes_no_later_orders_client_id() -> None:
    """By the time an order is refused its client order id may be another's, or forgotten: then it stays as it is."""
    world = funded(RiskWorld(client_ids_max=2))
    for name in (b"mine", b"other", b"third"):
        refused_by_the_book(world, client_order_id=name)
    later = world.place(ALICE, Side.BUY, 10, 90, client_order_id=b"mine")
    world.settle()
    (repeat,) = world.send(place(ALICE, Side.BUY, 10, 90, client_order_id=b"mine"))
    assert (repeat["kind"], repeat["order_id"]) == (EventKind.REPEATED, later)


def test_rejected_orders_name_is_remembered(world: RiskWorld) -> None:
    """A fresh risk that reads of a rejected order answers its repeat, and gives no id below it."""
    world.place(BOB, Side.SELL, 10, 100)
    rejected = place(ALICE, Side.BUY, 100, 100, time_in_force=TimeInForce.FOK, client_order_id=b"named")
    assert world.ask(rejected) == Reason.NONE
    order_id = int(world.last_forwarded["order_id"])
    events = world.settle()
    assert kinds_of(events) == [EventKind.ACCEPTED, EventKind.REJECTED]
    other = RiskWorld()
    other.risk = fresh(world)
    risk_kernel.fold(other.risk, words(events))
    (repeat,) = other.send(rejected)
    assert (repeat["kind"], repeat["order_id"]) == (EventKind.REPEATED, order_id)
    assert other.place(ALICE, Side.BUY, 1, 100) > order_id


def test_money_of_the_past_is_moved_once(world: RiskWorld) -> None:
    """Deposits and withdrawals are folded in order of their numbers, each once; a refused one moves its number only."""
    answers = [
        world.fund(ALICE, QUOTE, 70),
        world.fund(ALICE, QUOTE, -UNITS_MAX),
        world.fund(ALICE, QUOTE, -20),
    ]
    assert [kinds_of(answer)[0] for answer in answers] == [
        EventKind.FUNDED,
        EventKind.FUNDING_REFUSED,
        EventKind.FUNDED,
    ]
    risk = fresh(world, balances=False)
    for answer in (answers[0], answers[1], answers[1], answers[0], answers[2], answers[2]):
        risk_kernel.fold(risk, words(answer))
    assert risk.balances[ALICE, QUOTE, 0] == 50
    assert risk.balances[:, QUOTE, 0].sum() == 0


def test_trade_without_fees_leaves_the_exchange_alone(world: RiskWorld) -> None:
    """Whose balance does not change is not told anew."""
    free = symbol_spec().to_command(CommandKind.SET_PARAMETERS)
    free["maker_fee_ppm"] = free["taker_fee_ppm"] = 0
    assert world.ask(free) == Reason.NONE
    world.place(BOB, Side.SELL, 10, 100)
    world.settle()
    risk_kernel.take_dirty_accounts(world.risk)
    world.place(ALICE, Side.BUY, 10, 100)
    world.settle()
    assert sorted(risk_kernel.take_dirty_accounts(world.risk).tolist()) == [ALICE, BOB]
    assert world.total(ACCOUNT_ID_EXCHANGE, QUOTE) == 0


def test_batch_is_decided_as_its_commands_one_by_one() -> None:
    """What is asked for ahead of a batch's commands decides nothing, whatever they are about."""
    commands = [
        place(ALICE, Side.SELL, 10, 100, client_order_id=b"a"),
        place(ALICE, Side.BUY, 10, 90),
        change(CommandKind.SET_TRADING_STATE, symbol_id=0, trading_state=TradingState.OPEN),
        change(CommandKind.CANCEL, order_id=5),
        place(99, Side.BUY, 1, 100),
        place(ALICE, Side.BUY, 1, 100, symbol_id=-3),
        place(BOB, Side.BUY, 10, 100, client_order_id=b"b"),
        change(CommandKind.AMEND, order_id=7, quantity_lots=4),
        change(CommandKind.CANCEL_ALL, symbol_id=0),
        place(BOB, Side.SELL, 10, 110),
        change(CommandKind.SET_TRADING_STATE, symbol_id=0, trading_state=TradingState.HALTED),
        change(CommandKind.EXPIRE),
    ]
    at_once, in_turn = funded(RiskWorld()), funded(RiskWorld())
    answers = at_once.send(np.concatenate(commands))
    singly = np.concatenate([in_turn.send(command) for command in commands])
    assert answers["reason"].tolist() == singly["reason"].tolist()
    assert np.concatenate(at_once.forwarded[0]).tobytes() == np.concatenate(in_turn.forwarded[0]).tobytes()
    assert at_once.orders() == in_turn.orders()


def test_orders_of_any_ids_are_found_and_removed() -> None:
    """However ids fall together in the table of live orders, each order is found, and its end removes it alone."""
    random = Random(7)
    world = RiskWorld(orders_max=400, open_orders_max=400)
    orders = np.zeros(400, live_order_dtype)
    orders["order_id"] = random.sample(range(1, 1 << SHARD_SHIFT), 400)
    orders["account_id"], orders["side"], orders["order_type"] = ALICE, Side.SELL, OrderType.LIMIT
    orders["price_ticks"], orders["quantity_lots"], orders["hold_units"] = 100, 1, 10
    risk_kernel.load_orders(world.risk, orders)
    left = {int(order_id) for order_id in orders["order_id"]}
    while left:
        ends = np.zeros(50, event_dtype)
        ends["kind"], ends["account_id"] = EventKind.CANCELLED, ALICE
        ends["order_id"] = random.sample(sorted(left), 50)
        risk_kernel.fold(world.risk, words(ends))
        left -= set(ends["order_id"].tolist())
        assert set(world.orders()) == left
        assert world.held(ALICE, BASE) == 10 * len(left)
        assert world.risk.open_orders[ALICE] == len(left)
    assert world.risk.scalars[MISMATCH_COUNT] == 0


def test_names_that_fall_together_are_told_apart() -> None:
    """Of many client order ids that come and go the latest are known, each with its own order."""
    world = funded(RiskWorld(client_ids_max=64))
    placed = {}
    for number in range(400):
        name = f"order-{number * 7919}".encode()
        placed[name] = world.place(ALICE, Side.SELL, 1, 100, time_in_force=IOC, client_order_id=name)
        world.settle()
    for number, (name, order_id) in enumerate(placed.items()):
        if number >= 400 - 64:
            (repeat,) = world.send(place(ALICE, Side.SELL, 1, 100, time_in_force=IOC, client_order_id=name))
            assert (repeat["kind"], repeat["order_id"]) == (EventKind.REPEATED, order_id)


def test_what_is_in_a_command_ring_is_taken_again(world: RiskWorld) -> None:
    """Orders and amends that were forwarded and not answered hold and count in a fresh risk as they did before."""
    order_id = world.place(ALICE, Side.BUY, 100, 100)
    bystander = world.place(BOB, Side.SELL, 10, 150, self_trade_prevention=SelfTradePrevention.CANCEL_BOTH)
    events = world.settle()
    world.place(ALICE, Side.SELL, 10, 200)
    world.place(ALICE, Side.SELL, 5, 200, client_order_id=b"named")
    world.send(change(CommandKind.AMEND, order_id=order_id, quantity_lots=150))
    world.send(change(CommandKind.AMEND, BOB, order_id=bystander, quantity_lots=20))
    dearer = symbol_spec().to_command(CommandKind.SET_PARAMETERS)
    dearer["taker_fee_ppm"] = 70_000
    assert world.ask(dearer) == Reason.NONE
    waiting = world.forwarded[0]
    unknown = waiting[2].copy()
    unknown["order_id"] = order_id + bystander
    risk = fresh(world)
    risk_kernel.fold(risk, words(events))
    risk.balances[:, :, 0] = world.risk.balances[:, :, 0]
    risk_kernel.retake(risk, words(np.concatenate([*waiting, unknown])))
    assert bool((risk.balances[:, :, 1] == world.risk.balances[:, :, 1]).all())
    assert bool((risk.worth[:, :, OPEN] == world.risk.worth[:, :, OPEN]).all())
    assert risk.open_orders.tolist() == world.risk.open_orders.tolist()
    assert risk.symbols[0, SYMBOL_TAKER_PPM] == 70_000
    other = RiskWorld()
    other.risk = risk
    (repeat,) = other.send(place(ALICE, Side.SELL, 5, 200, client_order_id=b"named"))
    assert repeat["kind"] == EventKind.REPEATED


def test_amend_of_an_order_that_ended_is_taken_again_until_it_is_answered(world: RiskWorld) -> None:
    """In a fresh risk amends on their way to an order that has ended hold what they brought, and count as nothing."""
    order_id = world.place(ALICE, Side.BUY, 100, 100)
    events = world.settle()
    world.send(change(CommandKind.CANCEL, order_id=order_id))
    for lots in (150, 200):
        world.send(change(CommandKind.AMEND, order_id=order_id, quantity_lots=lots))
    cancel, first, second = world.forwarded[0]
    risk = fresh(world)
    risk_kernel.fold(risk, words(events))
    risk_kernel.retake(risk, words(first))
    world.forwarded[0] = [cancel]
    world.match()
    risk_kernel.fold(risk, words(world.happened[0][0]))
    assert risk.worth[QUOTE, ALICE, OPEN] == 0
    risk_kernel.retake(risk, words(second))
    assert risk.balances[ALICE, QUOTE, 1] == int(first["hold_units"][0]) + int(second["hold_units"][0])
    assert risk.worth[QUOTE, ALICE, OPEN] == 0
    world.forwarded[0] = [first, second]
    world.happened[0].clear()
    world.match(0, 2)
    risk_kernel.fold(risk, words(np.concatenate(world.happened[0])))
    assert risk.balances[ALICE, QUOTE, 1] == 0
    assert risk_kernel.order_count(risk) == 0


def test_live_orders_come_back_with_what_they_hold_and_could_trade(world: RiskWorld) -> None:
    """Orders from the database count as before: a market buy with its hold, a stop that has fired as what it became."""
    orders = np.zeros(2, live_order_dtype)
    orders["order_id"], orders["account_id"] = (7, 9), (ALICE, BOB)
    orders["side"] = Side.BUY, Side.SELL
    orders["order_type"] = OrderType.MARKET, OrderType.STOP_LIMIT
    orders["triggered"] = 0, 1
    orders["price_ticks"], orders["stop_price_ticks"] = (0, 50), (0, 60)
    orders["quantity_lots"], orders["filled_lots"], orders["hold_units"] = (5, 4), (0, 1), (777, 30)
    risk_kernel.load_orders(world.risk, orders)
    assert (world.held(ALICE, QUOTE), world.open_units(ALICE)) == (777, 777)
    assert (world.held(BOB, BASE), world.open_units(BOB)) == (30, 3 * 50 * 3)
    rows = {int(row[ORDER_ID]): row for row in world.risk.orders if row[ORDER_ID]}
    assert rows[9][ORDER_WHERE] & ORDER_TRIGGERED
    assert rows[7][ORDER_HOLD] == 777
