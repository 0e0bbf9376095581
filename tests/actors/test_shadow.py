"""The shadow: snapshots that a matcher restarts from, a replay that is compared, and files that go when they may."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.actors.matcher_bench import Bench, Shard, flow, run_all, start

from tradeengine.actors.shadow import ShardShadow
from tradeengine.core.book import state_hash
from tradeengine.ipc.metric_names import ROLE_METRICS
from tradeengine.ipc.metrics import MetricPage
from tradeengine.storage.journal_read import list_segments, read_groups
from tradeengine.storage.snapshots import list_snapshots, read_snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def commands() -> NDArray[np.void]:
    """Order flow that fills several segments."""
    return flow(11, 1500)


def make_shadow(bench: Bench, *, snapshot_interval_s: float = 0.0, retain_s: float = 0.0) -> ShardShadow:
    """Make a shadow that writes a snapshot after each segment."""
    names = ROLE_METRICS["shadow"]
    page = MetricPage.create("shadow", "shadow", names.counters, names.gauges, names.histograms)
    return ShardShadow(
        bench.place,
        page,
        lambda: None,
        keep_count=2,
        retain_s=retain_s,
        snapshot_interval_s=snapshot_interval_s,
    )


def run_matcher(directory: Path, commands: NDArray[np.void]) -> Shard:
    """Run the matcher over all commands."""
    shard = start(Bench(directory))
    run_all(shard, commands)
    return shard


def run_shadow(shadow: ShardShadow, settled: int = 0) -> int:
    """Step until there is nothing to do; returns how many segments were followed."""
    count = 0
    while shadow.step(settled):
        count += 1
    return count


def test_matcher_restarts_from_the_shadows_snapshot(tmp_path: Path, commands: NDArray[np.void]) -> None:
    """What the shadow writes is the book at a segment's end; a matcher goes on from it as if it had never stopped."""
    shard = run_matcher(tmp_path, commands)
    shadow = make_shadow(shard.bench)
    segments = list_segments(shard.bench.place.journal_dir)
    assert run_shadow(shadow) == len(segments) - 1
    assert shadow.trouble == ""
    newest = read_snapshot(list_snapshots(shard.bench.place.snapshot_dir)[-1][0]).header
    opening = segments[-1].header
    assert (newest.command_sequence, newest.event_sequence) == (
        opening.first_command_sequence,
        opening.first_event_sequence,
    )
    assert (newest.event_hash, newest.state_hash) == (opening.event_hash, opening.state_hash)
    expected = state_hash(shard.recovered.matching.book)
    shard.die()
    shard = start(shard.bench)
    assert shard.recovered.from_command_sequence == opening.first_command_sequence
    assert state_hash(shard.recovered.matching.book) == expected
    shard.die()


def test_shadow_goes_on_from_its_own_snapshot(tmp_path: Path, commands: NDArray[np.void]) -> None:
    """A restarted shadow follows only what came after its last snapshot, and the open segment never."""
    shard = run_matcher(tmp_path, commands[:900])
    assert run_shadow(make_shadow(shard.bench)) >= 1
    assert run_shadow(make_shadow(shard.bench)) == 0
    before = len(list_segments(shard.bench.place.journal_dir))
    run_all(shard, commands[900:])
    after = len(list_segments(shard.bench.place.journal_dir))
    shadow = make_shadow(shard.bench)
    assert run_shadow(shadow) == after - before
    assert shadow.trouble == ""
    shard.die()


def test_snapshots_wait_for_their_interval(tmp_path: Path, commands: NDArray[np.void]) -> None:
    """However many segments are closed, snapshots come no closer than the interval."""
    shard = run_matcher(tmp_path, commands)
    shadow = make_shadow(shard.bench, snapshot_interval_s=3600.0)
    assert run_shadow(shadow) > 1
    assert len(list_snapshots(shard.bench.place.snapshot_dir)) == 1
    shard.die()


@pytest.mark.parametrize("what", ["events", "book"])
def test_mismatch_is_noticed(
    tmp_path: Path, commands: NDArray[np.void], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """When replay and published events or book differ, the shadow says so with the shard, and writes nothing more."""
    shard = start(Bench(tmp_path))
    run_all(shard, commands[:300])
    if what == "events":
        shard.recovered.matching.event_hash ^= 1
    else:
        monkeypatch.setattr("tradeengine.actors.matcher.state_hash", lambda _book: 5)
    run_all(shard, commands[300:])
    monkeypatch.undo()
    shadow = make_shadow(shard.bench)
    run_shadow(shadow)
    assert shadow.trouble.startswith("mismatch: shard 2: the replay up to command sequence")
    assert ("another book" in shadow.trouble) == (what == "book")
    assert list_snapshots(shard.bench.place.snapshot_dir) == []
    assert len(list_segments(shard.bench.place.journal_dir)) > 2
    assert not shadow.step(10**9)
    shard.die()


def test_damaged_segment_ends_following(tmp_path: Path, commands: NDArray[np.void]) -> None:
    """A bit flipped in a closed segment is found by the shadow, long before a restart would need it."""
    shard = run_matcher(tmp_path, commands)
    path = list_segments(shard.bench.place.journal_dir)[1].path
    content = bytearray(path.read_bytes())
    content[9000] ^= 2
    path.write_bytes(content)
    shadow = make_shadow(shard.bench)
    assert run_shadow(shadow) == 1
    assert shadow.trouble.startswith("blocked: journal damaged:")
    assert path.name in shadow.trouble
    shard.die()


def test_another_engines_segment_ends_following(tmp_path: Path, commands: NDArray[np.void]) -> None:
    """Of a journal that is another engine's the shadow follows nothing, makes no snapshot, and removes nothing."""
    shard = start(Bench(tmp_path, engine_mark=7))
    run_all(shard, commands)
    shard.die()
    segments = list_segments(shard.bench.place.journal_dir)
    shard.bench.engine_mark = 8
    shadow = make_shadow(shard.bench)
    assert run_shadow(shadow, settled=10**9) == 0
    assert shadow.trouble.startswith("blocked: journal damaged:")
    assert f"{segments[0].path}: a segment of another engine" in shadow.trouble
    assert list_snapshots(shard.bench.place.snapshot_dir) == []
    assert list_segments(shard.bench.place.journal_dir) == segments
    shard.bench.engine_mark = 7
    assert run_shadow(make_shadow(shard.bench)) == len(segments) - 1


def test_segments_go_when_nobody_needs_them(tmp_path: Path, commands: NDArray[np.void]) -> None:
    """Closed segments go once they are settled and in a snapshot that stays; a restart still works."""
    shard = run_matcher(tmp_path, commands)
    journal_dir = shard.bench.place.journal_dir
    before = len(list_segments(journal_dir))
    unsettled = make_shadow(shard.bench)
    run_shadow(unsettled, settled=0)
    assert len(list_segments(journal_dir)) == before
    run_shadow(make_shadow(shard.bench), settled=shard.bench.events.head)
    left = list_segments(journal_dir)
    assert 1 <= len(left) < before
    assert len(list_snapshots(shard.bench.place.snapshot_dir)) >= 1
    expected = state_hash(shard.recovered.matching.book)
    shard.die()
    shard = start(shard.bench)
    assert state_hash(shard.recovered.matching.book) == expected
    shard.die()


def test_segments_stay_until_the_shadow_has_followed_them(tmp_path: Path, commands: NDArray[np.void]) -> None:
    """Though a matcher that was stopped left a snapshot of its end, nothing goes that the shadow has not compared."""
    shard = run_matcher(tmp_path, commands)
    shadow = make_shadow(shard.bench)
    shard.snapshot()
    run_shadow(shadow, settled=shard.bench.events.head)
    assert shadow.trouble == ""
    newest = max(command for _, command, _ in list_snapshots(shard.bench.place.snapshot_dir))
    assert newest == shard.recovered.matching.command_sequence
    shard.die()


def test_retention_keeps_young_segments(tmp_path: Path, commands: NDArray[np.void]) -> None:
    """A segment younger than the retention stays though it is settled and in a snapshot."""
    shard = run_matcher(tmp_path, commands)
    before = len(list_segments(shard.bench.place.journal_dir))
    run_shadow(make_shadow(shard.bench, retain_s=3600.0), settled=shard.bench.events.head)
    assert len(list_segments(shard.bench.place.journal_dir)) == before
    assert sum(len(batch) for _, batch in read_groups(shard.bench.place.journal_dir, 0)) >= len(commands)
    shard.die()
