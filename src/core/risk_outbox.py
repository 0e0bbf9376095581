"""What one batch of commands leaves behind: commands for the shards, and events of risk's own.

The caller fills in how much room there is, what each shard accepts and where the rings stand; kernels fill in the
rest; the caller publishes. Rooms are kept apart, so that cancels and trading states still pass when orders do not.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from tradeengine.core.records import EventFlag, EventKind, Reason
from tradeengine.core.risk_layout import (
    C_ACCOUNT,
    C_CLIENT_ID,
    C_INGRESS_SEQUENCE,
    C_KINDS,
    C_ORDER_ID,
    C_RING,
    C_RING_SEQUENCE,
    C_SIDE,
    C_SYMBOL,
    C_TIMESTAMP,
    C_TYPE,
    COMMAND_WORDS,
    E_ACCOUNT,
    E_CLIENT_ID,
    E_COMMAND_SEQUENCE,
    E_FLAGS,
    E_INGRESS_SEQUENCE,
    E_KIND,
    E_KINDS,
    E_NOTIONAL,
    E_ORDER_ID,
    E_PRICE,
    E_QUANTITY,
    E_REASON,
    E_RING,
    E_RING_SEQUENCE,
    E_SEQUENCE,
    E_SIDE,
    E_SYMBOL,
    E_TIMESTAMP,
    E_TYPE,
    EVENT_WORDS,
    F_AMOUNT,
    F_ASSET,
    F_NUMBER,
    LOW_32,
    N_AMOUNT,
    N_ASSET,
    N_NUMBER,
    get_byte,
    get_half,
    get_unsigned_half,
)
from tradeengine.core.risk_state import SHARD_COUNT, Int64Array, RiskState, kernel, leaf

FOR_ORDERS: Final = 0
"""Column of ``rooms`` and ``gates`` for what adds risk: new orders and amends."""
FOR_CANCELS: Final = 1
"""Column for what takes it away."""
FOR_ADMINISTRATORS: Final = 2
"""Column for halts, mass cancels of administrators and symbols: no flood of cancels takes their room."""
_PURPOSES: Final = 3

# Words of ``scratch`` behind the command: which limit refuses it (LimitKind), and what the event says of it.
LIMIT_KIND: Final = COMMAND_WORDS
LIMIT_USED: Final = COMMAND_WORDS + 1
LIMIT_MAXIMUM: Final = COMMAND_WORDS + 2

# Answers of kernels beside a Reason: what becomes of a command that is not refused.
DONE: Final = 0
"""Forwarded, or to be passed over in silence."""
REPEATED: Final = -1
FUNDED: Final = -2
ACCOUNT_SET: Final = -3
FUNDING_REFUSED: Final = -1000
"""Less the reason."""

_OVERLOADED: Final = int(Reason.ENGINE_OVERLOADED)
_FENCED: Final = int(Reason.SHARD_FENCED)
_LIMIT_EXCEEDED: Final = int(Reason.LIMIT_EXCEEDED)
_TWO_FACTOR_REQUIRED: Final = int(Reason.TWO_FACTOR_REQUIRED)
_KIND_REFUSED: Final = int(EventKind.REFUSED)
_KIND_REPEATED: Final = int(EventKind.REPEATED)
_KIND_FUNDED: Final = int(EventKind.FUNDED)
_KIND_ACCOUNT_SET: Final = int(EventKind.ACCOUNT_SET)
_KIND_FUNDING_REFUSED: Final = int(EventKind.FUNDING_REFUSED)
_LAST: Final = int(EventFlag.LAST_OF_COMMAND)


class Outbox(NamedTuple):
    """Arrays that the caller and the kernels share; ``batch`` commands at most per call."""

    commands: Int64Array  # [shards, batch, COMMAND_WORDS]
    counts: Int64Array  # [shards]: commands laid in
    heads: Int64Array  # [shards]: ring_sequence of the first of them
    rooms: Int64Array  # [shards, 3]: commands that may be laid in
    gates: Int64Array  # [shards, 3]: Reason for which they are refused; 0: none
    touch: Int64Array  # [symbols_max, 2]: best bid and ask in ticks; 0: none
    events: Int64Array  # [batch, EVENT_WORDS]
    scratch: Int64Array  # [COMMAND_WORDS + 3]: the command in hand, and behind it the limit that refuses it


def make_outbox(shards: int, symbols_max: int, batch: int) -> Outbox:
    """Make an outbox for so many shards, with no room and all gates open."""
    return Outbox(
        commands=np.zeros((shards, batch, COMMAND_WORDS), np.int64),
        counts=np.zeros(shards, np.int64),
        heads=np.zeros(shards, np.int64),
        rooms=np.zeros((shards, _PURPOSES), np.int64),
        gates=np.zeros((shards, _PURPOSES), np.int64),
        touch=np.zeros((symbols_max, 2), np.int64),
        events=np.zeros((batch, EVENT_WORDS), np.int64),
        scratch=np.zeros(COMMAND_WORDS + 3, np.int64),
    )


@leaf
def check_room(outbox: Outbox, shard: int, purpose: int) -> int:
    """Refuse what a shard does not accept now or has no room for; 0 when it may be forwarded."""
    if outbox.gates[shard, purpose]:
        return outbox.gates[shard, purpose]  # type: ignore[no-any-return]
    return _OVERLOADED if outbox.counts[shard] >= outbox.rooms[shard, purpose] else 0


@leaf
def forward(outbox: Outbox, command: Int64Array, shard: int) -> None:
    """Lay a command into the outbox of a shard that has room for it, and number it."""
    count = outbox.counts[shard]
    command[C_RING_SEQUENCE] = outbox.heads[shard] + count
    target = outbox.commands[shard, count]
    for place in range(COMMAND_WORDS):
        target[place] = command[place]
    outbox.counts[shard] = count + 1


@kernel
def forward_to_all(risk: RiskState, outbox: Outbox, command: Int64Array, purpose: int, taken: int) -> int:
    """Forward to every shard, or refuse. taken: a bit for each shard that has it already, from before a restart.

    A shard that is fenced gets it as long as its ring has room, and holds nobody up when it has none.
    """
    shards = risk.scalars[SHARD_COUNT]
    fenced_count = 0
    for shard in range(shards):
        if taken >> shard & 1:
            continue
        if is_fenced(outbox, shard):
            fenced_count += 1
            continue
        reason = check_room(outbox, shard, purpose)
        if reason:
            return reason
    if fenced_count == shards:
        return _FENCED
    for shard in range(shards):
        has_room = not is_fenced(outbox, shard) or outbox.counts[shard] < outbox.rooms[shard, purpose]
        if not taken >> shard & 1 and has_room:
            forward(outbox, command, shard)
    return DONE


@leaf
def is_fenced(outbox: Outbox, shard: int) -> bool:
    """Whether a shard takes nothing until somebody has mended it."""
    return outbox.gates[shard, FOR_ORDERS] == _FENCED  # type: ignore[no-any-return]


@leaf
def write_answer(outbox: Outbox, place: int, command: Int64Array, answer: int, sequence: int) -> None:
    """Write the event of the command in ``scratch``, which no matcher gets. answer: a Reason, or one of those above."""
    event = outbox.events[place]
    event[:] = 0
    kind = _KIND_REFUSED
    reason = answer
    if answer == REPEATED:
        kind, reason = _KIND_REPEATED, 0
    elif answer == FUNDED:
        kind, reason = _KIND_FUNDED, 0
    elif answer == ACCOUNT_SET:
        kind, reason = _KIND_ACCOUNT_SET, 0
    elif answer < ACCOUNT_SET:
        kind, reason = _KIND_FUNDING_REFUSED, FUNDING_REFUSED - answer
    kinds = command[C_KINDS]
    event[E_SEQUENCE] = sequence
    event[E_COMMAND_SEQUENCE] = -1
    event[E_RING_SEQUENCE] = -1
    event[E_INGRESS_SEQUENCE] = command[C_INGRESS_SEQUENCE]
    event[E_TIMESTAMP] = command[C_TIMESTAMP]
    event[E_KINDS] = kind << E_KIND[1] | _LAST << E_FLAGS[1] | reason << E_REASON[1]
    event[E_KINDS] |= get_byte(kinds, C_RING) << E_RING[1]
    event[E_ACCOUNT[0]] = get_unsigned_half(command[C_ACCOUNT[0]], C_ACCOUNT) << E_ACCOUNT[1]
    if kind in (_KIND_FUNDED, _KIND_FUNDING_REFUSED):
        event[N_NUMBER] = command[F_NUMBER]
        event[N_AMOUNT] = command[F_AMOUNT]
        event[N_ASSET[0]] |= get_unsigned_half(command[F_ASSET[0]], F_ASSET) << N_ASSET[1]
        event[E_SYMBOL[0]] = LOW_32
        return
    event[E_ORDER_ID] = command[C_ORDER_ID]
    if kind == _KIND_ACCOUNT_SET:
        event[E_SYMBOL[0]] = LOW_32
        return
    event[E_KINDS] |= get_byte(kinds, C_SIDE) << E_SIDE[1] | get_byte(kinds, C_TYPE) << E_TYPE[1]
    event[E_SYMBOL[0]] = get_half(command[C_SYMBOL[0]], C_SYMBOL) & LOW_32 | command[C_CLIENT_ID] & ~LOW_32
    if answer in (_LIMIT_EXCEEDED, _TWO_FACTOR_REQUIRED):
        event[E_PRICE] = command[LIMIT_KIND]
        event[E_QUANTITY] = command[LIMIT_USED]
        event[E_NOTIONAL] = command[LIMIT_MAXIMUM]
    for word in range(1, 5):
        event[E_CLIENT_ID + word] = command[C_CLIENT_ID + word]
