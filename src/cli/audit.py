"""``tradeengine audit``: what administrators did, and whether the log of it is what was written.

Exit status of ``verify``: 0 the log is whole, 1 something is wrong with it, 2 it could not be looked at.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from tradeengine.cli.database import connect_or_start, one_line
from tradeengine.cli.errors import CommandError
from tradeengine.core.times import format_ms
from tradeengine.storage.audit import Row, list_rows
from tradeengine.storage.audit_anchors import Anchors
from tradeengine.storage.audit_verify import Verdict, verify

if TYPE_CHECKING:
    from tradeengine.settings import Settings


@dataclass(frozen=True)
class AuditFilter:
    """Which rows are listed; times are RFC 3339."""

    limit: int
    actor: str | None
    action: str | None
    start: str | None
    end: str | None


def run_list(settings: Settings, wanted: AuditFilter, *, as_json: bool) -> None:
    """Print rows, the newest first. Raises CommandError."""
    start, end = _moment("--start", wanted.start), _moment("--end", wanted.end)
    try:
        with connect_or_start(settings) as connection:
            rows = list_rows(
                connection, limit=wanted.limit, actor=wanted.actor, action=wanted.action, start=start, end=end
            )
    except psycopg.Error as error:
        raise CommandError(f"the database failed: {one_line(error)}") from None
    if as_json:
        sys.stdout.write(json.dumps([_as_object(row) for row in rows]) + "\n")
    else:
        sys.stdout.write("".join(map(_as_line, rows)))


def run_verify(settings: Settings, *, as_json: bool) -> int:
    """Walk the whole log and print what is wrong first; returns the exit status."""
    try:
        # Before the rows: so none is newer than what is read then.
        anchors = Anchors(settings.audit_dir).read()
        with connect_or_start(settings) as connection:
            verdict = verify(connection, anchors)
    except OSError as error:
        return _cannot(f"the anchors cannot be read: {error.strerror}")
    except psycopg.Error as error:
        return _cannot(f"the database failed: {one_line(error)}")
    except CommandError as error:
        return _cannot(str(error))
    sys.stdout.write(json.dumps(_verdict_object(verdict)) + "\n" if as_json else _verdict_text(verdict))
    return 0 if verdict.fault is None else 1


def _cannot(message: str) -> int:
    sys.stderr.write(f"tradeengine: {message}\n")
    return 2


def _verdict_text(verdict: Verdict) -> str:
    lines = [
        f"rows         {verdict.row_count}",
        f"anchors      {verdict.anchor_count}",
        f"newest       {verdict.head.id} {verdict.head.hash.hex()}",
    ]
    if verdict.fault is None:
        lines.append("whole        nothing is missing and nothing was changed")
    else:
        lines.append(f"broken       {verdict.fault.kind}: {verdict.fault.message}")
    return "\n".join(lines) + "\n"


def _verdict_object(verdict: Verdict) -> dict[str, Any]:
    fault = verdict.fault
    return {
        "whole": fault is None,
        "rows": verdict.row_count,
        "anchors": verdict.anchor_count,
        "newest": {"id": str(verdict.head.id), "hash": verdict.head.hash.hex()},
        "fault": None if fault is None else {"kind": fault.kind, "id": str(fault.row_id), "message": fault.message},
    }


def _as_line(row: Row) -> str:
    entry = row.entry
    outcome = f"{entry.outcome} {entry.code}" if entry.code else str(entry.outcome)
    dry_run = " dry-run" if isinstance(entry.details, dict) and entry.details.get("dry_run") else ""
    line = f"{row.link.id:<8} {format_ms(entry.time_us // 1000)} {entry.actor:<16} {entry.action}{dry_run}"
    reason = f" ({entry.reason})" if entry.reason else ""
    return _on_one_line(f"{line} {entry.target or '-'}: {outcome}{reason}") + "\n"


def _on_one_line(text: str) -> str:
    """Let no text of a row draw on the terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _as_object(row: Row) -> dict[str, Any]:
    entry = row.entry
    return {
        "id": str(row.link.id),
        "time": format_ms(entry.time_us // 1000),
        "actor": entry.actor,
        "role": entry.role,
        "credential": entry.credential,
        "two_factor": entry.two_factor,
        "action": entry.action,
        "target": entry.target,
        "details": entry.details,
        "before": entry.before,
        "after": entry.after,
        "reason": entry.reason,
        "request_id": entry.request_id,
        "address": entry.address,
        "outcome": entry.outcome,
        "code": entry.code,
        "previous_hash": row.previous_hash.hex(),
        "hash": row.link.hash.hex(),
    }


def _moment(option: str, text: str | None) -> dt.datetime | None:
    if text is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{option} must be an RFC 3339 time such as 2026-11-24T10:30:45Z") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)
