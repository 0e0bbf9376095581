"""Which slot holds an order id: a hash table with open addressing, linear probing, backward-shift deletion.

Rule 1: at most half of the entries are used (the table is sized so), and deletion leaves no tombstones: probes stay
short however long the book lives. Rule 2: an entry is ``hash << 32 | slot``; 0 is empty. The home of an entry follows
from the entry alone, so deletion touches no order.
"""

from __future__ import annotations

from tradeengine.core.book_state import (
    H_INDEX_MASK,
    LOW_32,
    O_ID,
    ORDER_SHIFT,
    BookState,
    at,
    kernel,
    leaf,
)

# Two odd multipliers below 2**31, so that no product of 32 bits wraps int64: the code also runs uncompiled.
_MULTIPLIER_LOW = 0x5BD1E995
_MULTIPLIER_HIGH = 0x45D9F3B


@leaf
def hash_id(order_id: int) -> int:
    """Hash of 31 bits. Eight ids that follow one another share a cache line; such lines spread over the table."""
    line = order_id >> 3
    mixed = ((line & LOW_32) * _MULTIPLIER_LOW) ^ (((line >> 32) & LOW_32) * _MULTIPLIER_HIGH)
    return ((mixed >> 17) & 0x7FFF_FFF8) | (order_id & 7)


@leaf
def find_slot(book: BookState, order_id: int) -> int:
    """Slot of an order id; 0 when there is none."""
    mask = book.header[H_INDEX_MASK]
    mixed = hash_id(order_id)
    position = mixed & mask
    while True:
        entry = book.id_index[position]
        if entry == 0:
            return 0
        slot = entry & LOW_32
        if entry >> 32 == mixed and book.orders[at(slot, ORDER_SHIFT) + O_ID] == order_id:
            return slot  # type: ignore[no-any-return]
        position = (position + 1) & mask


@leaf
def insert_id(book: BookState, order_id: int, slot: int) -> None:
    """Add an id that is not there yet."""
    mask = book.header[H_INDEX_MASK]
    mixed = hash_id(order_id)
    position = mixed & mask
    while book.id_index[position] != 0:
        position = (position + 1) & mask
    book.id_index[position] = mixed << 32 | slot


@leaf
def delete_id(book: BookState, order_id: int, slot: int) -> None:
    """Remove an id that is there."""
    mask = book.header[H_INDEX_MASK]
    position = hash_id(order_id) & mask
    while book.id_index[position] & LOW_32 != slot:
        position = (position + 1) & mask
    if book.id_index[(position + 1) & mask] == 0:
        book.id_index[position] = 0
    else:
        _shift_back(book, position, mask)


@kernel
def _shift_back(book: BookState, hole: int, mask: int) -> None:
    """Close the hole: move back each entry that follows it and whose home does not lie after the hole."""
    position = hole
    while True:
        position = (position + 1) & mask
        entry = book.id_index[position]
        if entry == 0:
            break
        home = (entry >> 32) & mask
        if (position - home) & mask >= (position - hole) & mask:
            book.id_index[hole] = entry
            hole = position
    book.id_index[hole] = 0
