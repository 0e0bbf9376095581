"""Events as the book writes them: thirty-two whole words each, every word written exactly once.

Rule 1: the positions of fields are those of ``core.records``; where several fields share a word, the assertions below
say so. Rule 2: an order event tells the order's full content, so that readers are plain folds.
Rule 3: whoever calls has seen that the buffer has room.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tradeengine.core import records
from tradeengine.core.book_kinds import (
    FLAGS_SHIFT,
    GTD,
    PREVENTION_SHIFT,
    REASON_SHIFT,
    RING_SHIFT,
    SIDE_SHIFT,
    TIME_IN_FORCE_SHIFT,
    TYPE_SHIFT,
    symbol_of,
    time_in_force_of,
)
from tradeengine.core.book_state import (
    HIGH_32,
    LOW_32,
    O_CLIENT,
    O_FEE,
    O_ID,
    O_KINDS,
    O_NOTIONAL,
    O_PLACE,
    O_PRICE,
    O_QUANTITY,
    O_REMAINING,
    O_STOP,
    O_TAIL,
    ORDER_SHIFT,
    BookState,
    at,
    int64,
    leaf,
)
from tradeengine.core.records import (
    amended_event_dtype,
    byte,
    command_dtype,
    event_dtype,
    word,
)

# Commands as int64 words.
COMMAND_WORDS: Final = records.COMMAND_BYTES // 8
COMMAND_SHIFT: Final = 4
assert 1 << COMMAND_SHIFT == COMMAND_WORDS
C_INGRESS_SEQUENCE: Final = word(command_dtype, "ingress_sequence")
C_RING_SEQUENCE: Final = word(command_dtype, "ring_sequence")
C_ORDER_ID: Final = word(command_dtype, "order_id")
C_TIMESTAMP: Final = word(command_dtype, "timestamp_ns")
C_PRICE: Final = word(command_dtype, "price_ticks")
C_STOP: Final = word(command_dtype, "stop_price_ticks")
C_QUANTITY: Final = word(command_dtype, "quantity_lots")
C_HOLD: Final = word(command_dtype, "hold_units")
C_EXPIRES: Final = word(command_dtype, "expires_at_ns")
C_ACCOUNT: Final = byte(command_dtype, "account_id") // 8  # account | symbol << 32
assert byte(command_dtype, "account_id") % 8 == 0
assert byte(command_dtype, "symbol_id") == C_ACCOUNT * 8 + 4
C_CLIENT: Final = byte(command_dtype, "client_order_id") // 8  # its first four bytes << 32; four whole words follow
assert byte(command_dtype, "client_order_id") % 8 == 4
C_KINDS: Final = byte(command_dtype, "kind") // 8
assert byte(command_dtype, "kind") % 8 == 0
assert byte(command_dtype, "ingress_ring") % 8 == 1
assert byte(command_dtype, "side") % 8 == 2
assert byte(command_dtype, "order_type") % 8 == 3
assert byte(command_dtype, "time_in_force") % 8 == 4
assert byte(command_dtype, "self_trade_prevention") % 8 == 5
assert byte(command_dtype, "flags") % 8 == 6
assert byte(command_dtype, "trading_state") % 8 == 7

# Events as int64 words.
EVENT_WORDS: Final = records.EVENT_BYTES // 8
EVENT_SHIFT: Final = 5
assert 1 << EVENT_SHIFT == EVENT_WORDS
E_SEQUENCE: Final = word(event_dtype, "sequence")
E_COMMAND_SEQUENCE: Final = word(event_dtype, "command_sequence")
E_RING_SEQUENCE: Final = word(event_dtype, "ring_sequence")
E_INGRESS_SEQUENCE: Final = word(event_dtype, "ingress_sequence")
E_TIMESTAMP: Final = word(event_dtype, "timestamp_ns")
E_ORDER_ID: Final = word(event_dtype, "order_id")
E_TRADE_ID: Final = word(event_dtype, "trade_id")
E_MAKER_ORDER_ID: Final = word(event_dtype, "maker_order_id")
E_PRICE: Final = word(event_dtype, "price_ticks")
E_QUANTITY: Final = word(event_dtype, "quantity_lots")
E_REMAINING: Final = word(event_dtype, "remaining_lots")
E_MAKER_REMAINING: Final = word(event_dtype, "maker_remaining_lots")
E_NOTIONAL: Final = word(event_dtype, "notional_units")
E_FEE: Final = word(event_dtype, "fee_units")
E_MAKER_FEE: Final = word(event_dtype, "maker_fee_units")
E_HOLD: Final = word(event_dtype, "hold_units")
E_RELEASED: Final = word(event_dtype, "hold_released_units")
E_MAKER_HOLD: Final = word(event_dtype, "maker_hold_units")
E_MAKER_RELEASED: Final = word(event_dtype, "maker_hold_released_units")
E_STOP: Final = word(event_dtype, "stop_price_ticks")
E_EXPIRES: Final = word(event_dtype, "expires_at_ns")
E_FILLED_NOTIONAL: Final = word(event_dtype, "filled_notional_units")
E_MAKER_FILLED_NOTIONAL: Final = word(event_dtype, "maker_filled_notional_units")
E_FEE_TOTAL: Final = word(event_dtype, "fee_total_units")
E_MAKER_FEE_TOTAL: Final = word(event_dtype, "maker_fee_total_units")
E_ACCOUNT: Final = byte(event_dtype, "account_id") // 8  # account | maker's account << 32
assert byte(event_dtype, "account_id") % 8 == 0
assert byte(event_dtype, "maker_account_id") == E_ACCOUNT * 8 + 4
E_SYMBOL: Final = byte(event_dtype, "symbol_id") // 8  # symbol | first four bytes of the client order id << 32
assert byte(event_dtype, "symbol_id") % 8 == 0
assert byte(event_dtype, "client_order_id") == E_SYMBOL * 8 + 4
E_CLIENT: Final = E_SYMBOL + 1  # four words
E_KINDS: Final = byte(event_dtype, "kind") // 8
E_PREVIOUS_PRICE: Final = word(amended_event_dtype, "previous_price_ticks")
E_PREVIOUS_REMAINING: Final = word(amended_event_dtype, "previous_remaining_lots")
assert E_PREVIOUS_PRICE == E_TRADE_ID
assert E_PREVIOUS_REMAINING == E_MAKER_REMAINING

ORDER_KINDS: Final = HIGH_32 | 0xFF << FLAGS_SHIFT
"""What an order repeats in its events: side, type, time in force, prevention, flags."""
for _field, _shift in (
    ("kind", 0),
    ("flags", FLAGS_SHIFT),
    ("reason", REASON_SHIFT),
    ("ingress_ring", RING_SHIFT),
    ("side", SIDE_SHIFT),
    ("order_type", TYPE_SHIFT),
    ("time_in_force", TIME_IN_FORCE_SHIFT),
    ("self_trade_prevention", PREVENTION_SHIFT),
):
    assert byte(event_dtype, _field) == E_KINDS * 8 + _shift // 8


class Call(NamedTuple):
    """What one command's code needs beside the book; plain values, so that compiled code keeps them in registers."""

    commands: NDArray[np.int64]
    events: NDArray[np.int64]
    capacity: int  # of the event buffer
    first_event_sequence: int  # of the buffer's first event
    command: int  # word where the command begins
    command_sequence: int
    ring_sequence: int


@leaf
def put_head(call: Call, n: int) -> int:
    """Write what every event repeats of its command. Return the word where event ``n`` begins."""
    e = at(n, EVENT_SHIFT)
    events, commands, c = call.events, call.commands, call.command
    events[e + E_SEQUENCE] = call.first_event_sequence + n
    events[e + E_COMMAND_SEQUENCE] = call.command_sequence
    events[e + E_RING_SEQUENCE] = call.ring_sequence
    events[e + E_INGRESS_SEQUENCE] = commands[c + C_INGRESS_SEQUENCE]
    events[e + E_TIMESTAMP] = commands[c + C_TIMESTAMP]
    return e


@leaf
def ring_bits(call: Call) -> int:
    """Give the command's ingress ring where the word of kinds has it."""
    return ((call.commands[call.command + C_KINDS] >> 8) & 0xFF) << RING_SHIFT  # type: ignore[no-any-return]


@leaf
def put_order(
    book: BookState,
    call: Call,
    n: int,
    slot: int,
    kind: int,
    reason: int,
    hold_units: int,
    released_units: int,
    previous_price_ticks: int,
    previous_remaining_lots: int,
) -> int:
    """Write event ``n`` with the content of the order in ``slot``. Return n + 1."""
    e = put_head(call, n)
    o = at(slot, ORDER_SHIFT)
    events, orders = call.events, book.orders
    kinds = orders[o + O_KINDS]
    events[e + E_ORDER_ID] = orders[o + O_ID]
    events[e + E_PREVIOUS_PRICE] = previous_price_ticks
    events[e + E_MAKER_ORDER_ID] = 0
    events[e + E_PRICE] = orders[o + O_PRICE]
    events[e + E_QUANTITY] = orders[o + O_QUANTITY]
    events[e + E_REMAINING] = orders[o + O_REMAINING]
    events[e + E_PREVIOUS_REMAINING] = previous_remaining_lots
    events[e + E_NOTIONAL] = 0
    events[e + E_FEE] = 0
    events[e + E_MAKER_FEE] = 0
    events[e + E_HOLD] = hold_units
    events[e + E_RELEASED] = released_units
    events[e + E_MAKER_HOLD] = 0
    events[e + E_MAKER_RELEASED] = 0
    events[e + E_STOP] = orders[o + O_STOP]
    expires_at_ns = int64(0)
    if time_in_force_of(kinds) == GTD:
        expires_at_ns = book.expires_at[slot]
    events[e + E_EXPIRES] = expires_at_ns
    events[e + E_ACCOUNT] = orders[o + O_PLACE] & LOW_32
    events[e + E_SYMBOL] = (orders[o + O_TAIL] & HIGH_32) | symbol_of(kinds)
    events[e + E_CLIENT] = orders[o + O_CLIENT]
    events[e + E_CLIENT + 1] = orders[o + O_CLIENT + 1]
    events[e + E_CLIENT + 2] = orders[o + O_CLIENT + 2]
    events[e + E_CLIENT + 3] = orders[o + O_CLIENT + 3]
    events[e + E_KINDS] = kind | (kinds & ORDER_KINDS) | reason << REASON_SHIFT | ring_bits(call)
    events[e + E_FILLED_NOTIONAL] = orders[o + O_NOTIONAL]
    events[e + E_MAKER_FILLED_NOTIONAL] = 0
    events[e + E_FEE_TOTAL] = orders[o + O_FEE]
    events[e + E_MAKER_FEE_TOTAL] = 0
    return n + 1


@leaf
def put_refusal(call: Call, n: int, kind: int, reason: int, released_units: int) -> int:
    """Write event ``n``, REFUSED or REJECTED, from the command alone. Return n + 1."""
    e = put_head(call, n)
    events, commands, c = call.events, call.commands, call.command
    for w in range(E_ORDER_ID, EVENT_WORDS):
        events[e + w] = 0
    kinds = commands[c + C_KINDS]
    account = commands[c + C_ACCOUNT]
    events[e + E_ORDER_ID] = commands[c + C_ORDER_ID]
    events[e + E_PRICE] = commands[c + C_PRICE]
    events[e + E_QUANTITY] = commands[c + C_QUANTITY]
    events[e + E_REMAINING] = commands[c + C_QUANTITY]
    events[e + E_RELEASED] = released_units
    events[e + E_STOP] = commands[c + C_STOP]
    events[e + E_EXPIRES] = commands[c + C_EXPIRES]
    events[e + E_ACCOUNT] = account & LOW_32
    events[e + E_SYMBOL] = (commands[c + C_CLIENT] & HIGH_32) | ((account >> 32) & LOW_32)
    for w in range(4):
        events[e + E_CLIENT + w] = commands[c + C_CLIENT + 1 + w]
    flags = ((kinds >> 48) & 3) << FLAGS_SHIFT
    details = ((kinds >> 16) & LOW_32) << SIDE_SHIFT
    events[e + E_KINDS] = kind | flags | reason << REASON_SHIFT | ring_bits(call) | details
    return n + 1


@leaf
def put_closing(call: Call, n: int, kind: int, symbol: int, count: int, reason: int, state: int) -> int:
    """Write event ``n`` that is about no order: CANCELLED_ALL, EXPIRED, TRADING_STATE_SET … Return n + 1."""
    e = put_head(call, n)
    events = call.events
    for w in range(E_ORDER_ID, EVENT_WORDS):
        events[e + w] = 0
    events[e + E_QUANTITY] = count
    events[e + E_ACCOUNT] = call.commands[call.command + C_ACCOUNT] & LOW_32
    events[e + E_SYMBOL] = symbol & LOW_32
    events[e + E_KINDS] = kind | reason << REASON_SHIFT | ring_bits(call) | state << TYPE_SHIFT
    return n + 1
