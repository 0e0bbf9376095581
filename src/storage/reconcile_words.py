"""Differences in people's words: names of users, assets and symbols, and decimals instead of units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg

from tradeengine.core.differences import Difference, Unit
from tradeengine.core.records import OrderType, Side
from tradeengine.storage.directory import Directory, account_names, load_directory

Connection = psycopg.Connection[Any]

_FIELD_NAMES: Final = {
    "account_id": "account",
    "symbol_id": "symbol",
    "order_type": "type",
    "price_ticks": "price",
    "stop_price_ticks": "stop_price",
    "quantity_lots": "quantity",
    "filled_lots": "filled_quantity",
    "remaining_lots": "remaining_quantity",
    "filled_notional_units": "filled_notional",
    "fee_units": "fee_paid",
    "hold_units": "hold",
    "expires_at_us": "expires_at",
}
"""Where the API has another word for a field of an order."""
_STATUSES: Final = ("pending", "open", "partially_filled", "filled", "cancelled", "rejected")


def in_words(connection: Connection, differences: Sequence[Difference]) -> list[dict[str, str | None]]:
    """Say each difference as JSON-able texts; what does not apply is None. Reads names in the connection's snapshot."""
    if not differences:
        return []
    directory = load_directory(connection)
    ids = {difference.account_id for difference in differences if difference.account_id is not None}
    names = account_names(connection, sorted(ids))
    return [_words_of(difference, directory, names) for difference in differences]


def _words_of(difference: Difference, directory: Directory, names: dict[int, str]) -> dict[str, str | None]:
    account_id, symbol_id, asset_id = difference.account_id, difference.symbol_id, difference.asset_id
    asset = directory.assets.get(-1 if asset_id is None else asset_id)
    symbol = directory.symbols.get(-1 if symbol_id is None else symbol_id)
    return {
        "kind": difference.kind,
        "message": difference.message,
        "account": None if account_id is None else names.get(account_id, f"#{account_id}"),
        "asset": asset.name if asset is not None else _number(asset_id),
        "symbol": symbol.spec.name if symbol is not None else _number(symbol_id),
        "order_id": _text(difference.order_id),
        "transaction_id": _text(difference.transaction_id),
        "field": _field_name(difference),
        "expected": _value(difference, difference.expected, directory),
        "found": _value(difference, difference.found, directory),
    }


def _field_name(difference: Difference) -> str | None:
    name = difference.field
    return name if name is None or difference.table is not None else _FIELD_NAMES.get(name, name)


def _value(difference: Difference, value: int | str | None, directory: Directory) -> str | None:
    """Write one side of a difference as the API would; of a table's column, as it stands there."""
    if value is None:
        return None
    if isinstance(value, str) or difference.table is not None:
        return str(value)
    if difference.field in _CODES:
        return _CODES[difference.field].get(value, str(value))
    asset = directory.assets.get(-1 if difference.asset_id is None else difference.asset_id)
    if difference.unit is Unit.AMOUNT and asset is not None:
        return asset.format(value)
    symbol = directory.symbols.get(-1 if difference.symbol_id is None else difference.symbol_id)
    if symbol is None:
        return str(value)
    spec = symbol.spec
    writers = {
        Unit.PRICE: spec.format_price,
        Unit.QUANTITY: spec.format_quantity,
        Unit.BASE: spec.base.format,
        Unit.QUOTE: spec.quote.format,
    }
    return writers.get(difference.unit, str)(value)


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)


def _number(value: int | None) -> str | None:
    return None if value is None else f"#{value}"


_CODES: Final[dict[str | None, dict[int, str]]] = {
    "side": {int(side): side.name.lower() for side in Side},
    "order_type": {int(kind): kind.name.lower() for kind in OrderType},
    "status": dict(enumerate(_STATUSES)),
}
