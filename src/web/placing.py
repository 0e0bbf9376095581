"""From a validated request to a command: what a symbol's rules and the table of order types allow.

Rule 1: what risk or a matcher would refuse for its form is refused here, with the field and its bound by name.
Rule 2: decimals become ticks, lots and units exactly or not at all.
It refuses to know balances, the state of a book, and how commands travel. Risk checks everything again: a ring may be
written by others than this front.
"""

from __future__ import annotations

import secrets
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tradeengine.core.money import NumberError, NumberFault, fee_units
from tradeengine.core.records import (
    SYMBOL_ID_ALL,
    CommandFlag,
    CommandKind,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
    command_dtype,
)
from tradeengine.core.symbols import SymbolSpec
from tradeengine.web.errors import ApiError, invalid_field
from tradeengine.web.schemas import AmendOrder, CheckedOrder, PlaceOrder
from tradeengine.web.schemas_orders import TIMEOUT_MS_MAX, TIMEOUT_MS_MIN
from tradeengine.web.times import parse_ns

NS_PER_MS: Final = 10**6

Command = NDArray[np.void]
"""One record of ``command_dtype``, shape (1,)."""

_RESTING: Final = frozenset({TimeInForce.GTC, TimeInForce.GTD})
_TIMES_IN_FORCE: Final[dict[OrderType, frozenset[TimeInForce]]] = {
    OrderType.LIMIT: frozenset(TimeInForce),
    OrderType.MARKET: frozenset({TimeInForce.IOC, TimeInForce.FOK}),
    OrderType.STOP: _RESTING,
    OrderType.STOP_LIMIT: frozenset(TimeInForce),
}
_PRICED: Final = frozenset({OrderType.LIMIT, OrderType.STOP_LIMIT})
_STOPPED: Final = frozenset({OrderType.STOP, OrderType.STOP_LIMIT})


def place_command(request: PlaceOrder, spec: SymbolSpec, account_id: int, now_ns: int, deadline_ms: int) -> Command:
    """Make the PLACE command of a request.

    A client order id is made where the client sent none, so that a lost answer can always be asked for again. Whether
    ``expires_at`` has passed is not asked here but by risk, which knows the ids: a repeat is answered all the same.
    Raises ApiError: INVALID_COMBINATION, INVALID_REQUEST, PRICE_NOT_ON_TICK, QUANTITY_NOT_ON_LOT,
    NUMBER_OUT_OF_RANGE, BELOW_MIN_NOTIONAL.
    """
    side = Side[request.side.upper()]
    order_type = OrderType[request.type.upper()]
    time_in_force = _time_in_force(request, order_type)
    by_quote = request.quote_quantity is not None
    _check_combination(request, side, order_type, time_in_force)

    price_ticks = _price(spec, "price", request.price)
    stop_price_ticks = _price(spec, "stop_price", request.stop_price)
    quantity_lots = _quantity(spec, request.quantity)
    budget_units = _budget(spec, request.quote_quantity)
    if budget_units:
        _check_notional(spec, budget_units, "quote_quantity", "quote_quantity")
    elif price_ticks:
        _check_notional(spec, spec.notional_units(price_ticks, quantity_lots), "quantity", "price times quantity")
    elif stop_price_ticks:
        notional_units = spec.notional_units(stop_price_ticks, quantity_lots)
        _check_notional(spec, notional_units, "quantity", "stop_price times quantity")

    command = np.zeros(1, command_dtype)
    record = command[0]
    record["kind"] = CommandKind.PLACE
    record["timestamp_ns"] = now_ns
    record["deadline_ms"] = deadline_ms
    record["account_id"] = account_id
    record["symbol_id"] = spec.symbol_id
    record["side"] = side
    record["order_type"] = order_type
    record["time_in_force"] = time_in_force
    record["self_trade_prevention"] = SelfTradePrevention[request.self_trade_prevention.upper()]
    record["flags"] = (CommandFlag.POST_ONLY if request.post_only else 0) | (CommandFlag.BY_QUOTE if by_quote else 0)
    record["price_ticks"] = price_ticks
    record["stop_price_ticks"] = stop_price_ticks
    record["quantity_lots"] = quantity_lots
    record["hold_units"] = budget_units
    record["expires_at_ns"] = _expires_at_ns(request)
    record["client_order_id"] = request.client_order_id or make_client_order_id()
    return command


def note_second_factor(command: Command, two_factor: bool) -> None:
    """Have a PLACE or AMEND say whether its sender has signed in with a second factor."""
    if two_factor:
        command[0]["flags"] = int(command[0]["flags"]) | CommandFlag.TWO_FACTOR


def amend_command(
    request: AmendOrder, spec: SymbolSpec, account_id: int, order_id: int, now_ns: int, deadline_ms: int
) -> Command:
    """Make the AMEND command of a request; what is not given stays as it is (0). Raises ApiError."""
    if request.quantity is None and request.price is None and request.stop_price is None:
        raise ApiError(
            "INVALID_REQUEST",
            "Give at least one of quantity, price, stop_price.",
            {"field": "quantity", "fields": ["quantity", "price", "stop_price"]},
        )
    command = _order_command(CommandKind.AMEND, account_id, spec.symbol_id, order_id, now_ns, deadline_ms)
    record = command[0]
    record["quantity_lots"] = _quantity(spec, request.quantity)
    record["price_ticks"] = _price(spec, "price", request.price)
    record["stop_price_ticks"] = _price(spec, "stop_price", request.stop_price)
    return command


def cancel_command(account_id: int, order_id: int, now_ns: int, deadline_ms: int) -> Command:
    """Make the CANCEL command of one order; risk knows its symbol."""
    return _order_command(CommandKind.CANCEL, account_id, 0, order_id, now_ns, deadline_ms)


def cancel_all_command(account_id: int, spec: SymbolSpec | None, now_ns: int, deadline_ms: int) -> Command:
    """Make the CANCEL_ALL command of an account's orders in one symbol, or in every one (None)."""
    symbol_id = spec.symbol_id if spec else SYMBOL_ID_ALL
    return _order_command(CommandKind.CANCEL_ALL, account_id, symbol_id, 0, now_ns, deadline_ms)


def timer_command(account_id: int, timeout_ms: int, now_ns: int, deadline_ms: int) -> Command:
    """Make the CANCEL_ALL_AFTER command of an account; risk makes a time of the duration. Raises ApiError."""
    if timeout_ms != 0 and not TIMEOUT_MS_MIN <= timeout_ms <= TIMEOUT_MS_MAX:
        raise invalid_field(
            "timeout_ms",
            f"timeout_ms must be 0, or a whole number from {TIMEOUT_MS_MIN} to {TIMEOUT_MS_MAX}.",
            "NUMBER_OUT_OF_RANGE",
            minimum=TIMEOUT_MS_MIN,
            maximum=TIMEOUT_MS_MAX,
        )
    command = _order_command(CommandKind.CANCEL_ALL_AFTER, account_id, SYMBOL_ID_ALL, 0, now_ns, deadline_ms)
    command["expires_at_ns"] = timeout_ms * NS_PER_MS
    return command


def check_order(command: Command, spec: SymbolSpec) -> CheckedOrder:
    """Say what an order that passed ``place_command`` would cost at most."""
    record = command[0]
    price_ticks = int(record["price_ticks"]) or int(record["stop_price_ticks"])
    budget_units = int(record["hold_units"])
    if price_ticks == 0 and budget_units == 0:
        return CheckedOrder(valid=True, notional=None, fee_max=None)
    notional_units = budget_units or spec.notional_units(price_ticks, int(record["quantity_lots"]))
    fee_max_units = fee_units(notional_units, max(spec.maker_fee_ppm, spec.taker_fee_ppm))
    return CheckedOrder(
        valid=True, notional=spec.quote.format(notional_units), fee_max=spec.quote.format(fee_max_units)
    )


def check_expiry(command: Command, now_ns: int) -> None:
    """Refuse an order whose end has passed. Raises ApiError."""
    if 0 < int(command[0]["expires_at_ns"]) <= now_ns:
        raise invalid_field("expires_at", "expires_at must be in the future.", "NUMBER_OUT_OF_RANGE")


def client_order_id_of(command: Command) -> str:
    """Give the client order id of a PLACE, chosen by the client or made here."""
    return bytes(command[0]["client_order_id"]).decode()


def make_client_order_id() -> str:
    """Make a client order id that no client will choose."""
    return f"te-{secrets.token_hex(12)}"


def _order_command(
    kind: CommandKind, account_id: int, symbol_id: int, order_id: int, now_ns: int, deadline_ms: int
) -> Command:
    command = np.zeros(1, command_dtype)
    record = command[0]
    record["kind"] = kind
    record["timestamp_ns"] = now_ns
    record["deadline_ms"] = deadline_ms
    record["account_id"] = account_id
    record["symbol_id"] = symbol_id
    record["order_id"] = order_id
    return command


def _time_in_force(request: PlaceOrder, order_type: OrderType) -> TimeInForce:
    if request.time_in_force is None:
        return TimeInForce.IOC if order_type == OrderType.MARKET else TimeInForce.GTC
    return TimeInForce[request.time_in_force.upper()]


def _check_combination(request: PlaceOrder, side: Side, order_type: OrderType, time_in_force: TimeInForce) -> None:
    if time_in_force not in _TIMES_IN_FORCE[order_type]:
        allowed = [member.name.lower() for member in TimeInForce if member in _TIMES_IN_FORCE[order_type]]
        raise _combination("time_in_force", f"A {request.type} order takes {', '.join(allowed)}.", allowed=allowed)
    if request.post_only and (order_type != OrderType.LIMIT or time_in_force not in _RESTING):
        raise _combination("post_only", "Only limit orders with gtc or gtd can be post_only.")
    _check_presence("price", request.price, needed=order_type in _PRICED, type_name=request.type)
    _check_presence("stop_price", request.stop_price, needed=order_type in _STOPPED, type_name=request.type)
    if (request.expires_at is not None) != (time_in_force == TimeInForce.GTD):
        raise _combination("expires_at", "expires_at goes with time_in_force gtd, and gtd needs it.")
    if request.quote_quantity is None:
        if request.quantity is None:
            raise _quantity_missing(side, order_type)
        return
    if order_type != OrderType.MARKET or side != Side.BUY:
        raise _combination("quote_quantity", "Only market buys take quote_quantity.")
    if request.quantity is not None:
        raise _combination("quote_quantity", "Give quantity or quote_quantity, not both.")


def _quantity_missing(side: Side, order_type: OrderType) -> ApiError:
    if order_type == OrderType.MARKET and side == Side.BUY:
        fields = ["quantity", "quote_quantity"]
        return invalid_field("quantity", "A market buy needs quantity or quote_quantity.", fields=fields)
    return invalid_field("quantity", "quantity is missing.")


def _check_presence(field: str, value: str | None, *, needed: bool, type_name: str) -> None:
    if needed and value is None:
        raise _combination(field, f"A {type_name} order needs {field}.")
    if not needed and value is not None:
        raise _combination(field, f"A {type_name} order takes no {field}.")


def _combination(field: str, message: str, **bounds: object) -> ApiError:
    return invalid_field(field, message, "INVALID_COMBINATION", **bounds)


def _price(spec: SymbolSpec, field: str, text: str | None) -> int:
    if text is None:
        return 0
    try:
        return spec.parse_price(text)
    except NumberError as error:
        if error.fault == NumberFault.NOT_ON_TICK:
            raise _number(field, error, tick=spec.tick) from None
        raise _number(field, error, minimum=spec.tick, maximum=spec.format_price(spec.price_ticks_max)) from None


def _quantity(spec: SymbolSpec, text: str | None) -> int:
    if text is None:
        return 0
    try:
        return spec.parse_quantity(text)
    except NumberError as error:
        if error.fault == NumberFault.NOT_ON_LOT:
            raise _number("quantity", error, lot=spec.lot) from None
        raise _number(
            "quantity",
            error,
            minimum=spec.format_quantity(spec.quantity_lots_min),
            maximum=spec.format_quantity(spec.quantity_lots_max),
        ) from None


def _budget(spec: SymbolSpec, text: str | None) -> int:
    if text is None:
        return 0
    try:
        budget_units = spec.quote.parse(text)
    except NumberError as error:
        raise _number("quote_quantity", error, places=spec.quote.places) from None
    if budget_units == 0:
        raise invalid_field("quote_quantity", "quote_quantity must be more than 0.", "NUMBER_OUT_OF_RANGE", minimum="0")
    return budget_units


def _number(field: str, error: NumberError, **bounds: object) -> ApiError:
    return invalid_field(field, f"{field} {error.message}.", error.fault.value, **bounds)


def _check_notional(spec: SymbolSpec, notional_units: int, field: str, what: str) -> None:
    if notional_units < spec.notional_units_min:
        minimum = spec.quote.format(spec.notional_units_min)
        message = f"{what} must be at least {minimum} {spec.quote.name}."
        raise invalid_field(field, message, "BELOW_MIN_NOTIONAL", minimum=minimum)


def _expires_at_ns(request: PlaceOrder) -> int:
    if request.expires_at is None:
        return 0
    # 0 says that there is no end, so 1970 itself is a nanosecond later.
    return max(parse_ns("expires_at", request.expires_at), 1)
