"""How risk comes back: state from the database, then the events after it, then the commands still on their way.

The order of the three is what makes it exact. The database says how things stood when its cursors were committed.
``fold`` brings each shard's events after its cursor. A command whose events have not come yet is in the command ring:
``retake`` takes its hold again without forwarding it again. Whatever an ingress ring still holds after that is either
in a command ring or answered already (then ``process`` passes over it, told by ``taken``), or has left no trace.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tradeengine.core.ids import EPOCHS_MAX, SHARD_SHIFT, SHARDS_MAX, epoch_of, timestamp_ms_of
from tradeengine.core.records import ACCOUNT_ID_OUTSIDE, CommandKind, OrderType, Side
from tradeengine.core.risk_clients import hash_client_id, insert_client_id, is_named, place_content
from tradeengine.core.risk_layout import (
    C_ACCOUNT,
    C_CLIENT_ID,
    C_HOLD,
    C_KIND,
    C_KINDS,
    C_ORDER_ID,
    C_TIMESTAMP,
    get_byte,
    get_half,
)
from tradeengine.core.risk_orders import find_order, insert_order, order_where, price_word, set_hold
from tradeengine.core.risk_place import fee_ppm, take_order
from tradeengine.core.risk_state import (
    EPOCH,
    FUNDING_NUMBER,
    LAST_TIMESTAMP_NS,
    ORDER_AS_HELD,
    ORDER_ENDED,
    ORDER_EXTRA,
    ORDER_FILLED,
    ORDER_HOLD,
    ORDER_PRICE,
    ORDER_PRICED,
    ORDER_QUANTITY,
    ORDER_SELL,
    ORDER_STOP,
    ORDER_STOP_PRICE,
    ORDER_TRIGGERED,
    ORDER_WHERE,
    SYMBOL_BASE,
    SYMBOL_COLLAR_PPM,
    SYMBOL_LISTED,
    SYMBOL_LOT_UNITS,
    SYMBOL_LOTS_MAX,
    SYMBOL_LOTS_MIN,
    SYMBOL_MAKER_PPM,
    SYMBOL_NOTIONAL_MIN,
    SYMBOL_PRICE_TICKS_MAX,
    SYMBOL_QUOTE,
    SYMBOL_RING_SEQUENCE,
    SYMBOL_SHARD,
    SYMBOL_TAKER_PPM,
    SYMBOL_TICK_LOT_UNITS,
    TOTAL,
    Int64Array,
    RiskState,
    kernel,
    mark_dirty,
)
from tradeengine.core.risk_symbols import set_symbol
from tradeengine.core.risk_worth import add_traded, amended_content, move_open, note_amend, open_units

live_order_dtype: Final = np.dtype(
    [
        ("order_id", "<i8"),
        ("account_id", "<i8"),
        ("symbol_id", "<i8"),
        ("side", "<i8"),
        ("order_type", "<i8"),
        ("triggered", "<i8"),  # 1: a stop that has fired
        ("price_ticks", "<i8"),
        ("stop_price_ticks", "<i8"),
        ("quantity_lots", "<i8"),
        ("filled_lots", "<i8"),
        ("hold_units", "<i8"),
    ]
)
"""A live order as the database has it."""

client_id_dtype: Final = np.dtype(
    [
        ("account_id", "<i8"),
        ("content", "<i8"),  # content_fingerprint
        ("order_id", "<i8"),
        ("client_order_id", "S36"),
    ]
)
"""A client order id as the database has it."""

traded_dtype: Final = np.dtype(
    [
        ("account_id", "<i8"),
        ("asset_id", "<i8"),
        ("notional_units", "<i8"),
        ("day", "<i8"),  # UTC, counted since 1970
    ]
)
"""What an account's fills of one day came to in one quote asset, as taker or as maker."""

_PLACE: Final = int(CommandKind.PLACE)
_AMEND: Final = int(CommandKind.AMEND)
_LIST_SYMBOL: Final = int(CommandKind.LIST_SYMBOL)
_SET_PARAMETERS: Final = int(CommandKind.SET_PARAMETERS)
_BUY: Final = int(Side.BUY)
_LIMIT: Final = int(OrderType.LIMIT)
_MARKET: Final = int(OrderType.MARKET)
_STOP: Final = int(OrderType.STOP)
_STOP_LIMIT: Final = int(OrderType.STOP_LIMIT)
_SELL: Final = int(Side.SELL)
_RECORD_TO_SYMBOL: Final = (
    ("shard", SYMBOL_SHARD),
    ("base_asset_id", SYMBOL_BASE),
    ("quote_asset_id", SYMBOL_QUOTE),
    ("tick_lot_units", SYMBOL_TICK_LOT_UNITS),
    ("lot_units", SYMBOL_LOT_UNITS),
    ("price_ticks_max", SYMBOL_PRICE_TICKS_MAX),
    ("quantity_lots_min", SYMBOL_LOTS_MIN),
    ("quantity_lots_max", SYMBOL_LOTS_MAX),
    ("notional_units_min", SYMBOL_NOTIONAL_MIN),
    ("maker_fee_ppm", SYMBOL_MAKER_PPM),
    ("taker_fee_ppm", SYMBOL_TAKER_PPM),
    ("collar_ppm", SYMBOL_COLLAR_PPM),
)


def load_symbols(risk: RiskState, symbols: NDArray[np.void]) -> None:
    """Take over listed symbols: records with the fields of ``symbol_command_dtype``. First of all loads."""
    for record in symbols:
        row = risk.symbols[int(record["symbol_id"])]
        row[SYMBOL_LISTED] = 1
        row[SYMBOL_RING_SEQUENCE] = -1
        for field, place in _RECORD_TO_SYMBOL:
            row[place] = int(record[field])


def load_balances(risk: RiskState, account_ids: Int64Array, asset_ids: Int64Array, total_units: Int64Array) -> None:
    """Take over totals, int64[n] each. The outside's own balance is computed: minus what all others have."""
    inside = account_ids != ACCOUNT_ID_OUTSIDE
    accounts, assets, totals = account_ids[inside], asset_ids[inside], total_units[inside]
    np.add.at(risk.balances, (accounts, assets, TOTAL), totals)
    np.subtract.at(risk.balances, (np.full_like(assets, ACCOUNT_ID_OUTSIDE), assets, TOTAL), totals)
    for account_id in np.unique(accounts):
        mark_dirty(risk, int(account_id))


def load_places(risk: RiskState, asset_ids: Int64Array, places: Int64Array) -> None:
    """Take over the decimal places of assets, int64[n] each."""
    risk.asset_places[asset_ids] = places


def load_traded(risk: RiskState, traded: NDArray[np.void]) -> None:
    """Take over what was traded, ``traded_dtype``: several rows of an account and asset add up, a later day's count."""
    words = np.ascontiguousarray(traded).view(np.int64).reshape(len(traded), len(traded_dtype))  # type: ignore[arg-type]
    _load_traded(risk, words)


def load_orders(risk: RiskState, orders: NDArray[np.void]) -> None:
    """Take over live orders with their holds: ``live_order_dtype``. After the symbols."""
    words = np.ascontiguousarray(orders).view(np.int64).reshape(len(orders), len(live_order_dtype))  # type: ignore[arg-type]
    _load_orders(risk, words)
    _raise_last_ids(risk, np.ascontiguousarray(orders["order_id"]))


def load_client_ids(risk: RiskState, client_ids: NDArray[np.void]) -> None:
    """Take over client order ids, the oldest first: ``client_id_dtype``."""
    texts = np.zeros((len(client_ids), 40), np.uint8)
    for start in range(0, len(client_ids), 1 << 16):  # in pieces, because the copy is the size of the texts
        part = np.ascontiguousarray(client_ids["client_order_id"][start : start + (1 << 16)])
        texts[start : start + len(part), 4:] = part.view(np.uint8).reshape(len(part), 36)
    accounts, contents, orders = (
        np.ascontiguousarray(client_ids[field]) for field in ("account_id", "content", "order_id")
    )
    _load_client_ids(risk, accounts, contents, orders, texts.view(np.int64))
    _raise_last_ids(risk, orders)


def set_last_ids(risk: RiskState, last_order_id: int, funding_number: int) -> None:
    """Go on after the newest order id and funding number on record, each 0 when there is none.

    Time goes on in the millisecond after the order id's: then the ids of all shards grow, whatever the clock says.
    """
    _raise_last_ids(risk, np.array([last_order_id], np.int64))
    risk.scalars[FUNDING_NUMBER] = max(int(risk.scalars[FUNDING_NUMBER]), funding_number)
    if last_order_id:
        following_ns = (timestamp_ms_of(last_order_id) + 1) * 1_000_000
        risk.scalars[LAST_TIMESTAMP_NS] = max(int(risk.scalars[LAST_TIMESTAMP_NS]), following_ns)


def begin_epoch(risk: RiskState) -> None:
    """Begin the epoch after the newest order id's; last of all. Ids that were made before stay apart."""
    newest = int(risk.last_order_ids.max())
    risk.scalars[EPOCH] = (epoch_of(newest) + 1) % EPOCHS_MAX if newest else 0


@kernel
def retake(risk: RiskState, commands: Int64Array) -> None:
    """Take again what commands that are in a command ring took when they were forwarded. int64[n, COMMAND_WORDS]."""
    for row in range(len(commands)):
        command = commands[row]
        kind = get_byte(command[C_KINDS], C_KIND)
        risk.scalars[LAST_TIMESTAMP_NS] = max(command[C_TIMESTAMP], risk.scalars[LAST_TIMESTAMP_NS])
        if kind == _PLACE:
            order_id = command[C_ORDER_ID]
            shard = order_id >> SHARD_SHIFT & (SHARDS_MAX - 1)
            risk.last_order_ids[shard] = max(risk.last_order_ids[shard], order_id)
            take_order(risk, command, 0)
            if is_named(command, C_CLIENT_ID):
                hashed, key = hash_client_id(get_half(command[C_ACCOUNT[0]], C_ACCOUNT), command, C_CLIENT_ID)
                insert_client_id(risk, hashed, key, place_content(command), order_id)
        elif kind == _AMEND:
            order_row = find_order(risk.orders, command[C_ORDER_ID])
            if order_row >= 0:
                order = risk.orders[order_row]
                set_hold(risk, order_row, order[ORDER_HOLD], order[ORDER_EXTRA] + command[C_HOLD])
                if not order[ORDER_WHERE] & ORDER_ENDED:
                    note_amend(risk, order_row, *amended_content(risk, order, command))
        elif kind in (_LIST_SYMBOL, _SET_PARAMETERS):
            set_symbol(risk, command)


@kernel
def _load_orders(risk: RiskState, words: Int64Array) -> None:
    for row in range(len(words)):
        order_id, account_id, symbol_id, side, order_type, triggered = words[row, :6]
        flags = ORDER_SELL if side == _SELL else 0
        flags |= ORDER_PRICED if order_type in (_LIMIT, _STOP_LIMIT) else 0
        flags |= ORDER_STOP if order_type in (_STOP, _STOP_LIMIT) else 0
        flags |= ORDER_TRIGGERED if triggered else 0
        flags |= ORDER_AS_HELD if order_type == _MARKET and side == _BUY else 0
        place = insert_order(risk, order_id)
        order = risk.orders[place]
        order[ORDER_WHERE] = order_where(account_id, symbol_id, flags)
        order[ORDER_PRICE] = price_word(words[row, 6], fee_ppm(risk.symbols[symbol_id]))
        order[ORDER_STOP_PRICE] = words[row, 7]
        order[ORDER_QUANTITY] = words[row, 8]
        order[ORDER_FILLED] = words[row, 9]
        risk.open_orders[account_id] += 1
        if not flags & ORDER_AS_HELD:
            move_open(risk, order[ORDER_WHERE], open_units(risk, order))
        set_hold(risk, place, words[row, 10], 0)


@kernel
def _load_traded(risk: RiskState, words: Int64Array) -> None:
    for row in range(len(words)):
        add_traded(risk, words[row, 0], words[row, 1], words[row, 2], words[row, 3])


@kernel
def _load_client_ids(
    risk: RiskState, accounts: Int64Array, contents: Int64Array, orders: Int64Array, texts: Int64Array
) -> None:
    for row in range(len(accounts)):
        hashed, key = hash_client_id(accounts[row], texts[row], 0)
        insert_client_id(risk, hashed, key, contents[row], orders[row])


def _raise_last_ids(risk: RiskState, order_ids: Int64Array) -> None:
    shards = order_ids >> SHARD_SHIFT & (SHARDS_MAX - 1)
    np.maximum.at(risk.last_order_ids, shards, order_ids)
