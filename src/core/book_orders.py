"""Slots of orders, and the three registers of those that live: the id index, the accounts' lists, the expiries.

Rule 1: an order is registered when it first outlives its own command; a taker that is filled at once never is.
Rule 2: an account's list is in the order of ids, because ids ascend. Rule 3: expiries leave by (time, id).
"""

from __future__ import annotations

from tradeengine.core.book_index import (
    delete_id,
    insert_id,
)
from tradeengine.core.book_kinds import (
    GTD,
    MARK_REGISTERED,
    time_in_force_of,
)
from tradeengine.core.book_ladder import (
    linked,
)
from tradeengine.core.book_state import (
    H_EXPIRY_COUNT,
    H_ORDER_COUNT,
    H_ORDER_FREE,
    H_ORDER_FRESH,
    HIGH_32,
    INT64_MAX,
    K_ACCOUNT_NEXT,
    K_ACCOUNT_PREVIOUS,
    K_NEXT,
    LINK_SHIFT,
    LOW_32,
    O_ID,
    O_KINDS,
    O_PLACE,
    O_TAIL,
    ORDER_SHIFT,
    BookState,
    at,
    int64,
    kernel,
    leaf,
)


@leaf
def take_slot(book: BookState) -> int:
    """Give a slot for an order; the caller saw that there is one. The one freed last comes first: it is in cache."""
    header = book.header
    header[H_ORDER_COUNT] += 1
    slot = header[H_ORDER_FREE]
    if slot == 0:
        slot = header[H_ORDER_FRESH]
        header[H_ORDER_FRESH] = slot + 1
    else:
        header[H_ORDER_FREE] = linked(book, slot, K_NEXT)
    return slot  # type: ignore[no-any-return]


@leaf
def give_back_slot(book: BookState, slot: int) -> None:
    """Free a slot; its order is in no queue and no register."""
    book.links[at(slot, LINK_SHIFT) + K_NEXT] = book.header[H_ORDER_FREE]
    book.header[H_ORDER_FREE] = slot
    book.header[H_ORDER_COUNT] -= 1


@leaf
def end_order(book: BookState, slot: int) -> None:
    """Free the slot of an order that is in no queue any more, and take it out of the registers."""
    o = at(slot, ORDER_SHIFT)
    kinds = book.orders[o + O_KINDS]
    if kinds & MARK_REGISTERED:
        delete_id(book, book.orders[o + O_ID], slot)
        _unlink_account(book, slot, book.orders[o + O_PLACE] & LOW_32)
        if time_in_force_of(kinds) == GTD:
            _remove_expiry(book, slot)
    give_back_slot(book, slot)


@leaf
def register(book: BookState, slot: int) -> None:
    """Enter an order into the registers, if it is not in them."""
    o = at(slot, ORDER_SHIFT)
    kinds = book.orders[o + O_KINDS]
    if kinds & MARK_REGISTERED:
        return
    book.orders[o + O_KINDS] = kinds | MARK_REGISTERED
    insert_id(book, book.orders[o + O_ID], slot)
    link_account(book, slot, book.orders[o + O_PLACE] & LOW_32)
    if time_in_force_of(kinds) == GTD:
        _insert_expiry(book, slot)


@leaf
def link_account(book: BookState, slot: int, account: int) -> None:
    """Put an order at the end of its account's list."""
    tail = int64(book.accounts[at(account, 1) + 1])
    book.links[at(slot, LINK_SHIFT) + K_ACCOUNT_PREVIOUS] = tail
    book.links[at(slot, LINK_SHIFT) + K_ACCOUNT_NEXT] = 0
    if tail == 0:
        book.accounts[at(account, 1)] = slot
    else:
        book.links[at(tail, LINK_SHIFT) + K_ACCOUNT_NEXT] = slot
    book.accounts[at(account, 1) + 1] = slot


@leaf
def _unlink_account(book: BookState, slot: int, account: int) -> None:
    before = linked(book, slot, K_ACCOUNT_PREVIOUS)
    after = linked(book, slot, K_ACCOUNT_NEXT)
    if before == 0:
        book.accounts[at(account, 1)] = after
    else:
        book.links[at(before, LINK_SHIFT) + K_ACCOUNT_NEXT] = after
    if after == 0:
        book.accounts[at(account, 1) + 1] = before
    else:
        book.links[at(after, LINK_SHIFT) + K_ACCOUNT_PREVIOUS] = before


@kernel
def next_end_ns(book: BookState) -> int:
    """When the first order's time is over; 2**63 - 1 when none has an end."""
    if book.header[H_EXPIRY_COUNT] == 0:
        return INT64_MAX
    return book.expires_at[book.expiries[1]]  # type: ignore[no-any-return]


@kernel
def _insert_expiry(book: BookState, slot: int) -> None:
    count = book.header[H_EXPIRY_COUNT] + 1
    book.header[H_EXPIRY_COUNT] = count
    _sift_up(book, count, slot)


@kernel
def _remove_expiry(book: BookState, slot: int) -> None:
    position = book.orders[at(slot, ORDER_SHIFT) + O_TAIL] & LOW_32
    count = book.header[H_EXPIRY_COUNT]
    book.header[H_EXPIRY_COUNT] = count - 1
    last = int64(book.expiries[count])
    if last == slot:
        return
    if position > 1 and _expires_before(book, last, int64(book.expiries[position >> 1])):
        _sift_up(book, position, last)
    else:
        _sift_down(book, position, last, count - 1)


@kernel
def _sift_up(book: BookState, position: int, slot: int) -> None:
    while position > 1:
        parent = int64(book.expiries[position >> 1])
        if not _expires_before(book, slot, parent):
            break
        _set_expiry(book, position, parent)
        position >>= 1
    _set_expiry(book, position, slot)


@kernel
def _sift_down(book: BookState, position: int, slot: int, count: int) -> None:
    while 2 * position <= count:
        child = 2 * position
        if child < count and _expires_before(book, int64(book.expiries[child + 1]), int64(book.expiries[child])):
            child += 1
        below = int64(book.expiries[child])
        if not _expires_before(book, below, slot):
            break
        _set_expiry(book, position, below)
        position = child
    _set_expiry(book, position, slot)


@leaf
def _expires_before(book: BookState, slot: int, other: int) -> bool:
    time, other_time = book.expires_at[slot], book.expires_at[other]
    if time != other_time:
        return time < other_time  # type: ignore[no-any-return]
    return book.orders[at(slot, ORDER_SHIFT) + O_ID] < book.orders[at(other, ORDER_SHIFT) + O_ID]  # type: ignore[no-any-return]


@leaf
def _set_expiry(book: BookState, position: int, slot: int) -> None:
    book.expiries[position] = slot
    o = at(slot, ORDER_SHIFT)
    book.orders[o + O_TAIL] = (book.orders[o + O_TAIL] & HIGH_32) | position
