"""``tradeengine reconcile``: compare what a running engine knows in several places, and name every difference.

Exit status: 0 no difference, 1 some, 2 the comparison could not be made.
"""

from __future__ import annotations

import getpass
import json
import sys
from typing import TYPE_CHECKING, Any, Final

import psycopg

from tradeengine.cli.database import connect, one_line, require_engine
from tradeengine.cli.errors import CommandError
from tradeengine.storage.reconciliations import Reconciliation, request_reconciliation, wait_reconciliation

if TYPE_CHECKING:
    from tradeengine.settings import Settings


_COUNTS: Final = (
    *("accounts", "balances", "postings", "transactions", "trades", "fundings"),
    *("orders", "risk_orders", "book_orders", "holds", "wallet_balances"),
)
"""What was looked at, in the order in which it is printed."""


def run_reconcile(settings: Settings, *, as_json: bool) -> int:
    """Ask the keeper, wait, and print what it found; returns the exit status."""
    try:
        found = _ask(settings)
    except CommandError as error:
        sys.stderr.write(f"tradeengine: {error}\n")
        return 2
    sys.stdout.write(json.dumps(_as_object(found)) + "\n" if as_json else _as_text(found))
    return 1 if found.difference_count else 0


def _ask(settings: Settings) -> Reconciliation:
    require_engine(settings)
    timeout_s = settings.keeper.reconcile_timeout_s
    try:
        with connect(settings) as connection:
            number = request_reconciliation(connection, f"*{getpass.getuser()}*")
            found = wait_reconciliation(connection, number, timeout_s=timeout_s)
    except psycopg.Error as error:
        raise CommandError(f"the database broke off: {one_line(error)}") from None
    if found.finished_at is None:
        began = "has not begun" if found.began_at is None else "is not done"
        raise CommandError(
            f"reconciliation {number} {began} after {timeout_s:g} s: the keeper does it; see `tradeengine status`"
        )
    if found.error is not None:
        raise CommandError(f"nothing could be compared: {found.error}")
    return found


def _as_object(found: Reconciliation) -> dict[str, Any]:
    return {
        "id": str(found.number),
        "checked": found.checked,
        "difference_count": found.difference_count,
        "differences": found.differences,
    }


def _as_text(found: Reconciliation) -> str:
    assert found.checked is not None
    assert found.differences is not None
    lines = [f"{name:12} {found.checked[name]}" for name in _COUNTS if name in found.checked]
    lines.append(f"{'differences':12} {found.difference_count}")
    lines += [line_of(difference) for difference in found.differences]
    left_out = (found.difference_count or 0) - len(found.differences)
    if left_out:
        lines.append(f"... and {left_out} more")
    return "\n".join(lines) + "\n"


def line_of(difference: dict[str, str | None]) -> str:
    """Write one difference on one line: what, where, both sides as far as there are any, and why that is one."""
    where = [
        f"{name}={difference[name]}"
        for name in ("account", "asset", "symbol", "order_id", "transaction_id", "field")
        if difference[name] is not None
    ]
    sides = [f"{name}={difference[name]}" for name in ("expected", "found") if difference[name] is not None]
    values = [" ".join([*where, *sides])] if where or sides else []
    return f"{difference['kind']}: " + " - ".join([*values, str(difference["message"])])
