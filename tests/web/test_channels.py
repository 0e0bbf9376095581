"""Claims about names of channels: every right name is one channel, and every other is refused for what is wrong."""

from __future__ import annotations

from typing import NoReturn

import pytest
from tests.web.bench import BTC_USDT

from tradeengine.core.feed import TIME_FRAME_NAMES, FeedKind
from tradeengine.core.symbols import SymbolSpec
from tradeengine.web.errors import ApiError
from tradeengine.web.streams.channels import BALANCES, MERGED, ORDERS, PRIVATE, ChannelName, parse_channel

PUBLIC = [f"{kind}:BTC/USDT" for kind in ("trades", "book", "ticker", "status")] + [
    f"candles:{frame}:BTC/USDT" for frame in TIME_FRAME_NAMES.values()
]


def find(name: str) -> SymbolSpec:
    """Find a symbol. Raises ApiError."""
    if name.upper().replace("-", "/") == "BTC/USDT":
        return BTC_USDT
    raise ApiError("SYMBOL_NOT_FOUND", "There is no such symbol.")


def never(name: str) -> NoReturn:
    """Be asked for no symbol."""
    raise AssertionError(name)


def parsed(text: str) -> ChannelName:
    """Read the name of a public channel."""
    name = parse_channel(text, find)
    assert isinstance(name, ChannelName)
    return name


def test_every_public_channel_is_one_of_its_own() -> None:
    """Each name is read as itself, and no two share what the feed or the publisher knows them by."""
    names = [parsed(text) for text in PUBLIC]
    assert [name.text for name in names] == PUBLIC
    assert len({name.key for name in names}) == len({name.interest for name in names}) == len(PUBLIC)
    assert all(name.interest.bit_count() == 1 for name in names)
    assert all(not one.interest & other.interest for one in names for other in names if one is not other)


@pytest.mark.parametrize("written", ["BTC/USDT", "BTC-USDT", "btc/usdt", "btc-Usdt"])
def test_symbol_may_be_written_in_every_way(written: str) -> None:
    """However its symbol is written, a channel is the same, and is called by one name."""
    for text in PUBLIC:
        assert parsed(text.replace("BTC/USDT", written)) == parsed(text)


def test_private_channels_have_no_symbol() -> None:
    """Own orders and balances are channels by themselves."""
    assert {parse_channel(text, never) for text in (ORDERS, BALANCES)} == PRIVATE


def test_states_are_merged_and_events_are_not() -> None:
    """What tells a state may be merged for the slow; a trade, a halt or an own order never is."""
    assert {FeedKind.BOOK, FeedKind.TICKER, FeedKind.CANDLE} == MERGED


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "book", "BOOK:BTC/USDT", " book:BTC/USDT", "candles", "candles:", "candles:1M:BTC/USDT"),
        *("candles:7m:X", "orders:BTC/USDT", "balances:BTC", "depth:BTC/USDT", "\ud800", "x" * 10_000),
    ],
)
def test_other_names_are_refused(text: str) -> None:
    """What is no channel is refused as such, or for its symbol, and is called by a short and printable name."""
    with pytest.raises(ApiError) as refused:
        parse_channel(text, find)
    assert refused.value.code in {"INVALID_REQUEST", "SYMBOL_NOT_FOUND"}
    if refused.value.code == "INVALID_REQUEST":
        assert refused.value.details["field"] == "channels"
        assert len(refused.value.details["channel"].encode()) < 300
