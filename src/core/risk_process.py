"""Risk's decision on a batch of commands: refuse, answer, or take the hold and forward to the shard.

One call takes a batch of one ingress ring. What is forwarded is laid into the outbox of its shard, whole and checked;
what never reaches a matcher (refusals, repeats, funding) becomes an event. The caller publishes the commands, then the
events, and only then passes the batch on its ingress ring: so a repeat is never answered before the order that it
repeats is on its way, and what is published twice after a crash can be told by (ingress ring, ingress sequence).

Rule 1: a command is copied before it is looked at, and only the copy goes on: who wrote it can change nothing more.
Rule 2: a refusal changes nothing: no id is used up, no hold taken, no trace left.
Rule 3: a command for every shard (mass cancels, timers, trading states with ``SYMBOL_ID_ALL``) goes to all shards or to
none, and each shard answers with its own last-of-command: who waits for it counts as many as there are shards.
Rule 4: time stamps never go back, and order ids grow in each shard.
Rule 5: a ring has rights: who may fund and who may halt is decided by where a command comes from, not by what it says.
It refuses to know rings and clocks: the caller says how much room there is and what time it is.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final

from tradeengine.core.records import SYMBOL_ID_ALL, CommandKind, Reason
from tradeengine.core.risk_accounts import set_account
from tradeengine.core.risk_admin import change_symbol, fund, set_trading_state
from tradeengine.core.risk_amend import amend, cancel, cancel_all
from tradeengine.core.risk_layout import (
    C_DEADLINE,
    C_INGRESS_SEQUENCE,
    C_KIND,
    C_KINDS,
    C_RING,
    C_SYMBOL,
    C_TIMESTAMP,
    COMMAND_WORDS,
    get_byte,
    get_half,
    get_unsigned_half,
)
from tradeengine.core.risk_outbox import DONE, Outbox, write_answer
from tradeengine.core.risk_place import place
from tradeengine.core.risk_prefetch import AHEAD, look_ahead_at_command
from tradeengine.core.risk_state import LAST_TIMESTAMP_NS, Int64Array, RiskState, kernel, leaf
from tradeengine.core.risk_timers import cancel_all_after


class IngressRight(IntFlag):
    """What the commands of an ingress ring may ask for."""

    TRADE = 1
    """Orders and cancels, for any account: whoever writes the ring has authenticated it."""
    ADMIN = 2
    """Symbols, trading states, and cancels for everyone."""
    FUND = 4
    """Deposits, withdrawals, and the settings of accounts: what is a row of PostgreSQL first."""


TAKEN_ANSWERED: Final = 1 << 62
"""Bit of ``taken``: risk's own event of the command is published. The bits below: it is in the ring of that shard."""

_PLACE: Final = int(CommandKind.PLACE)
_CANCEL: Final = int(CommandKind.CANCEL)
_CANCEL_ALL: Final = int(CommandKind.CANCEL_ALL)
_CANCEL_ALL_AFTER: Final = int(CommandKind.CANCEL_ALL_AFTER)
_AMEND: Final = int(CommandKind.AMEND)
_LIST_SYMBOL: Final = int(CommandKind.LIST_SYMBOL)
_SET_PARAMETERS: Final = int(CommandKind.SET_PARAMETERS)
_SET_TRADING_STATE: Final = int(CommandKind.SET_TRADING_STATE)
_SET_ACCOUNT: Final = int(CommandKind.SET_ACCOUNT)
_FUND: Final = int(CommandKind.FUND)
_MAY_TRADE: Final = int(IngressRight.TRADE)
_MAY_ADMIN: Final = int(IngressRight.ADMIN)
_MAY_FUND: Final = int(IngressRight.FUND)
_INVALID_REQUEST: Final = int(Reason.INVALID_REQUEST)
_DEADLINE_PASSED: Final = int(Reason.DEADLINE_PASSED)
_TIME_NS_MAX: Final = 1 << 62
_NS_PER_MS: Final = 1_000_000
_RING_MASK: Final = ~(0xFF << C_RING[1])


@kernel
def process(
    risk: RiskState,
    outbox: Outbox,
    commands: Int64Array,
    taken: Int64Array,
    ingress_ring: int,
    rights: int,
    ingress_sequence: int,
    now_ns: int,
    event_sequence: int,
    event_room: int,
) -> tuple[int, int]:
    """Decide on a batch of one ingress ring; give how many commands were taken and how many events written.

    commands: int64[n, COMMAND_WORDS], n at most the outbox's batch; the first is at ``ingress_sequence`` of the ring
    ``ingress_ring``. taken: int64[n] after a restart (see TAKEN_ANSWERED), else int64[0]. now_ns: UTC. Events get
    sequences from ``event_sequence`` on; it stops early when ``event_room`` of them are written. The outbox's
    ``heads``, ``rooms``, ``gates`` and ``touch`` are the caller's, and its ``counts`` start at 0.
    """
    command = outbox.scratch
    event_count = 0
    for row in range(len(commands)):
        if event_count >= event_room:
            return row, event_count
        look_ahead_at_command(risk, commands, row + AHEAD)
        for word in range(COMMAND_WORDS):
            command[word] = commands[row, word]
        asked_ns = command[C_TIMESTAMP]
        timestamp_ns = max(now_ns, risk.scalars[LAST_TIMESTAMP_NS])
        risk.scalars[LAST_TIMESTAMP_NS] = timestamp_ns
        command[C_TIMESTAMP] = timestamp_ns
        command[C_INGRESS_SEQUENCE] = ingress_sequence + row
        command[C_KINDS] = command[C_KINDS] & _RING_MASK | ingress_ring << C_RING[1]
        answer = _decide(risk, outbox, command, taken[row] if len(taken) else 0, rights, asked_ns, now_ns)
        if answer == DONE:
            continue
        if answer > 0:
            risk.refusals[answer] += 1
        write_answer(outbox, event_count, command, answer, event_sequence + event_count)
        event_count += 1
    return len(commands), event_count


@leaf
def _decide(
    risk: RiskState, outbox: Outbox, command: Int64Array, taken: int, rights: int, asked_ns: int, now_ns: int
) -> int:
    kind = get_byte(command[C_KINDS], C_KIND)
    if kind == _FUND:
        return fund(risk, command) if rights & _MAY_FUND and not taken else (DONE if taken else _INVALID_REQUEST)
    if kind == _SET_ACCOUNT:
        return set_account(risk, command) if rights & _MAY_FUND and not taken else (DONE if taken else _INVALID_REQUEST)
    for_all_symbols = get_half(command[C_SYMBOL[0]], C_SYMBOL) == SYMBOL_ID_ALL
    for_all_shards = kind in (_CANCEL_ALL, _SET_TRADING_STATE, _CANCEL_ALL_AFTER) and for_all_symbols
    if taken and (taken & TAKEN_ANSWERED or not for_all_shards):
        return DONE
    if not 0 <= asked_ns <= _TIME_NS_MAX:
        return _INVALID_REQUEST
    deadline_ms = get_unsigned_half(command[C_DEADLINE[0]], C_DEADLINE)
    if deadline_ms != 0 and now_ns - asked_ns > deadline_ms * _NS_PER_MS and not taken:
        return _DEADLINE_PASSED
    if rights & _MAY_TRADE:
        if kind == _PLACE:
            return place(risk, outbox, command, now_ns)
        if kind == _CANCEL:
            return cancel(risk, outbox, command)
        if kind == _AMEND:
            return amend(risk, outbox, command)
        if kind == _CANCEL_ALL:
            return cancel_all(risk, outbox, command, rights & _MAY_ADMIN != 0, taken)
        if kind == _CANCEL_ALL_AFTER:
            return cancel_all_after(risk, outbox, command, taken)
    if rights & _MAY_ADMIN:
        if kind in (_LIST_SYMBOL, _SET_PARAMETERS):
            return change_symbol(risk, outbox, command)
        if kind == _SET_TRADING_STATE:
            return set_trading_state(risk, outbox, command, taken)
    return _INVALID_REQUEST
