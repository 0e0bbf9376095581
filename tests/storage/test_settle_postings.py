"""What the ledger knows of symbols: as many as are listed, whatever their ids."""

from __future__ import annotations

from tradeengine.storage.settle_postings import SymbolUnits


def test_symbols_of_any_id_are_known_and_the_others_are_not() -> None:
    """Room for symbols grows with their ids; what was known stays, an id that nobody listed has no assets."""
    units = SymbolUnits()
    units.put(3, 0, 1, 10)
    units.put(70, 2, 1, 5)
    known = {3: (0, 1, 10), 70: (2, 1, 5)}
    assert len(units.base_asset_id) == len(units.quote_asset_id) == len(units.lot_units) > 70
    for symbol_id in range(len(units.lot_units)):
        told = units.base_asset_id[symbol_id], units.quote_asset_id[symbol_id], units.lot_units[symbol_id]
        assert told == known.get(symbol_id, (-1, -1, 0))
    units.put(3, 0, 1, 10)
    assert units.lot_units[3] == 10
