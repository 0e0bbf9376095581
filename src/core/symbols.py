"""Assets and symbols: how their decimals become ticks, lots and minor units, and what may be listed at all.

Rule 1: a price is a whole number of ticks, a quantity a whole number of lots, and one tick × one lot a whole number
of the quote asset's minor units; so every notional is exact.
Rule 2: a symbol is listed only if nothing within its bounds can overflow int64: no order (with a fee of 100 %), no
level's sum. Totals of accounts and the volume of a day are bounded by an asset's supply, which risk keeps at or
below ``UNITS_MAX``.
It refuses to know books, balances and where the symbols come from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tradeengine.core.money import (
    PLACES_MAX,
    PPM,
    UNITS_MAX,
    NumberError,
    NumberFault,
    divide_half_even,
    format_units,
    parse_decimal,
    parse_units,
)
from tradeengine.core.records import CommandKind, TradingState, symbol_command_dtype

INT64_MAX: Final = 2**63 - 1
INT32_MAX: Final = 2**31 - 1
PRICE_TICKS_MAX: Final = 2**42 - 1
"""Prices fit 42 bits, so that a kernel can keep one and a fee rate in a word."""
COLLAR_PPM_MAX: Final = 10 * PPM
ASSET_NAME: Final = re.compile(r"[A-Z0-9]{1,16}")


class ListingError(ValueError):
    """An asset or symbol that cannot be listed: ``field`` names what is wrong, the message says why."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class AssetSpec:
    """An asset: its id, its name (``BTC``) and the decimal places of its minor unit."""

    asset_id: int
    name: str
    places: int

    def __post_init__(self) -> None:
        _require(0 <= self.asset_id <= INT32_MAX, "asset_id", "must be 0 or more")
        _require(ASSET_NAME.fullmatch(self.name) is not None, "name", "1 to 16 of A-Z and 0-9")
        _require(0 <= self.places <= PLACES_MAX, "places", f"must be 0 to {PLACES_MAX}")

    def parse(self, text: str, *, signed: bool = False) -> int:
        """Minor units of an amount. Raises NumberError."""
        return parse_units(text, self.places, signed=signed)

    def format(self, units: int) -> str:
        """Amount with the asset's places."""
        return format_units(units, self.places)


@dataclass(frozen=True, slots=True)
class SymbolSpec:
    """A symbol in the units that records speak, able to speak decimals too.

    tick_lot_units: quote minor units in one tick × one lot. lot_units: base minor units in one lot. Everything else
    about ticks and lots follows from these two and the assets' places. Raises ListingError when the numbers could
    overflow or contradict each other.
    """

    symbol_id: int
    base: AssetSpec
    quote: AssetSpec
    tick_lot_units: int
    lot_units: int
    price_ticks_max: int
    quantity_lots_min: int
    quantity_lots_max: int
    notional_units_min: int
    maker_fee_ppm: int
    taker_fee_ppm: int
    collar_ppm: int
    shard: int
    price_places: int = field(init=False, compare=False)
    """Decimal places of the tick, hence of every price."""
    price_step: int = field(init=False, compare=False, repr=False)
    """One tick, in units of the last decimal place of a price."""
    quantity_places: int = field(init=False, compare=False)
    """Decimal places of the lot, hence of every quantity."""
    quantity_step: int = field(init=False, compare=False, repr=False)
    """One lot, in units of the last decimal place of a quantity."""

    @classmethod
    def from_decimals(
        cls,
        *,
        symbol_id: int,
        base: AssetSpec,
        quote: AssetSpec,
        tick: str,
        lot: str,
        price_max: str,
        quantity_min: str,
        quantity_max: str,
        min_notional: str,
        max_price_deviation: str,
        maker_fee: str,
        taker_fee: str,
        shard: int,
    ) -> SymbolSpec:
        """Read a symbol from what people write. ``max_price_deviation`` and fees are fractions: ``"0.001"`` is 0.1 %.

        Raises ListingError naming the field.
        """
        lot_units = _parse("lot", lot, base.places)
        tick_coefficient, tick_scale = _decimal("tick", tick)
        _require(lot_units > 0, "lot", "must be more than 0")
        _require(tick_coefficient > 0, "tick", "must be more than 0")
        tick_lot_units, rest = divmod(tick_coefficient * lot_units * 10**quote.places, 10 ** (tick_scale + base.places))
        _require(
            rest == 0,
            "tick",
            f"one tick × one lot must be a whole number of minor units of {quote.name} ({quote.places} places)",
        )
        price_coefficient, price_scale = _decimal("price_max", price_max)
        return cls(
            symbol_id=symbol_id,
            base=base,
            quote=quote,
            tick_lot_units=tick_lot_units,
            lot_units=lot_units,
            price_ticks_max=price_coefficient * 10**tick_scale // (tick_coefficient * 10**price_scale),
            quantity_lots_min=-(-_parse("quantity_min", quantity_min, base.places) // lot_units),
            quantity_lots_max=_parse("quantity_max", quantity_max, base.places) // lot_units,
            notional_units_min=_parse("min_notional", min_notional, quote.places),
            collar_ppm=_parse("max_price_deviation", max_price_deviation, 6),
            maker_fee_ppm=_parse("maker_fee", maker_fee, 6),
            taker_fee_ppm=_parse("taker_fee", taker_fee, 6),
            shard=shard,
        )

    def __post_init__(self) -> None:
        _require(0 <= self.symbol_id <= INT32_MAX, "symbol_id", "must be 0 or more")
        _require(self.base.asset_id != self.quote.asset_id, "quote", "must differ from the base asset")
        _require(self.tick_lot_units >= 1, "tick", f"one tick × one lot is less than a minor unit of {self.quote.name}")
        _require(self.lot_units >= 1, "lot", "must be at least one minor unit of the base asset")
        _require(1 <= self.price_ticks_max <= PRICE_TICKS_MAX, "price_max", f"must be 1 to {PRICE_TICKS_MAX} ticks")
        _require(self.quantity_lots_min >= 1, "quantity_min", "must be at least one lot")
        _require(self.quantity_lots_max >= self.quantity_lots_min, "quantity_max", "must be at least quantity_min")
        _require(0 <= self.notional_units_min <= UNITS_MAX, "min_notional", "must be 0 or more")
        _require(0 <= self.collar_ppm <= COLLAR_PPM_MAX, "max_price_deviation", "must be 0 (none) to 10")
        _require(0 <= self.maker_fee_ppm <= PPM, "maker_fee", "must be 0 to 1")
        _require(0 <= self.taker_fee_ppm <= PPM, "taker_fee", "must be 0 to 1")
        _require(0 <= self.shard < 64, "shard", "must be 0 to 63")
        self._require_no_overflow()
        price_places, price_step = _places_and_step(
            "tick", self.tick_lot_units * 10**self.base.places, self.lot_units * 10**self.quote.places
        )
        quantity_places, quantity_step = _places_and_step("lot", self.lot_units, 10**self.base.places)
        object.__setattr__(self, "price_places", price_places)
        object.__setattr__(self, "price_step", price_step)
        object.__setattr__(self, "quantity_places", quantity_places)
        object.__setattr__(self, "quantity_step", quantity_step)

    def _require_no_overflow(self) -> None:
        notional_units_max = self.price_ticks_max * self.quantity_lots_max * self.tick_lot_units
        _require(
            notional_units_max <= UNITS_MAX,
            "quantity_max",
            f"price_max × quantity_max must not exceed {self.quote.format(UNITS_MAX)} {self.quote.name}",
        )
        _require(
            self.quantity_lots_max * self.lot_units <= UNITS_MAX,
            "quantity_max",
            f"must not exceed {self.base.format(UNITS_MAX)} {self.base.name}",
        )

    def require_level_sum(self, orders_max: int) -> None:
        """Refuse bounds with which ``orders_max`` orders on one level could overflow. Raises ListingError."""
        _require(
            self.quantity_lots_max * orders_max <= INT64_MAX,
            "quantity_max",
            f"{orders_max} orders of this quantity would overflow",
        )

    @property
    def name(self) -> str:
        """``BTC/USDT``."""
        return f"{self.base.name}/{self.quote.name}"

    @property
    def tick(self) -> str:
        """One tick as decimal text."""
        return self.format_price(1)

    @property
    def lot(self) -> str:
        """One lot as decimal text."""
        return self.format_quantity(1)

    def parse_price(self, text: str) -> int:
        """Ticks, 1 … price_ticks_max. Raises NumberError: INVALID, NOT_ON_TICK, OUT_OF_RANGE."""
        ticks = _steps(text, self.price_places, self.price_step)
        if ticks is None:
            raise NumberError(NumberFault.NOT_ON_TICK, f"must be a multiple of {self.tick}")
        if not 1 <= ticks <= self.price_ticks_max:
            bounds = f"{self.tick} to {self.format_price(self.price_ticks_max)}"
            raise NumberError(NumberFault.OUT_OF_RANGE, f"must be {bounds}")
        return ticks

    def parse_quantity(self, text: str) -> int:
        """Lots, quantity_lots_min … quantity_lots_max. Raises NumberError: INVALID, NOT_ON_LOT, OUT_OF_RANGE."""
        lots = _steps(text, self.quantity_places, self.quantity_step)
        if lots is None:
            raise NumberError(NumberFault.NOT_ON_LOT, f"must be a multiple of {self.lot}")
        if not self.quantity_lots_min <= lots <= self.quantity_lots_max:
            bounds = f"{self.format_quantity(self.quantity_lots_min)} to {self.format_quantity(self.quantity_lots_max)}"
            raise NumberError(NumberFault.OUT_OF_RANGE, f"must be {bounds}")
        return lots

    def format_price(self, price_ticks: int) -> str:
        """Price with the tick's places."""
        return format_units(int(price_ticks) * self.price_step, self.price_places)

    def format_quantity(self, quantity_lots: int) -> str:
        """Quantity with the lot's places."""
        return format_units(int(quantity_lots) * self.quantity_step, self.quantity_places)

    def notional_units(self, price_ticks: int, quantity_lots: int) -> int:
        """Quote minor units that so many lots cost at a price."""
        return int(price_ticks) * int(quantity_lots) * self.tick_lot_units

    def average_price(self, notional_units: int, quantity_lots: int) -> str:
        """Average price of fills, rounded half-even to the quote asset's places. quantity_lots > 0."""
        base_units = int(quantity_lots) * self.lot_units
        return self.quote.format(divide_half_even(int(notional_units) * 10**self.base.places, base_units))

    def to_command(self, kind: CommandKind, trading_state: TradingState = TradingState.OPEN) -> NDArray[np.void]:
        """One record of ``symbol_command_dtype``, shape (1,), for LIST_SYMBOL or SET_PARAMETERS; head times are 0."""
        assert kind in {CommandKind.LIST_SYMBOL, CommandKind.SET_PARAMETERS}
        command = np.zeros(1, symbol_command_dtype)
        command["kind"] = kind
        command["trading_state"] = trading_state
        command["base_asset_id"] = self.base.asset_id
        command["quote_asset_id"] = self.quote.asset_id
        command["quote_places"] = self.quote.places
        for name in _SAME_NAME:
            command[name] = getattr(self, name)
        return command

    @classmethod
    def from_record(cls, record: np.void, base: AssetSpec, quote: AssetSpec) -> SymbolSpec:
        """Read a symbol from one record of ``symbol_command_dtype`` or ``symbol_event_dtype``. Raises ListingError."""
        return cls(base=base, quote=quote, **{name: int(record[name]) for name in _SAME_NAME})


_SAME_NAME: Final = (
    "symbol_id",
    "tick_lot_units",
    "lot_units",
    "price_ticks_max",
    "quantity_lots_min",
    "quantity_lots_max",
    "notional_units_min",
    "maker_fee_ppm",
    "taker_fee_ppm",
    "collar_ppm",
    "shard",
)


def _steps(text: str, places: int, step: int) -> int | None:
    """How many steps of ``step × 10**-places`` a decimal is; None when it lies between two. Raises NumberError."""
    coefficient, scale = parse_decimal(text)
    if scale > places:
        return None
    steps, rest = divmod(coefficient * 10 ** (places - scale), step)
    return steps if rest == 0 else None


def _places_and_step(name: str, numerator: int, denominator: int) -> tuple[int, int]:
    """Turn a fraction into decimal: the places it needs, and its digits. Raises ListingError when no places suffice."""
    for places in range(2 * PLACES_MAX + 1):
        step, rest = divmod(numerator * 10**places, denominator)
        if rest == 0:
            return places, step
    raise ListingError(name, "has no finite decimal form")


def _parse(name: str, text: str, places: int) -> int:
    try:
        return parse_units(text, places)
    except NumberError as error:
        raise ListingError(name, error.message) from None


def _decimal(name: str, text: str) -> tuple[int, int]:
    try:
        return parse_decimal(text)
    except NumberError as error:
        raise ListingError(name, error.message) from None


def _require(condition: bool, name: str, message: str) -> None:
    if not condition:
        raise ListingError(name, message)
