"""PostgreSQL from a trio program: synchronous queries in worker threads, on a few connections that are kept.

Rule 1: at most ``size`` queries run at a time, each bounded by the server's statement timeout.
Rule 2: a connection that failed is closed; a read is tried once more on a fresh one, because a restarted server leaves
dead connections behind.
It refuses to know SQL.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
import trio

from tradeengine.web.errors import ApiError

P = ParamSpec("P")
Result = TypeVar("Result")
Connection = psycopg.Connection[Any]


class Database:
    """A few connections to one database."""

    def __init__(
        self,
        dsn: str,
        *,
        size: int,
        statement_timeout_ms: int,
        connect_timeout_s: int,
        note_latency_us: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Nothing is opened before it is needed. note_latency_us: told how long each question took, wait included."""
        self._dsn = dsn
        self._statement_timeout_ms = statement_timeout_ms
        self._connect_timeout_s = connect_timeout_s
        self._limiter = trio.CapacityLimiter(size)
        self._note_latency_us = note_latency_us
        self._idle: deque[Connection] = deque()

    async def run(
        self, query: Callable[Concatenate[Connection, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        """Run ``query(connection, …)`` in a worker thread. Raises ApiError DATABASE_UNAVAILABLE."""

        def work() -> Result:
            try:
                return self._attempt(lambda connection: query(connection, *args, **kwargs))
            except psycopg.errors.QueryCanceled:
                raise  # it took too long, and would again
            except psycopg.OperationalError:
                return self._attempt(lambda connection: query(connection, *args, **kwargs), fresh=True)

        started_ns = time.perf_counter_ns()
        try:
            # A query ends by its own timeout; a caller who goes away must not leave a connection half used.
            return await trio.to_thread.run_sync(work, limiter=self._limiter)
        except psycopg.OperationalError as error:
            raise ApiError(
                "DATABASE_UNAVAILABLE", "The database does not answer; try again.", {"reason": type(error).__name__}
            ) from error
        finally:
            self._note_latency_us((time.perf_counter_ns() - started_ns) // 1000)

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

    def _take(self) -> Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def _connect(self) -> Connection:
        connection = psycopg.connect(
            self._dsn,
            autocommit=True,
            connect_timeout=self._connect_timeout_s,
            application_name="tradeengine-front",
        )
        # Not as a start-up option: poolers in between refuse those.
        connection.execute("SELECT set_config('statement_timeout', %s, false)", (str(self._statement_timeout_ms),))
        return connection
