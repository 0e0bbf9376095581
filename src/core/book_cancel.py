"""Ending orders: one by its owner, many at once, and those whose time has come.

Rule 1: ending works in every trading state. Rule 2: a mass command ends orders in a fixed sequence (an account's by id;
everybody's by symbol, then bids, asks, stop buys, stop sells, best level first) and closes with their count.
Rule 3: an EXPIRE that comes late does what would have been done in time: orders and timers by when they were due.
"""

from __future__ import annotations

from tradeengine.core.book_events import (
    C_ACCOUNT,
    C_HOLD,
    C_KINDS,
    C_ORDER_ID,
    C_TIMESTAMP,
    Call,
    put_closing,
    put_refusal,
)
from tradeengine.core.book_index import (
    find_slot,
)
from tradeengine.core.book_kinds import (
    ADMINISTRATOR,
    CANCEL_ALL_AFTER,
    CANCELLED_ALL,
    COMMAND_FLAG_BY_ADMINISTRATOR,
    EVENT_CANCELLED_ALL,
    EVENT_EXPIRED,
    EVENT_REFUSED,
    EXPIRED,
    INVALID_REQUEST,
    NONE,
    ORDER_NOT_FOUND,
    USER,
)
from tradeengine.core.book_ladder import (
    entry_of,
    linked,
)
from tradeengine.core.book_match import (
    cancel_resting,
)
from tradeengine.core.book_orders import next_end_ns
from tradeengine.core.book_state import (
    H_ACCOUNTS_MAX,
    H_CURSOR,
    H_DONE,
    H_LEVELS_MAX,
    H_PHASE,
    H_SYMBOLS_MAX,
    K_ACCOUNT_NEXT,
    L_HEAD,
    LADDERS,
    LEVEL_SHIFT,
    LOW_32,
    O_KINDS,
    O_PLACE,
    ORDER_SHIFT,
    PHASE_CANCEL_ALL,
    PHASE_EXPIRE,
    PHASE_IDLE,
    BookState,
    at,
    int64,
    kernel,
    leaf,
)
from tradeengine.core.book_timers import disarm, first_timer, next_timer_ns
from tradeengine.core.records import ACCOUNT_ID_NONE, SYMBOL_ID_ALL


@leaf
def cancel(book: BookState, call: Call, n: int) -> int:
    """Carry out CANCEL. Another account's order is not found. Return the count of events."""
    commands, c = call.commands, call.command
    slot = find_slot(book, commands[c + C_ORDER_ID])
    account = commands[c + C_ACCOUNT] & LOW_32
    if slot == 0 or book.orders[at(slot, ORDER_SHIFT) + O_PLACE] & LOW_32 != account:
        return put_refusal(call, n, EVENT_REFUSED, ORDER_NOT_FOUND, commands[c + C_HOLD])
    return cancel_resting(book, call, n, slot, USER)


@kernel
def start_cancel_all(book: BookState, call: Call, n: int) -> int:
    """Begin CANCEL_ALL; ``cancel_more`` goes on. Return the count of events."""
    account = call.commands[call.command + C_ACCOUNT] & LOW_32
    symbol = call.commands[call.command + C_ACCOUNT] >> 32
    if account >= book.header[H_ACCOUNTS_MAX] or symbol < SYMBOL_ID_ALL or symbol >= book.header[H_SYMBOLS_MAX]:
        return put_refusal(call, n, EVENT_REFUSED, INVALID_REQUEST, 0)
    cursor = max(symbol, 0) * LADDERS
    if account != ACCOUNT_ID_NONE:
        cursor = int64(book.accounts[at(account, 1)])
    book.header[H_PHASE] = PHASE_CANCEL_ALL
    book.header[H_CURSOR] = cursor
    book.header[H_DONE] = 0
    return n


@kernel
def cancel_more(book: BookState, call: Call, n: int) -> int:
    """Go on with CANCEL_ALL until it is done (PHASE_IDLE) or the buffer is full."""
    account = call.commands[call.command + C_ACCOUNT] & LOW_32
    symbol = call.commands[call.command + C_ACCOUNT] >> 32
    by_administrator = call.commands[call.command + C_KINDS] >> 48 & COMMAND_FLAG_BY_ADMINISTRATOR
    reason = ADMINISTRATOR if by_administrator else CANCELLED_ALL
    while n < call.capacity:
        slot = _next_of_ladders(book, symbol) if account == ACCOUNT_ID_NONE else _next_of_account(book, symbol)
        if slot == 0:
            book.header[H_PHASE] = PHASE_IDLE
            return put_closing(call, n, EVENT_CANCELLED_ALL, symbol, book.header[H_DONE], NONE, 0)
        n = cancel_resting(book, call, n, slot, reason)
        book.header[H_DONE] += 1
    return n


@kernel
def _next_of_account(book: BookState, symbol: int) -> int:
    """Take the next order of the account's list that is on the symbol. The cursor moves on before the order ends."""
    slot = book.header[H_CURSOR]
    while slot != 0:
        following = linked(book, slot, K_ACCOUNT_NEXT)
        if symbol == SYMBOL_ID_ALL or (book.orders[at(slot, ORDER_SHIFT) + O_KINDS] >> 16) & 0xFFFF == symbol:
            book.header[H_CURSOR] = following
            return slot  # type: ignore[no-any-return]
        slot = following
    book.header[H_CURSOR] = 0
    return 0


@kernel
def _next_of_ladders(book: BookState, symbol: int) -> int:
    """Take the first order of the best level of the first ladder that has one."""
    ladder = book.header[H_CURSOR]
    end = (book.header[H_SYMBOLS_MAX] if symbol == SYMBOL_ID_ALL else symbol + 1) * LADDERS
    while ladder < end and book.ladder_counts[ladder] == 0:
        ladder += 1
    book.header[H_CURSOR] = ladder
    if ladder == end:
        return 0
    level = int64(book.ladder_levels[entry_of(ladder * book.header[H_LEVELS_MAX], book.ladder_counts[ladder] - 1)])
    return book.levels[at(level, LEVEL_SHIFT) + L_HEAD]  # type: ignore[no-any-return]


@kernel
def start_expire(book: BookState) -> None:
    """Begin EXPIRE; ``expire_more`` goes on."""
    book.header[H_PHASE] = PHASE_EXPIRE
    book.header[H_DONE] = 0


@kernel
def expire_more(book: BookState, call: Call, n: int) -> int:
    """Go on with EXPIRE until it is done (PHASE_IDLE) or the buffer is full."""
    now_ns = call.commands[call.command + C_TIMESTAMP]
    symbol = call.commands[call.command + C_ACCOUNT] >> 32
    while n < call.capacity:
        order_ns, timer_ns = next_end_ns(book), next_timer_ns(book)
        if order_ns > now_ns and timer_ns > now_ns:
            book.header[H_PHASE] = PHASE_IDLE
            return put_closing(call, n, EVENT_EXPIRED, symbol, book.header[H_DONE], NONE, 0)
        if order_ns <= timer_ns:
            n = cancel_resting(book, call, n, int64(book.expiries[1]), EXPIRED)
            book.header[H_DONE] += 1
        else:
            n = _fire_timer(book, call, n, first_timer(book))
    return n


@kernel
def _fire_timer(book: BookState, call: Call, n: int, account: int) -> int:
    """End the next order of an account whose timer ran out; the timer goes when there is none."""
    slot = int64(book.accounts[at(account, 1)])
    if slot == 0:
        disarm(book, account)
        return n
    book.header[H_DONE] += 1
    return cancel_resting(book, call, n, slot, CANCEL_ALL_AFTER)
