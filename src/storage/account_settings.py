"""What an account may do: its limits, whether it is suspended, and how often keys of it were revoked.

Rule 1: a row is the whole state of an account, so only the newest row of an account matters, and feeding one twice
does no harm. An account without a row may do everything that the engine's own limits allow.
Rule 2: versions have no gaps and commit in their order, because the counter's row stays locked until the commit: who
has seen a version has seen all below it.
Rule 3: a change is in force when the shared table ``accounts`` shows its version; until then nobody is told.
It refuses to know rings, risk and who may change what.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.rows import args_row

from tradeengine.core.money import UNITS_MAX
from tradeengine.core.records import AccountFlag, CommandKind, account_command_dtype
from tradeengine.storage.funding import CHANNEL

LIMIT_SCALE_MAX: Final = 18
LIMIT_MANTISSA_MAX: Final = UNITS_MAX
NO_LIMIT: Final = -1

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """One account's settings. Amounts are notionals in any quote asset; None: no limit. Version 0: there is no row."""

    account_id: int
    version: int = 0
    suspended: bool = False
    suspended_reason: str | None = None
    suspended_by: str | None = None
    max_order_size: Decimal | None = None
    max_daily_volume: Decimal | None = None
    requires_2fa_above: Decimal | None = None
    max_open_orders: int | None = None
    keys_version: int = 0
    updated_at: dt.datetime | None = None


def change(connection: Connection, account_id: int, /, **changes: Any) -> int:
    """Change some of an account's settings, named as the fields of ``AccountSettings``; the engine hears of it at once.

    Returns the version from which on they are in force. Several changes of different accounts in one transaction make
    others wait until its commit. Raises psycopg.errors.ForeignKeyViolation for an account that does not exist.
    """
    assert changes
    assert changes.keys() <= _CHANGEABLE
    return _write(connection, account_id, {name: sql.Placeholder(name) for name in changes}, changes)


def change_from(connection: Connection, account_id: int, /, **changes: Any) -> tuple[AccountSettings, int]:
    """As ``change``, and say what the settings were before."""
    with connection.transaction():
        # Other changes wait from here on, so nothing comes between the look and the change.
        connection.execute("SELECT FROM counters WHERE name = 'account_settings' FOR UPDATE")
        return read_settings(connection, account_id), change(connection, account_id, **changes)


def revoke_keys(connection: Connection, account_id: int) -> int:
    """Have every front look again at the keys of an account; returns the version from which on they do."""
    return _write(connection, account_id, {"keys_version": sql.SQL("settings.keys_version + 1")}, {"keys_version": 1})


def read_settings(connection: Connection, account_id: int) -> AccountSettings:
    """Read an account's settings; those of an account without a row let it do everything."""
    with connection.cursor(row_factory=args_row(AccountSettings)) as cursor:
        found = cursor.execute(_SELECT + "WHERE account_id = %s", (account_id,)).fetchone()
    return found or AccountSettings(account_id)


def pending_settings(connection: Connection, after_version: int, limit: int | None) -> NDArray[np.void]:
    """SET_ACCOUNT commands of rows above a version, in its order; shape (n,), ``account_command_dtype``.

    limit: at most so many; None: all. The head of each command is left at 0 but for kind and account.
    """
    with connection.cursor(row_factory=args_row(AccountSettings)) as cursor:
        query = _SELECT + "WHERE version > %s ORDER BY version LIMIT %s"
        rows = cursor.execute(query, (after_version, limit)).fetchall()
    commands = np.zeros(len(rows), account_command_dtype)
    for command, row in zip(commands, rows, strict=True):
        command["kind"] = CommandKind.SET_ACCOUNT
        command["account_id"] = row.account_id
        command["version"] = row.version
        command["account_flags"] = AccountFlag.SUSPENDED if row.suspended else 0
        command["keys_version"] = row.keys_version
        command["open_orders_max"] = NO_LIMIT if row.max_open_orders is None else row.max_open_orders
        for amount, mantissa, scale in (
            (row.max_order_size, "order_notional_max", "order_notional_scale"),
            (row.max_daily_volume, "day_notional_max", "day_notional_scale"),
            (row.requires_2fa_above, "two_factor_above", "two_factor_scale"),
        ):
            command[mantissa], command[scale] = mantissa_and_scale(amount)
    return commands


def mantissa_and_scale(amount: Decimal | None) -> tuple[int, int]:
    """Take an amount apart: ``amount = mantissa × 10 ** -scale``, scale 0 … 18; (NO_LIMIT, 0) for None."""
    if amount is None:
        return NO_LIMIT, 0
    numerator, denominator = amount.as_integer_ratio()
    scale = 0
    while 10**scale % denominator:
        scale += 1
    mantissa = numerator * (10**scale // denominator)
    assert scale <= LIMIT_SCALE_MAX
    assert 0 <= mantissa <= LIMIT_MANTISSA_MAX
    return mantissa, scale


def _write(
    connection: Connection, account_id: int, assignments: dict[str, sql.Composable], parameters: dict[str, Any]
) -> int:
    """Write a row's new version. assignments: of a row that is there; parameters: what a new row begins with."""
    statement = sql.SQL(_PUT).format(
        columns=sql.SQL(", ").join(map(sql.Identifier, assignments)),
        values=sql.SQL(", ").join(map(sql.Placeholder, assignments)),
        assignments=sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in assignments.items()
        ),
    )
    with connection.transaction():
        row = connection.execute(_NEXT_VERSION).fetchone()
        assert row is not None
        connection.execute(statement, {"account_id": account_id, "version": row[0], **parameters})
        connection.execute(f"NOTIFY {CHANNEL}")
    return int(row[0])


_CHANGEABLE: Final = frozenset(
    {
        "suspended",
        "suspended_reason",
        "suspended_by",
        "max_order_size",
        "max_daily_volume",
        "requires_2fa_above",
        "max_open_orders",
    }
)

_NEXT_VERSION: Final = "UPDATE counters SET value = value + 1 WHERE name = 'account_settings' RETURNING value"

_PUT: Final = """
INSERT INTO account_settings AS settings (account_id, version, {columns})
VALUES (%(account_id)s, %(version)s, {values})
ON CONFLICT (account_id) DO UPDATE SET version = %(version)s, updated_at = now(), {assignments}
"""

_SELECT: Final = """
SELECT account_id, version, suspended, suspended_reason, suspended_by, max_order_size, max_daily_volume,
       requires_2fa_above, max_open_orders, keys_version, updated_at
FROM account_settings
"""
