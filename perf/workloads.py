"""Order streams for the book benchmark: read from a file, or made here; and turned into the kernel's commands.

A file has 16-byte records, little endian: u8 op (0 prefill, 1 new that rests, 2 cancel of a live order, 3 new that
crosses), u8 side, u16 zero, u32 id, i32 price, i32 quantity. All new orders are plain limits, good till cancelled.

Two kinds are made here. *mixed*: half of the commands rest within a hundred ticks of the middle, four tenths cancel a
live order, one tenth crosses the whole spread and fills. *chain*: every command meets exactly one resting order, fills
it, and rests with what is left, so that every order trades.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from perf.reference_book import ReferenceBook

from tradeengine.core.records import (
    ACCOUNT_ID_FIRST_USER,
    CommandKind,
    OrderType,
    SelfTradePrevention,
    TimeInForce,
    command_dtype,
    symbol_command_dtype,
)

PREFILL, RESTS, CANCELS, CROSSES = range(4)
row_dtype = np.dtype([("op", "u1"), ("side", "u1"), ("zero", "<u2"), ("id", "<u4"), ("price", "<i4"), ("lots", "<i4")])
MIDDLE = 100_000
TICK_LOT_UNITS = 10_000
LOT_UNITS = 1_000
MAKER_FEE_PPM = 500
TAKER_FEE_PPM = 1_000
ACCOUNTS = 2_000


@dataclass(frozen=True)
class Workload:
    """Rows of ``row_dtype`` and what must come out: trades, volume, checksum."""

    name: str
    rows: NDArray[np.void]
    trades: int
    volume: int
    checksum: int


def read_workload(path: Path) -> Workload:
    """Read FILE.bin and, beside it, FILE.expect.json."""
    expected: dict[str, Any] = json.loads(path.with_suffix(".expect.json").read_text())
    rows = np.fromfile(path, row_dtype)
    return Workload(path.stem, rows, expected["trades"], expected["volume"], expected["checksum"])


def make_mixed(count: int, prefill: int, seed: int) -> Workload:
    """Half of the commands rest, four tenths cancel, one tenth cross."""
    rng, book, rows, live = random.Random(seed), ReferenceBook(), list[tuple[int, ...]](), list[int]()
    order_id = 0
    for index in range(prefill + count):
        choice = 0.0 if index < prefill else rng.random()
        side = rng.getrandbits(1)
        lots = rng.randint(1, 100)
        if 0.5 <= choice < 0.9:
            target = _pick_live(rng, live, book)
            order = book.live[target]
            rows.append((CANCELS, order[2], 0, target, order[3], order[1]))
            book.cancel(target)
            continue
        order_id += 1
        distance = rng.randint(1, 100) if choice < 0.5 else -100
        price = MIDDLE - distance if side == 0 else MIDDLE + distance
        book.place(side, order_id, price, lots)
        if choice < 0.5:
            live.append(order_id)
        op = PREFILL if index < prefill else RESTS if choice < 0.5 else CROSSES
        rows.append((op, side, 0, order_id, price, lots))
    return _finish("mixed", rows, book)


def make_chain(count: int, prefill: int, seed: int) -> Workload:
    """Every command fills the one order near the middle and leaves a rest for the next."""
    rng, book, rows = random.Random(seed), ReferenceBook(), list[tuple[int, ...]]()
    for order_id in range(1, prefill + 1):
        side, distance = rng.getrandbits(1), rng.randint(20, 119)
        price = MIDDLE - distance if side == 0 else MIDDLE + distance
        rows.append((PREFILL, side, 0, order_id, price, rng.randint(1, 100)))
    rest, side = rng.randint(1, 100), 0
    rows.append((PREFILL, 1, 0, prefill + 1, MIDDLE, rest))
    for row in rows:
        book.place(row[1], row[3], row[4], row[5])
    for order_id in range(prefill + 2, prefill + 2 + count):
        distance, following = rng.randint(0, 10), rng.randint(1, 100)
        row = (CROSSES, side, 0, order_id, MIDDLE + distance if side == 0 else MIDDLE - distance, rest + following)
        book.place(row[1], row[3], row[4], row[5])
        rows.append(row)
        rest, side = following, 1 - side
    return _finish("chain", rows, book)


def to_commands(rows: NDArray[np.void]) -> NDArray[np.void]:
    """Turn rows into commands as risk would forward them: ids, holds, accounts, client order ids, all fields filled.

    Buyers and sellers are different accounts, so that prevention is looked at in every trade and never acts.
    """
    commands = np.zeros(len(rows), command_dtype)
    is_new = rows["op"] != CANCELS
    ids = rows["id"].astype(np.int64)
    price, lots, side = (rows[name].astype(np.int64) for name in ("price", "lots", "side"))
    notional = price * lots * TICK_LOT_UNITS
    buy_hold = notional - (-notional * max(MAKER_FEE_PPM, TAKER_FEE_PPM) // 1_000_000)
    commands["kind"] = np.where(is_new, CommandKind.PLACE, CommandKind.CANCEL)
    commands["ingress_sequence"] = commands["ring_sequence"] = np.arange(len(rows))
    commands["timestamp_ns"] = 1_790_000_000_000_000_000 + np.arange(len(rows)) * 100
    commands["order_id"] = ids
    commands["account_id"] = ACCOUNT_ID_FIRST_USER + ids * 7919 % (ACCOUNTS // 2) * 2 + side
    new: dict[str, Any] = {
        "side": side,
        "price_ticks": price,
        "quantity_lots": lots,
        "hold_units": np.where(side == 0, buy_hold, lots * LOT_UNITS),
        "order_type": OrderType.LIMIT,
        "time_in_force": TimeInForce.GTC,
        "self_trade_prevention": SelfTradePrevention.CANCEL_TAKER,
        "client_order_id": np.char.mod("client-order-%09d", ids).astype("S36"),
    }
    for name, values in new.items():
        commands[name] = np.where(is_new, values, np.zeros((), command_dtype[name]))
    return commands


def listing() -> NDArray[np.void]:
    """Give the LIST_SYMBOL command of the one symbol, shape (1,)."""
    command = np.zeros(1, symbol_command_dtype)
    values = {
        "kind": CommandKind.LIST_SYMBOL,
        "trading_state": 1,
        "tick_lot_units": TICK_LOT_UNITS,
        "lot_units": LOT_UNITS,
        "quantity_lots_min": 1,
        "quantity_lots_max": 1_000_000,
        "price_ticks_max": 10_000_000,
        "base_asset_id": 0,
        "quote_asset_id": 1,
        "maker_fee_ppm": MAKER_FEE_PPM,
        "taker_fee_ppm": TAKER_FEE_PPM,
        "collar_ppm": 100_000,
    }
    for name, value in values.items():
        command[name] = value
    return command.view(command_dtype)


def _pick_live(rng: random.Random, live: list[int], book: ReferenceBook) -> int:
    """Take a random live order out of the list; those filled meanwhile leave it too."""
    while True:
        at = rng.randrange(len(live))
        live[at], live[-1] = live[-1], live[at]
        order_id = live.pop()
        if order_id in book.live:
            return order_id


def _finish(name: str, rows: list[tuple[int, ...]], book: ReferenceBook) -> Workload:
    return Workload(name, np.array(rows, row_dtype), book.trades, book.volume, book.checksum)
