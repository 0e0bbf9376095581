"""The desk: where reconciliations are asked for and answered. The keeper sits at it, in a thread of its own.

Rule 1: one run answers everyone who asked before it began; who asks meanwhile is answered by the next one.
Rule 2: a run that fails is answered too, with why; only a database that is away leaves the question open.
Rule 3: left alone, the desk asks itself now and then, and never spends more than a tenth of its time on that.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final

import psycopg
import structlog

from tradeengine.actors.heap import give_back_memory
from tradeengine.actors.reconciling.cut import CensusTaker
from tradeengine.actors.reconciling.run import reconcile
from tradeengine.storage.patient import PatientConnection
from tradeengine.storage.reconciliations import REQUESTED, Outcome, begin_open, finish, request_reconciliation

if TYPE_CHECKING:
    from tradeengine.ipc.metrics import MetricPage
    from tradeengine.ipc.wiring import Wiring

ITSELF: Final = "*keeper*"
"""Who asked, where nobody did; no user has such a name."""
SILENCE_S_MAX: Final = 60.0
_LOOK_S: Final = 1.0
_SHARE: Final = 9
_NICENESS: Final = 10

logger = structlog.get_logger(__name__)


class Desk:
    """Answers requests, one ``step`` after the other; all in one thread at a time."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._census = CensusTaker(wiring)
        self._metrics = _Metrics(wiring.metrics)
        self._interval_s = wiring.settings.keeper.reconcile_interval_s
        self._due_s = time.monotonic() + self._interval_s
        self._connection: PatientConnection | None = None

    def step(self) -> None:
        """Answer what is open, or wait for a request, a second at most. Raises psycopg.Error, and begins anew then."""
        try:
            connection = self._connect()
            if self._interval_s and time.monotonic() >= self._due_s:
                request_reconciliation(connection, ITSELF)
                self._due_s = time.monotonic() + self._interval_s
            numbers = begin_open(connection)
            if numbers:
                self._answer(connection, numbers)
            else:
                _wait(connection)
        except psycopg.Error:
            self._disconnect()
            raise

    def _answer(self, connection: PatientConnection, numbers: list[int]) -> None:
        began_s = time.monotonic()
        outcome = self._run()
        duration_s = time.monotonic() - began_s
        self._due_s = max(self._due_s, time.monotonic() + _SHARE * duration_s)
        # First: whoever has the answer finds it in the metrics, too.
        self._metrics.count(outcome, duration_s)
        finish(connection, numbers, outcome)
        if outcome.error is not None:
            logger.warning("reconciliation impossible", reason=outcome.error)
        elif count := _fault_count(outcome):
            logger.error("reconciliation found differences", count=count, requests=numbers)

    def _run(self) -> Outcome:
        # Of this thread alone: trading comes first, and whoever else works in the keeper's threads can wait as well.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            return reconcile(self._wiring, self._census)
        except psycopg.Error:
            raise
        except Exception as fault:
            # A mistake in comparing is told to who asked, and costs the keeper's other duties nothing.
            logger.exception("reconciliation failed")
            return Outcome(error=f"the comparison itself failed: {type(fault).__name__}: {fault}")
        finally:
            give_back_memory()

    def _connect(self) -> PatientConnection:
        if self._connection is None:
            database = self._wiring.settings.database
            self._connection = PatientConnection.open(
                database.direct_dsn,
                _nothing,
                connect_timeout_s=database.connect_timeout_s,
                silence_s_max=SILENCE_S_MAX,
                name="tradeengine-keeper",
            )
            self._connection.execute(f"LISTEN {REQUESTED}")
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Metrics:
    """What the keeper's page says about reconciliation."""

    def __init__(self, page: MetricPage) -> None:
        self._page = page
        self._done, self._failed = page.counter("reconciliations"), page.counter("reconciliations_failed")
        self._differences, self._done_at = page.gauge("differences"), page.gauge("reconciled_at_s")
        self._census = page.gauge("census_us")
        self._latency = page.histogram("reconciliation_latency_ms")

    def count(self, outcome: Outcome, duration_s: float) -> None:
        page = self._page
        if outcome.checked is None:
            page.add(self._failed)
            return
        page.add(self._done)
        page.set(self._differences, _fault_count(outcome))
        page.set(self._done_at, time.time_ns() // 10**9)
        page.set(self._census, outcome.checked["census_us"])
        page.record(self._latency, int(duration_s * 1000))


def _fault_count(outcome: Outcome) -> int:
    """Count the differences that are faults; that a wallet could not be asked is none, and told elsewhere."""
    kinds = [difference["kind"] for difference in outcome.differences or ()]
    return (outcome.difference_count or 0) - kinds.count("wallet_unavailable")


def _wait(connection: PatientConnection) -> None:
    """Wait for a request, a second at most: one that was made while nobody listened is found then."""
    for _ in connection.notifies(timeout=_LOOK_S, stop_after=1):
        return


def _nothing() -> None:
    """Wait for the server without a beat: the keeper's heart beats in another thread."""
