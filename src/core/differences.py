"""Differences: what one place says and another does not, named so that people find it.

A difference is between what is *expected* (what follows from PostgreSQL's own records) and what was *found* elsewhere.
Rule 1: every difference is counted; the first thousand are kept by name, so that a great damage fits an answer too.
Rule 2: rows are compared as arrays: only what differs becomes a Python object.
It refuses to know where the two sides come from, and names of users and assets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
KEPT_MAX: Final = 1000


class Unit(Enum):
    """What a difference's two numbers count."""

    NUMBER = "number"
    AMOUNT = "amount"
    """Minor units of ``asset_id``."""
    PRICE = "price"
    """Ticks of ``symbol_id``."""
    QUANTITY = "quantity"
    """Lots of ``symbol_id``."""
    BASE = "base"
    """Minor units of the base asset of ``symbol_id``."""
    QUOTE = "quote"
    """Minor units of its quote asset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference. ``kind`` is stable; ``field`` says what of an order differs. None: does not apply.

    table: ``field`` is a column of it, and both sides are as they stand there. shard and sequence: of the event, or of
    the command where ``file`` names a journal's segment or a snapshot.
    """

    kind: str
    message: str
    expected: int | str | None = None
    found: int | str | None = None
    unit: Unit = Unit.NUMBER
    field: str | None = None
    account_id: int | None = None
    asset_id: int | None = None
    symbol_id: int | None = None
    order_id: int | None = None
    transaction_id: int | None = None
    table: str | None = None
    shard: int | None = None
    sequence: int | None = None
    file: str | None = None


@dataclass
class Differences:
    """A collection of them: ``count`` is of all, ``kept`` the first ones."""

    count: int = 0
    kept: list[Difference] = field(default_factory=list)

    def add(self, difference: Difference) -> None:
        """Add one."""
        self.add_each(1, lambda _: difference)

    def add_each(self, count: int, make: Callable[[int], Difference]) -> None:
        """Add so many; ``make(place)`` is asked only for those that are kept."""
        room = max(0, KEPT_MAX - len(self.kept))
        self.kept += [make(place) for place in range(min(count, room))]
        self.count += count


def pair_up(expected: Int64s, found: Int64s) -> tuple[Int64s, Int64s, Int64s, Int64s]:
    """Match two lists of unique ids: places in both of what both have, of what is missing, and of what is unknown.

    Returns (in expected, in found) of the common ones, then those of ``expected`` alone and those of ``found`` alone.
    """
    _, at_expected, at_found = np.intersect1d(expected, found, assume_unique=True, return_indices=True)
    missing = np.ones(len(expected), np.bool_)
    missing[at_expected] = False
    unknown = np.ones(len(found), np.bool_)
    unknown[at_found] = False
    return at_expected, at_found, np.flatnonzero(missing), np.flatnonzero(unknown)


def sum_by_key(keys: Int64s, *amounts: Int64s) -> tuple[Int64s, ...]:
    """Add up amounts by key: the keys, ascending and unique, and the sums of each of ``amounts``."""
    unique, places = np.unique(keys, return_inverse=True)
    sums = [np.zeros(len(unique), np.int64) for _ in amounts]
    for total, values in zip(sums, amounts, strict=True):
        np.add.at(total, places, values)
    return (unique, *sums)
