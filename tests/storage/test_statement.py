"""Statements: every posting once, with the exact balance after it, whatever the pages, marks and late trades."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import numpy as np
import psycopg
import pytest
from psycopg import sql
from tests.postgres import btc_usdt
from tests.storage.events import ALICE, BOB, START_MS, Events, Market, funding_events

from tradeengine.core.ids import TIMESTAMP_SHIFT, first_id_at
from tradeengine.core.records import Side
from tradeengine.core.symbols import SymbolSpec
from tradeengine.storage import statement_marks
from tradeengine.storage.directory import add_asset, add_symbol, resolve_account
from tradeengine.storage.funding import FundingKind, request_funding
from tradeengine.storage.settle import RISK_SHARD, Settler
from tradeengine.storage.statement import StatementRow, read_statement
from tradeengine.storage.statement_marks import MILLISECOND_MASK

PRICE = 5_000_000


class Venue(NamedTuple):
    """Two symbols on two shards, and what settles their events."""

    markets: list[Market]
    settler: Settler
    connection: psycopg.Connection


@pytest.fixture
def venue(dsn: str, connection: psycopg.Connection, symbol: SymbolSpec) -> Iterator[Venue]:
    """Give BTC/USDT and ETH/USDT, and three accounts."""
    for name in ("alice", "bob", "carol"):
        resolve_account(connection, name, accounts_max=100)
    eth = add_asset(connection, "ETH", 8, assets_max=16)
    other = add_symbol(connection, btc_usdt(eth, symbol.quote, shard=1), symbols_max=16).spec
    markets = [Market(symbol), Market(other, shard=1)]
    settler = Settler(psycopg.connect(dsn), 2)
    settler.settle({shard: market.list_symbol() for shard, market in enumerate(markets)})
    yield Venue(markets, settler, connection)
    settler.close()


@pytest.fixture
def frequent_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a mark made every seven postings."""
    monkeypatch.setattr(statement_marks, "MARK_EVERY", 7)


def _trade(market: Market, seller: int, buyer: int, lots: int = 5) -> Events:
    return np.concatenate([market.place(seller, Side.SELL, lots, PRICE), market.place(buyer, Side.BUY, lots, PRICE)])


def _random_trading(venue: Venue, seed: int, rounds: int) -> None:
    """Trade on both shards, their clocks apart, deposits in between; settle each shard when chance has it."""
    draw = random.Random(seed)
    waiting: dict[int, list[Events]] = {0: [], 1: []}
    risk_sequence = 0
    for number in range(1, rounds + 1):
        shard = draw.randrange(2)
        market = venue.markets[shard]
        market.now_ms += draw.choice((-1, 0, 0, 3))
        seller, buyer = draw.sample((ALICE, BOB), 2)
        waiting[shard].append(_trade(market, seller, buyer, draw.randint(1, 50)))
        if draw.random() < 0.1:
            kind = draw.choice(list(FundingKind))
            amount, asset_id = draw.randint(1, 10**9), draw.randrange(3)
            funding = request_funding(
                venue.connection,
                kind,
                reference=f"r{seed}.{number}",
                account_id=ALICE,
                asset_id=asset_id,
                amount_units=amount,
            )
            signed = amount if kind is FundingKind.DEPOSIT else -amount
            events = funding_events(risk_sequence, (funding.number, ALICE, asset_id, signed, True))
            events[RISK_SHARD]["timestamp_ns"] = max(market.now_ms for market in venue.markets) * 1_000_000
            venue.settler.settle(events)
            risk_sequence += 1
        if draw.random() < 0.3:
            settled = draw.choice(((0,), (1,), (0, 1)))
            venue.settler.settle({shard: np.concatenate(waiting[shard]) for shard in settled if waiting[shard]})
            for shard in settled:
                waiting[shard] = []
    venue.settler.settle({shard: np.concatenate(events) for shard, events in waiting.items() if events})


def _whole(connection: psycopg.Connection, account_id: int, limit: int = 1000, **filters: Any) -> list[StatementRow]:
    """Read a statement page by page."""
    rows: list[StatementRow] = []
    below = None
    while True:
        page, below = read_statement(connection, account_id, limit=limit, below=below, **filters)
        assert len(page) <= limit
        rows += page
        if below is None:
            return rows


def _expected(connection: psycopg.Connection, account_id: int) -> list[tuple[int, int, int, int]]:
    """Add up all postings in plain Python: (transaction, asset, amount, balance), newest first."""
    postings = connection.execute(
        "SELECT transaction_id, asset_id, amount_units FROM postings WHERE account_id = %s", (account_id,)
    ).fetchall()
    balances: dict[int, int] = {}
    rows = []
    for transaction_id, asset_id, amount in sorted(
        postings, key=lambda row: (row[0] >> TIMESTAMP_SHIFT, row[2] < 0, row[0], row[1])
    ):
        balances[asset_id] = balances.get(asset_id, 0) + amount
        rows.append((transaction_id, asset_id, amount, balances[asset_id]))
    return rows[::-1]


def _plain(rows: list[StatementRow]) -> list[tuple[int, int, int, int]]:
    return [(row.transaction_id, row.asset_id, row.amount_units, row.balance_units) for row in rows]


@pytest.mark.usefixtures("frequent_marks")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_balances_are_the_sums_of_all_before(venue: Venue, seed: int) -> None:
    """After random trades, some settled late, each page of each size says what adding up everything does."""
    _random_trading(venue, seed, 120)
    connection = venue.connection
    marks = connection.execute("SELECT count(DISTINCT transaction_id) FROM statement_marks").fetchone()
    assert marks is not None
    assert marks[0] > 10
    for account_id in (ALICE, BOB):
        expected = _expected(connection, account_id)
        assert len(expected) > 100
        for limit in (1, 3, 17, 1000):
            assert _plain(_whole(connection, account_id, limit)) == expected
        totals: dict[int, int] = dict(
            connection.execute(
                "SELECT asset_id, total_units FROM balances WHERE account_id = %s", (account_id,)
            ).fetchall()
        )
        newest = {row[1]: row[3] for row in reversed(expected)}
        assert newest == totals


@pytest.mark.usefixtures("frequent_marks")
def test_filters_pick_from_the_same_statement(venue: Venue) -> None:
    """By asset, kind and time the same rows come out as of the whole statement, with the same balances."""
    _random_trading(venue, 4, 150)
    connection = venue.connection
    whole = _whole(connection, ALICE)
    kinds = {row.kind for row in whole}
    assert kinds == {"trade", "deposit", "withdrawal"}
    for limit in (2, 1000):
        for asset_id in range(3):
            picked = [row for row in whole if row.asset_id == asset_id]
            assert _whole(connection, ALICE, limit, asset_id=asset_id) == picked
        for kind in sorted(kinds):
            assert _whole(connection, ALICE, limit, kind=kind) == [row for row in whole if row.kind == kind]
        middle_ms = START_MS + 150
        first_id = first_id_at(middle_ms)
        older = [row for row in whole if row.transaction_id < first_id]
        assert 0 < len(older) < len(whole)
        assert _whole(connection, ALICE, limit, end_ns=middle_ms * 1_000_000) == older
        younger = [row for row in whole if row.transaction_id >= first_id]
        assert _whole(connection, ALICE, limit, start_ns=middle_ms * 1_000_000) == younger


def test_rows_say_where_they_come_from(venue: Venue) -> None:
    """A trade names the account's own order, whichever side it was on; a deposit the reference of its request."""
    market = venue.markets[0]
    funding = request_funding(
        venue.connection, FundingKind.DEPOSIT, reference="wire-7", account_id=ALICE, asset_id=1, amount_units=10**9
    )
    venue.settler.settle(funding_events(0, (funding.number, ALICE, 1, 10**9, True)))
    events = _trade(market, ALICE, BOB)
    venue.settler.settle({0: events})
    sale, buy = (int(order_id) for order_id in events["order_id"][events["maker_order_id"] == 0][:2])
    *trades, deposit = _whole(venue.connection, ALICE)
    assert [(row.kind, row.order_id, row.reference) for row in trades] == [("trade", sale, None)] * 2
    assert (deposit.kind, deposit.order_id, deposit.reference) == ("deposit", 0, "wire-7")
    assert {row.order_id for row in _whole(venue.connection, BOB)} == {buy}
    assert {row.transaction_id for row in trades} == {int(events["trade_id"].max())}


def test_nothing_goes_below_zero_within_a_millisecond(venue: Venue, connection: psycopg.Connection) -> None:
    """What was paid for by something that came in during the same millisecond stands after it."""
    head = first_id_at(START_MS)
    venue.settler.partitions.cover("postings", head, head)
    for transaction_id, amount in (
        (head + 1, -70),
        (head + 2, 100),
        (head + 3, -30),
        ((head | MILLISECOND_MASK) + 1, 5),
    ):
        connection.execute("INSERT INTO postings VALUES (%s, %s, %s, 0, 'T')", (transaction_id, amount, ALICE))
    for limit in (1, 2, 10):
        rows = _whole(connection, ALICE, limit)
        assert [(row.amount_units, row.balance_units) for row in rows] == [(5, 5), (-30, 0), (-70, 30), (100, 100)]


def test_accounts_of_others_are_not_in_it(venue: Venue) -> None:
    """A statement has the postings of its account and no other; an account without any has an empty one."""
    venue.settler.settle({0: _trade(venue.markets[0], ALICE, BOB)})
    carol = resolve_account(venue.connection, "carol", accounts_max=100)
    assert _whole(venue.connection, carol) == []
    assert len(_whole(venue.connection, ALICE)) == 2


def test_page_reads_only_what_it_needs(venue: Venue, connection: psycopg.Connection) -> None:
    """Among 200,000 postings no page reads more than those between two marks, nor a table from end to end."""
    count, every, head = 200_000, 1000, first_id_at(START_MS)
    step = 1 << TIMESTAMP_SHIFT
    venue.settler.partitions.cover("postings", head, head + count * step)
    connection.execute(
        f"INSERT INTO postings SELECT {head} + n * {step}::bigint, 1, {ALICE} + n % 2, n % 20 / 10, "
        f"'T' FROM generate_series(1, {count}) AS n"
    )
    connection.execute(
        f"INSERT INTO statement_marks SELECT a, ({head} + n * {step}::bigint) | {MILLISECOND_MASK}, s, n / 4 "
        f"FROM generate_series({every}, {count}, {every}) AS n, generate_series({ALICE}, {BOB}) AS a, "
        "generate_series(0, 1) AS s"
    )
    connection.execute("VACUUM ANALYZE postings")
    connection.execute("VACUUM ANALYZE statement_marks")
    expected = _expected(connection, ALICE)
    middle_ns = (START_MS + count // 2) * 1_000_000
    for options in ({}, {"end_ns": middle_ns}, {"asset_id": 1, "end_ns": middle_ns}, {"kind": "withdrawal"}):
        asked: list[tuple[Any, Any]] = []
        connection.cursor_factory = _recorder(asked)
        rows, _ = read_statement(connection, ALICE, limit=50, **options)
        connection.cursor_factory = psycopg.Cursor
        assert set(_plain(rows)) <= set(expected)
        assert len(rows) == (0 if "kind" in options else 50)
        for query, parameters in asked:
            text = query.as_string(connection) if isinstance(query, sql.Composable) else str(query)
            if "FROM" not in text:
                continue
            plan = "\n".join(line for (line,) in connection.execute("EXPLAIN ANALYZE " + text, parameters))
            assert not re.search(r"Seq Scan on (postings|statement)", plan), plan
            read = [float(number) for number in re.findall(r"actual time=\S+ rows=([\d.]+)", plan)]
            assert max(read, default=0) <= every, plan


def _recorder(asked: list[tuple[Any, Any]]) -> type[psycopg.Cursor[Any]]:
    class Recorder(psycopg.Cursor[Any]):
        """Remembers what was asked."""

        def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
            asked.append((query, params))
            return super().execute(query, params, **options)

    return Recorder
