"""The shadow: follows every shard's closed journal segments through a book of its own, behind the matchers' backs.

It does three things with that. It checks that a replay is identical: at a segment's end the hash over all events, and
the hash of the book, must be those that the matcher wrote into the next segment's header. It checks that PostgreSQL has
exactly the replay's trades, once they are settled. And it writes snapshots, so that matching never pauses for them, and
removes segments and snapshots that nobody needs any more.
Rule 1: a shard whose replay differs gets no more snapshots, and nothing of it is removed: what is there is evidence.
Where PostgreSQL has other trades the replay goes on, and nothing is removed.
Rule 2: it only reads what a matcher has closed; it can be slow, die or be absent, and nobody waits for it.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

import structlog

from tradeengine.actors.heap import give_back_memory
from tradeengine.actors.matcher import place_of, settled_sequence, snapshot_header
from tradeengine.actors.matcher_events import ReplayDiffers
from tradeengine.actors.matcher_recovery import check_opening, starting_point
from tradeengine.actors.matching import KERNEL_VERSIONS_REPLAYED
from tradeengine.actors.shadow_trades import Outcome, StoredTrades, Stretches
from tradeengine.core.book import dump, state_hash
from tradeengine.core.book_state import H_TRADE_ID
from tradeengine.ipc.crashpoints import crash_point
from tradeengine.ipc.meters import measured
from tradeengine.storage.journal_format import JournalError
from tradeengine.storage.journal_read import closed_segment, prune, read_segment
from tradeengine.storage.snapshots import list_snapshots, prune_snapshots, write_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from tradeengine.actors.matcher_recovery import Place
    from tradeengine.ipc.metrics import MetricPage
    from tradeengine.ipc.wiring import Wiring
    from tradeengine.storage.journal_format import SegmentHeader
    from tradeengine.storage.journal_read import SegmentFile

SNAPSHOT_INTERVAL_S: Final = 60.0
STATE_RUNNING: Final = 0
STATE_MISMATCH: Final = 1
STATE_BLOCKED: Final = 2

_EVERYTHING: Final = 2**63 - 1
_IDLE_PAUSE_S: Final = 0.1
_NICENESS: Final = 10

logger = structlog.get_logger(__name__)


class Stopping(Exception):  # noqa: N818 - no error: the shadow leaves a segment in the middle because it was asked to end
    """The shadow was asked to end; it follows the segment from its last snapshot the next time."""


def main(wiring: Wiring) -> None:
    """Follow all shards until the supervisor asks for an end."""
    os.nice(_NICENESS)  # matchers first: what this does can wait

    def alive() -> None:
        wiring.metrics.heartbeat()
        if wiring.stopping():
            raise Stopping

    settings = wiring.settings
    wiring.metrics.set_state(STATE_RUNNING, "running")
    stored = StoredTrades(settings.database, alive)
    try:
        shadows = [
            ShardShadow(
                place_of(settings, shard),
                wiring.metrics,
                alive,
                stored=stored,
                keep_count=settings.snapshots.keep_count,
                retain_s=settings.journal.retain_h * 3600.0,
            )
            for shard in range(wiring.shard_count)
        ]
        wiring.ready()
        step_all = measured(
            wiring.metrics,
            lambda: sum([shadow.step(settled_sequence(wiring, shard)) for shard, shadow in enumerate(shadows)]),
        )
        while True:
            # A doorbell would ring for every event; segments are closed every few seconds at most.
            worked = step_all()
            alive()
            if worked:
                give_back_memory()
            else:
                time.sleep(_IDLE_PAUSE_S)
    except Stopping:
        return
    finally:
        stored.close()


class ShardShadow:
    """One shard's shadow: its own book, and how far it has come."""

    def __init__(
        self,
        place: Place,
        metrics: MetricPage,
        alive: Callable[[], None],
        *,
        keep_count: int,
        retain_s: float,
        stored: StoredTrades | None = None,
        snapshot_interval_s: float = SNAPSHOT_INTERVAL_S,
    ) -> None:
        """Go on from the newest usable snapshot. ``alive`` is called often and may raise to end.

        stored: PostgreSQL's trades; None: they are not compared.
        """
        self._place = place
        self._metrics = metrics
        self._alive = alive
        self._keep_count = keep_count
        self._retain_s = retain_s
        self._snapshot_interval_s = snapshot_interval_s
        self.trouble = ""
        """Why this shard is not followed any more; empty while it is."""
        self._matching, skipped = starting_point(place, _EVERYTHING)
        for entry in skipped:
            logger.warning("a snapshot was skipped", file=str(entry.path), reason=entry.reason)
        self._stored = stored
        self._stretches = Stretches(int(self._matching.book.header[H_TRADE_ID]))
        self._is_evidence = False
        self._snapshot_sequence = self._matching.command_sequence
        self._ring_sequence = 0
        self._snapshot_at_s = -snapshot_interval_s
        self._pruned_at_s = -snapshot_interval_s

    def step(self, settled: int) -> bool:
        """Follow the next closed segment, if there is one; returns whether there was.

        settled: sequence of the first event that PostgreSQL does not have.
        """
        if self.trouble:
            return False
        try:
            found = closed_segment(self._place.journal_dir, self._matching.command_sequence, self._place.engine_mark)
            if found:
                self._follow(*found)
            compared = self._compare_trades(settled)
            self._keep_house(settled)
        except ReplayDiffers as difference:
            self._metrics.add(self._metrics.counter("mismatches"))
            self._give_up(STATE_MISMATCH, f"mismatch: {difference}")
            return False
        except JournalError as error:
            self._give_up(STATE_BLOCKED, f"blocked: {error}")
            return False
        return found is not None or compared

    def _follow(self, segment: SegmentFile, after: SegmentHeader) -> None:
        started_ns = time.monotonic_ns()
        first = self._matching.command_sequence
        if first == segment.header.first_command_sequence:
            check_opening(segment.header, self._matching)
        for _, commands in read_segment(segment, first, closed=True, kernel_versions=KERNEL_VERSIONS_REPLAYED):
            for events in self._matching.pieces(commands):
                if self._stored is not None:
                    self._stretches.take(events)
                self._alive()
        self._check_closing(after)
        self._stretches.close(self._matching.event_sequence)
        self._ring_sequence = after.first_ring_sequence
        page = self._metrics
        page.add(page.counter("segments"))
        for name in ("commands", "records_in"):
            page.add(page.counter(name), self._matching.command_sequence - first)
        page.record(page.histogram("segment_latency_ms"), (time.monotonic_ns() - started_ns) // 10**6)

    def _check_closing(self, after: SegmentHeader) -> None:
        check_opening(after, self._matching)
        if after.kernel_version == self._place.kernel_version and state_hash(self._matching.book) != after.state_hash:
            raise ReplayDiffers(
                f"shard {after.shard}: the replay up to command sequence {after.first_command_sequence} gives the "
                "same events but another book"
            )

    def _compare_trades(self, settled: int) -> bool:
        """Compare the oldest stretch that is settled with what PostgreSQL has; returns whether there was one."""
        waiting = self._stretches.waiting
        if self._stored is None or not waiting or waiting[0].end_sequence > settled:
            return False
        stretch, shard = waiting[0], self._place.limits.shard
        outcome = self._stored.compare(shard, stretch)
        if outcome is Outcome.LATER:
            return False
        waiting.popleft()
        if outcome is not Outcome.GONE:
            self._metrics.add(self._metrics.counter("trades"), stretch.count)
        if outcome is Outcome.OTHER:
            self._is_evidence = True
            self._metrics.add(self._metrics.counter("mismatches"))
            message = (
                f"mismatch: shard {shard}: PostgreSQL has other trades from {stretch.after_id + 1} to "
                f"{stretch.last_id}; run tradeengine verify"
            )
            self._metrics.set_state(STATE_MISMATCH, message)
            logger.error("trades differ", shard=shard, reason=message, expected_count=stretch.count)
        return True

    def _keep_house(self, settled: int) -> None:
        now_s = time.monotonic()
        is_new = self._matching.command_sequence > self._snapshot_sequence
        if is_new and now_s - self._snapshot_at_s >= self._snapshot_interval_s:
            self._snapshot_at_s = now_s
            self._write_snapshot()
        if now_s - self._pruned_at_s >= self._snapshot_interval_s:
            self._pruned_at_s = now_s
            self._prune(settled)

    def _write_snapshot(self) -> None:
        started_ns = time.monotonic_ns()
        header = snapshot_header(self._matching, self._place, self._ring_sequence)
        crash_point("shadow.before_snapshot")
        try:
            write_snapshot(self._place.snapshot_dir, header, dump(self._matching.book))
        except OSError as error:
            # The journal is the truth; the next try comes with the next interval.
            logger.warning("a snapshot could not be written", shard=header.shard, reason=str(error))
            return
        crash_point("shadow.after_snapshot")
        self._snapshot_sequence = header.command_sequence
        page = self._metrics
        page.add(page.counter("snapshots"))
        page.set(page.gauge("snapshot_sequence"), header.event_sequence)
        page.record(page.histogram("snapshot_latency_ms"), (time.monotonic_ns() - started_ns) // 10**6)

    def _prune(self, settled: int) -> None:
        if self._is_evidence or not list_snapshots(self._place.snapshot_dir):
            return
        now_ns = time.time_ns()
        crash_point("shadow.before_prune")
        needed = prune_snapshots(self._place.snapshot_dir, settled, self._keep_count, self._retain_s, now_ns)
        # A matcher that was stopped in order left a snapshot too, perhaps ahead of here: what lies between is to come.
        needed = min(needed, self._matching.command_sequence)
        removed = prune(self._place.journal_dir, settled, needed, self._retain_s, now_ns)
        if removed:
            self._metrics.add(self._metrics.counter("pruned_segments"), len(removed))
            logger.info("journal segments removed", shard=self._place.limits.shard, count=len(removed))

    def _give_up(self, state: int, trouble: str) -> None:
        self.trouble = trouble
        self._metrics.set_state(state, trouble)
        logger.error("the shadow follows a shard no more", shard=self._place.limits.shard, reason=trouble)
