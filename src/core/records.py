"""Record layouts and enumerations: the words that every actor, ring, journal and kernel speaks.

Rule 1: a layout is described once, here; word offsets and views elsewhere are derived from it.
Rule 2: integers only. Prices are ticks, quantities lots, money minor units of the asset, times nanoseconds.
Rule 3: a command fits 128 bytes and an event 256: whole cache lines, so that neighbours never share one.
It refuses to know decimals, names of users or symbols, clocks, and how a record travels.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

import numpy as np

CACHE_LINE_BYTES: Final = 64
COMMAND_BYTES: Final = 128
EVENT_BYTES: Final = 256
CLIENT_ORDER_ID_BYTES_MAX: Final = 36

# Accounts that the engine itself owns; users' accounts follow.
ACCOUNT_ID_NONE: Final = 0
ACCOUNT_ID_EXCHANGE: Final = 1
"""Receives the fees."""
ACCOUNT_ID_OUTSIDE: Final = 2
"""The other side of deposits and withdrawals; its ledger balances are negative."""
ACCOUNT_ID_FIRST_USER: Final = 16


class CommandKind(IntEnum):
    """What is asked for. Imperatives."""

    PLACE = 1
    CANCEL = 2
    """``order_id``; ``account_id`` must own it."""
    CANCEL_ALL = 3
    """Every open order of ``account_id`` (0: of every account) on ``symbol_id`` (-1: on every symbol).
    ``BY_ADMINISTRATOR`` in its flags says why they end."""
    AMEND = 4
    """``quantity_lots`` (new total), ``price_ticks``, ``stop_price_ticks``: 0 keeps what is.
    ``hold_units`` is what risk took in addition for it."""
    EXPIRE = 5
    """Ends every order whose ``expires_at_ns`` ≤ ``timestamp_ns``. Written into the journal by the matcher itself."""
    LIST_SYMBOL = 6
    """Read through ``symbol_command_dtype``."""
    SET_PARAMETERS = 7
    """Read through ``symbol_command_dtype``; assets, tick × lot and lot stay what they were."""
    SET_TRADING_STATE = 8
    """Read through ``trading_command_dtype``: ``trading_state`` for ``symbol_id`` (-1: every symbol), and why."""
    FUND = 9
    """Read through ``funding_command_dtype``. Ends in risk: no matcher ever sees it."""
    SET_ACCOUNT = 10
    """Read through ``account_command_dtype``: an account's whole settings. Ends in risk."""
    CANCEL_ALL_AFTER = 11
    """Arms the timer of ``account_id``: at ``expires_at_ns`` every order of the account is cancelled; 0 disarms. On its
    way to risk ``expires_at_ns`` is a duration; risk adds its time stamp. Goes to every shard."""


class EventKind(IntEnum):
    """What happened. Past tense."""

    ACCEPTED = 1
    """The order exists; ``hold_units`` is what it holds. It may trade, rest, wait (a stop) or be cancelled next."""
    TRADED = 2
    """``order_id`` is the taker, ``side`` the taker's side, ``quantity_lots`` what changed hands."""
    CANCELLED = 3
    """The order ended with ``remaining_lots`` unfilled, by ``reason``."""
    REJECTED = 4
    """The matcher refused a new order (post-only, FOK, collar, halt): it is stored with this status."""
    TRIGGERED = 5
    """A stop fired. What it does next follows in the same command."""
    AMENDED = 6
    """The order's new content. ``amended_event_dtype`` also tells the price and the rest that it had before, so that a
    reader which knows only levels can move what it had there."""
    REFUSED = 7
    """A command that changed nothing and leaves no order, by ``reason``."""
    REPEATED = 8
    """A PLACE whose client order id and content are those of ``order_id``: nothing was placed."""
    CANCELLED_ALL = 9
    """Closes a CANCEL_ALL: ``quantity_lots`` orders were ended."""
    EXPIRED = 10
    """Closes an EXPIRE: ``quantity_lots`` orders were ended."""
    SYMBOL_LISTED = 11
    """Read through ``symbol_event_dtype``."""
    PARAMETERS_SET = 12
    """Read through ``symbol_event_dtype``."""
    TRADING_STATE_SET = 13
    """Read through ``trading_event_dtype``; one per symbol touched."""
    FUNDED = 14
    """Read through ``funding_event_dtype``. Risk credited or debited; not yet in the ledger."""
    FUNDING_REFUSED = 15
    """Read through ``funding_event_dtype``: a withdrawal over the free balance."""
    ACCOUNT_SET = 16
    """Risk took over the settings of ``account_id``; ``order_id`` has their version."""
    TIMER_SET = 17
    """Closes a CANCEL_ALL_AFTER: ``expires_at_ns`` is when the timer of ``account_id`` runs out, 0: never."""


class Side(IntEnum):
    """Side of an order; of a trade, the taker's."""

    BUY = 0
    SELL = 1


class OrderType(IntEnum):
    """What the order is when it arrives; a triggered stop keeps its type and has ``TRIGGERED`` behind it."""

    LIMIT = 1
    MARKET = 2
    STOP = 3
    """Waits, then is a market order."""
    STOP_LIMIT = 4
    """Waits, then is a limit order."""


class TimeInForce(IntEnum):
    """How long what is left of an order stays."""

    GTC = 1
    IOC = 2
    FOK = 3
    GTD = 4


class SelfTradePrevention(IntEnum):
    """Who ends when an order would trade with another of its own account. The taker's setting decides."""

    CANCEL_TAKER = 1
    CANCEL_MAKER = 2
    CANCEL_BOTH = 3


class TradingState(IntEnum):
    """State of a symbol. Cancels, expiry and mass cancels work in each of them."""

    OPEN = 1
    CANCEL_ONLY = 2
    HALTED = 3


class CommandFlag(IntFlag):
    """Bits of a command's ``flags``."""

    POST_ONLY = 1
    BY_QUOTE = 2
    """A market buy by quote amount: ``hold_units`` is the budget, fees included, and ``quantity_lots`` is 0."""
    TWO_FACTOR = 4
    """Whoever sent it has signed in with a second factor. Risk looks at it and takes it off."""
    BY_ADMINISTRATOR = 8
    """A mass cancel that an administrator asked for; only rings of administrators may say so."""


class AccountFlag(IntFlag):
    """Bits of an account's settings."""

    SUSPENDED = 1
    """It may cancel, nothing else."""


class EventFlag(IntFlag):
    """Bits of an event's ``flags``; the first two repeat the order's."""

    POST_ONLY = 1
    BY_QUOTE = 2
    LAST_OF_COMMAND = 4
    """No event of this command follows."""
    TRIGGERED = 8
    """The order was a stop and has fired."""
    MAKER_DONE = 16
    """TRADED: the maker is filled and gone."""


class Reason(IntEnum):
    """Why an order ended or a command was refused. The names are the API's ``status_reason`` and error codes."""

    NONE = 0
    # An order ended.
    USER = 1
    CANCELLED_ALL = 2
    EXPIRED = 3
    IOC_NOT_FILLED = 4
    """Nothing of it could be filled."""
    IOC_REMAINDER = 5
    """A part was filled; this is the rest."""
    COLLAR = 6
    BUDGET = 7
    NO_LIQUIDITY = 8
    SELF_TRADE = 9
    CANCEL_ALL_AFTER = 10
    """The account's timer ran out."""
    ADMINISTRATOR = 11
    """A mass cancel that an administrator asked for."""
    # The matcher refused a new order: it is stored as rejected.
    FOK_NOT_FILLED = 20
    POST_ONLY_WOULD_MATCH = 21
    PRICE_OUT_OF_COLLAR = 22
    SYMBOL_HALTED = 23
    CANCEL_ONLY = 24
    BOOK_FULL = 25
    """No order slot or no price level is left: a limit fixed at start."""
    # A command was refused: nothing changed.
    INVALID_REQUEST = 40
    INVALID_COMBINATION = 41
    NUMBER_OUT_OF_RANGE = 42
    BELOW_MIN_NOTIONAL = 43
    SYMBOL_NOT_FOUND = 44
    ORDER_NOT_FOUND = 45
    QUANTITY_NOT_ABOVE_FILLED = 46
    """An amend to at or below what is filled already."""
    INSUFFICIENT_BALANCE = 47
    CLIENT_ORDER_ID_REUSED = 48
    LIMIT_EXCEEDED = 49
    ENGINE_OVERLOADED = 50
    SETTLEMENT_BACKLOG = 51
    DEADLINE_PASSED = 52
    SYMBOL_EXISTS = 53
    TWO_FACTOR_REQUIRED = 54
    ACCOUNT_SUSPENDED = 55
    SHARD_FENCED = 56
    """The symbol's shard cannot be recovered; somebody has to mend it."""


class LimitKind(IntEnum):
    """Which limit an order would have exceeded: ``price_ticks`` of a REFUSED by LIMIT_EXCEEDED or TWO_FACTOR_REQUIRED.

    In ``quantity_lots`` is what is used (-1: nobody can say), in ``notional_units`` the maximum: units of the quote
    asset, or orders.
    """

    ORDER_NOTIONAL = 1
    DAY_NOTIONAL = 2
    """``quantity_lots``: what was traded that day, and what the live orders could still trade."""
    OPEN_ORDERS = 3
    TWO_FACTOR = 4
    OPEN_NOTIONAL = 5
    """Of all live orders together: the engine's own bound."""


SYMBOL_ID_ALL: Final = -1

_COMMAND_HEAD: Final = {
    "ingress_sequence": (
        "<i8",
        0,
    ),  # position in the ingress ring; (ingress_ring, ingress_sequence) names a command
    "ring_sequence": ("<i8", 8),  # position in the shard's command ring, written by risk
    "timestamp_ns": ("<i8", 24),  # UTC; written by the front, replaced by risk's clock, which never goes back
    "account_id": ("<i4", 72),
    "symbol_id": ("<i4", 76),
    "deadline_ms": ("<u4", 80),  # after timestamp_ns as the front wrote it; risk drops what is later. 0: none
    "kind": ("u1", 120),
    "ingress_ring": ("u1", 121),
    "flags": ("u1", 126),
    "trading_state": ("u1", 127),
}

_COMMAND_FIELDS: Final = _COMMAND_HEAD | {
    "order_id": ("<i8", 16),  # PLACE: written by risk
    "price_ticks": ("<i8", 32),
    "stop_price_ticks": ("<i8", 40),
    "quantity_lots": ("<i8", 48),
    "hold_units": ("<i8", 56),  # buys: quote minor units, sells: base minor units; written by risk
    "expires_at_ns": ("<i8", 64),
    "client_order_id": ("S36", 84),
    "side": ("u1", 122),
    "order_type": ("u1", 123),
    "time_in_force": ("u1", 124),
    "self_trade_prevention": ("u1", 125),
}

_SYMBOL_COMMAND_FIELDS: Final = _COMMAND_HEAD | {
    "tick_lot_units": ("<i8", 16),  # quote minor units in one tick × one lot
    "lot_units": ("<i8", 32),  # base minor units in one lot
    "quantity_lots_min": ("<i8", 40),
    "quantity_lots_max": ("<i8", 48),
    "notional_units_min": ("<i8", 56),
    "price_ticks_max": ("<i8", 64),
    "base_asset_id": ("<i4", 84),
    "quote_asset_id": ("<i4", 88),
    "maker_fee_ppm": ("<i4", 92),
    "taker_fee_ppm": ("<i4", 96),
    "collar_ppm": ("<i4", 100),  # max_price_deviation; 0: no collar
    "shard": ("<i4", 104),
    "quote_places": ("<i4", 108),  # decimal places of the quote asset; for risk alone
}

# Why, in UTF-8, as far as there is room (``core.trading``). An empty head says that nobody said why: events are then as
# they were before there were reasons.
_TRADING_COMMAND_FIELDS: Final = _COMMAND_HEAD | {
    "reason_head": ("S40", 32),
    "reason_tail": ("S36", 84),
}

_FUNDING_COMMAND_FIELDS: Final = _COMMAND_HEAD | {
    "funding_number": ("<i8", 16),  # gapless, in the order of the database's counter
    "amount_units": ("<i8", 32),  # > 0: deposit, < 0: withdrawal
    "asset_id": ("<i4", 84),
}

# Amounts are decimals: mantissa × 10 ** -scale of whichever quote asset an order has. -1: no limit.
_ACCOUNT_COMMAND_FIELDS: Final = _COMMAND_HEAD | {
    "version": ("<i8", 16),  # grows with every change of any account
    "order_notional_max": ("<i8", 32),
    "day_notional_max": ("<i8", 40),
    "two_factor_above": ("<i8", 48),
    "open_orders_max": ("<i8", 56),
    "keys_version": ("<i8", 64),  # grows whenever a key of the account is revoked
    "order_notional_scale": ("u1", 84),
    "day_notional_scale": ("u1", 85),
    "two_factor_scale": ("u1", 86),
    "account_flags": ("u1", 87),  # AccountFlag
}

_EVENT_HEAD: Final = {
    "sequence": ("<i8", 0),  # position in the shard's event ring, and the sequence that clients see
    "command_sequence": ("<i8", 8),  # position in the shard's journal
    "ring_sequence": ("<i8", 16),  # of the command; of an EXPIRE, that of the last command before it
    "ingress_sequence": ("<i8", 24),
    "timestamp_ns": ("<i8", 32),  # the command's
    "account_id": ("<i4", 168),
    "symbol_id": ("<i4", 176),
    "kind": ("u1", 216),
    "flags": ("u1", 217),
    "reason": ("u1", 218),
    "ingress_ring": ("u1", 219),
    "trading_state": ("u1", 221),  # shares its byte with order_type: TRADING_STATE_SET has no order
}

_EVENT_FIELDS: Final = {name: field for name, field in _EVENT_HEAD.items() if name != "trading_state"} | {
    "order_id": ("<i8", 40),
    "trade_id": ("<i8", 48),
    "maker_order_id": ("<i8", 56),
    "price_ticks": ("<i8", 64),  # the order's; TRADED: the maker's, at which they traded
    "quantity_lots": ("<i8", 72),  # the order's total; TRADED: what was traded
    "remaining_lots": ("<i8", 80),  # of order_id, after this event
    "maker_remaining_lots": ("<i8", 88),
    "notional_units": ("<i8", 96),  # TRADED: quote units that changed hands
    "fee_units": ("<i8", 104),  # TRADED: the taker's for this fill
    "maker_fee_units": ("<i8", 112),
    "hold_units": ("<i8", 120),  # what order_id still holds after this event
    "hold_released_units": (
        "<i8",
        128,
    ),  # what this event gave back to order_id's account, beyond what was spent
    "maker_hold_units": ("<i8", 136),
    "maker_hold_released_units": ("<i8", 144),
    "stop_price_ticks": ("<i8", 152),
    "expires_at_ns": ("<i8", 160),
    "maker_account_id": ("<i4", 172),
    "client_order_id": ("S36", 180),  # empty on TRADED
    "side": ("u1", 220),
    "order_type": ("u1", 221),
    "time_in_force": ("u1", 222),
    "self_trade_prevention": ("u1", 223),
    "filled_notional_units": ("<i8", 224),  # of order_id, over all its fills so far
    "maker_filled_notional_units": ("<i8", 232),
    "fee_total_units": ("<i8", 240),  # of order_id, over all its fills so far
    "maker_fee_total_units": ("<i8", 248),
}

# The order's fields as in every order event; where TRADED has the trade's id and the maker's rest, what was before.
_AMENDED_EVENT_FIELDS: Final = {
    name: field for name, field in _EVENT_FIELDS.items() if name not in {"trade_id", "maker_remaining_lots"}
} | {
    "previous_price_ticks": ("<i8", 48),
    "previous_remaining_lots": ("<i8", 88),
}

_SYMBOL_EVENT_FIELDS: Final = _EVENT_HEAD | {
    "tick_lot_units": ("<i8", 40),
    "lot_units": ("<i8", 48),
    "quantity_lots_min": ("<i8", 56),
    "quantity_lots_max": ("<i8", 64),
    "notional_units_min": ("<i8", 72),
    "price_ticks_max": ("<i8", 80),
    "base_asset_id": ("<i4", 88),
    "quote_asset_id": ("<i4", 92),
    "maker_fee_ppm": ("<i4", 96),
    "taker_fee_ppm": ("<i4", 100),
    "collar_ppm": ("<i4", 104),
    "shard": ("<i4", 108),
}

# All of these are there only where the command has a reason.
_TRADING_EVENT_FIELDS: Final = _EVENT_HEAD | {
    "reason_head": ("S40", 40),
    "reason_tail": ("S36", 84),
    "for_all": ("u1", 220),  # 1: every symbol was meant
    "previous_state": ("u1", 222),  # TradingState before this event
}

_FUNDING_EVENT_FIELDS: Final = _EVENT_HEAD | {
    "funding_number": ("<i8", 40),
    "amount_units": ("<i8", 48),
    "asset_id": ("<i4", 88),
}


def _layout(fields: dict[str, tuple[str, int]], itemsize: int) -> np.dtype[np.void]:
    ordered = sorted(fields.items(), key=lambda item: item[1][1])
    return np.dtype(
        {
            "names": [name for name, _ in ordered],
            "formats": [kind for _, (kind, _) in ordered],
            "offsets": [offset for _, (_, offset) in ordered],
            "itemsize": itemsize,
        }
    )


command_dtype: Final = _layout(_COMMAND_FIELDS, COMMAND_BYTES)
symbol_command_dtype: Final = _layout(_SYMBOL_COMMAND_FIELDS, COMMAND_BYTES)
trading_command_dtype: Final = _layout(_TRADING_COMMAND_FIELDS, COMMAND_BYTES)
funding_command_dtype: Final = _layout(_FUNDING_COMMAND_FIELDS, COMMAND_BYTES)
account_command_dtype: Final = _layout(_ACCOUNT_COMMAND_FIELDS, COMMAND_BYTES)
event_dtype: Final = _layout(_EVENT_FIELDS, EVENT_BYTES)
amended_event_dtype: Final = _layout(_AMENDED_EVENT_FIELDS, EVENT_BYTES)
symbol_event_dtype: Final = _layout(_SYMBOL_EVENT_FIELDS, EVENT_BYTES)
trading_event_dtype: Final = _layout(_TRADING_EVENT_FIELDS, EVENT_BYTES)
funding_event_dtype: Final = _layout(_FUNDING_EVENT_FIELDS, EVENT_BYTES)


def word(dtype: np.dtype[np.void], field: str) -> int:
    """Index of an int64 field when a record is seen as int64 words.

    Compiled kernels read records as ``array.view(int64).reshape(n, -1)``: plain loads, no per-record views.
    Raises AssertionError when the field is not a whole, aligned int64.
    """
    kind, offset = _field(dtype, field)
    assert kind == np.dtype("<i8")
    assert offset % 8 == 0
    return offset // 8


def half(dtype: np.dtype[np.void], field: str) -> int:
    """Index of an int32 field when a record is seen as int32 words. Raises AssertionError as ``word`` does."""
    kind, offset = _field(dtype, field)
    assert kind.itemsize == 4
    assert offset % 4 == 0
    return offset // 4


def byte(dtype: np.dtype[np.void], field: str) -> int:
    """Index of the first byte of a field when a record is seen as bytes."""
    return _field(dtype, field)[1]


def _field(dtype: np.dtype[np.void], field: str) -> tuple[np.dtype[np.generic], int]:
    assert dtype.fields is not None
    kind, offset = dtype.fields[field][:2]
    return kind, offset


def _assert_no_overlap(dtype: np.dtype[np.void]) -> None:
    assert dtype.fields is not None
    end = 0
    for offset, size in sorted((field[1], field[0].itemsize) for field in dtype.fields.values()):
        assert offset >= end, "fields overlap"
        end = offset + size
    assert end <= dtype.itemsize


for _dtype in (
    command_dtype,
    symbol_command_dtype,
    trading_command_dtype,
    funding_command_dtype,
    account_command_dtype,
    event_dtype,
    amended_event_dtype,
    symbol_event_dtype,
    trading_event_dtype,
    funding_event_dtype,
):
    assert _dtype.itemsize % CACHE_LINE_BYTES == 0
    _assert_no_overlap(_dtype)
