"""The directory page: which assets and symbols there are, by name, for whoever meets names.

One msgpack blob in the one row of the table ``directory``. The supervisor writes it from the database whenever a symbol
was listed or changed; others read it when its version is not the one they know. It repeats the database and decides
nothing: whether a symbol trades right now is in ``touch``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np

from tradeengine.core.records import CommandKind, symbol_command_dtype
from tradeengine.core.symbols import AssetSpec, SymbolSpec
from tradeengine.core.tables import DIRECTORY_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tradeengine.ipc.seqlock import SeqlockTable


@dataclass(frozen=True)
class DirectoryPage:
    """Assets and symbols at one version, by id and by name. Version 0 is the empty page of an engine that starts."""

    version: int
    assets: dict[int, AssetSpec]
    symbols: dict[int, SymbolSpec]

    @cached_property
    def asset_by_name(self) -> dict[str, AssetSpec]:
        """Assets by name."""
        return {asset.name: asset for asset in self.assets.values()}

    @cached_property
    def symbol_by_name(self) -> dict[str, SymbolSpec]:
        """Symbols by name, ``BTC/USDT``."""
        return {symbol.name: symbol for symbol in self.symbols.values()}


def write_directory(
    table: SeqlockTable, version: int, assets: Iterable[AssetSpec], symbols: Iterable[SymbolSpec]
) -> None:
    """Publish a new version. Raises ValueError when it does not fit; the old version then stays."""
    packed = msgpack.packb(
        {
            "assets": [(asset.asset_id, asset.name, asset.places) for asset in assets],
            "symbols": [_pack_symbol(symbol) for symbol in symbols],
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
    content: dict[str, Any] = msgpack.unpackb(packed) if packed else {"assets": [], "symbols": []}
    assets = {asset_id: AssetSpec(asset_id, name, places) for asset_id, name, places in content["assets"]}
    symbols = {}
    for packed_symbol in content["symbols"]:
        symbol = _unpack_symbol(packed_symbol, assets)
        symbols[symbol.symbol_id] = symbol
    return DirectoryPage(version, assets, symbols)


def _copy_blob(row: np.void) -> tuple[int, bytes]:
    return int(row["version"]), row["data"][: int(row["byte_count"])].tobytes()


def _pack_symbol(symbol: SymbolSpec) -> bytes:
    """Pack a symbol as the command that lists it: the layout is then described in one place."""
    return symbol.to_command(CommandKind.LIST_SYMBOL).tobytes()


def _unpack_symbol(packed: bytes, assets: dict[int, AssetSpec]) -> SymbolSpec:
    record = np.frombuffer(packed, symbol_command_dtype)[0]
    return SymbolSpec.from_record(record, assets[int(record["base_asset_id"])], assets[int(record["quote_asset_id"])])
