"""``tradeengine verify``: replay the journals, and compare all that was made of them, beside a live engine too.

Exit status: 0 nothing differs, 1 something does, 2 it could not be looked.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import psycopg

from tradeengine.actors.data_dir import DataDirError, owner_pid
from tradeengine.actors.outside import check_addresses
from tradeengine.actors.verifying.run import Report, ShardReport, verify
from tradeengine.cli.database import database_dsn, one_line
from tradeengine.cli.errors import CommandError
from tradeengine.storage.embedded import EmbeddedError
from tradeengine.storage.identity import IdentityError, check_identity
from tradeengine.storage.migrate import MigrationError, check_schema

if TYPE_CHECKING:
    from tradeengine.settings import Settings

_NICENESS: Final = 10
_WHERE: Final = (
    *("shard", "sequence", "file", "table", "order_id", "transaction_id", "account", "asset", "symbol", "field"),
    *("expected", "found"),
)


def run_verify(settings: Settings, *, shard: int | None, from_snapshot: bool, as_json: bool) -> int:
    """Verify, print what was found, and return the exit status."""
    # Trading comes first: whoever verifies can wait.
    os.nice(_NICENESS)
    try:
        report = look(settings, shard, from_snapshot=from_snapshot)
    except CommandError as error:
        sys.stderr.write(f"tradeengine: {error}\n")
        return 2
    sys.stdout.write(json.dumps(_as_object(report)) + "\n" if as_json else _as_text(report))
    for line in report.failed:
        sys.stderr.write(f"tradeengine: {line}\n")
    return 1 if report.differences.count else 2 if report.failed else 0


def look(settings: Settings, shard: int | None, *, from_snapshot: bool) -> Report:
    """Verify against the database that the settings name. Raises CommandError when it cannot be looked."""
    check_addresses(settings.database)
    if shard is not None and not settings.journal_dir(shard).is_dir():
        raise CommandError(f"there is no shard {shard}: {settings.journal_dir(shard)} does not exist")
    with ExitStack() as stack:
        try:
            is_live = owner_pid(settings.data_dir) is not None
            dsn = database_dsn(settings, stack)
            check_schema(dsn)
            with psycopg.connect(dsn, connect_timeout=settings.database.connect_timeout_s) as connection:
                check_identity(connection, settings.data_dir)
            return verify(settings, dsn, shard=shard, from_snapshot=from_snapshot, is_live=is_live)
        except (MigrationError, IdentityError, DataDirError, EmbeddedError) as error:
            raise CommandError(str(error)) from None
        except psycopg.Error as error:
            raise CommandError(
                f"the database cannot be read: {one_line(error)}. Nothing was verified; see that it runs and try again"
            ) from None
        except OSError as error:
            raise CommandError(f"nothing was verified: {error.filename}: {error.strerror}") from None


def _as_object(report: Report) -> dict[str, Any]:
    ledger = report.ledger
    return {
        "difference_count": report.differences.count,
        "differences": report.words,
        "shards": [dataclasses.asdict(shard) for shard in report.shards],
        "ledger": None if ledger is None else dataclasses.asdict(ledger) | {"balances": report.balances},
        "unseen": report.unseen,
        "failed": report.failed,
        "duration_s": round(report.duration_s, 3),
        "ledger_s": round(report.ledger_s, 3),
        "trades_per_s": _rate(report),
    }


def _as_text(report: Report) -> str:
    lines = [_shard_line(shard) for shard in report.shards]
    if report.ledger is not None:
        ledger = report.ledger
        lines.append(
            f"ledger      {ledger.postings} postings of {ledger.transactions} transactions, {report.balances} balances,"
            f" {ledger.fundings} deposits and withdrawals, {report.ledger_s:.1f} s"
        )
    lines += [f"not seen    {line}" for line in report.unseen]
    lines.append(f"time        {report.duration_s:.1f} s, {_rate(report)} trades/s")
    lines.append(f"differences {report.differences.count}")
    lines += [line_of(difference) for difference in report.words]
    left_out = report.differences.count - len(report.words)
    if left_out:
        lines.append(f"... and {left_out} more")
    return "\n".join(lines) + "\n"


def _shard_line(shard: ShardReport) -> str:
    return (
        f"shard {shard.shard:<5} commands {shard.from_command} to {shard.next_command}, events {shard.from_event} to "
        f"{shard.next_event} (settled to {shard.settled}): {shard.segments} segments, {shard.hashes} hashes, "
        f"{shard.snapshots} of {shard.snapshots_found} snapshots, {shard.trades} trades, {shard.orders} orders, "
        f"{shard.live_orders} of them live, {shard.duration_s:.1f} s"
    )


def line_of(difference: dict[str, str | None]) -> str:
    """Write one difference on one line: what, where, both sides as far as there are any, and why that is one."""
    where = [
        f"{'column' if name == 'field' and difference.get('table') else name}={difference[name]}"
        for name in _WHERE
        if difference.get(name) is not None
    ]
    return f"{difference['kind']}: {' '.join(where)} - {difference['message']}"


def _rate(report: Report) -> int:
    trades = sum(shard.trades for shard in report.shards)
    return int(trades / max(report.duration_s, 0.001))
