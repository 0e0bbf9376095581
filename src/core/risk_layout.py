"""Where risk finds the fields of records when it reads them as int64 words.

Kernels get commands as int64[n, 16] and events as int64[n, 32]: plain loads, no per-record views. A field of eight
bytes is a word; a smaller one is ``(word, shift)``, taken out with ``get_half`` or ``get_byte`` and put in with a
shift. Everything is derived from ``core.records``; names begin with C (command), Y (symbol command), F (funding
command), A (account command), E (event), S (symbol event) and N (funding event).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tradeengine.core.records import (
    COMMAND_BYTES,
    EVENT_BYTES,
    account_command_dtype,
    byte,
    command_dtype,
    event_dtype,
    funding_command_dtype,
    funding_event_dtype,
    symbol_command_dtype,
    symbol_event_dtype,
    word,
)
from tradeengine.core.risk_state import leaf

COMMAND_WORDS: Final = COMMAND_BYTES // 8
EVENT_WORDS: Final = EVENT_BYTES // 8
LOW_32: Final = 0xFFFF_FFFF


def _part(dtype: np.dtype[np.void], field: str) -> tuple[int, int]:
    """Word and shift of a field that is smaller than a word."""
    offset = byte(dtype, field)
    return offset // 8, offset % 8 * 8


C_INGRESS_SEQUENCE: Final = word(command_dtype, "ingress_sequence")
C_RING_SEQUENCE: Final = word(command_dtype, "ring_sequence")
C_ORDER_ID: Final = word(command_dtype, "order_id")
C_TIMESTAMP: Final = word(command_dtype, "timestamp_ns")
C_PRICE: Final = word(command_dtype, "price_ticks")
C_STOP_PRICE: Final = word(command_dtype, "stop_price_ticks")
C_QUANTITY: Final = word(command_dtype, "quantity_lots")
C_HOLD: Final = word(command_dtype, "hold_units")
C_EXPIRES: Final = word(command_dtype, "expires_at_ns")
C_ACCOUNT: Final = _part(command_dtype, "account_id")
C_SYMBOL: Final = _part(command_dtype, "symbol_id")
C_DEADLINE: Final = _part(command_dtype, "deadline_ms")
C_CLIENT_ID: Final = byte(command_dtype, "client_order_id") // 8
"""The id's first four bytes are this word's upper half, the rest the four words after."""
C_KIND: Final = _part(command_dtype, "kind")
C_RING: Final = _part(command_dtype, "ingress_ring")
C_SIDE: Final = _part(command_dtype, "side")
C_TYPE: Final = _part(command_dtype, "order_type")
C_TIME_IN_FORCE: Final = _part(command_dtype, "time_in_force")
C_SELF_TRADE: Final = _part(command_dtype, "self_trade_prevention")
C_FLAGS: Final = _part(command_dtype, "flags")
C_STATE: Final = _part(command_dtype, "trading_state")
C_KINDS: Final = C_KIND[0]
"""The word that holds all the one-byte fields."""

Y_TICK_LOT_UNITS: Final = word(symbol_command_dtype, "tick_lot_units")
Y_LOT_UNITS: Final = word(symbol_command_dtype, "lot_units")
Y_LOTS_MIN: Final = word(symbol_command_dtype, "quantity_lots_min")
Y_LOTS_MAX: Final = word(symbol_command_dtype, "quantity_lots_max")
Y_NOTIONAL_MIN: Final = word(symbol_command_dtype, "notional_units_min")
Y_PRICE_TICKS_MAX: Final = word(symbol_command_dtype, "price_ticks_max")
Y_BASE: Final = _part(symbol_command_dtype, "base_asset_id")
Y_QUOTE: Final = _part(symbol_command_dtype, "quote_asset_id")
Y_MAKER_PPM: Final = _part(symbol_command_dtype, "maker_fee_ppm")
Y_TAKER_PPM: Final = _part(symbol_command_dtype, "taker_fee_ppm")
Y_COLLAR_PPM: Final = _part(symbol_command_dtype, "collar_ppm")
Y_QUOTE_PLACES: Final = _part(symbol_command_dtype, "quote_places")
Y_SHARD: Final = _part(symbol_command_dtype, "shard")

F_NUMBER: Final = word(funding_command_dtype, "funding_number")
F_AMOUNT: Final = word(funding_command_dtype, "amount_units")
F_ASSET: Final = _part(funding_command_dtype, "asset_id")

A_VERSION: Final = word(account_command_dtype, "version")
A_ORDER_NOTIONAL: Final = word(account_command_dtype, "order_notional_max")
A_DAY_NOTIONAL: Final = word(account_command_dtype, "day_notional_max")
A_TWO_FACTOR: Final = word(account_command_dtype, "two_factor_above")
A_OPEN_ORDERS: Final = word(account_command_dtype, "open_orders_max")
A_KEYS_VERSION: Final = word(account_command_dtype, "keys_version")
A_ORDER_SCALE: Final = _part(account_command_dtype, "order_notional_scale")
A_DAY_SCALE: Final = _part(account_command_dtype, "day_notional_scale")
A_TWO_FACTOR_SCALE: Final = _part(account_command_dtype, "two_factor_scale")
A_FLAGS: Final = _part(account_command_dtype, "account_flags")
A_PARTS: Final = A_FLAGS[0]
"""The word that holds the scales and the flags."""

E_SEQUENCE: Final = word(event_dtype, "sequence")
E_COMMAND_SEQUENCE: Final = word(event_dtype, "command_sequence")
E_RING_SEQUENCE: Final = word(event_dtype, "ring_sequence")
E_INGRESS_SEQUENCE: Final = word(event_dtype, "ingress_sequence")
E_TIMESTAMP: Final = word(event_dtype, "timestamp_ns")
E_ORDER_ID: Final = word(event_dtype, "order_id")
E_MAKER_ORDER_ID: Final = word(event_dtype, "maker_order_id")
E_PRICE: Final = word(event_dtype, "price_ticks")
E_QUANTITY: Final = word(event_dtype, "quantity_lots")
E_REMAINING: Final = word(event_dtype, "remaining_lots")
E_MAKER_REMAINING: Final = word(event_dtype, "maker_remaining_lots")
E_NOTIONAL: Final = word(event_dtype, "notional_units")
E_FEE: Final = word(event_dtype, "fee_units")
E_MAKER_FEE: Final = word(event_dtype, "maker_fee_units")
E_HOLD: Final = word(event_dtype, "hold_units")
E_HOLD_RELEASED: Final = word(event_dtype, "hold_released_units")
E_MAKER_HOLD: Final = word(event_dtype, "maker_hold_units")
E_STOP_PRICE: Final = word(event_dtype, "stop_price_ticks")
E_EXPIRES: Final = word(event_dtype, "expires_at_ns")
E_ACCOUNT: Final = _part(event_dtype, "account_id")
E_MAKER_ACCOUNT: Final = _part(event_dtype, "maker_account_id")
E_SYMBOL: Final = _part(event_dtype, "symbol_id")
E_CLIENT_ID: Final = byte(event_dtype, "client_order_id") // 8
E_KIND: Final = _part(event_dtype, "kind")
E_FLAGS: Final = _part(event_dtype, "flags")
E_REASON: Final = _part(event_dtype, "reason")
E_RING: Final = _part(event_dtype, "ingress_ring")
E_SIDE: Final = _part(event_dtype, "side")
E_TYPE: Final = _part(event_dtype, "order_type")
E_TIME_IN_FORCE: Final = _part(event_dtype, "time_in_force")
E_SELF_TRADE: Final = _part(event_dtype, "self_trade_prevention")
E_KINDS: Final = E_KIND[0]

S_TICK_LOT_UNITS: Final = word(symbol_event_dtype, "tick_lot_units")
S_LOT_UNITS: Final = word(symbol_event_dtype, "lot_units")
S_LOTS_MIN: Final = word(symbol_event_dtype, "quantity_lots_min")
S_LOTS_MAX: Final = word(symbol_event_dtype, "quantity_lots_max")
S_NOTIONAL_MIN: Final = word(symbol_event_dtype, "notional_units_min")
S_PRICE_TICKS_MAX: Final = word(symbol_event_dtype, "price_ticks_max")
S_BASE: Final = _part(symbol_event_dtype, "base_asset_id")
S_QUOTE: Final = _part(symbol_event_dtype, "quote_asset_id")
S_MAKER_PPM: Final = _part(symbol_event_dtype, "maker_fee_ppm")
S_TAKER_PPM: Final = _part(symbol_event_dtype, "taker_fee_ppm")
S_COLLAR_PPM: Final = _part(symbol_event_dtype, "collar_ppm")
S_SHARD: Final = _part(symbol_event_dtype, "shard")

N_NUMBER: Final = word(funding_event_dtype, "funding_number")
N_AMOUNT: Final = word(funding_event_dtype, "amount_units")
N_ASSET: Final = _part(funding_event_dtype, "asset_id")

for _field in (C_KIND, C_RING, C_SIDE, C_TYPE, C_TIME_IN_FORCE, C_SELF_TRADE, C_FLAGS, C_STATE):
    assert _field[0] == C_KINDS
for _field in (A_ORDER_SCALE, A_DAY_SCALE, A_TWO_FACTOR_SCALE, A_FLAGS):
    assert _field[0] == A_PARTS
for _field in (E_KIND, E_FLAGS, E_REASON, E_RING, E_SIDE, E_TYPE, E_TIME_IN_FORCE, E_SELF_TRADE):
    assert _field[0] == E_KINDS
assert byte(command_dtype, "client_order_id") % 8 == 4
assert byte(event_dtype, "client_order_id") % 8 == 4


@leaf
def get_byte(value: int, field: tuple[int, int]) -> int:
    """Take an unsigned byte out of a word."""
    return value >> field[1] & 0xFF


@leaf
def get_half(value: int, field: tuple[int, int]) -> int:
    """Take a signed 32-bit field out of a word."""
    return value << (32 - field[1]) >> 32


@leaf
def get_unsigned_half(value: int, field: tuple[int, int]) -> int:
    """Take an unsigned 32-bit field out of a word."""
    return value >> field[1] & LOW_32
