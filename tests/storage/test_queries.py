"""What the front asks of the past: right answers, pages without holes, and an index behind each question."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import psycopg
import pytest
from psycopg import sql
from tests.storage.events import ALICE, BOB, CAROL, Events, Market, order_id_of

from tradeengine.core.ids import timestamp_ms_of
from tradeengine.core.records import CommandFlag, EventKind, OrderType, Reason, Side, TimeInForce
from tradeengine.core.symbols import SymbolSpec
from tradeengine.storage import queries
from tradeengine.storage.queries import OrderRow, TradeRow
from tradeengine.storage.settle import Settler

BUY, SELL = Side.BUY, Side.SELL
PRICE = 5_000_000
DAY_MS = 86_400_000
LOADED_COUNT = 20_000


@pytest.fixture
def settle(dsn: str, symbol: SymbolSpec) -> Iterator[Callable[..., Events]]:
    """Settle one piece of the stream after another."""
    settler = Settler(psycopg.connect(dsn), 1)

    def work(*pieces: Events) -> Events:
        events = np.concatenate(pieces)
        settler.settle({0: events})
        return events

    yield work
    settler.close()


@pytest.fixture
def market(symbol: SymbolSpec, settle: Callable[..., Events]) -> Market:
    """Return a book whose clock stands a little before the present."""
    opened = Market(symbol)
    opened.now_ms = time.time_ns() // 1_000_000 - 60_000
    settle(opened.list_symbol())
    return opened


def _ids(rows: Sequence[OrderRow]) -> list[int]:
    return [row.order_id for row in rows]


def test_order_is_told_whole(market: Market, settle: Callable[..., Events], connection: psycopg.Connection) -> None:
    """Every field of an order comes back as the records' numbers, times in milliseconds."""
    expires_ns = (market.now_ms + DAY_MS) * 1_000_000
    fields = {"client_order_id": b"mine-1", "expires_at_ns": expires_ns, "time_in_force": TimeInForce.GTD}
    placed = market.place(ALICE, BUY, 100, PRICE, flags=CommandFlag.POST_ONLY, **fields)
    order_id = order_id_of(placed)
    settle(placed, filled := market.place(BOB, SELL, 40, PRICE))
    row = queries.find_order(connection, ALICE, order_id)
    assert row == OrderRow(
        order_id=order_id,
        account_id=ALICE,
        symbol_id=0,
        client_order_id="mine-1",
        side=BUY,
        order_type=OrderType.LIMIT,
        time_in_force=TimeInForce.GTD,
        self_trade_prevention=1,
        post_only=True,
        by_quote=False,
        price_ticks=PRICE,
        stop_price_ticks=0,
        quantity_lots=100,
        filled_lots=40,
        remaining_lots=60,
        filled_notional_units=market.spec.notional_units(PRICE, 40),
        fee_total_units=int(filled["maker_fee_units"][1]),
        hold_units=int(filled["maker_hold_units"][1]),
        status="partially_filled",
        reason=0,
        sequence=int(filled["sequence"][1]),
        updated_ms=int(filled["timestamp_ns"][1]) // 1_000_000,
        expires_ms=expires_ns // 1_000_000,
        triggered_ms=0,
        closed_ms=0,
    )
    settle(market.cancel(ALICE, order_id))
    cancelled = queries.find_order_by_client_id(connection, ALICE, "mine-1")
    assert cancelled is not None
    assert (cancelled.status, cancelled.reason) == ("cancelled", Reason.USER)
    assert cancelled.closed_ms == market.now_ms - 1


def test_orders_of_others_are_not_found(
    market: Market, settle: Callable[..., Events], connection: psycopg.Connection
) -> None:
    """By id, by client id or in a list: only the owner finds an order."""
    placed = market.place(ALICE, BUY, 100, PRICE, client_order_id=b"mine-1")
    settle(placed)
    assert queries.find_order(connection, BOB, order_id_of(placed)) is None
    assert queries.find_order_by_client_id(connection, BOB, "mine-1") is None
    assert queries.list_orders(connection, BOB, limit=10) == []


def test_newest_of_two_with_the_same_client_id(
    market: Market, settle: Callable[..., Events], connection: psycopg.Connection
) -> None:
    """After its lifetime a client order id may be used again; then it means the newer order."""
    first = market.place(ALICE, BUY, 10, PRICE, client_order_id=b"again")
    second = market.place(ALICE, BUY, 10, PRICE, client_order_id=b"again")
    settle(first, second)
    found = queries.find_order_by_client_id(connection, ALICE, "again")
    assert found is not None
    assert found.order_id == order_id_of(second)


def test_filters(market: Market, settle: Callable[..., Events], connection: psycopg.Connection) -> None:
    """Status, side, type and time narrow a list; several statuses widen it again; start counts, end does not."""
    buy = market.place(ALICE, BUY, 10, PRICE)
    sell = market.place(ALICE, SELL, 10, PRICE + 9)
    stop = market.place(
        ALICE, SELL, 10, order_type=OrderType.STOP, time_in_force=TimeInForce.GTC, stop_price_ticks=PRICE - 9
    )
    settle(buy, sell, stop, market.cancel(ALICE, order_id_of(buy)))
    first, second, third = map(order_id_of, (buy, sell, stop))

    def found(**filters: object) -> list[int]:
        return _ids(queries.list_orders(connection, ALICE, limit=10, **filters))  # type: ignore[arg-type]

    assert found() == [third, second, first]
    assert found(statuses=["cancelled"]) == [first]
    assert found(statuses=["pending", "open"]) == [third, second]
    assert found(statuses=["cancelled", "pending"]) == [third, first]
    assert found(side="sell") == [third, second]
    assert found(order_type="stop") == [third]
    assert found(symbol_id=0, side="buy") == [first]
    assert found(symbol_id=1) == []
    start_ns = timestamp_ms_of(second) * 1_000_000
    assert found(start_ns=start_ns) == [third, second]
    assert found(end_ns=start_ns) == [first]
    assert found(start_ns=start_ns + 1) == [third]
    assert found(end_ns=start_ns + 1) == [second, first]


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_pages_have_no_holes(
    limit: int, market: Market, settle: Callable[..., Events], connection: psycopg.Connection
) -> None:
    """Page after page gives every order and every trade once, newest first, though new ones come in between."""
    for _ in range(10):
        settle(market.place(ALICE, BUY, 10, PRICE), market.place(BOB, SELL, 10, PRICE))
    orders, trades, own = [], [], []
    before_orders: int | None = None
    before_trades: int | None = None
    before_own: int | None = None
    for _ in range(20 // limit + 1):
        orders += (page := queries.list_orders(connection, ALICE, limit=limit, before_id=before_orders))
        before_orders = page[-1].order_id if page else before_orders
        trades += (seen := queries.list_public_trades(connection, 0, limit=limit, before_id=before_trades))
        before_trades = seen[-1].trade_id if seen else before_trades
        own += (mine := queries.list_own_trades(connection, BOB, limit=limit, before_id=before_own))
        before_own = mine[-1].trade_id if mine else before_own
        settle(market.place(ALICE, BUY, 10, PRICE), market.place(BOB, SELL, 10, PRICE))
    all_trades = [row[0] for row in connection.execute("SELECT id FROM trades ORDER BY id DESC")]
    assert _ids(orders)[-10:] == [row[0] for row in connection.execute(
        "SELECT id FROM orders WHERE account_id = %s ORDER BY id LIMIT 10", (ALICE,))][::-1]  # fmt: skip
    for found in (trades, own):
        identifiers = [trade.trade_id for trade in found]
        assert identifiers == [number for number in all_trades if number <= identifiers[0]]


def test_trades_of_both_sides(market: Market, settle: Callable[..., Events], connection: psycopg.Connection) -> None:
    """An order's fills are found whether it was maker or taker, an account's too, each once and in order."""
    resting = market.place(ALICE, BUY, 10, PRICE)
    settle(resting, market.place(CAROL, BUY, 20, PRICE), market.place(ALICE, SELL, 5, PRICE + 5))
    taker = market.place(BOB, SELL, 30, PRICE)
    settle(taker, market.place(CAROL, BUY, 5, PRICE + 5))
    traded = taker[taker["kind"] == EventKind.TRADED]
    fills = queries.list_trades_of_order(connection, order_id_of(taker))
    assert [trade.trade_id for trade in fills] == traded["trade_id"].tolist()
    assert queries.list_trades_of_order(connection, order_id_of(resting)) == fills[:1]
    assert queries.list_trades_of_order(connection, order_id_of(taker), limit=1) == fills[:1]
    assert queries.count_trades_of_order(connection, order_id_of(taker)) == len(fills)
    assert queries.count_trades_of_order(connection, order_id_of(resting)) == 1
    bounds = {"first_sequence": fills[0].sequence, "last_sequence": fills[1].sequence}
    assert queries.count_trades_of_order(connection, order_id_of(taker), **bounds) == 2
    assert fills[0] == TradeRow(
        trade_id=int(traded["trade_id"][0]),
        symbol_id=0,
        price_ticks=PRICE,
        quantity_lots=10,
        notional_units=int(traded["notional_units"][0]),
        taker_side=SELL,
        taker_fee_units=int(traded["fee_units"][0]),
        maker_fee_units=int(traded["maker_fee_units"][0]),
        taker_order_id=order_id_of(taker),
        maker_order_id=order_id_of(resting),
        taker_account_id=BOB,
        maker_account_id=ALICE,
        sequence=int(traded["sequence"][0]),
        timestamp_ms=int(traded["timestamp_ns"][0]) // 1_000_000,
    )
    assert queries.find_trade(connection, fills[0].trade_id) == fills[0]
    assert queries.find_trade(connection, 1) is None
    carols = queries.list_own_trades(connection, CAROL, limit=10)
    assert [(trade.taker_account_id, trade.maker_account_id) for trade in carols] == [(CAROL, ALICE), (BOB, CAROL)]
    assert queries.list_own_trades(connection, CAROL, 1, limit=10) == []
    assert queries.list_own_trades(connection, CAROL, 0, limit=1) == carols[:1]


def test_old_trades_are_found_across_empty_days(
    market: Market, settle: Callable[..., Events], connection: psycopg.Connection
) -> None:
    """A page goes on through days without trades to those long ago, and stops at the start that was asked for."""
    present_ms = market.now_ms
    moments = [present_ms - days * DAY_MS for days in (400, 90, 3, 0)]
    for moment in moments:
        market.now_ms = moment
        settle(market.place(ALICE, BUY, 10, PRICE), market.place(BOB, SELL, 10, PRICE))

    def found(**bounds: int) -> list[int]:
        rows = queries.list_public_trades(connection, 0, limit=10, **bounds)
        assert rows == queries.list_own_trades(connection, BOB, limit=10, **bounds)
        return [row.timestamp_ms for row in rows]

    when = [moment + 1 for moment in moments]
    assert found() == when[::-1]
    assert found(start_ns=when[1] * 1_000_000) == when[:0:-1]
    assert found(end_ns=when[2] * 1_000_000) == when[1::-1]


def test_every_question_has_an_index(
    market: Market, settle: Callable[..., Events], connection: psycopg.Connection
) -> None:
    """On tables with history no question of the front reads a table from end to end or sorts more than a page."""
    settle(market.place(ALICE, BUY, 10, PRICE), market.place(BOB, SELL, 5, PRICE))
    _load_history(connection)
    order_id = connection.execute("SELECT max(id) FROM orders").fetchone()[0]  # type: ignore[index]
    questions: list[Callable[[], object]] = [
        lambda: queries.list_orders(connection, ALICE, limit=50),
        lambda: queries.list_orders(connection, ALICE, limit=50, statuses=["open", "partially_filled"]),
        lambda: queries.list_orders(connection, ALICE, limit=50, symbol_id=0, side="buy", before_id=order_id),
        lambda: queries.find_order(connection, ALICE, order_id),
        lambda: queries.find_order_by_client_id(connection, ALICE, "c-77"),
        lambda: queries.list_trades_of_order(connection, order_id),
        lambda: queries.count_trades_of_order(connection, order_id),
        lambda: queries.list_public_trades(connection, 0, limit=50),
        lambda: queries.list_own_trades(connection, ALICE, limit=50),
        lambda: queries.list_own_trades(connection, ALICE, 0, limit=50),
        lambda: queries.find_trade(connection, order_id),
    ]
    for number, question in enumerate(questions):
        asked: list[tuple[Any, Any]] = []
        connection.cursor_factory = _recorder(asked)
        question()
        connection.cursor_factory = psycopg.Cursor
        assert asked
        for query, parameters in asked:
            text = query.as_string(connection) if isinstance(query, sql.Composable) else str(query)
            lines = connection.execute("EXPLAIN ANALYZE " + text, parameters).fetchall()
            plan = "\n".join(line for (line,) in lines)
            assert "Index" in plan or "Scan" not in plan, f"question {number}: {plan}"
            for table in ("orders", "trades", "postings"):
                assert f"Seq Scan on {table}" not in plan, f"question {number}: {plan}"
            read = [float(rows) for rows in re.findall(r"actual time=\S+ rows=([\d.]+)", plan)]
            assert max(read, default=0) <= 200, f"question {number}: {plan}"


def _recorder(asked: list[tuple[Any, Any]]) -> type[psycopg.Cursor[Any]]:
    class Recorder(psycopg.Cursor[Any]):
        """Remembers what was asked."""

        def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
            asked.append((query, params))
            return super().execute(query, params, **options)

    return Recorder


def _load_history(connection: psycopg.Connection) -> None:
    """Multiply what is there: orders and trades of a hundred accounts, spread over the last minute."""
    connection.execute(
        f"""
        INSERT INTO orders SELECT (o.id + n - {LOADED_COUNT} * 2), o.price_ticks, o.stop_price_ticks, o.quantity_lots,
            o.filled_lots, o.remaining_lots, o.filled_notional_units, o.fee_units, o.hold_units, o.sequence,
            o.content_hash, o.created_at, o.updated_at, o.triggered_at, CASE WHEN n % 50 = 0 THEN NULL ELSE now() END,
            o.expires_at, 16 + n % 100, o.symbol_id, o.side, o.type, o.time_in_force, o.self_trade_prevention,
            CASE WHEN n % 50 = 0 THEN o.status ELSE 'filled' END, NULL, o.post_only, o.by_quote, 'c-' || n
        FROM (SELECT * FROM orders ORDER BY id LIMIT 1) AS o, generate_series(0, {LOADED_COUNT}) AS n
        """
    )
    connection.execute(
        f"""
        INSERT INTO trades SELECT t.id + n - {LOADED_COUNT} * 2, t.price_ticks, t.quantity_lots, t.notional_units,
            t.taker_fee_units, t.maker_fee_units, t.taker_order_id - n, t.maker_order_id - n, t.sequence, t.executed_at,
            16 + n % 100, 16 + (n + 1) % 100, n % 4, t.taker_side
        FROM (SELECT * FROM trades LIMIT 1) AS t, generate_series(0, {LOADED_COUNT}) AS n
        """
    )
    connection.execute(
        "INSERT INTO postings SELECT id, 1, account_id, asset_id, 'T' FROM trades, generate_series(0, 1) AS asset_id, "
        "unnest(ARRAY[taker_account_id, maker_account_id]) AS account_id "
        "WHERE id NOT IN (SELECT transaction_id FROM postings)"
    )
    for table in ("orders", "trades", "postings"):
        connection.execute(f"VACUUM ANALYZE {table}")
