"""Reconciliation in the midst of a storm, and while whoever it asks is killed: nothing differs, trading goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from tests.e2e.users import connect_database
from tests.engines import Engine, running_engine, wait_restarted
from tests.faults.storm import blowing, open_storm

from tradeengine.storage.reconciliations import Reconciliation, request_reconciliation, wait_reconciliation

SYMBOLS = ("SOL/USDT", "LTC/USDT", "XRP/USDT")
ROUNDS = 6
WAIT_S = 60.0


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine with two shards whose actors may be killed, and whose keeper asks itself all the time."""
    environment = {"TRADEENGINE_KEEPER_RECONCILE_INTERVAL_S": "0.2"}
    with running_engine(tmp_path_factory.mktemp("reconciled"), ["--shards", "2"], environment) as engine:
        yield engine


def reconcile(connection: psycopg.Connection[Any]) -> Reconciliation:
    """Ask, and wait for an answer that finds nothing."""
    number = request_reconciliation(connection, "a test")
    found = wait_reconciliation(connection, number, timeout_s=WAIT_S)
    assert (found.error, found.differences) == (None, [])
    return found


def ahead(found: Reconciliation) -> int:
    """Count the events that were on their way between the database and who was asked."""
    assert found.checked is not None
    cursors = [found.checked["cursors"][shard] for shard in ("0", "1")]
    return sum(max(cursor["risk"], cursor["matcher"]) - cursor["settled"] for cursor in cursors)


@pytest.mark.long
def test_nothing_differs_while_a_storm_blows(venue: Engine) -> None:
    """Asked again and again in the midst of trading, with events and commands on their way, there is no difference."""
    with open_storm(venue, seed=11) as storm, connect_database(venue) as connection, blowing(storm, *SYMBOLS):
        found = [reconcile(connection) for _ in range(ROUNDS)]
        while not any(map(ahead, found)):
            found.append(reconcile(connection))
        traded = [answer.checked["trades"] for answer in found if answer.checked is not None]
        assert traded == sorted(traded)
    assert traded[-1] > traded[0]


@pytest.mark.parametrize(
    "name",
    [
        "risk",
        "matcher-0",
        "settlement",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("keeper", "publisher")),
    ],
)
def test_nothing_differs_around_a_kill(venue: Engine, name: str) -> None:
    """An actor killed in the midst of trading and of a comparison leaves no difference, then and afterwards."""
    with open_storm(venue, seed=12) as storm, connect_database(venue) as connection, blowing(storm, *SYMBOLS):
        reconcile(connection)
        pid = venue.actors()[name]
        number = request_reconciliation(connection, "a test")
        venue.kill_actor(name)
        found = wait_reconciliation(connection, number, timeout_s=WAIT_S)
        assert (found.error, found.differences) == (None, [])
        wait_restarted(venue, name, pid)
        for _ in range(2):
            reconcile(connection)


@pytest.mark.long
def test_keeper_asks_by_itself(venue: Engine) -> None:
    """Left alone the keeper compares again and again, and finds nothing, however the engine was treated meanwhile."""
    query = "SELECT count(*), max(id) FROM reconciliations WHERE requested_by = '*keeper*' AND finished_at IS NOT NULL"
    with connect_database(venue) as connection:
        (before,) = connection.execute(query).fetchall()
        reconcile(connection)
        deadline_s = time.monotonic() + WAIT_S
        while connection.execute(query).fetchall()[0][0] < before[0] + 2:
            assert time.monotonic() < deadline_s, "".join(venue.errors)
            time.sleep(0.05)
        assert connection.execute("SELECT FROM reconciliations WHERE difference_count <> 0").rowcount == 0
