"""Dumps of a book: what has no room, and what is no dump, is refused by name; the rest comes back whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.core.book_world import ALICE, BUY, SELL, Market

from tradeengine.core import book as kernel
from tradeengine.core.book_dump import DumpError


@pytest.fixture
def market() -> Market:
    """Two symbols, three orders on two levels of one side, and a timer."""
    market = Market()
    market.list_symbol(1)
    for price in (10, 10, 11):
        market.place(BUY, 1, price)
    market.place(SELL, 1, 20, symbol_id=1)
    market.set_timer(ALICE, market.now_ns + 10**9)
    return market


def test_dump_comes_back_whole(market: Market) -> None:
    """Levels, orders and timers of a loaded book are those that were dumped."""
    loaded = kernel.load(market.limits, kernel.dump(market.book))
    assert kernel.levels(loaded, 0, BUY).tolist() == [[11, 1], [10, 2]]
    assert kernel.timers(loaded).tolist() == [[ALICE, market.now_ns + 10**9]]
    assert kernel.next_expiry_ns(loaded) == market.now_ns + 10**9
    assert kernel.state_hash(loaded) == kernel.state_hash(market.book)
    for counter in (kernel.next_event_sequence, kernel.next_command_sequence, kernel.last_timestamp_ns):
        assert counter(loaded) == counter(market.book) > 0
    assert kernel.last_ring_sequence(loaded) == kernel.last_ring_sequence(market.book)


@pytest.mark.parametrize(
    ("limit", "value", "why"),
    [
        ("orders_max", 3, "4 orders do not fit orders_max 3"),
        ("symbols_max", 1, "symbol 1 does not fit symbols_max 1"),
        ("accounts_max", ALICE, f"account {ALICE} does not fit accounts_max {ALICE}"),
        ("levels_max", 1, "its price levels do not fit levels_max 1"),
    ],
)
def test_dump_that_has_no_room_is_refused_by_name(market: Market, limit: str, value: int, why: str) -> None:
    """Limits that were made smaller than what a book holds are named, with what does not fit."""
    with pytest.raises(DumpError, match=why):
        kernel.load(replace(market.limits, **{limit: value}), kernel.dump(market.book))


def test_bytes_that_are_no_dump_are_refused(market: Market) -> None:
    """A length that does not go with the counts, counts below zero, and an unknown version are no dump."""
    data = kernel.dump(market.book)
    for wrong in (b"", data[:-1], data[:-8], data + bytes(8), data[:16]):
        with pytest.raises(DumpError, match="its length is wrong"):
            kernel.load(market.limits, wrong)
    words = np.frombuffer(data, np.int64).copy()
    words[1] = -1
    with pytest.raises(DumpError, match="its length is wrong"):
        kernel.load(market.limits, words.tobytes())
    words[0] = 3
    with pytest.raises(DumpError, match="a dump of version 3; this program reads versions 1 and 2"):
        kernel.load(market.limits, words.tobytes())


def test_dump_of_the_first_version_has_no_timers(market: Market) -> None:
    """A dump from before there were timers is read: its head is a word shorter, and no timer is armed."""
    market.set_timer(ALICE, 0)
    data = kernel.dump(market.book)
    words = np.frombuffer(data, np.int64)
    older = np.concatenate([[1], words[1:3], words[4:]]).astype(np.int64)
    loaded = kernel.load(market.limits, older.tobytes())
    assert kernel.dump(loaded) == data
