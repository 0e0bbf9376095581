"""The risk kernel: who may do what with which money. The names that others use, from the files beside this one.

Risk sits before the matchers and after them. ``process`` decides on commands, takes holds and forwards; ``fold`` turns
the events that come back into balances. Between two calls its state is whole: free is total - held, held is the sum
of what live orders hold, and the totals of an asset sum to zero over all accounts.
"""

from __future__ import annotations

import numpy as np

from tradeengine.core.records import account_command_dtype
from tradeengine.core.risk_accounts import account_rows, load_accounts
from tradeengine.core.risk_census import compile_kernels as compile_census_kernels
from tradeengine.core.risk_checks import market_symbols
from tradeengine.core.risk_clients import content_fingerprint
from tradeengine.core.risk_fold import fold
from tradeengine.core.risk_layout import COMMAND_WORDS, EVENT_WORDS
from tradeengine.core.risk_outbox import FOR_ADMINISTRATORS, FOR_CANCELS, FOR_ORDERS, Outbox, make_outbox
from tradeengine.core.risk_process import TAKEN_ANSWERED, IngressRight, process
from tradeengine.core.risk_recovery import (
    begin_epoch,
    client_id_dtype,
    live_order_dtype,
    load_balances,
    load_client_ids,
    load_orders,
    load_places,
    load_symbols,
    load_traded,
    retake,
    set_last_ids,
    traded_dtype,
)
from tradeengine.core.risk_state import RiskLimits, RiskState, make_risk, order_count, take_dirty_accounts

__all__ = [
    "COMMAND_WORDS",
    "EVENT_WORDS",
    "FOR_ADMINISTRATORS",
    "FOR_CANCELS",
    "FOR_ORDERS",
    "TAKEN_ANSWERED",
    "IngressRight",
    "Outbox",
    "RiskLimits",
    "RiskState",
    "account_rows",
    "begin_epoch",
    "client_id_dtype",
    "compile_kernels",
    "content_fingerprint",
    "fold",
    "live_order_dtype",
    "load_accounts",
    "load_balances",
    "load_client_ids",
    "load_orders",
    "load_places",
    "load_symbols",
    "load_traded",
    "make_outbox",
    "make_risk",
    "market_symbols",
    "order_count",
    "process",
    "retake",
    "set_last_ids",
    "take_dirty_accounts",
    "traded_dtype",
]


def compile_kernels() -> None:
    """Compile (or load) all kernels of risk for the types in which they are called."""
    risk = make_risk(RiskLimits(32, 2, 1, 4, 4, 4))
    outbox = make_outbox(1, 1, 1)
    commands = np.zeros((1, COMMAND_WORDS), np.int64)
    process(risk, outbox, commands, np.zeros(0, np.int64), 0, 0, 0, 0, 0, 1)
    market_symbols(commands, np.zeros(1, np.int64))
    fold(risk, np.zeros((1, EVENT_WORDS), np.int64))
    retake(risk, commands)
    compile_census_kernels(risk)
    load_accounts(risk, np.zeros(0, account_command_dtype))
    load_traded(risk, np.zeros(0, traded_dtype))
    load_orders(risk, np.zeros(0, live_order_dtype))
    load_client_ids(risk, np.zeros(0, client_id_dtype))
    load_balances(risk, *(np.zeros(1, np.int64) for _ in range(3)))
    content_fingerprint(commands.view("V128").reshape(1))
