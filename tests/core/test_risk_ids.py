"""Client order ids, order ids and time: what a repeat is, how long it is known, and what never goes back."""

from __future__ import annotations

import pytest
from tests.core.risk_world import (
    ALICE,
    BASE,
    BOB,
    START_NS,
    RiskWorld,
    change,
    funded,
    place,
)

from tradeengine.core.ids import epoch_of, shard_of, timestamp_ms_of
from tradeengine.core.records import (
    CommandFlag,
    CommandKind,
    EventFlag,
    EventKind,
    OrderType,
    Reason,
    Side,
    TimeInForce,
)
from tradeengine.core.risk import FOR_ORDERS, content_fingerprint

SL, FOK, GTD = OrderType.STOP_LIMIT, TimeInForce.FOK, TimeInForce.GTD
LATER_NS = START_NS + 10**12


@pytest.fixture
def world() -> RiskWorld:
    """Alice has a million of each asset, Bob too; one symbol is listed."""
    return funded(RiskWorld())


def test_repeat_names_the_original_order(world: RiskWorld) -> None:
    """The same client order id with the same content names the order that it made, also when that is long over."""
    command = place(ALICE, Side.BUY, 10, 100, client_order_id=b"mine")
    order_id = world.place(ALICE, Side.BUY, 10, 100, client_order_id=b"mine")
    world.send(change(CommandKind.CANCEL, order_id=order_id))
    world.settle()
    (event,) = world.send(command)
    assert event["kind"] == EventKind.REPEATED
    assert event["order_id"] == order_id
    assert event["flags"] & EventFlag.LAST_OF_COMMAND
    assert not world.forwarded[0]


def test_repeat_is_answered_when_nothing_is_accepted(world: RiskWorld) -> None:
    """A repeat is answered whatever has happened to balance, backlog and bounds since."""
    command = place(ALICE, Side.BUY, 3000, 100, client_order_id=b"mine", time_in_force=GTD, expires_at_ns=START_NS + 9)
    assert world.ask(command) == Reason.NONE
    world.outbox.gates[0, FOR_ORDERS] = Reason.SETTLEMENT_BACKLOG
    world.now_ns += 10
    (event,) = world.send(command)
    assert event["kind"] == EventKind.REPEATED


@pytest.mark.parametrize(
    ("field", "value"), [("quantity_lots", 11), ("price_ticks", 99), ("side", 1), ("time_in_force", 2), ("flags", 1)]
)
def test_same_id_with_other_content_is_refused(world: RiskWorld, field: str, value: int) -> None:
    """A client order id that was used for something else is refused, and names what it was used for."""
    order_id = world.place(ALICE, Side.BUY, 10, 100, client_order_id=b"mine")
    command = place(ALICE, Side.BUY, 10, 100, client_order_id=b"mine")
    command[field] = value
    (event,) = world.send(command)
    assert event["reason"] == Reason.CLIENT_ORDER_ID_REUSED
    assert event["order_id"] == order_id


def test_ids_of_two_accounts_are_never_mixed_up(world: RiskWorld) -> None:
    """Two accounts may use the same client order id."""
    assert world.ask(place(ALICE, Side.BUY, 10, 100, client_order_id=b"mine")) == Reason.NONE
    assert world.ask(place(BOB, Side.BUY, 10, 100, client_order_id=b"mine")) == Reason.NONE
    assert len(world.forwarded[0]) == 2


def test_every_character_of_an_id_counts(world: RiskWorld) -> None:
    """Client order ids that differ in one place, be it the first or the last, are different."""
    ids = [b"a" * count + b"Z" + b"a" * (35 - count) for count in range(36)] + [b"a", b"b", b"ab", b"ba"]
    for client_id in ids:
        assert world.ask(place(ALICE, Side.SELL, 1, 100, client_order_id=client_id)) == Reason.NONE
    assert len(world.forwarded[0]) == len(ids)
    for client_id in ids:
        (event,) = world.send(place(ALICE, Side.SELL, 1, 100, client_order_id=client_id))
        assert event["kind"] == EventKind.REPEATED


def test_oldest_ids_are_forgotten_first() -> None:
    """Of many client order ids the latest are remembered, as many as configured."""
    world = RiskWorld(client_ids_max=4)
    world.fund(ALICE, BASE, 10_000)
    commands = [place(ALICE, Side.SELL, 1, 100, client_order_id=f"id-{number}".encode()) for number in range(30)]
    for command in commands:
        assert world.ask(command) == Reason.NONE
    assert [len(world.send(command)) for command in commands[-4:]] == [1, 1, 1, 1]
    forwarded = len(world.forwarded[0])
    world.send(commands[-5])
    assert len(world.forwarded[0]) == forwarded + 1


def test_ids_are_forgotten_after_a_day(world: RiskWorld) -> None:
    """A client order id may be used anew 24 hours later, and then names the new order."""
    command = place(ALICE, Side.SELL, 1, 100, client_order_id=b"mine")
    first = world.place(ALICE, Side.SELL, 1, 100, client_order_id=b"mine")
    world.now_ns += 24 * 3600 * 10**9
    assert world.send(command)["order_id"] == first
    world.now_ns += 10**6
    second = world.place(ALICE, Side.SELL, 1, 100, client_order_id=b"mine")
    assert second != first
    assert world.send(command)["order_id"] == second


def test_fingerprint_is_the_same_from_command_and_events(world: RiskWorld) -> None:
    """The content of an order has one fingerprint, made from its command or from its ACCEPTED or REJECTED."""
    commands = [
        place(ALICE, Side.BUY, 10, 100, client_order_id=b"a"),
        place(ALICE, Side.SELL, 10, 100, order_type=SL, stop_price_ticks=90, client_order_id=b"b"),
        place(ALICE, Side.BUY, 0, flags=CommandFlag.BY_QUOTE, hold_units=500, client_order_id=b"c"),
        place(ALICE, Side.SELL, 10, 100, time_in_force=FOK, client_order_id=b"d"),
        place(BOB, Side.BUY, 10, 101, time_in_force=GTD, expires_at_ns=LATER_NS, client_order_id=b"e"),
    ]
    prints = {bytes(command[0]["client_order_id"]): content_fingerprint(command)[0] for command in commands}
    assert len(set(prints.values())) == len(commands)
    for command in commands:
        assert world.ask(command) == Reason.NONE
    events = world.settle()
    told = events[(events["kind"] == EventKind.ACCEPTED) | (events["kind"] == EventKind.REJECTED)]
    assert {bytes(e["client_order_id"]): p for e, p in zip(told, content_fingerprint(told), strict=True)} == prints


def test_order_ids_grow_and_carry_time_and_shard(world: RiskWorld) -> None:
    """Order ids grow, embed the millisecond and the shard; a full counter goes on in the next millisecond."""
    world.fund(ALICE, BASE, 10**9)
    world.risk.last_order_ids[0] = (world.now_ns // 10**6 - timestamp_ms_of(0)) << 22 | 4094
    ids = [world.place(ALICE, Side.SELL, 1, 100) for _ in range(3)]
    assert sorted(set(ids)) == ids
    assert [timestamp_ms_of(order_id) - world.now_ns // 10**6 for order_id in ids] == [0, 1, 1]
    assert world.last_forwarded["timestamp_ns"] // 10**6 == timestamp_ms_of(ids[-1])
    assert {shard_of(order_id) for order_id in ids} == {0}
    assert {epoch_of(order_id) for order_id in ids} == {0}


def test_time_stamps_never_go_back(world: RiskWorld) -> None:
    """When the clock is set back, time stamps stay where they were, and order ids go on."""
    first = world.place(ALICE, Side.SELL, 1, 100)
    stamp = int(world.last_forwarded["timestamp_ns"])
    world.now_ns -= 10**12
    assert world.place(ALICE, Side.SELL, 1, 100) > first
    assert world.last_forwarded["timestamp_ns"] == stamp


def test_late_commands_are_dropped(world: RiskWorld) -> None:
    """A command past its deadline is refused; one in time, and one without, are not."""
    asked = {"timestamp_ns": START_NS - 5_000_000, "deadline_ms": 5}
    assert world.ask(place(ALICE, Side.SELL, 1, 100, **asked)) == Reason.NONE
    world.now_ns += 1
    assert world.ask(place(ALICE, Side.SELL, 1, 100, **asked)) == Reason.DEADLINE_PASSED
    assert world.ask(place(ALICE, Side.SELL, 1, 100, timestamp_ns=1)) == Reason.NONE
