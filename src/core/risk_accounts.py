"""Accounts' settings in risk: limits, suspension, and the version under which an account's keys are known.

Settings are state, not changes: a command brings an account's whole row as PostgreSQL has it, and counts when its
version is newer than the one that is known. So it may come twice, or late, or as part of a snapshot, in any order.
Versions grow over all accounts, in the order in which PostgreSQL committed them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tradeengine.core.money import PLACES_MAX
from tradeengine.core.records import ACCOUNT_ID_FIRST_USER, AccountFlag, Reason
from tradeengine.core.risk_layout import (
    A_DAY_NOTIONAL,
    A_DAY_SCALE,
    A_FLAGS,
    A_KEYS_VERSION,
    A_OPEN_ORDERS,
    A_ORDER_NOTIONAL,
    A_ORDER_SCALE,
    A_PARTS,
    A_TWO_FACTOR,
    A_TWO_FACTOR_SCALE,
    A_VERSION,
    C_ACCOUNT,
    COMMAND_WORDS,
    get_byte,
    get_half,
)
from tradeengine.core.risk_outbox import ACCOUNT_SET, DONE
from tradeengine.core.risk_state import (
    ACCOUNTS_VERSION,
    NO_LIMIT,
    SETTING_DAY_NOTIONAL,
    SETTING_KEYS,
    SETTING_OPEN_ORDERS,
    SETTING_ORDER_NOTIONAL,
    SETTING_PARTS,
    SETTING_TWO_FACTOR,
    SETTING_VERSION,
    Int64Array,
    RiskState,
    kernel,
    leaf,
)
from tradeengine.core.tables import accounts_dtype

_FLAGS_MAX: Final = int(max(AccountFlag)) * 2 - 1
_INVALID_REQUEST: Final = int(Reason.INVALID_REQUEST)
_OUT_OF_RANGE: Final = int(Reason.NUMBER_OUT_OF_RANGE)


@kernel
def set_account(risk: RiskState, command: Int64Array) -> int:
    """Answer a SET_ACCOUNT: ACCOUNT_SET, DONE for a version that is not newer than what is known, or a Reason."""
    account_id = get_half(command[C_ACCOUNT[0]], C_ACCOUNT)
    if not ACCOUNT_ID_FIRST_USER <= account_id < len(risk.accounts) or command[A_VERSION] <= 0:
        return _INVALID_REQUEST
    if get_byte(command[A_PARTS], A_FLAGS) > _FLAGS_MAX:
        return _INVALID_REQUEST
    if min(command[A_ORDER_NOTIONAL], command[A_DAY_NOTIONAL], command[A_TWO_FACTOR]) < NO_LIMIT:
        return _OUT_OF_RANGE
    if command[A_OPEN_ORDERS] < NO_LIMIT or command[A_KEYS_VERSION] < 0:
        return _OUT_OF_RANGE
    for scale in (A_ORDER_SCALE, A_DAY_SCALE, A_TWO_FACTOR_SCALE):
        if get_byte(command[A_PARTS], scale) > PLACES_MAX:
            return _OUT_OF_RANGE
    if command[A_VERSION] <= risk.accounts[account_id, SETTING_VERSION]:
        return DONE
    _take_over(risk, account_id, command)
    return ACCOUNT_SET


def load_accounts(risk: RiskState, settings: NDArray[np.void]) -> None:
    """Take over settings from the database: ``account_command_dtype``, any order."""
    _load_accounts(risk, np.ascontiguousarray(settings).view(np.int64).reshape(len(settings), COMMAND_WORDS))


def account_rows(risk: RiskState, account_ids: Int64Array) -> NDArray[np.void]:
    """Show accounts as the shared table does: ``accounts_dtype``, one per id. Row 0 has the highest version of all."""
    rows = np.zeros(len(account_ids), accounts_dtype)
    rows["version"] = risk.accounts[account_ids, SETTING_VERSION]
    rows["version"][account_ids == 0] = risk.scalars[ACCOUNTS_VERSION]
    rows["flags"] = risk.accounts[account_ids, SETTING_PARTS] >> A_FLAGS[1] & 0xFF
    rows["keys_version"] = risk.accounts[account_ids, SETTING_KEYS]
    return rows


@kernel
def _load_accounts(risk: RiskState, commands: Int64Array) -> None:
    for row in range(len(commands)):
        set_account(risk, commands[row])


@leaf
def _take_over(risk: RiskState, account_id: int, command: Int64Array) -> None:
    account = risk.accounts[account_id]
    account[SETTING_VERSION] = command[A_VERSION]
    account[SETTING_KEYS] = command[A_KEYS_VERSION]
    account[SETTING_PARTS] = command[A_PARTS]
    account[SETTING_ORDER_NOTIONAL] = command[A_ORDER_NOTIONAL]
    account[SETTING_DAY_NOTIONAL] = command[A_DAY_NOTIONAL]
    account[SETTING_TWO_FACTOR] = command[A_TWO_FACTOR]
    account[SETTING_OPEN_ORDERS] = command[A_OPEN_ORDERS]
    unlimited = command[A_ORDER_NOTIONAL] & command[A_DAY_NOTIONAL] & command[A_TWO_FACTOR] & command[A_OPEN_ORDERS]
    is_restricted = unlimited != NO_LIMIT or get_byte(command[A_PARTS], A_FLAGS) != 0
    risk.restricted[account_id] = 1 if is_restricted else 0
    risk.scalars[ACCOUNTS_VERSION] = max(risk.scalars[ACCOUNTS_VERSION], command[A_VERSION])
