"""Statements in the API's words: entries, the same as CSV, and the cursors of their pages.

Rule 1: CSV is RFC 4180, with a header line, and has the columns and texts of the JSON form; null is an empty field.
Rule 2: nothing in it is a formula to a spreadsheet: values are numbers, times and words of ours, but for references,
which get an apostrophe before them where they could begin one.
It refuses to know HTTP and SQL.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec.structs import asdict

from tradeengine.core.ids import timestamp_ms_of
from tradeengine.core.symbols import AssetSpec
from tradeengine.core.times import format_ms
from tradeengine.storage.statement import Place, StatementRow
from tradeengine.web.errors import invalid_field
from tradeengine.web.schemas_account import LedgerEntry

CSV_TYPE: Final = "text/csv"
_PLACE: Final = struct.Struct(">qH?")
_ASSET_ID_MAX: Final = 2**15 - 1
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def entry_of(row: StatementRow, assets: Mapping[int, AssetSpec]) -> LedgerEntry:
    """Show a posting."""
    asset = assets[row.asset_id]
    return LedgerEntry(
        time=format_ms(timestamp_ms_of(row.transaction_id)),
        kind=row.kind,  # type: ignore[arg-type]  # the statement has no other kinds than the schema
        asset=asset.name,
        amount=asset.format(row.amount_units),
        balance=asset.format(row.balance_units),
        transaction_id=str(row.transaction_id),
        trade_id=str(row.transaction_id) if row.kind == "trade" else None,
        order_id=str(row.order_id) if row.order_id else None,
        reference=row.reference,
    )


def write_csv(entries: Sequence[LedgerEntry]) -> str:
    """Write entries as CSV."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, LedgerEntry.__struct_fields__, lineterminator="\r\n")
    writer.writeheader()
    for entry in entries:
        writer.writerow(asdict(entry) | {"reference": _no_formula(entry.reference)})
    return text.getvalue()


def encode_place(place: Place) -> str:
    """Make the cursor that goes on below a place."""
    packed = _PLACE.pack(place.transaction_id, place.asset_id, place.went_out)
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decode_place(cursor: str) -> Place:
    """Read a cursor. Raises ApiError for what ``encode_place`` never made."""
    try:
        raw = base64.b64decode(cursor.encode("ascii") + b"=", altchars=b"-_", validate=True)
        transaction_id, asset_id, went_out = _PLACE.unpack(raw)
    except (UnicodeEncodeError, binascii.Error, ValueError, struct.error):
        transaction_id = -1
    if transaction_id < 0 or asset_id > _ASSET_ID_MAX:
        raise invalid_field("cursor", "cursor must be the meta.next_cursor of the answer before.")
    return Place(transaction_id, asset_id, went_out)


def _no_formula(reference: str | None) -> str | None:
    return f"'{reference}" if reference is not None and reference.startswith(_FORMULA_STARTS) else reference
