"""``tradeengine backup``: copy an engine while it trades, and look whether a copy is whole.

The order is the promise. The database first, as one snapshot; then the journals, up to one moment; then what was
written into the database since and is in no journal. So the journals bring the database forward, never the other way,
and what was acknowledged before the copy of the journals is in the backup. A backup of yesterday's database with
today's journals (``--base``) is the same with a longer way between.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import sys
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

import msgspec
import psycopg

from tradeengine import __version__
from tradeengine.actors.data_dir import MASTER_NAME, SECRET_NAME, DataDirError
from tradeengine.actors.matching import KERNEL_VERSION
from tradeengine.actors.outside import check_addresses
from tradeengine.cli.database import database_dsn, one_line
from tradeengine.cli.errors import CommandError
from tradeengine.cli.recorded import recorded
from tradeengine.cli.restore import check_backup
from tradeengine.storage import journal_format, snapshots
from tradeengine.storage.backup import folder as layout
from tradeengine.storage.backup.cut import ShardPlan, copy_segments, look_at_end, moment_of, plan_from, plan_shard
from tradeengine.storage.backup.database import BackupError, DatabaseView, dump_database, open_view
from tradeengine.storage.backup.folder import BookSizes, Manifest, ShardManifest
from tradeengine.storage.backup.late import read_late, read_marks
from tradeengine.storage.embedded import EmbeddedError
from tradeengine.storage.identity import (
    IDENTITY_NAME,
    IdentityError,
    check_identity,
    mark_of,
    read_identity,
    refuse_two,
)
from tradeengine.storage.journal_format import JournalError
from tradeengine.storage.snapshots import read_snapshot, write_snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from tradeengine.settings import Settings
    from tradeengine.storage.backup.cut import ShardEnd

_KEPT: Final = (IDENTITY_NAME, SECRET_NAME, MASTER_NAME, f"wallet/{SECRET_NAME}", "audit")
"""What is copied of the data directory beside journals, snapshots and the database."""
_NICENESS: Final = 10
_AHEAD_S_MAX: Final = 60.0
_DUMP_SHARE: Final = 4
"""A dump is at most about so many times smaller than its database; free disk is asked for by this."""


def run_backup(settings: Settings, target: Path, *, base: Path | None, as_json: bool) -> None:
    """Make a backup in a new folder. base: take the database from that backup. Raises CommandError."""
    os.nice(_NICENESS)
    try:
        manifest = _make(settings, target.expanduser().absolute(), base)
    except (BackupError, IdentityError, JournalError, DataDirError, EmbeddedError) as error:
        raise CommandError(str(error)) from None
    except psycopg.errors.UndefinedTable:
        raise CommandError("the database has no tables of an engine: was one ever started on it?") from None
    except psycopg.Error as error:
        raise CommandError(f"the database cannot be read: {one_line(error)}") from None
    except OSError as error:
        raise CommandError(f"nothing was backed up: {error.filename or target}: {error.strerror}") from None
    _tell(target, manifest, as_json=as_json)


def run_verify(target: Path, *, as_json: bool) -> None:
    """Look whether a backup is whole: every checksum, and its journals replayed. Raises CommandError."""
    folder = target.expanduser().absolute()
    try:
        manifest = check_backup(folder).manifest
    except (BackupError, IdentityError) as error:
        raise CommandError(str(error)) from None
    _tell(folder, manifest, as_json=as_json)


def _make(settings: Settings, target: Path, base: Path | None) -> Manifest:
    check_addresses(settings.database)
    earlier = _earlier(settings, base.expanduser().absolute()) if base else None
    with ExitStack() as stack:
        dsn = database_dsn(settings, stack)
        # Whoever copies an engine has its secrets.
        stack.enter_context(recorded(settings, "backup", str(target), base=str(base) if base else None))
        partial = stack.enter_context(layout.open_partial(target))
        # Open as long as the dump takes, closed before the journals are looked at.
        with open_view(dsn, settings.database.connect_timeout_s) as view:
            began = dt.datetime.now(dt.UTC)
            check_identity(view.connection, settings.data_dir)
            if earlier is not None and view.migrations != earlier.migrations:
                raise BackupError(f"the database was migrated since {base} was made: take a backup without --base")
            manifest = _begin(settings, view, began) if earlier is None else _begin_on(earlier, base, began)
            if earlier is None:
                _refuse_full(partial, view.byte_count // _DUMP_SHARE, "the dump of the database")
                dump_database(dsn, view, partial / layout.DUMP)
        if base is not None:
            _link(base.expanduser().absolute() / layout.DUMP, partial / layout.DUMP)
        manifest = _copy_journals(settings, partial, manifest, base, dsn)
        manifest = msgspec.structs.replace(manifest, ended_at=_text(dt.datetime.now(dt.UTC)))
        block = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        layout.write_file(partial / layout.MANIFEST, block + b"\n")
    return manifest


def _earlier(settings: Settings, base: Path) -> Manifest:
    """Look at the backup that the database is taken from: with another engine's, half would be foreign."""
    manifest = check_backup(base, replay=False).manifest
    refuse_two(
        *(str(base), read_identity(base / layout.FILES)),
        *(str(settings.data_dir), read_identity(settings.data_dir)),
        "name an earlier backup of this engine, or take one without --base",
    )
    return manifest


def _begin(settings: Settings, view: DatabaseView, began: dt.datetime) -> Manifest:
    limits = settings.limits
    elsewhere = (settings.auth.keys_file, settings.http.tls_certificate, settings.http.tls_key)
    return Manifest(
        format=layout.FORMAT_VERSION,
        program=__version__,
        kernel_version=KERNEL_VERSION,
        journal_format=journal_format.FORMAT_VERSION,
        snapshot_format=snapshots.FORMAT_VERSION,
        began_at=_text(began),
        ended_at="",
        cut_ns=0,
        cut_at="",
        base="",
        dumped_at=_text(began),
        server_version=view.server_version,
        migrations=view.migrations,
        wallet_kind=settings.wallet.kind,
        marks=read_marks(view.connection),
        cursors={str(shard): sequence for shard, sequence in sorted(view.cursors.items())},
        book=BookSizes(
            orders_max=limits.orders_max,
            symbols_max=limits.symbols_max,
            levels_max=limits.levels_max,
            accounts_max=limits.accounts_max,
        ),
        segment_bytes=settings.journal.segment_bytes,
        shards=(),
        not_included=tuple(name for name in elsewhere if name),
    )


def _begin_on(earlier: Manifest, base: Path | None, began: dt.datetime) -> Manifest:
    return msgspec.structs.replace(
        earlier,
        program=__version__,
        kernel_version=KERNEL_VERSION,
        journal_format=journal_format.FORMAT_VERSION,
        snapshot_format=snapshots.FORMAT_VERSION,
        began_at=_text(began),
        base=str(base),
    )


def _copy_journals(settings: Settings, partial: Path, manifest: Manifest, base: Path | None, dsn: str) -> Manifest:
    """Copy all journals up to one moment, what is new in the database by then, and the snapshots to replay from."""
    shards = sorted({int(shard) for shard in manifest.cursors if int(shard) >= 0} | set(range(settings.engine.shards)))
    seen, cut_ns = _look(settings, shards)
    with ExitStack() as stack:
        plans = []
        for shard, end in zip(shards, seen, strict=True):
            if base is None:
                settled = manifest.cursors.get(str(shard), 0)
                plans.append(plan_shard(shard, end, settings.snapshot_dir(shard), settled, cut_ns, stack))
            else:
                plans.append(_plan_on(manifest, base, shard, end, cut_ns, stack))
        # At once, and not behind the copying: what is younger than the cut would be there without its trades.
        _copy_late(settings, partial, manifest, dsn)
        _refuse_full(partial, sum(plan.byte_count for plan in plans), "the journals")
        found = [_copy_shard(partial, plan, manifest.cursors.get(str(plan.shard), 0)) for plan in plans]
    cut = dt.datetime.fromtimestamp(cut_ns // 1000 / 1e6, dt.UTC)
    return msgspec.structs.replace(manifest, shards=tuple(found), cut_ns=cut_ns, cut_at=_text(cut))


def _look(settings: Settings, shards: list[int]) -> tuple[list[ShardEnd], int]:
    """Look at the ends of all journals, and find the moment of the cut. Raises BackupError."""
    while True:
        seen = [look_at_end(settings.journal_dir(shard), mark_of(settings.data_dir)) for shard in shards]
        cut_ns = moment_of(seen)
        ahead_s = (cut_ns - time.time_ns()) / 1e9
        if ahead_s <= 0:
            return seen, cut_ns
        # The clock was set back: until it has caught up, all commands get one time stamp, and nothing can be cut by it.
        if ahead_s > _AHEAD_S_MAX:
            raise BackupError(
                f"the engine's time stamps are {ahead_s:.0f} s ahead of this machine's clock, which was set back: "
                "try again when it has caught up"
            )
        time.sleep(ahead_s)


def _plan_on(manifest: Manifest, base: Path, shard: int, end: ShardEnd, cut_ns: int, stack: ExitStack) -> ShardPlan:
    """Plan a shard from where the earlier backup begins."""
    known = {entry.shard: entry for entry in manifest.shards}
    if shard not in known:
        return plan_from(shard, end, 0, cut_ns, None, stack)
    name = known[shard].snapshot
    snapshot = read_snapshot(base / layout.SNAPSHOTS / f"shard-{shard}" / name) if name else None
    return plan_from(shard, end, known[shard].first_command_sequence, cut_ns, snapshot, stack)


def _copy_shard(partial: Path, plan: ShardPlan, settled: int) -> ShardManifest:
    copy_segments(plan, partial / layout.JOURNAL / f"shard-{plan.shard}")
    name = ""
    if plan.snapshot is not None:
        place = partial / layout.SNAPSHOTS / f"shard-{plan.shard}"
        name = write_snapshot(place, plan.snapshot.header, plan.snapshot.payload).name
    return ShardManifest(
        shard=plan.shard,
        first_command_sequence=plan.snapshot.header.command_sequence if plan.snapshot else 0,
        next_command_sequence=plan.end,
        settled_event_sequence=settled,
        snapshot=name,
    )


def _copy_late(settings: Settings, partial: Path, manifest: Manifest, dsn: str) -> None:
    # Before the rows: the audit log's anchors may not name one that the copy does not have.
    for name in _KEPT:
        place = settings.data_dir / name
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            # What waits for the audit log may be delivered, and gone, by now.
            with suppress(FileNotFoundError, IsADirectoryError):
                copy = partial / layout.FILES / path.relative_to(settings.data_dir)
                layout.write_file(copy, path.read_bytes())
    with open_view(dsn, settings.database.connect_timeout_s) as view:
        lines = "".join(read_late(view.connection, manifest.marks))
    layout.write_file(partial / layout.LATE, lines.encode())


def _refuse_full(partial: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(partial).free
    if free < needed:
        raise BackupError(
            f"{partial.parent} has {free >> 20} MiB free, {what} may take {needed >> 20} MiB: choose another place"
        )


def _link(source: Path, target: Path) -> None:
    """Have one file in two backups, or a copy where that cannot be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        target.chmod(0o600)


def _tell(target: Path, manifest: Manifest, *, as_json: bool) -> None:
    size = layout.byte_count(target.expanduser())
    if as_json:
        found = {"folder": str(target), "bytes": size, **msgspec.to_builtins(manifest)}
        sys.stdout.write(json.dumps(found) + "\n")
        return
    commands = sum(shard.next_command_sequence - shard.first_command_sequence for shard in manifest.shards)
    lines = [
        f"backup     {target}  ({size / 2**20:.1f} MiB)",
        f"database   as of {manifest.dumped_at}" + (f", from {manifest.base}" if manifest.base else ""),
        f"journals   up to {manifest.cut_at}: shards {len(manifest.shards)}, commands to replay {commands}",
    ]
    lines += [f"not in it  {name}" for name in manifest.not_included]
    sys.stdout.write("\n".join(lines) + "\n")


def _text(moment: dt.datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
