"""The enumerations of ``core.records`` as plain integers for compiled code, and what follows from an order's kind.

A name here is the name there; where two enumerations share one, the event's or type's is prefixed. Rule: no numbers of
its own.
"""

from __future__ import annotations

from typing import Final

from tradeengine.core.book_state import leaf
from tradeengine.core.records import (
    CommandFlag,
    CommandKind,
    EventFlag,
    EventKind,
    OrderType,
    Reason,
    SelfTradePrevention,
    Side,
    TimeInForce,
    TradingState,
)

BUY: Final = int(Side.BUY)

COMMAND_PLACE: Final = int(CommandKind.PLACE)
COMMAND_CANCEL: Final = int(CommandKind.CANCEL)
COMMAND_CANCEL_ALL: Final = int(CommandKind.CANCEL_ALL)
COMMAND_AMEND: Final = int(CommandKind.AMEND)
COMMAND_EXPIRE: Final = int(CommandKind.EXPIRE)
COMMAND_LIST_SYMBOL: Final = int(CommandKind.LIST_SYMBOL)
COMMAND_SET_PARAMETERS: Final = int(CommandKind.SET_PARAMETERS)
COMMAND_SET_TRADING_STATE: Final = int(CommandKind.SET_TRADING_STATE)
COMMAND_CANCEL_ALL_AFTER: Final = int(CommandKind.CANCEL_ALL_AFTER)

EVENT_ACCEPTED: Final = int(EventKind.ACCEPTED)
EVENT_TRADED: Final = int(EventKind.TRADED)
EVENT_CANCELLED: Final = int(EventKind.CANCELLED)
EVENT_REJECTED: Final = int(EventKind.REJECTED)
EVENT_TRIGGERED: Final = int(EventKind.TRIGGERED)
EVENT_AMENDED: Final = int(EventKind.AMENDED)
EVENT_REFUSED: Final = int(EventKind.REFUSED)
EVENT_CANCELLED_ALL: Final = int(EventKind.CANCELLED_ALL)
EVENT_EXPIRED: Final = int(EventKind.EXPIRED)
EVENT_SYMBOL_LISTED: Final = int(EventKind.SYMBOL_LISTED)
EVENT_PARAMETERS_SET: Final = int(EventKind.PARAMETERS_SET)
EVENT_TRADING_STATE_SET: Final = int(EventKind.TRADING_STATE_SET)
EVENT_TIMER_SET: Final = int(EventKind.TIMER_SET)

LIMIT: Final = int(OrderType.LIMIT)
MARKET: Final = int(OrderType.MARKET)
STOP: Final = int(OrderType.STOP)
STOP_LIMIT: Final = int(OrderType.STOP_LIMIT)

GTC: Final = int(TimeInForce.GTC)
FOK: Final = int(TimeInForce.FOK)
GTD: Final = int(TimeInForce.GTD)

CANCEL_TAKER: Final = int(SelfTradePrevention.CANCEL_TAKER)
CANCEL_MAKER: Final = int(SelfTradePrevention.CANCEL_MAKER)

STATE_OPEN: Final = int(TradingState.OPEN)
STATE_HALTED: Final = int(TradingState.HALTED)

NONE: Final = int(Reason.NONE)
USER: Final = int(Reason.USER)
CANCELLED_ALL: Final = int(Reason.CANCELLED_ALL)
EXPIRED: Final = int(Reason.EXPIRED)
IOC_NOT_FILLED: Final = int(Reason.IOC_NOT_FILLED)
IOC_REMAINDER: Final = int(Reason.IOC_REMAINDER)
COLLAR: Final = int(Reason.COLLAR)
BUDGET: Final = int(Reason.BUDGET)
NO_LIQUIDITY: Final = int(Reason.NO_LIQUIDITY)
SELF_TRADE: Final = int(Reason.SELF_TRADE)
CANCEL_ALL_AFTER: Final = int(Reason.CANCEL_ALL_AFTER)
ADMINISTRATOR: Final = int(Reason.ADMINISTRATOR)
FOK_NOT_FILLED: Final = int(Reason.FOK_NOT_FILLED)
POST_ONLY_WOULD_MATCH: Final = int(Reason.POST_ONLY_WOULD_MATCH)
PRICE_OUT_OF_COLLAR: Final = int(Reason.PRICE_OUT_OF_COLLAR)
SYMBOL_HALTED: Final = int(Reason.SYMBOL_HALTED)
CANCEL_ONLY: Final = int(Reason.CANCEL_ONLY)
BOOK_FULL: Final = int(Reason.BOOK_FULL)
INVALID_REQUEST: Final = int(Reason.INVALID_REQUEST)
INVALID_COMBINATION: Final = int(Reason.INVALID_COMBINATION)
NUMBER_OUT_OF_RANGE: Final = int(Reason.NUMBER_OUT_OF_RANGE)
BELOW_MIN_NOTIONAL: Final = int(Reason.BELOW_MIN_NOTIONAL)
SYMBOL_NOT_FOUND: Final = int(Reason.SYMBOL_NOT_FOUND)
SYMBOL_EXISTS: Final = int(Reason.SYMBOL_EXISTS)
ORDER_NOT_FOUND: Final = int(Reason.ORDER_NOT_FOUND)
QUANTITY_NOT_ABOVE_FILLED: Final = int(Reason.QUANTITY_NOT_ABOVE_FILLED)
INSUFFICIENT_BALANCE: Final = int(Reason.INSUFFICIENT_BALANCE)

COMMAND_FLAG_BY_ADMINISTRATOR: Final = int(CommandFlag.BY_ADMINISTRATOR)

# The word of kinds, in events and orders:
# kind | flags << 8 | reason << 16 | ingress ring << 24
# | side << 32 | type << 40 | time in force << 48 | prevention << 56.
# An order has its marks in place of the kind, and its symbol in place of reason and ring.
FLAGS_SHIFT: Final = 8
REASON_SHIFT: Final = 16
SYMBOL_SHIFT: Final = 16
RING_SHIFT: Final = 24
SIDE_SHIFT: Final = 32
TYPE_SHIFT: Final = 40
TIME_IN_FORCE_SHIFT: Final = 48
PREVENTION_SHIFT: Final = 56

FLAG_LAST_OF_COMMAND: Final = int(EventFlag.LAST_OF_COMMAND) << FLAGS_SHIFT
FLAG_MAKER_DONE: Final = int(EventFlag.MAKER_DONE) << FLAGS_SHIFT
FLAG_TRIGGERED: Final = int(EventFlag.TRIGGERED) << FLAGS_SHIFT
FLAG_BY_QUOTE: Final = int(EventFlag.BY_QUOTE) << FLAGS_SHIFT
FLAG_POST_ONLY: Final = int(EventFlag.POST_ONLY) << FLAGS_SHIFT

MARK_REGISTERED: Final = 1
"""In the id index, its account's list and, with an expiry, the heap: it outlived its own command once."""
MARK_WAITING: Final = 2
"""A stop that has not fired; its level is on a stop ladder."""


@leaf
def side_of(kinds: int) -> int:
    """Side of an order."""
    return (kinds >> SIDE_SHIFT) & 1


@leaf
def type_of(kinds: int) -> int:
    """Type of an order; a stop stays one after it has fired."""
    return (kinds >> TYPE_SHIFT) & 0xFF


@leaf
def time_in_force_of(kinds: int) -> int:
    """Time in force of an order."""
    return (kinds >> TIME_IN_FORCE_SHIFT) & 0xFF


@leaf
def prevention_of(kinds: int) -> int:
    """Self-trade prevention of an order."""
    return kinds >> PREVENTION_SHIFT


@leaf
def symbol_of(kinds: int) -> int:
    """Symbol of an order."""
    return (kinds >> SYMBOL_SHIFT) & 0xFFFF


@leaf
def has_limit(order_type: int) -> bool:
    """Whether the type has a price beyond which it does not trade."""
    return order_type in (LIMIT, STOP_LIMIT)


@leaf
def is_stop(order_type: int) -> bool:
    """Whether the type waits for a trigger."""
    return order_type in (STOP, STOP_LIMIT)


@leaf
def may_rest(time_in_force: int) -> bool:
    """Whether what is left of a limit order stays in the book."""
    return time_in_force in (GTC, GTD)
