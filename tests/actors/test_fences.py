"""Shards that are given up: who says so, what risk lets through, and what a start makes of it."""

from __future__ import annotations

import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import structlog
import trio
from tests.actors.risk_venue import QUOTE, SHARDS, SLOTS, RiskVenue
from tests.core.risk_world import change, place

from tradeengine.actors.errors import StartError
from tradeengine.actors.preparing import prepare
from tradeengine.actors.risk import salvaged
from tradeengine.actors.risk_gates import Gates
from tradeengine.actors.supervisor import Running, Supervisor, make_supervisor
from tradeengine.core.records import SYMBOL_ID_ALL, CommandKind, Reason, Side, command_dtype
from tradeengine.core.risk import FOR_ADMINISTRATORS, FOR_CANCELS, FOR_ORDERS, make_outbox
from tradeengine.core.tables import ActorState, actor_dtype
from tradeengine.ipc.fences import LOOK_INTERVAL_S, Fences, fenced_shards
from tradeengine.ipc.seqlock import SeqlockTable
from tradeengine.settings_files import load_settings
from tradeengine.storage.identity import IDENTITY_NAME
from tradeengine.storage.journal import Journal


@pytest.fixture
def venue(dsn: str) -> Iterator[RiskVenue]:
    """Give Alice money, and let her have a live order on each of two shards."""
    made = RiskVenue(dsn)
    made.request(made.alice, QUOTE, 1_000_000)
    made.arrive()
    for symbol_id in range(SHARDS):
        made.ask(place(made.alice, Side.BUY, 10, 100, symbol_id=symbol_id))
    made.arrive()
    yield made
    made.close()


def fence(venue: RiskVenue, *shards: int) -> None:
    """Let risk see that shards are given up."""
    venue.duty._gates._fenced = lambda: frozenset(shards)


def last_answer(venue: RiskVenue) -> Reason | None:
    """Give the reason of the last refusal; None: the last round had none."""
    answers = venue.all_answers[-1]
    return Reason(int(answers["reason"][-1])) if len(answers) else None


def table_of(*states: ActorState) -> SeqlockTable:
    """Make a table of actors: risk, and a matcher in each of these states."""
    table = SeqlockTable.create("actors", actor_dtype, len(states) + 2)
    rows = np.zeros(len(states) + 1, actor_dtype)
    rows["name"] = [b"risk", *(f"matcher-{shard}".encode() for shard in range(len(states)))]
    rows["state"] = [ActorState.BLOCKED, *states]
    table.write_rows(range(len(rows)), rows)
    return table


def test_blocked_and_given_up_matchers_are_fences_and_no_other_state_is() -> None:
    """Only a matcher that nobody but people brings back fences its shard; other actors are no matter."""
    assert fenced_shards(table_of(*ActorState)) == {ActorState.BLOCKED, ActorState.FAILED}
    assert fenced_shards(table_of(ActorState.READY, ActorState.RESTARTING)) == frozenset()


def test_fences_are_what_they_were_while_the_table_is_written() -> None:
    """A table that cannot be read lifts no fence and makes none; one that changed is seen soon."""
    table = table_of(ActorState.READY, ActorState.FAILED)
    fences = Fences(table)
    assert fences.shards() == {1}
    with table.writing(0):
        fences._looked_s -= LOOK_INTERVAL_S
        assert fences.shards() == {1}
    row = table.read(2)
    row["state"] = ActorState.READY
    table.write(2, row)
    assert fences.shards() == {1}
    fences._looked_s -= LOOK_INTERVAL_S
    assert fences.shards() == frozenset()


def test_fenced_shard_gets_neither_orders_nor_cancels_and_the_other_does(venue: RiskVenue) -> None:
    """What is for the fenced shard alone is refused, changes nothing, and holds nothing; the other goes on."""
    fence(venue, 1)
    held, heads = venue.held(venue.alice, QUOTE), [ring.head for ring in venue.commands]
    commands = np.concatenate(venue.all_commands)
    orders = commands["order_id"][commands["kind"] == CommandKind.PLACE].tolist()
    for command in (
        place(venue.alice, Side.BUY, 10, 100, symbol_id=1),
        change(CommandKind.CANCEL, venue.alice, order_id=orders[1]),
        change(CommandKind.AMEND, venue.alice, order_id=orders[1], quantity_lots=5),
        change(CommandKind.CANCEL_ALL, venue.alice, symbol_id=1),
    ):
        venue.ask(command)
        venue.decide()
        assert last_answer(venue) == Reason.SHARD_FENCED
    assert [ring.head for ring in venue.commands] == heads
    assert venue.held(venue.alice, QUOTE) == held
    venue.ask(change(CommandKind.CANCEL, venue.alice, order_id=orders[0]))
    venue.arrive()
    assert venue.held(venue.alice, QUOTE) < held


def test_full_ring_of_a_fenced_shard_holds_up_no_command_for_all(venue: RiskVenue) -> None:
    """A command for all shards waits for the fenced one as long as its ring has room, and is carried out elsewhere."""
    fence(venue, 1)
    other = venue.commands[0].head
    first, free = venue.commands[1].head, SLOTS - (venue.commands[1].head - venue.command_readers[1].cursor)
    for _ in range(2 * SLOTS // 128):
        venue.ask(np.concatenate([change(CommandKind.CANCEL_ALL, venue.alice, symbol_id=SYMBOL_ID_ALL)] * 128))
        venue.decide()
        assert last_answer(venue) is None
        venue.match(0)
        venue.decide()
        venue.settle()
    assert free - 16 <= venue.commands[1].head - first <= free
    assert venue.commands[0].head - other == 2 * SLOTS
    fence(venue, 0, 1)
    venue.ask(change(CommandKind.CANCEL_ALL, venue.alice, symbol_id=SYMBOL_ID_ALL))
    venue.decide()
    assert last_answer(venue) == Reason.SHARD_FENCED


def test_gate_of_a_fenced_shard_says_nothing_about_the_others(venue: RiskVenue) -> None:
    """Risk accepts orders as long as a shard does that is not fenced; administrators may ask for the fenced one."""
    outbox = make_outbox(SHARDS, 4, 8)
    fenced: set[int] = set()
    gates = Gates(venue.events, outbox, SLOTS, Path("/"), 0, venue.commands, lambda: frozenset(fenced))
    gates.look()
    assert gates.accepting
    fenced.add(1)
    gates.look()
    assert gates.accepting
    assert outbox.gates[1, [FOR_ORDERS, FOR_CANCELS, FOR_ADMINISTRATORS]].tolist() == [Reason.SHARD_FENCED] * 2 + [0]
    fenced.add(0)
    gates.look()
    assert not gates.accepting


def test_salvaged_order_holds_its_money(venue: RiskVenue) -> None:
    """A risk that starts holds money for an order that is nowhere but in the journal of a shard that is given up."""
    settled = venue.held(venue.alice, QUOTE)
    head = venue.commands[1].head
    venue.ask(place(venue.alice, Side.BUY, 10, 100, symbol_id=1))
    venue.decide()
    held = venue.held(venue.alice, QUOTE)
    order = venue.commands[1].slots(head, 1)
    venue.open_rings()
    venue.start()
    assert venue.held(venue.alice, QUOTE) == settled < held
    venue.open_rings()
    venue.start([order])
    assert venue.held(venue.alice, QUOTE) == held
    assert venue.risk.open_orders[venue.alice] == SHARDS + 1


def test_orders_that_only_a_journal_knows_are_salvaged(venue: RiskVenue, tmp_path: Path, dsn: str) -> None:
    """What PostgreSQL and the rings do not have is read from the journal, but for what risk could never have taken."""
    settings = load_settings(overrides={"engine.data_dir": str(tmp_path), "database.dsn": dsn}, environ={})
    newest = int(venue.risk.last_order_ids[1])
    new = np.concatenate([place(venue.alice, Side.BUY, 10, 100, symbol_id=1)] * 6)
    new["order_id"] = newest + 1 + np.arange(6)
    known = new[:1].copy()
    known["order_id"] = newest
    new["symbol_id"][1], new["symbol_id"][2], new["account_id"][3] = 0, 3, 10**6
    new["kind"][4] = CommandKind.CANCEL
    with Journal.open(settings.journal_dir(1), 1, 3) as journal:
        journal.append(np.concatenate([known, new]))
    found = salvaged(settings, 1, venue.risk)
    assert found["order_id"].tolist() == new["order_id"][[0, 5]].tolist()
    assert len(salvaged(settings, 0, venue.risk)) == 0


def test_another_engines_journal_holds_nothing(venue: RiskVenue, tmp_path: Path, dsn: str) -> None:
    """Orders of a journal that is another engine's are nobody's here: none of them is salvaged."""
    settings = load_settings(overrides={"engine.data_dir": str(tmp_path), "database.dsn": dsn}, environ={})
    (tmp_path / IDENTITY_NAME).write_text(str(uuid.UUID(int=7)))
    new = place(venue.alice, Side.BUY, 10, 100, symbol_id=1)
    new["order_id"] = int(venue.risk.last_order_ids[1]) + 1
    for mark, found in ((8, 0), (7, 1)):
        with Journal.open(settings.journal_dir(1), 1, 3, engine_mark=mark) as journal:
            journal.append(new)
            journal.sync()
        assert len(salvaged(settings, 1, venue.risk)) == found
        shutil.rmtree(settings.journal_dir(1))


def test_start_leaves_a_journal_out_that_cannot_be_read(make_database: Callable[[str], str], tmp_path: Path) -> None:
    """With one of two journals damaged a start goes on and says which; with both it is refused with the reason."""
    dsn = make_database("template1")
    overrides = {"engine.data_dir": str(tmp_path), "engine.shards": 2, "database.dsn": dsn}
    settings = load_settings(overrides=overrides, environ={})
    prepare(settings, dsn, ())
    for shard in range(2):
        with Journal.open(settings.journal_dir(shard), shard, 3) as journal:
            command = np.zeros(1, command_dtype)
            command["ring_sequence"] = 7
            journal.append(command)
    (path,) = settings.journal_dir(1).glob("*.journal")
    path.write_bytes(b"?" + path.read_bytes()[1:])
    with structlog.testing.capture_logs() as logs:
        first = prepare(settings, dsn, ()).first_sequences
    assert (first["commands.0"], first["commands.1"]) == (8, 0)
    (line,) = (line for line in logs if line["log_level"] == "error")
    assert (line["shard"], str(path) in line["reason"]) == (1, True)
    (path,) = settings.journal_dir(0).glob("*.journal")
    path.unlink()
    path.mkdir()
    with pytest.raises(StartError, match="Is a directory"):
        prepare(settings, dsn, ())


def supervisor_of(shards: int) -> Supervisor:
    """Make a supervisor all of whose actors are ready."""

    async def attend(_: Running) -> None:
        await trio.sleep_forever()

    settings = load_settings(overrides={"engine.shards": shards}, environ={})
    supervisor = make_supervisor(settings, socket.socket(), 0, attend)
    supervisor.listener.close()
    for child in supervisor.children.values():
        child.was_ready, child.state = True, ActorState.READY
    return supervisor


async def test_start_waits_for_a_matcher_that_is_tried_again_and_not_for_one_that_is_given_up() -> None:
    """A matcher that failed at the start keeps it waiting until it is ready or given up; then the others begin."""
    supervisor = supervisor_of(2)
    matcher = supervisor.children["matcher-1"]
    matcher.was_ready, matcher.failed_at_start, matcher.state = False, True, ActorState.RESTARTING
    with trio.move_on_after(0.05) as waiting:
        await supervisor._until_ready({"matcher"})
    assert waiting.cancelled_caught
    matcher.state = ActorState.FAILED
    await supervisor._until_ready({"matcher"})
    matcher.state = ActorState.BLOCKED
    await supervisor._until_ready({"matcher"})


@pytest.mark.parametrize("shards", [1, 2])
async def test_start_without_any_matcher_is_refused(shards: int) -> None:
    """When no matcher can start the engine does not, with the first one's reason, at once."""
    supervisor = supervisor_of(shards)
    for shard in range(shards):
        matcher = supervisor.children[f"matcher-{shard}"]
        matcher.was_ready, matcher.failed_at_start, matcher.message = False, True, f"no journal {shard}"
    with pytest.raises(StartError, match="matcher-0 cannot start: no journal 0"):
        await supervisor._until_ready({"matcher"})


def test_stop_waits_for_no_fenced_shard() -> None:
    """A fenced matcher does not make a stop hopeless, as risk or settlement do."""
    supervisor = supervisor_of(2)
    supervisor.children["matcher-1"].state = ActorState.FAILED
    assert not supervisor._drain_is_hopeless()
    supervisor.children["risk"].state = ActorState.FAILED
    assert supervisor._drain_is_hopeless()
