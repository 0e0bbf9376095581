"""Money as integers: decimal text in, minor units inside, decimal text out; fees rounded so that nothing is lost.

Rule 1: text becomes an integer exactly or not at all; nothing is rounded on the way in, and no float exists anywhere.
Rule 2: what a client may write is narrow: ASCII digits and at most one point with digits on both sides. No exponent,
no plus sign, no separators, no NaN, no digits of other scripts, and a bounded length.
Rule 3: a fee is rounded up, on the cumulative notional, so that many small fills cost what one large one does.
It refuses to know symbols, accounts and who asks.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from numba import njit

UNITS_MAX: Final = 2**61
"""No order's notional, no balance, and no asset's supply goes above it: sums of two, fees included, still fit int64."""
PPM: Final = 1_000_000
PPM_PLACES: Final = 6
PLACES_MAX: Final = 18
TEXT_LENGTH_MAX: Final = 64

_DECIMAL: Final = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?")


class NumberFault(StrEnum):
    """Why a number was not taken. The values are the error codes that clients see."""

    INVALID = "INVALID_REQUEST"
    NOT_ON_TICK = "PRICE_NOT_ON_TICK"
    NOT_ON_LOT = "QUANTITY_NOT_ON_LOT"
    OUT_OF_RANGE = "NUMBER_OUT_OF_RANGE"


class NumberError(ValueError):
    """A number that was not taken: ``fault`` says why, the message says what is allowed."""

    def __init__(self, fault: NumberFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message


def parse_units(text: str, places: int, *, signed: bool = False) -> int:
    """Minor units of a plain decimal: ``parse_units("1.50", 2)`` is 150.

    places: decimal places of the unit, 0 … 18. Zeros beyond them are fine, other digits are not.
    signed: whether a leading minus is in range.
    Raises NumberError: INVALID when it is no plain decimal or has too many places, OUT_OF_RANGE beyond ± ``UNITS_MAX``.
    """
    coefficient, scale = parse_decimal(text, signed=signed)
    if scale > places:
        raise NumberError(NumberFault.INVALID, f"must have at most {places} decimal places")
    units: int = coefficient * 10 ** (places - scale)
    if abs(units) > UNITS_MAX:
        raise NumberError(NumberFault.OUT_OF_RANGE, f"must not exceed {format_units(UNITS_MAX, places)}")
    return units


def parse_decimal(text: str, *, signed: bool = False) -> tuple[int, int]:
    """Read a plain decimal as ``(coefficient, places)`` with trailing zeros removed: ``"1.50"`` is ``(15, 1)``.

    Raises NumberError: INVALID when it is no plain decimal, OUT_OF_RANGE when it is negative and not ``signed``.
    """
    if len(text) > TEXT_LENGTH_MAX:
        raise NumberError(NumberFault.INVALID, f"must have at most {TEXT_LENGTH_MAX} characters")
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise NumberError(NumberFault.INVALID, 'must be a plain decimal like "0.25", without exponent')
    minus, whole, fraction = match.group(1), match.group(2), (match.group(3) or "").rstrip("0")
    if minus and not signed:
        raise NumberError(NumberFault.OUT_OF_RANGE, "must not be negative")
    coefficient = int(whole + fraction)
    return (-coefficient if minus else coefficient), len(fraction)


def format_units(units: int, places: int) -> str:
    """Decimal text with exactly ``places`` decimal places: ``format_units(150, 2)`` is ``"1.50"``."""
    assert places >= 0
    sign = "-" if units < 0 else ""
    digits = str(abs(int(units))).rjust(places + 1, "0")
    if places == 0:
        return sign + digits
    return f"{sign}{digits[:-places]}.{digits[-places:]}"


def divide_half_even(numerator: int, denominator: int) -> int:
    """Divide, rounding to the nearest whole number, a tie to the even one. numerator ≥ 0, denominator > 0."""
    assert numerator >= 0
    assert denominator > 0
    quotient, rest = divmod(numerator, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and quotient % 2 == 1):
        return quotient + 1
    return quotient


def fee_units(notional_units: int, rate_ppm: int) -> int:
    """Fee in quote minor units, rounded up, so that the exchange never pays a fraction.

    notional_units: quote minor units, 0 … 2**62; of an order's fills so far, not of one. rate_ppm: 0 … 10**6.
    Raises nothing: both bounds are checked before. Exact: whole millions and the rest are multiplied apart, because
    n × ppm wraps int64.
    """
    return notional_units // PPM * rate_ppm + (notional_units % PPM * rate_ppm + (PPM - 1)) // PPM


fee_units_compiled = njit(cache=True)(fee_units)
"""``fee_units`` for compiled callers; int64 in, int64 out."""


def compile_kernels() -> None:
    """Compile (or load) this module's kernels for the types in which they are called."""
    fee_units_compiled(1, 1)
