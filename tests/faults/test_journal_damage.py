"""A shard whose files were damaged while nobody ran: it comes back as it was, or it refuses and says what to do.

Each test damages the journal and snapshots of a shard that was killed, and starts the shard anew on fresh rings, as
after the loss of the machine's memory. The oracle is an uninterrupted run of the same flow: either all its events come
back, byte for byte, with the same book, or the start is refused with the file, the sequence and the remedy. A third
outcome is a wrong book, and fails the test whatever was done to the files.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
from tests.actors.matcher_bench import LIMITS, SEGMENT_BYTES, SHARD, Bench, Shard, flow, run_all, start

from tradeengine.actors.matcher import snapshot_header
from tradeengine.actors.matcher_events import ReplayDiffers
from tradeengine.actors.matcher_recovery import RecoveryRefused
from tradeengine.core.book import state_hash
from tradeengine.storage.journal import Journal
from tradeengine.storage.journal_format import JournalDamaged, JournalError
from tradeengine.storage.journal_read import journal_end, list_segments, segment_name
from tradeengine.storage.snapshots import list_snapshots, read_snapshot, write_snapshot

if TYPE_CHECKING:
    from numpy.typing import NDArray

COMMANDS: Final = 1300
SNAPSHOTS_AT: Final = (500, 900)
SETTLED_AT: Final = 1000
PORTION: Final = 20
DAMAGES_SHORT: Final = 300
DAMAGES_LONG: Final = 6000
LAST_GROUP_COMMANDS: Final = 3
OWN_MARK: Final = 0xA0000001
OTHER_MARK: Final = 0xB0000002


@dataclass(frozen=True)
class Story:
    """A shard's files after a kill, and what an uninterrupted run gave. ``settled``: what PostgreSQL has."""

    folder: Path
    commands: NDArray[np.void]
    events: NDArray[np.void]
    settled: int
    book_hash: int

    def copy_to(self, folder: Path) -> Path:
        """Copy the files; gives the folder."""
        shutil.copytree(self.folder, folder)
        return folder


def tell_story(folder: Path, seed: int) -> Story:
    """Run a flow over some segments, with two snapshots, and leave everything as a kill does."""
    commands = flow(seed, COMMANDS)
    bench = Bench(folder)
    shard = start(bench)
    taken, settled = [], 0
    for first in range(0, len(commands), PORTION):
        taken.append(run_all(shard, commands[first : first + PORTION]))
        if first in SNAPSHOTS_AT:
            shard.snapshot()
        if first == SETTLED_AT:
            settled = bench.events.head
    book_hash = int(state_hash(shard.recovered.matching.book))
    shard.die()
    return Story(folder, commands, np.concatenate(taken), settled, book_hash)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Leave a shard with several segments, all of whose commands were acknowledged."""
    told = tell_story(tmp_path_factory.mktemp("story") / "shard", seed=11)
    segments = list_segments(told.folder / "journal")
    assert len(segments) >= 4
    assert len(list_snapshots(told.folder / "snapshots")) == len(SNAPSHOTS_AT)
    assert segments[-1].header.first_event_sequence > told.settled
    return told


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Leave the same shard of a foreign engine."""
    return tell_story(tmp_path_factory.mktemp("other") / "shard", seed=12)


def restart(folder: Path, settled: int) -> Shard:
    """Start the shard as after the loss of all memory: rings open where durable things end."""
    end = journal_end(folder / "journal")
    return start(Bench(folder, settled=settled, first_ring_sequence=end.next_ring_sequence))


def outcome(story: Story, folder: Path, settled: int | None = None) -> str:
    """Start the damaged shard; gives ``same``, or the refusal's words. Raises AssertionError on a third outcome."""
    settled = story.settled if settled is None else settled
    try:
        shard = restart(folder, settled)
    except (JournalError, RecoveryRefused, ReplayDiffers) as refusal:
        text = str(refusal)
        assert "Remedy:" in text, text
        assert str(folder) in text, text
        return text
    published = shard.bench.take()
    book_hash = int(state_hash(shard.recovered.matching.book))
    ended = shard.recovered.journal.next_command_sequence, shard.recovered.matching.command_sequence
    shard.die()
    assert published.tobytes() == story.events[settled:].tobytes(), "other events than were acknowledged"
    assert book_hash == story.book_hash, "another book"
    assert ended[0] == ended[1], "book and journal stand at different commands"
    return "same"


def flip(path: Path, offset: int, bit: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def segments_of(folder: Path) -> list[Path]:
    """Paths of all segments, oldest first."""
    return sorted((folder / "journal").glob("*.journal"))


def used_bytes(path: Path) -> int:
    """How much of a segment was written, before the zeros that were taken in advance."""
    data = np.fromfile(path, np.uint8)
    return int(np.flatnonzero(data)[-1]) + 1


def test_undamaged_shard_comes_back(story: Story, tmp_path: Path) -> None:
    """Without damage everything comes back, from either snapshot and from none."""
    for number, settled in enumerate((story.settled, len(story.events), 0)):
        assert outcome(story, story.copy_to(tmp_path / str(number)), settled) == "same"


@pytest.mark.parametrize("how", ["truncated", pytest.param("zeroed", marks=pytest.mark.long)])
def test_tear_at_every_byte_of_the_last_group_costs_only_that_group(story: Story, tmp_path: Path, how: str) -> None:
    """However little of the last group reached the disk, all that was acknowledged before it is there.

    The group's commands, which nobody was told of, are taken again and give what an uninterrupted run gives.
    """
    folder = story.copy_to(tmp_path / "torn")
    tail = segments_of(folder)[-1]
    with Journal.open(folder / "journal", SHARD, 3, segment_bytes=SEGMENT_BYTES) as journal:
        last = flow(99, 50)[-LAST_GROUP_COMMANDS:]
        last["timestamp_ns"] += 10**15
        begin = journal.bytes_used
        journal.append(last)
        end = journal.bytes_used
    original = tail.read_bytes()
    for size in range(begin, end):
        kept = original[:size]
        tail.write_bytes(kept if how == "truncated" else kept.ljust(len(original), b"\0"))
        assert outcome(story, folder) == "same", f"torn at byte {size - begin} of the group"
    shard = restart(folder, story.settled)
    before = shard.recovered.journal.next_command_sequence
    shard.bench.feed(last)
    shard.run()
    assert shard.recovered.journal.next_command_sequence >= before + LAST_GROUP_COMMANDS
    assert shard.recovered.journal.next_ring_sequence == shard.bench.risk.head
    shard.die()


@pytest.mark.parametrize("which", ["head", "middle", "tail"])
def test_flipped_bits_refuse_or_do_not_matter(story: Story, tmp_path: Path, which: str) -> None:
    """A bit that is flipped in the first, a middle or the last segment refuses to start if it is read at all.

    What the newest snapshot covers is not read, but for headers and seals; without a snapshot all of it is.
    """
    folder = story.copy_to(tmp_path / "flipped")
    path = {"head": segments_of(folder)[0], "middle": segments_of(folder)[1], "tail": segments_of(folder)[-1]}[which]
    original, chance = path.read_bytes(), random.Random(which)
    heads = [chance.randrange(100) for _ in range(20)]
    bodies = [chance.randrange(4096, used_bytes(path)) for _ in range(60)]
    for settled, offsets in ((story.settled, heads + bodies), (0, bodies)):
        found: Counter[bool] = Counter()
        for offset in offsets:
            path.write_bytes(original)
            flip(path, offset, chance.randrange(8))
            words = outcome(story, folder, settled)
            found[words == "same"] += 1
            assert words == "same" or path.name in words
        if settled == 0 or which == "tail":
            assert found[True] == 0, "damage was read and not seen"


def test_flipped_bit_in_a_segments_name_refuses(story: Story, tmp_path: Path) -> None:
    """Whatever bit of a segment's name is flipped, the file is missed or found under its wrong name."""
    folder = story.copy_to(tmp_path / "named")
    for path in (segments_of(folder)[0], segments_of(folder)[2], segments_of(folder)[-1]):
        for place in range(len(path.name)):
            for bit in range(7):
                letters = bytearray(path.name.encode())
                letters[place] ^= 1 << bit
                if letters[place] in b"/\0":
                    continue
                misnamed = path.rename(path.with_name(letters.decode()))
                assert outcome(story, folder) != "same", misnamed.name
                misnamed.rename(path)


def test_only_segment_under_another_name_is_not_an_empty_journal(tmp_path: Path) -> None:
    """A journal of one segment, nothing of which is settled, is not begun anew when the segment's name is damaged."""
    bench = Bench(tmp_path)
    shard = start(bench)
    run_all(shard, flow(5, 40))
    shard.die()
    (path,) = segments_of(tmp_path)
    path.rename(path.with_name(path.name.replace(".journal", ".jourNal")))
    with pytest.raises(JournalDamaged, match=f"rename it to {segment_name(0)}"):
        restart(tmp_path, 0)


def swap(first: Path, second: Path) -> None:
    """Exchange two files."""
    aside = first.with_suffix(".aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def _groups_bytes(path: Path, commands_from_end: int) -> int:
    """Bytes of the whole groups of a segment but for the last ones, which hold at least so many commands."""
    ends, counts, offset = [], [], 4096
    data = path.read_bytes()
    while int.from_bytes(data[offset : offset + 8], "little"):
        rows = int.from_bytes(data[offset + 24 : offset + 28], "little")
        offset += 128 + rows * 128
        ends.append(offset - 4096)
        counts.append(rows)
    left = commands_from_end
    while left > 0:
        ends.pop()
        left -= counts.pop()
    return ends[-1] if ends else 0


MISPLACED: Final[dict[str, Callable[[Path, Path], object]]] = {
    "a middle segment removed": lambda own, _: segments_of(own)[1].unlink(),
    "the first segment removed": lambda own, _: segments_of(own)[0].unlink(),
    "the last segment removed": lambda own, _: segments_of(own)[-1].unlink(),
    "all segments removed": lambda own, _: shutil.rmtree(own / "journal"),
    "two segments exchanged": lambda own, _: swap(segments_of(own)[1], segments_of(own)[2]),
    "a copy of one in the place of another": lambda own, _: shutil.copy(segments_of(own)[1], segments_of(own)[2]),
    "a foreign engine's first": lambda own, other: shutil.copy(segments_of(other)[0], segments_of(own)[0]),
    "a foreign engine's middle": lambda own, other: shutil.copy(
        segments_of(other)[1], segments_of(own)[1].with_name(segments_of(other)[1].name)
    ),
    "a foreign engine's last": lambda own, other: shutil.copy(
        segments_of(other)[-1], segments_of(own)[-1].with_name(segments_of(other)[-1].name)
    ),
}


@pytest.mark.parametrize("what", MISPLACED)
def test_misplaced_files_refuse_or_do_not_matter(story: Story, other: Story, tmp_path: Path, what: str) -> None:
    """Segments that are missing, exchanged, or another engine's are refused, wherever the replay would begin."""
    for number, settled in enumerate((story.settled, len(story.events), 0)):
        folder = story.copy_to(tmp_path / str(number))
        MISPLACED[what](folder, other.folder)
        words = outcome(story, folder, settled)
        assert words != "same" or what == "the first segment removed", settled


def run_marked(folder: Path, seed: int, count: int, engine_mark: int, settled: int | None = None) -> Shard:
    """Start the shard of an engine with this mark, new or as after the loss of all memory, and run a flow if new."""
    if settled is not None:
        end = journal_end(folder / "journal")
        bench = Bench(folder, settled=settled, first_ring_sequence=end.next_ring_sequence, engine_mark=engine_mark)
        return start(bench)
    shard = start(Bench(folder, engine_mark=engine_mark))
    run_all(shard, flow(seed, count))
    return shard


@pytest.mark.parametrize("settled", ["all", "some", "none"])
@pytest.mark.parametrize("with_snapshot", [False, True])
def test_whole_foreign_journal_is_refused(tmp_path: Path, settled: str, *, with_snapshot: bool) -> None:
    """One segment of another engine, longer than what PostgreSQL has settled, breaks no chain: its mark tells it.

    With the engine's own journal back in its place the same start succeeds.
    """
    own = run_marked(tmp_path / "own", 31, 40, OWN_MARK)
    if with_snapshot:
        own.snapshot()
    end = own.bench.events.head
    own.die()
    run_marked(tmp_path / "other", 32, 90, OTHER_MARK).die()
    (path,) = segments_of(tmp_path / "own")
    (foreign,) = segments_of(tmp_path / "other")
    at = {"all": end, "some": end // 2, "none": 0}[settled]
    kept = shutil.copy(path, tmp_path / "kept")
    shutil.copy(foreign, path)
    with pytest.raises(JournalDamaged, match="a segment of another engine") as refusal:
        run_marked(tmp_path / "own", 0, 0, OWN_MARK, at)
    assert refusal.value.file == path
    assert "put this engine's own journal and snapshots there" in refusal.value.remedy
    assert path.read_bytes() == foreign.read_bytes()
    shutil.copy(kept, path)
    back = run_marked(tmp_path / "own", 0, 0, OWN_MARK, at)
    assert back.recovered.matching.event_sequence == end
    back.die()


def test_another_engines_snapshots_are_passed_over(tmp_path: Path) -> None:
    """A foreign snapshot from the middle of a segment, whole and of a fitting place, is not believed, and named."""
    own = run_marked(tmp_path / "own", 31, 40, OWN_MARK)
    end, book_hash = own.bench.events.head, int(state_hash(own.recovered.matching.book))
    own.die()
    other = run_marked(tmp_path / "other", 32, 30, OTHER_MARK)
    other.snapshot()
    assert other.bench.events.head < end
    other.die()
    (foreign,) = [path for path, *_ in list_snapshots(tmp_path / "other" / "snapshots")]
    (tmp_path / "own" / "snapshots").mkdir(exist_ok=True)
    shutil.copy(foreign, tmp_path / "own" / "snapshots")
    back = run_marked(tmp_path / "own", 0, 0, OWN_MARK, end)
    (skip,) = back.recovered.skipped
    assert (skip.path.name, skip.reason) == (foreign.name, "it is another engine's")
    assert int(state_hash(back.recovered.matching.book)) == book_hash
    back.snapshot()
    back.die()
    again = run_marked(tmp_path / "own", 0, 0, OWN_MARK, end)
    assert (again.recovered.from_event_sequence, again.recovered.skipped) == (end, [])
    again.die()


def test_journal_of_an_earlier_version_is_gone_on_with(story: Story, tmp_path: Path) -> None:
    """Segments without a mark come back as they were, and what follows them has the engine's."""
    folder = story.copy_to(tmp_path / "earlier")
    shard = run_marked(folder, 0, 0, OWN_MARK, story.settled)
    assert shard.bench.take().tobytes() == story.events[story.settled :].tobytes()
    shard.duty._roll()
    shard.die()
    marks = [segment.header.engine_mark for segment in list_segments(folder / "journal", OWN_MARK)]
    assert marks == [0] * (len(marks) - 1) + [OWN_MARK]
    again = run_marked(folder, 0, 0, OWN_MARK, len(story.events))
    assert int(state_hash(again.recovered.matching.book)) == story.book_hash
    again.die()


def test_segments_of_two_shards_exchanged_refuse(story: Story, tmp_path: Path) -> None:
    """A segment of another shard of the same engine is told by its number of the shard."""
    folder = story.copy_to(tmp_path / "own")
    limits = replace(LIMITS, shard=SHARD + 1)
    commands = flow(21, 40)
    commands["order_id"] |= 1 << 16
    shard = start(Bench(tmp_path / "sibling", limits=limits))
    run_all(shard, commands[3:])
    shard.die()
    for path in segments_of(folder):
        shutil.copy(segments_of(tmp_path / "sibling")[0], path)
    with pytest.raises(JournalError, match="shard"):
        restart(folder, story.settled)


@pytest.mark.parametrize("settled", ["all", "some", "none"])
def test_old_copy_of_the_tail_is_refused_where_anything_newer_is_known(
    story: Story, tmp_path: Path, settled: str
) -> None:
    """An older copy of the last segment is refused when PostgreSQL, a later snapshot or the rings know of more."""
    folder = story.copy_to(tmp_path / "old")
    tail = segments_of(folder)[-1]
    if settled == "none":
        # Nothing was settled since; but a stop in order left a snapshot behind the copy's end.
        shard = restart(folder, story.settled)
        shard.snapshot()
        shard.die()
    data = tail.read_bytes()
    keep = 4096 + _groups_bytes(tail, 10)
    tail.write_bytes(data[:keep].ljust(len(data), b"\0"))
    at = {"all": len(story.events), "some": len(story.events) - 1, "none": len(story.events)}[settled]
    assert "Remedy" in outcome(story, folder, at)


def test_old_copy_of_the_whole_journal_is_refused_though_a_snapshot_is_newer(story: Story, tmp_path: Path) -> None:
    """A snapshot from a stop in order does not hide that the journal beside it is an older copy."""
    folder = story.copy_to(tmp_path / "old")
    shard = restart(folder, story.settled)
    shard.snapshot()
    shard.die()
    for path in segments_of(folder)[2:]:
        path.unlink()
    last = segments_of(folder)[-1]
    with last.open("r+b") as file:
        file.truncate(last.stat().st_size - 128)  # as it was before it was closed
    words = outcome(story, folder, len(story.events))
    assert "older copy" in words


def test_damaged_snapshot_falls_back(story: Story, tmp_path: Path) -> None:
    """A bit flipped anywhere in a snapshot makes the start use the one before, or the journal; the book is the same."""
    folder = story.copy_to(tmp_path / "snapshots")
    chance = random.Random(3)
    paths = [path for path, _, _ in list_snapshots(folder / "snapshots")]
    originals = {path: path.read_bytes() for path in paths}
    for damaged in ([paths[1]], paths):
        for _ in range(60):
            for path in damaged:
                path.write_bytes(originals[path])
                flip(path, chance.randrange(len(originals[path])), chance.randrange(8))
            assert outcome(story, folder) == "same"
        for path in damaged:
            path.write_bytes(originals[path])


def test_snapshot_under_another_name_is_not_believed(story: Story, tmp_path: Path) -> None:
    """A snapshot whose name says an earlier event than it holds is passed over, with the reason."""
    folder = story.copy_to(tmp_path / "renamed")
    path, command, event = list_snapshots(folder / "snapshots")[-1]
    settled = event - 1
    path.rename(path.with_name(f"{command:020d}-{event - 10:020d}.snapshot"))
    shard = restart(folder, settled)
    assert ["other sequences" in skip.reason for skip in shard.recovered.skipped] == [True]
    shard.die()
    assert outcome(story, folder, settled) == "same"


def test_snapshot_of_another_history_is_not_believed_where_a_segment_begins(story: Story, tmp_path: Path) -> None:
    """A snapshot from where a segment begins, as the shadow makes them, must have the events that its header says."""
    folder = story.copy_to(tmp_path / "history")
    shard = restart(folder, story.settled)
    shard.duty._roll()
    shard.snapshot()
    matching = shard.recovered.matching
    header = snapshot_header(matching, shard.bench.place, shard.recovered.journal.next_ring_sequence)
    shard.die()
    (path,) = (path for path, command, _ in list_snapshots(folder / "snapshots") if command == header.command_sequence)
    assert outcome(story, folder, len(story.events)) == "same"
    write_snapshot(folder / "snapshots", replace(header, event_hash=header.event_hash ^ 1), read_snapshot(path).payload)
    again = restart(folder, len(story.events))
    assert ["not of this journal" in skip.reason for skip in again.recovered.skipped] == [True]
    assert int(state_hash(again.recovered.matching.book)) == story.book_hash
    again.die()


def damages(seed: int, folder: Path, other: Path) -> Iterator[str]:
    """Do one to three random things to the files, and tell what."""
    chance = random.Random(seed)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        files = segments_of(folder) * 3 + [path for path, _, _ in list_snapshots(folder / "snapshots")]
        if not files:
            return
        path = chance.choice(files)
        size = used_bytes(path) if path.stat().st_size else 0
        kind = chance.choice(("flip", "flip", "noise", "cut", "remove", "swap", "rename", "foreign", "copy", "grow"))
        yield f"{kind} {path.name}"
        if kind == "flip" and size:
            flip(path, chance.randrange(size), chance.randrange(8))
        elif kind == "noise" and size:
            data = bytearray(path.read_bytes())
            offset, length = chance.randrange(size), chance.randrange(1, 700)
            data[offset : offset + length] = chance.randbytes(min(length, len(data) - offset))
            path.write_bytes(data)
        elif kind == "cut" and path != segments_of(folder)[-1]:
            path.write_bytes(path.read_bytes()[: chance.randrange(size + 1)])
        elif kind == "remove":
            path.unlink()
        elif kind == "swap":
            second = chance.choice(files)
            if second != path:
                swap(path, second)
        elif kind == "rename":
            free = next(n for n in count(chance.randrange(2000)) if not (path.parent / segment_name(n)).exists())
            path.rename(path.with_name(segment_name(free)))
        elif kind == "foreign":
            name = "journal" if path.suffix == ".journal" else "snapshots"
            shutil.copy(chance.choice(sorted((other / name).glob(f"*{path.suffix}"))), path)
        elif kind == "copy":
            shutil.copy(chance.choice([each for each in files if each.suffix == path.suffix]), path.with_suffix(".2"))
        elif kind == "grow":
            with path.open("ab") as file:
                file.write(chance.randbytes(chance.randrange(1, 500)))


def storm_of_damages(story: Story, other: Story, folder: Path, seeds: range) -> Counter[str]:
    """Damage and start, once for each seed; counts how it ended."""
    ends: Counter[str] = Counter()
    for seed in seeds:
        own = story.copy_to(folder / str(seed))
        done = list(damages(seed, own, other.folder))
        try:
            words = outcome(story, own)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {'; '.join(done)}: {type(error).__name__}: {error}") from error
        ends["same" if words == "same" else "refused"] += 1
        shutil.rmtree(own)
    return ends


def test_random_damage_never_gives_a_wrong_book(story: Story, other: Story, tmp_path: Path) -> None:
    """Hundreds of random damages, alone and together: each start has the same book and events, or is refused."""
    ends = storm_of_damages(story, other, tmp_path, range(DAMAGES_SHORT))
    assert min(ends["same"], ends["refused"]) > DAMAGES_SHORT // 10, ends


@pytest.mark.long
@pytest.mark.timeout(600)
def test_much_random_damage_never_gives_a_wrong_book(story: Story, other: Story, tmp_path: Path) -> None:
    """The same with thousands of seeds."""
    storm_of_damages(story, other, tmp_path, range(10_000, 10_000 + DAMAGES_LONG))
