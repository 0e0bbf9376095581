"""Claims about a replay as a protocol: what is sent when, what is made of the answers, and what book it leaves."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.cli.venue import TICK, Row, Venue
from tests.direct_engine import DirectEngine, place

from tradeengine.cli.lobster import Action, read_messages, ticks_of, translate
from tradeengine.cli.replay_session import Answer, ReplaySession, Terms
from tradeengine.cli.touch_recorder import TouchRecorder
from tradeengine.core.records import CommandKind, EventFlag, EventKind, Reason, Side, TimeInForce, event_dtype

if TYPE_CHECKING:
    from pathlib import Path

Records = np.ndarray[Any, np.dtype[np.void]]
RING = 5
MAKER, TAKER = 20, 21


def session_of(tmp_path: Path, rows: list[Row], *, window: int = 64, removals: Any = ()) -> ReplaySession:
    """Start the replay of some rows."""
    path = tmp_path / "messages.csv"
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows), encoding="ascii")
    flow = translate(read_messages(path), removals)
    flow.steps["price"] = ticks_of(flow.steps["price"], TICK)
    terms = Terms(symbol_id=0, maker_account_id=MAKER, taker_account_id=TAKER, ingress_ring=RING, run_tag="t")
    return ReplaySession(flow.steps, len(flow.order_ids), terms, first_sequence=1000, outstanding_max=window)


def replay(session: ReplaySession, engine: DirectEngine, limit: int = 16, cut: int = 7) -> io.StringIO:
    """Send everything through a book, events cut into pieces; returns the recorded touch."""
    touch = io.StringIO()
    recorder = TouchRecorder(touch, engine.specs[0], TICK)
    now_ns = 0
    while not session.finished:
        now_ns += 1
        commands = session.next_commands(limit, now_ns)
        assert len(commands)
        events = engine.run(commands)
        for start in range(0, len(events), cut):
            piece = events[start : start + cut]
            recorder.fold(piece, session.rows(piece))
            session.fold(piece, now_ns + 1)
    return touch


def refusals(commands: Records, reason: Reason) -> Records:
    """Answer commands as risk does when it refuses them."""
    events = np.zeros(len(commands), event_dtype)
    events["kind"] = EventKind.REFUSED
    events["reason"] = reason
    events["flags"] = EventFlag.LAST_OF_COMMAND
    events["ingress_ring"] = commands["ingress_ring"]
    events["ingress_sequence"] = commands["ingress_sequence"]
    return events


@pytest.mark.parametrize("seed", range(6))
def test_recorded_touch_is_repeated(tmp_path: Path, seed: int) -> None:
    """A replay gives the recording's best bids and asks, state by state, though some executions hit another order."""
    venue = Venue(seed)
    assert venue.jumped_count > 5
    session = session_of(tmp_path, venue.rows)
    touch = replay(session, DirectEngine(), limit=1 + 5 * seed)
    states = [tuple(map(int, line.split(","))) for line in touch.getvalue().splitlines()]
    assert states == venue.distinct_states()
    assert session.stand_ins.fill_count > 0


@pytest.mark.parametrize("seed", range(6))
def test_book_at_the_end_is_the_venues(tmp_path: Path, seed: int) -> None:
    """Every level that the recording ends with is in the engine's book, with the same sum, and no other."""
    venue = Venue(seed + 100)
    engine = DirectEngine()
    replay(session_of(tmp_path, venue.rows), engine, cut=1)
    for side, direction in ((Side.BUY, 1), (Side.SELL, -1)):
        levels = {price * TICK: lots for price, lots in engine.levels(0, side).tolist()}
        assert levels == venue.levels(direction)


@pytest.mark.parametrize("seed", range(3))
def test_every_command_is_accounted_for(tmp_path: Path, seed: int) -> None:
    """Answers add up to the commands sent, nothing is refused, and every execution is filled whole."""
    venue = Venue(seed + 200)
    session = session_of(tmp_path, venue.rows)
    replay(session, DirectEngine())
    assert sum(session.answers.values()) == session.sent_count
    assert {answer.kind for answer in session.answers} == {EventKind.ACCEPTED, EventKind.AMENDED, EventKind.CANCELLED}
    assert not session.skipped
    assert (session.unfilled_count, session.submissions_traded_count, session.outstanding_count) == (0, 0, 0)
    executed = sum(row[3] for row in venue.rows if row[1] == 4)
    assert session.traded_lots == executed
    assert len(session.latencies_ns()) == session.sent_count
    assert (session.latencies_ns() == 1).all()


def test_makers_and_takers_are_different_accounts(tmp_path: Path) -> None:
    """Resting orders and aggressors have an account each; an aggressor is an IOC order on the other side."""
    session = session_of(tmp_path, [("1", 1, 7, 5, 1000, 1), ("2", 4, 7, 5, 1000, 1)])
    resting, aggressor = session.next_commands(10, 0)
    assert (resting["account_id"], aggressor["account_id"]) == (MAKER, TAKER)
    assert (resting["side"], aggressor["side"]) == (Side.BUY, Side.SELL)
    assert (resting["time_in_force"], aggressor["time_in_force"]) == (TimeInForce.GTC, TimeInForce.IOC)
    assert resting["client_order_id"] == b"t-7"
    assert resting["client_order_id"] != aggressor["client_order_id"]


def test_deletion_waits_for_the_order_s_id(tmp_path: Path) -> None:
    """A deletion goes out only when its order's acceptance has told the id; what follows it waits behind."""
    session = session_of(tmp_path, [("1", 1, 7, 5, 1000, 1), ("2", 3, 7, 5, 1000, 1), ("3", 1, 8, 5, 1000, 1)])
    engine = DirectEngine()
    first = session.next_commands(10, 0)
    assert first["kind"].tolist() == [CommandKind.PLACE]
    assert len(session.next_commands(10, 0)) == 0
    events = engine.run(first)
    session.fold(events, 0)
    second = session.next_commands(10, 0)
    assert second["kind"].tolist() == [CommandKind.CANCEL, CommandKind.PLACE]
    assert second["order_id"][0] == events["order_id"][0]


def test_deletion_waits_for_executions_on_its_level(tmp_path: Path) -> None:
    """Whom an execution hit shows only when its last event is in: a deletion on that level waits for it."""
    rows: list[Row] = [
        ("1", 1, 7, 5, 1000, 1),
        ("2", 1, 8, 5, 1000, 1),
        ("3", 4, 8, 2, 1000, 1),
        ("4", 3, 7, 5, 1000, 1),
    ]
    session, engine = session_of(tmp_path, rows), DirectEngine()
    session.fold(engine.run(session.next_commands(2, 0)), 0)
    events = engine.run(session.next_commands(10, 0))
    assert len(events) == 2
    session.fold(events[:1], 0)
    assert len(session.next_commands(10, 0)) == 0
    session.fold(events[1:], 0)
    # Order 7 was hit instead of 8, so deleting it ends what is left of it and takes as much from 8.
    reductions = session.next_commands(10, 0)
    assert len(reductions) == 2
    session.fold(engine.run(reductions), 0)
    assert engine.levels(0, Side.BUY).tolist() == [[10, 3]]
    assert session.finished


def test_no_more_commands_are_out_than_allowed(tmp_path: Path) -> None:
    """With a window full of unanswered commands nothing goes out; one answer makes room for one."""
    rows: list[Row] = [(str(number), 1, number, 5, 1000, 1) for number in range(1, 10)]
    session, engine = session_of(tmp_path, rows, window=4), DirectEngine()
    first = session.next_commands(100, 0)
    assert len(first) == 4
    assert len(session.next_commands(100, 0)) == 0
    session.fold(engine.run(first)[:1], 0)
    assert len(session.next_commands(100, 0)) == 1


def test_what_is_refused_for_load_goes_out_again_first(tmp_path: Path) -> None:
    """A command refused for load is repeated with its client order id, before anything new, until it is answered."""
    rows: list[Row] = [(str(number), 1, number, 5, 1000, 1) for number in (1, 2, 3)]
    session, engine = session_of(tmp_path, rows), DirectEngine()
    first = session.next_commands(2, 0)
    session.fold(refusals(first, Reason.SETTLEMENT_BACKLOG), 0)
    again = session.next_commands(10, 0)
    assert again["client_order_id"].tolist() == first["client_order_id"].tolist()
    assert again["ingress_sequence"].tolist() == [1002, 1003]
    for _ in range(2):
        session.fold(engine.run(again), 0)
        again = session.next_commands(10, 0)
    assert session.finished
    assert session.retried_count == 2
    assert session.answers == {Answer(Action.PLACE, EventKind.ACCEPTED, Reason.NONE): 3}


def test_order_that_was_refused_is_not_touched_again(tmp_path: Path) -> None:
    """What the file does to an order that the engine refused is skipped and counted, by action."""
    rows: list[Row] = [
        ("1", 1, 7, 5, 1000, 1),
        ("2", 2, 7, 1, 1000, 1),
        ("3", 3, 7, 4, 1000, 1),
        ("4", 1, 8, 5, 1000, 1),
    ]
    session, engine = session_of(tmp_path, rows), DirectEngine()
    session.fold(refusals(session.next_commands(1, 0), Reason.INSUFFICIENT_BALANCE), 0)
    session.fold(engine.run(session.next_commands(10, 0)), 0)
    assert session.finished
    assert session.skipped == {Action.REDUCE: 1, Action.DELETE: 1}
    assert session.answers[Answer(Action.PLACE, EventKind.REFUSED, Reason.INSUFFICIENT_BALANCE)] == 1
    assert session.answers[Answer(Action.PLACE, EventKind.ACCEPTED, Reason.NONE)] == 1


def test_others_events_are_passed_over(tmp_path: Path) -> None:
    """Events of other rings, and of commands from before the replay on the same ring, are nobody's answers."""
    session, engine = session_of(tmp_path, [("1", 1, 7, 5, 1000, 1)]), DirectEngine()
    mine = session.next_commands(10, 0)
    foreign, earlier = place(Side.BUY, 9, 1), place(Side.BUY, 9, 1)
    foreign["ingress_ring"], foreign["ingress_sequence"] = RING + 1, 1000
    earlier["ingress_ring"], earlier["ingress_sequence"] = RING, 999
    session.fold(engine.run(np.concatenate([foreign, earlier])), 0)
    assert session.outstanding_count == 1
    session.fold(engine.run(mine), 0)
    assert session.finished


def test_recorded_time_can_hold_back(tmp_path: Path) -> None:
    """With a time given, only what was recorded up to then goes out."""
    session = session_of(tmp_path, [("1", 1, 7, 5, 1000, 1), ("2.5", 1, 8, 5, 1000, 1)])
    assert len(session.next_commands(10, 0, time_ns_max=2 * 10**9)) == 1
    assert session.next_time_ns() == 2_500_000_000
    assert len(session.next_commands(10, 0, time_ns_max=2_499_999_999)) == 0
    assert len(session.next_commands(10, 0, time_ns_max=2_500_000_000)) == 1


def test_removal_ends_an_order_whose_deletion_was_not_recorded(tmp_path: Path) -> None:
    """An order that the recording leaves behind is gone from the row on before which it is removed."""
    rows: list[Row] = [("1", 1, 7, 5, 1000, 1), ("2", 1, 8, 5, 900, 1), ("3", 1, 9, 5, 800, 1)]
    engine = DirectEngine()
    touch = replay(session_of(tmp_path, rows, removals=((2, 7),)), engine)
    assert engine.levels(0, Side.BUY).tolist() == [[9, 5], [8, 5]]
    bids = [line.split(",")[2] for line in touch.getvalue().splitlines()]
    assert bids == ["1000", "900"]
