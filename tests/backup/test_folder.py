"""The folder of a backup: whole or not there, and every change of it is found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tradeengine.storage.backup.database import BackupError
from tradeengine.storage.backup.folder import MANIFEST, SUMS, damage_of, open_partial, read_manifest, write_file

FILES = {
    "manifest.json": b'{"format": 1}',
    "journal/shard-0/a.journal": b"commands" * 100,
    "database.dump": b"dump" * 9,
}


def make(target: Path) -> Path:
    """Make a small folder."""
    with open_partial(target) as folder:
        for name, content in FILES.items():
            write_file(folder / name, content)
    return target


def test_whole_folder_is_whole(tmp_path: Path) -> None:
    """What was written is found unchanged, nobody else may look inside, and sha256sum agrees."""
    folder = make(tmp_path / "backup")
    assert damage_of(folder) == []
    assert [path.name for path in tmp_path.iterdir()] == ["backup"]
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.rglob("*") if path.is_file())
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=folder, check=True)


@pytest.mark.parametrize("name", [*FILES, SUMS])
def test_flipped_bits_are_found(tmp_path: Path, name: str) -> None:
    """One flipped bit anywhere, the list of checksums included, is found, and the file is named."""
    path = make(tmp_path / "backup") / name
    content = path.read_bytes()
    for place in range(0, len(content), 37):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            problems = damage_of(tmp_path / "backup")
        except BackupError as error:
            problems = [str(error)]
        assert problems, place
        assert name in problems[0] or name == SUMS
    path.write_bytes(content)
    assert damage_of(tmp_path / "backup") == []


def test_missing_and_foreign_files_are_found(tmp_path: Path) -> None:
    """A file that is gone, one that was cut short and one that was added are each named."""
    folder = make(tmp_path / "backup")
    (folder / "database.dump").unlink()
    (folder / "journal/shard-0/a.journal").write_bytes(b"commands")
    (folder / "journal/shard-0/b.journal").write_bytes(b"foreign")
    problems = damage_of(folder)
    assert problems == [
        "database.dump: missing",
        "journal/shard-0/a.journal: its bytes have changed",
        "journal/shard-0/b.journal: does not belong here",
    ]


@pytest.mark.parametrize("name", [MANIFEST, SUMS])
def test_half_folder_is_no_backup(tmp_path: Path, name: str) -> None:
    """Without its manifest or its checksums a folder is no backup, and it is said which is missing."""
    folder = make(tmp_path / "backup")
    (folder / name).unlink()
    with pytest.raises(BackupError, match=f"no whole backup: {name} is missing"):
        read_manifest(folder) if name == MANIFEST else damage_of(folder)


def test_other_format_is_refused(tmp_path: Path) -> None:
    """A manifest of a format to come is refused by file, found and expected version, and what to do."""
    folder = make(tmp_path / "backup")
    (folder / MANIFEST).write_text(json.dumps({"format": 7, "program": "9.0"}))
    with pytest.raises(
        BackupError, match=r"manifest.json is of format 7, this program reads format 1: use the version"
    ):
        read_manifest(folder)


def test_failed_backup_leaves_nothing(tmp_path: Path) -> None:
    """After an error there is neither a folder of that name nor a half one."""

    def fail() -> None:
        with open_partial(tmp_path / "backup") as folder:
            write_file(folder / "database.dump", b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_killed_backup_is_no_backup(tmp_path: Path) -> None:
    """What a killed backup leaves has another name; the next one takes its place, and two at once are refused."""
    target = tmp_path / "backup"
    program = (
        "import sys, time; from pathlib import Path; from tradeengine.storage.backup.folder import *\n"
        "with open_partial(Path(sys.argv[1])) as folder:\n"
        "    write_file(folder / 'left', b'half'); print(flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(target)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(BackupError, match="another backup is writing"):
        make(target)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not target.exists()
    make(target)
    assert damage_of(target) == []
    assert not target.with_name("backup.partial").exists()
    with pytest.raises(BackupError, match="is there already"):
        make(target)
