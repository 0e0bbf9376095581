"""The data directory: who owns it, and the secrets that are kept in it.

Rule 1: one engine per directory. The lock is a flock whose descriptor all actors inherit, so it is held as long as any
process of the engine lives, and gone with the last of them however they ended.
Rule 2: there are no default secrets. They are made at the first start, readable by their owner only.
It refuses to know what else lies in the directory.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tradeengine.settings import SECRET_LENGTH_MIN

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK_NAME: Final = "engine.lock"
SECRET_NAME: Final = "secret"  # noqa: S105 - the name of the file, not what is in it
MASTER_NAME: Final = "api-keys.master"
"""What the secrets of API keys are encrypted under."""
_MEND_SECRET: Final = "put the right one back, or remove the file and the next start makes a new one"  # noqa: S105 - prose
PRIVATE_FOLDERS: Final = ("journal", "snapshots")
MAKING: Final = "restoring"
"""Folder in which a restore makes everything before it gets its place."""
ORPHANS_TIMEOUT_S: Final = 60.0
"""Actors of a killed supervisor exit as soon as they notice; the next start waits that long for them. That is at once,
but on a machine with far too much to do one that is about to be forked may not come to look for half a minute."""


class DataDirError(Exception):
    """The directory cannot be used; the message says why and what to do."""


@contextmanager
def open_data_dir(path: Path) -> Iterator[int]:
    """Own a data directory, made when missing; gives the lock's descriptor, to be inherited by every actor.

    Raises DataDirError when another engine owns it, or it cannot be written.
    """
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # What mkdir says of a file in its place is only that something exists.
        why = "it is not a directory" if isinstance(error, FileExistsError) else error.strerror
        raise DataDirError(f"data directory {path} cannot be used: {why}") from None
    try:
        _take(lock, path)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield lock
    finally:
        os.close(lock)


def close_to_others(path: Path) -> None:
    """Keep what everyone ordered from other users of the machine; in directories of older versions, too."""
    for name in PRIVATE_FOLDERS:
        folder = path / name
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)


def refuse_half_restored(path: Path) -> None:
    """Raise DataDirError when a restore into the directory was not brought to its end."""
    if (path / MAKING).exists():
        raise DataDirError(f"{path} was restored by half: remove what is in it and run `tradeengine restore` again")


def read_secret(path: Path, name: str = SECRET_NAME) -> str:
    """Read a secret of a data directory. Raises DataDirError when there is none, or none that is worth the name."""
    place = path / name
    try:
        secret = place.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise DataDirError(
            f"no engine was ever started in {path}: run `tradeengine up --data-dir {path}` first"
        ) from None
    except OSError as error:
        raise DataDirError(f"{place} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataDirError(f"{place} is not a secret: it must be ASCII text; {_MEND_SECRET}") from None
    if len(secret) < SECRET_LENGTH_MIN:
        raise DataDirError(
            f"{place} has {len(secret)} characters: a secret has at least {SECRET_LENGTH_MIN}; {_MEND_SECRET}"
        )
    return secret


def ensure_secret(path: Path, name: str = SECRET_NAME) -> str:
    """Read a secret of a data directory, made when missing; two programs may do so at once."""
    if not (path / name).exists():
        making = path / f"{name}.{os.getpid()}"
        fd = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(48) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(making, path / name)
        making.unlink()
    return read_secret(path, name)


def owner_pid(path: Path) -> int | None:
    """Process id of the engine that owns the directory now; None when nobody does."""
    try:
        lock = os.open(path / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _written_pid(lock)
    else:
        return None
    finally:
        os.close(lock)


def _take(lock: int, path: Path) -> None:
    deadline = time.monotonic() + ORPHANS_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _written_pid(lock)
            if _is_alive(pid):
                raise DataDirError(
                    f"data directory {path} is in use by the engine with process id {pid}: "
                    "stop that one, or give this one another --data-dir"
                ) from None
            if time.monotonic() > deadline:
                raise DataDirError(
                    f"data directory {path} is in use by what is left of the engine with process id {pid}, which has "
                    "died: its actors end by themselves, or hang and must be killed; see who has "
                    f"{path / LOCK_NAME} open"
                ) from None
            time.sleep(0.02)
        else:
            return


def _written_pid(lock: int) -> int:
    text = os.pread(lock, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _is_alive(pid: int) -> bool:
    """Whether that process runs; one that ended and was not reaped yet (a zombie) does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}
