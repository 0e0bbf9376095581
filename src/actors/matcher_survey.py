"""What a matcher wants to know of a batch, found in one compiled pass over records that matching touches anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numba import njit

from tradeengine.core.records import CommandKind, EventKind, byte, command_dtype, event_dtype, half, word

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COMMAND_WORDS: Final = command_dtype.itemsize // 8
_COMMAND_TIMESTAMP: Final = word(command_dtype, "timestamp_ns")
_COMMAND_EXPIRES: Final = word(command_dtype, "expires_at_ns")
_COMMAND_KIND: Final = byte(command_dtype, "kind") // 8
_EVENT_WORDS: Final = event_dtype.itemsize // 8
_EVENT_KIND: Final = byte(event_dtype, "kind") // 8
_EVENT_SYMBOL: Final = half(event_dtype, "symbol_id")
_EVENT_REASON: Final = byte(event_dtype, "reason") // 8
_EVENT_REASON_SHIFT: Final = byte(event_dtype, "reason") % 8 * 8
REASON_COUNT: Final = 256
"""Of reasons that fit into a record."""
_PLACE: Final = int(CommandKind.PLACE)
_CANCEL_ALL_AFTER: Final = int(CommandKind.CANCEL_ALL_AFTER)
_TRADED: Final = int(EventKind.TRADED)
_REJECTED: Final = int(EventKind.REJECTED)

assert byte(command_dtype, "kind") % 8 == 0  # the low byte of its word
assert byte(event_dtype, "kind") % 8 == 0


def survey_commands(commands: NDArray[np.void], due_ns: int) -> tuple[int, int]:
    """Say how many commands come before the first expiry that could fall between them, and how many of these place.

    commands: shape (n ≥ 1,), ``command_dtype``; the first one is older than ``due_ns``, the earliest end of an order or
    timer. Returns (1 … n, orders placed among them).
    """
    count, placed = _survey_commands(_words(commands), due_ns)
    return int(count), int(placed)


def survey_events(events: NDArray[np.void], is_changed: NDArray[np.bool_], rejections: NDArray[np.int64]) -> int:
    """Mark the symbols that ``events`` (``event_dtype``) name in ``is_changed``; returns how many are trades.

    rejections: shape (256,), counts rejected orders by reason, and all of them at 0, which is no reason.
    """
    words = _words(events)
    return int(_survey_events(words, words.view(np.int32), is_changed, rejections))


def compile_kernels() -> None:
    """Compile (or load) this module's kernels for the types in which they are called."""
    survey_commands(np.zeros(1, command_dtype), 1)
    survey_events(np.zeros(1, event_dtype), np.zeros(1, np.bool_), np.zeros(REASON_COUNT, np.int64))


def _words(records: NDArray[np.void]) -> NDArray[np.int64]:
    words = records.view(np.int64)
    words.flags.writeable = False  # one kind of array for the compiled code, however the memory is mapped
    return words


@njit(cache=True)
def _survey_commands(words: NDArray[np.int64], due_ns: int) -> tuple[int, int]:
    count = 0
    placed = 0
    for start in range(0, len(words), _COMMAND_WORDS):
        if count > 0 and words[start + _COMMAND_TIMESTAMP] >= due_ns:
            break
        count += 1
        kind = words[start + _COMMAND_KIND] & 0xFF
        if kind == _PLACE:
            placed += 1
        if kind in (_PLACE, _CANCEL_ALL_AFTER):
            expires_at_ns = words[start + _COMMAND_EXPIRES]
            if 0 < expires_at_ns < due_ns:
                due_ns = expires_at_ns
    return count, placed


@njit(cache=True)
def _survey_events(
    words: NDArray[np.int64], halves: NDArray[np.int32], is_changed: NDArray[np.bool_], rejections: NDArray[np.int64]
) -> int:
    trades = 0
    for start in range(0, len(words), _EVENT_WORDS):
        symbol_id = halves[2 * start + _EVENT_SYMBOL]
        if 0 <= symbol_id < len(is_changed):
            is_changed[symbol_id] = True
        kind = words[start + _EVENT_KIND] & 0xFF
        if kind == _TRADED:
            trades += 1
        elif kind == _REJECTED:
            rejections[words[start + _EVENT_REASON] >> _EVENT_REASON_SHIFT & 0xFF] += 1
            rejections[0] += 1
    return trades
