"""A shard's books and tickers, kept by following its event ring, and fetched anew when events were missed.

A follower that starts, or was lapped, knows nothing. For each symbol it asks the matcher for the whole book (one
request at a time, through two tables) and does not poll meanwhile: the copy is tagged with the last event that it
includes, which is at or after the one before the follower's cursor, so events up to the tag are passed over and those
after it are added. Tickers start over from stored minutes in the same way, tagged with the first event these lack.

Rule 1: a book may be shown only after the last event of a command (``whole``), and only once it was fetched.
Rule 2: nothing here waits; a request without an answer is looked at again at the next call.
Rule 3: books need no database. While it cannot be read tickers lack their past, and books go on.
It refuses to know where the books are shown, how often, and how history is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tradeengine.actors.publishing.depth import NO_TAKER, Depth, DepthBroken, level_changes, net_changes
from tradeengine.actors.publishing.ticker import bucket_dtype
from tradeengine.core.records import EventFlag, EventKind, Side
from tradeengine.core.tables import level_request_dtype
from tradeengine.ipc.ring_reader import Lapped
from tradeengine.ipc.seqlock import SeqlockBusy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from tradeengine.actors.publishing.ticker import Tickers
    from tradeengine.ipc.ring_reader import RingReader
    from tradeengine.ipc.seqlock import SeqlockTable

NEVER: Final = 2**63 - 1


@dataclass(frozen=True)
class _Answer:
    symbol_id: int
    sequence: int
    bids: NDArray[np.int64]
    asks: NDArray[np.int64]


class Follower:
    """Books of one shard's symbols by id, and what the shard's trades add to ``tickers``.

    requests, levels: the tables in which the matcher is asked and answers; ``ask`` wakes it. ``listen`` is given every
    batch of events that was folded; after a history came late, some of them once more.
    ``changed`` are the symbols whose book or ticker changed since the caller emptied it.
    """

    def __init__(
        self,
        reader: RingReader,
        requests: SeqlockTable,
        levels: SeqlockTable,
        tickers: Tickers,
        symbols_max: int,
        ask: Callable[[], None],
        listen: Callable[[NDArray[np.void]], None] = lambda _: None,
    ) -> None:
        self._reader = reader
        self._requests = requests
        self._levels = levels
        self._tickers = tickers
        self._ask = ask
        self._listen = listen
        self._depths: dict[int, Depth] = {}
        self._unfetched: dict[int, None] = {}
        self._request_number = 0
        """Of the request that has no answer yet; 0: none is out."""
        self._known_through = np.full(symbols_max, NEVER)
        self.sequences = np.full(symbols_max, -1)
        """By symbol: the last event that changed its book, or with which it was fetched."""
        self.timestamps_ns = np.zeros(symbols_max, np.int64)
        self._taker = NO_TAKER
        self._history_from = NEVER
        self.whole = True
        """Whether the newest event seen ended its command; what is read again for a history does not change that."""
        self._reached = 0
        """The event behind the newest one that was seen."""
        self.lapped_count = 0
        self.event_count = 0
        self.changed: set[int] = set()
        reader.seek(reader.head)

    @property
    def history_wanted(self) -> bool:
        """Whether tickers lack their past: ``take_history`` gives it."""
        return self._history_from == NEVER

    @property
    def complete(self) -> bool:
        """Whether every book was fetched."""
        return not self._unfetched

    @property
    def position(self) -> int:
        """The next event that will be read."""
        return self._reader.cursor

    @property
    def lag(self) -> int:
        """Events that are published and not yet folded."""
        return self._reader.available()

    @property
    def symbol_ids(self) -> list[int]:
        """Symbols whose book is known."""
        return [symbol_id for symbol_id in self._depths if symbol_id not in self._unfetched]

    def depth(self, symbol_id: int) -> Depth:
        """Give the book of a symbol in ``symbol_ids``."""
        return self._depths[symbol_id]

    def add_symbols(self, symbol_ids: Iterable[int]) -> None:
        """Follow these symbols of the shard too; those that are followed already stay as they are."""
        for symbol_id in symbol_ids:
            if symbol_id not in self._depths:
                self._depths[symbol_id] = Depth()
                self._unfetched[symbol_id] = None

    def take_history(
        self,
        next_sequence: int,
        minutes: Mapping[int, Sequence[tuple[int, ...]]],
        last_trades: Mapping[int, tuple[int, int]],
    ) -> None:
        """Start the tickers from stored minutes and read the events after them, again if need be.

        minutes: by symbol id, ascending, each in the order of ``bucket_dtype``. last_trades: price (ticks) and quantity
        (lots) by symbol id, whenever that trade was. next_sequence: first event after all of them.
        """
        self._tickers.clear(np.array(list(self._depths), np.int64))
        for symbol_id, rows in minutes.items():
            self._tickers.load(symbol_id, np.array(rows, bucket_dtype))
        for symbol_id, (price_ticks, quantity_lots) in last_trades.items():
            self._tickers.set_last(symbol_id, price_ticks, quantity_lots)
        self._history_from = next_sequence
        self.changed.update(self.symbol_ids)
        if next_sequence < self._reader.cursor:
            # What the books include already must not be added twice.
            fetched = self._known_through != NEVER
            self._known_through[fetched] = np.maximum(self._known_through[fetched], self._reader.cursor - 1)
            self._reader.seek(next_sequence)
            self._taker = NO_TAKER

    def duty(self) -> int:
        """Fetch a book, or fold the next events: returns how much was done; 0: nothing is there."""
        if self._unfetched:
            return self._fetch(next(iter(self._unfetched)))
        try:
            events = self._reader.poll()
        except Lapped:
            self.lapped_count += 1
            self._history_from = NEVER
            self._refetch()
            return 1
        if not len(events):
            return 0
        events = _up_to_last_command(events)
        if int(events["sequence"][-1]) >= self._reached:
            self.whole = bool(events["flags"][-1] & EventFlag.LAST_OF_COMMAND)
            self._reached = int(events["sequence"][-1]) + 1
        self._fold(events)
        self._listen(events)
        self._reader.advance(len(events))
        self.event_count += len(events)
        return len(events)

    def _fold(self, events: NDArray[np.void]) -> None:
        self._add_listed(events)
        new = events[np.searchsorted(events["sequence"], self._history_from) :]
        self._tickers.fold(new)
        self.changed.update(new["symbol_id"][new["kind"] == EventKind.TRADED].tolist())
        try:
            self._fold_books(events)
        except DepthBroken:
            self._refetch()

    def _fold_books(self, events: NDArray[np.void]) -> None:
        changes, self._taker = level_changes(events, self._taker)
        self.add_symbols(set(changes["symbol_id"].tolist()))
        sequences = events["sequence"][changes["event"]]
        new = sequences > self._known_through[changes["symbol_id"]]
        changes, sequences = changes.compress(new), sequences[new]
        for symbol_id, side, prices_ticks, lots in net_changes(changes):
            self._depths[symbol_id].add(side, prices_ticks, lots)
        # Ordered by event: of a symbol's several changes the last one stays.
        self.sequences[changes["symbol_id"]] = sequences
        self.timestamps_ns[changes["symbol_id"]] = events["timestamp_ns"][changes["event"]]
        self.changed.update(changes["symbol_id"].tolist())

    def _add_listed(self, events: NDArray[np.void]) -> None:
        """Follow symbols from their listing on: their books are empty, and nobody needs to be asked."""
        for event in events[events["kind"] == EventKind.SYMBOL_LISTED]:
            symbol_id = int(event["symbol_id"])
            if symbol_id not in self._depths:
                self._depths[symbol_id] = Depth()
                self._known_through[symbol_id] = self.sequences[symbol_id] = event["sequence"]
                self.timestamps_ns[symbol_id] = event["timestamp_ns"]
                self.changed.add(symbol_id)

    def _refetch(self) -> None:
        self._unfetched = dict.fromkeys(self._depths)
        self._known_through[:] = NEVER
        self._request_number = 0
        self._taker = NO_TAKER

    def _fetch(self, symbol_id: int) -> int:
        if not self._request_number:
            # A follower before this one may have asked: numbers go on from its.
            self._request_number = int(self._requests.read(0)["number"]) + 1
            self._requests.write(0, np.array((self._request_number, symbol_id), level_request_dtype))
            self._ask()
            return 1
        try:
            answer = self._levels.read_with(0, self._copy_answer)
        except SeqlockBusy:
            return 0
        if answer is None or answer.symbol_id != symbol_id:
            return 0
        self._depths[symbol_id].replace(Side.BUY, answer.bids)
        self._depths[symbol_id].replace(Side.SELL, answer.asks)
        self._known_through[symbol_id] = self.sequences[symbol_id] = answer.sequence
        self.changed.add(symbol_id)
        del self._unfetched[symbol_id]
        self._request_number = 0
        return 1

    def _copy_answer(self, row: Any) -> _Answer | None:
        if row["number"] != self._request_number:
            return None
        bids, asks = row["bids"][: row["bid_count"]].copy(), row["asks"][: row["ask_count"]].copy()
        return _Answer(int(row["symbol_id"]), int(row["sequence"]), bids, asks)


def _up_to_last_command(events: NDArray[np.void]) -> NDArray[np.void]:
    """Leave out the command that is not complete yet, unless it is all there is."""
    ends = np.flatnonzero(events["flags"] & EventFlag.LAST_OF_COMMAND)
    return events[: ends[-1] + 1] if len(ends) else events
