"""Listing a symbol while the engine runs: its row, and those of assets that are new, in one transaction.

The row comes first, as pending; the command follows, and settlement turns the row to listed. Between the two a crash
may come: the next start sends the command for what is pending, and so does whoever asks for the same again.
Rule: a symbol, or an asset, that exists stays as it is; who wants it otherwise is refused.
It refuses to know rings and who asks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

import psycopg

from tradeengine.core.records import TradingState
from tradeengine.core.symbols import AssetSpec, ListingError, SymbolSpec
from tradeengine.storage.directory import SymbolRow, add_asset, add_symbol, load_directory

_STEPS: Final = {"price_max": "tick", "quantity_min": "lot", "quantity_max": "lot"}
"""Bounds, and what they must be multiples of."""


class ExistsOtherwiseError(Exception):
    """A symbol or an asset of that name exists with other terms; ``fields`` says which."""

    def __init__(self, field: str, message: str, fields: tuple[str, ...]) -> None:
        super().__init__(message)
        self.field = field
        self.fields = fields


class OffStepError(ListingError):
    """A bound that is no multiple of tick or lot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A symbol to list. ``decimals``: as ``SymbolSpec.from_decimals`` takes them. None: as it is, or as it fits."""

    base: str
    quote: str
    base_places: int | None
    quote_places: int | None
    decimals: dict[str, str]
    shard: int | None
    state: TradingState

    @property
    def name(self) -> str:
        """``BTC/USDT``."""
        return f"{self.base}/{self.quote}"


@dataclass(frozen=True, slots=True)
class Room:
    """What the engine was started with."""

    shards: int
    assets_max: int
    symbols_max: int
    orders_max: int


def request_listing(
    connection: psycopg.Connection[Any], wanted: Wanted, room: Room, *, dry_run: bool
) -> tuple[SymbolRow, bool]:
    """Add what is missing, and return the symbol's row and whether it is new. dry_run: add nothing in the end.

    connection: in autocommit. Raises ListingError for what cannot be listed, ExistsOtherwiseError for what is there
    with other terms, DirectoryFullError beyond a limit.
    """
    with connection.transaction() as transaction:
        base = _asset(connection, "base_places", wanted.base, wanted.base_places, room)
        quote = _asset(connection, "quote_places", wanted.quote, wanted.quote_places, room)
        found = load_directory(connection).symbol(wanted.name)
        spec = _spec(connection, wanted, base, quote, found, room)
        row = add_symbol(connection, spec, symbols_max=room.symbols_max, state=wanted.state)
        if found is not None:
            _require_same(found, replace(spec, symbol_id=found.spec.symbol_id))
        if dry_run:
            raise psycopg.Rollback(transaction)
    return row, found is None


def _asset(connection: psycopg.Connection[Any], field: str, name: str, places: int | None, room: Room) -> AssetSpec:
    known = load_directory(connection).asset(name)
    if known is None and places is None:
        raise ListingError(field, f"is needed: there is no asset {name} yet")
    if known is None:
        assert places is not None
        known = add_asset(connection, name, places, assets_max=room.assets_max)
    if places is not None and places != known.places:
        message = f"The asset {name} has {known.places} decimal places, which cannot be changed."
        raise ExistsOtherwiseError(field, message, (field,))
    return known


def _spec(
    connection: psycopg.Connection[Any],
    wanted: Wanted,
    base: AssetSpec,
    quote: AssetSpec,
    found: SymbolRow | None,
    room: Room,
) -> SymbolSpec:
    shard = wanted.shard
    if shard is None:
        shard = found.spec.shard if found else _emptiest_shard(connection, room.shards)
    if not 0 <= shard < room.shards:
        raise ListingError("shard", f"must be 0 to {room.shards - 1}")
    spec = SymbolSpec.from_decimals(symbol_id=0, base=base, quote=quote, shard=shard, **wanted.decimals)
    spec.require_level_sum(room.orders_max)
    for field, step in _STEPS.items():
        made = spec.format_price(spec.price_ticks_max) if step == "tick" else _quantity(spec, field)
        if Decimal(made) != Decimal(wanted.decimals[field]):
            raise OffStepError(field, f"must be a multiple of {step}, which is {getattr(spec, step)}")
    return spec


def _quantity(spec: SymbolSpec, field: str) -> str:
    return spec.format_quantity(spec.quantity_lots_min if field == "quantity_min" else spec.quantity_lots_max)


def _emptiest_shard(connection: psycopg.Connection[Any], shards: int) -> int:
    counts = dict.fromkeys(range(shards), 0)
    for row in load_directory(connection).symbols.values():
        if row.spec.shard in counts:
            counts[row.spec.shard] += 1
    return min(counts, key=lambda shard: (counts[shard], shard))


def _require_same(found: SymbolRow, wanted: SymbolSpec) -> None:
    differing = tuple(api for name, api in _FIELDS.items() if getattr(found.spec, name) != getattr(wanted, name))
    if differing:
        message = f"{found.spec.name} exists with other terms: {', '.join(differing)}."
        raise ExistsOtherwiseError("symbol", message, differing)


_FIELDS: Final = {
    "tick_lot_units": "tick",
    "lot_units": "lot",
    "price_ticks_max": "price_max",
    "quantity_lots_min": "quantity_min",
    "quantity_lots_max": "quantity_max",
    "notional_units_min": "min_notional",
    "collar_ppm": "max_price_deviation",
    "maker_fee_ppm": "maker_fee",
    "taker_fee_ppm": "taker_fee",
    "shard": "shard",
}
"""What the API calls a symbol's parameters."""
