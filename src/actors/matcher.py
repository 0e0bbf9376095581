"""The matcher of one shard: takes commands, makes them durable, matches them, and publishes what happened.

The order of steps is the promise: journal, sync, tables, publish, cursor. Nothing leaves before its command is
on the disk; the command cursor moves last, so that risk's ring holds every command whose events are not all out.
A kill at any point loses nothing: what was journaled is replayed, what was published is not published again, and what
was not journaled is still in the ring.
Rule 1: time enters only as the time stamps that risk wrote and as EXPIRE commands that are journaled like any other.
An order whose time is over is expired before the first command that is not older.
Rule 2: an error of the journal ends the process. What cannot be recovered is told to the supervisor and waits.
"""

from __future__ import annotations

import time
from itertools import chain
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from tradeengine.actors.census import BookCensus
from tradeengine.actors.matcher_events import EventOutlet, ReplayDiffers
from tradeengine.actors.matcher_recovery import Place, Recovered, RecoveryRefused, recover
from tradeengine.actors.matcher_survey import REASON_COUNT, survey_commands
from tradeengine.actors.matcher_tables import MatcherTables
from tradeengine.actors.matching import KERNEL_VERSION
from tradeengine.actors.steady import SteadyClock
from tradeengine.core.book import (
    BookLimits,
    dump,
    last_ring_sequence,
    last_timestamp_ns,
    next_expiry_ns,
    order_count,
    state_hash,
)
from tradeengine.core.records import SYMBOL_ID_ALL, CommandKind, Reason, command_dtype
from tradeengine.ipc.crashpoints import crash_point
from tradeengine.ipc.metric_names import rejections
from tradeengine.ipc.tracing import trace
from tradeengine.ipc.wiring import run_duty
from tradeengine.storage.identity import IdentityError, mark_of, short_mark
from tradeengine.storage.journal_format import JournalError, JournalFailed
from tradeengine.storage.snapshots import SnapshotHeader, write_snapshot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tradeengine.actors.matching import Matching
    from tradeengine.ipc.metrics import MetricPage
    from tradeengine.ipc.ring import RingReader
    from tradeengine.ipc.wiring import Wiring
    from tradeengine.settings import Settings
    from tradeengine.storage.journal import Journal

SEGMENT_AGE_S_MAX: Final = 300.0
"""An older segment is closed though it has room, so that the shadow gets at it and a restart replays little."""
INGRESS_RING_NONE: Final = 255
"""Of commands that come from no ingress ring: no front or client is waiting for them."""
_ROOM_PAUSE_S: Final = 0.0005
_BLOCKED_PAUSE_S: Final = 0.2
_DRAIN_S: Final = 1.0

logger = structlog.get_logger(__name__)


class Stopping(Exception):  # noqa: N818 - no error: the matcher gives up waiting because it was asked to end
    """The matcher was asked to end while it waited for room in its event ring."""


def main(wiring: Wiring) -> None:
    """Recover, then match until the supervisor asks for an end; leaves a snapshot of where it stopped."""
    try:
        place = place_of(wiring.settings, wiring.shard)
        duty, recovered = _start(wiring, place)
        wiring.ready(recovered)
        run_duty(wiring, duty)
        duty.drain()
    except Stopping:
        return
    except JournalFailed:
        raise
    except (IdentityError, JournalError, RecoveryRefused, ReplayDiffers) as refusal:
        _wait_blocked(wiring, str(refusal))
        return
    duty.write_snapshot(place)
    duty.close()


def place_of(settings: Settings, shard: int) -> Place:
    """Where a shard's journal and snapshots are, and what its book may hold. Raises IdentityError."""
    limits = settings.limits
    return Place(
        journal_dir=settings.journal_dir(shard),
        snapshot_dir=settings.snapshot_dir(shard),
        segment_bytes=settings.journal.segment_bytes,
        limits=BookLimits(
            orders_max=limits.orders_max,
            symbols_max=limits.symbols_max,
            levels_max=limits.levels_max,
            accounts_max=limits.accounts_max,
            shard=shard,
        ),
        kernel_version=KERNEL_VERSION,
        engine_mark=mark_of(settings.data_dir),
    )


class MatcherDuty:
    """One round of a matcher: poll, journal, match, sync, publish, advance. Calling it returns how many commands."""

    def __init__(
        self,
        commands: RingReader,
        journal: Journal,
        matching: Matching,
        outlet: EventOutlet,
        tables: MatcherTables,
        metrics: MetricPage,
        *,
        census: BookCensus | None = None,
        batch_max: int,
        sync: bool = True,
        segment_age_s_max: float = SEGMENT_AGE_S_MAX,
        clock: SteadyClock | None = None,
    ) -> None:
        """Join the ends up. batch_max: commands in one group at most. sync: false only for tests and toys.

        clock: None: this machine's.
        """
        self._commands = commands
        self._journal = journal
        self._matching = matching
        self._outlet = outlet
        self._tables = tables
        self._census = census
        self._metrics = MatcherMetrics(metrics)
        self._batch_max = min(batch_max, journal.batch_max)
        self._sync = sync
        self._segment_age_s_max = segment_age_s_max
        self._clock = clock or SteadyClock(time.time_ns, time.monotonic_ns)

    def __call__(self) -> int:
        """Do one round."""
        started_ns = time.perf_counter_ns()
        count = int(self._tables.answer()) + int(self._census is not None and self._census.answer()) + self._work()
        if count:
            self._metrics.count_round(started_ns, self._matching, self._journal)
        return count

    def _work(self) -> int:
        if self._journal.segment_age_s > self._segment_age_s_max:
            self._roll()
        batch = self._commands.poll(self._batch_max)
        if len(batch) == 0:
            return self._expire_until(self._clock.now_ns(int(last_timestamp_ns(self._matching.book))))
        if self._expire_until(int(batch["timestamp_ns"][0])):
            return 1
        count, placed = survey_commands(batch, next_expiry_ns(self._matching.book))
        batch = batch[:count]
        self._process(batch)
        self._metrics.count_commands(batch, placed)
        self._commands.advance(len(batch))
        crash_point("matcher.after_cursor")
        return len(batch)

    def _process(self, commands: NDArray[np.void]) -> None:
        if not self._journal.has_room(len(commands)):
            self._roll()
        crash_point("matcher.before_journal_write")
        self._journal.append(commands)
        crash_point("matcher.after_journal_write")
        pieces = self._matching.pieces(commands)
        # Matched while the disk works, and kept back until it has done its work.
        first = next(pieces)
        if self._sync:
            synced_ns = time.perf_counter_ns()
            self._journal.sync()
            self._metrics.count_sync(synced_ns)
        crash_point("matcher.after_journal_sync")
        trace("journaled", commands)
        for events in chain((first,), pieces):
            trades = self._tables.mark(events, self._metrics.rejections)
            # Before the events: risk sizes the next market buy by these rows, and its client may have seen the event.
            self._tables.write_changed()
            crash_point("matcher.after_tables")
            self._outlet.publish(events)
            crash_point("matcher.after_publish")
            trace("matched", events)
            self._metrics.count_events(events, trades)

    def _expire_until(self, now_ns: int) -> int:
        if int(next_expiry_ns(self._matching.book)) > now_ns:
            return 0
        command = np.zeros(1, dtype=command_dtype)
        command["kind"] = CommandKind.EXPIRE
        command["timestamp_ns"] = now_ns
        command["symbol_id"] = SYMBOL_ID_ALL
        command["ring_sequence"] = last_ring_sequence(self._matching.book)
        command["ingress_ring"] = INGRESS_RING_NONE
        command["ingress_sequence"] = -1
        self._process(command)
        self._metrics.count_expiry()
        return 1

    def _roll(self) -> None:
        crash_point("matcher.before_roll")
        matching = self._matching
        self._journal.roll(matching.event_sequence, matching.event_hash, state_hash(matching.book))
        crash_point("matcher.after_roll")

    def drain(self) -> None:
        """Take what is left in the command ring, for a second at most: the engine is being stopped."""
        deadline_s = time.monotonic() + _DRAIN_S
        while self() and time.monotonic() < deadline_s:
            pass

    def write_snapshot(self, place: Place) -> None:
        """Write a snapshot of the book as it is, so that the next start replays nothing; without room it replays."""
        header = snapshot_header(self._matching, place, self._journal.next_ring_sequence)
        try:
            write_snapshot(place.snapshot_dir, header, dump(self._matching.book))
        except OSError as error:
            logger.warning("a snapshot could not be written", shard=header.shard, reason=str(error))

    def close(self) -> None:
        """Release the journal."""
        self._journal.close()


class MatcherMetrics:
    """The matcher's metric page by meaning."""

    def __init__(self, page: MetricPage) -> None:
        """Look up the names once."""
        self._page = page
        self.rejections = np.zeros(REASON_COUNT, np.int64)
        """By reason, those not counted yet; at 0 how many these are."""
        self._rejected = {
            int(reason): page.counter(rejections(reason))
            for reason in Reason
            if rejections(reason) in page.names.counters
        }
        self._groups_seen = 0
        self._bytes_seen = 0
        self._commands = page.counter("commands")
        self._events = page.counter("events")
        self._trades = page.counter("trades")
        self._orders_placed = page.counter("orders_placed")
        self._groups = page.counter("groups")
        self._journal_bytes = page.counter("journal_bytes")
        self._expiries = page.counter("expiries")
        self._in, self._out = page.counter("records_in"), page.counter("records_out")
        self._open_orders = page.gauge("open_orders")
        self._segment_bytes = page.gauge("journal_segment_bytes")
        self._event_sequence = page.gauge("event_sequence")
        self._command_sequence = page.gauge("command_sequence")
        self._batch_commands = page.histogram("batch_commands")
        self._round_latency_us = page.histogram("round_latency_us")
        self._sync_latency_us = page.histogram("sync_latency_us")
        self._command_latency_us = page.histogram("command_latency_us")

    def count_commands(self, batch: NDArray[np.void], placed: int) -> None:
        """Count a batch whose events are published; its latency is from risk's time stamp to now."""
        page = self._page
        page.add(self._commands, len(batch))
        page.add(self._in, len(batch))
        page.add(self._orders_placed, placed)
        page.record(self._batch_commands, len(batch))
        page.record(self._command_latency_us, (time.time_ns() - batch["timestamp_ns"]) // 1000)

    def count_events(self, events: NDArray[np.void], trades: int) -> None:
        """Count a published piece."""
        self._page.add(self._events, len(events))
        self._page.add(self._out, len(events))
        self._page.add(self._trades, trades)
        if self.rejections[0]:
            for reason, counter in self._rejected.items():
                self._page.add(counter, int(self.rejections[reason]))
            self.rejections[:] = 0

    def count_sync(self, started_ns: int) -> None:
        """Record how long a sync took that began at ``started_ns`` (perf_counter_ns)."""
        self._page.record(self._sync_latency_us, (time.perf_counter_ns() - started_ns) // 1000)

    def count_expiry(self) -> None:
        """Count an injected EXPIRE."""
        self._page.add(self._expiries)

    def count_round(self, started_ns: int, matching: Matching, journal: Journal) -> None:
        """Record a round that did something, begun at ``started_ns``, and where it left things."""
        page = self._page
        page.record(self._round_latency_us, (time.perf_counter_ns() - started_ns) // 1000)
        page.add(self._groups, journal.groups_written - self._groups_seen)
        page.add(self._journal_bytes, journal.bytes_written - self._bytes_seen)
        self._groups_seen, self._bytes_seen = journal.groups_written, journal.bytes_written
        page.set(self._segment_bytes, journal.bytes_used)
        page.set(self._open_orders, int(order_count(matching.book)))
        page.set(self._event_sequence, matching.event_sequence)
        page.set(self._command_sequence, matching.command_sequence)


def snapshot_header(matching: Matching, place: Place, ring_sequence: int) -> SnapshotHeader:
    """Describe the book as it stands. ring_sequence: of the next command in the ring."""
    return SnapshotHeader(
        shard=place.limits.shard,
        kernel_version=place.kernel_version,
        command_sequence=matching.command_sequence,
        event_sequence=matching.event_sequence,
        ring_sequence=ring_sequence,
        event_hash=matching.event_hash,
        state_hash=int(state_hash(matching.book)),
        created_ns=time.time_ns(),
        engine_mark=short_mark(place.engine_mark),
    )


def _start(wiring: Wiring, place: Place) -> tuple[MatcherDuty, dict[str, int]]:
    """Recover; gives the duty, and what was found."""
    wiring.metrics.set_state(0, "recovering")
    shard = wiring.shard
    commands = wiring.ring_reader(f"commands.{shard}")
    settled = settled_sequence(wiring, shard)
    outlet = EventOutlet(wiring.ring_writer(f"events.{shard}"), lambda: _wait_for_room(wiring))
    crash_point("matcher.before_recovery")
    recovered = recover(place, settled, outlet, commands, wiring.metrics.heartbeat)
    tables = MatcherTables(
        recovered.matching.book,
        wiring.table("touch"),
        wiring.table(f"levels.{shard}"),
        wiring.table(f"level_requests.{shard}"),
    )
    crash_point("matcher.after_recovery")
    tables.write_all()
    wiring.metrics.set_state(0, "running")
    _report(wiring.metrics, recovered, settled)
    duty = MatcherDuty(
        commands,
        recovered.journal,
        recovered.matching,
        outlet,
        tables,
        wiring.metrics,
        census=BookCensus(
            recovered.matching.book, wiring.table("census_requests"), wiring.table(f"book_census.{shard}")
        ),
        batch_max=wiring.settings.journal.group_commands_max,
        sync=wiring.settings.journal.sync,
    )
    return duty, {
        "orders": int(order_count(recovered.matching.book)),
        "next_command": recovered.matching.command_sequence,
        "next_event": recovered.matching.event_sequence,
        "commands_replayed": recovered.commands_replayed,
        "events_published": recovered.events_published,
        "recovery_ms": int(recovered.duration_s * 1000),
    }


def settled_sequence(wiring: Wiring, shard: int) -> int:
    """Sequence of the first event of a shard that PostgreSQL does not have, as settlement announces it."""
    readers = wiring.ring(f"events.{shard}").statistics().readers
    (cursor,) = (reader.cursor for reader in readers if reader.name == "settlement")
    return cursor


def _wait_for_room(wiring: Wiring) -> None:
    if wiring.stopping():
        raise Stopping
    wiring.metrics.heartbeat()
    time.sleep(_ROOM_PAUSE_S)


def _wait_blocked(wiring: Wiring, message: str) -> None:
    logger.error("the matcher cannot start", reason=message)
    wiring.metrics.set_state(1, f"blocked: {message}")
    wiring.blocked(message)
    while not wiring.stopping():
        wiring.metrics.heartbeat()
        time.sleep(_BLOCKED_PAUSE_S)


def _report(page: MetricPage, recovered: Recovered, settled: int) -> None:
    page.set(page.gauge("recovered_commands"), recovered.commands_replayed)
    page.set(page.gauge("recovery_ms"), int(recovered.duration_s * 1000))
    page.set(page.gauge("open_orders"), int(order_count(recovered.matching.book)))
    page.set(page.gauge("event_sequence"), recovered.matching.event_sequence)
    page.set(page.gauge("command_sequence"), recovered.matching.command_sequence)
    for entry in recovered.skipped:
        logger.warning("a snapshot was skipped", file=str(entry.path), reason=entry.reason)
    logger.info(
        "recovered",
        settled_sequence=settled,
        from_command=recovered.from_command_sequence,
        from_event=recovered.from_event_sequence,
        next_command=recovered.matching.command_sequence,
        next_event=recovered.matching.event_sequence,
        commands_replayed=recovered.commands_replayed,
        events_published=recovered.events_published,
        duration_s=round(recovered.duration_s, 3),
    )
