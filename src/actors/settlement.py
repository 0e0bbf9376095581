"""Settlement: what happened goes into PostgreSQL; deposits, withdrawals and settings come from there to risk.

A round: see which events are there, commit a batch of them with the cursors behind it, then pass them in the rings. So
a ring's cursor never says more than the database, and a kill between the two costs nothing: the next round starts from
what the database says. What goes the other way, to risk, is in ``settlement_feed``.

Rule 1: the shards' heads are read before risk's, and risk's events are settled first or with them: no trade is settled
before the deposit that paid for it.
Rule 2: the database may go away. Then this actor waits and tries again, says so, and stays alive; nobody else stops,
until risk finds the backlog too long.
Rule 3: what cannot be settled is never passed over. It stops settlement in a named state and is tried again now and
then: the reason may be outside, and repaired.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Final

import numpy as np
import psycopg
import structlog
from numpy.typing import NDArray

from tradeengine.actors.settlement_feed import Feed
from tradeengine.ipc.crashpoints import crash_point
from tradeengine.ipc.meters import measured
from tradeengine.ipc.metrics import MetricPage
from tradeengine.ipc.ring import RingWriter
from tradeengine.ipc.ring_reader import RingReader
from tradeengine.ipc.seqlock import SeqlockBusy
from tradeengine.ipc.tracing import trace
from tradeengine.ipc.wiring import Wiring
from tradeengine.storage.migrate import MigrationError
from tradeengine.storage.patient import PatientConnection
from tradeengine.storage.settle import RISK_SHARD, CursorMoved, DatabaseInUse, Settled, Settler
from tradeengine.storage.settle_fold import SettlementStopped

Events = NDArray[np.void]

BATCH_EVENTS_MIN: Final = 512
TRANSACTION_S_GOAL: Final = 0.5
"""Batches grow while transactions are shorter than half of it and shrink when they are longer: large ones are cheaper
per trade, but a reader who waits for settlement may wait for two."""
COMMIT_INTERVAL_S: Final = 0.004
"""Transactions of a few events begin at least this far apart: each costs a sync, whatever is in it."""
RETRY_S_MIN: Final = 0.1
RETRY_S_MAX: Final = 5.0
SILENCE_S_MAX: Final = 30.0

logger = structlog.get_logger(__name__)


class SettlementState(IntEnum):
    """Codes on the metric page; the text beside it says more."""

    RUNNING = 0
    CONNECTING = 1
    DATABASE_UNAVAILABLE = 2
    DATABASE_IN_USE = 3
    STOPPED = 4


def main(wiring: Wiring) -> None:
    """Settle until the supervisor asks for an end."""
    settings = wiring.settings
    metrics = wiring.metrics
    with_outbox = settings.wallet.kind == "http"

    def connect() -> Settler:
        connection = PatientConnection.open(
            settings.database.direct_dsn,
            metrics.heartbeat,
            connect_timeout_s=settings.database.connect_timeout_s,
            silence_s_max=SILENCE_S_MAX,
            name="tradeengine-settlement",
        )
        return Settler(connection, wiring.shard_count, with_outbox=with_outbox)

    def announce(settled: Settled) -> None:
        if with_outbox and (settled.trades or settled.fundings):
            wiring.wake("wallet")

    def tell(state: SettlementState, text: str) -> None:
        if state is SettlementState.RUNNING:
            wiring.ready({f"settled.{ring.removeprefix('events.')}": found.cursor for ring, found in by_name.items()})
        else:
            wiring.blocked(text)

    readers = {shard: wiring.ring_reader(f"events.{shard}") for shard in range(wiring.shard_count)}
    readers[RISK_SHARD] = wiring.ring_reader("events.risk")
    by_name = {reader.ring.name: reader for reader in readers.values()}
    duty = SettlementDuty(
        readers,
        wiring.ring_writer(wiring.ingress_name),
        connect,
        metrics,
        ingress_number=wiring.ingress_number,
        settings_applied=lambda: _settings_applied(wiring),
        batch_events_max=settings.settlement.batch_events_max,
        tell=tell,
        announce=announce,
    )
    # A request for funding rings no bell of ours: PostgreSQL announces it, and we look whether it did.
    pause_s = min(settings.wait.timeout_ms, settings.settlement.funding_interval_ms) / 1000
    work = measured(metrics, duty)
    while not wiring.stopping():
        metrics.heartbeat()
        wiring.doorbell.wait(pause_s, lambda: wiring.stopping() or work() != 0, settings.wait.spin_us)
    duty.close()


class SettlementDuty:
    """One round of settlement: poll, commit, pass, feed. Calling it returns how much it did."""

    def __init__(
        self,
        readers: Mapping[int, RingReader],
        ingress: RingWriter,
        connect: Callable[[], Settler],
        metrics: MetricPage,
        *,
        ingress_number: int,
        settings_applied: Callable[[], int],
        batch_events_max: int,
        tell: Callable[[SettlementState, str], None],
        announce: Callable[[Settled], None] = lambda _: None,
    ) -> None:
        """Join the ends up.

        readers: of event rings by shard, -1: risk's. ingress: the ring to risk, ``ingress_number`` its number.
        settings_applied: says the highest version of accounts' settings that risk has taken over.
        tell: called when the state changes. announce: called after each batch.
        """
        self._readers = dict(readers)
        self._connect = connect
        self._metrics = SettlementMetrics(metrics)
        self._feed = Feed(ingress, ingress_number, settings_applied, self._metrics.show_pending)
        self._batch_events_max = batch_events_max
        self._batch_events = min(BATCH_EVENTS_MIN, batch_events_max)
        self._tell = tell
        self._announce = announce
        self._settler: Settler | None = None
        self._state: SettlementState | None = None
        self._named = ""
        self._retry_s = RETRY_S_MIN
        self._retry_at_s = 0.0
        self._committed_at_s = 0.0

    def __call__(self) -> int:
        """Do one round."""
        self._metrics.show_backlog(self.backlog())
        if time.monotonic() < self._retry_at_s:
            return 0
        try:
            settler = self._settler or self._open()
            settled, fed = self._settle(settler), self._feed(settler.connection)
            self._metrics.count_fed(fed)
        except (CursorMoved, psycopg.OperationalError, psycopg.InterfaceError) as error:
            # Whether the last COMMIT took effect only a new connection can say.
            self._drop(SettlementState.DATABASE_UNAVAILABLE, error)
        except DatabaseInUse as error:
            self._drop(SettlementState.DATABASE_IN_USE, error)
        except (SettlementStopped, MigrationError, psycopg.Error) as error:
            self._drop(SettlementState.STOPPED, error)
        else:
            self._retry_s = RETRY_S_MIN
            return settled + fed
        return 0

    def backlog(self) -> int:
        """Count the events that are published and not settled."""
        return sum(reader.available() for reader in self._readers.values())

    def close(self) -> None:
        """Close the connection."""
        if self._settler is not None:
            self._settler.close()
            self._settler = None

    def _open(self) -> Settler:
        if self._state is None:
            self._enter(SettlementState.CONNECTING, "")
        settler = self._connect()
        try:
            for shard, reader in self._readers.items():
                _align(shard, reader, settler.cursors.get(shard, 0))
            self._feed.begin(settler.connection)
        except BaseException:
            settler.close()
            raise
        self._settler = settler
        crash_point("settlement.after_connect")
        # Those of the present; the keeper makes them ahead, and what it did not make the settler does.
        settler.partitions.make_ahead(time.time_ns() // 1_000_000, months=0, days=0)
        self._enter(SettlementState.RUNNING, "")
        return settler

    def _settle(self, settler: Settler) -> int:
        """Commit one batch and pass it; 0 when there is none."""
        began_s = time.monotonic()
        batches = self._collect()
        count = sum(map(len, batches.values()))
        if count == 0:
            return 0
        pause_s = self._committed_at_s + COMMIT_INTERVAL_S - began_s
        if count < BATCH_EVENTS_MIN // 2 and pause_s > 0:
            time.sleep(pause_s)
            batches = self._collect()
            began_s = time.monotonic()
        settled = settler.settle(batches)
        timestamps_ns = np.concatenate([batch["timestamp_ns"] for batch in batches.values()])
        crash_point("settlement.before_advance")
        for shard, batch in batches.items():
            trace("settled", batch)
            self._readers[shard].advance(len(batch))
        crash_point("settlement.after_advance")
        self._announce(settled)
        self._committed_at_s = began_s
        duration_s = time.monotonic() - began_s
        self._metrics.count(settled, duration_s, timestamps_ns)
        self._adapt(settled.events, duration_s)
        return settled.events

    def _collect(self) -> dict[int, Events]:
        """Look at what is there, without passing it; views into the rings."""
        heads = {shard: reader.head for shard, reader in self._readers.items() if shard != RISK_SHARD}
        own = self._readers[RISK_SHARD]
        own_head = own.head
        answers = own.poll(self._batch_events)
        if own.cursor + len(answers) < own_head:
            # More than one batch of deposits, or the ring's memory ends between them: the shards wait for the rest.
            return {RISK_SHARD: answers}
        batches = {RISK_SHARD: answers} if len(answers) else {}
        waiting = [shard for shard, head in heads.items() if head > self._readers[shard].cursor]
        for shard in waiting:
            reader = self._readers[shard]
            share = max(self._batch_events // len(waiting), 1)
            batches[shard] = reader.poll(min(heads[shard] - reader.cursor, share))
        return batches

    def _adapt(self, events: int, duration_s: float) -> None:
        """Let full batches grow while they are quick, and shrink when they are slow."""
        if duration_s > TRANSACTION_S_GOAL:
            self._batch_events = max(self._batch_events * 3 // 4, min(BATCH_EVENTS_MIN, self._batch_events_max))
        elif events * 2 > self._batch_events and duration_s < TRANSACTION_S_GOAL / 2:
            self._batch_events = min(self._batch_events * 2, self._batch_events_max)

    def _drop(self, state: SettlementState, error: Exception) -> None:
        self._metrics.count_error()
        self.close()
        self._retry_at_s = time.monotonic() + self._retry_s
        self._retry_s = min(self._retry_s * 2, RETRY_S_MAX)
        self._enter(state, " ".join(str(error).split()) or type(error).__name__)

    def _enter(self, state: SettlementState, text: str) -> None:
        named = f"{state.name.lower()}: {text}" if text else state.name.lower()
        self._metrics.show_state(state, named)
        # Also another reason for the same state: who reads the first one may look in the wrong place.
        if named != self._named:
            self._state, self._named = state, named
            logger.info("settlement", state=state.name.lower(), reason=text or None)
            if state is not SettlementState.CONNECTING:
                self._tell(state, named)


class SettlementMetrics:
    """Settlement's metric page by meaning."""

    def __init__(self, page: MetricPage) -> None:
        """Look up the names once."""
        self._page = page
        self._counters = {name: page.counter(name) for name in ("events", "trades", "orders", "postings", "fundings")}
        self._transactions, self._errors = page.counter("transactions"), page.counter("errors")
        self._in, self._out = page.counter("records_in"), page.counter("records_out")
        self._backlog = page.gauge("backlog_events")
        self._pending = page.gauge("pending_fundings")
        self._batch = page.histogram("batch_events")
        self._transaction = page.histogram("transaction_latency_us")
        self._commit = page.histogram("commit_latency_us")
        self._settle = page.histogram("settle_latency_us")

    def count(self, settled: Settled, duration_s: float, timestamps_ns: NDArray[np.int64]) -> None:
        """Count one transaction. timestamps_ns: of its events, by risk's clock."""
        for name, counter in self._counters.items():
            self._page.add(counter, getattr(settled, name))
        self._page.add(self._transactions)
        self._page.add(self._in, settled.events)
        self._page.record(self._batch, settled.events)
        self._page.record(self._transaction, int(duration_s * 1e6))
        self._page.record(self._commit, int(settled.commit_s * 1e6))
        # Seen from the command's time stamp: journal, matching and everything else before us included.
        self._page.record(self._settle, np.maximum(time.time_ns() - timestamps_ns, 0) // 1000)

    def count_fed(self, commands: int) -> None:
        """Count what went to risk."""
        self._page.add(self._out, commands)

    def count_error(self) -> None:
        """Count a transaction or connection that failed."""
        self._page.add(self._errors)

    def show_backlog(self, events: int) -> None:
        """Show how many events are published and not settled."""
        self._page.set(self._backlog, events)

    def show_pending(self, requests: int) -> None:
        """Show how many deposits and withdrawals have no outcome yet."""
        self._page.set(self._pending, requests)

    def show_state(self, state: SettlementState, text: str) -> None:
        """Show the state."""
        self._page.set_state(int(state), text)


def _settings_applied(wiring: Wiring) -> int:
    """Give the version of accounts' settings up to which risk has taken them over; 0 sends all again."""
    try:
        return int(wiring.table("accounts").read(0)["version"])
    except SeqlockBusy:
        return 0  # risk died while it wrote the row


def _align(shard: int, reader: RingReader, committed: int) -> None:
    """Put a reader where the database is. Raises SettlementStopped when the ring does not reach there."""
    name = reader.ring.name
    if committed > reader.head:
        raise SettlementStopped(
            "CURSOR_AHEAD", f"the database has settled {name} up to {committed}, the ring ends at {reader.head}"
        )
    if committed < reader.ring.oldest:
        raise SettlementStopped(
            "CURSOR_BEHIND",
            f"the database has settled {name} up to {committed}, the ring begins at {reader.ring.oldest}: "
            "start the engine again, so that the journal brings the rest",
        )
    if committed != reader.cursor:
        logger.info("cursor aligned", shard=shard, ring_cursor=reader.cursor, settled=committed)
        reader.seek(committed)
