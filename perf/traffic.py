"""Orders for the pipeline benchmark, made by index, so that any number of them can be made in pieces.

Of ten commands ``takers`` rest near the middle, as many take one of those whole, half of the others rest far away, and
the other half cancel such orders that were placed a while ago (or place more, where nothing is to be cancelled). So the
book stays as large as it is. Buys and sells take turns by tens.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tradeengine.core.records import (
    CommandKind,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
    command_dtype,
)
from tradeengine.core.symbols import SymbolSpec

Records = np.ndarray[Any, np.dtype[np.void]]
Indices = np.ndarray[Any, np.dtype[np.int64]]

CYCLE: Final = 10
CANCEL_LAG: Final = 40_000
"""A cancel's order was placed so many commands before, and a few: its id has long come back."""
assert CANCEL_LAG % CYCLE == 0
QUANTITY_LOTS: Final = 100
NEAR_TICKS: Final = 50
_HEX: Final = np.frombuffer(b"0123456789abcdef", np.uint8)
_DIGITS: Final = 12


class Traffic:
    """Commands for one symbol. ``accounts``: makers have the first half of them, takers the second.

    takers: 1 to 4 of ten commands, each of which makes one trade with one order that rests.
    """

    def __init__(
        self, symbol: SymbolSpec, middle_ticks: int, accounts: list[int], ring: int, tag: str, takers: int
    ) -> None:
        assert 1 <= takers < CYCLE // 2
        self._symbol = symbol
        self._middle_ticks = middle_ticks
        self._makers = np.array(accounts[: len(accounts) // 2])
        self._takers = np.array(accounts[len(accounts) // 2 :])
        self._ring = ring
        self._tag = np.frombuffer(tag.encode(), np.uint8)
        self.takers = takers
        self.far_first = 2 * takers
        """Place in the ten of the first order that rests far away."""
        self.far_count = (CYCLE - self.far_first) // 2

    def commands(self, index: Indices, cancelled_ids: Indices | None) -> Records:
        """Make the commands of ascending indices. cancelled_ids: the order that each cancels, or 0; None: none does."""
        place = index % CYCLE
        taking = (place >= self.takers) & (place < self.far_first)
        far = place >= self.far_first
        first_side = (index // CYCLE) % 2
        commands = np.zeros(len(index), command_dtype)
        commands["kind"] = CommandKind.PLACE
        commands["symbol_id"] = self._symbol.symbol_id
        commands["side"] = np.where(taking, Side.SELL - first_side, first_side)
        commands["order_type"] = OrderType.LIMIT
        commands["time_in_force"] = np.where(taking, TimeInForce.IOC, TimeInForce.GTC)
        commands["self_trade_prevention"] = SelfTradePrevention.CANCEL_TAKER
        commands["quantity_lots"] = QUANTITY_LOTS
        # Makers sit 1 to 50 ticks from the middle on their side, takers reach through all of them, the rest is beyond.
        distance = np.where(taking, -2 * NEAR_TICKS, 1 + (index * 7919) % NEAR_TICKS)
        distance = np.where(far, 3 * NEAR_TICKS + (index * 104729) % 1000, distance)
        commands["price_ticks"] = self._middle_ticks + np.where(commands["side"] == Side.BUY, -distance, distance)
        commands["account_id"] = np.where(
            taking, self._account(self._takers, index), self._account(self._makers, index)
        )
        self._name(commands, index)
        commands["ingress_ring"] = self._ring
        if cancelled_ids is not None:
            self._turn_into_cancels(commands, index, cancelled_ids)
        return commands

    def cancelled_index(self, index: Indices) -> Indices:
        """Tell which order each command cancels once there are enough; -1: none."""
        cancels = index % CYCLE >= self.far_first + self.far_count
        return np.where(cancels, np.maximum(index - self.far_count - CANCEL_LAG, -1), -1)

    @staticmethod
    def _account(accounts: Indices, index: Indices) -> Indices:
        return np.asarray(accounts[index // CYCLE % len(accounts)])

    def _name(self, commands: Records, index: Indices) -> None:
        """Give client order ids: the tag and the index as hexadecimal digits."""
        names = np.zeros((len(index), 36), np.uint8)
        names[:, : len(self._tag)] = self._tag
        shifts = np.arange(_DIGITS - 1, -1, -1) * 4
        names[:, len(self._tag) : len(self._tag) + _DIGITS] = _HEX[(index[:, None] >> shifts) & 15]
        commands["client_order_id"] = names.view("S36")[:, 0]

    def _turn_into_cancels(self, commands: Records, index: Indices, cancelled_ids: Indices) -> None:
        cancels = cancelled_ids != 0
        commands["kind"][cancels] = CommandKind.CANCEL
        commands["order_id"][cancels] = cancelled_ids[cancels]
        commands["account_id"][cancels] = self._account(self._makers, self.cancelled_index(index[cancels]))
        for field in ("price_ticks", "quantity_lots", "order_type", "time_in_force", "self_trade_prevention"):
            commands[field][cancels] = 0
        commands["client_order_id"][cancels] = b""
