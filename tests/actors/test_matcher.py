"""The matcher on a bench: nothing before it is durable, nothing twice, nothing lost, and the same events every time."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.actors.matcher_bench import LIMITS, START_MS, SYMBOLS, Bench, Shard, flow, reference, run_all, start

from tradeengine.actors import matcher
from tradeengine.actors.matcher_events import ReplayDiffers
from tradeengine.actors.matcher_recovery import RecoveryRefused
from tradeengine.core.book import levels, state_hash
from tradeengine.core.records import CommandKind, EventKind, Reason, Side
from tradeengine.storage.journal import JournalFailed
from tradeengine.storage.journal_read import journal_end, list_segments

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

COUNT = 1500


@pytest.fixture(scope="module")
def commands() -> NDArray[np.void]:
    """Order flow of all kinds."""
    return flow(7, COUNT)


@pytest.fixture(scope="module")
def expected(commands: NDArray[np.void], tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.void]:
    """Events of an uninterrupted run over it."""
    events = reference(tmp_path_factory.mktemp("matcher"), commands)
    kinds = set(events["kind"].tolist())
    wanted = (EventKind.ACCEPTED, EventKind.TRADED, EventKind.CANCELLED, EventKind.TRIGGERED, EventKind.EXPIRED)
    assert set(map(int, wanted)) <= kinds
    assert Reason.CANCEL_ALL_AFTER in set(events["reason"].tolist())
    return events


def same(left: NDArray[np.void], right: NDArray[np.void]) -> bool:
    """Whether two event streams are identical, byte for byte."""
    return left.tobytes() == right.tobytes()


def test_events_are_numbered_by_their_place_in_the_ring(expected: NDArray[np.void]) -> None:
    """A shard's event sequence is its position in the ring, without gaps."""
    assert np.array_equal(expected["sequence"], np.arange(len(expected)))


@pytest.mark.parametrize("batch_max", [1, 7, 500])
def test_batches_change_nothing(
    tmp_path: Path, commands: NDArray[np.void], expected: NDArray[np.void], batch_max: int
) -> None:
    """However commands are grouped, the events are identical, expiries between them included."""
    shard = start(Bench(tmp_path), batch_max=batch_max)
    assert same(run_all(shard, commands, portion=batch_max * 3), expected)
    shard.die()


def test_event_ring_smaller_than_one_commands_events(tmp_path: Path, commands: NDArray[np.void]) -> None:
    """A ring too small for a mass cancel's events delays them and loses none."""
    bench = Bench(tmp_path, event_slots=16)
    taken: list[NDArray[np.void]] = []

    def wait() -> None:
        taken.append(bench.take())
        bench.settle(bench.events.head)

    shard = start(bench, wait=wait)
    bench.feed(commands[:300])
    shard.run()
    cancel_all = np.zeros(1, dtype=commands.dtype)
    cancel_all["kind"] = CommandKind.CANCEL_ALL
    cancel_all["timestamp_ns"] = (START_MS + 5000) * 10**6
    cancel_all["symbol_id"] = -1
    bench.feed(cancel_all)
    shard.run()
    wait()
    events = np.concatenate(taken)
    assert np.array_equal(events["sequence"], np.arange(len(events)))
    assert events["kind"][-1] == EventKind.CANCELLED_ALL
    assert events["quantity_lots"][-1] > 16
    shard.die()


def test_nothing_is_published_before_it_is_synced(
    tmp_path: Path, commands: NDArray[np.void], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the sync fails, no event of the group was seen, and the command stays in the ring."""
    bench = Bench(tmp_path)
    shard = start(bench)
    bench.feed(commands[:5])
    shard.run()
    seen = bench.take()
    monkeypatch.setattr(os, "fdatasync", fail)
    bench.feed(commands[5:6])
    with pytest.raises(JournalFailed):
        shard.run()
    assert len(seen) >= 5
    assert len(bench.take()) == 0
    assert bench.commands.reader("matcher").cursor == 5


def fail(_fd: int) -> None:
    """Fail as a disk does."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


class Died(BaseException):
    """Stands for kill -9 where a process of its own would be too slow for every pass of every point."""


POINTS = (
    "matcher.before_journal_write",
    "matcher.after_journal_write",
    "matcher.after_journal_sync",
    "matcher.after_publish",
    "matcher.after_tables",
    "matcher.after_cursor",
    "matcher.before_roll",
    "matcher.after_roll",
)


@pytest.mark.parametrize("point", POINTS)
def test_death_at_any_point_changes_no_event(
    tmp_path: Path,
    commands: NDArray[np.void],
    expected: NDArray[np.void],
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    """Dying again and again at a point, and restarting, gives the stream of an uninterrupted run, once."""
    bench = Bench(tmp_path)
    deaths = (1, 1) if "roll" in point else (1, 2, 5, 9, 14)
    arm(monkeypatch, point, iter(deaths))
    fed = 0
    taken: list[NDArray[np.void]] = []
    shard = start(bench)
    died = 0
    while True:
        try:
            while fed < len(commands):
                bench.feed(commands[fed : fed + 100])
                fed += min(100, len(commands) - fed)
                shard.run()
                taken.append(bench.take())
                bench.settle(max(0, bench.events.head - 150))
            shard.run()
            break
        except Died:
            died += 1
            shard.die()
            shard = start(bench)
    taken.append(bench.take())
    assert died == len(deaths)
    assert same(np.concatenate(taken), expected)
    shard.die()


def arm(monkeypatch: pytest.MonkeyPatch, point: str, deaths: Iterator[int]) -> None:
    """Make the matcher die at a point, at the passes that ``deaths`` gives one after the other."""
    left = next(deaths)

    def crash_point(name: str) -> None:
        nonlocal left
        if name == point:
            left -= 1
            if left == 0:
                left = next(deaths, -1)
                raise Died

    monkeypatch.setattr(matcher, "crash_point", crash_point)


def test_restart_from_a_snapshot_gives_the_same(
    tmp_path: Path, commands: NDArray[np.void], expected: NDArray[np.void]
) -> None:
    """A restart takes the newest snapshot that is settled, replays only what came after, and goes on identically."""
    bench = Bench(tmp_path)
    shard = start(bench)
    first = run_all(shard, commands[:500])
    shard.snapshot()
    second = run_all(shard, commands[500:900])
    bench.settle(len(first))
    shard.snapshot()
    shard.die()
    shard = start(bench)
    assert shard.recovered.from_event_sequence == len(first)
    assert shard.recovered.commands_replayed >= 400
    assert shard.recovered.events_published == 0
    third = run_all(shard, commands[900:])
    assert same(np.concatenate([first, second, third]), expected)
    shard.die()


def test_whole_start_opens_the_ring_at_the_settled_cursor(
    tmp_path: Path, commands: NDArray[np.void], expected: NDArray[np.void]
) -> None:
    """After a machine crash the rings are new: events from the settled cursor on come again, with their sequences."""
    shard = start(Bench(tmp_path))
    run_all(shard, commands)
    book_hash = state_hash(shard.recovered.matching.book)
    shard.die()
    end = journal_end(tmp_path / "journal")
    for settled in (0, 1, len(expected) // 2, len(expected)):
        bench = Bench(tmp_path, settled=settled, first_ring_sequence=end.next_ring_sequence)
        shard = start(bench)
        assert same(bench.take(), expected[settled:])
        assert [int(bench.touch.read(symbol_id)["listed"]) for symbol_id in range(SYMBOLS)] == [1] * SYMBOLS
        assert state_hash(shard.recovered.matching.book) == book_hash
        shard.die()


def test_damaged_snapshot_falls_back(tmp_path: Path, commands: NDArray[np.void], expected: NDArray[np.void]) -> None:
    """A snapshot that cannot be used is skipped with a reason, and the journal alone gives the same."""
    bench = Bench(tmp_path)
    shard = start(bench)
    first = run_all(shard, commands[:500])
    shard.snapshot()
    shard.die()
    (path,) = bench.place.snapshot_dir.iterdir()
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    shard = start(bench)
    assert [entry.path for entry in shard.recovered.skipped] == [path]
    assert same(np.concatenate([first, run_all(shard, commands[500:])]), expected)
    shard.die()


def run_to_the_end(tmp_path: Path, commands: NDArray[np.void]) -> tuple[Bench, Shard]:
    """Run all commands on a new bench."""
    bench = Bench(tmp_path)
    shard = start(bench)
    run_all(shard, commands)
    return bench, shard


def test_cursor_beyond_the_journal_refuses(tmp_path: Path, commands: NDArray[np.void]) -> None:
    """A database that has settled more than the journal gives refuses to start, and says so."""
    _, shard = run_to_the_end(tmp_path, commands)
    shard.die()
    end = journal_end(tmp_path / "journal")
    beyond = Bench(tmp_path, settled=10**6, first_ring_sequence=end.next_ring_sequence)
    with pytest.raises(RecoveryRefused, match="settled cursor 1000000 lies behind the journal's end"):
        start(beyond)


def test_cursor_before_the_journal_refuses(tmp_path: Path, commands: NDArray[np.void]) -> None:
    """A database older than journal and snapshots reach back refuses to start, and says so."""
    _, shard = run_to_the_end(tmp_path, commands)
    shard.die()
    list_segments(tmp_path / "journal")[0].path.unlink()
    end = journal_end(tmp_path / "journal")
    with pytest.raises(RecoveryRefused, match="settled cursor 3 of shard 2 lies before what the journal holds"):
        start(Bench(tmp_path, settled=3, first_ring_sequence=end.next_ring_sequence))


def test_lost_commands_are_noticed(tmp_path: Path, commands: NDArray[np.void]) -> None:
    """A journal that ends before what was taken from the ring, or published, refuses to start."""
    bench, shard = run_to_the_end(tmp_path, commands)
    shard.die()
    for segment in list_segments(tmp_path / "journal"):
        segment.path.unlink()
    with pytest.raises(RecoveryRefused, match="do not belong together"):
        start(bench)


def test_replay_that_differs_stops(tmp_path: Path, commands: NDArray[np.void]) -> None:
    """When a replay gives another event than the ring holds, the matcher stops and names it."""
    bench, shard = run_to_the_end(tmp_path, commands)
    shard.die()
    sequence = bench.events.head - 10
    bench.events.view(sequence, 1)["price_ticks"] += 1
    with pytest.raises(ReplayDiffers, match=f"event {sequence} "):
        start(bench)


def test_segments_carry_the_hash_over_all_events(tmp_path: Path, commands: NDArray[np.void]) -> None:
    """A replay that does not give the hash with which a segment was opened stops, on a whole new start too."""
    bench = Bench(tmp_path)
    shard = start(bench)
    run_all(shard, commands[:300])
    shard.recovered.matching.event_hash ^= 1
    run_all(shard, commands[300:])
    shard.die()
    segments = list_segments(bench.place.journal_dir)
    assert len({segment.header.event_hash for segment in segments}) == len(segments) > 2
    end = journal_end(bench.place.journal_dir)
    with pytest.raises(ReplayDiffers, match="gives other events than were published"):
        start(Bench(tmp_path, first_ring_sequence=end.next_ring_sequence))


def test_expiry_waits_for_nobody(tmp_path: Path) -> None:
    """An order whose time is over is expired without any command coming, by the wall clock."""
    bench = Bench(tmp_path)
    shard = start(bench)
    placed = flow(1, 40)
    placed["timestamp_ns"] = 10**18
    placed = placed[: SYMBOLS + 1]
    placed["time_in_force"][SYMBOLS] = 4
    placed["expires_at_ns"][SYMBOLS] = 10**18 + 5
    bench.feed(placed)
    shard.run()
    events = bench.take()
    assert events["kind"].tolist()[-3:] == [EventKind.ACCEPTED, EventKind.CANCELLED, EventKind.EXPIRED]
    assert journal_end(tmp_path / "journal").next_command_sequence == SYMBOLS + 2
    assert journal_end(tmp_path / "journal").next_ring_sequence == SYMBOLS + 1
    shard.die()


def test_touch_and_levels_show_the_book(tmp_path: Path, commands: NDArray[np.void]) -> None:
    """After each round the touch rows tell the best prices; a request is answered with the whole book."""
    bench, shard = run_to_the_end(tmp_path, commands)
    book = shard.recovered.matching.book
    for symbol_id in range(SYMBOLS):
        row = bench.touch.read(symbol_id)
        bids, asks = levels(book, symbol_id, Side.BUY), levels(book, symbol_id, Side.SELL)
        assert (row["best_bid_ticks"], row["best_bid_lots"]) == tuple(bids[0])
        assert (row["best_ask_ticks"], row["best_ask_lots"]) == tuple(asks[0])
        assert row["listed"] == 1
        bench.requests.write(0, (symbol_id + 1, symbol_id))
        shard.run()
        answer = bench.levels.read(0)
        assert (answer["number"], answer["symbol_id"]) == (symbol_id + 1, symbol_id)
        assert answer["sequence"] == bench.events.head - 1
        assert np.array_equal(answer["bids"][: answer["bid_count"]], bids)
        assert np.array_equal(answer["asks"][: answer["ask_count"]], asks)
    assert bench.touch.read(LIMITS.symbols_max - 1)["listed"] == 0
    shard.die()


def test_old_segment_is_closed(tmp_path: Path, commands: NDArray[np.void]) -> None:
    """A segment with commands in it is closed by age, an empty one never."""
    bench = Bench(tmp_path)
    shard = start(bench, segment_age_s_max=0.0)
    shard.run()
    assert len(list_segments(bench.place.journal_dir)) == 1
    bench.feed(commands[:3])
    shard.run()
    shard.run()
    assert [segment.header.first_command_sequence for segment in list_segments(bench.place.journal_dir)] == [0, 3]
    shard.die()


def test_metrics_count_what_was_done(tmp_path: Path, commands: NDArray[np.void], expected: NDArray[np.void]) -> None:
    """The metric page counts commands, events, trades and syncs."""
    bench, shard = run_to_the_end(tmp_path, commands)
    snapshot = bench.metrics.snapshot()
    assert snapshot.counters["commands"] == len(commands)
    assert snapshot.counters["events"] == len(expected)
    assert snapshot.counters["trades"] == np.count_nonzero(expected["kind"] == EventKind.TRADED)
    assert snapshot.counters["expiries"] == np.count_nonzero(expected["kind"] == EventKind.EXPIRED)
    assert snapshot.histograms["sync_latency_us"].count == snapshot.counters["groups"]
    assert snapshot.gauges["event_sequence"] == len(expected)
    shard.die()
