"""Timers in the matcher: they fire by the clock, after a pause too; journals from before there were any are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.actors.matcher_bench import SHARD, Bench, Shard, flow, listings, now_ns, reference, run_all, start
from tests.core.test_book_timers import version_1

from tradeengine.actors.matcher import snapshot_header
from tradeengine.actors.matching import KERNEL_VERSION, KERNEL_VERSIONS_REPLAYED
from tradeengine.actors.steady import SteadyClock
from tradeengine.core.book import dump, order_count, timers
from tradeengine.core.ids import make_order_id
from tradeengine.core.records import (
    SYMBOL_ID_ALL,
    CommandKind,
    EventKind,
    OrderType,
    Reason,
    SelfTradePrevention,
    Side,
    TimeInForce,
    command_dtype,
)
from tradeengine.storage.journal_read import KernelChanged
from tradeengine.storage.snapshots import write_snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

OWNER, STRANGER = 16, 17


def resting(*accounts: int) -> NDArray[np.void]:
    """Place a bid for each account, now."""
    commands = np.zeros(len(accounts), command_dtype)
    commands["kind"], commands["timestamp_ns"] = CommandKind.PLACE, now_ns()
    commands["account_id"] = accounts
    commands["order_id"] = [make_order_id(now_ns() // 10**6, SHARD, number, 0) for number in range(len(accounts))]
    commands["side"], commands["order_type"] = Side.BUY, OrderType.LIMIT
    commands["time_in_force"] = TimeInForce.GTC
    commands["self_trade_prevention"] = SelfTradePrevention.CANCEL_TAKER
    commands["price_ticks"], commands["quantity_lots"], commands["hold_units"] = 1000, 1, 10**6
    return commands


def timer(account: int, ends_ns: int, at_ns: int | None = None) -> NDArray[np.void]:
    """Set an account's timer."""
    command = np.zeros(1, command_dtype)
    command["kind"], command["timestamp_ns"] = CommandKind.CANCEL_ALL_AFTER, at_ns or now_ns()
    command["account_id"], command["symbol_id"], command["expires_at_ns"] = account, SYMBOL_ID_ALL, ends_ns
    return command


def listed(bench: Bench, **options: Any) -> Shard:
    """Start a shard that has symbols since long ago."""
    shard = start(bench, **options)
    symbols = listings()
    symbols["timestamp_ns"] = 1
    bench.feed(symbols)
    shard.run()
    bench.take()
    return shard


def test_timer_fires_without_any_further_command(tmp_path: Path) -> None:
    """Nobody sends anything any more: the matcher itself ends the orders once the time has come, and nobody else's."""
    bench = Bench(tmp_path)
    shard = listed(bench)
    bench.feed(np.concatenate([resting(OWNER, STRANGER), timer(OWNER, now_ns() + 50_000_000)]))
    taken: list[NDArray[np.void]] = []
    while not (taken and taken[-1]["kind"][-1] == EventKind.EXPIRED):
        shard.run()
        if bench.readers[0].available():
            taken.append(bench.take())
    events = np.concatenate(taken)
    assert events["kind"].tolist()[-2:] == [EventKind.CANCELLED, EventKind.EXPIRED]
    assert (events["account_id"][-2], events["reason"][-2]) == (OWNER, Reason.CANCEL_ALL_AFTER)
    assert events["timestamp_ns"][-1] >= events["expires_at_ns"][events["kind"] == EventKind.TIMER_SET][0]
    assert order_count(shard.recovered.matching.book) == 1
    shard.die()


def test_timer_that_ran_out_while_nothing_ran_fires_at_the_start(tmp_path: Path) -> None:
    """A timer survives the matcher: the next one fires it before it takes any command, a renewal that came late too."""
    bench = Bench(tmp_path)
    begins_ns = now_ns()
    shard = listed(bench, clock=SteadyClock(lambda: begins_ns, lambda: 0))
    ends_ns = begins_ns + 20_000_000
    commands = np.concatenate([resting(OWNER), timer(OWNER, ends_ns)])
    commands["timestamp_ns"] = begins_ns
    bench.feed(commands)
    shard.run()
    bench.take()
    shard.die()
    late_ns = ends_ns + 10**9
    bench.feed(timer(OWNER, late_ns + 10**15, late_ns))
    shard = start(bench)
    assert timers(shard.recovered.matching.book).tolist() == [[OWNER, ends_ns]]
    shard.run()
    kinds = bench.take()["kind"].tolist()
    assert kinds == [EventKind.CANCELLED, EventKind.EXPIRED, EventKind.TIMER_SET]
    shard.die()


def test_timer_set_and_run_out_within_one_group_fires_between(tmp_path: Path) -> None:
    """Commands polled together keep their order in time: what comes after a timer's end finds its orders gone."""
    bench = Bench(tmp_path)
    shard = listed(bench)
    commands = np.concatenate([resting(OWNER), timer(OWNER, 0), resting(STRANGER)])
    base_ns = now_ns()
    commands["timestamp_ns"] = base_ns + np.arange(3) * 10**9
    commands["expires_at_ns"][1] = base_ns + 1_500_000_000
    commands["order_id"][2] = commands["order_id"][0] + 1
    bench.feed(commands)
    shard.run()
    kinds = bench.take()["kind"].tolist()
    between = [EventKind.CANCELLED, EventKind.EXPIRED]
    assert kinds == [EventKind.ACCEPTED, EventKind.TIMER_SET, *between, EventKind.ACCEPTED]
    shard.die()


def without_timers(commands: NDArray[np.void]) -> NDArray[np.void]:
    """Leave what version 1 could have journaled."""
    is_kept = commands["kind"] != CommandKind.CANCEL_ALL_AFTER
    return np.compress(is_kept, commands)


def test_journal_of_version_1_replays_identically(tmp_path: Path) -> None:
    """A journal from before there were timers is replayed to the same events, and goes on under the new version."""
    commands = without_timers(flow(11, 900))
    expected = reference(tmp_path / "expected", commands)
    old = Bench(tmp_path, kernel_version=1)
    shard = start(old)
    first = run_all(shard, commands[:600])
    shard.die()
    ring_sequence = shard.recovered.journal.next_ring_sequence
    bench = Bench(tmp_path, first_ring_sequence=ring_sequence)
    shard = start(bench)
    assert bench.take().tobytes() == first.tobytes()
    assert first.tobytes() + run_all(shard, commands[600:]).tobytes() == expected.tobytes()
    shard.die()


def test_snapshot_of_version_1_is_taken(tmp_path: Path) -> None:
    """A snapshot that version 1 left at its end is where the new version begins: nothing is replayed."""
    commands = without_timers(flow(12, 500))
    old = Bench(tmp_path, kernel_version=1)
    shard = start(old)
    events = run_all(shard, commands)
    header = snapshot_header(shard.recovered.matching, old.place, shard.recovered.journal.next_ring_sequence)
    write_snapshot(old.place.snapshot_dir, header, version_1(dump(shard.recovered.matching.book)))
    shard.die()
    bench = Bench(tmp_path, settled=len(events), first_ring_sequence=shard.recovered.journal.next_ring_sequence)
    shard = start(bench)
    assert shard.recovered.skipped == []
    assert shard.recovered.commands_replayed == 0
    assert shard.recovered.matching.event_sequence == len(events)
    shard.die()


def test_journal_of_a_later_version_is_refused(tmp_path: Path) -> None:
    """A journal of a version that is yet to come is not guessed at."""
    assert KERNEL_VERSION + 1 not in KERNEL_VERSIONS_REPLAYED
    shard = start(Bench(tmp_path, kernel_version=KERNEL_VERSION + 1))
    run_all(shard, flow(13, 20))
    shard.die()
    with pytest.raises(KernelChanged, match=f"version {KERNEL_VERSION + 1}"):
        start(Bench(tmp_path, first_ring_sequence=shard.recovered.journal.next_ring_sequence))
