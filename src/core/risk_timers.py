"""Risk's decision on timers: a duration becomes a time by risk's clock, the same one that stamps the account's orders.

So a timer runs from when risk took it, on every shard alike, and no client's clock has a say.
"""

from __future__ import annotations

from typing import Final

from tradeengine.core.records import ACCOUNT_ID_FIRST_USER, SYMBOL_ID_ALL, Reason
from tradeengine.core.risk_layout import C_ACCOUNT, C_EXPIRES, C_SYMBOL, C_TIMESTAMP, get_half
from tradeengine.core.risk_outbox import FOR_CANCELS, Outbox, forward_to_all
from tradeengine.core.risk_state import Int64Array, RiskState, kernel

TIMEOUT_NS_MAX: Final = 24 * 3600 * 10**9
_INVALID_REQUEST: Final = int(Reason.INVALID_REQUEST)
_OUT_OF_RANGE: Final = int(Reason.NUMBER_OUT_OF_RANGE)


@kernel
def cancel_all_after(risk: RiskState, outbox: Outbox, command: Int64Array, taken: int) -> int:
    """Answer a CANCEL_ALL_AFTER: forwarded to all shards with the time at which it fires (0: never), or a Reason."""
    account_id = get_half(command[C_ACCOUNT[0]], C_ACCOUNT)
    if not ACCOUNT_ID_FIRST_USER <= account_id < len(risk.open_orders):
        return _INVALID_REQUEST
    if get_half(command[C_SYMBOL[0]], C_SYMBOL) != SYMBOL_ID_ALL:
        return _INVALID_REQUEST
    timeout_ns = command[C_EXPIRES]
    if not 0 <= timeout_ns <= TIMEOUT_NS_MAX:
        return _OUT_OF_RANGE
    if timeout_ns > 0:
        command[C_EXPIRES] = command[C_TIMESTAMP] + timeout_ns
    return forward_to_all(risk, outbox, command, FOR_CANCELS, taken)
