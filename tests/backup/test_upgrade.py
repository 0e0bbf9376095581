"""Upgrades: what earlier versions left is replayed to the same hashes, and brings an older database forward."""

from __future__ import annotations

import json
import shutil
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.e2e.users import connect_database
from tests.engines import run_command, running_engine
from tests.samples.make_sample import SETTINGS
from tests.verified import assert_verified

from tradeengine.actors.matcher_recovery import Place, check_opening, starting_point
from tradeengine.actors.matching import KERNEL_VERSION, KERNEL_VERSIONS_REPLAYED, Matching
from tradeengine.core.book import BookLimits, make_book, state_hash
from tradeengine.core.hashing import HASH_START
from tradeengine.storage import journal_format, snapshots
from tradeengine.storage.backup.database import restore_database
from tradeengine.storage.embedded import open_embedded
from tradeengine.storage.journal_format import JournalError
from tradeengine.storage.journal_read import list_segments, read_segment
from tradeengine.storage.snapshots import list_snapshots, newest_snapshot, read_snapshot

SAMPLES = Path(__file__).parents[1] / "samples"
VERSIONS = (1, 2, 3)
LIMITS = BookLimits(orders_max=4096, symbols_max=16, levels_max=256, accounts_max=4096, shard=0)


@pytest.fixture
def unpack(tmp_path: Path) -> Any:
    """Give a function that unpacks the sample of a version into a folder."""

    def unpacked(version: int) -> Path:
        with tarfile.open(SAMPLES / f"kernel-{version}.tar.xz") as archive:
            archive.extractall(tmp_path / "data", filter="data")
        return tmp_path / "data"

    return unpacked


def place_in(folder: Path) -> Place:
    """Where the sample's shard lies."""
    return Place(folder / "journal/shard-0", folder / "snapshots/shard-0", 65536, LIMITS, KERNEL_VERSION)


def replay(folder: Path, matching: Matching) -> int:
    """Replay from where ``matching`` stands, comparing with what the matcher wrote then; returns how often."""
    compared = 0
    segments = list_segments(folder / "journal/shard-0")
    for place, segment in enumerate(segments):
        following = segments[place + 1].header if place + 1 < len(segments) else None
        if following and following.first_command_sequence <= matching.command_sequence:
            continue
        if segment.header.first_command_sequence == matching.command_sequence:
            check_opening(segment.header, matching)
            if segment.header.kernel_version == KERNEL_VERSION and matching.command_sequence:
                assert state_hash(matching.book) == segment.header.state_hash
            compared += 1
        batches = read_segment(
            segment, matching.command_sequence, closed=following is not None, kernel_versions=KERNEL_VERSIONS_REPLAYED
        )
        for _, commands in batches:
            for _events in matching.pieces(commands):
                pass
    return compared


def test_every_version_has_a_sample() -> None:
    """There is a sample of each kernel version that is replayed; whoever raises it is reminded to make one."""
    assert sorted(KERNEL_VERSIONS_REPLAYED) == sorted(VERSIONS)
    assert {path.name for path in SAMPLES.glob("*.xz")} == {f"kernel-{version}.tar.xz" for version in VERSIONS}


@pytest.mark.parametrize("version", VERSIONS)
def test_journal_of_a_version_gives_the_same_events(unpack: Any, version: int) -> None:
    """A journal of an earlier version gives, hash for hash, the events that it gave then, from wherever one begins."""
    folder = unpack(version)
    segments = list_segments(folder / "journal/shard-0")
    assert {segment.header.kernel_version for segment in segments} == {version}
    whole = Matching(make_book(LIMITS), HASH_START)
    assert replay(folder, whole) == len(segments) == 7
    found = list_snapshots(folder / "snapshots/shard-0")
    assert len(found) >= 2
    for path, command_sequence, event_sequence in found:
        assert read_snapshot(path).header.kernel_version == version
        matching, skipped = starting_point(place_in(folder), event_sequence)
        assert (matching.command_sequence, skipped) == (command_sequence, [])
        replay(folder, matching)
        assert (matching.command_sequence, matching.event_hash) == (whole.command_sequence, whole.event_hash)
        assert state_hash(matching.book) == state_hash(whole.book)


@pytest.mark.parametrize(
    "version", [*(pytest.param(version, marks=pytest.mark.long) for version in VERSIONS[:-1]), VERSIONS[-1]]
)
def test_engine_goes_on_from_a_version(unpack: Any, version: int) -> None:
    """An earlier version's database, older than its journal, is migrated and brought forward to what users saw."""
    folder = unpack(version)
    expected = json.loads((folder / "expected.json").read_text())
    with open_embedded(folder) as server:
        restore_database(server.dsn, folder / "database.dump", 180_000)
        with psycopg.connect(server.dsn) as connection:
            assert count(connection, "trades") < expected["trades"]
    with running_engine(folder, environment=SETTINGS) as engine:
        result = run_command("reconcile", "--data-dir", str(folder), **SETTINGS)
        assert result.returncode == 0, result.stdout + result.stderr
        assert_verified(engine, SETTINGS)
        with connect_database(engine) as connection:
            assert {table: count(connection, table) for table in ("orders", "trades", "postings")} == {
                table: expected[table] for table in ("orders", "trades", "postings")
            }
        for user in ("ann", "bob"):
            with engine.client(user) as client:
                assert client.get("/balances").json()["data"] == expected[user]["balances"]
                listed = client.get("/orders?status=open&limit=1000").json()["data"]
                # A later version may say more of an order, and says all that was said.
                assert [order | then for order, then in zip(listed, expected[user]["orders"], strict=True)] == listed
        with engine.client("ann") as client:
            order = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.1", "price": "39000.00"}
            assert client.post("/orders", json=order).status_code == 201


def count(connection: psycopg.Connection[Any], table: str) -> int:
    """How many rows a table has."""
    row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])


def test_newer_journal_is_refused(unpack: Any) -> None:
    """A segment of a format to come is refused by file, found and expected format, and what to do."""
    folder = unpack(3)
    last = list_segments(folder / "journal/shard-0")[-1].path
    newer = journal_format.FORMAT_VERSION + 1
    change_format(last, newer, struct.calcsize("<QHHIIIqqqQQQq"))
    with pytest.raises(JournalError) as refusal:
        list_segments(folder / "journal/shard-0")
    assert str(refusal.value).startswith(
        f"{last}: a journal segment of format {newer}; this program reads format {newer - 1}. Remedy: start the version"
    )


def test_newer_snapshot_is_skipped_by_name(unpack: Any) -> None:
    """A snapshot of a format to come is not used; both formats are named, and an older one serves."""
    folder = unpack(3)
    (older, *_), *_, (newest, *_) = list_snapshots(folder / "snapshots/shard-0")
    newer = snapshots.FORMAT_VERSION + 1
    change_format(newest, newer, struct.calcsize("<QHHIqqqQQqQI"))
    for path, *_ in list_snapshots(folder / "snapshots/shard-0"):
        if path not in (older, newest):
            path.unlink()
    found, skipped = newest_snapshot(folder / "snapshots/shard-0", 0, 1 << 62, lambda snapshot: snapshot.path)
    assert found == older
    assert [(skip.path, skip.reason) for skip in skipped] == [
        (newest, f"a snapshot of format {newer}; this program reads format {newer - 1}")
    ]


def test_newer_kernel_is_refused(unpack: Any) -> None:
    """Commands that a newer kernel has matched are refused by file and both versions, with what to do."""
    folder = unpack(2)
    segment = list_segments(folder / "journal/shard-0")[0]
    with pytest.raises(JournalError, match=r"were matched by kernel version 2, this one replays 1\. Remedy: start the"):
        list(read_segment(segment, 0, closed=True, kernel_versions={1}))


def change_format(path: Path, version: int, head_bytes: int) -> None:
    """Give a file another format version, with the checksum that a program of that version would have written."""
    block = bytearray(path.read_bytes())
    struct.pack_into("<H", block, 8, version)
    struct.pack_into("<I", block, head_bytes, zlib.crc32(bytes(block[:head_bytes])))
    path.write_bytes(block)


def test_newer_database_is_refused(unpack: Any, tmp_path: Path) -> None:
    """A database that a newer version has migrated is refused before anything is changed."""
    folder = unpack(3)
    shutil.rmtree(folder / "journal")
    with open_embedded(folder) as server:
        restore_database(server.dsn, folder / "database.dump", 180_000)
        with psycopg.connect(server.dsn) as connection:
            connection.execute(
                "INSERT INTO _yoyo_migration (migration_hash, migration_id, applied_at_utc) "
                "VALUES ('f', '9999.new', now())"
            )
    result = run_command("up", "--port", "0", "--data-dir", str(folder))
    assert result.returncode == 1
    assert "a newer version used it" in result.stderr
    assert not [path for path in (tmp_path / "data/journal").rglob("*") if path.is_file()]
