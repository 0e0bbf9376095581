"""The wallet's side of the cut: its balances, read while nothing is on its way to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psycopg
import trio

from tradeengine.storage.reconcile_wallet import Reserve, deliveries_paused
from tradeengine.wallet.http import open_http
from tradeengine.wallet.port import WalletError

if TYPE_CHECKING:
    from tradeengine.settings import Settings
    from tradeengine.settings import Wallet as WalletSettings

PAUSE_TIMEOUT_S: Final = 10.0
LIST_TIMEOUT_S: Final = 30.0


@dataclass
class WalletCount:
    """What the wallet said, or why it said nothing."""

    reserves: tuple[Reserve, ...] = ()
    trouble: str = ""


class WalletSide:
    """One look at the wallet; ``look`` inside of ``paused``, between the snapshot and everything that takes long."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._trouble = ""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep deliveries from going on while the block runs; where that cannot be had the wallet is not looked at."""
        database = self._settings.database
        pause = deliveries_paused(
            database.direct_dsn, connect_timeout_s=database.connect_timeout_s, timeout_s=PAUSE_TIMEOUT_S
        )
        with ExitStack() as held:
            try:
                held.enter_context(pause)
            except psycopg.errors.LockNotAvailable:
                self._trouble = f"deliveries to the wallet did not pause within {PAUSE_TIMEOUT_S:g} s"
            yield

    def look(self) -> WalletCount:
        """List the wallet's balances."""
        if self._trouble:
            return WalletCount(trouble=self._trouble)
        try:
            return WalletCount(reserves=tuple(trio.run(_list_reserves, self._settings.wallet)))
        except WalletError as error:
            return WalletCount(trouble=f"the wallet does not say what it has: {error}")
        except trio.TooSlowError:
            return WalletCount(trouble=f"the wallet has not said within {LIST_TIMEOUT_S:g} s what it has")


async def _list_reserves(settings: WalletSettings) -> list[Reserve]:
    """Read all pages. Raises WalletError, trio.TooSlowError."""
    reserves: list[Reserve] = []
    with trio.fail_after(LIST_TIMEOUT_S):
        async with open_http(settings.url, settings.secret, timeout_s=settings.timeout_s, connections_max=1) as wallet:
            cursor: str | None = None
            while True:
                page = await wallet.balances(cursor=cursor)
                reserves += [Reserve(balance.user, balance.asset, balance.reserved) for balance in page.balances]
                if page.next_cursor is None:
                    return reserves
                cursor = page.next_cursor
