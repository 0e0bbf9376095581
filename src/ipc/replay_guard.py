"""Signatures that have been used, in shared memory: each counts once while its time runs, whichever front it comes to.

A signed request is known by a keyed hash, which names a group of 64 words and a tag. A word holds the tag and the
second at which the signature's time is over. It is one word, so that it is never half written, and it changes by
compare-and-swap: whoever is killed in the middle leaves all or nothing.

Rule 1: a signature is taken at most once. Two fronts that get the same one in the same moment look again after they
have written, and each one that finds the other's word refuses: so perhaps neither takes it, but never both.
Rule 2: memory is fixed. A word whose time is over is taken by the next one; where all of a group are needed, nothing
more is let in there (``FULL``), because what cannot be remembered could be sent again.
Rule 3: the hash has a key of its own, made at start, so that nobody can choose whose group to fill.
Rule 4: what was signed before the board was made may have been used in the engine's life before: ``began_ms`` tells.
A request is taken for another one with a chance of 64 in 2**48, and is then refused.
It refuses to know keys, signatures and requests.
"""

from __future__ import annotations

import secrets
from enum import IntEnum
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from numba import njit

from tradeengine.ipc.atomics import compare_exchange, compare_exchange_word, load_acquire, load_word

if TYPE_CHECKING:
    from tradeengine.ipc.segment import Segment

GROUP_WORDS: Final = 64
WORD_BYTES: Final = 8
HEAD_BYTES: Final = 64
TRIES_MAX: Final = 16
"""Of one front in one group while others write there, too."""
SECOND_BITS: Final = 14
SECOND_MASK: Final = (1 << SECOND_BITS) - 1
LIVE_S_MAX: Final = 1024
"""A word's second is taken to lie at most so far ahead; seconds are counted modulo four hours and a half. So the clock
may be set back by a quarter of an hour and nothing is forgotten."""
_TAG_BITS: Final = 63 - SECOND_BITS

assert LIVE_S_MAX < SECOND_MASK


class Verdict(IntEnum):
    """What became of a signature."""

    TAKEN = 0
    USED = 1
    FULL = 2


def board_bytes(word_count: int) -> int:
    """Give the bytes of a board for ``word_count`` signatures, a power of two, at least one group."""
    assert word_count & (word_count - 1) == 0
    assert word_count >= GROUP_WORDS
    return HEAD_BYTES + word_count * WORD_BYTES


class ReplayGuard:
    """The used signatures of one engine, as one front sees them."""

    def __init__(self, board: Segment, now_ms: int) -> None:
        """Join a board of ``board_bytes``, all zero at first; the first to come says when it began."""
        self._board = board  # kept, because what follows are addresses in its memory
        word_count = (board.size - HEAD_BYTES) // WORD_BYTES
        assert board_bytes(word_count) == board.size
        key_address, began_address = board.address(0), board.address(WORD_BYTES)
        compare_exchange_word(key_address, 0, secrets.randbits(63) | 1)
        compare_exchange_word(began_address, 0, now_ms)
        self._key = load_word(key_address).to_bytes(8, "little")
        self.began_ms = load_word(began_address)
        self._first = board.address(HEAD_BYTES)
        self._group_mask = word_count // GROUP_WORDS - 1

    def take(self, content: bytes, expires_ms: int, now_ms: int) -> Verdict:
        """Take what was signed, once until ``expires_ms``, which is less than a quarter of an hour ahead."""
        digest = blake2b(content, digest_size=16, key=self._key).digest()
        group = int.from_bytes(digest[:8], "little") & self._group_mask
        tag = int.from_bytes(digest[8:], "little") & ((1 << _TAG_BITS) - 1) | 1  # so that no word is 0
        word = tag << SECOND_BITS | (expires_ms // 1000 + 1) & SECOND_MASK
        address = self._first + group * GROUP_WORDS * WORD_BYTES
        return Verdict(_take(address, word, now_ms // 1000 & SECOND_MASK))


@njit("int64(int64, int64, int64)", cache=True)
def _is_elsewhere(group: int, word: int, own: int) -> int:
    """Say whether another place of the group has the same word."""
    for place in range(GROUP_WORDS):
        address = group + place * WORD_BYTES
        if address != own and load_acquire(address) == word:
            return 1
    return 0


@njit("int64(int64, int64, int64)", cache=True)
def _take(group: int, word: int, now_s: int) -> int:
    """Write ``word`` into a group unless it is there: 0 when it was not, 1 when it is, 2 when there is no room."""
    for _ in range(TRIES_MAX):
        free, there = 0, 0
        for place in range(GROUP_WORDS):
            address = group + place * WORD_BYTES
            known = load_acquire(address)
            if known == word:
                return 1
            if free == 0 and (known == 0 or ((known & SECOND_MASK) - now_s) & SECOND_MASK > LIVE_S_MAX):
                free, there = address, known
            if known == 0:
                break  # words are never emptied, so behind it there is none
        if free == 0:
            return 2
        if compare_exchange(free, there, word) == there:
            return _is_elsewhere(group, word, free)
        # Somebody else took the place, perhaps for the same signature: look again.
    return 2


def compile_kernels() -> None:
    """Compile what is compiled here. Signatures are fixed, so importing has done it already."""
    for kernel in (_take, _is_elsewhere):
        assert kernel.signatures
