"""Client order ids: which of them were used, with what content, for which order.

A ring of the latest ids, the oldest overwritten first, and an index over it by open addressing. An id is known by its
account and 104 bits of hash, not by its text: 32 bytes each, and two accounts are never mixed up. Each is forgotten
24 hours after its order's time, or when ``client_ids_max`` later ones came, whichever is first. An order without a
client order id is not remembered here.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tradeengine.core.ids import TIMESTAMP_SHIFT
from tradeengine.core.records import CommandFlag
from tradeengine.core.risk_layout import (
    C_EXPIRES,
    C_FLAGS,
    C_HOLD,
    C_KINDS,
    C_PRICE,
    C_QUANTITY,
    C_SELF_TRADE,
    C_SIDE,
    C_STOP_PRICE,
    C_SYMBOL,
    C_TIME_IN_FORCE,
    C_TYPE,
    COMMAND_WORDS,
    E_EXPIRES,
    E_FLAGS,
    E_HOLD,
    E_HOLD_RELEASED,
    E_KINDS,
    E_PRICE,
    E_QUANTITY,
    E_SELF_TRADE,
    E_SIDE,
    E_STOP_PRICE,
    E_SYMBOL,
    E_TIME_IN_FORCE,
    E_TYPE,
    LOW_32,
    get_byte,
    get_half,
)
from tradeengine.core.risk_state import (
    ACCOUNT_BITS,
    CLIENT_CONTENT,
    CLIENT_HASH,
    CLIENT_HEAD,
    CLIENT_ID_LIFETIME_MS,
    CLIENT_KEY,
    CLIENT_ORDER,
    CLIENT_TAIL,
    NO_ORDER,
    Int64Array,
    RiskState,
    kernel,
    leaf,
)

ID_WORDS: Final = 5
"""Words that a client order id lies in; the lower half of the first is another field."""
_BY_QUOTE: Final = int(CommandFlag.BY_QUOTE)
_ORDER_FLAGS: Final = int(CommandFlag.POST_ONLY | CommandFlag.BY_QUOTE)
# Hashes are unsigned: compiled, a signed product that wraps is not defined.
_SEED_1: Final = np.uint64(0x1F0A_5B37_61C8_8647)
_SEED_2: Final = np.uint64(0x3C79_AC49_2BA7_B653)
_FACTOR_1: Final = np.uint64(0x9E37_79B9_7F4A_7C15)
_FACTOR_2: Final = np.uint64(0xC2B2_AE3D_27D4_EB4F)
_FOLD_1: Final = np.uint64(29)
_FOLD_2: Final = np.uint64(32)


@leaf
def find_client_id(risk: RiskState, hashed: int, key: int, now_ms: int) -> int:
    """Row of an id that is remembered and not too old; -1 when there is none. now_ms: on the scale of order ids."""
    index = risk.client_index
    mask = len(index) - 1
    place = hashed & mask
    while index[place] != 0:
        if (index[place] >> 32 ^ hashed) & LOW_32 == 0:
            row = (index[place] & LOW_32) - 1
            entry = risk.client_ids[row]
            order_id = entry[CLIENT_ORDER]
            fresh = order_id != NO_ORDER and order_id >> TIMESTAMP_SHIFT >= now_ms - CLIENT_ID_LIFETIME_MS
            if entry[CLIENT_HASH] == hashed and entry[CLIENT_KEY] == key and fresh:
                return row  # type: ignore[no-any-return]
        place = (place + 1) & mask
    return -1


@leaf
def insert_client_id(risk: RiskState, hashed: int, key: int, content: int, order_id: int) -> None:
    """Remember an id as the newest one, and forget what is too old or one too many."""
    scalars = risk.scalars
    ids = risk.client_ids
    head = scalars[CLIENT_HEAD]
    oldest = (order_id >> TIMESTAMP_SHIFT) - CLIENT_ID_LIFETIME_MS
    # Two at most: the ring empties faster than it fills, and no single insertion takes long.
    for _ in range(2):
        tail = scalars[CLIENT_TAIL]
        if head - tail == len(ids) or (tail < head and ids[tail % len(ids), CLIENT_ORDER] >> TIMESTAMP_SHIFT < oldest):
            _forget(risk, tail % len(ids))
            scalars[CLIENT_TAIL] = tail + 1
    row = head % len(ids)
    ids[row, CLIENT_HASH] = hashed
    ids[row, CLIENT_KEY] = key
    ids[row, CLIENT_CONTENT] = content
    ids[row, CLIENT_ORDER] = order_id
    scalars[CLIENT_HEAD] = head + 1
    index = risk.client_index
    mask = len(index) - 1
    place = hashed & mask
    while index[place] != 0:
        place = (place + 1) & mask
    index[place] = hashed << 32 | (row + 1)


@leaf
def _forget(risk: RiskState, row: int) -> None:
    """Take the oldest row out of the index, shifting back what its place was in the way of.

    It is at its home: whoever stands in another's way came before it, and shifting back keeps that so.
    """
    index = risk.client_index
    mask = len(index) - 1
    hole = risk.client_ids[row, CLIENT_HASH] & mask
    place = (hole + 1) & mask
    while index[place] != 0:
        home = index[place] >> 32 & mask
        if (place - home) & mask >= (place - hole) & mask:
            index[hole] = index[place]
            hole = place
        place = (place + 1) & mask
    index[hole] = 0


@leaf
def hash_client_id(account_id: int, words: Int64Array, first: int) -> tuple[int, int]:
    """Hash and key of a client order id: 36 bytes, zero-padded, from the upper half of ``words[first]`` on."""
    head = words[first] >> 32 & LOW_32
    one = mix(_SEED_1, head << ACCOUNT_BITS | account_id)
    two = mix(_SEED_2, head)
    for offset in range(1, ID_WORDS):
        one = mix(one, words[first + offset])
        two = mix(two, words[first + offset])
    return np.int64(one), np.int64(two) << ACCOUNT_BITS | account_id  # type: ignore[return-value]


@leaf
def place_content(command: Int64Array) -> int:
    """Fingerprint of what a PLACE asks for, its words given: everything but its times and its client order id."""
    kinds = command[C_KINDS]
    flags = get_byte(kinds, C_FLAGS) & _ORDER_FLAGS
    budget = command[C_HOLD] if flags & _BY_QUOTE else 0
    return _content(
        get_half(command[C_SYMBOL[0]], C_SYMBOL),
        get_byte(kinds, C_SIDE)
        | get_byte(kinds, C_TYPE) << 8
        | get_byte(kinds, C_TIME_IN_FORCE) << 16
        | get_byte(kinds, C_SELF_TRADE) << 24
        | flags << 32,
        command[C_PRICE],
        command[C_STOP_PRICE],
        command[C_QUANTITY],
        command[C_EXPIRES],
        budget,
    )


@leaf
def event_content(event: Int64Array) -> int:
    """``place_content`` of the command behind an ACCEPTED or REJECTED, from the event's words."""
    kinds = event[E_KINDS]
    flags = get_byte(kinds, E_FLAGS) & _ORDER_FLAGS
    budget = event[E_HOLD] + event[E_HOLD_RELEASED] if flags & _BY_QUOTE else 0
    return _content(
        get_half(event[E_SYMBOL[0]], E_SYMBOL),
        get_byte(kinds, E_SIDE)
        | get_byte(kinds, E_TYPE) << 8
        | get_byte(kinds, E_TIME_IN_FORCE) << 16
        | get_byte(kinds, E_SELF_TRADE) << 24
        | flags << 32,
        event[E_PRICE],
        event[E_STOP_PRICE],
        0 if flags & _BY_QUOTE else event[E_QUANTITY],
        event[E_EXPIRES],
        budget,
    )


@leaf
def _content(symbol: int, kinds: int, price: int, stop: int, quantity: int, expires: int, budget: int) -> int:
    mixed = mix(mix(_SEED_1, symbol), kinds)
    mixed = mix(mix(mixed, price), stop)
    mixed = mix(mix(mixed, quantity), expires)
    return np.int64(mix(mixed, budget))  # type: ignore[return-value]


@leaf
def mix(state: np.uint64, value: int) -> np.uint64:
    """Fold a word into a hash. Products wrap; that is meant."""
    mixed = (state ^ np.uint64(value)) * _FACTOR_1
    mixed ^= mixed >> _FOLD_1
    mixed *= _FACTOR_2
    return mixed ^ mixed >> _FOLD_2


@leaf
def is_named(words: Int64Array, first: int) -> bool:
    """Whether there is a client order id at all."""
    return words[first] >> 32 != 0  # type: ignore[no-any-return]


def content_fingerprint(records: NDArray[np.void]) -> Int64Array:
    """Fingerprints of orders' content, int64[n], from PLACE commands or from their ACCEPTED or REJECTED events.

    records: 1-D ``command_dtype`` or ``event_dtype``; both give the same for the same order.
    """
    words = np.ascontiguousarray(records).view(np.int64).reshape(len(records), -1)
    contents = np.empty(len(words), np.int64)
    _write_fingerprints(words, words.shape[1] == COMMAND_WORDS, contents)
    return contents


@kernel
def _write_fingerprints(words: Int64Array, commands: bool, contents: Int64Array) -> None:
    for row in range(len(words)):
        contents[row] = place_content(words[row]) if commands else event_content(words[row])
