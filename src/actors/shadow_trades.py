"""What the shadow's replay gave of trades, beside what PostgreSQL has of them: a hash of each, stretch by stretch.

A stretch is the trades between two ids, one closed segment's or a part of it. As soon as settlement has passed it, both
sides are hashed, column by column, in order; so a trade that is missing, altered or too many is noticed minutes after
it was made, or when it was altered before that. Which one it is, and everything else, is for ``tradeengine verify``.

Rule 1: nothing waits for PostgreSQL. While it is away stretches wait; they are a few numbers each.
Rule 2: what retention dropped meanwhile is passed over.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog

from tradeengine.core.hashing import HASH_START
from tradeengine.storage.patient import PatientConnection
from tradeengine.storage.verify_trades import digest_events, digest_stored

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tradeengine.settings import Database

STRETCH_TRADES: Final = 1 << 16
"""About so many trades are read at once at most: 10 MiB."""
SILENCE_S_MAX: Final = 60.0
RETRY_S: Final = 5.0

logger = structlog.get_logger(__name__)


class Outcome(Enum):
    """What came of a comparison."""

    SAME = "same"
    OTHER = "other"
    GONE = "gone"
    """Retention has dropped them."""
    LATER = "later"
    """PostgreSQL does not answer now."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Trades with after_id < id ≤ last_id, the first one's being first_id, of events before ``end_sequence``."""

    after_id: int
    first_id: int
    last_id: int
    count: int
    digest: int
    end_sequence: int


class Stretches:
    """One shard's trades, as the replay gives them; ``waiting`` for settlement to pass them."""

    def __init__(self, after_id: int) -> None:
        """Begin behind the last trade before the replay."""
        self.waiting: deque[Stretch] = deque()
        self._after_id = self._first_id = self._last_id = after_id
        self._count, self._digest = 0, HASH_START

    def take(self, events: NDArray[Any]) -> None:
        """Add a piece of the replay's events."""
        self._digest, trade_ids = digest_events(self._digest, events)
        if len(trade_ids):
            self._first_id = self._first_id if self._count else int(trade_ids[0])
            self._last_id = int(trade_ids[-1])
            self._count += len(trade_ids)
            if self._count >= STRETCH_TRADES:
                self.close(int(events["sequence"][-1]) + 1)

    def close(self, end_sequence: int) -> None:
        """End the stretch before this event, at a segment's end at the latest."""
        if self._count:
            ids = (self._after_id, self._first_id, self._last_id)
            self.waiting.append(Stretch(*ids, self._count, self._digest, end_sequence))
        self._after_id = self._last_id
        self._count, self._digest = 0, HASH_START


class StoredTrades:
    """PostgreSQL's side, on a connection of its own that is opened when it is needed."""

    def __init__(self, database: Database, alive: Callable[[], None]) -> None:
        """Connect later. alive: called often while the server is waited for."""
        self._database = database
        self._alive = alive
        self._connection: PatientConnection | None = None
        self._retry_at_s = 0.0

    def compare(self, shard: int, stretch: Stretch) -> Outcome:
        """Tell whether PostgreSQL has exactly these trades."""
        if time.monotonic() < self._retry_at_s:
            return Outcome.LATER
        try:
            found = digest_stored(self._connect(), shard, stretch.after_id, stretch.first_id, stretch.last_id)
        except psycopg.Error as error:
            self._give_up(error)
            return Outcome.LATER
        if found is None:
            return Outcome.GONE
        return Outcome.SAME if found == (stretch.count, stretch.digest) else Outcome.OTHER

    def _connect(self) -> PatientConnection:
        if self._connection is None:
            self._connection = PatientConnection.open(
                self._database.direct_dsn,
                self._alive,
                connect_timeout_s=self._database.connect_timeout_s,
                silence_s_max=SILENCE_S_MAX,
                name="tradeengine-shadow",
            )
        return self._connection

    def _give_up(self, error: psycopg.Error) -> None:
        logger.info("trades are compared later", reason=" ".join(str(error).split()))
        self._retry_at_s = time.monotonic() + RETRY_S
        self.close()

    def close(self) -> None:
        """Close the connection; the next comparison opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
