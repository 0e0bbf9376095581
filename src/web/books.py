"""Books as administrators see them: how deep, how wide, how many orders.

It refuses to know how they came to be so.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from tradeengine.core.records import TradingState
from tradeengine.core.times import format_ms
from tradeengine.ipc.seqlock import SeqlockBusy
from tradeengine.web import schemas_overview as schemas

if TYPE_CHECKING:
    import numpy as np

    from tradeengine.core.symbols import SymbolSpec
    from tradeengine.web.front import Pages


class _Sides(NamedTuple):
    """What a row of the table ``depth`` adds up to."""

    sequence: int
    timestamp_ns: int
    bid_count: int
    ask_count: int
    best_bid_ticks: int
    best_ask_ticks: int
    bid_lots: int
    ask_lots: int


def book_stats(pages: Pages, spec: SymbolSpec, orders: int | None) -> schemas.BookStats:
    """Show one book. orders: how many are live; None: nobody knows. Raises SeqlockBusy."""
    sides: _Sides = pages.depth.read_with(spec.symbol_id, _add_up)
    touch = pages.touch.read(spec.symbol_id)
    has_both = bool(sides.bid_count and sides.ask_count)
    return schemas.BookStats(
        symbol=spec.name,
        shard=spec.shard,
        status=trading_status(touch),  # type: ignore[arg-type]  # the names are the enumeration's
        sequence=sides.sequence,
        orders=orders,
        bid_levels=sides.bid_count,
        ask_levels=sides.ask_count,
        best_bid=_price(spec, sides.best_bid_ticks),
        best_ask=_price(spec, sides.best_ask_ticks),
        spread=_price(spec, sides.best_ask_ticks - sides.best_bid_ticks) if has_both else None,
        last_price=_price(spec, int(touch["last_price_ticks"])),
        bid_depth=spec.format_quantity(sides.bid_lots),
        ask_depth=spec.format_quantity(sides.ask_lots),
        updated_at=format_ms(sides.timestamp_ns // 1_000_000) if sides.timestamp_ns else None,
    )


def trading_status(touch: np.void) -> str:
    """Name the trading state that a row of the table ``touch`` has."""
    return TradingState(int(touch["trading_state"])).name.lower() if touch["listed"] else "unlisted"


def open_symbols(pages: Pages) -> int:
    """Count the symbols that trade. Raises SeqlockBusy."""
    symbol_ids = list(pages.directory().symbols)
    rows = pages.touch.read_rows(symbol_ids)
    return int(((rows["listed"] == 1) & (rows["trading_state"] == TradingState.OPEN)).sum())


def trading_states(pages: Pages) -> dict[str, TradingState]:
    """Give the trading state of each symbol that its matcher knows; what is being written just now is left out."""
    states = {}
    for symbol_id, spec in pages.directory().symbols.items():
        with suppress(SeqlockBusy):
            touch = pages.touch.read(symbol_id)
            if touch["listed"]:
                states[spec.name] = TradingState(int(touch["trading_state"]))
    return states


def _add_up(row: Any) -> _Sides:
    """Run on the shared row in place, and again when it changed meanwhile."""
    bid_count, ask_count = int(row["bid_count"]), int(row["ask_count"])
    bids, asks = row["bids"][:bid_count], row["asks"][:ask_count]
    return _Sides(
        sequence=int(row["sequence"]),
        timestamp_ns=int(row["timestamp_ns"]),
        bid_count=bid_count,
        ask_count=ask_count,
        best_bid_ticks=int(bids[0][0]) if len(bids) else 0,
        best_ask_ticks=int(asks[0][0]) if len(asks) else 0,
        bid_lots=int(bids[:, 1].sum()),
        ask_lots=int(asks[:, 1].sum()),
    )


def _price(spec: SymbolSpec, ticks: int) -> str | None:
    return spec.format_price(ticks) if ticks else None
