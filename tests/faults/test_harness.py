"""What the fault harness is worth: whatever is wrong after a round, it finds; and the same seed is the same plan.

One engine trades for a moment and is stopped. Then, in transactions that are rolled back, its database is damaged in
all the ways in which a broken engine could have left it; or what a client was answered is altered.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import psycopg
import pytest
import trio
from tests.faults.harness.check import differences, ledger_differences
from tests.faults.harness.faults import FAULTS
from tests.faults.harness.intents import Kind, intents_of
from tests.faults.harness.kinds import IN_RECOVERY, POINTS
from tests.faults.harness.notes import Answer, Note, Outcome, told_orders
from tests.faults.harness.plan import LANES, USERS, make_plan
from tests.faults.harness.replay import replay_differences, twice
from tests.faults.harness.rounds import Round, run_round
from tests.faults.harness.venue import Findings, Venue
from tests.faults.harness.world import read_world

from tradeengine.core.records import command_dtype
from tradeengine.settings import Settings
from tradeengine.storage.embedded import open_embedded

pytestmark = pytest.mark.timeout(300)

SEED = 5


@dataclass
class Story:
    """A round in which nothing went wrong, and the database that it left."""

    result: Round
    settings: Settings
    connection: psycopg.Connection[Any]

    def found(self, notes: list[Note] | None = None) -> list[str]:
        """Look for what is wrong now."""
        world = read_world(self.connection)
        return [
            *differences(self.result.notes if notes is None else notes, world, USERS),
            *ledger_differences(self.connection),
            *replay_differences(self.settings, world),
        ]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Trade for a moment, stop, and open the database again."""
    folder, plan = tmp_path_factory.mktemp("story"), make_plan(SEED, [], 0)
    result = trio.run(run_round, plan, folder)
    assert result.wrong == []
    settings = Venue(folder, plan, Findings()).settings
    with open_embedded(folder / "data") as server, psycopg.connect(server.dsn, autocommit=True) as connection:
        yield Story(result, settings, connection)


@pytest.mark.long
def test_nothing_is_wrong_when_nothing_is(story: Story) -> None:
    """After a round without faults nothing differs, though every kind of thing happened."""
    assert story.found() == []
    kinds = {note.intent.kind for note in story.result.notes}
    assert {Kind.PLACE, Kind.CANCEL, Kind.AMEND, Kind.DEPOSIT, Kind.WITHDRAWAL} <= kinds
    row = story.connection.execute("SELECT count(*) > 10 FROM trades").fetchone()
    assert row == (True,)


_ASKED = "(SELECT id FROM accounts WHERE name = ANY('{ada,ben,cleo,dan}'))"
_ONE_TRADE = "(SELECT min(id) FROM trades)"
DAMAGES = {
    "an order is lost": (
        f"DELETE FROM orders WHERE id = (SELECT max(id) FROM orders WHERE account_id IN {_ASKED})",
        "is lost",
    ),
    "an order is there that nobody asked for": (
        f"UPDATE orders SET client_order_id = 'x' WHERE id = (SELECT max(id) FROM orders WHERE account_id IN {_ASKED})",
        "nobody asked for",
    ),
    "an order is there twice": (
        "CREATE TEMP TABLE one ON COMMIT DROP AS SELECT * FROM orders WHERE status = 'filled' ORDER BY id LIMIT 1; "
        "UPDATE one SET id = (SELECT max(id) + 1 FROM orders); INSERT INTO orders SELECT * FROM one",
        "has 2 orders",
    ),
    "a cancelled order is open": (
        "UPDATE orders SET status = 'open', closed_at = NULL WHERE id = "
        "(SELECT min(id) FROM orders WHERE status = 'cancelled' AND status_reason = 'USER')",
        "was answered with status cancelled",
    ),
    "a fill is never settled": (f"DELETE FROM trades WHERE id = {_ONE_TRADE}", "made and never settled"),
    "a fill is settled twice": (
        f"CREATE TEMP TABLE one ON COMMIT DROP AS SELECT * FROM trades WHERE id = {_ONE_TRADE}; "
        "UPDATE one SET id = (SELECT max(id) + 1 FROM trades); INSERT INTO trades SELECT * FROM one",
        "settled and never made",
    ),
    "a fill is posted twice": (
        f"INSERT INTO postings SELECT * FROM postings WHERE transaction_id = {_ONE_TRADE}",
        "posted with other amounts",
    ),
    "a fill is posted to another": (
        f"UPDATE postings SET account_id = account_id + 1 WHERE transaction_id = {_ONE_TRADE}",
        "posted with other amounts",
    ),
    "a posting is lost": (
        f"DELETE FROM postings WHERE transaction_id = {_ONE_TRADE} AND amount_units > 0",
        "do not sum to zero",
    ),
    "a fill has another price": (
        f"UPDATE trades SET price_ticks = price_ticks + 1 WHERE id = {_ONE_TRADE}",
        "was settled with {'price_ticks'",
    ),
    "a fill has another taker": (
        f"UPDATE trades SET taker_order_id = taker_order_id + 1 WHERE id = {_ONE_TRADE}",
        "was filled by more or less than its trades",
    ),
    "a balance is another": (
        f"UPDATE balances SET total_units = total_units + 1 WHERE account_id IN {_ASKED}",
        "not the sum of its postings",
    ),
    "a live order has other money held": (
        "UPDATE orders SET hold_units = hold_units + 1 WHERE closed_at IS NULL",
        "in the book and",
    ),
    "a deposit is posted twice": (
        "INSERT INTO postings SELECT p.* FROM postings p JOIN funding f USING (transaction_id)",
        "deposit or withdrawal is posted",
    ),
    "a deposit is forgotten": (
        "UPDATE funding SET status = 'pending' WHERE number = (SELECT max(number) FROM funding "
        "WHERE status = 'settled' AND reference LIKE '%bank%')",
        "was answered as done",
    ),
    "money was moved that nobody asked for": (
        "UPDATE funding SET reference = 'x' WHERE number = (SELECT max(number) FROM funding "
        "WHERE status = 'settled' AND reference LIKE '%bank%')",
        "nobody asked for it",
    ),
    "an event is not settled": ("UPDATE settlement_cursors SET sequence = sequence - 1 WHERE shard = 0", "are settled"),
}


@pytest.mark.long
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_in_the_database_is_found(story: Story, damage: str) -> None:
    """Whatever a broken engine could have written, or not, is found and named."""
    statements, words = DAMAGES[damage]
    with story.connection.transaction(force_rollback=True):
        for statement in statements.split("; "):
            assert story.connection.execute(statement).rowcount != 0
        found = story.found()
    assert any(words in text for text in found), found


def _refuse(note: Note) -> None:
    note.answers[-1] = Answer(Outcome.REFUSED, 503, "ENGINE_OVERLOADED", {"code": "ENGINE_OVERLOADED", "details": {}})


def _acknowledge_another(note: Note) -> None:
    note.answers[-1].data["order"]["id"] = "1"


def _fill_more(note: Note) -> None:
    note.answers[-1].data["order"]["filled_quantity"] = "1000000.000"


def _come_later(note: Note) -> None:
    note.answers[-1].data["order"]["sequence"] += 10**6


def _tell_of_a_trade(note: Note) -> None:
    note.answers[-1].data["trades"].append({"id": "1"})


def _want_more(note: Note) -> None:
    note.intent.body["quantity"] = "77.7"


LIES: dict[str, tuple[Callable[[Note], None], str]] = {
    "refused, and there": (_refuse, "was refused, and is an order"),
    "acknowledged as another": (_acknowledge_another, "was acknowledged as 1 "),
    "filled further than it is": (_fill_more, "was answered as filled 1000000.000"),
    "answered with a later state": (_come_later, "and is as of"),
    "told of a trade that is none": (_tell_of_a_trade, "was told of, and is not settled"),
    "not what was asked for": (_want_more, "was asked for with quantity 77.7"),
}


@pytest.mark.long
@pytest.mark.parametrize("lie", LIES)
def test_answer_that_is_not_so_is_found(story: Story, lie: str) -> None:
    """Where a client was answered anything else than what is, it is found and named."""
    change, words = LIES[lie]
    notes = copy.deepcopy(story.result.notes)
    # An order that was never changed: of another, a later wish counts.
    kept = {name for name, told in told_orders(notes).items() if told.outcome is Outcome.OK and not told.amends}
    places = [note for note in notes if note.intent.kind is Kind.PLACE and "quantity" in note.intent.body]
    change(next(note for note in places if note.intent.body["client_order_id"] in kept))
    found = story.found(notes)
    assert any(words in text for text in found), found


def test_command_that_was_carried_out_twice_is_found() -> None:
    """Of two commands with the same number of the same ring one is too many; who has no number is not meant."""
    commands = np.zeros(6, command_dtype)
    commands["ingress_ring"] = (0, 0, 1, 0, 2, 2)
    commands["ingress_sequence"] = (4, 5, 4, 5, -1, -1)
    assert twice(commands) == ["command (0, 5) of ring and number was carried out 2 times"]


@pytest.mark.long
def test_answer_by_answer(story: Story) -> None:
    """What is unknown stays so until the engine has said what became of it: a moment's refusal does not say that."""
    (note, *_) = [note for note in story.result.notes if note.intent.kind is Kind.PLACE]
    ok = Answer(Outcome.OK, 201, "", {"order": {"id": "1"}, "trades": []})
    unknown, later = Answer(Outcome.UNKNOWN, 504), Answer(Outcome.REFUSED, 503, "SETTLEMENT_BACKLOG")
    refused = Answer(Outcome.REFUSED, 422, "INSUFFICIENT_BALANCE")
    for answers, outcome in (
        ([ok], Outcome.OK),
        ([later], Outcome.REFUSED),
        ([unknown, later], Outcome.UNKNOWN),
        ([unknown, later, ok], Outcome.OK),
        ([unknown, refused], Outcome.REFUSED),
        ([ok, later], Outcome.OK),
    ):
        (part,) = replace(note, answers=answers).parts()
        assert part.outcome is outcome, answers


@pytest.mark.long
def test_orders_are_put_together_with_their_changes(story: Story) -> None:
    """Every order that a lane wanted is known by its name, with all that was shown of it."""
    told = told_orders(story.result.notes)
    wanted = {order["client_order_id"] for note in story.result.notes for order in note.intent.orders}
    assert told.keys() == wanted
    assert any(len(order.views) > 1 for order in told.values())


@pytest.mark.parametrize("seed", range(20))
def test_same_seed_is_the_same_plan(seed: int) -> None:
    """Shape, settings, strikes and all that clients want follow from the seed alone."""
    names = list(FAULTS)
    assert make_plan(seed, names, 30) == make_plan(seed, names, 30) != make_plan(seed + 1, names, 30)
    for lane in LANES:
        first, again = (list(islice(intents_of(seed, lane), 200)) for _ in range(2))
        assert first == again != list(islice(intents_of(seed + 1, lane), 200))


def test_every_point_is_drawn() -> None:
    """A thousand strikes come to every named crash point, in recovery too, and to every process."""
    seed = next(seed for seed in range(100) if make_plan(seed, [], 0).shape.wallet)
    strikes = make_plan(seed, ["crash"], 1000).strikes
    assert {strike.point for strike in strikes} == {
        f"{role}.{name}" for role, names in POINTS.items() for name in names
    }
    assert {strike.point.partition(".")[2] for strike in strikes if strike.targets} == IN_RECOVERY
