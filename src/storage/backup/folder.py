"""The folder of a backup: what is in it, and how it is told that it is whole.

Rule 1: no half backup looks like a whole one. It is made under another name (``.partial``), its last file is the list
of checksums, everything is synced, and only then it gets its name.
Rule 2: the list has every file, the manifest too, in the format of ``sha256sum``: so it can be checked by others, too.
Rule 3: only its owner may look inside: the secrets of the engine are in it.
It refuses to know what the files mean, but for the manifest.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from tradeengine.storage.backup.database import BackupError
from tradeengine.storage.journal_files import FileOperations, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
SUMS: Final = "SHA256SUMS"
DUMP: Final = "database.dump"
LATE: Final = "late.jsonl"
FILES: Final = "files"
"""Folder of what lay in the data directory: secrets, and whatever else is no journal, snapshot or database."""
JOURNAL: Final = "journal"
SNAPSHOTS: Final = "snapshots"
PARTIAL_SUFFIX: Final = ".partial"

_LINE: Final = re.compile(r"([0-9a-f]{64})  (.+)")
_PIECE_BYTES: Final = 1 << 20


class ShardManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is there of a shard. Sequences are of what comes next."""

    shard: int
    first_command_sequence: int
    """Where a replay begins: at the snapshot, or 0."""
    next_command_sequence: int
    settled_event_sequence: int
    """Of the first event that the dump does not have."""
    snapshot: str
    """Name of its file; empty: the replay begins with an empty book."""


class BookSizes(msgspec.Struct, frozen=True, kw_only=True):
    """How large the books may be: what they were is needed to replay them."""

    orders_max: int
    symbols_max: int
    levels_max: int
    accounts_max: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself. Times are UTC; ``cut_ns`` is risk's clock, nanoseconds since 1970."""

    format: int
    program: str
    kernel_version: int
    journal_format: int
    snapshot_format: int
    began_at: str
    ended_at: str
    cut_ns: int
    cut_at: str
    """Every command that was on the disk by then is in the journals; 1970 when there is none."""
    base: str
    """Folder of the backup that the dump is from; empty: it was made for this one."""
    dumped_at: str
    server_version: int
    migrations: tuple[str, ...]
    wallet_kind: str
    marks: dict[str, str]
    """How far the small tables are in the dump; ``storage.backup.late`` knows what they mean."""
    cursors: dict[str, int]
    """Settled cursors of the dump by shard; -1 is risk's ring."""
    book: BookSizes
    segment_bytes: int
    shards: tuple[ShardManifest, ...]
    not_included: tuple[str, ...]
    """Files elsewhere that the settings name: keys of issuers, TLS."""


@contextmanager
def open_partial(target: Path) -> Iterator[Path]:
    """Give a folder to fill; at the block's end it gets its sums and its name, after an error it is removed.

    Raises BackupError when the target is there already or another backup is making it, OSError.
    """
    if target.exists():
        raise BackupError(f"{target} is there already: choose a new folder for each backup")
    partial = target.with_name(target.name + PARTIAL_SUFFIX)
    partial.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"another backup is writing {partial}") from None
        try:
            _empty(partial)  # what a killed one left
            yield partial
            seal(partial)
            partial.rename(target)
            sync_folder(FileOperations(), target.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def seal(folder: Path) -> None:
    """Write the list of checksums and sync everything. Raises OSError."""
    names = _names(folder)
    for name in names:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    lines = "".join(f"{_digest(folder / name)}  {name}\n" for name in names)
    write_file(folder / SUMS, lines.encode())
    for path in [path for path in folder.rglob("*") if path.is_dir()] + [folder]:
        sync_folder(FileOperations(), path)


def write_file(path: Path, content: bytes) -> None:
    """Write a small file, readable by its owner only, and sync it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def damage_of(folder: Path) -> list[str]:
    """Compare every file with its checksum; give what is wrong, a line each; empty: all is as it was written.

    Raises BackupError when the folder is no whole backup at all.
    """
    listed = _read_sums(folder)
    problems = []
    for name, digest in sorted(listed.items()):
        path = folder / name
        try:
            if _digest(path) != digest:
                problems.append(f"{name}: its bytes have changed")
        except FileNotFoundError:
            problems.append(f"{name}: missing")
        except OSError as error:
            problems.append(f"{name}: cannot be read: {error.strerror}")
    problems += [f"{name}: does not belong here" for name in _names(folder) if name not in listed and name != SUMS]
    return problems


def read_manifest(folder: Path) -> Manifest:
    """Read what a backup says of itself. Raises BackupError for a format that this program does not know."""
    path = folder / MANIFEST
    try:
        block = path.read_bytes()
        found = msgspec.json.decode(block, type=dict[str, object]).get("format")
    except FileNotFoundError:
        raise BackupError(_not_whole(folder, f"{MANIFEST} is missing")) from None
    except (OSError, msgspec.DecodeError) as error:
        raise BackupError(f"{path} cannot be read: {error}") from None
    if found != FORMAT_VERSION:
        raise BackupError(
            f"{path} is of format {found}, this program reads format {FORMAT_VERSION}: "
            "use the version of the program that made the backup, or a newer one"
        )
    try:
        return msgspec.json.decode(block, type=Manifest)
    except msgspec.DecodeError as error:
        raise BackupError(f"{path} is damaged: {error}") from None


def byte_count(folder: Path) -> int:
    """Size of all files."""
    return sum((folder / name).stat().st_size for name in _names(folder))


def _read_sums(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        raise BackupError(_not_whole(folder, f"{SUMS} is missing")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BackupError(f"{folder / SUMS} cannot be read: {error}") from None
    found = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or ".." in match[2].split("/") or match[2].startswith("/"):
            raise BackupError(f"{folder / SUMS} is damaged: {line[:80]!r} is no checksum and name")
        found[match[2]] = match[1]
    return found


def _not_whole(folder: Path, why: str) -> str:
    if not folder.is_dir():
        return f"{folder} is not a folder"
    return f"{folder} is no whole backup: {why}"


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
