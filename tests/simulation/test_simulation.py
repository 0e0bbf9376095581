"""The simulation: schedules hold, the same seed does the same, and faults that are planted are found."""

from __future__ import annotations

import os
import time
from random import Random
from typing import TYPE_CHECKING, Final

import pytest
from tests.simulation.__main__ import run_many
from tests.simulation.clients import Clients
from tests.simulation.engine import Counts
from tests.simulation.machine import SECTOR_BYTES, Disk, File
from tests.simulation.planted import FAULTS, planted
from tests.simulation.schedule import run, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIXED_SEEDS: Final = 100
NEW_SEEDS: Final = 150
SEEDS_MIN: Final = 20
SEEDS_S: Final = 15.0
"""After so long no further seed is tried: on a busy machine these are fewer."""
FOUND_WITHIN: Final = 100
"""Seeds within which a planted fault is found, unless it is one that few schedules meet."""
RARE: Final = {
    "a torn tail is not cut": 4000,
    "the successor's name is not synced": 4000,
    "settlement does not read its cursors again": 1000,
}
"""Faults that few schedules meet, and the seeds within which each is found."""


def test_schedules_hold() -> None:
    """Whatever dies when, on fixed seeds and on new ones: a failure names the seed that repeats it."""
    counts = Counts()
    for seed in _seeds():
        result = run(seed)
        assert not result.failure, f"{result.failure}\n  python -m tests.simulation --seed {seed} --trace"
        counts.add(result.counts)
    assert counts.deaths > counts.schedules
    assert counts.machine_deaths > counts.schedules // 2
    assert counts.trades > counts.schedules


def _seeds() -> Iterator[int]:
    first_new = int(os.environ.get("TEST_SEED", Random().randrange(10**6, 10**9)))
    ends_s = time.monotonic() + SEEDS_S
    for number, seed in enumerate((*range(FIXED_SEEDS), *range(first_new, first_new + NEW_SEEDS))):
        if number > SEEDS_MIN and time.monotonic() > ends_s:
            return
        yield seed


def test_seed_does_the_same_again() -> None:
    """A seed gives the same schedule, told word for word, though others ran between."""
    told: list[list[str]] = [[], []]
    for words in told:
        run(7, tell=words.append)
        run(8)
    assert len(told[0]) > 50
    assert told[0] == told[1]


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in RARE])
def test_simulation_finds_planted_faults(name: str) -> None:
    """Each mechanism that a promise rests on is taken away once; some schedule out of few says that a promise broke."""
    _find(name, FOUND_WITHIN)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", RARE)
def test_simulation_finds_rare_planted_faults(name: str) -> None:
    """The same, of mechanisms that matter only when several things come together."""
    _find(name, RARE[name])


def _find(name: str, seeds: int) -> None:
    with planted(name):
        assert any(run(seed).failure for seed in range(seeds)), f"no schedule out of {seeds} noticed that {name}"


@pytest.mark.long
def test_failing_schedule_becomes_shorter() -> None:
    """Of a schedule that fails few steps are left, and these fail alike."""
    with planted("risk passes over what is not settled"):
        seed = next(seed for seed in range(FOUND_WITHIN) if run(seed).failure)
        result = run(seed)
        steps = shorten(seed, result.failure, runs_max=60)
        assert len(steps) < result.counts.steps // 2
        assert run(seed, steps).failure[:20] == result.failure[:20]


def test_failing_seed_is_told_with_the_line_that_repeats_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A run of many seeds ends with 1 when one failed, and prints its command line."""
    with planted("the matcher does not sync"):
        assert run_many(range(1)) == 1
    told = capsys.readouterr().out
    assert "python -m tests.simulation --seed 0 --steps" in told
    assert "1 failed" in told


def test_question_without_an_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that never hears of its command is noticed."""
    monkeypatch.setattr(Clients, "look", lambda *_: None)
    assert "never answered" in run(1).failure


def test_machine_loses_only_what_was_not_synced(tmp_path: Path) -> None:
    """What was synced survives; of a write since, any sectors may; a name counts once its folder was synced."""
    outcomes = set()
    for seed in range(40):
        disk = Disk(tmp_path / "disk")
        folder = disk.root / "folder"
        disk.make_folder(folder)
        fd = disk.open(folder / "kept", os.O_RDWR | os.O_CREAT)
        disk.pwritev(fd, [b"a" * 2 * SECTOR_BYTES], 0)
        disk.sync(fd)
        folder_fd = disk.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        disk.sync(folder_fd)
        disk.pwritev(fd, [b"b" * SECTOR_BYTES], SECTOR_BYTES)
        disk.rename(folder / "kept", folder / "renamed")
        disk.crash(Random(seed))
        (path,) = folder.iterdir()
        content = path.read_bytes()
        assert content[:SECTOR_BYTES] == b"a" * SECTOR_BYTES
        outcomes.add((path.name, content[SECTOR_BYTES:]))
        disk.close()
    second = {letter * SECTOR_BYTES for letter in (b"a", b"b")}
    assert outcomes == {(name, content) for name in ("kept", "renamed") for content in second}


def test_failed_sync_loses_what_it_was_about(tmp_path: Path) -> None:
    """After a sync that failed the next one succeeds, and what was written before the first is lost all the same."""
    disk = Disk(tmp_path / "disk")
    folder = disk.root / "folder"
    disk.make_folder(folder)
    disk.store(folder / "file", b"before")
    fd = disk.open(folder / "file", os.O_RDWR)
    disk.pwritev(fd, [b"behind"], 0)
    disk.fails = "sync"
    with pytest.raises(OSError, match="Input/output"):
        disk.datasync(fd)
    assert not disk.is_safe(folder)
    disk.datasync(fd)
    assert (folder / "file").read_bytes() == b"behind"
    disk.crash(Random(0))
    assert (folder / "file").read_bytes() == b"before"
    disk.close()


def test_file_that_is_cut_and_grown_is_zeros_behind() -> None:
    """A file keeps its bytes up to where it was cut, and zeros follow."""
    file = File(bytearray(b"abc"), [(1, None), (4, None), (3, b"z")])
    file.sync()
    assert bytes(file.safe) == b"a\0\0z"
