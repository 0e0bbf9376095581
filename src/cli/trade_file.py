"""A CSV file of trades: lines in, numbers out, and of each bad line what is wrong with it.

With a header the columns ``time`` (``timestamp``, ``timestamp_ms``), ``price``, ``quantity`` (``amount``, ``size``) and
``side`` (``taker_side``) may stand anywhere among others. Without one they are the first four in this order. A time is
RFC 3339, or a number since 1970: seconds below 10**11, else milliseconds; what is finer than a millisecond is cut off.

Rule 1: a line is a row. A quote that is never closed spoils its own line and no other.
Rule 2: numbers are exact or refused: no float, no rounding to ticks and lots.
It refuses to know databases.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from tradeengine.core.money import UNITS_MAX, NumberError, parse_decimal
from tradeengine.core.symbols import PRICE_TICKS_MAX, SymbolSpec
from tradeengine.core.times import format_ms
from tradeengine.web.errors import ApiError
from tradeengine.web.times import parse_ns

NAMES: Final = {
    "time": "time",
    "timestamp": "time",
    "timestamp_ms": "time",
    "price": "price",
    "quantity": "quantity",
    "amount": "quantity",
    "size": "quantity",
    "side": "side",
    "taker_side": "side",
}
FIELDS: Final = ("time", "price", "quantity", "side")
SECONDS_END: Final = 10**11
TIME_MS_END: Final = 10**14
_SIDES: Final = {"buy": True, "sell": False}


class FileError(Exception):
    """The file cannot be read as trades at all."""


class LineError(Exception):
    """What is wrong with a line."""


class ParsedTrade(NamedTuple):
    """A row; ``time_ms`` since 1970."""

    time_ms: int
    price_ticks: int
    quantity_lots: int
    taker_buys: bool


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the fields stand. ``in_ms``: the time is called milliseconds, so no number of it is seconds."""

    places: tuple[int, int, int, int] = (0, 1, 2, 3)
    in_ms: bool = False


def read_header(cells: list[str]) -> Columns | None:
    """Understand a first line as a header; None when it is none. Raises FileError when one lacks a column."""
    names = [cell.strip().lower() for cell in cells]
    known = [NAMES.get(name) for name in names]
    if not any(known):
        return None
    missing = [field for field in FIELDS if field not in known]
    if missing:
        raise FileError(f"the header has no column {', '.join(missing)}; known names are {', '.join(NAMES)}")
    twice = [field for field in FIELDS if known.count(field) > 1]
    if twice:
        raise FileError(f"the header has more than one column for {', '.join(twice)}")
    time, price, quantity, side = (known.index(field) for field in FIELDS)
    return Columns((time, price, quantity, side), names[time] == "timestamp_ms")


def split_line(line: bytes) -> list[str]:
    """Cut a line into its cells; none for an empty one. Raises LineError."""
    try:
        text = line.decode().removeprefix("\ufeff").rstrip("\r\n")
    except UnicodeDecodeError:
        raise LineError("is not text in UTF-8") from None
    if '"' not in text:
        return text.split(",") if text.strip() else []
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise LineError(f"is not CSV: {error}") from None


class TradeParser:
    """Turns cells into trades of one symbol, not later than ``end_ms``; ``end_reason`` says why not."""

    def __init__(self, spec: SymbolSpec, columns: Columns, end_ms: int, end_reason: str) -> None:
        self._spec = spec
        self._columns = columns
        self._end_ms = end_ms
        self._end_reason = end_reason
        # Prices and quantities repeat much more often than not.
        self._price_ticks = lru_cache(maxsize=1 << 16)(self._parse_price)
        self._quantity_lots = lru_cache(maxsize=1 << 16)(self._parse_quantity)

    def parse(self, cells: list[str]) -> ParsedTrade:
        """Read a row. Raises LineError."""
        places = self._columns.places
        if len(cells) <= max(places):
            raise LineError(f"has {len(cells)} columns of {max(places) + 1}")
        time, price, quantity, side = (cells[place].strip() for place in places)
        time_ms = self._parse_time(time)
        price_ticks, quantity_lots = self._price_ticks(price), self._quantity_lots(quantity)
        taker_buys = _SIDES.get(side.lower())
        if taker_buys is None:
            raise LineError(f"side {_shown(side)} is neither buy nor sell")
        if self._spec.notional_units(price_ticks, quantity_lots) > UNITS_MAX:
            raise LineError(f"price {price} × quantity {quantity} is too large")
        return ParsedTrade(time_ms, price_ticks, quantity_lots, taker_buys)

    def _parse_time(self, text: str) -> int:
        time_ms = parse_time(text, in_ms=self._columns.in_ms)
        if time_ms > self._end_ms:
            raise LineError(f"time {format_ms(time_ms)} {self._end_reason}")
        return time_ms

    def _parse_price(self, text: str) -> int:
        spec = self._spec
        ticks = _steps("price", text, spec.price_places, spec.price_step)
        if ticks is None:
            raise LineError(f"price {text} is not a multiple of the tick {spec.tick}")
        if ticks > PRICE_TICKS_MAX:
            raise LineError(f"price {_shown(text)} is too large")
        return ticks

    def _parse_quantity(self, text: str) -> int:
        spec = self._spec
        lots = _steps("quantity", text, spec.quantity_places, spec.quantity_step)
        if lots is None:
            raise LineError(f"quantity {text} is not a multiple of the lot {spec.lot}")
        if lots * spec.lot_units > UNITS_MAX:
            raise LineError(f"quantity {_shown(text)} is too large")
        return lots


def parse_time(text: str, *, in_ms: bool = False) -> int:
    """Milliseconds since 1970 of a time in a file. Raises LineError."""
    if not text[:1].isdigit() or text[4:5] == "-":
        try:
            time_ms = parse_ns("time", text) // 1_000_000
        except ApiError as error:
            raise LineError(f"time {_shown(text)} is wrong: {error.message}") from None
    else:
        try:
            coefficient, places = parse_decimal(text)
        except NumberError as error:
            raise LineError(f"time {_shown(text)} is wrong: {error.message}") from None
        seconds = not in_ms and coefficient < SECONDS_END * 10**places
        time_ms = coefficient * (1000 if seconds else 1) // 10**places
    if not 0 < time_ms < TIME_MS_END:
        raise LineError(f"time {_shown(text)} is no number of seconds or milliseconds since 1970")
    return time_ms


def _steps(field: str, text: str, places: int, step: int) -> int | None:
    """How many steps of ``step × 10**-places`` a decimal is, more than 0; None when it lies between two."""
    try:
        coefficient, scale = parse_decimal(text)
    except NumberError as error:
        raise LineError(f"{field} {_shown(text)} is wrong: {error.message}") from None
    if scale > places:
        return None
    steps, rest = divmod(coefficient * 10 ** (places - scale), step)
    if steps == rest == 0:
        raise LineError(f"{field} {text} is not more than 0")
    return None if rest else steps


def _shown(text: str) -> str:
    """Show what a file says, at most so much of it, on one line."""
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
