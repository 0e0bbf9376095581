"""The settlement transaction: a batch of events and the cursors behind it, committed together or not at all.

Rule 1: exactly once. A cursor moves only from where this program believes it is (``WHERE sequence = expected``); if the
database knows better, nothing is written, and the caller starts over from what it says.
Rule 2: nothing is skipped. What cannot be settled raises ``SettlementStopped`` with a name, again and again.
Rule 3: one engine per database: an advisory lock lives and dies with the connection.
Rule 4: rows go in as numpy made them: COPY for what is new, arrays as parameters for what changes.
It refuses to know rings and retries.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg

from tradeengine.core.records import event_dtype
from tradeengine.ipc.crashpoints import crash_point
from tradeengine.storage import settle_sql
from tradeengine.storage.bulk import copy_in, register_arrays
from tradeengine.storage.migrate import check_server
from tradeengine.storage.outbox import transfer_columns
from tradeengine.storage.partitions import Partitions
from tradeengine.storage.settle_fold import Fold, SettlementStopped, fold_batch
from tradeengine.storage.settle_postings import Events, SymbolUnits
from tradeengine.storage.statement_marks import StatementMarks

RISK_SHARD: Final = -1
"""Under which risk's own event ring has its cursor."""
ENGINE_LOCK_KEY: Final = 0x7452_6164_6500_0000
"""Advisory lock of the engine that owns a database."""

_NO_EVENTS: Final = np.empty(0, event_dtype)

_SESSION: Final = (
    # A restart of PostgreSQL must not cost what was answered, whatever the server's default.
    "SET synchronous_commit = on",
    "SET TimeZone = 'UTC'",
    # Every look-up here is by primary key. Plans are made once, possibly while the tables are empty, and must not be
    # those for an empty table later.
    "SET plan_cache_mode = force_generic_plan",
    "SET enable_seqscan = off",
    "SET enable_hashjoin = off",
    "SET enable_mergejoin = off",
    "SET enable_bitmapscan = off",
    "SET jit = off",
)


class DatabaseInUse(Exception):  # noqa: N818 - the state that it leads to
    """Another engine settles into this database."""


class CursorMoved(Exception):  # noqa: N818 - a state to recover from
    """The database is elsewhere than was believed: after an error at COMMIT, or because someone else wrote."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What one transaction wrote."""

    events: int
    trades: int
    orders: int
    postings: int
    fundings: int
    commit_s: float = 0.0
    """How long the COMMIT took."""


def engine_running(connection: psycopg.Connection[Any]) -> bool:
    """Whether an engine holds this database: a look, for an early refusal; ``Settler`` takes the lock itself."""
    query = (
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
        "AND classid::bigint << 32 | objid::bigint = %s)"
    )
    row = connection.execute(query, (ENGINE_LOCK_KEY,)).fetchone()
    assert row is not None
    return bool(row[0])


class Settler:
    """One connection that settles. ``cursors`` is what the database has committed, by shard; -1 is risk's ring."""

    def __init__(self, connection: psycopg.Connection[Any], shards: int, *, with_outbox: bool = False) -> None:
        """Take the connection over, and close it when that fails.

        with_outbox: a wallet outside is to be told of every trade. Raises DatabaseInUse, MigrationError, psycopg.Error.
        """
        self.connection = connection
        self._with_outbox = with_outbox
        self._symbols = SymbolUnits()
        try:
            self._begin(shards)
        except BaseException:
            connection.close()
            raise

    def _begin(self, shards: int) -> None:
        connection = self.connection
        check_server(connection)
        connection.autocommit = True
        for statement in _SESSION:
            connection.execute(statement)
        if connection.execute("SELECT pg_try_advisory_lock(%s)", (ENGINE_LOCK_KEY,)).fetchone() != (True,):
            raise DatabaseInUse("another engine settles into this database: end it first")
        register_arrays(connection)
        self.partitions = Partitions(connection)
        self._marks = StatementMarks(connection)
        self.cursors = self._open_cursors(shards)
        for row in connection.execute("SELECT id, base_asset_id, quote_asset_id, lot_units FROM symbols"):
            self._symbols.put(*row)

    def _open_cursors(self, shards: int) -> dict[int, int]:
        """Read the cursors; shards that are new begin at 0."""
        self.connection.execute(
            "INSERT INTO settlement_cursors SELECT shard, 0 FROM generate_series(0, %s) AS shard "
            "ON CONFLICT DO NOTHING",
            (shards - 1,),
        )
        return dict(self.connection.execute("SELECT shard, sequence FROM settlement_cursors").fetchall())

    def settle(self, batches: Mapping[int, Events]) -> Settled:
        """Commit one batch: for each shard (-1: risk's ring) the events from its cursor on.

        batches: 1-D ``event_dtype`` arrays, each without gaps. Raises SettlementStopped when they cannot be settled,
        CursorMoved when the database was elsewhere, psycopg.Error when it fails; nothing is written then, except that
        an error at COMMIT leaves open whether it was: only a new Settler knows.
        """
        events = {shard: batch for shard, batch in batches.items() if len(batch)}
        self._check_sequences(events)
        risk_events = events.get(RISK_SHARD, _NO_EVENTS)
        shard_events = [batch for shard, batch in events.items() if shard != RISK_SHARD]
        joined = shard_events[0] if len(shard_events) == 1 else np.concatenate([_NO_EVENTS, *shard_events])
        assert joined.dtype == event_dtype
        fold = fold_batch(joined, risk_events, self._symbols)
        self._cover(fold)
        after = {shard: self.cursors[shard] + len(batch) for shard, batch in events.items()}
        with self.connection.transaction():
            self._advance(after)
            self._write(fold)
            crash_point("settlement.before_commit")
            written_s = time.monotonic()
        commit_s = time.monotonic() - written_s
        crash_point("settlement.after_commit")
        self.cursors |= after
        return Settled(
            events=sum(map(len, events.values())),
            trades=len(fold.trades),
            orders=len(fold.orders.order_id),
            postings=len(fold.postings.amount_units),
            fundings=len(fold.fundings),
            commit_s=commit_s,
        )

    def _check_sequences(self, events: Mapping[int, Events]) -> None:
        for shard, batch in events.items():
            expected = self.cursors[shard]
            if not np.array_equal(batch["sequence"], np.arange(expected, expected + len(batch))):
                raise SettlementStopped(
                    "SEQUENCE_GAP",
                    f"shard {shard}: events {batch['sequence'][0]} to {batch['sequence'][-1]} do not follow {expected}",
                )

    def _cover(self, fold: Fold) -> None:
        """See that every new row has a partition."""
        new_orders = fold.orders.order_id[fold.orders.began]
        for table, ids in (
            ("orders", new_orders),
            ("trades", fold.trades["trade_id"]),
            ("postings", fold.postings.transaction_id),
        ):
            if len(ids):
                self.partitions.cover(table, int(ids.min()), int(ids.max()))

    def _advance(self, after: Mapping[int, int]) -> None:
        expected = [self.cursors[shard] for shard in after]
        arrays = settle_sql.cursor_arrays(list(after), expected, list(after.values()))
        moved = self.connection.execute(settle_sql.ADVANCE_CURSORS, arrays).rowcount
        if moved != len(after):
            raise CursorMoved(f"{moved} of {len(after)} settlement cursors were where they were believed to be")

    def _write(self, fold: Fold) -> None:
        connection, orders = self.connection, fold.orders
        for event in fold.symbols:
            connection.execute(settle_sql.PUT_SYMBOL, settle_sql.symbol_parameters(event))
        copy_in(connection, "trades", settle_sql.trade_columns(fold.trades))
        copy_in(connection, "postings", settle_sql.posting_columns(fold.postings))
        if self._with_outbox:
            copy_in(connection, "wallet_transfers", transfer_columns(fold.legs, fold.trades["timestamp_ns"]))
        copy_in(connection, "orders", settle_sql.order_columns(orders))
        self._change("ORDER_UNKNOWN", settle_sql.UPDATE_ORDERS, settle_sql.order_arrays(orders))
        self._change("BALANCE_UNKNOWN", settle_sql.ADD_BALANCES, settle_sql.balance_arrays(fold.balances))
        self._marks.write(connection, fold.postings)
        self._change("CANDLE_UNKNOWN", settle_sql.ADD_MINUTES, settle_sql.candle_arrays(fold.minutes))
        self._change("CANDLE_UNKNOWN", settle_sql.ADD_HOURS, settle_sql.candle_arrays(fold.hours))
        self._change("FUNDING_NOT_PENDING", settle_sql.CLOSE_FUNDINGS, settle_sql.funding_arrays(fold))

    def _change(self, state: str, statement: str, arrays: settle_sql.Arrays) -> None:
        if arrays.row_count == 0:
            return
        changed = self.connection.execute(statement, arrays.parameters).rowcount
        if changed != arrays.row_count:
            raise SettlementStopped(
                state, f"{changed} of {arrays.row_count} rows were found: this is not the database of these events"
            )

    def close(self) -> None:
        """Close the connection; the engine's lock goes with it."""
        self.connection.close()
