"""Ticks and lots against decimals, and what may be listed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradeengine.core.money import UNITS_MAX, NumberError, NumberFault
from tradeengine.core.records import CommandKind
from tradeengine.core.risk_checks import check_symbol
from tradeengine.core.symbols import AssetSpec, ListingError, SymbolSpec

BTC = AssetSpec(0, "BTC", 8)
USDT = AssetSpec(1, "USDT", 6)


def spec(**changes: Any) -> SymbolSpec:
    """Describe BTC/USDT, with changes."""
    terms: dict[str, Any] = {
        "symbol_id": 3,
        "base": BTC,
        "quote": USDT,
        "tick": "0.05",
        "lot": "0.0001",
        "price_max": "1000000",
        "quantity_min": "0.0002",
        "quantity_max": "1000",
        "min_notional": "5",
        "max_price_deviation": "0.1",
        "maker_fee": "0.0005",
        "taker_fee": "0.001",
        "shard": 2,
    }
    return SymbolSpec.from_decimals(**(terms | changes))


def test_decimals_become_ticks_and_lots() -> None:
    """Prices and quantities are counted in ticks and lots, and written with the places of tick and lot."""
    symbol = spec()
    assert (symbol.tick_lot_units, symbol.lot_units) == (5, 10_000)
    assert symbol.parse_price("50000.050") == 1_000_001
    assert symbol.format_price(1_000_001) == "50000.05"
    assert symbol.parse_quantity("1.5") == 15_000
    assert symbol.format_quantity(15_000) == "1.5000"
    assert (symbol.tick, symbol.lot, symbol.name) == ("0.05", "0.0001", "BTC/USDT")
    assert symbol.notional_units(1_000_001, 15_000) == 75_000_075_000


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("50000.04", NumberFault.NOT_ON_TICK),
        ("50000.051", NumberFault.NOT_ON_TICK),
        ("0", NumberFault.OUT_OF_RANGE),
        ("-0.05", NumberFault.OUT_OF_RANGE),
        ("1000000.05", NumberFault.OUT_OF_RANGE),
        (str(10**30), NumberFault.OUT_OF_RANGE),
        ("1e5", NumberFault.INVALID),
    ],
)
def test_prices_off_the_grid_are_named(text: str, fault: NumberFault) -> None:
    """A price between two ticks, out of bounds, or no decimal at all: each has its own reason."""
    with pytest.raises(NumberError) as error:
        spec().parse_price(text)
    assert error.value.fault == fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("0.00025", NumberFault.NOT_ON_LOT),
        ("0.0001", NumberFault.OUT_OF_RANGE),
        ("1000.0001", NumberFault.OUT_OF_RANGE),
        ("NaN", NumberFault.INVALID),
    ],
)
def test_quantities_off_the_grid_are_named(text: str, fault: NumberFault) -> None:
    """A quantity between two lots, out of bounds, or no decimal at all: each has its own reason."""
    with pytest.raises(NumberError) as error:
        spec().parse_quantity(text)
    assert error.value.fault == fault


@given(st.integers(1, 20_000_000), st.integers(2, 10_000_000))
def test_writing_and_reading_agree(price_ticks: int, quantity_lots: int) -> None:
    """Every price and quantity in bounds is read back as it was written."""
    symbol = spec()
    assert symbol.parse_price(symbol.format_price(price_ticks)) == price_ticks
    assert symbol.parse_quantity(symbol.format_quantity(quantity_lots)) == quantity_lots


def test_average_price_is_rounded_half_even() -> None:
    """The average has the quote asset's places, a tie going to the even digit."""
    symbol = spec(quote=AssetSpec(1, "USD", 2), tick="1", lot="1", quantity_min="1")
    assert symbol.average_price(10_000_01, 2) == "5000.00"
    assert symbol.average_price(10_000_03, 2) == "5000.02"


def test_tick_times_lot_must_be_whole() -> None:
    """A symbol whose tick × lot is less than a minor unit of the quote asset is not listed."""
    with pytest.raises(ListingError) as error:
        spec(tick="0.001")
    assert error.value.field == "tick"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tick": "0"}, "tick"),
        ({"tick": "1e-2"}, "tick"),
        ({"price_max": "much"}, "price_max"),
        ({"lot": "0.000000001"}, "lot"),
        ({"lot": "0"}, "lot"),
        ({"quantity_max": "0.0001"}, "quantity_max"),
        ({"price_max": "0.01"}, "price_max"),
        ({"quantity_max": "10000000"}, "quantity_max"),
        ({"maker_fee": "1.1"}, "maker_fee"),
        ({"taker_fee": "0.0000001"}, "taker_fee"),
        ({"max_price_deviation": "-1"}, "max_price_deviation"),
        ({"shard": 64}, "shard"),
        ({"quote": BTC}, "quote"),
    ],
)
def test_bounds_that_could_overflow_or_contradict_are_refused(changes: dict[str, Any], field: str) -> None:
    """A symbol is refused by the name of the term that is wrong."""
    with pytest.raises(ListingError) as error:
        spec(**changes)
    assert error.value.field == field


def test_greatest_order_does_not_overflow() -> None:
    """The greatest order of any symbol that may be listed fits int64 with a fee of its own size."""
    symbol = spec(price_max="1000000", quantity_max="2000000")
    most = symbol.notional_units(symbol.price_ticks_max, symbol.quantity_lots_max)
    assert most <= UNITS_MAX
    assert 2 * most < 2**63


def test_level_sums_are_checked() -> None:
    """Bounds are refused with which as many orders as a book holds would overflow a level."""
    symbol = spec()
    symbol.require_level_sum(2**20)
    with pytest.raises(ListingError):
        symbol.require_level_sum(2**60)


def test_symbols_travel_in_records() -> None:
    """A symbol is the same after a journey through a command."""
    symbol = spec()
    (record,) = symbol.to_command(CommandKind.LIST_SYMBOL)
    assert SymbolSpec.from_record(record, BTC, USDT) == symbol


@given(
    st.sampled_from(["tick_lot_units", "lot_units", "price_ticks_max", "quantity_lots_min", "quantity_lots_max"])
    | st.sampled_from(["notional_units_min", "maker_fee_ppm", "taker_fee_ppm", "collar_ppm", "base_asset_id"]),
    st.sampled_from([-1, 0, 1, 2, 10**6, 10**6 + 1, 10**7, 10**7 + 1, 2**31 - 1])
    | st.integers(-(2**31), 2**31 - 1)
    | st.integers(-(2**63), 2**63 - 1),
)
def test_compiled_check_agrees(field: str, value: int) -> None:
    """What comes from a ring is checked by the same rules as what comes from a configuration."""
    command = spec().to_command(CommandKind.LIST_SYMBOL)
    if command.dtype[field].itemsize == 4 and not -(2**31) <= value < 2**31:
        return
    command[field] = value
    reason = check_symbol(command.view(np.int64), 4)
    if field == "base_asset_id":
        assert (reason == 0) == (value in {0, 2, 3})
    else:
        assert (reason == 0) == may_be_listed(command[0])


def may_be_listed(record: np.void) -> bool:
    """Whether a specification can be made of a record. That a tick has a decimal form matters to people only."""
    try:
        SymbolSpec.from_record(record, BTC, USDT)
    except ListingError as error:
        return "decimal form" in error.message
    return True
