"""From settings to a wallet: the one place that knows which kinds there are.

``transfer``: the service makes whole transfers. ``legs``: it offers single debits and credits only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

from tradeengine.wallet.breaker import Breaker, BreakerState
from tradeengine.wallet.guarded import GuardedWallet
from tradeengine.wallet.http import open_http
from tradeengine.wallet.legs import LegsWallet


@asynccontextmanager
async def open_wallet(
    url: str,
    secret: str,
    *,
    mode: Literal["transfer", "legs"],
    timeout_s: float,
    connections_max: int,
    breaker_failures: int,
    breaker_open_s: float,
    changed: Callable[[BreakerState], None] = lambda _: None,
) -> AsyncIterator[GuardedWallet]:
    """Open a wallet behind its breaker; ``GuardedWallet.keep_looking`` must be running beside its use.

    connections_max: calls at once, looks at the wallet's health beside them. changed: told the breaker's states.
    """
    async with open_http(url, secret, timeout_s=timeout_s, connections_max=connections_max + 1) as wallet:
        whole = LegsWallet(wallet) if mode == "legs" else wallet
        yield GuardedWallet(whole, Breaker(breaker_failures, breaker_open_s), changed)
