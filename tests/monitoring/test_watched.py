"""What a real Prometheus makes of a real engine: silence, data for every panel, and each alert at its own fault.

Faults are those that happen: processes that are stopped or killed, a database or wallet that is away, money that
somebody changes in a table. What cannot be done to the machine that tests run on (its disk, its clock) the operating
system says to the engine, see ``faulty/sitecustomize.py``. The rules are the project's; a minute lasts a second.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass

import httpx2
import psycopg
import pytest
from tests.e2e.users import connect_database
from tests.engines import database_away, wait_restarted
from tests.monitoring.prometheus import RULE_FILES, needs_prometheus, read_rules
from tests.monitoring.test_dashboards import DASHBOARDS, queries
from tests.monitoring.watched import Watched, meanwhile, watched

from tradeengine.storage.journal_format import SEGMENT_HEADER_BYTES, SegmentHeader
from tradeengine.storage.journal_read import list_segments
from tradeengine.storage.reconciliations import request_reconciliation

__all__ = ["watched"]

pytestmark = [needs_prometheus, pytest.mark.long, pytest.mark.timeout(240)]

OTHER_SYMBOL = "ADA/USDT"
SCRAPES_OF_A_NORMAL_RUN = 30
SLOW_MACHINE = {"OrderLatencyHigh", "JournalSyncSlow"}
"""True on a machine that has more to do than processors, and no fault of the engine."""
BY_THE_HOUR = {"MaintenanceStale"}
"""The keeper looks after partitions once an hour, and hours last as long as ever for it."""
ALERTS = [rule["alert"] for rule in read_rules("alerts.yml")]
SERIES = re.compile(r"\b(?:\w+:)?tradeengine_\w+(?::\w+)?")
EMPTY = {
    "ALERTS{": "no alert fires",
    "sum by (reason) (rate(tradeengine_matcher_rejections_total": "nothing was rejected",
    "sum by (reason) (rate(tradeengine_risk_refusals_total": "nothing was refused",
    "sum by (code) (rate(tradeengine_front_stream_closed_total": "no stream was closed",
    "sum by (error) (rate(tradeengine_http_refusals_total": "nothing was refused",
}
"""Beginnings of queries that may find nothing, and why. All of them show only what is above zero."""

Labels = Mapping[str, str]


def test_normal_run_is_silent(watched: Watched) -> None:
    """While two users trade and nothing is wrong, no alert fires, for what is a quarter of an hour to the rules."""
    prometheus = watched.prometheus
    prometheus.wait_for(
        lambda: prometheus.value('count_over_time(up{job="tradeengine"}[1h])') >= SCRAPES_OF_A_NORMAL_RUN, "no scrapes"
    )
    assert prometheus.fired() - BY_THE_HOUR - _true_of_this_machine() == set()
    assert prometheus.value("sum(increase(tradeengine_matcher_trades_total[5s]))") > 10


def test_every_query_finds_what_it_asks_for(watched: Watched) -> None:
    """Each query of each panel, and each variable's question, has an answer at an engine that trades."""
    (instance,) = {found["metric"]["instance"] for found in watched.prometheus.query("up")}
    asked = {query for dashboard in DASHBOARDS.values() for query in queries(dashboard)}
    empty = {query for query in asked if not query.startswith(tuple(EMPTY))}

    def all_answered() -> bool:
        # On a busy machine scrapes come late, and a rate needs two of them within its few seconds.
        empty.difference_update([query for query in empty if watched.prometheus.query(_filled(query, instance))])
        return not empty

    with suppress(AssertionError):
        watched.prometheus.wait_for(all_answered, "queries without an answer")
    assert empty == set()


def test_every_series_exists(watched: Watched) -> None:
    """Every series that an alert, a recorded series or a panel asks for is one that the engine has: none is asleep."""
    known = set(watched.prometheus.ask("label/__name__/values"))
    rules = [rule["expr"] for file in RULE_FILES for rule in read_rules(file)]
    panels = [query for dashboard in DASHBOARDS.values() for query in queries(dashboard)]
    asked = {series for query in (*rules, *panels) for series in SERIES.findall(query)}
    assert len(asked) > 100
    assert asked - known == set()


def _filled(query: str, instance: str) -> str:
    """Put values in the places of variables, as Grafana does."""
    values = {"instance": instance, "__rate_interval": "5s", "__range": "30s"}
    return re.sub(r"\$([a-z_]\w*)", lambda found: values.get(found[1], ".*"), query)


@contextmanager
def settlement_stopped(watched: Watched) -> Iterator[None]:
    """Let settlement hang while orders come, until they are refused."""
    with watched.venue.engine.standing_still("settlement"):
        while watched.place_hundred():
            pass
        yield


@contextmanager
def pool_in_use(watched: Watched) -> Iterator[None]:
    """Lock a table that questions about the past read, and go on asking."""

    def ask(stop: threading.Event) -> None:
        with httpx2.Client(base_url=watched.venue.engine.url, trust_env=False) as client:
            while not stop.is_set():
                with suppress(httpx2.TransportError):
                    client.get("/api/v1/snapshots/BTC-USDT", params={"time": "2026-01-01T00:00:00Z"}, timeout=10)

    with ExitStack() as asking, connect_database(watched.venue.engine) as connection, connection.transaction():
        connection.execute("LOCK TABLE depth_snapshots IN ACCESS EXCLUSIVE MODE")
        asking.enter_context(meanwhile(ask, threads=4))
        yield


@contextmanager
def front_flooded(watched: Watched) -> Iterator[None]:
    """Ask three hundred things at once, again and again, from one address."""
    address = httpx2.URL(watched.venue.engine.url)
    question = b"GET /api/v1/symbols HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def ask(stop: threading.Event) -> None:
        with ExitStack() as stack, suppress(OSError):
            sockets = [
                stack.enter_context(socket.create_connection((address.host, address.port or 80), 10))
                for _ in range(300)
            ]
            while not stop.is_set():
                for one in sockets:
                    one.sendall(question)
                for one in sockets:
                    one.recv(65_536)

    with meanwhile(ask):
        yield


@contextmanager
def database_gone(watched: Watched) -> Iterator[None]:
    """Let PostgreSQL be away, and not come back, while an administrator halts a symbol."""
    root = watched.venue.sign_in_as("root", "admin")
    with database_away(watched.venue.engine):
        root.call("POST", f"/admin/trading/halt/{OTHER_SYMBOL}", json={"reason": "a test"})
        yield
    up = 'tradeengine_actor_up{actor="database"}'
    watched.prometheus.wait_for(lambda: watched.prometheus.value(up) == 1, "no database")
    root.call("POST", f"/admin/trading/resume/{OTHER_SYMBOL}", json={"reason": "a test"})
    root.http.close()


@contextmanager
def shadow_dies(watched: Watched) -> Iterator[None]:
    """Let the shadow die three times."""
    for _ in range(3):
        first_pid = watched.venue.engine.actors()["shadow"]
        watched.venue.engine.kill_actor("shadow")
        wait_restarted(watched.venue.engine, "shadow", first_pid)
    yield


@contextmanager
def wallet_gone(watched: Watched) -> Iterator[None]:
    """Let the wallet service die."""
    watched.venue.service.kill()
    try:
        yield
    finally:
        watched.venue.service.start()


@contextmanager
def wallet_refuses(watched: Watched) -> Iterator[None]:
    """Take a user's money away at the wallet, behind the engine's back: it refuses transfers until that is mended."""
    whose = "WHERE user_name = 'seller' AND asset = 'BTC' AND part = 'reserved'"
    with psycopg.connect(watched.venue.service.dsn) as connection:
        taken = connection.execute(f"SELECT amount FROM wallet.balances {whose} FOR UPDATE").fetchone()
        assert taken is not None
        connection.execute(f"UPDATE wallet.balances SET amount = 0 {whose}")
    yield
    with psycopg.connect(watched.venue.service.dsn) as connection:
        connection.execute(f"UPDATE wallet.balances SET amount = amount + %s {whose}", taken)
    root = watched.venue.sign_in_as("root", "admin")
    while letters := root.call("GET", "/admin/dead-letters", params={"limit": "1000"}):
        for letter in letters:
            root.call("POST", f"/admin/dead-letters/{letter['id']}/retry")
    root.http.close()


@contextmanager
def ledger_changed(watched: Watched) -> Iterator[None]:
    """Give a user a unit by hand."""
    give = """UPDATE balances SET total_units = total_units + %s
        WHERE account_id = (SELECT id FROM accounts WHERE name = 'buyer')"""
    with connect_database(watched.venue.engine) as connection:
        connection.execute(give, (1,))
        request_reconciliation(connection, "a test")
        yield
        connection.execute(give, (-1,))
        request_reconciliation(connection, "a test")


@contextmanager
def audit_changed(watched: Watched) -> Iterator[None]:
    """Let an administrator do something, and the database's superuser say that it was somebody else."""
    with watched.venue.engine.client("culprit", "admin") as client:
        client.post("/admin/users/victim/suspend", json={"reason": "x"}).raise_for_status()
    say = "UPDATE audit SET actor = %s WHERE actor = %s"
    with connect_database(watched.venue.engine) as connection:
        connection.execute("ALTER TABLE audit DISABLE TRIGGER audit_is_append_only")
        connection.execute(say, ("nobody", "culprit"))
        yield
        connection.execute(say, ("culprit", "nobody"))
        connection.execute("ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_is_append_only")


@contextmanager
def journal_changed(watched: Watched) -> Iterator[None]:
    """Let a journal say that the matcher did something else than it did; the shadow never believes it again."""
    with watched.venue.engine.standing_still("shadow"):
        segment = list_segments(watched.venue.engine.data_dir / "journal" / "shard-0")[-1]
        with segment.path.open("r+b") as file:
            header = SegmentHeader.unpack(file.read(SEGMENT_HEADER_BYTES))
            file.seek(0)
            file.write(_with_other_hash(header).pack())
        while list_segments(watched.venue.engine.data_dir / "journal" / "shard-0")[-1].path == segment.path:
            assert watched.place_hundred()
    yield


@contextmanager
def journal_damaged(watched: Watched) -> Iterator[None]:
    """Flip a bit in what the matcher has written, and kill it: the next one cannot go on from there."""
    engine = watched.venue.engine
    segment = list_segments(engine.data_dir / "journal" / "shard-0")[-1]
    with segment.path.open("r+b") as file:
        file.seek(SEGMENT_HEADER_BYTES + 1)
        byte = file.read(1)[0]
        file.seek(SEGMENT_HEADER_BYTES + 1)
        file.write(bytes([byte ^ 1]))
    engine.kill_actor("matcher-0")
    yield


def _with_other_hash(header: SegmentHeader) -> SegmentHeader:
    values = {name: getattr(header, name) for name in SegmentHeader.__slots__}
    return SegmentHeader(**{**values, "event_hash": header.event_hash ^ 1})


@dataclass(frozen=True)
class Fault:
    """What is made wrong, and which alerts that must set off, with what labels."""

    make: Callable[[Watched], AbstractContextManager[None]]
    alerts: Mapping[str, Labels]
    silent: Set[str] = frozenset()
    """Worse ones, for which it must not be taken."""


FAULTS = {
    "settlement is stopped": Fault(
        settlement_stopped,
        {
            "SettlementLagRecords": {"ring": "events.0"},
            "RingNearlyFull": {"ring": "events.0", "reader": "settlement"},
            "SettlementLagSeconds": {},
            "OrdersNotAccepted": {},
            "HttpErrorRate": {},
            "ActorSilent": {"actor": "settlement"},
        },
    ),
    "a front is flooded": Fault(front_flooded, {"FrontOverloaded": {"actor": "front-0"}}),
    "a matcher is stopped": Fault(
        lambda watched: watched.venue.engine.standing_still("matcher-0"), {"OutcomesUnknown": {}}
    ),
    "the database is away": Fault(
        database_gone,
        {
            "ActorDown": {"actor": "database"},
            "SymbolHalted": {"symbol": OTHER_SYMBOL},
            "AuditSpooled": {"actor": "front-0"},
            "ActorErrors": {"actor": "operator"},
        },
    ),
    "the shadow dies": Fault(shadow_dies, {"ActorRestarting": {"actor": "shadow"}}),
    "the disk is full": Fault(lambda watched: watched.fault("full_disk"), {"DiskLow": {}, "OrdersNotAccepted": {}}),
    "memory leaks": Fault(lambda watched: watched.fault("memory"), {"ActorMemoryGrows": {"actor": "risk"}}),
    "the ledger was changed": Fault(ledger_changed, {"ReconciliationDifference": {}}),
    "the audit log was changed": Fault(audit_changed, {"AuditBroken": {}}),
    "the wallet is gone": Fault(
        wallet_gone, {"WalletBreakerOpen": {}, "WalletLag": {}}, frozenset({"ActorDown", "ReconciliationDifference"})
    ),
    "fronts are stopped": Fault(lambda watched: watched.venue.engine.standing_still("front-0"), {"EngineDown": {}}),
    "the wallet refuses": Fault(wallet_refuses, {"WalletDeadLetters": {}}),
}
TOGETHER = {
    "the disk is slow": Fault(
        lambda watched: watched.fault("slow_disk"), {"OrderLatencyHigh": {}, "JournalSyncSlow": {"actor": "matcher-0"}}
    ),
    "the keeper is stopped": Fault(
        lambda watched: watched.venue.engine.standing_still("keeper"),
        {"ReconciliationStale": {}, "MaintenanceStale": {}},
    ),
    "the clock is nobody's": Fault(lambda watched: watched.fault("clock_unsynchronised"), {"ClockUnsynchronised": {}}),
    "the clock was set": Fault(lambda watched: watched.fault("clock_ahead"), {"ClockStepped": {}}),
    "the pool is in use": Fault(pool_in_use, {"DatabasePoolExhausted": {"actor": "front-0"}}),
}
LAST = {
    "the journal was changed": Fault(journal_changed, {"ShadowMismatch": {}}),
    "the journal is damaged": Fault(journal_damaged, {"ShardFenced": {"actor": "matcher-0"}}),
}
"""What cannot be mended."""


@pytest.mark.parametrize("name", FAULTS)
def test_fault_sets_off_its_alerts(watched: Watched, name: str) -> None:
    """A fault sets off the alerts that are about it, and each says in whole sentences where and how much."""
    expect(watched, {name: FAULTS[name]})


def test_faults_that_take_long(watched: Watched) -> None:
    """So do these; they have nothing to do with each other, so all are made at once."""
    expect(watched, TOGETHER)


def test_alerts_end_with_their_faults(watched: Watched) -> None:
    """Once every fault is mended, no alert is left."""
    watched.prometheus.wait_silent(set(ALERTS) - BY_THE_HOUR - _true_of_this_machine())


def test_fault_that_cannot_be_mended(watched: Watched) -> None:
    """A replay that differs stays so."""
    expect(watched, LAST)


def test_each_alert_has_a_fault() -> None:
    """There is no alert that no fault here sets off."""
    named = {alert for faults in (FAULTS, TOGETHER, LAST) for fault in faults.values() for alert in fault.alerts}
    assert named == set(ALERTS)


def expect(watched: Watched, faults: Mapping[str, Fault]) -> None:
    """Make faults, and wait until each has set off its alerts, which were silent before."""
    wanted = {alert: labels for fault in faults.values() for alert, labels in fault.alerts.items()}
    watched.prometheus.wait_silent(wanted.keys() - BY_THE_HOUR - _true_of_this_machine())
    with ExitStack() as stack:
        for fault in faults.values():
            stack.enter_context(fault.make(watched))
        for said in watched.prometheus.wait_firing(wanted):
            assert "<" not in said["summary"] + said["description"], said
        firing = {alert["labels"]["alertname"] for alert in watched.prometheus.firing()}
        assert not any(fault.silent & firing for fault in faults.values())


def _true_of_this_machine() -> set[str]:
    return SLOW_MACHINE if os.getloadavg()[0] > (os.cpu_count() or 1) else set()
