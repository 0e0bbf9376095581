"""A front's way into the audit log: its file on the disk, and the task that brings entries into PostgreSQL.

Rule 1: an entry is on the disk before anyone goes on. Whether it is in the log already matters to readers only: who
acts waits a moment for that while the database is there, and not at all while it is away.
Rule 2: what other processes left behind is brought in too, by whichever front finds it first.
It refuses to know requests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import psycopg
import structlog
import trio

from tradeengine.core.times import format_ms
from tradeengine.ipc.crashpoints import crash_point
from tradeengine.ipc.metrics import MetricPage
from tradeengine.storage.audit import Entry
from tradeengine.storage.audit_anchors import Anchors
from tradeengine.storage.audit_delivery import Delivered, deliver, deliver_left_over
from tradeengine.storage.audit_spool import SUFFIX, Spool, SpoolError, open_spool
from tradeengine.web.admission import waiting
from tradeengine.web.database import Database
from tradeengine.web.errors import ApiError
from tradeengine.web.redaction import Redaction

WAIT_S: Final = 1.0
"""How long an answer waits for its entry to be in the log, so that whoever looks then sees it."""
_RETRY_S: Final = 0.5
_LEFT_OVER_INTERVAL_S: Final = 10.0

_log = structlog.get_logger()


class AuditTrail:
    """What one front writes down."""

    def __init__(self, folder: Path, name: str, database: Database, redaction: Redaction, metrics: MetricPage) -> None:
        """folder: of all files of the audit log outside of the database. name: the front's."""
        self.redaction = redaction
        self._path = folder / f"{name}{SUFFIX}"
        self._anchors = Anchors(folder)
        self._database = database
        self._spool: Spool | None = None
        self._opening = trio.Lock()
        self._delivered: dict[str, trio.Event] = {}
        self._bell = trio.Event()
        self._is_delivering = False
        self._rows = metrics.counter("audit_rows")
        self._failures = metrics.counter("audit_failures")
        self._waiting_bytes = metrics.gauge("audit_waiting_bytes")
        self._metrics = metrics

    async def begin(self, entry: Entry) -> None:
        """Write down that an action begins. Raises ApiError AUDIT_UNAVAILABLE: then it must not be done."""
        assert entry.outcome is None
        crash_point("front.before_audit_begin")
        try:
            await self._write(entry)
            crash_point("front.after_audit_begin")
        except SpoolError as error:
            self._metrics.add(self._failures)
            _log.error("an action is refused because it cannot be recorded", action=entry.action, error=str(error))
            raise ApiError(
                "AUDIT_UNAVAILABLE", "Nothing was done: the action cannot be written down now.", {"reason": str(error)}
            ) from None

    async def end(self, entry: Entry) -> None:
        """Write down how an action ended, and wait until that is in the log, unless the database is away."""
        assert entry.outcome is not None
        crash_point("front.before_audit_end")
        delivered = self._delivered[entry.action_id] = trio.Event()
        try:
            await self._write(entry)
        except SpoolError as error:
            # The next one who opens the file will say that the outcome is unknown.
            self._metrics.add(self._failures)
            _log.error("how an action ended cannot be recorded", action=entry.action, error=str(error))
        else:
            self._bell.set()
            if self._is_delivering:
                with trio.move_on_after(WAIT_S), waiting():
                    await delivered.wait()
        finally:
            self._delivered.pop(entry.action_id, None)

    async def run(self) -> None:
        """Bring entries into the log, until cancelled."""
        while True:
            self._bell = trio.Event()
            try:
                await self._deliver_all()
            # Values that are none come from a file that somebody wrote in: the front goes on, and the alarm stays.
            except (ApiError, SpoolError, OSError, psycopg.Error, ValueError, ArithmeticError) as error:
                self._report(error)
                await trio.sleep(_RETRY_S)
            else:
                self._is_delivering = True
                with trio.move_on_after(_LEFT_OVER_INTERVAL_S):
                    await self._bell.wait()

    async def _deliver_all(self) -> None:
        spool = await self._ready()
        while spool.waiting_bytes():
            self._note(await self._database.run(deliver, spool, self._anchors))
            self._metrics.set(self._waiting_bytes, spool.waiting_bytes())
        self._note(await self._database.run(deliver_left_over, self._path.parent, self._anchors))

    def _note(self, delivered: Delivered) -> None:
        self._metrics.add(self._rows, len(delivered))
        for entry, link in delivered:
            event = self._delivered.get(entry.action_id)
            if event is not None:
                event.set()
            _log.info(
                "audit",
                id=link.id,
                hash=link.hash.hex(),
                # After a restart the latest come once more.
                began=format_ms(entry.time_us // 1000),
                actor=entry.actor,
                action=entry.action,
                target=entry.target,
                outcome=entry.outcome,
                code=entry.code,
                request_id=entry.request_id,
            )

    def _report(self, error: Exception) -> None:
        self._metrics.add(self._failures)
        if self._spool is not None:
            self._metrics.set(self._waiting_bytes, self._spool.waiting_bytes())
        if self._is_delivering:
            _log.warning("audit entries wait for the database", error=str(error))
        self._is_delivering = False

    async def _write(self, entry: Entry) -> None:
        spool = await self._ready()
        with waiting():
            await trio.to_thread.run_sync(spool.write, entry)

    async def _ready(self) -> Spool:
        """Open the file when it is first needed. Raises SpoolError."""
        async with self._opening:
            if self._spool is None:
                self._spool = await trio.to_thread.run_sync(open_spool, self._path)
            return self._spool
