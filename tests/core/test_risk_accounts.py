"""Accounts' settings in risk: what is taken over, from whom, and what a newer version does to an older one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.core.risk_world import ALICE, BOB, RiskWorld, account_settings, kinds_of

from tradeengine.core.records import AccountFlag, EventKind, Reason, account_command_dtype, command_dtype
from tradeengine.core.risk import IngressRight, account_rows, load_accounts


def row(world: RiskWorld, account_id: int) -> tuple[int, ...]:
    """Show an account as the shared table does."""
    return tuple(int(value) for value in account_rows(world.risk, np.array([account_id]))[0])


def test_settings_are_taken_over_and_announced_with_their_version() -> None:
    """SET_ACCOUNT answers with ACCOUNT_SET, whose order id is the version; the table's rows say the same."""
    world = RiskWorld()
    (answer,) = world.set_account(ALICE, 7, account_flags=AccountFlag.SUSPENDED, keys_version=3)
    assert (answer["kind"], answer["account_id"], answer["order_id"]) == (EventKind.ACCOUNT_SET, ALICE, 7)
    assert answer["client_order_id"] == b""
    assert row(world, ALICE) == (7, AccountFlag.SUSPENDED, 3)
    assert row(world, BOB) == (0, 0, 0)
    assert row(world, 0) == (7, 0, 0)


def test_only_a_newer_version_changes_anything() -> None:
    """A row that comes late or twice changes nothing and is passed over; the highest version of all stays."""
    world = RiskWorld()
    world.set_account(ALICE, 5, keys_version=5)
    world.set_account(BOB, 9, keys_version=9)
    for version in (5, 4):
        assert len(world.set_account(ALICE, version, keys_version=1)) == 0
    assert row(world, ALICE) == (5, 0, 5)
    assert kinds_of(world.set_account(ALICE, 6, keys_version=6)) == [EventKind.ACCOUNT_SET]
    assert row(world, ALICE) == (6, 0, 6)
    assert row(world, 0) == (9, 0, 0)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"account_id": 2}, Reason.INVALID_REQUEST),
        ({"account_id": 32}, Reason.INVALID_REQUEST),
        ({"version": 0}, Reason.INVALID_REQUEST),
        ({"account_flags": 2}, Reason.INVALID_REQUEST),
        ({"open_orders_max": -2}, Reason.NUMBER_OUT_OF_RANGE),
        ({"order_notional_max": -2}, Reason.NUMBER_OUT_OF_RANGE),
        ({"day_notional_max": -2}, Reason.NUMBER_OUT_OF_RANGE),
        ({"two_factor_above": -2}, Reason.NUMBER_OUT_OF_RANGE),
        ({"keys_version": -1}, Reason.NUMBER_OUT_OF_RANGE),
        ({"order_notional_scale": 19}, Reason.NUMBER_OUT_OF_RANGE),
        ({"day_notional_scale": 19}, Reason.NUMBER_OUT_OF_RANGE),
        ({"two_factor_scale": 19}, Reason.NUMBER_OUT_OF_RANGE),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], reason: Reason) -> None:
    """What no row of the database can be is refused, and changes nothing."""
    world = RiskWorld()
    before = world.risk.accounts.copy()
    command = account_settings(ALICE, 1)
    for name, value in wrong.items():
        command[name] = value
    (answer,) = world.send(command.view(command_dtype), rights=IngressRight.FUND)
    assert (answer["kind"], answer["reason"]) == (EventKind.REFUSED, reason)
    assert np.array_equal(world.risk.accounts, before)


def test_only_settlement_may_set_accounts() -> None:
    """A ring with the rights of fronts and of the operator is refused."""
    world = RiskWorld()
    command = account_settings(ALICE, 1, account_flags=AccountFlag.SUSPENDED).view(command_dtype)
    assert world.ask(command) == Reason.INVALID_REQUEST
    assert row(world, ALICE) == (0, 0, 0)


def test_a_snapshot_and_commands_meet_in_any_order() -> None:
    """Settings from the database count as those of a command do: the newest of each account stays."""
    world = RiskWorld()
    world.set_account(ALICE, 4, keys_version=4)
    stored = np.zeros(2, account_command_dtype)
    stored[0], stored[1] = account_settings(ALICE, 3)[0], account_settings(BOB, 8, keys_version=2)[0]
    load_accounts(world.risk, stored)
    assert (row(world, ALICE), row(world, BOB)) == ((4, 0, 4), (8, 0, 2))
    assert len(world.set_account(BOB, 8)) == 0
