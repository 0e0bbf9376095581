"""What a wallet outside must hold reserved, and what it says that it holds.

Expected is what the outbox's records make of the ledger (``outbox.expected_reserves``). A transfer, deposit or
withdrawal that is not delivered may have been carried out all the same, its answer lost on the way: nobody can know
before it is repeated. So for the accounts that such ones touch there is a range, and only what is outside of it is a
difference; where nothing waits, every unit counts.
It refuses to know how a wallet is asked, and who keeps deliveries from going on meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from tradeengine.core.differences import Difference, Differences, Unit
from tradeengine.core.money import NumberError
from tradeengine.core.records import ACCOUNT_ID_EXCHANGE
from tradeengine.core.symbols import AssetSpec
from tradeengine.storage.outbox import DELIVERY_LOCK_KEY, expected_reserves

Connection = psycopg.Connection[Any]
Key = tuple[int, int]
"""Account and asset."""

KIND: Final = "wallet_balance"


@dataclass(frozen=True, slots=True)
class Reserve:
    """What a wallet says that a user has reserved of an asset; a plain decimal."""

    user: str
    asset: str
    reserved: str


@contextmanager
def deliveries_paused(dsn: str, *, connect_timeout_s: int, timeout_s: float) -> Iterator[None]:
    """Keep the wallet actor from delivering while the block runs: nothing is on its way to the wallet then.

    Raises psycopg.errors.LockNotAvailable when it does not pause in time, psycopg.OperationalError.
    """
    with psycopg.connect(
        dsn, autocommit=True, connect_timeout=connect_timeout_s, application_name="tradeengine-reconcile-wallet"
    ) as connection:
        connection.execute(f"SET lock_timeout = {int(timeout_s * 1000)}")
        connection.execute("SELECT pg_advisory_lock(%s)", (DELIVERY_LOCK_KEY,))
        yield


def compare_wallet(
    connection: Connection, reserves: Sequence[Reserve], exchange_user: str, differences: Differences
) -> int:
    """Compare what the wallet says with what follows from the snapshot; return how many balances were compared.

    exchange_user: who has the fees at the wallet.
    """
    expected = expected_reserves(connection)
    doubts = {(account, asset): (int(low), int(high)) for account, asset, low, high in connection.execute(_DOUBTS)}
    found = _found(connection, reserves, exchange_user, differences)
    keys = sorted(expected.keys() | found.keys())
    for account_id, asset_id in keys:
        key = (account_id, asset_id)
        low, high = doubts.get(key, (0, 0))
        surplus = found.get(key, 0) - expected.get(key, 0)
        if not low <= surplus <= high:
            differences.add(
                Difference(
                    kind=KIND,
                    message=_MESSAGE if low == high == 0 else _MESSAGE_IN_DOUBT,
                    expected=expected.get(key, 0),
                    found=found.get(key, 0),
                    unit=Unit.AMOUNT,
                    account_id=account_id,
                    asset_id=asset_id,
                )
            )
    return len(keys)


def _found(
    connection: Connection, reserves: Sequence[Reserve], exchange_user: str, differences: Differences
) -> dict[Key, int]:
    """Put what the wallet says into accounts and minor units; what is of nobody that is known here is noted."""
    accounts: dict[str, int] = dict(connection.execute("SELECT name, id FROM accounts").fetchall())
    accounts[exchange_user] = ACCOUNT_ID_EXCHANGE
    assets = {
        name: AssetSpec(asset_id, name, places)
        for asset_id, name, places in connection.execute("SELECT id, name, places FROM assets")
    }
    found: dict[Key, int] = {}
    for reserve in reserves:
        if not reserve.reserved.strip("0."):
            continue
        units = _units(assets, reserve)
        account_id = accounts.get(reserve.user)
        if account_id is not None and units is not None:
            key = (account_id, assets[reserve.asset].asset_id)
            found[key] = found.get(key, 0) + units
        else:
            what = f"{reserve.reserved} {reserve.asset} of {reserve.user}"
            message = f"The wallet has reserved {what}, which cannot be of any account here."
            differences.add(Difference(kind=KIND, message=message))
    return found


def _units(assets: Mapping[str, AssetSpec], reserve: Reserve) -> int | None:
    """Count an amount; None: there is no such asset, or no such amount of it."""
    try:
        return assets[reserve.asset].parse(reserve.reserved, signed=True)
    except (KeyError, NumberError):
        return None


_MESSAGE: Final = "The wallet has not reserved what follows from the ledger and the outbox."
_MESSAGE_IN_DOUBT: Final = (
    "The wallet has not reserved what follows from the ledger and the outbox, whatever became of what is undelivered."
)

# By how much less and more there may be: undelivered legs that may have been made; deposits that may have been
# reserved; withdrawals, and deposits to give back, that may have been released.
_DOUBTS: Final = f"""
SELECT account_id, asset_id, sum(least(units, 0))::numeric, sum(greatest(units, 0))::numeric FROM (
    SELECT moved.account_id, moved.asset_id, moved.units
    FROM wallet_transfers AS t, LATERAL (VALUES
        (buyer_account_id, quote_asset_id::integer, -(notional_units + buyer_fee_units)),
        (seller_account_id, base_asset_id::integer, -base_units),
        (buyer_account_id, base_asset_id::integer, base_units),
        (seller_account_id, quote_asset_id::integer, notional_units - seller_fee_units),
        ({ACCOUNT_ID_EXCHANGE}, quote_asset_id::integer, buyer_fee_units + seller_fee_units)
    ) AS moved (account_id, asset_id, units)
    WHERE state <> 'discarded'
    UNION ALL
    SELECT account_id, asset_id, CASE kind WHEN 'deposit' THEN amount_units ELSE -amount_units END FROM funding
    WHERE wallet_state IN ('waiting', 'dead') AND ((kind = 'deposit' AND status = 'pending') OR status = 'settled')
    UNION ALL
    SELECT account_id, asset_id, -amount_units FROM funding
    WHERE kind = 'deposit' AND wallet_state IN ('done', 'dead') AND status = 'refused'
) AS doubts
GROUP BY account_id, asset_id
"""  # noqa: S608 - made of our own names
