"""Demo traders: funded accounts that trade with each other, so that there is something to see.

They sit on a local client's ring and know no more than anyone: the best bid and ask. Most orders are limit orders near
a price that wanders around where it began, good for a minute; the others take what is there. So books stay filled and
bounded, prices move, and nothing has to be cancelled.

Rule 1: they trade by ordinary commands that risk checks like all others. Nobody waits for them.
It refuses to know what became of an order.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psycopg

from tradeengine.actors.demo_accounts import demo_names
from tradeengine.core.records import (
    CommandKind,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
    command_dtype,
)
from tradeengine.ipc.directory import read_directory
from tradeengine.ipc.ring import RingFull
from tradeengine.ipc.seqlock import SeqlockBusy
from tradeengine.storage.directory import resolve_account

if TYPE_CHECKING:
    from tradeengine.core.symbols import SymbolSpec
    from tradeengine.ipc.wiring import Wiring

PRICES: Final = {
    "BTC/USDT": "50000",
    "ETH/USDT": "3000",
    "SOL/USDT": "150",
    "XRP/USDT": "0.5",
    "ADA/USDT": "0.4",
    "DOGE/USDT": "0.1",
    "LTC/USDT": "80",
    "LINK/USDT": "15",
    "AVAX/USDT": "30",
    "ETH/BTC": "0.06",
}
"""Where each price begins, and around which it wanders."""
ORDER_LIFE_S: Final = 60
TAKER_SHARE: Final = 0.4
ARREARS_S: Final = 0.1
SPREAD: Final = 0.002
STEP: Final = 0.0005
RETURN: Final = 0.02
"""Share of the way back to where it began that a price goes with each order."""


class DemoTraders:
    """All demo traders together; ``duty`` places an order whenever one is due."""

    def __init__(self, wiring: Wiring, account_ids: list[int], seed: int) -> None:
        self._wiring = wiring
        self._writer = wiring.ring_writer(wiring.ingress_name)
        self._account_ids = account_ids
        self._random = random.Random(seed)  # noqa: S311 - prices, not secrets
        self._interval_s = 1 / wiring.settings.demo.orders_per_s
        self._due_s = time.monotonic()
        self._symbols: list[SymbolSpec] = []
        self._fair: dict[int, float] = {}
        self._directory_version = -1

    def duty(self) -> int:
        """Place the order that is due, if one is; returns how many were placed."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return 0
        # Orders that were due while nobody could place them are not made up for.
        self._due_s = max(self._due_s + self._interval_s, now_s - ARREARS_S)
        self._learn_symbols()
        if not self._symbols:
            return 0
        try:
            self._writer.publish(self._order(self._random.choice(self._symbols)))
        except RingFull:
            return 0
        return 1

    def pause_s(self) -> float:
        """Seconds until the next order is due."""
        return min(max(self._due_s - time.monotonic(), 0.0), self._wiring.settings.wait.timeout_ms / 1000)

    def _learn_symbols(self) -> None:
        table = self._wiring.table("directory")
        version = table.version(0)
        if version == self._directory_version:
            return
        try:
            page = read_directory(table)
        except SeqlockBusy:
            return
        self._symbols = [symbol for symbol in page.symbols.values() if symbol.name in PRICES]
        for symbol in self._symbols:
            self._fair.setdefault(symbol.symbol_id, float(symbol.parse_price(PRICES[symbol.name])))
        self._directory_version = version

    def _order(self, symbol: SymbolSpec) -> np.ndarray[Any, np.dtype[np.void]]:
        start_ticks = symbol.parse_price(PRICES[symbol.name])
        fair_ticks = self._fair[symbol.symbol_id]
        fair_ticks *= 1 + self._random.gauss(0, STEP) + RETURN * (start_ticks / fair_ticks - 1)
        self._fair[symbol.symbol_id] = fair_ticks
        side = self._random.choice((Side.BUY, Side.SELL))
        is_taker = self._random.random() < TAKER_SHARE
        # A maker stays on its side of the fair price, a taker reaches over to the other.
        away = self._random.expovariate(1 / SPREAD) * (-1 if is_taker else 1)
        price_ticks = round(fair_ticks * (1 - away if side is Side.BUY else 1 + away))
        now_ns = time.time_ns()
        order = np.zeros(1, command_dtype)
        order["kind"] = CommandKind.PLACE
        order["timestamp_ns"] = now_ns
        order["ingress_ring"] = self._wiring.ingress_number
        order["ingress_sequence"] = self._writer.head
        order["account_id"] = self._random.choice(self._account_ids)
        order["symbol_id"] = symbol.symbol_id
        order["side"] = side
        order["order_type"] = OrderType.LIMIT
        order["time_in_force"] = TimeInForce.IOC if is_taker else TimeInForce.GTD
        order["expires_at_ns"] = 0 if is_taker else now_ns + ORDER_LIFE_S * 10**9
        order["self_trade_prevention"] = SelfTradePrevention.CANCEL_TAKER
        order["price_ticks"] = min(max(price_ticks, 1), symbol.price_ticks_max)
        order["quantity_lots"] = self._quantity_lots(symbol, start_ticks)
        return order

    def _quantity_lots(self, symbol: SymbolSpec, price_ticks: int) -> int:
        """Draw a quantity: small ones often, none below what the symbol allows."""
        lot_value_units = price_ticks * symbol.tick_lot_units
        smallest = max(symbol.quantity_lots_min, -(-2 * symbol.notional_units_min // lot_value_units))
        return min(round(smallest * (1 + self._random.expovariate(0.1))), symbol.quantity_lots_max)


def main(wiring: Wiring) -> None:
    """Trade until the supervisor asks for an end."""
    settings = wiring.settings
    with psycopg.connect(settings.database.dsn, autocommit=True, application_name="tradeengine demo") as connection:
        accounts_max = settings.limits.accounts_max
        account_ids = [resolve_account(connection, name, accounts_max=accounts_max) for name in demo_names(settings)]
    traders = DemoTraders(wiring, account_ids, seed=time.time_ns())
    wiring.metrics.started()
    wiring.ready()
    while not wiring.stopping():
        wiring.metrics.heartbeat()
        traders.duty()
        wiring.doorbell.wait(traders.pause_s(), wiring.stopping)
