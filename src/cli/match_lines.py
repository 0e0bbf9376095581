"""Lines of JSON as commands for a book: what ``tradeengine match`` reads.

A line is one JSON object: ``op`` (``new`` unless given, ``cancel``, ``amend``), ``id``, ``account``, ``time``, and the
order fields of the HTTP API, whose numbers may here be JSON numbers as well as strings. Rule 1: a number is taken
exactly as it is written, never through a float. Rule 2: what the HTTP front would refuse for its form is refused here
in the same words, and leaves no trace. Rule 3: ids and accounts are the user's own names, strings or numbers; inside
they are counted from the first one on.
It refuses to know books and events.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from tradeengine.core.ids import EPOCH_2024_MS
from tradeengine.core.money import UNITS_MAX
from tradeengine.core.records import ACCOUNT_ID_FIRST_USER, OrderType, Side
from tradeengine.web.errors import ApiError
from tradeengine.web.jsonbody import printable
from tradeengine.web.placing import amend_command, cancel_command, place_command
from tradeengine.web.schemas import AmendOrder, PlaceOrder
from tradeengine.web.times import parse_ns
from tradeengine.web.validation import read_body

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tradeengine.core.symbols import SymbolSpec

START_NS: Final = EPOCH_2024_MS * 1_000_000
"""The time until a line names one."""
TIME_MS_MAX: Final = 7_258_118_400_000
"""2200-01-01, as far as the API's times go."""
HOLD_UNITS: Final = 2 * UNITS_MAX
"""Money is no object: as much as an order can need."""
LINE_BYTES_MAX: Final = 1 << 16
NAME_CHARACTERS_MAX: Final = 256
_COMMON_FIELDS: Final = ("op", "id", "account", "time", "symbol")
_CHANGES: Final = ("quantity", "price", "stop_price")
_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "new": (*_COMMON_FIELDS, *(name for name in PlaceOrder.__struct_fields__ if name != "symbol")),
    "amend": (*_COMMON_FIELDS, *_CHANGES),
    "cancel": _COMMON_FIELDS,
}
"""What a line may have, by its op."""
_NUMBERS: Final = ("quantity", "quote_quantity", "price", "stop_price")


class LineError(ValueError):
    """A line that is no command; the message says what is wrong with it."""


class Number(str):
    """A JSON number with a point or an exponent, as it was written."""

    __slots__ = ()


@dataclass(slots=True)
class Names:
    """The user's names of orders and accounts, and the numbers that the book knows them by."""

    orders: dict[object, int]
    texts: list[str]  # as JSON, by the order's number
    owners: list[int]  # account, by the order's number
    accounts: dict[object, int]
    budgeted: set[int]  # orders that wait with a budget


class LineReader:
    """Turns lines into commands; remembers names and the time."""

    def __init__(self, spec: SymbolSpec, accounts_max: int) -> None:
        """Read for one symbol. accounts_max: so many accounts at most."""
        self.now_ns = START_NS
        self.names = Names({}, [""], [0], {}, set())
        self._spec = spec
        self._accounts_max = accounts_max
        self._next_account = ACCOUNT_ID_FIRST_USER
        self._symbol: str | None = None

    def read(self, line: bytes, line_number: int) -> tuple[NDArray[np.void], str]:
        """Make the command of a line, shape (1,), and give its id as JSON. Raises LineError; then nothing changed."""
        if len(line) > LINE_BYTES_MAX:
            raise LineError(f"it is longer than {LINE_BYTES_MAX} bytes")
        fields = _decode(line)
        op = fields.pop("op", "new")
        if not isinstance(op, str) or op not in _FIELDS:
            raise LineError("op must be new, cancel or amend")
        unknown = next((name for name in fields if name not in _FIELDS[op]), None)
        if unknown is not None:
            known = ", ".join(_FIELDS[op])
            raise LineError(f"{printable(unknown)} is unknown here; known in a line with op {op} are: {known}")
        now_ns = self._time(fields.pop("time", None))
        symbol = self._check_symbol(fields.pop("symbol", None))
        try:
            if op == "new":
                command, text = self._place(fields, now_ns, line_number)
            else:
                command, text = self._change(op, fields, now_ns)
        except ApiError as error:
            raise LineError(_in_line(error)) from None
        self.now_ns, self._symbol = now_ns, symbol
        return command, text

    def _place(self, fields: dict[str, Any], now_ns: int, line_number: int) -> tuple[NDArray[np.void], str]:
        name = fields.pop("id", line_number)
        account_name = fields.pop("account", None)
        text = _name_text("id", name)
        if _key(name) in self.names.orders:
            raise LineError(f"id {text} was used before")
        if account_name is not None:
            _name_text("account", account_name)
        _number_texts(fields)
        fields["symbol"] = ""
        fields.setdefault("type", _default_type(fields))
        request = read_body(fields, PlaceOrder)
        command = place_command(request, self._spec, 0, now_ns, 0)
        record = command[0]
        record["client_order_id"] = request.client_order_id or b""
        record["account_id"] = self._account(account_name)
        record["order_id"] = len(self.names.texts)
        if request.quote_quantity is None:
            record["hold_units"] = HOLD_UNITS
        if record["order_type"] == OrderType.STOP and record["side"] == Side.BUY:
            self.names.budgeted.add(len(self.names.texts))
        self.names.orders[_key(name)] = len(self.names.texts)
        self.names.texts.append(text)
        self.names.owners.append(int(record["account_id"]))
        return command, text

    def _change(self, op: str, fields: dict[str, Any], now_ns: int) -> tuple[NDArray[np.void], str]:
        if "id" not in fields:
            raise LineError("id is missing")
        name = fields.pop("id")
        text = _name_text("id", name)
        number = self.names.orders.get(_key(name), 0)
        account = self.names.owners[number]
        if "account" in fields:
            account_name = fields.pop("account")
            _name_text("account", account_name)
            account = self.names.accounts.get(_key(account_name), 0)
        if op == "cancel":
            return cancel_command(account, number, now_ns, 0), text
        _number_texts(fields)
        command = amend_command(read_body(fields, AmendOrder), self._spec, account, number, now_ns, 0)
        # A stop buy waits with all the money there is; to other orders the book gives back what they do not need.
        command["hold_units"] = 0 if number in self.names.budgeted else HOLD_UNITS - 1
        return command, text

    def _time(self, value: object) -> int:
        """Nanoseconds of a line's time. Raises LineError."""
        if value is None:
            return self.now_ns
        if isinstance(value, str) and not isinstance(value, Number):
            try:
                now_ns = parse_ns("time", value)
            except ApiError as error:
                raise LineError(_in_line(error)) from None
        elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= TIME_MS_MAX:
            now_ns = value * 1_000_000
        else:
            raise LineError(f"time must be RFC 3339 or milliseconds since 1970, 0 to {TIME_MS_MAX}")
        if now_ns < self.now_ns:
            raise LineError("time must not go back")
        return now_ns

    def _check_symbol(self, symbol: object) -> str | None:
        """One run has one book, so a symbol may be named, but only one. Raises LineError."""
        if symbol is None:
            return self._symbol
        if not isinstance(symbol, str):
            raise LineError("symbol must be a string")
        if self._symbol is not None and symbol != self._symbol:
            raise LineError(f"symbol must be {printable(self._symbol)} as before: one run has one book")
        return symbol

    def _account(self, name: object) -> int:
        """Give the number of an account; without a name, of a new one."""
        known = None if name is None else self.names.accounts.get(_key(name))
        if known is not None:
            return known
        if self._next_account == self._accounts_max:
            raise LineError(f"there are more than {self._accounts_max - ACCOUNT_ID_FIRST_USER} accounts")
        account = self._next_account
        self._next_account += 1
        if name is not None:
            self.names.accounts[_key(name)] = account
        return account


def _in_line(error: ApiError) -> str:
    """Give a refusal of the API as it stands behind ``line 6:``."""
    message = error.message.removesuffix(".")
    return message[:1].lower() + message[1:]


def _decode(line: bytes) -> dict[str, Any]:
    try:
        value = _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise LineError(f"it is not UTF-8: byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise LineError(f"it is not JSON: {error.msg}, at character {error.pos + 1}") from None
    except RecursionError:
        raise LineError("it is nested too deep") from None
    except LineError:
        raise
    except ValueError:
        # Python refuses to read integers of thousands of digits.
        raise LineError("it holds a number with too many digits") from None
    if not isinstance(value, dict):
        raise LineError("it is not a JSON object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise LineError(f"the field {printable(twice)} is given twice")
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise LineError(f"it is not JSON: {constant}")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_float=Number, parse_constant=_refuse_constant)


def _name_text(field: str, name: object) -> str:
    """Give a name as JSON. Raises LineError unless it is a string or a number."""
    if isinstance(name, Number):
        return str(name)
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise LineError(f"{field} must be a string or a number")
    if isinstance(name, int):
        return str(name)
    if len(name) > NAME_CHARACTERS_MAX:
        raise LineError(f"{field} must have at most {NAME_CHARACTERS_MAX} characters")
    return json.dumps(name)


def _key(name: object) -> object:
    """Tell the number 1 from the string "1"."""
    return (name,) if isinstance(name, str) and not isinstance(name, Number) else str(name)


def _number_texts(fields: dict[str, Any]) -> None:
    """Write JSON numbers as the text that the API's fields are."""
    for name in _NUMBERS:
        value = fields.get(name)
        if isinstance(value, Number) or (isinstance(value, int) and not isinstance(value, bool)):
            fields[name] = str(value)


def _default_type(fields: dict[str, Any]) -> str:
    """Say what an order is that does not tell its type: what its prices make it."""
    priced = fields.get("price") is not None
    if fields.get("stop_price") is not None:
        return "stop_limit" if priced else "stop"
    return "limit" if priced else "market"
