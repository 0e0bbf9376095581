"""Symbols as the book knows them: listing, parameters, trading state. All of it comes as commands.

Rule 1: bounds that could overflow are refused here too, whatever was checked before: no order's notional or base
amount above ``UNITS_MAX``, no level's sum above int64. Rule 2: assets, tick × lot and lot never change.
Rule 3: new fees hold for orders accepted from now on; an order keeps the fees it was accepted with.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tradeengine.core.book_events import (
    C_ACCOUNT,
    C_KINDS,
    E_KINDS,
    E_ORDER_ID,
    E_SYMBOL,
    EVENT_SHIFT,
    EVENT_WORDS,
    Call,
    put_closing,
    put_head,
    ring_bits,
)
from tradeengine.core.book_kinds import (
    EVENT_PARAMETERS_SET,
    EVENT_REFUSED,
    EVENT_SYMBOL_LISTED,
    EVENT_TRADING_STATE_SET,
    INVALID_REQUEST,
    NONE,
    NUMBER_OUT_OF_RANGE,
    REASON_SHIFT,
    SIDE_SHIFT,
    STATE_HALTED,
    STATE_OPEN,
    SYMBOL_EXISTS,
    SYMBOL_NOT_FOUND,
    TIME_IN_FORCE_SHIFT,
    TYPE_SHIFT,
)
from tradeengine.core.book_state import (
    H_CURSOR,
    H_DONE,
    H_ORDERS_MAX,
    H_PHASE,
    H_SYMBOLS_MAX,
    HIGH_32,
    INT64_MAX,
    LOW_32,
    PHASE_IDLE,
    PHASE_STATES,
    S_ASSETS,
    S_COLLAR,
    S_FEES,
    S_LISTED,
    S_LOT,
    S_NOTIONAL_MIN,
    S_PRICE_MAX,
    S_QUANTITY_MAX,
    S_QUANTITY_MIN,
    S_STATE,
    S_TICK_LOT,
    SYMBOL_SHIFT,
    BookState,
    at,
    kernel,
)
from tradeengine.core.money import PPM, UNITS_MAX
from tradeengine.core.records import (
    SYMBOL_ID_ALL,
    byte,
    symbol_command_dtype,
    symbol_event_dtype,
    trading_command_dtype,
    trading_event_dtype,
    word,
)
from tradeengine.core.symbols import COLLAR_PPM_MAX

_WORDS = (
    "tick_lot_units",
    "lot_units",
    "quantity_lots_min",
    "quantity_lots_max",
    "notional_units_min",
    "price_ticks_max",
)
_FROM = np.array([word(symbol_command_dtype, name) for name in _WORDS])
_TO = np.array([word(symbol_event_dtype, name) for name in _WORDS])
# int32 fields: where a command has them, in bits from the record's start, and the same for an event.
_HALVES = ("base_asset_id", "quote_asset_id", "maker_fee_ppm", "taker_fee_ppm", "collar_ppm", "shard")
_HALF_FROM = np.array([byte(symbol_command_dtype, name) for name in _HALVES])
_HALF_TO = np.array([byte(symbol_event_dtype, name) for name in _HALVES])
_BASE, _QUOTE, _MAKER, _TAKER, _COLLAR = range(5)
_TICK_LOT, _LOT, _QUANTITY_MIN, _QUANTITY_MAX, _NOTIONAL_MIN, _PRICE_MAX = range(6)
assert [S_TICK_LOT + i for i in range(6)] == [
    S_TICK_LOT,
    S_LOT,
    S_QUANTITY_MIN,
    S_QUANTITY_MAX,
    S_NOTIONAL_MIN,
    S_PRICE_MAX,
]

# A reason as int64 words: of its head all, of its tail's first word the upper half.
_WHY: Final = byte(trading_command_dtype, "reason_head") // 8
_WHY_TO: Final = byte(trading_event_dtype, "reason_head") // 8
_WHY_WORDS: Final = 5
_REST: Final = byte(trading_command_dtype, "reason_tail") // 8
_REST_WORDS: Final = 5
assert byte(trading_command_dtype, "reason_head") % 8 == byte(trading_event_dtype, "reason_head") % 8 == 0
assert byte(trading_command_dtype, "reason_tail") == byte(trading_event_dtype, "reason_tail") == _REST * 8 + 4
assert byte(trading_event_dtype, "for_all") == E_KINDS * 8 + SIDE_SHIFT // 8
assert byte(trading_event_dtype, "previous_state") == E_KINDS * 8 + TIME_IN_FORCE_SHIFT // 8


@kernel
def list_symbol(book: BookState, call: Call, n: int) -> int:
    """Carry out LIST_SYMBOL. Return the count of events."""
    commands, c = call.commands, call.command
    symbol = commands[c + C_ACCOUNT] >> 32
    state = (commands[c + C_KINDS] >> 56) & 0xFF
    if symbol < 0 or symbol >= book.header[H_SYMBOLS_MAX]:
        return put_closing(call, n, EVENT_REFUSED, symbol, 0, NUMBER_OUT_OF_RANGE, 0)
    s = at(symbol, SYMBOL_SHIFT)
    if book.symbols[s + S_LISTED] != 0:
        return put_closing(call, n, EVENT_REFUSED, symbol, 0, SYMBOL_EXISTS, 0)
    if state < STATE_OPEN or state > STATE_HALTED:
        return put_closing(call, n, EVENT_REFUSED, symbol, 0, INVALID_REQUEST, 0)
    reason = _bounds_fault(commands, c, book.header[H_ORDERS_MAX])
    if reason != NONE:
        return put_closing(call, n, EVENT_REFUSED, symbol, 0, reason, 0)
    book.symbols[s + S_LISTED] = 1
    book.symbols[s + S_STATE] = state
    book.symbols[s + S_ASSETS] = _half(commands, c, _BASE) | _half(commands, c, _QUOTE) << 32
    _set_words(book, commands, c, s)
    return _put_symbol(call, n, EVENT_SYMBOL_LISTED, symbol, state)


@kernel
def set_parameters(book: BookState, call: Call, n: int) -> int:
    """Carry out SET_PARAMETERS. Return the count of events."""
    commands, c = call.commands, call.command
    symbol = commands[c + C_ACCOUNT] >> 32
    if not is_listed(book, symbol):
        return put_closing(call, n, EVENT_REFUSED, symbol, 0, SYMBOL_NOT_FOUND, 0)
    s = at(symbol, SYMBOL_SHIFT)
    same = (
        book.symbols[s + S_TICK_LOT] == commands[c + _FROM[_TICK_LOT]]
        and book.symbols[s + S_LOT] == commands[c + _FROM[_LOT]]
        and book.symbols[s + S_ASSETS] == _half(commands, c, _BASE) | _half(commands, c, _QUOTE) << 32
    )
    reason = _bounds_fault(commands, c, book.header[H_ORDERS_MAX]) if same else INVALID_REQUEST
    if reason != NONE:
        return put_closing(call, n, EVENT_REFUSED, symbol, 0, reason, 0)
    _set_words(book, commands, c, s)
    return _put_symbol(call, n, EVENT_PARAMETERS_SET, symbol, book.symbols[s + S_STATE])


@kernel
def start_set_state(book: BookState, call: Call, n: int) -> int:
    """Begin SET_TRADING_STATE; ``set_more_states`` goes on. Return the count of events."""
    symbol = call.commands[call.command + C_ACCOUNT] >> 32
    state = (call.commands[call.command + C_KINDS] >> 56) & 0xFF
    if state < STATE_OPEN or state > STATE_HALTED:
        return put_closing(call, n, EVENT_REFUSED, symbol, 0, INVALID_REQUEST, 0)
    book.header[H_PHASE] = PHASE_STATES
    book.header[H_CURSOR] = max(symbol, 0)
    book.header[H_DONE] = 0
    return n


@kernel
def set_more_states(book: BookState, call: Call, n: int) -> int:
    """Go on with SET_TRADING_STATE until it is done (PHASE_IDLE) or the buffer is full."""
    header = book.header
    asked = call.commands[call.command + C_ACCOUNT] >> 32
    state = (call.commands[call.command + C_KINDS] >> 56) & 0xFF
    end = header[H_SYMBOLS_MAX] if asked == SYMBOL_ID_ALL else min(header[H_SYMBOLS_MAX], asked + 1)
    while True:
        symbol = header[H_CURSOR]
        while symbol < end and book.symbols[at(symbol, SYMBOL_SHIFT) + S_LISTED] == 0:
            symbol += 1
        header[H_CURSOR] = symbol
        if symbol >= end and header[H_DONE] > 0:
            header[H_PHASE] = PHASE_IDLE
            return n
        if n == call.capacity:
            return n
        if symbol >= end:
            header[H_PHASE] = PHASE_IDLE
            return put_closing(call, n, EVENT_REFUSED, asked, 0, SYMBOL_NOT_FOUND, 0)
        previous = book.symbols[at(symbol, SYMBOL_SHIFT) + S_STATE]
        book.symbols[at(symbol, SYMBOL_SHIFT) + S_STATE] = state
        n = put_closing(call, n, EVENT_TRADING_STATE_SET, symbol, 0, NONE, state)
        _put_why(call, n - 1, asked, previous)
        header[H_CURSOR] = symbol + 1
        header[H_DONE] += 1


@kernel
def _put_why(call: Call, n: int, asked: int, previous: int) -> None:
    """Add to event ``n`` why the state was set, and what it was before, if the command says why."""
    events, commands, c = call.events, call.commands, call.command
    if commands[c + _WHY] == 0:
        return
    e = at(n, EVENT_SHIFT)
    for w in range(_WHY_WORDS):
        events[e + _WHY_TO + w] = commands[c + _WHY + w]
    events[e + _REST] = commands[c + _REST] & HIGH_32
    for w in range(1, _REST_WORDS):
        events[e + _REST + w] = commands[c + _REST + w]
    for_all = 1 if asked == SYMBOL_ID_ALL else 0
    events[e + E_KINDS] |= for_all << SIDE_SHIFT | previous << TIME_IN_FORCE_SHIFT


@kernel
def is_listed(book: BookState, symbol: int) -> bool:
    """Whether a symbol id is in range and listed."""
    in_range = symbol >= 0 and symbol < book.header[H_SYMBOLS_MAX]
    return in_range and book.symbols[at(symbol, SYMBOL_SHIFT) + S_LISTED] != 0


@kernel
def _bounds_fault(commands: NDArray[np.int64], c: int, orders_max: int) -> int:
    """Why a symbol with these numbers could overflow or makes no sense. Divides where a product could wrap."""
    tick_lot = commands[c + _FROM[_TICK_LOT]]
    lot = commands[c + _FROM[_LOT]]
    lots_min = commands[c + _FROM[_QUANTITY_MIN]]
    lots_max = commands[c + _FROM[_QUANTITY_MAX]]
    notional_min = commands[c + _FROM[_NOTIONAL_MIN]]
    price_max = commands[c + _FROM[_PRICE_MAX]]
    if tick_lot < 1 or lot < 1 or lots_min < 1 or lots_max < lots_min or price_max < 1:
        return NUMBER_OUT_OF_RANGE
    if notional_min < 0 or notional_min > UNITS_MAX:
        return NUMBER_OUT_OF_RANGE
    if (
        lots_max > UNITS_MAX // tick_lot // price_max
        or lots_max > UNITS_MAX // lot
        or lots_max > INT64_MAX // orders_max
    ):
        return NUMBER_OUT_OF_RANGE
    for fee in range(_MAKER, _COLLAR):
        if _half(commands, c, fee) > PPM:
            return NUMBER_OUT_OF_RANGE
    if _half(commands, c, _COLLAR) > COLLAR_PPM_MAX:
        return NUMBER_OUT_OF_RANGE
    return NONE


@kernel
def _half(commands: NDArray[np.int64], c: int, which: int) -> int:
    """Read an int32 field as unsigned: a negative one is out of every bound."""
    at = _HALF_FROM[which]
    return (commands[c + (at >> 3)] >> (8 * (at & 7))) & LOW_32  # type: ignore[no-any-return]


@kernel
def _set_words(book: BookState, commands: NDArray[np.int64], c: int, s: int) -> None:
    for which in range(len(_FROM)):
        book.symbols[s + S_TICK_LOT + which] = commands[c + _FROM[which]]
    book.symbols[s + S_FEES] = _half(commands, c, _MAKER) | _half(commands, c, _TAKER) << 32
    book.symbols[s + S_COLLAR] = _half(commands, c, _COLLAR)


@kernel
def _put_symbol(call: Call, n: int, kind: int, symbol: int, state: int) -> int:
    """Write event ``n`` with the command's parameters. Return n + 1."""
    e = put_head(call, n)
    events, commands, c = call.events, call.commands, call.command
    for w in range(E_ORDER_ID, EVENT_WORDS):
        events[e + w] = 0
    for which in range(len(_FROM)):
        events[e + _TO[which]] = commands[c + _FROM[which]]
    for which in range(len(_HALF_FROM)):
        at = _HALF_TO[which]
        events[e + (at >> 3)] |= _half(commands, c, which) << (8 * (at & 7))
    events[e + E_SYMBOL] = symbol & LOW_32
    events[e + E_KINDS] = kind | NONE << REASON_SHIFT | ring_bits(call) | state << TYPE_SHIFT
    return n + 1
