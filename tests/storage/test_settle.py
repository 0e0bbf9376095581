"""The settlement transaction: what the tables say afterwards, exactly once, however the events are cut into batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.rows import dict_row
from tests.storage.events import ALICE, BOB, CAROL, Events, Market, funding_events, order_id_of

from tradeengine.core.records import (
    ACCOUNT_ID_EXCHANGE,
    ACCOUNT_ID_OUTSIDE,
    CommandFlag,
    EventKind,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
    TradingState,
)
from tradeengine.core.risk_clients import content_fingerprint
from tradeengine.core.symbols import SymbolSpec
from tradeengine.storage.directory import load_directory, resolve_account
from tradeengine.storage.funding import FundingKind, FundingStatus, find_funding, request_funding
from tradeengine.storage.settle import RISK_SHARD, CursorMoved, DatabaseInUse, Settler, engine_running
from tradeengine.storage.settle_fold import SettlementStopped

BUY, SELL = Side.BUY, Side.SELL
PRICE = 5_000_000  # 50,000.00
USDT = 10**8
TABLES = ("orders", "trades", "postings", "balances", "candles_1m", "candles_1h", "settlement_cursors", "symbols")


def test_fees_are_those_of_the_contract(settler: Settler, market: Market, connection: psycopg.Connection) -> None:
    """1 BTC at 50,000, maker buyer 0.05 %, taker seller 0.1 %: 25.00 and 50.00, and every unit is somewhere."""
    settler.settle({0: market.place(ALICE, BUY, 100_000, PRICE)})
    settled = settler.settle({0: market.place(BOB, SELL, 100_000, PRICE)})
    assert (settled.trades, settled.orders, settled.postings) == (1, 2, 5)
    assert _balances(connection) == {
        (ALICE, 0): -50_025 * USDT,
        (ALICE, 1): 10**8,
        (BOB, 0): 49_950 * USDT,
        (BOB, 1): -(10**8),
        (ACCOUNT_ID_EXCHANGE, 0): 75 * USDT,
    }
    _assert_ledger_is_whole(connection)
    row = connection.execute("SELECT taker_side, maker_fee_units, taker_fee_units FROM trades").fetchone()
    assert row == ("sell", 25 * USDT, 50 * USDT)


def test_order_rests_fills_and_ends(settler: Settler, market: Market, connection: psycopg.Connection) -> None:
    """An order that rests is open, then partially filled, then filled, over three transactions."""
    placed = market.place(ALICE, BUY, 100, PRICE, client_order_id=b"mine-1")
    order_id = order_id_of(placed)
    settler.settle({0: placed})
    order = _order(connection, order_id)
    assert (order["status"], order["filled_lots"], order["remaining_lots"]) == ("open", 0, 100)
    assert order["hold_units"] == placed["hold_units"][0]
    assert order["content_hash"] == content_fingerprint(placed[:1])[0]
    assert (order["client_order_id"], order["closed_at"], order["created_at"]) == ("mine-1", None, order["updated_at"])

    settler.settle({0: market.place(BOB, SELL, 40, PRICE)})
    order = _order(connection, order_id)
    assert (order["status"], order["filled_lots"], order["remaining_lots"]) == ("partially_filled", 40, 60)
    assert order["filled_notional_units"] == market.spec.notional_units(PRICE, 40)
    assert order["updated_at"] > order["created_at"]

    last = market.place(BOB, SELL, 60, PRICE)
    settler.settle({0: last})
    order = _order(connection, order_id)
    assert (order["status"], order["filled_lots"], order["remaining_lots"]) == ("filled", 100, 0)
    assert (order["hold_units"], order["closed_at"], order["quantity_lots"]) == (0, order["updated_at"], 100)
    assert order["sequence"] == last["sequence"][-1]
    assert order["fee_units"] == last["maker_fee_total_units"][-1]


def test_refused_by_matcher_is_stored(settler: Settler, market: Market, connection: psycopg.Connection) -> None:
    """A post-only order that would match is an order with status rejected and its reason."""
    settler.settle({0: market.place(ALICE, SELL, 10, PRICE)})
    rejected = market.place(BOB, BUY, 10, PRICE, flags=CommandFlag.POST_ONLY)
    settler.settle({0: rejected})
    order = _order(connection, order_id_of(rejected))
    assert (order["status"], order["status_reason"]) == ("rejected", "POST_ONLY_WOULD_MATCH")
    assert order["post_only"]
    assert (order["hold_units"], order["remaining_lots"]) == (0, 10)
    assert order["closed_at"] is not None


def test_stop_waits_and_triggers(settler: Settler, market: Market, connection: psycopg.Connection) -> None:
    """A stop is pending until it triggers; then it says when."""
    stop = _place_stop(market, CAROL, 5)
    settler.settle({0: stop})
    order = _order(connection, order_id_of(stop))
    assert (order["status"], order["type"], order["triggered_at"]) == ("pending", "stop", None)
    settler.settle({0: np.concatenate([market.place(ALICE, BUY, 20, PRICE), market.place(BOB, SELL, 1, PRICE)])})
    order = _order(connection, order_id_of(stop))
    assert (order["status"], order["filled_lots"]) == ("filled", 5)
    assert order["triggered_at"] == order["closed_at"]


def test_quote_order_has_the_quantity_it_filled(
    settler: Settler, market: Market, connection: psycopg.Connection
) -> None:
    """A market buy by quote amount ends with its quantity equal to what it filled, also when cut into batches."""
    asks = [market.place(ALICE, SELL, 10, PRICE + step) for step in range(5)]
    bought = market.place_by_quote(BOB, market.spec.notional_units(PRICE, 35))
    order_id = order_id_of(bought)
    settler.settle({0: np.concatenate([*asks, bought[:2]])})
    for event in range(2, len(bought)):
        assert _order(connection, order_id)["status"] == "partially_filled"
        settler.settle({0: bought[event : event + 1]})
    order = _order(connection, order_id)
    assert (order["status"], order["by_quote"], order["remaining_lots"]) == ("filled", True, 0)
    assert order["quantity_lots"] == order["filled_lots"] == 34


def test_amend_changes_content(settler: Settler, market: Market, connection: psycopg.Connection) -> None:
    """An amend changes price, quantity and hold and leaves what was filled."""
    placed = market.place(ALICE, SELL, 100, PRICE)
    order_id = order_id_of(placed)
    settler.settle({0: np.concatenate([placed, market.place(BOB, BUY, 30, PRICE)])})
    settler.settle({0: market.amend(ALICE, order_id, price_ticks=PRICE + 7, quantity_lots=80)})
    order = _order(connection, order_id)
    assert (order["status"], order["price_ticks"], order["quantity_lots"]) == ("partially_filled", PRICE + 7, 80)
    assert (order["filled_lots"], order["remaining_lots"]) == (30, 50)
    assert order["hold_units"] == 50 * market.spec.lot_units


def test_deposit_and_withdrawal(settler: Settler, market: Market, connection: psycopg.Connection) -> None:
    """What risk credited or debited is posted against the outside, what it refused is not; each row says its end."""
    account_id = resolve_account(connection, "alice", accounts_max=100)
    for number, (kind, amount) in enumerate(
        [(FundingKind.DEPOSIT, 100), (FundingKind.WITHDRAWAL, 30), (FundingKind.WITHDRAWAL, 900)]
    ):
        request_funding(
            connection, kind, reference=f"r{number}", account_id=account_id, asset_id=0, amount_units=amount
        )
    settled = settler.settle(
        funding_events(0, (1, account_id, 0, 100, True), (2, account_id, 0, -30, True), (3, account_id, 0, -900, False))
    )
    assert (settled.fundings, settled.postings) == (3, 4)
    assert _balances(connection) == {(account_id, 0): 70, (ACCOUNT_ID_OUTSIDE, 0): -70}
    _assert_ledger_is_whole(connection)
    refused = find_funding(connection, FundingKind.WITHDRAWAL, "r2")
    assert refused is not None
    assert (refused.status, refused.status_reason) == (FundingStatus.REFUSED, "INSUFFICIENT_BALANCE")
    assert refused.transaction_id is None
    deposit = find_funding(connection, FundingKind.DEPOSIT, "r0")
    assert deposit is not None
    assert deposit.status is FundingStatus.SETTLED
    postings = connection.execute("SELECT kind FROM postings WHERE transaction_id = %s", (deposit.transaction_id,))
    assert postings.fetchall() == [("F",), ("F",)]


def test_symbol_follows_its_events(settler: Settler, market: Market, connection: psycopg.Connection) -> None:
    """A symbol is listed with its parameters, and what is set later is what the next start reads."""
    row = load_directory(connection).symbols[0]
    assert (row.listed, row.trading_state, row.spec) == (True, TradingState.OPEN, market.spec)
    changed = dataclasses.replace(market.spec, maker_fee_ppm=1, taker_fee_ppm=2)
    settler.settle({0: np.concatenate([market.set_parameters(changed), market.set_state(TradingState.HALTED)])})
    row = load_directory(connection).symbols[0]
    assert (row.trading_state, row.spec) == (TradingState.HALTED, changed)


def test_symbol_keeps_why_it_is_halted(settler: Settler, market: Market, connection: psycopg.Connection) -> None:
    """A state is stored with event, time and reason; parameters, and a halt of all that changes nothing, keep it."""
    events = market.set_state(TradingState.HALTED, "its own")
    settler.settle({0: events})
    stored = load_directory(connection).symbols[0].trading
    assert (stored.state, stored.sequence) == (TradingState.HALTED, int(events["sequence"][0]))
    assert (stored.reason, stored.before_all) == ("its own", None)
    assert stored.timestamp_ns // 1000 == int(events["timestamp_ns"][0]) // 1000
    settler.settle({0: market.set_state(TradingState.HALTED, "all", everywhere=True)})
    settler.settle({0: market.set_parameters(dataclasses.replace(market.spec, maker_fee_ppm=1))})
    assert load_directory(connection).symbols[0].trading == stored
    settler.settle({0: market.set_state(TradingState.OPEN, "over")})
    settler.settle({0: market.set_state(TradingState.HALTED, "all", everywhere=True)})
    stored = load_directory(connection).symbols[0].trading
    assert (stored.reason, stored.before_all) == ("all", TradingState.OPEN)


def test_minutes_add_up(settler: Settler, market: Market, connection: psycopg.Connection) -> None:
    """A minute keeps its open and takes high, low, close and volume from every batch; the next one has its own row."""
    for price in (PRICE, PRICE + 5, PRICE - 5, PRICE + 1):
        settler.settle({0: market.place(ALICE, BUY, 10, price)})
        settler.settle({0: market.place(BOB, SELL, 10, price)})
    market.now_ms += 60_000
    settler.settle({0: np.concatenate([market.place(ALICE, BUY, 3, PRICE), market.place(BOB, SELL, 3, PRICE)])})
    rows = connection.execute(
        "SELECT open_ticks, high_ticks, low_ticks, close_ticks, volume_lots, trade_count FROM candles_1m "
        "ORDER BY minute"
    ).fetchall()
    assert rows == [(PRICE, PRICE + 5, PRICE - 5, PRICE + 1, 40, 4), (PRICE, PRICE, PRICE, PRICE, 3, 1)]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_cuts_make_no_difference(
    batch_size: int, settler: Settler, symbol: SymbolSpec, make_database: Callable[[str], str]
) -> None:
    """However the events are cut into batches, also within a command, every table ends up the same."""
    scenario = _scenario(symbol)
    other_dsn = make_database("tradeengine")
    with psycopg.connect(other_dsn, autocommit=True) as other, other.cursor() as cursor:
        for table in ("assets", "symbols"):
            columns = settler.connection.execute(f"SELECT * FROM {table}").fetchall()
            for row in columns:
                cursor.execute(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(row))})", row)
        whole = Settler(psycopg.connect(other_dsn), 1)
        whole.settle({0: scenario})
        whole.close()
        for start in range(0, len(scenario), batch_size):
            settler.settle({0: scenario[start : start + batch_size]})
        for table in TABLES:
            assert _rows(settler.connection, table) == _rows(other, table), table
        _assert_ledger_is_whole(other)


def test_scenario_agrees_with_its_last_events(settler: Settler, symbol: SymbolSpec) -> None:
    """In a run with every kind of order, what an order filled, paid and holds is what the events add up to."""
    scenario = _scenario(symbol)
    settler.settle({0: scenario})
    traded = scenario[scenario["kind"] == EventKind.TRADED]
    rows = settler.connection.execute(
        "SELECT id, filled_lots, filled_notional_units, fee_units, quantity_lots, remaining_lots, status FROM orders"
    ).fetchall()
    assert len(rows) == len(np.unique(scenario["order_id"][np.isin(scenario["kind"], (1, 4))]))
    for order_id, filled, notional, fee, quantity, remaining, status in rows:
        taken, made = traded[traded["order_id"] == order_id], traded[traded["maker_order_id"] == order_id]
        assert filled == taken["quantity_lots"].sum() + made["quantity_lots"].sum()
        assert notional == taken["notional_units"].sum() + made["notional_units"].sum()
        assert fee == taken["fee_units"].sum() + made["maker_fee_units"].sum()
        assert quantity - filled == remaining, status
    assert {row[6] for row in rows} == {"pending", "open", "partially_filled", "filled", "cancelled", "rejected"}


def test_error_leaves_nothing(settler: Settler, market: Market, connection: psycopg.Connection) -> None:
    """When the last statement of a transaction fails, nothing of it is there, and settling again is possible."""
    before = {table: _rows(connection, table) for table in TABLES}
    events = np.concatenate([market.place(ALICE, BUY, 5, PRICE), market.place(BOB, SELL, 5, PRICE)])
    connection.execute("ALTER TABLE candles_1m ADD CONSTRAINT no_more CHECK (trade_count = 0)")
    with pytest.raises(psycopg.errors.CheckViolation):
        settler.settle({0: events})
    assert {table: _rows(connection, table) for table in TABLES} == before
    connection.execute("ALTER TABLE candles_1m DROP CONSTRAINT no_more")
    assert settler.settle({0: events}).trades == 1
    _assert_ledger_is_whole(connection)


def test_moved_cursor_is_noticed(settler: Settler, market: Market, connection: psycopg.Connection) -> None:
    """Events that someone settled already are not settled again, and nothing of the batch is written."""
    events = market.place(ALICE, BUY, 5, PRICE)
    connection.execute("UPDATE settlement_cursors SET sequence = 2 WHERE shard = 0")
    with pytest.raises(CursorMoved):
        settler.settle({0: events})
    assert _rows(connection, "orders") == []


def test_gap_stops(settler: Settler, market: Market) -> None:
    """Events that do not follow the cursor are never settled."""
    market.place(ALICE, BUY, 5, PRICE)
    later = market.place(ALICE, BUY, 5, PRICE)
    with pytest.raises(SettlementStopped, match="SEQUENCE_GAP"):
        settler.settle({0: later})


def test_unknown_order_stops(settler: Settler, market: Market, connection: psycopg.Connection) -> None:
    """A fill of an order that is not in the database stops settlement and writes nothing."""
    settler.settle({0: market.place(ALICE, BUY, 5, PRICE)})
    connection.execute("DELETE FROM orders")
    with pytest.raises(SettlementStopped, match="ORDER_UNKNOWN"):
        settler.settle({0: market.place(BOB, SELL, 5, PRICE)})
    assert _rows(connection, "trades") == []


def test_unknown_symbol_and_kind_stop(settler: Settler, market: Market) -> None:
    """A trade on a symbol that was never listed, and an event of a kind to come, are not passed over."""
    events = np.concatenate([market.place(ALICE, BUY, 5, PRICE), market.place(BOB, SELL, 5, PRICE)])
    strange = events.copy()
    strange["symbol_id"] = 99
    with pytest.raises(SettlementStopped, match="UNKNOWN_SYMBOL"):
        settler.settle({0: strange})
    strange = events.copy()
    strange["kind"][1] = 77
    with pytest.raises(SettlementStopped, match="UNKNOWN_EVENT"):
        settler.settle({0: strange})
    assert settler.settle({0: events}).trades == 1


def test_funding_is_closed_once(settler: Settler, market: Market, connection: psycopg.Connection) -> None:
    """A second outcome of the same number stops settlement: the money is not posted twice."""
    account_id = resolve_account(connection, "alice", accounts_max=100)
    request_funding(connection, FundingKind.DEPOSIT, reference="r", account_id=account_id, asset_id=0, amount_units=100)
    settler.settle(funding_events(0, (1, account_id, 0, 100, True)))
    with pytest.raises(SettlementStopped, match="FUNDING_NOT_PENDING"):
        settler.settle(funding_events(1, (1, account_id, 0, 100, True)))
    assert _balances(connection) == {(account_id, 0): 100, (ACCOUNT_ID_OUTSIDE, 0): -100}


def test_second_engine_is_refused(settler: Settler, dsn: str, connection: psycopg.Connection) -> None:
    """One engine per database, until the first one's connection ends."""
    assert engine_running(connection)
    with psycopg.connect(dsn) as other, pytest.raises(DatabaseInUse):
        Settler(other, 1)
    settler.close()
    while engine_running(connection):
        pass  # the server notices a closed connection a moment later
    Settler(psycopg.connect(dsn), 1).close()


def test_engines_on_two_databases_do_not_meet(settler: Settler, make_database: Callable[[str], str]) -> None:
    """The lock belongs to a database, not to the server."""
    with psycopg.connect(make_database("tradeengine"), autocommit=True) as other:
        assert not engine_running(other)
        Settler(other, 1)


def test_several_shards_in_one_transaction(dsn: str, symbol: SymbolSpec, connection: psycopg.Connection) -> None:
    """Shards have cursors of their own, and one transaction moves them together with risk's."""
    settler = Settler(psycopg.connect(dsn), 3)
    markets = {shard: Market(symbol, shard=shard) for shard in (0, 2)}
    settler.settle({shard: market.list_symbol() for shard, market in markets.items()})
    account_id = resolve_account(connection, "alice", accounts_max=100)
    request_funding(connection, FundingKind.DEPOSIT, reference="r", account_id=account_id, asset_id=0, amount_units=9)
    batches = {shard: market.place(ALICE, BUY, 5, PRICE) for shard, market in markets.items()}
    settler.settle(batches | funding_events(0, (1, account_id, 0, 9, True)))
    cursors: dict[int, int] = dict(connection.execute("SELECT * FROM settlement_cursors").fetchall())
    assert cursors == settler.cursors == {RISK_SHARD: 1, 0: 2, 1: 0, 2: 2}
    settler.close()


def test_commits_are_synchronous(settler: Settler) -> None:
    """Whatever the server's default, a settled batch is on disk before it is passed."""
    assert settler.connection.execute("SHOW synchronous_commit").fetchone() == ("on",)


def _scenario(spec: SymbolSpec) -> Events:
    """Everything that can happen to an order, by three accounts."""
    market = Market(spec)
    by_client = {"client_order_id": b"a-1"}
    events = [market.list_symbol(), market.place(ALICE, SELL, 100, PRICE, **by_client)]
    resting = market.place(ALICE, SELL, 50, PRICE + 3)
    stop = _place_stop(market, CAROL, 5)
    events += [resting, stop, _place_stop(market, CAROL, 4, stop_price_ticks=PRICE - 900)]
    events += [market.place(BOB, BUY, 130, PRICE + 3), market.place(BOB, BUY, 20, PRICE - 10)]
    events += [market.amend(ALICE, order_id_of(resting), quantity_lots=40)]
    events += [market.place_by_quote(CAROL, spec.notional_units(PRICE + 3, 15))]
    events += [market.place(CAROL, BUY, 500)]
    events += [market.place(BOB, BUY, 9, PRICE + 9), market.place(CAROL, SELL, 9, PRICE, time_in_force=TimeInForce.FOK)]
    events += [market.place(CAROL, SELL, 900, PRICE, time_in_force=TimeInForce.FOK)]
    events += [market.place(ALICE, SELL, 5, PRICE + 20, expires_at_ns=(market.now_ms + 9**9) * 10**6, time_in_force=4)]
    own = market.place(BOB, SELL, 7, PRICE - 10, self_trade_prevention=SelfTradePrevention.CANCEL_BOTH)
    events += [own, market.place(BOB, BUY, 3, PRICE - 50), market.place(CAROL, SELL, 1, PRICE - 50)]
    last = market.place(CAROL, BUY, 8, PRICE - 60)
    events += [last, market.cancel(CAROL, order_id_of(last)), market.cancel(CAROL, order_id_of(last))]
    events += [market.place(CAROL, BUY, 8, PRICE - 5), market.place(ALICE, SELL, 2, PRICE - 5)]
    events += [market.set_state(TradingState.HALTED)]
    return np.concatenate(events)


def _place_stop(market: Market, account_id: int, lots: int, stop_price_ticks: int = PRICE) -> Events:
    stop = {"order_type": OrderType.STOP, "time_in_force": TimeInForce.GTC, "stop_price_ticks": stop_price_ticks}
    return market.place(account_id, SELL, lots, **stop)


def _order(connection: psycopg.Connection, order_id: int) -> dict[str, Any]:
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("SELECT * FROM orders WHERE id = %s", (order_id,)).fetchone()
    assert row is not None
    return row


def _rows(connection: psycopg.Connection, table: str) -> list[Any]:
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(f"SELECT * FROM {table}").fetchall()
    # When a row was written is not what was settled.
    return sorted(str({name: row[name] for name in row if table != "symbols" or name != "updated_at"}) for row in rows)


def _balances(connection: psycopg.Connection) -> dict[tuple[int, int], int]:
    return {(row[0], row[1]): row[2] for row in connection.execute("SELECT * FROM balances WHERE total_units <> 0")}


def _assert_ledger_is_whole(connection: psycopg.Connection) -> None:
    unbalanced = "SELECT transaction_id, asset_id FROM postings GROUP BY 1, 2, kind HAVING sum(amount_units) <> 0"
    assert connection.execute(unbalanced).fetchall() == []
    totals = "SELECT account_id, asset_id, sum(amount_units) FROM postings GROUP BY 1, 2 HAVING sum(amount_units) <> 0"
    assert _balances(connection) == {(row[0], row[1]): row[2] for row in connection.execute(totals)}
