"""Risk killed at every step: no order twice, none lost, no money made or lost, whatever was on its way."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from decimal import Decimal
from random import Random
from typing import Any

import numpy as np
import pytest
from tests.actors.risk_venue import ADMIN, FRONT, OPERATOR, QUOTE, SETTLEMENT, SHARDS, SLOTS, RiskVenue
from tests.core.risk_world import change, place

from tradeengine.actors import risk as risk_actor
from tradeengine.core.ids import epoch_of
from tradeengine.core.records import SYMBOL_ID_ALL, CommandKind, EventKind, Reason, Side, TradingState
from tradeengine.storage.settle import RISK_SHARD, DatabaseInUse
from tradeengine.storage.settle_fold import SettlementStopped

CRASH_POINTS = ("risk.after_fold", "risk.after_forward", "risk.after_events", "risk.after_cursor")


@pytest.fixture
def venue(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RiskVenue]:
    """Both users have a million of each asset, settled."""
    made = RiskVenue(dsn)
    monkeypatch.setattr(risk_actor, "crash_point", made.crash_point)
    for account_id in (made.alice, made.bob):
        for asset_id in range(1 + SHARDS):
            made.request(account_id, asset_id, 1_000_000)
    made.arrive()
    yield made
    made.close()


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_no_order_is_placed_twice_or_lost(venue: RiskVenue, point: str) -> None:
    """Killed anywhere between folding and passing a batch, risk places each of its orders once."""
    orders = [
        place(venue.alice, Side.BUY, 10, 100, client_order_id=b"a", symbol_id=0),
        place(venue.bob, Side.SELL, 10, 101, client_order_id=b"b", symbol_id=1),
        place(venue.alice, Side.BUY, 10, 100, client_order_id=b"a", symbol_id=0),
        place(venue.bob, Side.SELL, 10, 101, symbol_id=2),
    ]
    venue.ask(np.concatenate(orders))
    venue.crash_at = point
    assert not venue.decide() or point == "risk.after_fold"
    venue.arrive()
    venue.assert_whole()
    venue.assert_each_once()
    answers = np.concatenate(venue.all_answers[-4:])
    assert sorted(answers["kind"]) == [EventKind.REFUSED, EventKind.REPEATED]
    (repeat,) = answers[answers["kind"] == EventKind.REPEATED]
    placed = np.concatenate(venue.all_commands)
    assert repeat["order_id"] in placed["order_id"][placed["client_order_id"] == b"a"]
    assert venue.connection.execute("SELECT count(*) FROM orders").fetchone() == (2,)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_mass_cancel_that_reached_one_shard_goes_to_the_other(venue: RiskVenue, shard: int) -> None:
    """Killed after one of two command rings got a command for both, risk brings it to the other and only there."""
    orders = [place(venue.alice, Side.SELL, 10, 100, symbol_id=symbol) for symbol in range(SHARDS)]
    venue.ask(np.concatenate(orders))
    venue.arrive()
    venue.ask(change(CommandKind.CANCEL_ALL, venue.alice, symbol_id=SYMBOL_ID_ALL))
    venue.crash_at = "risk.after_forward"
    before = [ring.head for ring in venue.commands]
    assert not venue.decide()
    if shard == 1:
        venue.match(0)
    venue.decide()
    assert [ring.head - head for ring, head in zip(venue.commands, before, strict=True)] == [1, 1]
    venue.arrive()
    venue.assert_whole()
    assert not venue.risk.open_orders.any()


@pytest.mark.parametrize("advance", [True, False])
@pytest.mark.parametrize("matched", range(4))
@pytest.mark.parametrize("settled", range(4))
def test_holds_are_whole_wherever_commands_are(venue: RiskVenue, matched: int, settled: int, advance: bool) -> None:
    """Commands not matched, matched, settled, passed by the matcher or not: a new risk knows all holds."""
    for _ in range(3):
        venue.ask(place(venue.alice, Side.BUY, 10, 100, client_order_id=b"%d" % venue.commands[0].head))
        venue.decide()
    held = venue.held(venue.alice, QUOTE)
    venue.match(0, matched, advance=advance)
    for _ in range(settled):
        venue.settle(1)
    venue.start()
    venue.decide()
    assert venue.held(venue.alice, QUOTE) == held
    assert venue.risk.open_orders[venue.alice] == 3
    venue.arrive()
    venue.assert_whole()


def test_amends_on_their_way_keep_what_they_took(venue: RiskVenue) -> None:
    """What an amend took is taken again by a new risk, and given back when the matcher refuses it."""
    venue.ask(place(venue.alice, Side.BUY, 100, 100))
    venue.arrive()
    order_id = self_id(venue)
    venue.ask(change(CommandKind.AMEND, venue.alice, order_id=order_id, quantity_lots=200))
    venue.ask(place(venue.bob, Side.SELL, 100, 100))
    venue.decide()
    held = venue.held(venue.alice, QUOTE)
    venue.start()
    assert venue.held(venue.alice, QUOTE) == held == 60_060
    venue.arrive()
    venue.assert_whole()


WAYS = pytest.mark.parametrize(
    ("matched", "settled"), [(False, False), (True, False), (True, True)], ids=["forwarded", "matched", "settled"]
)


@WAYS
def test_the_last_unit_of_volume_stays_the_last(venue: RiskVenue, matched: bool, settled: bool) -> None:
    """Fills, live orders and amends count after a kill, wherever they are, to the unit, and on the other shard too."""
    ask = venue.ask
    # 30 traded, 45 that could still trade, and 15 more that an amend asks for: in units of 2 places, 90 of 100.
    ask(place(venue.bob, Side.SELL, 10, 100, symbol_id=0))
    ask(place(venue.alice, Side.BUY, 10, 100, symbol_id=0))
    ask(place(venue.alice, Side.BUY, 15, 100, symbol_id=0))
    venue.decide()
    waiting = int(venue.all_commands[-2]["order_id"][-1])
    ask(change(CommandKind.AMEND, venue.alice, order_id=waiting, quantity_lots=20))
    venue.decide()
    if matched:
        for shard in range(SHARDS):
            venue.match(shard)
    if settled:
        venue.decide()
        venue.settle()
    venue.start()
    venue.set_account(venue.alice, max_daily_volume=Decimal("99.99"))
    venue.feed()
    venue.decide()
    for lots, price, reason in ((1, 334, Reason.LIMIT_EXCEEDED), (1, 333, Reason.NONE), (1, 4, Reason.LIMIT_EXCEEDED)):
        assert answer_of(venue, place(venue.alice, Side.BUY, lots, price, symbol_id=1)) == reason
    venue.arrive()
    venue.assert_whole()


def test_volume_of_yesterday_is_over_after_a_restart(venue: RiskVenue) -> None:
    """What the database has of an earlier day does not count, and neither does it hide what is of today."""
    orders = [place(venue.bob, Side.SELL, 10, 100, symbol_id=0), place(venue.alice, Side.BUY, 10, 100, symbol_id=0)]
    venue.ask(np.concatenate(orders))
    venue.arrive()
    venue.set_account(venue.alice, max_daily_volume=Decimal(30))
    venue.feed()
    venue.decide()
    assert answer_of(venue, place(venue.alice, Side.BUY, 10, 100, symbol_id=0)) == Reason.LIMIT_EXCEEDED
    venue.connection.execute("UPDATE trades SET executed_at = executed_at - interval '1 day'")
    venue.start()
    assert answer_of(venue, place(venue.alice, Side.BUY, 10, 100, symbol_id=0)) == Reason.NONE


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_settings_are_in_force_before_they_are_announced(venue: RiskVenue, point: str) -> None:
    """Killed anywhere, risk has shown an account's settings before their event, and holds to them when it is back."""
    venue.set_account(venue.alice, suspended=True)
    venue.feed()
    venue.crash_at = point
    venue.decide()
    announced = EventKind.ACCOUNT_SET in np.concatenate(venue.all_answers)["kind"]
    assert announced <= int(venue.accounts.read(venue.alice)["flags"])
    venue.decide()
    assert answer_of(venue, place(venue.alice, Side.BUY, 10, 100)) == Reason.ACCOUNT_SUSPENDED
    assert answer_of(venue, place(venue.bob, Side.BUY, 10, 100)) == Reason.NONE
    venue.arrive()
    venue.assert_whole()


def answer_of(venue: RiskVenue, command: np.ndarray[Any, np.dtype[np.void]]) -> Reason:
    """Give the reason for which a running risk refuses a command; NONE: it does not."""
    venue.ask(command)
    venue.decide()
    answers = venue.all_answers[-1]
    return Reason(int(answers["reason"][-1])) if len(answers) else Reason.NONE


def self_id(venue: RiskVenue) -> int:
    """Id of the newest order."""
    commands = np.concatenate(venue.all_commands)
    return int(commands["order_id"][commands["kind"] == CommandKind.PLACE][-1])


@pytest.mark.parametrize("point", CRASH_POINTS)
@pytest.mark.parametrize("settled", [False, True])
def test_deposits_and_withdrawals_apply_once(venue: RiskVenue, point: str, settled: bool) -> None:
    """Around a kill each deposit counts once and no withdrawal takes more than there is, however often they are fed."""
    venue.request(venue.alice, QUOTE, 5000)
    venue.request(venue.alice, QUOTE, -900_000)
    venue.request(venue.alice, QUOTE, -900_000)
    venue.feed()
    venue.crash_at = point
    venue.decide()
    if settled:
        venue.settle()
    venue.fed_number = 0
    venue.start()
    venue.arrive()
    venue.fed_number = 0
    venue.arrive()
    assert venue.total(venue.alice, QUOTE) == 105_000
    venue.assert_whole()
    states = venue.connection.execute("SELECT status::text, count(*) FROM funding GROUP BY 1 ORDER BY 1").fetchall()
    assert states == [("refused", 1), ("settled", 8)]


def test_repeats_are_known_after_a_whole_restart(venue: RiskVenue) -> None:
    """A client order id is remembered over a restart of everything, settled or only journaled."""
    mine = [place(venue.alice, Side.SELL, 10, 100, client_order_id=b"settled")]
    mine += [place(venue.alice, Side.SELL, 10, 100, client_order_id=b"journaled")]
    venue.ask(mine[0])
    venue.arrive()
    venue.ask(mine[1])
    venue.decide()
    venue.match(0)
    venue.restart_engine()
    for command in mine:
        venue.ask(command)
    other = mine[0].copy()
    other["quantity_lots"] = 11
    venue.ask(other)
    venue.decide()
    answers = venue.all_answers[-1]
    assert list(answers["kind"]) == [EventKind.REPEATED, EventKind.REPEATED, EventKind.REFUSED]
    assert answers["reason"][2] == Reason.CLIENT_ORDER_ID_REUSED
    venue.arrive()
    venue.assert_whole()


def test_what_was_never_journaled_leaves_no_trace_after_a_whole_restart(venue: RiskVenue) -> None:
    """An order that no journal has is gone with the memory: its hold is free and its client id may be used."""
    order = place(venue.alice, Side.SELL, 10, 100, client_order_id=b"mine")
    venue.ask(order)
    venue.decide()
    venue.restart_engine()
    assert venue.held(venue.alice, 1) == 0
    venue.ask(order)
    venue.arrive()
    assert venue.held(venue.alice, 1) == 100
    venue.assert_whole()


def test_order_ids_go_on_in_a_new_epoch(venue: RiskVenue) -> None:
    """Each risk makes its ids in an epoch of its own, above all that were made before."""
    ids = []
    for _ in range(3):
        venue.ask(place(venue.alice, Side.SELL, 1, 100))
        venue.decide()
        ids.append(self_id(venue))
        venue.start()
    assert ids == sorted(ids)
    assert len({epoch_of(order_id) for order_id in ids}) == 3


def test_random_kills_leave_everything_whole(venue: RiskVenue) -> None:
    """Random traffic with risk killed at random points, matchers cut short and whole restarts: all agree in the end."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails: it repeats it
    random = Random(seed)
    for _ in range(400):
        step(venue, random)
    venue.crash_at = ""
    venue.arrive()
    venue.arrive()
    venue.assert_whole()
    venue.assert_each_once()


def step(venue: RiskVenue, random: Random) -> None:
    """Take one random step."""
    choice = random.random()
    account_id, symbol_id = random.choice([venue.alice, venue.bob]), random.randrange(SHARDS)
    live = venue.risk.orders[venue.risk.orders[:, 0] != 0][:, 0]
    if choice < 0.3:
        name = b"" if random.random() < 0.3 else b"id-%d" % random.randrange(200)
        side = random.choice(list(Side))
        price = random.choice([0, *range(97, 104)])
        fields = {"symbol_id": symbol_id, "client_order_id": name}
        venue.ask(
            np.concatenate(
                [place(account_id, side, random.randint(1, 200), price, **fields) for _ in range(random.randint(1, 3))]
            )
        )
    elif choice < 0.4 and len(live):
        kind = random.choice([CommandKind.CANCEL, CommandKind.AMEND, CommandKind.AMEND])
        amend = {"quantity_lots": random.randint(1, 300), "price_ticks": random.randint(97, 103)}
        changes = amend if kind == CommandKind.AMEND else {}
        venue.ask(change(kind, account_id, order_id=random.choice(list(live)), **changes))
    elif choice < 0.42:
        venue.ask(change(CommandKind.CANCEL_ALL, account_id, symbol_id=random.choice([SYMBOL_ID_ALL, 0, 1])))
    elif choice < 0.46:
        venue.request(account_id, random.randrange(3), random.choice([1, -1]) * random.randint(1, 50_000))
        venue.feed()
    elif choice < 0.48:
        settings: dict[str, Any] = {"max_daily_volume": random.choice([None, Decimal(random.randint(1, 90_000))])}
        settings |= {"suspended": random.random() < 0.2, "max_open_orders": random.choice([None, random.randrange(40)])}
        venue.set_account(account_id, **settings)
        venue.feed()
    elif choice < 0.70:
        venue.crash_at = random.choice([*CRASH_POINTS, "", "", "", ""])
        venue.decide()
    elif choice < 0.88:
        venue.match(random.randrange(SHARDS), random.randint(1, 5), advance=random.random() < 0.8)
    elif choice < 0.98:
        venue.settle(random.randint(1, 10))
    elif choice < 0.99:
        venue.start()
    else:
        venue.restart_engine()
        venue.feed()


def test_refusals_never_run_out_of_room(venue: RiskVenue) -> None:
    """However much is refused while settlement stands still, risk goes on: it refuses, cancels and halts."""
    venue.ask(place(venue.alice, Side.SELL, 10, 100))
    venue.arrive()
    order_id = self_id(venue)
    refused = np.repeat(change(CommandKind.CANCEL, venue.bob, order_id=order_id), 200)
    while venue.refusals.head < 3 * venue.refusals.capacity:
        venue.ask(refused)
        while venue.ingress[FRONT].head > venue.ingress[FRONT].reader("risk").cursor:
            assert venue.decide()
    assert venue.own_events.head == venue.settlement_readers[RISK_SHARD].cursor
    commands = venue.commands[0].head
    venue.ask(change(CommandKind.SET_TRADING_STATE, symbol_id=0, trading_state=TradingState.HALTED), ADMIN)
    venue.ask(change(CommandKind.CANCEL, venue.alice, order_id=order_id))
    venue.decide()
    kinds = venue.commands[0].slots(commands, 2)["kind"].tolist()
    assert kinds == [CommandKind.SET_TRADING_STATE, CommandKind.CANCEL]
    venue.arrive()
    venue.assert_whole()


def test_deposits_wait_while_risks_events_have_no_room(venue: RiskVenue) -> None:
    """With its event ring full, risk leaves deposits where they are, takes everybody else's commands, and goes on."""
    ring = venue.own_events
    room = ring.capacity - (ring.head - venue.settlement_readers[RISK_SHARD].cursor)
    for _ in range(room + 5):
        venue.request(venue.alice, QUOTE, 1)
    while ring.head - venue.settlement_readers[RISK_SHARD].cursor < ring.capacity:
        venue.feed()
        venue.decide()
    venue.feed()
    venue.decide()
    assert venue.ingress[SETTLEMENT].head - venue.ingress[SETTLEMENT].reader("risk").cursor == 5
    assert ring.head - venue.settlement_readers[RISK_SHARD].cursor == ring.capacity
    before = venue.total(venue.alice, QUOTE)
    assert answer_of(venue, place(venue.alice, Side.BUY, 10, 100)) == Reason.NONE
    venue.settle()
    venue.arrive()
    assert venue.total(venue.alice, QUOTE) == before + 5
    venue.arrive()
    venue.assert_whole()


def test_batch_is_known_however_often_risk_dies_before_passing_it(venue: RiskVenue) -> None:
    """A batch that was published and not passed is not published again, though others ask and risk dies meanwhile."""
    venue.ask(np.repeat(place(venue.alice, Side.BUY, 1, 100), 100), OPERATOR)
    venue.crash_at = "risk.after_forward"
    assert not venue.decide()
    # More than risk looks back over when it starts.
    for _ in range(10):
        venue.ask(np.repeat(change(CommandKind.CANCEL_ALL, venue.bob, symbol_id=0), 56))
        venue.crash_at = "risk.after_cursor"
        assert not venue.decide()
    venue.arrive()
    venue.assert_whole()
    venue.assert_each_once()


def test_time_goes_on_after_the_last_refusal(venue: RiskVenue) -> None:
    """A new risk whose clock is behind gives no time stamp before one that a refusal had."""
    ahead_ns = time.time_ns() + 3600 * 10**9
    venue.duty._clock = lambda: ahead_ns
    assert answer_of(venue, change(CommandKind.CANCEL, venue.bob, order_id=5)) == Reason.ORDER_NOT_FOUND
    venue.start()
    assert answer_of(venue, change(CommandKind.CANCEL, venue.bob, order_id=5)) == Reason.ORDER_NOT_FOUND
    assert venue.all_answers[-1]["timestamp_ns"].tolist() >= [ahead_ns]


@pytest.mark.parametrize("shard", [RISK_SHARD, *range(SHARDS)])
def test_database_of_another_engine_is_refused(venue: RiskVenue, shard: int) -> None:
    """A database that has settled what these rings never held is another engine's, and risk says so by name."""
    venue.connection.execute("UPDATE settlement_cursors SET sequence = sequence + 1 WHERE shard = %s", (shard,))
    with pytest.raises(DatabaseInUse, match="another engine settles into this database"):
        venue.start()


def test_commits_that_the_database_lost_are_folded_again(venue: RiskVenue) -> None:
    """A database that has forgotten its last commits is brought forward from the rings, wherever settlement stood."""
    for account_id, side in ((venue.alice, Side.SELL), (venue.bob, Side.BUY), (venue.alice, Side.BUY)):
        venue.ask(place(account_id, side, 10, 100))
    venue.decide()
    venue.match(0)
    venue.decide()
    before = venue.risk.balances.copy()
    reader = venue.settlement_readers[0]
    remembered = reader.cursor
    reader.seek(reader.head)
    venue.start()
    assert np.array_equal(venue.risk.balances, before)
    reader.seek(remembered)
    venue.arrive()
    venue.assert_whole()


def test_database_that_lost_more_than_the_rings_hold_is_refused(venue: RiskVenue) -> None:
    """Where the events after the database's cursors are overwritten, risk says so and does not guess."""
    for _ in range(SLOTS // 128 + 1):
        venue.ask(np.repeat(place(venue.alice, Side.SELL, 1, 100), 128))
        venue.ask(change(CommandKind.CANCEL_ALL, venue.alice, symbol_id=0))
        for _ in range(2):
            venue.decide()
            venue.match(0)
            venue.settlement_readers[0].seek(venue.events[0].head)
    with pytest.raises(SettlementStopped, match=r"CURSOR_BEHIND: .* events\.0 .* start the engine again"):
        venue.start()
    assert venue.event_writers[0].free() > 0
