"""An exchange that has traded and stands still: journals, snapshots and a database that agree, to be altered.

It is what the sample of the newest version becomes when an engine has brought it to the end: orders of every kind, two
users, eight segments, four snapshots.
"""

from __future__ import annotations

import itertools
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg
from tests.engines import running_engine
from tests.samples.make_sample import SETTINGS

from tradeengine.actors.verifying.run import Report, verify
from tradeengine.settings import Settings
from tradeengine.settings_files import load_settings
from tradeengine.storage.backup.database import restore_database
from tradeengine.storage.embedded import Embedded, open_embedded

SAMPLE: Final = Path(__file__).parents[1] / "samples" / "kernel-3.tar.xz"
Words = dict[str, str | None]


@dataclass
class Traded:
    """Where it lies. Copies of its database and its files are made by the test that alters them."""

    folder: Path
    server: Embedded
    dsn: str
    settings_texts: dict[str, str] = field(default_factory=lambda: dict(SETTINGS))
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def settings(self, folder: Path | None = None) -> Settings:
        """Give settings with these files, or those of a copy."""
        return load_settings(None, {"engine.data_dir": str(folder or self.folder)}, self.settings_texts)

    def copy_files(self, folder: Path) -> Path:
        """Copy journals and snapshots."""
        for name in ("journal", "snapshots"):
            shutil.copytree(self.folder / name, folder / name)
        return folder

    @contextmanager
    def copy_database(self) -> Iterator[str]:
        """Copy the database; gives the copy's address."""
        name = f"copy_{next(self._numbers)}"
        with psycopg.connect(self.server.dsn_of("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE tradeengine STRATEGY wal_log")
            try:
                yield self.server.dsn_of(name)
            finally:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def verify(self, *, dsn: str | None = None, folder: Path | None = None, **options: Any) -> Report:
        """Verify it, or a copy."""
        wanted: dict[str, Any] = {"shard": None, "from_snapshot": False, "is_live": False} | options
        settings = self.settings(folder)
        keeper = msgspec.structs.replace(settings.keeper, **wanted.pop("keeper", {}))
        settings = msgspec.structs.replace(settings, keeper=keeper)
        return verify(settings, dsn or self.dsn, **wanted)


@contextmanager
def open_traded(folder: Path) -> Iterator[Traded]:
    """Make one in a new folder, and run its database while the block runs."""
    with tarfile.open(SAMPLE) as archive:
        archive.extractall(folder, filter="data")
    with open_embedded(folder) as server:
        restore_database(server.dsn, folder / "database.dump", 180_000)
    with running_engine(folder, environment=SETTINGS):
        pass  # the start brings the database to the journal's end, the stop leaves a snapshot there
    with open_embedded(folder) as server:
        yield Traded(folder, server, server.dsn)
