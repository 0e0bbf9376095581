"""Files in which actions wait for the audit log: nothing lost, nothing twice, whoever is killed when."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import stat
import zlib
from pathlib import Path

import psycopg
import pytest
from tests.storage.audit_entries import begun, make_entry

from tradeengine.storage import audit_spool
from tradeengine.storage.audit import Link, list_rows
from tradeengine.storage.audit_anchors import Anchors
from tradeengine.storage.audit_delivery import deliver, deliver_left_over
from tradeengine.storage.audit_spool import Spool, SpoolError, left_over_spools, open_spool


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a file is."""
    return tmp_path / "audit" / "front-0.spool"


def deliver_all(connection: psycopg.Connection, spool: Spool, anchors: Anchors) -> None:
    """Deliver until nothing waits."""
    while spool.waiting_bytes():
        deliver(connection, spool, anchors)


def test_entries_come_out_in_the_order_of_their_ends(path: Path) -> None:
    """What has ended is read once, in the order in which it ended; what has only begun is not read."""
    spool = open_spool(path)
    first, second, third = make_entry(), make_entry(), make_entry()
    for entry in (begun(first), begun(second), second, begun(third), first):
        spool.write(entry)
    entries, position = spool.read_ended(1)
    assert entries == [second]
    spool.mark_read(position)
    entries, position = spool.read_ended(10)
    assert entries == [first]
    spool.mark_read(position)
    assert spool.waiting_bytes() == 0
    spool.write(third)
    assert spool.read_ended(10)[0] == [third]
    spool.close()


def test_action_that_never_ended_is_told_as_unknown(path: Path) -> None:
    """Of an action whose process was killed the next owner says that its outcome is unknown, once."""
    spool = open_spool(path)
    done, killed = make_entry(), make_entry()
    for entry in (begun(done), done, begun(killed)):
        spool.write(entry)
    spool.close()
    for _ in range(2):
        spool = open_spool(path)
        entries, _ = spool.read_ended(10)
        assert [(entry.action_id, entry.outcome, entry.code) for entry in entries] == [
            (done.action_id, "ok", None),
            (killed.action_id, "unknown", "OUTCOME_UNKNOWN"),
        ]
        spool.close()


def test_torn_end_is_no_entry(path: Path) -> None:
    """Cut anywhere in its last line the file has all entries before it, and takes new ones behind them."""
    spool = open_spool(path, room_bytes=0)
    whole, torn = make_entry(), make_entry()
    start, end = spool.write(whole), spool.write(torn)
    spool.close()
    content = path.read_bytes()
    later = make_entry()
    for cut in (start, start + 1, (start + end) // 2, end - 1):
        path.write_bytes(content[:cut] + b"\0" * 100)
        spool = open_spool(path, room_bytes=0)
        spool.write(later)
        assert spool.read_ended(10)[0] == [whole, later]
        spool.close()


def test_changed_byte_is_no_entry(path: Path) -> None:
    """A line of which one byte is another one is not taken for an entry."""
    spool = open_spool(path, room_bytes=0)
    spool.write(make_entry(actor="root"))
    spool.close()
    path.write_bytes(path.read_bytes().replace(b'"root"', b'"toor"'))
    spool = open_spool(path)
    assert spool.read_ended(10)[0] == []
    spool.close()


def test_what_a_damaged_line_hides_is_kept_aside(path: Path) -> None:
    """Lines behind a damaged one are not entries, and are not lost in silence: they are in a file of their own."""
    spool = open_spool(path)
    start = spool.write(make_entry())
    end = spool.write(make_entry(actor="hidden"))
    spool.close()
    content = path.read_bytes()
    path.write_bytes(b"x" + content[1:])
    open_spool(path).close()
    (aside,) = path.parent.glob("front-0.damaged-*")
    assert aside.read_bytes() == b"x" + content[1:end]
    assert b"hidden" in content[start:end]
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600


@pytest.mark.parametrize("payload", [b'{"actor": "\xff"}', b'{"details": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"])
def test_line_that_nobody_can_read_is_no_entry(path: Path, payload: bytes) -> None:
    """A line with the right checksum and an unreadable text stops no front."""
    path.parent.mkdir()
    path.write_bytes(b"%08x %b\n" % (zlib.crc32(payload), payload))
    spool = open_spool(path)
    assert spool.read_ended(10)[0] == []
    spool.close()


def test_room_is_taken_in_advance(path: Path) -> None:
    """The file has its room on the disk before anything is written, and a long one is started anew with it."""
    spool = open_spool(path, room_bytes=1 << 16)
    assert path.stat().st_size == 1 << 16
    assert path.stat().st_blocks * 512 >= 1 << 16
    first_file = path.stat().st_ino
    while spool.end < 1 << 15:
        spool.write(make_entry())
    while spool.waiting_bytes():
        spool.mark_read(spool.read_ended(10)[1])
    assert path.stat().st_ino != first_file
    assert (spool.end, path.stat().st_size) == (0, 1 << 16)
    entry = make_entry()
    spool.write(entry)
    assert spool.read_ended(10)[0] == [entry]
    spool.close()


def test_file_with_an_open_action_is_not_started_anew(path: Path) -> None:
    """As long as an action has not ended its beginning stays where the next owner finds it."""
    spool = open_spool(path, room_bytes=1 << 12)
    waiting = make_entry()
    spool.write(begun(waiting))
    for _ in range(20):
        spool.write(make_entry())
    spool.mark_read(spool.read_ended(100)[1])
    spool.close()
    spool = open_spool(path, room_bytes=1 << 12)
    assert spool.read_ended(100)[0][-1].action_id == waiting.action_id
    spool.close()


def test_full_file_takes_no_new_action(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound nothing new may begin, but what has begun can still end."""
    monkeypatch.setattr(audit_spool, "SPOOL_BYTES_MAX", 2000)
    spool = open_spool(path)
    entry = make_entry()
    spool.write(begun(entry))
    while spool.end < 1800:
        spool.write(make_entry())
    with pytest.raises(SpoolError, match="too much waits"):
        spool.write(begun(make_entry()))
    spool.write(entry)
    assert spool.read_ended(100)[0][-1] == entry
    spool.close()


def test_full_disk_refuses_and_recovers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written is refused, and the next one that can is taken."""
    spool = open_spool(path)

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", fail)
        with pytest.raises(SpoolError, match="No space left"):
            spool.write(make_entry())
    entry = make_entry()
    spool.write(entry)
    assert spool.read_ended(10)[0] == [entry]
    spool.close()


def test_failed_sync_is_final(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a sync that failed the process writes nothing more: what the kernel dropped would be missed by nobody."""
    spool = open_spool(path)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        with pytest.raises(SpoolError, match="cannot be synced"):
            spool.write(make_entry())
    with pytest.raises(SpoolError, match="cannot be synced"):
        spool.write(make_entry())
    spool.close()


def test_damage_before_the_end_is_told(path: Path) -> None:
    """A line that is damaged while the file is in use stops the delivery by an error, not in silence."""
    spool = open_spool(path)
    spool.write(make_entry())
    with path.open("r+b") as file:
        file.write(b"x")
    with pytest.raises(SpoolError, match="damaged at byte 0"):
        spool.read_ended(10)
    spool.close()


def test_what_the_dead_left_is_taken_over_and_what_lives_is_not(tmp_path: Path, connection: psycopg.Connection) -> None:
    """Files without an owner are brought into the log and removed; a file whose owner lives stays alone."""
    folder, anchors = tmp_path, Anchors(tmp_path)
    living, dead = open_spool(folder / "front-0.spool"), open_spool(folder / "cli-1.spool")
    mine, ended, killed = make_entry(), make_entry(actor="cli:a"), make_entry(actor="cli:b")
    living.write(mine)
    dead.write(ended)
    dead.write(begun(killed))
    dead.close()
    deliver_left_over(connection, folder, anchors)
    rows = [row.entry for row in list_rows(connection, limit=10)]
    assert [(entry.actor, entry.outcome) for entry in rows] == [("cli:b", "unknown"), ("cli:a", "ok")]
    assert [path.name for path in folder.glob("*.spool")] == ["front-0.spool"]
    assert list(left_over_spools(folder)) == []
    living.close()


def test_left_over_that_no_log_takes_is_kept_aside(tmp_path: Path, connection: psycopg.Connection) -> None:
    """A forged file of nobody's is kept under another name, and what others left comes into the log."""
    forgeries = (
        make_entry(action_id="zz"),
        make_entry(actor="a\0b"),
        make_entry(time_us=10**20),
        make_entry(time_us=2**63 - 1),
    )
    for number, entry in enumerate(forgeries):
        forged = open_spool(tmp_path / f"forged-{number}.spool")
        forged.write(entry)
        forged.close()
    dead, left = open_spool(tmp_path / "z.spool"), make_entry(actor="left")
    dead.write(left)
    dead.close()
    assert [entry for entry, _ in deliver_left_over(connection, tmp_path, Anchors(tmp_path))] == [left]
    assert not list(tmp_path.glob("*.spool"))
    assert len(list(tmp_path.glob("forged-*.damaged-*"))) == len(forgeries)


def test_owner_comes_back_while_its_file_is_taken_over(tmp_path: Path, connection: psycopg.Connection) -> None:
    """An owner that starts after its file was brought in has a file of its own that nobody removes."""
    path, anchors = tmp_path / "front-0.spool", Anchors(tmp_path)
    spool = open_spool(path)
    spool.write(make_entry())
    spool.close()
    deliver_left_over(connection, tmp_path, anchors)
    assert not path.exists()
    spool = open_spool(path)
    spool.write(make_entry())
    deliver_left_over(connection, tmp_path, anchors)
    deliver_all(connection, spool, anchors)
    assert len(list_rows(connection, limit=10)) == 2
    spool.close()


def test_delivery_broken_off_anywhere_adds_nothing_twice(path: Path, connection: psycopg.Connection) -> None:
    """Killed after the row or after the anchor, the next owner delivers again, and the log has each entry once."""
    entries = [make_entry(target=str(number)) for number in range(250)]
    spool = open_spool(path)
    for entry in entries:
        spool.write(entry)
    deliver(connection, spool, Anchors(path.parent))
    spool.close()
    for _ in range(2):
        spool = open_spool(path)
        deliver_all(connection, spool, Anchors(path.parent))
        spool.close()
    assert [row.entry for row in list_rows(connection, limit=1000)][::-1] == entries
    newest = list_rows(connection, limit=1)[0].link
    assert max(Anchors(path.parent).read(), key=lambda link: link.id) == newest


def test_what_was_written_survives_kill_9(path: Path) -> None:
    """Each entry that a process was told to be written is there after that process was killed in the middle of it."""
    context = multiprocessing.get_context("fork")
    mine, others = context.Pipe(duplex=False)
    process = context.Process(target=_write_for_ever, args=(path, others), daemon=True)
    process.start()
    others.close()
    told = [mine.recv() for _ in range(200)]
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    while mine.poll():
        try:
            told.append(mine.recv())
        except EOFError:
            break
    spool = open_spool(path)
    found = [entry.action_id for entry in spool.read_ended(1 << 20)[0]]
    assert found[: len(told)] == told
    assert len(found) <= len(told) + 1
    spool.close()


def _write_for_ever(path: Path, told: object) -> None:
    spool = open_spool(path)
    while True:
        entry = make_entry()
        spool.write(entry)
        told.send(entry.action_id)  # type: ignore[attr-defined]


def test_anchors_are_kept_and_thinned_out(tmp_path: Path) -> None:
    """Anchors are read as they were written, a torn line is none, and a long file keeps every second and the newest."""
    anchors = Anchors(tmp_path, bytes_max=1000)
    links = [Link(number, bytes([number] * 32)) for number in range(1, 41)]
    for link in links[:10]:
        anchors.add(link)
    assert anchors.read() == links[:10]
    with anchors.path.open("ab") as file:
        file.write(b"11 abc")
    for link in links[10:]:
        anchors.add(link)
        kept = anchors.read()
        assert kept[-1] == link
        assert set(kept) <= set(links)
        assert anchors.path.stat().st_size < 1100
    assert kept[0].id <= 8
