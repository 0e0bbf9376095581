"""Claims about depth that is folded from events: it equals the book that made them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from tests.direct_engine import DirectEngine, change, place

from tradeengine.actors.publishing.depth import NO_TAKER, Depth, DepthBroken, level_changes, net_changes
from tradeengine.core.records import (
    CommandKind,
    EventFlag,
    EventKind,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
)

Records = np.ndarray[Any, np.dtype[np.void]]


class Folded:
    """Depths of some symbols, folded from events in pieces."""

    def __init__(self, symbols: int = 1) -> None:
        self.depths = [Depth() for _ in range(symbols)]
        self._taker = NO_TAKER

    def fold(self, events: Records) -> None:
        """Take a piece of a shard's events."""
        changes, self._taker = level_changes(events, self._taker)
        for symbol_id, side, prices_ticks, lots in net_changes(changes):
            self.depths[symbol_id].add(side, prices_ticks, lots)

    def assert_equals(self, engine: DirectEngine) -> None:
        """Compare every side with the book's."""
        for symbol_id, depth in enumerate(self.depths):
            for side in Side:
                np.testing.assert_array_equal(depth.side(side), engine.levels(symbol_id, side))


def run(*commands: Records) -> tuple[Folded, DirectEngine, Records]:
    """Carry out commands on a new book and fold what they make."""
    engine = DirectEngine()
    events = engine.run(np.concatenate(commands))
    folded = Folded()
    folded.fold(events)
    return folded, engine, events


def kinds(events: Records) -> set[EventKind]:
    """Return which kinds of event there are."""
    return {EventKind(kind) for kind in events["kind"].tolist()}


def test_resting_orders_add_to_their_level() -> None:
    """Orders of one price and side make one level, best first."""
    folded, engine, _ = run(place(Side.BUY, 100, 5), place(Side.BUY, 101, 2), place(Side.BUY, 100, 7))
    assert folded.depths[0].side(Side.BUY).tolist() == [[101, 2], [100, 12]]
    folded.assert_equals(engine)


def test_taker_that_rests_leaves_only_its_rest() -> None:
    """A limit order that trades before it rests shows what it did not trade, at its own price and not the maker's."""
    folded, engine, _ = run(place(Side.SELL, 100, 5), place(Side.BUY, 103, 8, account_id=17))
    assert folded.depths[0].side(Side.BUY).tolist() == [[103, 3]]
    folded.assert_equals(engine)


def test_immediate_order_never_stays() -> None:
    """What an IOC order does not trade is taken out by its cancellation."""
    folded, engine, _ = run(
        place(Side.SELL, 100, 5), place(Side.BUY, 103, 8, account_id=17, time_in_force=TimeInForce.IOC)
    )
    assert len(folded.depths[0].side(Side.BUY)) == 0
    folded.assert_equals(engine)


def test_market_order_takes_from_makers_only() -> None:
    """A market order is never in the depth, so only its makers lose."""
    market = place(Side.BUY, 0, 7, account_id=17, order_type=OrderType.MARKET, time_in_force=TimeInForce.IOC)
    folded, engine, _ = run(place(Side.SELL, 100, 5), place(Side.SELL, 101, 5), market)
    assert folded.depths[0].side(Side.SELL).tolist() == [[101, 3]]
    folded.assert_equals(engine)


def test_waiting_stops_are_not_depth() -> None:
    """A stop-limit order counts from the moment it fires, not before; a cancelled waiting one changes nothing."""
    stop = place(Side.BUY, 105, 4, account_id=18, order_type=OrderType.STOP_LIMIT, stop_price_ticks=102)
    engine, folded = DirectEngine(), Folded()
    folded.fold(engine.run(stop))
    assert len(folded.depths[0].side(Side.BUY)) == 0
    trade = np.concatenate([place(Side.SELL, 102, 1), place(Side.BUY, 102, 1, account_id=17)])
    events = engine.run(trade)
    assert EventKind.TRIGGERED in kinds(events)
    folded.fold(events)
    assert folded.depths[0].side(Side.BUY).tolist() == [[105, 4]]
    folded.assert_equals(engine)


def test_amend_moves_what_rested() -> None:
    """An amend takes the old rest from the old price, also when the order was partly filled, and adds the new one."""
    engine, folded = DirectEngine(), Folded()
    folded.fold(engine.run(np.concatenate([place(Side.SELL, 100, 9), place(Side.BUY, 100, 4, account_id=17)])))
    events = engine.run(change(CommandKind.AMEND, 1, quantity_lots=12, price_ticks=104))
    assert kinds(events) == {EventKind.AMENDED}
    folded.fold(events)
    assert folded.depths[0].side(Side.SELL).tolist() == [[104, 8]]
    folded.assert_equals(engine)


def test_amend_into_the_other_side_trades() -> None:
    """An amended order that crosses is a taker: it and its makers lose what they trade."""
    engine, folded = DirectEngine(), Folded()
    folded.fold(engine.run(np.concatenate([place(Side.SELL, 110, 9), place(Side.BUY, 100, 4, account_id=17)])))
    events = engine.run(change(CommandKind.AMEND, 1, price_ticks=100))
    assert {EventKind.AMENDED, EventKind.TRADED} <= kinds(events)
    folded.fold(events)
    folded.assert_equals(engine)


@pytest.mark.parametrize("prevention", SelfTradePrevention)
def test_self_trade_prevention_takes_out_who_ends(prevention: SelfTradePrevention) -> None:
    """Whoever self-trade prevention ends, taker, maker or both, leaves the depth with all that was left of it."""
    folded, engine, _ = run(
        place(Side.SELL, 100, 5), place(Side.SELL, 101, 5), place(Side.BUY, 101, 8, prevention=prevention)
    )
    folded.assert_equals(engine)


@pytest.mark.parametrize("seed", range(4))
def test_any_flow_in_any_pieces_gives_the_book(seed: int) -> None:
    """After every command of a random flow the depth equals the book, however its events were cut into pieces."""
    rng = random.Random(seed)
    engine, folded = DirectEngine(symbols=2, buffer_events=rng.choice([1, 3, 512])), Folded(symbols=2)
    seen: set[EventKind] = set()
    for number in range(300):
        commands = np.concatenate([random_command(rng, number) for _ in range(rng.choice([1, 1, 4]))])
        events = engine.run(commands)
        seen |= kinds(events)
        start = 0
        while start < len(events):
            end = start + rng.randint(1, 5)
            folded.fold(events[start:end])
            start = end
        folded.assert_equals(engine)
    assert {EventKind.TRADED, EventKind.TRIGGERED, EventKind.AMENDED, EventKind.CANCELLED} <= seen


def random_command(rng: random.Random, number: int) -> Records:
    """Make a command of any kind, near the touch, on one of two symbols for one of three accounts."""
    symbol_id, account_id = rng.randrange(2), 16 + rng.randrange(3)
    side, price, lots = rng.choice(list(Side)), rng.randint(90, 110), rng.randint(1, 30)
    kind = rng.choices(["limit", "market", "stop", "stop_limit", "cancel", "amend", "all"], [45, 5, 8, 8, 14, 19, 1])[0]
    order_id = rng.randint(max(1, number - 60), number + 1)
    if kind == "cancel":
        return change(CommandKind.CANCEL, order_id, symbol_id=symbol_id, account_id=account_id)
    if kind == "amend":
        fields = {"quantity_lots": lots, "price_ticks": rng.choice([0, price])}
        return change(CommandKind.AMEND, order_id, symbol_id=symbol_id, account_id=account_id, **fields)
    if kind == "all":
        return change(CommandKind.CANCEL_ALL, 0, symbol_id=symbol_id, account_id=account_id)
    waits = kind in {"stop", "stop_limit"}
    times = {"limit": [TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK], "market": [TimeInForce.IOC]}
    return place(
        side,
        price if kind in {"limit", "stop_limit"} else 0,
        lots,
        symbol_id=symbol_id,
        account_id=account_id,
        order_type=OrderType[kind.upper()],
        time_in_force=rng.choice(times.get(kind, [TimeInForce.GTC])),
        stop_price_ticks=rng.randint(90, 110) if waits else 0,
        prevention=rng.choice(list(SelfTradePrevention)),
    )


def test_missed_events_are_noticed() -> None:
    """A level that would lose more than it has means that events were missed, and says so."""
    engine, folded = DirectEngine(), Folded()
    engine.run(place(Side.SELL, 100, 5))
    with pytest.raises(DepthBroken, match="100"):
        folded.fold(engine.run(change(CommandKind.CANCEL, 1)))


def test_unannounced_taker_is_noticed() -> None:
    """A trade whose taker was announced in an event that was not seen cannot be folded, and says so."""
    engine, folded = DirectEngine(), Folded()
    folded.fold(engine.run(place(Side.SELL, 100, 5)))
    events = engine.run(place(Side.BUY, 100, 3, account_id=17))
    assert events["kind"][0] == EventKind.ACCEPTED
    with pytest.raises(DepthBroken):
        folded.fold(events[1:])


def test_last_event_of_each_command_is_marked() -> None:
    """The flag by which the publisher knows a whole command is on exactly the last event of each."""
    _, _, events = run(place(Side.SELL, 100, 5), place(Side.BUY, 100, 8, account_id=17))
    last = (events["flags"] & EventFlag.LAST_OF_COMMAND) != 0
    assert last.tolist() == (np.append(np.diff(events["command_sequence"]), 1) != 0).tolist()
