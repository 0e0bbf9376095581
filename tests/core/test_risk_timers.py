"""Risk's part in timers: a duration becomes a time, for every shard or none, within bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.core.risk_world import ALICE, QUOTE, START_NS, RiskWorld, change, kinds_of, symbol_spec

from tradeengine.core.book import timers
from tradeengine.core.records import SYMBOL_ID_ALL, CommandKind, EventKind, Reason
from tradeengine.core.risk import FOR_CANCELS, FOR_ORDERS, IngressRight
from tradeengine.core.risk_timers import TIMEOUT_NS_MAX

SECOND_NS = 10**9


@pytest.fixture
def world() -> RiskWorld:
    """Two shards with a symbol each; Alice has a million."""
    made = RiskWorld(2, symbols=(symbol_spec(), symbol_spec(1, shard=1)))
    made.fund(ALICE, QUOTE, 1_000_000)
    return made


def timer(timeout_ns: int, account_id: int = ALICE, **fields: Any) -> Any:
    """Ask for a timer."""
    values = {"symbol_id": SYMBOL_ID_ALL, "expires_at_ns": timeout_ns}
    return change(CommandKind.CANCEL_ALL_AFTER, account_id, **values | fields)


def test_timer_runs_from_risks_clock_on_every_shard(world: RiskWorld) -> None:
    """Whatever time the front wrote: the timer ends the duration after risk took it, on all shards."""
    world.now_ns += 77
    assert world.ask(timer(5 * SECOND_NS, timestamp_ns=123)) == Reason.NONE
    events = world.settle()
    assert kinds_of(events) == [EventKind.TIMER_SET] * 2
    ends_ns = START_NS + 77 + 5 * SECOND_NS
    assert set(events["expires_at_ns"].tolist()) == {ends_ns}
    assert [timers(book).tolist() for book in world.books] == [[[ALICE, ends_ns]]] * 2


def test_zero_disarms(world: RiskWorld) -> None:
    """A duration of 0 takes the timer away on every shard."""
    world.ask(timer(SECOND_NS))
    world.ask(timer(0))
    assert world.settle()["expires_at_ns"].tolist()[-1] == 0
    assert [timers(book).tolist() for book in world.books] == [[], []]


def test_fired_timer_sets_holds_free(world: RiskWorld) -> None:
    """What orders held that a timer ended is free again, on both shards, and risk knows none of them any more."""
    world.place(price=100, lots=10)
    assert world.ask(timer(SECOND_NS)) == Reason.NONE
    world.settle()
    assert world.held(ALICE, QUOTE) > 0
    world.now_ns += 2 * SECOND_NS
    expire = change(CommandKind.EXPIRE, 0, symbol_id=SYMBOL_ID_ALL, timestamp_ns=world.now_ns)
    world.forwarded[0].append(expire)
    world.settle()
    assert world.held(ALICE, QUOTE) == 0
    assert world.orders() == {}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (timer(-1), Reason.NUMBER_OUT_OF_RANGE),
        (timer(TIMEOUT_NS_MAX + 1), Reason.NUMBER_OUT_OF_RANGE),
        (timer(TIMEOUT_NS_MAX), Reason.NONE),
        (timer(1), Reason.NONE),
        (timer(SECOND_NS, symbol_id=0), Reason.INVALID_REQUEST),
        (timer(SECOND_NS, 0), Reason.INVALID_REQUEST),
        (timer(SECOND_NS, 15), Reason.INVALID_REQUEST),
        (timer(SECOND_NS, 32), Reason.INVALID_REQUEST),
        (timer(SECOND_NS, -1), Reason.INVALID_REQUEST),
    ],
)
def test_bounds(world: RiskWorld, command: Any, reason: Reason) -> None:
    """Durations beyond a day, accounts that are no users, and timers of one symbol are refused and reach no shard."""
    assert world.ask(command) == reason
    assert [len(queue) for queue in world.forwarded] == ([0, 0] if reason else [1, 1])


def test_timer_needs_the_right_to_trade(world: RiskWorld) -> None:
    """A ring that may not trade sets no timer."""
    answers = world.send(timer(SECOND_NS), rights=IngressRight.FUND)
    assert answers["reason"].tolist() == [Reason.INVALID_REQUEST]


def test_timer_reaches_all_shards_or_none(world: RiskWorld) -> None:
    """Where one shard has no room nothing is forwarded; a backlog that stops only orders does not stop timers."""
    world.outbox.rooms[1, FOR_CANCELS] = 0
    assert world.ask(timer(SECOND_NS)) == Reason.ENGINE_OVERLOADED
    assert [len(queue) for queue in world.forwarded] == [0, 0]
    world.outbox.rooms[1, FOR_CANCELS] = 5
    world.outbox.gates[:, FOR_ORDERS] = Reason.SETTLEMENT_BACKLOG
    assert world.ask(timer(SECOND_NS)) == Reason.NONE


def test_restart_brings_it_to_the_shards_that_lack_it(world: RiskWorld) -> None:
    """Risk died between two shards: the one that has the timer gets it no second time, the other one does."""
    world.send(timer(SECOND_NS), taken=np.array([0b01], np.int64))
    assert [len(queue) for queue in world.forwarded] == [0, 1]
