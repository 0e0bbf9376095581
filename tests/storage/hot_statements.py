"""Which statements of the storage are hot and a call that sends each, and which are rare and why they may be.

Hot is what an order, a request or a stream waits for, or what an actor asks again and again.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Final

import numpy as np
from tests.storage.events import Market
from tests.storage.full_database import BUSY, DAY_MS, USUAL, Full
from tests.storage.plans import ExplainingConnection

from tradeengine.core.feed import TimeFrame
from tradeengine.core.ids import first_id_at
from tradeengine.core.records import Side
from tradeengine.storage import (
    account_settings,
    api_keys,
    audit,
    candles,
    depth_snapshots,
    directory,
    funding,
    history,
    outbox,
    past_trades,
    private,
    queries,
    statement,
    statistics,
    wallet_fundings,
)
from tradeengine.storage.settle import Settler

MS: Final = 1_000_000
SMALL_TABLE_ROWS: Final = 500
"""A table that small is read as a whole, whatever indexes it has."""
READ_ROWS_MAX: Final = 12_000
"""Of one statement. The most is what a page of a statement between two of its marks may need."""
SORTED_ROWS_MAX: Final = 5000


@dataclasses.dataclass(frozen=True, slots=True)
class Hot:
    """Statements that an order, a request or a stream waits for, and a call that sends them."""

    functions: tuple[str, ...]
    call: Callable[[ExplainingConnection, Full], object]
    partitions: int = 2
    """Of one table that a statement may read; two, because midnight or a month's end may lie in between."""
    rows: int = READ_ROWS_MAX
    sorted_rows: int = SORTED_ROWS_MAX


def _orders(connection: ExplainingConnection, full: Full) -> None:
    assert queries.find_order(connection, full.live_account_id, full.live_id) is not None
    now_ns = full.now_ms * MS
    for account_id in (BUSY, USUAL):
        queries.list_orders(connection, account_id, limit=100, start_ns=now_ns - 20 * DAY_MS * MS)
        queries.list_orders(connection, account_id, limit=100, symbol_id=3, start_ns=now_ns - 20 * DAY_MS * MS)


def _all_orders(connection: ExplainingConnection, full: Full) -> None:
    for account_id in (BUSY, USUAL):
        queries.list_orders(connection, account_id, limit=100)
        queries.list_orders(connection, account_id, limit=100, statuses=["open", "partially_filled"])
        queries.find_order_by_client_id(connection, account_id, "client-20000")
    private.read_live_orders(connection, [USUAL, USUAL + 1, USUAL + 2])


def _trades(connection: ExplainingConnection, full: Full) -> None:
    row = queries.find_trade(connection, full.trade_id)
    assert row is not None
    queries.settlement_statuses(connection, [full.trade_id])


def _trades_of_order(connection: ExplainingConnection, full: Full) -> None:
    trade = queries.find_trade(connection, full.trade_id)
    assert trade is not None
    assert len(queries.list_trades_of_order(connection, trade.taker_order_id)) == 1
    assert queries.count_trades_of_order(connection, trade.maker_order_id) == 1


def _pages_of_trades(connection: ExplainingConnection, full: Full) -> None:
    assert len(queries.list_public_trades(connection, 3, limit=100)) == 100
    assert len(queries.list_own_trades(connection, BUSY, limit=100)) == 100
    assert len(queries.list_own_trades(connection, BUSY, 4, limit=20)) == 20


def _pages_far_back(connection: ExplainingConnection, full: Full) -> None:
    # Whoever has few trades is looked for in windows that grow.
    assert len(queries.list_own_trades(connection, USUAL, limit=100)) < 100
    far_id = first_id_at(full.now_ms - 25 * DAY_MS)
    queries.list_public_trades(connection, 3, limit=100, before_id=far_id)


def _past(connection: ExplainingConnection, full: Full) -> None:
    since_ns = (full.now_ms - 20 * DAY_MS) * MS
    assert len(past_trades.list_past_trades(connection, 2, limit=200, start_ns=since_ns)) == 200
    assert len(past_trades.list_past_trades(connection, 2, limit=200)) == 200


def _changes(connection: ExplainingConnection, full: Full) -> None:
    for account_id in (BUSY, USUAL):
        since_ms = full.now_ms - 3_600_000
        assert private.read_changes(connection, account_id, since_ms, [0, 0]) is not None


def _candles(connection: ExplainingConnection, full: Full) -> None:
    now_ns = full.now_ms * MS
    for frame in (TimeFrame.M1, TimeFrame.M15, TimeFrame.H1, TimeFrame.D1):
        assert candles.list_candles(connection, 1, frame, limit=100)
        candles.list_candles(connection, 1, frame, limit=100, start_ns=now_ns - DAY_MS * MS, fill=True)
    assert statistics.read_day(connection, 1).sums.trade_count > 0


def _statement(connection: ExplainingConnection, full: Full) -> None:
    end_ns = (full.now_ms - 12 * DAY_MS) * MS
    for account_id in (BUSY, USUAL):
        for filters in ({}, {"asset_id": 1}, {"kind": "deposit"}, {"end_ns": end_ns}, {"kind": "withdrawal"}):
            statement.read_statement(connection, account_id, limit=50, **filters)


def _depth(connection: ExplainingConnection, full: Full) -> None:
    assert depth_snapshots.find_depth(connection, 2, (full.now_ms - DAY_MS) * MS) is not None
    depth_snapshots.stored_sequences(connection)
    depth_snapshots.store_depth(connection, [depth_snapshots.StoredDepth(2, full.now_ms + 5, 1, [[1, 1]], [[2, 1]])])


def _accounts(connection: ExplainingConnection, full: Full) -> None:
    assert directory.find_account(connection, "user-77") == 16 + 77
    assert len(directory.account_names(connection, [20, 21])) == 2
    directory.load_directory(connection)
    assert account_settings.read_settings(connection, USUAL).version
    assert len(account_settings.pending_settings(connection, 4990, 1024)) == 10
    assert api_keys.find_key(connection, 500) is not None
    assert len(api_keys.list_keys(connection, USUAL, before_id=None, limit=20)) == 2


def _money(connection: ExplainingConnection, full: Full) -> None:
    deposit = funding.FundingKind.DEPOSIT
    request = {"account_id": USUAL, "asset_id": 1, "amount_units": 5}
    # The sample's numbers were not taken from the counter.
    connection.execute("UPDATE counters SET value = 1000000 WHERE name = 'funding'")
    made = funding.request_funding(connection, deposit, reference="new", **request)
    assert funding.find_funding(connection, deposit, "new") == made
    assert len(funding.pending_commands(connection, 0, 100)) > 5
    assert funding.count_pending(connection) > 20
    for account_id in (None, BUSY, USUAL):
        for status in (None, *funding.FundingStatus):
            funding.list_fundings(connection, deposit, limit=50, account_id=account_id, status=status)


def _transfers(connection: ExplainingConnection, full: Full) -> None:
    ids = full.transfer_ids
    assert len(outbox.take_pending(connection, 100, ids[:5])) == 100
    assert len(outbox.take_due(connection, ids[:20])) == 20
    row = outbox.find_row(connection, ids[0])
    assert row is not None
    retry = outbox.Retry(ids[1], 1, 0.1, "away")
    outbox.put_off(connection, [retry])
    outbox.bury(connection, [retry])
    outbox.hasten(connection, ids[2:5])
    outbox.give_back_tries(connection, ids[2:5])
    outbox.keep_progress(connection, ids[6], "leg 1")
    outbox.delete_delivered(connection, ids[7:20])
    outbox.expects_credit(connection, ids[0], row.moves())
    outbox.unconfirmed_credits(connection, USUAL, 1)
    wallet_fundings.has_undelivered(connection, USUAL)


def _holdings(connection: ExplainingConnection, full: Full) -> None:
    due = wallet_fundings.take_due_fundings(connection, 20, [1, 2])
    assert due
    reserving = [row.id for row in due if row.kind is wallet_fundings.HoldingKind.RESERVE]
    assert reserving
    wallet_fundings.confirm_reserved(connection, reserving[:1])
    wallet_fundings.confirm_released(connection, [due[1].id])
    wallet_fundings.confirm_given_back(connection, [due[2].id])
    wallet_fundings.refuse_deposit(connection, due[3].id, "INVALID_REQUEST", "no")
    retry = outbox.Retry(due[4].id, 1, 0.1, "away")
    wallet_fundings.put_off_fundings(connection, [retry])
    wallet_fundings.bury_funding(connection, retry)


def _settle(connection: ExplainingConnection, full: Full) -> None:
    connection.keeps_plans = True
    settler = Settler(connection, 2, with_outbox=True)
    spec = directory.load_directory(connection).symbols[0].spec
    market = Market(dataclasses.replace(spec, symbol_id=0))
    market.now_ms = full.now_ms
    events = [market.list_symbol()]
    for _ in range(300):
        events += [market.place(USUAL, Side.SELL, 1000, 200_000), market.place(BUSY, Side.BUY, 900, 200_000)]
    # In two transactions: the second one changes orders that the first one began.
    joined = np.concatenate(events)
    settler.settle({0: joined[: len(joined) // 2]})
    settler.settle({0: joined[len(joined) // 2 :]})
    # And of a shard that is behind: below marks that statements have already.
    late = Market(directory.load_directory(connection).symbols[1].spec, shard=1)
    late.now_ms = full.now_ms - 5 * DAY_MS
    listed = late.list_symbol()
    placed = [late.place(USUAL, Side.SELL, 1000, 200_000), late.place(BUSY, Side.BUY, 900, 200_000)]
    assert settler.settle({1: np.concatenate([listed, *placed])}).trades == 1


def _start(connection: ExplainingConnection, full: Full) -> None:
    minute = full.now_ms // 60_000
    assert history.read_minutes(connection, 0, minute - 1440).minutes


def _audit(connection: ExplainingConnection, full: Full) -> None:
    assert audit.find_head(connection).id == 60_000
    start = dt.datetime.fromtimestamp(full.now_ms / 1000, dt.UTC) - dt.timedelta(days=20)
    assert len(audit.list_rows(connection, limit=50)) == 50
    assert len(audit.list_rows(connection, limit=50, before_id=1000, actor="admin-3")) == 50
    assert len(audit.list_rows(connection, limit=50, action="action-3", actor="admin-3")) == 50
    assert len(audit.list_rows(connection, limit=50, start=start, end=start + dt.timedelta(hours=2))) == 50
    assert len(audit.list_rows(connection, limit=50, action="action-3", start=start)) == 50
    assert len(audit.rows_after(connection, 1000, 100)) == 100


HOT: Final = {
    "own orders": Hot(("queries.list_orders", "queries.find_order"), _orders),
    # Nothing says when they were made: a look into the index of each month.
    "own orders of any time": Hot(
        ("queries.list_orders", "queries.find_order_by_client_id", "private.read_live_orders", "private._settled"),
        _all_orders,
        partitions=5,
    ),
    "a trade": Hot(("queries.find_trade", "queries.settlement_statuses"), _trades),
    "the trades of an order": Hot(
        ("queries.list_trades_of_order", "queries.count_trades_of_order"), _trades_of_order, 31
    ),
    "the last trades": Hot(("queries._newest_trades",), _pages_of_trades, 9),
    "trades far back": Hot(("queries._oldest_trade_id",), _pages_far_back, 31),
    "a symbol's past": Hot(("past_trades.list_past_trades", "past_trades._own_trades"), _past, 9),
    "what has changed of own orders": Hot(("private.read_changes",), _changes, partitions=5),
    "candles": Hot(("candles.list_candles", "candles._Source._candles", "statistics.read_day"), _candles),
    "a page of a statement": Hot(
        (
            "statement.read_statement",
            "statement._Page._last_funding",
            "statement._Page._mark_before",
            "statement._Page._read_stretch",
            "statement._name_orders",
            "statement._name_references",
        ),
        _statement,
        31,
    ),
    "stored depth": Hot(
        ("depth_snapshots.find_depth", "depth_snapshots.stored_sequences", "depth_snapshots.store_depth"), _depth
    ),
    "who asks": Hot(
        (
            "directory.find_account",
            "directory.account_names",
            "directory.load_directory",
            "account_settings.read_settings",
            "account_settings.pending_settings",
            "api_keys._read",
        ),
        _accounts,
    ),
    "money in and out": Hot(
        (
            "funding.request_funding",
            "funding._insert",
            "funding.is_kept_outside",
            "funding.next_number",
            "funding.find_funding",
            "funding.list_fundings",
            "funding.pending_commands",
            "funding.count_pending",
        ),
        _money,
    ),
    "transfers to a wallet": Hot(
        (
            "outbox.take_pending",
            "outbox.take_due",
            "outbox.find_row",
            "outbox.delete_delivered",
            "outbox.put_off",
            "outbox.bury",
            "outbox.hasten",
            "outbox.give_back_tries",
            "outbox.keep_progress",
            "outbox.expects_credit",
            "outbox.unconfirmed_credits",
            "wallet_fundings.has_undelivered",
        ),
        _transfers,
    ),
    "deposits at a wallet": Hot(
        (
            "wallet_fundings.take_due_fundings",
            "wallet_fundings.confirm_reserved",
            "wallet_fundings.confirm_released",
            "wallet_fundings.confirm_given_back",
            "wallet_fundings.refuse_deposit",
            "wallet_fundings.put_off_fundings",
            "wallet_fundings.bury_funding",
        ),
        _holdings,
    ),
    "what administrators did": Hot(("audit.find_head", "audit.list_rows", "audit.rows_after"), _audit),
    "settlement": Hot(
        (
            "settle.Settler._advance",
            "settle.Settler._write",
            "settle.Settler._change",
            "statement_marks.StatementMarks.write",
        ),
        _settle,
        200,
    ),
    "tickers at a start": Hot(("history.read_minutes",), _start, 31, rows=16_000, sorted_rows=8000),
}

AT_A_START: Final = "once, when the engine or an actor of it starts"
BY_HAND: Final = "when an administrator or a command asks"
VERIFYING: Final = "verification and the shadow, which read whole tables in the order of their keys"
COMPARING: Final = "compares the whole ledger, at its own low priority, or asks for that"
HOUSEKEEPING: Final = "the keeper's, every minute at most, on a connection of its own"
IMPORTING: Final = "when trades of the past are imported"
SESSION: Final = "sets up a session or a transaction, or takes a lock: no table is read"
OUTAGE: Final = "counts what waits for the wallet: as much as that is, and a tenth of the wallet actor's time at most"

RARE: Final = {
    "account_settings.change_from": BY_HAND,
    "partitions.kept_ranges": VERIFYING,
    "verify_rows.note_other_shards": VERIFYING,
    "verify_rows.TableReader._read": VERIFYING,
    "recovery.newest_order": AT_A_START,
    "connections._check_room": AT_A_START,
    "connections._is_same_database": AT_A_START,
    "connections._pid": AT_A_START,
    "identity.bind_identity": AT_A_START,
    "identity.identity_in": AT_A_START,
    "directory.has_room_for_account": "an administrator's, before a deposit that is only tried; one row of a few",
    "queries.live_order_ids": "an administrator's, before a mass cancel: counts live orders by their index",
    "audit.append_entries": "once for each action of an administrator; by key",
    "account_settings._write": BY_HAND,
    "api_keys.add_key": "when a user makes a key, of which there are twenty",
    "api_keys.revoke_key": "when a user revokes a key",
    "candles.remake_candles": IMPORTING,
    "dead_letters._is_to_give_back": BY_HAND,
    "dead_letters._lock": BY_HAND,
    "dead_letters._moves_of": BY_HAND,
    "dead_letters._with_legs": BY_HAND,
    "dead_letters.discard_letter": BY_HAND,
    "dead_letters.find_letter": BY_HAND,
    "dead_letters.list_letters": BY_HAND,
    "dead_letters.retry_letter": BY_HAND,
    "depth_snapshots.forget_depth": HOUSEKEEPING,
    "directory._lock_counter": "when an asset, a symbol or an account is made",
    "directory._next_id": "when an asset, a symbol or an account is made",
    "directory.add_asset": BY_HAND,
    "directory.add_symbol": BY_HAND,
    "directory.change_symbol": SESSION,
    "directory.remove_pending_symbol": BY_HAND,
    "directory.resolve_account": "when a user is seen for the first time",
    "embedded._ensure_database": AT_A_START,
    "imports.TradeImport._add_between": IMPORTING,
    "imports.TradeImport._end_of_batch": IMPORTING,
    "imports.TradeImport.add": IMPORTING,
    "imports.TradeImport.stage": IMPORTING,
    "imports.history_end_ms": IMPORTING,
    "imports.open_import": IMPORTING,
    "live_counts.count_live_orders": "an administrator's: counts all live orders by their index, for a second at most",
    "migrate._backend": AT_A_START,
    "outbox.delivery_lock_is_wanted": SESSION,
    "outbox.expected_reserves": COMPARING,
    "outbox.keep_kind": AT_A_START,
    "outbox.read_outbox": OUTAGE,
    "outbox.read_reserves": OUTAGE,
    "partitions.Partitions._attach": HOUSEKEEPING,
    "partitions.Partitions.refresh": AT_A_START,
    "reconcile_ledger._ranges": COMPARING,
    "reconcile_ledger._read_fundings": COMPARING,
    "reconcile_ledger._trades_since": COMPARING,
    "reconcile_ledger.check_ledger": COMPARING,
    "reconcile_ledger.lock_ledger": COMPARING,
    "reconcile_wallet._found": COMPARING,
    "reconcile_wallet.compare_wallet": COMPARING,
    "reconcile_wallet.deliveries_paused": SESSION,
    "reconcile_world._read_orders": COMPARING,
    "reconcile_world.open_snapshot": SESSION,
    "reconcile_world.read_world": COMPARING,
    "reconciliations.begin_open": COMPARING,
    "reconciliations.find_reconciliation": COMPARING,
    "reconciliations.finish": COMPARING,
    "reconciliations.request_reconciliation": COMPARING,
    "recovery._read_client_ids": AT_A_START,
    "recovery._read_orders": AT_A_START,
    "recovery._read_symbols": AT_A_START,
    "recovery._read_traded": AT_A_START,
    "recovery.last_order_id": AT_A_START,
    "recovery.load_risk_recovery": AT_A_START,
    "recovery.settled_cursors": AT_A_START,
    "retention._partitions_below": HOUSEKEEPING,
    "retention.drop_partition": HOUSEKEEPING,
    "settle.Settler._begin": AT_A_START,
    "settle.Settler._open_cursors": AT_A_START,
    "settle.engine_running": AT_A_START,
    "statement_marks.StatementMarks.__init__": AT_A_START,
}
"""What may read a whole table, and why it may."""

ONLY_RARE: Final = {
    "postings_transaction": "reconciliation reads the ledger in ranges; of block ranges, so it costs next to nothing",
    "reconciliations_finished": "old answers are forgotten by it",
    "reconciliations_open": "the keeper looks every second whether somebody asks",
    "wallet_transfers_dead": "dead letters are counted and listed by it",
    "wallet_adjustments_account": "few rows, and none where nothing was ever given up",
}
"""Indexes that no hot statement looks into, and what they are for; those of constraints are needed anyway."""
