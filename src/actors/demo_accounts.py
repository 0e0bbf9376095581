"""Accounts to try the engine with: ``demo-1``, ``demo-2`` …, funded once with the same amount of every asset.

Each amount is an ordinary deposit with a reference of its own, so however often an engine starts, it is made once.
``demo.enabled = false`` leaves them out: an engine for real money has none. Nor are there any where a wallet outside
keeps the money: what is traded must come from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psycopg

from tradeengine.actors.errors import StartError
from tradeengine.storage.directory import DirectoryFullError, load_directory, resolve_account
from tradeengine.storage.funding import FundingKind, request_funding, wait_funding

if TYPE_CHECKING:
    from tradeengine.settings import Settings

AMOUNT: Final = "1000000"
"""Of every asset."""
TIMEOUT_S: Final = 20.0


def demo_names(settings: Settings) -> list[str]:
    """Names of the demo traders, none when they are switched off or a wallet outside keeps the money."""
    count = settings.demo.traders if settings.demo.enabled and settings.wallet.kind == "ledger" else 0
    return [f"demo-{number}" for number in range(1, count + 1)]


def fund_demo_accounts(settings: Settings, dsn: str) -> None:
    """Make and fund the demo traders, and wait until the newest deposit is settled, in which case all are.

    Raises StartError when the database refuses or no id is left.
    """
    names = demo_names(settings)
    try:
        _fund(settings, dsn, names)
    except (psycopg.Error, DirectoryFullError) as error:
        raise StartError(f"the demo traders cannot be funded: {' '.join(str(error).split())}") from None


def _fund(settings: Settings, dsn: str, names: list[str]) -> None:
    with psycopg.connect(dsn, autocommit=True, application_name="tradeengine-demo") as connection:
        assets = load_directory(connection).assets.values()
        requests = [
            request_funding(
                connection,
                FundingKind.DEPOSIT,
                reference=f"demo:{name}:{asset.name}",
                account_id=resolve_account(connection, name, accounts_max=settings.limits.accounts_max),
                asset_id=asset.asset_id,
                amount_units=asset.parse(AMOUNT),
            )
            for name in names
            for asset in assets
        ]
        for request in requests:
            wait_funding(connection, request, timeout_s=TIMEOUT_S)
