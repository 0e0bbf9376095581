"""Decimal text to integers and back, and fees."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradeengine.core.money import (
    UNITS_MAX,
    NumberError,
    NumberFault,
    divide_half_even,
    fee_units,
    fee_units_compiled,
    format_units,
    parse_units,
)

units = st.integers(0, UNITS_MAX)
rates = st.integers(0, 10**6)


@pytest.mark.parametrize(
    ("text", "places", "expected"),
    [("1.50", 2, 150), ("0", 2, 0), ("1", 0, 1), ("1.0000000", 2, 100), ("007.1", 1, 71), ("0.01", 2, 1)],
)
def test_plain_decimals_are_read(text: str, places: int, expected: int) -> None:
    """A plain decimal is read exactly, and zeros beyond the places are fine."""
    assert parse_units(text, places) == expected


@pytest.mark.parametrize(
    "text",
    [
        *["", " 1", "1 ", "+1", "1e3", "1E3", "NaN", "Infinity", "1.", ".5", "1.2.3", "1,000", "1_000", "--1", "0x10"],
        *["१", "１", "1٫5", "1\n", "1" * 65, "0." + "0" * 63],
    ],
)
def test_anything_else_is_no_number(text: str) -> None:
    """Exponents, signs, separators, spaces, digits of other scripts and endless texts are refused as requests."""
    with pytest.raises(NumberError) as error:
        parse_units(text, 2)
    assert error.value.fault == NumberFault.INVALID


@pytest.mark.parametrize("text", ["-1", "-0", str(10**30), str(UNITS_MAX + 1)])
def test_numbers_beyond_the_range_are_named_so(text: str) -> None:
    """A negative or huge number is a number, and out of range."""
    with pytest.raises(NumberError) as error:
        parse_units(text, 0)
    assert error.value.fault == NumberFault.OUT_OF_RANGE


def test_too_many_places_are_refused() -> None:
    """Digits beyond the places are refused, not rounded."""
    with pytest.raises(NumberError):
        parse_units("0.001", 2)


def test_signed_amounts_are_read_where_they_may_be() -> None:
    """A minus is in range where the caller says so."""
    assert parse_units("-1.5", 2, signed=True) == -150


@given(st.integers(-UNITS_MAX, UNITS_MAX), st.integers(0, 18))
def test_writing_and_reading_agree(number: int, places: int) -> None:
    """What is written is read back as the same number, with exactly the asset's places."""
    text = format_units(number, places)
    assert parse_units(text, places, signed=True) == number
    assert len(text.partition(".")[2]) == places


@given(units, rates)
def test_fee_is_the_exact_one_rounded_up(notional: int, ppm: int) -> None:
    """Whole millions and the rest give the exact fee, rounded up, for every notional; compiled code agrees."""
    expected = ceil(Fraction(notional * ppm, 10**6))
    assert fee_units(notional, ppm) == expected
    assert fee_units_compiled(notional, ppm) == expected


@pytest.mark.parametrize(("numerator", "expected"), [(5, 2), (7, 4), (6, 3), (13, 6), (15, 8), (0, 0)])
def test_ties_go_to_the_even_number(numerator: int, expected: int) -> None:
    """Halves are rounded to the even number."""
    assert divide_half_even(numerator, 2) == expected


@given(st.integers(0, 10**30), st.integers(1, 10**20))
def test_half_even_is_what_fractions_do(numerator: int, denominator: int) -> None:
    """Rounding agrees with Python's own on exact fractions."""
    assert divide_half_even(numerator, denominator) == round(Fraction(numerator, denominator))
