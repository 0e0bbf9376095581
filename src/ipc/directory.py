"""The directory page: which assets and symbols there are, by name, for whoever meets names.

One msgpack blob in the one row of the table ``directory``. The supervisor writes it from the database whenever a symbol
was listed or changed; others read it when its version is not the one they know. It repeats the database and decides
nothing: whether a symbol trades right now is in ``touch``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np

from tradeengine.core.records import CommandKind, TradingState, symbol_command_dtype
from tradeengine.core.symbols import AssetSpec, SymbolSpec
from tradeengine.core.tables import DIRECTORY_BYTES_MAX
from tradeengine.core.trading import Trading

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tradeengine.ipc.seqlock import SeqlockTable


@dataclass(frozen=True)
class DirectoryPage:
    """Assets and symbols at one version, by id and by name. Version 0 is the empty page of an engine that starts."""

    version: int
    assets: dict[int, AssetSpec]
    symbols: dict[int, SymbolSpec]
    trading_states: dict[int, Trading] = field(default_factory=dict)
    """Trading states of symbols as PostgreSQL had them: older ones than ``touch`` has."""

    @cached_property
    def asset_by_name(self) -> dict[str, AssetSpec]:
        """Assets by name."""
        return {asset.name: asset for asset in self.assets.values()}

    @cached_property
    def symbol_by_name(self) -> dict[str, SymbolSpec]:
        """Symbols by name, ``BTC/USDT``."""
        return {symbol.name: symbol for symbol in self.symbols.values()}


def write_directory(
    table: SeqlockTable,
    version: int,
    assets: Iterable[AssetSpec],
    symbols: Iterable[SymbolSpec],
    trading_states: Mapping[int, Trading] = MappingProxyType({}),
) -> None:
    """Publish a new version. Raises ValueError when it does not fit; the old version then stays."""
    packed = msgpack.packb(
        {
            "assets": [(asset.asset_id, asset.name, asset.places) for asset in assets],
            "symbols": [_pack_symbol(symbol) for symbol in symbols],
            "trading_states": [(symbol_id, *_pack_trading(trading)) for symbol_id, trading in trading_states.items()],
        }
    )
    if len(packed) > DIRECTORY_BYTES_MAX:
        raise ValueError(f"the directory takes {len(packed)} bytes, its page has {DIRECTORY_BYTES_MAX}")
    with table.writing(0) as row:
        row["version"] = version
        row["byte_count"] = len(packed)
        row["data"][: len(packed)] = np.frombuffer(packed, np.uint8)


def read_directory(table: SeqlockTable) -> DirectoryPage:
    """Read the present version; ``table.version(0)`` tells whether it changed since. Raises SeqlockBusy."""
    version, packed = table.read_with(0, _copy_blob)
    content: dict[str, Any] = msgpack.unpackb(packed) if packed else {"assets": [], "symbols": [], "trading_states": []}
    assets = {asset_id: AssetSpec(asset_id, name, places) for asset_id, name, places in content["assets"]}
    symbols = {}
    for packed_symbol in content["symbols"]:
        symbol = _unpack_symbol(packed_symbol, assets)
        symbols[symbol.symbol_id] = symbol
    trading_states = {symbol_id: _unpack_trading(*packed) for symbol_id, *packed in content["trading_states"]}
    return DirectoryPage(version, assets, symbols, trading_states)


def _copy_blob(row: np.void) -> tuple[int, bytes]:
    return int(row["version"]), row["data"][: int(row["byte_count"])].tobytes()


def _pack_symbol(symbol: SymbolSpec) -> bytes:
    """Pack a symbol as the command that lists it: the layout is then described in one place."""
    return symbol.to_command(CommandKind.LIST_SYMBOL).tobytes()


def _pack_trading(trading: Trading) -> tuple[int, int, int, str | None, int]:
    before_all = int(trading.before_all) if trading.before_all else 0
    return int(trading.state), trading.sequence, trading.timestamp_ns, trading.reason, before_all


def _unpack_trading(state: int, sequence: int, timestamp_ns: int, reason: str | None, before_all: int) -> Trading:
    before = TradingState(before_all) if before_all else None
    return Trading(TradingState(state), sequence, timestamp_ns, reason, before)


def _unpack_symbol(packed: bytes, assets: dict[int, AssetSpec]) -> SymbolSpec:
    record = np.frombuffer(packed, symbol_command_dtype)[0]
    return SymbolSpec.from_record(record, assets[int(record["base_asset_id"])], assets[int(record["quote_asset_id"])])
