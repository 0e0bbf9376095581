"""Atomics on words that several processes write."""

import numpy as np
from tests.ipc.processes import Fd, Given, child, finish

from tradeengine.ipc.atomics import (
    address_of,
    compare_exchange_word,
    exchange_word,
    fetch_add_word,
    load_word,
    load_word_after_fence,
    store_word,
)
from tradeengine.ipc.segment import Segment

ADDITIONS = 50_000


def test_words() -> None:
    """A word is what was stored last, and exchange and fetch-add give what was there before."""
    words = np.zeros(3, np.int64)
    address = address_of(words) + 8
    store_word(address, -5)
    assert load_word(address) == -5
    assert exchange_word(address, 7) == -5
    assert fetch_add_word(address, -2) == 7
    assert load_word_after_fence(address) == 5
    assert words.tolist() == [0, 5, 0]


def test_fetch_add_loses_nothing() -> None:
    """Two processes that add to one word at the same time lose no addition."""
    segment = Segment.create("words", 64)
    with child(_add, Fd(segment.fd)) as first, child(_add, Fd(segment.fd)) as second:
        finish(first)
        finish(second)
    assert load_word(segment.address(0)) == 2 * ADDITIONS


def test_compare_exchange_stores_only_over_what_was_expected() -> None:
    """A word is exchanged only if it is what the caller takes it for; the caller learns what it was."""
    words = np.zeros(1, np.int64)
    address = address_of(words)
    assert compare_exchange_word(address, 0, -3) == 0
    assert compare_exchange_word(address, 0, 9) == -3
    assert words.tolist() == [-3]


def test_compare_exchange_is_won_by_one() -> None:
    """Two processes that count by compare and exchange at the same time lose no step."""
    segment = Segment.create("words", 64)
    with child(_step, Fd(segment.fd)) as first, child(_step, Fd(segment.fd)) as second:
        finish(first)
        finish(second)
    assert load_word(segment.address(0)) == 2 * ADDITIONS


def _step(fd: Given) -> None:
    segment = Segment.attach(fd(), writable=True)
    address = segment.address(0)
    for _ in range(ADDITIONS):
        while compare_exchange_word(address, seen := load_word(address), seen + 1) != seen:
            pass


def _add(fd: Given) -> None:
    segment = Segment.attach(fd(), writable=True)
    for _ in range(ADDITIONS):
        fetch_add_word(segment.address(0), 1)
