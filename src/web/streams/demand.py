"""A front's wishes: what its clients have subscribed to, said to the publisher in a table, and when it is served.

Rule 1: who begins to listen waits until the publisher has said on the feed that it is served; from there on nothing is
missing. Rule 2: wishes that nobody has any more are taken back without waiting.
It refuses to know sessions.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np
import trio

from tradeengine.web.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tradeengine.ipc.seqlock import SeqlockTable

SERVED_TIMEOUT_S: Final = 5.0


class Wishes:
    """What this front wants. ``wake`` rings the publisher's bell."""

    def __init__(self, table: SeqlockTable, wake: Callable[[], None]) -> None:
        """Begin with nothing; a front before this one may have left its wishes in the table."""
        self._table = table
        self._wake = wake
        row = table.dtype
        assert row.fields is not None
        self._channels = np.zeros(row.fields["channels"][0].shape, np.int64)
        self._accounts = np.zeros(row.fields["accounts"][0].shape, np.uint8)
        # Beyond every number of a front before this one, so that what is said of those is not taken for ours.
        self._number = time.time_ns()
        self._asked = np.zeros_like(self._channels)
        self._channels_served = self._orders_served = 0
        self._cursor = ""
        self._changed = trio.Event()
        self._say()

    def want_channel(self, symbol_id: int, interest: int) -> None:
        """Want something of a symbol, and first of all to be told how it is."""
        self._channels[symbol_id] |= interest
        self._asked[symbol_id] = self._number + 1
        self._say()

    def leave_channel(self, symbol_id: int, interest: int) -> None:
        """Want it no more."""
        self._channels[symbol_id] &= ~interest
        self._say()

    def want_orders(self, account_id: int) -> None:
        """Want an account's orders; also when others want them already, because a new place is named then."""
        self._accounts[account_id] = 1
        self._say()

    def leave_orders(self, account_id: int) -> None:
        """Want them no more."""
        self._accounts[account_id] = 0
        self._say()

    def ask_again(self) -> None:
        """Have everything confirmed anew, and told as it is: what was said on the feed was missed."""
        self._asked[:] = self._number + 1
        self._say()

    async def channels_served(self) -> None:
        """Return when every channel wanted now is served. Raises ApiError ENGINE_OVERLOADED."""
        await self._served(lambda number: self._channels_served >= number)

    async def orders_served(self) -> str:
        """Return when the orders of every account wanted now are, with the cursor of a place from which on they are."""
        await self._served(lambda number: self._orders_served >= number)
        return self._cursor

    def note_channels(self, number: int) -> None:
        """Take note of what the publisher says."""
        self._channels_served = number
        self._note()

    def note_orders(self, number: int, cursor: str) -> None:
        """Take note of what the publisher says; everything behind ``cursor`` is told from here on."""
        self._orders_served, self._cursor = number, cursor
        self._note()

    async def _served(self, enough: Callable[[int], bool]) -> None:
        number = self._number
        with trio.move_on_after(SERVED_TIMEOUT_S):
            while not enough(number):
                await self._changed.wait()
            return
        raise ApiError("ENGINE_OVERLOADED", "Streams cannot be served at the moment; try again.")

    def _note(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def _say(self) -> None:
        self._number += 1
        with self._table.writing(0) as row:
            row["number"] = self._number
            row["channels"] = self._channels
            row["asked"] = self._asked
            row["accounts"] = self._accounts
        self._wake()
