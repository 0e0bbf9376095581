"""Timers: an account that does not renew its own in time wants all its orders cancelled.

Rule 1: an account has one timer at most; setting it anew moves it, so renewals take no memory, however many.
Rule 2: timers fire by (time, account). Where an order's own end falls on the same instant, the order goes first.
Rule 3: a timer stays armed until the last order of its account is gone, so that the book can stop in between.
It refuses to know how orders end (``book_cancel``).
"""

from __future__ import annotations

from tradeengine.core.book_events import (
    C_ACCOUNT,
    C_EXPIRES,
    E_EXPIRES,
    EVENT_SHIFT,
    Call,
    put_closing,
    put_refusal,
)
from tradeengine.core.book_kinds import (
    EVENT_REFUSED,
    EVENT_TIMER_SET,
    INVALID_REQUEST,
    NONE,
)
from tradeengine.core.book_state import (
    H_ACCOUNTS_MAX,
    H_TIMER_COUNT,
    INT64_MAX,
    LOW_32,
    T_ACCOUNT,
    T_END,
    T_PLACE,
    TIMER_SHIFT,
    BookState,
    at,
    kernel,
    leaf,
)
from tradeengine.core.records import ACCOUNT_ID_NONE, SYMBOL_ID_ALL


@kernel
def set_timer(book: BookState, call: Call, n: int) -> int:
    """Carry out CANCEL_ALL_AFTER. Return the count of events."""
    commands, c = call.commands, call.command
    account = commands[c + C_ACCOUNT] & LOW_32
    symbol = commands[c + C_ACCOUNT] >> 32
    expires_at_ns = commands[c + C_EXPIRES]
    is_account = account != ACCOUNT_ID_NONE and account < book.header[H_ACCOUNTS_MAX]
    if not is_account or symbol != SYMBOL_ID_ALL or expires_at_ns < 0:
        return put_refusal(call, n, EVENT_REFUSED, INVALID_REQUEST, 0)
    disarm(book, account)
    if expires_at_ns > 0:
        arm(book, account, expires_at_ns)
    put_closing(call, n, EVENT_TIMER_SET, symbol, 0, NONE, 0)
    call.events[at(n, EVENT_SHIFT) + E_EXPIRES] = expires_at_ns
    return n + 1


@kernel
def next_timer_ns(book: BookState) -> int:
    """When the first timer runs out; 2**63 - 1 when none is armed."""
    if book.header[H_TIMER_COUNT] == 0:
        return INT64_MAX
    return book.timers[at(first_timer(book), TIMER_SHIFT) + T_END]  # type: ignore[no-any-return]


@leaf
def first_timer(book: BookState) -> int:
    """Give the account whose timer runs out first; there is one."""
    return book.timers[at(1, TIMER_SHIFT) + T_ACCOUNT]  # type: ignore[no-any-return]


@kernel
def arm(book: BookState, account: int, expires_at_ns: int) -> None:
    """Let the timer of an account that has none run out at a time."""
    count = book.header[H_TIMER_COUNT] + 1
    book.header[H_TIMER_COUNT] = count
    book.timers[at(account, TIMER_SHIFT) + T_END] = expires_at_ns
    _sift_up(book, count, account)


@kernel
def disarm(book: BookState, account: int) -> None:
    """Take the timer of an account away, if it has one."""
    position = book.timers[at(account, TIMER_SHIFT) + T_PLACE]
    if position == 0:
        return
    book.timers[at(account, TIMER_SHIFT) + T_PLACE] = 0
    count = book.header[H_TIMER_COUNT]
    book.header[H_TIMER_COUNT] = count - 1
    last = _account_at(book, count)
    if last == account:
        return
    if position > 1 and _fires_before(book, last, _account_at(book, position >> 1)):
        _sift_up(book, position, last)
    else:
        _sift_down(book, position, last, count - 1)


@kernel
def _sift_up(book: BookState, position: int, account: int) -> None:
    while position > 1:
        parent = _account_at(book, position >> 1)
        if not _fires_before(book, account, parent):
            break
        _set_place(book, position, parent)
        position >>= 1
    _set_place(book, position, account)


@kernel
def _sift_down(book: BookState, position: int, account: int, count: int) -> None:
    while 2 * position <= count:
        child = 2 * position
        if child < count and _fires_before(book, _account_at(book, child + 1), _account_at(book, child)):
            child += 1
        below = _account_at(book, child)
        if not _fires_before(book, below, account):
            break
        _set_place(book, position, below)
        position = child
    _set_place(book, position, account)


@leaf
def _fires_before(book: BookState, account: int, other: int) -> bool:
    end = book.timers[at(account, TIMER_SHIFT) + T_END]
    other_end = book.timers[at(other, TIMER_SHIFT) + T_END]
    return end < other_end or (end == other_end and account < other)


@leaf
def _account_at(book: BookState, position: int) -> int:
    return book.timers[at(position, TIMER_SHIFT) + T_ACCOUNT]  # type: ignore[no-any-return]


@leaf
def _set_place(book: BookState, position: int, account: int) -> None:
    book.timers[at(position, TIMER_SHIFT) + T_ACCOUNT] = account
    book.timers[at(account, TIMER_SHIFT) + T_PLACE] = position
