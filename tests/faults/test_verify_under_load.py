"""Verification beside a live engine: journals grow, segments close, settlement commits, and nothing differs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from tests.e2e.users import connect_database
from tests.engines import Engine, running_engine, wait_restarted
from tests.faults.storm import blowing, open_storm
from tests.verified import assert_verified

SYMBOLS = ("SOL/USDT", "LTC/USDT", "XRP/USDT")
SEGMENT_BYTES = {"TRADEENGINE_JOURNAL_SEGMENT_BYTES": "65536"}
ROUNDS = 3
ROUNDS_LONG = 10
KILLED = ("settlement", "matcher-0", "shadow", "matcher-1", "risk")


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine of two shards whose segments are closed all the time."""
    with running_engine(tmp_path_factory.mktemp("verified"), ["--shards", "2"], SEGMENT_BYTES) as engine:
        yield engine


def settled(connection: psycopg.Connection[Any]) -> int:
    """Count the events that both shards have settled."""
    ((count,),) = connection.execute("SELECT sum(sequence)::bigint FROM settlement_cursors WHERE shard >= 0").fetchall()
    return int(count)


@pytest.mark.long
def test_nothing_differs_beside_a_storm(venue: Engine) -> None:
    """Again and again in the midst of trading, all that was settled by then agrees with the journals, no less."""
    with open_storm(venue, seed=21) as storm, connect_database(venue) as connection, blowing(storm, *SYMBOLS):
        trades = rounds = segments = 0
        while rounds < ROUNDS or segments < 2:
            rounds += 1
            before = settled(connection)
            report = assert_verified(venue, SEGMENT_BYTES)
            segments = min(shard.segments for shard in report.shards)
            assert before <= sum(shard.settled for shard in report.shards) <= settled(connection)
            assert sum(shard.trades for shard in report.shards) >= trades
            trades = sum(shard.trades for shard in report.shards)
        assert_verified(venue, SEGMENT_BYTES, from_snapshot=True)
    assert trades > 0


@pytest.mark.long
@pytest.mark.timeout(600)
def test_nothing_differs_beside_kills(venue: Engine) -> None:
    """Ten times over, with an actor killed before each look: what a restart rewrites and replays is the same again."""
    with open_storm(venue, seed=22) as storm, connect_database(venue) as connection:
        for number in range(ROUNDS_LONG):
            name = KILLED[number % len(KILLED)]
            with blowing(storm, *SYMBOLS):
                pid = venue.actors()[name]
                venue.kill_actor(name)
                assert_verified(venue, SEGMENT_BYTES)
                wait_restarted(venue, name, pid)
                before = settled(connection)
                assert sum(shard.settled for shard in assert_verified(venue, SEGMENT_BYTES).shards) >= before


def test_command_beside_a_live_engine(venue: Engine) -> None:
    """The command itself needs nothing of the engine but its data directory, and one connection."""
    result = venue.command("verify", "--json", "--shard", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    told = json.loads(result.stdout)
    assert [shard["shard"] for shard in told["shards"]] == [1]
    assert (told["difference_count"], told["ledger"]) == (0, None)
