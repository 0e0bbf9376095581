"""The keeper's look at the audit log: what is new in it now and then, and all of it once a day.

Rule 1: what it finds stays found: the gauge says so until a walk from the first row on finds nothing.
Rule 2: it only reads, and a page of rows at a time.
It refuses to know what is in the rows.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog

from tradeengine.storage.audit_anchors import Anchors
from tradeengine.storage.audit_verify import BEGINNING, Fault, verify

if TYPE_CHECKING:
    from tradeengine.ipc.metrics import MetricPage

WHOLE_INTERVAL_S: Final = 86_400.0

Connection = psycopg.Connection[Any]

_log = structlog.get_logger()


class AuditWatch:
    """How far the log was right when it was last looked at."""

    def __init__(self, folder: Path, page: MetricPage) -> None:
        """folder: of the anchors."""
        self._anchors = Anchors(folder)
        self._page = page
        self._broken = page.gauge("audit_broken")
        self._right = BEGINNING
        self._whole_at_s = time.monotonic()
        self._fault: Fault | None = None

    def look(self, connection: Connection) -> None:
        """Verify what is new. Raises psycopg.Error."""
        if time.monotonic() - self._whole_at_s >= WHOLE_INTERVAL_S:
            self._right, self._whole_at_s = BEGINNING, time.monotonic()
        try:
            anchors = self._anchors.read()
        except OSError as error:
            _log.error("the anchors of the audit log cannot be read", error=str(error))
            anchors = []
        verdict = verify(connection, anchors, after=self._right)
        # After a fault from the beginning: only a walk over everything takes back what was found.
        self._right = verdict.head if verdict.fault is None else BEGINNING
        if verdict.fault is not None and verdict.fault != self._fault:
            _log.error("the audit log is not what was written", kind=verdict.fault.kind, found=verdict.fault.message)
        self._fault = verdict.fault
        self._page.set(self._broken, int(verdict.fault is not None))
