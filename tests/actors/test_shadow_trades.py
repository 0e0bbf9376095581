"""The shadow and PostgreSQL: each closed segment's trades are compared, once they are settled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest
from tests.actors.matcher_bench import SHARD, Bench, Shard, flow, run_all, start

from tradeengine.actors.matching import Matching
from tradeengine.actors.shadow import STATE_MISMATCH, STATE_RUNNING, ShardShadow
from tradeengine.actors.shadow_trades import STRETCH_TRADES, StoredTrades, Stretches
from tradeengine.core.book import make_book
from tradeengine.core.hashing import HASH_START
from tradeengine.core.records import EventKind
from tradeengine.ipc.metric_names import ROLE_METRICS
from tradeengine.ipc.metrics import MetricPage
from tradeengine.settings_files import load_settings
from tradeengine.storage.journal_read import list_segments, read_groups
from tradeengine.storage.settle import Settler
from tradeengine.storage.snapshots import list_snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

TRADE = "(SELECT id FROM trades ORDER BY id OFFSET 50 LIMIT 1)"


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[Shard]:
    """Run a matcher over order flow that fills several segments."""
    made = start(Bench(tmp_path))
    run_all(made, flow(31, 1500))
    yield made
    made.die()


@pytest.fixture
def events(shard: Shard) -> NDArray[np.void]:
    """Give all events of the journal."""
    place = shard.bench.place
    matching = Matching(make_book(place.limits), HASH_START)
    pieces = [piece.copy() for _, batch in read_groups(place.journal_dir, 0) for piece in matching.pieces(batch)]
    return np.concatenate(pieces)


class Watched:
    """A shadow with a database, and what it says."""

    def __init__(self, bench: Bench, dsn: str) -> None:
        names = ROLE_METRICS["shadow"]
        self.page = MetricPage.create("shadow", "shadow", names.counters, names.gauges, names.histograms)
        database = load_settings(None, {"database.dsn": dsn, "database.connect_timeout_s": 1}).database
        self.stored = StoredTrades(database, lambda: None)
        self.shadow = ShardShadow(
            bench.place,
            self.page,
            lambda: None,
            keep_count=2,
            retain_s=0.0,
            stored=self.stored,
            snapshot_interval_s=0.0,
        )

    def run(self, settled: int) -> None:
        """Step until there is nothing to do."""
        while self.shadow.step(settled):
            pass
        self.stored.close()

    def counter(self, name: str) -> int:
        """Read a counter."""
        return self.page.snapshot().counters[name]


def settle(dsn: str, events: NDArray[np.void]) -> None:
    """Settle all events."""
    settler = Settler(psycopg.connect(dsn), SHARD + 1)
    settler.settle({SHARD: events})
    settler.close()


def test_settled_trades_are_compared_segment_by_segment(shard: Shard, events: NDArray[np.void], dsn: str) -> None:
    """Of every closed segment all trades are compared with PostgreSQL, and where they are the same nothing is said."""
    settle(dsn, events)
    watched = Watched(shard.bench, dsn)
    watched.run(len(events))
    end = list_segments(shard.bench.place.journal_dir)[-1].header.first_event_sequence
    closed = events[(events["kind"] == EventKind.TRADED) & (events["sequence"] < end)]
    assert len(closed) > 100
    assert (watched.counter("trades"), watched.counter("mismatches")) == (len(closed), 0)
    assert watched.page.snapshot().state_code == STATE_RUNNING


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE trades SET price_ticks = price_ticks + 1 WHERE id = {TRADE}",
        "UPDATE trades SET taker_side = 'buy' WHERE id = (SELECT min(id) FROM trades WHERE taker_side = 'sell')",
        f"DELETE FROM trades WHERE id = {TRADE}",
        "INSERT INTO trades SELECT id - (1 << 22), 1, 1, 1, 0, 0, 1, 1, 1, now(), 16, 17, 0, 'buy' FROM trades "
        f"WHERE id = {TRADE}",
    ],
)
def test_other_trades_are_a_mismatch(shard: Shard, events: NDArray[np.void], dsn: str, statement: str) -> None:
    """A trade that is altered, missing or too many is counted and told, and from then on no segment is removed."""
    settle(dsn, events)
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert connection.execute(statement).rowcount == 1
    before = len(list_segments(shard.bench.place.journal_dir))
    watched = Watched(shard.bench, dsn)
    watched.run(len(events))
    page = watched.page.snapshot()
    state, text = page.state_code, page.state
    assert (watched.counter("mismatches"), state) == (1, STATE_MISMATCH)
    assert text.startswith(f"mismatch: shard {SHARD}: PostgreSQL has other trades from ")
    assert text.endswith("; run tradeengine verify")
    assert watched.counter("segments") == before - 1
    assert list_snapshots(shard.bench.place.snapshot_dir) != []
    assert watched.counter("pruned_segments") < before - 1


def test_trades_that_are_not_settled_wait(shard: Shard, events: NDArray[np.void], dsn: str) -> None:
    """What PostgreSQL cannot have yet is not asked for; it is when settlement has passed it."""
    watched = Watched(shard.bench, dsn)
    watched.run(0)
    assert (watched.counter("trades"), watched.counter("mismatches")) == (0, 0)
    assert watched.counter("segments") > 1
    settle(dsn, events)
    watched.run(len(events))
    assert watched.counter("trades") > 100
    assert watched.counter("mismatches") == 0


def test_database_that_is_away_costs_the_shadow_nothing(shard: Shard, events: NDArray[np.void], dsn: str) -> None:
    """Without PostgreSQL segments are followed and snapshots written; its trades are compared when it is back."""
    settle(dsn, events)
    watched = Watched(shard.bench, dsn)
    stored: Any = watched.stored
    away = load_settings(None, {"database.dsn": "host=/nowhere dbname=nobody"}).database
    there, stored._database = stored._database, away
    watched.run(len(events))
    assert watched.counter("segments") > 1
    assert list_snapshots(shard.bench.place.snapshot_dir) != []
    assert (watched.counter("trades"), watched.counter("mismatches")) == (0, 0)
    stored._database, stored._retry_at_s = there, 0.0
    watched.run(len(events))
    assert watched.counter("trades") > 100


def test_long_stretches_are_cut(events: NDArray[np.void]) -> None:
    """However many trades a segment has, what is read at once is bounded, and every trade is in one stretch."""
    trades = events[events["kind"] == EventKind.TRADED]
    stretches = Stretches(0)
    sequence, count = 0, 0
    while count < STRETCH_TRADES + len(trades):
        piece = trades.copy()
        piece["trade_id"] += sequence << 22
        piece["sequence"] = sequence + np.arange(len(piece))
        stretches.take(piece)
        sequence += len(piece)
        count += len(piece)
    stretches.close(sequence)
    found = list(stretches.waiting)
    assert [stretch.count for stretch in found] == [found[0].count, count - found[0].count]
    assert STRETCH_TRADES <= found[0].count < STRETCH_TRADES + len(trades)
    assert (found[0].after_id, found[0].last_id, found[1].end_sequence) == (0, found[1].after_id, sequence)


def test_trades_that_retention_dropped_are_passed_over(shard: Shard, events: NDArray[np.void], dsn: str) -> None:
    """What is not kept any more is not compared, not counted as compared, and no mismatch."""
    settle(dsn, events)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for (name,) in connection.execute("SELECT DISTINCT tableoid::regclass::text FROM trades").fetchall():
            connection.execute(f"DROP TABLE {name}")
    watched = Watched(shard.bench, dsn)
    watched.run(len(events))
    assert (watched.counter("trades"), watched.counter("mismatches")) == (0, 0)
    assert not watched.shadow._stretches.waiting
