"""One round of each of the keeper's chores, on a real table and a real database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
import pytest
import trio

from tradeengine.actors import keeper as keeper_module
from tradeengine.actors.keeper import Keeper, KeeperState, Round, maintain, snapshot
from tradeengine.core.symbols import SymbolSpec
from tradeengine.core.tables import depth_dtype
from tradeengine.ipc.metric_names import ROLE_METRICS
from tradeengine.ipc.metrics import MetricPage
from tradeengine.ipc.seqlock import SeqlockTable
from tradeengine.settings import Settings
from tradeengine.settings_files import load_settings
from tradeengine.storage.depth_snapshots import find_depth, stored_sequences

WAIT_S = 30


@pytest.fixture
def depth() -> Iterator[SeqlockTable]:
    """Give a depth table of two rows, not shown yet."""
    table = SeqlockTable.create("depth", depth_dtype, 2)
    yield table
    table.close()


@pytest.fixture
def listed(connection: psycopg.Connection, symbol: SymbolSpec) -> SymbolSpec:
    """Give a symbol that settlement has seen listed."""
    connection.execute("UPDATE symbols SET status = 'listed'")
    return symbol


@dataclass
class Watched:
    """A keeper, its page, and what it told."""

    settings: Settings
    depth: SeqlockTable
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        role = ROLE_METRICS["keeper"]
        self.page = MetricPage.create("keeper", "keeper", role.counters, role.gauges, role.histograms)
        self.keeper = Keeper(self.settings, self.depth, self.page, self.told.append)

    async def wait(self, *told: str) -> None:
        """Wait until the last things told begin like this."""
        with trio.fail_after(WAIT_S):
            while [text[: len(begin)] for text, begin in zip(self.told, told, strict=False)] != list(told):  # noqa: ASYNC110
                await trio.sleep(0.01)


@pytest.fixture
def watched(dsn: str, depth: SeqlockTable) -> Watched:
    """Give a keeper that stores depth without pause."""
    overrides = {
        "database.dsn": dsn,
        "keeper.partition_months_ahead": 1,
        "keeper.partition_days_ahead": 1,
        "keeper.depth_snapshot_interval_s": 0.01,
        "keeper.retain_depth_days": 0,
    }
    return Watched(load_settings(overrides=overrides, environ={}), depth)


def show(depth: SeqlockTable, row: int, sequence: int, bids: int = 1, timestamp_ns: int = 1) -> None:
    """Show a book with so many bids."""
    record = np.zeros(1, depth_dtype)[0]
    record["sequence"], record["timestamp_ns"], record["bid_count"] = sequence, timestamp_ns, bids
    record["bids"][:bids] = [[1000 - level, level + 1] for level in range(bids)]
    depth.write(row, record)


def take(connection: psycopg.Connection, depth: SeqlockTable, levels: int = 50) -> int:
    """Carry out one round; returns how many books were stored."""
    done = Round()
    snapshot(connection, depth, levels, done)
    return done.stored_count


def test_first_levels_are_stored(connection: psycopg.Connection, listed: SymbolSpec, depth: SeqlockTable) -> None:
    """As many levels as are wanted are stored, the best ones."""
    show(depth, listed.symbol_id, 7, bids=5)
    assert take(connection, depth, levels=3) == 1
    stored = find_depth(connection, listed.symbol_id)
    assert stored is not None
    assert (stored.sequence, stored.bids, stored.asks) == (7, [[1000, 1], [999, 2], [998, 3]], [])


def test_only_what_changed_is_stored(connection: psycopg.Connection, listed: SymbolSpec, depth: SeqlockTable) -> None:
    """A book is stored once per change, whoever looks: also by a keeper that begins anew."""
    show(depth, listed.symbol_id, 7)
    assert [take(connection, depth), take(connection, depth)] == [1, 0]
    show(depth, listed.symbol_id, 9)
    assert [take(connection, depth), take(connection, depth)] == [1, 0]
    assert stored_sequences(connection) == {listed.symbol_id: 9}


def test_unknown_books_are_left_alone(connection: psycopg.Connection, listed: SymbolSpec, depth: SeqlockTable) -> None:
    """A book that the publisher has not shown, that nothing ever happened to, or that is torn is left for later."""
    assert take(connection, depth) == 0
    show(depth, listed.symbol_id, -1)
    assert take(connection, depth) == 0
    torn = depth.writing(listed.symbol_id)
    row = torn.__enter__()
    row["sequence"] = 8
    assert take(connection, depth) == 0
    torn.__exit__(None, None, None)
    assert take(connection, depth) == 1


def test_maintenance_tells_what_it_made(connection: psycopg.Connection, watched: Watched) -> None:
    """A round names each partition that it made, and the next one has nothing to do."""
    first, second = Round(), Round()
    maintain(connection, watched.settings.keeper, first)
    maintain(connection, watched.settings.keeper, second)
    assert sorted(name.partition("_")[0] for name in first.made) == ["orders"] * 2 + ["postings"] * 2 + ["trades"] * 2
    assert second == Round()


async def test_one_chores_trouble_is_not_the_others(
    watched: Watched, connection: psycopg.Connection, listed: SymbolSpec
) -> None:
    """While depth cannot be stored partitions are made; the keeper says what it cannot do, and when it can again."""
    connection.execute("ALTER TABLE depth_snapshots RENAME TO aside")
    show(watched.depth, listed.symbol_id, 7)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.keeper.keep_depth)
        nursery.start_soon(watched.keeper.keep_partitions)
        await watched.wait('depth: relation "depth_snapshots" does not exist')
        with trio.fail_after(WAIT_S):
            while watched.page.snapshot().counters["partitions_made"] < 6:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert watched.page.snapshot().state_code == KeeperState.UNABLE
        connection.execute("ALTER TABLE aside RENAME TO depth_snapshots")
        await watched.wait("depth:", "")
        nursery.cancel_scope.cancel()
    page = watched.page.snapshot()
    assert (page.state_code, page.state) == (KeeperState.RUNNING, "running")
    assert page.counters["depth_rows_stored"] == 1
    assert page.counters["errors"] >= 1


async def test_interval_of_zero_stores_nothing(dsn: str, depth: SeqlockTable) -> None:
    """With an interval of 0 no depth is stored, and the chore ends at once."""
    overrides = {"database.dsn": dsn, "keeper.depth_snapshot_interval_s": 0.0}
    with trio.fail_after(WAIT_S):
        await Watched(load_settings(overrides=overrides, environ={}), depth).keeper.keep_depth()


async def test_hanging_keeper_holds_no_lock(
    watched: Watched, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keeper that stands still in a transaction loses it and its locks soon, and says so when it goes on."""
    monkeypatch.setattr(keeper_module, "HANGING_MS_MAX", 200)
    locked, go_on = threading.Event(), threading.Event()

    def hang(own: psycopg.Connection[Any], _done: Round) -> None:
        with own.transaction():
            own.execute("LOCK TABLE orders")
            locked.set()
            go_on.wait(WAIT_S)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.keeper._repeat, "depth", hang, 1.0)
        await trio.to_thread.run_sync(locked.wait, WAIT_S)
        connection.execute(f"SET lock_timeout = '{WAIT_S}s'")
        await trio.to_thread.run_sync(connection.execute, "SELECT count(*) FROM orders")
        assert not go_on.is_set()
        go_on.set()
        await watched.wait("depth:")
        nursery.cancel_scope.cancel()
