"""The keeper: keeps the database in shape, on no order's way.

Partitions are there before they are needed and go when they are old, and now and then it stores what the books look
like, compares what the engine knows in several places (``reconciling``), and verifies the audit log. Settlement makes
what it is about to write into by itself; so when the keeper is dead nobody else notices.
Rule 1: a round of a chore has a connection and a thread of its own and leaves nothing behind: after an error, a restart
or a database that was away the next round is like any other.
Rule 2: what it cannot do it says, on its metric page, in the log and to the supervisor, and tries again.
Rule 3: it may die or hang at any point: no lock in the database outlives that by more than a moment.
It refuses to know SQL.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog
import trio

from tradeengine.actors.auditing import AuditWatch
from tradeengine.actors.reconciling.desk import Desk
from tradeengine.ipc.depth import read_depth
from tradeengine.ipc.seqlock import SeqlockBusy
from tradeengine.storage.depth_snapshots import StoredDepth, forget_depth, store_depth, stored_sequences
from tradeengine.storage.partitions import Partitions
from tradeengine.storage.patient import PatientConnection
from tradeengine.storage.retention import drop_partition, old_partitions

if TYPE_CHECKING:
    from tradeengine.ipc.metrics import MetricPage
    from tradeengine.ipc.seqlock import SeqlockTable
    from tradeengine.ipc.wiring import Wiring
    from tradeengine.settings import Keeper as KeeperSettings
    from tradeengine.settings import Settings

Connection = psycopg.Connection[Any]

MAINTENANCE_INTERVAL_S: Final = 3600.0
RETRY_S_MIN: Final = 0.5
RETRY_S_MAX: Final = 10.0
AFTER_LOCK_TIMEOUT_S: Final = 1.0
"""Who queued behind a drop that got no lock has so long before the next one is tried."""
SILENCE_S_MAX: Final = 60.0
"""A server that says nothing for so long counts as gone."""
HANGING_MS_MAX: Final = 5000
"""The server ends a transaction of ours that waits for us so long: whoever waits for its locks goes on."""
BEAT_S: Final = 0.5
_TIMED: Final = ("maintenance", "depth", "audit")
DAY_MS: Final = 86_400_000

logger = structlog.get_logger(__name__)


class KeeperState(IntEnum):
    """Codes on the metric page; the text beside it says more."""

    RUNNING = 0
    WAITING = 1
    """An old partition is in use and is tried again."""
    UNABLE = 2
    """The database is away, or refuses."""


async def main(wiring: Wiring) -> None:
    """Keep house until the supervisor asks for an end."""
    keeper = Keeper(
        wiring.settings,
        wiring.table("depth"),
        wiring.metrics,
        lambda trouble: wiring.blocked(trouble) if trouble else wiring.ready(),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.keep_partitions)
        nursery.start_soon(keeper.keep_depth)
        nursery.start_soon(keeper.keep_audited, AuditWatch(wiring.settings.audit_dir, wiring.metrics))
        nursery.start_soon(keeper.keep_reconciled, Desk(wiring))
        # Whatever the database does: nobody's start waits for it or fails with it.
        wiring.ready()
        while not wiring.stopping():
            wiring.metrics.heartbeat()
            await wiring.doorbell.wait_trio(BEAT_S, wiring.stopping)
        nursery.cancel_scope.cancel()


@dataclass
class Round:
    """What one round of a chore did, up to its end or its error."""

    made: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Old partitions that stay because of a live order."""
    in_use: list[str] = field(default_factory=list)
    """Old partitions that someone used for too long."""
    stored_count: int = 0
    forgotten_count: int = 0


class Keeper:
    """The chores, each in a loop of its own, and what is told about them."""

    def __init__(self, settings: Settings, depth: SeqlockTable, page: MetricPage, tell: Callable[[str], None]) -> None:
        """Read books from ``depth``. tell: called with what the keeper cannot do, with "" when it can again."""
        self._settings = settings
        self._depth = depth
        self._metrics = _Metrics(page)
        self._tell = tell
        self._states: dict[str, tuple[KeeperState, str]] = {}
        self._told = ""

    async def keep_partitions(self) -> None:
        """Make partitions ahead and drop old ones, now and every hour."""
        wanted = self._settings.keeper
        await self._repeat(
            "maintenance", lambda connection, done: maintain(connection, wanted, done), MAINTENANCE_INTERVAL_S
        )

    async def keep_depth(self) -> None:
        """Store what has changed in the books, now and at each interval; not at all when that is 0."""
        wanted = self._settings.keeper
        if wanted.depth_snapshot_interval_s > 0:
            await self._repeat(
                "depth",
                lambda connection, done: snapshot(connection, self._depth, wanted.depth_snapshot_levels, done),
                wanted.depth_snapshot_interval_s,
            )

    async def keep_audited(self, watch: AuditWatch) -> None:
        """Verify the audit log, what is new in it, now and at each interval; not at all when that is 0."""
        interval_s = self._settings.keeper.audit_interval_s
        if interval_s > 0:
            await self._repeat("audit", lambda connection, _: watch.look(connection), interval_s)

    async def keep_reconciled(self, desk: Desk) -> None:
        """Answer reconciliations, and ask for one now and then."""
        retry_s = RETRY_S_MIN
        while True:
            error: psycopg.Error | None = None
            try:
                await trio.to_thread.run_sync(desk.step, abandon_on_cancel=True)
            except psycopg.Error as caught:
                error = caught
                self._metrics.count_error()
            self._note("reconciliation", Round(), error)
            if error is None:
                retry_s = RETRY_S_MIN
            else:
                await trio.sleep(retry_s)
                retry_s = min(retry_s * 2, RETRY_S_MAX)

    async def _repeat(self, chore: str, work: Callable[[Connection, Round], None], interval_s: float) -> None:
        retry_s = RETRY_S_MIN
        while True:
            done, began_s = Round(), time.monotonic()
            error: psycopg.Error | None = None
            try:
                await trio.to_thread.run_sync(self._work, work, done, abandon_on_cancel=True)
            except psycopg.Error as caught:
                error = caught
            self._metrics.count(chore, done, time.monotonic() - began_s, failed=error is not None)
            self._note(chore, done, error)
            if error is None and not done.in_use:
                retry_s = RETRY_S_MIN
                await trio.sleep(interval_s)
            else:
                await trio.sleep(retry_s)
                retry_s = min(retry_s * 2, RETRY_S_MAX)

    def _work(self, work: Callable[[Connection, Round], None], done: Round) -> None:
        """Do one round on a connection of its own; runs in a thread."""
        database = self._settings.database
        with PatientConnection.open(
            database.direct_dsn,
            _nothing,
            connect_timeout_s=database.connect_timeout_s,
            silence_s_max=SILENCE_S_MAX,
            name="tradeengine-keeper",
        ) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute(f"SET idle_in_transaction_session_timeout = {HANGING_MS_MAX}")
            work(connection, done)

    def _note(self, chore: str, done: Round, error: psycopg.Error | None) -> None:
        """Show how the chore goes: what is wrong until it is right again."""
        if error is not None:
            text = f"{chore}: {' '.join(str(error).split()) or type(error).__name__}"
            self._states[chore] = (KeeperState.UNABLE, text)
        elif done.in_use:
            self._states[chore] = (KeeperState.WAITING, f"in use: {', '.join(done.in_use)}")
        else:
            self._states[chore] = (KeeperState.RUNNING, "running")
        state = max(state for state, _ in self._states.values())
        text = "; ".join(sorted({text for other, text in self._states.values() if other is state}))
        self._metrics.show_state(state, text)
        trouble = text if state is KeeperState.UNABLE else ""
        if trouble != self._told:
            self._told = trouble
            logger.info("keeper", state="unable" if trouble else "running", reason=trouble or None)
            self._tell(trouble)


def maintain(connection: Connection, wanted: KeeperSettings, done: Round) -> None:
    """Make partitions ahead, drop old ones, forget old depth; ``done`` tells how far that came.

    connection: in autocommit. A partition that is in use is passed over and named. Raises psycopg.Error.
    """
    now_ms = time.time_ns() // 1_000_000

    def note_made(name: str) -> None:
        # A first start makes dozens: what went well fifty times is told once.
        logger.debug("partition made", name=name)
        done.made.append(name)

    partitions = Partitions(connection, note_made)
    partitions.make_ahead(now_ms, months=wanted.partition_months_ahead, days=wanted.partition_days_ahead)
    if done.made:
        logger.info("partitions made ahead", count=len(done.made))
    for old in old_partitions(
        connection, now_ms, orders_months=wanted.retain_orders_months, trades_days=wanted.retain_trades_days
    ):
        try:
            dropped = drop_partition(connection, old)
        except psycopg.errors.LockNotAvailable:
            logger.info("partition in use", name=old.name)
            done.in_use.append(old.name)
            time.sleep(AFTER_LOCK_TIMEOUT_S)
            continue
        if dropped:
            logger.info("partition dropped", name=old.name)
            done.dropped.append(old.name)
        else:
            done.kept.append(old.name)
    if wanted.retain_depth_days:
        done.forgotten_count = forget_depth(connection, now_ms - wanted.retain_depth_days * DAY_MS)


def snapshot(connection: Connection, depth: SeqlockTable, levels: int, done: Round) -> None:
    """Store each listed symbol's book when it is another than the one stored last. Raises psycopg.Error.

    A book that cannot be read, is not shown yet, or has no event yet, is left to the next round.
    """
    rows = []
    for symbol_id, sequence in stored_sequences(connection).items():
        try:
            book = read_depth(depth, symbol_id, levels)
        except SeqlockBusy:
            continue
        if book.timestamp_ns and book.sequence >= 0 and book.sequence != sequence:
            # Rounded up, so that a question about this time is not answered with a later book.
            taken_ms = -(-time.time_ns() // 1_000_000)
            rows.append(StoredDepth(symbol_id, taken_ms, book.sequence, book.bids, book.asks))
    store_depth(connection, rows)
    done.stored_count = len(rows)


class _Metrics:
    """The keeper's page, by what happened."""

    def __init__(self, page: MetricPage) -> None:
        self._page = page
        self._made, self._dropped = page.counter("partitions_made"), page.counter("partitions_dropped")
        self._lock_timeouts, self._errors = page.counter("lock_timeouts"), page.counter("errors")
        self._stored, self._removed = page.counter("depth_rows_stored"), page.counter("depth_rows_removed")
        self._kept = page.gauge("partitions_kept")
        self._done_at = {chore: page.gauge(f"{chore}_done_at_s") for chore in _TIMED}
        self._latency = {chore: page.histogram(f"{chore}_latency_ms") for chore in _TIMED}

    def count(self, chore: str, done: Round, duration_s: float, *, failed: bool) -> None:
        page = self._page
        page.add(self._made, len(done.made))
        page.add(self._dropped, len(done.dropped))
        page.add(self._lock_timeouts, len(done.in_use))
        page.add(self._errors, int(failed))
        if failed:
            return
        page.add(self._stored, done.stored_count)
        page.add(self._removed, done.forgotten_count)
        page.record(self._latency[chore], int(duration_s * 1000))
        page.set(self._done_at[chore], time.time_ns() // 10**9)
        if chore == "maintenance":
            page.set(self._kept, len(done.kept))

    def count_error(self) -> None:
        self._page.add(self._errors)

    def show_state(self, state: KeeperState, text: str) -> None:
        self._page.set_state(int(state), text)


def _nothing() -> None:
    """Wait for the server without a beat: the keeper's heart beats in another thread."""
