"""A wallet behind its circuit breaker, and the look at its health that brings it back early.

While the breaker is open, no request is sent. ``keep_looking`` asks for the wallet's health each second instead, which
costs next to nothing: so work goes on within a second of the wallet's return, not only after the breaker's time.
It refuses to know what the requests are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

from tradeengine.wallet.breaker import Breaker, BreakerState
from tradeengine.wallet.port import BalancePage, BreakerOpen, Holding, Progress, Refused, Transfer, Unavailable, Wallet

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOK_INTERVAL_S: Final = 1.0


class GuardedWallet:
    """The port, with a breaker before it: while that is open, calls raise BreakerOpen at once."""

    def __init__(
        self, wallet: Wallet, breaker: Breaker, changed: Callable[[BreakerState], None] = lambda _: None
    ) -> None:
        """Guard ``wallet``. changed: told the breaker's state whenever it has become another."""
        self._wallet = wallet
        self._breaker = breaker
        self._changed = changed
        self._told = BreakerState.CLOSED
        self._news = trio.Event()
        changed(BreakerState.CLOSED)

    @property
    def state(self) -> BreakerState:
        """The breaker's state now."""
        return self._breaker.state(trio.current_time())

    async def transfer(self, transfer: Transfer, progress: Progress) -> None:
        """Make a transfer."""
        with self._passing():
            await self._wallet.transfer(transfer, progress)

    async def reserve(self, holding: Holding) -> None:
        """Move available money to reserved."""
        with self._passing():
            await self._wallet.reserve(holding)

    async def release(self, holding: Holding) -> None:
        """Move reserved money to available."""
        with self._passing():
            await self._wallet.release(holding)

    async def balances(self, user: str | None = None, cursor: str | None = None, limit: int = 1000) -> BalancePage:
        """List balances."""
        with self._passing():
            return await self._wallet.balances(user, cursor, limit)

    async def health(self) -> None:
        """Ask the wallet, whatever the breaker's state; a good answer makes an open breaker half open."""
        await self._wallet.health()
        self._breaker.saw_health(trio.current_time())
        self._tell()

    async def wait_passable(self) -> None:
        """Wait until a request would pass: the breaker is closed, or half open and no other request is the probe."""
        while not self._breaker.passable(trio.current_time()):
            # While a probe is away there is nothing to wait for but its end.
            with trio.move_on_after(self._breaker.wait_s(trio.current_time()) or math.inf):
                await self._news.wait()

    async def keep_looking(self, interval_s: float = LOOK_INTERVAL_S) -> None:
        """Look at the wallet's health while the breaker is open, for ever."""
        while True:
            while self.state is not BreakerState.OPEN:
                self._tell()
                await self._news.wait()
            await trio.sleep(min(interval_s, self._breaker.wait_s(trio.current_time())))
            self._tell()
            if self.state is BreakerState.OPEN:
                try:
                    await self.health()
                except (Unavailable, Refused):
                    continue

    @contextmanager
    def _passing(self) -> Iterator[None]:
        granted = self._breaker.try_pass(trio.current_time())
        if granted is None:
            raise BreakerOpen("the wallet did not answer; it is left alone for a while")
        self._tell()
        try:
            yield
        except Unavailable:
            self._breaker.failed(granted, trio.current_time())
            raise
        except Refused:
            self._breaker.succeeded(granted)
            raise
        except BaseException:
            # Cancelled, or the caller's own store failed: nothing is known of the wallet.
            self._breaker.abandoned(granted)
            raise
        else:
            self._breaker.succeeded(granted)
        finally:
            self._tell(granted.is_probe)

    def _tell(self, probe_ended: bool = False) -> None:
        state = self.state
        if state is not self._told:
            self._told = state
            self._changed(state)
        elif not probe_ended:
            return
        news, self._news = self._news, trio.Event()
        news.set()
