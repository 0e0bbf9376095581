"""What the order book has room for, and what it takes at all."""

from __future__ import annotations

from itertools import product
from typing import Any, Final

import numpy as np
import pytest
from tests.core.book_pair import run
from tests.core.book_world import (
    ALICE,
    BUY,
    PLENTY,
    SELL,
    Market,
    amounts,
    market_with_asks,
    reason,
    told,
)

from tradeengine.core import book as kernel
from tradeengine.core.records import (
    CommandFlag,
    CommandKind,
    OrderType,
    SelfTradePrevention,
    TimeInForce,
    command_dtype,
)

IOC, GTD = TimeInForce.IOC, TimeInForce.GTD
NARROW: Final = {
    "quantity_lots_min": 2,
    "quantity_lots_max": 50,
    "price_ticks_max": 1_000,
    "notional_units_min": 1_200,
    "maker_fee_ppm": 2_200,
}


# Room.


def test_full_book_says_so() -> None:
    """Without room for an order, or for a price level, an order is rejected; where a level exists it is taken."""
    market = Market(orders_max=3, levels_max=2)
    market.place(BUY, 1, 10)
    market.place(BUY, 1, 11)
    rejected = market.place(BUY, 1, 12)
    assert told(rejected) == [("REJECTED", 3, "BOOK_FULL")]
    assert rejected["hold_released_units"][0] == PLENTY
    assert reason(market.place(BUY, 1, 11)) == "NONE"
    for fields in ({}, {"time_in_force": IOC}, {"stop_price_ticks": 5}):
        assert reason(market.place(BUY, 1, 11, **fields)) == "BOOK_FULL"
    market.cancel(1)
    assert reason(market.place(SELL, 1, 12)) == "NONE"


def test_amend_needs_room_for_its_level() -> None:
    """An order that is alone on its level takes the level along; one that is not needs another one."""
    market = Market(levels_max=2)
    for price in (10, 11, 11):
        market.place(BUY, 1, price)
    assert reason(market.amend(2, price_ticks=12)) == "BOOK_FULL"
    assert reason(market.amend(1, price_ticks=12)) == "NONE"
    assert reason(market.amend(2, price_ticks=12)) == "NONE"
    assert market.levels(BUY) == [[12, 2], [11, 1]]


def test_levels_are_counted_by_side_and_symbol() -> None:
    """Each side of each symbol has levels of its own."""
    market = Market(levels_max=1)
    market.list_symbol(1)
    for side, price, symbol_id in product((BUY, SELL), (50,), (0, 1)):
        assert reason(market.place(side, 1, price + 10 * side, symbol_id=symbol_id)) == "NONE"


# What is taken at all.


def test_order_ids_ascend() -> None:
    """An id at or below the last one is refused; a rejected order has used its id, a refused one has not."""
    market = market_with_asks((100, 1))
    assert reason(market.place(BUY, 1, 90, order_id=1)) == "INVALID_REQUEST"
    assert told(market.place(BUY, 1, 10**7, order_id=7)) == [("REFUSED", 7, "NUMBER_OUT_OF_RANGE")]
    assert told(market.place(BUY, 1, 100, order_id=7, flags=CommandFlag.POST_ONLY))[0][0] == "REJECTED"
    assert reason(market.place(BUY, 1, 90, order_id=7)) == "INVALID_REQUEST"
    assert reason(market.place(BUY, 1, 90, order_id=8)) == "NONE"


def test_only_the_apis_combinations_are_taken() -> None:
    """Of all types, times in force, flags and sides only those of the API's table are taken; others leave no order."""
    t, post_only, by_quote = TimeInForce, CommandFlag.POST_ONLY, CommandFlag.BY_QUOTE
    allowed = {
        OrderType.LIMIT: {(t.GTC, 0), (t.GTD, 0), (t.IOC, 0), (t.FOK, 0), (t.GTC, post_only), (t.GTD, post_only)},
        OrderType.MARKET: {(t.IOC, 0), (t.FOK, 0), (t.IOC, by_quote), (t.FOK, by_quote)},
        OrderType.STOP: {(t.GTC, 0), (t.GTD, 0)},
        OrderType.STOP_LIMIT: {(t.GTC, 0), (t.GTD, 0), (t.IOC, 0), (t.FOK, 0)},
    }
    market = Market()
    for order_type, time, flags, side in product(OrderType, TimeInForce, range(4), (BUY, SELL)):
        events = market.place(
            side,
            0 if flags & by_quote else 1,
            order_type=order_type,
            time_in_force=time,
            flags=flags,
            price_ticks=5 + side if order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) else 0,
            stop_price_ticks=5 if order_type in (OrderType.STOP, OrderType.STOP_LIMIT) else 0,
            expires_at_ns=market.now_ns + 1 if time == GTD else 0,
        )
        wanted = (time, flags) in allowed[order_type] and not (flags & by_quote and side == SELL)
        assert (reason(events) == "INVALID_COMBINATION") != wanted, (order_type, time, flags, side)
        assert (told(events)[0][0] == "REFUSED") != wanted


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"symbol_id": 1}, "SYMBOL_NOT_FOUND"),
        ({"symbol_id": 2}, "SYMBOL_NOT_FOUND"),
        ({"symbol_id": -1}, "SYMBOL_NOT_FOUND"),
        ({"account_id": 64}, "INVALID_REQUEST"),
        ({"account_id": -1}, "INVALID_REQUEST"),
        ({"order_id": 0}, "INVALID_REQUEST"),
        ({"order_id": -1}, "INVALID_REQUEST"),
        ({"side": 2}, "INVALID_COMBINATION"),
        ({"order_type": 0}, "INVALID_COMBINATION"),
        ({"order_type": 5}, "INVALID_COMBINATION"),
        ({"order_type": 9}, "INVALID_COMBINATION"),
        ({"time_in_force": 0}, "INVALID_COMBINATION"),
        ({"time_in_force": 9}, "INVALID_COMBINATION"),
        ({"self_trade_prevention": 0}, "INVALID_COMBINATION"),
        ({"self_trade_prevention": 4}, "INVALID_COMBINATION"),
        ({"self_trade_prevention": 5}, "INVALID_COMBINATION"),
        ({"flags": 4}, "INVALID_COMBINATION"),
        ({"price_ticks": 0}, "INVALID_COMBINATION"),
        ({"stop_price_ticks": 5, "order_type": OrderType.LIMIT}, "INVALID_COMBINATION"),
        ({"quantity_lots": 0}, "INVALID_COMBINATION"),
        ({"expires_at_ns": 1}, "INVALID_COMBINATION"),
        ({"time_in_force": GTD}, "INVALID_COMBINATION"),
        ({"price_ticks": 1001}, "NUMBER_OUT_OF_RANGE"),
        ({"price_ticks": -1}, "NUMBER_OUT_OF_RANGE"),
        ({"price_ticks": 2**63 - 1}, "NUMBER_OUT_OF_RANGE"),
        ({"stop_price_ticks": 1001}, "NUMBER_OUT_OF_RANGE"),
        ({"stop_price_ticks": -1}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity_lots": 1}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity_lots": 51}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity_lots": -1}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity_lots": 2**63 - 1}, "NUMBER_OUT_OF_RANGE"),
        ({"hold_units": -1}, "NUMBER_OUT_OF_RANGE"),
        ({"hold_units": 2**62 + 1}, "NUMBER_OUT_OF_RANGE"),
        ({"price_ticks": 399, "quantity_lots": 3}, "BELOW_MIN_NOTIONAL"),  # 1,197 of 1,200
        ({"hold_units": 5_010}, "INSUFFICIENT_BALANCE"),  # 10 × 500, and 0.22 %: 11
    ],
)
def test_wrong_order_leaves_nothing(fields: dict[str, Any], why: str) -> None:
    """What is wrong in itself is refused: no order, its id not used, the hold given back."""
    market = Market(**NARROW)
    events = market.place(**{"side": BUY, "quantity": 10, "price": 500} | fields)
    assert told(events) == [("REFUSED", fields.get("order_id", 1), why)]
    assert events["hold_released_units"][0] == fields.get("hold_units", PLENTY)
    assert (kernel.order_count(market.book), market.levels(BUY)) == (0, [])
    assert reason(market.place(BUY, 10, 500, order_id=1)) == "NONE"


@pytest.mark.parametrize(
    ("lots", "price", "hold"), [(2, 600, 1_203), (50, 1_000, 50_110), (3, 400, 1_203), (10, 500, 5_011)]
)
def test_order_at_its_bounds_is_taken(lots: int, price: int, hold: int) -> None:
    """Least and greatest quantity, greatest price, least notional, and exactly what it must hold: all in bounds."""
    events = Market(**NARROW).place(BUY, lots, price, ALICE, hold_units=hold)
    assert amounts(events[0], "reason", "hold_units", "hold_released_units") == (0, hold, 0)


def test_batch_with_what_cannot_be_is_carried_out_as_its_commands_one_by_one() -> None:
    """What is asked for ahead of a batch's commands decides nothing: accounts and orders may be any numbers."""
    commands = np.zeros(12, command_dtype)
    commands["kind"], commands["side"], commands["order_type"] = CommandKind.PLACE, BUY, OrderType.LIMIT
    commands["time_in_force"], commands["self_trade_prevention"] = TimeInForce.GTC, SelfTradePrevention.CANCEL_TAKER
    commands["order_id"], commands["account_id"] = np.arange(1, 13), ALICE
    commands["price_ticks"], commands["quantity_lots"], commands["hold_units"] = 100, 1, PLENTY
    commands["account_id"][[7, 9]] = 64, -1
    commands["order_id"][11] = -(2**63)
    at_once, in_turn = Market(), Market()
    events = run(at_once.book, commands)
    singly = np.concatenate([run(in_turn.book, commands[index : index + 1]) for index in range(12)])
    assert events.tobytes() == singly.tobytes()
    assert np.count_nonzero(events["reason"]) == 3
