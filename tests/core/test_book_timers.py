"""Timers of accounts in the book: when they fire, what they end, and that nothing of it is lost with a snapshot."""

from __future__ import annotations

import numpy as np
import pytest
from tests.core.book_pair import contiguous, make_reference, run
from tests.core.book_world import ALICE, BOB, BUY, CAROL, SELL, Market, reason, told
from tests.model.reference_orders import records

from tradeengine.core import book as kernel
from tradeengine.core.book_dump import DumpError
from tradeengine.core.book_state import BookLimits
from tradeengine.core.records import CommandKind, EventKind, Reason, TimeInForce, TradingState, command_dtype

NEVER = 2**63 - 1


def market_with_orders() -> Market:
    """Alice has orders 1 (bid), 2 (ask) and 3 (stop), on two symbols; Bob has order 4."""
    market = Market()
    market.list_symbol(1)
    market.place(BUY, 5, 90)
    market.place(SELL, 5, 110, symbol_id=1)
    market.stop(SELL, 5, 80)
    market.place(BUY, 5, 95, BOB)
    return market


def test_timer_set_tells_account_and_end() -> None:
    """Setting a timer gives one event: whose it is, when it ends, about no symbol and no order."""
    market = Market()
    (event,) = market.set_timer(ALICE, market.now_ns + 7)
    assert event["kind"] == EventKind.TIMER_SET
    assert (event["account_id"], event["expires_at_ns"]) == (ALICE, market.now_ns + 7)
    assert (event["symbol_id"], event["order_id"], event["reason"]) == (-1, 0, Reason.NONE)
    assert kernel.next_expiry_ns(market.book) == market.now_ns + 7


def test_timer_ends_every_order_of_its_account_and_no_other() -> None:
    """A timer that runs out ends orders and stops on all symbols by id, with its reason, and is gone."""
    market = market_with_orders()
    market.set_timer(ALICE, market.now_ns + 10)
    market.now_ns += 9
    assert told(market.expire()) == [("EXPIRED", 0, "NONE")]
    market.now_ns += 1
    events = market.expire()
    ended = [("CANCELLED", order_id, "CANCEL_ALL_AFTER") for order_id in (1, 2, 3)]
    assert told(events) == [*ended, ("EXPIRED", 0, "NONE")]
    assert events["quantity_lots"][-1] == 3
    assert kernel.order_count(market.book) == 1
    assert kernel.next_expiry_ns(market.book) == NEVER


def test_renewed_timer_fires_at_its_new_end_only() -> None:
    """Each renewal replaces the end before it, later or earlier; 0 takes the timer away."""
    market = market_with_orders()
    start_ns = market.now_ns
    market.set_timer(ALICE, start_ns + 10)
    market.set_timer(ALICE, start_ns + 30)
    market.now_ns = start_ns + 29
    assert len(market.expire()) == 1
    market.set_timer(ALICE, start_ns + 500)
    market.set_timer(ALICE, start_ns + 40)
    assert kernel.next_expiry_ns(market.book) == start_ns + 40
    market.set_timer(ALICE, 0)
    market.now_ns = start_ns + 1_000
    assert told(market.expire()) == [("EXPIRED", 0, "NONE")]


def test_fired_timer_does_not_touch_later_orders() -> None:
    """What is placed after the timer fired stays: a timer fires once."""
    market = market_with_orders()
    market.set_timer(ALICE, market.now_ns)
    market.expire()
    market.place(BUY, 1, 50)
    market.now_ns += 10**9
    assert told(market.expire()) == [("EXPIRED", 0, "NONE")]


def test_timer_of_an_account_without_orders_just_goes() -> None:
    """A timer with nothing to end is told by the count alone, and leaves nothing behind."""
    market = market_with_orders()
    market.set_timer(CAROL, market.now_ns)
    assert told(market.expire()) == [("EXPIRED", 0, "NONE")]
    assert kernel.timers(market.book).tolist() == []


def test_late_expiry_ends_things_by_when_they_were_due() -> None:
    """After a pause orders end for the reason that came first: their own end, at the same instant too, or the timer."""
    market = Market()
    start_ns = market.now_ns
    gtd = {"time_in_force": TimeInForce.GTD}
    market.place(BUY, 1, 90, expires_at_ns=start_ns + 30, **gtd)  # order 1: after its timer
    market.place(BUY, 1, 91, expires_at_ns=start_ns + 20, **gtd)  # order 2: with its timer
    market.place(BUY, 1, 92, expires_at_ns=start_ns + 10, **gtd)  # order 3: before its timer
    market.place(BUY, 1, 93, BOB, expires_at_ns=start_ns + 25, **gtd)  # order 4: before Bob's timer, after Alice's
    market.place(BUY, 1, 94, BOB)
    market.set_timer(ALICE, start_ns + 20)
    market.set_timer(BOB, start_ns + 40)
    market.now_ns = start_ns + 100
    assert told(market.expire()) == [
        ("CANCELLED", 3, "EXPIRED"),
        ("CANCELLED", 2, "EXPIRED"),
        ("CANCELLED", 1, "CANCEL_ALL_AFTER"),
        ("CANCELLED", 4, "EXPIRED"),
        ("CANCELLED", 5, "CANCEL_ALL_AFTER"),
        ("EXPIRED", 0, "NONE"),
    ]


def test_timers_of_one_instant_fire_by_account() -> None:
    """Timers that end at the same time fire in the order of accounts, however they were armed."""
    market = Market()
    for account in (CAROL, ALICE, BOB):
        market.place(BUY, 1, 90, account)
        market.set_timer(account, market.now_ns + 5)
    market.now_ns += 5
    assert [event[1] for event in told(market.expire())] == [2, 3, 1, 0]


@pytest.mark.parametrize("state", [TradingState.HALTED, TradingState.CANCEL_ONLY])
def test_timers_fire_and_are_set_in_every_state(state: TradingState) -> None:
    """A halted market ends orders by timer all the same, and takes timers."""
    market = market_with_orders()
    market.set_state(state)
    market.set_timer(ALICE, market.now_ns)
    assert reason(market.expire()[:1]) == "CANCEL_ALL_AFTER"


def test_wrong_timers_are_refused() -> None:
    """A timer of nobody, of an account that cannot be, of one symbol, or before all time changes nothing."""
    market = market_with_orders()
    end_ns = market.now_ns + 1
    before = kernel.timers(market.book).tolist()
    for account, ends_ns in ((0, end_ns), (64, end_ns), (-1, end_ns), (ALICE, -1)):
        assert told(market.set_timer(account, ends_ns)) == [("REFUSED", 0, "INVALID_REQUEST")]
    assert told(market.set_timer(ALICE, end_ns, symbol_id=0)) == [("REFUSED", 0, "INVALID_REQUEST")]
    assert kernel.timers(market.book).tolist() == before


def test_many_renewals_take_no_memory_and_keep_their_order() -> None:
    """Sixty accounts renew ten thousand times; the book has as many timers as accounts, and fires them as expected."""
    random = np.random.default_rng(7)
    limits = BookLimits(orders_max=100, symbols_max=1, levels_max=10, accounts_max=80, shard=0)
    book, reference = kernel.make_book(limits), make_reference(limits)
    commands = np.zeros(10_000, command_dtype)
    commands["kind"] = CommandKind.CANCEL_ALL_AFTER
    commands["symbol_id"] = -1
    commands["account_id"] = random.integers(16, 76, len(commands))
    commands["expires_at_ns"] = random.integers(0, 1_000, len(commands))
    commands["kind"][::50], commands["timestamp_ns"][::50] = CommandKind.EXPIRE, random.integers(0, 300)
    commands = contiguous(commands)
    wanted = records(event for command in commands for event in reference.apply(command))
    assert run(book, commands).tobytes() == wanted.tobytes()
    assert kernel.timers(book).tolist() == sorted(map(list, reference.timers.items()))
    assert len(reference.timers) > 30


def test_state_hash_and_dump_have_the_timers() -> None:
    """A timer changes the hash; a dumped and loaded book has it; how it came about does not show."""
    market, other = market_with_orders(), market_with_orders()
    assert kernel.state_hash(market.book) == kernel.state_hash(other.book)
    market.set_timer(ALICE, 5)
    market.set_timer(BOB, 6)
    other.set_timer(BOB, 6)
    other.set_timer(ALICE, 7)
    assert kernel.state_hash(market.book) != kernel.state_hash(other.book)
    loaded = kernel.load(market.limits, kernel.dump(market.book))
    assert kernel.timers(loaded).tolist() == [[ALICE, 5], [BOB, 6]]
    assert kernel.next_expiry_ns(loaded) == 5
    assert kernel.state_hash(loaded) == kernel.state_hash(market.book)


def version_1(dumped: bytes) -> bytes:
    """Write a dump without timers as the version before timers wrote it."""
    words = np.frombuffer(dumped, np.int64)
    assert (words[0], words[3]) == (2, 0)
    return np.concatenate(([1], words[1:3], words[4:])).astype(np.int64).tobytes()


def test_dump_of_version_1_is_read() -> None:
    """A book dumped before there were timers is read as it was, with none."""
    for market in (market_with_orders(), Market()):
        dumped = kernel.dump(market.book)
        assert kernel.dump(kernel.load(market.limits, version_1(dumped))) == dumped
    empty = kernel.make_book(market.limits)
    assert kernel.dump(kernel.load(market.limits, version_1(kernel.dump(empty)))) == kernel.dump(empty)


def test_damaged_dumps_are_refused() -> None:
    """A dump that is cut, has counts that do not fit, is of the future, or has a timer of no account is refused."""
    market = market_with_orders()
    market.set_timer(ALICE, 5)
    words = np.frombuffer(kernel.dump(market.book), np.int64)
    spoiled = {place: words.copy() for place in (0, 1, 2, 3)}
    for place, copy in spoiled.items():
        copy[place] = 3 if place == 0 else -1
    huge = words.copy()
    huge[3] = 2**62
    stranger = words.copy()
    stranger[-2] = 64
    for damaged in (*spoiled.values(), huge, stranger, words[:-1], words[:3], words[:0]):
        with pytest.raises(DumpError):
            kernel.load(market.limits, damaged.tobytes())
