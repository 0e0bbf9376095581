"""Risk's census: its live orders and balances copied into a page, and read out of one."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tradeengine.core.census import NO_ROOM, RISK_ORDER_WORDS
from tradeengine.core.risk_state import (
    ACCOUNT_BITS,
    HELD,
    ORDER_ENDED,
    ORDER_EXTRA,
    ORDER_FILLED,
    ORDER_HOLD,
    ORDER_ID,
    ORDER_NEW,
    ORDER_PRICE,
    ORDER_QUANTITY,
    ORDER_SELL,
    ORDER_STOP_PRICE,
    ORDER_TRIGGERED,
    ORDER_WHERE,
    ORDER_WORDS,
    PRICE_BITS,
    SYMBOL_BITS,
    SYMBOL_SHIFT,
    TOTAL,
    Int64Array,
    RiskState,
    kernel,
)

ASSET_SHIFT: Final = 16
assert RISK_ORDER_WORDS == ORDER_WORDS

risk_order_dtype: Final = np.dtype(
    [
        ("order_id", "<i8"),
        ("account_id", "<i8"),
        ("symbol_id", "<i8"),
        ("side", "<i8"),
        ("triggered", "<i8"),
        ("is_new", "<i8"),  # 1: the matcher has not said yet what became of it
        ("is_ended", "<i8"),  # 1: over; it stays for amends that have something to give back
        ("price_ticks", "<i8"),
        ("stop_price_ticks", "<i8"),
        ("quantity_lots", "<i8"),
        ("filled_lots", "<i8"),
        ("hold_units", "<i8"),
        ("extra_units", "<i8"),  # taken in addition for amends that are on their way
    ]
)
"""A live order as risk has it."""


@kernel
def copy_orders(risk: RiskState, rows: Int64Array) -> int:
    """Copy every row in use into ``rows``, int64[n, 8]; give how many, or NO_ROOM."""
    count = 0
    orders = risk.orders
    for row in range(len(orders)):
        if orders[row, ORDER_ID] != 0:
            if count == len(rows):
                return NO_ROOM
            for word in range(ORDER_WORDS):
                rows[count, word] = orders[row, word]
            count += 1
    return count


@kernel
def copy_balances(risk: RiskState, rows: Int64Array) -> int:
    """Copy every balance that is not zero as (account << 16 | asset, total, held); give how many, or NO_ROOM."""
    count = 0
    accounts, assets, _ = risk.balances.shape
    for account in range(accounts):
        for asset in range(assets):
            total_units = risk.balances[account, asset, TOTAL]
            held_units = risk.balances[account, asset, HELD]
            if total_units | held_units != 0:
                if count == len(rows):
                    return NO_ROOM
                rows[count, 0] = account << ASSET_SHIFT | asset
                rows[count, 1] = total_units
                rows[count, 2] = held_units
                count += 1
    return count


def read_orders(rows: Int64Array) -> NDArray[np.void]:
    """Take copied rows apart: ``risk_order_dtype``, shape (n,), in order of their ids."""
    rows = rows[np.argsort(rows[:, ORDER_ID])]
    where = rows[:, ORDER_WHERE]
    orders = np.zeros(len(rows), risk_order_dtype)
    orders["order_id"] = rows[:, ORDER_ID]
    orders["account_id"] = where & ((1 << ACCOUNT_BITS) - 1)
    orders["symbol_id"] = where >> SYMBOL_SHIFT & ((1 << SYMBOL_BITS) - 1)
    for field, flag in (
        ("side", ORDER_SELL),
        ("triggered", ORDER_TRIGGERED),
        ("is_new", ORDER_NEW),
        ("is_ended", ORDER_ENDED),
    ):
        orders[field] = where & flag != 0
    orders["price_ticks"] = rows[:, ORDER_PRICE] & ((1 << PRICE_BITS) - 1)
    for field, word in (
        ("stop_price_ticks", ORDER_STOP_PRICE),
        ("quantity_lots", ORDER_QUANTITY),
        ("filled_lots", ORDER_FILLED),
        ("hold_units", ORDER_HOLD),
        ("extra_units", ORDER_EXTRA),
    ):
        orders[field] = rows[:, word]
    return orders


def compile_kernels(risk: RiskState) -> None:
    """Compile (or load) this module's kernels for the types in which they are called."""
    copy_orders(risk, np.zeros((1, ORDER_WORDS), np.int64))
    copy_balances(risk, np.zeros((1, 3), np.int64))
