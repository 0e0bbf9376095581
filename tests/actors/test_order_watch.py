"""Claims about updates of own orders: made from events alone, they say of each order what a plain book knows of it."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from tests.core.book_pair import LIMITS, make_reference, run, stream
from tests.direct_engine import DirectEngine, place, symbol_spec
from tests.model.random_commands import PROFILES, Records
from tests.model.reference_orders import Order

from tradeengine.actors.publishing.order_watch import OrderWatch, Told, WatchBroken
from tradeengine.core import book as kernel
from tradeengine.core.records import EventKind, Reason, Side, TimeInForce
from tradeengine.storage.queries import OrderRow

ACCOUNTS_MAX = 64
WATCHED = (16, 18, 19)
SPECS = {symbol_id: symbol_spec(symbol_id) for symbol_id in range(2)}
CONTENT = {
    EventKind.ACCEPTED: "accepted",
    EventKind.TRIGGERED: "triggered",
    EventKind.AMENDED: "amended",
    EventKind.CANCELLED: "cancelled",
    EventKind.REJECTED: "rejected",
}
ENDED = {"filled", "cancelled", "rejected"}


def watch_of(*accounts: int) -> OrderWatch:
    """Make a watch that tells these accounts' updates from the first event on."""
    watch = OrderWatch(ACCOUNTS_MAX)
    watch.watch(np.array(accounts, np.int64))
    return watch


def cursor_of(event: Any) -> str:
    """Name the place behind an event."""
    return f"1.{int(event['sequence']) + 1:x}"


def fold(watch: OrderWatch, events: Records) -> list[Told]:
    """Fold events and tell."""
    return watch.fold(events, SPECS, cursor_of)


def expected_of(events: Records, accounts: tuple[int, ...]) -> list[tuple[int, int, str, str | None]]:
    """Say plainly whom events are to be told to: sequence, order, what happened, and how."""
    told: list[tuple[int, int, str, str | None]] = []
    for event in events:
        kind, sequence = EventKind(event["kind"]), int(event["sequence"])
        if kind == EventKind.TRADED:
            if event["maker_account_id"] in accounts:
                told.append((sequence, int(event["maker_order_id"]), "traded", "maker"))
            if event["account_id"] in accounts:
                told.append((sequence, int(event["order_id"]), "traded", "taker"))
        elif kind in CONTENT and event["account_id"] in accounts:
            told.append((sequence, int(event["order_id"]), CONTENT[kind], None))
    return told


def check_live(order: Order, told: list[Told]) -> None:
    """Compare the last update of an order that lives with what the plain book has, and its fills with their sums."""
    last, spec = told[-1].update, SPECS[order.symbol_id]
    filled = order.quantity - order.remaining
    state = "pending" if order.waiting else "partially_filled" if filled else "open"
    assert (last.status, last.reason) == (state, None)
    assert last.quantity == spec.format_quantity(order.quantity)
    assert (last.filled_quantity, last.remaining_quantity) == (f"{filled}", f"{order.remaining}")
    assert last.price == (spec.format_price(order.price) if order.price else None)
    assert last.stop_price == (spec.format_price(order.stop) if order.stop else None)
    assert last.client_order_id == (order.client_order_id.decode() or None)
    assert (last.side, last.symbol) == (Side(order.side).name.lower(), spec.name)
    fees = sum(spec.quote.parse(one.update.fee) for one in told if one.update.fee is not None)
    assert fees == order.fee


def check_ended(told: list[Told]) -> None:
    """See that an order that has ended was told so last, once, and that its fills add up to what it says."""
    updates = [one.update for one in told]
    assert [update.status in ENDED for update in updates] == [False] * (len(updates) - 1) + [True]
    last = updates[-1]
    assert sum(int(update.last_quantity or 0) for update in updates) == int(last.filled_quantity)
    assert (last.reason is None) is (last.status == "filled")
    assert last.reason is None or last.reason in Reason.__members__


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_updates_say_what_a_plain_book_knows(profile: str, seed: int) -> None:
    """Each event is told to the owners among those who listen, in order, and leaves each order as the book has it."""
    book, reference, watch = kernel.make_book(LIMITS), make_reference(), watch_of(*WATCHED)
    told: dict[int, list[Told]] = {}
    live: set[int] = set()
    for command in stream(seed, replace(PROFILES[profile], wrong_share=0.0), 800):
        events = run(book, np.array([command]))
        reference.apply(command)
        fresh = fold(watch, events)
        assert [
            (one.sequence, int(one.update.order_id), one.update.event, one.update.liquidity) for one in fresh
        ] == expected_of(events, WATCHED)
        for one in fresh:
            told.setdefault(int(one.update.order_id), []).append(one)
            assert one.update.sequence == one.sequence
            assert one.update.cursor == f"1.{one.sequence + 1:x}"
        now = {order_id for order_id, order in reference.orders.items() if order.account_id in WATCHED}
        for order_id in {int(one.update.order_id) for one in fresh} | (live - now):
            if order_id in now:
                check_live(reference.orders[order_id], told[order_id])
            else:
                check_ended(told[order_id])
        live = now
    assert {one.account_id for many in told.values() for one in many} == set(WATCHED) & set(PROFILES[profile].accounts)
    assert len(told) > 100


def row_of(order: Order) -> OrderRow:
    """Show an order as history has it."""
    return OrderRow(
        order_id=order.order_id,
        account_id=order.account_id,
        symbol_id=order.symbol_id,
        client_order_id=order.client_order_id.decode(),
        side=order.side,
        order_type=order.order_type,
        time_in_force=order.time_in_force,
        self_trade_prevention=order.prevention,
        post_only=False,
        by_quote=order.by_quote,
        price_ticks=order.price,
        stop_price_ticks=order.stop,
        quantity_lots=order.quantity,
        filled_lots=order.quantity - order.remaining,
        remaining_lots=order.remaining,
        filled_notional_units=order.notional,
        fee_total_units=order.fee,
        hold_units=order.hold,
        status="open",
        reason=0,
        sequence=0,
        updated_ms=0,
        expires_ms=0,
        triggered_ms=0,
        closed_ms=0,
    )


@pytest.mark.parametrize("seed", range(6))
def test_whoever_begins_later_is_told_the_same(seed: int) -> None:
    """From live orders of some place and the events since, updates go on as they do for who listened all the time."""
    numbers = Random(seed)
    book, reference, always = kernel.make_book(LIMITS), make_reference(), watch_of(*WATCHED)
    late = OrderWatch(ACCOUNTS_MAX)
    rows: list[OrderRow] = []
    since: list[Records] = []
    chosen = np.zeros(ACCOUNTS_MAX, bool)
    joined_count = 0
    for command in stream(seed, replace(PROFILES["mixed"], wrong_share=0.0), 1500):
        events = run(book, np.array([command]))
        reference.apply(command)
        wanted = [one for one in fold(always, events) if late.watches(one.account_id)]
        assert fold(late, events) == wanted
        joined_count += len(wanted)
        if not chosen.any() and numbers.random() < 0.02:
            left = [account_id for account_id in WATCHED if not late.watches(account_id)]
            chosen[numbers.sample(left, min(len(left), 2))] = True
            rows, since = [row_of(order) for order in reference.orders.values() if chosen[order.account_id]], []
        elif chosen.any():
            since.append(events)
            if numbers.random() < 0.05:
                late.begin(rows)
                late.fold(np.concatenate(since), SPECS, cursor_of, chosen)
                late.watch(np.flatnonzero(chosen))
                chosen[:] = False
        if numbers.random() < 0.005:
            late.forget(np.array(late.accounts()[:1], np.int64))
    assert joined_count > 100


def test_forgotten_account_is_told_nothing() -> None:
    """Accounts that nobody listens for any more are told nothing, and one account's leaving is not another's."""
    engine, watch = DirectEngine(), watch_of(16, 17)
    fold(watch, engine.run(np.concatenate([place(Side.SELL, 100, 5), place(Side.SELL, 101, 5, account_id=17)])))
    watch.forget(np.array([16], np.int64))
    assert watch.accounts() == [17]
    told = fold(watch, engine.run(place(Side.BUY, 101, 10, account_id=18)))
    assert [(one.account_id, one.update.status) for one in told] == [(17, "filled")]


def test_fill_of_an_unknown_order_says_that_events_were_missed() -> None:
    """A fill of an order that was never seen is not made up: it is told that something was missed."""
    engine, watch = DirectEngine(), watch_of(16)
    engine.run(place(Side.SELL, 100, 5))
    with pytest.raises(WatchBroken):
        fold(watch, engine.run(place(Side.BUY, 100, 1, account_id=17)))


def test_symbol_that_nobody_can_know_yet_is_passed_over() -> None:
    """Events of a symbol that was listed a moment ago, and that no directory shows, are told to nobody."""
    engine, watch = DirectEngine(symbols=2), watch_of(16)
    events = engine.run(np.concatenate([place(Side.BUY, 100, 1), place(Side.BUY, 100, 1, symbol_id=1)]))
    assert [one.update.symbol for one in watch.fold(events, {1: SPECS[1]}, cursor_of)] == [SPECS[1].name]


def test_immediate_orders_end_in_one_command() -> None:
    """An order that cannot rest is told from its acceptance to its end, with reasons, within its own events."""
    engine, watch = DirectEngine(), watch_of(17)
    engine.run(place(Side.SELL, 100, 5))
    told = fold(watch, engine.run(place(Side.BUY, 100, 8, account_id=17, time_in_force=TimeInForce.IOC)))
    assert [(one.update.event, one.update.status, one.update.reason) for one in told] == [
        ("accepted", "open", None),
        ("traded", "partially_filled", None),
        ("cancelled", "cancelled", "IOC_REMAINDER"),
    ]
