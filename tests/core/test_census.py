"""Censuses: whole copies of what lives in risk and in a book, in arrays of a fixed size."""

from __future__ import annotations

import numpy as np
import pytest
from tests.core.book_world import BUY, SELL, Market
from tests.core.risk_world import ALICE, BASE, BOB, QUOTE, RiskWorld, change

from tradeengine.core.book_census import copy_book_orders
from tradeengine.core.census import BOOK_ORDER_WORDS, NO_ROOM, book_order_dtype
from tradeengine.core.records import CommandKind, OrderType, Side, TimeInForce
from tradeengine.core.risk_census import ASSET_SHIFT, copy_balances, copy_orders, read_orders
from tradeengine.core.risk_state import ORDER_WORDS


@pytest.fixture
def world() -> RiskWorld:
    """Alice bids, Bob has a stop that has fired and asks, and one order is not answered yet."""
    world = RiskWorld()
    world.fund(ALICE, QUOTE, 1_000_000)
    world.fund(BOB, BASE, 5_000)
    world.place(ALICE, Side.BUY, 3, 100)
    world.place(BOB, Side.SELL, 10, 120, stop_price_ticks=110, order_type=OrderType.STOP_LIMIT)
    world.settle()
    world.place(BOB, Side.SELL, 1, 100)
    world.settle()
    world.place(ALICE, Side.BUY, 4, 90)
    world.match()
    return world


def test_census_of_risk_has_every_order_and_balance(world: RiskWorld) -> None:
    """Orders come in order of their ids with all that reconciliation compares, balances with account and asset."""
    rows = np.zeros((10, ORDER_WORDS), np.int64)
    count = copy_orders(world.risk, rows)
    orders = read_orders(rows[:count])
    assert orders["order_id"].tolist() == sorted(world.orders())
    assert orders["account_id"].tolist() == [ALICE, BOB, ALICE]
    assert orders["side"].tolist() == [Side.BUY, Side.SELL, Side.BUY]
    assert orders["triggered"].tolist() == [False, True, False]
    assert orders["is_new"].tolist() == [False, False, True]
    assert not orders["is_ended"].any()
    assert orders["price_ticks"].tolist() == [100, 120, 90]
    assert orders["stop_price_ticks"].tolist() == [0, 110, 0]
    assert orders["quantity_lots"].tolist() == [3, 10, 4]
    assert orders["filled_lots"].tolist() == [1, 0, 0]
    assert orders["hold_units"].sum() == world.held(ALICE, QUOTE) + world.held(BOB, BASE)
    held = np.zeros((20, 3), np.int64)
    held = held[: copy_balances(world.risk, held)]
    told = {(int(key) >> ASSET_SHIFT, int(key) & ((1 << ASSET_SHIFT) - 1)): tuple(row) for key, *row in held.tolist()}
    assert told[ALICE, QUOTE] == (world.total(ALICE, QUOTE), world.held(ALICE, QUOTE))
    assert told[BOB, BASE] == (world.total(BOB, BASE), world.held(BOB, BASE))
    assert all(any(row) for row in told.values())
    assert len(told) == int(np.count_nonzero(world.risk.balances.any(axis=2)))


def test_order_that_ended_is_in_the_census_while_an_amend_is_on_its_way(world: RiskWorld) -> None:
    """What an amend brought is held until it is answered: the order is still there, and is said to have ended."""
    world.settle()
    bid = min(world.orders())
    world.send(change(CommandKind.AMEND, order_id=bid, quantity_lots=9))
    amend = world.forwarded[0].pop()
    world.send(change(CommandKind.CANCEL, order_id=bid))
    world.settle()
    rows = np.zeros((10, ORDER_WORDS), np.int64)
    orders = read_orders(rows[: copy_orders(world.risk, rows)])
    (ended,) = orders[orders["is_ended"] == 1]
    assert (ended["order_id"], ended["hold_units"]) == (bid, 0)
    assert ended["extra_units"] == int(amend["hold_units"][0]) > 0


def test_census_of_a_book_has_every_order() -> None:
    """Resting orders and waiting stops are copied with all that reconciliation compares."""
    market = Market()
    market.place(BUY, 5, 90, time_in_force=TimeInForce.GTD, expires_at_ns=market.now_ns + 77)
    market.stop(SELL, 4, 80, 70)
    market.place(BUY, 2, 60)
    market.place(SELL, 2, 90, BOB)
    rows = np.zeros((4, BOOK_ORDER_WORDS), np.int64)
    assert copy_book_orders(market.book, rows) == 3
    orders = np.sort(rows[:3].view(book_order_dtype).reshape(-1), order="order_id")
    assert orders["order_id"].tolist() == [1, 2, 3]
    assert orders["order_type"].tolist() == [OrderType.LIMIT, OrderType.STOP_LIMIT, OrderType.LIMIT]
    assert orders["side"].tolist() == [BUY, SELL, BUY]
    assert orders["price_ticks"].tolist() == [90, 70, 60]
    assert orders["stop_price_ticks"].tolist() == [0, 80, 0]
    assert orders["quantity_lots"].tolist() == [5, 4, 2]
    assert orders["remaining_lots"].tolist() == [3, 4, 2]
    assert orders["filled_notional_units"].tolist() == [180, 0, 0]
    assert orders["expires_at_ns"].tolist() == [market.now_ns + 77, 0, 0]


def test_census_without_room_says_so(world: RiskWorld) -> None:
    """Rather than a part, nothing is given: whoever asks makes room for all."""
    assert copy_orders(world.risk, np.zeros((2, ORDER_WORDS), np.int64)) == NO_ROOM
    assert copy_balances(world.risk, np.zeros((2, 3), np.int64)) == NO_ROOM
    market = Market()
    for price in (10, 11):
        market.place(BUY, 1, price)
    assert copy_book_orders(market.book, np.zeros((1, BOOK_ORDER_WORDS), np.int64)) == NO_ROOM
