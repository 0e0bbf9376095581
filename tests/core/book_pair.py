"""The compiled book and the reference book side by side: the same commands to both, and what must hold after."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from tests.model.random_commands import CommandStream, Profile, Records
from tests.model.reference_book import ReferenceBook
from tests.model.reference_orders import Order, records

from tradeengine.core import book as kernel
from tradeengine.core.book_state import BookLimits, BookState
from tradeengine.core.records import EventKind, Side, TradingState, command_dtype, event_dtype

LIMITS: Final = BookLimits(orders_max=160, symbols_max=4, levels_max=14, accounts_max=64, shard=3)
"""Tight, so that they are met."""


def contiguous(commands: Records) -> Records:
    """Commands as rings hold them: joined records of a layout with gaps come out packed otherwise."""
    return np.ascontiguousarray(commands).view(np.int64).view(command_dtype)


def stream(seed: int, profile: Profile, count: int) -> Records:
    """Give the listings and ``count`` commands of a seeded stream."""
    source = CommandStream(seed, profile)
    return contiguous(np.concatenate([source.listings(), source.take(count)]))


def run(book: BookState, commands: Records, buffer_events: int = 4096) -> Records:
    """Carry out commands with an event buffer of a size; return all events."""
    buffer = np.zeros(buffer_events, event_dtype)
    first, done, pieces = kernel.next_command_sequence(book), 0, [buffer[:0]]
    while done < len(commands) or kernel.in_command(book):
        done, count = kernel.apply(book, commands, first, done, buffer)
        pieces.append(buffer[:count].copy())
    return contiguous_events(np.concatenate(pieces))


def contiguous_events(events: Records) -> Records:
    """Events one behind the other."""
    return np.ascontiguousarray(events).view(np.int64).view(event_dtype)


def make_reference(limits: BookLimits = LIMITS) -> ReferenceBook:
    """Make an empty reference book with the same limits."""
    return ReferenceBook(
        orders_max=limits.orders_max,
        symbols_max=limits.symbols_max,
        levels_max=limits.levels_max,
        accounts_max=limits.accounts_max,
        shard=limits.shard,
    )


def assert_same_events(got: Records, wanted: Records, commands: Records, name: str) -> None:
    """Compare byte for byte; a failure shows the first pair that differs, and its command."""
    if got.tobytes() == wanted.tobytes():
        return
    for index, (ours, theirs) in enumerate(zip(got, wanted, strict=False)):
        if ours.tobytes() != theirs.tobytes():
            fields = {f: (ours[f], theirs[f]) for f in event_dtype.names or () if ours[f] != theirs[f]}
            command = commands[int(ours["command_sequence"]) - int(got["command_sequence"][0])]
            kinds = EventKind(ours["kind"]).name, EventKind(theirs["kind"]).name
            raise AssertionError(f"{name}: event {index} {kinds} differs in (got, wanted) {fields}; command {command}")
    raise AssertionError(f"{name}: {len(got)} events, wanted {len(wanted)}")


def assert_same_state(book: BookState, reference: ReferenceBook) -> None:
    """Compare levels, stops, touch and order count, and check what must hold of any book."""
    assert kernel.order_count(book) == len(reference.orders)
    expiries = [order.expires_at_ns for order in reference.orders.values() if order.expires_at_ns]
    assert kernel.next_expiry_ns(book) == min([*expiries, *reference.timers.values()], default=2**63 - 1)
    assert kernel.timers(book).tolist() == sorted(map(list, reference.timers.items()))
    for symbol_id, market in reference.markets.items():
        for side in Side:
            assert kernel.levels(book, symbol_id, side).tolist() == level_sums(market.ladders[side].orders(), "price")
        waiting = [
            [int(side), *level] for side in Side for level in level_sums(market.ladders[2 + side].orders(), "stop")
        ]
        assert kernel.stops(book, symbol_id).tolist() == waiting
        touch = kernel.touch(book, symbol_id)
        assert touch["last_price_ticks"] == market.last
        assert touch["trading_state"] == market.state
        if touch["best_bid_lots"] and touch["best_ask_lots"] and market.state == TradingState.OPEN:
            assert touch["best_bid_ticks"] < touch["best_ask_ticks"], "the book is crossed"


def level_sums(orders: Any, price_name: str) -> list[list[int]]:
    """Price and lots of each level of a ladder's orders, in their order."""
    levels: dict[int, int] = {}
    for order in orders:
        price = getattr(order, price_name)
        levels[price] = levels.get(price, 0) + order.remaining
    return [list(level) for level in levels.items()]


class Holds:
    """Follows what every order holds by its events alone: what came in is spent, given back, or still held."""

    def __init__(self) -> None:
        """Begin without orders."""
        self.held: dict[int, int] = {}
        self.fees: dict[int, int] = {}

    def fold(self, events: Records, commands: Records, lot_units: int) -> None:
        """Check and fold the events of these commands."""
        first = int(events["command_sequence"][0]) if len(events) else 0
        for event in events:
            kind, order_id = EventKind(event["kind"]), int(event["order_id"])
            hold, released = int(event["hold_units"]), int(event["hold_released_units"])
            came = int(commands["hold_units"][int(event["command_sequence"]) - first])
            if kind == EventKind.ACCEPTED:
                assert came == hold + released
                self.held[order_id] = hold
            elif kind == EventKind.AMENDED:
                assert self.held[order_id] + came == hold + released
                self.held[order_id] = hold
            elif kind == EventKind.TRIGGERED:
                assert self.held[order_id] == hold
            elif kind == EventKind.CANCELLED:
                assert self.held.pop(order_id) == released
                assert hold == 0
            elif kind in (EventKind.REFUSED, EventKind.REJECTED):
                assert hold == 0
            elif kind == EventKind.TRADED:
                self._trade(event, "", "fee_units", event["side"] == Side.BUY, lot_units)
                self._trade(event, "maker_", "maker_fee_units", event["side"] == Side.SELL, lot_units)

    def _trade(self, event: Any, prefix: str, fee_name: str, buys: bool, lot_units: int) -> None:
        order_id, fee = int(event[prefix + "order_id"]), int(event[fee_name])
        spent = int(event["notional_units"]) + fee if buys else int(event["quantity_lots"]) * lot_units
        left = self.held[order_id] - spent - int(event[prefix + "hold_released_units"])
        assert left == int(event[prefix + "hold_units"]) >= 0
        self.fees[order_id] = self.fees.get(order_id, 0) + fee
        assert self.fees[order_id] == int(event[prefix + "fee_total_units"])
        self.held[order_id] = left
        if event[prefix + "remaining_lots"] == 0:
            assert self.held.pop(order_id) == 0

    def assert_equal(self, orders: dict[int, Order]) -> None:
        """Compare what is held with what the orders of the reference hold; no other order holds anything."""
        assert self.held == {order_id: order.hold for order_id, order in orders.items()}


def both(book: BookState, reference: ReferenceBook, commands: Records, name: str, buffer_events: int = 4096) -> Records:
    """Give both books the same commands; compare events and state; return the events."""
    got = run(book, commands, buffer_events)
    wanted = records(event for command in commands for event in reference.apply(command))
    assert_same_events(got, wanted, commands, name)
    assert_same_state(book, reference)
    return got
