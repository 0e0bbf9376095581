"""Risk: decides on every command before a matcher sees it, and learns from every event what became of it.

Each round: look how far the ingress rings are filled; fold all events that there are; then decide on commands up to
where the look was, administrators' first. So an order that its owner was told of is known here before its cancel is
looked at.
What a round decides is published in this order: commands to the shards, balances and accounts, risk's own answers, and
last the ingress cursor. ``risk_restart`` says why, and what a kill between any two of them leads to.

Rule 1: risk never waits. It stands before and behind the matchers, and for all of them: what a shard has no room for
is refused at once, and no reader holds refusals back. Only settlement's own commands stay where they are while risk's
event ring is full, which settlement empties. Rule 2: only risk refuses for
backlog: new orders early, cancels late. Rule 3: balances are written before the event cursors move, so who sees a
cursor sees the balances too.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np
import psycopg
import structlog

from tradeengine.actors.census import RiskCensus
from tradeengine.actors.risk_gates import Gates
from tradeengine.actors.risk_metrics import RiskMetrics
from tradeengine.actors.risk_restart import Taken, restart, words_of
from tradeengine.actors.risk_rings import RiskRings, rings_of
from tradeengine.actors.steady import SteadyClock
from tradeengine.core.records import CommandKind, EventKind, command_dtype, event_dtype
from tradeengine.core.risk import (
    FOR_ADMINISTRATORS,
    FOR_CANCELS,
    FOR_ORDERS,
    Outbox,
    RiskLimits,
    RiskState,
    account_rows,
    fold,
    make_outbox,
    make_risk,
    market_symbols,
    process,
    take_dirty_accounts,
)
from tradeengine.core.risk_state import LAST_TIMESTAMP_NS, SETTING_VERSION, SYMBOL_LISTED, SYMBOL_SHARD
from tradeengine.core.tables import ActorState
from tradeengine.ipc.crashpoints import crash_point
from tradeengine.ipc.fences import FENCING, Fences
from tradeengine.ipc.ring_reader import RingDamaged, RingWatch
from tradeengine.ipc.seqlock import SeqlockBusy
from tradeengine.ipc.tracing import trace
from tradeengine.ipc.wiring import run_duty
from tradeengine.storage.identity import mark_of
from tradeengine.storage.journal_salvage import newer_commands
from tradeengine.storage.recovery import RiskRecovery, load_risk_recovery, newest_order

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tradeengine.ipc.metrics import MetricPage
    from tradeengine.ipc.ring import RingWriter
    from tradeengine.ipc.ring_reader import RingReader
    from tradeengine.ipc.seqlock import SeqlockTable
    from tradeengine.ipc.wiring import Wiring
    from tradeengine.settings import Settings

_MATCHERS_PAUSE_S: Final = 0.01
_CONNECT_TIMEOUT_S: Final = 5
_DATABASE_PAUSE_S: Final = 0.5

logger = structlog.get_logger(__name__)


def main(wiring: Wiring) -> None:
    """Recover, then decide and fold until the supervisor asks for an end."""
    wiring.metrics.set_state(0, "recovering")
    rings = rings_of(wiring)
    started_s = time.monotonic()
    risk, taken = _recover(wiring, rings)
    recovered = {
        "orders": int(risk.open_orders.sum()),
        "accounts": int(np.count_nonzero(risk.balances.any(axis=(1, 2)))),
        **{f"next_event.{shard}": reader.cursor for shard, reader in enumerate(rings.events)},
        "commands_passed_over": len(taken),
        "recovery_ms": int((time.monotonic() - started_s) * 1000),
    }
    outbox = make_outbox(wiring.shard_count, wiring.settings.limits.symbols_max, rings.batch_count_max)
    gates = Gates(
        [reader.ring for reader in rings.events],
        outbox,
        wiring.settings.settlement.backlog_events_max,
        wiring.settings.data_dir,
        wiring.settings.journal.free_disk_bytes_min,
        [writer.ring for writer in rings.commands],
        Fences(wiring.table("actors")).shards,
    )
    tables = RiskTables(risk, wiring.table("balances"), wiring.table("accounts"), wiring.table("touch"))
    tables.repair()
    duty = RiskDuty(
        risk,
        rings,
        outbox,
        tables,
        gates,
        wiring.metrics,
        taken,
        reserve=wiring.settings.rings.reserve_slots,
        census=RiskCensus(risk, rings, wiring.table("census_requests"), wiring.table("risk_census")),
        running=time.monotonic_ns,
    )
    wiring.metrics.set_state(0, "running")
    wiring.ready(recovered)
    run_duty(wiring, duty)


class RiskDuty:
    """One round of risk. Calling it returns how many events and commands it took."""

    def __init__(
        self,
        risk: RiskState,
        rings: RiskRings,
        outbox: Outbox,
        tables: RiskTables,
        gates: Gates,
        metrics: MetricPage,
        taken: Taken,
        *,
        reserve: int,
        census: RiskCensus | None = None,
        clock: Callable[[], int] = time.time_ns,
        running: Callable[[], int] | None = None,
    ) -> None:
        """Join the ends up. taken: from ``restart``.

        reserve: command slots that only cancels may use; the last eighth of them only administrators. clock: of days,
        as clients' deadlines are. running: one that nobody sets; None: ``clock`` is one.
        """
        self._risk = risk
        self._rings = rings
        self._outbox = outbox
        self._tables = tables
        self._gates = gates
        self._metrics = RiskMetrics(metrics, risk)
        self._taken = taken
        self._reserve = reserve
        self._census = census
        self._clock = clock
        self._steady = SteadyClock(clock, running or clock)
        self._forwards = [commands.reshape(-1).view(command_dtype) for commands in outbox.commands]
        self._answers = outbox.events.reshape(-1).view(event_dtype)
        self._batch_count_max = rings.batch_count_max
        self._order = sorted(range(len(rings.ingress)), key=lambda number: number not in rings.administrators)
        self._damaged: set[int] = set()

    def __call__(self) -> int:
        """Do one round."""
        heads = [reader.head for reader in self._rings.ingress]
        count = self._fold_events()
        if self._census is not None:
            count += self._census.answer()
        self._gates.look()
        for number in self._taken.first(self._order):
            head = heads[number]
            if head > self._rings.ingress[number].cursor and number not in self._damaged:
                count += self._take_batch(number, head)
        self._metrics.look(accepting=self._gates.accepting)
        return count

    def _fold_events(self) -> int:
        counts = [self._fold_ring(reader) for reader in self._rings.events]
        self._tables.write_changed()
        crash_point("risk.after_fold")
        for reader, count in zip(self._rings.events, counts, strict=True):
            if count:
                reader.advance(count)
        crash_point("risk.after_fold_cursor")
        return sum(counts)

    def _fold_ring(self, reader: RingReader) -> int:
        """Fold all events up to the head, without passing them; up to the end of the ring's memory at once."""
        events = reader.poll(reader.ring.capacity)
        if len(events):
            fold(self._risk, words_of(events))
            self._metrics.count_events(len(events))
        return len(events)

    def _take_batch(self, number: int, head: int) -> int:
        reader = self._rings.ingress[number]
        try:
            batch = reader.poll(min(head - reader.cursor, self._batch_count_max))
        except RingDamaged:
            # A local client writes its ring's header itself: what it spoils there is its own loss and nobody else's.
            self._damaged.add(number)
            logger.exception("an ingress ring is damaged and not read any more", ring=reader.ring.name)
            return 0
        words = words_of(batch)
        self._tables.look_at_touch(words, self._outbox)
        self._look_at_rooms()
        answers = self._rings.answers_to(number)
        taken = self._taken.of(number, reader.cursor, len(batch))
        # No command's time stamp is below its number in the ring, also where the clock was set back: the next start
        # opens the rings above the last time stamp of all journals, and must repeat no number that is in one.
        last_ns = max(int(self._risk.scalars[LAST_TIMESTAMP_NS]), reader.cursor + len(batch))
        self._risk.scalars[LAST_TIMESTAMP_NS] = self._steady.now_ns(last_ns)
        count, answered = process(
            self._risk,
            self._outbox,
            words,
            taken,
            number,
            int(self._rings.rights[number]),
            reader.cursor,
            self._clock(),
            answers.head,
            min(answers.free(), len(self._answers)),
        )
        # Told before anybody else has it and tells of it.
        trace("taken by risk", batch[:count])
        trace("answered by risk", self._answers[:answered])
        crash_point("risk.before_publish")
        self._publish(answers, answered)
        if count:
            reader.advance(count)
            crash_point("risk.after_cursor")
            self._metrics.count_batch(count, int(self._outbox.counts.sum()), self._answers[:answered])
        return count

    def _look_at_rooms(self) -> None:
        outbox = self._outbox
        outbox.counts[:] = 0
        for shard, writer in enumerate(self._rings.commands):
            free = min(writer.free(), self._batch_count_max)
            outbox.heads[shard] = writer.head
            outbox.rooms[shard, FOR_ADMINISTRATORS] = free
            outbox.rooms[shard, FOR_CANCELS] = min(free, max(0, writer.free() - max(1, self._reserve // 8)))
            outbox.rooms[shard, FOR_ORDERS] = min(free, max(0, writer.free() - self._reserve))

    def _publish(self, answers: RingWriter, answered: int) -> None:
        for shard, writer in enumerate(self._rings.commands):
            count = self._outbox.counts[shard]
            if count:
                writer.publish(self._forwards[shard][:count])
                crash_point("risk.after_forward")
        self._tables.write_changed()
        if answered:
            self._tables.write_accounts(self._answers[:answered])
            answers.publish(self._answers[:answered])
            crash_point("risk.after_events")


class RiskTables:
    """The tables that risk writes (balances, accounts) and reads (touch)."""

    def __init__(self, risk: RiskState, balances: SeqlockTable, accounts: SeqlockTable, touch: SeqlockTable) -> None:
        self._risk = risk
        self._balances = balances
        self._accounts = accounts
        self._touch = touch
        self._symbols = np.zeros(len(risk.symbols), np.int64)

    def write_changed(self) -> None:
        """Write the balances of every account in which something changed."""
        accounts = take_dirty_accounts(self._risk)
        if len(accounts):
            self._write(accounts)

    def write_accounts(self, answers: NDArray[np.void]) -> None:
        """Write the accounts whose new settings these answers announce, before anybody reads them."""
        changed = answers["account_id"][answers["kind"] == EventKind.ACCOUNT_SET]
        if len(changed):
            self._write_accounts(np.unique(changed).astype(np.int64))

    def repair(self) -> None:
        """Write what a dead risk may have left half written, and everything that is known now."""
        self._write_accounts(np.flatnonzero(self._risk.accounts[:, SETTING_VERSION]))
        self._write(np.union1d(take_dirty_accounts(self._risk), self._balances.torn_rows()).astype(np.int64))

    def _write(self, accounts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        rows = np.empty(len(accounts), self._balances.dtype)
        rows["units"] = self._risk.balances[accounts]
        self._balances.write_rows(accounts, rows)

    def _write_accounts(self, account_ids: NDArray[np.int64]) -> None:
        """Write accounts, and then row 0: whoever sees its version there sees theirs, too."""
        for rows in (account_ids, np.zeros(1, np.int64)):
            self._accounts.write_rows(rows, account_rows(self._risk, rows))

    def look_at_touch(self, commands: np.ndarray[tuple[int, int], np.dtype[np.int64]], outbox: Outbox) -> None:
        """Read best bid and ask of the symbols in which market orders are asked for."""
        count = market_symbols(commands, self._symbols)
        if not count:
            return
        symbols = self._symbols[:count]
        try:
            rows = self._touch.read_rows(symbols)
        except SeqlockBusy:
            return  # its matcher died writing it: what was read before is as good as anything until it is back
        outbox.touch[symbols, 0] = rows["best_bid_ticks"]
        outbox.touch[symbols, 1] = rows["best_ask_ticks"]


def limits_of(settings: Settings) -> RiskLimits:
    """Sizes of risk's state: the books' orders of all shards together."""
    limits = settings.limits
    return RiskLimits(
        accounts_max=limits.accounts_max,
        assets_max=limits.assets_max,
        symbols_max=limits.symbols_max,
        orders_max=limits.orders_max * settings.engine.shards,
        client_ids_max=limits.client_ids_max,
        open_orders_max=limits.open_orders_max,
        shards=settings.engine.shards,
        amends_max=settings.rings.commands_slots * settings.engine.shards,
    )


def _recover(wiring: Wiring, rings: RiskRings) -> tuple[RiskState, Taken]:
    started_s = time.monotonic()
    settings = wiring.settings

    def load() -> RiskRecovery:
        """Wait for the database as settlement does: dying of its absence would end in being given up."""
        told = False
        while True:
            try:
                return load_risk_recovery(
                    settings.database.direct_dsn, settings.limits.client_ids_max, connect_timeout_s=_CONNECT_TIMEOUT_S
                )
            except psycopg.OperationalError as error:
                if not told:
                    told = True
                    wiring.blocked(f"the database cannot be read: {' '.join(str(error).split())}")
                _wait_for_database(wiring)

    def salvage(risk: RiskState) -> list[NDArray[np.void]]:
        return [salvaged(settings, shard, risk) for shard in sorted(Fences(wiring.table("actors")).shards())]

    risk = make_risk(limits_of(settings))
    crash_point("risk.before_recovery")
    taken = restart(risk, rings, load, lambda: _matchers_ready(wiring, rings), salvage)
    crash_point("risk.after_recovery")
    logger.info("recovered", commands_passed_over=len(taken), duration_s=round(time.monotonic() - started_s, 3))
    return risk, taken


def salvaged(settings: Settings, shard: int, risk: RiskState) -> NDArray[np.void]:
    """Read from the journal of a shard that is given up what nobody else knows: orders and amends that hold money.

    risk: as of all events. Only what risk would take is given: of accounts and listed symbols that there are.
    """
    settled = newest_order(settings.database.direct_dsn, shard, connect_timeout_s=_CONNECT_TIMEOUT_S)
    newest = max(settled, int(risk.last_order_ids[shard]))
    commands = newer_commands(settings.journal_dir(shard), shard, newest, mark_of(settings.data_dir))
    accounts, symbols = commands["account_id"], commands["symbol_id"]
    possible = (accounts >= 0) & (accounts < len(risk.open_orders)) & (symbols >= 0) & (symbols < len(risk.symbols))
    commands = commands[possible & np.isin(commands["kind"], (CommandKind.PLACE, CommandKind.AMEND))]
    of_symbols = risk.symbols[commands["symbol_id"]]
    commands = commands[(of_symbols[:, SYMBOL_LISTED] == 1) & (of_symbols[:, SYMBOL_SHARD] == shard)]
    logger.warning(
        "a shard is given up: what its journal holds of money stays held, as far as it can be read",
        shard=shard,
        newest_known_order=newest,
        commands_salvaged=len(commands),
    )
    return np.ascontiguousarray(commands)


def _wait_for_database(wiring: Wiring) -> None:
    """Show that risk lives, and pause. Raises SystemExit when the engine shall end."""
    if wiring.stopping():
        raise SystemExit
    wiring.metrics.heartbeat()
    wiring.metrics.set_state(0, "recovering: the database cannot be read")
    time.sleep(_DATABASE_PAUSE_S)


def _matchers_ready(wiring: Wiring, rings: RiskRings) -> bool:
    """Whether each matcher whose command ring is still unused has replayed its journal, or is given up; pauses if not.

    A used command ring says that risk has worked in this engine before, so the matcher had replayed. What it has not
    published since is in the command ring.
    """
    unused = [shard for shard, writer in enumerate(rings.commands) if writer.head == writer.ring.first_sequence]
    actors = wiring.table("actors").read_rows(range(wiring.table("actors").rows))
    states = {row["name"].decode(): int(row["state"]) for row in actors}
    if wiring.stopping() or all(states.get(f"matcher-{shard}") in {ActorState.READY, *FENCING} for shard in unused):
        return True
    wiring.metrics.heartbeat()
    wiring.doorbell.wait(_MATCHERS_PAUSE_S, RingWatch(rings.events))
    return False
