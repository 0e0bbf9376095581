"""Trading states with the reason for them: how a reason travels in records, and which event tells a new state.

A reason goes with the command through journal and events, so that everyone who hears of a halt hears why, also while
PostgreSQL is away. A record has room for ``REASON_BYTES_MAX`` bytes of UTF-8; what is longer is cut, never refused.

Rule 1: a command for one symbol always tells something new, if only another reason. Rule 2: a command for all symbols
leaves alone what is in that state already: who halted a symbol for a reason of its own is not overruled, and
``before_all`` remembers what the others were.
It refuses to know who asks and who is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tradeengine.core.records import (
    CommandKind,
    EventKind,
    TradingState,
    trading_command_dtype,
    trading_event_dtype,
)

_HEAD_BYTES: Final = trading_command_dtype["reason_head"].itemsize
_TAIL_BYTES: Final = trading_command_dtype["reason_tail"].itemsize
REASON_BYTES_MAX: Final = _HEAD_BYTES + _TAIL_BYTES
_CUT: Final = "…"

Records = np.ndarray[Any, np.dtype[np.void]]


@dataclass(frozen=True, slots=True)
class Trading:
    """In which state a symbol is, since which event, and why."""

    state: TradingState
    sequence: int
    """Of the event that set it; -1: none is known."""
    timestamp_ns: int
    reason: str | None
    before_all: TradingState | None
    """What it was before a command for all symbols set it; None: a command of its own did."""


def state_command(symbol_id: int, state: TradingState, reason: str) -> Records:
    """One record of ``trading_command_dtype``, shape (1,); head times are 0. reason: not empty."""
    command = np.zeros(1, trading_command_dtype)
    command["kind"] = CommandKind.SET_TRADING_STATE
    command["symbol_id"] = symbol_id
    command["trading_state"] = state
    text = cut(reason).encode()
    command["reason_head"], command["reason_tail"] = text[:_HEAD_BYTES], text[_HEAD_BYTES:]
    return command


def cut(reason: str) -> str:
    """Shorten a reason to what a record has room for, at a whole character, with a sign that something is missing."""
    if len(reason.encode()) <= REASON_BYTES_MAX:
        return reason
    room = REASON_BYTES_MAX - len(_CUT.encode())
    return reason.encode()[:room].decode(errors="ignore").rstrip() + _CUT


def trading_after(event: np.void) -> Trading | None:
    """State that a TRADING_STATE_SET or SYMBOL_LISTED event tells; None: it was that before, and stays what it was.

    event: a record of ``event_dtype`` or any that shares its head.
    """
    told = np.array(event).view(trading_event_dtype)[()]
    state = TradingState(int(told["trading_state"]))
    sequence, timestamp_ns = int(told["sequence"]), int(told["timestamp_ns"])
    previous = int(told["previous_state"]) if told["kind"] == EventKind.TRADING_STATE_SET else 0
    if not previous:
        return Trading(state, sequence, timestamp_ns, None, None)
    if told["for_all"] and previous == state:
        return None
    text = bytes(told["reason_head"]) + bytes(told["reason_tail"])
    before_all = TradingState(previous) if told["for_all"] else None
    return Trading(state, sequence, timestamp_ns, text.decode(errors="replace").replace("\0", ""), before_all)


def previous_state(event: np.void) -> TradingState | None:
    """Give what the symbol was before a TRADING_STATE_SET event; None: the event does not say."""
    previous = int(np.array(event).view(trading_event_dtype)[()]["previous_state"])
    return TradingState(previous) if previous else None
