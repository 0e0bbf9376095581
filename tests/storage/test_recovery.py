"""What risk reads when it starts: everything of one moment, exactly what a restart needs, quickly decoded."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import numpy as np
import psycopg
import pytest
from tests.storage.events import ALICE, BOB, CAROL, START_MS, Events, Market, funding_events, order_id_of

from tradeengine.core.ids import first_id_at
from tradeengine.core.records import (
    ACCOUNT_ID_EXCHANGE,
    ACCOUNT_ID_OUTSIDE,
    AccountFlag,
    CommandKind,
    OrderType,
    Side,
    TimeInForce,
    TradingState,
)
from tradeengine.core.risk_clients import content_fingerprint
from tradeengine.core.symbols import SymbolSpec
from tradeengine.storage.account_settings import change
from tradeengine.storage.directory import load_directory, resolve_account
from tradeengine.storage.funding import FundingKind, request_funding
from tradeengine.storage.recovery import CLIENT_ID_LIFETIME_MS, RiskRecovery, load_risk_recovery
from tradeengine.storage.settle import RISK_SHARD, Settler

BUY, SELL = Side.BUY, Side.SELL
PRICE = 5_000_000


@pytest.fixture
def settler(dsn: str, symbol: SymbolSpec) -> Iterator[Settler]:
    """Settle two shards into the test's database."""
    opened = Settler(psycopg.connect(dsn), 2)
    yield opened
    opened.close()


def _load(dsn: str, client_ids_max: int = 1000, after_ms: int = 0) -> RiskRecovery:
    return load_risk_recovery(dsn, client_ids_max, now_ms=START_MS + after_ms)


def test_empty_database(dsn: str) -> None:
    """A database that has seen nothing is nothing, not an error."""
    recovery = _load(dsn)
    assert (len(recovery.symbols), len(recovery.orders), len(recovery.client_ids)) == (0, 0, 0)
    assert (recovery.funding_number, recovery.last_order_id) == (0, 0)
    assert recovery.cursors == {RISK_SHARD: 0}


def test_listed_symbols_as_commands(dsn: str, settler: Settler, symbol: SymbolSpec) -> None:
    """A symbol is there once it is listed, as the command that lists it, with the state it has."""
    assert len(_load(dsn).symbols) == 0
    market = Market(symbol)
    settler.settle({0: np.concatenate([market.list_symbol(), market.set_state(TradingState.CANCEL_ONLY)])})
    symbols = _load(dsn).symbols
    assert symbols["kind"].tolist() == [CommandKind.LIST_SYMBOL]
    assert symbols["trading_state"].tolist() == [TradingState.CANCEL_ONLY]
    directory = load_directory(settler.connection)
    assert SymbolSpec.from_record(symbols[0], directory.assets[1], directory.assets[0]) == symbol


def test_balances_cursors_and_numbers(dsn: str, settler: Settler, market: Market) -> None:
    """Balances of all accounts, the last decided funding number, the last order id and every cursor come along."""
    account_id = resolve_account(settler.connection, "alice", accounts_max=100)
    for number in range(3):
        request_funding(
            settler.connection,
            FundingKind.DEPOSIT,
            reference=f"r{number}",
            account_id=account_id,
            asset_id=0,
            amount_units=10**13,
        )
    outcomes = [(1, account_id, 0, 10**13, True), (2, account_id, 0, 10**13, False)]
    buy, sell = market.place(ALICE, BUY, 10, PRICE), market.place(BOB, SELL, 10, PRICE)
    settler.settle({0: np.concatenate([buy, sell])} | funding_events(0, *outcomes))
    recovery = _load(dsn)
    assert recovery.funding_number == 2
    assert recovery.last_order_id == order_id_of(sell)
    assert recovery.cursors == {RISK_SHARD: 2, 0: 1 + len(buy) + len(sell), 1: 0}
    expected = settler.connection.execute("SELECT * FROM balances").fetchall()
    columns = (recovery.account_ids, recovery.asset_ids, recovery.total_units)
    assert {column.dtype for column in columns} == {np.dtype(np.int64)}
    assert sorted(zip(*(column.tolist() for column in columns), strict=True)) == sorted(expected)
    assert {ACCOUNT_ID_EXCHANGE, ACCOUNT_ID_OUTSIDE, ALICE, BOB} == set(recovery.account_ids.tolist())
    for asset_id in (0, 1):
        assert recovery.total_units[recovery.asset_ids == asset_id].sum() == 0


def test_live_orders_with_their_holds(dsn: str, settler: Settler, market: Market) -> None:
    """Open, partially filled and waiting orders are there as their last events left them; closed ones are not."""
    partial = market.place(ALICE, BUY, 100, PRICE)
    stop_fields = {"order_type": OrderType.STOP_LIMIT, "time_in_force": TimeInForce.GTC}
    waiting = market.place(CAROL, SELL, 7, PRICE - 50, stop_price_ticks=PRICE - 40, **stop_fields)
    fired = market.place(CAROL, SELL, 5, PRICE + 90, stop_price_ticks=PRICE + 1, **stop_fields)
    gone = market.place(BOB, BUY, 10, PRICE - 9)
    filled = market.place(BOB, SELL, 40, PRICE)
    pieces = [partial, waiting, fired, gone, filled, market.cancel(BOB, order_id_of(gone))]
    settler.settle({0: np.concatenate(pieces)})
    orders = {int(order["order_id"]): order for order in _load(dsn).orders}
    assert set(orders) == {order_id_of(partial), order_id_of(waiting), order_id_of(fired)}
    order = orders[order_id_of(partial)]
    assert (order["account_id"], order["symbol_id"], order["side"], order["order_type"]) == (ALICE, 0, BUY, 1)
    assert (order["price_ticks"], order["quantity_lots"], order["filled_lots"]) == (PRICE, 100, 40)
    assert order["hold_units"] == filled["maker_hold_units"][1]
    order = orders[order_id_of(waiting)]
    assert (order["triggered"], order["stop_price_ticks"], order["order_type"]) == (0, PRICE - 40, OrderType.STOP_LIMIT)
    assert order["hold_units"] == 7 * market.spec.lot_units
    order = orders[order_id_of(fired)]
    assert (order["triggered"], order["side"]) == (1, SELL)


def test_client_ids_newest_kept_oldest_first(dsn: str, settler: Settler, market: Market) -> None:
    """Client order ids come with their content, closed and rejected orders' too, the newest so many, oldest first."""
    names = [b"a", b"b" * 36, b"c.:-_", b"d"]
    placed: list[Events] = []
    for place, name in enumerate(names):
        placed.append(market.place(ALICE, BUY, 10 + place, PRICE, client_order_id=name))
    others = [market.cancel(ALICE, order_id_of(placed[0])), market.place(BOB, BUY, 9, PRICE)]
    settler.settle({0: np.concatenate([*placed, *others])})
    client_ids = _load(dsn).client_ids
    assert client_ids["client_order_id"].tolist() == names
    assert client_ids["order_id"].tolist() == [order_id_of(events) for events in placed]
    assert client_ids["content"].tolist() == [content_fingerprint(events[:1])[0] for events in placed]
    assert client_ids["account_id"].tolist() == [ALICE] * 4
    assert _load(dsn, client_ids_max=2).client_ids["client_order_id"].tolist() == names[2:]
    made_ms = market.now_ms - START_MS
    assert len(_load(dsn, after_ms=made_ms + CLIENT_ID_LIFETIME_MS).client_ids) == 0


def test_one_moment(dsn: str, settler: Settler, market: Market) -> None:
    """What is settled while risk reads is in all that it reads or in none of it."""
    events = [market.place(ALICE, BUY, 10, PRICE - step) for step in range(200)]

    def settle() -> None:
        for event in events:
            settler.settle({0: event})

    with ThreadPoolExecutor() as executor:
        settling = executor.submit(settle)
        while not settling.done():
            recovery = _load(dsn)
            assert len(recovery.orders) == recovery.cursors[0] - 1
            assert recovery.last_order_id == max([0, *recovery.orders["order_id"].tolist()])
        settling.result()
    assert len(_load(dsn).orders) == len(events)


def test_many_rows_at_once(dsn: str, settler: Settler, market: Market) -> None:
    """Ten thousand orders of many accounts come back complete."""
    count = 10_000
    commands = market.command(CommandKind.PLACE, 0, count)
    commands["order_id"] = first_id_at(market.now_ms) + np.arange(count)
    commands["account_id"] = 16 + np.arange(count) % 3000
    commands["order_type"], commands["time_in_force"] = OrderType.LIMIT, TimeInForce.GTC
    commands["self_trade_prevention"] = 1
    commands["price_ticks"] = PRICE - np.arange(count) % 1000
    commands["quantity_lots"] = 10
    commands["hold_units"] = 10**13
    commands["client_order_id"] = [f"n-{number}".encode() for number in range(count)]
    settler.settle({0: market.apply(commands)})
    recovery = _load(dsn, client_ids_max=count)
    assert sorted(recovery.orders["order_id"].tolist()) == commands["order_id"].tolist()
    assert recovery.client_ids["client_order_id"].tolist() == commands["client_order_id"].tolist()


def test_volumes_of_the_newest_trades_day(dsn: str, settler: Settler, market: Market) -> None:
    """Fills of the newest trade's day come by account, quote asset and side; those of days before are left out."""
    first = [market.place(ALICE, SELL, 30, PRICE), market.place(BOB, BUY, 10, PRICE)]
    market.now_ms += 86_400_000
    second = [market.place(BOB, BUY, 7, PRICE), market.place(CAROL, BUY, 5, PRICE), market.place(ALICE, BUY, 1, PRICE)]
    settler.settle({0: np.concatenate([*first, *second])})
    day = (START_MS + 86_400_000) // 86_400_000
    unit = market.spec.notional_units(PRICE, 1)
    quote = market.spec.quote.asset_id
    expected = [(ALICE, quote, 12 * unit, day), (BOB, quote, 7 * unit, day), (CAROL, quote, 5 * unit, day)]
    assert sorted(tuple(row) for row in _load(dsn).traded.tolist()) == expected
    assert sorted(tuple(row) for row in _load(dsn, after_ms=10**9).traded.tolist()) == expected


def test_settings_and_places(dsn: str, settler: Settler, market: Market) -> None:
    """Settings come as the commands that would set them, and every asset with its places."""
    connection = settler.connection
    accounts = [resolve_account(connection, name, accounts_max=1000) for name in ("limited", "free")]
    change(connection, accounts[0], max_order_size=Decimal("12.500"), suspended=True)
    recovery = _load(dsn)
    (settings,) = recovery.settings
    assert (settings["account_id"], settings["kind"], settings["account_flags"]) == (
        accounts[0],
        CommandKind.SET_ACCOUNT,
        AccountFlag.SUSPENDED,
    )
    assert (settings["order_notional_max"], settings["order_notional_scale"]) == (125, 1)
    assert (settings["day_notional_max"], settings["open_orders_max"]) == (-1, -1)
    places = dict(zip(recovery.place_asset_ids.tolist(), recovery.places.tolist(), strict=True))
    assert places[market.spec.quote.asset_id] == market.spec.quote.places
