"""Channels by name: what clients write, what the feed calls it, and what a front asks the publisher for.

It refuses to know who has subscribed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tradeengine.core.feed import CANDLE_INTERESTS, TIME_FRAME_NAMES, FeedKind, Interest
from tradeengine.web.errors import invalid_field
from tradeengine.web.jsonbody import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tradeengine.core.symbols import SymbolSpec

ORDERS: Final = "orders"
BALANCES: Final = "balances"
PRIVATE: Final = frozenset({ORDERS, BALANCES})

_PUBLIC: Final = {
    "trades": (FeedKind.TRADE, Interest.TRADES),
    "book": (FeedKind.BOOK, Interest.BOOK),
    "ticker": (FeedKind.TICKER, Interest.TICKER),
    "status": (FeedKind.STATUS, Interest.STATUS),
}
_FRAMES: Final = {name: frame for frame, name in TIME_FRAME_NAMES.items()}

MERGED: Final = frozenset({FeedKind.BOOK, FeedKind.TICKER, FeedKind.CANDLE})
"""Channels of which a client that is behind wants the latest state, not each step."""


@dataclass(frozen=True, slots=True)
class ChannelName:
    """A public channel. ``key`` is how the feed names it: kind, symbol id, time frame in minutes or 0."""

    text: str
    key: tuple[int, int, int]
    interest: int


def parse_channel(text: str, find_symbol: Callable[[str], SymbolSpec]) -> ChannelName | str:
    """Read a channel's name: a public channel, or the name of a private one. Raises ApiError naming the field."""
    if text in PRIVATE:
        return text
    kind_name, _, rest = text.partition(":")
    if kind_name == "candles":
        frame_name, _, rest = rest.partition(":")
        frame = _FRAMES.get(frame_name)
        if frame is None:
            raise _wrong(text, f"candles:TF:SYMBOL needs a TF of {', '.join(_FRAMES)}")
        spec = find_symbol(rest)
        name = f"candles:{frame_name}:{spec.name}"
        return ChannelName(name, (FeedKind.CANDLE, spec.symbol_id, int(frame)), CANDLE_INTERESTS[frame])
    if kind_name not in _PUBLIC:
        known = ", ".join([*(f"{name}:SYMBOL" for name in _PUBLIC), "candles:TF:SYMBOL", ORDERS, BALANCES])
        raise _wrong(text, f"known are {known}")
    kind, interest = _PUBLIC[kind_name]
    spec = find_symbol(rest)
    return ChannelName(f"{kind_name}:{spec.name}", (kind, spec.symbol_id, 0), int(interest))


def _wrong(text: str, allowed: str) -> Exception:
    return invalid_field("channels", f"There is no channel {printable(text)}; {allowed}.", channel=printable(text))
