"""All that was made of the journals, compared with the journals: hashes, snapshots, tables, ledger, live orders.

One snapshot of PostgreSQL is opened first and says how far it has settled each shard; only then it is looked how far
the journals go. So each of its rows must follow from what is read, and what follows from events before its cursors
must be in it, to the column. Postings and balances are compared with the trades, as reconciliation does: with the
trades equal to the journals', the money is what the journals say.

Rule 1: nothing is asked of the engine: files are read, and one connection. Nobody waits for it.
Rule 2: what could not be compared is said, each time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import psycopg

from tradeengine.actors.matcher import place_of
from tradeengine.actors.reconciling.compare import compare_book
from tradeengine.actors.verifying.walk import ShardWalk, Walked
from tradeengine.core.differences import Difference, Differences
from tradeengine.storage.journal_format import JournalError
from tradeengine.storage.reconcile_ledger import LedgerCheck, check_ledger, lock_ledger
from tradeengine.storage.reconcile_words import in_words
from tradeengine.storage.reconcile_world import World, open_snapshot, read_cursors, read_world
from tradeengine.storage.verify_orders import ORDERS, OrderCheck
from tradeengine.storage.verify_rows import note_other_shards
from tradeengine.storage.verify_trades import TRADES, TradeCheck

if TYPE_CHECKING:
    from tradeengine.settings import Settings

Connection = psycopg.Connection[Any]

_IDLE_S_MAX: Final = 900
"""The server ends a snapshot whose reader hangs for so long; a large journal takes time between two questions."""


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What was looked at of a shard. Sequences: of events; ``settled`` and ``next_event`` are those that come next."""

    shard: int
    from_command: int
    from_event: int
    next_command: int
    next_event: int
    settled: int
    segments: int
    byte_count: int
    hashes: int
    snapshots: int
    snapshots_found: int
    trades: int
    orders: int
    live_orders: int
    duration_s: float


@dataclass
class Report:
    """What was looked at, and what differs. ``unseen``: what could not be compared, in words."""

    shards: list[ShardReport] = field(default_factory=list)
    ledger: LedgerCheck | None = None
    balances: int = 0
    differences: Differences = field(default_factory=Differences)
    words: list[dict[str, str | None]] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """Shards that could not be looked at at all, and why."""
    duration_s: float = 0.0
    ledger_s: float = 0.0


def verify(settings: Settings, dsn: str, *, shard: int | None, from_snapshot: bool, is_live: bool) -> Report:
    """Compare everything, or one shard. Raises psycopg.Error, OSError."""
    began_s = time.monotonic()
    report = Report()
    with open_snapshot(dsn, connect_timeout_s=settings.database.connect_timeout_s) as connection:
        connection.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_S_MAX}s'")
        lock_ledger(connection)
        cursors = read_cursors(connection)
        world = read_world(connection)
        wanted = _shards(settings, cursors) if shard is None else [shard]
        for number in wanted:
            _verify_shard(
                settings, connection, number, cursors, world, report, is_live=is_live, from_snapshot=from_snapshot
            )
        if shard is None:
            for layout in (TRADES, ORDERS):
                note_other_shards(connection, layout, wanted, report.differences)
            ledger_s = time.monotonic()
            report.ledger = check_ledger(connection, world, report.differences)
            report.balances = len(world.balance_keys)
            report.ledger_s = time.monotonic() - ledger_s
        words = in_words(connection, report.differences.kept)
    report.words = [
        told | _place_in_words(difference) for told, difference in zip(words, report.differences.kept, strict=True)
    ]
    report.duration_s = time.monotonic() - began_s
    return report


def _verify_shard(
    settings: Settings,
    connection: Connection,
    shard: int,
    cursors: dict[int, int],
    world: World,
    report: Report,
    *,
    is_live: bool,
    from_snapshot: bool,
) -> None:
    began_s = time.monotonic()
    cursor, differences = cursors.get(shard, 0), report.differences
    try:
        walk = ShardWalk(place_of(settings, shard), cursor, differences, is_live=is_live, from_snapshot=from_snapshot)
        start = walk.start
        keeper = settings.keeper
        trades = TradeCheck(
            connection, shard, start.last_trade_id, differences, keeps_all=not keeper.retain_trades_days
        )
        orders = OrderCheck(
            connection, shard, start.last_order_id, differences, keeps_all=not keeper.retain_orders_months
        )
        orders.begin_with(start.orders, walk.walked.from_event)

        def take(events: Any) -> None:
            trades.take(events)
            orders.take(events)

        walked = walk.run(take)
    except JournalError as error:
        report.failed.append(f"shard {shard}: {error}")
        return
    if not walked.damaged:
        trades.finish()
        orders.finish()
    _compare_ends(walked, cursor, world, report)
    report.unseen += _unseen(walked, cursor, trades, orders)
    report.shards.append(
        ShardReport(
            shard=shard,
            from_command=walked.from_command,
            from_event=walked.from_event,
            next_command=walked.next_command,
            next_event=walked.next_event,
            settled=cursor,
            segments=walked.segments,
            byte_count=walked.byte_count,
            hashes=walked.hashes,
            snapshots=walked.snapshots,
            snapshots_found=walked.snapshots_found,
            trades=trades.count,
            orders=orders.count,
            live_orders=0 if walked.book is None else len(walked.book.orders),
            duration_s=round(time.monotonic() - began_s, 3),
        )
    )


def _compare_ends(walked: Walked, cursor: int, world: World, report: Report) -> None:
    """Compare where journal and database end, and what lives there."""
    if walked.book is not None:
        compare_book("The replay", walked.shard, walked.book, cursor, walked.tail, world, report.differences)
    elif not walked.damaged:
        report.differences.add(
            Difference(
                kind="cursor_ahead",
                message="The database has settled events that the journal does not give.",
                expected=walked.next_event,
                found=cursor,
                field="sequence",
                table="settlement_cursors",
                shard=walked.shard,
                sequence=walked.next_event,
            )
        )


def _unseen(walked: Walked, cursor: int, trades: TradeCheck, orders: OrderCheck) -> list[str]:
    """Say what was not compared of a shard."""
    shard, lines = f"shard {walked.shard}", []
    if walked.from_event:
        lines.append(f"{shard}: verified from event {walked.from_event} on; what is older was not replayed")
    if walked.damaged:
        lines.append(
            f"{shard}: verified up to event {walked.next_event}, where the journal is damaged, not to {cursor}"
        )
    for count, what, setting in (
        (trades.gone, "trades", "retain_trades_days"),
        (orders.gone, "orders", "retain_orders_months"),
    ):
        if count:
            lines.append(f"{shard}: {count} {what} of the journal are older than what keeper.{setting} keeps")
    return lines


def _shards(settings: Settings, cursors: dict[int, int]) -> list[int]:
    """List all shards that there ever were: by settings, by the database, by the folders of journals."""
    folders = settings.journal_dir(0).parent.glob("shard-*")
    found = {int(folder.name.removeprefix("shard-")) for folder in folders if folder.name[6:].isdigit()}
    return sorted(found | {shard for shard in cursors if shard >= 0} | set(range(settings.engine.shards)))


def _place_in_words(difference: Difference) -> dict[str, str | None]:
    return {
        "shard": None if difference.shard is None else str(difference.shard),
        "sequence": None if difference.sequence is None else str(difference.sequence),
        "table": difference.table,
        "file": difference.file,
    }
