"""What trades, deposits and withdrawals mean for the ledger: who gives what to whom, in numpy, no loop per event.

Rule 1: the postings of a transaction sum to zero per asset. Rule 2: settlement, the outbox and reconciliation all ask
here. It refuses to know orders, candles and connections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tradeengine.core.ids import first_id_at
from tradeengine.core.records import ACCOUNT_ID_EXCHANGE, ACCOUNT_ID_OUTSIDE, EventKind, Side

Events = NDArray[np.void]
Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]

POSTING_TRADE: Final = ord("T")
POSTING_FUNDING: Final = ord("F")


class SymbolUnits:
    """What the ledger must know of each symbol: its assets and the size of a lot. Arrays by symbol id."""

    def __init__(self) -> None:
        self.base_asset_id = np.full(16, -1, np.int64)
        self.quote_asset_id = np.full(16, -1, np.int64)
        self.lot_units = np.zeros(16, np.int64)

    def put(self, symbol_id: int, base_asset_id: int, quote_asset_id: int, lot_units: int) -> None:
        """Add a symbol, or say again what is known: these three never change."""
        while symbol_id >= len(self.lot_units):
            self.base_asset_id = np.append(self.base_asset_id, np.full_like(self.base_asset_id, -1))
            self.quote_asset_id = np.append(self.quote_asset_id, np.full_like(self.quote_asset_id, -1))
            self.lot_units = np.append(self.lot_units, np.zeros_like(self.lot_units))
        self.base_asset_id[symbol_id] = base_asset_id
        self.quote_asset_id[symbol_id] = quote_asset_id
        self.lot_units[symbol_id] = lot_units

    def known(self, symbol_id: Int64s) -> Bools:
        """Whether each symbol is known."""
        inside = (symbol_id >= 0) & (symbol_id < len(self.lot_units))
        return inside & (self.lot_units[np.where(inside, symbol_id, 0)] > 0)


@dataclass(frozen=True, slots=True)
class Postings:
    """Ledger postings, one row each; ``kind`` is ``POSTING_TRADE`` or ``POSTING_FUNDING``."""

    transaction_id: Int64s
    account_id: Int64s
    asset_id: Int64s
    amount_units: Int64s
    kind: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TradeLegs:
    """Who gives what to whom in each trade: the base asset to the buyer, the notional to the seller, both a fee."""

    trade_id: Int64s
    buyer_account_id: Int64s
    seller_account_id: Int64s
    base_asset_id: Int64s
    quote_asset_id: Int64s
    base_units: Int64s
    notional_units: Int64s
    buyer_fee_units: Int64s
    seller_fee_units: Int64s


@dataclass(frozen=True, slots=True)
class Balances:
    """What each account's total of an asset changed by; one row per account and asset, also for 0."""

    account_id: Int64s
    asset_id: Int64s
    delta_units: Int64s


def trade_legs(trades: Events, symbols: SymbolUnits) -> TradeLegs:
    """Tell buyer from seller in each trade. trades: TRADED events of symbols that are known."""
    symbol_id = trades["symbol_id"]
    taker_buys = trades["side"] == Side.BUY
    taker, maker = trades["account_id"].astype(np.int64), trades["maker_account_id"].astype(np.int64)
    taker_fee, maker_fee = trades["fee_units"], trades["maker_fee_units"]
    return TradeLegs(
        trade_id=trades["trade_id"],
        buyer_account_id=np.where(taker_buys, taker, maker),
        seller_account_id=np.where(taker_buys, maker, taker),
        base_asset_id=symbols.base_asset_id[symbol_id],
        quote_asset_id=symbols.quote_asset_id[symbol_id],
        base_units=trades["quantity_lots"] * symbols.lot_units[symbol_id],
        notional_units=trades["notional_units"],
        buyer_fee_units=np.where(taker_buys, taker_fee, maker_fee),
        seller_fee_units=np.where(taker_buys, maker_fee, taker_fee),
    )


def post_trades(legs: TradeLegs) -> Postings:
    """Five postings a trade: the base asset changes hands, so does the quote asset, and the exchange gets the fees."""
    buyer, seller, base, quote = legs.buyer_account_id, legs.seller_account_id, legs.base_asset_id, legs.quote_asset_id
    notional, buyer_fee, seller_fee = legs.notional_units, legs.buyer_fee_units, legs.seller_fee_units
    # Side by side and then flattened: a trade's postings lie together.
    amounts = np.column_stack(
        [-legs.base_units, legs.base_units, -(notional + buyer_fee), notional - seller_fee, buyer_fee + seller_fee]
    )
    accounts = np.column_stack([seller, buyer, buyer, seller, np.full(len(buyer), ACCOUNT_ID_EXCHANGE)])
    assets = np.column_stack([base, base, quote, quote, quote])
    posted = amounts.reshape(-1) != 0
    return Postings(
        transaction_id=np.repeat(legs.trade_id, 5)[posted],
        account_id=accounts.reshape(-1)[posted],
        asset_id=assets.reshape(-1)[posted],
        amount_units=amounts.reshape(-1)[posted],
        kind=np.full(int(posted.sum()), POSTING_TRADE, np.uint8),
    )


def post_fundings(fundings: Events, transaction_ids: Int64s) -> Postings:
    """Make two postings for what risk credited or debited; none for what it refused."""
    funded = fundings["kind"] == EventKind.FUNDED
    done = fundings[funded]
    amount = done["amount_units"]
    outside = np.full(len(done), ACCOUNT_ID_OUTSIDE)
    return Postings(
        transaction_id=np.repeat(transaction_ids[funded], 2),
        account_id=np.column_stack([outside, done["account_id"]]).reshape(-1).astype(np.int64),
        asset_id=np.repeat(done["asset_id"].astype(np.int64), 2),
        amount_units=np.column_stack([-amount, amount]).reshape(-1),
        kind=np.full(2 * len(done), POSTING_FUNDING, np.uint8),
    )


def concatenate(first: Postings, second: Postings) -> Postings:
    """Put the postings of one after those of the other."""
    return Postings(*(np.concatenate([getattr(first, name), getattr(second, name)]) for name in Postings.__slots__))


def sum_balances(postings: Postings) -> Balances:
    """Add up what each account gets of each asset."""
    key = postings.account_id << 16 | postings.asset_id
    keys, group = np.unique(key, return_inverse=True)
    delta: Any = np.zeros(len(keys), np.int64)
    np.add.at(delta, group, postings.amount_units)
    return Balances(keys >> 16, keys & 0xFFFF, delta)


def funding_transaction_ids(fundings: Events) -> Int64s:
    """Ledger transaction of each deposit and withdrawal: in time order with trade ids, unique by the number."""
    timestamp_ms = fundings["timestamp_ns"] // 1_000_000
    origin = first_id_at(0)
    assert origin == 0
    heads = [first_id_at(int(moment)) for moment in timestamp_ms]
    return np.array(heads, np.int64) | (fundings["funding_number"] & ((1 << 22) - 1))
