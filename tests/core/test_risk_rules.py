"""What risk refuses, answers and forwards, rule by rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.core.risk_world import (
    ALICE,
    BASE,
    BATCH,
    BOB,
    QUOTE,
    START_NS,
    RiskWorld,
    change,
    funded,
    kinds_of,
    place,
    symbol_spec,
)

from tradeengine.core.ids import shard_of
from tradeengine.core.money import UNITS_MAX
from tradeengine.core.records import (
    ACCOUNT_ID_EXCHANGE,
    SYMBOL_ID_ALL,
    CommandFlag,
    CommandKind,
    EventFlag,
    EventKind,
    OrderType,
    Reason,
    Side,
    TimeInForce,
    TradingState,
)
from tradeengine.core.risk import FOR_ADMINISTRATORS, FOR_CANCELS, FOR_ORDERS, TAKEN_ANSWERED, IngressRight

L, M, S, SL = OrderType
GTC, IOC, FOK, GTD = TimeInForce
LATER_NS = START_NS + 10**12


@pytest.fixture
def world() -> RiskWorld:
    """Alice has a million of each asset, Bob too; one symbol is listed."""
    return funded(RiskWorld())


def worded(order_type: OrderType, time: TimeInForce, **fields: Any) -> Any:
    """Make an order of a type with the prices and times that go with it."""
    terms: dict[str, Any] = {
        "price": 100 if order_type in {L, SL} else 0,
        "stop_price_ticks": 110 if order_type in {S, SL} else 0,
        "order_type": order_type,
        "time_in_force": time,
        "expires_at_ns": LATER_NS if time == GTD else 0,
    }
    return place(lots=10, **(terms | fields))


ALLOWED = {(L, GTC), (L, GTD), (L, IOC), (L, FOK), (M, IOC), (M, FOK), (S, GTC), (S, GTD)}
ALLOWED |= {(SL, GTC), (SL, GTD), (SL, IOC), (SL, FOK)}
POST_ONLY = {(L, GTC), (L, GTD)}


@pytest.mark.parametrize("flags", [CommandFlag(0), CommandFlag.POST_ONLY])
@pytest.mark.parametrize("time", TimeInForce)
@pytest.mark.parametrize("order_type", OrderType)
def test_combinations_are_those_of_the_table(
    world: RiskWorld, order_type: OrderType, time: TimeInForce, flags: CommandFlag
) -> None:
    """An order type goes with the times in force of the API's table, post-only with two of them, nothing else."""
    allowed = (order_type, time) in (POST_ONLY if flags else ALLOWED)
    expected = Reason.NONE if allowed else Reason.INVALID_COMBINATION
    assert world.ask(worded(order_type, time, flags=flags)) == expected


@pytest.mark.parametrize(("order_type", "time"), sorted(ALLOWED))
def test_risk_and_book_agree_on_combinations(world: RiskWorld, order_type: OrderType, time: TimeInForce) -> None:
    """What risk forwards as a possible combination the book takes as one."""
    world.send(worded(order_type, time))
    kinds = kinds_of(world.settle())
    assert kinds[0] == (EventKind.REJECTED if time == FOK and order_type != SL else EventKind.ACCEPTED)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"account_id": 15}, Reason.INVALID_REQUEST),
        ({"account_id": 32}, Reason.INVALID_REQUEST),
        ({"account_id": -1}, Reason.INVALID_REQUEST),
        ({"symbol_id": 1}, Reason.SYMBOL_NOT_FOUND),
        ({"symbol_id": -1}, Reason.SYMBOL_NOT_FOUND),
        ({"symbol_id": 4}, Reason.SYMBOL_NOT_FOUND),
        ({"side": 2}, Reason.INVALID_REQUEST),
        ({"order_type": 0}, Reason.INVALID_REQUEST),
        ({"order_type": 5}, Reason.INVALID_REQUEST),
        ({"time_in_force": 0}, Reason.INVALID_REQUEST),
        ({"self_trade_prevention": 0}, Reason.INVALID_REQUEST),
        ({"self_trade_prevention": 4}, Reason.INVALID_REQUEST),
        ({"flags": 8}, Reason.INVALID_REQUEST),
        ({"client_order_id": b"with space"}, Reason.INVALID_REQUEST),
        ({"client_order_id": b"a\0b"}, Reason.INVALID_REQUEST),
        ({"client_order_id": "ä".encode()}, Reason.INVALID_REQUEST),
        ({"price_ticks": 0}, Reason.NUMBER_OUT_OF_RANGE),
        ({"price_ticks": -1}, Reason.NUMBER_OUT_OF_RANGE),
        ({"price_ticks": 10_001}, Reason.NUMBER_OUT_OF_RANGE),
        ({"price_ticks": 2**63 - 1}, Reason.NUMBER_OUT_OF_RANGE),
        ({"stop_price_ticks": 5}, Reason.INVALID_COMBINATION),
        ({"quantity_lots": 0}, Reason.NUMBER_OUT_OF_RANGE),
        ({"quantity_lots": -1}, Reason.NUMBER_OUT_OF_RANGE),
        ({"quantity_lots": 100_001}, Reason.NUMBER_OUT_OF_RANGE),
        ({"quantity_lots": 2**63 - 1}, Reason.NUMBER_OUT_OF_RANGE),
        ({"price_ticks": 3, "quantity_lots": 1}, Reason.BELOW_MIN_NOTIONAL),
        ({"expires_at_ns": 5}, Reason.INVALID_COMBINATION),
        ({"time_in_force": GTD, "expires_at_ns": START_NS}, Reason.NUMBER_OUT_OF_RANGE),
        ({"flags": CommandFlag.BY_QUOTE}, Reason.INVALID_COMBINATION),
        ({"timestamp_ns": -1}, Reason.INVALID_REQUEST),
        ({"kind": CommandKind.EXPIRE}, Reason.INVALID_REQUEST),
        ({"kind": 99}, Reason.INVALID_REQUEST),
    ],
)
def test_what_comes_from_a_ring_is_checked_again(world: RiskWorld, fields: dict[str, Any], reason: Reason) -> None:
    """A command that no honest front would send is refused by its reason, and leaves no trace."""
    before = world.risk.balances.copy()
    command = place(ALICE, Side.BUY, 10, 100, client_order_id=b"x")
    for name, value in fields.items():
        command[name] = value
    assert world.ask(command) == reason
    assert np.array_equal(world.risk.balances, before)
    assert not world.orders()
    assert world.ask(place(ALICE, Side.BUY, 10, 100, client_order_id=b"x")) == Reason.NONE
    assert len(world.forwarded[0]) == 1


def test_limit_buy_holds_notional_and_the_higher_fee(world: RiskWorld) -> None:
    """A limit buy holds its notional and the fee on it at the higher rate; a sell holds what it sells."""
    world.place(ALICE, Side.BUY, 1001, 100)
    assert world.held(ALICE, QUOTE) == 1001 * 100 * 3 + 301  # 300.3 rounded up
    world.place(ALICE, Side.SELL, 7, 100)
    assert world.held(ALICE, BASE) == 70


def test_last_unit_decides(world: RiskWorld) -> None:
    """An order that needs exactly what is free is taken, one that needs a unit more is not."""
    world.fund(ALICE, QUOTE, 301_201 + 301 - 1_000_000 - 902)
    free = world.total(ALICE, QUOTE)
    assert world.ask(place(ALICE, Side.BUY, 1001, 100)) == Reason.INSUFFICIENT_BALANCE
    world.fund(ALICE, QUOTE, 300_300 + 301 - free)
    assert world.ask(place(ALICE, Side.BUY, 1001, 100)) == Reason.NONE


def test_market_buy_holds_up_to_the_collar_but_no_more_than_there_is(world: RiskWorld) -> None:
    """A market buy holds the cost at the collar; with less money, what there is; with less than the touch, nothing."""
    world.place(BOB, Side.SELL, 5000, 100)
    world.settle()
    world.place(ALICE, Side.BUY, 1000)
    assert world.held(ALICE, QUOTE) == 1000 * 110 * 3 + 330
    world.settle()
    world.place(ALICE, Side.BUY, 2200)
    assert world.held(ALICE, QUOTE) == world.total(ALICE, QUOTE) == 1_000_000 - 300_300
    world.settle()
    assert world.held(ALICE, QUOTE) == 0
    assert world.ask(place(ALICE, Side.BUY, 1000)) == Reason.INSUFFICIENT_BALANCE


def test_market_buy_without_sellers_is_forwarded_with_no_hold(world: RiskWorld) -> None:
    """With nobody selling the matcher answers; risk holds nothing."""
    world.place(ALICE, Side.BUY, 1000)
    assert world.last_forwarded["hold_units"] == 0
    assert kinds_of(world.settle()) == [EventKind.ACCEPTED, EventKind.CANCELLED]


def test_stop_buy_holds_from_its_stop_price(world: RiskWorld) -> None:
    """A stop buy holds the cost at the collar around its stop price."""
    world.place(ALICE, Side.BUY, 100, order_type=S, time_in_force=GTC, stop_price_ticks=200)
    assert world.held(ALICE, QUOTE) == 100 * 220 * 3 + 66


def test_buy_by_quote_amount_holds_its_budget(world: RiskWorld) -> None:
    """A market buy by quote amount holds just that, and never more than there is."""
    fields: dict[str, Any] = {"lots": 0, "flags": CommandFlag.BY_QUOTE}
    world.place(ALICE, hold_units=999_999, **fields)
    assert world.held(ALICE, QUOTE) == 999_999
    assert world.ask(place(ALICE, hold_units=2, **fields)) == Reason.BELOW_MIN_NOTIONAL
    assert world.ask(place(ALICE, hold_units=11, **fields)) == Reason.INSUFFICIENT_BALANCE
    assert world.ask(place(ALICE, hold_units=0, **fields)) == Reason.NUMBER_OUT_OF_RANGE
    assert world.ask(place(ALICE, hold_units=UNITS_MAX + 1, **fields)) == Reason.NUMBER_OUT_OF_RANGE


def test_ten_fills_cost_the_fee_of_one(world: RiskWorld) -> None:
    """Ten small fills of an order cost it what one large fill would."""
    for _ in range(10):
        world.place(BOB, Side.SELL, 1, 101)
    world.place(ALICE, Side.BUY, 10, 101)
    world.settle()
    assert world.total(ALICE, QUOTE) == 1_000_000 - 3030 - 4  # 3.03 rounded up once
    assert world.total(ALICE, BASE) == 1_000_100
    assert world.held(ALICE, QUOTE) == 0
    assert world.total(ACCOUNT_ID_EXCHANGE, QUOTE) == 4 + 10  # each of the ten sells pays 0.1515 rounded up


def test_others_orders_do_not_exist(world: RiskWorld) -> None:
    """Cancelling or amending an order of someone else is refused like that of an unknown one."""
    order_id = world.place(ALICE, Side.SELL, 10, 100)
    world.settle()
    for kind in (CommandKind.CANCEL, CommandKind.AMEND):
        assert world.ask(change(kind, BOB, order_id=order_id, quantity_lots=5)) == Reason.ORDER_NOT_FOUND
        assert world.ask(change(kind, ALICE, order_id=order_id + 1, quantity_lots=5)) == Reason.ORDER_NOT_FOUND


def test_cancel_goes_to_the_shard_in_the_order_id() -> None:
    """A cancel goes to its order's shard with the order's symbol, whatever the command says."""
    world = RiskWorld(2, symbols=(symbol_spec(0), symbol_spec(1, shard=1)))
    world.fund(ALICE, QUOTE, 10_000)
    assert world.ask(place(ALICE, Side.BUY, 1, 100, symbol_id=1)) == Reason.NONE
    order_id = int(world.forwarded[1][0]["order_id"][0])
    assert shard_of(order_id) == 1
    world.settle()
    assert world.ask(change(CommandKind.CANCEL, order_id=order_id, symbol_id=0)) == Reason.NONE
    assert world.forwarded[1][0]["symbol_id"] == 1


@pytest.mark.parametrize("kind", [CommandKind.CANCEL_ALL, CommandKind.SET_TRADING_STATE])
def test_commands_for_all_symbols_go_to_every_shard_or_none(kind: CommandKind) -> None:
    """A command for all symbols goes to each shard, which answers by itself; without room in one, to none."""
    world = RiskWorld(2, symbols=(symbol_spec(0), symbol_spec(1, shard=1)))
    command = change(kind, symbol_id=SYMBOL_ID_ALL, trading_state=TradingState.HALTED)
    assert world.ask(command) == Reason.NONE
    events = world.settle()
    assert np.count_nonzero(events["flags"] & EventFlag.LAST_OF_COMMAND) == 2
    assert len(set(events["ingress_sequence"])) == 1
    world.outbox.rooms[1] = 0
    assert world.ask(command) == Reason.ENGINE_OVERLOADED
    assert not world.forwarded[0]


def test_fenced_shard_holds_up_nobody() -> None:
    """A fenced shard gets what is for all while its ring has room; the others get it anyway; all fenced refuse it."""
    world = RiskWorld(2, symbols=(symbol_spec(0), symbol_spec(1, shard=1)))
    command = change(CommandKind.CANCEL_ALL, symbol_id=SYMBOL_ID_ALL)
    world.outbox.gates[1] = Reason.SHARD_FENCED
    assert world.ask(command) == Reason.NONE
    assert [len(queue) for queue in world.forwarded] == [1, 1]
    world.outbox.rooms[1] = 0
    assert world.ask(command) == Reason.NONE
    assert [len(queue) for queue in world.forwarded] == [2, 1]
    world.outbox.gates[0] = Reason.SHARD_FENCED
    assert world.ask(command) == Reason.SHARD_FENCED
    assert [len(queue) for queue in world.forwarded] == [2, 1]


def test_after_a_restart_only_the_missing_shards_get_a_command_for_all() -> None:
    """A command for all shards that some have already, from before a kill, goes to the others only."""
    world = RiskWorld(2, symbols=(symbol_spec(0), symbol_spec(1, shard=1)))
    command = change(CommandKind.CANCEL_ALL, symbol_id=SYMBOL_ID_ALL)
    world.send(command, taken=np.array([1]))
    assert [len(queue) for queue in world.forwarded] == [0, 1]
    world.send(command, taken=np.array([3]))
    world.send(command, taken=np.array([TAKEN_ANSWERED]))
    assert [len(queue) for queue in world.forwarded] == [0, 1]


def test_after_a_restart_what_is_on_its_way_is_passed_over(world: RiskWorld) -> None:
    """A command for one shard that was forwarded, or one that was answered, from before a kill, is not taken again."""
    for command in (place(ALICE, Side.SELL, 1, 100), change(CommandKind.CANCEL_ALL, symbol_id=0)):
        for mask in (1, TAKEN_ANSWERED):
            assert len(world.send(command, taken=np.array([mask]))) == 0
    assert not world.forwarded[0]
    assert not world.orders()


def test_room_is_kept_for_cancels(world: RiskWorld) -> None:
    """Without room for orders there is still room for cancels; without any, both are refused at once."""
    order_id = world.place(ALICE, Side.SELL, 10, 100)
    world.outbox.rooms[0] = 0, 1, 1
    assert world.ask(place(ALICE, Side.SELL, 10, 100)) == Reason.ENGINE_OVERLOADED
    assert world.ask(change(CommandKind.AMEND, order_id=order_id, quantity_lots=11)) == Reason.ENGINE_OVERLOADED
    assert world.ask(change(CommandKind.CANCEL, order_id=order_id)) == Reason.NONE
    world.outbox.rooms[0] = 0
    assert world.ask(change(CommandKind.CANCEL, order_id=order_id)) == Reason.ENGINE_OVERLOADED


def test_what_administrators_ask_for_has_room_of_its_own(world: RiskWorld) -> None:
    """Where neither orders nor cancels pass, a halt and an administrator's mass cancel do; each has its own gate."""
    halt = change(CommandKind.SET_TRADING_STATE, symbol_id=0, trading_state=TradingState.HALTED)
    mass_cancel = change(CommandKind.CANCEL_ALL, symbol_id=0, flags=CommandFlag.BY_ADMINISTRATOR)
    for command in (halt, mass_cancel):
        world.outbox.rooms[0] = 0, 0, 1
        world.outbox.gates[0, :2] = Reason.SETTLEMENT_BACKLOG
        assert world.ask(change(CommandKind.CANCEL_ALL, symbol_id=0)) == Reason.SETTLEMENT_BACKLOG
        assert world.ask(command) == Reason.NONE
        world.outbox.gates[0, FOR_ADMINISTRATORS] = Reason.SETTLEMENT_BACKLOG
        assert world.ask(command) == Reason.SETTLEMENT_BACKLOG
        world.outbox.gates[:] = 0


def test_only_administrators_cancel_as_such(world: RiskWorld) -> None:
    """A ring without that right may neither cancel everyone's orders nor say that an administrator did."""
    for account_id, flags in ((0, 0), (ALICE, CommandFlag.BY_ADMINISTRATOR)):
        command = change(CommandKind.CANCEL_ALL, account_id, symbol_id=0, flags=flags)
        (event,) = world.send(command, rights=IngressRight.TRADE)
        assert event["reason"] == Reason.INVALID_REQUEST
        assert len(world.send(command)) == 0


def test_gates_say_why(world: RiskWorld) -> None:
    """A closed gate refuses by its own reason, orders and cancels apart."""
    order_id = world.place(ALICE, Side.SELL, 10, 100)
    world.outbox.gates[0, FOR_ORDERS] = Reason.SETTLEMENT_BACKLOG
    assert world.ask(place(ALICE, Side.SELL, 10, 100)) == Reason.SETTLEMENT_BACKLOG
    assert world.ask(change(CommandKind.CANCEL, order_id=order_id)) == Reason.NONE
    world.outbox.gates[0, FOR_CANCELS] = Reason.SETTLEMENT_BACKLOG
    assert world.ask(change(CommandKind.CANCEL, order_id=order_id)) == Reason.SETTLEMENT_BACKLOG


def test_batch_stops_where_its_events_have_no_room(world: RiskWorld) -> None:
    """With no room for more events of its own, risk leaves the rest of a batch where it is."""
    batch = np.concatenate([place(ALICE, Side.SELL, 1, 100), *[change(CommandKind.EXPIRE)] * 3])
    assert len(world.send(batch, event_room=1)) == 1
    assert world.taken_count == 2
    assert len(world.send(batch[2:], event_room=BATCH)) == 2


def test_open_orders_are_limited_per_account() -> None:
    """An account has as many open orders as configured, and one more when one ends."""
    world = RiskWorld(open_orders_max=2)
    world.fund(ALICE, BASE, 1000)
    first = world.place(ALICE, Side.SELL, 1, 100)
    world.place(ALICE, Side.SELL, 1, 100)
    assert world.ask(place(ALICE, Side.SELL, 1, 100)) == Reason.LIMIT_EXCEEDED
    world.send(change(CommandKind.CANCEL, order_id=first))
    world.settle()
    assert world.ask(place(ALICE, Side.SELL, 1, 100)) == Reason.NONE


def test_table_of_live_orders_is_never_overrun() -> None:
    """When all rows for live orders are taken, new ones are refused for load."""
    world = RiskWorld(orders_max=3)
    world.fund(ALICE, BASE, 1000)
    for _ in range(3):
        world.place(ALICE, Side.SELL, 1, 100)
    assert world.ask(place(ALICE, Side.SELL, 1, 100)) == Reason.ENGINE_OVERLOADED


def test_rights_come_with_the_ring(world: RiskWorld) -> None:
    """Only settlement's ring brings money, and it brings nothing else; only administrators change symbols."""
    fund = change(CommandKind.FUND)
    assert world.send(fund, rights=IngressRight.TRADE | IngressRight.ADMIN)["reason"] == Reason.INVALID_REQUEST
    assert world.send(place(), rights=IngressRight.FUND)["reason"] == Reason.INVALID_REQUEST
    halt = change(CommandKind.SET_TRADING_STATE, trading_state=TradingState.HALTED)
    assert world.send(halt, rights=IngressRight.TRADE)["reason"] == Reason.INVALID_REQUEST
    everyone = change(CommandKind.CANCEL_ALL, 0, symbol_id=SYMBOL_ID_ALL)
    assert world.send(everyone, rights=IngressRight.TRADE)["reason"] == Reason.INVALID_REQUEST


def test_withdrawal_takes_free_money_only(world: RiskWorld) -> None:
    """A withdrawal over the free balance is refused, whatever the total is."""
    world.place(ALICE, Side.BUY, 100, 100)
    held = world.held(ALICE, QUOTE)
    assert world.fund(ALICE, QUOTE, held - 1_000_000 - 1)["kind"] == EventKind.FUNDING_REFUSED
    assert world.fund(ALICE, QUOTE, held - 1_000_000)["kind"] == EventKind.FUNDED
    assert world.total(ALICE, QUOTE) == held


def test_funding_numbers_apply_once_and_without_gaps(world: RiskWorld) -> None:
    """A number that was applied is passed over in silence; one that skips others is no request."""
    assert len(world.fund(ALICE, QUOTE, 5, number=4)) == 0
    assert world.fund(ALICE, QUOTE, 5, number=6)["reason"] == Reason.INVALID_REQUEST
    assert world.fund(ALICE, QUOTE, 5, number=5)["kind"] == EventKind.FUNDED
    assert world.total(ALICE, QUOTE) == 1_000_005


@pytest.mark.parametrize("amount", [UNITS_MAX - 2_000_000 + 1, 2**63 - 1, -(2**63), 0])
def test_supply_stays_in_range(world: RiskWorld, amount: int) -> None:
    """A deposit with which an asset's supply could overflow a sum of balances is refused, and uses up its number."""
    event = world.fund(ALICE, QUOTE, amount)
    assert event["kind"] == EventKind.FUNDING_REFUSED
    assert world.total(ALICE, QUOTE) == 1_000_000
    assert world.fund(ALICE, QUOTE, 1)["kind"] == EventKind.FUNDED


def test_parameters_apply_to_the_orders_behind_them(world: RiskWorld) -> None:
    """New fees size the holds of the next order, and an event of older parameters does not bring those back."""
    changed = symbol_spec().to_command(CommandKind.SET_PARAMETERS)
    changed["taker_fee_ppm"] = 2000
    assert world.ask(changed) == Reason.NONE
    changed["taker_fee_ppm"] = 4000
    assert world.ask(changed) == Reason.NONE
    world.match(0, 1)
    world.fold(0, 1)
    world.place(ALICE, Side.BUY, 1000, 100)
    assert world.held(ALICE, QUOTE) == 300_000 + 1200
    changed["lot_units"] = 5
    assert world.ask(changed) == Reason.INVALID_REQUEST
    assert world.ask(symbol_spec().to_command(CommandKind.LIST_SYMBOL)) == Reason.SYMBOL_EXISTS
    changed["symbol_id"] = 2
    assert world.ask(changed) == Reason.SYMBOL_NOT_FOUND


def test_amend_takes_what_it_needs_more_and_gets_back_what_it_needs_less(world: RiskWorld) -> None:
    """More quantity takes more hold, less gives some back, a refused amend gives back what it took."""
    order_id = world.place(ALICE, Side.BUY, 100, 100)
    world.settle()
    world.send(change(CommandKind.AMEND, order_id=order_id, quantity_lots=200))
    assert world.held(ALICE, QUOTE) == 60_060
    world.settle()
    assert world.held(ALICE, QUOTE) == 60_060
    world.send(change(CommandKind.AMEND, order_id=order_id, quantity_lots=10, price_ticks=50))
    world.settle()
    assert world.held(ALICE, QUOTE) == 1502
    assert world.ask(change(CommandKind.AMEND, order_id=order_id)) == Reason.INVALID_REQUEST
    too_much = change(CommandKind.AMEND, order_id=order_id, quantity_lots=10_000, price_ticks=50)
    assert world.ask(too_much) == Reason.INSUFFICIENT_BALANCE


def test_amend_that_finds_its_order_rejected_gives_everything_back(world: RiskWorld) -> None:
    """An amend on its way to an order that the matcher rejects gives back what it took, and the order is forgotten."""
    order_id = world.place(ALICE, Side.BUY, 100, 100, time_in_force=TimeInForce.FOK)
    world.send(change(CommandKind.AMEND, order_id=order_id, quantity_lots=200))
    world.match(0, 1)
    assert kinds_of(world.fold(0, 100)) == [EventKind.REJECTED]
    assert world.held(ALICE, QUOTE) > 0
    world.settle()
    assert world.held(ALICE, QUOTE) == 0
    assert not world.orders()


def test_amend_that_finds_its_order_filled_gives_everything_back(world: RiskWorld) -> None:
    """An amend on its way to an order that ends before it arrives gives back what it took."""
    order_id = world.place(ALICE, Side.BUY, 100, 100)
    world.settle()
    world.place(BOB, Side.SELL, 100, 100)
    world.send(change(CommandKind.AMEND, order_id=order_id, quantity_lots=200))
    world.match(0, 1)
    assert kinds_of(world.fold(0, 100)) == [EventKind.ACCEPTED, EventKind.TRADED]
    assert world.held(ALICE, QUOTE) > 0
    assert world.ask(change(CommandKind.CANCEL, order_id=order_id)) == Reason.ORDER_NOT_FOUND
    world.settle()
    assert world.held(ALICE, QUOTE) == 0
    assert not world.orders()
