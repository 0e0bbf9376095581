"""PostgreSQL from a trio program: synchronous queries in worker threads, on a few connections that are kept.

Rule 1: at most ``size`` queries run at a time, each bounded by the server's statement timeout, and a little later by
ours: a server that hangs times nothing out.
Rule 2: a connection that failed is closed; a read is tried once more on a fresh one, because a restarted server leaves
dead connections behind. One that took too long, or waited too long for a lock, would again, and is not.
Rule 3: through a pooler that gives each transaction another session nothing is left in a session: no prepared
statement, no setting. The pooler's own settings bound the server then.
It refuses to know SQL.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import psycopg
import trio

from tradeengine.storage.patient import PatientConnection, ServerSilent
from tradeengine.web.admission import waiting
from tradeengine.web.errors import ApiError
from tradeengine.web.pool_metrics import PoolMetrics

P = ParamSpec("P")
Result = TypeVar("Result")
Connection = psycopg.Connection[Any]


SILENCE_SLACK_S: Final = 2.0
"""So much longer than its own time-out a server is waited for."""


class FrontConnection(PatientConnection):
    """A connection that knows its age."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Begin its life."""
        super().__init__(*args, **kwargs)
        self.opened_s = time.monotonic()


class Database:
    """A few connections to one database."""

    def __init__(
        self,
        dsn: str,
        *,
        size: int,
        statement_timeout_ms: int,
        connect_timeout_s: int,
        lock_timeout_ms: int = 3000,
        idle_in_transaction_timeout_ms: int = 30_000,
        lifetime_s: float = 0,
        is_pooled: bool = False,
        name: str = "tradeengine-front",
        metrics: PoolMetrics | None = None,
    ) -> None:
        """Nothing is opened before it is needed.

        lifetime_s: an idle connection that is older is replaced; 0: never. is_pooled: ``dsn`` leads to a pooler that
        gives each transaction another session. name: as which the server shows the connections.
        """
        self._dsn = dsn
        self._session = {
            "statement_timeout": statement_timeout_ms,
            "lock_timeout": lock_timeout_ms,
            "idle_in_transaction_session_timeout": idle_in_transaction_timeout_ms,
        }
        self._silence_s_max = statement_timeout_ms / 1000 + (0 if is_pooled else SILENCE_SLACK_S)
        self._connect_timeout_s = connect_timeout_s
        self._lifetime_s = lifetime_s
        self._is_pooled = is_pooled
        self._name = name
        self._limiter = trio.CapacityLimiter(size)
        self._metrics = metrics
        self._connect_count = 0
        self._counting = threading.Lock()
        self._idle: deque[FrontConnection] = deque()

    async def run(
        self, query: Callable[Concatenate[Connection, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        """Run ``query(connection, …)`` in a worker thread. Raises ApiError DATABASE_UNAVAILABLE."""
        asked_ns = began_ns = time.perf_counter_ns()

        def work() -> Result:
            nonlocal began_ns
            began_ns = time.perf_counter_ns()
            try:
                return self._attempt(lambda connection: query(connection, *args, **kwargs))
            except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable, ServerSilent):
                raise  # it took too long, and would again
            except psycopg.OperationalError:
                return self._attempt(lambda connection: query(connection, *args, **kwargs), fresh=True)

        failed = True
        try:
            # A query ends by its own timeout; a caller who goes away must not leave a connection half used.
            with waiting():
                result = await trio.to_thread.run_sync(work, limiter=self._limiter)
            failed = False
        except (psycopg.OperationalError, psycopg.errors.IdleInTransactionSessionTimeout) as error:
            raise ApiError(
                "DATABASE_UNAVAILABLE", "The database does not answer; try again.", {"reason": type(error).__name__}
            ) from error
        finally:
            if self._metrics is not None:
                self._metrics.count(asked_ns, began_ns, failed=failed)
        return result

    def measure(self) -> None:
        """Show on the metric page how many queries run, how many wait, and how many connections were opened."""
        if self._metrics is not None:
            limiter = self._limiter.statistics()
            self._metrics.show(
                int(limiter.total_tokens), int(limiter.borrowed_tokens), limiter.tasks_waiting, self._connect_count
            )

    def close(self) -> None:
        """Close the connections that are idle; call it when no query runs any more."""
        while self._idle:
            self._idle.pop().close()

    def _attempt(self, query: Callable[[Connection], Result], *, fresh: bool = False) -> Result:
        connection = self._connect() if fresh else self._take()
        try:
            result = query(connection)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return result

    def _take(self) -> FrontConnection:
        with suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if not self._lifetime_s or time.monotonic() - connection.opened_s < self._lifetime_s:
                    return connection
                connection.close()
        return self._connect()

    def _connect(self) -> FrontConnection:
        connection = FrontConnection.open(
            self._dsn,
            _nothing,
            connect_timeout_s=self._connect_timeout_s,
            silence_s_max=self._silence_s_max,
            name=self._name,
        )
        with self._counting:
            self._connect_count += 1
        if self._is_pooled:
            connection.prepare_threshold = None
        else:
            # Not as a start-up option: poolers in between refuse those.
            query = "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS u (name, value)"
            connection.execute(query, (list(self._session), list(map(str, self._session.values()))))
        return connection


def _nothing() -> None:
    """Wait for the server without a beat: the front's heart beats in another thread."""
