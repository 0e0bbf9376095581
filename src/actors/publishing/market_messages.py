"""What happened in the market as messages for everyone: trades, changes of books, tickers, candles, trading states.

It refuses to know who wants them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tradeengine.core.feed import TIME_FRAME_NAMES, TimeFrame
from tradeengine.core.messages import (
    Candle,
    Change,
    OrderbookUpdate,
    Ticker,
    TradeExecuted,
    TradingStatus,
    encode,
)
from tradeengine.core.records import Side
from tradeengine.core.tables import NO_PRICE
from tradeengine.core.times import format_ms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tradeengine.core.symbols import SymbolSpec
    from tradeengine.core.trading import Trading

NS_PER_MS: Final = 10**6
SIDE_NAMES: Final = {int(side): side.name.lower() for side in Side}
_TRADE_FIELDS: Final = (
    "sequence",
    "timestamp_ns",
    "symbol_id",
    "trade_id",
    "price_ticks",
    "quantity_lots",
    "side",
    "fee_units",
    "maker_fee_units",
)


def trade_rows(trades: NDArray[np.void]) -> Iterator[tuple[int, ...]]:
    """Give sequence, timestamp_ns, symbol_id and what else ``trade_text`` needs of TRADED events, as plain numbers."""
    return zip(*(trades[name].tolist() for name in _TRADE_FIELDS), strict=True)


def trade_text(row: tuple[int, ...], spec: SymbolSpec) -> bytes:
    """Tell a trade."""
    sequence, timestamp_ns, _, trade_id, price_ticks, lots, taker_side, taker_fee, maker_fee = row
    taker_buys = taker_side == Side.BUY
    return encode(
        TradeExecuted(
            trade_id=str(trade_id),
            symbol=spec.name,
            price=spec.format_price(price_ticks),
            quantity=spec.format_quantity(lots),
            taker_side=SIDE_NAMES[taker_side],
            buyer_fee=spec.quote.format(taker_fee if taker_buys else maker_fee),
            seller_fee=spec.quote.format(maker_fee if taker_buys else taker_fee),
            sequence=sequence,
            timestamp=format_ms(timestamp_ns // NS_PER_MS),
        )
    )


def level_changes_between(before: NDArray[np.int64], after: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Tell how one side of a book became another: (price_ticks, lots) by price; 0 lots: the level is gone.

    before, after: shape (n, 2), price_ticks and lots, prices distinct.
    """
    gone = before[~np.isin(before[:, 0], after[:, 0])].copy()
    gone[:, 1] = 0
    places = np.argsort(before[:, 0])
    found = np.searchsorted(before[:, 0], after[:, 0], sorter=places)
    known = np.zeros(len(after), bool)
    inside = found < len(before)
    known[inside] = (before[places[found[inside]]] == after[inside]).all(axis=1)
    changed: list[tuple[int, int]] = np.concatenate([gone, after[~known]]).tolist()
    return changed


def book_text(
    spec: SymbolSpec,
    changes: tuple[list[tuple[int, int]], list[tuple[int, int]]],
    touch: tuple[tuple[int, int], tuple[int, int]],
    previous_sequence: int,
    sequence: int,
    timestamp_ns: int,
) -> bytes:
    """Tell how a book has changed. changes, touch: of both sides, (price_ticks, lots); (0, 0): there is no best."""
    (bid_ticks, bid_lots), (ask_ticks, ask_lots) = touch
    told: list[Change] = []
    for side, levels in zip((Side.BUY, Side.SELL), changes, strict=True):
        name = SIDE_NAMES[side]
        told += [(name, spec.format_price(price), spec.format_quantity(lots)) for price, lots in levels]
    return encode(
        OrderbookUpdate(
            symbol=spec.name,
            best_bid=_price(spec, bid_ticks),
            best_ask=_price(spec, ask_ticks),
            bid_quantity=_quantity(spec, bid_lots),
            ask_quantity=_quantity(spec, ask_lots),
            spread=spec.format_price(ask_ticks - bid_ticks) if bid_ticks and ask_ticks else None,
            changes=told,
            previous_sequence=previous_sequence,
            sequence=sequence,
            timestamp=format_ms(timestamp_ns // NS_PER_MS),
        )
    )


def ticker_text(spec: SymbolSpec, row: Any) -> bytes:
    """Tell a ticker, a ``ticker_dtype`` record."""
    last_ticks, open_ticks = int(row["last_price_ticks"]), int(row["open_ticks"])
    change_ticks = last_ticks - open_ticks if last_ticks != NO_PRICE and open_ticks != NO_PRICE else None
    return encode(
        Ticker(
            symbol=spec.name,
            last=_price(spec, last_ticks),
            last_quantity=_quantity(spec, row["last_quantity_lots"]),
            best_bid=_price(spec, row["best_bid_ticks"]),
            best_bid_quantity=_quantity(spec, row["best_bid_lots"]),
            best_ask=_price(spec, row["best_ask_ticks"]),
            best_ask_quantity=_quantity(spec, row["best_ask_lots"]),
            open=_price(spec, open_ticks),
            high=_price(spec, row["high_ticks"]),
            low=_price(spec, row["low_ticks"]),
            volume=spec.format_quantity(row["volume_lots"]),
            quote_volume=spec.quote.format(int(row["quote_volume_units"])),
            change=None if change_ticks is None else spec.format_price(change_ticks),
            trades=int(row["trade_count"]),
            sequence=int(row["sequence"]),
            timestamp=format_ms(int(row["timestamp_ns"]) // NS_PER_MS),
        )
    )


def candle_text(
    spec: SymbolSpec, frame: TimeFrame, bucket: Any, sequence: int, timestamp_ns: int, *, closed: bool
) -> bytes:
    """Tell a candle; ``bucket`` is a ``bucket_dtype`` record whose minute is the candle's first."""
    return encode(
        Candle(
            symbol=spec.name,
            time_frame=TIME_FRAME_NAMES[frame],
            time=format_ms(int(bucket["minute"]) * 60_000),
            open=spec.format_price(bucket["open_ticks"]),
            high=spec.format_price(bucket["high_ticks"]),
            low=spec.format_price(bucket["low_ticks"]),
            close=spec.format_price(bucket["close_ticks"]),
            volume=spec.format_quantity(bucket["volume_lots"]),
            quote_volume=spec.quote.format(int(bucket["quote_volume_units"])),
            trades=int(bucket["trade_count"]),
            closed=closed,
            sequence=sequence,
            timestamp=format_ms(timestamp_ns // NS_PER_MS),
        )
    )


def status_text(spec: SymbolSpec, trading: Trading) -> bytes:
    """Tell a trading state."""
    return encode(
        TradingStatus(
            symbol=spec.name,
            status=trading.state.name.lower(),
            reason=trading.reason,
            sequence=trading.sequence,
            timestamp=format_ms(trading.timestamp_ns // NS_PER_MS),
        )
    )


def _price(spec: SymbolSpec, price_ticks: int) -> str | None:
    return spec.format_price(price_ticks) if price_ticks != NO_PRICE else None


def _quantity(spec: SymbolSpec, lots: int) -> str | None:
    return spec.format_quantity(lots) if lots else None
