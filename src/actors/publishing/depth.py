"""Depth from events: how much rests on each price, without knowing a single order.

Every event tells what it adds to a level and takes from one, so a batch of events is a batch of additions, and their
order does not matter before the command ends. Rule 1: a limit order counts from its ACCEPTED on (a stop-limit order
from TRIGGERED on), even while it still trades as a taker: what it trades is then taken from both sides, and what is
cancelled of it from its own. Market orders never count. Rule 2: so the levels are the book's at the end of each
command, and only there; in between they may be crossed. Rule 3: a level that would go below nothing means that events
were missed: ``DepthBroken``, and the whole book has to be fetched anew.
It refuses to know rings, tables and who looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from tradeengine.core.records import EventFlag, EventKind, OrderType, Side, amended_event_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_TAKER_STARTS: Final = np.zeros(256, bool)
_TAKER_STARTS[[EventKind.ACCEPTED, EventKind.TRIGGERED, EventKind.AMENDED]] = True
_CHANGES_LEVELS: Final = _TAKER_STARTS.copy()
_CHANGES_LEVELS[[EventKind.TRADED, EventKind.CANCELLED]] = True

change_dtype: Final = np.dtype(
    [
        ("event", "<i8"),  # index in the batch
        ("price_ticks", "<i8"),
        ("lots", "<i8"),  # added; negative: taken
        ("symbol_id", "<i4"),
        ("side", "u1"),
    ]
)


PRICE_UNKNOWN: Final = -1


class DepthBroken(Exception):  # noqa: N818 - reads as what happened, like Lapped of the rings
    """The levels contradict the events: some were missed."""


class Taker(NamedTuple):
    """The order at work in the present command, as its last ACCEPTED, TRIGGERED or AMENDED described it."""

    order_id: int
    price_ticks: int
    counts: bool
    """Whether it is in the levels: a limit order, or a stop-limit order that has fired."""


NO_TAKER: Final = Taker(0, 0, counts=False)


def level_changes(events: NDArray[np.void], taker: Taker) -> tuple[NDArray[np.void], Taker]:
    """Tell what a shard's events add to levels and take from them, by event.

    events: 1-D ``event_dtype``, in order and without gaps. taker: what the call for the events before returned.
    Returns 1-D ``change_dtype``, ordered by event, and the taker to go on with. A trade whose taker was announced
    before the first event has ``PRICE_UNKNOWN`` for what it takes from the taker's side.
    """
    index = np.flatnonzero(_CHANGES_LEVELS[events["kind"]])
    if not len(index):
        return np.zeros(0, change_dtype), taker
    # take copies a record at once, an index array field by field: sixteen times as slow for so wide a record.
    events = events.take(index)
    kind = events["kind"]
    counts = _counts(events)

    # Row 0 stands for the taker that the batch before left at work.
    starts = np.flatnonzero(_TAKER_STARTS[kind])
    start_ids = np.concatenate([[taker.order_id], events["order_id"][starts]])
    start_prices = np.concatenate([[taker.price_ticks], events["price_ticks"][starts]])
    start_counts = np.concatenate([[taker.counts], counts[starts]])

    traded = np.flatnonzero(kind == EventKind.TRADED)
    at_work = np.searchsorted(starts, traded, side="right")
    unknown = start_ids[at_work] != events["order_id"][traded]
    resting = unknown | start_counts[at_work]
    taken = traded[resting]
    taker_prices = np.where(unknown, PRICE_UNKNOWN, start_prices[at_work])[resting]

    added = starts[counts[starts]]
    amended = np.flatnonzero((kind == EventKind.AMENDED) & counts)
    before = events[amended].view(amended_event_dtype)
    ended = np.flatnonzero((kind == EventKind.CANCELLED) & counts)
    changes = np.concatenate(
        [
            _changes(events, added, events["price_ticks"][added], events["remaining_lots"][added]),
            _changes(events, amended, before["previous_price_ticks"], -before["previous_remaining_lots"]),
            _changes(events, ended, events["price_ticks"][ended], -events["remaining_lots"][ended]),
            _changes(events, traded, events["price_ticks"][traded], -events["quantity_lots"][traded], makers=True),
            _changes(events, taken, taker_prices, -events["quantity_lots"][taken]),
        ]
    )
    changes = changes.take(np.argsort(changes["event"], kind="stable"))
    changes["event"] = index[changes["event"]]
    return changes, Taker(int(start_ids[-1]), int(start_prices[-1]), counts=bool(start_counts[-1]))


class Depth:
    """Both sides of one symbol's book as levels: prices and lots in two sorted arrays per side, best first."""

    __slots__ = ("_sides",)

    def __init__(self) -> None:
        self._sides = (_DepthSide(Side.BUY), _DepthSide(Side.SELL))

    def side(self, side: Side, levels_max: int | None = None) -> NDArray[np.int64]:
        """Levels of a side, shape (n, 2): price_ticks and lots, best first, at most ``levels_max``. A copy."""
        return self._sides[side].levels(levels_max)

    def best(self, side: Side) -> tuple[int, int]:
        """Price and lots of the best level; (0, 0): none."""
        return self._sides[side].best()

    def replace(self, side: Side, levels: NDArray[np.int64]) -> None:
        """Take a side's levels, shape (n, 2), best first, for those that are."""
        self._sides[side].replace(levels)

    def add(self, side: Side, prices_ticks: NDArray[np.int64], lots: NDArray[np.int64]) -> None:
        """Add lots, negative ones too, to levels of distinct prices.

        Raises DepthBroken when a level goes below nothing, or for a price of ``PRICE_UNKNOWN``.
        """
        if len(prices_ticks) and int(prices_ticks.min()) == PRICE_UNKNOWN:
            raise DepthBroken("a trade's taker was not announced by any event that was seen")
        self._sides[side].add(prices_ticks, lots)


class _DepthSide:
    """One side. A bid's key is the negative price, so that on both sides the best level has the smallest key."""

    __slots__ = ("_keys", "_lots", "_sign")

    def __init__(self, side: Side) -> None:
        self._sign = -1 if side == Side.BUY else 1
        self._keys = np.zeros(0, np.int64)
        self._lots = np.zeros(0, np.int64)

    def levels(self, levels_max: int | None) -> NDArray[np.int64]:
        return np.column_stack([self._keys[:levels_max] * self._sign, self._lots[:levels_max]])

    def best(self) -> tuple[int, int]:
        return (int(self._keys[0]) * self._sign, int(self._lots[0])) if len(self._keys) else (0, 0)

    def replace(self, levels: NDArray[np.int64]) -> None:
        self._keys = levels[:, 0] * self._sign
        self._lots = levels[:, 1].copy()

    def add(self, prices_ticks: NDArray[np.int64], lots: NDArray[np.int64]) -> None:
        keys = prices_ticks * self._sign
        order = np.argsort(keys)
        keys, lots = keys[order], lots[order]
        places = np.searchsorted(self._keys, keys)
        known = np.zeros(len(keys), bool)
        inside = places < len(self._keys)
        known[inside] = self._keys[places[inside]] == keys[inside]
        self._lots[places[known]] += lots[known]
        self._lots = np.insert(self._lots, places[~known], lots[~known])
        self._keys = np.insert(self._keys, places[~known], keys[~known])
        if (self._lots <= 0).any():
            self._drop_empty()

    def _drop_empty(self) -> None:
        if (self._lots < 0).any():
            price_ticks = int(self._keys[int(np.argmin(self._lots))]) * self._sign
            raise DepthBroken(f"more was taken from the level {price_ticks} than rested there")
        rests = self._lots > 0
        self._keys, self._lots = self._keys[rests], self._lots[rests]


def net_changes(changes: NDArray[np.void]) -> Iterator[tuple[int, Side, NDArray[np.int64], NDArray[np.int64]]]:
    """Sum changes per level: (symbol_id, side, distinct prices in ticks, lots ≠ 0) for each side of each symbol."""
    if not len(changes):
        return
    changes = changes.take(np.lexsort((changes["price_ticks"], changes["side"], changes["symbol_id"])))
    books = changes["symbol_id"].astype(np.int64) * 2 + changes["side"]
    firsts = np.flatnonzero(np.diff(books, prepend=-1) | np.diff(changes["price_ticks"], prepend=-1))
    lots = np.add.reduceat(changes["lots"], firsts)
    firsts, lots = firsts[lots != 0], lots[lots != 0]
    books, prices = books[firsts], changes["price_ticks"][firsts]
    for book in np.unique(books).tolist():
        part = slice(*np.searchsorted(books, [book, book + 1]).tolist())
        yield book // 2, Side(book % 2), prices[part], lots[part]


def _counts(events: NDArray[np.void]) -> NDArray[np.bool_]:
    """Per event, whether its order is one that rests: a limit order, or a stop-limit order that has fired."""
    fired = (events["flags"] & EventFlag.TRIGGERED) != 0
    counts: NDArray[np.bool_] = events["order_type"] == OrderType.LIMIT
    counts |= (events["order_type"] == OrderType.STOP_LIMIT) & fired
    return counts


def _changes(
    events: NDArray[np.void],
    index: NDArray[np.int64],
    prices_ticks: NDArray[np.int64],
    lots: NDArray[np.int64],
    *,
    makers: bool = False,
) -> NDArray[np.void]:
    changes = np.zeros(len(index), change_dtype)
    changes["event"] = index
    changes["price_ticks"] = prices_ticks
    changes["lots"] = lots
    changes["symbol_id"] = events["symbol_id"][index]
    changes["side"] = events["side"][index] ^ makers  # a maker is on the other side
    return changes
