"""The cut: what risk and the matchers have alive, and what lies between them and a snapshot of PostgreSQL.

A snapshot says how far it has settled each shard. Then risk and the matchers are asked for a census, each answers at a
moment of its own, and says by sequences which. Everything between the snapshot and these moments is still in the rings:
the events that are not settled yet, and the commands that risk has forwarded and no event has answered. They are copied
at once, before anything else is read, because rings go on.

Rule 1: nobody waits for the cut, and it holds nobody back: rings are looked back into, not read.
Rule 2: what cannot be had (overwritten meanwhile, a process that died in between) raises, and the caller begins anew
with a newer snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from tradeengine.core.census import book_order_dtype
from tradeengine.core.differences import Int64s
from tradeengine.core.risk_census import read_orders
from tradeengine.ipc.seqlock import SeqlockBusy

if TYPE_CHECKING:
    from tradeengine.ipc.ring import Ring
    from tradeengine.ipc.seqlock import SeqlockTable
    from tradeengine.ipc.wiring import Wiring

RISK_SHARD: Final = -1
_PAUSE_S: Final = 0.001


class NoCensus(Exception):  # noqa: N818 - names the state: someone is dead, blocked or busy
    """Someone did not answer in time."""

    def __init__(self, who: str, timeout_s: float) -> None:
        super().__init__(f"{who} has not said within {timeout_s:g} s what lives in it")


class CutMissed(Exception):  # noqa: N818 - a state to begin anew from
    """A census is older than the snapshot."""


@dataclass(frozen=True, slots=True)
class RiskCount:
    """Risk's census. ``orders``: ``risk_order_dtype`` by id; balances by key (account << 16 | asset), ascending."""

    orders: NDArray[np.void]
    balance_keys: Int64s
    total_units: Int64s
    held_units: Int64s
    mismatch_count: int
    event_cursors: tuple[int, ...]
    command_heads: tuple[int, ...]
    own_events_head: int
    duration_us: int


@dataclass(frozen=True, slots=True)
class BookCount:
    """A matcher's census: ``book_order_dtype`` by id, as of before event ``next_sequence``."""

    orders: NDArray[np.void]
    next_sequence: int
    duration_us: int


@dataclass(frozen=True, slots=True)
class Cut:
    """A consistent cut. Lists are by shard; events begin at the snapshot's cursors."""

    cursors: Mapping[int, int]
    risk: RiskCount
    books: tuple[BookCount, ...]
    events: tuple[NDArray[np.void], ...]
    """Up to risk's or the book's moment, whichever is later."""
    own_events: NDArray[np.void]
    commands: tuple[NDArray[np.void], ...]
    """Forwarded by risk at its moment, and answered by no event that it had folded."""


class CensusTaker:
    """The keeper's end of the census."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._shards = range(wiring.shard_count)
        self._requests = wiring.table("census_requests")
        self._risk = wiring.table("risk_census")
        self._books = [wiring.table(f"book_census.{shard}") for shard in self._shards]

    def take_cut(self, cursors: Mapping[int, int], timeout_s: float) -> Cut:
        """Ask everyone, and look back into the rings. cursors: a snapshot's, by shard, -1: risk's own events.

        Raises NoCensus, CutMissed, Lapped.
        """
        number = self._ask()
        deadline_s = time.monotonic() + timeout_s
        risk = _await("risk", self._risk, number, deadline_s, timeout_s, _risk_count)
        books = tuple(
            _await(f"matcher-{shard}", table, number, deadline_s, timeout_s, _book_count)
            for shard, table in enumerate(self._books)
        )
        events = tuple(self._events(shard, cursors.get(shard, 0), risk, books[shard]) for shard in self._shards)
        own = self._wiring.ring("events.risk")
        first = cursors.get(RISK_SHARD, 0)
        return Cut(
            cursors=cursors,
            risk=risk,
            books=books,
            events=events,
            own_events=own.slots(first, _span(first, risk.own_events_head)),
            commands=tuple(self._commands(shard, risk) for shard in self._shards),
        )

    def _ask(self) -> int:
        """Ask for a census; return its number, which nobody has used before."""
        number = _last_number(self._requests) + 1
        self._requests.write(0, (number,))
        self._wiring.wake("risk")
        for shard in self._shards:
            self._wiring.wake(f"matcher-{shard}")
        return number

    def _events(self, shard: int, first: int, risk: RiskCount, book: BookCount) -> NDArray[np.void]:
        ring = self._wiring.ring(f"events.{shard}")
        _span(first, risk.event_cursors[shard])
        _span(first, book.next_sequence)
        return ring.slots(first, max(risk.event_cursors[shard], book.next_sequence) - first)

    def _commands(self, shard: int, risk: RiskCount) -> NDArray[np.void]:
        """Copy what risk had forwarded and no event had answered."""
        ring = self._wiring.ring(f"commands.{shard}")
        answered = _answered(self._wiring.ring(f"events.{shard}"), risk.event_cursors[shard])
        first = max(answered + 1, ring.first_sequence)
        return ring.slots(first, max(0, risk.command_heads[shard] - first))


def _answered(events: Ring, cursor: int) -> int:
    """Place in the command ring of the command behind the last event before the cursor; -1: none is known."""
    if cursor <= events.first_sequence:
        return -1
    return int(events.slots(cursor - 1, 1)["ring_sequence"][0])


def _span(first: int, end: int) -> int:
    if end < first:
        raise CutMissed(f"a census is of event {end}, the snapshot of event {first}")
    return end - first


def _last_number(requests: SeqlockTable) -> int:
    """Give the number of the last request, also of one that a keeper died writing."""
    return requests.read_with(0, lambda record: int(record["number"])) if requests.version(0) % 2 == 0 else _guess()


def _guess() -> int:
    """Give a number that is greater than all before: they count up from 0 or from such a one."""
    return time.time_ns()


def _await(
    who: str, table: SeqlockTable, number: int, deadline_s: float, timeout_s: float, read: Callable[[Any], Any]
) -> Any:
    while True:
        try:
            found = table.read_with(0, lambda record: read(record) if int(record["number"]) == number else None)
        except SeqlockBusy:
            found = None
        if found is not None:
            return found
        if time.monotonic() > deadline_s:
            raise NoCensus(who, timeout_s)
        time.sleep(_PAUSE_S)


def _risk_count(record: Any) -> RiskCount:
    rows = _rows(record["balances"], record["balance_count"])
    rows = rows[np.argsort(rows[:, 0])]
    return RiskCount(
        orders=read_orders(_rows(record["orders"], record["order_count"])),
        balance_keys=rows[:, 0],
        total_units=rows[:, 1],
        held_units=rows[:, 2],
        mismatch_count=int(record["mismatch_count"]),
        event_cursors=tuple(record["event_cursors"].tolist()),
        command_heads=tuple(record["command_heads"].tolist()),
        own_events_head=int(record["own_events_head"]),
        duration_us=int(record["duration_us"]),
    )


def _book_count(record: Any) -> BookCount:
    orders = _rows(record["orders"], record["order_count"]).view(book_order_dtype).reshape(-1)
    return BookCount(
        orders=orders[np.argsort(orders["order_id"])],
        next_sequence=int(record["sequence"]) + 1,
        duration_us=int(record["duration_us"]),
    )


def _rows(page: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Copy the first rows of a page. Raises NoCensus's kin when there were more than it holds."""
    if count < 0:
        raise CensusTooLarge(f"more lives than a page of {len(page)} rows has room for: raise limits.accounts_max")
    return np.array(page[: int(count)], np.int64, ndmin=2)


class CensusTooLarge(Exception):  # noqa: N818 - names the state
    """There are more balances than a page holds."""
