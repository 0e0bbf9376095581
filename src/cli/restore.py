"""``tradeengine restore``: put a backup into an empty data directory and an empty database; and what both halves check.

The next start does the rest: event rings open where the database stands, the matchers replay their journals, settlement
commits what the database does not have. Nothing here settles a trade.

``--only database`` is for a lost database beside a data directory that is well: its own journals, which go further than
the backup's, bring the database forward. ``--only files`` is for a lost data directory beside a database that is well;
that works only while the database has settled nothing beyond the backup's journals, and is refused otherwise.

Rule 1: everything is checked before anything is written: checksums, versions, a replay of the journals, the target.
Rule 2: what is put back gets its place last, journals after all else: an engine refuses a database without its journal,
so one that was restored by half does not start.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import psycopg

from tradeengine.actors.data_dir import LOCK_NAME, MAKING, DataDirError, open_data_dir
from tradeengine.actors.matcher_events import ReplayDiffers
from tradeengine.actors.matcher_recovery import Place, check_opening, starting_point
from tradeengine.actors.matching import KERNEL_VERSION, KERNEL_VERSIONS_REPLAYED
from tradeengine.actors.outside import check_addresses
from tradeengine.cli.database import one_line
from tradeengine.cli.errors import CommandError
from tradeengine.cli.recorded import recorded
from tradeengine.core.book import BookLimits
from tradeengine.core.records import ACCOUNT_ID_FIRST_USER, CommandKind
from tradeengine.settings_files import package_folder
from tradeengine.storage import journal_format, snapshots
from tradeengine.storage.backup import folder as layout
from tradeengine.storage.backup.database import BackupError, restore_database, table_count
from tradeengine.storage.backup.late import apply_late, keep_unknown_accounts
from tradeengine.storage.embedded import EmbeddedError, open_embedded
from tradeengine.storage.identity import IdentityError, identity_in, mark_of, name_of, read_identity, refuse_two
from tradeengine.storage.journal_files import FileOperations, sync_folder
from tradeengine.storage.journal_format import JournalError
from tradeengine.storage.journal_read import list_segments, read_groups
from tradeengine.storage.migrate import MigrationError, migrate
from tradeengine.storage.recovery import settled_cursors
from tradeengine.storage.settle import DatabaseInUse
from tradeengine.storage.settle_fold import SettlementStopped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tradeengine.settings import Settings
    from tradeengine.storage.backup.folder import Manifest, ShardManifest

DATABASE: Final = "database"
FILES: Final = "files"
_POSTGRES: Final = "postgres"
_REFUSALS: Final = (
    *(BackupError, IdentityError, JournalError, DataDirError),
    *(EmbeddedError, MigrationError, DatabaseInUse),
)


@dataclass(frozen=True)
class Checked:
    """A backup that is whole. ``event_ends``: by shard, the sequence of the event after its last command's."""

    folder: Path
    manifest: Manifest
    event_ends: dict[int, int] = field(default_factory=dict)


@dataclass
class Report:
    """What a restore did, for people and programs."""

    restored: list[str] = field(default_factory=list)
    late_rows: dict[str, int] = field(default_factory=dict)
    fundings: int = 0
    unknown_accounts: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_backup(folder: Path, *, replay: bool = True) -> Checked:
    """Look whether a backup is whole and of versions that this program reads. Raises BackupError.

    replay: the journals too are replayed, and compared with what the matchers wrote down.
    """
    # First of all: a manifest of another format names other files.
    manifest = layout.read_manifest(folder)
    problems = layout.damage_of(folder)
    if problems:
        listed = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise BackupError(f"{folder} is damaged: {listed}. Take another backup; this one cannot be trusted")
    _check_versions(folder, manifest)
    if not replay:
        return Checked(folder, manifest)
    return Checked(folder, manifest, {entry.shard: _replay(folder, manifest, entry) for entry in manifest.shards})


def run_restore(settings: Settings, source: Path, *, only: str | None, as_json: bool = False) -> None:
    """Restore a backup. only: ``database`` or ``files``; None: both. Raises CommandError."""
    try:
        checked = check_backup(source.expanduser().absolute())
        check_addresses(settings.database)
        report = _restore(settings, checked, only)
    except _REFUSALS as error:
        raise CommandError(str(error)) from None
    except (SettlementStopped, psycopg.Error) as error:
        raise CommandError(f"the database could not be restored: {one_line(error)}") from None
    except OSError as error:
        raise CommandError(f"not restored: {error.filename or source}: {error.strerror}") from None
    _tell(settings, checked, report, as_json=as_json)


def _restore(settings: Settings, checked: Checked, only: str | None) -> Report:
    report = Report()
    _check_target(settings, only)
    if only == FILES:
        _refuse_newer_database(settings, checked)
    if only == DATABASE:
        _check_continues(settings, checked)
    with open_data_dir(settings.data_dir):
        making = settings.data_dir / MAKING
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        try:
            if only != DATABASE:
                _copy_files(checked, making)
                report.restored += ["journals", "snapshots", "secrets"]
            if only != FILES:
                with _empty_database(settings, making) as dsn:
                    _fill_database(settings, checked, dsn, report, alone=only == DATABASE)
                report.restored.append("database")
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
        _put_in_place(settings, checked, making)
    with recorded(settings, "restore", str(checked.folder), cut_at=checked.manifest.cut_at, only=only):
        pass  # it is done: the audit log that tells it was not there before
    return report


def _fill_database(settings: Settings, checked: Checked, dsn: str, report: Report, *, alone: bool) -> None:
    manifest = checked.manifest
    with psycopg.connect(dsn, connect_timeout=settings.database.connect_timeout_s) as connection:
        version = connection.info.server_version
    restore_database(dsn, checked.folder / layout.DUMP, version)
    migrate(dsn)
    connection = psycopg.connect(dsn, autocommit=True, connect_timeout=settings.database.connect_timeout_s)
    shards = len([shard for shard in manifest.cursors if int(shard) >= 0])
    with (checked.folder / layout.LATE).open(encoding="utf-8") as lines:
        applied = apply_late(connection, lines, shards)
    report.late_rows, report.fundings = applied.counts, applied.fundings
    if alone:
        named = _accounts_in_journals(settings, manifest)
        with psycopg.connect(dsn, autocommit=True) as connection:
            report.unknown_accounts = keep_unknown_accounts(connection, named)
        report.warnings = _warnings(manifest, report)


def _warnings(manifest: Manifest, report: Report) -> list[str]:
    """Say what no journal has, so that only people can bring it back."""
    lines = [
        f"deposits, withdrawals, accounts' settings, API keys and symbols' texts since {manifest.cut_at} are in no "
        "journal: ask for deposits and withdrawals again under their references, which does none of them twice",
    ]
    if report.unknown_accounts:
        lines.append(
            f"{len(report.unknown_accounts)} accounts traded that the backup does not know; their names are lost: "
            "they are called *unknown-ID* until somebody writes their names into the table accounts"
        )
    lines.append(
        "the audit log ends where the backup's does: what administrators did since is missing in it, and "
        "`tradeengine audit verify` will say so; the fronts' log has it"
    )
    return lines


def _check_versions(folder: Path, manifest: Manifest) -> None:
    for what, found, known in (
        ("journals of format", manifest.journal_format, {journal_format.FORMAT_VERSION}),
        ("snapshots of format", manifest.snapshot_format, {snapshots.FORMAT_VERSION}),
        ("journals of kernel version", manifest.kernel_version, set(KERNEL_VERSIONS_REPLAYED)),
    ):
        if found not in known:
            expected = ", ".join(map(str, sorted(known)))
            raise BackupError(
                f"{folder} has {what} {found}, this program reads {expected}: restore it with version "
                f"{manifest.program} of the program, which made it, or a newer one"
            )
    known_migrations = {path.name.removesuffix(".sql") for path in package_folder("migrations").glob("*.sql")}
    unknown = [name for name in manifest.migrations if name not in known_migrations]
    if unknown:
        raise BackupError(
            f"{folder} has a database with migrations that this program does not know ({', '.join(unknown)}): "
            f"restore it with version {manifest.program} of the program, which made it, or a newer one"
        )


def _replay(folder: Path, manifest: Manifest, entry: ShardManifest) -> int:
    """Replay a shard and compare it with what its matcher wrote down; returns the sequence of the next event."""
    place = place_in(folder, manifest, entry.shard)
    problem = ""
    try:
        matching, skipped = starting_point(place, entry.settled_event_sequence)
        if skipped or matching.command_sequence != entry.first_command_sequence:
            problem = f"its snapshot cannot be used: {skipped[0].reason if skipped else 'it is another one'}"
        segments = list_segments(place.journal_dir, place.engine_mark)
        openings = {segment.header.first_command_sequence: segment.header for segment in segments}
        if segments and not problem:
            for first, commands in read_groups(place.journal_dir, matching.command_sequence, KERNEL_VERSIONS_REPLAYED):
                if first in openings:
                    check_opening(openings[first], matching)
                for _events in matching.pieces(commands):
                    pass
    except (JournalError, ReplayDiffers, OSError) as error:
        problem = str(error)
    if not problem and matching.command_sequence != entry.next_command_sequence:
        problem = f"its journal ends at command {matching.command_sequence}, not {entry.next_command_sequence}"
    if not problem and matching.event_sequence < entry.settled_event_sequence:
        problem = (
            f"the database has settled up to event {entry.settled_event_sequence}, its journal ends at event "
            f"{matching.event_sequence}"
        )
    if problem:
        raise BackupError(f"{folder} is of no use: shard {entry.shard}: {problem}")
    return matching.event_sequence


def place_in(folder: Path, manifest: Manifest, shard: int) -> Place:
    """Where a shard lies in a folder that is laid out as a data directory is."""
    book = manifest.book
    return Place(
        journal_dir=folder / layout.JOURNAL / f"shard-{shard}",
        snapshot_dir=folder / layout.SNAPSHOTS / f"shard-{shard}",
        segment_bytes=manifest.segment_bytes,
        limits=BookLimits(
            orders_max=book.orders_max,
            symbols_max=book.symbols_max,
            levels_max=book.levels_max,
            accounts_max=book.accounts_max,
            shard=shard,
        ),
        kernel_version=KERNEL_VERSION,
        engine_mark=mark_of(folder / layout.FILES),
    )


def _check_target(settings: Settings, only: str | None) -> None:
    """Refuse a target that has anything in it. Raises BackupError."""
    data_dir, dsn = settings.data_dir, settings.database.direct_dsn
    found = {path.name for path in data_dir.iterdir()} - {LOCK_NAME, MAKING} if data_dir.is_dir() else set()
    if only == DATABASE:
        if not {"journal"} & found:
            raise BackupError(f"{data_dir} has no journals: restore the whole backup, without --only {DATABASE}")
        if not dsn and (data_dir / _POSTGRES / "PG_VERSION").exists():
            raise BackupError(
                f"{data_dir / _POSTGRES} has a database: if it is the one that is lost, move that folder away first"
            )
    elif found:
        listed = ", ".join(sorted(found)[:5])
        raise BackupError(
            f"{data_dir} is not empty ({listed}): a backup is restored into a new data directory; move this one away, "
            "or give another --data-dir"
        )
    if dsn and only != FILES:
        try:
            count = table_count(dsn, settings.database.connect_timeout_s)
        except psycopg.OperationalError as error:
            raise BackupError(f"the database cannot be reached: {one_line(error)}") from None
        if count:
            raise BackupError(
                f"the database is not empty, it has {count} tables: a backup is restored into a new database; make "
                "one, or give another --dsn"
            )


def _refuse_newer_database(settings: Settings, checked: Checked) -> None:
    """Refuse to put journals beside a database that is ahead of them. Raises BackupError."""
    if not settings.database.dsn:
        raise BackupError(
            f"--only {FILES} is for a database outside, named by --dsn; the embedded one was in the data directory: "
            f"restore the whole backup, without --only {FILES}"
        )
    try:
        with psycopg.connect(
            settings.database.direct_dsn, connect_timeout=settings.database.connect_timeout_s
        ) as connection:
            cursors = settled_cursors(connection)
            refuse_two(
                *(str(checked.folder), read_identity(checked.folder / layout.FILES)),
                *(name_of(connection), identity_in(connection)),
                "restore a backup of the engine whose database this is, or the whole backup into an empty database",
            )
    except psycopg.OperationalError as error:
        raise BackupError(f"the database cannot be reached: {one_line(error)}") from None
    except psycopg.errors.UndefinedTable:
        raise BackupError("the database has no tables of an engine: restore the whole backup") from None
    ahead = [
        f"shard {shard}: settled up to event {cursors[shard]}, the backup's journal ends at event {end}"
        for shard, end in sorted(checked.event_ends.items())
        if cursors.get(shard, 0) > end
    ]
    if ahead:
        raise BackupError(
            f"the database is newer than the backup's journals ({'; '.join(ahead)}), and the journals that go on from "
            f"there are lost. Put the lost journals back; or keep this database aside (pg_dump) and restore the whole "
            f"backup into a new one, which goes back to {checked.manifest.cut_at}"
        )


def _check_continues(settings: Settings, checked: Checked) -> None:
    """Make sure that the journals that are there bring the backup's database forward. Raises BackupError."""
    refuse_two(
        *(str(checked.folder), read_identity(checked.folder / layout.FILES)),
        *(str(settings.data_dir), read_identity(settings.data_dir)),
        "restore a backup of the engine whose data directory this is, or the whole backup into a new one",
    )
    for entry in checked.manifest.shards:
        directory = settings.journal_dir(entry.shard)
        own = {segment.path.name: segment.header for segment in list_segments(directory, mark_of(settings.data_dir))}
        for segment in list_segments(checked.folder / layout.JOURNAL / directory.name):
            header = own.get(segment.path.name)
            if header is None:
                raise BackupError(
                    f"{directory} does not reach back to the backup: {segment.path.name} is missing. Journals are kept "
                    "for journal.retain_h; restore the whole backup into a new data directory"
                )
            if header != segment.header:
                raise BackupError(f"{directory / segment.path.name} is not of the engine that was backed up")


def _accounts_in_journals(settings: Settings, manifest: Manifest) -> list[int]:
    """Every account that placed an order in the journals since the backup's database, by id."""
    found: set[int] = set()
    for entry in manifest.shards:
        for _, commands in read_groups(settings.journal_dir(entry.shard), entry.first_command_sequence):
            placed = commands["account_id"][commands["kind"] == CommandKind.PLACE]
            found.update(int(account) for account in np.unique(placed) if account >= ACCOUNT_ID_FIRST_USER)
    return sorted(found)


def _copy_files(checked: Checked, making: Path) -> None:
    for name in (layout.JOURNAL, layout.SNAPSHOTS):
        if (checked.folder / name).is_dir():
            shutil.copytree(checked.folder / name, making / name)
    if (checked.folder / layout.FILES).is_dir():
        shutil.copytree(checked.folder / layout.FILES, making, dirs_exist_ok=True)
    for path in making.rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            path.chmod(0o700)


@contextmanager
def _empty_database(settings: Settings, making: Path) -> Iterator[str]:
    """Give the connection string of an empty database: the one that is set, or an embedded one that is made."""
    with ExitStack() as stack:
        yield settings.database.direct_dsn or stack.enter_context(open_embedded(making)).dsn


def _put_in_place(settings: Settings, checked: Checked, making: Path) -> None:
    """Give everything its name, the journals last."""
    data_dir = settings.data_dir
    for entry in checked.manifest.shards:
        if entry.snapshot and not (making / layout.SNAPSHOTS).exists():
            # The older snapshot may be gone from the directory; the replay begins there.
            place = data_dir / layout.SNAPSHOTS / f"shard-{entry.shard}"
            if not (place / entry.snapshot).exists():
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
                shutil.copyfile(checked.folder / layout.SNAPSHOTS / place.name / entry.snapshot, place / entry.snapshot)
    for path in sorted(making.iterdir(), key=lambda path: path.name == layout.JOURNAL):
        if path.name == _POSTGRES and (data_dir / _POSTGRES).is_dir():
            (data_dir / _POSTGRES).rmdir()
        path.rename(data_dir / path.name)
        sync_folder(FileOperations(), data_dir)
    making.rmdir()


def _tell(settings: Settings, checked: Checked, report: Report, *, as_json: bool) -> None:
    manifest = checked.manifest
    if as_json:
        found = {
            "data_dir": str(settings.data_dir),
            "restored": report.restored,
            "cut_at": manifest.cut_at,
            "late_rows": report.late_rows,
            "fundings": report.fundings,
            "unknown_accounts": report.unknown_accounts,
            "warnings": report.warnings,
        }
        sys.stdout.write(json.dumps(found) + "\n")
        return
    lines = [
        f"restored   {', '.join(report.restored)} into {settings.data_dir}",
        f"database   as of {manifest.dumped_at}; the next start brings it forward from the journals",
    ]
    if DATABASE not in report.restored:
        lines.pop()
    lines += [f"attention  {warning}" for warning in report.warnings]
    there = f" --data-dir {settings.data_dir}"
    lines.append(f"then       tradeengine up{there}, and tradeengine reconcile{there}")
    sys.stdout.write("\n".join(lines) + "\n")
