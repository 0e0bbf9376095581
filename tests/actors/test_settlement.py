"""The settlement actor on real rings and a real database: what goes in is in, once, whatever dies when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.storage.events import ALICE, BOB, Events, Market, funding_events

from tradeengine.actors.settlement import BATCH_EVENTS_MIN, TRANSACTION_S_GOAL, SettlementDuty, SettlementState
from tradeengine.core.records import (
    CommandKind,
    EventKind,
    Side,
    account_command_dtype,
    command_dtype,
    event_dtype,
    funding_command_dtype,
)
from tradeengine.core.symbols import SymbolSpec
from tradeengine.ipc.metric_names import ROLE_METRICS
from tradeengine.ipc.metrics import MetricPage
from tradeengine.ipc.ring import ReaderSpec, Ring
from tradeengine.storage.account_settings import change
from tradeengine.storage.directory import resolve_account
from tradeengine.storage.embedded import Embedded
from tradeengine.storage.funding import Funding, FundingKind, FundingStatus, find_funding, request_funding
from tradeengine.storage.patient import PatientConnection
from tradeengine.storage.retention import OldPartition, drop_partition
from tradeengine.storage.settle import RISK_SHARD, Settler

PRICE = 5_000_000
CAPACITY = 256


@dataclass
class Engine:
    """The rings around settlement, and a duty on them."""

    dsn: str
    shards: int = 2
    states: list[SettlementState] = field(default_factory=list)
    duties: list[SettlementDuty] = field(default_factory=list)
    settings_applied: int = 0
    """The version of accounts' settings that risk has taken over."""

    def __post_init__(self) -> None:
        gate = ReaderSpec("settlement", gating=True)
        names = {shard: f"events.{shard}" for shard in range(self.shards)} | {RISK_SHARD: "events.risk"}
        self.rings = {shard: Ring.create(name, event_dtype, CAPACITY, [gate]) for shard, name in names.items()}
        self.writers = {shard: ring.writer({}) for shard, ring in self.rings.items()}
        self.ingress = Ring.create("ingress.settlement", command_dtype, 16, [ReaderSpec("risk", gating=True)])
        self.risk = self.ingress.reader("risk")
        role = ROLE_METRICS["settlement"]
        self.page = MetricPage.create("metrics", "settlement", role.counters, role.gauges, role.histograms)

    def duty(self, batch_events_max: int = 10_000) -> SettlementDuty:
        """Start a settlement, as a new process would."""
        duty = SettlementDuty(
            {shard: ring.reader("settlement") for shard, ring in self.rings.items()},
            self.ingress.writer({}),
            lambda: Settler(psycopg.connect(self.dsn), self.shards),
            self.page,
            ingress_number=3,
            settings_applied=lambda: self.settings_applied,
            batch_events_max=batch_events_max,
            tell=lambda state, _text: self.states.append(state),
        )
        self.duties.append(duty)
        return duty

    def publish(self, batches: dict[int, Events]) -> None:
        """Publish events as a matcher or risk would."""
        for shard, events in batches.items():
            self.writers[shard].publish(np.ascontiguousarray(events))

    def cursors(self) -> dict[int, int]:
        """Look how far the rings say that settlement has come."""
        return {shard: ring.statistics().readers[0].cursor for shard, ring in self.rings.items()}

    def commands(self) -> Events:
        """Take what was fed to risk."""
        commands = self.risk.poll().copy().view(funding_command_dtype)
        self.risk.advance(len(commands))
        return commands


@pytest.fixture
def engine(dsn: str) -> Iterator[Engine]:
    """Return rings for two shards."""
    made = Engine(dsn)
    yield made
    for duty in made.duties:
        duty.close()


def drain(duty: SettlementDuty) -> None:
    """Work until there is nothing left to settle."""
    duty()
    while duty.backlog():
        duty()


def _trading(spec: SymbolSpec, trades: int = 5, shard: int = 0) -> Events:
    market = Market(spec, shard=shard)
    events = [market.list_symbol()]
    for _ in range(trades):
        events += [market.place(ALICE, Side.BUY, 5, PRICE), market.place(BOB, Side.SELL, 5, PRICE)]
    return np.concatenate(events)


def _ask(
    connection: psycopg.Connection, reference: str, amount: int = 100, kind: FundingKind = FundingKind.DEPOSIT
) -> Funding:
    account_id = resolve_account(connection, "alice", accounts_max=100)
    return request_funding(
        connection, kind, reference=reference, account_id=account_id, asset_id=0, amount_units=amount
    )


def _count(connection: psycopg.Connection, table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])


def test_settles_what_is_published(engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection) -> None:
    """Events of two shards and risk are committed, and only then passed in the rings; the page counts them."""
    duty = engine.duty()
    engine.publish({0: _trading(symbol), 1: _trading(symbol, shard=1)})
    before = engine.cursors()
    duty()
    assert before == {0: 0, 1: 0, RISK_SHARD: 0}
    drain(duty)
    heads = {shard: ring.head for shard, ring in engine.rings.items()}
    assert engine.cursors() == heads
    assert dict(connection.execute("SELECT * FROM settlement_cursors").fetchall()) == heads
    assert _count(connection, "trades") == 10
    counters = engine.page.snapshot().counters
    assert (counters["trades"], counters["events"], counters["errors"]) == (10, sum(heads.values()), 0)
    assert engine.states == [SettlementState.RUNNING]


@pytest.mark.parametrize("batch_events_max", [1, 7])
def test_small_batches_across_the_end_of_the_ring(
    batch_events_max: int, engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection
) -> None:
    """However small the batches are and wherever the ring's memory ends, everything is settled in its order."""
    duty = engine.duty(batch_events_max)
    events = _trading(symbol, trades=120)
    assert len(events) > CAPACITY
    for start in range(0, len(events), 50):
        engine.publish({0: events[start : start + 50]})
        drain(duty)
    assert _count(connection, "trades") == 120


def test_batches_follow_the_length_of_transactions(engine: Engine) -> None:
    """Full batches grow while they are quick, shrink when they are slow, and keep within their bounds."""
    duty = engine.duty(batch_events_max=2000)
    assert duty._batch_events == BATCH_EVENTS_MIN
    for events, duration_s, expected in (
        (BATCH_EVENTS_MIN, 0.1, 1024),
        (1024, TRANSACTION_S_GOAL * 0.7, 1024),
        (1024, 0.1, 2000),
        (2000, 0.1, 2000),
        (10, 0.1, 2000),
        (10, TRANSACTION_S_GOAL * 2, 1500),
        (1500, 9.0, 1125),
        (1125, 9.0, 843),
        (843, 9.0, 632),
        (632, 9.0, BATCH_EVENTS_MIN),
    ):
        duty._adapt(events, duration_s)
        assert duty._batch_events == expected
    small = engine.duty(batch_events_max=8)
    small._adapt(8, 9.0)
    assert small._batch_events == 8


def test_deposit_comes_before_the_trades_that_it_paid(
    engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection
) -> None:
    """While risk's ring holds more than a batch, no shard's events are settled."""
    numbers = [_ask(connection, f"r{number}").number for number in range(5)]
    account_id = resolve_account(connection, "alice", accounts_max=100)
    engine.publish(funding_events(0, *((number, account_id, 0, 100, True) for number in numbers)))
    engine.publish({0: _trading(symbol)})
    duty = engine.duty(batch_events_max=2)
    for funded in (2, 4):
        duty()
        assert engine.cursors() == {RISK_SHARD: funded, 0: 0, 1: 0}
    drain(duty)
    assert _count(connection, "trades") == 5


def test_feeds_requests_in_order_once(engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection) -> None:
    """A request reaches risk with its number, once; it is settled when risk has answered, and then never fed again."""
    first, second = _ask(connection, "a"), _ask(connection, "b", 40, FundingKind.WITHDRAWAL)
    duty = engine.duty()
    drain(duty)
    commands = engine.commands()
    assert commands["funding_number"].tolist() == [first.number, second.number]
    assert commands["amount_units"].tolist() == [100, -40]
    assert (commands["kind"] == CommandKind.FUND).all()
    assert (commands["ingress_ring"] == 3).all()
    assert commands["ingress_sequence"].tolist() == [0, 1]
    drain(duty)
    assert len(engine.commands()) == 0
    engine.publish(funding_events(0, (1, first.account_id, 0, 100, True), (2, first.account_id, 0, -40, True)))
    drain(duty)
    assert find_funding(connection, first.kind, "a").status is FundingStatus.SETTLED  # type: ignore[union-attr]
    duty.close()
    drain(engine.duty())
    assert len(engine.commands()) == 0


def test_request_is_heard_at_once(engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection) -> None:
    """A request that comes while settlement is idle is fed because PostgreSQL announces it, not by looking often."""
    duty = engine.duty()
    drain(duty)
    duty._feed.look_at_s = float("inf")
    _ask(connection, "a")
    while not duty():
        pass
    assert len(engine.commands()) == 1


def test_restart_feeds_pending_again(engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection) -> None:
    """What was fed and not answered goes again after a restart, with the same numbers: risk knows them."""
    _ask(connection, "a")
    duty = engine.duty()
    drain(duty)
    assert engine.commands()["funding_number"].tolist() == [1]
    duty.close()
    _ask(connection, "b")
    drain(engine.duty())
    assert engine.commands()["funding_number"].tolist() == [1, 2]


def test_more_requests_than_room(engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection) -> None:
    """Requests beyond the ingress ring's room wait for it and keep their order."""
    numbers = [_ask(connection, f"r{number}").number for number in range(40)]
    duty = engine.duty()
    fed: list[int] = []
    while len(fed) < len(numbers):
        drain(duty)
        fed += engine.commands()["funding_number"].tolist()
    assert fed == numbers


def test_settings_are_fed_once_and_in_order(engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection) -> None:
    """Settings of accounts reach risk as they are announced, each version once, beside deposits."""
    alice, bob = (resolve_account(connection, name, accounts_max=100) for name in ("alice", "bob"))
    change(connection, alice, suspended=True)
    change(connection, bob, max_open_orders=3)
    duty = engine.duty()
    drain(duty)
    commands = engine.commands().view(account_command_dtype)
    assert commands["kind"].tolist() == [CommandKind.SET_ACCOUNT] * 2
    assert commands["account_id"].tolist() == [alice, bob]
    assert commands["version"].tolist() == [1, 2]
    assert commands["ingress_sequence"].tolist() == [0, 1]
    duty._feed.look_at_s = float("inf")
    change(connection, alice, suspended=False)
    while not duty():
        pass
    assert engine.commands().view(account_command_dtype)["version"].tolist() == [3]
    _ask(connection, "a")
    while not duty():
        pass
    assert engine.commands()["kind"].tolist() == [CommandKind.FUND]


def test_settings_that_risk_has_are_not_fed_again(
    engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection
) -> None:
    """After a restart only what is newer than what risk has taken over goes in."""
    for name in ("alice", "bob", "carol"):
        change(connection, resolve_account(connection, name, accounts_max=100), suspended=True)
    engine.settings_applied = 2
    drain(engine.duty())
    assert engine.commands().view(account_command_dtype)["version"].tolist() == [3]


def test_more_settings_than_room(engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection) -> None:
    """Settings beyond the ingress ring's room wait for it and keep their order."""
    for number in range(40):
        change(connection, resolve_account(connection, f"user-{number}", accounts_max=100), suspended=True)
    duty = engine.duty()
    fed: list[int] = []
    while len(fed) < 40:
        drain(duty)
        fed += engine.commands().view(account_command_dtype)["version"].tolist()
    assert fed == list(range(1, 41))


def test_answers_to_settings_are_passed_over(
    engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection
) -> None:
    """Risk's answer that settings are in force changes nothing in the database, and holds up nothing."""
    answer = np.zeros(1, event_dtype)
    answer["kind"] = EventKind.ACCOUNT_SET
    answer["account_id"] = ALICE
    answer["order_id"] = 1
    engine.publish({RISK_SHARD: answer})
    duty = engine.duty()
    drain(duty)
    assert engine.states == [SettlementState.RUNNING]
    assert engine.cursors()[RISK_SHARD] == 1


def test_cursor_in_the_ring_follows_the_database(
    engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection
) -> None:
    """Killed after COMMIT and before passing the events: the next settlement passes them and settles none again."""
    events = _trading(symbol)
    engine.publish({0: events})
    settler = Settler(psycopg.connect(engine.dsn), 2)
    settler.settle({0: events})
    settler.close()
    assert engine.cursors()[0] == 0
    drain(engine.duty())
    assert engine.cursors()[0] == len(events)
    assert _count(connection, "trades") == 5


def test_commits_that_the_database_lost_are_settled_again(
    engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection
) -> None:
    """A database that has forgotten commits, whose events the ring still holds, is settled from where it stands."""
    engine.publish({0: _trading(symbol)})
    engine.rings[0].reader("settlement").seek(engine.rings[0].head)
    drain(engine.duty())
    assert engine.states == [SettlementState.RUNNING]
    assert _count(connection, "trades") == 5


def test_database_behind_the_ring_is_named(engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection) -> None:
    """A database from an older backup, whose next event the ring has lost, is not written to."""
    events = _trading(symbol, trades=120)
    for start in range(0, len(events), 50):
        engine.publish({0: events[start : start + 50]})
        engine.rings[0].reader("settlement").seek(engine.rings[0].head)
    duty = engine.duty()
    assert duty() == 0
    assert engine.states == [SettlementState.STOPPED]
    assert "CURSOR_BEHIND" in engine.page.snapshot().state
    assert _count(connection, "orders") == 0


def test_database_ahead_of_the_ring_is_named(engine: Engine, connection: psycopg.Connection) -> None:
    """A database that has settled more than the ring ever held belongs to another engine."""
    connection.execute("INSERT INTO settlement_cursors VALUES (0, 99) ON CONFLICT (shard) DO UPDATE SET sequence = 99")
    duty = engine.duty()
    assert duty() == 0
    assert engine.states == [SettlementState.STOPPED]
    assert "CURSOR_AHEAD" in engine.page.snapshot().state


def test_what_cannot_be_settled_stops_and_resumes(
    engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection
) -> None:
    """An event that fits no order stops settlement by name, without passing it; repaired from outside, it goes on."""
    market = Market(symbol)
    duty = engine.duty()
    engine.publish({0: np.concatenate([market.list_symbol(), market.place(ALICE, Side.BUY, 5, PRICE)])})
    drain(duty)
    connection.execute("CREATE TABLE aside AS SELECT * FROM orders")
    connection.execute("DELETE FROM orders")
    engine.publish({0: market.place(BOB, Side.SELL, 5, PRICE)})
    while engine.states[-1] is not SettlementState.STOPPED:
        duty()
    assert "ORDER_UNKNOWN" in engine.page.snapshot().state
    assert engine.cursors()[0] == 2
    connection.execute("INSERT INTO orders SELECT * FROM aside")
    drain(duty)
    assert engine.states == [SettlementState.RUNNING, SettlementState.STOPPED, SettlementState.RUNNING]
    assert _count(connection, "trades") == 1


def test_survives_the_loss_of_its_connection(
    engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection
) -> None:
    """When PostgreSQL ends the connection, settlement says so, comes back and goes on where the database is."""
    duty = engine.duty()
    events = _trading(symbol)
    engine.publish({0: events[:7]})
    drain(duty)
    connection.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    engine.publish({0: events[7:]})
    drain(duty)
    assert engine.states[0] is SettlementState.RUNNING
    assert SettlementState.DATABASE_UNAVAILABLE in engine.states
    assert _count(connection, "trades") == 5


def test_partition_dropped_meanwhile_is_made_again(
    engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection
) -> None:
    """A day that retention dropped, and that settlement believes to be there, is made again for late events."""
    duty = engine.duty()
    events = _trading(symbol)
    engine.publish({0: events[:7]})
    drain(duty)
    (name,) = connection.execute("SELECT DISTINCT tableoid::regclass::text FROM trades").fetchone() or ("none",)
    assert drop_partition(connection, OldPartition("trades", name))
    engine.publish({0: events[7:]})
    drain(duty)
    assert engine.states[-1] is SettlementState.RUNNING
    assert _count(connection, name) > 0


def test_second_settlement_waits(engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection) -> None:
    """While one engine holds the database a second one settles nothing and says why; it goes on when that has ended."""
    first, second = engine.duty(), engine.duty()
    drain(first)
    engine.publish({0: _trading(symbol)})
    assert second() == 0
    assert engine.states[-1] is SettlementState.DATABASE_IN_USE
    assert _count(connection, "trades") == 0
    first.close()
    drain(second)
    assert _count(connection, "trades") == 5


def test_hanging_database_does_not_hang_settlement(
    engine: Engine, symbol: SymbolSpec, postgres: Embedded, connection: psycopg.Connection
) -> None:
    """While the server says nothing the heart beats; after a bounded silence the connection is given up."""
    beats: list[int] = []
    patient = PatientConnection.open(
        engine.dsn, lambda: beats.append(1), connect_timeout_s=10, silence_s_max=0.5, name="test"
    )
    connection.execute("BEGIN; LOCK TABLE trades")
    with pytest.raises(psycopg.OperationalError, match="said nothing"):
        patient.execute("SELECT count(*) FROM trades")
    patient.close()
    connection.execute("ROLLBACK")
    assert len(beats) >= 3


CHILD = """
    import json, os, sys
    import psycopg
    from tradeengine.actors.settlement import SettlementDuty
    from tradeengine.core.records import command_dtype, event_dtype
    from tradeengine.ipc.metrics import MetricPage
    from tradeengine.ipc.ring import Ring
    from tradeengine.storage.settle import Settler

    given = json.loads(sys.argv[1])
    rings = {int(shard): Ring.attach(fd, event_dtype, writable=True) for shard, fd in given["rings"].items()}
    duty = SettlementDuty(
        {shard: ring.reader("settlement") for shard, ring in rings.items()},
        Ring.attach(given["ingress"], command_dtype, writable=True).writer({}),
        lambda: Settler(psycopg.connect(given["dsn"]), 2),
        MetricPage.attach(given["page"], writable=True),
        ingress_number=3, settings_applied=lambda: 0, batch_events_max=8, tell=lambda state, text: None,
    )
    while True:
        duty()
"""


@pytest.mark.parametrize(
    "crash_at",
    ["before_commit:1", "before_commit:3", "after_commit:1", "after_commit:3", "before_advance:3", "after_feed:1"],
)
def test_killed_around_commit(
    crash_at: str, engine: Engine, symbol: SymbolSpec, connection: psycopg.Connection
) -> None:
    """Killed before, at or after COMMIT, or after feeding risk: everything is settled, and nothing twice."""
    deposits = [_ask(connection, f"r{number}") for number in range(3)]
    events = _trading(symbol, trades=8)
    engine.publish({0: events})
    outcomes = [(deposit.number, deposit.account_id, 0, 100, True) for deposit in deposits[:2]]
    engine.publish(funding_events(0, *outcomes))
    assert _run_child(engine, f"settlement.{crash_at}") == -signal.SIGKILL
    drain(engine.duty())
    assert engine.cursors() == {0: len(events), 1: 0, RISK_SHARD: 2}
    assert _count(connection, "trades") == 8
    assert _count(connection, "postings") == 8 * 5 + 2 * 2
    totals = connection.execute("SELECT asset_id, sum(total_units) FROM balances GROUP BY asset_id").fetchall()
    assert all(total == 0 for _, total in totals)
    fed = engine.commands()["funding_number"].tolist()
    assert fed[-1] == deposits[2].number


def _run_child(engine: Engine, crash_at: str) -> int:
    fds = {shard: ring.fd for shard, ring in engine.rings.items()}
    given = {"rings": fds, "ingress": engine.ingress.fd, "page": engine.page.fd, "dsn": engine.dsn}
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), json.dumps(given)],
        env=os.environ | {"TRADEENGINE_CRASH_AT": crash_at},
        pass_fds=[*fds.values(), engine.ingress.fd, engine.page.fd],
        check=False,
        timeout=60,
    )
    return process.returncode


def test_another_reason_for_the_same_trouble_is_told(engine: Engine, dsn: str) -> None:
    """While the database stays away for a second reason, that one is told too, each once however often it is tried."""
    duty = engine.duty()
    drain(duty)
    for reason in ("port=1", "port=2"):
        duty.close()
        engine.dsn = make_conninfo(dsn, host="127.0.0.1", port=reason.removeprefix("port="))
        for _ in range(3):
            duty._retry_at_s = 0.0
            assert duty() == 0
    unavailable = SettlementState.DATABASE_UNAVAILABLE
    assert engine.states == [SettlementState.RUNNING, unavailable, unavailable]
